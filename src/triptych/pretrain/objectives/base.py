"""What every objective is: a config with a weight, and a module that reads a step's passes and returns a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from pydantic import Field
from torch import nn

from triptych.encoders.base import Encoder, EncoderConfig
from triptych.foundation.config import Config
from triptych.losses.base import LossOutput
from triptych.pretrain.passes import Passes

OBJECTIVES = "triptych.pretrain.objectives"
"""The registry folder."""


class Needs(NamedTuple):
    """What an objective must be given besides items."""

    queries: bool = False
    """Queries that were clicked; without them a stage can learn from the items alone."""
    masked_queries: bool = False
    """Queries with masked words."""
    masked_titles: bool = False
    """Titles with masked words."""
    hidden_patches: bool = False
    """Photos with blanked patches."""
    photo_views: bool = False
    """Varied photos."""
    cross: bool = False
    """Query and item side by side."""
    title: bool = False
    """An encoder that reads titles."""
    photo: bool = False
    """An encoder that reads photos."""


class ObjectiveConfig(Config):
    """Base of every objective's settings."""

    kind: str
    """Name of the objective's file."""
    weight: float = Field(1.0, gt=0)
    """Weight of the loss in the sum."""

    @property
    @abstractmethod
    def label(self) -> str:
        """Its name in logs, and that of its weights: two objectives of a stage have different ones."""

    @property
    @abstractmethod
    def needs(self) -> Needs:
        """What it must be given."""

    def check(self, encoder: EncoderConfig) -> None:
        """See that such an encoder, which reads what is needed, can learn it.

        Raises:
            ValueError: it cannot, or an option would have no effect.
        """
        del encoder

    @abstractmethod
    def build(self, encoder: Encoder, *, batch_items: int) -> Objective:
        """Make the objective for an encoder, drawing the weights of its head from torch's global generator.

        Args:
            encoder: what is trained by it.
            batch_items: items of a batch.

        Raises:
            ConfigError: the encoder cannot learn it.
        """


class Objective(nn.Module, ABC):
    """One thing to learn, with a head of its own where it takes one."""

    def rate_factors(self) -> dict[str, float]:
        """Return what is trained at a rate of its own, as `training.task.RateFactors`."""
        return {}

    @abstractmethod
    def forward(self, passes: Passes) -> LossOutput | None:
        """Return this process's share of the loss over the batch; None where the batch has nothing for it."""
