"""A decoder that says a semantic ID code by code: each code given those before it, and what it was asked."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from triptych.nn.attention import key_bias
from triptych.nn.transformer import Mlp


class Memory(NamedTuple):
    """What every step reads of what was asked: made once, and shared by all beams of a request."""

    keys: tuple[Tensor, ...]
    """Of each block ``[n, heads, tokens, head_dim]``."""
    values: tuple[Tensor, ...]
    bias: Tensor | None
    """``[n, 1, 1, tokens]``, from `attention.key_bias`."""


class Said(NamedTuple):
    """What a block keeps of the codes that were said, for each beam."""

    keys: Tensor
    """``[n, beams, heads, codes, head_dim]``."""
    values: Tensor


class CodeDecoder(nn.Module):
    """A causal transformer over the levels of a semantic ID, with a softmax of its own at each level.

    Source: the SMGR reconstruction's decoder (section 6.2); as TIGER's (Rajput et al., 2023), whose codes of different
    levels are different tokens. Ours has pre-norm blocks and one position for each level.
    """

    def __init__(self, dim: int, *, levels: int, num_codes: int, layers: int, heads: int) -> None:
        """Make the layers.

        Args:
            dim: width, of what is asked too; a multiple of `heads`.
            levels: codes of an ID.
            num_codes: codes of each level.
            layers: blocks.
            heads: attention heads of a block.
        """
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim {dim} is not a multiple of heads {heads}")
        self.levels, self.num_codes = levels, num_codes
        self.start = nn.Parameter(torch.zeros(dim))
        self.places = nn.Parameter(torch.randn(levels, dim) * dim**-0.5)
        self.codes = nn.Embedding(max(1, levels - 1) * num_codes, dim)
        nn.init.normal_(self.codes.weight, std=dim**-0.5)
        self.blocks = nn.ModuleList(_Block(dim, heads=heads) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.scores = nn.Parameter(torch.randn(levels, num_codes, dim) * dim**-0.5)
        self.offsets = nn.Parameter(torch.zeros(levels, num_codes))

    def forward(self, asked: Tensor, *, codes: Tensor, keep: Tensor | None = None) -> Tensor:
        """Score every code at every level, given the true codes of the levels before.

        Args:
            asked: ``[n, tokens, dim]``, what the ID answers.
            codes: int64 ``[n, levels]``; the last one is not read.
            keep: bool ``[n, tokens]``, False at padding, each row with one True; None: all are kept.

        Returns:
            Logits ``[n, levels, num_codes]``.
        """
        memory = self.remember(asked, keep=keep)
        read = torch.arange(self.levels - 1, device=codes.device) * self.num_codes
        before = self.codes(codes[:, : self.levels - 1] + read)
        states = torch.cat([self.start.expand(len(codes), 1, -1), before], dim=1) + self.places
        for block, keys, values in zip(self.blocks, memory.keys, memory.values, strict=True):
            states = block(states, keys=keys, values=values, bias=memory.bias)
        return torch.einsum("nld,lkd->nlk", self.norm(states), self.scores) + self.offsets

    def remember(self, asked: Tensor, *, keep: Tensor | None = None) -> Memory:
        """Project what is asked ``[n, tokens, dim]`` once, for all steps and beams."""
        pairs = [block.read(asked) for block in self.blocks]
        bias = None if keep is None else key_bias(keep)
        return Memory(tuple(keys for keys, _ in pairs), tuple(values for _, values in pairs), bias)

    def step(
        self, memory: Memory, *, codes: Tensor | None, said: tuple[Said, ...] = ()
    ) -> tuple[Tensor, tuple[Said, ...]]:
        """Score the codes of the next level of each beam.

        Args:
            memory: from `remember`.
            codes: int64 ``[n, beams]``, what was said last; None: nothing yet, and each request has one beam.
            said: from the step before, in the order of these beams; nothing before the first.

        Returns:
            Logits ``[n, beams, num_codes]``, and what the next step is given.
        """
        level = said[0].keys.shape[3] if said else 0
        if codes is None:
            states = (self.start + self.places[0]).expand(len(memory.keys[0]), 1, -1)
        else:
            states = self.codes(codes + (level - 1) * self.num_codes) + self.places[level]
        kept = []
        for place, block in enumerate(self.blocks):
            states, own = block.step(
                states,
                keys=memory.keys[place],
                values=memory.values[place],
                bias=memory.bias,
                said=said[place] if said else None,
            )
            kept.append(own)
        return functional.linear(self.norm(states), self.scores[level], self.offsets[level]), tuple(kept)


def of_beams(said: tuple[Said, ...], beams: Tensor) -> tuple[Said, ...]:
    """Take over what was said from the beams that are continued: int64 ``[n, new beams]``, places of old ones."""
    rows = torch.arange(len(beams), device=beams.device)[:, None]
    return tuple(Said(one.keys[rows, beams], one.values[rows, beams]) for one in said)


class _Block(nn.Module):
    """What was said, then what was asked, then a feed-forward layer; each on normalised input and added."""

    def __init__(self, dim: int, *, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.own_norm, self.asked_norm, self.mlp_norm = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.own = nn.Linear(dim, 3 * dim)
        self.own_out = nn.Linear(dim, dim)
        self.query = nn.Linear(dim, dim)
        self.asked = nn.Linear(dim, 2 * dim)
        self.asked_out = nn.Linear(dim, dim)
        self.mlp = Mlp(dim, hidden_dim=4 * dim)

    def read(self, asked: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of what was asked ``[n, heads, tokens, head_dim]``."""
        keys, values = self.asked(asked).chunk(2, dim=-1)
        return self._split(keys), self._split(values)

    def forward(self, states: Tensor, *, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
        """Map all levels ``[n, levels, dim]`` at once, none of which sees a later one."""
        own = (self._split(part) for part in self.own(self.own_norm(states)).chunk(3, dim=-1))
        mixed = functional.scaled_dot_product_attention(*own, is_causal=True)
        states = states + self.own_out(_joined(mixed))
        return self._answered(states, keys=keys, values=values, bias=bias)

    def step(
        self, states: Tensor, *, keys: Tensor, values: Tensor, bias: Tensor | None, said: Said | None
    ) -> tuple[Tensor, Said]:
        """Map the newest level of each beam ``[n, beams, dim]``; returns it with what is kept of it."""
        count, beams, dim = states.shape
        parts = self.own(self.own_norm(states)).view(count, beams, 3, self._heads, 1, dim // self._heads)
        query, key, value = parts.unbind(2)
        kept = Said(key, value)
        if said is not None:
            kept = Said(torch.cat([said.keys, key], dim=3), torch.cat([said.values, value], dim=3))
        mixed = functional.scaled_dot_product_attention(query, kept.keys, kept.values)
        states = states + self.own_out(mixed.reshape(count, beams, dim))
        return self._answered(states, keys=keys, values=values, bias=bias), kept

    def _answered(self, states: Tensor, *, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
        """Let each state ``[n, places, dim]``, a level or a beam, read what was asked."""
        query = self._split(self.query(self.asked_norm(states)))
        mask = None if bias is None else bias.to(query.dtype)
        mixed = functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
        states = states + self.asked_out(_joined(mixed))
        return states + self.mlp(self.mlp_norm(states))

    def _split(self, states: Tensor) -> Tensor:
        """``[n, places, dim]`` → ``[n, heads, places, head_dim]``."""
        return states.view(*states.shape[:2], self._heads, -1).transpose(1, 2)


def _joined(mixed: Tensor) -> Tensor:
    return mixed.transpose(1, 2).flatten(2)
