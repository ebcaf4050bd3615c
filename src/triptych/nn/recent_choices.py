"""What a query finds among somebody's latest choices: MGDSPR's real-time and short-term blocks."""

from __future__ import annotations

from torch import Tensor, nn

from triptych.nn.attention import SelfAttention, at_least_one, key_bias
from triptych.nn.bags import looked_up
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

    def forward(self, queries: Tensor, choices: Tensor, *, places: Tensor) -> Tensor:
        """Return what each row takes ``[n, rows, dim]``; exactly 0 where there are no choices.

        Args:
            queries: ``[n, rows, dim]``.
            choices: ``[distinct, dim]``.
            places: int64 ``[n, longest]``, theirs among `choices`, oldest first, -1 behind the end.
        """
        keep = places >= 0
        some = _with_choices(keep)
        taken = zero_attention(queries[some], self._in_context(choices, places, some=some), keep=keep[some])
        if isinstance(some, slice):
            return taken
        return taken.new_zeros(queries.shape).index_copy(0, some, taken)

    def _in_context(self, choices: Tensor, places: Tensor, *, some: Tensor | slice) -> Tensor:
        """Return the choices of some requests ``[some, longest, dim]``."""
        steps = looked_up(choices, places[some])
        for layer, lstm in enumerate(self.lstms):
            # An LSTM looks back only, so what stands behind the end changes nothing before it.
            steps = lstm(steps)[0] if layer == 0 else steps + lstm(self._dropped(steps, places, some=some))[0]
        return self.context(steps, bias=key_bias(at_least_one(places[some] >= 0)))

    def _dropped(self, steps: Tensor, places: Tensor, *, some: Tensor | slice) -> Tensor:
        """Drop out, by what is drawn for all requests, however many are looked at."""
        if isinstance(some, slice) or not self.training:
            return self.dropout(steps)
        everybody, longest = places.shape
        ones = steps.new_ones(longest, everybody, steps.shape[2])  # by time, as an LSTM lays out what it returns
        return steps * self.dropout(ones.transpose(0, 1))[some]


def _with_choices(keep: Tensor) -> Tensor | slice:
    """Return which requests have choices at all, where leaving out the others saves time.

    On a GPU it does not: to be counted they would have to be waited for. Where nobody has any all are kept, so that
    every weight has a gradient.
    """
    if keep.device.type != "cpu":
        return slice(None)
    found = keep.any(dim=1).nonzero()[:, 0]
    return found if 0 < len(found) < len(keep) else slice(None)
