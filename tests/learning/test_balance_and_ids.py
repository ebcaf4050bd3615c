"""Apparatus of the staging experiments: the leading modality held back, and vectors by id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from triptych.encoders.inputs import View
from triptych.pretrain.base import Given
from triptych.pretrain.objectives.contrast import Contrast, ContrastConfig
from triptych.pretrain.passes import MultitaskBatch
from triptych.pretrain.stage_task import StageTask
from triptych.pretrain.stages import PRESETS
from triptych.pretrain.tasks.multitask import MultitaskConfig
from triptych.training.loop import fit

SMALL = {"kind": "late_fusion", "dim": 16, "heads": 2, "photo_px": 32, "vector_dim": 8}
SMALL |= {"text_layers": 1, "photo_layers": 1, "fusion": "gated"}
LOOP = {"steps": 8, "warmup_steps": 2, "device": "cpu", "precision": "fp32", "validate_every": 4}


def config(stages: Any, **settings: Any) -> MultitaskConfig:
    tree = {"stages": stages, "encoder": SMALL, "batch_items": 30, "validation_k": 3, "loop": LOOP, **settings}
    return MultitaskConfig.parse(tree)


def first_task(planted_shop: Any, settings: MultitaskConfig) -> StageTask:
    given = Given(catalogue=planted_shop.catalogue, split=planted_shop.split, tokenizer=planted_shop.tokenizer, seed=3)
    task = next(iter(settings.phases(given))).task
    assert isinstance(task, StageTask)
    return task


def some_without_photos(task: StageTask) -> MultitaskBatch:
    """A batch of which every third item has no photo to be compared by."""
    batch = task.batch(0)
    there = torch.arange(batch.num_items) % 3 > 0
    assert bool((~there[batch.positive]).any())
    return batch._replace(has_photo=batch.has_photo & there)


def gradients(task: StageTask) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    task.module.zero_grad()
    task.losses(some_without_photos(task)).total.backward()
    return {name: p.grad.clone() for name, p in task.module.named_parameters() if p.grad is not None}


def confidence(task: StageTask, view: View, *, temperature: float) -> float:
    """Of the right item among those with title and photo that are no known answers, pair by pair."""
    batch = some_without_photos(task)
    with torch.no_grad():
        queries = task.encoder.encode_queries(batch.query_tokens)
        items = task.encoder.encode_items(batch.items.only(view))
    both = (batch.has_title & batch.has_photo).tolist()
    chances = []
    for query, (right, known) in enumerate(zip(batch.positive.tolist(), batch.known.tolist(), strict=True)):
        if both[right]:
            there = [i for i in range(len(items)) if both[i] and (i == right or not known[i])]
            scores = {i: float(queries[query] @ items[i]) / temperature for i in there}
            whole = sum(np.exp(score) for score in scores.values())
            chances.append(np.exp(scores[right]) / whole)
    return float(np.mean(chances))


def test_the_leading_modality_is_held_back(planted_shop):
    (joint,) = PRESETS["joint"]
    *others, last = joint["tasks"]  # the temperature is that of the loss of queries and items, here another
    stages = [{**joint, "tasks": [*others, {**last, "temperature": 0.11}]}]
    plain = gradients(first_task(planted_shop, config(stages)))
    task = first_task(planted_shop, config(stages, balance="ogm-ge", balance_alpha=0.7))
    held = gradients(task)
    ratio = confidence(task, View.PHOTO, temperature=0.11) / confidence(task, View.TITLE, temperature=0.11)
    leading, other = ("photo", "text") if ratio > 1 else ("text", "photo")
    factor = 1 - np.tanh(0.7 * max(ratio, 1 / ratio))
    starts = {part: tuple(f"encoder.{start}" for start in task.encoder.parts()[part]) for part in (leading, other)}
    for name, gradient in plain.items():
        if not name.startswith(starts[leading]):
            assert torch.equal(held[name], gradient), name
    # What is added to the damped gradient is noise of the gradient's own deviation, so on the average nothing.
    names = [name for name in plain if name.startswith(starts[leading]) and plain[name].numel() >= 1_000]
    noise = torch.cat([((held[n] - factor * plain[n]) / plain[n].std(unbiased=False)).flatten() for n in names])
    assert len(noise) > 2_000
    assert abs(float(noise.mean())) < 4 / len(noise) ** 0.5
    assert float(noise.std()) == pytest.approx(1, abs=4 / len(noise) ** 0.5)
    task.close()
    free = gradients(task)
    assert all(torch.equal(free[name], gradient) for name, gradient in plain.items())


@pytest.mark.parametrize("loss", [{}, {"learn_temperature": True}, {"loss": "sigmoid"}])
def test_temperature_is_what_scores_are_divided_by(loss):
    contrast = ContrastConfig.parse({"kind": "contrast", "temperature": 0.2, **loss})
    made = Contrast(contrast, batch_items=8)
    assert made.temperature == pytest.approx(0.2)
    if made.log_scale is not None:
        made.log_scale.data.fill_(np.log(1_000))  # a softmax's is kept within bounds, a sigmoid's is free
        assert made.temperature == pytest.approx(0.001 if loss.get("loss") else 0.01)


def test_vectors_by_id_are_there_in_their_stage_alone(planted_shop, tmp_path: Path):
    contrast = {"kind": "contrast"}
    stages = [
        {"name": "without", "tasks": [contrast], "steps_rate": 0.5},
        {"name": "with", "tasks": [contrast], "steps_rate": 0.5, "with_ids": True},
    ]
    given = Given(catalogue=planted_shop.catalogue, split=planted_shop.split, tokenizer=planted_shop.tokenizer, seed=3)
    moved = []
    for phase in config(stages, id_rate=10.0).phases(given):
        task = phase.task
        assert isinstance(task, StageTask)
        assert task.module.ids is not None
        before = task.module.ids.items.weight.detach().clone()
        result = fit(task, config=phase.loop, out=tmp_path / phase.name, seed=0)
        moved.append(float((task.module.ids.items.weight.detach() - before).abs().max()))
        assert ("recall@3/query-item with ids" in result.metrics) == (phase.name == "2-with")
    assert moved[0] == 0 < moved[1]


def test_recall_with_ids_is_that_of_the_sums(planted_shop):
    stages = [{"name": "with", "tasks": [{"kind": "contrast"}], "with_ids": True}]
    task = first_task(planted_shop, config(stages, diagnose=False))
    ids = task.module.ids
    assert ids is not None
    with torch.no_grad():  # every query's own vector points to its item's, and drowns what the towers say
        ids.items.weight.copy_(torch.randn(ids.items.weight.shape, generator=torch.Generator().manual_seed(0)) * 1_000)
        catalogue = planted_shop.catalogue
        for row, query in enumerate(catalogue.queries):
            colour, thing = query.split()
            ids.queries.weight[row] = ids.items.weight[catalogue.item_row(f"{thing}-{colour}")]
    metrics = task.validate().metrics
    assert metrics["recall@3/query-item with ids"] == 1.0
    assert metrics["recall@3/query-item"] < 0.9
