"""The training loop on a small regression with dropout: arithmetic, best weights, errors, exact resume."""

from __future__ import annotations

import json
import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from triptych.foundation.errors import ConfigError, TriptychError
from triptych.losses.base import LossOutput
from triptych.training import watch
from triptych.training.distributed import Processes
from triptych.training.log import read_log
from triptych.training.loop import LoopConfig, fit, follow
from triptych.training.task import Validation


class Points(NamedTuple):
    inputs: torch.Tensor
    targets: torch.Tensor


class Regression:
    """y = x·w with noise; the net has dropout, so that torch's generator matters."""

    name = "regression"

    def __init__(self, *, size: int = 8, dropout: float = 0.2, die_at: int | None = None) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.module = nn.Sequential(nn.Linear(4, 16), nn.GELU(), nn.Dropout(dropout), nn.Linear(16, 1))
        self.size = size
        self.die_at = die_at
        self.spoil_at: int | None = None
        self.scores: list[float] | None = None
        self.seen: list[int] = []

    def batch(self, index: int) -> Points:
        rng = np.random.default_rng([17, index])
        inputs = rng.normal(size=(self.size, 4)).astype(np.float32)
        targets = inputs @ np.array([1, -2, 3, 0.5], dtype=np.float32)
        if index == self.spoil_at:
            targets[0] = np.inf
        return Points(torch.from_numpy(inputs), torch.from_numpy(targets))

    def num_samples(self, batch: Points) -> int:
        return len(batch.inputs)

    def losses(self, batch: Points) -> LossOutput:
        self.seen.append(len(self.seen))
        if self.die_at == len(self.seen):
            raise KeyboardInterrupt
        error = (self.module(batch.inputs)[:, 0] - batch.targets).square().mean()
        return LossOutput(error, {"error": error})

    def validate(self) -> Validation:
        if self.scores is not None:
            return Validation({"score": self.scores.pop(0), "other": 1.0}, headline="score")
        held_out = self.batch(10**6)
        error = (self.module(held_out.inputs)[:, 0] - held_out.targets).square().mean()
        return Validation({"negative_error": -float(error)}, headline="negative_error")


def config(**settings) -> LoopConfig:
    base = {"steps": 30, "warmup_steps": 5, "learning_rate": 0.02, "precision": "fp32", "device": "cpu"}
    return LoopConfig.parse({**base, "validate_every": 7, "log_every": 3, "checkpoint_every_s": 0, **settings})


def weights(task: Regression) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in task.module.parameters()])


def test_it_learns(tmp_path):
    task = Regression(size=64, dropout=0.0)
    with torch.no_grad():
        before = -task.validate().metrics["negative_error"]
    result = fit(task, config=config(steps=300, validate_every=100), out=tmp_path, seed=0)
    assert -result.metrics["negative_error"] < 0.05 * before
    assert result.steps == 300
    assert not task.module.training


def test_the_log(tmp_path):
    result = fit(Regression(), config=config(), out=tmp_path, seed=0)
    records = list(read_log(tmp_path / "train.jsonl"))
    train = [record for record in records if record["event"] == "train"]
    assert [record["step"] for record in train] == list(range(3, 31, 3))
    assert all(record["loss"] == record["error"] for record in train)
    assert all(record["samples_per_s"] > 0 and record["peak_memory_bytes"] > 10**7 for record in train)
    assert [record["learning_rate"] for record in train] == [config().learning_rate_at(s - 1) for s in range(3, 31, 3)]
    validation = [record for record in records if record["event"] == "validation"]
    assert [record["step"] for record in validation] == [7, 14, 21, 28, 30]
    best = max(validation, key=lambda record: record["negative_error"])
    assert (result.best_step, result.metrics["negative_error"]) == (best["step"], best["negative_error"])


class OneUndecayed(nn.Sequential):
    def undecayed(self) -> tuple[str, ...]:
        return ("3.weight",)


def test_one_step_by_hand(tmp_path):
    """Clipping, AdamW and its decay of matrices only, but of those that ask for none, against a plain formula."""
    task, reference = Regression(dropout=0.0), Regression(dropout=0.0)
    task.module = OneUndecayed(*task.module)
    settings = config(steps=1, warmup_steps=0, clip_norm=0.5, weight_decay=0.1, learning_rate=0.01)
    fit(task, config=settings, out=tmp_path, seed=0)
    reference.losses(reference.batch(0)).total.backward()
    gradients = [p.grad for p in reference.module.parameters()]
    norm = math.sqrt(sum(float(g.square().sum()) for g in gradients))
    assert norm > 0.5
    for name, p in reference.module.named_parameters():
        clipped = p.grad * 0.5 / (norm + 1e-6)
        kept = 1 - 0.01 * 0.1 if name == "0.weight" else 1.0
        # after one step Adam's bias-corrected moments are the gradient and its square
        expected = p.detach() * kept - 0.01 * clipped / (clipped.abs() + 1e-8)
        assert torch.allclose(task.module.get_parameter(name), expected, atol=1e-6), name


class InParts(nn.Sequential):
    def parts(self) -> dict[str, tuple[str, ...]]:
        return {"first": ("0.",), "last": ("3.",)}


@pytest.mark.parametrize("clip_norm", [0.01, 1_000.0])
def test_the_norms_of_parts_are_those_before_clipping(tmp_path, clip_norm: float):
    task, reference = Regression(dropout=0.0), Regression(dropout=0.0)
    task.module = InParts(*task.module)
    fit(task, config=config(steps=1, log_every=1, clip_norm=clip_norm), out=tmp_path, seed=0)
    reference.losses(reference.batch(0)).total.backward()
    logged = next(record for record in read_log(tmp_path / "train.jsonl") if record["event"] == "train")
    for part, layer in (("first", reference.module[0]), ("last", reference.module[3])):
        expected = math.sqrt(sum(float(weight.grad.square().sum()) for weight in layer.parameters()))
        assert logged[f"grad_norm/{part}"] == pytest.approx(expected, rel=1e-3), part
    assert logged["grad_norm"] == pytest.approx(
        math.hypot(logged["grad_norm/first"], logged["grad_norm/last"]), rel=1e-3
    )


def test_accumulation_averages_batches(tmp_path):
    class Joined(Regression):
        def batch(self, index: int) -> Points:
            halves = [super(Joined, self).batch(2 * index + half) for half in (0, 1)]
            return Points(*(torch.cat(parts) for parts in zip(*halves, strict=True)))

    accumulated, joined = Regression(dropout=0.0), Joined(dropout=0.0)
    settings = config(steps=6, validate_every=100)
    fit(accumulated, config=settings.override("accumulate=2"), out=tmp_path / "a", seed=0)
    fit(joined, config=settings, out=tmp_path / "b", seed=0)
    assert len(accumulated.seen) == 12
    assert torch.allclose(weights(accumulated), weights(joined), atol=1e-5)


def test_the_seed_decides_what_the_model_draws_and_the_callers_generator_is_left_alone(tmp_path):
    ends = []
    for run, seed in enumerate((0, 0, 1)):
        torch.manual_seed(run)
        before = torch.get_rng_state()
        task = Regression(dropout=0.5)
        fit(task, config=config(steps=4), out=tmp_path / str(run), seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        ends.append(weights(task))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_frozen_weights_stay(tmp_path):
    task = Regression()
    task.module[0].requires_grad_(False)
    before = task.module[0].weight.clone(), task.module[3].weight.clone()
    fit(task, config=config(steps=3), out=tmp_path, seed=0)
    assert torch.equal(task.module[0].weight, before[0])
    assert not torch.equal(task.module[3].weight, before[1])


def test_early_stop_keeps_the_best_weights(tmp_path):
    task, shorter = Regression(), Regression()
    task.scores = [0.1, 0.5, 0.5, 0.2, 0.9]
    settings = config(steps=100, validate_every=5, patience=2)
    result = fit(task, config=settings, out=tmp_path / "a", seed=0)
    assert (result.steps, result.best_step, result.metrics["score"]) == (20, 10, 0.5)  # equal is no new best
    shorter.scores = [0.1, 0.5, 0.5]
    shorter.die_at = 12  # has just trained 10 steps and validated
    with pytest.raises(KeyboardInterrupt):
        fit(shorter, config=settings, out=tmp_path / "b", seed=0)
    shorter.die_at, shorter.scores = None, [0.0, 0.0]
    fit(shorter, config=settings, out=tmp_path / "b", seed=0)
    assert torch.equal(weights(task), weights(shorter))


@pytest.mark.parametrize("checkpoint_every_s", [0, 1000])
def test_resumed_runs_end_the_same_bit_for_bit(tmp_path, checkpoint_every_s):
    settings = config(checkpoint_every_s=checkpoint_every_s, accumulate=2)
    unbroken = Regression()
    expected = fit(unbroken, config=settings, out=tmp_path / "unbroken", seed=0)
    for die_at in (1, 2, 13, 14, 15, 30, 59, 60):
        out = tmp_path / str(die_at)
        with pytest.raises(KeyboardInterrupt):
            fit(Regression(die_at=die_at), config=settings, out=out, seed=0)
        resumed = Regression()
        result = fit(resumed, config=settings, out=out, seed=0)
        assert torch.equal(weights(resumed), weights(unbroken)), die_at
        assert (result.best_step, result.metrics) == (expected.best_step, expected.metrics)
        steps_done = len(resumed.seen) // 2
        assert steps_done == (30 if checkpoint_every_s else 30 - (die_at - 1) // 2)
        assert without_times(out) == without_times(tmp_path / "unbroken")


def without_times(out) -> list[dict[str, object]]:
    timing = {"samples_per_s", "seconds", "validation_seconds", "peak_memory_bytes"}
    records = read_log(out / "train.jsonl")
    return [{key: value for key, value in record.items() if key not in timing} for record in records]


def test_a_finished_run_is_not_trained_again(tmp_path):
    first, again = Regression(), Regression()
    expected = fit(first, config=config(), out=tmp_path, seed=0)
    result = fit(again, config=config(), out=tmp_path, seed=0)
    assert again.seen == []
    assert torch.equal(weights(first), weights(again))
    assert result._replace(peak_memory_bytes=0) == expected._replace(peak_memory_bytes=0)


def test_a_loss_that_is_no_number_stops_the_run_before_it_spoils_the_weights(tmp_path):
    task = Regression()
    task.spoil_at = 11
    with pytest.raises(TriptychError, match=r"regression: the loss became inf at step 12, .* Lower learning_rate"):
        fit(task, config=config(), out=tmp_path, seed=0)
    assert torch.isfinite(weights(task)).all()
    healthy = Regression()
    fit(healthy, config=config(), out=tmp_path, seed=0)
    assert torch.isfinite(weights(healthy)).all()
    assert len(healthy.seen) == 30 - 11


def test_looking_one_step_late_as_on_a_gpu_keeps_every_saved_weight_finite(tmp_path, monkeypatch):
    monkeypatch.setitem(watch.LAG, "cpu", 1)
    for due in ({"checkpoint_every_s": 0}, {"checkpoint_every_s": 1000, "validate_every": 12, "log_every": 100}, {}):
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        task = Regression()
        task.spoil_at = 11
        with pytest.raises(TriptychError, match="the loss became inf at step 12"):
            fit(task, config=config(**due), out=out, seed=0)
        saved = [load_file(file) for file in out.glob("resume/*/tensors.safetensors")]
        assert all(torch.isfinite(tensor).all() for tensors in saved for tensor in tensors.values())
    unhurried, looked_at_once = Regression(), Regression()
    fit(unhurried, config=config(), out=tmp_path / "late", seed=0)
    monkeypatch.undo()
    fit(looked_at_once, config=config(), out=tmp_path / "at_once", seed=0)
    assert torch.equal(weights(unhurried), weights(looked_at_once))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(4, 4)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return states + torch.tanh(self.map(states))


class InBlocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Linear(4, 4)
        self.blocks = nn.ModuleList(Residual() for _ in range(2))
        self.out = nn.Linear(4, 1)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        states = self.start(states)
        for block in self.blocks:
            states = block(states)
        return self.out(states)


class RegressionInBlocks(Regression):
    """Of batches of many sizes, as texts have many lengths."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.module = InBlocks()

    def batch(self, index: int) -> Points:
        self.size = 5 + index % 7
        return super().batch(index)


@pytest.mark.filterwarnings("ignore")  # torch warns itself while it compiles
def test_compiled_blocks_train_as_written(tmp_path):
    compiled, eager = RegressionInBlocks(), RegressionInBlocks()
    settings = config(steps=8, validate_every=4)
    graphs = torch._dynamo.utils.counters["stats"]
    graphs.clear()
    fit(compiled, config=settings.override("compile_model=true"), out=tmp_path / "a", seed=0)
    assert graphs["unique_graphs"] == 1  # of both blocks, at every size, and not of validation
    fit(eager, config=settings, out=tmp_path / "b", seed=0)
    assert torch.allclose(weights(compiled), weights(eager), atol=1e-5)
    assert set(compiled.module.state_dict()) == set(eager.module.state_dict())


def test_a_model_without_blocks_cannot_be_compiled(tmp_path):
    with pytest.raises(ConfigError, match="not made of blocks"):
        fit(Regression(), config=config(compile_model=True), out=tmp_path, seed=0)


def test_without_a_compiler_compiling_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match="needs a C\\+\\+ compiler"):
        fit(Regression(), config=config(compile_model=True), out=tmp_path / "a", seed=0)


def test_an_error_while_making_a_batch_is_raised(tmp_path):
    class Broken(Regression):
        def batch(self, index: int) -> Points:
            if index == 5:
                raise ValueError("no such batch")
            return super().batch(index)

    task = Broken()
    with pytest.raises(ValueError, match="no such batch"):
        fit(task, config=config(), out=tmp_path, seed=0)
    assert len(task.seen) in (4, 5)


def test_a_torn_line_of_the_log_is_dropped(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(Regression(die_at=20), config=config(), out=tmp_path, seed=0)
    log = tmp_path / "train.jsonl"
    log.write_text(log.read_text() + json.dumps({"event": "train", "step": 25}) + '\n{"event": "tra')
    fit(Regression(), config=config(), out=tmp_path, seed=0)
    steps = [record["step"] for record in read_log(log) if record["event"] == "train"]
    assert steps == list(range(3, 31, 3))


def test_bf16_trains_float32_weights(tmp_path):
    task = Regression(size=64, dropout=0.0)
    dtypes = set()
    task.module[3].register_forward_hook(lambda _module, _inputs, output: dtypes.add(output.dtype))
    fit(task, config=config(steps=2, precision="bf16", validate_every=2), out=tmp_path, seed=0)
    assert dtypes == {torch.bfloat16, torch.float32}  # training steps, and validation without autocast
    assert all(p.dtype == torch.float32 for p in task.module.parameters())


class Sometimes(Regression):
    """Every second batch has a part of the loss that the others lack."""

    def losses(self, batch: Points) -> LossOutput:
        output = super().losses(batch)
        extra = {} if len(self.seen) % 2 else {"extra": torch.tensor(float(len(self.seen)))}
        return LossOutput(output.total, {**output.parts, **extra})


def test_a_part_that_not_every_batch_has_is_the_mean_of_those_that_have_it(tmp_path):
    fit(Sometimes(), config=config(accumulate=4, steps=2, log_every=1, validate_every=2), out=tmp_path, seed=0)
    logged = [record["extra"] for record in read_log(tmp_path / "train.jsonl") if record["event"] == "train"]
    assert logged == [3.0, 7.0]


class Second(Processes):
    """The second of two processes, told what the first would tell; it exchanges nothing."""

    rank, size = 1, 2

    def __init__(self) -> None:
        """Meet nobody."""

    def listen(self) -> dict[str, object] | bool:
        self.asked = getattr(self, "asked", 0) + 1
        return {"step": 0, "stopped": False, "optimizer": []} if self.asked == 1 else False

    def spread(self, tensors) -> None: ...

    def sum_gradients(self, weights, *, beside) -> None: ...


class Watched(Regression):
    modes: list[bool]

    def losses(self, batch: Points) -> LossOutput:
        self.modes.append(self.module.training)
        return super().losses(batch)


def test_a_process_that_follows_trains_with_dropout_as_the_first_does():
    task = Watched()
    task.modes = []
    task.module.eval()  # as a pretrained model comes
    follow(task, config=config(steps=4, validate_every=2), seed=0, group=Second())
    assert task.modes == [True] * 4
