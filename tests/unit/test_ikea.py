"""IKEA: products, and rooms that know their products."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from triptych.data.check import check_tables
from triptych.data.datasets.ikea import FOLDER, IkeaConfig
from triptych.data.schema import Part, Role
from triptych.data.tables import read_items
from triptych.foundation.registry import config_class


def test_the_registry_finds_it():
    assert config_class("triptych.data.datasets", "ikea") is IkeaConfig


def test_products_and_the_rooms_that_show_them(tmp_path: Path):
    folder = tmp_path / FOLDER
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "b.jpg").write_bytes(b"photo")
    products = {
        "item_id": ["b", "a"],
        "name": ["KURA", ""],
        "type": ["Reversible bed", "Easel"],
        "color": ["White,pine", ""],
        "size": ["90x200 cm", ""],
        "description": ["Turns over.", ""],
        "object_class": ["bed", "objects"],
        "image": ["images/b.jpg", ""],
    }
    pl.DataFrame(products).write_parquet(folder / "items.parquet")
    rooms = {"room_id": ["r2", "r1", "r3"], "image": ["rooms/r2.jpg", "rooms/r1.jpg", ""]}
    pl.DataFrame(rooms).write_parquet(folder / "rooms.parquet")
    shown = {"room_id": ["r1", "r1", "r1", "r2", "r3"], "item_id": ["b", "a", "b", "gone", "a"]}
    pl.DataFrame(shown).write_parquet(folder / "room_items.parquet")
    config = IkeaConfig(data_root=str(tmp_path))
    items = check_tables(read_items(config.prepare(tmp_path).items, base=tmp_path), None, None).items
    assert items.select("item_id", "title", "photo", "category").rows() == [
        ("a", "Easel", None, "Easel"),
        ("b", "KURA Reversible bed", "images/b.jpg", "Reversible bed"),
    ]
    assert items["colours"].to_list() == [None, ["white", "pine"]]
    # a room without a photo asks nothing, nor does one whose products are not sold
    assert config.photo_queries() == [(folder / "rooms" / "r1.jpg", ("a", "b"), Part.TEST)]


@pytest.mark.real_data
def test_the_real_products_and_rooms(real_data: Path, tmp_path: Path):
    config = IkeaConfig(data_root=str(real_data))
    checked = check_tables(read_items(config.prepare(tmp_path).items, base=tmp_path), None, None)
    assert len(checked.items) == 2_191
    assert len(checked.items) - checked.items["photo"].null_count() == 2_187
    assert checked.rejected == {}
    assert checked.roles["description"] is Role.TEXT
    queries = config.photo_queries()
    assert len(queries) == 205
    assert np.mean([len(query.item_ids) for query in queries]) == pytest.approx(12.9, abs=0.05)
    assert len({item for query in queries for item in query.item_ids}) == 1_609
    assert all(query.path.is_file() for query in queries)
    assert {item for query in queries for item in query.item_ids} <= set(checked.items["item_id"])
