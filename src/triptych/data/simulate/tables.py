"""Write a simulation as the files of a dataset."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from triptych.data.datasets.base import Tables
from triptych.data.schema import EventsConfig, ItemsConfig, JudgementsConfig, Role
from triptych.data.simulate.log import Simulation

ITEMS_FILE = "items.parquet"
EVENTS_FILE = "events.parquet"
JUDGEMENTS_FILE = "judgements.parquet"
TRUTH_FILE = "truth.parquet"
STATISTICS_FILE = "statistics.json"


def write_simulation(
    simulation: Simulation,
    *,
    out: Path,
    hidden: Sequence[str],
    features: Mapping[str, Role],
    photo_root: str,
) -> Tables:
    """Write items, events, judgements, the truth and the statistics into `out`.

    Args:
        simulation: what to write.
        out: a folder that exists.
        hidden: item columns that stay out of the items table: what a photo shows must not be a feature. They are in
            the truth table.
        features: what the further item columns hold.
        photo_root: folder the photo paths start from, absolute or relative to `out`.
    """
    write_parquet(simulation.items.drop(hidden), out / ITEMS_FILE)
    write_parquet(simulation.events, out / EVENTS_FILE)
    write_parquet(simulation.judgements, out / JUDGEMENTS_FILE)
    write_parquet(simulation.truth, out / TRUTH_FILE)
    text = json.dumps(simulation.statistics, indent=2) + "\n"
    (out / STATISTICS_FILE).write_text(text, encoding="utf-8")
    return Tables(
        items=ItemsConfig(
            path=ITEMS_FILE,
            id="item_id",
            title="title",
            photo="photo",
            photo_root=photo_root,
            category="category",
            brand="brand",
            merchant="merchant",
            price="price",
            cells="cells",
            first_seen="first_seen",
            features=dict(features),
        ),
        events=EventsConfig(
            path=EVENTS_FILE,
            user="user",
            query="query",
            item="item_id",
            time="time",
            kind="kind",
            page="page",
            position="position",
            cell="cell",
        ),
        judgements=JudgementsConfig(
            path=JUDGEMENTS_FILE, query="query", item="item_id", grade="grade", photo_only="photo_only"
        ),
    )


def write_parquet(frame: pl.DataFrame, path: Path) -> None:
    """Write a frame compactly; the same frame gives the same bytes."""
    frame.write_parquet(path, compression="zstd", compression_level=6, statistics=True, row_group_size=500_000)
