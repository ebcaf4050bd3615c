"""Filters: which items may be in an answer, as one boolean per item."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from triptych.engine.answers import Facets
from triptych.foundation.errors import EngineError, did_you_mean

LISTED = 10
"""Valid names that an error lists at most."""


@dataclass(frozen=True)
class Filters:
    """Conditions that every item of an answer meets. An item that lacks the value does not meet a condition on it."""

    category: str | None = None
    """Only items of this category."""
    cell: str | None = None
    """Only items delivered to this cell."""
    min_price: float | None = None
    """Lowest price, itself included."""
    max_price: float | None = None
    """Highest price, itself included."""


class _Words(NamedTuple):
    """A column of words as numbers; ``items`` and ``codes`` go together, an item as often as it has words."""

    names: list[str]
    items: NDArray[np.int64]
    codes: NDArray[np.int32]

    @classmethod
    def of(cls, column: pl.Series) -> Self:
        """Number a column of strings, or of lists of strings; null is no word."""
        frame = pl.DataFrame({"item": np.arange(len(column)), "word": column})
        if isinstance(column.dtype, pl.List):
            frame = frame.explode("word", empty_as_null=True).unique(maintain_order=True)
        frame = frame.drop_nulls()
        names = frame["word"].unique().sort()
        codes = frame["word"].cast(pl.Enum(names)).to_physical().cast(pl.Int32).to_numpy()
        return cls(names.to_list(), frame["item"].to_numpy().astype(np.int64), codes)

    def extended(self, words: Sequence[Sequence[str]], *, first_item: int) -> Self:
        """Append the words of new items."""
        numbers = {name: code for code, name in enumerate(self.names)}
        pairs = [
            (first_item + place, numbers.setdefault(word, len(numbers)))
            for place, own in enumerate(words)
            for word in dict.fromkeys(own)
        ]
        items, codes = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        return type(self)(
            list(numbers), np.concatenate([self.items, items]), np.concatenate([self.codes, codes.astype(np.int32)])
        )

    def without(self, gone: NDArray[np.bool_]) -> Self:
        """Drop the words of items ``[items]`` that have gone; a word that only they had is no word any more."""
        kept = ~gone[self.items]
        used, codes = np.unique(self.codes[kept], return_inverse=True)
        names = [self.names[code] for code in used.tolist()]
        return type(self)(names, self.items[kept], codes.astype(np.int32))

    def items_with(self, word: str, *, what: str, plural: str) -> NDArray[np.int64]:
        """Return the items that have a word.

        Raises:
            EngineError: no item has it; the nearest is named, or all where they are few.
        """
        if not self.names:
            raise EngineError(f"The catalogue has no {plural}, so it cannot be filtered by {what}.")
        if word not in self.names:
            few = f" There are: {', '.join(self.names)}." if len(self.names) <= LISTED else ""
            raise EngineError(f"There is no {what} '{word}'.{did_you_mean(word, self.names) or few}")
        own: NDArray[np.int64] = self.items[self.codes == self.names.index(word)]
        return own

    def counts(self) -> dict[str, int]:
        """Return name → number of items, most first, then by name."""
        counts = np.bincount(self.codes, minlength=len(self.names)).tolist()
        return dict(sorted(zip(self.names, counts, strict=True), key=lambda pair: (-pair[1], pair[0])))


class FilterColumns(NamedTuple):
    """The columns that items are filtered by; never changed, only replaced."""

    categories: _Words
    cells: _Words
    price: NDArray[np.float64]
    """``[rows]``, NaN where there is none."""
    live: NDArray[np.bool_]
    """``[rows]``, False for an item that has been removed or replaced; no filter lets it pass."""

    @classmethod
    def of(cls, items: pl.DataFrame) -> Self:
        """Read the columns of a catalogue's items."""
        price = items["price"].cast(pl.Float64).fill_null(math.nan).to_numpy()
        return cls(_Words.of(items["category"]), _Words.of(items["cells"]), price, np.ones(len(items), np.bool_))

    def extended(
        self, *, categories: Sequence[str | None], cells: Sequence[Sequence[str]], prices: Sequence[float | None]
    ) -> Self:
        """Append new items, one entry of each sequence per item."""
        own = [[] if category is None else [category] for category in categories]
        price = np.array([math.nan if price is None else price for price in prices])
        first_item = len(self.live)
        return type(self)(
            self.categories.extended(own, first_item=first_item),
            self.cells.extended(cells, first_item=first_item),
            np.concatenate([self.price, price]),
            np.concatenate([self.live, np.ones(len(prices), np.bool_)]),
        )

    def without(self, rows: Sequence[int]) -> Self:
        """Take items away; the others keep their rows."""
        live, price = self.live.copy(), self.price.copy()
        live[list(rows)], price[list(rows)] = False, math.nan
        return type(self)(self.categories.without(~live), self.cells.without(~live), price, live)

    def mask(self, filters: Filters | None) -> NDArray[np.bool_] | None:
        """Return which items are there and meet all conditions ``[rows]``; None where that is all of them.

        Raises:
            EngineError: an unknown category or cell, or prices that no item can meet.
        """
        if filters is None or filters == Filters():
            return None if self.live.all() else self.live
        _check_prices(filters)
        keep = self.live.copy()
        if filters.category is not None:
            keep &= self._among(self.categories.items_with(filters.category, what="category", plural="categories"))
        if filters.cell is not None:
            keep &= self._among(self.cells.items_with(filters.cell, what="delivery cell", plural="delivery cells"))
        if filters.min_price is not None:
            keep &= self.price >= filters.min_price  # False where the price is NaN
        if filters.max_price is not None:
            keep &= self.price <= filters.max_price
        return keep

    def facets(self) -> Facets:
        """Count what can be filtered by."""
        known = self.price[~np.isnan(self.price)]
        price = (float(known.min()), float(known.max())) if len(known) else None
        return Facets(self.categories.counts(), self.cells.counts(), price)

    def _among(self, items: NDArray[np.int64]) -> NDArray[np.bool_]:
        mask = np.zeros(len(self.live), np.bool_)
        mask[items] = True
        return mask


def _check_prices(filters: Filters) -> None:
    for name, price in (("min_price", filters.min_price), ("max_price", filters.max_price)):
        if price is not None and not math.isfinite(price):
            raise EngineError(f"{name} is {price}, it must be a number.")
    if filters.min_price is not None and filters.max_price is not None and filters.min_price > filters.max_price:
        raise EngineError(
            f"min_price {filters.min_price:g} is above max_price {filters.max_price:g}; exchange them or drop one."
        )
