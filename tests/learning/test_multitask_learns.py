"""Many objectives, at once or in stages: what is learned where the answer is known, what stays frozen, what resumes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from triptych.encoders.embed import Embedder
from triptych.encoders.inputs import Modalities, View
from triptych.foundation.artifact import RESUME, Artifact
from triptych.foundation.errors import ConfigError
from triptych.losses.base import LossOutput
from triptych.pretrain import base
from triptych.pretrain.base import EncoderTask, Given, Phase
from triptych.pretrain.tasks.contrastive import ContrastiveConfig
from triptych.pretrain.tasks.multitask import MultitaskConfig
from triptych.training.checkpoint import Checkpoints
from triptych.training.log import read_log
from triptych.training.loop import LoopConfig, fit

NUM_ITEMS, NUM_COLOURS = 30, 6
SMALL = {"dim": 48, "heads": 4, "vector_dim": 32, "photo_px": 32, "max_title_tokens": 8}
LOOP = {"warmup_steps": 10, "learning_rate": 3e-3, "device": "cpu", "precision": "fp32"}
CLICKED, TITLES = {"kind": "contrast"}, {"kind": "contrast", "between": "query-title"}


def config(stages: Any, *, kind: str = "two_tower", steps: int, **settings: Any) -> MultitaskConfig:
    loop = {**LOOP, "steps": steps, "validate_every": max(steps // 2, 1), **settings.pop("loop", {})}
    given = {"batch_items": NUM_ITEMS, "validation_k": 1, "title_dropout_rate": 0.1, "diagnose": False, **settings}
    encoder = {"kind": kind, **SMALL, **given.pop("encoder", {})}
    return MultitaskConfig.parse({"encoder": encoder, "stages": stages, "loop": loop, **given})


@pytest.fixture(scope="module")
def given(planted_shop) -> Given:
    shop = planted_shop
    return Given(catalogue=shop.catalogue, split=shop.split, tokenizer=shop.tokenizer, seed=0)


def train(chosen: MultitaskConfig, given: Given, *, out: Path) -> Artifact:
    assert given.split is not None
    inputs = {"catalogue": given.catalogue.artifact, "split": given.split.artifact}
    return base.run(chosen, given, inputs=inputs, out=out)


def hits_at_1(embedder: Embedder, given: Given, *, view: View = View.ITEM, **settings: Any) -> float:
    """Share of queries "colour thing" that find their one item first."""
    vectors = embedder.embed_views(given.catalogue, views=(view,), **settings)[view].astype(np.float32)
    queries = [f"{colour} {thing}" for thing, colour in (item.split("-") for item in given.catalogue.item_ids)]
    return float(((embedder.queries(queries) @ vectors.T).argmax(axis=1) == np.arange(NUM_ITEMS)).mean())


@pytest.mark.parametrize(("stages", "kind", "steps"), [("taobao", "two_tower", 160), ("o1", "late_fusion", 280)])
def test_what_only_the_photo_shows_is_learned(given: Given, tmp_path: Path, stages: str, kind: str, steps: int):
    artifact = train(config(stages, kind=kind, steps=steps), given, out=tmp_path)
    embedder = Embedder.open(artifact)
    assert hits_at_1(embedder, given) > 0.85
    # without the photo it guesses among six colours: 1/6, plus four standard deviations
    blind = hits_at_1(embedder, given, view=View.WITHOUT_PHOTO)
    assert blind <= 1 / NUM_COLOURS + 4 * np.sqrt(5 / 36 / NUM_ITEMS)
    assert hits_at_1(embedder, given, photo_rows=np.roll(np.arange(NUM_ITEMS), 7)) < 0.25
    assert artifact.summary["headline"] == "recall@1/query-item"


def part_of(name: str, model: torch.nn.Module) -> str:
    parts = model.parts()
    found = [part for part, starts in parts.items() if name.startswith(tuple(starts))]
    return found[0] if found else name.split(".")[1]  # of an objective: its label


def copied(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


STAGES_WITH_HEADS = [
    {
        "name": "words",
        "tasks": [{"kind": "masked_words"}, {"kind": "contrast", "learn_temperature": True}],
        "train": {"text": 1.0},
        "steps_rate": 0.3,
    },
    {"name": "pairs", "tasks": [{"kind": "matching"}], "train": {"cross": 1.0, "photo": 0.5}, "steps_rate": 0.3},
    {"name": "all", "tasks": [{"kind": "masked_patches"}, {"kind": "matching"}], "steps_rate": 0.4},
]


@pytest.mark.parametrize(
    ("stages", "kind"),
    [("o1", "late_fusion"), ("o4", "late_fusion"), ("three", "late_fusion"), (STAGES_WITH_HEADS, "two_tower")],
)
@pytest.mark.parametrize("schedules", ["fresh", "one"])
def test_what_a_stage_does_not_train_stays_bit_for_bit(
    given: Given, tmp_path: Path, stages: Any, kind: str, schedules: str
):
    """With the optimiser of the stage before, momentum and decay included."""
    chosen = config(stages, kind=kind, steps=20, schedules=schedules, loop={"weight_decay": 0.1, "warmup_steps": 0})
    before_it: list[Path] = []
    for stage, phase in zip(chosen.stages, chosen.phases(given), strict=True):
        model = phase.task.module
        before = copied(model)
        folder = tmp_path / phase.name
        folder.mkdir()
        fit(
            phase.task,
            config=phase.loop,
            out=folder,
            seed=0,
            stretch=phase.stretch,
            optimizer_from=before_it if phase.keeps_optimizer else (),
        )
        before_it.append(folder)
        changed = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
        labels = {task.label for task in stage.tasks}
        known = set(model.parts())
        allowed = (known if stage.train is None else set(stage.train)) | labels
        assert {part_of(name, model) for name in changed} <= allowed, phase.name
        expected = (set(stage.train or ()) | labels) & {part_of(name, model) for name in before}
        assert {part_of(name, model) for name in changed} >= expected, phase.name


def test_a_stage_hands_on_the_weights_that_its_validation_liked_best(given: Given, tmp_path: Path):
    """The first one learns at a rate that undoes what it has learned."""
    stages = [{"name": name, "tasks": [CLICKED], "steps_rate": 0.5} for name in ("first", "second")]
    stages[0]["learning_rate"] = 0.3
    phases = config(stages, steps=40, loop={"validate_every": 2, "warmup_steps": 8}).phases(given)
    first = next(phases)
    fit(first.task, config=first.loop, out=tmp_path, seed=0)
    curve = [
        line["recall@1/query-item"] for line in read_log(tmp_path / "train.jsonl") if line["event"] == "validation"
    ]
    assert curve[-1] < max(curve)
    second = next(phases)
    assert second.task.validate().metrics["recall@1/query-item"] == max(curve)


def test_parts_are_trained_at_their_rates(given: Given, tmp_path: Path):
    """One step of AdamW moves each weight by the learning rate, as far as it has a gradient."""
    stages = [{"name": "only", "tasks": [CLICKED], "train": {"text": 0.5, "photo": 0.1, "query_head": 1.0}}]
    loop = {"learning_rate": 1e-3, "warmup_steps": 0, "weight_decay": 0.0, "schedule": "wsd"}
    (phase,) = config(stages, kind="late_fusion", steps=1, loop=loop).phases(given)
    before = copied(phase.task.module)
    rate = phase.loop.learning_rate_at(0)
    fit(phase.task, config=phase.loop, out=tmp_path, seed=0)
    moved: dict[str, float] = {}
    for name, weight in phase.task.module.named_parameters():
        part = part_of(name, phase.task.module)
        moved[part] = max(moved.get(part, 0.0), float((weight.detach() - before[name]).abs().max()))
    for part, factor in {"text": 0.5, "photo": 0.1, "query_head": 1.0, "fusion": 0.0, "title_head": 0.0}.items():
        assert moved[part] == pytest.approx(factor * rate, rel=0.05), part


def test_one_schedule_goes_over_all_stages(given: Given, tmp_path: Path):
    loop = {"log_every": 1, "warmup_steps": 6, "validate_every": 5}
    chosen = config("o1", kind="late_fusion", steps=20, schedules="one", loop=loop)
    artifact = train(chosen, given, out=tmp_path)
    steps = [record for record in read_log(artifact.file("train.jsonl")) if record["event"] == "train"]
    assert [record["step"] for record in steps] == list(range(1, 21))
    whole = LoopConfig.parse(chosen.loop.dump())
    assert [record["learning_rate"] for record in steps] == [whole.learning_rate_at(step) for step in range(20)]
    names = [record["phase"] for record in steps]
    assert list(dict.fromkeys(names)) == ["1-title-photo", "2-query-photo", "3-query-title", "4-query-item"]
    assert artifact.summary["steps"] == 20


def test_one_optimiser_goes_over_a_stage_that_leaves_weights_out(given: Given, tmp_path: Path):
    """The words rest in the second stage; in the third their optimiser goes on from where it was."""
    parts: list[dict[str, float]] = [{"text": 1.0}, {"photo": 1.0}, {"text": 1.0}]
    stages = [
        {"name": f"s{place}", "tasks": [CLICKED], "train": part, "steps_rate": rate}
        for place, (part, rate) in enumerate(zip(parts, (0.3, 0.3, 0.4), strict=True))
    ]
    folders: list[Path] = []
    counts: list[set[int]] = []
    for phase in config(stages, kind="late_fusion", steps=10, schedules="one").phases(given):
        folder = tmp_path / phase.name
        folder.mkdir()
        fit(phase.task, config=phase.loop, out=folder, seed=0, stretch=phase.stretch, optimizer_from=list(folders))
        folders.append(folder)
        saved = Checkpoints(folder / RESUME).latest()
        assert saved is not None
        counts.append({int(value) for name, value in saved.tensors.items() if name.endswith("/step")})
    assert counts == [{3}, {3}, {7}]


class Stopped(Exception):
    """Somebody pulled the plug."""


class StoppingTask:
    """A task whose process is stopped at one of its batches."""

    def __init__(self, task: EncoderTask, *, at: int) -> None:
        self._task, self._at, self._seen = task, at, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def losses(self, batch: Any) -> LossOutput:
        self._seen += 1
        if self._seen > self._at:
            raise Stopped
        return self._task.losses(batch)


class StoppedConfig(MultitaskConfig):
    """The same training, stopped in one of its stages."""

    def phases(self, given: Given) -> Iterator[Phase]:
        for phase in super().phases(given):
            stops = phase.name.startswith("2-")
            yield phase._replace(task=StoppingTask(phase.task, at=5)) if stops else phase


STAGES = [
    {
        "name": "first",
        "tasks": [CLICKED, {"kind": "masked_words"}, {"kind": "masked_patches"}],
        "train": {"text": 1.0, "photo": 1.0},
        "steps_rate": 0.4,
    },
    {
        "name": "second",
        "tasks": [CLICKED, {"kind": "matching", "negative": "sampled", "warmup_steps": 0}],
        "steps_rate": 0.6,
        "hard_negatives": 1,
    },
]


@pytest.mark.parametrize("schedules", ["fresh", "one"])
def test_a_run_stopped_in_its_second_stage_ends_with_the_same_weights(given: Given, tmp_path: Path, schedules: str):
    settings: dict[str, Any] = {
        "loop": {"accumulate": 2, "validate_every": 2, "checkpoint_every_s": 0, "log_every": 1},
        "schedules": schedules,
        "batch_items": 12,
        "photo_dropout_rate": 0.2,
    }
    chosen = config(STAGES, steps=10, **settings)
    unbroken = train(chosen, given, out=tmp_path / "unbroken")
    with pytest.raises(Stopped):
        train(StoppedConfig.parse(chosen.dump()), given, out=tmp_path / "stopped")
    left = list((tmp_path / "stopped").glob("*.partial/resume/2-second/resume/step_*"))
    assert [int(folder.name[5:]) for folder in sorted(left)] == [1, 2]  # two batches a step, and the third was begun
    stopped = train(chosen, given, out=tmp_path / "stopped")
    assert stopped.id == unbroken.id
    first, second = (one.file("model.safetensors").read_bytes() for one in (unbroken, stopped))
    assert first == second
    logs = [
        [
            (r["phase"], r["step"], r.get("loss"), r.get("recall@1/query-item"))
            for r in read_log(one.file("train.jsonl"))
        ]
        for one in (unbroken, stopped)
    ]
    assert logs[0] == logs[1]


def test_contrastive_is_short_for_the_preset_of_that_name():
    settings = {"title_dropout_rate": 0.2, "batch_items": 20, "encoder": {**SMALL, "layers": 2}, "validation_k": 7}
    short = ContrastiveConfig.parse({**settings, "temperature": 0.1, "photo_view_weight": 0.3}).as_multitask()
    tasks = [{"kind": "contrast", "temperature": 0.1}, {"kind": "photo_view", "temperature": 0.1, "weight": 0.3}]
    stages = [{"name": "contrastive", "tasks": tasks}]
    assert short == MultitaskConfig.parse({**settings, "stages": stages, "diagnose": False})
    photos_off = ContrastiveConfig.parse({**settings, "photo_view_weight": 0})
    assert [task.kind for task in photos_off.as_multitask().stages[0].tasks] == ["contrast"]
    titles = ContrastiveConfig.parse({**settings, "encoder": {**SMALL, "modalities": "title"}})
    assert [task.kind for task in titles.as_multitask().stages[0].tasks] == ["contrast"]


def test_a_model_of_photos_is_chosen_by_what_it_can_answer(given: Given, tmp_path: Path):
    """The stage that is left is chosen by queries and titles, of which it knows nothing."""
    chosen = config("three", kind="late_fusion", steps=6)
    photos = chosen.encoder.model_copy(update={"modalities": Modalities.PHOTO})
    artifact = train(chosen.model_copy(update={"encoder": photos}), given, out=tmp_path)
    assert set(artifact.summary["phases"]) == {"1-query-modality", "2-query-item"}
    assert artifact.summary["headline"] == "recall@1/query-item"


def test_cells_that_are_not_there_are_missed(given: Given):
    with pytest.raises(ConfigError, match="cell_rate: the items have no cells to draw from"):
        next(config("contrastive", steps=2, cell_rate=0.5).phases(given))


def test_masked_words_of_unequal_stages_are_those_of_the_whole_training(given: Given):
    """A stage goes on with the batches that the one before has not seen."""
    stages = [{"name": name, "tasks": [TITLES, {"kind": "masked_words"}], "steps_rate": 0.5} for name in ("a", "b")]
    first, second = config(stages, steps=8, batch_items=10).phases(given)
    (alone,) = config([{**stages[0], "steps_rate": 1.0}], steps=8, batch_items=10).phases(given)
    assert second.task.batch(0).number == 4
    assert torch.equal(second.task.batch(0).masked_titles.tokens, alone.task.batch(4).masked_titles.tokens)
    assert not torch.equal(first.task.batch(0).query_tokens, second.task.batch(0).query_tokens)
