"""Is a difference more than luck? Percentile bootstrap over queries, paired, and three verdicts.

Queries are drawn with replacement; every column of a table is averaged over the *same* draws, so the difference or the
ratio of two columns is paired. Several seeds of one model enter as `[seeds, queries]` and are averaged first: the
interval then speaks of the seed-mean, and about queries only (three seeds are too few to resample).

Source: Efron and Tibshirani 1993, ch. 13 (percentile interval); Sakai 2006 (bootstrap over topics in retrieval).
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import numpy as np

from triptych.foundation.errors import DataError
from triptych.metrics.ranking import FloatArray, IntArray

_DRAWS_AT_ONCE = 4_000_000
"""Draws held in memory at a time (about 64 bytes each at the peak)."""


class Interval(NamedTuple):
    """A value and where it may lie; `low` and `high` are NaN when the queries at hand cannot say."""

    value: float
    low: float
    high: float


class Effect(StrEnum):
    """How two models are compared."""

    DIFFERENCE = "difference"
    RATIO = "ratio"


class Relation(StrEnum):
    """What a claim says of the effect."""

    ABOVE = ">"
    AT_LEAST = "≥"
    AT_MOST = "≤"


class Verdict(StrEnum):
    """What the interval says of a claim."""

    HOLDS = "holds"
    FAILS = "fails"
    UNDECIDED = "undecided"


class Claim(NamedTuple):
    """An expectation about two models, written down before they are compared, e.g. `ratio ≥ 1.25`."""

    effect: Effect
    relation: Relation
    threshold: float

    def __str__(self) -> str:
        return f"{self.effect} {self.relation} {self.threshold:g}"


def judge(interval: Interval, *, claim: Claim) -> Verdict:
    """Compare a whole interval with a claim: `undecided` when it has values on both sides (or is unknown)."""
    low, high, threshold = interval.low, interval.high, claim.threshold
    if np.isnan(low) or np.isnan(high):
        return Verdict.UNDECIDED
    if claim.relation is Relation.AT_MOST:
        holds, fails = high <= threshold, low > threshold
    else:
        holds = low > threshold if claim.relation is Relation.ABOVE else low >= threshold
        fails = high < threshold
    if holds:
        return Verdict.HOLDS
    return Verdict.FAILS if fails else Verdict.UNDECIDED


def bootstrap_means(
    values: FloatArray, *, rng: np.random.Generator, repeats: int = 2000, groups: IntArray | None = None
) -> FloatArray:
    """Mean of every column over the same resampled queries.

    Args:
        values: float64 `[queries, columns]`, without NaN.
        rng: Source of the draws; the same state gives the same result, whatever the columns.
        repeats: Number of resamples.
        groups: Integers `[queries]`: rows with the same number are drawn together, where they are no independent
            evidence, such as one query asked in several cells (a cluster bootstrap). None: each row by itself.

    Returns:
        float64 `[repeats, columns]`.

    Raises:
        DataError: When there is no query, or a value is NaN.
    """
    num_queries = len(values)
    if not num_queries:
        raise DataError("bootstrap: there is no query to draw from; leave an empty slice out.")
    if np.isnan(values).any():
        raise DataError("bootstrap: a value is NaN; leave out the queries for which a metric is not defined.")
    sizes, sums = _of_groups(values, groups)
    means = np.empty((repeats, values.shape[1]))
    at_once = max(1, _DRAWS_AT_ONCE // len(sizes))
    for start in range(0, repeats, at_once):
        stop = min(start + at_once, repeats)
        counts = _draw_counts(rng, len(sizes), stop - start)
        means[start:stop] = counts @ sums / (counts @ sizes)[:, None]
    return means


def _of_groups(values: FloatArray, groups: IntArray | None) -> tuple[FloatArray, FloatArray]:
    """Return rows `[groups]` and sums of each column `[groups, columns]`; without groups each row is one."""
    if groups is None:
        return np.ones(len(values)), values
    _, numbers = np.unique(groups, return_inverse=True)
    sizes = np.bincount(numbers).astype(np.float64)
    sums = np.zeros((len(sizes), values.shape[1]))
    np.add.at(sums, numbers, values)
    return sizes, sums


def _draw_counts(rng: np.random.Generator, num_queries: int, repeats: int) -> FloatArray:
    """How often each query is drawn in each resample: float64 `[repeats, queries]`."""
    drawn = rng.integers(num_queries, size=(repeats, num_queries))
    drawn += np.arange(repeats)[:, None] * num_queries
    counts = np.bincount(drawn.ravel(), minlength=repeats * num_queries)
    return counts.reshape(repeats, num_queries).astype(np.float64)


def percentile_interval(value: float, *, resampled: FloatArray, level: float = 0.95) -> Interval:
    """The middle `level` of the resampled values around `value`.

    A resample without an answer (0 / 0) leaves the interval unknown rather than narrower.
    """
    if np.isnan(resampled).any():
        return Interval(value, float("nan"), float("nan"))
    tail = (1.0 - level) / 2.0
    if np.isinf(resampled).any():
        # Between two infinities there is nothing to interpolate.
        low, high = np.quantile(resampled, [tail, 1.0 - tail], method="inverted_cdf")
    else:
        low, high = np.quantile(resampled, [tail, 1.0 - tail])
    return Interval(value, float(low), float(high))


def ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """Element-wise quotient: infinite over 0, NaN for 0 / 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.divide(numerator, denominator), dtype=np.float64)


def bootstrap_interval(
    values: FloatArray, *, rng: np.random.Generator, repeats: int = 2000, level: float = 0.95
) -> Interval:
    """Mean over queries and its interval.

    Args:
        values: float64 `[queries]`, or `[seeds, queries]` for several seeds of one model.
        rng: Source of the draws.
        repeats: Number of resamples.
        level: Coverage aimed at, in (0, 1).
    """
    per_query = seed_mean(values)
    means = bootstrap_means(per_query[:, None], rng=rng, repeats=repeats)
    return percentile_interval(float(per_query.mean()), resampled=means[:, 0], level=level)


def paired_difference(
    values: FloatArray,
    *,
    baseline: FloatArray,
    rng: np.random.Generator,
    repeats: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Mean of `values` minus mean of `baseline` over the same queries, with a paired interval.

    Args:
        values: float64 `[queries]` or `[seeds, queries]`.
        baseline: The same queries in the same order; the number of seeds may differ.
        rng: Source of the draws.
        repeats: Number of resamples.
        level: Coverage aimed at.
    """
    both = _pair(values, baseline)
    means = bootstrap_means(both, rng=rng, repeats=repeats)
    value = float(both[:, 0].mean() - both[:, 1].mean())
    return percentile_interval(value, resampled=means[:, 0] - means[:, 1], level=level)


def ratio_interval(
    values: FloatArray,
    *,
    baseline: FloatArray,
    rng: np.random.Generator,
    repeats: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Mean of `values` / mean of `baseline` (a ratio of means, not a mean of ratios), with a paired interval.

    Args: as `paired_difference`.
    """
    both = _pair(values, baseline)
    means = bootstrap_means(both, rng=rng, repeats=repeats)
    value = float(ratio(both[:, :1].mean(axis=0), both[:, 1:].mean(axis=0))[0])
    return percentile_interval(value, resampled=ratio(means[:, 0], means[:, 1]), level=level)


def seed_mean(values: FloatArray) -> FloatArray:
    """Average several seeds `[seeds, queries]` into `[queries]`; one seed `[queries]` stays as it is."""
    return values.mean(axis=0) if values.ndim == 2 else values


def _pair(values: FloatArray, baseline: FloatArray) -> FloatArray:
    first, second = seed_mean(values), seed_mean(baseline)
    if first.shape != second.shape:
        raise DataError(
            f"paired bootstrap: one model has {len(first)} queries and the other {len(second)}; "
            "give both the same queries in the same order."
        )
    return np.stack([first, second], axis=1)
