"""A run may have trainings beside that of `pretrain`: same data, a row in the report, served if validation says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_demo import DEMO_SETTINGS, begun
from typer.testing import CliRunner

from triptych.cli import app
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


def test_a_staged_training_stands_beside_the_served_one(
    demo_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    config = resolve("demo", settings=SETTINGS).config.merged({"beside": {"staged": STAGED}})
    report = run_pipeline(config, base=tmp_path, out=begun(tmp_path / "run", like=demo_run))
    assert "staged learns from 640 items in all (loop.steps x batch_items), pretrain from 768" in caplog.text
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


def test_validation_may_choose_what_is_served(demo_run: Path, tmp_path: Path):
    """The training of `pretrain` has no time to learn anything; one beside it has."""
    own = resolve("demo", settings=SETTINGS).config.override("pretrain.loop.steps=1", "evaluation.part=validation")
    better = own.pretrain.override("loop.steps=60", "loop.validate_every=60")
    config = own.merged({"beside": {"longer": better.dump()}, "serve": "validation"})
    report = run_pipeline(config, base=tmp_path, out=begun(tmp_path / "run", like=demo_run))
    folder = RunFolder.existing(tmp_path / "run")
    choice, longer = folder.stage("served"), folder.stage("encoder longer seed 0")
    assert choice.summary["served"] == "longer"
    wanted = {"task": "search", "slice": "all", "metric": "recall", "k": config.evaluation.headline_k}
    rows = [row for row in read_records(report) if wanted.items() <= row.items() and "baseline" not in row]
    found = {row["model"]: row["value"] for row in rows}
    for name in ("title+photo", "longer"):
        assert choice.summary[name] == pytest.approx(found[name], abs=1e-6)
    assert folder.stage("bundle").manifest["inputs"]["encoder"] == longer.id
    assert folder.stage("recall recall seed 0").manifest["inputs"]["encoder"] == longer.id
    assert "serves longer" in report.file("report.html").read_text(encoding="utf-8")
    told = CliRunner().invoke(app, ["report", str(tmp_path / "run")], catch_exceptions=False).stdout
    assert "serves longer: recall@20 title+photo" in told and "validation queries" in told


def test_a_choice_needs_something_to_choose_from():
    with pytest.raises(ConfigError, match="serve = 'validation' has no effect: nothing is trained beside pretrain"):
        resolve("demo", settings=("serve=validation",))
    other = {"items": {"kind": "item_contrast"}}
    with pytest.raises(ConfigError, match=r"asks queries of the validation part, and beside\.items learns from none"):
        resolve("demo", settings=()).config.merged({"beside": other, "serve": "validation"})


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
