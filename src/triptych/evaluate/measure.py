"""Retrieved lists against target sets, slice by slice: the columns, the records and the values of each request.

Shared by the tasks in which every request has a set of items to be found: search (a query), recommendation (a user).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from triptych.data.catalogue import Catalogue
from triptych.data.splits import Split
from triptych.evaluate.compare import Column, Comparison, Values
from triptych.evaluate.records import AnyRecord, Record, Role, role_of
from triptych.evaluate.slices import Slice, SliceUnit
from triptych.evaluate.tasks.base import EvaluationConfig
from triptych.metrics.ranking import (
    BoolArray,
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
from triptych.recall.relevance_control import LEAST_SHARE, RequiredValues

GRADED_K = 10
"""Cut-off of graded NDCG, as it is usually reported."""
CHANCE = "chance"
"""Name of the row that draws its answers at random; computed, not drawn."""


class Categories(NamedTuple):
    """Which categories each request is about."""

    of_item: IntArray
    """``[items]``, place of each item's category; -1 where it has none."""
    wanted: BoolArray
    """``[requests, categories]``."""

    def share(self, item_rows: IntArray, *, k: int) -> FloatArray:
        """Return the share of the first `k` that is of a wanted category; NaN for a request that wants none."""
        first = item_rows[:, :k]
        category = np.where(first >= 0, self.of_item[first], -1)
        hit = np.take_along_axis(self.wanted, np.maximum(category, 0), axis=1) & (category >= 0)
        return np.where(self.wanted.any(axis=1), hit.sum(axis=1) / k, np.nan)


class Problem(NamedTuple):
    """What is to be found for each request."""

    targets: TargetSets
    """What was chosen."""
    judged: TargetSets | None = None
    """Judged items with grades, for the same requests; None without judgements."""
    relevant: TargetSets | None = None
    """The judged items whose grade makes them relevant."""
    categories: Categories | None = None
    """None where items have none, or requests are not about any."""


class Answer(NamedTuple):
    """What one retriever found."""

    item_rows: IntArray
    chosen: Matches
    judged: Matches | None
    relevant: Matches | None
    categories: Categories | None = None
    query_of: IntArray | None = None
    """``[requests]``, the query of each, where several users ask one: what is measured is averaged over them. None:
    each query is asked once."""

    @classmethod
    def of(cls, item_rows: IntArray, problem: Problem) -> Answer:
        """Find the targets in retrieved lists ``[requests, k]``."""
        return cls(
            item_rows,
            match(item_rows, targets=problem.targets),
            None if problem.judged is None else match(item_rows, targets=problem.judged),
            None if problem.relevant is None else match(item_rows, targets=problem.relevant),
            categories=problem.categories,
        )


class Measured(NamedTuple):
    """The numbers of every slice, and the values they are means of."""

    records: list[AnyRecord]
    per_query: pl.DataFrame


def measure(
    answers: Mapping[str, Sequence[Answer]],
    *,
    slices: Sequence[Slice],
    asked: Mapping[str, pl.Series],
    task: str,
    num_items: int,
    config: EvaluationConfig,
    drawn_by: str | None = None,
    num_candidates: IntArray | None = None,
) -> Measured:
    """Compare models on every slice.

    Args:
        answers: model → what it found, one for each seed.
        slices: parts of the target pairs.
        asked: column → value of each request, for the table of values: who or what asked.
        task: name for the records.
        num_items: items in the catalogue.
        config: cut-offs, resamples, which models the claims speak of.
        drawn_by: the column of `asked` whose equal values are resampled together; None: each request by itself.
        num_candidates: integers `[requests]`, among how many items each is answered: what chance would find then
            stands in the table. None leaves it out.
    """
    groups = None if drawn_by is None else asked[drawn_by].to_numpy()
    records: list[AnyRecord] = []
    frames: list[pl.DataFrame] = []
    for one in slices:
        values = {model: _columns(by_seed, one, config) for model, by_seed in answers.items()}
        if num_candidates is not None:
            targets = _asked_once(next(iter(answers.values()))[0])
            values = {CHANCE: chance_columns(targets, one, num_candidates=num_candidates, ks=config.ks), **values}
        comparison = Comparison(
            values, task=task, slice_name=one.name, split=config.part.value, config=config, groups=groups
        )
        records += _singles(comparison, config)
        if one.unit is SliceUnit.QUERIES:
            records += _coverages(comparison, answers, one, num_items=num_items, config=config)
        records += paired_records(comparison, config)
        frames += value_frames(values, slice_name=one.name, asked=asked, inside=Column("targets"))
    return Measured(records, pl.concat(frames, how="diagonal"))


def judged_targets(catalogue: Catalogue, *, query_rows: IntArray) -> TargetSets | None:
    """Return the judged items of some queries with their grades; None where none of them was judged."""
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


def relevant_targets(judged: TargetSets, *, catalogue: Catalogue, config: EvaluationConfig) -> TargetSets:
    """The judged items that are relevant; a query that was judged but has none of them scores 0, not nothing."""
    assert catalogue.judgements is not None
    assert judged.grades is not None
    least = config.relevant_grade
    if least is None:
        least = float(catalogue.judgements.select(pl.col("grade").max()).item())
    keep = judged.grades >= least
    sizes = np.bincount(judged.query_of_pair[keep], minlength=judged.num_queries)
    return TargetSets(np.concatenate([[0], np.cumsum(sizes)]), judged.item_rows[keep])


def query_categories(
    catalogue: Catalogue, *, split: Split, query_rows: IntArray, least_share: float = LEAST_SHARE
) -> Categories | None:
    """Find the categories that queries are about: those with a share of a query's choices in training.

    Source: the Taobao article's second relevance, which is of query and category; the rule is the reconstruction's
    (section 6). A query that training has not met is about none.

    Args:
        catalogue: items and their categories.
        split: of the log.
        query_rows: of the catalogue.
        least_share: the share that a category must have.

    Returns:
        None where no item has a category.
    """
    if catalogue.items["category"].null_count() == catalogue.num_items:
        return None
    required = RequiredValues.fit(catalogue, split=split, attribute="category", least_share=least_share)
    wanted = np.zeros((len(query_rows), int(required.of_item.max()) + 1), dtype=np.bool_)
    for place, row in enumerate(query_rows):
        wanted[place, required.of_query(catalogue.queries[row])] = True
    return Categories(required.of_item, wanted)


def take_queries(targets: TargetSets, *, chosen: IntArray) -> TargetSets:
    """Keep the target sets at these positions, in this order."""
    sizes = np.diff(targets.offsets)[chosen]
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    inside = np.arange(offsets[-1]) - np.repeat(offsets[:-1], sizes)
    pairs = np.repeat(targets.offsets[chosen], sizes) + inside
    grades = None if targets.grades is None else targets.grades[pairs]
    return TargetSets(offsets, targets.item_rows[pairs], grades)


def take_requests(problem: Problem, *, chosen: IntArray) -> Problem:
    """Ask the queries at these positions, in this order, as often as they stand there."""
    judged, relevant = (
        None if sets is None else take_queries(sets, chosen=chosen) for sets in (problem.judged, problem.relevant)
    )
    categories = problem.categories
    return Problem(
        take_queries(problem.targets, chosen=chosen),
        judged,
        relevant,
        None if categories is None else categories._replace(wanted=categories.wanted[chosen]),
    )


def some_requests(number: int, *, config: EvaluationConfig) -> IntArray:
    """Draw the places of the requests that are evaluated, ascending: all, or `max_queries` at random."""
    if config.max_queries is None or config.max_queries >= number:
        return np.arange(number)
    rng = np.random.default_rng(config.seed)
    return np.sort(rng.choice(number, size=config.max_queries, replace=False))


def paired_records(comparison: Comparison, config: EvaluationConfig) -> list[AnyRecord]:
    """Compare the model of the config with every other, and the control with the title model.

    Differences claim to be above 0: of the model and any other, of the recall model and the model it is built over, of
    the hybrid and its channels, and of the whole line with a ranker and what may find for it. On `photo_only` the two
    ratios of recall carry the config's claims. The oracle is a ceiling, not a rival: it gets the share reached, and no
    claim.
    """
    on_photos = comparison.slice_name == "photo_only"
    gain = Claim(Effect.RATIO, Relation.AT_LEAST, config.min_photo_gain) if on_photos else None
    control = Claim(Effect.RATIO, Relation.AT_MOST, config.max_control_gain) if on_photos else None
    columns = [Column("recall", k) for k in config.ks]
    also = [Column(metric, config.headline_k) for metric in ("ndcg", "mrr", "relevance", "category")]
    also.append(Column("ndcg_graded", GRADED_K))
    found: list[AnyRecord | None] = []
    for other in comparison.values if config.model in comparison.values else ():
        if other == config.model:
            continue
        if role_of(other) is Role.CEILING:
            found += [comparison.ratio(config.model, baseline=other, column=column) for column in columns]
            continue
        built_over = other in (config.recall_model, config.hybrid_model, config.ranked_model)
        better, worse = (other, config.model) if built_over else (config.model, other)
        found += [comparison.difference(better, baseline=worse, column=column) for column in columns + also]
    for channel in hybrid_channels(comparison, config):
        found += [comparison.difference(config.hybrid_model, baseline=channel, column=one) for one in columns + also]
    for first in (config.recall_model, config.hybrid_model):
        found += [comparison.difference(config.ranked_model, baseline=first, column=one) for one in columns + also]
    for column in columns:
        found.append(comparison.ratio(config.model, baseline=config.title_model, column=column, claim=gain))
        found.append(comparison.ratio(config.control_model, baseline=config.title_model, column=column, claim=control))
        found.append(
            comparison.difference(config.control_model, baseline=config.title_model, column=column, claim=None)
        )
    return [record for record in found if record is not None]


def hybrid_channels(comparison: Comparison, config: EvaluationConfig) -> list[str]:
    """Name the rows, other than `model`, that the hybrid is compared with; none where there is no hybrid."""
    if config.hybrid_model not in comparison.values:
        return []
    return [name for name in (config.recall_model, "bm25") if name in comparison.values]


def value_frames(
    values: Values, *, slice_name: str, asked: Mapping[str, pl.Series], inside: Column
) -> Iterator[pl.DataFrame]:
    """Yield the values of a slice: one row for each model, seed and request.

    Args:
        values: model → column → ``[seeds, requests]``.
        slice_name: for the table.
        asked: column → value of each request: who or what asked.
        inside: the column that is NaN where a request is not in the slice; without it in a model, its first one.
    """
    for model, columns in values.items():
        told = columns.get(inside, next(iter(columns.values())))
        rows = np.flatnonzero(~np.isnan(told[0]))
        for seed in range(len(told)):
            yield pl.DataFrame(
                {
                    "slice": pl.Series([slice_name]).new_from_index(0, len(rows)),
                    "model": pl.Series([model]).new_from_index(0, len(rows)),
                    "seed": np.full(len(rows), seed, dtype=np.int32),
                    **{name: given.gather(rows) for name, given in asked.items()},
                    **{
                        str(column): pl.Series(by_seed[seed][rows]).fill_nan(None)
                        for column, by_seed in columns.items()
                    },
                }
            )


def _columns(by_seed: Sequence[Answer], one: Slice, config: EvaluationConfig) -> dict[Column, FloatArray]:
    """Every metric of one model on one slice: column → `[seeds, requests]`, NaN outside the slice."""
    per_seed = [_per_query(answer, one, config) for answer in by_seed]
    return {column: np.stack([columns[column] for columns in per_seed]) for column in per_seed[0]}


def _per_query(answer: Answer, one: Slice, config: EvaluationConfig) -> dict[Column, FloatArray]:
    """Average what is measured over the users of each query."""
    columns = _per_request(answer, _of_requests(one, answer), config)
    if answer.query_of is None:
        return columns
    users = np.bincount(answer.query_of)
    return {column: np.bincount(answer.query_of, weights=values) / users for column, values in columns.items()}


def _of_requests(one: Slice, answer: Answer) -> Slice:
    """Return a slice of the queries' pairs as that of the requests' pairs."""
    if answer.query_of is None:
        return one
    sizes = np.diff(answer.chosen.targets.offsets)
    starts = _asked_once(answer).offsets[answer.query_of]
    inside = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return one._replace(pair_mask=one.pair_mask[np.repeat(starts, sizes) + inside])


def _asked_once(answer: Answer) -> TargetSets:
    """Return the targets of each query."""
    targets = answer.chosen.targets
    if answer.query_of is None:
        return targets
    return take_queries(targets, chosen=np.unique(answer.query_of, return_index=True)[1])


def _per_request(answer: Answer, one: Slice, config: EvaluationConfig) -> dict[Column, FloatArray]:
    columns: dict[Column, FloatArray] = {}
    outside = np.bincount(answer.chosen.targets.query_of_pair[one.pair_mask], minlength=len(answer.item_rows)) == 0
    for k in config.ks:
        counts = hit_counts(answer.chosen, k=k, pair_mask=one.pair_mask)
        columns[Column("recall", k)] = recall_at_k(answer.chosen, k=k, pair_mask=one.pair_mask)
        columns[Column("hits", k)] = counts.hits.astype(np.float64)
        columns[Column("targets")] = counts.targets.astype(np.float64)
        if one.unit is SliceUnit.QUERIES:
            columns[Column("ndcg", k)] = ndcg_at_k(answer.chosen, k=k)
            columns[Column("mrr", k)] = mrr_at_k(answer.chosen, k=k)
            columns[Column("hit_rate", k)] = hit_rate_at_k(answer.chosen, k=k)
            if answer.judged is not None and answer.relevant is not None:
                columns[Column("relevance", k)] = _relevance(answer.relevant, answer.judged, k=k)
            if answer.categories is not None:
                columns[Column("category", k)] = answer.categories.share(answer.item_rows, k=k)
    if one.unit is SliceUnit.QUERIES and answer.judged is not None:
        columns[Column("ndcg_graded", GRADED_K)] = graded_ndcg_at_k(answer.judged, k=GRADED_K)
    return {column: np.where(outside, np.nan, values) for column, values in columns.items()}


def chance_columns(
    targets: TargetSets, one: Slice, *, num_candidates: IntArray, ks: Sequence[int]
) -> dict[Column, FloatArray]:
    """Recall and NDCG that answers drawn at random have on average, exactly: column → `[1, requests]`.

    Each place of an answer holds any one of the candidates with the same probability, so a target stands among the
    first K with probability K / candidates.

    Args:
        targets: what was chosen.
        one: the slice; NaN outside it.
        num_candidates: integers `[requests]`, at least as many as a request has targets.
        ks: cut-offs.
    """
    inside = np.bincount(targets.query_of_pair[one.pair_mask], minlength=targets.num_queries).astype(np.float64)
    inside[inside == 0] = np.nan
    columns: dict[Column, FloatArray] = {Column("targets"): inside}
    longest = int(max(*ks, np.diff(targets.offsets).max()))
    gains = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(2, longest + 2)))])
    sizes = np.diff(targets.offsets)
    for k in ks:
        found = np.minimum(k, num_candidates)
        columns[Column("recall", k)] = np.where(np.isnan(inside), np.nan, found / num_candidates)
        columns[Column("hits", k)] = inside * found / num_candidates
        if one.unit is SliceUnit.QUERIES:
            expected = sizes / num_candidates * gains[found] / gains[np.minimum(np.maximum(sizes, 1), k)]
            columns[Column("ndcg", k)] = np.where(np.isnan(inside), np.nan, expected)
    return {column: values[None] for column, values in columns.items()}


def _relevance(relevant: Matches, judged: Matches, *, k: int) -> FloatArray:
    """Share of the first `k` that is relevant, for requests that were judged at all."""
    share = (relevant.pairs[:, :k] >= 0).sum(axis=1) / k
    return np.where(np.diff(judged.targets.offsets) > 0, share, np.nan)


def _singles(comparison: Comparison, config: EvaluationConfig) -> Iterator[Record]:
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
    answers: Mapping[str, Sequence[Answer]],
    one: Slice,
    *,
    num_items: int,
    config: EvaluationConfig,
) -> Iterator[Record]:
    for model, by_seed in answers.items():
        first = by_seed[0]
        inside = np.unique(first.chosen.targets.query_of_pair[_of_requests(one, first).pair_mask])
        num_queries = len(inside if first.query_of is None else np.unique(first.query_of[inside]))
        for k in config.ks:
            values = [coverage_at_k(answer.item_rows[inside], k=k, num_items=num_items) for answer in by_seed]
            yield comparison.constant(
                model, Column("coverage", k), seed_values=np.array(values), num_queries=num_queries
            )
