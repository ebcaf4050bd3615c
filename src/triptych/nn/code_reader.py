"""A reader of histories that are semantic IDs: code by code, all of it at once, for a decoder to read."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from triptych.nn.transformer import Transformer


class CodeReader(nn.Module):
    """A bidirectional transformer over the codes of the items that somebody chose.

    A token is a code of an item: what it is at its level, which level that is, and how many items have been chosen
    since. Before all stands a learned token, so that an empty history is read too.

    Source: TIGER's encoder (Rajput et al., "Recommender systems with generative retrieval", 2023). Changed: positions
    count from the latest item, so that a history says the same however much is cut off its beginning; no token stands
    for the user; blocks are pre-norm, and dropout is before the first of them alone.
    """

    def __init__(
        self,
        dim: int,
        *,
        levels: int,
        num_codes: int,
        history_items: int,
        layers: int,
        heads: int,
        dropout_rate: float = 0.0,
    ) -> None:
        """Make the layers.

        Args:
            dim: width; a multiple of `heads`.
            levels: codes of an ID.
            num_codes: codes of each level.
            history_items: items of the longest history.
            layers: blocks.
            heads: attention heads of a block.
            dropout_rate: of the tokens before the first block, in training.
        """
        super().__init__()
        self.codes = nn.Embedding(levels * num_codes, dim)
        nn.init.normal_(self.codes.weight, std=dim**-0.5)
        self.start = nn.Parameter(torch.randn(dim) * dim**-0.5)
        self.levels = nn.Parameter(torch.randn(levels, dim) * dim**-0.5)
        self.since = nn.Parameter(torch.randn(history_items, dim) * dim**-0.5)
        self.dropout = nn.Dropout(dropout_rate)
        self.transformer = Transformer(dim, layers=layers, heads=heads)
        self._num_codes = num_codes

    def forward(self, history: Tensor) -> tuple[Tensor, Tensor]:
        """Read histories.

        Args:
            history: int64 ``[n, items, levels]``, oldest first, -1 in the place of an item where there is none; at most
                `history_items` items.

        Returns:
            ``[n, 1 + items · levels, dim]``, the learned token first, and bool ``[n, 1 + items · levels]``, False at
            padding.
        """
        levels, dim = self.levels.shape
        there = history[:, :, 0] >= 0
        since = (there.flip(1).cumsum(dim=1).flip(1) - 1).clamp(min=0)  # items behind each
        read = torch.arange(levels, device=history.device) * self._num_codes
        tokens = self.codes(history.clamp(min=0) + read) + self.levels + self.since[since][:, :, None]
        start = self.start.expand(len(history), 1, dim)
        tokens = self.dropout(torch.cat([start, tokens.flatten(1, 2)], dim=1))
        first = there.new_ones(len(history), 1)
        keep = torch.cat([first, there.repeat_interleave(levels, dim=1)], dim=1)
        return self.transformer(tokens, keep=keep), keep
