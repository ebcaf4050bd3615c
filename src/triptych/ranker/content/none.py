"""No content: a ranker by features alone, the baseline of every other plug-in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from triptych.nn.target_attention import Steps
from triptych.ranker.content.base import Asked, ContentConfig, ContentModule, Described


class NoContentConfig(ContentConfig):
    """Nothing to set."""

    kind: Literal["none"] = "none"
    """Name of the file that defines it."""

    @property
    def reads_modalities(self) -> bool:
        """It does not."""
        return False

    def build(self, modalities: Mapping[str, int], *, id_dim: int, catalogue_items: int) -> NoContent:
        """Make it."""
        return NoContent()


CONFIG = NoContentConfig


class NoContent(ContentModule):
    """Vectors of length 0."""

    dim, pair_dim = 0, 0

    def forward(self, asked: Asked) -> Described:
        """Say nothing."""
        nothing = asked.id_vectors.new_zeros(len(asked.target), 0)
        return Described(nothing, Steps(asked.id_vectors.new_zeros(len(asked.item_rows), 0), asked.steps), nothing)

    def item_side(self) -> None:
        """Nothing is worked out."""
        return

    def describe(self, items: Sequence[Tensor], *, target: Tensor, steps: Tensor) -> Described:
        """Say nothing."""
        nothing = torch.zeros(target.shape[0], 0, device=target.device)
        return Described(nothing, Steps(nothing[:0], steps), nothing)
