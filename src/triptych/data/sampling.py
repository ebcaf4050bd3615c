"""Batches of items with queries they were clicked under, drawn so that any batch can be drawn again.

A batch is a pure function of (seed, index): there is no state to save, so a run that is killed and resumed sees the
batches it would have seen.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from triptych.foundation.errors import DataError


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

        by_query = np.lexsort((item_row, query_row))
        self._queries, query_starts = np.unique(query_row[by_query], return_index=True)
        self._query_offsets = np.append(query_starts, len(by_query))
        self._query_items = item_row[by_query].astype(np.int64)

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
            known=self.known(query_rows, item_rows=item_rows),
        )

    def known(self, query_rows: NDArray[np.int64], *, item_rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Look up which pairs were clicked in training.

        Walks through the clicked items of each query, not through all pairs of the batch.

        Args:
            query_rows: ``[queries]``.
            item_rows: ``[items]``, distinct and ascending.

        Returns:
            ``[queries, items]``.
        """
        known = np.zeros((len(query_rows), len(item_rows)), dtype=bool)
        place = np.minimum(np.searchsorted(self._queries, query_rows), len(self._queries) - 1)
        seen = self._queries[place] == query_rows
        starts = self._query_offsets[place]
        counts = np.where(seen, self._query_offsets[place + 1] - starts, 0)
        row = np.repeat(np.arange(len(query_rows)), counts)
        within = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        clicked = self._query_items[np.repeat(starts, counts) + within]
        column = np.minimum(np.searchsorted(item_rows, clicked), len(item_rows) - 1)
        hit = item_rows[column] == clicked
        known[row[hit], column[hit]] = True
        return known

    def _draw_items(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw distinct places in ``self._items``, ascending, one after another with chance in proportion to weight.

        Adding Gumbel noise to log weights and taking the largest is that draw, without a loop (Efraimidis and
        Spirakis, 2006, in its Gumbel form).
        """
        keys = self._log_weight + rng.gumbel(size=len(self._log_weight))
        return np.sort(np.argpartition(-keys, self.batch_items - 1)[: self.batch_items])
