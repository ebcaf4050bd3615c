"""SimTier: how many of the user's choices look how much like the candidate, as a histogram of cosines.

Frozen vectors say in twenty numbers what a ranker wants of them, and nothing has to be learned of the vectors
themselves: strong, and cheap.

Source: Sheng et al., "Enhancing Taobao display advertising with multimodal representations: challenges, approaches and
insights", CIKM 2024 (arXiv 2407.19467), section 4.1. Changed: logarithms of counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from triptych.foundation.errors import ConfigError
from triptych.nn.query_former import ModalityTokens
from triptych.nn.target_attention import Steps
from triptych.ranker.content.base import Asked, ContentConfig, ContentModule, Described, ItemSide

CACHED_PAIRS = 8_192
"""Pairs of candidate and choice that are compared at a time: their vectors then stay in a processor's cache."""


class SimTierConfig(ContentConfig):
    """The histogram."""

    kind: Literal["simtier"] = "simtier"
    """Name of the file that defines it."""
    tiers: int = Field(20, ge=2)
    """Bins of equal width from -1 to 1."""

    def build(self, modalities: Mapping[str, int], *, id_dim: int, catalogue_items: int) -> SimTier:
        """Make it."""
        if not modalities:
            raise ConfigError("content: 'simtier' reads vectors of items, and there are none. Give modalities.")
        return SimTier(self, modalities)


CONFIG = SimTierConfig


class SimTier(ContentModule):
    """Says nothing of candidate and choices but how alike they are; cosines are means over modalities both have."""

    dim = 0

    def __init__(self, config: SimTierConfig, modalities: Mapping[str, int]) -> None:
        """Make it; use `SimTierConfig.build`."""
        super().__init__()
        self.pair_dim, self._modalities = config.tiers, tuple(modalities)

    @torch.no_grad()
    def forward(self, asked: Asked) -> Described:
        """Count each candidate's alike choices."""
        return self.describe(self.item_side()(asked.content), target=asked.target, steps=asked.steps)

    def item_side(self) -> SimTierItemSide:
        """A unit vector of each modality."""
        return SimTierItemSide(self._modalities)

    @torch.no_grad()
    def describe(self, items: Sequence[Tensor], *, target: Tensor, steps: Tensor) -> Described:
        """Count each candidate's alike choices."""
        nothing = items[0].new_zeros(target.shape[0], 0)
        counts = self.counts(items, target=target, steps=steps)
        return Described(nothing, Steps(nothing[:0], steps), torch.log1p(counts))

    def counts(self, items: Sequence[Tensor], *, target: Tensor, steps: Tensor) -> Tensor:
        """Return the histograms, float32 ``[n, tiers]``; pairs without a modality in common are in none.

        Args:
            items: as `SimTierItemSide` gives them.
            target: int64 ``[n]``, as of `Asked`.
            steps: int64 ``[n, longest]``, likewise.
        """
        keep = steps >= 0
        if torch.compiler.is_exporting():  # graphs know no lists of pairs, and no bincount
            tier, counts = self._tiers(items, target=target[:, None], step=steps.clamp(min=0))
            is_in = tier[:, :, None] == torch.arange(self.pair_dim, device=tier.device)
            return (is_in & (keep & counts)[:, :, None]).sum(dim=1).float()
        row = keep.nonzero()[:, 0]
        found = torch.zeros(len(keep) * self.pair_dim, dtype=torch.int64, device=keep.device)
        for rows, step in zip(row.split(CACHED_PAIRS), steps[keep].split(CACHED_PAIRS), strict=True):
            tier, counts = self._tiers(items, target=target[rows], step=step)
            place = (rows * self.pair_dim + tier)[counts]
            found.index_add_(0, place, torch.ones_like(place))
        return found.view(len(keep), self.pair_dim).float()

    def _tiers(self, items: Sequence[Tensor], *, target: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """Return the bin of each pair, and whether it is in any."""
        total, shared = (items[0].new_zeros(step.shape) for _ in range(2))
        for given in items:
            units, is_there = given[:, :-1], given[:, -1] > 0
            both = is_there[target] & is_there[step]
            total = total + torch.where(both, (units[target] * units[step]).sum(dim=-1), 0.0)
            shared = shared + both
        cosine = (total / shared.clamp(min=1)).clamp(-1, 1)
        return ((cosine + 1) / 2 * self.pair_dim).long().clamp(max=self.pair_dim - 1), shared > 0


class SimTierItemSide(ItemSide):
    """Unit vectors of an item."""

    def __init__(self, modalities: Sequence[str]) -> None:
        """Take the modalities' names."""
        super().__init__()
        self.names = tuple(modalities)

    def forward(self, content: Sequence[ModalityTokens]) -> tuple[Tensor, ...]:
        """Return each modality's mean token as a unit vector, and 1; zeros where it has none: ``[items, dim + 1]``."""
        return tuple(_unit(tokens) for tokens in content)


def _unit(given: ModalityTokens) -> Tensor:
    tokens = given.tokens.float()
    keep = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device) if given.keep is None else given.keep
    mean = functional.normalize(tokens.masked_fill(~keep[:, :, None], 0.0).sum(dim=1), dim=1)
    return torch.cat([mean, keep.any(dim=1, keepdim=True).float()], dim=1)
