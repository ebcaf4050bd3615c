"""The exact index: every item is compared with every query, and nothing is missed.

Vectors are memory-mapped (`triptych.index.stored`). A search needs a bounded working memory beside them (some 120 MiB,
see `triptych.index.top_k`). Up to some hundred thousand items this is fast enough to need nothing else;
`benchmarks/exact_search.py` has the figures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from triptych.foundation.types import Hits
from triptych.index.base import IndexConfig
from triptych.index.stored import NumberFormat, StoredVectors, read_meta
from triptych.index.top_k import Arithmetic, exact_top_k


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


class ExactIndex:
    """Exact search over vectors in memory or on disk; see `triptych.index.base.Index` for each method's meaning."""

    def __init__(self, stored: StoredVectors, *, config: ExactConfig) -> None:
        """Wrap vectors; use `build` or `load`."""
        self._stored = stored
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
        return cls(StoredVectors.of(vectors, number_format=config.stored_as), config=config)

    @property
    def config(self) -> ExactConfig:
        """Number format and arithmetic."""
        return self._config

    @property
    def num_rows(self) -> int:
        """Item rows, those of removed items included."""
        return self._stored.num_rows

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self._stored.dim

    @property
    def memory_bytes(self) -> int:
        """Bytes of the vectors, mapped or in memory."""
        return self._stored.memory_bytes

    def search(self, vectors: NDArray[np.float32], *, k: int, keep: NDArray[np.bool_] | None = None) -> Hits:
        """Return the k items of largest inner product for each vector, exact at ties.

        Args:
            vectors: ``[n, dim]``, finite.
            k: places per vector, at least 1.
            keep: ``[num_rows]``, which items may be returned. Unless nearly all may, only theirs are read.

        Returns:
            ``[n, k]``; a score is the float64 inner product with the stored vector, rounded to float32, and depends on
            nothing else.

        Raises:
            DataError: wrong shape, NaN or infinite numbers, or k < 1.
        """
        stored = self._stored
        queries, kept = stored.checked(vectors, k=k), stored.kept(keep)
        rows = None if kept is None else np.flatnonzero(kept)
        return exact_top_k(stored.store(), queries, k=k, kept=rows, arithmetic=self._config.arithmetic)

    def vectors(self, item_rows: NDArray[Any]) -> NDArray[np.float32]:
        """Return stored vectors as float32 ``[n, dim]``."""
        return self._stored.take(item_rows)

    def add(self, vectors: NDArray[Any]) -> NDArray[np.int64]:
        """Append vectors ``[n, dim]`` in memory and return their rows; copies what was added before, not the rest.

        Raises:
            DataError: wrong shape, NaN, infinities or numbers too large for the format.
        """
        before = self._stored
        self._stored = before.appended(vectors)
        return np.arange(before.num_rows, self._stored.num_rows, dtype=np.int64)

    def remove(self, item_rows: NDArray[Any]) -> None:
        """Never return these rows again; the others keep their numbers, and `save` keeps the places.

        Raises:
            DataError: there is no such row.
        """
        self._stored = self._stored.without(item_rows)

    def copy(self) -> Self:
        """Return an index that shares the stored vectors and can be changed on its own."""
        return type(self)(self._stored, config=self._config)

    def save(self, folder: Path) -> None:
        """Write ``vectors.npy``, ``removed.npy`` and ``index.json``; may be the folder it was loaded from."""
        self._stored.write(folder, about={"config": self._config.dump()})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Open what `save` wrote, memory-mapped.

        Raises:
            ArtifactError: files are absent, or do not belong together.
        """
        config = ExactConfig.parse(read_meta(folder)["config"])
        return cls(StoredVectors.open(folder), config=config)
