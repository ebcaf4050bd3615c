"""Training by several processes that share every batch, as ``torchrun`` starts them.

Each process draws the whole batch (that is cheap), gathers and encodes its own share of it, and sees the vectors of all
items: `Group.gather` collects them with their gradient. A task's losses are its share of a sum, so the gradients are
added up (`Group.sum_gradients`) and are those of one process with the same batch.

The first process (rank 0) keeps the run: it alone validates, logs, draws the bar and writes to disk, and tells the
others what they need to know. A checkpoint therefore knows nothing of the number of processes.

What a task draws is the same for any number of processes; what a model draws itself, such as dropout, each process
draws from a stream of its own. With such a model several processes reach the result of one in distribution only.

Why not ``DistributedDataParallel``: it hooks a module's ``forward``, and ours have two towers and are asked for each
several times in a step; it averages, where shares of unequal size need a sum; and it takes the processes' losses for
independent, while here each contrasts its queries with everybody's items.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from triptych.foundation.errors import ConfigError, TriptychError
from triptych.nn.precision import find_device

BUCKET = 4_000_000
"""Numbers that are added up over the processes at once: few enough to overlap with packing the next."""
PATIENCE = timedelta(days=30)
"""How long a process waits to be told what to do: the first may decode photos for hours. A process that ends closes its
connections, which the others notice at once, so this bounds nothing in practice."""
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun puts into the environment of every process it starts."""


class Parted(TriptychError):
    """Another process of the group has gone."""


class Group:
    """The processes that train together. This class is a group of one: it has nothing to divide and nobody to tell."""

    rank: int = 0
    """Place of this process, from 0."""
    size: int = 1
    """Number of processes."""

    def device(self, name: str) -> torch.device:
        """Find this process's device by the name that is configured; see `nn.precision.find_device`."""
        return find_device(name)

    def share(self, count: int) -> slice:
        """Return which of `count` rows are this process's: every size-th, so that short and long texts mix."""
        return slice(self.rank, count, self.size)

    def shares(self, parts: Sequence[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
        """Return this process's rows of each part, where the rows of all parts together are shared out.

        Args:
            parts: rows; together in the order in which `gather` puts their vectors.

        Returns:
            As many arrays as there are parts in which this process has rows.
        """
        starts = np.cumsum([0, *(len(part) for part in parts)])
        own = [part[(self.rank - start) % self.size :: self.size] for part, start in zip(parts, starts, strict=False)]
        return [rows for rows in own if len(rows)]

    def gather(self, own: Tensor, *, total: int) -> Tensor:
        """Collect vectors from all processes, keeping their gradient.

        Args:
            own: ``[rows, dim]``, this process's share of the rows.
            total: rows of all processes.

        Returns:
            ``[total, dim]``, on every process the same.
        """
        del total
        return own

    def gather_rows(self, rows: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Join the rows that each process has, without gradient: any number of them.

        Args:
            rows: int64 ``[rows]``.
            values: ``[rows, dim]``.

        Returns:
            Both, of the first process, then of the second, and so on: on every process the same.
        """
        return rows, values

    def deal(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Send to each process the part with its number, without gradient, and return what each has for this one.

        Args:
            parts: as many as there are processes; ``[any, ...]``, of one type, alike on all processes but for the first
                size.
        """
        return list(parts)

    def sum_gradients(self, weights: Sequence[Tensor], *, beside: Tensor) -> None:
        """Add up the gradients over the processes, in place; a weight without gradient everywhere keeps none.

        Args:
            weights: in the same order on every process.
            beside: further numbers that are added up in place, on the weights' device.
        """

    def tell(self, message: Any) -> None:
        """Send what JSON can hold from the first process to the others, each of which must `listen`."""

    def spread(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite the other processes' tensors with those of the first; shapes and types are the same."""

    def close(self) -> None:
        """Leave the group; after that the processes may end one by one."""


ALONE = Group()


class Processes(Group):
    """Several processes, started by torchrun on one machine or many."""

    def __init__(self) -> None:
        """Meet the others; see `join`."""
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        with _together():
            dist.init_process_group(backend)
            self._quiet = dist.new_group(backend="gloo", timeout=PATIENCE)  # for words: a GPU need not wait for them
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def listen(self) -> Any:
        """Wait for what the first process tells."""
        length = torch.empty(1, dtype=torch.int64)
        with _together():
            dist.broadcast(length, src=0, group=self._quiet)
            message = torch.empty(int(length), dtype=torch.uint8)
            dist.broadcast(message, src=0, group=self._quiet)
        return json.loads(message.numpy().tobytes())

    def device(self, name: str) -> torch.device:
        """Find this process's device: of several GPUs the one with its place among the machine's processes.

        Raises:
            ConfigError: there are fewer GPUs than processes on this machine, or one of them is asked for by number.
        """
        device = find_device(name)
        if device.type != "cuda":
            return device
        place, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if device.index is not None:
            raise ConfigError(f"device: '{name}' would have every process use one GPU. Set device = 'cuda'.")
        if place >= there:
            raise ConfigError(
                f"device: {os.environ.get('LOCAL_WORLD_SIZE', 'more')} processes on this machine, and torch sees "
                f"{there} GPUs. Start as many as there are (torchrun --nproc-per-node {there}), or set device = 'cpu'."
            )
        torch.cuda.set_device(place)
        return torch.device("cuda", place)

    def gather(self, own: Tensor, *, total: int) -> Tensor:
        """See `Group.gather`."""
        gathered: Tensor = _Gather.apply(own, self.rank, self.size, total)
        return gathered

    def gather_rows(self, rows: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """See `Group.gather_rows`."""
        with _together():
            counts = [torch.empty(1, dtype=torch.int64) for _ in range(self.size)]
            dist.all_gather(counts, torch.tensor([len(rows)]), group=self._quiet)
            return _joined(rows, counts), _joined(values, counts)

    def deal(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """See `Group.deal`."""
        given = torch.tensor([len(part) for part in parts])
        taken = torch.empty_like(given)
        with _together():
            dist.all_to_all_single(taken, given, group=self._quiet)
            got = parts[0].new_empty(int(taken.sum()), *parts[0].shape[1:])
            dist.all_to_all_single(got, torch.cat(list(parts)), taken.tolist(), given.tolist())
        return list(got.split(taken.tolist()))

    def sum_gradients(self, weights: Sequence[Tensor], *, beside: Tensor) -> None:
        """See `Group.sum_gradients`."""
        # A share may lack what another has, such as photos; AdamW passes over a weight only if nobody has used it.
        used = torch.tensor([weight.grad is not None for weight in weights], dtype=torch.uint8)
        with _together():
            dist.all_reduce(used, op=dist.ReduceOp.MAX, group=self._quiet)
        for weight in (weight for weight, is_used in zip(weights, used.tolist(), strict=True) if is_used):
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        self._sum([*(weight.grad for weight in weights if weight.grad is not None), beside])

    def tell(self, message: Any) -> None:
        """See `Group.tell`."""
        text = torch.frombuffer(bytearray(json.dumps(message, allow_nan=False).encode()), dtype=torch.uint8)
        with _together():
            dist.broadcast(torch.tensor([len(text)]), src=0, group=self._quiet)
            dist.broadcast(text, src=0, group=self._quiet)

    def spread(self, tensors: Sequence[Tensor]) -> None:
        """See `Group.spread`."""
        with _together():
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def close(self) -> None:
        """See `Group.close`."""
        dist.destroy_process_group()

    def _sum(self, tensors: Sequence[Tensor]) -> None:
        """Add up tensors in place, packed into buckets that travel while the next one is packed."""
        travelling = []
        with _together():
            for bucket in _buckets(tensors):
                packed = torch.cat([tensor.flatten() for tensor in bucket])
                travelling.append((bucket, packed, dist.all_reduce(packed, async_op=True)))
            for bucket, packed, work in travelling:
                work.wait()
                for tensor, summed in zip(bucket, packed.split([tensor.numel() for tensor in bucket]), strict=True):
                    tensor.copy_(summed.view_as(tensor))


class _Gather(torch.autograd.Function):
    """Rows of all processes; backward, each process gets the sum of what all of them want of its rows.

    Process r holds rows r, r + size, r + 2 size, …: stacked side by side and read row by row they are in order again,
    and what fills up the last, incomplete round stands at the end.
    """

    @staticmethod
    def forward(ctx: Any, own: Tensor, rank: int, size: int, total: int) -> Tensor:
        ctx.rank, ctx.size = rank, size
        rounds = -(-total // size)
        padded = own.new_zeros(rounds, own.shape[1])
        padded[: len(own)] = own
        found = [torch.empty_like(padded) for _ in range(size)]
        with _together():
            dist.all_gather(found, padded)
        return torch.stack(found, dim=1).flatten(0, 1)[:total]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        gradient = gradients[0].clone(memory_format=torch.contiguous_format)
        with _together():
            dist.all_reduce(gradient)
        return gradient[ctx.rank :: ctx.size], None, None, None


def _joined(own: Tensor, counts: Sequence[Tensor]) -> Tensor:
    """Join what all processes have, where each knows how many rows each has."""
    lengths = [int(count) for count in counts]
    padded = own.new_zeros(max(lengths), *own.shape[1:])
    padded[: len(own)] = own
    found = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(found, padded)
    return torch.cat([part[:length] for part, length in zip(found, lengths, strict=True)])


def join(environment: Mapping[str, str] | None = None) -> Group:
    """Return the group this process was started into: by torchrun, or alone.

    Raises:
        Parted: the others could not be reached.
    """
    environment = os.environ if environment is None else environment
    started = all(name in environment for name in TORCHRUN)
    return Processes() if started and int(environment["WORLD_SIZE"]) > 1 else ALONE


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Cut a list of tensors into runs of one type and at most `BUCKET` numbers (one larger tensor is a run)."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        filled = sum(other.numel() for other in bucket)
        if bucket and (filled + tensor.numel() > BUCKET or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


@contextmanager
def _together() -> Iterator[None]:
    """Say in a sentence what torch says when a connection breaks."""
    try:
        yield
    except RuntimeError as error:
        raise Parted(
            f"Another process of this training has gone ({str(error).splitlines()[0]}); what it had to say stands "
            "above, if anything. The same command goes on from the last checkpoint."
        ) from None
