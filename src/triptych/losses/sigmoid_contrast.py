"""Pairwise sigmoid contrast between queries and items, positives and negatives in balance."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from triptych.losses.base import LossOutput


def sigmoid_contrast(
    queries: Tensor,
    *,
    items: Tensor,
    positive: Tensor,
    known: Tensor,
    scale: Tensor,
    bias: Tensor,
    total: int | None = None,
    total_negatives: int | None = None,
    balanced: bool = True,
) -> LossOutput:
    r"""Ask of each pair in the batch, on its own, whether the item is the query's.

    .. math:: L = -\frac{1}{2Q} \sum_q \log \sigma(s\, q \cdot i_{p(q)} + b)
                  -\frac{1}{2N} \sum_{q,\, j \ne p(q),\; \lnot known_{qj}} \log \sigma(-s\, q \cdot i_j - b)

    Unlike in `infonce` the pairs do not compete: there is no softmax, and a score means the same in every batch. Known
    pairs that are not the query's own are left out: neither positives nor negatives.

    Source: Zhai et al., "Sigmoid loss for language image pre-training" (SigLIP), 2023. There the sum over all pairs is
    divided by the queries, so the negatives weigh as many times more as there are more of them, and the bias (-10 at
    the start) makes up for it: ``balanced=False``. The Taobao reconstruction proposes to average positives and
    negatives apart and to halve their sum, with the bias at -log of the batch's size at first. Then a single negative,
    hard or not, weighs next to nothing in a large batch, and little is learned (docs/experiments.md). Masking known
    pairs is ours.

    Args:
        queries: ``[queries, dim]``, L2-normalised for a cosine.
        items: ``[items, dim]``, likewise.
        positive: int64 ``[queries]``, the column of each query's own item.
        known: bool ``[queries, items]``, True where a pair is a known positive; the own item may be True too.
        scale: s, a scalar that may be learned; > 0.
        bias: b, a scalar that may be learned.
        total: queries Q that the positives' sum is divided by, where these are a process's share of more; None: these.
        total_negatives: likewise for N, the unmasked pairs other than the own ones; given with `total` or not at all.

        balanced: average positives and negatives apart; False sums both over the queries.

    Returns:
        The halved sum of both means in float32 (float64 for float64 input), whatever autocast says; of a share, what
        it adds to that, 0 for none. Where nothing is negative, the positives' half. Parts: ``sigmoid_contrast``, and
        ``accuracy``, the share of queries whose own item scores highest among the unmasked.

    Raises:
        ValueError: only one of `total` and `total_negatives` is given.
    """
    if (total is None) != (total_negatives is None):
        raise ValueError("total and total_negatives go together: a share of the queries is a share of the negatives")
    dtype = torch.promote_types(queries.dtype, torch.float32)
    own = functional.one_hot(positive, num_classes=items.shape[0]).bool()
    negative = ~(known | own)
    count = len(queries) if total is None else total
    num_negatives = negative.sum().clamp(min=1) if total_negatives is None else max(total_negatives, 1)
    with torch.autocast(queries.device.type, enabled=False):
        logits = scale.to(dtype) * (queries.to(dtype) @ items.to(dtype).T) + bias.to(dtype)
        pulled = -functional.logsigmoid(logits.gather(1, positive[:, None])).sum() / count
        pushed = -functional.logsigmoid(-logits).masked_fill(~negative, 0.0).sum() / num_negatives
        loss = (pulled + pushed) / 2 if balanced else pulled + pushed * num_negatives / count
    best = logits.detach().masked_fill(known & ~own, float("-inf")).argmax(dim=1)
    accuracy = (best == positive).to(dtype).sum() / count
    return LossOutput(loss, {"sigmoid_contrast": loss, "accuracy": accuracy})
