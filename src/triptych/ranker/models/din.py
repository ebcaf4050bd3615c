"""Deep interest network: the history as each candidate sees it, beside the candidate and the request.

Target attention sums up the history by features, and by content with weights of its own; what comes out stands beside
the candidate, the request and what content says of both together, and an MLP makes a score of all.

Source: Zhou et al., "Deep interest network for click-through rate prediction", KDD 2018. Changed: it is told how long
ago and how (click, cart, order) a step was chosen; weights may be normalised; content (EM3's reconstruction, section
3.2).
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from triptych.nn.dense_layers import Activation, DenseLayers
from triptych.nn.target_attention import TargetAttention, Weights
from triptych.ranker.base import RankModel, RankModelConfig, Seen
from triptych.ranker.content.base import ContentConfig
from triptych.ranker.inputs import Sizes


class DinConfig(RankModelConfig):
    """Sizes of attention and MLP."""

    kind: Literal["din"] = "din"
    """Name of the file that defines it."""
    history_items: int = Field(50, ge=1)
    """The user's latest choices that are read."""
    attention_dims: tuple[int, ...] = Field((64, 16), min_length=1)
    """Layers of the network that weighs a step."""
    weights: Weights = Weights.RAW
    """What becomes of its scores: raw (as published) or softmax."""
    activation: Activation = Activation.PRELU
    """Between layers, of both networks: relu, prelu or dice."""

    def build(self, sizes: Sizes, *, content: ContentConfig, seed: int) -> Din:
        """Make the model with new weights."""
        return Din(self, sizes, content=content, seed=seed)


CONFIG = DinConfig


class Din(RankModel):
    """Target attention and an MLP."""

    config: DinConfig

    def make(self) -> None:
        """Make the layers."""
        self.by_features = self.attention(self.dims.item)
        self.by_content = self.attention(self.dims.content) if self.dims.content else None
        self.head = DenseLayers(
            self.seen_dim,
            hidden_dims=self.config.hidden_dims,
            out_dim=1,
            activation=self.config.activation,
            dropout_rate=self.config.dropout_rate,
        )

    def attention(self, dim: int) -> TargetAttention:
        """Make an attention over vectors of a length."""
        config = self.config
        return TargetAttention(
            dim,
            hidden_dims=config.attention_dims,
            beside_dim=self.dims.beside,
            activation=config.activation,
            weights=config.weights,
        )

    @property
    def seen_dim(self) -> int:
        """Length of what the MLP reads."""
        dims = self.dims
        return dims.context + 2 * dims.item + 2 * dims.content + dims.pair

    @property
    def last(self) -> nn.Linear:
        """The MLP's last layer."""
        return self.head.last

    def logits(self, seen: Seen) -> Tensor:
        """Return log odds ``[n]``."""
        return self.head(torch.cat(self.joined(seen), dim=1))[:, 0]

    def joined(self, seen: Seen) -> list[Tensor]:
        """Return what the MLP reads, part by part."""
        parts = [seen.context, seen.target, self.by_features(seen.target, seen.steps, beside=seen.beside)]
        if self.by_content is not None:
            content = seen.content
            parts += [content.target, self.by_content(content.target, content.steps, beside=seen.beside)]
        return [*parts, seen.content.pair]
