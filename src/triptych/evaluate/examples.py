"""Which queries the report shows with photos: drawn at random, by a rule that the report prints."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import numpy as np

from triptych.evaluate.tasks.base import EvaluationConfig, Rankings
from triptych.metrics.ranking import BoolArray, match, recall_at_k

SHOWN = 8
"""Results shown of each model."""


class ExampleKind(StrEnum):
    """Why a query is shown."""

    BROUGHT = "brought"
    GOOD = "good"
    BAD = "bad"
    ADDED = "added"
    """Of what a row of a table adds to others (`increment.photo_examples`)."""


_DRAWN = (ExampleKind.BROUGHT, ExampleKind.GOOD, ExampleKind.BAD)


class Example(NamedTuple):
    """One query to show."""

    kind: ExampleKind
    position: int
    """Of the query in the rankings."""
    model: str
    beside: str
    """The model whose results stand beside."""
    highlights: frozenset[int]
    """Item rows that the picture brought."""
    others: tuple[str, ...] = ()
    """More models beside."""


def choose_examples(rankings: Rankings, *, config: EvaluationConfig) -> list[Example]:
    """Draw a third of the examples from each kind; fewer where a kind has fewer queries (users).

    Brought: a target stands among the first `SHOWN` of the model, and not among the first `headline_k` of the title
    model. Good: the recall of the model is in the upper fifth and above 0. Bad: it is in the lower fifth.
    """
    if config.model not in rankings.item_rows or config.examples == 0:
        return []
    beside = "bm25" if rankings.histories is None else "item-knn"
    rng = np.random.default_rng(config.seed)
    recall = recall_at_k(match(rankings.item_rows[config.model], targets=rankings.targets), k=config.headline_k)
    brought = _brought(rankings, config)
    low, high = np.quantile(recall, [0.2, 0.8])
    pools = {
        ExampleKind.BROUGHT: np.fromiter(brought, dtype=np.int64),
        ExampleKind.GOOD: np.flatnonzero((recall >= high) & (recall > 0)),
        ExampleKind.BAD: np.flatnonzero((recall <= low) & (recall < high)),
    }
    rivals = {ExampleKind.BROUGHT: config.title_model, ExampleKind.GOOD: beside, ExampleKind.BAD: beside}
    shares = {kind: (config.examples + 2 - i) // 3 for i, kind in enumerate(_DRAWN)}
    taken: set[int] = set()
    chosen: list[Example] = []
    for kind, pool in pools.items():
        if rivals[kind] not in rankings.item_rows:
            continue
        free = np.array([position for position in pool if position not in taken], dtype=np.int64)
        drawn = rng.choice(free, size=min(shares[kind], len(free)), replace=False)
        taken.update(int(position) for position in drawn)
        chosen += [
            Example(kind, int(position), config.model, rivals[kind], brought.get(int(position), frozenset()))
            for position in drawn
        ]
    return chosen


def _brought(rankings: Rankings, config: EvaluationConfig) -> dict[int, frozenset[int]]:
    """For each query with such a target: the targets that the photo brought up."""
    if config.title_model not in rankings.item_rows:
        return {}
    found = _found(rankings, config.model, k=SHOWN) & ~_found(rankings, config.title_model, k=config.headline_k)
    queries = rankings.targets.query_of_pair[found]
    items = rankings.targets.item_rows[found]
    return {int(query): frozenset(int(item) for item in items[queries == query]) for query in np.unique(queries)}


def _found(rankings: Rankings, model: str, *, k: int) -> BoolArray:
    """Which target pairs stand among the first `k`: `[num_pairs]`."""
    pairs = match(rankings.item_rows[model], targets=rankings.targets).pairs[:, :k]
    found = np.zeros(len(rankings.targets.item_rows), dtype=np.bool_)
    found[pairs[pairs >= 0]] = True
    return found
