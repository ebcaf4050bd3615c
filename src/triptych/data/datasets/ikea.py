"""IKEA furniture: products with photo and description, and photos of rooms that show some of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import polars as pl

from triptych.data.datasets.base import Card, DatasetConfig, PhotoQuery, Tables, dataset_folder, items_config
from triptych.data.schema import Part, Role
from triptych.data.simulate.tables import ITEMS_FILE, write_parquet

FOLDER = "ikea_furniture"
ROOMS_FILE, ROOM_ITEMS_FILE = "rooms.parquet", "room_items.parquet"


class IkeaConfig(DatasetConfig):
    """Products with photos; rooms ask for the products in them, and nobody searched or clicked."""

    kind: Literal["ikea"] = "ikea"
    """Name of the dataset."""
    data_root: str | None = None
    """Folder that holds `ikea_furniture`; left out, the environment variable TRIPTYCH_DATA, else ../shared/data."""

    def prepare(self, out: Path) -> Tables:
        """Write the items; photos stay where they are."""
        folder = dataset_folder(FOLDER, data_root=self.data_root)
        write_parquet(read_products(folder), out / ITEMS_FILE)
        features = {"size": Role.CATEGORICAL, "group": Role.CATEGORICAL, "colours": Role.MULTI}
        items = items_config(
            ITEMS_FILE,
            title="title",
            photo="photo",
            photo_root=str(folder),
            category="category",
            features={**features, "description": Role.TEXT},
        )
        return Tables(items=items, events=None, judgements=None)

    def source_files(self) -> Sequence[Path]:
        """Return the products' table."""
        return (dataset_folder(FOLDER, data_root=self.data_root) / ITEMS_FILE,)

    def photo_folder(self) -> Path:
        """Return the folder that photo paths start from."""
        return dataset_folder(FOLDER, data_root=self.data_root)

    def photo_queries(self) -> Sequence[PhotoQuery]:
        """Return the photos of rooms, each with the products it shows; the origin has no split, so all are test.

        Many rooms were photographed twice: their photos are no independent questions.
        """
        folder = dataset_folder(FOLDER, data_root=self.data_root)
        rooms = pl.read_parquet(folder / ROOMS_FILE).filter(pl.col("image") != "").select("room_id", "image")
        shown = pl.read_parquet(folder / ROOM_ITEMS_FILE).unique().sort("room_id", "item_id")
        known = shown.join(pl.read_parquet(folder / ITEMS_FILE).select("item_id"), on="item_id", how="semi")
        asked = known.group_by("room_id", maintain_order=True).agg("item_id").join(rooms, on="room_id")
        rows = asked.sort("image").select("image", "item_id").iter_rows()
        return [PhotoQuery(folder / image, tuple(item_ids), Part.TEST) for image, item_ids in rows]

    def card(self) -> Card:
        """Return the dataset's origin and licence."""
        return Card(
            name="ikea",
            source="2,191 IKEA products, and rooms (Tautkute et al., What Looks Good with my Sofa, FedCSIS 2017)",
            licence="all images are property of IKEA.COM, for non-commercial use only; cite the paper",
            note="Letters outside ASCII were lost at the origin (MLA for MÅLA). 205 photos of rooms ask for products.",
            simulated=False,
        )


def read_products(folder: Path) -> pl.DataFrame:
    """Read the products with canonical column names; the title is name and type, as on the shop's shelf."""
    source = pl.read_parquet(folder / ITEMS_FILE).sort("item_id")

    def filled(name: str) -> pl.Expr:
        return pl.col(name).str.strip_chars().replace("", None)

    return source.select(
        item_id=pl.col("item_id"),
        title=pl.concat_str(filled("name"), filled("type"), separator=" ", ignore_nulls=True).replace("", None),
        photo=filled("image"),
        category=filled("type"),
        group=filled("object_class"),
        colours=filled("color").str.to_lowercase().str.split(","),
        size=filled("size"),
        description=filled("description"),
    )


CONFIG = IkeaConfig
