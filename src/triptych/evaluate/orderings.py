"""Orderings: claims that one row of a table is better than another, judged from the values of each request.

An ordering is written down before anything is measured. Its verdict comes from the difference of the seeds' means with
a paired interval over queries (`compare`), and can be computed again from `per_query.parquet` alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl

from triptych.evaluate.compare import Column, Comparison
from triptych.evaluate.tasks.base import EvaluationConfig
from triptych.foundation.errors import DataError
from triptych.metrics.ranking import FloatArray, IntArray
from triptych.metrics.significance import Verdict, seed_mean


@dataclass(frozen=True)
class Ordering:
    """A claim: `better` is above `worse` on a metric; or, with `than`, by more than one row is above another.

    With `within` it is that they are alike: then which of them is called better says nothing.
    """

    claim: str
    """In words, as the paper or we put it."""
    better: str
    """Name of a row."""
    worse: str
    """Name of a row."""
    column: Column | None = None
    """The metric; None: the table's headline."""
    slice: str = "all"
    """Where it is measured."""
    than: tuple[str, str] | None = None
    """Two more rows, better and worse: the difference of the first two is to be above that of these."""
    within: float | None = None
    """The two are claimed to be alike: their difference is to be nearer to 0 than this, on the metric's scale."""

    @property
    def rows(self) -> tuple[str, ...]:
        """Every row that it speaks of."""
        return (self.better, self.worse, *(self.than or ()))

    def __str__(self) -> str:
        first = f"{self.better} − {self.worse}"
        if self.within is not None:
            return f"|{first}| < {self.within:g}"
        return f"{self.better} > {self.worse}" if self.than is None else f"{first} > {self.than[0]} − {self.than[1]}"


class Judged(NamedTuple):
    """What the values say of an ordering."""

    ordering: Ordering
    column: Column
    verdict: str
    """`holds`, `fails` or `undecided`."""
    difference: float
    low: float
    """Lower end of the paired 95 % interval over queries; NaN where they cannot say."""
    high: float
    seeds: tuple[float, ...]
    """The difference of each seed."""
    num_queries: int
    evidence: str
    """As `records.evidence`: one seed is never evidence."""


def judge_ordering(
    ordering: Ordering,
    per_query: pl.DataFrame,
    *,
    headline: Column,
    config: EvaluationConfig,
    drawn_by: str | None = None,
    weighed_by: str | None = None,
) -> Judged | None:
    """Compare the rows of an ordering on the same requests.

    Args:
        ordering: The claim.
        per_query: As `TaskResult.per_query`.
        headline: The metric of an ordering that names none.
        config: Number of resamples and their seed; the part, for the record.
        drawn_by: As `TaskResult.drawn_by`.
        weighed_by: As `TaskResult.weighed_by`; not beside `drawn_by`.

    Returns:
        None where its slice is empty.

    Raises:
        DataError: A row or the metric is not in the table, or rows were trained with different numbers of seeds.
    """
    column = ordering.column or headline
    own = per_query.filter(pl.col("slice") == ordering.slice)
    if own.is_empty():
        return None
    if str(column) not in own.columns:
        raise DataError(f"claim '{ordering.claim}': there is no metric '{column}' in the table.")
    values = {row: _values(own, row, column, claim=ordering.claim) for row in ordering.rows}
    groups = _groups(own, ordering.better, drawn_by)
    if weighed_by is not None:
        assert drawn_by is None
        times = _first_seed(own, ordering.better)[weighed_by].to_numpy()
        groups = np.repeat(np.arange(len(times)), times)
        values = {row: np.repeat(by_seed, times, axis=1) for row, by_seed in values.items()}
    names = (ordering.better, ordering.worse)
    by_seed = _seed_differences(values[names[0]], values[names[1]], claim=ordering.claim)
    if ordering.than is not None:
        # Seed-means are linear: a difference of differences is the difference of two rows of differences.
        first, second = by_seed, _seed_differences(*(values[row] for row in ordering.than), claim=ordering.claim)
        by_seed = _seed_differences(first, second, claim=ordering.claim)
        names = (f"{ordering.better} − {ordering.worse}", f"{ordering.than[0]} − {ordering.than[1]}")
        values = dict(zip(names, (first, second), strict=True))
    comparison = Comparison(
        {name: {column: values[name]} for name in names},
        task="",
        slice_name=ordering.slice,
        split=config.part.value,
        config=config,
        groups=groups,
    )
    found = comparison.difference(names[0], baseline=names[1], column=column)
    if found is None:
        return None
    assert found.verdict is not None
    verdict = found.verdict if ordering.within is None else _alike(found.low, found.high, within=ordering.within)
    return Judged(
        ordering=ordering,
        column=column,
        verdict=verdict,
        difference=found.value,
        low=found.low,
        high=found.high,
        seeds=tuple(float(value) for value in np.nanmean(by_seed, axis=1)),
        num_queries=found.num_queries,
        evidence=found.evidence,
    )


def _alike(low: float, high: float, *, within: float) -> str:
    """Judge by the interval whether a difference is near 0: two one-sided tests, of 2.5 % each for one of 95 %."""
    if -within < low and high < within:
        return Verdict.HOLDS.value
    return Verdict.FAILS.value if low > within or high < -within else Verdict.UNDECIDED.value


def _values(own: pl.DataFrame, row: str, column: Column, *, claim: str) -> FloatArray:
    """Return a row's values, float64 `[seeds, requests]`, in the order of the requests; NaN where not defined."""
    frame = own.filter(pl.col("model") == row)
    if frame.is_empty():
        raise DataError(f"claim '{claim}': there is no row '{row}' in the table.")
    seeds = frame["seed"].unique().sort().to_list()
    by_seed = [frame.filter(pl.col("seed") == seed)[str(column)] for seed in seeds]
    return np.stack([one.cast(pl.Float64).fill_null(float("nan")).to_numpy() for one in by_seed])


def _seed_differences(better: FloatArray, worse: FloatArray, *, claim: str) -> FloatArray:
    """Return `[seeds, requests]`; what has no seeds of its own (BM25) stands against each seed of the other."""
    if len(better) != len(worse) and 1 not in (len(better), len(worse)):
        raise DataError(f"claim '{claim}': one row has {len(better)} seeds and the other {len(worse)}.")
    if len(better) == 1:
        better = seed_mean(better)
    if len(worse) == 1:
        worse = seed_mean(worse)
    return np.atleast_2d(better - worse)


def _groups(own: pl.DataFrame, row: str, drawn_by: str | None) -> IntArray | None:
    if drawn_by is None:
        return None
    numbers: IntArray = _first_seed(own, row)[drawn_by].to_numpy().astype(np.int64)
    return numbers


def _first_seed(own: pl.DataFrame, row: str) -> pl.DataFrame:
    """Return a row's requests, each once."""
    frame = own.filter(pl.col("model") == row)
    return frame.filter(pl.col("seed") == frame["seed"].min())
