"""Grocery Store Dataset: 81 products with a studio photo and a description, and shelf photos of them as queries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import polars as pl

from triptych.data.datasets.base import Card, DatasetConfig, PhotoQuery, Tables, dataset_folder, items_config
from triptych.data.schema import Part, Role
from triptych.data.simulate.tables import ITEMS_FILE, write_parquet

FOLDER = "grocery_store"
PHOTOS_FILE = "photos.parquet"
_PARTS = {"val": Part.VALIDATION, "test": Part.TEST}


class GroceryConfig(DatasetConfig):
    """Products with studio photos; nobody searched or clicked, so there are no events."""

    kind: Literal["grocery"] = "grocery"
    """Name of the dataset."""
    data_root: str | None = None
    """Folder that holds `grocery_store`; left out, the environment variable TRIPTYCH_DATA, else ../shared/data."""

    def prepare(self, out: Path) -> Tables:
        """Write the items; photos stay where they are."""
        folder = dataset_folder(FOLDER, data_root=self.data_root)
        source = pl.read_parquet(folder / ITEMS_FILE).sort("item_id")
        items = source.select(
            item_id=pl.col("item_id").cast(pl.String),
            title=pl.col("name"),
            photo=pl.col("image"),
            category=pl.col("coarse"),
            group=pl.col("group"),
            description=pl.col("description"),
        )
        write_parquet(items, out / ITEMS_FILE)
        tables = items_config(
            ITEMS_FILE,
            title="title",
            photo="photo",
            photo_root=str(folder),
            category="category",
            features={"group": Role.CATEGORICAL, "description": Role.TEXT},
        )
        return Tables(items=tables, events=None, judgements=None)

    def source_files(self) -> Sequence[Path]:
        """Return the products' table."""
        return (dataset_folder(FOLDER, data_root=self.data_root) / ITEMS_FILE,)

    def photo_folder(self) -> Path:
        """Return the folder that photo paths start from."""
        return dataset_folder(FOLDER, data_root=self.data_root)

    def photo_queries(self) -> Sequence[PhotoQuery]:
        """Return the photos taken at the shelf, each of one product."""
        folder = dataset_folder(FOLDER, data_root=self.data_root)
        photos = pl.read_parquet(folder / PHOTOS_FILE).select("image", pl.col("item_id").cast(pl.String), "split")
        return [PhotoQuery(folder / image, (item,), _PARTS[split]) for image, item, split in photos.iter_rows()]

    def card(self) -> Card:
        """Return the dataset's origin and licence."""
        return Card(
            name="grocery",
            source="Grocery Store Dataset (Klasson, Zhang, Kjellström, WACV 2019), 81 products, 2,781 shelf photos",
            licence="MIT",
            note="The train photos of the original are left out.",
            simulated=False,
        )


CONFIG = GroceryConfig
