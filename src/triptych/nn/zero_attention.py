"""Attention over a history that may be unrelated: a zero row stands first, and taking it is to take nothing."""

from __future__ import annotations

import torch
from torch import Tensor


def zero_attention(queries: Tensor, rows: Tensor, *, keep: Tensor) -> Tensor:
    r"""Attend to a history, or to nothing: :math:`softmax(Q R^T) R` with R's first row 0.

    Source: Ai et al., "A zero attention model for personalized product search", 2019; as MGDSPR has it (arXiv
    2106.09297, section 3.2), without :math:`1/\sqrt{d}`.

    Args:
        queries: ``[batch, asked, dim]``, Q.
        rows: ``[batch, steps, dim]``, R without its zero row.
        keep: bool ``[batch, steps]``, False at padding.

    Returns:
        float32 ``[batch, asked, dim]``, whatever autocast says; exactly 0 where all is padding.
    """
    with torch.autocast(queries.device.type, enabled=False):
        rows = rows.float().masked_fill(~keep[:, :, None], 0.0)
        scores = (queries.float() @ rows.transpose(1, 2)).masked_fill(~keep[:, None], float("-inf"))
        nothing = scores.new_zeros(*scores.shape[:2], 1)
        weights = torch.softmax(torch.cat([nothing, scores], dim=2), dim=2)[:, :, 1:]
        return weights @ rows
