"""Home Depot product search: queries, product titles, and how relevant people found one to the other.

Nobody clicked and nothing has a time: there are judgements and no events. The raters' mean of 1 to 3 becomes a grade of
0 to 2, since a grade of 0 is irrelevant here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import polars as pl

from triptych.data.datasets.base import Card, DatasetConfig, Tables, dataset_folder, items_config
from triptych.data.schema import JudgementsConfig
from triptych.data.simulate.tables import ITEMS_FILE, JUDGEMENTS_FILE, write_parquet

FOLDER = "homedepot_search"
PRODUCTS_FILE, QUERIES_FILE, LABELS_FILE = "products.parquet", "queries.parquet", "labels.parquet"
LEAST_RELEVANCE = 1.0
"""Of the raters' scale: irrelevant."""


class HomedepotConfig(DatasetConfig):
    """Titles, queries and graded pairs; text only."""

    kind: Literal["homedepot"] = "homedepot"
    """Name of the dataset."""
    data_root: str | None = None
    """Folder that holds `homedepot_search`; left out, the environment variable TRIPTYCH_DATA, else ../shared/data."""

    def prepare(self, out: Path) -> Tables:
        """Write items and judgements."""
        folder = dataset_folder(FOLDER, data_root=self.data_root)
        items = pl.read_parquet(folder / PRODUCTS_FILE).sort("product_uid")
        titles = pl.col("product_title").str.replace_all(r"\s+", " ").str.strip_chars()
        write_parquet(items.select(item_id=pl.col("product_uid").cast(pl.String), title=titles), out / ITEMS_FILE)
        write_parquet(read_judgements(folder), out / JUDGEMENTS_FILE)
        judgements = JudgementsConfig(path=JUDGEMENTS_FILE, query="query", item="item_id", grade="grade", photo_only="")
        return Tables(items=items_config(ITEMS_FILE, title="title"), events=None, judgements=judgements)

    def source_files(self) -> Sequence[Path]:
        """Return the three tables."""
        folder = dataset_folder(FOLDER, data_root=self.data_root)
        return tuple(folder / name for name in (PRODUCTS_FILE, QUERIES_FILE, LABELS_FILE))

    def card(self) -> Card:
        """Return the dataset's origin and licence."""
        return Card(
            name="homedepot",
            source="Home Depot Product Search Relevance (Kaggle, 2016), train part: 54,667 titles, 11,795 queries",
            licence="Kaggle competition rules: research use, no right to redistribute",
            note="Grade = mean relevance − 1, from 0 to 2. Titles only; no photos, no clicks, no times.",
            simulated=False,
        )


def read_judgements(folder: Path) -> pl.DataFrame:
    """Read the graded pairs: query, item_id and grade, by query and item."""
    queries = pl.read_parquet(folder / QUERIES_FILE)
    labels = pl.read_parquet(folder / LABELS_FILE)
    return (
        labels.join(queries, on="query_id", how="inner", validate="m:1")
        .sort("query_id", "product_uid")
        .select(
            query=pl.col("query"),
            item_id=pl.col("product_uid").cast(pl.String),
            grade=(pl.col("relevance") - LEAST_RELEVANCE).round(2),  # 2.33 − 1 must be 1.33
        )
    )


CONFIG = HomedepotConfig
