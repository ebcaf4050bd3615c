"""Choosing how channels are fused, by queries of the validation part; the test part is not read.

No formula has more trials than another: `rrf`, `minmax` and `zscore` try the same weights, all shares of the channels
in quarters, of which each channel alone is one; learned fusion has one convex fit. What is said of a formula is
measured on queries that its weights were not chosen by: they are chosen on one half and measured on the other, both
ways. The formula that is best so gets the weights that are best on all of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize

from triptych.foundation.errors import DataError
from triptych.metrics.ranking import IntArray, TargetSets, match
from triptych.metrics.significance import paired_difference
from triptych.recall.base import BoolArray, Request
from triptych.recall.fusion import Float64Array, Fusion, Union, best, features, unite, weighted
from triptych.recall.models.hybrid import HybridChannel, HybridConfig, LogCounts, Rule, ask, formula_columns
from triptych.recall.validation import Measure

SHARES = 4
"""Weights that are tried are multiples of one in so many."""
SEED = 0
"""Of the resamples behind the interval; everything else is exact."""


class Choice(NamedTuple):
    """A rule, and why."""

    rule: Rule
    summary: dict[str, Any]
    """For people: the metric, and what each channel and each formula had of it."""


def choose(
    channels: Mapping[str, HybridChannel],
    *,
    requests: Sequence[Request],
    wanted: TargetSets,
    config: HybridConfig,
    counts: LogCounts | None,
) -> Choice:
    """Choose the formula, unless it is given, and its weights.

    Args:
        channels: name → channel.
        requests: ``[n]``, of the validation part, at least 2.
        wanted: what each should find; with grades, the choice is by NDCG@10 with gain = grade, else by recall.
        config: which formulas are tried, and the cut-off of recall.
        counts: for learned fusion; None: there is no log.

    Raises:
        DataError: no channel found anything that was wanted.
    """
    found = ask(channels, requests, candidates=config.candidates)
    united = unite(found)
    measure = Measure(wanted, recall_k=config.validation_k)
    alone = {name: measure(hits) for name, hits in zip(channels, found, strict=True)}
    tried = _tried(united, requests=requests, measure=measure, config=config, counts=counts)
    if not any(np.nansum(values) > 0 for values in alone.values()):
        raise DataError(
            "hybrid: no channel finds anything that was chosen in the validation part, so no fusion can be chosen "
            "there. Give hybrid.fusion and hybrid.weights."
        )
    means = {fusion: float(np.nanmean(one.elsewhere)) for fusion, one in tried.items()}
    fusion = max(means, key=lambda one: means[one])  # of equal ones the first, which is the simplest
    strongest = max(alone, key=lambda name: float(np.nanmean(alone[name])))
    pair = tried[fusion].elsewhere, alone[strongest]
    defined = ~np.isnan(pair[0])
    gain = paired_difference(pair[0][defined], baseline=pair[1][defined], rng=np.random.default_rng(SEED))
    summary = {
        "fusion": fusion.value,
        "metric": measure.name,
        "queries": int(defined.sum()),
        **{name: float(np.nanmean(values)) for name, values in alone.items()},
        **{f"fused by {one}": mean for one, mean in means.items()},
        "gain": [gain.low, gain.value, gain.high],
    }
    return Choice(Rule(fusion, tried[fusion].weights, is_preferred=bool(gain.low > 0)), summary)


def given_rule(channels: Sequence[str], *, config: HybridConfig) -> Rule | None:
    """Return the rule that a config gives; None where it is to be chosen."""
    if config.weights is None or config.fusion is None:
        return None
    return Rule(config.fusion, tuple(config.weights[name] for name in channels))


def shares(num_channels: int) -> Float64Array:
    """Return the weights that are tried ``[trials, channels]``, the most even first; each row sums to 1."""
    every = itertools.product(range(SHARES + 1), repeat=num_channels)
    whole = np.array([one for one in every if sum(one) == SHARES], dtype=np.float64) / SHARES
    return whole[np.argsort((whole**2).sum(axis=1), kind="stable")]


def fit_linear(columns: Float64Array, *, gains: Float64Array, is_item: BoolArray, l2: float) -> Float64Array:
    """Fit learned fusion: the weights of least cross entropy between gains and a softmax over a request's candidates.

        loss = - mean over requests of Σ_i gain_i / Σ gain · log softmax_i(columns · weights)  +  l2 / 2 · |weights|²

    It is convex, so the answer is the only one. Source: ListNet's top-one loss (Cao et al., ICML 2007), linear.

    Args:
        columns: ``[n, m, c]``.
        gains: ``[n, m]``, 0 for what was not wanted. Requests without any are left out.
        is_item: ``[n, m]``, False in the padding.
        l2: above 0.

    Returns:
        ``[c]``.

    Raises:
        DataError: no request has a candidate that was wanted.
    """
    total = gains.sum(axis=1)
    kept = total > 0
    if not kept.any():
        raise DataError(
            "hybrid: no candidate was chosen in validation, so nothing can be learned from it. "
            "Set hybrid.fusion to another formula."
        )
    columns, is_item = columns[kept], is_item[kept]
    target = gains[kept] / total[kept, None]

    def loss(weights: Float64Array) -> tuple[float, Float64Array]:
        scores = np.where(is_item, columns @ weights, -np.inf)
        scores -= scores.max(axis=1, keepdims=True)
        likely = np.exp(scores)
        mass = likely.sum(axis=1, keepdims=True)
        log_likely = np.where(is_item, scores, 0.0) - np.log(mass)
        value = -float((target * log_likely).sum()) / len(target) + 0.5 * l2 * float(weights @ weights)
        slope = np.einsum("nmc,nm->c", columns, likely / mass - target, optimize=True) / len(target) + l2 * weights
        return value, slope

    start = np.zeros(columns.shape[-1])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 500, "ftol": 1e-12, "gtol": 1e-8})
    return np.asarray(found.x, dtype=np.float64)


class _Tried(NamedTuple):
    """A formula."""

    weights: tuple[float, ...]
    """Chosen on all requests."""
    elsewhere: Float64Array
    """``[n]``, what each request has by weights chosen on the other half."""


def _tried(
    united: Union,
    *,
    requests: Sequence[Request],
    measure: Measure,
    config: HybridConfig,
    counts: LogCounts | None,
) -> dict[Fusion, _Tried]:
    """Fit every formula that is in question."""
    half = np.arange(len(requests)) % 2 == 0
    wanted = [config.fusion] if config.fusion is not None else list(Fusion)
    tried: dict[Fusion, _Tried] = {}
    for fusion in wanted:
        if fusion is not Fusion.LEARNED:
            columns = formula_columns(united, fusion=fusion, rrf_constant=config.rrf_constant)
            tried[fusion] = _grid(columns, united=united, measure=measure, half=half)
        else:
            context = None if counts is None else counts.context(requests, united=united)
            columns = features(united, context=context)
            tried[fusion] = _learned(columns, united=united, measure=measure, half=half, l2=config.l2)
    return tried


def _grid(columns: Float64Array, *, united: Union, measure: Measure, half: BoolArray) -> _Tried:
    trials = shares(columns.shape[-1])
    values = np.stack(
        [measure(best(weighted(columns, one, united=united), united=united, k=measure.k)) for one in trials]
    )

    def chosen(on: BoolArray) -> int:
        means = np.nan_to_num(np.nanmean(values[:, on], axis=1)) if on.any() else np.zeros(len(values))
        return int(np.argmax(means))

    elsewhere = np.where(half, values[chosen(~half)], values[chosen(half)])
    return _Tried(tuple(trials[chosen(np.ones_like(half))].tolist()), elsewhere)


def _learned(columns: Float64Array, *, united: Union, measure: Measure, half: BoolArray, l2: float) -> _Tried:
    gains, is_item = _gains(united, wanted=measure.wanted), united.item_rows >= 0

    def fitted(on: BoolArray) -> Float64Array:
        return fit_linear(columns[on], gains=gains[on], is_item=is_item[on], l2=l2)

    def measured(weights: Float64Array) -> Float64Array:
        return measure(best(weighted(columns, weights, united=united), united=united, k=measure.k))

    elsewhere = np.where(half, measured(fitted(~half)), measured(fitted(half)))
    return _Tried(tuple(fitted(np.ones_like(half)).tolist()), elsewhere)


def _gains(united: Union, *, wanted: TargetSets) -> Float64Array:
    """Return what each candidate is worth ``[n, m]``: its grade, or 1 where it was chosen."""
    pairs: IntArray = match(united.item_rows, targets=wanted).pairs
    worth = np.ones(len(wanted.item_rows)) if wanted.grades is None else wanted.grades.astype(np.float64)
    return np.append(worth, 0.0)[pairs]
