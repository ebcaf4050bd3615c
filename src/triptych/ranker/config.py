"""How a ranker is trained."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from triptych.foundation.registry import one_of
from triptych.ranker.base import CONTENTS, MODELS, RankModelConfig
from triptych.ranker.content.base import ContentConfig
from triptych.ranker.content.none import NoContentConfig
from triptych.ranker.measure import GroupBy
from triptych.ranker.models.din import DinConfig
from triptych.training.epochs import EpochsConfig


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


class RankTrainConfig(EpochsConfig):
    """The model, what it reads of content, and how it is trained.

    Features' vectors have a multiple of the learning rate (`model.id_rate_factor`).
    """

    model: Annotated[RankModelConfig, one_of(MODELS, default="din")] = DinConfig()
    """What scores: a kind of `triptych.ranker.models`."""
    content: Annotated[ContentConfig, one_of(CONTENTS)] = NoContentConfig()
    """What it reads of content: a kind of `triptych.ranker.content`."""
    reads_match: bool = False
    """Whether it reads the cosine of query and item, as the encoder has them, as a number of each candidate
    (`ranker.match`); for logs with queries."""
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
    """Share of ids of items, users and queries, and of hours and weekdays, that are hidden in training, so that what is
    new has a vector that has learned."""
    epochs: float = Field(1.0, gt=0)
    """Times through the samples. Vectors by ID are learned by heart in the second one."""
    validation_samples: int = Field(50_000, ge=1)
    """Samples of the validation part that choose the best weights, whole groups of them; fewer where it has fewer."""
    headline: Headline = Headline.GAUC
    """What chooses them: gauc or auc."""
    grouped_by: GroupBy = GroupBy.USER
    """Whose order GAUC measures, also beside another headline: user or request."""
    clip_norm: float = Field(3.0, gt=0)
    """Gradients are scaled down to this norm."""

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what came later where it is not set: rankers trained before keep their ids."""
        tree: dict[str, Any] = handler(self)
        return {name: value for name, value in tree.items() if name != "reads_match" or value}
