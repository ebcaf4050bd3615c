"""ID tables: what a step costs, ours against torch's optimisers in one run; and tables that torch cannot train at all.

    python benchmarks/id_tables.py [--rows 1000000] [--dim 64] [--ids 106496] [--rounds 5] [--out FILE]
    python benchmarks/id_tables.py --rows 20000000 [--steps 40]
    python benchmarks/id_tables.py --smoke      tiny sizes: does it all still run?

A step looks up the vectors of a batch's ids (4096 examples of 26 ids), is given their gradient, and changes the table.
`uniform` ids are nearly all distinct, the worst case; `skewed` ones follow Zipf's law, as queries and items do.

Up to 2 million rows every way takes its turn, several times over, and the best round of each is kept. Beside ours
(row-wise Adagrad and Adam; vectors in float32, bfloat16, float16) stand `nn.Embedding(sparse=True)` with Adagrad and
SparseAdam, and a dense `nn.Embedding` with fused Adam; then the ways to add up the gradients of equal rows
(`adding_up`). One thread, unless --threads says otherwise.

Beyond that, ours alone, each kind in a process of its own: vectors are trained towards planted ones, and the loss, the
rate and the largest memory of the process stand beside what `table_bytes` says beforehand. Adagrad's checkpoint is
written once with the loop's own `Checkpoints`: what `checkpoint_every_s` has to be held against.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from machine import machine
from torch import Tensor, nn

from triptych.nn.id_table import IdTable, summed_by_row, table_bytes
from triptych.nn.rounding import StoredAs
from triptych.nn.row_optimizer import RowOptimizer
from triptych.training.checkpoint import Checkpoints
from triptych.training.distributed import ALONE
from triptych.training.loop import peak_memory_bytes

MOST_COMPARED = 2_000_000
"""Rows up to which the dense ways are measured too."""
LARGE = ((RowOptimizer.ADAGRAD, StoredAs.FLOAT32), (RowOptimizer.ADAGRAD, StoredAs.BFLOAT16))
SCATTER = 2_654_435_761
"""A prime that spreads frequent ids over the table."""

Step = Callable[[Tensor, Tensor], None]


def drawn_ids(count: int, *, rows: int, generator: torch.Generator, skewed: bool) -> Tensor:
    """Draw ids, alike in probability or by Zipf's law (a log-uniform rank), scattered over the table."""
    if not skewed:
        return torch.randint(rows, (count,), generator=generator)
    ranks = torch.rand(count, generator=generator, dtype=torch.float64).mul(torch.log(torch.tensor(rows))).exp().long()
    return ranks * SCATTER % rows


def our_step(table: IdTable) -> Step:
    """Make the step of one of our tables."""

    def step(ids: Tensor, gradient: Tensor) -> None:
        table(ids).backward(gradient)
        table.sum_row_gradients(ALONE)
        table.update_rows(learning_rate=0.01, seed=0)

    return step


def their_step(embedding: nn.Embedding, optimizer: torch.optim.Optimizer) -> Step:
    """Make the step of torch's table."""

    def step(ids: Tensor, gradient: Tensor) -> None:
        embedding(ids).backward(gradient)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def all_ways(rows: int, dim: int) -> dict[str, Step]:
    """Make every way to train a table of this size."""
    ways = {
        f"ours_{optimizer}_{stored_as}": our_step(IdTable(rows, dim, optimizer=optimizer, stored_as=stored_as))
        for optimizer in RowOptimizer
        for stored_as in StoredAs
    }
    theirs = {
        "torch_sparse_adagrad": (True, torch.optim.Adagrad),
        "torch_sparse_adam": (True, torch.optim.SparseAdam),
        "torch_dense_adam_fused": (False, lambda weights, lr: torch.optim.Adam(weights, lr=lr, fused=True)),
    }
    for name, (sparse, make) in theirs.items():
        embedding = nn.Embedding(rows, dim, sparse=sparse)
        ways[name] = their_step(embedding, make(embedding.parameters(), lr=0.01))
    return ways


def compare(*, rows: int, dim: int, ids: int, rounds: int) -> dict[str, Any]:
    """Time every way in turn, on the same batches."""
    warnings.filterwarnings("ignore", "Sparse invariant checks")
    ways, found = all_ways(rows, dim), {}
    for skewed in (False, True):
        generator = torch.Generator().manual_seed(0)
        seconds = dict.fromkeys(ways, float("inf"))
        for number in range(rounds + 1):
            batch = drawn_ids(ids, rows=rows, generator=generator, skewed=skewed)
            gradient = torch.randn(ids, dim, generator=generator)
            for name, step in ways.items():
                started = time.perf_counter()
                step(batch, gradient)
                if number > 0:  # the first makes room
                    seconds[name] = min(seconds[name], time.perf_counter() - started)
        dense, sparse = seconds["torch_dense_adam_fused"], seconds["torch_sparse_adam"]
        found["skewed" if skewed else "uniform"] = {
            "distinct_ids_of_the_last_batch": len(batch.unique()),
            "ms_per_step": {name: round(value * 1e3, 2) for name, value in seconds.items()},
            "ids_per_s": {name: round(ids / value) for name, value in seconds.items()},
            "adding_up_ms": add_up(batch, gradient, size=rows, rounds=rounds),
            "dense_adam_by_our_adagrad": round(dense / seconds["ours_adagrad_float32"], 2),
            "sparse_adam_by_our_adam": round(sparse / seconds["ours_adam_float32"], 2),
        }
    return found


def add_up(rows: Tensor, gradients: Tensor, *, size: int, rounds: int) -> dict[str, float]:
    """Time ways to add up the gradients of equal rows, in ms."""

    def unique_then(add: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], Any]:
        def run() -> Any:
            distinct, places = rows.unique(return_inverse=True)
            return distinct, add(gradients.new_zeros(len(distinct), gradients.shape[1]), places)

        return run

    def segments() -> Any:
        ascending, order = torch.sort(rows, stable=True)
        distinct, counts = torch.unique_consecutive(ascending, return_counts=True)
        return distinct, torch.segment_reduce(gradients[order], "sum", lengths=counts, axis=0)

    ways: dict[str, Callable[[], Any]] = {
        "ours": lambda: summed_by_row(rows, gradients),
        "unique_index_add": unique_then(lambda zeros, places: zeros.index_add_(0, places, gradients)),
        "unique_index_put": unique_then(lambda zeros, places: zeros.index_put_((places,), gradients, accumulate=True)),
        "sorted_segment_reduce": segments,
        "coalesce": lambda: torch.sparse_coo_tensor(rows[None], gradients, (size, gradients.shape[1])).coalesce(),
    }
    seconds = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, run in ways.items():
            started = time.perf_counter()
            run()
            seconds[name] = min(seconds[name], time.perf_counter() - started)
    return {name: round(value * 1e3, 2) for name, value in seconds.items()}


def train_large(
    optimizer: RowOptimizer, stored_as: StoredAs, rows: int, dim: int, ids: int, steps: int, threads: int, saves: bool
) -> dict[str, Any]:
    """Train one large table towards planted vectors, in a fresh process, whose memory is then the table's."""
    torch.set_num_threads(threads)
    before = peak_memory_bytes()
    started = time.perf_counter()
    table = IdTable(rows, dim, optimizer=optimizer, stored_as=stored_as, generator=torch.Generator().manual_seed(0))
    drawn_s = time.perf_counter() - started
    generator = torch.Generator().manual_seed(1)
    planted = torch.randn(4099, dim, generator=generator)
    losses, seconds = [], []
    for step in range(steps):
        batch = drawn_ids(ids, rows=rows, generator=generator, skewed=True)
        started = time.perf_counter()
        loss = (table(batch) - planted[batch % len(planted)]).square().mean()
        loss.backward()
        table.sum_row_gradients(ALONE)
        table.update_rows(learning_rate=0.1, seed=step)
        seconds.append(time.perf_counter() - started)
        losses.append(loss.item())
    peak = peak_memory_bytes()
    stated = table_bytes(rows, dim, optimizer=optimizer, stored_as=stored_as)
    few = max(1, steps // 8)
    return {
        "optimizer": optimizer,
        "stored_as": stored_as,
        "table_bytes": stated,
        "table_gib": round(stated / 2**30, 2),
        "peak_memory_gib": round(peak / 2**30, 2),
        "peak_beside_the_table_gib": round((peak - before - stated) / 2**30, 2),
        "seconds_to_draw": round(drawn_s, 1),
        "ms_per_step_median": round(sorted(seconds)[steps // 2] * 1e3, 1),
        "ids_per_s_median": round(ids / sorted(seconds)[steps // 2]),
        "loss_first": round(mean(losses[:few]), 4),
        "loss_last": round(mean(losses[-few:]), 4),
        **(seconds_to_save(table) if saves else {}),
    }


def seconds_to_save(table: IdTable) -> dict[str, Any]:
    """Write a checkpoint of the table and its state as the loop does, and say by how much memory grew."""
    before = peak_memory_bytes()
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        Checkpoints(Path(folder)).save(
            step=1, tensors={"weight": table.weight, **table.row_state()}, state={}, best_step=None
        )
        seconds = time.perf_counter() - started
    grown = peak_memory_bytes() - before
    return {"seconds_to_save": round(seconds, 1), "memory_of_saving_gib": round(grown / 2**30, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--ids", type=int, default=4096 * 26, help="ids of a batch")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of which the best is kept")
    parser.add_argument("--steps", type=int, default=40, help="steps of a large table")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--saves", action="store_true", help="of a large table, also write a checkpoint")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, whose figures mean nothing")
    parser.add_argument("--out", type=Path, help="also write the result here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.smoke:
        options.rows, options.dim, options.ids, options.rounds, options.steps = 5_000, 8, 2_000, 1, 8
    result: dict[str, Any] = {
        "benchmark": "id_tables",
        "machine": machine(),
        **{name: getattr(options, name) for name in ("rows", "dim", "ids", "threads", "smoke")},
    }
    if options.rows <= MOST_COMPARED:
        result |= {"rounds": options.rounds}
        result |= compare(rows=options.rows, dim=options.dim, ids=options.ids, rounds=options.rounds)
    if options.rows > MOST_COMPARED or options.smoke:
        sizes = (options.rows, options.dim, options.ids, options.steps, options.threads, options.saves)
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as fresh:
            result["large"] = [fresh.apply(train_large, (*kind, *sizes)) for kind in LARGE]
    text = json.dumps(result, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
