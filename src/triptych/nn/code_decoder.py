"""A decoder that says a semantic ID code by code: each code given those before it, and what it was asked."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from triptych.nn.attention import key_bias
from triptych.nn.transformer import Mlp


class Memory(NamedTuple):
    """What every step of a search reads of what was asked, for each block: made once, shared by a request's beams.

    A head with keys ``K`` scores a state ``x`` by ``(x · Wq + bq) · Kᵀ = x · (Wq · Kᵀ) + bq · Kᵀ``: what does not
    depend on the state is multiplied once. So are the head's values with those weights of the output layer that read
    them.
    """

    keys: tuple[Tensor, ...]
    """``[n, dim, heads · tokens]``, queries' weights and the scale included."""
    biases: tuple[Tensor, ...]
    """``[n, 1, heads · tokens]``, the scores that no state changes: minus infinity at padding."""
    values: tuple[Tensor, ...]
    """``[n, heads · tokens, dim]``, the output layer's weights included."""


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
        bias = None if keep is None else key_bias(keep)
        read = torch.arange(self.levels - 1, device=codes.device) * self.num_codes
        before = self.codes(codes[:, : self.levels - 1] + read)
        states = torch.cat([self.start.expand(len(codes), 1, -1), before], dim=1) + self.places
        for block in self.blocks:
            states = block(states, asked=asked, bias=bias)
        return torch.einsum("nld,lkd->nlk", self.norm(states), self.scores) + self.offsets

    @torch.no_grad()
    def for_search(self) -> SearchDecoder:
        """Lay the weights out for `beam_search`, as they are now: after training, or a move, it is made anew."""
        return SearchDecoder(self)


class SearchDecoder:
    """A decoder that says one code after another, of many beams at once: the same probabilities, with less work.

    What the first block makes of a code before it reads anything is looked up in a table, cross-attention is folded
    (`Memory`), and a beam's attention over the few codes that it has said is written out, for which fused kernels are
    slow. Layers are called as functions: of so few states, a module's call takes as long as a small layer.
    """

    def __init__(self, decoder: CodeDecoder) -> None:
        """Make the tables; as `CodeDecoder.for_search`."""
        self.levels, self.num_codes = decoder.levels, decoder.num_codes
        self._blocks = [_SearchBlock(block) for block in decoder.blocks if isinstance(block, _Block)]
        self._norm, self._scores, self._offsets = _Norm(decoder.norm), decoder.scores.detach(), decoder.offsets.detach()
        states = decoder.start[None], *decoder.codes.weight.split(self.num_codes)
        # At each level ``[num_codes, dim]``, by the code before; ``[1, dim]`` at the first, where there is none.
        self._states = [state + place for state, place in zip(states, decoder.places, strict=False)]
        self._entering = [self._blocks[0].entering(states) for states in self._states]

    def remember(self, asked: Tensor, *, keep: Tensor | None = None) -> Memory:
        """Read what is asked ``[n, tokens, dim]`` once, for all steps and beams; `keep` as in `CodeDecoder.forward`."""
        bias = None if keep is None else key_bias(keep)
        return Memory(*zip(*(block.remember(asked, bias=bias) for block in self._blocks), strict=True))

    def step(
        self, memory: Memory, *, codes: Tensor | None, said: tuple[Tensor, ...] = ()
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Score the codes of the next level of each beam.

        Args:
            memory: from `remember`.
            codes: int64 ``[n, beams]``, what was said last; None: nothing yet, and each request has one beam.
            said: from the step before, in the order of these beams; nothing before the first.

        Returns:
            Logits ``[n, beams, num_codes]``, and what the next step is given: of each block the keys and values of
            what was said, ``[n, beams, codes, 2, heads, head_dim]``.
        """
        level = said[0].shape[2] if said else 0
        if codes is None:
            codes = torch.zeros(len(memory.keys[0]), 1, dtype=torch.int64, device=memory.keys[0].device)
        states = functional.embedding(codes, self._states[level])
        entering = functional.embedding(codes, self._entering[level])
        kept = []
        for place, block in enumerate(self._blocks):
            if place:
                entering = block.entering(states)
            states, own = block.step(states, entering, said=said[place] if said else None)
            keys, biases, values = (part[place] for part in memory)
            states = block.answered(states, keys=keys, biases=biases, values=values)
            kept.append(own)
        return functional.linear(self._norm(states), self._scores[level], self._offsets[level]), tuple(kept)


def of_beams(said: tuple[Tensor, ...], beams: Tensor) -> tuple[Tensor, ...]:
    """Take over what was said from the beams that are continued.

    Args:
        said: from `SearchDecoder.step`.
        beams: int64 ``[n, new beams]``, places of old ones, counted through all requests.
    """
    return tuple(one.flatten(0, 1).index_select(0, beams.flatten()).unflatten(0, beams.shape) for one in said)


class _Linear:
    """A layer as a function, without the cost of a module's call."""

    def __init__(self, layer: nn.Linear) -> None:
        self.weight, self.bias = layer.weight.detach(), layer.bias.detach()

    def __call__(self, states: Tensor) -> Tensor:
        return functional.linear(states, self.weight, self.bias)


class _Norm:
    """The same of a norm."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        self._shape, self._weight, self._bias = norm.normalized_shape, norm.weight.detach(), norm.bias.detach()

    def __call__(self, states: Tensor) -> Tensor:
        return functional.layer_norm(states, self._shape, self._weight, self._bias)


class _SearchBlock:
    """A block of a `SearchDecoder`."""

    def __init__(self, block: _Block) -> None:
        self._heads = block.heads
        self._own_norm, self._own, self._own_out = _Norm(block.own_norm), _Linear(block.own), _Linear(block.own_out)
        self._asked_norm, self._asked = _Norm(block.asked_norm), _Linear(block.asked)
        self._mlp_norm, self._up, self._down = _Norm(block.mlp_norm), _Linear(block.mlp.up), _Linear(block.mlp.down)
        query, out = _Linear(block.query), _Linear(block.asked_out)
        self._query = query.weight.unflatten(0, (self._heads, -1))  # [heads, head_dim, dim]
        self._query_bias = query.bias.view(self._heads, -1, 1)
        self._out, self._out_bias = out.weight.T.reshape(self._query.shape), out.bias

    def remember(self, asked: Tensor, *, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return keys, biases and values of what was asked, as `Memory` has them."""
        (count, tokens, dim), heads = asked.shape, self._heads
        parts = self._asked(asked).view(count * tokens, 2, heads, -1).permute(1, 2, 0, 3)
        keys, values = parts[0] * parts.shape[3] ** -0.5, parts[1]  # [heads, n · tokens, head_dim]
        biases = torch.bmm(keys, self._query_bias).view(heads, count, tokens).transpose(0, 1)
        if bias is not None:
            biases = biases + bias[:, 0]
        keys, values = (
            torch.bmm(part, weight).view(heads, count, tokens, dim).transpose(0, 1).reshape(count, heads * tokens, dim)
            for part, weight in ((keys, self._query), (values, self._out))
        )
        return keys.transpose(1, 2), biases.reshape(count, 1, heads * tokens), values

    def entering(self, states: Tensor) -> Tensor:
        """Return the queries, keys and values of states ``[..., 3 · dim]``."""
        return self._own(self._own_norm(states))

    def step(self, states: Tensor, entering: Tensor, *, said: Tensor | None) -> tuple[Tensor, Tensor]:
        """Let the newest state of each beam ``[n, beams, dim]`` read what was said; returns what is kept of it too."""
        entering = entering.view(*states.shape[:2], 1, 3, self._heads, -1)
        query, kept = entering[:, :, :, 0], entering[:, :, :, 1:]
        if said is not None:
            kept = torch.cat([said, kept], dim=2)
        keys, values = kept.unbind(3)
        weights = ((query * keys).sum(dim=4, keepdim=True) * query.shape[4] ** -0.5).softmax(dim=2)
        mixed = (weights * values).sum(dim=2)
        return states + self._own_out(mixed.flatten(2)), kept

    def answered(self, states: Tensor, *, keys: Tensor, biases: Tensor, values: Tensor) -> Tensor:
        """Let each beam ``[n, beams, dim]`` read what was asked."""
        scores = torch.baddbmm(biases, self._asked_norm(states), keys)
        weights = scores.unflatten(2, (self._heads, -1)).softmax(dim=3).flatten(2)
        states = states + torch.baddbmm(self._out_bias, weights, values)
        return states + self._down(functional.gelu(self._up(self._mlp_norm(states))))


class _Block(nn.Module):
    """What was said, then what was asked, then a feed-forward layer; each on normalised input and added."""

    def __init__(self, dim: int, *, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.own_norm, self.asked_norm, self.mlp_norm = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.own = nn.Linear(dim, 3 * dim)
        self.own_out = nn.Linear(dim, dim)
        self.query = nn.Linear(dim, dim)
        self.asked = nn.Linear(dim, 2 * dim)
        self.asked_out = nn.Linear(dim, dim)
        self.mlp = Mlp(dim, hidden_dim=4 * dim)

    def forward(self, states: Tensor, *, asked: Tensor, bias: Tensor | None) -> Tensor:
        """Map all levels ``[n, levels, dim]`` at once, none of which sees a later one."""
        own = (self._split(part) for part in self.own(self.own_norm(states)).chunk(3, dim=-1))
        mixed = functional.scaled_dot_product_attention(*own, is_causal=True)
        states = states + self.own_out(_joined(mixed))
        query = self._split(self.query(self.asked_norm(states)))
        keys, values = (self._split(part) for part in self.asked(asked).chunk(2, dim=-1))
        mask = None if bias is None else bias.to(query.dtype)
        mixed = functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
        states = states + self.asked_out(_joined(mixed))
        return states + self.mlp(self.mlp_norm(states))

    def _split(self, states: Tensor) -> Tensor:
        """``[n, places, dim]`` → ``[n, heads, places, head_dim]``."""
        return states.view(*states.shape[:2], self.heads, -1).transpose(1, 2)


def _joined(mixed: Tensor) -> Tensor:
    return mixed.transpose(1, 2).flatten(2)
