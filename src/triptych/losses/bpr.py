"""Bayesian personalised ranking: each choice should score above each negative, whatever the others do."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from triptych.losses.base import LossOutput

CACHED_PAIRS = 32
"""Choices compared with all negatives at a time on a CPU: what lies between two operations stays in its cache."""


class Penalty(NamedTuple):
    """What is penalised of a step: the squared lengths of the vectors that requests and items are made of."""

    weight: float
    """λ."""
    requests: Tensor
    """``[requests]``."""
    positives: Tensor
    """``[pairs]``."""
    negatives: Tensor
    """``[negatives]``."""


def bpr(
    requests: Tensor,
    *,
    positives: Tensor,
    request: Tensor,
    negatives: Tensor,
    masked: Tensor,
    temperature: float,
    negative_bias: Tensor | None = None,
    total: int | None = None,
    penalty: Penalty | None = None,
) -> LossOutput:
    r"""Compare each of a request's positives with every negative that all requests share.

    .. math:: L = -\frac{1}{R} \sum_r \frac{1}{|P_r|} \sum_{p \in P_r}
                  \frac{\sum_{n \notin P_r} w_n \log \sigma(z_p - z_n)}{\sum_{n \notin P_r} w_n},
                  \qquad z_i = u_r \cdot v_i / t, \quad w_n = e^{b_n}

    With a penalty each comparison has another :math:`\tfrac{\lambda}{2} (\|\theta_r\|^2 + \|\theta_p\|^2 +
    \|\theta_n\|^2)`, by the weight of its negative likewise: rows are kept short as often as they are learned from.

    Source: Rendle et al., "BPR: Bayesian personalized ranking from implicit feedback", UAI 2009, BPR-Opt and, for the
    penalty of what was drawn, LearnBPR. Changed: the original draws one negative for each choice, uniformly; here the
    mean over many shared ones stands for it. With all items and no bias it is the original's expectation; with items
    drawn from Q and ``log_q = importance`` an estimate of it.

    Args:
        requests: ``[requests, dim]``, u.
        positives: ``[pairs, dim]``, the item of each pair.
        request: int64 ``[pairs]``, the row of `requests` that each pair belongs to.
        negatives: ``[negatives, dim]``, shared by all requests.
        masked: bool ``[requests, negatives]``, True where a negative is one of the request's positives.
        temperature: t, divides the scores; > 0.
        negative_bias: ``[negatives]``, b, the log of their weights; None weighs all alike. It is given no gradient.
        total: requests R that the sum is divided by, where these are a process's share of more; None: these.
        penalty: of vectors' lengths; None: there is none.

    Returns:
        The mean over requests in float32 (float64 for float64 input), whatever autocast says; a request without a
        positive, or without a negative, adds 0. Parts: ``bpr``, and ``auc``, the share of negatives that score below
        the choice, weighed likewise; with a penalty ``l2``, its share of the total, which ``bpr`` leaves out.
    """
    dtype = torch.promote_types(requests.dtype, torch.float32)
    with torch.autocast(requests.device.type, enabled=False):
        users = requests.to(dtype) / temperature
        own = (users[request] * positives.to(dtype)).sum(dim=1)
        scores = users @ negatives.to(dtype).T
        bias = scores.new_zeros(len(negatives)) if negative_bias is None else negative_bias.detach().to(dtype)
        # Multiplied and not filled in: a mask of another type than the numbers costs as much as their logarithms.
        weights = torch.logical_not(masked).to(dtype).mul_(torch.exp(bias - bias.amax()))
        weights /= weights.sum(dim=1, keepdim=True).clamp(min=torch.finfo(dtype).tiny)
        if not torch.equal(request, torch.arange(len(users), device=request.device)):
            weights, scores = weights[request], functional.embedding(request, scores)
        losses, above = _Compared.apply(own, scores, weights)
        pairs = torch.zeros(len(users), dtype=dtype, device=users.device).index_add_(0, request, torch.ones_like(own))
        count = len(requests) if total is None else total
        loss = (losses / pairs[request]).sum() / count
        parts = {"bpr": loss, "auc": (above / pairs[request]).sum() / count}
        if penalty is None:
            return LossOutput(loss, parts)
        own_squares = penalty.requests[request].to(dtype) + penalty.positives.to(dtype)
        squares = weights.sum(dim=1) * own_squares + weights @ penalty.negatives.to(dtype)
        parts["l2"] = penalty.weight / 2 * (squares / pairs[request]).sum() / count
    return LossOutput(loss + parts["l2"], parts)


class _Compared(torch.autograd.Function):
    """Each pair's mean of -log σ(z_p - z_n), and the share of negatives below it.

    The gradient is as simple as the loss, and both need the same margins: they are worked out together, some pairs at a
    time, where autograd would carry a dozen matrices of all pairs and negatives through memory, there and back.
    """

    @staticmethod
    def forward(ctx: Any, own: Tensor, scores: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Compare choices that score `own` ``[pairs]`` with negatives of some scores and weights ``[pairs, n]``."""
        losses, above = torch.empty_like(own), torch.empty_like(own)
        falling = torch.empty_like(scores)  # by how much each loss falls as the margin grows
        at_once = CACHED_PAIRS if own.device.type == "cpu" else max(1, len(own))
        for start in range(0, len(own), at_once):
            some = slice(start, start + at_once)
            margins, own_weights = own[some, None] - scores[some], weights[some]
            torch.linalg.vecdot(own_weights, (margins > 0).to(margins.dtype), out=above[some])
            margins.neg_()
            torch.linalg.vecdot(own_weights, functional.softplus(margins), out=losses[some])
            torch.mul(own_weights, margins.sigmoid_(), out=falling[some])
        ctx.save_for_backward(falling)
        ctx.mark_non_differentiable(above)
        return losses, above

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the gradients of `own` and `scores`."""
        (falling,) = ctx.saved_tensors
        of_scores = falling * grad[:, None]
        return -of_scores.sum(dim=1), of_scores, None
