"""What each metric means, in the words printed beside its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Definition(NamedTuple):
    """A metric's printed name and meaning."""

    label: str
    meaning: str
    is_goal: bool = True
    """Whether more is better."""
    is_share: bool = True
    """Whether it is printed in percent; else as it is."""


METRICS: Mapping[str, Definition] = {
    "recall": Definition(
        "Recall",
        "Share of a query's target items that stand among its first K, averaged over queries (macro). "
        "The whole catalogue is ranked. The targets are everything all users clicked, carted or ordered under that "
        "query in the period, as one set.",
    ),
    "recall_micro": Definition(
        "Micro recall", "Share of all (query, target) pairs whose target stands among the query's first K."
    ),
    "ndcg": Definition(
        "NDCG",
        "Σ 1/log2(rank + 1) over the targets among the first K, divided by the same sum with all targets first; "
        "averaged over queries.",
    ),
    "ndcg_graded": Definition(
        "Graded NDCG",
        "NDCG with gain 2^grade − 1 and log2 discount; the ideal ordering is that of the query's judgements, and an "
        "item without a judgement gains nothing. Queries without a judgement above 0 are left out.",
    ),
    "mrr": Definition(
        "MRR", "1 / rank of the first target, 0 where none stands among the first K; averaged over queries."
    ),
    "hit_rate": Definition("Hit rate", "Share of queries with at least one target among the first K."),
    "relevance": Definition(
        "Relevance",
        "Share of the first K whose judged grade is at least the highest in the judgements (or the one set in the "
        "config); an item without a judgement counts as not relevant. Queries without a judgement are left out.",
    ),
    "category": Definition(
        "Category",
        "Share of the first K whose category is one of the query's: those with a tenth or more of what was chosen "
        "under it in training. Queries that training has not met are left out.",
    ),
    "ndcg_judged": Definition(
        "NDCG, judged items",
        "Only the query's judged items are ranked; an item the model gives no score stands last, by item row. Gain = "
        "grade, log2 discount, the ideal ordering that of the grades. Queries without a grade above 0 are left out.",
    ),
    "ndcg_catalogue": Definition(
        "NDCG, catalogue",
        "The same with the whole catalogue ranked; an item without a judgement gains nothing, though it may be good.",
    ),
    "unjudged": Definition(
        "Unjudged", "Share of the first K of the whole catalogue that was not judged for the query.", is_goal=False
    ),
    "coverage": Definition("Coverage", "Share of the catalogue that is among the first K of at least one query."),
    "gauc": Definition(
        "GAUC",
        "The chance that of what one user (or one request) was shown, something chosen has a higher score than "
        "something that was not, a tie counting half; averaged over those with both, weighed by what they were shown. "
        "50 %: no order at all.",
    ),
    "auc": Definition(
        "AUC", "The same over everything that was shown to anybody: it also rewards knowing where much is chosen."
    ),
    "log_loss": Definition(
        "Log loss", "Mean negative log likelihood of what was chosen and what was not, in nats.", False, False
    ),
    "calibration_error": Definition(
        "Calibration error",
        "Mean distance of predicted probabilities from the rates that came true, in twenty bins of as many samples.",
        is_goal=False,
    ),
    "predicted_over_observed": Definition(
        "Predicted / observed",
        "Sum of probabilities over what was chosen: above 1 promises too much.",
        is_goal=False,
        is_share=False,
    ),
}


class Layout(NamedTuple):
    """How the tables of a task are laid out."""

    unit: str = "queries"
    """What asks, in the plural."""
    drawn: str = ""
    """What the intervals draw again, in the plural; "": what asks."""
    headline: str = "recall"
    """The metric that is shown first, at every cut-off if it has any, and by slice."""
    sentence: str = "With {k} results shown, {model} finds {value} of what {who} went on to choose."
    """The result in a sentence."""

    @property
    def over(self) -> str:
        """What the intervals speak of."""
        return self.drawn or self.unit


RANKING_BY: Mapping[str, str] = {"user": "ranking by user", "request": "ranking by request"}
"""Within what the order is judged → the task's name."""


def _ranking(drawn: str) -> Layout:
    sentence = "Of what one of the " + drawn + " was shown, {model} puts what was chosen first {value} of the time."
    return Layout(unit="shown items", drawn=drawn, headline="gauc", sentence=sentence)


_PHOTOS = Layout(unit="photos", sentence="With {k} results shown, {model} finds {value} of what photos show.")
LAYOUTS: Mapping[str, Layout] = {
    "recommend": Layout(unit="users"),
    "cells": Layout(
        unit="query–cell pairs",
        drawn="queries",
        sentence="With {k} results shown, {model} finds {value} of what {who} of the cell went on to choose.",
    ),
    "photo": _PHOTOS,
    "photo query": _PHOTOS,
    **{task: _ranking(f"{drawn}s") for drawn, task in RANKING_BY.items()},
    "graded": Layout(
        headline="ndcg_judged",
        sentence="{model} ranks the judged items of a query with an NDCG@{k} of {value} of the ideal one.",
    ),
}
"""Task → layout, where it is not that of search."""


def layout(task: str) -> Layout:
    """Look up the layout of a task."""
    return LAYOUTS.get(task, Layout())


def label(metric: str, k: int | None = None) -> str:
    """Print name of a metric, with its cut-off: `Recall@20`."""
    name = METRICS[metric].label if metric in METRICS else metric
    return name if k is None else f"{name}@{k}"


def is_share(metric: str) -> bool:
    """Whether a metric is printed in percent."""
    return METRICS[metric].is_share if metric in METRICS else True
