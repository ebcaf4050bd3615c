"""Semantic IDs as tokens: a vector for each code of each level, which begins as what the code stands for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class CodeSet(NamedTuple):
    """The shape of one kind of semantic ID, such as those of the fused item, of its photo, of its title."""

    levels: int
    """Codes of an ID."""
    num_codes: int
    """Codes of each level."""


class CodeTokens(nn.Module):
    """Tokens of semantic IDs of several sets, each behind a marker of its set.

    Source: the SMGR reconstruction, section 6.1. Its tokens begin as the vectors of the codebooks through a fixed
    random projection, rescaled to the size of the other tokens: by one factor for a set, so that the sum of an item's
    tokens points where its ID does.
    """

    def __init__(self, dim: int, *, sets: Sequence[CodeSet]) -> None:
        """Draw the tokens, of length 1 on average.

        Args:
            dim: width of a token.
            sets: at least one.
        """
        super().__init__()
        self.sets = tuple(sets)
        self.tokens = nn.Embedding(sum(one.levels * one.num_codes for one in sets), dim)
        nn.init.normal_(self.tokens.weight, std=dim**-0.5)
        self.markers = nn.Parameter(torch.zeros(len(sets), dim))
        levels = torch.tensor([one.levels for one in sets])
        sizes = torch.tensor([one.num_codes for one in sets]).repeat_interleave(levels)
        self.register_buffer("_first", sizes.cumsum(0) - sizes, persistent=False)
        self.register_buffer("_begins", levels.cumsum(0) - levels, persistent=False)

    @torch.no_grad()
    def begin_with(self, codebooks: Sequence[Tensor], *, projections: Sequence[Tensor]) -> None:
        """Let the tokens begin as what the codes stand for.

        Args:
            codebooks: of each set float32 ``[levels, num_codes, code_dim]``.
            projections: of each set ``[dim, code_dim]``.

        Raises:
            ValueError: a codebook is of another shape than its set.
        """
        found = []
        for own, codebook, projection in zip(self.sets, codebooks, projections, strict=True):
            if codebook.shape[:2] != (own.levels, own.num_codes):
                raise ValueError(f"a codebook is {list(codebook.shape)}, and its set has {own.levels}×{own.num_codes}")
            tokens = codebook.flatten(0, 1) @ projection.T
            found.append(tokens / tokens.norm(dim=1).mean().clamp(min=1e-12))
        self.tokens.weight.copy_(torch.cat(found))

    def forward(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Look tokens up.

        Args:
            codes: int64 ``[n, levels of all sets]``, set after set; -1 in the place of a set that is hidden, or that an
                item has none of.

        Returns:
            ``[n, sets + levels of all sets, dim]``, markers first, and bool ``[n, sets + levels of all sets]``, False
            where there is no token.
        """
        there = codes >= 0
        tokens = self.tokens(codes.clamp(min=0) + self.get_buffer("_first"))
        markers = self.markers.expand(len(codes), -1, -1).to(tokens.dtype)
        keep = torch.cat([there[:, self.get_buffer("_begins")], there], dim=1)
        return torch.cat([markers, tokens], dim=1), keep
