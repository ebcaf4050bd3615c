"""The training loop of every stage.

The stage gives a `Task`; the loop gives the device and precision, gradient accumulation and clipping, AdamW, the
schedule, validation with early stop and best weights, checkpoints, exact resume, and the log.

Exact resume rests on three things: a batch is a pure function of its index, torch's generator is seeded anew for every
batch, and everything else that a step changes (weights, optimiser, best so far, counters) is in the checkpoint. A run
that is killed at any step and started again ends with the weights of an unbroken one, bit for bit on a CPU with the
same number of threads.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Generic, NamedTuple, Self, TypeVar

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from triptych.data.loader import prefetched
from triptych.foundation.config import Config
from triptych.foundation.errors import TriptychError
from triptych.foundation.progress import Progress
from triptych.nn.precision import Precision, autocast, find_device
from triptych.training.checkpoint import Checkpoints
from triptych.training.log import LOG_FILE, TrainLog
from triptych.training.schedule import Schedule, learning_rate_factor
from triptych.training.task import Batch, RateFactors, Task, Validation

T = TypeVar("T")

MODEL, OPTIMIZER = "model/", "optimizer/"
DEFAULT_DECAY_RATE = 0.3


class LoopConfig(Config):
    """How a stage is trained."""

    steps: int = Field(1_000, ge=1)
    """Optimiser steps."""
    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate of AdamW."""
    schedule: Schedule = Schedule.COSINE
    """Learning rate after warm-up: cosine (down to 0) or wsd (held, then down in a line to 5 %)."""
    warmup_steps: int = Field(50, ge=0)
    """Steps over which the learning rate rises to its peak."""
    decay_rate: float | None = Field(None, gt=0, le=1)
    """Share of the steps in which the learning rate falls, only with schedule = wsd; 0.3 when not given."""
    weight_decay: float = Field(0.01, ge=0)
    """AdamW's decay, of matrices only: not of biases, norms and single vectors."""
    clip_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this norm."""
    accumulate: int = Field(1, ge=1)
    """Batches whose gradients are averaged into one step."""
    precision: Precision = Precision.AUTO
    """Number format of matrix products: bf16, fp32, or auto (bf16 where the device has instructions for it)."""
    device: str = "auto"
    """cpu, cuda, or auto (a GPU if there is one)."""
    compile_model: bool = False
    """Whether torch.compile is used: pays on a GPU, costs half a minute at the start."""
    validate_every: int = Field(100, ge=1)
    """Steps between validations; the last step is always validated."""
    patience: int | None = Field(None, ge=1)
    """Validations without a new best after which training stops early; none trains to the end."""
    log_every: int = Field(10, ge=1)
    """Steps between records of the log."""
    checkpoint_every_s: float = Field(30.0, ge=0)
    """Seconds between checkpoints; 0 writes one after every step."""

    @model_validator(mode="after")
    def _no_option_without_effect(self) -> Self:
        if self.decay_rate is not None and self.schedule is not Schedule.WSD:
            raise ValueError("decay_rate has no effect with schedule = 'cosine'. Remove it, or set schedule = 'wsd'.")
        return self

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of a step, from 0."""
        factor = learning_rate_factor(
            step,
            schedule=self.schedule,
            steps=self.steps,
            warmup_steps=self.warmup_steps,
            decay_rate=DEFAULT_DECAY_RATE if self.decay_rate is None else self.decay_rate,
        )
        return self.learning_rate * factor


class FitResult(NamedTuple):
    """What a finished run can say about itself. The module holds the best weights."""

    steps: int
    """Steps done; fewer than asked for after an early stop."""
    best_step: int
    """The step whose weights were kept."""
    headline: str
    """The metric that chose them."""
    metrics: dict[str, float]
    """Validation at the best step."""
    seconds: float
    """Training time, without validation and checkpoints, over all attempts."""
    samples_per_s: float
    peak_memory_bytes: int
    """Largest resident memory of this process."""


def fit(task: Task[Batch], *, config: LoopConfig, out: Path, seed: int) -> FitResult:
    """Train a task, or carry on where an interrupted attempt left off.

    Args:
        task: what to train; its module is moved to the device and left there, with the best weights.
        config: how.
        out: folder for ``train.jsonl`` and the resume state (``resume/``).
        seed: of whatever the model draws, such as dropout.

    Raises:
        TriptychError: the loss or its gradient is no longer a finite number.
    """
    device = find_device(config.device)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        return _Run(task, config=config, out=out, seed=seed, device=device).finish()


@dataclass
class _State:
    """Everything besides tensors that a checkpoint holds."""

    step: int = 0
    samples: int = 0
    seconds: float = 0.0
    best_step: int | None = None
    best_metrics: dict[str, float] = field(default_factory=dict)
    headline: str = ""
    without_best: int = 0
    stopped: bool = False


class _StepFigures(NamedTuple):
    total: Tensor
    parts: Mapping[str, Tensor]
    grad_norm: Tensor
    learning_rate: float


class _Run(Generic[Batch]):
    def __init__(self, task: Task[Batch], *, config: LoopConfig, out: Path, seed: int, device: torch.device) -> None:
        self._task = task
        self._config = config
        self._seed = seed
        self._device = device
        self._module = task.module.to(device)
        self._losses = torch.compile(task.losses) if config.compile_model else task.losses
        self._weights = {name: p for name, p in self._module.named_parameters() if p.requires_grad}
        self._optimizer = self._make_optimizer()
        self._checkpoints = Checkpoints(out / "resume")
        self._state = self._restore()
        self._log = TrainLog(out / LOG_FILE, from_step=self._state.step)
        self._saved_at = time.monotonic()
        self._logged = (self._state.samples, self._state.seconds)

    def finish(self) -> FitResult:
        """Run the remaining steps and load the best weights."""
        config, state = self._config, self._state
        indices = count(state.step * config.accumulate)
        batches = prefetched(self._task.batch, indices=indices)
        bar = Progress(self._task.name, total=config.steps, unit="step", start=state.step)
        with closing(self._log), closing(batches), bar:
            self._module.train()
            while state.step < config.steps and not state.stopped:
                started = time.perf_counter()
                figures = self._step(batches)
                state.seconds += time.perf_counter() - started
                bar.note(f"loss {float(figures.total):.3f}")
                bar.advance()
                self._after_step(figures)
        return self._result()

    def _step(self, batches: Any) -> _StepFigures:
        """Do one optimiser step."""
        config, state = self._config, self._state
        learning_rate = config.learning_rate_at(state.step)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate * group["rate_factor"]
        totals, parts = [], []
        for micro in range(config.accumulate):
            batch = next(batches)
            state.samples += self._task.num_samples(batch)
            torch.manual_seed(_mixed(self._seed, state.step * config.accumulate + micro))
            with autocast(config.precision, device=self._device):
                output = self._losses(_on(self._device, batch))
            (output.total / config.accumulate).backward()
            totals.append(output.total.detach())
            parts.append(output.parts)
        # Data-parallel training would average the gradients over the processes here, and nowhere else.
        grad_norm = torch.nn.utils.clip_grad_norm_(self._weights.values(), config.clip_norm)
        total = torch.stack(totals).mean()
        self._check_finite(total, grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        state.step += 1
        means = {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}
        return _StepFigures(total, means, grad_norm, learning_rate)

    def _after_step(self, figures: _StepFigures) -> None:
        """Log, validate and save, each when it is due; validation before saving, so that a resume has it."""
        config, state = self._config, self._state
        last = state.step == config.steps
        if state.step % config.log_every == 0 or last:
            self._write_log(figures)
        if state.step % config.validate_every == 0 or last:
            self._validate()
        if last or state.stopped or time.monotonic() - self._saved_at >= config.checkpoint_every_s:
            self._save()

    def _validate(self) -> None:
        config, state = self._config, self._state
        self._module.eval()
        started = time.perf_counter()
        with torch.no_grad():
            validation = self._task.validate()
        seconds = time.perf_counter() - started
        self._module.train()
        self._log.write(
            "validation", step=state.step, values={**validation.metrics, "validation_seconds": round(seconds, 3)}
        )
        if self._is_best(validation):
            state.best_step, state.without_best = state.step, 0
            state.best_metrics, state.headline = dict(validation.metrics), validation.headline
            self._checkpoints.save_best(step=state.step, tensors=self._module.state_dict())
        else:
            state.without_best += 1
            state.stopped = config.patience is not None and state.without_best >= config.patience

    def _is_best(self, validation: Validation) -> bool:
        state = self._state
        return state.best_step is None or validation.metrics[validation.headline] > state.best_metrics[state.headline]

    def _write_log(self, figures: _StepFigures) -> None:
        state = self._state
        samples, seconds = self._logged
        self._logged = (state.samples, state.seconds)
        memory = {"peak_memory_bytes": peak_memory_bytes()}
        if self._device.type == "cuda":
            memory["peak_gpu_memory_bytes"] = torch.cuda.max_memory_allocated(self._device)
        values = {
            "loss": float(figures.total),
            **{name: float(part) for name, part in figures.parts.items()},
            "learning_rate": figures.learning_rate,
            "grad_norm": float(figures.grad_norm),
            "samples_per_s": round((state.samples - samples) / max(state.seconds - seconds, 1e-9), 2),
            "seconds": round(state.seconds, 3),
            **memory,
        }
        self._log.write("train", step=state.step, values=values)

    def _check_finite(self, total: Tensor, grad_norm: Tensor) -> None:
        for what, value in (("loss", float(total)), ("gradient", float(grad_norm))):
            if not math.isfinite(value):
                raise TriptychError(
                    f"{self._task.name}: the {what} became {value} at step {self._state.step + 1}, so training stopped "
                    f"before it could spoil the weights. Lower learning_rate (now {self._config.learning_rate:g}), "
                    "lengthen warmup_steps, or set precision = fp32."
                )

    def _make_optimizer(self) -> torch.optim.AdamW:
        groups = []
        for factor, weights in by_rate_factor(self._module, self._weights).items():
            matrices = [p for p in weights if p.ndim >= 2]
            vectors = [p for p in weights if p.ndim < 2]
            groups += [
                {"params": matrices, "weight_decay": self._config.weight_decay, "rate_factor": factor},
                {"params": vectors, "weight_decay": 0.0, "rate_factor": factor},
            ]
        return torch.optim.AdamW(groups, lr=self._config.learning_rate, fused=True)

    def _save(self) -> None:
        tensors = {MODEL + name: value for name, value in self._module.state_dict().items()}
        for name, weight in self._weights.items():
            for slot, value in self._optimizer.state[weight].items():
                tensors[f"{OPTIMIZER}{name}/{slot}"] = value
        state = asdict(self._state)
        self._checkpoints.save(step=state.pop("step"), best_step=state.pop("best_step"), tensors=tensors, state=state)
        self._saved_at = time.monotonic()

    def _restore(self) -> _State:
        """Load the newest checkpoint into the module and the optimiser."""
        found = self._checkpoints.latest()
        if found is None:
            return _State()
        model = {name.removeprefix(MODEL): t for name, t in found.tensors.items() if name.startswith(MODEL)}
        self._module.load_state_dict(model)
        for key, value in found.tensors.items():
            if key.startswith(OPTIMIZER):
                name, slot = key.removeprefix(OPTIMIZER).rsplit("/", 1)
                weight = self._weights[name]
                self._optimizer.state[weight][slot] = value.to(weight.device)
        return _State(**found.state)

    def _result(self) -> FitResult:
        state = self._state
        assert state.best_step is not None, "the last step is always validated"
        if state.best_step != state.step:
            self._module.load_state_dict(self._checkpoints.best(state.best_step))
        self._module.eval()
        return FitResult(
            steps=state.step,
            best_step=state.best_step,
            headline=state.headline,
            metrics=state.best_metrics,
            seconds=state.seconds,
            samples_per_s=state.samples / max(state.seconds, 1e-9),
            peak_memory_bytes=peak_memory_bytes(),
        )


def by_rate_factor(module: nn.Module, weights: Mapping[str, Tensor]) -> dict[float, list[Tensor]]:
    """Group weights by their share of the learning rate, 1 first; see `training.task.RateFactors`."""
    factors = module.rate_factors() if isinstance(module, RateFactors) else {}
    groups: dict[float, list[Tensor]] = {1.0: []}
    for name, weight in weights.items():
        factor = next((factor for beginning, factor in factors.items() if name.startswith(beginning)), 1.0)
        groups.setdefault(factor, []).append(weight)
    return groups


def peak_memory_bytes() -> int:
    """Return the largest resident memory this process has had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _mixed(seed: int, index: int) -> int:
    """Hash seed and batch index into a seed for torch."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0])


def _on(device: torch.device, batch: T) -> T:
    """Move a tuple or NamedTuple of tensors, or of such tuples, to a device."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, tuple):
        parts = [_on(device, part) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch
