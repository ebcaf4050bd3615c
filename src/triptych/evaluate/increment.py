"""What a model adds to models that are there already: how much, how much of it is relevant, what only photos show.

Source: the Taobao article, which takes what the system of the day recalls out of its model's first thousand and looks
at the rest. Here the models that are there are rows of the same table, and what is relevant is judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl

from triptych.data.catalogue import Catalogue
from triptych.data.schema import PHOTO_ONLY
from triptych.evaluate.examples import SHOWN, Example, ExampleKind
from triptych.evaluate.measure import judged_targets, relevant_targets
from triptych.evaluate.tasks.base import EvaluationConfig, Rankings
from triptych.metrics.ranking import BoolArray, FloatArray, IntArray, TargetSets, match
from triptych.metrics.significance import Interval, bootstrap_interval


class Increment(NamedTuple):
    """What one model adds. Every figure is a mean over queries, of each query over the seeds."""

    model: str
    size: Interval
    """Items among the first k that none of the models there has among its own first k."""
    relevance: Interval
    """Share of these that are relevant; over queries to which something is added."""
    of_whole: Interval
    """Share of the whole first k that is relevant; over the same queries and seeds."""
    difference: Interval
    """`relevance` less `of_whole`, paired: of each query and seed."""
    photo_only: Interval
    """Share of the relevant ones among these of which only the photo shows something that is asked for; over queries to
    which something relevant is added."""
    num_queries: int
    """Queries with judgements."""
    num_seeds: int
    """Of the model, or of what is there if it has but one."""


def increments(
    rankings: Rankings, *, there: Sequence[str], catalogue: Catalogue, config: EvaluationConfig
) -> list[Increment]:
    """Measure what every other model of a table adds, over all queries that were judged.

    Args:
        rankings: each seed of a model is set against the same seed of those that are there; what has one seed stands
            against all. Where a query is asked for several users, the first one's.
        there: models that count as there already.
        catalogue: judgements; whether they say what only the photo shows decides whether `photo_only` is known.
        config: the cut-off, `headline_k`; least relevant grade; resamples.

    Returns:
        In the order of the rankings; empty without judgements, or where a model that is to be there is not.
    """
    added = _Added.of(rankings, there=there, catalogue=catalogue, config=config)
    if added is None:
        return []
    return [added.increment(model, config=config) for model in rankings.item_rows if model not in there]


def photo_examples(
    rankings: Rankings, *, there: Sequence[str], model: str, catalogue: Catalogue, config: EvaluationConfig
) -> list[Example]:
    """Draw queries to which a model adds relevant items of which only the photo shows something that is asked for.

    Args:
        rankings: the first seed's are shown.
        there: as of `increments`; shown beside.
        model: whose items.
        catalogue: likewise.
        config: likewise; `examples`, how many queries at most.

    Returns:
        Queries with such items among the `SHOWN` first of the model, in the order of the rankings.
    """
    added = _Added.of(rankings, there=there, catalogue=catalogue, config=config)
    if added is None or added.shown is None:
        return []
    of_photos = added.seed(model, 0).of_photos[:, :SHOWN]
    pool = np.flatnonzero(of_photos.any(axis=1))
    drawn = np.random.default_rng(config.seed).permutation(pool)[: config.examples]
    found = []
    for row in np.sort(drawn).tolist():
        position = int(added.asked[row])
        items = rankings.item_rows[model][position, : of_photos.shape[1]][of_photos[row]]
        first, *others = there
        found.append(Example(ExampleKind.ADDED, position, model, first, frozenset(items.tolist()), tuple(others)))
    return found


class _Seed(NamedTuple):
    """What one seed of a model has among its first k ``[judged queries, k]``."""

    new: BoolArray
    """What is not there."""
    right: BoolArray
    """What is relevant."""
    of_photos: BoolArray
    """What is both, and of which only the photo shows something that is asked for; none where nobody says so."""
    sizes: IntArray
    """``[judged queries]``, places that are filled."""


@dataclass(frozen=True)
class _Added:
    """Rankings, what is there already, and what is judged."""

    rankings: Rankings
    there: Sequence[str]
    relevant: TargetSets
    asked: IntArray
    """``[judged queries]``, their places in the rankings."""
    shown: IntArray | None
    """As `_shown_by_photos`."""
    first_pair: IntArray
    """``[judged queries, 1]``, what is added to an item's row to number the pair."""
    k: int

    @classmethod
    def of(
        cls, rankings: Rankings, *, there: Sequence[str], catalogue: Catalogue, config: EvaluationConfig
    ) -> _Added | None:
        """Gather; None without judgements, or where a model that is to be there is not."""
        judged = judged_targets(catalogue, query_rows=rankings.query_rows)
        if judged is None or not there or not set(there) <= set(rankings.item_rows):
            return None
        asked = np.flatnonzero(np.diff(judged.offsets) > 0)
        relevant = relevant_targets(judged, catalogue=catalogue, config=config)
        first_pair = rankings.query_rows[asked, None] * catalogue.num_items
        shown = _shown_by_photos(catalogue)
        return cls(rankings, there, relevant, asked, shown, first_pair, config.headline_k)

    def seed(self, model: str, number: int) -> _Seed:
        """Look at one seed."""
        rows = _of_seed(self.rankings.seeds(model), number)
        old = [_of_seed(self.rankings.seeds(name), number)[self.asked, : self.k] for name in self.there]
        own = rows[self.asked, : self.k]
        right = match(rows[:, : self.k], targets=self.relevant).pairs[self.asked] >= 0
        new = (own >= 0) & ~_any_of(own, old)
        shown = np.empty(0, dtype=np.int64) if self.shown is None else self.shown
        of_photos = new & right & np.isin(self.first_pair + own, shown)
        return _Seed(new, right, of_photos, (own >= 0).sum(axis=1))

    def increment(self, model: str, *, config: EvaluationConfig) -> Increment:
        """Measure what a model adds."""
        num_seeds = max(len(self.rankings.seeds(name)) for name in (model, *self.there))
        seeds = [self.seed(model, number) for number in range(num_seeds)]
        added = np.stack([one.new.sum(axis=1) for one in seeds])
        good = np.stack([(one.new & one.right).sum(axis=1) for one in seeds])
        whole = np.stack([one.right.sum(axis=1) / np.maximum(one.sizes, 1) for one in seeds])
        relevance, of_whole = _share(good, added), np.where(added > 0, whole, np.nan)
        photos = np.full(good.shape, np.nan)
        if self.shown is not None:
            photos = _share(np.stack([one.of_photos.sum(axis=1) for one in seeds]), good)
        return Increment(
            model,
            size=_mean(added.astype(np.float64), config),
            relevance=_mean(relevance, config),
            of_whole=_mean(of_whole, config),
            difference=_mean(relevance - of_whole, config),
            photo_only=_mean(photos, config),
            num_queries=len(self.asked),
            num_seeds=num_seeds,
        )


def _of_seed(seeds: Sequence[IntArray], number: int) -> IntArray:
    return seeds[0] if len(seeds) == 1 else seeds[number]


def _share(part: IntArray, whole: IntArray) -> FloatArray:
    """Divide; NaN where there is nothing."""
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def _mean(values: FloatArray, config: EvaluationConfig) -> Interval:
    """Average ``[seeds, queries]`` over the seeds that say something of a query, then over the queries."""
    said = ~np.isnan(values)
    counts = said.sum(axis=0)
    values = np.where(said, values, 0.0).sum(axis=0)[counts > 0] / counts[counts > 0]
    if not len(values):
        return Interval(np.nan, np.nan, np.nan)
    return bootstrap_interval(values, rng=np.random.default_rng(config.seed), repeats=config.bootstrap_repeats)


def _any_of(own: IntArray, old: Sequence[IntArray]) -> BoolArray:
    """Say which items ``[queries, k]`` stand in the same query's list of any of the others."""
    found = np.zeros(own.shape, dtype=np.bool_)
    for rows in old:
        found |= (own[:, :, None] == rows[:, None, :]).any(axis=2)
    return found


def _shown_by_photos(catalogue: Catalogue) -> IntArray | None:
    """Number the (query, item) pairs of which only the photo shows something asked for; None: no judgement says so."""
    judgements = catalogue.judgements
    if judgements is None or PHOTO_ONLY not in judgements.columns:
        return None
    pairs = judgements.filter(pl.col(PHOTO_ONLY)).select(
        pl.col("query_row").cast(pl.Int64) * catalogue.num_items + pl.col("item_row").cast(pl.Int64)
    )
    return np.asarray(pairs.to_series())
