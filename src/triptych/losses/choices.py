"""Ranking losses on samples that were shown: was each chosen, and was it chosen over its neighbours?"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from triptych.losses.base import LossOutput


def chosen_or_not(
    logits: Tensor, *, labels: Tensor, negative_rate: float = 1.0, total: int | None = None
) -> LossOutput:
    r"""Binary cross-entropy, with the logits those of the whole log where negatives were thinned out.

    .. math:: L = -\frac{1}{N} \sum_i y_i \log \sigma(z_i - \log r) + (1 - y_i) \log \sigma(-(z_i - \log r))

    Of negatives kept at a rate r the odds are 1 / r times those of the log, so the model's z, to which that is added,
    learns the log's own: scores are calibrated as they come, and serving need not know of the rate.

    Source: King and Zeng, "Logistic regression in rare events data", 2001, prior correction; at serving time the same
    as He et al., "Practical lessons from predicting clicks on ads at Facebook", 2014, section 6.3.

    Args:
        logits: ``[n]``, log odds z.
        labels: bool ``[n]``, y.
        negative_rate: r, share of negatives that were kept; in (0, 1].
        total: samples N that the sum is divided by, where these are a share of more; None: these.

    Returns:
        The mean in float32 (float64 for float64 input), whatever autocast says; 0 without samples. Parts:
        ``cross_entropy``.
    """
    with torch.autocast(logits.device.type, enabled=False):
        precise = logits.to(torch.promote_types(logits.dtype, torch.float32)) - math.log(negative_rate)
        losses = functional.binary_cross_entropy_with_logits(precise, labels.to(precise.dtype), reduction="sum")
        loss = losses / max(len(logits) if total is None else total, 1)
    return LossOutput(loss, {"cross_entropy": loss})


def chosen_over_others(logits: Tensor, *, labels: Tensor, groups: Tensor) -> LossOutput:
    r"""Pairwise logistic loss: within a request, what was chosen should score above what was not.

    .. math:: L = \frac{1}{|P|} \sum_{(i, j) \in P} \log(1 + e^{z_j - z_i}), \qquad P = \{g_i = g_j, y_i = 1, y_j = 0\}

    It asks for the order within requests alone, so it says nothing of probabilities: add it to `chosen_or_not`.
    Source: Burges et al., "Learning to rank using gradient descent" (RankNet), ICML 2005. `bpr` compares a request's
    choices with negatives that all requests share.

    Args:
        logits: ``[n]``, z.
        labels: bool ``[n]``, y.
        groups: int64 ``[n]``, g, the request of each; equal ones stand side by side.

    Returns:
        The mean over pairs in float32 (float64 for float64 input); 0, with a gradient of zeros, without one. Parts:
        ``pairwise``, and ``pairs_in_order``, the share of pairs that are.
    """
    with torch.autocast(logits.device.type, enabled=False):
        precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
        chosen, other = _pairs(labels, groups)
        margins = precise[chosen] - precise[other]
        count = max(len(margins), 1)
        loss = functional.softplus(-margins).sum() / count + 0 * precise.sum()
        in_order = (margins.detach() > 0).sum() / count
    return LossOutput(loss, {"pairwise": loss, "pairs_in_order": in_order})


def _pairs(labels: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Return the places of both sides of all pairs, without comparing samples of different groups."""
    positives, negatives = labels.nonzero()[:, 0], (~labels).nonzero()[:, 0]
    numbers = torch.zeros_like(groups)
    numbers[1:] = (groups[1:] != groups[:-1]).cumsum(0)
    # Negatives of a group stand side by side among the negatives, since groups do among the samples.
    of_negative = numbers[negatives]
    starts = torch.searchsorted(of_negative, numbers[positives], side="left")
    counts = torch.searchsorted(of_negative, numbers[positives], side="right") - starts
    chosen = positives.repeat_interleave(counts)
    inside = torch.arange(len(chosen), device=labels.device) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    return chosen, negatives[starts.repeat_interleave(counts) + inside]
