"""Clicked pages: what one person chose of one list of results, the sample that vector recall learns from."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from triptych.data.catalogue import Catalogue
from triptych.data.events import is_positive
from triptych.data.splits import Places
from triptych.foundation.errors import DataError

SESSION_US = 30 * 60 * 1_000_000
"""Where a log names no pages: choices of one user under one query belong together up to this far apart."""


class PagesOf(StrEnum):
    """Whose pages are learned from."""

    QUERIES = "queries"
    """Those of searches, whoever asked."""
    USERS = "users"
    """Those of known users, with a query or without."""


class Pages(NamedTuple):
    """Pages on which something was chosen, in time order."""

    query_row: NDArray[np.int32]
    """``[pages]``, -1 where there was none."""
    user_row: NDArray[np.int32]
    """``[pages]``, -1 where the user is unknown."""
    place: NDArray[np.int64]
    """``[pages]``, place of the first choice among the catalogue's events: a user's history is what lies before it."""
    offsets: NDArray[np.int64]
    """``[pages + 1]``; page i has ``item_rows[offsets[i]:offsets[i + 1]]``."""
    item_rows: NDArray[np.int32]
    """``[choices]``, distinct within a page, ascending."""

    def some(self, rate: float, *, rng: np.random.Generator) -> Pages:
        """Keep a share of the pages, drawn at random, at least one, still in time order."""
        count = max(1, round(rate * len(self.query_row)))
        kept = np.sort(rng.permutation(len(self.query_row))[:count])
        sizes = np.diff(self.offsets)[kept]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        inside = np.arange(offsets[-1]) - np.repeat(offsets[:-1], sizes)
        item_rows = self.item_rows[np.repeat(self.offsets[kept], sizes) + inside]
        return Pages(self.query_row[kept], self.user_row[kept], self.place[kept], offsets, item_rows)


def read_pages(catalogue: Catalogue, *, places: Places, of: PagesOf = PagesOf.QUERIES) -> Pages:
    """Gather the clicked pages of a part of the log.

    Choices belong to one page where the log says so; where it names no page, where one user made them under one query
    within half an hour of each other; where it names no user either, each is a page of its own.

    Args:
        catalogue: whose events.
        places: of the part, such as `Split.train`.
        of: which are gathered.
    """
    at = np.arange(len(catalogue.events))[places]
    query_row, user_row, page = (catalogue.event_array(name)[at] for name in ("query_row", "user_row", "page"))
    chosen = is_positive(catalogue.event_array("kind")[at]) & ((query_row if of is PagesOf.QUERIES else user_row) >= 0)
    at, query_row, user_row, page = at[chosen], query_row[chosen], user_row[chosen], page[chosen]
    time_us = catalogue.event_array("time")[at]
    order = np.lexsort((at, query_row, user_row, page))
    before, after = order[:-1], order[1:]
    same = (page[before] == page[after]) & (query_row[before] == query_row[after])
    same &= user_row[before] == user_row[after]
    near = (user_row[after] >= 0) & (time_us[after] - time_us[before] <= SESSION_US)
    same &= (page[after] >= 0) | near
    number = np.empty(len(at), dtype=np.int64)
    number[order] = np.concatenate([[0], np.cumsum(~same)]) if len(at) else []
    return _gathered(
        at, query_row=query_row, user_row=user_row, item_row=catalogue.event_array("item_row")[at], page=number
    )


def _gathered(
    at: NDArray[np.int64],
    *,
    query_row: NDArray[np.int32],
    user_row: NDArray[np.int32],
    item_row: NDArray[np.int32],
    page: NDArray[np.int64],
) -> Pages:
    """Put the choices of each page together, pages by their first choice."""
    numbers, first, of = np.unique(page, return_index=True, return_inverse=True)
    by_time = np.argsort(first, kind="stable")
    rank = np.empty(len(numbers), dtype=np.int64)
    rank[by_time] = np.arange(len(numbers))
    pairs = np.unique(np.stack([rank[of], item_row], axis=1), axis=0) if len(at) else np.zeros((0, 2), np.int64)
    offsets = np.searchsorted(pairs[:, 0], np.arange(len(numbers) + 1))
    first = first[by_time]
    return Pages(query_row[first], user_row[first], at[first], offsets, pairs[:, 1].astype(np.int32))


class PageBatch(NamedTuple):
    """Some pages, with at most so many choices each."""

    pages: NDArray[np.int64]
    """``[pages]``, which ones."""
    page: NDArray[np.int64]
    """``[pairs]``, the place in `pages` of each choice."""
    item_rows: NDArray[np.int64]
    """``[pairs]``."""


class PageSampler:
    """Go through the pages in an order drawn anew for each time; a batch is a pure function of its index."""

    def __init__(self, pages: Pages, *, batch_pages: int, most_positives: int, seed: int) -> None:
        """Begin.

        Args:
            pages: those of the training part.
            batch_pages: pages of a batch; fewer where there are fewer.
            most_positives: choices of a page that are learned from; of more, so many are drawn.
            seed: of all batches.

        Raises:
            DataError: there are none.
        """
        if not len(pages.query_row):
            raise DataError(
                "events: nothing was chosen under a query in the training part, so there is nothing to learn."
            )
        self._pages = pages
        self._most = most_positives
        self._seed = seed
        self.batch_pages = min(batch_pages, len(pages.query_row))
        self._orders: dict[int, NDArray[np.int64]] = {}

    @property
    def batches_per_epoch(self) -> float:
        """Batches in which all pages are seen once."""
        return len(self._pages.query_row) / self.batch_pages

    def batch(self, index: int) -> PageBatch:
        """Draw batch `index` (from 0, no end)."""
        count = len(self._pages.query_row)
        first = index * self.batch_pages
        within = np.arange(first, first + self.batch_pages)
        chosen = np.concatenate(
            [self._order(epoch)[within[within // count == epoch] % count] for epoch in np.unique(within // count)]
        )
        sizes = np.diff(self._pages.offsets)[chosen]
        page = np.repeat(np.arange(len(chosen)), sizes)
        inside = np.arange(len(page)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        at = np.repeat(self._pages.offsets[:-1][chosen], sizes) + inside
        if len(sizes) and sizes.max() > self._most:
            luck = np.random.default_rng([self._seed, index]).random(len(at))
            order = np.lexsort((luck, page))
            kept = np.sort(order[inside < self._most])
            page, at = page[kept], at[kept]
        return PageBatch(chosen, page, self._pages.item_rows[at].astype(np.int64))

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """Return the order of an epoch; the latest two are kept, since batches come one after another."""
        if epoch not in self._orders:
            drawn = np.random.default_rng([self._seed, epoch, 1]).permutation(len(self._pages.query_row))
            self._orders = {**{key: value for key, value in self._orders.items() if key == epoch - 1}, epoch: drawn}
        return self._orders[epoch]
