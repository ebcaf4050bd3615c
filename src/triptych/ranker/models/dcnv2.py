r"""Deep and cross network, version 2: products of features by layers that multiply with what came in.

.. math:: x_{l+1} = x_0 \odot (W_l x_l + b_l) + x_l

An MLP stands beside the cross layers, and a linear layer joins both. Histories are averaged.

Source: Wang et al., "DCN V2: Improved deep & cross network and practical lessons for web-scale learning to rank
systems", WWW 2021, equations (1) and (2), the parallel structure; `rank` is their low-rank form with one expert.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from triptych.nn.cross_layers import CrossLayers
from triptych.nn.dense_layers import Activation, DenseLayers
from triptych.ranker.base import RankModel, RankModelConfig, Seen
from triptych.ranker.content.base import ContentConfig
from triptych.ranker.inputs import Sizes


class Dcnv2Config(RankModelConfig):
    """Sizes of both halves; with history_items = 0 it does not look at histories."""

    kind: Literal["dcnv2"] = "dcnv2"
    """Name of the file that defines it."""
    cross_layers: int = Field(3, ge=1)
    """Layers that multiply: one more than that is the highest degree of a product."""
    rank: int = Field(0, ge=0)
    """Rank of their matrices; 0: full."""
    activation: Activation = Activation.RELU
    """Between layers of the MLP: relu, prelu or dice."""

    def build(self, sizes: Sizes, *, content: ContentConfig, seed: int) -> Dcnv2:
        """Make the model with new weights."""
        return Dcnv2(self, sizes, content=content, seed=seed)


CONFIG = Dcnv2Config


class Dcnv2(RankModel):
    """Cross layers beside an MLP."""

    config: Dcnv2Config

    def make(self) -> None:
        """Make the layers."""
        config = self.config
        self.cross = CrossLayers(self.pooled_dim, layers=config.cross_layers, rank=config.rank)
        self.deep = DenseLayers(
            self.pooled_dim,
            hidden_dims=config.hidden_dims,
            out_dim=None,
            activation=config.activation,
            dropout_rate=config.dropout_rate,
        )
        self.join = nn.Linear(self.pooled_dim + self.deep.out_dim, 1)

    @property
    def last(self) -> nn.Linear:
        """The layer that joins both."""
        return self.join

    def logits(self, seen: Seen) -> Tensor:
        """Return log odds ``[n]``."""
        given = torch.cat(self.pooled(seen), dim=1)
        return self.join(torch.cat([self.cross(given), self.deep(given)], dim=1))[:, 0]
