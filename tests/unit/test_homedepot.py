"""Home Depot: titles, queries and grades; nothing else."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from triptych.data.check import Checked, check_tables
from triptych.data.datasets.homedepot import FOLDER, HomedepotConfig
from triptych.data.tables import read_items, read_judgements
from triptych.foundation.registry import config_class


def read(root: Path, folder: Path) -> Checked:
    tables = HomedepotConfig(data_root=str(root)).prepare(folder)
    assert tables.events is None
    assert tables.judgements is not None
    judgements = read_judgements(tables.judgements, base=folder)
    return check_tables(read_items(tables.items, base=folder), None, judgements)


def test_the_registry_finds_it():
    assert config_class("triptych.data.datasets", "homedepot") is HomedepotConfig


def test_relevance_becomes_a_grade_from_zero(tmp_path: Path):
    folder = tmp_path / FOLDER
    folder.mkdir()
    products = {"product_uid": [12, 11], "product_title": ["Steel  angle ", "Deck stain"]}
    pl.DataFrame(products).write_parquet(folder / "products.parquet")
    pl.DataFrame({"query_id": [0, 1], "query": ["angle", "stain"]}).write_parquet(folder / "queries.parquet")
    labels = {"id": [1, 2, 3], "query_id": [1, 0, 0], "product_uid": [11, 12, 11], "relevance": [2.33, 3.0, 1.0]}
    pl.DataFrame(labels).write_parquet(folder / "labels.parquet")
    checked = read(tmp_path, tmp_path)
    assert checked.items.select("item_id", "title").rows() == [("11", "Deck stain"), ("12", "Steel angle")]
    assert checked.judgements is not None
    assert checked.judgements.rows() == [("angle", "11", 0.0), ("angle", "12", 2.0), ("stain", "11", 1.33)]


@pytest.mark.real_data
def test_the_real_judgements(real_data: Path, tmp_path: Path):
    checked = read(real_data, tmp_path)
    assert checked.summary.rows_kept == {"items": 54_667, "judgements": 74_067}
    assert checked.summary.num_queries == 11_795
    assert checked.rejected == {}
    assert checked.judgements is not None
    grades = checked.judgements["grade"]
    assert (grades.min(), grades.max(), grades.n_unique()) == (0.0, 2.0, 13)
    assert float(grades.mean()) == pytest.approx(1.38, abs=0.005)  # type: ignore[arg-type]
