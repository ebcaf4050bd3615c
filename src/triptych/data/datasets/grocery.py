"""Grocery Store Dataset: 81 products with a studio photo and a description, and shelf photos of them as queries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import polars as pl

from triptych.data.datasets.base import Card, DatasetConfig, Tables, dataset_folder
from triptych.data.schema import ItemsConfig, Role
from triptych.data.simulate.tables import ITEMS_FILE, write_parquet

FOLDER = "grocery_store"


class ShelfPhoto(NamedTuple):
    """A photo taken in a shop, of one product."""

    path: Path
    item_id: str
    split: str
    """`val` or `test`."""


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
        tables = ItemsConfig(
            path=ITEMS_FILE,
            id="item_id",
            title="title",
            photo="photo",
            photo_root=str(folder),
            category="category",
            brand="",
            merchant="",
            price="",
            cells="",
            first_seen="",
            features={"group": Role.CATEGORICAL, "description": Role.TEXT},
        )
        return Tables(items=tables, events=None, judgements=None)

    def source_files(self) -> Sequence[Path]:
        """Return the products' table."""
        return (dataset_folder(FOLDER, data_root=self.data_root) / ITEMS_FILE,)

    def photo_folder(self) -> Path:
        """Return the folder that photo paths start from."""
        return dataset_folder(FOLDER, data_root=self.data_root)

    def shelf_photos(self) -> Iterator[ShelfPhoto]:
        """Yield the shelf photos, each with the product it shows.

        Raises:
            DataError: the folder is absent.
        """
        folder = dataset_folder(FOLDER, data_root=self.data_root)
        photos = pl.read_parquet(folder / "photos.parquet").select("image", pl.col("item_id").cast(pl.String), "split")
        for image, item_id, split in photos.iter_rows():
            yield ShelfPhoto(folder / image, item_id, split)

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
