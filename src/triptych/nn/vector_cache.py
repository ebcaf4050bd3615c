"""A table of vectors that a module has computed before, with the training pass in which each was kept.

A vector that was worked out where it was needed with its gradient is read again, without one, where it is needed a
hundred times as often. It is as old as its last use: `VectorCache.report` says how old, and how far from what the
weights would say now.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

COMPARED_ROWS = 256
"""Kept vectors that a report compares with fresh ones, at most."""
REPORT_SEED = 0
"""Draws them."""


class Kept(NamedTuple):
    """What a table has of some rows."""

    vectors: Tensor
    """float32 ``[n, dim]``, zeros where nothing was kept."""
    there: Tensor
    """bool ``[n]``."""


class VectorCache(nn.Module):
    """Vectors by row, written and read without gradient.

    All of it goes with a checkpoint, so that a resumed training reads what an unbroken one would. A state dict that
    lacks it is taken too, and leaves the table as it is: a trained model needs none.
    """

    vectors: Tensor
    written: Tensor
    passes: Tensor
    asked: Tensor

    def __init__(self, num_rows: int, dim: int) -> None:
        """Make an empty table.

        Args:
            num_rows: rows.
            dim: length of a vector.
        """
        super().__init__()
        self.register_buffer("vectors", torch.zeros(num_rows, dim))
        self.register_buffer("written", torch.zeros(num_rows, dtype=torch.int64))  # the pass, from 1; 0: never
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))
        self.register_buffer("asked", torch.zeros(2, dtype=torch.int64))  # since the last report, and how many found

    def begin(self) -> None:
        """Count a training pass; what it writes is of this one."""
        self.passes.add_(1)

    @torch.no_grad()
    def write(self, rows: Tensor, vectors: Tensor) -> None:
        """Keep vectors ``[n, dim]`` of distinct rows, int64 ``[n]``."""
        self.vectors[rows] = vectors.detach().to(self.vectors.dtype)
        self.written[rows] = self.passes

    @torch.no_grad()
    def read(self, rows: Tensor, *, counts: Tensor) -> Kept:
        """Look rows up, int64 ``[n]``.

        Args:
            rows: distinct.
            counts: int64 ``[n]``, how often each is wanted, for the report.
        """
        there = self.written[rows] > 0
        self.asked.add_(torch.stack([counts.sum(), (counts * there).sum()]))
        return Kept(self.vectors[rows], there)

    @torch.no_grad()
    def report(self, fresh: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Say how stale the table is, and begin to count anew.

        Args:
            fresh: works vectors out of rows, int64 ``[n]``.

        Returns:
            ``cache_found``: share of what was asked for since the last report that was there. ``cache_cosine``: mean
            cosine of kept with fresh vectors, over rows drawn by a fixed seed. ``cache_age``: mean passes since a row
            was written. What nothing is known of is left out.
        """
        found: dict[str, float] = {}
        asked, hits = self.asked.tolist()
        if asked:
            found["cache_found"] = hits / asked
        self.asked.zero_()
        rows = self.written.nonzero()[:, 0]
        if len(rows):
            generator = torch.Generator().manual_seed(REPORT_SEED)
            some = rows[torch.randperm(len(rows), generator=generator)[:COMPARED_ROWS].to(rows.device)]
            cosines = functional.cosine_similarity(self.vectors[some], fresh(some).float(), dim=1)
            found["cache_cosine"] = float(cosines.mean())
            found["cache_age"] = float((self.passes - self.written[rows]).float().mean())
        return found

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, local_metadata: Any, strict: bool, *others: Any
    ) -> None:
        if any(prefix + name in state_dict for name, _ in self.named_buffers()):
            super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *others)

    def extra_repr(self) -> str:
        """Describe the table where torch prints a module."""
        return ", ".join(map(str, self.vectors.shape))
