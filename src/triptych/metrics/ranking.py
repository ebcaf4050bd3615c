"""Ranking metrics, one value per query, without a Python loop over queries.

`match` finds once which retrieved items are targets; every metric then reads its answer, so that ten metrics at four
cut-offs cost one look-up. A value depends on its own query alone: the number is the same for any batch size.

    matches = match(hits.item_rows, targets=TargetSets(offsets, item_rows))
    macro(recall_at_k(matches, k=20))

A query for which a metric is not defined (it has no target) gets NaN; `macro` averages over the others.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from triptych.foundation.errors import DataError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


class TargetSets(NamedTuple):
    """What each query should find, as one ragged array.

    Query `i` has the pairs `offsets[i]:offsets[i + 1]`; inside a query an item stands once, in any order.
    """

    offsets: npt.NDArray[Any]
    """Integers `[num_queries + 1]`, from 0, not decreasing."""
    item_rows: npt.NDArray[Any]
    """Integers `[num_pairs]`, 0 or more."""
    grades: npt.NDArray[Any] | None = None
    """Floats `[num_pairs]`, 0 = irrelevant; None where a target is a target (grade 1)."""

    @property
    def num_queries(self) -> int:
        """Number of target sets, empty ones included."""
        return len(self.offsets) - 1

    @property
    def query_of_pair(self) -> IntArray:
        """Which query each pair belongs to: int64 `[num_pairs]`."""
        return np.repeat(np.arange(self.num_queries), np.diff(self.offsets))


class Matches(NamedTuple):
    """Where the targets stand in the retrieved lists."""

    pairs: IntArray
    """`[num_queries, k]`: the index of the target pair found at that rank, -1 where the item is no target."""
    targets: TargetSets


class Counts(NamedTuple):
    """Recall's numerator and denominator, per query."""

    hits: IntArray
    """`[num_queries]`: targets among the first k."""
    targets: IntArray
    """`[num_queries]`: targets."""


def match(item_rows: npt.NDArray[Any], *, targets: TargetSets) -> Matches:
    """Find the targets in the retrieved lists.

    A list that repeats an item is credited once, at the first rank; the repetition still takes up its rank.

    Args:
        item_rows: Integers `[num_queries, k]`, best first, padded with -1.
        targets: The target set of each of these queries.

    Raises:
        DataError: When the two disagree on the number of queries, or a query has the same target twice.
    """
    _check(item_rows, targets)
    query_of_pair = targets.query_of_pair
    num_items = 1 + max(int(item_rows.max(initial=-1)), int(targets.item_rows.max(initial=-1)))
    target_keys = query_of_pair * num_items + targets.item_rows
    order = np.argsort(target_keys, kind="stable")
    sorted_keys = target_keys[order]
    _check_distinct(sorted_keys, num_items)

    # Padding must be masked: -1 under query q has the key of the last item under query q - 1.
    hit_keys = np.arange(len(item_rows))[:, None] * num_items + item_rows
    place = np.searchsorted(sorted_keys, hit_keys)
    inside = place < len(sorted_keys)
    place[~inside] = 0
    found = inside & (item_rows >= 0)
    if len(sorted_keys):
        found &= sorted_keys[place] == hit_keys
    pairs = np.full(item_rows.shape, -1, dtype=np.int64)
    pairs[found] = order[place[found]]
    return Matches(_first_only(pairs), targets)


def _check(item_rows: npt.NDArray[Any], targets: TargetSets) -> None:
    if item_rows.ndim != 2 or len(item_rows) != targets.num_queries:
        raise DataError(
            f"ranking metrics: item_rows has shape {item_rows.shape} but there are target sets for "
            f"{targets.num_queries} queries; give one row of retrieved items for each query."
        )
    if len(targets.item_rows) != targets.offsets[-1]:
        raise DataError(
            f"ranking metrics: the offsets of the target sets end at {targets.offsets[-1]} but there are "
            f"{len(targets.item_rows)} target items; the last offset must be their number."
        )


def _check_distinct(sorted_keys: IntArray, num_items: int) -> None:
    repeated = np.flatnonzero(sorted_keys[1:] == sorted_keys[:-1])
    if len(repeated):
        query, item_row = divmod(int(sorted_keys[repeated[0]]), num_items)
        raise DataError(
            f"ranking metrics: query {query} has item row {item_row} as a target twice; "
            "a target set holds each item once."
        )


def _first_only(pairs: IntArray) -> IntArray:
    """Keep the first place of each pair (a pair belongs to one query, so row-major order is rank order)."""
    flat = pairs.ravel()
    _, first = np.unique(flat, return_index=True)
    kept = np.full_like(flat, -1)
    kept[first] = flat[first]
    return kept.reshape(pairs.shape)


def hit_counts(matches: Matches, *, k: int, pair_mask: BoolArray | None = None) -> Counts:
    """Count the targets among the first `k`, and all targets; only those in `pair_mask` `[num_pairs]` if given."""
    num_pairs = len(matches.targets.item_rows)
    mask = np.ones(num_pairs, dtype=np.bool_) if pair_mask is None else pair_mask
    # One more, always False, so that -1 (no target) reads it.
    counted = np.append(mask, False)[matches.pairs[:, :k]]
    per_query = np.bincount(matches.targets.query_of_pair[mask], minlength=matches.targets.num_queries)
    return Counts(counted.sum(axis=1), per_query.astype(np.int64))


def recall_at_k(matches: Matches, *, k: int, pair_mask: BoolArray | None = None) -> FloatArray:
    """|first k ∩ targets| / |targets|, per query.

    The denominator is the whole target set, also when it is larger than `k` (so the best value may be below 1).

    Args:
        matches: From `match`.
        k: Cut-off.
        pair_mask: Bool `[num_pairs]`. Recall of this part of the targets only: numerator and denominator count the
            pairs in the mask, while the ranking stays that over the whole catalogue.

    Returns:
        float64 `[num_queries]`; NaN for a query without a target (in the mask).
    """
    counts = hit_counts(matches, k=k, pair_mask=pair_mask)
    return _divide(counts.hits, counts.targets)


def micro_recall_at_k(matches: Matches, *, k: int, pair_mask: BoolArray | None = None) -> float:
    """Share of all targets, over all queries together, that stand among their query's first `k`; NaN if none."""
    counts = hit_counts(matches, k=k, pair_mask=pair_mask)
    total = int(counts.targets.sum())
    return float(counts.hits.sum() / total) if total else float("nan")


def precision_at_k(matches: Matches, *, k: int) -> FloatArray:
    """|first k ∩ targets| / k, per query; a list shorter than `k` is still divided by `k`."""
    counts = hit_counts(matches, k=k)
    return np.where(counts.targets > 0, counts.hits / k, np.nan)


def hit_rate_at_k(matches: Matches, *, k: int) -> FloatArray:
    """1 where at least one target stands among the first `k`, else 0."""
    counts = hit_counts(matches, k=k)
    return np.where(counts.targets > 0, (counts.hits > 0).astype(np.float64), np.nan)


def mrr_at_k(matches: Matches, *, k: int) -> FloatArray:
    """1 / rank of the first target (ranks from 1), 0 where none stands among the first `k`."""
    is_hit = matches.pairs[:, :k] >= 0
    rank = 1 + is_hit.argmax(axis=1) if is_hit.shape[1] else np.ones(len(is_hit))
    reciprocal = np.where(is_hit.any(axis=1), 1.0 / rank, 0.0)
    return np.where(np.diff(matches.targets.offsets) > 0, reciprocal, np.nan)


def ndcg_at_k(matches: Matches, *, k: int) -> FloatArray:
    """Binary NDCG: Σ 1 / log2(rank + 1) over the targets found, divided by the same with all targets first.

    The grades of the targets, if any, are not read. Source: Järvelin and Kekäläinen 2002, log2 discount.
    """
    gains = np.ones(len(matches.targets.item_rows))
    return _ndcg(matches, gains=gains, k=k)


class Gain(StrEnum):
    """What a grade is worth."""

    EXPONENTIAL = "exponential"
    """2^grade − 1 (Burges et al. 2005)."""
    LINEAR = "linear"
    """The grade itself (Järvelin and Kekäläinen 2002)."""


def graded_ndcg_at_k(matches: Matches, *, k: int, gain: Gain = Gain.EXPONENTIAL) -> FloatArray:
    """Graded NDCG: log2 discount, the ideal ordering taken from all judgements of the query.

    An item without a judgement has gain 0.

    Args:
        matches: From `match`, with grades.
        k: Cut-off.
        gain: What a grade is worth.

    Returns:
        float64 `[num_queries]`; NaN for a query without a judgement above 0.

    Raises:
        DataError: When the targets have no grades.
    """
    grades = matches.targets.grades
    if grades is None:
        raise DataError(
            "graded NDCG: the targets have no grades; give TargetSets.grades, or use ndcg_at_k for targets without."
        )
    worth = grades.astype(np.float64)
    return _ndcg(matches, gains=np.exp2(worth) - 1.0 if gain is Gain.EXPONENTIAL else worth, k=k)


def _ndcg(matches: Matches, *, gains: FloatArray, k: int) -> FloatArray:
    found = np.append(gains, 0.0)[matches.pairs[:, :k]]
    discounted = found / np.log2(np.arange(found.shape[1]) + 2.0)
    # Summed in the order of the ranks, as the ideal is: a perfect list gets 1, to the last bit.
    query_of_place = np.repeat(np.arange(len(found)), found.shape[1])
    reached = np.bincount(query_of_place, weights=discounted.ravel(), minlength=len(found))
    return _divide(reached, _ideal(matches.targets, gains=gains, k=k))


def _ideal(targets: TargetSets, *, gains: FloatArray, k: int) -> FloatArray:
    """The largest discounted gain any list of `k` items can have, per query `[num_queries]`."""
    query_of_pair = targets.query_of_pair
    # Sorting by query first keeps each query's pairs at its own offsets, largest gain first.
    ordered = gains[np.lexsort((-gains, query_of_pair))]
    rank = np.arange(len(gains)) - np.repeat(targets.offsets[:-1], np.diff(targets.offsets))
    counted = np.where(rank < k, ordered / np.log2(rank + 2.0), 0.0)
    return np.bincount(query_of_pair, weights=counted, minlength=targets.num_queries).astype(np.float64)


def coverage_at_k(item_rows: npt.NDArray[Any], *, k: int, num_items: int) -> float:
    """Share of the catalogue's items that stand among the first `k` of at least one query."""
    shown = np.zeros(num_items, dtype=np.bool_)
    first = item_rows[:, :k]
    shown[first[first >= 0]] = True
    return float(shown.mean()) if num_items else float("nan")


def macro(values: FloatArray) -> float:
    """Mean over the queries for which the metric is defined; NaN if there is none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def _divide(numerator: npt.NDArray[Any], denominator: npt.NDArray[Any]) -> FloatArray:
    """Element-wise quotient, NaN where the denominator is 0."""
    quotient = np.full(len(numerator), np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient
