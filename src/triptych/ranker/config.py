"""How a ranker is trained."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from triptych.foundation.config import Config
from triptych.foundation.registry import one_of
from triptych.nn.precision import Precision
from triptych.ranker.base import CONTENTS, MODELS, RankModelConfig
from triptych.ranker.content.base import ContentConfig
from triptych.ranker.content.none import NoContentConfig
from triptych.ranker.measure import GroupBy
from triptych.ranker.models.din import DinConfig
from triptych.training.loop import LoopConfig


class Order(StrEnum):
    """In which order samples are learned from."""

    SHUFFLED = "shuffled"
    """Requests by chance, anew in each epoch; a request's samples stay together."""
    TIME = "time"
    """As they happened, so that what was learned last is the latest."""


class Headline(StrEnum):
    """What chooses the best weights."""

    GAUC = "gauc"
    AUC = "auc"


class RankTrainConfig(Config):
    """The model, what it reads of content, and how it is trained."""

    model: Annotated[RankModelConfig, one_of(MODELS, default="din")] = DinConfig()
    """What scores: a kind of `triptych.ranker.models`."""
    content: Annotated[ContentConfig, one_of(CONTENTS)] = NoContentConfig()
    """What it reads of content: a kind of `triptych.ranker.content`."""
    pairwise_weight: float = Field(0.0, ge=0)
    """Weight of the pairwise loss within requests beside the cross-entropy; 0: there is none."""
    negative_rate: float = Field(1.0, gt=0, le=1)
    """Share of what was shown and not chosen that is learned from, drawn anew in each epoch; scores are corrected for
    it."""
    order: Order = Order.SHUFFLED
    """In which order samples are learned from: shuffled or time."""
    batch_samples: int = Field(1024, ge=2)
    """Samples of a batch; fewer where the log has fewer."""
    id_min_count: int = Field(1, ge=1)
    """Samples in which an item, and requests in which a user or a query, must stand to have a vector of its own."""
    id_dropout_rate: float = Field(0.05, ge=0, lt=1)
    """Share of ids of items, users and queries that are hidden in training, so that what is new has a vector that has
    learned."""
    epochs: float = Field(1.0, gt=0)
    """Times through the samples. Vectors by ID are learned by heart in the second one."""
    validations: int = Field(4, ge=1)
    """Validations, spread evenly over the training; the best of them is kept."""
    validation_samples: int = Field(50_000, ge=1)
    """Samples of the validation part that choose the best weights, whole groups of them; fewer where it has fewer."""
    headline: Headline = Headline.GAUC
    """What chooses them: gauc or auc."""
    grouped_by: GroupBy = GroupBy.USER
    """Whose order GAUC measures, also beside another headline: user or request."""
    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate of all weights but those of features, which have a multiple of it (`model.id_rate_factor`)."""
    warmup_rate: float = Field(0.05, ge=0, lt=1)
    """Share of the steps over which the learning rate rises to its peak; it then falls to 0 along a cosine."""
    weight_decay: float = Field(0.01, ge=0)
    """AdamW's decay, of matrices only; features' vectors have none."""
    clip_norm: float = Field(3.0, gt=0)
    """Gradients are scaled down to this norm."""
    precision: Precision = Precision.AUTO
    """Number format of matrix products: bf16, fp32, or auto (bf16 where the device has instructions for it)."""
    device: str = "auto"
    """cpu, cuda, or auto (a GPU if there is one)."""

    def loop(self, *, batches_per_epoch: int) -> LoopConfig:
        """Return how the training loop runs on a log of that length."""
        steps = max(1, round(self.epochs * batches_per_epoch))
        return LoopConfig(
            steps=steps,
            learning_rate=self.learning_rate,
            warmup_steps=round(self.warmup_rate * steps),
            weight_decay=self.weight_decay,
            clip_norm=self.clip_norm,
            precision=self.precision,
            device=self.device,
            validate_every=math.ceil(steps / self.validations),
        )
