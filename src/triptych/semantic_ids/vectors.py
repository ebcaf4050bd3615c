"""Vectors to be quantised, read from memory or a mapped file block by block, and checked as they are read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from triptych.foundation.errors import DataError

BLOCK_NUMBERS = 1 << 22
"""Numbers of the largest array that a block needs: 16 MiB in float32."""
LARGEST = 1e15
"""Bound on a number of a vector: below it, squared distances of any usual length are finite in float32."""


class Block(NamedTuple):
    """Neighbouring rows."""

    start: int
    """The first of them."""
    vectors: NDArray[np.float32]
    """``[rows, dim]``, a copy of their own."""

    @property
    def rows(self) -> slice:
        """Where they stand."""
        return slice(self.start, self.start + len(self.vectors))


def blocks(vectors: NDArray[Any], *, widest: int) -> Iterator[Block]:
    """Yield all vectors in order, as float32.

    Args:
        vectors: ``[n, dim]``, of any real type; may be memory-mapped.
        widest: numbers per row of the widest array that is made of a block; decides how many rows a block has.

    Raises:
        DataError: no matrix, or NaN, infinity or a number too large in a row; the first one is named.
    """
    check_shape(vectors)
    size = max(1, BLOCK_NUMBERS // max(widest, vectors.shape[1]))
    for start in range(0, len(vectors), size):
        yield Block(start, _checked(vectors[start : start + size], rows=np.arange(start, start + size)))


def take(vectors: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Gather rows as float32 ``[rows, dim]``.

    Args:
        vectors: ``[n, dim]``; may be memory-mapped.
        rows: ``[rows]``; ascending ones are read fastest.

    Raises:
        DataError: NaN, infinity or a number too large in one of them.
    """
    return _checked(vectors[rows], rows=rows)


def draw(
    vectors: NDArray[Any], *, of: NDArray[np.int64] | None, size: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Gather distinct rows that are drawn.

    Args:
        vectors: ``[n, dim]``; may be memory-mapped.
        of: rows that may be drawn, ascending; None: all.
        size: how many, at most.
        rng: draws.

    Returns:
        float32 ``[size, dim]`` or fewer, in the order of the rows.

    Raises:
        DataError: as of `take`.
    """
    found = sample_rows(len(vectors) if of is None else len(of), size=size, rng=rng)
    return take(vectors, found if of is None else of[found])


def sample_rows(num_rows: int, *, size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw distinct rows, ascending; all of them where there are no more than `size`."""
    if size >= num_rows:
        return np.arange(num_rows)
    return np.sort(rng.choice(num_rows, size, replace=False))


def check_shape(vectors: NDArray[Any], *, dim: int | None = None) -> None:
    """Refuse what is no matrix of real numbers, or has another width than `dim`.

    Raises:
        DataError: so it is.
    """
    if vectors.ndim != 2 or vectors.shape[1] == 0 or vectors.dtype.kind not in "fiu":
        raise DataError(
            f"semantic ids: the vectors are {vectors.dtype} {list(vectors.shape)}, expected real numbers [items, dim]."
        )
    if dim is not None and vectors.shape[1] != dim:
        raise DataError(
            f"semantic ids: the vectors have {vectors.shape[1]} numbers, the quantiser was fitted on {dim}. "
            "Encode them with the encoder that it was fitted on."
        )


def _checked(given: NDArray[Any], *, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # becomes infinite, and is refused
        found = np.array(given, dtype=np.float32, order="C")
    sound = (np.abs(found) <= LARGEST).all(axis=1)  # a NaN compares as False
    if not sound.all():
        bad = int(rows[np.flatnonzero(~sound)[0]])
        raise DataError(
            f"semantic ids: vector {bad} holds NaN, infinity or a number above {LARGEST:g}; look at what encoded it."
        )
    return found
