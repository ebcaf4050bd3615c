"""Fusion-Q-Former: trained queries read the tokens of all modalities, and what they have read is one vector.

Queries and tokens attend to each other in one self-attention, unlike BLIP-2's Q-Former, whose queries read an image by
cross-attention. So the weight of a modality is attention's, item by item, and the output has one length however many
tokens there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from triptych.nn.attention import SelfAttention, key_bias
from triptych.nn.transformer import Mlp

TYPE_STD = 0.02
"""Standard deviation of the first vectors of modalities, and of those that stand for absent ones."""


class Norm(StrEnum):
    """Where a block normalises."""

    PRE = "pre"
    """What goes into a layer; the stack ends with one more."""
    POST = "post"
    """What comes out of it, its input added."""


class ModalityTokens(NamedTuple):
    """What is known of some items in one modality."""

    tokens: Tensor
    """``[n, tokens, token_dim]``, at least one place; what is not kept may hold anything."""
    keep: Tensor | None = None
    """bool ``[n, tokens]``, False at padding; a row without True lacks the modality. None: all are kept."""


class QueryFormer(nn.Module):
    """Any number of modalities with any number of tokens each, made one vector.

    Source: EM3 (Deng et al., "End-to-end training of multimodal model and ranking model", arXiv 2404.06078). The paper
    tells the idea; `as_published` is what the authors' public code computes, `full` is ours, for patches and words.
    """

    def __init__(
        self,
        token_dims: Sequence[int],
        *,
        dim: int,
        out_dim: int,
        queries: int,
        layers: int,
        heads: int,
        norm: Norm = Norm.PRE,
        hidden_dim: int = 0,
        dropout_rate: float = 0.0,
        normalises_tokens: bool = False,
        tells_modalities: bool = False,
        learns_absent: bool = True,
        modality_dropout_rate: float = 0.0,
    ) -> None:
        """Make the layers; `as_published` and `full` know the settings that belong together.

        Args:
            token_dims: length of a token, for each modality.
            dim: width inside; a multiple of `heads`.
            out_dim: length of an item's vector.
            queries: trained queries, at least 1.
            layers: blocks.
            heads: attention heads of a block.
            norm: where a block normalises.
            hidden_dim: width inside the feed-forward layers; 0: blocks have none.
            dropout_rate: of what a layer adds to its input.
            normalises_tokens: whether a projected token is normalised.
            tells_modalities: whether a vector of its modality is added to each token.
            learns_absent: whether a trained token stands for a modality that an item lacks; else it is left out.
            modality_dropout_rate: share of an item's modalities that training takes for absent, each by itself.
        """
        super().__init__()
        if not token_dims or queries < 1 or layers < 1:
            raise ValueError(
                f"a Q-Former needs a modality, a query and a layer: {len(token_dims)}, {queries}, {layers}"
            )
        self.token_dims, self.dim, self.out_dim = tuple(token_dims), dim, out_dim
        self._modality_dropout_rate = modality_dropout_rate
        self.queries = nn.Parameter(nn.init.xavier_uniform_(torch.empty(queries, dim)))
        self.projections = nn.ModuleList(
            nn.Sequential(nn.Linear(token_dim, dim), nn.LayerNorm(dim))
            if normalises_tokens
            else nn.Linear(token_dim, dim)
            for token_dim in token_dims
        )
        self.modalities = _drawn(len(token_dims), dim) if tells_modalities else None
        self.absent = _drawn(len(token_dims), dim) if learns_absent else None
        self.blocks = nn.ModuleList(
            _Block(dim, heads=heads, norm=norm, hidden_dim=hidden_dim, dropout_rate=dropout_rate) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(dim) if norm is Norm.PRE else None
        self.readout = nn.Linear(queries * dim, out_dim)
        nn.init.xavier_uniform_(self.readout.weight)

    @classmethod
    def as_published(
        cls,
        token_dims: Sequence[int],
        *,
        dim: int = 64,
        queries: int = 1,
        layers: int = 1,
        heads: int = 4,
        dropout_rate: float = 0.5,
    ) -> Self:
        """Make what the authors' public code has, for one token a modality.

        Attention alone, without feed-forward layers; post-norm; nothing tells modalities apart but their projections.
        """
        return cls(
            token_dims,
            dim=dim,
            out_dim=dim,
            queries=queries,
            layers=layers,
            heads=heads,
            norm=Norm.POST,
            dropout_rate=dropout_rate,
            learns_absent=False,
        )

    @classmethod
    def full(
        cls,
        token_dims: Sequence[int],
        *,
        dim: int = 256,
        out_dim: int = 64,
        queries: int = 4,
        layers: int = 2,
        heads: int = 8,
        dropout_rate: float = 0.0,
        modality_dropout_rate: float = 0.1,
    ) -> Self:
        """Make what patch and word tokens of large encoders want: the reconstruction's proposal (section 2.3)."""
        return cls(
            token_dims,
            dim=dim,
            out_dim=out_dim,
            queries=queries,
            layers=layers,
            heads=heads,
            norm=Norm.PRE,
            hidden_dim=4 * dim,
            dropout_rate=dropout_rate,
            normalises_tokens=True,
            tells_modalities=True,
            learns_absent=True,
            modality_dropout_rate=modality_dropout_rate,
        )

    def forward(self, modalities: Sequence[ModalityTokens]) -> Tensor:
        """Make one vector of each item.

        Args:
            modalities: one for each of `token_dims`, of the same ``n`` items.

        Returns:
            ``[n, out_dim]``.
        """
        count, num_queries = modalities[0].tokens.shape[0], len(self.queries)
        states, keeps = [self.queries.expand(count, -1, -1)], [_all(modalities[0].tokens, num_queries)]
        for modality, (given, project) in enumerate(zip(modalities, self.projections, strict=True)):
            tokens, keep = self._read(given, project=project, modality=modality)
            states.append(tokens)
            keeps.append(keep)
        joined, bias = torch.cat(states, dim=1), key_bias(torch.cat(keeps, dim=1))
        last = len(self.blocks) - 1
        for depth, block in enumerate(self.blocks):
            joined = block(joined, bias=bias, read=num_queries if depth == last else None)
        if self.norm is not None:
            joined = self.norm(joined)
        return self.readout(joined.flatten(1))

    def _read(self, given: ModalityTokens, *, project: nn.Module, modality: int) -> tuple[Tensor, Tensor]:
        """Project one modality's tokens; return them with what may be attended to."""
        keep = _all(given.tokens, given.tokens.shape[1]) if given.keep is None else given.keep
        if self.training and self._modality_dropout_rate:
            keep = keep & (torch.rand(len(keep), 1, device=keep.device) >= self._modality_dropout_rate)
        # Padding may hold NaN, whose product with a weight of 0 would still be NaN.
        tokens = project(given.tokens.masked_fill(~keep[:, :, None], 0.0))
        if self.absent is not None:
            first = torch.zeros_like(keep)
            first[:, 0] = ~keep.any(dim=1)
            tokens = torch.where(first[:, :, None], self.absent[modality].to(tokens.dtype), tokens)
            keep = keep | first
        return tokens if self.modalities is None else tokens + self.modalities[modality], keep


class _Block(nn.Module):
    """Self-attention and, where it has one, a feed-forward layer."""

    def __init__(self, dim: int, *, heads: int, norm: Norm, hidden_dim: int, dropout_rate: float) -> None:
        super().__init__()
        self._is_pre = norm is Norm.PRE
        self.attention = SelfAttention(dim, heads=heads)
        self.attention_norm = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, hidden_dim=hidden_dim) if hidden_dim else None
        self.mlp_norm = nn.LayerNorm(dim) if hidden_dim else None
        self.dropout = nn.Dropout(dropout_rate)

    def forward(self, states: Tensor, *, bias: Tensor, read: int | None) -> Tensor:
        """Map ``[n, tokens, dim]`` to ``[n, read, dim]``; see `SelfAttention.forward`."""
        given = self.attention_norm(states) if self._is_pre else states
        attended = self.dropout(self.attention(given, bias=bias, read=read))
        states = (states if read is None else states[:, :read]) + attended
        if not self._is_pre:
            states = self.attention_norm(states)
        if self.mlp is None or self.mlp_norm is None:
            return states
        if self._is_pre:
            return states + self.dropout(self.mlp(self.mlp_norm(states)))
        return self.mlp_norm(states + self.dropout(self.mlp(states)))


def _drawn(count: int, dim: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(count, dim) * TYPE_STD)


def _all(tokens: Tensor, places: int) -> Tensor:
    return torch.ones(tokens.shape[0], places, dtype=torch.bool, device=tokens.device)
