"""Behaviour sequence transformer: the candidate and the history attend to each other.

Each step is what it is by features and by content, with when and how it was chosen; the candidate stands among them, a
learned vector in the place of a time. The candidate's state, which has read the history, goes into an MLP.

Source: Chen et al., "Behavior sequence transformer for e-commerce recommendation in Alibaba", DLP-KDD 2019. Changed:
pre-norm; only the candidate's state is read, and not all places' states side by side, so that histories may have any
length.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from triptych.nn.dense_layers import Activation, DenseLayers
from triptych.nn.transformer import Transformer
from triptych.ranker.base import RankModel, RankModelConfig, Seen
from triptych.ranker.content.base import ContentConfig
from triptych.ranker.inputs import Sizes


class BstConfig(RankModelConfig):
    """Sizes of Transformer and MLP."""

    kind: Literal["bst"] = "bst"
    """Name of the file that defines it."""
    history_items: int = Field(20, ge=1)
    """The user's latest choices that are read."""
    id_init_std: float = Field(0.3, ge=0)
    """Standard deviation of the first vectors of features; of small ones nothing stands out in the Transformer."""
    state_dim: int = Field(64, ge=1)
    """Width of the Transformer."""
    layers: int = Field(1, ge=1)
    """Its blocks."""
    heads: int = Field(4, ge=1)
    """Attention heads of a block."""
    activation: Activation = Activation.PRELU
    """Between layers of the MLP: relu, prelu or dice."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.state_dim % self.heads:
            raise ValueError(f"state_dim {self.state_dim} must be a multiple of heads ({self.heads}).")
        return self

    def build(self, sizes: Sizes, *, content: ContentConfig, seed: int) -> Bst:
        """Make the model with new weights."""
        return Bst(self, sizes, content=content, seed=seed)


CONFIG = BstConfig


class Bst(RankModel):
    """A Transformer and an MLP."""

    config: BstConfig

    def make(self) -> None:
        """Make the layers."""
        config, dims = self.config, self.dims
        self.project = nn.Linear(dims.item + dims.content, config.state_dim)
        self.when = nn.Linear(dims.beside, config.state_dim, bias=False)
        self.now = nn.Parameter(torch.randn(config.state_dim) * 0.02)
        self.transformer = Transformer(config.state_dim, layers=config.layers, heads=config.heads)
        self.head = DenseLayers(
            dims.context + dims.item + dims.content + config.state_dim + dims.pair,
            hidden_dims=config.hidden_dims,
            out_dim=1,
            activation=config.activation,
            dropout_rate=config.dropout_rate,
        )

    @property
    def last(self) -> nn.Linear:
        """The MLP's last layer."""
        return self.head.last

    def logits(self, seen: Seen) -> Tensor:
        """Return log odds ``[n]``."""
        content = seen.content
        target = torch.cat([seen.target, content.target], dim=1)
        steps = torch.cat([seen.steps.looked_up(), content.steps.looked_up()], dim=2)
        states = self.project(steps) + self.when(seen.beside.looked_up())
        states = torch.cat([(self.project(target) + self.now)[:, None], states], dim=1)
        keep = seen.steps.keep
        read = self.transformer(states, keep=torch.cat([keep.new_ones(keep.shape[0], 1), keep], dim=1), read=1)[:, 0]
        return self.head(torch.cat([seen.context, target, read.float(), content.pair], dim=1))[:, 0]
