"""Training by times through a log: how long and how fast, told alike by whatever is trained on it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from triptych.foundation.artifact import Artifact, find
from triptych.foundation.config import Config
from triptych.nn.precision import Precision
from triptych.training.loop import LoopConfig


class EpochsConfig(Config):
    """How long and how fast: the base of the configs of recall models, decoders of semantic IDs, and rankers."""

    epochs: float = Field(2.0, gt=0)
    """Times through what is learned from."""
    validations: int = Field(4, ge=1)
    """Validations, spread evenly over the training; the best of them is kept."""
    patience: int | None = Field(None, ge=1)
    """Validations without a new best after which training ends early; none: it goes to the end."""
    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate."""
    warmup_rate: float = Field(0.05, ge=0, lt=1)
    """Share of the steps over which the learning rate rises to its peak; it then falls to 0 along a cosine."""
    weight_decay: float = Field(0.01, ge=0)
    """AdamW's decay, of matrices only; vectors by ID have none."""
    clip_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this norm."""
    precision: Precision = Precision.AUTO
    """Number format of matrix products: bf16, fp32, or auto (bf16 where the device has instructions for it)."""
    device: str = "auto"
    """cpu, cuda, or auto (a GPU if there is one)."""

    def loop(self, *, batches_per_epoch: float) -> LoopConfig:
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
            patience=self.patience,
        )


def described(kind: str, config: EpochsConfig, *, seed: int) -> dict[str, Any]:
    """Return all settings that decide the weights of such an artefact, beside its inputs."""
    return {kind: config.dump(), "seed": seed}


def find_trained(
    kind: str, config: EpochsConfig, *, seed: int, inputs: Mapping[str, Artifact | str], out: Path
) -> Artifact | None:
    """Return the artefact that a training would open, or None where it would have to train; arguments as it has."""
    return find(out, kind=kind, config=described(kind, config, seed=seed), inputs=inputs)
