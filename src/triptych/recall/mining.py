"""Mined negatives: items that the pretrained encoder ranks high for a query, and that nobody chose under it.

Drawn negatives are mostly far from a page's query; what a model must tell apart in the end lies near it. The encoder's
vectors say what lies near before anything is trained, and they do not change: what a batch is given depends on its
number alone, so a training that is interrupted goes on as it would have.

The very nearest items are left out (`mined_from`): many of them are what the query means, and nobody happened to
choose them.

Source: the middle ranks as negatives are those of "Embedding-based Retrieval in Facebook Search" (arXiv 2006.11632,
section 6.1), which mines with the model in training; ours mines once, with the encoder below it.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from triptych.data.sampling import KnownPairs
from triptych.foundation.errors import DataError
from triptych.recall.base import BoolArray
from triptych.recall.validation import nearest

BLOCK = 1_024
"""Queries that are ranked at a time."""


class MinedNegatives:
    """Candidates of each query, of which every batch draws some."""

    def __init__(
        self, query_rows: NDArray[np.int64], *, candidates: NDArray[np.int64], offsets: NDArray[np.int64]
    ) -> None:
        """Keep them; use `fit`.

        Args:
            query_rows: ``[queries]``, distinct and ascending.
            candidates: of the first query, then of the second, …: rows of items, nearest first.
            offsets: ``[queries + 1]``, where those of each begin.
        """
        self._query_rows, self._candidates, self._offsets = query_rows, candidates, offsets

    @classmethod
    def fit(
        cls,
        query_rows: NDArray[np.integer],
        *,
        query_content: NDArray[Any],
        item_content: NDArray[Any],
        chosen: KnownPairs,
        first: int,
        last: int,
        known: BoolArray | None = None,
    ) -> Self:
        """Rank items for each query by the encoder's vectors.

        Args:
            query_rows: of the pages that are learned from.
            query_content: ``[queries, dim]``, unit vectors of the catalogue's queries.
            item_content: ``[items, dim]``, those of its items.
            chosen: (query, item) pairs of the training part; none of them is a candidate.
            first: best rank that is kept, from 1.
            last: worst rank that is kept.
            known: ``[items]``, those that are ranked: of what comes after training, nobody knows yet who chooses it;
                None: all.

        Raises:
            DataError: there is no candidate for any query.
        """
        distinct = np.unique(query_rows).astype(np.int64)
        item_rows = np.arange(len(item_content)) if known is None else np.flatnonzero(known)
        items = torch.from_numpy(np.asarray(item_content[item_rows], dtype=np.float32))
        last = min(last, len(items))
        kept: list[NDArray[np.int64]] = []
        for start in range(0, len(distinct) if first <= last else 0, BLOCK):
            rows = distinct[start : start + BLOCK]
            asked = torch.from_numpy(np.asarray(query_content[rows], dtype=np.float32))
            near = item_rows[nearest(asked, items, k=last).numpy()[:, first - 1 :]]
            for row, ranked in zip(rows.tolist(), near, strict=True):
                ascending = np.sort(ranked)
                own = ascending[chosen.among(np.array([row]), item_rows=ascending)[0]]
                kept.append(ranked[~np.isin(ranked, own)])
        if not sum(len(rows) for rows in kept):
            raise DataError(
                f"mined_from: of {len(items):,} items none has a rank from {first} to {last} for any query without "
                "having been chosen under it. Lower mined_from, or set mined_negatives = 0."
            )
        offsets = np.concatenate([[0], np.cumsum([len(rows) for rows in kept])]).astype(np.int64)
        return cls(distinct, candidates=np.concatenate(kept), offsets=offsets)

    def draw(
        self, query_rows: NDArray[np.integer], *, number: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Draw candidates of each query, with replacement.

        Args:
            query_rows: ``[n]``, of pages; each was among those of `fit`.
            number: how many of each.
            rng: draws them.

        Returns:
            Rows of items ``[n, number]``, and where there is one ``[n, number]``: a query all of whose neighbours were
            chosen has none.
        """
        place = np.searchsorted(self._query_rows, query_rows)
        first, count = self._offsets[place], np.diff(self._offsets)[place]
        drawn = first[:, None] + (rng.random((len(query_rows), number)) * count[:, None]).astype(np.int64)
        there = np.broadcast_to(count[:, None] > 0, drawn.shape)
        return np.where(there, self._candidates[np.minimum(drawn, len(self._candidates) - 1)], 0), there.copy()
