"""What a ranker's training will take, said before it begins: speed, hours, memory.

The first steps of that very training are done with a copy of the model that is thrown away, and timed, and some samples
are scored as validation does. Memory is what that took, and no less than what is counted: weights, what the optimiser
keeps of them, what a pass keeps for its way back, and the files in which the items' vectors or tokens lie. The training
itself begins as if nothing had happened. Of a short one nothing is said.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from triptych.foundation.machine import held_bytes, most_held_bytes
from triptych.nn.precision import autocast, uses_bf16
from triptych.ranker.base import RankModel
from triptych.ranker.inputs import Candidates, on_device
from triptych.ranker.scorer import SCORED_AT_ONCE, score_samples
from triptych.ranker.task import RankBatch, RankTask
from triptych.training.loop import LoopConfig, StepTime, rehearsed
from triptych.training.row_tables import RowTables

SHORT_S = 20.0
"""A training that takes less is not estimated."""
LEAST_STEPS, ENOUGH_S, MOST_RATE = 3, 2.0, 0.02
"""Steps that are timed behind the first one, and seconds of them; never more than this share of the training."""
CONTENT_PASSES = 2
BATCHES_HELD = 2
"""One is learned from, and the next one waits."""
KERNELS_BYTES = 2**30
"""What a CPU's bf16 products come to hold at most: oneDNN keeps a kernel for each of the latest 1,024 shapes, and a
batch has as many distinct items as it has."""


class Estimate(NamedTuple):
    """What is expected; `training.loop.FitResult` says what happened, by the same names."""

    steps: int
    seconds: float
    """Training time, without validations and checkpoints."""
    samples_per_s: float
    peak_memory_bytes: int
    """Of the process at most; of a GPU what the training takes there."""
    model_bytes: int
    """Weights, ID tables with their optimiser's state, and buffers."""
    optimizer_bytes: int
    """Gradients, and AdamW's two numbers for each, of all other weights that are trained."""
    activation_bytes: int
    """Kept by a pass for its way back."""
    items_per_batch: float
    """Distinct items of a batch, candidates and histories; the mean of the first ones."""
    content_rate: float | None
    """Share of a step in which these are described by content, there and back; None: nothing of it is read."""
    mapped_bytes: int = 0
    """What items are made of, vectors or tokens, in files: read a page at a time, and by the end perhaps all of it."""

    def __str__(self) -> str:
        """Say it in a line."""
        said = (
            f"{self.samples_per_s:,.0f} samples/s, {self.steps:,} steps in {_duration(self.seconds)} without "
            f"validations; memory at most {_size(self.peak_memory_bytes)} (model {_size(self.model_bytes)}, gradients "
            f"and optimiser {_size(self.optimizer_bytes)}, activations {_size(self.activation_bytes)}"
            f"{f', content of all items {_size(self.mapped_bytes)}' if self.mapped_bytes else ''})"
        )
        if self.content_rate is None:
            return said
        return (
            f"{said}; {self.items_per_batch:,.0f} distinct items a batch, whose content takes {self.content_rate:.0%} "
            "of the time"
        )


def estimate(task: RankTask, *, config: LoopConfig, seed: int, short_s: float | None = None) -> Estimate | None:
    """Estimate a training that is about to begin; None where it is a short one.

    Args:
        task: whose module, and all else, is left as it is; while it lasts there is a second copy of the weights.
        config: of the loop.
        seed: likewise.
        short_s: of a training that takes less nothing is said; None: of less than `SHORT_S`.
    """
    held = held_bytes()
    trial = copy.copy(task)
    trial.module = copy.deepcopy(task.module)
    trial.module.content.settle()
    least = SHORT_S if short_s is None else short_s
    timed = _timed(trial, config=config, seed=seed, short_s=least)
    if timed is None:
        return None
    times, growth = timed
    _score_some(trial)
    seconds = sum(one.seconds for one in times) / len(times)
    device = next(trial.module.parameters()).device
    batches = [task.batch(index) for index in range(CONTENT_PASSES)]
    model, optimizer = _bytes([*trial.module.parameters(), *trial.module.buffers()]), _optimizer_bytes(trial.module)
    batch = on_device(batches[0].candidates, device), batches[0].labels.to(device)
    activations = _activation_bytes(trial, RankBatch(*batch), config=config)
    taken = optimizer + activations + BATCHES_HELD * _bytes(_tensors(batches[0]))
    if device.type == "cuda":  # the copy alone has been there
        peak = max(torch.cuda.max_memory_allocated(device), model + taken)
    else:
        peak = max(most_held_bytes(), held + model + taken + trial.features.mapped_bytes)
        peak += min(KERNELS_BYTES, growth * config.steps) if uses_bf16(config.precision, device=device) else 0
    content = None
    if trial.module.content_config.reads_modalities:
        passes = [
            _content_seconds(trial.module, on_device(one.candidates, device), config=config, device=device)
            for one in batches
        ]
        content = min(1.0, sum(passes) / len(passes) / seconds)
    found = Estimate(
        steps=config.steps,
        seconds=seconds * config.steps,
        samples_per_s=sum(one.samples for one in times) / sum(one.seconds for one in times),
        peak_memory_bytes=peak,
        model_bytes=model,
        optimizer_bytes=optimizer,
        activation_bytes=activations,
        items_per_batch=sum(len(one.candidates.items.item_rows) for one in batches) / len(batches),
        content_rate=content,
        mapped_bytes=trial.features.mapped_bytes,
    )
    del trial
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return found


class _Timed(NamedTuple):
    """What the first steps took."""

    times: Sequence[StepTime]
    """The very first one is left out where there are others."""
    growth: int
    """Bytes that the process holds more after a step than after the one before, in the mean."""


def _timed(trial: RankTask, *, config: LoopConfig, seed: int, short_s: float) -> _Timed | None:
    """Time the first steps; None: the training is short."""
    times: list[StepTime] = []
    held: list[int] = []
    with closing(rehearsed(trial, config=config, seed=seed)) as steps:
        for one in steps:
            times.append(one)
            held.append(held_bytes())
            measured = times[1:] or times
            spent = sum(each.seconds for each in times)
            total = sum(each.seconds for each in measured) / len(measured) * config.steps
            if total < short_s:
                return None
            if spent >= MOST_RATE * total or (len(measured) >= LEAST_STEPS and spent >= ENOUGH_S):
                break
    growth = max(0, held[-1] - held[0]) // max(1, len(held) - 1)
    return _Timed(times[1:] or times, growth)


def _score_some(trial: RankTask) -> None:
    """Score as validation does, which takes more samples at a time; not where an encoder would first see all items."""
    if trial.module.content_config.trains_encoder:
        return
    samples = trial.validation
    last = samples.request[:SCORED_AT_ONCE][-1]
    trial.module.eval()
    score_samples(trial.module, trial.features, samples.of_requests(np.arange(last + 1)))
    trial.module.train()


def _content_seconds(model: RankModel, given: Candidates, *, config: LoopConfig, device: torch.device) -> float:
    """Time the plug-in for content, there and back."""
    with torch.no_grad():
        items = model.features.items(given.items)
    asked = model.asked(given, items)
    _settled(device)
    started = time.perf_counter()
    with autocast(config.precision, device=device):
        described = model.content(asked)
    told = [one for one in (described.target, described.steps.vectors, described.pair) if one.requires_grad]
    if told:
        torch.autograd.backward(told, [torch.ones_like(one) for one in told])
    _settled(device)
    return time.perf_counter() - started


def _settled(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _activation_bytes(task: RankTask, batch: RankBatch, *, config: LoopConfig) -> int:
    """Count what a pass keeps for its way back, apart from weights and the batch itself."""
    module, device = task.module, batch.labels.device
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        autocast(config.precision, device=device),
    ):
        apart_from = (*module.parameters(), *module.buffers(), *_tensors(batch))
        return kept_bytes(lambda: task.losses(batch), apart_from=apart_from)


def kept_bytes(run: Callable[[], object], *, apart_from: Sequence[Tensor]) -> int:
    """Count what a computation keeps for its way back; of what is encoded again there, nothing is kept.

    Args:
        run: does it.
        apart_from: what is there anyway.
    """
    own = {_place(one) for one in apart_from}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return sum(kept.values())


def _optimizer_bytes(module: nn.Module) -> int:
    """Count gradients and AdamW's state; tables that are trained by rows have theirs among their buffers."""
    by_row = RowTables(module).weights
    return 3 * _bytes([one for name, one in module.named_parameters() if one.requires_grad and name not in by_row])


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum({_place(one): one.untyped_storage().nbytes() for one in tensors}.values())


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _tensors(part: Any) -> list[Tensor]:
    """Return all tensors in nested tuples."""
    if isinstance(part, Tensor):
        return [part]
    return [one for each in part for one in _tensors(each)] if isinstance(part, tuple) else []


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 3600:.3f} hours ({seconds:,.0f} s)"


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.0f} MiB"
