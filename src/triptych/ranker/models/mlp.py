"""An MLP over candidate, request and the mean of the history: what every other model has to beat."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from triptych.nn.dense_layers import Activation, DenseLayers
from triptych.ranker.base import RankModel, RankModelConfig, Seen
from triptych.ranker.content.base import ContentConfig
from triptych.ranker.inputs import Sizes


class MlpConfig(RankModelConfig):
    """Its layers; with history_items = 0 it does not look at histories."""

    kind: Literal["mlp"] = "mlp"
    """Name of the file that defines it."""
    activation: Activation = Activation.PRELU
    """Between layers: relu, prelu or dice."""

    def build(self, sizes: Sizes, *, content: ContentConfig, seed: int) -> Mlp:
        """Make the model with new weights."""
        return Mlp(self, sizes, content=content, seed=seed)


CONFIG = MlpConfig


class Mlp(RankModel):
    """One MLP."""

    config: MlpConfig

    def make(self) -> None:
        """Make the layers."""
        self.head = DenseLayers(
            self.pooled_dim,
            hidden_dims=self.config.hidden_dims,
            out_dim=1,
            activation=self.config.activation,
            dropout_rate=self.config.dropout_rate,
        )

    @property
    def last(self) -> nn.Linear:
        """The last layer."""
        return self.head.last

    def logits(self, seen: Seen) -> Tensor:
        """Return log odds ``[n]``."""
        return self.head(torch.cat(self.pooled(seen), dim=1))[:, 0]
