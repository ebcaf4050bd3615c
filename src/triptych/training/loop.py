"""The training loop of every stage.

The stage gives a `Task`; the loop gives the device and precision, gradient accumulation and clipping, AdamW, the
schedule, validation with early stop and best weights, checkpoints, exact resume, and the log. Weights that are trained
by rows, such as ID tables, change themselves, and are clipped, scheduled and saved with the others (`row_tables`).

Exact resume rests on three things: a batch is a pure function of its index, torch's generator is seeded anew for every
batch, and everything else that a step changes (weights, optimiser, best so far, counters) is in the checkpoint. A run
that is killed at any step and started again ends with the weights of an unbroken one, bit for bit on a CPU with the
same number of threads.

Several processes may do each step together (`training.distributed`): the first keeps the run (`fit`), the others do its
steps (`follow`).
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Generic, NamedTuple, Self, TypeVar

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from triptych.data.loader import prefetched
from triptych.foundation.artifact import RESUME
from triptych.foundation.config import Config
from triptych.foundation.progress import Progress
from triptych.nn.precision import Precision, autocast
from triptych.training.checkpoint import Checkpoints
from triptych.training.compiled import compile_blocks, uncompiled
from triptych.training.distributed import ALONE, Group, Processes
from triptych.training.log import LOG_FILE, TrainLog
from triptych.training.row_tables import RowTables, rate_factor_of
from triptych.training.schedule import Schedule, Stretch, learning_rate_factor
from triptych.training.task import Batch, Parts, Task, Undecayed, Validation
from triptych.training.watch import LossWatch

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
    """AdamW's decay, of matrices only: not of biases, norms, single vectors and ID tables."""
    clip_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this norm."""
    accumulate: int = Field(1, ge=1)
    """Batches whose gradients are averaged into one step."""
    precision: Precision = Precision.AUTO
    """Number format of matrix products: bf16, fp32, or auto (bf16 where the device has instructions for it)."""
    device: str = "auto"
    """cpu, cuda, or auto (a GPU if there is one). Under torchrun, cuda is a GPU of its own for each process."""
    compile_model: bool = False
    """Whether the model's blocks are compiled by torch.compile; a CPU takes a minute or more at the first start."""
    validate_every: int = Field(100, ge=1)
    """Steps between validations; the last step is always validated."""
    patience: int | None = Field(None, ge=1)
    """Validations without a new best after which training stops early; none trains to the end."""
    log_every: int = Field(10, ge=1)
    """Steps between records of the log."""
    checkpoint_every_s: float = Field(30.0, ge=0)
    """Seconds between checkpoints; 0 writes one after every step. Each holds the whole model, ID tables included."""

    @model_validator(mode="after")
    def _no_option_without_effect(self) -> Self:
        if self.decay_rate is not None and self.schedule is not Schedule.WSD:
            raise ValueError("decay_rate has no effect with schedule = 'cosine'. Remove it, or set schedule = 'wsd'.")
        return self

    def learning_rate_at(self, step: int, *, stretch: Stretch | None = None) -> float:
        """Return the learning rate of a step, from 0; of a stretch of a longer schedule, if it is one."""
        before, total = (0, self.steps) if stretch is None else stretch
        factor = learning_rate_factor(
            before + step,
            schedule=self.schedule,
            steps=total,
            warmup_steps=self.warmup_steps,
            decay_rate=DEFAULT_DECAY_RATE if self.decay_rate is None else self.decay_rate,
        )
        return self.learning_rate * factor

    def validates_after(self, step: int) -> bool:
        """Say whether validation is due after so many steps."""
        return step % self.validate_every == 0 or step == self.steps


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


def fit(
    task: Task[Batch],
    *,
    config: LoopConfig,
    out: Path,
    seed: int,
    group: Group = ALONE,
    stretch: Stretch | None = None,
    optimizer_from: Sequence[Path] = (),
) -> FitResult:
    """Train a task, or carry on where an interrupted attempt left off.

    Args:
        task: what to train; its module is moved to the device and left there, with the best weights.
        config: how.
        out: folder for ``train.jsonl`` and the resume state (``resume/``).
        seed: of whatever the model draws, such as dropout.
        group: the processes that train together, of which this is the first; the others `follow`. The task was made
            with the same group.
        stretch: the part of a longer schedule that this run is; None: it has one of its own.
        optimizer_from: folders of earlier runs of the same weights, the latest last, finished and not yet cleared away:
            each weight carries on the optimiser's state of the latest one that trained it. Of none: empty ones.

    Raises:
        TriptychError: the loss or its gradient is no longer a finite number.
        Parted: another process of the group has gone.
    """
    steps = _Steps(task, config=config, seed=seed, group=group, stretch=stretch)
    for folder in optimizer_from:
        before = Checkpoints(folder / RESUME).latest()
        assert before is not None, "a finished run has saved its last step"
        steps.carry_on(before.tensors)
    with steps.randomness():
        return _Run(steps, task=task, config=config, out=out, group=group).finish()


def follow(
    task: Task[Batch], *, config: LoopConfig, seed: int, group: Processes, stretch: Stretch | None = None
) -> None:
    """Do the steps of a run that the group's first process keeps with `fit`; arguments as there.

    Raises:
        Parted: another process of the group has gone, because it failed or was stopped.
    """
    steps = _Steps(task, config=config, seed=seed, group=group, stretch=stretch)
    with steps.randomness():
        start = group.listen()
        step, stopped = start["step"], start["stopped"]
        steps.hold(start["optimizer"])
        group.spread(steps.tensors())
        steps.module.train()
        with closing(steps.batches(step)) as batches:
            while step < config.steps and not stopped:
                steps.update(steps.gradients(batches, step=step), step=step)
                step += 1
                if config.validates_after(step):
                    stopped = group.listen()


class StepTime(NamedTuple):
    """What a step took."""

    seconds: float
    samples: int


def rehearsed(task: Task[Batch], *, config: LoopConfig, seed: int) -> Generator[StepTime]:
    """Do the steps of a run, one after another, and say what each took: to estimate a run before it begins.

    They are those of `fit` to the last bit, without validation, log and checkpoints. The first one waits for its batch
    and for memory, and takes longer than others. Close the generator when leaving early: torch's generators are then as
    they were before.

    Args:
        task: its module is moved to the device and trained, so give one with a copy of it.
        config: of the loop.
        seed: likewise.
    """
    steps = _Steps(task, config=config, seed=seed, group=ALONE, stretch=None)
    with steps.randomness(), closing(steps.batches(0)) as batches:
        steps.module.train()
        for step in range(config.steps):
            started = time.perf_counter()
            figures = steps.gradients(batches, step=step)
            steps.update(figures, step=step)
            if steps.device.type == "cuda":
                torch.cuda.synchronize(steps.device)
            yield StepTime(time.perf_counter() - started, figures.samples)


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
    samples: int


class _Steps(Generic[Batch]):
    """Module, optimiser and the arithmetic of a step: what every process of a group does alike."""

    def __init__(
        self, task: Task[Batch], *, config: LoopConfig, seed: int, group: Group, stretch: Stretch | None
    ) -> None:
        self.device = group.device(config.device)
        self.module = task.module.to(self.device)
        self._task = task
        self._config = config
        self._seed = seed
        self._group = group
        self._stretch = stretch
        if config.compile_model:
            compile_blocks(self.module, device=self.device)
        self._tables = RowTables(self.module)
        dense = {name: p for name, p in self.module.named_parameters() if name not in self._tables.weights}
        self._weights = {name: p for name, p in dense.items() if p.requires_grad}
        self._optimizer = self._make_optimizer()

    def randomness(self) -> AbstractContextManager[None]:
        """Leave torch's generators as they were before the run."""
        return torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else [])

    def batches(self, step: int) -> Generator[Batch]:
        """Prepare the batches of all steps from this one on, one ahead."""

        def pinned(index: int) -> Batch:
            return _each(Tensor.pin_memory, self._task.batch(index))

        make = pinned if self.device.type == "cuda" else self._task.batch
        return prefetched(make, indices=count(step * self._config.accumulate))

    def gradients(self, batches: Iterator[Batch], *, step: int) -> _StepFigures:
        """Compute the gradients of a step, from 0, over all processes."""
        config = self._config
        learning_rate = config.learning_rate_at(step, stretch=self._stretch)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate * group["rate_factor"]
        samples, totals, parts = 0, [], []
        for micro in range(config.accumulate):
            batch = next(batches)
            samples += self._task.num_samples(batch)
            torch.manual_seed(_mixed(self._seed, step * config.accumulate + micro, rank=self._group.rank))
            with autocast(config.precision, device=self.device):
                output = self._task.losses(on_device(self.device, batch))
            (output.total / config.accumulate).backward()
            totals.append(output.total.detach())
            parts.append(output.parts)
        by_name = _by_name(parts)
        figures = torch.stack([torch.stack(values).mean() for values in (totals, *by_name.values())])
        self._group.sum_gradients(list(self._weights.values()), beside=figures)
        grad_norm = self._clip()
        return _StepFigures(figures[0], dict(zip(by_name, figures[1:], strict=True)), grad_norm, learning_rate, samples)

    def update(self, figures: _StepFigures, *, step: int) -> None:
        """Change the weights by the gradients of a step, from 0."""
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        clipped = (self._config.clip_norm / (figures.grad_norm + 1e-6)).clamp(max=1.0)  # as torch scales the others
        seed = _mixed(self._seed, step, rank=0)
        self._tables.update(learning_rate=figures.learning_rate, scale=clipped, seed=seed)

    def checkpoint(self) -> dict[str, Tensor]:
        """Return everything that a step changes, by name."""
        tensors = {MODEL + name: value for name, value in self.module.state_dict().items()}
        for name, weight in self._weights.items():
            for slot, value in self._optimizer.state[weight].items():
                tensors[f"{OPTIMIZER}{name}/{slot}"] = value
        return tensors | self._tables.state()

    def part_norms(self, grad_norm: Tensor) -> dict[str, float]:
        """Return the norm of the gradient of each part, before `update`, of a module that tells its parts apart.

        Args:
            grad_norm: that of all before it was clipped; what is returned is as before, too.
        """
        if not isinstance(self.module, Parts):
            return {}
        unclipped = max(1.0, float(grad_norm) / self._config.clip_norm)
        norms = {}
        for part, beginnings in self.module.parts().items():
            found = [w.grad.norm() for n, w in self._weights.items() if n.startswith(beginnings) and w.grad is not None]
            found = [norm * unclipped for norm in found] + self._tables.norms(beginnings)
            if found:
                norms[f"grad_norm/{part}"] = float(torch.stack(found).norm())
        return norms

    def carry_on(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the optimiser's state of another run, of what both train."""
        self._tables.restore(tensors)
        for key, value in tensors.items():
            if key.startswith(OPTIMIZER) and key.removeprefix(OPTIMIZER).rsplit("/", 1)[0] in self._weights:
                self._set_slot(key, value)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `checkpoint` returned."""
        self.module.load_state_dict({n.removeprefix(MODEL): t for n, t in tensors.items() if n.startswith(MODEL)})
        self._tables.restore(tensors)
        for key, value in tensors.items():
            if key.startswith(OPTIMIZER):
                self._set_slot(key, value)

    def held(self) -> list[tuple[str, list[int], str]]:
        """Describe the optimiser's tensors, name, shape and type, so that another process can `hold` theirs."""
        found = self.checkpoint().items()
        return [(key, list(t.shape), str(t.dtype)) for key, t in found if key.startswith(OPTIMIZER)]

    def hold(self, slots: Sequence[tuple[str, list[int], str]]) -> None:
        """Make room for the optimiser's tensors of another process."""
        for key, shape, dtype in slots:
            self._set_slot(key, torch.zeros(shape, dtype=getattr(torch, dtype.removeprefix("torch."))))

    def tensors(self) -> list[Tensor]:
        """Return what `checkpoint` does, in an order that is the same in every process."""
        found = self.checkpoint()
        return [found[name] for name in sorted(found)]

    def _clip(self) -> Tensor:
        """Return the norm of all gradients, and scale down those that are not of a table."""
        gradients = [weight.grad for weight in self._weights.values() if weight.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients).to(self.device)
        by_table = self._tables.sum_gradients(self._group)
        if by_table:
            norm = torch.linalg.vector_norm(torch.stack([norm, *by_table]))
        torch.nn.utils.clip_grads_with_norm_(self._weights.values(), self._config.clip_norm, norm)
        return norm

    def _set_slot(self, key: str, value: Tensor) -> None:
        name, slot = key.removeprefix(OPTIMIZER).rsplit("/", 1)
        weight = self._weights[name]
        self._optimizer.state[weight][slot] = value.to(weight.device)

    def _make_optimizer(self) -> torch.optim.AdamW:
        groups = []
        left_out = set(self.module.undecayed()) if isinstance(self.module, Undecayed) else set()
        kept = {id(self._weights[name]) for name in left_out & set(self._weights)}
        for factor, weights in by_rate_factor(self.module, self._weights).items():
            matrices = [p for p in weights if p.ndim >= 2 and id(p) not in kept]
            vectors = [p for p in weights if p.ndim < 2 or id(p) in kept]
            groups += [
                {"params": matrices, "weight_decay": self._config.weight_decay, "rate_factor": factor},
                {"params": vectors, "weight_decay": 0.0, "rate_factor": factor},
            ]
        return torch.optim.AdamW(groups, lr=self._config.learning_rate, fused=True)


class _Run(Generic[Batch]):
    """What the first process does beside the steps: validation, log, checkpoints."""

    def __init__(self, steps: _Steps[Batch], *, task: Task[Batch], config: LoopConfig, out: Path, group: Group) -> None:
        self._steps = steps
        self._task = task
        self._config = config
        self._group = group
        self._checkpoints = Checkpoints(out / RESUME)
        self._state = self._restore()
        self._log = TrainLog(out / LOG_FILE, from_step=self._state.step)
        self._watch = LossWatch(
            steps.device,
            name=task.name,
            advice=f"Lower learning_rate (now {config.learning_rate:g}), lengthen warmup_steps, or set precision = "
            "fp32.",
        )
        self._saved_at = time.monotonic()
        self._logged = (self._state.samples, self._state.seconds)

    def finish(self) -> FitResult:
        """Run the remaining steps and load the best weights."""
        config, state, steps = self._config, self._state, self._steps
        self._group.tell({"step": state.step, "stopped": state.stopped, "optimizer": steps.held()})
        self._group.spread(steps.tensors())
        batches = steps.batches(state.step)
        bar = Progress(self._task.name, total=config.steps, unit="step", start=state.step)
        with closing(self._log), closing(batches), bar:
            steps.module.train()
            while state.step < config.steps and not state.stopped:
                started = time.perf_counter()
                figures = steps.gradients(batches, step=state.step)
                part_norms = steps.part_norms(figures.grad_norm) if self._logs_after(state.step + 1) else {}
                self._watch.see(state.step + 1, total=figures.total, grad_norm=figures.grad_norm)
                steps.update(figures, step=state.step)
                state.step += 1
                state.samples += figures.samples
                state.seconds += time.perf_counter() - started
                bar.note(f"loss {self._watch.loss:.3f}")
                bar.advance()
                self._after_step(figures, part_norms)
        return self._result()

    def _logs_after(self, step: int) -> bool:
        return step % self._config.log_every == 0 or step == self._config.steps

    def _after_step(self, figures: _StepFigures, part_norms: Mapping[str, float]) -> None:
        """Log, validate and save, each when it is due; validation before saving, so that a resume has it."""
        config, state = self._config, self._state
        last = state.step == config.steps
        if self._logs_after(state.step):
            self._write_log(figures, part_norms)
        if config.validates_after(state.step):
            self._validate()
        if last or state.stopped or time.monotonic() - self._saved_at >= config.checkpoint_every_s:
            self._save()

    def _validate(self) -> None:
        config, state, module = self._config, self._state, self._steps.module
        self._watch.settle()
        module.eval()
        started = time.perf_counter()
        with torch.no_grad(), uncompiled() if config.compile_model else nullcontext():
            validation = self._task.validate()
        seconds = time.perf_counter() - started
        module.train()
        times = {"seconds": round(state.seconds, 3), "validation_seconds": round(seconds, 3)}
        self._log.write("validation", step=state.step, values={**validation.metrics, **times})
        if self._is_best(validation):
            state.best_step, state.without_best = state.step, 0
            state.best_metrics, state.headline = dict(validation.metrics), validation.headline
            self._checkpoints.save_best(step=state.step, tensors=module.state_dict())
        else:
            state.without_best += 1
            state.stopped = config.patience is not None and state.without_best >= config.patience
        self._group.tell(state.stopped)

    def _is_best(self, validation: Validation) -> bool:
        state = self._state
        return state.best_step is None or validation.metrics[validation.headline] > state.best_metrics[state.headline]

    def _write_log(self, figures: _StepFigures, part_norms: Mapping[str, float]) -> None:
        state, device = self._state, self._steps.device
        self._watch.settle()
        samples, seconds = self._logged
        self._logged = (state.samples, state.seconds)
        memory = {"peak_memory_bytes": peak_memory_bytes()}
        if device.type == "cuda":
            memory["peak_gpu_memory_bytes"] = torch.cuda.max_memory_allocated(device)
        values = {
            "loss": float(figures.total),
            **{name: float(part) for name, part in figures.parts.items()},
            "learning_rate": figures.learning_rate,
            "grad_norm": float(figures.grad_norm),
            **part_norms,
            "samples_per_s": round((state.samples - samples) / max(state.seconds - seconds, 1e-9), 2),
            "seconds": round(state.seconds, 3),
            **memory,
        }
        self._log.write("train", step=state.step, values=values)

    def _save(self) -> None:
        self._watch.settle()
        state = asdict(self._state)
        tensors = self._steps.checkpoint()
        self._checkpoints.save(step=state.pop("step"), best_step=state.pop("best_step"), tensors=tensors, state=state)
        self._saved_at = time.monotonic()

    def _restore(self) -> _State:
        """Load the newest checkpoint into the module and the optimiser."""
        found = self._checkpoints.latest()
        if found is None:
            return _State()
        self._steps.restore(found.tensors)
        return _State(**found.state)

    def _result(self) -> FitResult:
        state, module = self._state, self._steps.module
        assert state.best_step is not None, "the last step is always validated"
        if state.best_step != state.step:
            module.load_state_dict(self._checkpoints.best(state.best_step))
        module.eval()
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
    groups: dict[float, list[Tensor]] = {1.0: []}
    for name, weight in weights.items():
        groups.setdefault(rate_factor_of(name, module=module), []).append(weight)
    return groups


def peak_memory_bytes() -> int:
    """Return the largest resident memory this process has had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _mixed(seed: int, index: int, *, rank: int) -> int:
    """Hash seed, batch index and, of several processes, this one's place into a seed for torch."""
    words = [seed, index, rank] if rank else [seed, index]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])


def _by_name(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, list[Tensor]]:
    """Gather each part of the loss from the batches that have it: not every batch has, say, a photo."""
    found: dict[str, list[Tensor]] = {}
    for part in parts:
        for name, value in part.items():
            found.setdefault(name, []).append(value)
    return found


def on_device(device: torch.device, batch: T) -> T:
    """Move a batch to a device; from pinned memory without waiting for it."""
    return _each(lambda tensor: tensor.to(device, non_blocking=True), batch)


def _each(change: Callable[[Tensor], Tensor], batch: T) -> T:
    """Change every tensor of a tuple or NamedTuple of tensors, or of such tuples."""
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, tuple):
        parts = [_each(change, part) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch
