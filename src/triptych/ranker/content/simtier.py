"""SimTier: how many of the user's choices look how much like the candidate, as a histogram of cosines.

Frozen vectors say in twenty numbers what a ranker wants of them, and nothing has to be learned of the vectors
themselves: strong, and cheap.

Source: Sheng et al., "Enhancing Taobao display advertising with multimodal representations: challenges, approaches and
insights", CIKM 2024 (arXiv 2407.19467), section 4.1. Changed: logarithms of counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from triptych.foundation.errors import ConfigError
from triptych.nn.query_former import ModalityTokens
from triptych.nn.target_attention import Steps
from triptych.ranker.content.base import Asked, ContentConfig, ContentModule, Described


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
        return SimTier(self)


CONFIG = SimTierConfig


class SimTier(ContentModule):
    """Says nothing of candidate and choices but how alike they are; cosines are means over modalities both have."""

    dim = 0

    def __init__(self, config: SimTierConfig) -> None:
        """Make it; use `SimTierConfig.build`."""
        super().__init__()
        self.pair_dim = config.tiers

    @torch.no_grad()
    def forward(self, asked: Asked) -> Described:
        """Count each candidate's alike choices."""
        nothing = asked.id_vectors.new_zeros(len(asked.target), 0)
        none_each = Steps(asked.id_vectors.new_zeros(len(asked.item_rows), 0), asked.steps)
        return Described(nothing, none_each, torch.log1p(self.counts(asked)))

    def counts(self, asked: Asked) -> Tensor:
        """Return the histograms, float32 ``[n, tiers]``; pairs without a modality in common are in none."""
        keep = asked.steps >= 0
        row = keep.nonzero()[:, 0]
        target, step = asked.target[row], asked.steps[keep]
        total, shared = (asked.id_vectors.new_zeros(len(row)) for _ in range(2))
        for tokens in asked.content:
            units, is_there = _units(tokens)
            both = is_there[target] & is_there[step]
            total = total + torch.where(both, (units[target] * units[step]).sum(dim=1), 0.0)
            shared = shared + both
        cosine = (total / shared.clamp(min=1)).clamp(-1, 1)
        tier = ((cosine + 1) / 2 * self.pair_dim).long().clamp(max=self.pair_dim - 1)
        place = row * self.pair_dim + tier
        counts = torch.bincount(place[shared > 0], minlength=len(keep) * self.pair_dim)
        return counts.view(len(keep), self.pair_dim).float()


def _units(given: ModalityTokens) -> tuple[Tensor, Tensor]:
    """Return items' mean tokens as unit vectors, and whether they have any."""
    tokens = given.tokens.float()
    keep = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device) if given.keep is None else given.keep
    return functional.normalize(tokens.masked_fill(~keep[:, :, None], 0.0).sum(dim=1), dim=1), keep.any(dim=1)
