"""In-batch softmax (InfoNCE) between queries and items."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from triptych.losses.base import LossOutput


def infonce(
    queries: Tensor,
    *,
    items: Tensor,
    positive: Tensor,
    known: Tensor,
    temperature: float,
    log_q: Tensor | None = None,
    total: int | None = None,
) -> LossOutput:
    r"""Contrast each query's item with the other items of the batch.

    .. math:: L = -\frac{1}{Q} \sum_q \log \frac{e^{q \cdot i_{p(q)} / t}}
                  {e^{q \cdot i_{p(q)} / t} + \sum_{j \ne p(q),\; \lnot known_{qj}} e^{q \cdot i_j / t}}

    The other items are negatives except those known to be good answers ("accidental positives"): an item that some
    user clicked under this query, or the same item drawn twice. They leave the denominator. Without that, popular
    items become false negatives of each other. AM-softmax with scale 1/t and margin 0 is this loss.

    Items that are often in a batch are often negatives, so the scores learn how much *more* often than usual an item is
    chosen. Taking `log_q` off every logit undoes that: then they learn how often, popularity included.

    Source: van den Oord et al., "Representation learning with contrastive predictive coding", 2018, eq. 4; the
    masking is ours (proposed in the Taobao reconstruction); the correction is that of Bengio and Senécal, 2008, as in
    Yi et al., "Sampling-bias-corrected neural modeling for large corpus item recommendations", 2019.

    Args:
        queries: ``[queries, dim]``, L2-normalised for a cosine.
        items: ``[items, dim]``, likewise.
        positive: int64 ``[queries]``, the column of each query's own item.
        known: bool ``[queries, items]``, True where a pair is a known positive; the own item may be True too.
        temperature: divides the scores; > 0.
        log_q: ``[items]``, log probability of each item to be in a batch; None corrects nothing.
        total: queries Q that the sum is divided by, where these are a process's share of more; None: these.

    Returns:
        The mean over queries in float32 (float64 for float64 input), whatever autocast says; of a share, what it adds
        to the mean over all, 0 for none. Parts: ``infonce``, and
        ``accuracy``, the share of queries whose own item scores highest among the unmasked.
    """
    dtype = torch.promote_types(queries.dtype, torch.float32)
    with torch.autocast(queries.device.type, enabled=False):
        scores = queries.to(dtype) @ items.to(dtype).T / temperature
        if log_q is not None:
            scores = scores - log_q.to(dtype)
        # Not one_hot, whose int64 matrix takes twice the memory of the scores.
        scores = scores.masked_fill(known.scatter(1, positive[:, None], False), float("-inf"))
        count = len(queries) if total is None else total
        loss = functional.cross_entropy(scores, positive, reduction="sum") / count
    accuracy = (scores.detach().argmax(dim=1) == positive).to(dtype).sum() / count
    return LossOutput(loss, {"infonce": loss, "accuracy": accuracy})
