"""A shop small enough to check by hand, as a real catalogue and split on disk."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
from PIL import Image

from triptych.data import catalogue as catalogue_stage
from triptych.data import splits
from triptych.data.catalogue import Catalogue, CatalogueConfig
from triptych.data.check import check_tables
from triptych.data.schema import EventsConfig, ItemsConfig, JudgementsConfig
from triptych.data.splits import Split, SplitConfig
from triptych.data.tables import read_events, read_items, read_judgements
from triptych.foundation.types import Hits
from triptych.recall.base import Request, rank

COLOURS = {"red": (200, 40, 40), "green": (40, 160, 60), "blue": (40, 60, 200), "black": (20, 20, 20)}
KINDS = ("shirt", "shoe", "bag", "hat", "<i>scarf</i> & more")
START = datetime(2024, 5, 1, 9, tzinfo=UTC)


class Shop(NamedTuple):
    """Two of each colour and kind: row 2n has the colour in its title, row 2n + 1 only in its photo."""

    catalogue: Catalogue
    split: Split


def photo(colour: str, *, seed: int) -> bytes:
    """A noisy patch of one colour; equal seeds give equal photos."""
    noise = np.random.default_rng(seed).integers(-15, 16, size=(24, 24, 3))
    pixels = np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def shop_tables() -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Items, five days of events, judgements of every query."""
    kinds = [(colour, kind) for kind in KINDS for colour in COLOURS for _ in range(2)]
    items = pl.DataFrame(
        {
            "item_id": [f"i{row}" for row in range(len(kinds))],
            "title": [f"{c} {k}" if row % 2 == 0 else f"nice {k}" for row, (c, k) in enumerate(kinds)],
            # Rows 2 and 3 share a photo; the last row has none.
            "photo": [
                None if row == len(kinds) - 1 else photo(c, seed=2 if row == 3 else row)
                for row, (c, _) in enumerate(kinds)
            ],
            "category": [k for _, k in kinds],
        }
    )
    rng = np.random.default_rng(0)
    queries = [f"{colour} {kind}" for kind in KINDS for colour in COLOURS]
    rows = []
    for day in range(5):
        for number, query in enumerate(queries):
            if day < 4 and number % 5 == 4:
                continue  # every fifth query is asked on the last day only
            for item in (2 * number, 2 * number + 1):
                if day < 3 and item % 4 == 3:
                    continue  # every fourth item is new
                kind = "click" if day in (0, 4) or rng.random() < 0.7 else "impression"
                rows.append((START + timedelta(days=day, minutes=len(rows)), f"u{len(rows) % 7}", query, item, kind))
    events = pl.DataFrame(
        {
            "time": [row[0] for row in rows],
            "user": [row[1] for row in rows],
            "query": [row[2] for row in rows],
            "item_id": [f"i{row[3]}" for row in rows],
            "kind": [row[4] for row in rows],
        }
    )
    judged = [
        (query, f"i{row}", 3.0 if row // 2 == number else 1.0, row // 2 == number and row % 2 == 1)
        for number, query in enumerate(queries)
        for row, (_, kind) in enumerate(kinds)
        if query.endswith(kind)
    ]
    judgements = pl.DataFrame(judged, schema=["query", "item_id", "grade", "photo_only"], orient="row")
    return items, events, judgements


def build_shop(folder: Path, tables: Sequence[pl.DataFrame | None], *, photo_px: int = 24) -> Shop:
    """Write tables, read, check and number them, and split by the last day."""
    names = ("items", "events", "judgements")
    for name, table in zip(names, tables, strict=True):
        if table is not None:
            table.write_parquet(folder / f"{name}.parquet")
    checked = check_tables(
        read_items(ItemsConfig(path="items.parquet"), base=folder),
        read_events(EventsConfig(path="events.parquet"), base=folder),
        None if tables[2] is None else read_judgements(JudgementsConfig(path="judgements.parquet"), base=folder),
    )
    config = CatalogueConfig(photo_px=photo_px, display_px=32)
    artifact = catalogue_stage.build(config, tables=checked, inputs={"tables": folder.name}, out=folder / "catalogue")
    catalogue = Catalogue.open(artifact)
    return Shop(catalogue, Split.open(splits.build(SplitConfig(), catalogue=catalogue, out=folder / "split")))


@pytest.fixture(scope="session")
def small_shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return build_shop(tmp_path_factory.mktemp("shop"), shop_tables())


@pytest.fixture
def other_shop(tmp_path: Path):
    """Build a shop from changed tables: `other_shop(events=lambda table: ...)`."""

    def build(*, photo_px: int = 24, **changes: Callable[[pl.DataFrame], pl.DataFrame | None]) -> Shop:
        tables = dict(zip(("items", "events", "judgements"), shop_tables(), strict=True))
        changed = [changes.get(name, lambda same: same)(table) for name, table in tables.items()]
        return build_shop(tmp_path, changed, photo_px=photo_px)

    return build


class Scripted:
    """A retriever that ranks by scores written down beforehand."""

    def __init__(self, name: str, catalogue: Catalogue, scores: np.ndarray) -> None:
        self.name = name
        self.catalogue = catalogue
        self.scores = scores.astype(np.float32)

    def retrieve(self, requests: Sequence[Request], k: int) -> Hits:
        rows = [self.catalogue.query_row(request.query) for request in requests]
        return rank(self.scores[rows], k=k)


@pytest.fixture(scope="session")
def scripted(small_shop: Shop):
    """Make retrievers that know so much of the grades, see so much of what only photos show, and guess the rest."""
    catalogue = small_shop.catalogue
    grades = np.zeros((catalogue.num_queries, catalogue.num_items))
    hidden = np.zeros_like(grades, dtype=bool)
    judged = catalogue.judgements
    where = judged["query_row"].to_numpy(), judged["item_row"].to_numpy()
    grades[where] = judged["grade"].to_numpy()
    hidden[where] = judged["photo_only"].to_numpy()

    def make(name: str, *, knowledge: float = 1.0, sight: float = 1.0, noise: float = 0.5, seed: int = 0) -> Scripted:
        luck = np.random.default_rng(seed).normal(0.0, noise, size=grades.shape)
        return Scripted(name, catalogue, knowledge * np.where(hidden, sight, 1.0) * grades + luck)

    return make
