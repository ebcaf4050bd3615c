"""The recipes on real data, from the tables to the report, with an encoder too small and too hurried to learn."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from triptych.engine import Engine
from triptych.evaluate.report import read_records
from triptych.recipes import resolve
from triptych.recipes.pipeline import run_pipeline
from triptych.recipes.run_folder import RunFolder

HURRIED = (
    "pretrain.encoder.dim=16",
    "pretrain.encoder.layers=1",
    "pretrain.encoder.heads=2",
    "pretrain.encoder.vector_dim=16",
    "pretrain.encoder.stem=linear",
    "pretrain.loop.steps=3",
    "pretrain.loop.warmup_steps=1",
    "pretrain.loop.validate_every=3",
    "evaluation.bootstrap_repeats=100",
    "evaluation.max_queries=60",
    "evaluation.examples=0",
    "photo_queries=20",
    "seeds=[0]",
    "compare=[]",
)


def hurried(recipe: str, out: Path, *settings: str) -> list[dict]:
    """Run a recipe and return the records of its report."""
    resolved = resolve(recipe, settings=[*HURRIED, *settings])
    run_pipeline(resolved.config, base=resolved.base, out=out)
    return read_records(RunFolder.existing(out).stage("report"))


def models(records: list[dict], *, task: str) -> set[str]:
    return {row["model"] for row in records if row["task"] == task and "kind" not in row}


@pytest.mark.real_data
def test_movielens_recommends(real_data: Path, tmp_path: Path):
    records = hurried("movielens", tmp_path)
    assert models(records, task="recommend") == {"popularity", "item-knn", "title+photo"}
    assert len(Engine.open(tmp_path).recommend(user="1", k=5)) == 5


@pytest.mark.real_data
def test_homedepot_is_graded(real_data: Path, tmp_path: Path):
    records = hurried("homedepot", tmp_path)
    assert models(records, task="graded") == {"bm25", "title", "hybrid", "chance"}
    assert len(Engine.open(tmp_path).search("cordless drill", k=5)) == 5


@pytest.mark.real_data
def test_groceries_are_asked_for_by_shelf_photos(real_data: Path, tmp_path: Path):
    records = hurried("grocery", tmp_path)
    assert models(records, task="photo query") == {"title+photo", "colour-histogram", "chance"}


def test_recbole_files_become_a_feed_as_the_docs_say(tmp_path: Path):
    """docs/data.md, "From elsewhere"."""
    data = tmp_path / "ml"
    data.mkdir()
    items = pl.DataFrame(
        {"item_id:token": [str(n) for n in range(40)], "movie_title:token_seq": [f"film {n}" for n in range(40)]}
    )
    items.write_csv(data / "ml.item", separator="\t")
    rows = [(str(user), str((user * 3 + n) % 40), 1.6e9 + n) for user in range(30) for n in range(12)]
    schema = ["user_id:token", "item_id:token", "timestamp:float"]
    pl.DataFrame(rows, schema=schema, orient="row").write_csv(data / "ml.inter", separator="\t")
    (tmp_path / "feed.toml").write_text(f'recipe = "feed"\ndataset = {{ kind = "recbole", path = "{data}" }}\n')
    records = hurried(
        str(tmp_path / "feed.toml"), tmp_path / "run", "split.by=user", "pretrain.encoder.modalities=title"
    )
    assert "title" in models(records, task="recommend")
