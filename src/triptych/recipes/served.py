"""Which of a run's trainings is served: the one of `pretrain`, or whichever finds most on the validation part."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from triptych.data.splits import Split
from triptych.foundation.artifact import Artifact, produce
from triptych.recall.validation import Measure
from triptych.recipes.config import Serve
from triptych.recipes.encoders import Plan
from triptych.recipes.stages import AllTrained, Stages
from triptych.recipes.validation import validation_queries

KIND = "served"
MOST_QUERIES = 2_000
"""Queries of the validation part that choose."""


class Served(NamedTuple):
    """The training whose encoder answers, and whose vectors recall and hybrid read."""

    plan: Plan
    choice: Artifact | None = None
    """What each training found, kind ``served``; None: nothing was chosen."""

    @property
    def inputs(self) -> dict[str, Artifact]:
        """What a report that depends on the choice was made of."""
        return {} if self.choice is None else {KIND: self.choice}

    @property
    def words(self) -> str:
        """The choice as a report says it: the name, and what each training found; empty: nothing was chosen."""
        return "" if self.choice is None else words_of(self.choice)


def words_of(choice: Artifact) -> str:
    """Say what validation chose, and what each training found: of equal ones that of `pretrain`."""
    summary = choice.summary
    found = ", ".join(f"{name} {100 * np.mean(values):.1f} %" for name, values in summary["seeds"].items())
    return f"{summary['served']}: {summary['metric']} {found}, of {summary['queries']:,} validation queries"


def served_of_run(trained: AllTrained, *, stages: Stages, split: Split) -> Served:
    """Return what is served; with ``serve = "validation"`` each training answers the same queries, with every seed.

    Args:
        trained: from `Stages.train`.
        stages: of the run.
        split: its validation part is asked; the test part is not read.

    Raises:
        DataError: there is no query to choose by.
    """
    config = stages.config
    if config.serve is Serve.PRETRAIN:
        return Served(stages.own_plan)
    plans = [stages.own_plan, *stages.beside_plans]
    made = {f"{plan.name} seed {seed}": trained[plan.name, seed].encoder for plan in plans for seed in config.seeds}
    build = partial(_measured, plans=plans, trained=trained, stages=stages, split=split)
    described = {"k": config.evaluation.headline_k, "queries": MOST_QUERIES, "dense": config.dense.dump()}
    inputs = {"catalogue": stages.catalogue.artifact, "split": split.artifact, **made}
    choice = stages.stage(KIND, lambda out: produce(out, kind=KIND, config=described, inputs=inputs, build=build))
    return Served(next(plan for plan in plans if plan.name == choice.summary["served"]), choice)


def _measured(
    _folder: object, *, plans: list[Plan], trained: AllTrained, stages: Stages, split: Split
) -> Mapping[str, Any]:
    """Ask every training; the summary is all that is kept."""
    config = stages.config
    asked = validation_queries(stages, split=split, most=MOST_QUERIES)
    measure = Measure(asked.wanted, recall_k=config.evaluation.headline_k)
    found: dict[str, list[float]] = {plan.name: [] for plan in plans}
    for plan in plans:
        for seed in config.seeds:
            retriever = trained[plan.name, seed].retriever(name=plan.name, config=config)
            found[plan.name].append(float(np.nanmean(measure(retriever.retrieve(asked.requests, measure.k)))))
    means = {name: float(np.mean(values)) for name, values in found.items()}
    best = max(means, key=lambda name: means[name])  # of equal ones the first, which is `pretrain`'s
    return {"served": best, "metric": measure.name, **means, "queries": len(asked.requests), "seeds": found}
