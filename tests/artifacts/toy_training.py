"""A run to be killed. ``python toy_training.py OUT`` trains, or carries on; the end is OUT/weights.safetensors."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from triptych.losses.base import LossOutput
from triptych.training.loop import LoopConfig, fit
from triptych.training.task import Validation

CONFIG = LoopConfig(
    steps=150,
    warmup_steps=10,
    learning_rate=3e-3,
    device="cpu",
    validate_every=20,
    log_every=5,
    checkpoint_every_s=0.02,
    accumulate=2,
)


class Points(NamedTuple):
    inputs: torch.Tensor
    targets: torch.Tensor


class ToyTask:
    name = "toy"

    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.module = nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Dropout(0.3), nn.Linear(64, 1))

    def batch(self, index: int) -> Points:
        inputs = np.random.default_rng([3, index]).normal(size=(32, 8)).astype(np.float32)
        return Points(torch.from_numpy(inputs), torch.from_numpy(np.sin(inputs).sum(axis=1)))

    def num_samples(self, batch: Points) -> int:
        return len(batch.inputs)

    def losses(self, batch: Points) -> LossOutput:
        return LossOutput((self.module(batch.inputs)[:, 0].float() - batch.targets).square().mean())

    def validate(self) -> Validation:
        return Validation({"score": -float(self.losses(self.batch(10**6)).total)}, headline="score")


def main() -> None:
    out = Path(sys.argv[1])
    out.mkdir(exist_ok=True)
    print("ready", flush=True)
    task = ToyTask()
    fit(task, config=CONFIG, out=out, seed=0)
    save_file(task.module.state_dict(), out / "weights.safetensors")


if __name__ == "__main__":
    main()
