"""Softmax over the whole catalogue, estimated from a sample of it: the loss of vector recall."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

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
        bias = None if negative_bias is None else negative_bias.to(dtype)
        others, best, hardest = _Negatives.apply(
            users / temperature, negatives.to(dtype), masked, bias, None if mixes is None else mixes.number
        )
        right = (own.detach() >= best[request]).to(dtype)
        others = others[request]
        if mixes is not None:
            others = torch.logaddexp(others, _mixed(own, hardest, request=request, share=mixes.share.to(dtype)))
        logits = own if positive_bias is None else own + positive_bias.to(dtype)
        losses = torch.logaddexp(logits, others) - logits
        pairs = torch.zeros(len(users), dtype=dtype, device=users.device).index_add_(0, request, torch.ones_like(own))
        count = len(requests) if total is None else total
        loss = (losses / pairs[request]).sum() / count
    return LossOutput(loss, {"sampled_softmax": loss, "accuracy": (right / pairs[request]).sum() / count})


class _Negatives(torch.autograd.Function):
    """What a request's negatives amount to, in few passes over their scores ``[requests, negatives]``.

    A pass over that matrix takes as long as the product that makes it. Step by step, as autograd would have it, there
    were eight forward and seven backward, and three matrices were kept; here one is, the exponentials. Backward they
    need not be divided by their sums: the smaller factor of each product is.
    """

    @staticmethod
    def forward(
        ctx: Any, users: Tensor, negatives: Tensor, masked: Tensor, bias: Tensor | None, hardest: int | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return log of the sum of exponentials, largest score, both ``[requests]``, and the `hardest` largest ones.

        What was masked is -inf. The largest ones, ``[requests, hardest]``, come in any order, and like the largest
        without the bias.
        """
        scores = (users @ negatives.T).masked_fill_(masked, float("-inf"))
        best = scores.amax(dim=1)
        top, place = (None, None) if hardest is None else scores.topk(min(hardest, scores.shape[1]), sorted=False)
        highest = best if bias is None else scores.add_(bias).amax(dim=1)
        highest = highest.clamp(min=torch.finfo(scores.dtype).min)  # where all are masked: their exponentials are 0
        exponentials = scores.sub_(highest[:, None]).exp_()
        sums = exponentials.sum(dim=1)
        ctx.save_for_backward(users, negatives, exponentials, sums, place)
        ctx.mark_non_differentiable(best)
        return highest + sums.log(), best, top

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_logs: Tensor, _of_best: Tensor, of_top: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients of users and negatives."""
        users, negatives, exponentials, sums, place = ctx.saved_tensors
        # Where all are masked there is nothing to divide by, and nothing that could change.
        weight = torch.where(sums > 0, of_logs / sums, 0.0)[:, None]
        with torch.autocast(users.device.type, enabled=False):
            if place is None:
                return weight * (exponentials @ negatives), exponentials.T @ (weight * users), None, None, None
            of_scores = (exponentials * weight).scatter_add_(1, place, of_top)
            return of_scores @ negatives, of_scores.T @ users, None, None, None


def _mixed(own: Tensor, hardest: Tensor, *, request: Tensor, share: Tensor) -> Tensor:
    """Return the log of what the mixtures add to each pair's denominator ``[pairs]``.

    The choice's part is the same in all mixtures of a pair, the negatives' in all pairs of a request.
    """
    # A masked negative has no mixture; kept out of the product, whose gradient would be NaN.
    there = hardest > float("-inf")
    parts = (1 - share[:, None]) * hardest.where(there, torch.zeros_like(hardest))
    negatives = parts.masked_fill(~there, float("-inf")).logsumexp(dim=1)[request]
    return (share[request] * own + negatives).masked_fill(negatives == float("-inf"), float("-inf"))
