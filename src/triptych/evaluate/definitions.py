"""What each metric means, in the words printed beside its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Definition(NamedTuple):
    """A metric's printed name and meaning."""

    label: str
    meaning: str
    is_share: bool = True
    """Printed in percent."""


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
    "coverage": Definition("Coverage", "Share of the catalogue that is among the first K of at least one query."),
}


def label(metric: str, k: int | None = None) -> str:
    """Print name of a metric, with its cut-off: `Recall@20`."""
    name = METRICS[metric].label if metric in METRICS else metric
    return name if k is None else f"{name}@{k}"
