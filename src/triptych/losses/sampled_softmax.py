"""Softmax over the whole catalogue, estimated from a sample of it: the loss of vector recall."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from triptych.losses.base import LossOutput


class HardMixes(NamedTuple):
    """Negatives between a positive and the hardest of the others."""

    number: int
    """How many of a request's negatives are mixed, those with the highest scores; fewer where it has fewer."""
    share: Tensor
    """``[requests]``, the positive's share of each mixture, between 0 and 1."""


def sampled_softmax(
    requests: Tensor,
    *,
    positives: Tensor,
    request: Tensor,
    negatives: Tensor,
    masked: Tensor,
    temperature: float,
    negative_bias: Tensor | None = None,
    positive_bias: Tensor | None = None,
    mixes: HardMixes | None = None,
    total: int | None = None,
) -> LossOutput:
    r"""Contrast each of a request's positives with negatives that all requests share.

    .. math:: L = -\frac{1}{R} \sum_r \frac{1}{|P_r|} \sum_{p \in P_r} \log \frac{e^{z_p}}
                  {e^{z_p} + \sum_{n \notin P_r} e^{z_n + b_n}}, \qquad z_i = u_r \cdot v_i / t

    With negatives drawn from Q with replacement and :math:`b_n = \log c_n - \log(N Q_n)`, where an item that was drawn
    c times stands once, the sum is an unbiased estimate of that over the whole catalogue without the positives
    (``log_q = importance`` of `recall.negatives`). With all items as negatives and no bias it is that sum: the full
    softmax. A request's other positives leave the denominator, so that they do not compete.

    The mixtures are MGDSPR's :math:`\alpha v_p + (1 - \alpha) v_n`. A score is linear in the item, so they are mixed
    as scores, and no vector is made.

    Source: Bengio and Senécal, "Adaptive importance sampling to accelerate training of a neural probabilistic language
    model", 2008; the form with several positives is the Taobao reconstruction's (section 4.1). Mixtures: MGDSPR (arXiv
    2106.09297), section 3.4. `infonce` contrasts with the batch, one positive each.

    Args:
        requests: ``[requests, dim]``, u.
        positives: ``[pairs, dim]``, the item of each pair.
        request: int64 ``[pairs]``, the row of `requests` that each pair belongs to.
        negatives: ``[negatives, dim]``, shared by all requests.
        masked: bool ``[requests, negatives]``, True where a negative is one of the request's positives.
        temperature: t, divides the scores; > 0.
        negative_bias: ``[negatives]``, added to their scores; None adds nothing.
        positive_bias: ``[pairs]``, added to those of the positives; None adds nothing.
        mixes: None mixes nothing.
        total: requests R that the sum is divided by, where these are a process's share of more; None: these.

    Returns:
        The mean over requests in float32 (float64 for float64 input), whatever autocast says; a request without a
        positive adds 0. Parts: ``sampled_softmax``, and ``accuracy``, the share of pairs whose item scores at least as
        high as every negative, corrections left out.
    """
    dtype = torch.promote_types(requests.dtype, torch.float32)
    with torch.autocast(requests.device.type, enabled=False):
        users = requests.to(dtype)
        own = (users[request] * positives.to(dtype)).sum(dim=1) / temperature
        scores = (users @ negatives.to(dtype).T / temperature).masked_fill(masked, float("-inf"))
        right = (own.detach() >= scores.detach().amax(dim=1)[request]).to(dtype)
        corrected = scores if negative_bias is None else scores + negative_bias.to(dtype)
        others = corrected.logsumexp(dim=1)[request]
        if mixes is not None:
            others = torch.logaddexp(others, _mixed(own, scores, request=request, mixes=mixes))
        logits = own if positive_bias is None else own + positive_bias.to(dtype)
        losses = torch.logaddexp(logits, others) - logits
        pairs = torch.zeros(len(users), dtype=dtype, device=users.device).index_add_(0, request, torch.ones_like(own))
        count = len(requests) if total is None else total
        loss = (losses / pairs[request]).sum() / count
    return LossOutput(loss, {"sampled_softmax": loss, "accuracy": (right / pairs[request]).sum() / count})


def _mixed(own: Tensor, scores: Tensor, *, request: Tensor, mixes: HardMixes) -> Tensor:
    """Return the log of what the mixtures add to each pair's denominator ``[pairs]``."""
    hardest = scores.topk(min(mixes.number, scores.shape[1]), dim=1).values[request]
    share = mixes.share.to(own.dtype)[request, None]
    # A masked negative has no mixture; kept out of the product, whose gradient would be NaN.
    there = hardest > float("-inf")
    mixed = share * own[:, None] + (1 - share) * hardest.where(there, torch.zeros_like(hardest))
    return mixed.masked_fill(~there, float("-inf")).logsumexp(dim=1)
