"""The whole line: run twice, killed and resumed, and from a stranger's tables; the numbers must be the same."""

from __future__ import annotations

import json
import math
import os
import random
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from small_demo import DEMO_SETTINGS, REPOSITORY
from typer.testing import CliRunner

from triptych.cli import app
from triptych.evaluate.report import read_records
from triptych.foundation.artifact import MANIFEST
from triptych.recipes import resolve
from triptych.recipes.controls import Control
from triptych.recipes.pipeline import run_pipeline
from triptych.recipes.run_folder import RunFolder
from triptych.recipes.tables import find_source

KILLS = int(os.environ.get("TRIPTYCH_KILLS", "3"))
"""Kills of the resume test; 20 before a release."""


def records(run: Path) -> list[dict]:
    return read_records(RunFolder.existing(run).stage("report"))


def assert_same_numbers(one: list[dict], other: list[dict], *, tolerance: float) -> None:
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        assert left.keys() == right.keys()
        for key, value in left.items():
            if key == "simulated":  # a stranger's tables do not say so
                continue
            if isinstance(value, float):
                assert math.isclose(value, right[key], rel_tol=0, abs_tol=tolerance), (left, right)
            else:
                assert value == right[key], (left, right)


def test_a_second_run_finds_everything_and_makes_nothing(demo_run: Path):
    before = {path: path.stat().st_mtime_ns for path in demo_run.rglob(MANIFEST)}
    resolved = resolve("demo", settings=DEMO_SETTINGS)
    report = run_pipeline(resolved.config, base=resolved.base, out=demo_run)
    assert report.path == RunFolder.existing(demo_run).stage("report").path
    assert {path: path.stat().st_mtime_ns for path in demo_run.rglob(MANIFEST)} == before


def test_every_file_is_as_it_was_written_and_nothing_is_left_over(demo_run: Path):
    folder = RunFolder.existing(demo_run)
    for artifact in folder.artifacts():
        artifact.verify()
    assert folder.prune(delete=False) == []
    assert not list(demo_run.rglob("*.partial"))


def test_the_report_has_every_model_and_the_bounds_hold(demo_run: Path):
    rows = [row for row in records(demo_run) if row["task"] == "search" and row.get("metric") == "recall"]
    found = {
        row["model"]: row["value"] for row in rows if row["slice"] == "all" and row["k"] == 20 and "kind" not in row
    }
    assert set(found) == {"popularity", "bm25", "title", "title+photo", "recall", "oracle"}
    assert all(found["oracle"] > value for model, value in found.items() if model != "oracle")
    assert found["bm25"] > found["popularity"]


def test_a_stage_whose_setting_changes_is_made_again_and_those_before_it_are_not(demo_run: Path, tmp_path: Path):
    out = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(demo_run), str(out)], check=True)
    before = RunFolder.existing(out).stages()
    resolved = resolve("demo", settings=(*DEMO_SETTINGS, "bm25.k1=0.9"))
    run_pipeline(resolved.config, base=resolved.base, out=out)
    after = RunFolder.existing(out).stages()
    assert {stage for stage in after if after[stage] != before[stage]} == {"bm25", "bundle", "report"}
    gone = RunFolder.existing(out).prune(delete=True)
    assert {path.parent.name for path, _ in gone} == {"bm25", "bundle", "report"}
    assert not any(path.exists() for path, _ in gone)
    assert records(out)


def test_permuted_photos_change_places_among_the_items_that_have_one(demo_run: Path):
    from triptych.data.catalogue import Catalogue

    catalogue = Catalogue.open(RunFolder.existing(demo_run).stage("catalogue"))
    rows = Control.PHOTO.photo_rows(catalogue, seed=0)
    assert sorted(rows) == list(range(catalogue.num_items))
    assert (catalogue.photos.has[rows] == catalogue.photos.has).all()
    assert (rows != range(catalogue.num_items)).mean() > 0.9


def test_another_process_is_told_of_them(demo_run: Path, tmp_path: Path):
    from triptych.pretrain.tasks.contrastive import ContrastiveConfig
    from triptych.recipes.encoders import EncoderWork, Plan

    catalogue, split, tokenizer = map(RunFolder.existing(demo_run).stage, ("catalogue", "split", "tokenizer"))
    plan = Plan("permuted-photo", ContrastiveConfig(), Control.PHOTO)
    work = EncoderWork(plan, 3, catalogue, split, tokenizer, tmp_path)
    told = EncoderWork.parse(json.loads(json.dumps(work.dump())))
    assert told.plan == plan
    assert told.photo_rows.tolist() == work.photo_rows.tolist()


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "triptych.cli", *arguments]


def settings(*more: str) -> list[str]:
    return [part for setting in (*DEMO_SETTINGS, *more) for part in ("--set", setting)]


def test_killed_at_random_moments_and_resumed_it_ends_with_the_same_numbers(tmp_path: Path):
    """SIGKILL anywhere: while drawing, writing, training, or between an artefact's last file and its manifest."""
    small = settings(
        "dataset.num_items=200",
        "dataset.shoppers.num_pages=2500",
        "pretrain.loop.steps=24",
        "pretrain.loop.checkpoint_every_s=0",
        "pretrain.loop.validate_every=8",
        "photo_queries=50",
    )
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    started = time.monotonic()
    subprocess.run(command("run", "demo", "--out", str(unbroken), *small), check=True, capture_output=True)
    length_s = left_s = time.monotonic() - started
    rng = random.Random(0)
    killed = 0
    log = tmp_path / "log.txt"
    while killed < KILLS:
        with log.open("w") as file:
            process = subprocess.Popen(command("run", "demo", "--out", str(broken), *small), stdout=file, stderr=file)
        wait_s = rng.uniform(0.05, 1.0) * left_s
        try:
            process.wait(timeout=wait_s)
            assert process.returncode == 0, log.read_text()
            subprocess.run(["rm", "-r", str(broken)], check=True)  # it got through: start over, and kill that
            left_s = length_s
            continue
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
            left_s = max(left_s - wait_s, length_s / 2)  # it goes on where it was, but for the start of Python
        for artifact in RunFolder(broken).artifacts():
            artifact.verify()
    subprocess.run(command("run", "demo", "--out", str(broken), *small), check=True, capture_output=True)
    assert_same_numbers(records(unbroken), records(broken), tolerance=0.0)
    assert RunFolder.existing(unbroken).stages() == RunFolder.existing(broken).stages()


@pytest.fixture(scope="module")
def foreign(demo_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's tables under a stranger's names, with a ten-line config."""
    out = tmp_path_factory.mktemp("foreign") / "shop"
    runpy.run_path(str(REPOSITORY / "examples" / "own_tables.py"))["export"](demo_run, out)
    return out


def test_foreign_tables_give_the_numbers_of_the_run_they_came_from(demo_run: Path, foreign: Path, tmp_path: Path):
    same = [setting for setting in DEMO_SETTINGS if not setting.startswith("dataset.")]
    resolved = resolve(str(foreign / "shop.toml"), settings=same)
    run_pipeline(resolved.config, base=resolved.base, out=tmp_path / "run")
    assert_same_numbers(records(demo_run), records(tmp_path / "run"), tolerance=1e-6)


def test_check_of_clean_foreign_tables_finds_nothing(foreign: Path):
    done = CliRunner().invoke(app, ["check", str(foreign / "shop.toml"), "--json", "--strict"], catch_exceptions=False)
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    assert told["faults"] == []
    guessed = {(row["table"], row["column"]): row["field"] for row in told["columns"] if row["how"] == "guessed"}
    assert guessed["events", "uid"] == "user"
    assert guessed["events", "ts"] == "time"
    assert guessed["items", "cost"] == "price"


def plant_faults(shop: Path) -> set[tuple[str, str, str, int]]:
    """Damage a copy of the foreign tables in twelve ways; return (table, column, fault, count) of each."""
    items = pl.read_csv(shop / "items.csv", infer_schema=False)
    n = items.height
    items = pl.concat([items, items[[0, 1, 2]]])  # three duplicated ids
    row = pl.int_range(pl.len())
    when = pl.when
    items = items.with_columns(
        sku=when(row.is_in([10, 11])).then(None).otherwise(pl.col("sku")),
        img_file=when(row.is_in([20, 21, 22, 23])).then(pl.lit("gone.jpg")).otherwise(pl.col("img_file")),
        cost=when(row.is_in([30, 31, 32, 33, 34]))
        .then(pl.lit("call us"))
        .when(row.is_in([35, 36]))
        .then(pl.lit("-4.5"))
        .otherwise(pl.col("cost")),
        first_seen=when(row.is_in([40, 41])).then(pl.lit("soon")).otherwise(pl.col("first_seen")),
    )
    items.write_csv(shop / "items.csv")
    for name in items["img_file"][50:52]:
        photo = shop / "pictures" / name
        photo.write_bytes(photo.read_bytes()[:200])
    lost = set(pl.read_csv(shop.parent / "shop" / "items.csv", infer_schema=False)["sku"][10:12])
    events = pl.read_ndjson(shop / "clicks.jsonl")
    orphans = events.filter(pl.col("sku").is_in(lost)).height
    events = pl.concat([events.filter(~pl.col("sku").is_in(lost)), events.filter(pl.col("sku").is_in(lost))])
    free = pl.int_range(pl.len())
    events = events.with_columns(
        sku=when(free.is_in(range(100, 107))).then(pl.lit("nobody")).otherwise(pl.col("sku")),
        ts=when(free.is_in(range(200, 206)))
        .then(pl.lit("yesterday"))
        .when(free.is_in([210, 211]))
        .then(pl.lit("2126-01-01T00:00:00Z"))
        .otherwise(pl.col("ts")),
        action=when(free.is_in(range(300, 305))).then(pl.lit("sneeze")).otherwise(pl.col("action")),
        position=when(free.is_in([400, 401, 402])).then(-1).otherwise(pl.col("position")),
    )
    pl.concat([events, events[[500, 501, 502, 503]]]).write_ndjson(shop / "clicks.jsonl")
    grades = pl.read_csv(shop / "grades.csv", infer_schema=False)
    grades = grades.filter(~pl.col("sku").is_in(lost))
    place = pl.int_range(pl.len())
    grades.with_columns(grade=when(place.is_in([5, 6, 7])).then(pl.lit("good")).otherwise(pl.col("grade"))).write_csv(
        shop / "grades.csv"
    )
    assert n > 60
    return {
        ("items", "sku", "duplicate_id", 3),
        ("items", "sku", "empty_id", 2),
        ("items", "img_file", "missing_photo", 4),
        ("items", "img_file", "broken_photo", 2),
        ("items", "cost", "bad_price", 5),
        ("items", "cost", "negative_price", 2),
        ("items", "first_seen", "bad_time", 2),
        ("events", "sku", "unknown_item", 7 + orphans),
        ("events", "ts", "bad_time", 6),
        ("events", "ts", "time_in_future", 2),
        ("events", "action", "unknown_kind", 5),
        ("events", "position", "negative_position", 3),
        ("events", "ts, uid, q, sku, action, page_id, position, cell", "duplicate_event", 4),
        ("judgements", "grade", "bad_grade", 3),
    }


@pytest.fixture(scope="module")
def foreign_fashion(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fashion's tables (a short log) under a stranger's names."""
    run = tmp_path_factory.mktemp("fashion") / "run"
    small = [f"dataset.data_root={real_data}", "dataset.shoppers.num_pages=5000"]
    config = resolve("fashion", settings=small).config
    folder = RunFolder(run)
    folder.start(config.dump())
    tables = find_source(config, base=run, out=run / "tables").artifact
    assert tables is not None
    folder.record("tables", tables)
    runpy.run_path(str(REPOSITORY / "examples" / "own_tables.py"))["export"](run, run.parent / "shop")
    return run.parent / "shop"


@pytest.mark.parametrize("tables", ["foreign", pytest.param("foreign_fashion", marks=pytest.mark.real_data)])
def test_check_names_each_planted_fault_with_table_column_and_count(
    tables: str, request: pytest.FixtureRequest, tmp_path: Path
):
    clean: Path = request.getfixturevalue(tables)
    shop = clean.parent / "damaged"
    subprocess.run(["cp", "-r", str(clean), str(shop)], check=True)
    planted = plant_faults(shop)
    arguments = ["check", str(shop / "shop.toml"), "--json", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    found = {(f["table"], f["column"], f["fault"], f["count"]) for f in json.loads(done.stdout)["faults"]}
    assert found == planted
    rejected = pl.read_parquet(tmp_path / "out" / "rejected" / "items.parquet")
    assert rejected.filter(pl.col("fault") == "bad_price")["row"].to_list() == [31, 32, 33, 34, 35]
    strict = CliRunner().invoke(app, [*arguments, "--strict", "--no-photos"], catch_exceptions=False)
    assert strict.exit_code == 1
