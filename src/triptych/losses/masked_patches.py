"""Masked-patch prediction (MPM): KL divergence from a distribution that each masked patch has."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from triptych.losses.base import LossOutput


def masked_patches(logits: Tensor, *, targets: Tensor, total: int | None = None) -> LossOutput:
    r"""Guess the distributions that stand for the patches that were masked.

    .. math:: L = \frac{1}{M} \sum_m \sum_b t_{mb} \log \frac{t_{mb}}{\mathrm{softmax}(z_m)_b}

    As `masked_tokens`, with a distribution in place of one right answer; the targets' entropy is taken off, so that a
    perfect guess costs 0 whatever the targets are. A bin whose target is 0 adds exactly 0.

    Source: Gao et al., "FashionBERT: text and image matching with adaptive loss for cross-modal retrieval", 2020,
    whose target is the softmax of a frozen ResNet's feature of the patch. `triptych.nn.patch_histograms` makes one that
    needs no weights.

    Args:
        logits: ``[masked, bins]``, at the masked patches of the whole batch.
        targets: ``[masked, bins]``, at least 0, rows sum to 1; gets no gradient.
        total: masked patches M that the sum is divided by, where these are a process's share of more; None: these.

    Returns:
        The mean over masked patches in float32 (float64 for float64 input), whatever autocast says; 0, with a gradient
        of zeros, where nothing is masked. Of a share, what it adds to the mean over all. Parts: ``masked_patches``.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    wanted = targets.detach().to(dtype)
    count = max(len(targets) if total is None else total, 1)
    with torch.autocast(logits.device.type, enabled=False):
        # Filled first: a logit of minus infinity under a target of 0 would give 0 * inf.
        guessed = functional.log_softmax(logits.to(dtype), dim=1).masked_fill(wanted == 0, 0.0)
        loss = functional.kl_div(guessed, wanted, reduction="sum") / count
    return LossOutput(loss, {"masked_patches": loss})
