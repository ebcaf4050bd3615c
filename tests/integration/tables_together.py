"""One process of several that train ID tables together. ``tables_together.py OUT``, under torchrun.

Each process holds whole tables, in the loop; then shards of one, in a loop by hand, going on from what fewer processes
have saved.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from triptych.losses.base import LossOutput
from triptych.nn.id_table import IdTable
from triptych.nn.rounding import StoredAs
from triptych.nn.row_optimizer import RowOptimizer
from triptych.nn.sharded_id_table import ShardedIdTable
from triptych.training.distributed import Group, Processes, join
from triptych.training.loop import LoopConfig, fit, follow
from triptych.training.task import Validation

NUM_ROWS, DIM = 50, 4
KINDS = {
    "adagrad": {"optimizer": RowOptimizer.ADAGRAD, "stored_as": StoredAs.FLOAT32},
    "adam": {"optimizer": RowOptimizer.ADAM, "stored_as": StoredAs.FLOAT32},
    "sixteen": {"optimizer": RowOptimizer.ADAM, "stored_as": StoredAs.BFLOAT16},
}
EPS = 0.01
"""Large, so that a gradient which is nothing but rounding counts for nothing."""
LOOP = LoopConfig(
    steps=12,
    warmup_steps=3,
    learning_rate=0.05,
    clip_norm=0.05,
    accumulate=2,
    validate_every=4,
    precision="fp32",
    device="cpu",
)
STEPS = 4
"""Of each number of processes, with a table in shards."""


class Pairs(NamedTuple):
    first: Tensor
    second: Tensor
    wanted: Tensor
    total: int


class Products:
    """The product of two rows is to be a given number."""

    name = "products"

    def __init__(self, kind: str, *, group: Group) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.module = nn.ModuleDict(
                {name: IdTable(NUM_ROWS, DIM, init_std=0.3, eps=EPS, **KINDS[kind]) for name in ("table", "unused")}
            )
            self.module["weights"] = nn.Linear(DIM, 1)
        self.group = group

    def batch(self, index: int) -> Pairs:
        rng = np.random.default_rng([3, index])
        size = 1 if index == 5 else 13  # a batch in which not everyone has a share
        rows = rng.integers(0, NUM_ROWS, (2, size))[:, self.group.share(size)]
        return Pairs(*torch.from_numpy(rows), torch.from_numpy(np.cos(rows.sum(axis=0)).astype(np.float32)), size)

    def num_samples(self, batch: Pairs) -> int:
        return batch.total

    def losses(self, batch: Pairs) -> LossOutput:
        table = self.module["table"]
        made = self.module["weights"](table(batch.first) * table(batch.second))[:, 0]
        return LossOutput((made - batch.wanted).square().sum() / batch.total)

    def validate(self) -> Validation:
        return Validation({"norm": float(self.module["table"].weight.float().norm())}, headline="norm")


def train(kind: str, *, out: Path, group: Group) -> dict[str, Tensor]:
    """Train whole tables through the loop; return them and what they remember."""
    task = Products(kind, group=group)
    if isinstance(group, Processes) and group.rank > 0:
        follow(task, config=LOOP, seed=0, group=group)
    else:
        fit(task, config=LOOP, out=out / f"loop {kind}", seed=0, group=group)
    table = task.module["table"]
    return {"weight": table.weight.detach(), **table.row_state()}


def sharded(kind: str, *, group: Group) -> ShardedIdTable:
    generator = torch.Generator().manual_seed(1)
    return ShardedIdTable(NUM_ROWS, DIM, group=group, init_std=0.3, eps=EPS, generator=generator, **KINDS[kind])


def steps_by_hand(table: IdTable, *, start: int, group: Group) -> list[float]:
    """Train some steps; return the norms of the gradients."""
    norms = []
    for step in range(start, start + STEPS):
        rng = np.random.default_rng([4, step])
        for size in (1, 20):  # two lookups, and of the first only one process has a share
            rows = torch.from_numpy(rng.integers(0, NUM_ROWS, size)[group.share(size)])
            (table(rows) - 0.5).square().sum().backward()
        norm = table.sum_row_gradients(group)
        table.update_rows(learning_rate=0.1, scale=1.0 / (1.0 + norm), seed=step)
        norms.append(float(norm))
    return norms


def go_on(kind: str, *, out: Path, group: Group) -> None:
    """Read what one process fewer has saved, save it again as it is, train, and save that."""
    table = sharded(kind, group=group)
    if group.size > 1:
        table.load(out / f"{kind} by {group.size - 1}")
        table.save(out / f"{kind} by {group.size - 1} again")
    norms = steps_by_hand(table, start=STEPS * (group.size - 1), group=group)
    table.save(out / f"{kind} by {group.size}")
    (out / f"{kind} norms {group.size} {group.rank}.json").write_text(json.dumps(norms))


def main() -> None:
    out = Path(sys.argv[1])
    group = join()
    for kind in KINDS:
        if group.size == 2:
            save_file(train(kind, out=out, group=group), out / f"{kind} of {group.rank}.safetensors")
        go_on(kind, out=out, group=group)
    group.close()


if __name__ == "__main__":
    main()
