"""Clicked pages: what one person chose of one list of results, the sample that vector recall learns from.

Where there are no searches, what a user chose within half an hour is a page, or each of his choices is one.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple, Protocol

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
    CHOICES = "choices"
    """Each choice of a known user by itself, whatever page it was made on."""


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
    if of is PagesOf.CHOICES:
        item_row = catalogue.event_array("item_row")[at].astype(np.int32)
        return Pages(query_row, user_row, at, np.arange(len(at) + 1), item_row)
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


class Runs(NamedTuple):
    """Pages of a choice each that follow one another, as a sequence model reads them: once for all of them."""

    before: NDArray[np.int64]
    """``[runs, longest]``, item rows: at a page's step, what was chosen just before it; -1 at a user's first choice,
    and behind the end."""
    step: NDArray[np.int64]
    """``[pages]``, the place of each page's step among all of ``before``, row after row."""


class PageBatch(NamedTuple):
    """Some pages, with at most so many choices each."""

    pages: NDArray[np.int64]
    """``[pages]``, which ones."""
    page: NDArray[np.int64]
    """``[pairs]``, the place in `pages` of each choice."""
    item_rows: NDArray[np.int64]
    """``[pairs]``."""
    runs: Runs | None = None
    """How the pages follow one another; None: each has a history of its own."""


class Sampler(Protocol):
    """Draws batches of pages; a batch is a pure function of its index."""

    batch_pages: int
    """Pages of a batch; of runs, about."""

    @property
    def batches_per_epoch(self) -> float:
        """Batches in which all pages are seen once."""
        ...

    def batch(self, index: int) -> PageBatch:
        """Draw batch `index` (from 0, no end)."""
        ...


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
        self._shuffled = _Shuffled(len(pages.query_row), seed=seed)

    @property
    def batches_per_epoch(self) -> float:
        """Batches in which all pages are seen once."""
        return len(self._pages.query_row) / self.batch_pages

    def batch(self, index: int) -> PageBatch:
        """Draw batch `index` (from 0, no end)."""
        chosen = self._shuffled.take(index * self.batch_pages, count=self.batch_pages)
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


class RunSampler:
    """Draw runs of one user's consecutive choices, so that a sequence model learns from all of them in one pass.

    Every user's choices are cut into runs of at most so many steps, from the latest backwards; at each step the choice
    before it is known, across the cuts too, so that in an epoch each choice is learned from once.
    """

    def __init__(self, pages: Pages, *, batch_pages: int, longest: int, seed: int) -> None:
        """Cut.

        Args:
            pages: of a choice each (`PagesOf.CHOICES`).
            batch_pages: choices of a batch, about: as many runs as hold so many on average, at least one.
            longest: steps of a run.
            seed: of all batches.
        """
        order = np.lexsort((pages.place, pages.user_row))
        user_row = pages.user_row[order]
        start = np.flatnonzero(np.diff(user_row, prepend=-1))  # of each user
        length = np.diff(np.append(start, len(order)))
        runs = -(-length // longest)
        of = np.repeat(np.arange(len(start)), runs)
        number = np.arange(len(of)) - np.repeat(np.cumsum(runs) - runs, runs)
        self._stop = start[of] + length[of] - number * longest
        self._start = np.maximum(start[of], self._stop - longest)
        self._order, self._item_rows = order, pages.item_rows[order].astype(np.int64)
        self._before = np.concatenate([[-1], self._item_rows[:-1]])
        self._before[start] = -1
        mean = float((self._stop - self._start).mean())
        self._batch_runs = min(len(of), max(1, round(batch_pages / mean)))
        self.batch_pages = max(1, round(self._batch_runs * mean))
        self._shuffled = _Shuffled(len(of), seed=seed)

    @property
    def batches_per_epoch(self) -> float:
        """Batches in which all runs are seen once."""
        return len(self._start) / self._batch_runs

    def batch(self, index: int) -> PageBatch:
        """Draw batch `index` (from 0, no end)."""
        chosen = self._shuffled.take(index * self._batch_runs, count=self._batch_runs)
        start, sizes = self._start[chosen], (self._stop - self._start)[chosen]
        row = np.repeat(np.arange(len(chosen)), sizes)
        step = np.arange(len(row)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        at = start[row] + step
        before = np.full((len(chosen), int(sizes.max())), -1, dtype=np.int64)
        before[row, step] = self._before[at]
        runs = Runs(before, row * before.shape[1] + step)
        return PageBatch(self._order[at], np.arange(len(at)), self._item_rows[at], runs)


class _Shuffled:
    """Numbers below a count, over and over, in an order drawn anew for each time."""

    def __init__(self, count: int, *, seed: int) -> None:
        self._count, self._seed = count, seed
        self._orders: dict[int, NDArray[np.int64]] = {}

    def take(self, first: int, *, count: int) -> NDArray[np.int64]:
        """Return ``[count]`` of them, from place `first` of the endless row."""
        within = np.arange(first, first + count)
        epochs = within // self._count
        return np.concatenate(
            [self._order(epoch)[within[epochs == epoch] % self._count] for epoch in np.unique(epochs)]
        )

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """Return the order of an epoch; the latest two are kept, since batches come one after another."""
        if epoch not in self._orders:
            drawn = np.random.default_rng([self._seed, epoch, 1]).permutation(self._count)
            self._orders = {**{key: value for key, value in self._orders.items() if key == epoch - 1}, epoch: drawn}
        return self._orders[epoch]
