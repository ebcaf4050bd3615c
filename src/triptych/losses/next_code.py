"""Saying a semantic ID: each code given the query and the codes before it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from triptych.losses.base import LossOutput


def next_code(logits: Tensor, *, codes: Tensor, smoothing_rate: float = 0.0, total: int | None = None) -> LossOutput:
    r"""Say the true code of every level.

    .. math:: L = -\frac{1}{N} \sum_n \sum_l \log \mathrm{softmax}(z_{nl})_{c_{nl}}

    The levels are added up, as an ID's log probability is.

    Source: TIGER (Rajput et al., 2023); L_GQ and L_GI of the SMGR reconstruction, section 6.2.

    Args:
        logits: ``[n, levels, num_codes]``, of each level given the true codes before it.
        codes: int64 ``[n, levels]``.
        smoothing_rate: share of the target's probability that is spread over all codes of its level.
        total: IDs N that the sum is divided by, where these are a process's share of more; None: these.

    Returns:
        The mean over IDs in float32; of a share, what it adds to the mean over all; 0 for none. Parts: ``level_1``, ….
    """
    count = max(len(codes) if total is None else total, 1)
    with torch.autocast(logits.device.type, enabled=False):
        levels = [
            functional.cross_entropy(
                logits[:, level].float(), codes[:, level], label_smoothing=smoothing_rate, reduction="sum"
            )
            / count
            for level in range(logits.shape[1])
        ]
    parts = {f"level_{level}": one for level, one in enumerate(levels, start=1)}
    return LossOutput(torch.stack(levels).sum(), parts)
