"""Names for merchants that do not exist."""

from __future__ import annotations

import numpy as np

_FIRST = (
    "Harbour", "Willow", "Amber", "Corner", "Lantern", "Maple", "Silver", "Juniper", "Copper", "Meadow", "Orchard",
    "Paper", "Velvet", "Saffron", "Indigo", "Cedar", "Sunday", "Little", "Bright", "Quiet", "Marble", "Golden",
)  # fmt: skip
_SECOND = (
    "Lane", "Market", "Kitchen", "House", "Street", "Works", "Corner", "Room", "Supply", "Table", "Yard", "Studio",
    "Garden", "Bazaar", "Store", "Pantry",
)  # fmt: skip


def merchant_names(count: int, *, rng: np.random.Generator) -> list[str]:
    """Return `count` distinct names (at most 352)."""
    pairs = [f"{first} {second}" for first in _FIRST for second in _SECOND if first != second]
    return [pairs[place] for place in rng.permutation(len(pairs))[:count]]


def brand_names(count: int, *, rng: np.random.Generator, avoid_first: int = 0) -> list[str]:
    """Return `count` made-up brand names; two calls with disjoint ranges share none.

    Args:
        count: how many, at most 70 with `avoid_first`.
        rng: decides their order.
        avoid_first: leave out this many names at the start of the list.
    """
    names = [f"{head}{tail}" for tail in _TAILS for head in _HEADS][avoid_first : avoid_first + count]
    return [names[place] for place in rng.permutation(len(names))]


_HEADS = (
    "Nor",
    "Kumo",
    "Bella",
    "Fern",
    "Tavo",
    "Oska",
    "Lume",
    "Pala",
    "Miro",
    "Vesta",
    "Juno",
    "Sola",
    "Rio",
    "Hama",
)
_TAILS = ("la", "via", "gate", "nti", "ko")
