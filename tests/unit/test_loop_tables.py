"""Tables trained row by row through the loop: clipping, rate, accumulation, frozen, best weights, exact resume."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from triptych.losses.base import LossOutput
from triptych.nn.id_table import IdTable
from triptych.nn.rounding import StoredAs
from triptych.nn.row_optimizer import RowOptimizer
from triptych.training.log import read_log
from triptych.training.loop import LoopConfig, fit
from triptych.training.task import Validation

NUM_ROWS, DIM = 30, 4
TASTES, TRAITS = np.random.default_rng(3).normal(size=(2, NUM_ROWS, 2)).astype(np.float32)
KINDS = list(itertools.product(RowOptimizer, StoredAs))


class Ratings(NamedTuple):
    users: torch.Tensor
    items: torch.Tensor
    ratings: torch.Tensor


class Factors(nn.Module):
    """Two tables, one of them asked twice, and a net with dropout."""

    def __init__(self, optimizer: RowOptimizer, stored_as: StoredAs, *, share: float) -> None:
        super().__init__()
        settings = {"optimizer": optimizer, "stored_as": stored_as, "init_std": 0.3}
        self.users = IdTable(NUM_ROWS, DIM, **settings)
        self.items = IdTable(NUM_ROWS, DIM, rate_factor=2.0, **settings)
        self.top = nn.Sequential(nn.Dropout(0.2), nn.Linear(DIM, 1))
        self._share = share

    def rate_factors(self) -> dict[str, float]:
        return {"users.": self._share}

    def parts(self) -> dict[str, tuple[str, ...]]:
        return {"tables": ("users.", "items."), "top": ("top.",)}

    def forward(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        return self.top(self.users(users) * (self.items(items) + self.items((items + 1) % NUM_ROWS)))[:, 0]


class Rating:
    name = "rating"

    def __init__(
        self,
        optimizer: RowOptimizer = RowOptimizer.ADAGRAD,
        stored_as: StoredAs = StoredAs.FLOAT32,
        *,
        share: float = 1.0,
        dropout: bool = True,
        size: int = 8,
        die_at: int | None = None,
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.module = Factors(optimizer, stored_as, share=share)
        if not dropout:
            self.module.top[0] = nn.Identity()
        self.size, self.die_at, self.seen = size, die_at, 0
        self.scores: list[float] | None = None

    def batch(self, index: int) -> Ratings:
        rng = np.random.default_rng([5, index])
        users, items = rng.integers(0, NUM_ROWS // 2, (2, self.size))  # half of the rows are never seen
        ratings = (TASTES[users] * TRAITS[items]).sum(axis=1)
        return Ratings(*map(torch.from_numpy, (users, items, ratings)))

    def num_samples(self, batch: Ratings) -> int:
        return len(batch.users)

    def losses(self, batch: Ratings) -> LossOutput:
        self.seen += 1
        if self.seen == self.die_at:
            raise KeyboardInterrupt
        return LossOutput((self.module(batch.users, batch.items) - batch.ratings).square().mean())

    def validate(self) -> Validation:
        score = -float(self.losses(self.batch(10**6)).total) if self.scores is None else self.scores.pop(0)
        return Validation({"score": score}, headline="score")


def config(**settings) -> LoopConfig:
    base = {"steps": 20, "warmup_steps": 3, "learning_rate": 0.05, "precision": "fp32", "device": "cpu"}
    return LoopConfig.parse({**base, "validate_every": 5, "log_every": 1, "checkpoint_every_s": 0, **settings})


def everything(task: Rating) -> dict[str, torch.Tensor]:
    module = task.module
    memory = {
        f"{name}/{slot}": value
        for name in ("users", "items")
        for slot, value in getattr(module, name).row_state().items()
    }
    return {name: value.clone() for name, value in {**module.state_dict(), **memory}.items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return set(first) == set(second) and all(torch.equal(first[name], second[name]) for name in first)


def test_it_learns(tmp_path):
    task = Rating(size=256, dropout=False)
    task.module.eval()
    with torch.no_grad():
        before = task.validate().metrics["score"]
    settings = config(steps=200, validate_every=200, log_every=100, checkpoint_every_s=100, learning_rate=0.1)
    result = fit(task, config=settings, out=tmp_path, seed=0)
    assert result.metrics["score"] > 0.1 * before  # an error


@pytest.mark.parametrize("clip_norm", [0.02, 1_000.0])
def test_one_step_by_hand(tmp_path, clip_norm):
    """Row-wise Adagrad's first step is the gradient by its root mean square, clipped or not, so eps must be seen."""
    task, reference = Rating(dropout=False), Rating(dropout=False)
    for each in (task, reference):
        each.module.users.eps = each.module.items.eps = 0.01
    start = everything(reference)
    fit(task, config=config(steps=1, warmup_steps=0, clip_norm=clip_norm), out=tmp_path, seed=0)

    # the same loss of dense weights
    dense = {name: value.clone().requires_grad_() for name, value in reference.module.state_dict().items()}
    users, items, ratings = reference.batch(0)
    both = dense["items.weight"][items] + dense["items.weight"][(items + 1) % NUM_ROWS]
    made = nn.functional.linear(dense["users.weight"][users] * both, dense["top.1.weight"], dense["top.1.bias"])
    (made[:, 0] - ratings).square().mean().backward()
    norm = math.sqrt(sum(float(value.grad.square().sum()) for value in dense.values()))
    scale = min(1.0, clip_norm / norm)
    assert (scale < 1) == (clip_norm < 1)
    for name, factor in (("users", 1.0), ("items", 2.0)):
        gradient = scale * dense[f"{name}.weight"].grad
        root = gradient.square().mean(dim=1, keepdim=True).sqrt()
        expected = start[f"{name}.weight"] - 0.05 * factor * gradient / (root + 0.01)
        assert torch.allclose(getattr(task.module, name).weight, expected, atol=1e-6), name
    logged = next(record for record in read_log(tmp_path / "train.jsonl") if record["event"] == "train")
    tables = math.sqrt(sum(float(dense[f"{name}.weight"].grad.square().sum()) for name in ("users", "items")))
    assert logged["grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert logged["grad_norm/tables"] == pytest.approx(tables, rel=1e-4)
    assert logged["grad_norm/top"] == pytest.approx(math.sqrt(norm**2 - tables**2), rel=1e-3)


def test_a_table_follows_the_schedule_and_its_share(tmp_path):
    """A gradient of all equal entries moves Adam's first step by the learning rate."""

    def moved(share: float, **settings) -> float:
        task = Rating(RowOptimizer.ADAM, share=share, dropout=False)
        task.losses = lambda batch: LossOutput(task.module.users(batch.users).sum())
        before = task.module.users.weight.detach().clone()
        fit(task, config=config(steps=1, **settings), out=tmp_path / f"{share}{len(settings)}", seed=0)
        return float((before - task.module.users.weight.detach()).max())

    assert moved(1.0, warmup_steps=0) == pytest.approx(0.05, rel=1e-4)
    assert moved(0.3, warmup_steps=0) == pytest.approx(0.015, rel=1e-4)
    assert moved(1.0) == pytest.approx(config().learning_rate_at(0), rel=1e-4)


@pytest.mark.parametrize("optimizer", RowOptimizer)
def test_accumulation_averages_batches(tmp_path, optimizer):
    class Joined(Rating):
        def batch(self, index: int) -> Ratings:
            halves = [super(Joined, self).batch(2 * index + half) for half in (0, 1)]
            return Ratings(*(torch.cat(parts) for parts in zip(*halves, strict=True)))

    accumulated, joined = (kind(optimizer, dropout=False) for kind in (Rating, Joined))
    for task in (accumulated, joined):
        task.module.users.eps = task.module.items.eps = 0.01  # else a gradient of 1e-9 counts as much as any other
        task.scores = [0.0, 1.0]
    fit(accumulated, config=config(steps=6, accumulate=2), out=tmp_path / "a", seed=0)
    fit(joined, config=config(steps=6), out=tmp_path / "b", seed=0)
    for name, value in everything(joined).items():
        assert torch.allclose(everything(accumulated)[name].float(), value.float(), atol=1e-5), name


@pytest.mark.parametrize(("optimizer", "stored_as"), KINDS)
def test_rows_that_nobody_saw_keep_every_bit(tmp_path, optimizer, stored_as):
    task = Rating(optimizer, stored_as)
    before = everything(task)
    fit(task, config=config(), out=tmp_path, seed=0)
    seen = NUM_ROWS // 2
    for name, value in everything(task).items():
        if not name.startswith("top"):
            assert torch.equal(value[seen + 1 :], before[name][seen + 1 :]), name
            assert not torch.equal(value[:seen], before[name][:seen]), name


def test_a_frozen_table_stays(tmp_path):
    task = Rating()
    task.module.users.requires_grad_(False)
    before = everything(task)
    fit(task, config=config(), out=tmp_path, seed=0)
    after = everything(task)
    assert all(torch.equal(after[name], before[name]) for name in before if name.startswith("users"))
    assert not torch.equal(after["items.weight"], before["items.weight"])
    assert not any(name.startswith("rows/users") for name in saved(tmp_path))


def saved(out) -> dict[str, torch.Tensor]:
    return load_file(max(out.glob("resume/step_*")) / "tensors.safetensors")


def test_the_best_weights_are_those_of_the_table_too(tmp_path):
    best, shorter = Rating(), Rating()
    best.scores, shorter.scores = [0.1, 0.9, 0.2, 0.3], [0.9, 0.1]
    fit(best, config=config(), out=tmp_path / "a", seed=0)
    fit(shorter, config=config(validate_every=10), out=tmp_path / "b", seed=0)
    assert torch.equal(best.module.items.weight, shorter.module.items.weight)
    assert not torch.equal(best.module.items.weight, saved(tmp_path / "a")["model/items.weight"])


@pytest.mark.parametrize(("optimizer", "stored_as"), KINDS)
def test_resumed_runs_end_the_same_bit_for_bit(tmp_path, optimizer, stored_as):
    unbroken = Rating(optimizer, stored_as)
    fit(unbroken, config=config(accumulate=2), out=tmp_path / "unbroken", seed=0)
    for die_at in (2, 13, 22):
        out = tmp_path / str(die_at)
        with pytest.raises(KeyboardInterrupt):
            fit(Rating(optimizer, stored_as, die_at=die_at), config=config(accumulate=2), out=out, seed=0)
        resumed = Rating(optimizer, stored_as)
        fit(resumed, config=config(accumulate=2), out=out, seed=0)
        assert same(everything(resumed), everything(unbroken)), die_at


def test_every_step_and_table_rounds_by_noise_of_its_own(tmp_path):
    def seeds(seed: int) -> list[int]:
        task, found = Rating(), []
        for table in (task.module.users, task.module.items):
            update = table.update_rows
            table.update_rows = lambda update=update, **given: (found.append(given["seed"]), update(**given))
        fit(task, config=config(accumulate=2), out=tmp_path / str(len(list(tmp_path.iterdir()))), seed=seed)
        return found

    first = seeds(0)
    assert len(set(first)) == len(first) == 2 * 20
    assert seeds(0) == first
    assert not set(seeds(1)) & set(first)


def test_a_later_stage_carries_on_what_the_tables_remember(tmp_path):
    """The first half of a schedule, then the second on its weights and memory, is the whole."""
    whole, first = Rating(RowOptimizer.ADAM, dropout=False), Rating(RowOptimizer.ADAM, dropout=False)
    settings = config(steps=10, warmup_steps=0)
    batch = Rating.batch
    fit(whole, config=settings.override("steps=20"), out=tmp_path / "whole", seed=0)
    for each in (whole, first):
        each.scores = [0.0, 1.0, 2.0, 3.0]
    first.scores = [0.0, 1.0]
    fit(first, config=settings, out=tmp_path / "first", seed=0, stretch=(0, 20))
    second = Rating(RowOptimizer.ADAM, dropout=False)
    second.module.load_state_dict(first.module.state_dict())
    second.batch = lambda index: batch(second, index + 10)
    second.scores = [0.0, 1.0]
    fit(second, config=settings, out=tmp_path / "second", seed=0, stretch=(10, 20), optimizer_from=[tmp_path / "first"])
    expected = saved(tmp_path / "whole")
    found = saved(tmp_path / "second")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
