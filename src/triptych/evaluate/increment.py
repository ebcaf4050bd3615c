"""What a model adds to models that are there already: how much, how much of it is relevant, what only photos show.

Source: the Taobao article, which takes what the system of the day recalls out of its model's first thousand and looks
at the rest. Here the models that are there are rows of the same table, and what is relevant is judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from triptych.data.catalogue import Catalogue
from triptych.data.schema import PHOTO_ONLY
from triptych.evaluate.measure import judged_targets, relevant_targets
from triptych.evaluate.tasks.base import EvaluationConfig, Rankings
from triptych.metrics.ranking import BoolArray, FloatArray, IntArray, match
from triptych.metrics.significance import Interval, bootstrap_interval


class Increment(NamedTuple):
    """What one model adds. Every figure is a mean over queries."""

    model: str
    size: Interval
    """Items among the first k that none of the models there has among its own first k."""
    relevance: Interval
    """Share of these that are relevant; over queries to which something is added."""
    of_whole: Interval
    """Share of the whole first k that is relevant; over the same queries."""
    photo_only: Interval
    """Share of the relevant ones among these of which only the photo shows something that is asked for; over queries to
    which something relevant is added."""
    num_queries: int
    """Queries with judgements."""


def increments(
    rankings: Rankings, *, there: Sequence[str], catalogue: Catalogue, config: EvaluationConfig
) -> list[Increment]:
    """Measure what every other model of a table adds, over all queries that were judged.

    Args:
        rankings: of the first seed.
        there: models that count as there already.
        catalogue: judgements; whether they say what only the photo shows decides whether `photo_only` is known.
        config: the cut-off, `headline_k`; least relevant grade; resamples.

    Returns:
        In the order of the rankings; empty without judgements, or where a model that is to be there is not.
    """
    judged = judged_targets(catalogue, query_rows=rankings.query_rows)
    if judged is None or not set(there) <= set(rankings.item_rows):
        return []
    k = config.headline_k
    asked = np.flatnonzero(np.diff(judged.offsets) > 0)
    relevant = relevant_targets(judged, catalogue=catalogue, config=config)
    old = [rankings.item_rows[name][asked, :k] for name in there]
    first_pair = rankings.query_rows[asked, None] * catalogue.num_items
    shown = _shown_by_photos(catalogue)
    found = []
    for model, rows in rankings.item_rows.items():
        if model in there:
            continue
        own = rows[asked, :k]
        right = match(rows[:, :k], targets=relevant).pairs[asked] >= 0
        new = (own >= 0) & ~_any_of(own, old)
        added, good = new.sum(axis=1), (new & right).sum(axis=1)
        some, any_good = added > 0, good > 0
        whole = right.sum(axis=1) / np.maximum((own >= 0).sum(axis=1), 1)
        of_photos = np.empty(0)
        if shown is not None:
            unseen = new & right & np.isin(first_pair + own, shown)
            of_photos = unseen.sum(axis=1)[any_good] / good[any_good]
        found.append(
            Increment(
                model,
                size=_mean(added.astype(np.float64), config),
                relevance=_mean(good[some] / added[some], config),
                of_whole=_mean(whole[some], config),
                photo_only=_mean(of_photos, config),
                num_queries=len(asked),
            )
        )
    return found


def _mean(values: FloatArray, config: EvaluationConfig) -> Interval:
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
