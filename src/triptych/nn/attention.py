"""Multi-head self-attention with a key padding mask."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

LONGEST_EXPLICIT_TOKENS = 512
"""Up to this many keys the CPU path writes the score matrix out; beyond, its memory would grow too fast."""


def key_bias(keep: Tensor) -> Tensor:
    """Turn a padding mask into the term that is added to attention scores.

    Args:
        keep: bool ``[batch, tokens]``, True where a token may be attended to. Each row needs one True.

    Returns:
        float32 ``[batch, 1, 1, tokens]``: 0 where kept, minus infinity elsewhere, so that a hidden token has weight
        exactly 0 and its content changes nothing.
    """
    return torch.zeros(keep.shape, device=keep.device).masked_fill(~keep, float("-inf"))[:, None, None, :]


def at_least_one(keep: Tensor) -> Tensor:
    """Keep the first place ``[n, places]`` where nothing is kept: a softmax over nothing is not a number."""
    first = torch.zeros_like(keep)
    first[:, 0] = ~keep.any(dim=1)
    return keep | first


class SelfAttention(nn.Module):
    """Scaled dot-product self-attention.

    Source: Vaswani et al., "Attention is all you need", 2017, section 3.2.
    """

    def __init__(self, dim: int, *, heads: int) -> None:
        """Make the projections.

        Args:
            dim: width of a token state; a multiple of `heads`.
            heads: number of heads.
        """
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim {dim} is not a multiple of heads {heads}")
        self.heads = heads
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, states: Tensor, *, bias: Tensor | None = None, read: int | None = None) -> Tensor:
        """Let the first `read` tokens attend to all tokens.

        Args:
            states: ``[batch, tokens, dim]``.
            bias: ``[batch, 1, 1, tokens]`` from `key_bias`; None attends to everything.
            read: how many leading tokens are wanted; None means all.

        Returns:
            ``[batch, read, dim]``.
        """
        batch, tokens, dim = states.shape
        read = tokens if read is None else read
        if read == 1 < tokens and states.device.type == "cpu":
            return self.out(self._first(states, bias=bias))[:, None]
        query, key, value = self._project(states, read=read)
        if states.device.type == "cpu" and tokens <= LONGEST_EXPLICIT_TOKENS:
            mixed = _explicit_attention(query, key, value, bias=bias)
        else:
            # In the query's type and not expanded, so that on a GPU torch's memory-efficient kernel takes it; the
            # flash kernel takes no mask.
            mask = None if bias is None else bias.to(query.dtype)
            mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(mixed.transpose(1, 2).reshape(batch, read, dim))

    def _first(self, states: Tensor, *, bias: Tensor | None) -> Tensor:
        """Let one token attend ``[batch, dim]``, without a key or a value of any other.

        q · K x = (Kᵀ q) · x and Σ w V x = V Σ w x: what would be mapped for every token is mapped once for each head.
        The offset of keys adds the same to all scores, so it is left out; that of values is added once.
        """
        batch, tokens, dim = states.shape
        heads, head_dim = self.heads, dim // self.heads
        weight, offset = self.query_key_value.weight, self.query_key_value.bias
        key, value = weight[dim:].view(2, heads, head_dim, dim).unbind(0)
        query = functional.linear(states[:, 0], weight[:dim], offset[:dim]).view(batch, heads, head_dim)
        asked = torch.einsum("bhk,hkd->bhd", query, key)
        start = asked.new_zeros(1, 1, 1) if bias is None else bias.to(asked.dtype)[:, 0]
        states = states.to(asked.dtype)
        weights = _weights(asked, states, start=start.expand(batch, heads, tokens), head_dim=head_dim)
        taken = torch.einsum("bhd,hkd->bhk", torch.bmm(weights, states), value)
        return taken.reshape(batch, dim) + offset[2 * dim :]

    def _project(self, states: Tensor, *, read: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return query ``[batch, heads, read, head_dim]``, and key and value over all tokens."""
        batch, tokens, dim = states.shape
        heads = self.heads, dim // self.heads
        if read == tokens:
            joined = self.query_key_value(states).view(batch, tokens, 3, *heads)
            query, key, value = joined.permute(2, 0, 3, 1, 4).unbind(0)
            return query, key, value
        weight, offset = self.query_key_value.weight, self.query_key_value.bias
        query = functional.linear(states[:, :read], weight[:dim], offset[:dim]).view(batch, read, *heads)
        joined = functional.linear(states, weight[dim:], offset[dim:]).view(batch, tokens, 2, *heads)
        key, value = joined.permute(2, 0, 3, 1, 4).unbind(0)
        return query.transpose(1, 2), key, value


def _explicit_attention(query: Tensor, key: Tensor, value: Tensor, *, bias: Tensor | None) -> Tensor:
    """Attention with the score matrix written out.

    For the short sequences of titles, queries and patches this takes a third of the CPU time of torch's fused kernel,
    forward and backward together (28 tokens, head_dim 32, bf16: 16 ms against 43 ms for 256 sequences on one core).
    """
    batch, heads, read, head_dim = query.shape
    tokens = key.shape[2]
    query, key, value = (part.reshape(batch * heads, part.shape[2], head_dim) for part in (query, key, value))
    if bias is None:
        start = query.new_zeros(1, 1, 1)
    else:
        start = bias.to(query.dtype).expand(batch, heads, 1, tokens).reshape(batch * heads, 1, tokens)
    weights = _weights(query, key, start=start.expand(batch * heads, read, tokens), head_dim=head_dim)
    return torch.bmm(weights.to(value.dtype), value).view(batch, heads, read, head_dim)


def _weights(query: Tensor, key: Tensor, *, start: Tensor, head_dim: int) -> Tensor:
    """Return softmax(start + query keyᵀ / √head_dim) ``[batch, read, tokens]`` in the scores' type."""
    scores = torch.baddbmm(start, query, key.transpose(1, 2), alpha=head_dim**-0.5)
    # In float32: more exact, and where the number of tokens is odd many times faster than the bf16 kernel.
    precise = torch.promote_types(scores.dtype, torch.float32)
    return torch.softmax(scores, dim=-1, dtype=precise).to(scores.dtype)
