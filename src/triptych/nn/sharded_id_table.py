"""A table whose rows lie with several processes: row r with process r % size, so that frequent rows are shared out.

What a process looks up is asked of the rows' owners, and the gradients of a step go back to them once, already summed:
an exchange of a batch's rows each time, never of the table. Checkpoints are one file a process, from which any other
number of processes can go on.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from triptych.foundation.errors import ArtifactError
from triptych.nn.id_table import EPS, INIT_STD, Exchange, IdTable, Shard, summed_by_row
from triptych.nn.rounding import StoredAs
from triptych.nn.row_optimizer import RowOptimizer


class ShardedIdTable(IdTable):
    """An `IdTable` of which each process of a group holds every size-th row.

    All processes call `forward`, `sum_row_gradients` and `update_rows` equally often, even with nothing to look up, and
    wait for each other in the first two.
    """

    def __init__(
        self,
        num_rows: int,
        dim: int,
        *,
        group: Exchange,
        optimizer: RowOptimizer = RowOptimizer.ADAGRAD,
        rate_factor: float = 1.0,
        stored_as: StoredAs = StoredAs.FLOAT32,
        init_std: float = INIT_STD,
        eps: float = EPS,
        generator: torch.Generator | None = None,
    ) -> None:
        """Draw this process's rows; see `IdTable`. The generator is in the same state on every process."""
        super().__init__(
            num_rows,
            dim,
            optimizer=optimizer,
            rate_factor=rate_factor,
            stored_as=stored_as,
            init_std=init_std,
            eps=eps,
            generator=generator,
            shard=Shard(group.rank, group.size),
        )
        self._group = group

    def sum_row_gradients(self, group: Exchange) -> Tensor:
        """See `IdTable.sum_row_gradients`; the norm is that of all processes' rows."""
        rows, values = self._taken()
        order, counts = self._by_owner(rows)
        here = torch.cat(group.deal(rows[order].div(group.size, rounding_mode="floor").split(counts)))
        self._summed = summed_by_row(here, torch.cat(group.deal(values[order].split(counts))))
        square = self._summed.values.square().sum()
        return group.gather_rows(here.new_zeros(1), square.view(1, 1))[1].sum().sqrt()

    def save(self, folder: Path) -> None:
        """Write this process's rows and what the optimiser remembers of them; the shards of all are a checkpoint.

        Args:
            folder: a new one, the same for all processes.
        """
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"shard_{self.shard.place:05d}_of_{self.shard.of:05d}.safetensors"
        partial = file.with_suffix(".partial")
        save_file({"weight": self.weight.detach().cpu(), **{n: t.cpu() for n, t in self.row_state().items()}}, partial)
        os.replace(partial, file)

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """Read this process's rows from the shards of any number of processes.

        Raises:
            ArtifactError: the shards are not those of one whole table of this size.
        """
        files = {_shard_of(file): file for file in sorted(folder.glob("shard_*.safetensors"))}
        if not files or list(files) != [Shard(place, len(files)) for place in range(len(files))]:
            raise ArtifactError(f"'{folder}' holds no whole table, but {len(files)} shards. Take an older checkpoint.")
        for shard, file in files.items():
            self._take_from(shard, load_file(file))

    def _take_from(self, theirs: Shard, saved: dict[str, Tensor]) -> None:
        """Copy the rows that are in both shards: every so many-th of either."""
        own, common = self.shard, math.gcd(theirs.of, self.shard.of)
        if (theirs.place - own.place) % common:
            return
        row = next(r for r in range(theirs.place, theirs.of * own.of, theirs.of) if r % own.of == own.place)
        for name, values in {"weight": self.weight, **self.row_state()}.items():
            here = values[row // own.of :: theirs.of // common]
            there = saved[name][row // theirs.of :: own.of // common]
            if here.shape != there.shape or here.dtype != there.dtype:
                raise ArtifactError(
                    f"'{name}' was saved of a table of another size or number format. Make the table as it was."
                )
            here.copy_(there)

    def _looked_up(self, rows: Tensor) -> Tensor:
        """Ask the owners, for each row once."""
        distinct, places = rows.unique(return_inverse=True)
        order, counts = self._by_owner(distinct)
        asked = self._group.deal(distinct[order].div(self.shard.of, rounding_mode="floor").split(counts))
        answers = [functional.embedding(part, self.weight.detach()).float() for part in asked]
        vectors = torch.empty(len(distinct), self.dim, device=rows.device)
        vectors[order] = torch.cat(self._group.deal(answers))
        return functional.embedding(places, vectors)

    def _by_owner(self, rows: Tensor) -> tuple[Tensor, list[int]]:
        """Return the order in which rows of one owner stand together, and how many rows each has."""
        owners = rows % self.shard.of
        return owners.argsort(stable=True), owners.bincount(minlength=self.shard.of).tolist()


def _shard_of(file: Path) -> Shard:
    place, of = file.stem.removeprefix("shard_").split("_of_")
    return Shard(int(place), int(of))
