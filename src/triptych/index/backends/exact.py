"""The exact index: every item is compared with every query, and nothing is missed.

Vectors lie in one ``.npy`` file, memory-mapped: opening reads nothing, and processes that serve the same index share
its pages. A search needs a bounded working memory beside them (some 120 MiB, see `triptych.index.top_k`). Up to a few
million items this is fast enough to need nothing else; `benchmarks/exact_search.py` has the figures.
"""

from __future__ import annotations

import json
import os
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray

from triptych.foundation.artifact import write_json
from triptych.foundation.errors import ArtifactError, DataError
from triptych.foundation.types import Hits
from triptych.index.base import IndexConfig
from triptych.index.top_k import Arithmetic, Store, exact_top_k

VECTORS, REMOVED, META = "vectors.npy", "removed.npy", "index.json"
COPY_ROWS = 65_536
LARGEST_SCORE = 1e37
"""Bound on |query| |item|: below it, float32 and bfloat16 products are finite."""


class NumberFormat(StrEnum):
    """How a vector's numbers are stored."""

    FLOAT16 = "float16"
    FLOAT32 = "float32"


class ExactConfig(IndexConfig):
    """Exact inner-product search."""

    kind: Literal["exact"] = "exact"
    """Name of the file that defines it."""
    stored_as: NumberFormat = NumberFormat.FLOAT16
    """How vectors are stored: float16 (2 bytes a number) or float32 (4). Scores are summed in float64 either way."""
    arithmetic: Arithmetic = Arithmetic.AUTO
    """What the coarse comparison multiplies in: auto takes bfloat16 where the CPU has it. The hits are the same."""

    def build(self, vectors: NDArray[Any]) -> ExactIndex:
        """Index vectors ``[items, dim]`` held in memory; see `ExactIndex.build`."""
        return ExactIndex.build(vectors, config=self)

    def open_saved(self, folder: Path) -> ExactIndex:
        """Open what `ExactIndex.save` wrote, memory-mapped."""
        return ExactIndex.load(folder)


CONFIG = ExactConfig


class _State(NamedTuple):
    """All of an index at one moment; replaced, never changed."""

    mapped: NDArray[Any]
    """``[rows, dim]``, the vectors it was built or loaded with."""
    added: NDArray[Any]
    """``[rows, dim]``, those added since."""
    removed: NDArray[np.int64]
    """Rows never to be returned, ascending."""
    largest_norm: float

    @property
    def num_rows(self) -> int:
        return len(self.mapped) + len(self.added)

    def store(self) -> Store:
        pieces = [torch.from_numpy(piece) for piece in (self.mapped, self.added) if len(piece)]
        return Store(pieces, self.largest_norm)


class ExactIndex:
    """Exact search over vectors in memory or on disk; see `triptych.index.base.Index` for each method's meaning."""

    def __init__(self, state: _State, *, config: ExactConfig) -> None:
        """Wrap a state; use `build` or `load`."""
        self._state = state
        self._config = config

    @classmethod
    def build(cls, vectors: NDArray[Any], *, config: ExactConfig | None = None) -> Self:
        """Index vectors held in memory.

        Args:
            vectors: ``[items, dim]``, one per item row; converted to the stored format, and not copied where they
                have it already.
            config: number format and arithmetic.

        Raises:
            DataError: the array is no matrix, or holds NaN, infinities or numbers too large for the format.
        """
        config = config or ExactConfig()
        stored = _stored(vectors, number_format=config.stored_as)
        state = _State(stored, stored[:0], np.empty(0, np.int64), _largest_norm(stored))
        return cls(state, config=config)

    @property
    def num_rows(self) -> int:
        """Item rows, those of removed items included."""
        return self._state.num_rows

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self._state.mapped.shape[1])

    @property
    def memory_bytes(self) -> int:
        """Bytes of the vectors, mapped or in memory."""
        return int(self._state.mapped.nbytes + self._state.added.nbytes)

    def search(self, vectors: NDArray[np.float32], *, k: int, keep: NDArray[np.bool_] | None = None) -> Hits:
        """Return the k items of largest inner product for each vector, exact at ties.

        Args:
            vectors: ``[n, dim]``, finite.
            k: places per vector, at least 1.
            keep: ``[num_rows]``, which items may be returned. Only their vectors are read.

        Returns:
            ``[n, k]``; a score is the float64 inner product with the stored vector, rounded to float32, and depends on
            nothing else.

        Raises:
            DataError: wrong shape, NaN or infinite numbers, or k < 1.
        """
        state = self._state
        queries = np.array(vectors, dtype=np.float32, order="C")  # a copy: torch takes no read-only arrays
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise DataError(f"index: query vectors have shape {queries.shape}, expected [n, {self.dim}].")
        if not np.isfinite(queries).all():
            bad = int(np.flatnonzero(~np.isfinite(queries).all(axis=1))[0])
            raise DataError(f"index: query vector {bad} holds NaN or infinity; look at what encoded it.")
        if len(queries) and float(np.abs(queries).max()) * self.dim * state.largest_norm > LARGEST_SCORE:
            raise DataError("index: the query vectors are so large that their scores overflow; normalise them.")
        if k < 1:
            raise DataError(f"index: k is {k}, it must be at least 1.")
        return exact_top_k(state.store(), queries, k=k, kept=_kept(state, keep), arithmetic=self._config.arithmetic)

    def vectors(self, item_rows: NDArray[Any]) -> NDArray[np.float32]:
        """Return stored vectors as float32 ``[n, dim]``."""
        rows = np.asarray(item_rows, dtype=np.int64)
        _check_rows(rows, self._state)
        if len(rows) == 0:
            return np.empty((0, self.dim), np.float32)
        taken: NDArray[np.float32] = self._state.store().take(rows).numpy()
        return taken

    def add(self, vectors: NDArray[Any]) -> NDArray[np.int64]:
        """Append vectors ``[n, dim]`` in memory and return their rows; copies what was added before, not the rest.

        Raises:
            DataError: wrong shape, NaN, infinities or numbers too large for the format.
        """
        state = self._state
        new = _stored(vectors, number_format=self._config.stored_as)
        if new.shape[1] != self.dim:
            raise DataError(f"index: vectors to add have {new.shape[1]} numbers, the index has {self.dim}.")
        self._state = state._replace(
            added=np.concatenate([state.added, new]), largest_norm=max(state.largest_norm, _largest_norm(new))
        )
        return np.arange(state.num_rows, state.num_rows + len(new), dtype=np.int64)

    def remove(self, item_rows: NDArray[Any]) -> None:
        """Never return these rows again; the others keep their numbers, and `save` keeps the places.

        Raises:
            DataError: there is no such row.
        """
        rows = np.asarray(item_rows, dtype=np.int64)
        _check_rows(rows, self._state)
        self._state = self._state._replace(removed=np.union1d(self._state.removed, rows))

    def copy(self) -> Self:
        """Return an index that shares the stored vectors and can be changed on its own."""
        return type(self)(self._state, config=self._config)

    def save(self, folder: Path) -> None:
        """Write ``vectors.npy``, ``removed.npy`` and ``index.json``; may be the folder it was loaded from."""
        state = self._state
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / (VECTORS + ".partial")
        with partial.open("wb") as file:
            header = {"descr": state.mapped.dtype.str, "fortran_order": False, "shape": (state.num_rows, self.dim)}
            np.lib.format.write_array_header_1_0(file, header)
            for piece in (state.mapped, state.added):
                for start in range(0, len(piece), COPY_ROWS):
                    file.write(piece[start : start + COPY_ROWS].tobytes())
        np.save(folder / REMOVED, state.removed)
        os.replace(partial, folder / VECTORS)
        meta = {"config": self._config.dump(), "rows": state.num_rows, "dim": self.dim}
        write_json(folder / META, meta | {"largest_norm": state.largest_norm})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Open what `save` wrote, memory-mapped.

        Raises:
            ArtifactError: files are absent, or do not belong together.
        """
        absent = [name for name in (META, VECTORS, REMOVED) if not (folder / name).is_file()]
        if absent:
            raise ArtifactError(
                f"Index folder {str(folder)!r} has no {absent[0]}. Build the index again: triptych run."
            )
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        config = ExactConfig.parse(meta["config"])
        # copy-on-write: torch takes no read-only arrays, and nothing here writes
        mapped = np.load(folder / VECTORS, mmap_mode="c" if meta["rows"] else None, allow_pickle=False)
        if mapped.shape != (meta["rows"], meta["dim"]) or mapped.dtype != np.dtype(config.stored_as.value):
            raise ArtifactError(
                f"Index folder {str(folder)!r}: {VECTORS} holds {mapped.dtype} {list(mapped.shape)}, {META} says "
                f"{config.stored_as} [{meta['rows']}, {meta['dim']}]. Build the index again: triptych run."
            )
        removed = np.load(folder / REMOVED, allow_pickle=False)
        state = _State(mapped, np.empty((0, meta["dim"]), mapped.dtype), removed, meta["largest_norm"])
        return cls(state, config=config)


def _stored(vectors: NDArray[Any], *, number_format: NumberFormat) -> NDArray[Any]:
    """Convert to the stored format and refuse what cannot be compared."""
    given = np.asarray(vectors)
    if given.ndim != 2 or given.shape[1] == 0:
        raise DataError(f"index: vectors have shape {given.shape}, expected [items, dim].")
    with np.errstate(over="ignore"):  # too large for float16 becomes infinite, and is refused below
        stored = np.ascontiguousarray(given, dtype=number_format.value)
    for start in range(0, len(stored), COPY_ROWS):
        finite = np.isfinite(stored[start : start + COPY_ROWS]).all(axis=1)
        if not finite.all():
            row = start + int(np.flatnonzero(~finite)[0])
            raise DataError(f"index: vector {row} holds NaN, infinity or a number too large for {number_format}.")
    return stored if stored.flags.writeable else stored.copy()


def _largest_norm(vectors: NDArray[Any]) -> float:
    norms = [
        float(np.linalg.norm(vectors[start : start + COPY_ROWS].astype(np.float64), axis=1).max())
        for start in range(0, len(vectors), COPY_ROWS)
    ]
    return max(norms, default=0.0)


def _kept(state: _State, keep: NDArray[np.bool_] | None) -> NDArray[np.int64] | None:
    """Return the rows that may be returned, or None for all."""
    if keep is None and not len(state.removed):
        return None
    if keep is not None and (keep.shape != (state.num_rows,) or keep.dtype != np.bool_):
        raise DataError(f"index: keep is {keep.dtype} {keep.shape}, expected bool [{state.num_rows}].")
    kept = np.ones(state.num_rows, np.bool_) if keep is None else keep.copy()
    kept[state.removed] = False
    return None if kept.all() else np.flatnonzero(kept)


def _check_rows(rows: NDArray[np.int64], state: _State) -> None:
    wrong = rows[(rows < 0) | (rows >= state.num_rows)]
    if len(wrong):
        raise DataError(f"index: item row {wrong[0]} is outside 0..{state.num_rows - 1}.")
