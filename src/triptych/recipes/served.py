"""Which of a run's trainings is served: the one of `pretrain`, or one beside it that finds more on the validation part.

More means by more than chance: over queries drawn again (paired, seeds averaged), and by more than one seed of either
training differs from another. Less than that is a tie, and `pretrain` goes on to be served: whoever adds a training to
compare changes what answers for a reason only.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from triptych.data.splits import Split
from triptych.foundation.artifact import Artifact, produce
from triptych.metrics.ranking import FloatArray
from triptych.metrics.significance import Interval, paired_difference
from triptych.recall.validation import Measure
from triptych.recipes.config import Serve
from triptych.recipes.encoders import Plan
from triptych.recipes.stages import AllTrained, Stages
from triptych.recipes.validation import validation_queries

log = logging.getLogger(__name__)

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


class Gain(NamedTuple):
    """What the best training beside that of `pretrain` finds over it."""

    other: str
    over: Interval
    """The difference of the means, with its interval over queries."""
    spread: float
    """By how much two seeds of either training differ at most; 0 of one seed, which says nothing of others."""

    @property
    def is_better(self) -> bool:
        """Whether the other one is served."""
        return self.over.low > 0 and self.over.value > self.spread

    @property
    def is_tie(self) -> bool:
        """Whether neither is told from the other."""
        is_worse = self.over.high < 0 and -self.over.value > self.spread
        return not (self.is_better or is_worse)


def gain_of(found: Mapping[str, FloatArray]) -> Gain:
    """Compare the first training with the best of the others.

    Args:
        found: name → what it finds of each query, ``[seeds, queries]`` without NaN; that of `pretrain` first, and
            another at least.
    """
    own, *others = found
    best = max(others, key=lambda name: float(found[name].mean()))
    over = paired_difference(found[best], baseline=found[own], rng=np.random.default_rng(0))
    return Gain(best, over, max(float(np.ptp(found[name].mean(axis=1))) for name in (own, best)))


def words_of(choice: Artifact) -> str:
    """Say what validation chose, what each training found, and whether that is a tie."""
    summary = choice.summary
    found = ", ".join(f"{name} {100 * np.mean(values):.1f} %" for name, values in summary["seeds"].items())
    asked = f"{summary['metric']} {found}, of {summary['queries']:,} validation queries"
    against = summary.get("against")  # none in a run of before ties were told
    if against is None or not against["is_tie"]:
        return f"{summary['served']}: {asked}"
    value, low, high = (100 * one for one in against["over"])
    seeds = f", seeds differ by up to {100 * against['spread']:.1f}" if against["spread"] else ""
    return (
        f"{summary['served']} (a tie, so that of pretrain): {asked}; {against['other']} − {summary['served']} "
        f"{value:+.1f} [{low:+.1f}, {high:+.1f}] points{seeds}"
    )


def served_of_run(trained: AllTrained, *, stages: Stages, split: Split) -> Served:
    """Return what is served; with ``serve = "validation"`` each training answers the same queries, with every seed.

    A tie is said in the log.

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
    described = {
        "k": config.evaluation.headline_k,
        "queries": MOST_QUERIES,
        "dense": config.dense.dump(),
        "within_noise": Serve.PRETRAIN.value,
    }
    inputs = {"catalogue": stages.catalogue.artifact, "split": split.artifact, **made}
    choice = stages.stage(KIND, lambda out: produce(out, kind=KIND, config=described, inputs=inputs, build=build))
    if choice.summary["against"]["is_tie"]:
        log.info("serves %s", words_of(choice))
    return Served(next(plan for plan in plans if plan.name == choice.summary["served"]), choice)


def _measured(
    _folder: object, *, plans: list[Plan], trained: AllTrained, stages: Stages, split: Split
) -> Mapping[str, Any]:
    """Ask every training; the summary is all that is kept."""
    config = stages.config
    asked = validation_queries(stages, split=split, most=MOST_QUERIES)
    measure = Measure(asked.wanted, recall_k=config.evaluation.headline_k)
    found: dict[str, FloatArray] = {}
    for plan in plans:
        retrievers = [trained[plan.name, seed].retriever(name=plan.name, config=config) for seed in config.seeds]
        values = np.stack([measure(one.retrieve(asked.requests, measure.k)) for one in retrievers])
        found[plan.name] = values[:, ~np.isnan(values[0])]  # what cannot be found is the same for all
    gain = gain_of(found)
    return {
        "served": gain.other if gain.is_better else plans[0].name,
        "metric": measure.name,
        **{name: float(values.mean()) for name, values in found.items()},
        "queries": len(asked.requests),
        "seeds": {name: values.mean(axis=1).tolist() for name, values in found.items()},
        "against": {**gain._asdict(), "over": list(gain.over), "is_tie": gain.is_tie},
    }
