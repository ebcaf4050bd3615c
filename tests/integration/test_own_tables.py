"""Tables that are no log of searches: each kind is drafted, checked, run, and answers."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image
from typer.testing import CliRunner

import triptych
from triptych.cli import app
from triptych.evaluate.report import read_records
from triptych.foundation.errors import DataError
from triptych.index.sweep import Extent
from triptych.recipes import resolve
from triptych.recipes.index_sweep import sweep_run
from triptych.recipes.pipeline import run_pipeline
from triptych.recipes.run_folder import RunFolder

GENRES = ("crime", "space", "music", "war")
SMALL = (
    "catalogue.photo_px=32",
    'pretrain.encoder={"dim":32,"layers":1,"heads":2,"vector_dim":16,"photo_px":32}',
    "pretrain.loop.steps=8",
    "pretrain.loop.warmup_steps=2",
    "pretrain.loop.validate_every=8",
    "pretrain.validation_k=5",
    "evaluation.bootstrap_repeats=100",
    "tokenizer.min_count=1",
)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighty films in four genres, viewers who rate one genre high and the others low, and graded queries."""
    folder = tmp_path_factory.mktemp("films")
    rng = np.random.default_rng(0)
    (folder / "posters").mkdir()
    genre = np.arange(80) % 4
    for row in range(80):
        colour = tuple(int(value) for value in np.clip(60 * genre[row] + rng.integers(0, 40, 3), 0, 255))
        Image.new("RGB", (48, 48), colour).save(folder / "posters" / f"f{row}.png")
    names = [f"{GENRES[genre[row]]} story {row}" for row in range(80)]
    pl.DataFrame({"film_no": [f"f{row}" for row in range(80)], "name": names}).write_csv(folder / "films.csv")
    viewer = rng.integers(0, 30, 1500)
    film = rng.integers(0, 80, 1500)
    stars = np.where(viewer % 4 == genre[film], 5, rng.integers(1, 4, 1500))
    pl.DataFrame(
        {
            "viewer": viewer,
            "film_no": [f"f{row}" for row in film],
            "stars": stars,
            "rated_at": 1_600_000_000 + 3600 * np.arange(1500),
        }
    ).write_csv(folder / "ratings.csv")
    judged = [(f"{GENRES[one]} {n}", f"f{row}", 2 * int(genre[row] == one)) for one in range(4) for n in range(10)
              for row in rng.choice(80, 8, replace=False)]  # fmt: skip
    pl.DataFrame(judged, schema=["q", "film_no", "grade"], orient="row").write_csv(folder / "grades.csv")
    return folder


def drafted_and_run(
    tables: Path, out: Path, *, recipe: str, settings: tuple[str, ...] = (), **files: str
) -> list[dict]:
    """Draft a config, check it and run it small; returns the report's records."""
    config = tables / f"{recipe}.toml"
    options = [part for name, file in files.items() for part in (f"--{name}", str(tables / file))]
    options += ["--items", str(tables / "films.csv"), "--photos", str(tables / "posters"), "--out", str(config)]
    assert CliRunner().invoke(app, ["config", "draft", *options], catch_exceptions=False).exit_code == 0
    told = CliRunner().invoke(app, ["check", str(config), "--strict"], catch_exceptions=False)
    assert told.exit_code == 0, told.output
    assert f"next: triptych run {config}" in told.output
    resolved = resolve(str(config), settings=(*SMALL, *settings))
    assert resolved.config.recipe == recipe
    run_pipeline(resolved.config, base=resolved.base, out=out)
    return read_records(RunFolder.existing(out).stage("report"))


def values(records: list[dict], *, task: str, metric: str, k: int) -> dict[str, float]:
    return {
        row["model"]: row["value"]
        for row in records
        if (row["task"], row["slice"], row.get("metric"), row.get("k")) == (task, "all", metric, k)
        and "kind" not in row
    }


def test_ratings_become_a_feed(tables: Path, tmp_path: Path):
    """With a recall model that is served, and one beside it, of another sort."""
    short = {"num_negatives": 50, "epochs": 1, "validations": 1}
    served = {"model": {"kind": "sasrec", "fusion": "mm+idfc", "dim": 16}, **short}
    beside = {"mf": {"model": {"kind": "matrix_factorization", "dim": 16}, **short}}
    settings = (f"recall={json.dumps(served)}", f"recall_beside={json.dumps(beside)}")
    records = drafted_and_run(tables, tmp_path, recipe="feed", events="ratings.csv", settings=settings)
    recall = values(records, task="recommend", metric="recall", k=20)
    assert set(recall) == {"popularity", "item-knn", "title+photo", "title", "recall", "mf"}
    assert recall["item-knn"] > recall["popularity"]
    against = {one["baseline"] for one in records if one["model"] == "recall" and one.get("kind") == "difference"}
    assert against == {"title+photo"}
    shop = triptych.load(tmp_path)
    hits = shop.recommend(user="3", k=5)
    assert len(hits) == 5 and hits.channel == "recall"
    assert shop.info()["parts"]["recall"] == RunFolder.existing(tmp_path).stage("recall recall seed 0").id
    assert shop.recommend(user="3", k=5, channel="item_knn").channel == "item_knn"
    swept = sweep_run(
        tmp_path, kinds=["exact"], extent=Extent(k=5, single_queries=5, filtered_queries=2, rates=(0.5,), seconds=0.1)
    )
    assert (swept.about["vectors_of"], swept.about["queries_are"]) == ("recall", "users of the validation part")


def test_grades_become_a_search(tables: Path, tmp_path: Path):
    """With a pretrained text encoder beside, as it is: a folder that a config names from its own place."""
    pytest.importorskip("transformers")
    from tiny_models import bert, save

    save(bert, tables / "models" / "bert")
    settings = ("hybrid={}", 'untuned={"tiny":{"name":"models/bert"}}')
    records = drafted_and_run(tables, tmp_path, recipe="judged", judgements="grades.csv", settings=settings)
    ndcg = values(records, task="graded", metric="ndcg_judged", k=10)
    assert {"bm25", "title+photo", "title", "hybrid", "chance", "pretrained tiny"} <= set(ndcg)
    assert ndcg["bm25"] > ndcg["chance"]
    told = {one["baseline"] for one in records if one["model"] == "title+photo" and one.get("kind") == "difference"}
    assert "pretrained tiny" in told
    report = RunFolder.existing(tmp_path).stage("report")
    assert report.inputs["pretrained tiny"] == RunFolder.existing(tmp_path).stage("pretrained tiny").id
    against = {one["baseline"] for one in records if one["model"] == "hybrid" and one.get("kind") == "difference"}
    assert against == {"bm25", "title+photo"}
    shop = triptych.load(tmp_path)
    assert len(shop.search("war 3", k=5)) == 5
    fused = shop.search("war 3", k=5, channel="hybrid", explain=True)
    assert set(fused[0].why.found_by) == {"dense", "bm25"}
    # of judged queries nothing is told but places and scores: who was judged in training is the judges' choice
    summary = RunFolder.existing(tmp_path).stage("hybrid seed 0").summary
    assert (summary["metric"], summary["channels"]) == ("ndcg@10", "dense, bm25")
    assert not list(tmp_path.glob("hybrid/*/item_counts.npy"))


def test_items_alone_become_a_search_by_photo(tables: Path, tmp_path: Path):
    records = drafted_and_run(tables, tmp_path, recipe="catalogue")
    recall = values(records, task="photo", metric="recall", k=10)
    assert {"title+photo", "colour-histogram", "chance"} <= set(recall)
    shop = triptych.load(tmp_path)
    assert len(shop.search(photo=tables / "posters" / "f7.png", k=5)) == 5
    encoders = list(tmp_path.glob("encoder/*/artifact.json"))
    for poster in (tables / "posters").iterdir():
        os.utime(poster, (1, 1))  # as after a copy: the same photos, other times
    resolved = resolve(str(tables / "catalogue.toml"), settings=SMALL)
    run_pipeline(resolved.config, base=resolved.base, out=tmp_path)
    assert list(tmp_path.glob("catalogue/*.same"))
    assert list(tmp_path.glob("encoder/*/artifact.json")) == encoders


def test_stages_that_draw_items_need_no_log(tables: Path, tmp_path: Path):
    tasks = [{"kind": "contrast", "between": "title-photo"}, "photo_view", {"kind": "masked_patches"}]
    stages = [{"name": "look", "data": "items", "tasks": tasks, "validate_on": "title-photo"}]
    options = ["--items", str(tables / "films.csv"), "--photos", str(tables / "posters")]
    options += ["--out", str(tables / "looked.toml")]
    assert CliRunner().invoke(app, ["config", "draft", *options], catch_exceptions=False).exit_code == 0
    settings = (*SMALL, "compare=[]", "pretrain.kind=multitask", f"pretrain.stages={json.dumps(stages)}")
    resolved = resolve(str(tables / "looked.toml"), settings=settings)
    run_pipeline(resolved.config, base=resolved.base, out=tmp_path)
    shop = triptych.load(tmp_path)
    assert len(shop.search(photo=tables / "posters" / "f7.png", k=5)) == 5


def test_check_points_at_what_is_no_fault_and_hardly_meant(tables: Path, tmp_path: Path):
    ratings = pl.read_csv(tables / "ratings.csv")
    lost = pl.when(ratings["viewer"] % 2 == 0).then(pl.lit("EXT") + pl.col("film_no")).otherwise(pl.col("film_no"))
    ratings.with_columns(lost.alias("film_no")).write_csv(tmp_path / "ratings.csv")
    config = tmp_path / "shop.toml"
    events = '[events]\npath = "ratings.csv"\nitem = "film_no"\nuser = "viewer"\ntime = "rated_at"\nrating = "stars"\n'
    items = f'recipe = "feed"\n[items]\npath = "{tables / "films.csv"}"\nid = "film_no"\n'
    config.write_text(f"{items}{events}positive_rating = 5\n")
    out = tmp_path / "out"
    told = CliRunner().invoke(app, ["check", str(config), "--out", str(out)], catch_exceptions=False).output
    assert "% of the rows of events are set aside" in told
    assert (out / "rejected" / "events.parquet").is_file()
    assert "next: triptych run" in told
    config.write_text(f"{items}{events}positive_rating = 50\n")
    told = CliRunner().invoke(app, ["check", str(config)], catch_exceptions=False).output
    assert "No rating in 'stars' reaches positive_rating = 50" in told
    untitled = pl.read_csv(tables / "films.csv").with_columns(name=pl.lit(None, dtype=pl.String))
    untitled.write_csv(tmp_path / "films.csv")
    told = CliRunner().invoke(
        app,
        ["check", str(config), "--set", f"items.path={tmp_path / 'films.csv'}", "--set", "events.positive_rating=5",
         "--set", 'pretrain.encoder.title_features=["plot"]'],
        catch_exceptions=False,
    ).output  # fmt: skip
    assert "no item has a title" in told
    assert "before a run: encoder.title_features: the items have no text feature 'plot'" in told


def test_a_log_without_queries_under_the_recipe_of_searches_is_told_so_by_check_and_run(tables: Path, tmp_path: Path):
    config = tmp_path / "shop.toml"
    config.write_text(
        f'[items]\npath = "{tables / "films.csv"}"\nid = "film_no"\n'
        f'[events]\npath = "{tables / "ratings.csv"}"\nitem = "film_no"\nuser = "viewer"\ntime = "rated_at"\n'
    )
    told = CliRunner().invoke(app, ["check", str(config)], catch_exceptions=False)
    assert "no event has a query" in told.output and 'recipe = "feed"' in told.output
    done = CliRunner().invoke(app, ["check", str(config), "--set", "recipe=feed"], catch_exceptions=False)
    assert "next: triptych run" in done.output
    resolved = resolve(str(config), settings=SMALL)
    with pytest.raises(DataError, match='recipe = "feed"'):
        run_pipeline(resolved.config, base=resolved.base, out=tmp_path / "run")
