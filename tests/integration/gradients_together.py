"""One process of several that compute a batch's gradients, and train in stages and recall, together.

``gradients_together.py RUN OUT``, under torchrun.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file

from triptych.data import text
from triptych.data.catalogue import Catalogue
from triptych.data.splits import Split
from triptych.data.text import TextTokenizer
from triptych.foundation.artifact import Artifact
from triptych.foundation.registry import config_class
from triptych.pretrain import base as pretrain
from triptych.pretrain.base import TASKS, Given
from triptych.recall import task as recall
from triptych.recall import train as recall_train
from triptych.recall.config import RecallTrainConfig
from triptych.recipes.run_folder import RunFolder
from triptych.training.distributed import Group, join

SMALL = {"dim": 16, "heads": 2, "layers": 2, "vector_dim": 8, "photo_px": 64}
LATE = {"kind": "late_fusion", "dim": 16, "heads": 2, "vector_dim": 8, "photo_px": 64}
BETWEEN = ("query-item", "query-title", "query-photo", "title-photo")
CONTRASTS = [{"kind": "contrast", "between": between, "symmetric": True} for between in BETWEEN]
MASKED = [{"kind": "masked_words", "of": "query"}, {"kind": "masked_words", "of": "title"}, {"kind": "masked_patches"}]
CROSSED = [{**task, "at": "cross"} for task in MASKED]
# No warm-up: random negatives are drawn by each process from a stream of its own.
MATCHED = [
    *({"kind": "matching", "pair": pair, "warmup_steps": 0} for pair in ("query-item", "query-photo")),
    {"kind": "matching", "pair": "title-photo"},
]
FORMS = [
    {"kind": "contrast", "between": "query-item", "loss": "sigmoid"},
    {"kind": "contrast", "between": "query-photo", "loss": "am-softmax", "log_q_weight": 0.5, "same_title": True},
    {"kind": "contrast", "between": "query-title", "learn_temperature": True},
]


def stage(*tasks: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """One stage of everything; `settings` are those of the training."""
    return {
        "kind": "multitask",
        "stages": [{"name": "one", "tasks": list(tasks), **settings.pop("stage", {})}],
        "batch_items": 25,
        **settings,
    }


CASES: dict[str, dict[str, Any]] = {
    # 100 items and 200 queries are cut by length; 3 processes share neither evenly
    "contrastive": {"kind": "contrastive", "batch_items": 100, "photo_view_items": 10},
    "fewer than processes": {"kind": "contrastive", "batch_items": 2, "queries_per_item": 1, "photo_view_items": 1},
    "titles only": {"kind": "contrastive", "batch_items": 40, "encoder": {**SMALL, "modalities": "title"}},
    "items": {"kind": "item_contrast", "batch_items": 37, "photo_view_items": 7, "title_query_items": 11},
    "photos only": {"kind": "item_contrast", "batch_items": 10, "encoder": {**SMALL, "modalities": "photo"}},
    "taobao": stage(CONTRASTS[0], *MASKED, *MATCHED, {"kind": "photo_view"}, photo_view_items=7),
    "taobao, cheap": stage(CONTRASTS[0], *MASKED, *MATCHED, cheap_pass=True, rows_at_once=4),
    "crossed": stage(*CROSSED, *MATCHED),
    "one stream": stage(CONTRASTS[0], *CROSSED, *MATCHED, crossing="single-stream"),
    "means with padding": stage(*CONTRASTS, *CROSSED, encoder={**SMALL, "export": "mean-with-padding"}),
    "late fusion": stage(*CONTRASTS, *CROSSED, *MATCHED, encoder=LATE),
    "other forms of contrast": stage(*FORMS, encoder=LATE),
    "with ids": stage(CONTRASTS[0], MATCHED[0], stage={"with_ids": True}),
    "few matched": stage({**MATCHED[0], "max_queries": 4}, {**MATCHED[1], "max_queries": 2}),
    "hard negatives": stage(CONTRASTS[0], stage={"hard_negatives": 2}),
    "frozen": stage(*CONTRASTS, encoder=LATE, stage={"train": {"text": 0.5, "fusion": 1.0}}),
    "titles and photos": stage(CONTRASTS[3], *MASKED[1:], encoder=LATE, stage={"data": "items"}),
    "fewer of everything than processes": stage(
        *CONTRASTS, *MASKED, *MATCHED, {"kind": "photo_view"}, batch_items=2, queries_per_item=1, photo_view_items=1
    ),
    "fewer in one stream": stage(*CROSSED, *MATCHED, batch_items=2, queries_per_item=1, crossing="single-stream"),
    "fewer in late fusion": stage(
        *CONTRASTS, *CROSSED, *MATCHED, batch_items=2, queries_per_item=1, encoder=LATE, rows_at_once=1
    ),
    "histories": {"kind": "history_contrast", "batch_pairs": 41, "photo_view_items": 5, "title_query_items": 5},
}


STAGED = {
    "kind": "multitask",
    "encoder": LATE,
    "stages": [
        {
            "name": "apart",
            "tasks": [CONTRASTS[3], *MASKED[1:]],
            "train": {"photo": 1.0, "title_head": 1.0, "photo_head": 0.5},
            "data": "items",
            "validate_on": "title-photo",
            "steps_rate": 0.4,
        },
        {
            "name": "together",
            "tasks": [*CONTRASTS, MASKED[1]],  # no hardest negative: of two nearly alike rounding decides
            "hard_negatives": 1,  # mined with what the stage before hands on
            "steps_rate": 0.6,
        },
    ],
    "batch_items": 25,
    "validation_queries": 100,
    "loop": {"steps": 10, "warmup_steps": 2, "validate_every": 2, "precision": "fp32", "device": "cpu"},
}
"""A training in two stages; each hands on its best weights, which need not be its last."""


RECALL = {
    "model": {"dim": 8, "id_init_std": 0.1},
    "num_negatives": 50,
    "batch_pages": 31,
    "epochs": 0.5,
    "validations": 2,
    "precision": "fp32",
    "device": "cpu",
}
RECALL_CASES: dict[str, dict[str, Any]] = {
    "sampled": {},
    "tf": {"log_q": "tf"},
    "mixed": {"against": "mixed", "hard_mixes": 5},
    "fewer pages than processes": {"batch_pages": 2, "epochs": 0.02},
}


class Found(NamedTuple):
    gradients: dict[str, torch.Tensor]
    figures: dict[str, float]


def given_by(run: Path, *, group: Group) -> Given:
    found = inputs_of(run)
    return Given(
        catalogue=Catalogue.open(found["catalogue"]),
        split=Split.open(found["split"]),
        tokenizer=TextTokenizer.load(found["tokenizer"].file(text.FILE)),
        seed=0,
        group=group,
    )


def compute(case: str, *, run: Path, group: Group) -> Found:
    """Do what the loop does up to the optimiser, in float32."""
    tree = {"encoder": SMALL, **CASES[case]}
    config = config_class(TASKS, tree["kind"]).parse(tree)
    task = next(config.phases(given_by(run, group=group))).task
    batch = task.batch(3)
    output = task.losses(batch)
    output.total.backward()
    weights = dict(task.module.named_parameters())
    figures = torch.stack([output.total.detach(), *output.parts.values()])
    group.sum_gradients(list(weights.values()), beside=figures)
    names = ["total", *output.parts]
    return Found(
        {name: weight.grad for name, weight in weights.items() if weight.grad is not None},
        {**dict(zip(names, figures.tolist(), strict=True)), "samples": float(task.num_samples(batch))},
    )


def train(schedules: str, *, run: Path, out: Path, group: Group) -> Artifact | None:
    """Train in stages; only the first process has the encoder in the end."""
    config = config_class(TASKS, "multitask").parse({**STAGED, "schedules": schedules})
    given = given_by(run, group=group)
    if group.rank > 0:
        pretrain.follow(config, given)
        return None
    return pretrain.run(config, given, inputs=inputs_of(run), out=out)


def train_recall(case: str, *, run: Path, out: Path, group: Group) -> Artifact | None:
    """Train a recall model on content drawn at random."""
    config = RecallTrainConfig.parse({**RECALL, **RECALL_CASES[case]})
    found = inputs_of(run)
    catalogue, split = Catalogue.open(found["catalogue"]), Split.open(found["split"])
    rng = np.random.default_rng(0)
    content = [
        rng.standard_normal((count, 12), dtype=np.float32) for count in (catalogue.num_queries, catalogue.num_items)
    ]
    given = recall.Given(catalogue, split, *content, seed=0, group=group)
    if group.rank > 0:
        recall_train.follow(config, given)
        return None
    return recall_train.run(config, given, inputs=found, out=out)


def inputs_of(run: Path) -> dict[str, Artifact]:
    folder = RunFolder.existing(run)
    return {name: folder.stage(name) for name in ("catalogue", "split", "tokenizer")}


def main() -> None:
    run, out = (Path(word) for word in sys.argv[1:])
    group = join()
    for case in CASES:
        found = compute(case, run=run, group=group)
        if group.rank == 0:
            save_file(found.gradients, out / f"{case}.safetensors")
            (out / f"{case}.json").write_text(json.dumps(found.figures))
    for schedules in ("fresh", "one"):
        train(schedules, run=run, out=out / "staged", group=group)
    for case in RECALL_CASES:
        train_recall(case, run=run, out=out / "recall", group=group)
    group.close()


if __name__ == "__main__":
    main()
