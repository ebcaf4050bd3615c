"""Row-wise Adagrad and Adam against a plain loop in float64, and with one entry a row against torch's own."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from triptych.nn.id_table import IdTable
from triptych.nn.row_optimizer import RowOptimizer
from triptych.training.distributed import ALONE

NUM_ROWS, RATE = 11, 0.05


def make(optimizer: RowOptimizer, *, dim: int) -> IdTable:
    return IdTable(NUM_ROWS, dim, optimizer=optimizer, init_std=1.0, generator=torch.Generator().manual_seed(1))


def batches(*, dim: int, steps: int = 25, every_row: bool = False):
    """Rows, many of them twice, and their gradients, small and large."""
    generator = torch.Generator().manual_seed(2)
    for step in range(steps):
        rows = torch.randint(NUM_ROWS - 1, (9,), generator=generator)
        rows = torch.cat([rows, torch.arange(NUM_ROWS)]) if every_row else rows
        yield rows, 10.0 ** (step % 5 - 3) * torch.randn(len(rows), dim, generator=generator)


def train(table: IdTable, rows: torch.Tensor, gradients: torch.Tensor) -> None:
    table(rows).backward(gradients)
    table.sum_row_gradients(ALONE)
    table.update_rows(learning_rate=RATE, seed=0)


def loop_step(weight, memory, rows, gradients, *, optimizer: RowOptimizer) -> None:
    """Change lists of numbers in place."""
    summed = {}
    for row, gradient in zip(rows.tolist(), gradients.tolist(), strict=True):
        summed[row] = [a + b for a, b in zip(summed.get(row, [0.0] * len(gradient)), gradient, strict=True)]
    for row, gradient in summed.items():
        square = sum(g * g for g in gradient) / len(gradient)
        mine = memory.setdefault(row, {"sum": 0.0, "m": [0.0] * len(gradient), "v": 0.0, "t": 0})
        mine["sum"] += square
        mine["t"] += 1
        mine["m"] = [0.9 * m + 0.1 * g for m, g in zip(mine["m"], gradient, strict=True)]
        mine["v"] = 0.999 * mine["v"] + 0.001 * square
        for entry, g in enumerate(gradient):
            if optimizer is RowOptimizer.ADAGRAD:
                step = g / (math.sqrt(mine["sum"]) + 1e-10)
            else:
                first = mine["m"][entry] / (1 - 0.9 ** mine["t"])
                step = first / (math.sqrt(mine["v"] / (1 - 0.999 ** mine["t"])) + 1e-10)
            weight[row][entry] -= RATE * step


@pytest.mark.parametrize("optimizer", RowOptimizer)
def test_a_table_is_trained_as_a_loop_would(optimizer: RowOptimizer):
    table = make(optimizer, dim=3)
    weight, memory = table.weight.double().tolist(), {}
    for rows, gradients in batches(dim=3):
        train(table, rows, gradients)
        loop_step(weight, memory, rows, gradients, optimizer=optimizer)
        assert torch.allclose(table.weight.double(), torch.tensor(weight, dtype=torch.float64), atol=1e-6)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("optimizer", RowOptimizer)
def test_with_one_entry_a_row_it_is_what_torch_does(optimizer: RowOptimizer):
    """Torch's SparseAdam corrects the bias by the number of all steps, so there every row is in every batch."""
    table = make(optimizer, dim=1)
    embedding = nn.Embedding(NUM_ROWS, 1, sparse=True)
    embedding.weight.data.copy_(table.weight)
    if optimizer is RowOptimizer.ADAGRAD:
        theirs = torch.optim.Adagrad(embedding.parameters(), lr=RATE)
    else:
        theirs = torch.optim.SparseAdam(embedding.parameters(), lr=RATE, eps=1e-20)
    for rows, gradients in batches(dim=1, every_row=optimizer is RowOptimizer.ADAM):
        train(table, rows, gradients)
        theirs.zero_grad()
        embedding(rows).backward(gradients)
        theirs.step()
        assert torch.allclose(table.weight, embedding.weight, atol=2e-6)
