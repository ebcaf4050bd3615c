"""Means over bags: vectors that each of many lists names, without a copy per name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional


class Bags(NamedTuple):
    """Lists of vectors by their places, end to end."""

    places: Tensor
    """int64 ``[total]``, among some vectors."""
    starts: Tensor
    """int64 ``[bags]``, where each list begins; it ends where the next one does."""


class TableBags(NamedTuple):
    """Lists of rows of a table, each row that occurs looked up once."""

    rows: Tensor
    """int64 ``[distinct]``, of the table."""
    bags: Bags
    """Places among those rows."""

    @classmethod
    def of(cls, padded: NDArray[np.integer]) -> TableBags:
        """Gather what is not negative in each list ``[bags, longest]``."""
        there = padded >= 0
        rows, places = np.unique(padded[there], return_inverse=True)
        return cls(torch.from_numpy(rows.astype(np.int64)), bags_of(places, sizes=there.sum(axis=1)))

    def padded(self) -> PaddedRows:
        """Return the lists side by side, -1 behind the end of each: what `of` was made from, but for columns of -1."""
        places, starts = self.bags.places.numpy(), self.bags.starts.numpy()
        sizes = np.diff(starts, append=len(places))
        found = np.full((len(starts), max(1, int(sizes.max(initial=0)))), -1, dtype=np.int64)
        found[np.arange(found.shape[1]) < sizes[:, None]] = self.rows.numpy()[places]
        return PaddedRows(torch.from_numpy(found))


class PaddedRows(NamedTuple):
    """Lists of rows of a table, side by side: `TableBags` for a graph, which knows no lists of different lengths."""

    rows: Tensor
    """int64 ``[bags, longest]``, -1 behind the end."""

    def mean(self, table: Callable[[Tensor], Tensor]) -> Tensor:
        """Average what a table has of each list, ``[bags, dim]``; zeros for an empty one."""
        keep = (self.rows >= 0)[:, :, None]
        vectors = table(self.rows.clamp(min=0)).masked_fill(~keep, 0.0)
        return vectors.sum(dim=1) / keep.sum(dim=1).clamp(min=1)


def bags_of(places: NDArray[np.integer], *, sizes: NDArray[Any] | Sequence[int]) -> Bags:
    """Make bags of their contents, end to end, and their sizes ``[bags]``."""
    ends = np.cumsum(np.asarray(sizes, dtype=np.int64))
    return Bags(torch.from_numpy(places.astype(np.int64)), torch.from_numpy(ends - np.asarray(sizes)))


class Means(NamedTuple):
    """Averages of bags."""

    vectors: Tensor
    """float32 ``[bags, dim]``; zeros for a bag in which nothing counts."""
    filled: Tensor
    """bool ``[bags]``, where something does."""


def bag_means(vectors: Tensor, bags: Bags, *, there: Tensor | None = None) -> Means:
    """Average the vectors of each bag.

    Args:
        vectors: float32 ``[distinct, dim]``.
        bags: places among them.
        there: bool ``[distinct]``, which of them count; None: all.
    """
    if not len(vectors):  # torch looks at the first vector even where no bag names it
        nothing = vectors.new_zeros(len(bags.starts), vectors.shape[1])
        return Means(nothing, torch.zeros_like(bags.starts, dtype=torch.bool))
    if there is None:
        sizes = bags.starts.diff(append=bags.starts.new_full((1,), len(bags.places)))
        return Means(functional.embedding_bag(bags.places, vectors, bags.starts, mode="mean"), sizes > 0)
    counted = there[:, None].to(vectors.dtype)
    sums, counts = (
        functional.embedding_bag(bags.places, one, bags.starts, mode="sum") for one in (vectors * counted, counted)
    )
    return Means(sums / counts.clamp(min=1), counts[:, 0] > 0)


def looked_up(vectors: Tensor, places: Tensor) -> Tensor:
    """Return the vectors at some places, ``[..., dim]``; whatever stands where a place is -1, none is there."""
    if not len(vectors):
        return vectors.new_zeros(*places.shape, vectors.shape[1])
    return functional.embedding(places.clamp(min=0), vectors)
