"""Graded search: does a model order a query's judged items as people graded them, and what does it put first of all?

Two readings of the same queries. *Judged*: only the items that were judged for a query are ranked, as the judges saw
them; chance, computed exactly, is high there and stands in the table. *Catalogue*: everything is ranked, an item
without a judgement gains nothing, and the share of such items says how far that number can be trusted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from triptych.data.catalogue import Catalogue
from triptych.data.splits import Split
from triptych.data.text import words
from triptych.evaluate.compare import Column, Comparison
from triptych.evaluate.measure import GRADED_K, hybrid_channels, judged_targets, some_requests, value_frames
from triptych.evaluate.records import AnyRecord, Role, role_of
from triptych.evaluate.tasks.base import EvaluationConfig, Models, TaskResult, retrieve_all, seeds_of
from triptych.foundation.errors import DataError
from triptych.metrics.ranking import FloatArray, Gain, IntArray, TargetSets, graded_ndcg_at_k, match
from triptych.recall.base import Request, Retriever

TASK = "graded"
CHANCE = "chance"
JUDGED, WHOLE, UNJUDGED = (Column(name, GRADED_K) for name in ("ndcg_judged", "ndcg_catalogue", "unjudged"))
_LENGTHS = {"short_queries": (1, 2), "middle_queries": (3, 4), "long_queries": (5, None)}
"""Slice → fewest and most words."""


def evaluate(models: Models, *, catalogue: Catalogue, split: Split, config: EvaluationConfig) -> TaskResult:
    """Compare retrievers on the judged queries of a held-out part.

    Args:
        models: Name → retriever that answers queries, or one for each seed.
        catalogue: Items, queries and judgements.
        split: By query.
        config: Number of resamples, which model the differences speak of. The cut-off is 10, as is usual.

    Returns:
        NDCG with gain = grade over the judged items and over the whole catalogue, and the share of the latter's results
        that nobody judged; paired differences of `config.model` against every other model.

    Raises:
        DataError: No query of the part was judged.
    """
    rows = split.query_rows(config.part, catalogue=catalogue)
    query_rows = rows[some_requests(len(rows), config=config)]
    queries = [catalogue.queries[row] for row in query_rows]
    judged = judged_targets(catalogue, query_rows=query_rows)
    if judged is None:
        raise DataError(
            f"evaluate: no query of the {config.part} part was judged, so nothing graded can be measured. "
            "Check the judgements, or set split.by = 'query'."
        )
    values: dict[str, dict[Column, FloatArray]] = {}
    for model, retrievers in seeds_of(models).items():
        by_seed = [_columns(one, queries, judged, num_items=catalogue.num_items, model=model) for one in retrievers]
        values[model] = {column: np.stack([one[column] for one in by_seed]) for column in by_seed[0]}
    values[CHANCE] = {JUDGED: chance_ndcg(judged, k=GRADED_K)[None]}
    records: list[AnyRecord] = []
    frames: list[pl.DataFrame] = []
    asked = {"query_row": pl.Series(query_rows, dtype=pl.Int32), "query": pl.Series(queries)}
    definitions = {}
    for name, definition, inside in _slices(queries):
        own = {
            model: {column: np.where(inside, by_seed, np.nan) for column, by_seed in columns.items()}
            for model, columns in values.items()
        }
        comparison = Comparison(own, task=TASK, slice_name=name, split=config.part.value, config=config)
        records += _records(comparison, config)
        frames += value_frames(own, slice_name=name, asked=asked, inside=JUDGED)
        definitions[name] = definition
    return TaskResult(
        task=TASK,
        title="Search: what people graded",
        records=records,
        per_query=pl.concat(frames, how="diagonal"),
        definitions=definitions,
    )


def chance_ndcg(judged: TargetSets, *, k: int) -> FloatArray:
    """Expected NDCG of the judged items in random order, per query; gain = grade.

    Each rank holds every item equally often, so the expected gain at each is the mean grade.
    """
    assert judged.grades is not None
    sizes = np.diff(judged.offsets)
    total = np.bincount(judged.query_of_pair, weights=judged.grades, minlength=len(sizes))
    discounts = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, k + 2)))])
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = total / sizes * discounts[np.minimum(sizes, k)]
    best = match(_in_order(judged, scores=judged.grades), targets=judged).pairs[:, :k]
    ideal = (np.append(judged.grades, 0.0)[best] / np.log2(np.arange(best.shape[1]) + 2.0)).sum(axis=1)
    return np.asarray(expected / np.where(ideal > 0, ideal, np.nan), dtype=np.float64)


def _in_order(judged: TargetSets, *, scores: FloatArray) -> IntArray:
    """Order each query's judged items by score, equal ones by item row: ``[queries, most judged]``, padded with -1."""
    sizes = np.diff(judged.offsets)
    order = np.lexsort((judged.item_rows, -scores, judged.query_of_pair))
    place = np.arange(len(order)) - np.repeat(judged.offsets[:-1], sizes)
    rows = np.full((len(sizes), max(1, int(sizes.max(initial=0)))), -1, dtype=np.int64)
    rows[judged.query_of_pair, place] = judged.item_rows[order]
    return rows


def _columns(
    retriever: Retriever, queries: Sequence[str], judged: TargetSets, *, num_items: int, model: str
) -> dict[Column, FloatArray]:
    """Ask one retriever for both readings: column → ``[queries]``."""

    def own(position: int) -> IntArray:
        return np.asarray(judged.item_rows[judged.offsets[position] : judged.offsets[position + 1]], dtype=np.int64)

    def among_judged(position: int) -> Request:
        keep = np.zeros(num_items, dtype=np.bool_)
        keep[own(position)] = True
        return Request(query=queries[position], keep=keep)

    most = max(1, int(np.diff(judged.offsets).max()))
    label = f"{TASK} with {model}"
    found = retrieve_all(retriever, num_requests=len(queries), make=among_judged, k=most, label=f"{label}, judged")
    # What was not returned at all comes last, by item row: its score is the lowest.
    pairs = match(found, targets=judged).pairs
    rank = np.full(len(judged.item_rows), most, dtype=np.float64)
    query, place = np.nonzero(pairs >= 0)
    rank[pairs[query, place]] = place
    whole = retrieve_all(
        retriever,
        num_requests=len(queries),
        make=lambda position: Request(query=queries[position]),
        k=GRADED_K,
        label=label,
    )
    anywhere = match(whole, targets=judged)
    returned = np.maximum((whole >= 0).sum(axis=1), 1)
    unjudged = ((whole >= 0) & (anywhere.pairs < 0)).sum(axis=1) / returned
    return {
        JUDGED: graded_ndcg_at_k(match(_in_order(judged, scores=-rank), targets=judged), k=GRADED_K, gain=Gain.LINEAR),
        WHOLE: graded_ndcg_at_k(anywhere, k=GRADED_K, gain=Gain.LINEAR),
        UNJUDGED: unjudged.astype(np.float64),
    }


def _slices(queries: Sequence[str]) -> list[tuple[str, str, np.ndarray]]:
    """Name, definition and members of each slice that is not empty."""
    lengths = np.array([len(words(query)) for query in queries])
    found = [("all", "Every judged query of the part; none of them was trained with.", np.ones(len(queries), np.bool_))]
    for name, (low, high) in _LENGTHS.items():
        inside = (lengths >= low) & (True if high is None else lengths <= high)
        found.append((name, f"Queries of {low} {'or more' if high is None else f'or {high}'} words.", inside))
    return [one for one in found if one[2].any()]


def _records(comparison: Comparison, config: EvaluationConfig) -> list[AnyRecord]:
    """Every model's values, and the model of the config against every other."""
    found: list[AnyRecord | None] = []
    for model, columns in comparison.values.items():
        found += [comparison.record(model, column) for column in columns]
    for other in comparison.values if config.model in comparison.values else ():
        if other != config.model and role_of(other) is not Role.CEILING:
            better, worse = (other, config.model) if other == config.hybrid_model else (config.model, other)
            found += [comparison.difference(better, baseline=worse, column=one) for one in (JUDGED, WHOLE)]
    for channel in hybrid_channels(comparison, config):
        found += [comparison.difference(config.hybrid_model, baseline=channel, column=one) for one in (JUDGED, WHOLE)]
    return [record for record in found if record is not None]
