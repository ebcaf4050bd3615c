"""How well codes are used, and how well they tell items apart.

Codes are integers ``[n, levels]``; an id is a row of them. All figures are of the items given, so give them all: the
share of distinct ids in a batch says nothing of the catalogue's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from triptych.foundation.errors import DataError

IntArray = npt.NDArray[np.int64]


def number_ids(codes: npt.NDArray[Any]) -> IntArray:
    """Number the distinct ids, in ascending order of their codes.

    Args:
        codes: Integers ``[n, levels]``, 0 or more, below 2^31.

    Returns:
        ``[n]``, from 0; equal for equal ids.
    """
    numbers = np.zeros(len(codes), np.int64)
    for level in range(codes.shape[1]):
        column = codes[:, level].astype(np.int64)
        numbers = np.unique(numbers * (int(column.max(initial=0)) + 1) + column, return_inverse=True)[1].ravel()
    return numbers


def collision_rate(numbers: IntArray) -> float:
    """Return 1 - distinct ids / items: the share of items that could go without an id being lost.

    Args:
        numbers: ``[n]``, as `number_ids` returns; n above 0.
    """
    return 1 - len(np.unique(numbers)) / len(numbers)


def shared_rate(numbers: IntArray) -> float:
    """Return the share of items whose id another item has too; at least `collision_rate`.

    Args:
        numbers: ``[n]``, as `number_ids` returns; n above 0.
    """
    sizes = np.bincount(numbers)
    return float(sizes[sizes > 1].sum() / len(numbers))


def in_cell_collision_rate(numbers: IntArray, *, item_cells: npt.NDArray[np.bool_]) -> float:
    """Return 1 - distinct (cell, id) pairs / (cell, item) pairs: collisions that somebody in one cell can meet.

    Args:
        numbers: ``[n]``, as `number_ids` returns.
        item_cells: ``[n, cells]``, where each item is; NaN is returned where no item is anywhere.
    """
    items = np.count_nonzero(item_cells)
    if not items:
        return float("nan")
    ids = sum(len(np.unique(numbers[inside])) for inside in item_cells.T)
    return 1 - ids / items


def utilisation_rate(counts: npt.NDArray[Any]) -> float:
    """Return the share of a level's codes that any item has.

    Args:
        counts: ``[codes]``, items of each code.
    """
    return float(np.count_nonzero(counts) / len(counts))


def perplexity(counts: npt.NDArray[Any]) -> float:
    """Return exp of the entropy of a level's codes: how many codes it would take, evenly used, to say as much.

    Args:
        counts: ``[codes]``, items of each code, not all 0.
    """
    used = counts[counts > 0] / counts.sum()
    return float(np.exp(-(used * np.log(used)).sum()))


def gini(counts: npt.NDArray[Any]) -> float:
    """Return the Gini coefficient of a level's codes, unused ones included: 0 all alike, towards 1 one has all.

    Half the mean absolute difference between two codes' counts, over their mean.

    Args:
        counts: ``[codes]``, items of each code, not all 0.
    """
    ascending = np.sort(counts.astype(np.float64))
    place = np.arange(1, len(counts) + 1)
    return float(((2 * place - len(counts) - 1) * ascending).sum() / (len(counts) * ascending.sum()))


def normalised_mutual_information(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> float:
    """Return what two groupings of the same items say of each other, over the mean of their entropies.

    1 for the same grouping, near 0 for unrelated large groups. It is not corrected for chance: many small groups
    score high by themselves, so compare groupings of equal sizes, such as shuffled ones. Two groupings of one group
    each score 1.

    Args:
        first: Integers ``[n]``, n above 0.
        second: Likewise.
    """
    table = _Contingency.of(first, second)
    share = table.together / table.total
    of_first, of_second = table.of_first / table.total, table.of_second / table.total
    shared = float((share * np.log(share / (of_first[table.rows] * of_second[table.columns]))).sum())
    mean = -float((of_first * np.log(of_first)).sum() + (of_second * np.log(of_second)).sum()) / 2
    return max(0.0, shared / mean) if mean > 0 else 1.0


def adjusted_rand(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> float:
    """Return the adjusted Rand index of two groupings of the same items: 1 the same, 0 as chance, below 0 worse.

    Source: Hubert and Arabie, "Comparing partitions" (1985). Two groupings of one group each score 1.

    Args:
        first: Integers ``[n]``, n above 0.
        second: Likewise.
    """
    table = _Contingency.of(first, second)
    together, of_first, of_second = (_pairs(c) for c in (table.together, table.of_first, table.of_second))
    expected = of_first * of_second / max(_pairs(np.array([table.total])), 1.0)
    most = (of_first + of_second) / 2
    return (together - expected) / (most - expected) if most != expected else 1.0


class _Contingency:
    """How often each pair of groups meets, pairs that never do left out."""

    def __init__(
        self, rows: IntArray, columns: IntArray, together: IntArray, first: IntArray, second: IntArray
    ) -> None:
        self.rows, self.columns, self.together = rows, columns, together
        self.of_first, self.of_second = np.bincount(first), np.bincount(second)
        self.total = len(first)

    @classmethod
    def of(cls, first: npt.NDArray[Any], second: npt.NDArray[Any]) -> _Contingency:
        if len(first) != len(second) or not len(first):
            raise DataError(
                f"groupings: one is of {len(first)} items, the other of {len(second)}; give both for the same items."
            )
        rows, columns = (np.unique(one, return_inverse=True)[1].astype(np.int64) for one in (first, second))
        width = int(columns.max()) + 1
        pairs, together = np.unique(rows * width + columns, return_counts=True)
        return cls(pairs // width, pairs % width, together, rows, columns)


def _pairs(counts: npt.NDArray[Any]) -> float:
    """Return how many pairs of items are in the same group."""
    wide = counts.astype(np.float64)
    return float((wide * (wide - 1) / 2).sum())
