"""Search: does a model find what people clicked next, and what is relevant?

Protocol (Taobao article, next-day): the clicks, carts and orders of *all* users under one query in the held-out period
are one target set; every model ranks the whole catalogue for the query string alone; each metric is a mean over
queries. Popularity, BM25 and the oracle stand in the same table.

So a personal model is asked for nobody known, and its history, empty, tells it nothing. With ``users_per_query`` each
query is asked for some of those who chose something under it in the period, with their histories before that, and its
metrics are averaged over them, before they are over queries. The targets stay those of all users.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from triptych.data.askers import draw_askers
from triptych.data.catalogue import Catalogue
from triptych.data.splits import Split
from triptych.evaluate.askers import as_request
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
    take_requests,
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
    askers, most = None, config.users_per_query
    if most is not None:
        places = split.part(config.part)
        askers = draw_askers(catalogue, places=places, query_rows=query_rows, most=most, seed=config.seed)
    asked = problem if askers is None else take_requests(problem, chosen=askers.query_of)
    slices = search_slices(catalogue, split=split, query_rows=query_rows, targets=problem.targets)

    def make(position: int) -> Request:
        if askers is None:
            return Request(query=queries[position])
        return as_request(askers, position, queries=queries, users=catalogue.users)

    answers = {
        model: [
            Answer.of(
                retrieve_all(
                    retriever,
                    num_requests=len(queries) if askers is None else len(askers.user_row),
                    make=make,
                    k=max(*config.ks, GRADED_K),
                    label=f"search with {model}" + (f", seed {seed}" if len(retrievers) > 1 else ""),
                ),
                asked,
            )._replace(query_of=None if askers is None else askers.query_of)
            for seed, retriever in enumerate(retrievers)
        ]
        for model, retrievers in seeds_of(models).items()
    }
    first_of = slice(None) if askers is None else np.unique(askers.query_of, return_index=True)[1]
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
        title="Search: what was clicked next" + ("" if most is None else f", asked for {most} of those who did"),
        records=measured.records,
        per_query=measured.per_query,
        definitions={one.name: one.definition for one in slices},
        rankings=Rankings(
            query_rows,
            problem.targets,
            {model: by_seed[0].item_rows[first_of] for model, by_seed in answers.items()},
            by_seed={model: [one.item_rows[first_of] for one in by_seed] for model, by_seed in answers.items()},
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
