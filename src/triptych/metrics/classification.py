"""How well scores tell what was chosen from what was not: AUC over everything and within groups, and log loss.

An AUC is the chance that something chosen scores above something that was not, a tie counting half. Over everything it
also rewards knowing which users choose much; within groups (GAUC) it only asks for the order that a user is shown.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from triptych.foundation.errors import DataError
from triptych.metrics.ranking import BoolArray, FloatArray, IntArray


class GroupAucs(NamedTuple):
    """The AUC within each group."""

    groups: IntArray
    """``[groups]``, their numbers, ascending."""
    values: FloatArray
    """``[groups]``; NaN where all labels are equal."""
    sizes: IntArray
    """``[groups]``, samples of each."""

    @property
    def is_defined(self) -> BoolArray:
        """Which groups have both labels."""
        return ~np.isnan(self.values)

    def gauc(self) -> float:
        """Return the mean weighed by samples, over groups with both labels; NaN without one.

        Source: Zhou et al., "Deep interest network for click-through rate prediction", KDD 2018, section 6.2, which
        weighs a user by his impressions.
        """
        defined = self.is_defined
        return float(np.average(self.values[defined], weights=self.sizes[defined])) if defined.any() else float("nan")

    def uauc(self) -> float:
        """Return the mean over groups with both labels, each counting alike; NaN without one."""
        defined = self.is_defined
        return float(self.values[defined].mean()) if defined.any() else float("nan")


def auc(labels: npt.NDArray[Any], scores: npt.NDArray[Any]) -> float:
    """Return the area under the ROC curve; NaN where all labels are equal, or there are none.

    Args:
        labels: Bool ``[n]``.
        scores: Floats ``[n]``, of any scale.

    Raises:
        DataError: lengths differ, or a score is NaN.
    """
    values = group_aucs(labels, scores, groups=np.zeros(len(labels), np.int64)).values
    return float(values[0]) if len(values) else float("nan")


def group_aucs(labels: npt.NDArray[Any], scores: npt.NDArray[Any], *, groups: npt.NDArray[Any]) -> GroupAucs:
    """Return the AUC within each group, by one sort of all samples.

    Args:
        labels: Bool ``[n]``.
        scores: Floats ``[n]``.
        groups: Integers ``[n]``, such as the user or the page of each sample.

    Raises:
        DataError: lengths differ, or a score is NaN.
    """
    _check(labels, scores, groups)
    order = np.lexsort((scores, groups))
    positive, ordered, grouped = labels[order].astype(bool), scores[order], groups[order]
    numbers, starts, sizes = np.unique(grouped, return_index=True, return_counts=True)
    of = np.repeat(np.arange(len(numbers)), sizes)
    # Equal scores of a group share the mean of their ranks.
    is_new = np.ones(len(order), dtype=bool)
    is_new[1:] = (grouped[1:] != grouped[:-1]) | (ordered[1:] != ordered[:-1])
    tie_starts = np.flatnonzero(is_new)
    tie_sizes = np.diff(np.append(tie_starts, len(order)))
    rank = np.repeat(tie_starts + (tie_sizes + 1) / 2, tie_sizes) - starts[of]
    positives = np.bincount(of, weights=positive, minlength=len(numbers))
    rank_sums = np.bincount(of, weights=rank * positive, minlength=len(numbers))
    pairs = positives * (sizes - positives)
    values = np.full(len(numbers), np.nan)
    np.divide(rank_sums - positives * (positives + 1) / 2, pairs, out=values, where=pairs > 0)
    return GroupAucs(numbers.astype(np.int64), values, sizes.astype(np.int64))


def auc_values(labels: npt.NDArray[Any], scores: npt.NDArray[Any]) -> FloatArray:
    """Spread an AUC over its samples, so that means over samples drawn again tell how it varies.

    An AUC is no mean over samples, but to first order it varies like one: a sample's value is the AUC plus its
    influence, which is how much more often it stands on the right side of the other class than is usual, by the inverse
    of its class's share. Groups of samples may be drawn together (a cluster bootstrap).

    Source: DeLong, DeLong and Clarke-Pearson 1988 (structural components); Obuchowski 1997 for clusters.

    Args:
        labels: Bool ``[n]``.
        scores: Floats ``[n]``.

    Returns:
        Float64 ``[n]``, whose mean is the AUC; NaN where all labels are equal.

    Raises:
        DataError: lengths differ, or a score is NaN.
    """
    _check(labels, scores, labels)
    positive = labels.astype(bool)
    count = int(positive.sum())
    if count in (0, len(labels)):
        return np.full(len(labels), np.nan)
    chosen, left = np.sort(scores[positive]), np.sort(scores[~positive])

    def below(ordered: npt.NDArray[Any], given: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the share of `ordered` below each of `given`, a tie counting half."""
        either = sum(np.searchsorted(ordered, given, side=side) for side in ("left", "right"))
        return np.asarray(either) / (2 * len(ordered))

    right = np.where(positive, below(left, scores), 1.0 - below(chosen, scores))
    area = float(right[positive].mean())
    shares = np.where(positive, count, len(labels) - count) / len(labels)
    values: FloatArray = area + (right - area) / shares
    return values


def log_loss(labels: npt.NDArray[Any], logits: npt.NDArray[Any]) -> float:
    """Return the mean negative log likelihood of the labels, in nats; NaN without samples.

    Args:
        labels: Bool ``[n]``.
        logits: Floats ``[n]``, log odds: from them the loss of a sure mistake is exact, not clipped.

    Raises:
        DataError: lengths differ, or a logit is NaN.
    """
    losses = sample_log_losses(labels, logits)
    return float(losses.mean()) if len(losses) else float("nan")


def sample_log_losses(labels: npt.NDArray[Any], logits: npt.NDArray[Any]) -> FloatArray:
    """Return the negative log likelihood of each label, in nats ``[n]``; arguments and errors as of `log_loss`."""
    _check(labels, logits, labels)
    signed = np.where(labels.astype(bool), -1.0, 1.0) * logits.astype(np.float64)
    losses: FloatArray = np.logaddexp(0.0, signed)
    return losses


def _check(labels: npt.NDArray[Any], scores: npt.NDArray[Any], groups: npt.NDArray[Any]) -> None:
    if not len(labels) == len(scores) == len(groups):
        raise DataError(
            f"classification metrics: {len(labels)} labels, {len(scores)} scores and {len(groups)} groups; give one of "
            "each for every sample."
        )
    if np.isnan(scores).any():
        raise DataError(f"classification metrics: {int(np.isnan(scores).sum())} of {len(scores)} scores are NaN.")
