"""The command line over a finished run: every command answers, and a mistake is one sentence and exit code 2."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from small_demo import DEMO_SETTINGS
from typer.testing import CliRunner

from triptych.cli import app
from triptych.engine import Engine
from triptych.foundation.errors import TriptychError


@pytest.fixture(autouse=True)
def no_second_process(monkeypatch: pytest.MonkeyPatch):
    """`run` and `serve` start over under tcmalloc where there is one; inside pytest that would replace pytest."""
    monkeypatch.setenv("TRIPTYCH_TCMALLOC", "0")


def answer(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_search_prints_what_the_engine_finds(demo_run: Path):
    hits = json.loads(answer("search", demo_run, "red cake", "--k", "4", "--why", "--json"))
    expected = Engine.open(demo_run).search("red cake", k=4)
    assert [hit["item_id"] for hit in hits] == [hit.item_id for hit in expected]
    assert hits[0]["why"]["without_title"] is not None
    table = answer("search", demo_run, "red cake", "--k", "4")
    assert all(hit.item_id in table for hit in expected)


def test_search_by_photo_with_a_filter(demo_run: Path, tmp_path: Path):
    engine = Engine.open(demo_run)
    item = engine.search(None, channel="popularity", k=1)[0].item_id
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(engine.photo_jpeg(item))
    category = engine.item(item)["category"]
    hits = json.loads(answer("search", demo_run, "--photo", photo, "--category", category, "--json"))
    assert {hit["item"]["category"] for hit in hits} == {category}


def test_similar_and_recommend(demo_run: Path):
    item = json.loads(answer("search", demo_run, "lamp", "--k", "1", "--json"))[0]["item_id"]
    assert item not in {hit["item_id"] for hit in json.loads(answer("similar", demo_run, item, "--json"))}
    assert len(json.loads(answer("recommend", demo_run, "nobody", "--k", "3", "--json"))) == 3


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_score_keeps_the_order_of_its_pairs(demo_run: Path, tmp_path: Path, suffix: str):
    engine = Engine.open(demo_run)
    items = [hit.item_id for hit in engine.search("blue", k=3)]
    pairs = pl.DataFrame({"query": ["red", "blue", "red"], "item_id": items})
    pairs.write_csv(tmp_path / "pairs.csv")
    answer("score", demo_run, tmp_path / "pairs.csv", "--out", tmp_path / f"scored{suffix}")
    read = {".parquet": pl.read_parquet, ".csv": pl.read_csv, ".jsonl": pl.read_ndjson}[suffix]
    scored = read(tmp_path / f"scored{suffix}")
    assert scored["item_id"].to_list() == items
    expected = [engine.score(query, [item])[0] for query, item in zip(pairs["query"], items, strict=True)]
    assert scored["score"].to_list() == pytest.approx(expected, abs=1e-6)


def test_report_prints_tables_and_records(demo_run: Path):
    table = answer("report", demo_run)
    assert "title+photo" in table
    assert "report.html" in table
    records = json.loads(answer("report", demo_run, "--json"))
    assert {"task", "split", "slice", "model", "metric", "k", "value", "low", "high"} <= set(records[0])


def test_artifacts_are_listed_verified_and_drawn_as_a_tree(demo_run: Path):
    rows = json.loads(answer("artifacts", "list", demo_run, "--json"))
    assert {"catalogue", "encoder", "index", "bundle", "report"} <= {row["kind"] for row in rows}
    assert "every file as it was written" in answer("artifacts", "verify", demo_run)
    assert "from catalogue: catalogue/" in answer("artifacts", "tree", demo_run)
    assert "nothing to delete" in answer("artifacts", "prune", demo_run)
    shown = json.loads(answer("artifacts", "show", demo_run / rows[0]["artifact"]))
    assert shown["kind"] == rows[0]["kind"]


def test_config_shows_recipes_fields_and_a_config_that_is_itself_a_config(tmp_path: Path):
    assert "demo" in answer("config", "recipes")
    (tmp_path / "saved.json").write_text(answer("config", "show", "demo", "--set", "pretrain.loop.steps=7"))
    again = json.loads(answer("config", "show", tmp_path / "saved.json"))
    assert again["pretrain"]["loop"]["steps"] == 7
    assert "fine" in answer("config", "check", tmp_path / "saved.json")
    fields = json.loads(answer("config", "fields", "--match", "loop.steps", "--json"))
    assert fields[0]["default"] == "500"
    assert fields[0]["meaning"]


def test_every_setting_has_a_meaning():
    fields = json.loads(answer("config", "fields", "demo", "--json"))
    assert [field["path"] for field in fields if not field["meaning"]] == []


def test_doctor_names_versions_and_memory():
    facts = json.loads(answer("doctor", "--json"))
    assert facts["torch"]
    assert facts["memory_gib"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "demmo", "--out", "x"), "no recipe 'demmo'. Did you mean 'demo'?"),
        (("run", "demo", "--out", "x", "--set", "pretrain.loop.stepz=1"), "Did you mean 'steps'?"),
        (("run", "shop", "--out", "x"), "names no items table"),
        (("run", "no.toml", "--out", "x"), "does not exist"),
        (("report", "nowhere"), "There is no run in 'nowhere'"),
        (("search", "nowhere", "dress"), "There is no run in 'nowhere'"),
        (("serve", "nowhere"), "There is no run in 'nowhere'"),
        (("check", "--items", "absent.csv"), "absent.csv"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TriptychError, match=message.replace("?", r"\?").replace("+", r"\+")):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_ends_the_process_with_code_2_and_no_traceback(tmp_path: Path):
    command = [sys.executable, "-m", "triptych.cli", "report", str(tmp_path / "nowhere")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: There is no run in")
    assert "Traceback" not in done.stderr


def test_two_settings_that_do_not_go_together_are_refused():
    with pytest.raises(TriptychError, match="brings its own tables"):
        CliRunner().invoke(
            app,
            ["config", "show", "demo", "--set", "items.path=x.csv", "--set", DEMO_SETTINGS[0]],
            catch_exceptions=False,
        )
