"""Recommendation: does a model find what users chose next, given what each had chosen before?

Protocol: every user who chose something in the held-out part is asked with his history; every model ranks the whole
catalogue but for the items of that history; the targets are what he chose in the part and had not chosen before; each
metric is a mean over users. What a model has learnt from is the split's business, and its caution stands beside every
number. Popularity and item-kNN stand in the same table.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from triptych.data.catalogue import Catalogue
from triptych.data.splits import Split
from triptych.data.targets import UserItems, UserTargets
from triptych.evaluate.measure import Answer, Problem, measure, some_requests, take_queries
from triptych.evaluate.slices import user_slices
from triptych.evaluate.tasks.base import EvaluationConfig, Models, Rankings, TaskResult, retrieve_all, seeds_of
from triptych.foundation.errors import DataError
from triptych.metrics.ranking import IntArray, TargetSets
from triptych.recall.base import Request

TASK = "recommend"
MEANINGS = {
    "recall": "Share of what a user chose in the part, and had not chosen before, that stands among his first K, "
    "averaged over users (macro). The whole catalogue is ranked but for the items of his history.",
    "ndcg": "Σ 1/log2(rank + 1) over the targets among the first K, divided by the same sum with all targets first; "
    "averaged over users.",
    "mrr": "1 / rank of the first target, 0 where none stands among the first K; averaged over users.",
    "hit_rate": "Share of users with at least one target among the first K.",
    "coverage": "Share of the catalogue that is among the first K of at least one user.",
}


def evaluate(
    models: Models, *, catalogue: Catalogue, split: Split, config: EvaluationConfig, with_chance: bool = False
) -> TaskResult:
    """Compare retrievers on the users of a held-out part.

    Args:
        models: Name → retriever that answers requests with a history, or one for each seed.
        catalogue: Items, users and events.
        split: The parts.
        config: Cut-offs, number of resamples, what belongs to a history, which models the claims speak of.
        with_chance: Whether a row says what answers drawn at random would have.

    Returns:
        Records for each slice that is not empty (cold items, items by training frequency, users by the length of their
        history), paired records of `config.model` against every other model, and the values of each user.

    Raises:
        DataError: Nobody in the part has a history and a target.
    """
    found = user_problem(catalogue, split=split, config=config)
    users = [catalogue.users[row] for row in found.user_row]

    def make(position: int) -> Request:
        history = found.histories.of(position)
        keep = np.ones(catalogue.num_items, dtype=np.bool_)
        keep[history] = False  # for every model alike, whatever it would leave out itself
        return Request(user=users[position], history=history, keep=keep)

    problem = Problem(TargetSets(found.targets.offsets, found.targets.item_rows))
    answers = {
        model: [
            Answer.of(
                retrieve_all(
                    retriever,
                    num_requests=len(users),
                    make=make,
                    k=max(config.ks),
                    label=f"recommend with {model}" + (f", seed {seed}" if len(retrievers) > 1 else ""),
                ),
                problem,
            )
            for seed, retriever in enumerate(retrievers)
        ]
        for model, retrievers in seeds_of(models).items()
    }
    slices = user_slices(catalogue, split=split, found=found)
    measured = measure(
        answers,
        slices=slices,
        asked={"user_row": pl.Series(found.user_row, dtype=pl.Int32), "user": pl.Series(users)},
        task=TASK,
        num_items=catalogue.num_items,
        config=config,
        num_candidates=_num_candidates(catalogue, found) if with_chance else None,
    )
    return TaskResult(
        task=TASK,
        title="Recommendation: what users chose next",
        records=measured.records,
        per_query=measured.per_query,
        definitions={one.name: one.definition for one in slices},
        meanings=MEANINGS,
        rankings=Rankings(
            found.user_row,
            problem.targets,
            {model: by_seed[0].item_rows for model, by_seed in answers.items()},
            histories=found.histories,
        ),
    )


def user_problem(catalogue: Catalogue, *, split: Split, config: EvaluationConfig) -> UserTargets:
    """Collect the users of the part, their histories and what each should be shown.

    Raises:
        DataError: Nobody in the part has a history and a target.
    """
    found = split.user_targets(catalogue, config.part, history=config.history)
    if not len(found.user_row):
        raise DataError(
            f"evaluate: no user of the {config.part} part chose something before it and something new in it, so "
            "recommendation cannot be measured. Check the events' user column, or choose another split."
        )
    chosen = some_requests(len(found.user_row), config=config)
    return found._replace(
        user_row=found.user_row[chosen],
        histories=_take(found.histories, chosen=chosen),
        targets=_take(found.targets, chosen=chosen),
    )


def _num_candidates(catalogue: Catalogue, found: UserTargets) -> IntArray:
    """Count the items that each user may be shown: all but those of his history."""
    places = range(len(found.user_row))
    known = np.array([len(np.unique(found.histories.of(place))) for place in places], dtype=np.int64)
    return catalogue.num_items - known


def _take(items: UserItems, *, chosen: IntArray) -> UserItems:
    taken = take_queries(TargetSets(items.offsets, items.item_rows), chosen=chosen)
    return UserItems(taken.offsets, taken.item_rows)
