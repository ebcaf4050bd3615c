"""A run may have trainings beside the served one: same data, a row in the report, never served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_demo import DEMO_SETTINGS

from triptych.evaluate.report import read_records
from triptych.foundation.errors import ConfigError
from triptych.recipes import resolve
from triptych.recipes.pipeline import run_pipeline
from triptych.recipes.run_folder import RunFolder

TINY = {"dim": 16, "heads": 2, "vector_dim": 16}
STAGED: dict[str, Any] = {
    "kind": "multitask",
    "stages": "o1",
    "encoder": {"kind": "late_fusion", **TINY, "text_layers": 1, "photo_layers": 1, "fusion": "gated"},
    "batch_items": 32,
    "loop": {"steps": 20, "warmup_steps": 2, "validate_every": 10},
}
SETTINGS = (
    *DEMO_SETTINGS,
    "photo_queries=50",
    "compare=[]",
    "pretrain.encoder.dim=16",
    "pretrain.encoder.layers=1",
    "pretrain.encoder.heads=2",
    "pretrain.loop.steps=12",
    "pretrain.loop.warmup_steps=2",
    "pretrain.loop.validate_every=6",
)


def test_a_staged_training_stands_beside_the_served_one(tmp_path: Path):
    config = resolve("demo", settings=SETTINGS).config.merged({"beside": {"staged": STAGED}})
    report = run_pipeline(config, base=tmp_path, out=tmp_path / "run")
    rows = read_records(report)
    assert {row["model"] for row in rows if row["task"] == "search"} >= {"title+photo", "staged", "bm25"}
    compared = {row["baseline"] for row in rows if row.get("model") == "title+photo" and "baseline" in row}
    assert "staged" in compared
    folder = RunFolder.existing(tmp_path / "run")
    served, staged = (folder.stage(f"encoder {name} seed 0") for name in ("title+photo", "staged"))
    assert folder.stage("bundle").manifest["inputs"]["encoder"] == served.id
    assert list(staged.summary["phases"]) == ["1-title-photo", "2-query-photo", "3-query-title", "4-query-item"]
    assert staged.summary["steps"] == 20
    page = report.file("report.html").read_text(encoding="utf-8")
    assert "Gradient norm, photo / text" in page


@pytest.mark.parametrize(
    ("beside", "message"),
    [
        ({"title": STAGED}, "beside.title: the tables have a row of that name already"),
        ({"bm25": STAGED}, "beside.bm25: the tables have a row of that name already"),
        (
            {"other": {**STAGED, "encoder": {**STAGED["encoder"], "photo_px": 32}}},
            "beside.other.encoder.photo_px is 32 and pretrain.encoder.photo_px is 64",
        ),
    ],
)
def test_what_does_not_go_beside_is_told(beside: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        resolve("demo", settings=()).config.merged({"beside": beside})
