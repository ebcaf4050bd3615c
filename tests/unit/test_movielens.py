"""MovieLens: films with posters and plots, ratings as choices and impressions."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from triptych.data.check import Checked, check_tables
from triptych.data.datasets.movielens import FOLDER, MovielensConfig
from triptych.data.schema import Role
from triptych.data.tables import read_events, read_items
from triptych.foundation.registry import config_class


def read(config: MovielensConfig, folder: Path) -> Checked:
    tables = config.prepare(folder)
    assert tables.events is not None
    assert tables.judgements is None
    return check_tables(read_items(tables.items, base=folder), read_events(tables.events, base=folder), None)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Two films, one without poster, plot, genres and year; three ratings, the last two in one second."""
    folder = tmp_path / FOLDER
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "7.jpg").write_bytes(b"poster")
    films = {
        "movieId": [10, 7],
        "title": ["Nobody Saw It", " Heat (1995)"],
        "genres": ["(no genres listed)", "Thriller|Action"],
        "year": [None, 1995],
        "image": ["", "images/7.jpg"],
        "overview": ["", "Cops and robbers. "],
    }
    pl.DataFrame(films).write_parquet(folder / "items.parquet")
    ratings = {
        "userId": [2, 1, 1],
        "movieId": [7, 7, 10],
        "rating": [3.5, 4.0, 5.0],
        "timestamp": [1_000_000_009, 1_000_000_005, 1_000_000_005],
    }
    pl.DataFrame(ratings).write_parquet(folder / "interactions.parquet")
    return tmp_path


def test_the_registry_finds_it():
    assert config_class("triptych.data.datasets", "movielens") is MovielensConfig


def test_ratings_become_choices_and_impressions(small: Path, tmp_path: Path):
    checked = read(MovielensConfig(data_root=str(small)), tmp_path)
    assert checked.items["item_id"].to_list() == ["7", "10"]
    assert checked.items["title"].to_list() == ["Heat (1995)", "Nobody Saw It"]
    assert checked.items["photo"].to_list() == ["images/7.jpg", None]
    assert checked.items["plot"].to_list() == ["Cops and robbers.", None]
    assert checked.items["genres"].to_list() == [["Action", "Thriller"], None]
    assert checked.items["year"].to_list() == [1995.0, None]
    assert checked.roles == {"plot": Role.TEXT, "genres": Role.MULTI, "year": Role.NUMERIC}
    assert checked.events is not None
    assert checked.events.select("user", "item_id", "kind").rows() == [
        ("1", "7", "click"),
        ("1", "10", "click"),  # of one second: in the order of the file
        ("2", "7", "impression"),
    ]
    assert checked.events["time"][2] == datetime(2001, 9, 9, 1, 46, 49, tzinfo=UTC)
    assert checked.events["query"].null_count() == 3
    strict = read(MovielensConfig(data_root=str(small), positive_rating=4.5), tmp_path)
    assert strict.events is not None
    assert strict.events["kind"].to_list() == ["impression", "click", "impression"]
    assert "4.5 stars" in MovielensConfig(positive_rating=4.5).card().note


@pytest.mark.real_data
def test_the_real_films_and_ratings(real_data: Path, tmp_path: Path):
    checked = read(MovielensConfig(data_root=str(real_data)), tmp_path)
    summary = checked.summary
    assert (summary.rows_kept["items"], summary.rows_kept["events"], summary.num_users) == (9_742, 100_836, 610)
    assert summary.num_queries == 0
    assert summary.events_by_kind["click"] == 48_580
    assert summary.num_positives / 100_836 == pytest.approx(0.482, abs=5e-4)
    assert 9_742 - checked.items["photo"].null_count() == 9_543
    assert 9_742 - checked.items["plot"].null_count() == 4_348
    assert checked.rejected == {}
    assert {fault.fault for fault in checked.faults} == {"no_photo"}
