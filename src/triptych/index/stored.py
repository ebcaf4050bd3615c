"""The vectors every index stores: one state, replaced and never changed; what was asked is checked against it.

They lie in one ``.npy`` file, memory-mapped: opening reads nothing, and processes that serve the same index share its
pages. Rows added since lie in memory behind them; rows removed keep their numbers and are never returned.
"""

from __future__ import annotations

import json
import os
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray

from triptych.foundation.artifact import write_json
from triptych.foundation.errors import ArtifactError, DataError
from triptych.index.top_k import Store

VECTORS, REMOVED, META = "vectors.npy", "removed.npy", "index.json"
COPY_ROWS = 65_536
LARGEST_SCORE = 1e37
"""Bound on |query| |item|: below it, float32 and bfloat16 products are finite."""


class NumberFormat(StrEnum):
    """How a vector's numbers are stored."""

    FLOAT16 = "float16"
    FLOAT32 = "float32"


class StoredVectors(NamedTuple):
    """All vectors of an index at one moment; every method that changes something returns another."""

    mapped: NDArray[Any]
    """``[rows, dim]``, the vectors it was built or loaded with."""
    added: NDArray[Any]
    """``[rows, dim]``, those added since."""
    removed: NDArray[np.int64]
    """Rows never to be returned, ascending."""
    largest_norm: float
    """At least the L2 norm of every vector."""

    @classmethod
    def of(cls, vectors: NDArray[Any], *, number_format: NumberFormat) -> Self:
        """Store vectors held in memory; they are not copied where they have the format already.

        Args:
            vectors: ``[items, dim]``, one per item row.
            number_format: what they are converted to.

        Raises:
            DataError: the array is no matrix, or holds NaN, infinities or numbers too large for the format.
        """
        stored = _converted(vectors, number_format=number_format)
        return cls(stored, stored[:0], np.empty(0, np.int64), _largest_norm(stored))

    @property
    def num_rows(self) -> int:
        """Item rows, those of removed items included."""
        return len(self.mapped) + len(self.added)

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self.mapped.shape[1])

    @property
    def number_format(self) -> NumberFormat:
        """How numbers are stored."""
        return NumberFormat(self.mapped.dtype.name)

    @property
    def memory_bytes(self) -> int:
        """Bytes of the vectors, mapped or in memory."""
        return int(self.mapped.nbytes + self.added.nbytes)

    def store(self) -> Store:
        """Return the vectors as `top_k` reads them."""
        pieces = [torch.from_numpy(piece) for piece in (self.mapped, self.added) if len(piece)]
        return Store(pieces, self.largest_norm)

    def checked(self, vectors: NDArray[Any], *, k: int) -> NDArray[np.float32]:
        """Return query vectors as contiguous float32 ``[n, dim]`` of their own memory.

        Raises:
            DataError: wrong shape, NaN or infinite numbers, scores that would overflow, or k < 1.
        """
        queries = np.array(vectors, dtype=np.float32, order="C")  # a copy: torch takes no read-only arrays
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise DataError(f"index: query vectors have shape {queries.shape}, expected [n, {self.dim}].")
        if not np.isfinite(queries).all():
            bad = int(np.flatnonzero(~np.isfinite(queries).all(axis=1))[0])
            raise DataError(f"index: query vector {bad} holds NaN or infinity; look at what encoded it.")
        if len(queries) and float(np.abs(queries).max()) * self.dim * self.largest_norm > LARGEST_SCORE:
            raise DataError("index: the query vectors are so large that their scores overflow; normalise them.")
        if k < 1:
            raise DataError(f"index: k is {k}, it must be at least 1.")
        return queries

    def kept(self, keep: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
        """Return which rows may be returned ``[num_rows]``, or None for all.

        Raises:
            DataError: `keep` has another shape or type.
        """
        if keep is None and not len(self.removed):
            return None
        if keep is not None and (keep.shape != (self.num_rows,) or keep.dtype != np.bool_):
            raise DataError(f"index: keep is {keep.dtype} {keep.shape}, expected bool [{self.num_rows}].")
        kept = np.ones(self.num_rows, np.bool_) if keep is None else keep.copy()
        kept[self.removed] = False
        return None if kept.all() else kept

    def take(self, item_rows: NDArray[Any]) -> NDArray[np.float32]:
        """Gather vectors as float32 ``[n, dim]``.

        Raises:
            DataError: there is no such row.
        """
        rows = self._checked_rows(item_rows)
        if len(rows) == 0:
            return np.empty((0, self.dim), np.float32)
        taken: NDArray[np.float32] = self.store().take(rows).numpy()
        return taken

    def appended(self, vectors: NDArray[Any]) -> Self:
        """Return these vectors and more behind them; copies what was added before, not the rest.

        Raises:
            DataError: wrong shape, NaN, infinities or numbers too large for the format.
        """
        new = _converted(vectors, number_format=self.number_format)
        if new.shape[1] != self.dim:
            raise DataError(f"index: vectors to add have {new.shape[1]} numbers, the index has {self.dim}.")
        return self._replace(
            added=np.concatenate([self.added, new]), largest_norm=max(self.largest_norm, _largest_norm(new))
        )

    def without(self, item_rows: NDArray[Any]) -> Self:
        """Return these vectors with rows that are never returned again.

        Raises:
            DataError: there is no such row.
        """
        return self._replace(removed=np.union1d(self.removed, self._checked_rows(item_rows)))

    def write(self, folder: Path, *, about: dict[str, Any]) -> None:
        """Write ``vectors.npy``, ``removed.npy`` and ``index.json``; may be the folder they were loaded from.

        Args:
            folder: made if it is absent.
            about: what else ``index.json`` says: ``config``, and what the index must know of its other files.
        """
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / (VECTORS + ".partial")
        with partial.open("wb") as file:
            header = {"descr": self.mapped.dtype.str, "fortran_order": False, "shape": (self.num_rows, self.dim)}
            np.lib.format.write_array_header_1_0(file, header)
            for piece in (self.mapped, self.added):
                for start in range(0, len(piece), COPY_ROWS):
                    file.write(piece[start : start + COPY_ROWS].tobytes())
        np.save(folder / REMOVED, self.removed)
        os.replace(partial, folder / VECTORS)
        meta = {"rows": self.num_rows, "dim": self.dim, "number_format": self.number_format.value}
        write_json(folder / META, about | meta | {"largest_norm": self.largest_norm})

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open what `write` wrote, memory-mapped.

        Raises:
            ArtifactError: files are absent, or do not belong together.
        """
        meta = read_meta(folder)
        require_files(folder, VECTORS, REMOVED)
        # copy-on-write: torch takes no read-only arrays, and nothing here writes
        mapped = np.load(folder / VECTORS, mmap_mode="c" if meta["rows"] else None, allow_pickle=False)
        # written by a version that had the exact index only: its config says how numbers are stored
        number_format = meta.get("number_format") or meta["config"]["stored_as"]
        if mapped.shape != (meta["rows"], meta["dim"]) or mapped.dtype != np.dtype(number_format):
            raise ArtifactError(
                f"Index folder {str(folder)!r}: {VECTORS} holds {mapped.dtype} {list(mapped.shape)}, {META} says "
                f"{number_format} [{meta['rows']}, {meta['dim']}]. Build the index again: triptych run."
            )
        removed = np.load(folder / REMOVED, allow_pickle=False)
        return cls(mapped, np.empty((0, meta["dim"]), mapped.dtype), removed, meta["largest_norm"])

    def _checked_rows(self, item_rows: NDArray[Any]) -> NDArray[np.int64]:
        rows = np.asarray(item_rows, dtype=np.int64)
        wrong = rows[(rows < 0) | (rows >= self.num_rows)]
        if len(wrong):
            raise DataError(f"index: item row {wrong[0]} is outside 0..{self.num_rows - 1}.")
        return rows


def read_meta(folder: Path) -> dict[str, Any]:
    """Read ``index.json``: the config of the index, and what it says of its files.

    Raises:
        ArtifactError: there is none.
    """
    require_files(folder, META)
    return dict(json.loads((folder / META).read_text(encoding="utf-8")))


def require_files(folder: Path, *names: str) -> None:
    """Check that files of an index are there.

    Raises:
        ArtifactError: the first that is not.
    """
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        raise ArtifactError(f"Index folder {str(folder)!r} has no {absent[0]}. Build the index again: triptych run.")


def _converted(vectors: NDArray[Any], *, number_format: NumberFormat) -> NDArray[Any]:
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
