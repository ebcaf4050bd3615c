"""Several channels' answers to the same requests as one: their union, and what each formula makes of it.

Three families, all additive over channels, so that a channel adds nothing where it was not asked:

- ``rrf``: Σ weight / (constant + place). Source: Cormack, Clarke, Büttcher, "Reciprocal rank fusion outperforms
  Condorcet and individual rank learning methods", SIGIR 2009; their constant is 60, their weights are equal.
- ``minmax``, ``zscore``: Σ weight · score, each channel's scores normalised over its own candidates. Source: Bruch,
  Gai, Ingber, "An analysis of fusion functions for hybrid retrieval", TOIS 2023; without weights it is CombSUM (Fox and
  Shaw, TREC 2, 1994). What a channel did not find has the least score that it gave.
- ``learned``: a linear function of the features below, trained with a softmax over a request's candidates
  (`recall.fusion_choice`).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from triptych.foundation.types import Hits
from triptych.recall.base import BoolArray, FloatArray, IntArray

Float64Array = NDArray[np.float64]


class Fusion(StrEnum):
    """How channels become one."""

    RRF = "rrf"
    """By places alone."""
    MINMAX = "minmax"
    """By scores between 0 and 1."""
    ZSCORE = "zscore"
    """By scores less their mean, in standard deviations."""
    LEARNED = "learned"
    """By a linear function of places and scores, and with a log of the query's frequency and whether an item is new."""


class Union(NamedTuple):
    """The candidates of each request, from all channels, each once."""

    item_rows: IntArray
    """``[n, m]``, ascending, padded with -1."""
    places: IntArray
    """``[n, m, channels]``, from 1 up; 0 where the channel did not find the item."""
    scores: FloatArray
    """``[n, m, channels]``, as the channel gave them; 0 where it did not find the item."""


def unite(found: Sequence[Hits]) -> Union:
    """Put the answers of all channels to the same requests together.

    Args:
        found: channel → ``[n, candidates]``; only padding for a request that a channel was not asked.
    """
    item_rows = np.concatenate([hits.item_rows for hits in found], axis=1)
    place = np.concatenate([np.arange(hits.item_rows.shape[1]) for hits in found]) + 1
    channel = np.concatenate([np.full(hits.item_rows.shape[1], number) for number, hits in enumerate(found)])
    padding = np.iinfo(np.int64).max
    order = np.argsort(np.where(item_rows < 0, padding, item_rows), axis=1, kind="stable")
    ordered = np.take_along_axis(item_rows, order, axis=1)
    there = ordered >= 0
    is_new = there.copy()
    is_new[:, 1:] &= ordered[:, 1:] != ordered[:, :-1]
    column = np.cumsum(is_new, axis=1) - 1
    width = int(is_new.sum(axis=1).max(initial=0))
    request, position = np.nonzero(there)
    target = (request, column[request, position], channel[order[request, position]])
    united = Union(
        np.full((len(item_rows), width), -1, np.int64),
        np.zeros((len(item_rows), width, len(found)), np.int64),
        np.zeros((len(item_rows), width, len(found)), np.float32),
    )
    united.item_rows[target[:2]] = ordered[request, position]
    united.places[target] = place[order[request, position]]
    scores = np.concatenate([hits.scores for hits in found], axis=1)
    united.scores[target] = np.take_along_axis(scores, order, axis=1)[request, position]
    return united


def reciprocal(places: IntArray, *, constant: float) -> Float64Array:
    """Return 1 / (constant + place), and 0 for what was not found (place 0)."""
    return np.where(places > 0, 1.0 / (constant + np.maximum(places, 1)), 0.0)


def normalised(united: Union, *, fusion: Fusion) -> Float64Array:
    """Normalise each channel's scores over its candidates of each request.

    Where all of them are equal, there is nothing to divide by: what was found has 1, what was not 0, in both formulas.

    Args:
        united: from `unite`.
        fusion: minmax or zscore.

    Returns:
        ``[n, m, channels]``; 0 for a channel that found nothing.
    """
    there = united.places > 0
    scores = united.scores.astype(np.float64)
    lowest = np.where(there, scores, np.inf).min(axis=1, keepdims=True, initial=np.inf)
    highest = np.where(there, scores, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    with np.errstate(invalid="ignore"):
        spread = highest - lowest
    if fusion is Fusion.MINMAX:
        middle, scale = lowest, spread
    else:
        count = np.maximum(there.sum(axis=1, keepdims=True), 1)
        middle = np.where(there, scores, 0.0).sum(axis=1, keepdims=True) / count
        scale = np.sqrt((np.where(there, scores - middle, 0.0) ** 2).sum(axis=1, keepdims=True) / count)
    varies = spread > 0
    least = np.where(there.any(axis=1, keepdims=True), lowest, 0.0)
    own = np.where(there, scores, least)
    with np.errstate(invalid="ignore"):
        spread_out = (own - np.where(varies, middle, 0.0)) / np.where(varies, scale, 1.0)
    return np.where(varies, spread_out, there.astype(np.float64))


class Context(NamedTuple):
    """What a log tells learned fusion beside the channels' answers."""

    log_frequency: Float64Array
    """``[n]``, log(1 + choices under the query in training): 0 for a query that training has not met."""
    is_new: BoolArray
    """``[n, m]``, items that nobody chose in training."""


def feature_names(channels: Sequence[str], *, with_context: bool) -> list[str]:
    """Name the features of learned fusion, in their order."""
    own = ["1/place", "61/(60+place)", "minmax", "found"]
    own += ["61/(60+place) * log frequency of the query"] if with_context else []
    return [f"{channel}: {feature}" for channel in channels for feature in own] + ["item is new"] * with_context


def features(united: Union, *, context: Context | None) -> Float64Array:
    """Compute what learned fusion reads of each candidate: ``[n, m, features]``, 0 in the padding.

    Reciprocal-rank and min-max fusion are linear in them, so the best linear function is at least as likely as any of
    these two, and as any one channel's order.
    """
    smooth = 61.0 * reciprocal(united.places, constant=60.0)
    columns = [
        reciprocal(united.places, constant=0.0),
        smooth,
        normalised(united, fusion=Fusion.MINMAX),
        (united.places > 0).astype(np.float64),
    ]
    if context is not None:
        columns.append(smooth * context.log_frequency[:, None, None])
    by_channel = np.stack(columns, axis=-1)
    flat = by_channel.reshape(*by_channel.shape[:2], -1)
    if context is None:
        return flat
    return np.concatenate([flat, (context.is_new & (united.item_rows >= 0)).astype(np.float64)[..., None]], axis=-1)


def weighted(columns: Float64Array, weights: Float64Array, *, united: Union) -> FloatArray:
    """Sum the columns ``[n, m, c]`` by their weights ``[c]``: float32 ``[n, m]``, -inf in the padding.

    One after another, not as a matrix product: no number may depend on how many requests are asked together.
    """
    total = np.zeros(columns.shape[:2])
    for column, weight in enumerate(weights.tolist()):
        total += weight * columns[..., column]
    return np.where(united.item_rows >= 0, total, -np.inf).astype(np.float32)


def best(scores: FloatArray, *, united: Union, k: int) -> Hits:
    """Order the candidates of each request: ``[n, k]``, equal scores by item row, padded behind."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]  # rows ascend in a union, so ties are by item row
    hits = Hits.empty(len(scores), k)
    hits.item_rows[:, : order.shape[1]] = np.take_along_axis(united.item_rows, order, axis=1)
    hits.scores[:, : order.shape[1]] = np.take_along_axis(scores, order, axis=1)
    return hits
