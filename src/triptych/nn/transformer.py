"""Pre-norm transformer encoder."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from triptych.nn.attention import SelfAttention, key_bias


class Mlp(nn.Module):
    """Two-layer feed-forward network with GELU."""

    def __init__(self, dim: int, *, hidden_dim: int) -> None:
        """Make the two layers; `dim` is the width outside, `hidden_dim` inside."""
        super().__init__()
        self.up = nn.Linear(dim, hidden_dim)
        self.down = nn.Linear(hidden_dim, dim)

    def forward(self, states: Tensor) -> Tensor:
        """Map ``[..., dim]`` to ``[..., dim]``."""
        return self.down(functional.gelu(self.up(states)))


class Block(nn.Module):
    """Attention and feed-forward layer, each on normalised input and added to the residual stream."""

    def __init__(self, dim: int, *, heads: int, hidden_dim: int) -> None:
        """Make the layers of one block."""
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = SelfAttention(dim, heads=heads)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, hidden_dim=hidden_dim)

    def forward(self, states: Tensor, *, bias: Tensor | None = None, read: int | None = None) -> Tensor:
        """Map ``[batch, tokens, dim]`` to ``[batch, read, dim]``; see `SelfAttention.forward`."""
        attended = self.attention(self.attention_norm(states), bias=bias, read=read)
        states = (states if read is None else states[:, :read]) + attended
        return states + self.mlp(self.mlp_norm(states))


class Transformer(nn.Module):
    """A stack of pre-norm blocks and a final norm.

    Source: Xiong et al., "On layer normalization in the transformer architecture", 2020 (pre-norm form).
    """

    def __init__(self, dim: int, *, layers: int, heads: int, hidden_dim: int | None = None) -> None:
        """Make the stack.

        Args:
            dim: width of a token state.
            layers: number of blocks.
            heads: attention heads per block.
            hidden_dim: width inside the feed-forward layers; None means ``4 * dim``.
        """
        super().__init__()
        hidden_dim = 4 * dim if hidden_dim is None else hidden_dim
        self.blocks = nn.ModuleList(Block(dim, heads=heads, hidden_dim=hidden_dim) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, states: Tensor, *, keep: Tensor | None = None, read: int | None = None) -> Tensor:
        """Encode a batch of sequences.

        Args:
            states: ``[batch, tokens, dim]``.
            keep: bool ``[batch, tokens]``, False at padding; None keeps everything.
            read: how many leading tokens the caller wants. The last block then computes only those, which changes
                no value and saves most of that block.

        Returns:
            ``[batch, read, dim]``, normalised; with ``read=None`` all tokens.
        """
        bias = None if keep is None else key_bias(keep)
        last = len(self.blocks) - 1
        for depth, block in enumerate(self.blocks):
            states = block(states, bias=bias, read=read if depth == last else None)
        return self.norm(states)
