"""Batches of what belongs together, drawn so that any batch can be drawn again.

Two sorts: items with queries they were clicked under, and pairs of items that one user chose soon after each other.
Both are pure functions of (seed, index): there is no state to save, so a run that is killed and resumed sees the
batches it would have seen.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from triptych.data.targets import UserItems
from triptych.foundation.errors import DataError

_LEAST_CHANCE = 1e-12
"""Stands for the chance of an item that is never drawn, so that it has a logarithm."""


class ItemQueryBatch(NamedTuple):
    """Distinct items, and for each the queries that should find it."""

    item_rows: NDArray[np.int64]
    """``[items]``, distinct, ascending."""
    query_rows: NDArray[np.int64]
    """``[queries]``, the queries of the first item, then of the second, …; a query may stand more than once."""
    positive: NDArray[np.int64]
    """``[queries]``, the place in `item_rows` of the item each query was drawn for."""
    known: NDArray[np.bool_]
    """``[queries, items]``, True where the pair was clicked in training: no negative, whether drawn for it or not."""
    log_q: NDArray[np.float32]
    """``[items]``, log probability of each to be in a batch, as far as it is drawn by its clicks alone."""
    query_log_q: NDArray[np.float32]
    """``[queries]``, log of how often each query is expected in a batch."""


class ItemPairBatch(NamedTuple):
    """Distinct items, and pairs of them that one user chose."""

    item_rows: NDArray[np.int64]
    """``[items]``, distinct, ascending."""
    anchor: NDArray[np.int64]
    """``[pairs]``, the place in `item_rows` of the item that asks."""
    positive: NDArray[np.int64]
    """``[pairs]``, the place of the item it should find; never the anchor's."""
    known: NDArray[np.bool_]
    """``[pairs, items]``, True where the pair's user chose the item in training, the anchor included: no negative."""
    log_q: NDArray[np.float32]
    """``[items]``, log probability of each to be in a batch."""


class KnownPairs:
    """Looks up which (row, item) pairs there are; a row is a query or a user."""

    def __init__(self, rows: NDArray[np.integer], item_row: NDArray[np.integer]) -> None:
        """Sort the pairs.

        Args:
            rows: ``[pairs]``, at least one.
            item_row: ``[pairs]``.
        """
        order = np.lexsort((item_row, rows))
        self._rows, starts = np.unique(rows[order], return_index=True)
        self._offsets = np.append(starts, len(order))
        self._items = item_row[order].astype(np.int64)

    def among(self, rows: NDArray[np.integer], *, item_rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell which pairs of some rows and some items there are.

        Walks through the items of each distinct row, not through all pairs of the batch.

        Args:
            rows: ``[n]``.
            item_rows: ``[items]``, distinct and ascending.

        Returns:
            ``[n, items]``.
        """
        distinct, of = np.unique(rows, return_inverse=True)
        known = np.zeros((len(distinct), len(item_rows)), dtype=bool)
        place = np.minimum(np.searchsorted(self._rows, distinct), len(self._rows) - 1)
        seen = self._rows[place] == distinct
        starts = self._offsets[place]
        counts = np.where(seen, self._offsets[place + 1] - starts, 0)
        row = np.repeat(np.arange(len(distinct)), counts)
        within = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        there = self._items[np.repeat(starts, counts) + within]
        column = np.minimum(np.searchsorted(item_rows, there), len(item_rows) - 1)
        hit = item_rows[column] == there
        known[row[hit], column[hit]] = True
        return known[of]


class FromCells(NamedTuple):
    """Draw a part of each batch from few delivery cells, so that items meet those they compete with when served."""

    item_cells: NDArray[np.bool_]
    """``[items of the catalogue, cells]``, where each item is delivered to."""
    rate: float = 0.5
    """Share of a batch's items."""
    cells: int = 2
    """Cells they are drawn from, anew for every batch."""


class ItemQuerySampler:
    """Draw items by a power of their clicks, and queries for each by clicks."""

    def __init__(
        self,
        *,
        query_row: NDArray[np.integer],
        item_row: NDArray[np.integer],
        clicks: NDArray[np.integer],
        batch_items: int = 256,
        queries_per_item: int = 2,
        item_power: float = 0.5,
        from_cells: FromCells | None = None,
        known: KnownPairs | None = None,
        seed: int,
    ) -> None:
        """Sort the pairs both ways.

        Args:
            query_row: ``[pairs]``, from distinct (query, item) pairs of the training period.
            item_row: ``[pairs]``; an item without a pair is never drawn.
            clicks: ``[pairs]``, positive events of the pair, ≥ 1.
            batch_items: distinct items in a batch; fewer where fewer have a pair.
            queries_per_item: queries drawn for each item, with replacement.
            item_power: an item's weight is its clicks to this power: 0 draws all alike, 1 by clicks.
            from_cells: draws a part of each batch from few cells; None: all from everywhere.
            known: what was clicked in training, where that is more than the pairs that are drawn; None: the pairs.
            seed: of all batches.

        Raises:
            DataError: there are no pairs.
        """
        if len(item_row) == 0:
            raise DataError("events: no positive event of the training part has a query, so there is nothing to learn.")
        self._seed = seed
        self._queries_per_item = queries_per_item
        by_item = np.lexsort((query_row, item_row))
        self._items, starts = np.unique(item_row[by_item], return_index=True)
        self._item_queries = query_row[by_item].astype(np.int64)
        self._clicks_before = np.concatenate(([0], np.cumsum(clicks[by_item], dtype=np.int64)))
        self._item_clicks = self._clicks_before[np.append(starts, len(by_item))]
        self._log_weight = item_power * np.log(np.diff(self._item_clicks))
        self.batch_items = min(batch_items, len(self._items))
        self._log_q = np.log(np.maximum(inclusion_chances(self._log_weight, size=self.batch_items), _LEAST_CHANCE))
        # A query is drawn for each of its items, by its share of that item's clicks.
        of_item = np.repeat(np.exp(self._log_q) / np.diff(self._item_clicks), np.diff(np.append(starts, len(by_item))))
        expected = queries_per_item * np.bincount(self._item_queries, weights=of_item * clicks[by_item])
        self._query_log_q = np.log(np.maximum(expected, _LEAST_CHANCE))
        self._from_cells = from_cells
        self._cells = None if from_cells is None else from_cells.item_cells[self._items]

        self._known = known or KnownPairs(query_row, item_row)

    def batch(self, index: int) -> ItemQueryBatch:
        """Draw batch `index` (from 0, no end); the same index gives the same batch."""
        rng = np.random.default_rng([self._seed, index])
        chosen = self._draw_items(rng)
        # A click of the chosen items, uniformly: its pair is a query drawn by clicks.
        first, after = (self._item_clicks[chosen + side][:, None] for side in (0, 1))
        click = rng.integers(first, after, size=(len(chosen), self._queries_per_item))
        pair = np.searchsorted(self._clicks_before, click.ravel(), side="right") - 1
        query_rows = self._item_queries[pair]
        item_rows = self._items[chosen].astype(np.int64)
        return ItemQueryBatch(
            item_rows=item_rows,
            query_rows=query_rows,
            positive=np.repeat(np.arange(len(chosen)), self._queries_per_item),
            known=self._known.among(query_rows, item_rows=item_rows),
            log_q=self._log_q[chosen].astype(np.float32),
            query_log_q=self._query_log_q[query_rows].astype(np.float32),
        )

    def log_q(self, item_rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the log probability of items ``[n]`` to be in a batch; one never drawn counts as the rarest."""
        place = np.minimum(np.searchsorted(self._items, item_rows), len(self._items) - 1)
        found = np.where(self._items[place] == item_rows, self._log_q[place], self._log_q.min())
        return found.astype(np.float32)

    def known(self, query_rows: NDArray[np.integer], *, item_rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Say which pairs were clicked in training; see `KnownPairs.among`."""
        return self._known.among(query_rows, item_rows=item_rows)

    def _draw_items(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw distinct places in ``self._items``, ascending, one after another with chance in proportion to weight.

        Adding Gumbel noise to log weights and taking the largest is that draw, without a loop (Efraimidis and
        Spirakis, 2006, in its Gumbel form).
        """
        keys = self._log_weight + rng.gumbel(size=len(self._log_weight))
        if self._from_cells is not None and self._cells is not None:
            there = self._cells[:, rng.permutation(self._cells.shape[1])[: self._from_cells.cells]].any(axis=1)
            local = np.flatnonzero(there)
            first = local[_largest(keys[local], round(self._from_cells.rate * self.batch_items))]
            # The rest from everywhere, by new luck: what was not drawn of the cells had little.
            keys = self._log_weight + rng.gumbel(size=len(self._log_weight))
            keys[first] = np.inf
        return np.sort(_largest(keys, self.batch_items))


def inclusion_chances(log_weight: NDArray[np.float64], *, size: int) -> NDArray[np.float64]:
    """Return each one's chance to be among `size` drawn one after another in proportion to weight.

    Drawing so is waiting for exponential clocks that run at the weights: at the time t at which `size` are expected to
    have rung, each has with chance 1 - exp(-weight t). Exact for t, not for the count; the difference is of the order
    of 1 / size (Rosén, 1972).

    Args:
        log_weight: ``[items]``.
        size: how many are drawn, at most all.
    """
    if size >= len(log_weight):
        return np.ones(len(log_weight))
    weight = np.exp(log_weight - log_weight.max())
    low, high = 0.0, 1.0
    while -np.expm1(-weight * high).sum() < size:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if -np.expm1(-weight * middle).sum() > size else (middle, high)
    found: NDArray[np.float64] = -np.expm1(-weight * high)
    return found


def _largest(keys: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Return the places of the largest keys, in any order; all where there are no more."""
    if count >= len(keys):
        return np.arange(len(keys))
    found: NDArray[np.int64] = np.argpartition(-keys, max(count - 1, 0))[:count]
    return found


class ItemPairSampler:
    """Draw pairs of items that stand near each other in a user's history."""

    def __init__(
        self, histories: UserItems, *, batch_pairs: int = 256, window: int = 10, item_power: float = 1.0, seed: int
    ) -> None:
        """Lay the histories end to end, each item where its user first chose it.

        Args:
            histories: what each user chose in training, in time order; users with one item are never drawn.
            batch_pairs: pairs in a batch.
            window: furthest apart that the two stand, in choices of that user.
            item_power: an item is asked for in proportion to its number of users to this power: 1 by choices, 0 all
                items alike.
            seed: of all batches.

        Raises:
            DataError: nobody chose two items.
        """
        user_row = np.repeat(np.arange(len(histories.offsets) - 1), np.diff(histories.offsets))
        pairs = np.stack([user_row, histories.item_rows.astype(np.int64)], axis=1)
        _, first = np.unique(pairs, axis=0, return_index=True)
        self._user, self._item = pairs[np.sort(first)].T
        _, starts, sizes = np.unique(self._user, return_index=True, return_counts=True)
        self._start, self._size = np.repeat(starts, sizes), np.repeat(sizes, sizes)
        usable = self._size > 1
        if not usable.any():
            raise DataError("events: no user chose two items in the training part, so there is nothing to learn.")
        count = np.bincount(self._item)[self._item]
        weight = usable * count ** (item_power - 1.0)
        self._weight_before = np.concatenate([[0.0], np.cumsum(weight)])
        self._known = KnownPairs(self._user, self._item)
        self._batch_pairs, self._window, self._seed = batch_pairs, window, seed
        self._log_q = self._log_probabilities(weight / weight.sum())

    def batch(self, index: int) -> ItemPairBatch:
        """Draw batch `index` (from 0, no end); the same index gives the same batch."""
        rng = np.random.default_rng([self._seed, index])
        luck = rng.uniform(0, self._weight_before[-1], size=self._batch_pairs)
        positive = np.searchsorted(self._weight_before, luck, side="right") - 1
        low, high = self._near(positive)
        anchor = rng.integers(low, high - 1)  # one place fewer: the positive's own is skipped
        anchor += anchor >= positive
        item_rows, place = np.unique(self._item[np.concatenate([anchor, positive])], return_inverse=True)
        return ItemPairBatch(
            item_rows=item_rows,
            anchor=place[: self._batch_pairs],
            positive=place[self._batch_pairs :],
            known=self._known.among(self._user[positive], item_rows=item_rows),
            log_q=self._log_q[item_rows],
        )

    def _near(self, place: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the first place and the one behind the last that are near some, themselves included."""
        start, end = self._start[place], self._start[place] + self._size[place]
        return np.maximum(start, place - self._window), np.minimum(end, place + self._window + 1)

    def _log_probabilities(self, chance: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return, for each item, the log probability to be in a batch.

        Args:
            chance: of each place to be drawn as the positive of a pair.
        """
        places = np.arange(len(chance))
        low, high = self._near(places)
        share = chance / np.maximum(high - low - 1, 1)  # of each place near it to be its anchor
        change = np.zeros(len(chance) + 1)
        np.add.at(change, low, share)
        np.subtract.at(change, high, share)
        as_anchor = np.cumsum(change)[:-1] - share
        in_pair = np.bincount(self._item, weights=chance + as_anchor)  # a pair never holds an item twice
        in_batch = 1 - (1 - np.minimum(in_pair, 1)) ** self._batch_pairs
        log_q: NDArray[np.float32] = np.log(np.maximum(in_batch, _LEAST_CHANCE)).astype(np.float32)
        return log_q
