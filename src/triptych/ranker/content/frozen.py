"""Frozen content: the vectors of a pretrained encoder, as they are, through one trained map.

What most rankers in production do with content, and what training it end to end has to beat.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from triptych.foundation.errors import ConfigError
from triptych.nn.query_former import ModalityTokens
from triptych.nn.target_attention import Steps
from triptych.ranker.content.base import Asked, ContentConfig, ContentModule, Described, ItemSide


class FrozenContentConfig(ContentConfig):
    """The map's size."""

    kind: Literal["frozen"] = "frozen"
    """Name of the file that defines it."""
    dim: int = Field(32, ge=1)
    """Length of a reduced vector."""
    hidden_dims: tuple[int, ...] = ()
    """Layers of an MLP with GELU in the place of the one map."""

    def build(self, modalities: Mapping[str, int], *, id_dim: int, catalogue_items: int) -> FrozenContent:
        """Make it."""
        if not modalities:
            raise ConfigError("content: 'frozen' reads vectors of items, and there are none. Give modalities.")
        return FrozenContent(self, modalities)


CONFIG = FrozenContentConfig


class FrozenContent(ContentModule):
    """All modalities' unit vectors side by side, each with whether it is there, reduced by one map for both sides."""

    pair_dim = 0

    def __init__(self, config: FrozenContentConfig, modalities: Mapping[str, int]) -> None:
        """Make the map; use `FrozenContentConfig.build`."""
        super().__init__()
        self.dim = config.dim
        widths = [sum(modalities.values()) + len(modalities), *config.hidden_dims, config.dim]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.GELU()]
        self.reduce = nn.Sequential(*layers[:-1])

    def forward(self, asked: Asked) -> Described:
        """Describe every distinct item once."""
        return self.describe(self.item_side()(asked.content), target=asked.target, steps=asked.steps)

    def item_side(self) -> FrozenItemSide:
        """One vector of each item, for both sides."""
        return FrozenItemSide(self.reduce)

    def describe(self, items: Sequence[Tensor], *, target: Tensor, steps: Tensor) -> Described:
        """Look the vectors up."""
        (vectors,) = items
        nothing = vectors.new_zeros(target.shape[0], 0)
        return Described(functional.embedding(target, vectors), Steps(vectors, steps), nothing)


class FrozenItemSide(ItemSide):
    """The reduced vector of an item."""

    names = ("item",)

    def __init__(self, reduce: nn.Module) -> None:
        """Take the map."""
        super().__init__()
        self.reduce = reduce

    def forward(self, content: Sequence[ModalityTokens]) -> tuple[Tensor, ...]:
        """Return float32 ``[items, dim]``."""
        return (self.reduce(torch.cat([_given(tokens) for tokens in content], dim=1)).float(),)


def _given(given: ModalityTokens) -> Tensor:
    """Return the mean of an item's tokens as a unit vector, and 1; zeros where it has none."""
    tokens = given.tokens
    keep = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device) if given.keep is None else given.keep
    mean = tokens.masked_fill(~keep[:, :, None], 0.0).sum(dim=1)
    return torch.cat([functional.normalize(mean, dim=1), keep.any(dim=1, keepdim=True).float()], dim=1)
