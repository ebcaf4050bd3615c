"""In-batch softmax with an additive margin (AM-softmax) between queries and items."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from triptych.losses.base import LossOutput


def am_softmax(
    queries: Tensor,
    *,
    items: Tensor,
    positive: Tensor,
    known: Tensor,
    scale: float,
    margin: float,
    log_q: Tensor | None = None,
    total: int | None = None,
) -> LossOutput:
    r"""Contrast each query's item with the other items of the batch, after making its own score worse by a margin.

    .. math:: L = -\frac{1}{Q} \sum_q \log \frac{e^{s (q \cdot i_{p(q)} - m)}}
                  {e^{s (q \cdot i_{p(q)} - m)} + \sum_{j \ne p(q),\; \lnot known_{qj}} e^{s\, q \cdot i_j}}

    The own item has to lead by m before it counts as level with the others, so queries that are answered rightly by a
    hair still pull. With m = 0 this is `infonce` with temperature 1/s. Known pairs leave the denominator, and `log_q`
    comes off every logit, as there.

    Source: Wang et al., "Additive margin softmax for face verification", 2018 (arXiv 1801.05599), section 3.1. There
    the weights of the classes take the place of the items; taking items of the batch, the masking and the correction
    are as in `infonce`. Its s = 30 and m = 0.35 are for clean labels; clicks call for a smaller m.

    Args:
        queries: ``[queries, dim]``, L2-normalised: the margin is one of cosines.
        items: ``[items, dim]``, likewise.
        positive: int64 ``[queries]``, the column of each query's own item.
        known: bool ``[queries, items]``, True where a pair is a known positive; the own item may be True too.
        scale: s, multiplies the cosines; > 0.
        margin: m, taken off the own item's cosine; >= 0.
        log_q: ``[items]``, log probability of each item to be in a batch; None corrects nothing.
        total: queries Q that the sum is divided by, where these are a process's share of more; None: these.

    Returns:
        The mean over queries in float32 (float64 for float64 input), whatever autocast says; of a share, what it adds
        to the mean over all, 0 for none. Parts: ``am_softmax``, and ``accuracy``, the share of queries whose own item
        scores highest among the unmasked, without the margin.
    """
    dtype = torch.promote_types(queries.dtype, torch.float32)
    with torch.autocast(queries.device.type, enabled=False):
        scores = scale * (queries.to(dtype) @ items.to(dtype).T)
        if log_q is not None:
            scores = scores - log_q.to(dtype)
        # Not one_hot, whose int64 matrix takes twice the memory of the scores.
        scores = scores.masked_fill(known.scatter(1, positive[:, None], False), float("-inf"))
        count = len(queries) if total is None else total
        lowered = scores.scatter_add(1, positive[:, None], scores.new_full((len(queries), 1), -scale * margin))
        loss = functional.cross_entropy(lowered, positive, reduction="sum") / count
    accuracy = (scores.detach().argmax(dim=1) == positive).to(dtype).sum() / count
    return LossOutput(loss, {"am_softmax": loss, "accuracy": accuracy})
