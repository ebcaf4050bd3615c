"""Grocery: products, and shelf photos that know their product."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from triptych.data.datasets.grocery import GroceryConfig
from triptych.foundation.registry import config_class


def test_the_registry_finds_it():
    assert config_class("triptych.data.datasets", "grocery") is GroceryConfig


@pytest.mark.real_data
def test_products_and_shelf_photos(real_data: Path, tmp_path: Path):
    config = GroceryConfig(data_root=str(real_data))
    tables = config.prepare(tmp_path)
    items = pl.read_parquet(tmp_path / tables.items.path)
    assert (items.height, items["item_id"].n_unique(), items["category"].n_unique()) == (81, 81, 43)
    assert (tables.events, tables.judgements) == (None, None)
    assert set(items["group"]) == {"Fruit", "Packages", "Vegetables"}
    assert tables.items.photo_root is not None
    for name in items["photo"]:
        with Image.open(Path(tables.items.photo_root) / name) as image:
            assert min(image.size) >= 150
    photos = list(config.shelf_photos())
    assert Counter(photo.split for photo in photos) == {"test": 2_485, "val": 296}
    assert {photo.item_id for photo in photos} == set(items["item_id"])
    assert all(photo.path.is_file() for photo in photos)
