"""Search: does a model find what people clicked next, and what is relevant?

Protocol (Taobao article, next-day): the clicks, carts and orders of *all* users under one query in the held-out period
are one target set; every model ranks the whole catalogue for the query string alone; each metric is a mean over
queries. Popularity, BM25 and the oracle stand in the same table.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from triptych.data.catalogue import Catalogue
from triptych.data.splits import Split
from triptych.evaluate.measure import (
    GRADED_K,
    Answer,
    Problem,
    judged_targets,
    measure,
    query_categories,
    relevant_targets,
    some_requests,
    take_queries,
)
from triptych.evaluate.slices import search_slices
from triptych.evaluate.tasks.base import EvaluationConfig, Models, Rankings, TaskResult, retrieve_all, seeds_of
from triptych.foundation.errors import DataError
from triptych.metrics.ranking import IntArray, TargetSets
from triptych.recall.base import Request

TASK = "search"


def evaluate(
    models: Models, *, catalogue: Catalogue, split: Split, config: EvaluationConfig, with_chance: bool = False
) -> TaskResult:
    """Compare retrievers on the queries of a held-out period.

    Args:
        models: Name → retriever, or one for each seed. The names `popularity`, `bm25`, `oracle`, `title`, `photo`,
            `title+photo` and `permuted-photo` are known to the report; any other is a trained model.
        catalogue: Items, queries and judgements.
        split: The periods.
        config: Cut-offs, number of resamples, which models the claims speak of.
        with_chance: Whether a row says what answers drawn at random would have.

    Returns:
        Records for each slice that is not empty, paired records of `config.model` against every other model and of
        the control against the title model, and the values of each query.

    Raises:
        DataError: The period has no query with a click.
    """
    query_rows, problem = search_problem(catalogue, split=split, config=config)
    queries = [catalogue.queries[row] for row in query_rows]
    slices = search_slices(catalogue, split=split, query_rows=query_rows, targets=problem.targets)
    answers = {
        model: [
            Answer.of(
                retrieve_all(
                    retriever,
                    num_requests=len(queries),
                    make=lambda position: Request(query=queries[position]),
                    k=max(*config.ks, GRADED_K),
                    label=f"search with {model}" + (f", seed {seed}" if len(retrievers) > 1 else ""),
                ),
                problem,
            )
            for seed, retriever in enumerate(retrievers)
        ]
        for model, retrievers in seeds_of(models).items()
    }
    measured = measure(
        answers,
        slices=slices,
        asked={"query_row": pl.Series(query_rows, dtype=pl.Int32), "query": pl.Series(queries)},
        task=TASK,
        num_items=catalogue.num_items,
        config=config,
        num_candidates=np.full(len(queries), catalogue.num_items) if with_chance else None,
    )
    return TaskResult(
        task=TASK,
        title="Search: what was clicked next",
        records=measured.records,
        per_query=measured.per_query,
        definitions={one.name: one.definition for one in slices},
        rankings=Rankings(
            query_rows,
            problem.targets,
            {model: by_seed[0].item_rows for model, by_seed in answers.items()},
        ),
    )


def search_problem(catalogue: Catalogue, *, split: Split, config: EvaluationConfig) -> tuple[IntArray, Problem]:
    """Collect the queries of the period, their clicked items and their judgements.

    Returns:
        Rows of the catalogue's queries, and what is to be found for each.

    Raises:
        DataError: The period has no query with a click.
    """
    found = split.targets(config.part)
    if not len(found.query_row):
        raise DataError(
            f"evaluate: the {config.part} period has no query with a click, so search cannot be measured. "
            "Check the events' query column, or choose earlier split dates."
        )
    everything = TargetSets(np.asarray(found.offsets, dtype=np.int64), np.asarray(found.item_rows, dtype=np.int64))
    chosen = some_requests(len(found.query_row), config=config)
    query_rows = np.asarray(found.query_row, dtype=np.int64)[chosen]
    judged = judged_targets(catalogue, query_rows=query_rows)
    relevant = None if judged is None else relevant_targets(judged, catalogue=catalogue, config=config)
    categories = query_categories(catalogue, split=split, query_rows=query_rows)
    return query_rows, Problem(take_queries(everything, chosen=chosen), judged, relevant, categories)
