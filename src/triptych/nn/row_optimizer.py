"""Optimisers that remember one number per row of a table, and touch only the rows of a batch.

Row-wise Adagrad keeps a sum of squared gradients per row instead of per entry (Mudigere et al., 2022,
"Software-Hardware Co-design for Fast and Scalable Training of Deep Learning Recommendation Models", section 4.1.2;
Duchi et al., 2011, for Adagrad). With one entry a row it is Adagrad.

Row-wise Adam keeps the first moment per entry, since a direction has no mean, and the second per row. It is lazy: the
moments of a row without gradient stand still. Hence the bias is corrected by the number of the row's *own* updates
(Kingma & Ba, 2015, section 3). Corrected by the number of all steps, as torch's SparseAdam does it, a row first seen
late would take a step of 0.1 / √0.001 = 3.2 times the learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum

import torch
from torch import Tensor

from triptych.nn.rounding import StoredAs, store

FIRST_DECAY, SECOND_DECAY = 0.9, 0.999
"""Adam's β₁ and β₂."""


class RowOptimizer(StrEnum):
    """How a table's rows are changed."""

    ADAGRAD = "adagrad"
    """4 bytes of state a row; steps shrink as a row is seen more often."""
    ADAM = "adam"
    """8 bytes of state a row and one number per entry, which doubles the memory."""


def new_state(
    optimizer: RowOptimizer, *, num_rows: int, dim: int, stored_as: StoredAs = StoredAs.FLOAT32
) -> dict[str, Tensor]:
    """Return what the optimiser remembers of rows that have seen nothing, by name; each ``[num_rows, ...]``."""
    if optimizer is RowOptimizer.ADAGRAD:
        return {"square_sum": torch.zeros(num_rows)}
    # Gradients are too small for float16, whose least number is 6e-8; bfloat16 has float32's range.
    moment = torch.float32 if stored_as is StoredAs.FLOAT32 else torch.bfloat16
    return {
        "first_moment": torch.zeros(num_rows, dim, dtype=moment),
        "second_moment": torch.zeros(num_rows),
        "updates": torch.zeros(num_rows, dtype=torch.int32),
    }


def row_steps(
    gradients: Tensor,
    *,
    optimizer: RowOptimizer,
    state: Mapping[str, Tensor],
    rows: Tensor,
    eps: float,
    generator: torch.Generator,
) -> Tensor:
    """Take gradients into the state, in place, and return the rows' steps.

    Args:
        gradients: float32 ``[rows, dim]``.
        optimizer: the rule.
        state: of the whole table.
        rows: int64 ``[rows]``, each once.
        eps: added to the root of the squares.
        generator: for moments of 16 bits.

    Returns:
        ``[rows, dim]``, to be multiplied by the learning rate and subtracted.
    """
    squares = torch.linalg.vector_norm(gradients, dim=1).square_().div_(gradients.shape[1])
    if optimizer is RowOptimizer.ADAGRAD:
        square_sum = state["square_sum"].index_select(0, rows).add_(squares)
        state["square_sum"].index_copy_(0, rows, square_sum)
        return gradients / square_sum.sqrt_().add_(eps)[:, None]
    updates = state["updates"].index_select(0, rows).add_(1)
    second = state["second_moment"].index_select(0, rows).lerp_(squares, 1 - SECOND_DECAY)
    first = state["first_moment"].index_select(0, rows).float().lerp_(gradients, 1 - FIRST_DECAY)
    state["updates"].index_copy_(0, rows, updates)
    state["second_moment"].index_copy_(0, rows, second)
    store(first, to=state["first_moment"], rows=rows, generator=generator)
    root = second.div_(_corrected(SECOND_DECAY, updates)).sqrt_().add_(eps)
    return first / root.mul_(_corrected(FIRST_DECAY, updates))[:, None]


def _corrected(decay: float, updates: Tensor) -> Tensor:
    """Return 1 - decay^updates; computed as it stands, float32 would lose half of the digits."""
    return torch.expm1(updates * math.log(decay)).neg_()
