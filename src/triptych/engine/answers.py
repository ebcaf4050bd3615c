"""What the engine answers with."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Channel(StrEnum):
    """How candidates are found and ordered."""

    DENSE = "dense"
    """By meaning: the encoder's vectors of query and item, title and photo."""
    BM25 = "bm25"
    """By shared words of query and title."""
    POPULARITY = "popularity"
    """By past choices, whatever the query."""


class Why(NamedTuple):
    """Why an item stands where it does.

    The masked scores come from encoding the item again with one side hidden. The stored vector behind `score` was
    rounded to float16, so differences below about 0.002 mean nothing.
    """

    score: float
    """The item's score."""
    without_title: float | None
    """Score with the title hidden; None where the item has none or the channel reads none."""
    without_photo: float | None
    """Score with the photo hidden; None where the item has none or the channel reads none."""
    shared_words: list[str]
    """Words of the query that stand in the title, in the query's order."""


class Hit(NamedTuple):
    """One item of an answer."""

    item_row: int
    """Its row; rows of added items follow those of the catalogue."""
    item_id: str
    """Its outside id."""
    score: float
    """Unbounded; comparable within one answer only."""
    why: Why | None = None
    """The explanation, where it was asked for."""
    channel: Channel = Channel.DENSE
    """What found it. A recommendation by `popularity` is not personal: the user is unknown or has no history."""


class Facets(NamedTuple):
    """What can be filtered by."""

    categories: dict[str, int]
    """Category → number of items, most first."""
    cells: dict[str, int]
    """Delivery cell → number of items, most first."""
    price: tuple[float, float] | None
    """Lowest and highest price; None where no item has one."""
