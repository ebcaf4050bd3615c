"""Small logs of what was shown, for rankers: a table of events made a catalogue and a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from photo_files import encoded
from PIL import Image

from triptych.data import catalogue, splits
from triptych.data.catalogue import Catalogue, CatalogueConfig
from triptych.data.check import check_tables
from triptych.data.schema import EventsConfig, ItemsConfig, Role
from triptych.data.splits import Split, SplitConfig
from triptych.data.tables import read_events, read_items

START = datetime(2024, 5, 1, 8, tzinfo=UTC)
CATEGORIES = ("cups", "hats", "rugs", "toys")
ITEMS_EACH, USERS, DAYS = 8, 360, 6
PATTERNS, PHOTO_ITEMS, NEW_ITEMS, PHOTO_PX = 4, 24, 8, 32


class Log(NamedTuple):
    catalogue: Catalogue
    split: Split


def make_log(
    folder: Path,
    *,
    items: Mapping[str, Any],
    events: Sequence[Mapping[str, Any]],
    split: SplitConfig | None = None,
    features: Mapping[str, Role] | None = None,
    photo_px: int = 16,
) -> Log:
    """Build a catalogue of columns of items and rows of events; a time is given in minutes."""
    folder.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(items).write_parquet(folder / "items.parquet")
    rows = [event | {"time": START + timedelta(minutes=event["time"])} for event in events]
    pl.DataFrame(rows, infer_schema_length=None).write_parquet(folder / "events.parquet")
    checked = check_tables(
        read_items(ItemsConfig(path="items.parquet", features=dict(features or {})), base=folder),
        read_events(EventsConfig(path="events.parquet"), base=folder),
        None,
    )
    made = catalogue.build(CatalogueConfig(photo_px=photo_px), tables=checked, inputs={}, out=folder / "catalogue")
    opened = Catalogue.open(made)
    cut = splits.build(split or SplitConfig(), catalogue=opened, out=folder / "split")
    return Log(opened, Split.open(cut))


def planted_log(folder: Path, *, tells_category: bool = True) -> Log:
    """Each user comes once: he clicks three things of a category, then is shown one thing of each, and takes that one.

    So only the history tells what is taken, and the users of validation and test are new. The category of an item is a
    feature, or is nowhere but in its id.
    """
    rng, events = np.random.default_rng(0), []
    for user in range(USERS):
        start = 24 * 60 * (user * DAYS // USERS) + int(rng.integers(0, 600))
        liked = int(rng.integers(len(CATEGORIES)))
        for step, place in enumerate(rng.choice(ITEMS_EACH, size=3, replace=False).tolist()):
            events.append(event(start + step, user, f"{CATEGORIES[liked]}-{place}", "click"))
        for position, category in enumerate(rng.permutation(len(CATEGORIES)).tolist()):
            shown = event(start + 60, user, f"{CATEGORIES[category]}-{rng.integers(ITEMS_EACH)}", "impression")
            shown |= {"page": f"p{user}", "position": position, "query": "something nice"}
            events.append(shown)
            if category == liked:
                events.append(shown | {"time": start + 61, "kind": "click"})
    goods = [(category, place) for category in CATEGORIES for place in range(ITEMS_EACH)]
    items = {
        "item_id": [f"{category}-{place}" for category, place in goods],
        "title": [f"one of the {category}" for category, _ in goods],
        "category": [category if tells_category else None for category, _ in goods],
        "price": [10.0 + place for _, place in goods],
    }
    return make_log(folder, items=items, events=events)


def planted_photo_log(folder: Path, *, users: int = 240) -> Log:
    """Users click two striped things and are shown one thing of each pattern, of which they take the striped one.

    Nothing but the pixels of its photo tells an item's pattern, faint on a loud ground. Items of the last two days, of
    validation and test, are shown on no day before. One item lacks its photo, another its title.
    """
    rng, events = np.random.default_rng(0), []
    old, new = np.arange(PHOTO_ITEMS - NEW_ITEMS), np.arange(PHOTO_ITEMS - NEW_ITEMS, PHOTO_ITEMS)
    for user in range(users):
        day = user * DAYS // users
        start = 24 * 60 * day + int(rng.integers(0, 600))
        places = new if day >= DAYS - 2 else old
        for step, place in enumerate(rng.choice(places, size=2, replace=False).tolist()):
            events.append(event(start + step, user, photo_item(0, place), "click"))
        for position, pattern in enumerate(rng.permutation(PATTERNS).tolist()):
            shown = event(start + 60, user, photo_item(pattern, int(rng.choice(places))), "impression")
            shown |= {"page": f"p{user}", "position": position}
            events.append(shown)
            if pattern == 0:
                events.append(shown | {"time": start + 61, "kind": "click"})
    goods = [(pattern, place) for pattern in range(PATTERNS) for place in range(PHOTO_ITEMS)]
    photos = [textured(pattern, rng=rng) for pattern, _ in goods]
    items = {
        "item_id": [photo_item(*one) for one in goods],
        "title": [None if row == 1 else "one of many" for row in range(len(goods))],
        "first_seen": [START] * len(goods),  # else those that are taken, and so met sooner, would be older
        "photo": [None if row == 0 else encoded(Image.fromarray(one), "PNG") for row, one in enumerate(photos)],
    }
    return make_log(folder, items=items, events=events, photo_px=PHOTO_PX)


def photo_item(pattern: int, place: int) -> str:
    """The id says nothing."""
    return f"item-{(pattern * PHOTO_ITEMS + place) * 7919 % 9973}"


def textured(pattern: int, *, rng: np.random.Generator) -> np.ndarray:
    """A photo of a pattern: stripes of one of four directions over a ground of any colour."""
    y, x = np.mgrid[0:PHOTO_PX, 0:PHOTO_PX] // 2
    stripes = ((x, y, x + y, x - y)[pattern] % 4 < 2) * 2 - 1
    ground = rng.integers(60, 196, size=3)
    noise = rng.normal(0, 70, size=(PHOTO_PX, PHOTO_PX, 3))
    return np.clip(ground + 25 * stripes[:, :, None] + noise, 0, 255).astype(np.uint8)


def event(minute: float, user: int | str, item: str, kind: str, **others: Any) -> dict[str, Any]:
    """One row of the events table, the columns of pages left empty unless given."""
    empty = {"page": None, "position": None, "query": None, "cell": None}
    return empty | {"time": minute, "user": f"u{user}", "item_id": item, "kind": kind} | others
