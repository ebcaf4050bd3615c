"""Models side by side on the same queries: means, intervals, paired differences and ratios, as records.

All columns of a slice are resampled with the same draws in one matrix product, so that hundreds of intervals cost
little more than one. Every group of columns starts from the config's seed afresh: an interval can be computed again
from `per_query.parquet` alone, with `bootstrap_interval(values, rng=np.random.default_rng(seed), repeats=...)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from triptych.evaluate.records import PairedRecord, Record, evidence
from triptych.evaluate.tasks.base import EvaluationConfig
from triptych.metrics.ranking import FloatArray, IntArray
from triptych.metrics.significance import (
    Claim,
    Effect,
    Interval,
    Relation,
    bootstrap_means,
    judge,
    percentile_interval,
    ratio,
    seed_mean,
)

BETTER = Claim(Effect.DIFFERENCE, Relation.ABOVE, 0.0)
"""The claim behind every difference: the first model is better."""


class Column(NamedTuple):
    """A metric and its cut-off."""

    metric: str
    k: int | None = None

    def __str__(self) -> str:
        return self.metric if self.k is None else f"{self.metric}@{self.k}"


class _Cell(NamedTuple):
    """One column of one model."""

    mean: float
    seed_means: FloatArray
    resampled: FloatArray
    num_queries: int


Values = Mapping[str, Mapping[Column, FloatArray]]
"""Model → column → float64 `[seeds, queries]`; NaN where a query is not in the slice or the metric is not defined."""


class Comparison:
    """One slice of one task, for all models."""

    def __init__(
        self,
        values: Values,
        *,
        task: str,
        slice_name: str,
        split: str,
        config: EvaluationConfig,
        groups: IntArray | None = None,
    ) -> None:
        """Resample every column once.

        Args:
            values: The columns. Which queries of a column are NaN must not depend on the model or the seed.
            task: Name for the records.
            slice_name: Name for the records.
            split: Name for the records.
            config: Number of resamples and their seed.
            groups: `[queries]`, which are drawn together; see `significance.bootstrap_means`.
        """
        self.values = values
        self._groups = groups
        self.slice_name = slice_name
        self._names = {"task": task, "split": split, "slice": slice_name}
        self._config = config
        self._seeds = {model: len(next(iter(columns.values()))) for model, columns in values.items()}
        self._cells: dict[tuple[str, Column], _Cell] = {}
        self._resample()

    def _resample(self) -> None:
        groups: dict[bytes, list[tuple[str, Column]]] = {}
        for model, columns in self.values.items():
            for column, by_seed in columns.items():
                groups.setdefault((~np.isnan(by_seed[0])).tobytes(), []).append((model, column))
        for defined_bytes, keys in groups.items():
            defined = np.frombuffer(defined_bytes, dtype=np.bool_)
            if not defined.any():
                continue
            chosen = [self.values[model][column][:, defined] for model, column in keys]
            table = np.stack([seed_mean(one) for one in chosen], axis=1)
            rng = np.random.default_rng(self._config.seed)
            together = None if self._groups is None else self._groups[defined]
            resampled = bootstrap_means(table, rng=rng, repeats=self._config.bootstrap_repeats, groups=together)
            for position, key in enumerate(keys):
                self._cells[key] = _Cell(
                    float(table[:, position].mean()),
                    chosen[position].mean(axis=1),
                    resampled[:, position],
                    len(table),
                )

    def record(self, model: str, column: Column) -> Record | None:
        """Mean over queries with its interval; None where no query defines the metric."""
        cell = self._cells.get((model, column))
        if cell is None:
            return None
        interval = percentile_interval(cell.mean, resampled=cell.resampled)
        return self._record(model, column, interval, seed_values=cell.seed_means, num_queries=cell.num_queries)

    def quotient(self, model: str, column: Column, *, numerator: Column, denominator: Column) -> Record | None:
        """Sum of one column / sum of another (a micro average) under the name `column`; None where not defined."""
        above, below = self._cells.get((model, numerator)), self._cells.get((model, denominator))
        if above is None or below is None:
            return None
        interval = percentile_interval(above.mean / below.mean, resampled=ratio(above.resampled, below.resampled))
        seed_values = ratio(above.seed_means, below.seed_means)
        return self._record(model, column, interval, seed_values=seed_values, num_queries=above.num_queries)

    def constant(self, model: str, column: Column, *, seed_values: FloatArray, num_queries: int) -> Record:
        """Record a value that is no mean over queries and has no interval."""
        interval = Interval(float(seed_values.mean()), float("nan"), float("nan"))
        return self._record(model, column, interval, seed_values=seed_values, num_queries=num_queries)

    def _record(
        self, model: str, column: Column, interval: Interval, *, seed_values: FloatArray, num_queries: int
    ) -> Record:
        return Record(
            **self._names,
            model=model,
            metric=column.metric,
            k=column.k,
            value=interval.value,
            low=interval.low,
            high=interval.high,
            num_queries=num_queries,
            seeds=self._seeds[model],
            seed_values=tuple(float(value) for value in seed_values),
            evidence=evidence({model: self._seeds[model]}),
        )

    def difference(
        self, model: str, *, baseline: str, column: Column, claim: Claim | None = BETTER
    ) -> PairedRecord | None:
        """`model` − `baseline`, paired over queries; None where either is missing."""
        first, second = self._cells.get((model, column)), self._cells.get((baseline, column))
        if first is None or second is None:
            return None
        interval = percentile_interval(first.mean - second.mean, resampled=first.resampled - second.resampled)
        return self._paired(model, baseline, column, interval, effect=Effect.DIFFERENCE, claim=claim)

    def ratio(self, model: str, *, baseline: str, column: Column, claim: Claim | None = None) -> PairedRecord | None:
        """`model` / `baseline` (ratio of means), paired over queries; None where either is missing."""
        first, second = self._cells.get((model, column)), self._cells.get((baseline, column))
        if first is None or second is None:
            return None
        value = float(ratio(np.array([first.mean]), np.array([second.mean]))[0])
        interval = percentile_interval(value, resampled=ratio(first.resampled, second.resampled))
        return self._paired(model, baseline, column, interval, effect=Effect.RATIO, claim=claim)

    def _paired(
        self,
        model: str,
        baseline: str,
        column: Column,
        interval: Interval,
        *,
        effect: Effect,
        claim: Claim | None,
    ) -> PairedRecord:
        seeds = {name: self._seeds[name] for name in (model, baseline)}
        return PairedRecord(
            **self._names,
            model=model,
            baseline=baseline,
            metric=column.metric,
            k=column.k,
            kind=effect.value,
            value=interval.value,
            low=interval.low,
            high=interval.high,
            claim=None if claim is None else str(claim),
            verdict=None if claim is None else judge(interval, claim=claim).value,
            num_queries=self._cells[(model, column)].num_queries,
            seeds=min(seeds.values()),
            evidence=evidence(seeds),
        )
