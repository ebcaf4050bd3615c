"""Amazon Baby, the graph of who bought what that recommenders with content are compared on: numbers and ASINs alone.

No titles, photos or vectors: there is nothing for an encoder to read, only for models of ids. The parts that the file
brings are those of another paper and are left out; `k_core` over it divides it by MMRec's rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import polars as pl

from triptych.data.datasets.base import (
    Card,
    DatasetConfig,
    Tables,
    dataset_folder,
    events_config,
    items_config,
    times_in_order,
)
from triptych.data.schema import EventKind
from triptych.data.simulate.tables import EVENTS_FILE, ITEMS_FILE, write_parquet

FOLDER = "amazon_mm_ids"
PAIRS_FILE, NAMES_FILE = "baby_5core.parquet", "baby_item2asin.parquet"


class AmazonBabyConfig(DatasetConfig):
    """19,445 users, 7,050 items, 160,792 purchases."""

    kind: Literal["amazon_baby"] = "amazon_baby"
    """Name of the dataset."""
    data_root: str | None = None
    """Folder that holds `amazon_mm_ids`; left out, the environment variable TRIPTYCH_DATA, else ../shared/data."""

    def prepare(self, out: Path) -> Tables:
        """Write the items (ASINs only) and the events."""
        pairs, names = (pl.read_parquet(file) for file in self.source_files())
        named = pairs.sort("user", "item").join(names, on="item", how="left", maintain_order="left", validate="m:1")
        write_parquet(named.select(item_id=pl.col("asin")).unique().sort("item_id"), out / ITEMS_FILE)
        events = named.select(
            time=times_in_order(named.height),
            user=pl.col("user").cast(pl.String),
            item_id=pl.col("asin"),
            kind=pl.lit(EventKind.CLICK.value),
        )
        write_parquet(events, out / EVENTS_FILE)
        return Tables(items=items_config(ITEMS_FILE), events=events_config(EVENTS_FILE), judgements=None)

    def source_files(self) -> Sequence[Path]:
        """Return the pairs and the items' names."""
        folder = dataset_folder(FOLDER, data_root=self.data_root)
        return (folder / PAIRS_FILE, folder / NAMES_FILE)

    def card(self) -> Card:
        """Return the dataset's origin and licence."""
        return Card(
            name="amazon baby",
            source="Amazon reviews, category Baby, 5-core (McAuley, 2014): 19,445 users, 7,050 items",
            licence="unverified; research use",
            note="Every review is a click; the order of the rows stands for time.",
            simulated=False,
        )


CONFIG = AmazonBabyConfig
