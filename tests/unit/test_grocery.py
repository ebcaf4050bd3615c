"""Grocery: products, and shelf photos that know their product."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from triptych.data.check import Checked
from triptych.data.datasets.grocery import FOLDER, GroceryConfig
from triptych.data.schema import Part
from triptych.foundation.registry import config_class
from triptych.recipes.config import RunConfig
from triptych.recipes.tables import find_source


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
    photos = config.photo_queries()
    assert Counter(photo.part for photo in photos) == {Part.TEST: 2_485, Part.VALIDATION: 296}
    assert {photo.item_ids for photo in photos} == {(item,) for item in items["item_id"]}
    assert all(photo.path.is_file() for photo in photos)


def test_changed_data_is_new_work_and_moved_data_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What a dataset reads is part of the id of what it writes; where it lies is not."""
    here, there, out = tmp_path / "here", tmp_path / "there", tmp_path / "tables"
    (here / FOLDER).mkdir(parents=True)
    products = pl.DataFrame(
        {
            "item_id": [1, 2],
            "name": ["Gala", "Leek"],
            "image": ["a.jpg", "b.jpg"],
            "coarse": ["apple", "leek"],
            "group": ["fruit", "vegetable"],
            "description": ["", ""],
        }
    )
    products.write_parquet(here / FOLDER / "items.parquet")
    for name in ("a.jpg", "b.jpg"):
        (here / FOLDER / name).write_bytes(b"photo")

    def found(root: Path) -> tuple[dict[str, str], Checked]:
        monkeypatch.setenv("TRIPTYCH_DATA", str(root))
        source = find_source(RunConfig.parse({"dataset": {"kind": "grocery"}}), base=tmp_path, out=out)
        return source.inputs, source.read()

    first, _ = found(here)
    here.rename(there)
    moved, checked = found(there)
    assert moved == first
    assert checked.tables["items"].photo_root == there / FOLDER
    (there / FOLDER / "a.jpg").write_bytes(b"another photo")
    photo_changed, _ = found(there)
    assert photo_changed["tables"] == first["tables"]
    assert photo_changed["photos"] != first["photos"]
    products.with_columns(name=pl.lit("Pear")).write_parquet(there / FOLDER / "items.parquet")
    table_changed, _ = found(there)
    assert table_changed["tables"] != first["tables"]
