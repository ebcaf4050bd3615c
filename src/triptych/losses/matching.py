"""Matching (QIM): does this pair belong together, as a two-way classification."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from triptych.losses.base import LossOutput


def matching(logits: Tensor, *, labels: Tensor, total: int | None = None) -> LossOutput:
    r"""Tell pairs that belong together from pairs that do not.

    .. math:: L = -\frac{1}{P} \sum_p \log \mathrm{softmax}(z_p)_{y_p}

    `infonce` and its neighbours judge a pair by the product of two vectors that never met; here a cross encoder read
    both sides together. What the model learns depends on the negatives, which the caller chooses.

    Source: query-item matching in the Taobao reconstruction; as image-text matching in Li et al., "Align before fuse"
    (ALBEF), 2021, section 3.2.

    Args:
        logits: ``[pairs, 2]``, for "does not match" and "matches".
        labels: bool or int64 ``[pairs]``, True or 1 where the pair matches.
        total: pairs P that the sum is divided by, where these are a process's share of more; None: these.

    Returns:
        The mean over pairs in float32 (float64 for float64 input), whatever autocast says; 0, with a gradient of
        zeros, without pairs. Of a share, what it adds to the mean over all. Parts: ``matching``, and ``accuracy``, the
        share of pairs told rightly; a tie counts as "does not match".
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    truth = labels.long()
    count = max(len(labels) if total is None else total, 1)
    with torch.autocast(logits.device.type, enabled=False):
        loss = functional.cross_entropy(logits.to(dtype), truth, reduction="sum") / count
    accuracy = (logits.detach().argmax(dim=1) == truth).to(dtype).sum() / count
    return LossOutput(loss, {"matching": loss, "accuracy": accuracy})
