"""What a query finds among somebody's latest choices: MGDSPR's real-time and short-term blocks."""

from __future__ import annotations

from torch import Tensor, nn

from triptych.nn.attention import SelfAttention, at_least_one, key_bias
from triptych.nn.zero_attention import zero_attention


class RecentChoices(nn.Module):
    """Choices in context, and what each row of a query takes of them.

    Source: MGDSPR (arXiv 2106.09297), section 3.2.1: LSTMs with a residual between them (real-time), or none
    (short-term); self-attention; a row of zeros before the choices; attention by the query.
    """

    def __init__(self, dim: int, *, heads: int, lstm_layers: int, dropout: float) -> None:
        """Make the layers.

        Args:
            dim: of a choice.
            heads: of the self-attention.
            lstm_layers: LSTMs before it; 0: none.
            dropout: of what an LSTM is given by the one before it.
        """
        super().__init__()
        self.lstms = nn.ModuleList(nn.LSTM(dim, dim, batch_first=True) for _ in range(lstm_layers))
        self.dropout = nn.Dropout(dropout)
        self.context = SelfAttention(dim, heads=heads)

    def forward(self, queries: Tensor, steps: Tensor, *, keep: Tensor) -> Tensor:
        """Return what each row takes ``[n, rows, dim]``; exactly 0 where there are no choices.

        Args:
            queries: ``[n, rows, dim]``.
            steps: ``[n, longest, dim]``, the choices, oldest first.
            keep: bool ``[n, longest]``, False behind the end.
        """
        for layer, lstm in enumerate(self.lstms):
            # An LSTM looks back only, so what stands behind the end changes nothing before it.
            steps = lstm(steps)[0] if layer == 0 else steps + lstm(self.dropout(steps))[0]
        steps = self.context(steps, bias=key_bias(at_least_one(keep)))
        return zero_attention(queries, steps, keep=keep)
