"""Search: does a model find what people clicked next, and what is relevant?

Protocol (Taobao article, next-day): the clicks, carts and orders of *all* users under one query in the held-out period
are one target set; every model ranks the whole catalogue for the query string alone; each metric is a mean over
queries. Popularity, BM25 and the oracle stand in the same table.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import polars as pl

from triptych.data.catalogue import Catalogue
from triptych.data.splits import Split
from triptych.evaluate.compare import Column, Comparison
from triptych.evaluate.records import AnyRecord, Record, Role, role_of
from triptych.evaluate.slices import Slice, SliceUnit, search_slices
from triptych.evaluate.tasks.base import EvaluationConfig, Models, Rankings, TaskResult, retrieve_all, seeds_of
from triptych.foundation.errors import DataError
from triptych.metrics.ranking import (
    FloatArray,
    IntArray,
    Matches,
    TargetSets,
    coverage_at_k,
    graded_ndcg_at_k,
    hit_counts,
    hit_rate_at_k,
    match,
    mrr_at_k,
    ndcg_at_k,
    recall_at_k,
)
from triptych.metrics.significance import Claim, Effect, Relation
from triptych.recall.base import Request

TASK = "search"
GRADED_K = 10
"""Cut-off of graded NDCG, as it is usually reported."""


class Problem(NamedTuple):
    """What is asked, and what counts as found."""

    query_rows: IntArray
    """`[queries]`: rows of the catalogue's queries."""
    targets: TargetSets
    """Clicked items."""
    judged: TargetSets | None
    """Judged items with grades, for the same queries; None without judgements."""
    relevant: TargetSets | None
    """The judged items whose grade makes them relevant."""


class Answer(NamedTuple):
    """What one retriever found."""

    item_rows: IntArray
    clicked: Matches
    judged: Matches | None
    relevant: Matches | None


def evaluate(models: Models, *, catalogue: Catalogue, split: Split, config: EvaluationConfig) -> TaskResult:
    """Compare retrievers on the queries of a held-out period.

    Args:
        models: Name → retriever, or one for each seed. The names `popularity`, `bm25`, `oracle`, `title`, `photo`,
            `title+photo` and `permuted-photo` are known to the report; any other is a trained model.
        catalogue: Items, queries and judgements.
        split: The periods.
        config: Cut-offs, number of resamples, which models the claims speak of.

    Returns:
        Records for each slice that is not empty, paired records of `config.model` against every other model and of
        the control against the title model, and the values of each query.

    Raises:
        DataError: The period has no query with a click.
    """
    problem = search_problem(catalogue, split=split, config=config)
    slices = search_slices(catalogue, split=split, query_rows=problem.query_rows, targets=problem.targets)
    answers = {
        model: [
            _answer(
                retrieve_all(
                    retriever,
                    num_requests=len(problem.query_rows),
                    make=lambda position: Request(query=catalogue.queries[problem.query_rows[position]]),
                    k=max(*config.ks, GRADED_K),
                    label=f"search with {model}" + (f", seed {seed}" if len(retrievers) > 1 else ""),
                ),
                problem,
            )
            for seed, retriever in enumerate(retrievers)
        ]
        for model, retrievers in seeds_of(models).items()
    }
    records: list[AnyRecord] = []
    frames: list[pl.DataFrame] = []
    for one in slices:
        values = {model: _columns(by_seed, one, config) for model, by_seed in answers.items()}
        comparison = Comparison(values, task=TASK, slice_name=one.name, split=config.part.value, config=config)
        records += _singles(comparison, one, config)
        if one.unit is SliceUnit.QUERIES:
            records += _coverages(comparison, answers, one, num_items=catalogue.num_items, config=config)
        records += paired_records(comparison, config)
        frames += _frames(values, one, catalogue=catalogue, query_rows=problem.query_rows)
    return TaskResult(
        task=TASK,
        title="Search: what was clicked next",
        records=records,
        per_query=pl.concat(frames, how="diagonal"),
        definitions={one.name: one.definition for one in slices},
        rankings=Rankings(
            problem.query_rows,
            problem.targets,
            {model: by_seed[0].item_rows for model, by_seed in answers.items()},
        ),
    )


def search_problem(catalogue: Catalogue, *, split: Split, config: EvaluationConfig) -> Problem:
    """Collect the queries of the period, their clicked items and their judgements.

    Raises:
        DataError: The period has no query with a click.
    """
    found = split.targets(config.part)
    query_rows = np.asarray(found.query_row, dtype=np.int64)
    targets = TargetSets(np.asarray(found.offsets, dtype=np.int64), np.asarray(found.item_rows, dtype=np.int64))
    if not len(query_rows):
        raise DataError(
            f"evaluate: the {config.part} period has no query with a click, so search cannot be measured. "
            "Check the events' query column, or choose earlier split dates."
        )
    if config.max_queries is not None and config.max_queries < len(query_rows):
        rng = np.random.default_rng(config.seed)
        chosen = np.sort(rng.choice(len(query_rows), size=config.max_queries, replace=False))
        query_rows, targets = query_rows[chosen], take_queries(targets, chosen=chosen)
    judged = _judged(catalogue, query_rows=query_rows)
    return Problem(query_rows, targets, judged, None if judged is None else _relevant(judged, catalogue, config))


def take_queries(targets: TargetSets, *, chosen: IntArray) -> TargetSets:
    """Keep the target sets at these positions, in this order."""
    sizes = np.diff(targets.offsets)[chosen]
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    inside = np.arange(offsets[-1]) - np.repeat(offsets[:-1], sizes)
    pairs = np.repeat(targets.offsets[chosen], sizes) + inside
    grades = None if targets.grades is None else targets.grades[pairs]
    return TargetSets(offsets, targets.item_rows[pairs], grades)


def _judged(catalogue: Catalogue, *, query_rows: IntArray) -> TargetSets | None:
    if catalogue.judgements is None:
        return None
    asked = pl.DataFrame({"query_row": query_rows, "position": np.arange(len(query_rows))})
    pairs = (
        catalogue.judgements.select(pl.col("query_row", "item_row").cast(pl.Int64), pl.col("grade").cast(pl.Float64))
        .join(asked, on="query_row")
        .sort("position", "item_row")
    )
    if pairs.is_empty():
        return None
    sizes = np.bincount(pairs["position"].to_numpy(), minlength=len(query_rows))
    return TargetSets(np.concatenate([[0], np.cumsum(sizes)]), pairs["item_row"].to_numpy(), pairs["grade"].to_numpy())


def _relevant(judged: TargetSets, catalogue: Catalogue, config: EvaluationConfig) -> TargetSets:
    """The judged items that are relevant; a query that was judged but has none of them scores 0, not nothing."""
    assert catalogue.judgements is not None
    assert judged.grades is not None
    least = config.relevant_grade
    if least is None:
        least = float(catalogue.judgements.select(pl.col("grade").max()).item())
    keep = judged.grades >= least
    sizes = np.bincount(judged.query_of_pair[keep], minlength=judged.num_queries)
    return TargetSets(np.concatenate([[0], np.cumsum(sizes)]), judged.item_rows[keep])


def _answer(item_rows: IntArray, problem: Problem) -> Answer:
    return Answer(
        item_rows,
        match(item_rows, targets=problem.targets),
        None if problem.judged is None else match(item_rows, targets=problem.judged),
        None if problem.relevant is None else match(item_rows, targets=problem.relevant),
    )


def _columns(by_seed: list[Answer], one: Slice, config: EvaluationConfig) -> dict[Column, FloatArray]:
    """Every metric of one model on one slice: column → `[seeds, queries]`, NaN outside the slice."""
    per_seed = [_per_query(answer, one, config) for answer in by_seed]
    return {column: np.stack([columns[column] for columns in per_seed]) for column in per_seed[0]}


def _per_query(answer: Answer, one: Slice, config: EvaluationConfig) -> dict[Column, FloatArray]:
    columns: dict[Column, FloatArray] = {}
    outside = np.bincount(answer.clicked.targets.query_of_pair[one.pair_mask], minlength=len(answer.item_rows)) == 0
    for k in config.ks:
        counts = hit_counts(answer.clicked, k=k, pair_mask=one.pair_mask)
        columns[Column("recall", k)] = recall_at_k(answer.clicked, k=k, pair_mask=one.pair_mask)
        columns[Column("hits", k)] = counts.hits.astype(np.float64)
        columns[Column("targets")] = counts.targets.astype(np.float64)
        if one.unit is SliceUnit.QUERIES:
            columns[Column("ndcg", k)] = ndcg_at_k(answer.clicked, k=k)
            columns[Column("mrr", k)] = mrr_at_k(answer.clicked, k=k)
            columns[Column("hit_rate", k)] = hit_rate_at_k(answer.clicked, k=k)
            if answer.judged is not None and answer.relevant is not None:
                columns[Column("relevance", k)] = _relevance(answer.relevant, answer.judged, k=k)
    if one.unit is SliceUnit.QUERIES and answer.judged is not None:
        columns[Column("ndcg_graded", GRADED_K)] = graded_ndcg_at_k(answer.judged, k=GRADED_K)
    return {column: np.where(outside, np.nan, values) for column, values in columns.items()}


def _relevance(relevant: Matches, judged: Matches, *, k: int) -> FloatArray:
    """Share of the first `k` that is relevant, for queries that were judged at all."""
    share = (relevant.pairs[:, :k] >= 0).sum(axis=1) / k
    return np.where(np.diff(judged.targets.offsets) > 0, share, np.nan)


def _singles(comparison: Comparison, one: Slice, config: EvaluationConfig) -> Iterator[Record]:
    """Records of each model, in the order of its columns; counts serve the micro average only."""
    for model, columns in comparison.values.items():
        for column in columns:
            record = None if column.metric in ("hits", "targets") else comparison.record(model, column)
            if record is not None:
                yield record
        for k in config.ks:
            micro = comparison.quotient(
                model, Column("recall_micro", k), numerator=Column("hits", k), denominator=Column("targets")
            )
            if micro is not None:
                yield micro


def _coverages(
    comparison: Comparison,
    answers: dict[str, list[Answer]],
    one: Slice,
    *,
    num_items: int,
    config: EvaluationConfig,
) -> Iterator[Record]:
    for model, by_seed in answers.items():
        inside = np.unique(by_seed[0].clicked.targets.query_of_pair[one.pair_mask])
        for k in config.ks:
            values = [coverage_at_k(answer.item_rows[inside], k=k, num_items=num_items) for answer in by_seed]
            yield comparison.constant(
                model, Column("coverage", k), seed_values=np.array(values), num_queries=len(inside)
            )


def paired_records(comparison: Comparison, config: EvaluationConfig) -> list[AnyRecord]:
    """Compare the model of the config with every other, and the control with the title model.

    Differences claim to be above 0. On `photo_only` the two ratios of recall carry the config's claims. The oracle is a
    ceiling, not a rival: it gets the share reached, and no claim.
    """
    on_photos = comparison.slice_name == "photo_only"
    gain = Claim(Effect.RATIO, Relation.AT_LEAST, config.min_photo_gain) if on_photos else None
    control = Claim(Effect.RATIO, Relation.AT_MOST, config.max_control_gain) if on_photos else None
    columns = [Column("recall", k) for k in config.ks]
    also = [Column(metric, config.headline_k) for metric in ("ndcg", "mrr", "relevance")]
    also.append(Column("ndcg_graded", GRADED_K))
    found: list[AnyRecord | None] = []
    for other in comparison.values if config.model in comparison.values else ():
        if other == config.model:
            continue
        if role_of(other) is Role.CEILING:
            found += [comparison.ratio(config.model, baseline=other, column=column) for column in columns]
            continue
        found += [comparison.difference(config.model, baseline=other, column=column) for column in columns + also]
    for column in columns:
        found.append(comparison.ratio(config.model, baseline=config.title_model, column=column, claim=gain))
        found.append(comparison.ratio(config.control_model, baseline=config.title_model, column=column, claim=control))
        found.append(
            comparison.difference(config.control_model, baseline=config.title_model, column=column, claim=None)
        )
    return [record for record in found if record is not None]


def _frames(
    values: dict[str, dict[Column, FloatArray]], one: Slice, *, catalogue: Catalogue, query_rows: IntArray
) -> Iterator[pl.DataFrame]:
    """One row for each model, seed and query of the slice."""
    for model, columns in values.items():
        inside = ~np.isnan(columns[Column("targets")][0])
        rows = query_rows[inside]
        for seed in range(len(columns[Column("targets")])):
            yield pl.DataFrame(
                {
                    "slice": pl.Series([one.name]).new_from_index(0, len(rows)),
                    "model": pl.Series([model]).new_from_index(0, len(rows)),
                    "seed": np.full(len(rows), seed, dtype=np.int32),
                    "query_row": rows.astype(np.int32),
                    "query": [catalogue.queries[row] for row in rows],
                    **{
                        str(column): pl.Series(by_seed[seed][inside]).fill_nan(None)
                        for column, by_seed in columns.items()
                    },
                }
            )
