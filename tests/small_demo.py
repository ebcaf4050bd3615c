"""The small demo that tests share: its settings, and runs that begin with what it has finished."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]

DEMO_SETTINGS = (
    "dataset.num_items=600",
    "dataset.photo_px=128",
    "dataset.shoppers.num_pages=6000",
    "pretrain.encoder.dim=64",
    "pretrain.encoder.layers=2",
    "pretrain.loop.steps=60",
    "pretrain.loop.warmup_steps=10",
    "pretrain.loop.validate_every=30",
    "pretrain.batch_items=64",
    "recall.num_negatives=500",
    "evaluation.bootstrap_repeats=200",
)
"""A demo small enough for tests: everything is there, nothing is learned well."""
ENCODER_ALONE = ("recall=null", "photo_queries=0", "evaluation.max_queries=20", "evaluation.examples=0")
"""Further settings where the encoder is all that is looked at: no recall model, and hardly a report."""


def begun(out: Path, *, like: Path) -> Path:
    """Begin a run with the finished stages of the small demo before the encoder."""
    for stage in ("tables", "catalogue", "split", "tokenizer", "popularity", "bm25"):
        shutil.copytree(like / stage, out / stage)
    return out


SMALL_DECODER = {
    "model": {"dim": 32, "layers": 1, "heads": 2, "beams": 100},
    "epochs": 2,
    "batch_pages": 128,
    "learning_rate": 0.003,
    "validations": 1,
    "device": "cpu",
}
"""A decoder of semantic IDs for it."""
SMALL_RANKER = {
    "model": {"kind": "din", "dim": 8, "history_items": 10, "hidden_dims": [32]},
    "content": {"kind": "em3", "dim": 16},
    "negative_rate": 0.1,
    "batch_samples": 512,
    "validations": 1,
    "validation_samples": 2000,
    "device": "cpu",
}
"""A ranker for it."""


def preferring_the_ranker(run: Path, out: Path) -> Path:
    """Copy a run with a ranker, as if validation had preferred its order."""
    from triptych.engine.bundle import open_bundle

    shutil.copytree(run, out)
    folder = open_bundle(out)[1].ranking.path
    rule = json.loads((folder / "rule.json").read_text())
    (folder / "rule.json").write_text(json.dumps({**rule, "is_preferred": True}))
    return out
