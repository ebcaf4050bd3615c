"""Many token states to one."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_mean(states: Tensor, inside: Tensor) -> Tensor:
    """Average token states; where nothing is inside, take the first state.

    Args:
        states: ``[batch, tokens, dim]``.
        inside: bool ``[batch, tokens]``, which of them count.

    Returns:
        float32 ``[batch, dim]``.
    """
    nothing = ~inside.any(dim=1, keepdim=True)
    counted = torch.cat([inside[:, :1] | nothing, inside[:, 1:]], dim=1)[:, :, None].float()
    return (states.float() * counted).sum(dim=1) / counted.sum(dim=1)
