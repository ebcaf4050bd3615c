"""A vector per id: tables of millions of rows, of which a step sees a few thousand.

A dense optimiser reads and writes every row at every step, and remembers two numbers per entry: a table of a million
rows takes it longer than the model around it, one of twenty million does not fit. Here a step costs what its batch
costs, whatever the size of the table (`docs/decisions/0012`).

The weight is a `Parameter`, so that it is saved, moved, counted and frozen as any other, but it never has a gradient:
`IdTable.forward` copies the rows out, and autograd fills the copy. `training.task.RowTrained` is how the training loop
knows such a module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from triptych.foundation.config import Config
from triptych.nn.rounding import StoredAs, store
from triptych.nn.row_optimizer import RowOptimizer, new_state, row_steps

INIT_STD = 0.02
EPS = 1e-10
CACHED_ROWS = 2048
"""Rows updated at a time on a CPU: what lies between two operations stays in the processor's cache."""


class TableConfig(Config):
    """How the tables of a model are trained and kept."""

    optimizer: RowOptimizer = RowOptimizer.ADAGRAD
    """How rows are changed: adagrad (a number remembered for each row) or adam (one for each entry as well, which
    doubles the memory). Adagrad's steps shrink and bear a high id_rate_factor; for adam set one of about 1."""
    stored_as: StoredAs = StoredAs.FLOAT32
    """Number format of the vectors: float32, or bfloat16 or float16, which halve the memory and round by chance."""

    def build(
        self,
        num_rows: int,
        dim: int,
        *,
        rate_factor: float,
        init_std: float,
        generator: torch.Generator | None = None,
    ) -> IdTable:
        """Make a table so; arguments as of `IdTable`."""
        return IdTable(
            num_rows,
            dim,
            optimizer=self.optimizer,
            rate_factor=rate_factor,
            stored_as=self.stored_as,
            init_std=init_std,
            generator=generator,
        )


class Shard(NamedTuple):
    """Rows `place`, `place` + `of`, … of a table."""

    place: int
    of: int


WHOLE = Shard(0, 1)


class RowGradients(NamedTuple):
    """Gradients of some rows of a table; of all others they are 0."""

    rows: Tensor
    """int64 ``[rows]``."""
    values: Tensor
    """float32 ``[rows, dim]``."""


class Exchange(Protocol):
    """The processes that train together, as a table sees them: `training.distributed.Group`."""

    rank: int
    size: int

    def gather_rows(self, rows: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Join what every process has, ``[rows]`` and ``[rows, dim]``, in the same order everywhere."""
        ...

    def deal(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Send each process its part and return what each has for this one; they differ in their first size only."""
        ...


class IdTable(nn.Module):
    """Vectors by row, trained row by row: a step reads, changes and remembers only the rows of its batch."""

    def __init__(
        self,
        num_rows: int,
        dim: int,
        *,
        optimizer: RowOptimizer = RowOptimizer.ADAGRAD,
        rate_factor: float = 1.0,
        stored_as: StoredAs = StoredAs.FLOAT32,
        init_std: float = INIT_STD,
        eps: float = EPS,
        generator: torch.Generator | None = None,
        shard: Shard | None = None,
    ) -> None:
        """Draw the vectors.

        Args:
            num_rows: rows, the one for unknown ids included.
            dim: of a vector.
            optimizer: how rows are changed.
            rate_factor: the table's share of the learning rate. Adagrad's steps shrink, so it bears a higher one.
            stored_as: number format of the vectors; 16 bits halve the memory (see `nn.rounding`).
            init_std: standard deviation of the first vectors' entries.
            eps: added to the root of the squares that a gradient is divided by.
            generator: for the first vectors; None: torch's own.
            shard: which rows lie here, in a `ShardedIdTable`; all rows are drawn, so that any number of processes begin
                with the same vectors.
        """
        super().__init__()
        self.num_rows, self.dim, self.shard = num_rows, dim, shard or WHOLE
        self.optimizer, self.rate_factor, self.stored_as, self.eps = optimizer, rate_factor, stored_as, eps
        drawn = drawn_rows(num_rows, dim, stored_as=stored_as, std=init_std, generator=generator, shard=self.shard)
        self.weight = nn.Parameter(drawn)
        state = new_state(optimizer, num_rows=len(drawn), dim=dim, stored_as=stored_as)
        self._slots = tuple(state)
        for slot, values in state.items():
            self.register_buffer(slot, values, persistent=False)  # goes with the training, not with the model
        self._found: list[RowGradients] = []
        self._summed: RowGradients | None = None

    def forward(self, rows: Tensor) -> Tensor:
        """Look up rows.

        In training their gradients are kept for `update_rows`, summed over all calls and backward passes before it.

        Args:
            rows: int64 ``[...]``.

        Returns:
            float32 ``[..., dim]``.
        """
        vectors = self._looked_up(rows)
        if self.training and self.weight.requires_grad and torch.is_grad_enabled():
            vectors.requires_grad_()

            def keep(leaf: Tensor) -> None:
                self._found.append(RowGradients(rows.flatten(), leaf.grad.view(-1, self.dim)))
                leaf.grad = None

            # A hook, and no list of what was looked up: what nobody asks back does not pile up.
            vectors.register_post_accumulate_grad_hook(keep)
        return vectors

    def sum_row_gradients(self, group: Exchange) -> Tensor:
        """Add up what backward passes have brought since the last update, over all processes; return its norm.

        To be called once before `update_rows`, by every process.
        """
        self._summed = self._taken()
        if group.size > 1:
            self._summed = summed_by_row(*group.gather_rows(*self._summed))
        return torch.linalg.vector_norm(self._summed.values)

    @torch.no_grad()
    def update_rows(self, *, learning_rate: float, seed: int, scale: Tensor | float = 1.0) -> None:
        """Change the rows by their gradients, and forget those.

        Args:
            learning_rate: before `rate_factor`.
            seed: of the rounding to 16 bits; another one for every step, the same in every process.
            scale: by which the gradients are multiplied, to clip them.
        """
        assert self._summed is not None, "sum_row_gradients comes before update_rows"
        (rows, values), self._summed = self._summed, None
        device = self.weight.device
        generator = torch.Generator(device).manual_seed(seed)
        at_once = CACHED_ROWS if device.type == "cpu" else max(1, len(rows))
        for some, gradients in zip(rows.split(at_once), values.split(at_once), strict=True):
            steps = row_steps(
                gradients * scale,
                optimizer=self.optimizer,
                state=self.row_state(),
                rows=some,
                eps=self.eps,
                generator=generator,
            )
            before = self.weight.index_select(0, some).float()
            after = before.sub_(steps, alpha=learning_rate * self.rate_factor)
            store(after, to=self.weight.detach(), rows=some, generator=generator)

    def row_state(self) -> dict[str, Tensor]:
        """Return what the optimiser remembers, by name, each ``[num_rows, ...]``: to be saved, or overwritten."""
        return {slot: getattr(self, slot) for slot in self._slots}

    def _looked_up(self, rows: Tensor) -> Tensor:
        return functional.embedding(rows, self.weight.detach()).float()

    def _taken(self) -> RowGradients:
        """Add up what this process's backward passes have brought, and forget it."""
        found, self._found = self._found, []
        if len(found) == 1:  # as a rule, and joining would copy
            return summed_by_row(*found[0])
        none = torch.empty(0, dtype=torch.int64, device=self.weight.device)
        nothing = RowGradients(none, none.new_empty(0, self.dim, dtype=torch.float32))
        return summed_by_row(*(torch.cat(parts) for parts in zip(nothing, *found, strict=True)))

    def extra_repr(self) -> str:
        """Describe the table where torch prints a module."""
        return f"{self.num_rows}, {self.dim}, optimizer={self.optimizer}, stored_as={self.stored_as}"


def summed_by_row(rows: Tensor, values: Tensor) -> RowGradients:
    """Add up the gradients of equal rows, in the order in which they come.

    Args:
        rows: int64 ``[n]``.
        values: ``[n, dim]``.

    Returns:
        Ascending rows, each once.
    """
    # `unique` and `index_add_` take longer (`benchmarks/id_tables.py`), and on a GPU the latter adds in any order.
    ascending, order = torch.sort(rows, stable=True)
    distinct, counts = torch.unique_consecutive(ascending, return_counts=True)
    if not len(distinct):
        return RowGradients(distinct, values)
    return RowGradients(distinct, functional.embedding_bag(order, values, counts.cumsum(0) - counts, mode="sum"))


def drawn_rows(
    num_rows: int, dim: int, *, stored_as: StoredAs, std: float, generator: torch.Generator | None, shard: Shard
) -> Tensor:
    """Draw normal vectors ``[num_rows, dim]`` a block at a time and keep those of a shard: nothing else is as large."""
    table = torch.empty(len(range(shard.place, num_rows, shard.of)), dim, dtype=stored_as.dtype)
    for start in range(0, num_rows, CACHED_ROWS):
        block = torch.empty(min(CACHED_ROWS, num_rows - start), dim).normal_(std=std, generator=generator)
        own = block[(shard.place - start) % shard.of :: shard.of]
        first = -(-(start - shard.place) // shard.of)
        table[first : first + len(own)] = own
    return table


def table_bytes(num_rows: int, dim: int, *, optimizer: RowOptimizer, stored_as: StoredAs = StoredAs.FLOAT32) -> int:
    """Return what a table and its optimiser's state take in memory; what a step takes beside it is a few batches."""
    number = stored_as.dtype.itemsize
    if optimizer is RowOptimizer.ADAGRAD:
        return num_rows * (number * dim + 4)
    return num_rows * (2 * number * dim + 8)
