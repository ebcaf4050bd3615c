"""A shop whose answer is known: titles name the kind of thing, only the photo shows its colour."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
from PIL import Image

from triptych.data import catalogue, splits
from triptych.data.catalogue import Catalogue, CatalogueConfig
from triptych.data.check import check_tables
from triptych.data.schema import EventsConfig, ItemsConfig
from triptych.data.splits import Split, SplitConfig
from triptych.data.tables import read_events, read_items
from triptych.data.text import TextTokenizer, TokenizerConfig

PX = 32
THINGS = ["shirt", "lamp", "bowl", "chair", "scarf"]
COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 170, 50),
    "blue": (40, 60, 220),
    "yellow": (235, 215, 40),
    "black": (20, 20, 20),
    "white": (245, 245, 245),
}


class PlantedShop(NamedTuple):
    catalogue: Catalogue
    split: Split
    tokenizer: TextTokenizer

    def pixels(self, thing: str, colour: str) -> np.ndarray:
        """The photo of one item, uint8 ``[1, px, px, 3]``."""
        return self.catalogue.photos.pixels([self.catalogue.item_row(f"{thing}-{colour}")])


def photo(thing: str, colour: str) -> bytes:
    """The colour, with grey where the kind of thing says: nowhere, in stripes down or across, in one half."""
    canvas = np.full((PX, PX, 3), COLOURS.get(colour, (128, 128, 128)), dtype=np.uint8)
    down, across = np.indices((PX, PX))
    grey = [down < 0, down % 8 < 4, across % 8 < 4, down < PX // 2, across < PX // 2][THINGS.index(thing)]
    canvas[grey] = 128
    buffer = io.BytesIO()
    Image.fromarray(canvas).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def planted_shop(tmp_path_factory: pytest.TempPathFactory) -> PlantedShop:
    """Thirty items, a query for each thing of each colour, clicked on three days."""
    return make_planted_shop(tmp_path_factory.mktemp("planted"))


def make_planted_shop(folder: Path, *, colour_is_shown: int = 0) -> PlantedShop:
    """Make the shop; the item's photo of that number shows its colour, those before it are grey."""
    pairs = [(thing, colour) for thing in THINGS for colour in COLOURS]
    items = pl.DataFrame(
        {
            "item_id": [f"{thing}-{colour}" for thing, colour in pairs],
            "title": [f"nice {thing}" for thing, _ in pairs],
            "photo": [[*[photo(thing, "grey")] * colour_is_shown, photo(thing, colour)] for thing, colour in pairs],
        }
    )
    start = datetime(2024, 5, 1, 12, tzinfo=UTC)
    events = pl.DataFrame(
        [
            {
                "time": start + timedelta(days=day, seconds=place),
                "user": f"u{place % 7}",
                "query": f"{colour} {thing}",
                "item_id": f"{thing}-{colour}",
                "kind": "click",
            }
            for day in range(3)
            for place, (thing, colour) in enumerate(pairs)
        ]
    )
    items.write_parquet(folder / "items.parquet")
    events.write_parquet(folder / "events.parquet")
    checked = check_tables(
        read_items(ItemsConfig(path="items.parquet", photo="photo"), base=folder),
        read_events(EventsConfig(path="events.parquet"), base=folder),
        None,
    )
    built = catalogue.build(
        CatalogueConfig(photo_px=PX, max_photos=colour_is_shown + 1),
        tables=checked,
        inputs={},
        out=folder / "catalogue",
    )
    opened = Catalogue.open(built)
    split = Split.open(splits.build(SplitConfig(), catalogue=opened, out=folder / "split"))
    tokenizer = TextTokenizer.fit([*opened.titles, *opened.queries], config=TokenizerConfig(min_count=1))
    return PlantedShop(opened, split, tokenizer)


@pytest.fixture(scope="session")
def planted_shop_maker() -> Callable[..., PlantedShop]:
    """Makes a planted shop in a folder of the caller's."""
    return make_planted_shop
