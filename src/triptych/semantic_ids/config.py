"""How semantic IDs are made."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from triptych.foundation.config import Config
from triptych.foundation.registry import one_of
from triptych.semantic_ids.base import QUANTIZERS, QuantizerConfig, TrainedConfig
from triptych.semantic_ids.collisions import CollisionsConfig
from triptych.semantic_ids.quality import Gate, QualityConfig
from triptych.semantic_ids.quantizers.residual_kmeans import ResidualKmeansConfig
from triptych.training.loop import LoopConfig


class TrainingConfig(Config):
    """How a quantiser with weights is trained."""

    loop: LoopConfig = LoopConfig(
        steps=20_000, learning_rate=1e-3, warmup_steps=200, weight_decay=1e-4, validate_every=1_000, log_every=100
    )
    """The training loop."""
    batch_vectors: int = Field(2_048, ge=1)
    """Vectors of a batch, drawn with replacement."""
    validation_vectors: int = Field(20_000, ge=1)
    """Vectors, drawn once from those that are learned from, whose reconstruction chooses the best weights."""


class SemanticIdsConfig(Config):
    """The quantiser, what is done about collisions, and how the result is judged."""

    quantizer: Annotated[QuantizerConfig, one_of(QUANTIZERS, default="residual_kmeans")] = ResidualKmeansConfig()
    """What makes codes of vectors: a kind of `triptych.semantic_ids.quantizers`."""
    training: TrainingConfig = TrainingConfig()
    """How a quantiser with weights is trained; with rq_vae only."""
    collisions: CollisionsConfig = CollisionsConfig()
    """What is done about items whose codes are all the same."""
    quality: QualityConfig = QualityConfig()
    """How the result is measured."""
    gate: Gate = Gate()
    """What the result must reach."""

    @model_validator(mode="after")
    def _no_option_without_effect(self) -> Self:
        if self.training != TrainingConfig() and not isinstance(self.quantizer, TrainedConfig):
            raise ValueError(
                f"training has no effect with quantizer.kind = '{self.quantizer.kind}', which is fitted without. "
                "Remove it."
            )
        return self
