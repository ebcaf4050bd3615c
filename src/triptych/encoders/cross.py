"""Query and item side by side in one transformer: whether they go together, and what the one says about the other.

Two forms. `ON_TOP` reads the states that the towers have made, by blocks of its own: the Taobao model, whose towers
meet only there. `SINGLE_STREAM` reads what the towers would have been given, by the tower's own transformer, as
FashionBERT does.
"""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import Tensor, nn

from triptych.encoders.inputs import Tokens
from triptych.nn.transformer import Transformer


class Crossing(StrEnum):
    """Where query and item meet."""

    ON_TOP = "on-top"
    """In blocks of their own, over the states of the towers."""
    SINGLE_STREAM = "single-stream"
    """In the encoder's own transformer, from the first layer."""


class CrossEncoder(nn.Module):
    """Blocks over the states of query and item.

    Source: the Taobao pre-training model's cross-modal encoder, its [CLS] that of the query (the reconstruction's
    reading).
    """

    def __init__(self, dim: int, *, layers: int, heads: int) -> None:
        """Make the blocks; `dim` is the width of the towers' states."""
        super().__init__()
        self.kinds = nn.Parameter(torch.zeros(2, dim))  # query, item: the towers' states need not show it
        self.norm = nn.LayerNorm(dim)
        self.transformer = Transformer(dim, layers=layers, heads=heads)

    def forward(self, query: Tokens, item: Tokens, *, read: int | None = None) -> Tokens:
        """Let pairs of query and item attend to each other.

        Args:
            query: states of the towers, ``[pairs, query tokens, dim]``.
            item: likewise, ``[pairs, item tokens, dim]``.
            read: how many leading tokens are wanted, as `Transformer.forward`; None means all.

        Returns:
            States of the query's tokens, its [CLS] first, then the item's.
        """
        sides = [self.norm(side.states) + kind for side, kind in zip((query, item), self.kinds, strict=True)]
        return crossed(self.transformer, Tokens(sides[0], query.keep), Tokens(sides[1], item.keep), read=read)


def crossed(transformer: Transformer, query: Tokens, item: Tokens, *, read: int | None = None) -> Tokens:
    """Run a transformer over query and item, one behind the other; `read` as there."""
    states, keep = (torch.cat(both, dim=1) for both in zip(query, item, strict=True))
    return Tokens(transformer(states, keep=keep, read=read), keep[:, :read])


def rows_of(tokens: Tokens, rows: Tensor) -> Tokens:
    """Take some rows of a batch."""
    return Tokens(tokens.states[rows], tokens.keep[rows])
