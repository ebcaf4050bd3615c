"""Measure which index, by which settings, suits some vectors: recall, latency, throughput, bytes, build time, filters.

Truth is the exact index's answer to the same queries. Latency is that of single queries one after another, in this
process and on this machine; it says nothing of a machine under other load.

A narrow filter is searched exactly, so its recall says nothing of the index: filters that keep half and a quarter are
wide enough to go through lists or graph, and what the structure alone would find stands beside every other. Filters at
random are the easy ones, since they leave neighbours in every list; those of a shop keep whole regions.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from triptych.foundation.errors import DataError
from triptych.foundation.progress import Progress
from triptych.foundation.registry import config_class
from triptych.index.approximate import ApproximateIndex
from triptych.index.backends.exact import ExactConfig, ExactIndex
from triptych.index.base import BACKENDS, Index, IndexConfig, Trial

WARM_UP = 5


@dataclass(frozen=True)
class Extent:
    """How much is measured; repeats and single queries end early when their time is up."""

    k: int = 100
    """Places per query."""
    single_queries: int = 1000
    """Queries asked one by one for the latency, at most. Of 200, the 99th percentile would rest on two."""
    filtered_queries: int = 50
    """Queries asked under each filter, at most."""
    rates: tuple[float, ...] = (0.5, 0.25, 0.1, 0.01, 0.001)
    """Shares of the items that filters keep, drawn at random."""
    builds: int | None = None
    """Builds of each kind, at most, the first by its defaults; None: all of its grid."""
    seconds: float = 3.0
    """Bound on each of these measurements."""
    repeats: int = 3
    """Batches, of which the fastest counts."""
    seed: int = 0
    """Of the filters."""


class Kept(NamedTuple):
    """A filter to be measured."""

    of: str
    """What it chooses by, such as `price`."""
    mask: NDArray[np.bool_]
    """``[items]``, which may be returned."""

    @property
    def rate(self) -> float:
        """Share of the items it keeps."""
        return float(self.mask.mean())


RANDOM = "random"
"""What filters choose by that are drawn here."""


@dataclass(frozen=True)
class Filtered:
    """What a filter does."""

    of: str
    """What it chooses by: `random`, or as it was named."""
    rate: float
    """Share of the items it keeps."""
    recall: float
    """As the index is set: exactly, where it keeps little."""
    p50_ms: float
    recall_unaided: float | None
    """By the structure alone, without exact search under narrow filters; None for an index without a structure."""
    p50_ms_unaided: float | None
    queries: int
    """Asked so, each way."""


@dataclass(frozen=True)
class Measured:
    """One setting of one index."""

    kind: str
    settings: dict[str, Any]
    """What differs from the kind's defaults, and the storage where there is one: fields of its config."""
    recall: float
    """Of the k that the exact index returns, the share found."""
    p50_ms: float
    p99_ms: float
    """Of single queries."""
    timed_queries: int
    """How many those were."""
    queries_per_s: float
    """In a batch of all queries."""
    build_s: float
    bytes: int
    """Vectors and structure."""
    searched_by: tuple[str, ...] = ()
    """Those of the settings that need no build of their own."""
    is_default: bool = False
    """Nothing differs from the kind's defaults."""
    filtered: tuple[Filtered, ...] = ()
    on_front: bool = False
    """No other has a better recall and a lower p99 than this."""

    @property
    def lines(self) -> list[str]:
        """The setting as lines of a config file (TOML); `triptych run --set` takes them as well."""
        chosen = {"kind": self.kind, **self.settings}
        return [f"index.{name} = {_toml(value)}" for name, value in chosen.items()]

    @property
    def label(self) -> str:
        """Kind, storage and what else was built otherwise than by default, for a table or a legend."""
        other = [
            f"{name}={value}"
            for name, value in self.settings.items()
            if name != "storage" and name not in self.searched_by
        ]
        return " ".join(filter(None, [self.kind, str(self.settings.get("storage", "")), *other]))

    @property
    def search_label(self) -> str:
        """How the build is searched, where it is not by default."""
        return " ".join(f"{name}={self.settings[name]}" for name in self.searched_by)

    def dump(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        return {**asdict(self), "lines": self.lines}


class Target(NamedTuple):
    """What is asked of an index; None: nothing."""

    recall: float | None = None
    p99_ms: float | None = None
    max_gib: float | None = None

    def is_met(self, measured: Measured) -> bool:
        """Say whether a setting does all that is asked."""
        return (
            (self.recall is None or measured.recall >= self.recall)
            and (self.p99_ms is None or measured.p99_ms <= self.p99_ms)
            and (self.max_gib is None or measured.bytes <= self.max_gib * 2**30)
        )

    def choose(self, found: Sequence[Measured]) -> Measured | None:
        """Return the fastest at the 99th percentile of those that do all that is asked; of equal ones, the smallest."""
        return min(filter(self.is_met, found), key=lambda one: (one.p99_ms, one.bytes), default=None)


def sweep(
    vectors: NDArray[Any],
    queries: NDArray[np.float32],
    *,
    kinds: Sequence[str],
    extent: Extent | None = None,
    filters: Sequence[Kept] = (),
) -> list[Measured]:
    """Build every kind's grid of settings over the vectors and measure each.

    Args:
        vectors: ``[items, dim]``, one per item.
        queries: ``[n, dim]``, as the index will be asked.
        kinds: files of `triptych.index.backends`; what each tries is its config's `grid`.
        extent: how much is measured.
        filters: measured beside those at random; such as a shop has them.

    Returns:
        One for each setting, in the order tried; a kind's first is its default.

    Raises:
        DataError: there are no items or no queries.
        ConfigError: there is no such kind.
    """
    extent = extent or Extent()
    if not len(vectors) or not len(queries):
        raise DataError(f"A sweep needs items and queries; there are {len(vectors)} and {len(queries)}.")
    plan = [trial for kind in kinds for trial in _grid(kind, num_items=len(vectors))[: extent.builds]]
    problem = _Problem.of(vectors, queries, extent=extent, filters=filters)
    found: list[Measured] = []
    with Progress("index sweep", total=sum(len(searches) for _, searches in plan), unit="setting") as bar:
        for config, searches in plan:
            bar.note(" ".join([config.kind, str(getattr(config, "storage", ""))]).strip())
            for measured in _measure(config, searches, vectors=vectors, problem=problem):
                found.append(measured)
                bar.advance()
    return _with_front(found)


def _grid(kind: str, *, num_items: int) -> Sequence[Trial]:
    config = config_class(BACKENDS, kind)
    assert issubclass(config, IndexConfig)
    return config.grid(num_items)


class _Problem(NamedTuple):
    """What every setting is asked, with the exact answers."""

    queries: NDArray[np.float32]
    truth: NDArray[np.int64]
    filters: list[Kept]
    filtered_truth: list[NDArray[np.int64]]
    extent: Extent

    @classmethod
    def of(
        cls, vectors: NDArray[Any], queries: NDArray[np.float32], *, extent: Extent, filters: Sequence[Kept]
    ) -> _Problem:
        exact: ExactIndex = ExactConfig().build(vectors)
        rng = np.random.default_rng(extent.seed)
        every = []
        for rate in extent.rates:
            mask = np.zeros(len(vectors), np.bool_)
            mask[rng.choice(len(vectors), max(1, round(rate * len(vectors))), replace=False)] = True
            every.append(Kept(RANDOM, mask))
        every += filters
        asked = queries[: extent.filtered_queries]
        truths = [exact.search(asked, k=extent.k, keep=kept.mask).item_rows for kept in every]
        return cls(queries, exact.search(queries, k=extent.k).item_rows, every, truths, extent)


def _measure(
    config: IndexConfig, searches: Sequence[Mapping[str, Any]], *, vectors: NDArray[Any], problem: _Problem
) -> Iterator[Measured]:
    """Build once, and measure by each of the settings it can be searched by."""
    started = time.perf_counter()
    built = config.build(vectors)
    build_s = time.perf_counter() - started
    differing = _differing(config)
    for settings in searches:
        index: Index = built.tuned(**settings) if isinstance(built, ApproximateIndex) and settings else built
        times = _one_by_one(index, problem.queries[: problem.extent.single_queries], extent=problem.extent)[1]
        rows, batch_s = _together(index, problem.queries, extent=problem.extent)
        yield Measured(
            kind=config.kind,
            settings={**differing, **settings},
            searched_by=tuple(settings),
            is_default=config == type(config).parse({}) and not settings,
            recall=_recall(rows, problem.truth),
            p50_ms=_percentile_ms(times, 50),
            p99_ms=_percentile_ms(times, 99),
            timed_queries=len(times),
            queries_per_s=round(len(problem.queries) / batch_s, 1),
            build_s=round(build_s, 2),
            bytes=index.memory_bytes,
            filtered=tuple(_filtered(index, problem=problem)),
        )


def _filtered(index: Index, *, problem: _Problem) -> Iterator[Filtered]:
    extent = problem.extent
    asked = problem.queries[: extent.filtered_queries]
    unaided = index.tuned(exact_below_rate=0.0) if isinstance(index, ApproximateIndex) else None
    for kept, truth in zip(problem.filters, problem.filtered_truth, strict=True):
        rows, times = _one_by_one(index, asked, extent=extent, keep=kept.mask)
        recall, p50_ms, queries = _recall(rows, truth[: len(rows)]), _percentile_ms(times, 50), len(rows)
        recall_unaided: float | None = recall
        p50_unaided: float | None = p50_ms
        if unaided is None:
            recall_unaided = p50_unaided = None
        elif isinstance(index, ApproximateIndex) and kept.rate <= index.config.exact_below_rate:
            alone, alone_times = _one_by_one(unaided, asked[:queries], extent=extent, keep=kept.mask)
            queries = min(queries, len(alone))
            recall_unaided, p50_unaided = _recall(alone, truth[: len(alone)]), _percentile_ms(alone_times, 50)
        yield Filtered(kept.of, round(kept.rate, 6), recall, p50_ms, recall_unaided, p50_unaided, queries)


def _one_by_one(
    index: Index, queries: NDArray[np.float32], *, extent: Extent, keep: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.int64], list[float]]:
    """Ask single queries until they or the time run out; returns the rows of those asked, and seconds of each."""
    rows: list[NDArray[np.int64]] = []
    times: list[float] = []
    for query in queries[:WARM_UP] if keep is None else queries[:1]:
        index.search(query[None], k=extent.k, keep=keep)
    until = time.perf_counter() + extent.seconds
    for query in queries:
        started = time.perf_counter()
        rows.append(index.search(query[None], k=extent.k, keep=keep).item_rows[0])
        times.append(time.perf_counter() - started)
        if time.perf_counter() > until:
            break
    return np.array(rows), times


def _together(index: Index, queries: NDArray[np.float32], *, extent: Extent) -> tuple[NDArray[np.int64], float]:
    """Ask all queries at once, again while there is time; returns the rows, and seconds of the fastest time."""
    best, until = float("inf"), time.perf_counter() + extent.seconds
    for _ in range(extent.repeats):
        started = time.perf_counter()
        rows = index.search(queries, k=extent.k).item_rows
        best = min(best, time.perf_counter() - started)
        if time.perf_counter() > until:
            break
    return rows, best


def _percentile_ms(seconds: Sequence[float], percent: float) -> float:
    return round(float(np.percentile(seconds, percent)) * 1e3, 3)


def _recall(found: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """Share of the true rows that were found; padding is no row."""
    pairs = zip(found, truth, strict=True)
    shared = sum(len(np.intersect1d(mine[mine >= 0], true[true >= 0])) for mine, true in pairs)
    return round(shared / max(1, int((truth >= 0).sum())), 4)


def _differing(config: IndexConfig) -> dict[str, Any]:
    """Return the fields of a config that are not at the kind's default; the storage always, where there is one."""
    default, own = type(config).parse({}).dump(), config.dump()
    return {name: value for name, value in own.items() if value != default[name] or name == "storage"}


def _with_front(found: Sequence[Measured]) -> list[Measured]:
    def is_beaten(one: Measured) -> bool:
        return any(
            other.recall >= one.recall
            and other.p99_ms <= one.p99_ms
            and (other.recall > one.recall or other.p99_ms < one.p99_ms)
            for other in found
        )

    return [replace(one, on_front=not is_beaten(one)) for one in found]


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
