"""Masked-token prediction (MLM): cross entropy at the masked positions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from triptych.losses.base import LossOutput


def masked_tokens(logits: Tensor, *, targets: Tensor, total: int | None = None) -> LossOutput:
    r"""Guess the tokens that were masked.

    .. math:: L = -\frac{1}{M} \sum_m \log \mathrm{softmax}(z_m)_{w_m}

    The caller picks the masked positions first, so that the vocabulary's logits are computed at those only.

    Source: Devlin et al., "BERT: pre-training of deep bidirectional transformers for language understanding", 2019,
    section 3.1; divided by the masked tokens, not by the sequences, as in Alibaba's released FashionBERT.

    Args:
        logits: ``[masked, vocab]``, at the masked positions of the whole batch.
        targets: int64 ``[masked]``, the tokens that stood there.
        total: masked tokens M that the sum is divided by, where these are a process's share of more; None: these.

    Returns:
        The mean over masked tokens in float32 (float64 for float64 input), whatever autocast says; 0, with a gradient
        of zeros, where nothing is masked. Of a share, what it adds to the mean over all. Parts: ``masked_tokens``, and
        ``accuracy``, the share of tokens guessed.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    count = max(len(targets) if total is None else total, 1)
    with torch.autocast(logits.device.type, enabled=False):
        loss = functional.cross_entropy(logits.to(dtype), targets, reduction="sum") / count
    accuracy = (logits.detach().argmax(dim=1) == targets).to(dtype).sum() / count
    return LossOutput(loss, {"masked_tokens": loss, "accuracy": accuracy})
