"""Frozen codebooks: which code is nearest, level by level, and what the codes stand for.

The nearest code is the one of least distance in float64, the lower code where two are equally near. So a vector's
codes do not depend on what it is assigned together with: a matrix product in float32 only proposes, and wherever its
rounding could decide, the distances of those few candidates are computed one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

PAIR_NUMBERS = 1 << 22
"""Numbers of the candidates that are compared at a time."""
UNIT_ROUNDOFF = 2.0**-24


class Codebook(NamedTuple):
    """The vectors of one level, as `nearest` reads them."""

    vectors: NDArray[np.float32]
    """``[codes, dim]``."""
    half_norms: NDArray[np.float32]
    """``[codes]``, half their squared lengths; infinite for one that repeats a lower code, and is never nearest."""
    largest_norm: float
    """Length of the longest."""

    @classmethod
    def of(cls, vectors: NDArray[np.float32]) -> Self:
        """Prepare the vectors ``[codes, dim]`` of a level."""
        squares = np.square(vectors.astype(np.float64)).sum(axis=1)
        half_norms = (squares / 2).astype(np.float32)
        first = np.unique(vectors, axis=0, return_index=True)[1]
        repeats = np.ones(len(vectors), np.bool_)
        repeats[first] = False
        half_norms[repeats] = np.inf
        return cls(np.ascontiguousarray(vectors), half_norms, float(np.sqrt(squares.max())))


def nearest(vectors: NDArray[np.float32], *, codebook: Codebook) -> NDArray[np.int64]:
    """Return the nearest code of each vector, the lower of equally near ones.

    Args:
        vectors: ``[n, dim]``, finite.
        codebook: of the level.

    Returns:
        ``[n]``; of each vector the same, whatever it is asked together with.
    """
    if not len(vectors):
        return np.empty(0, np.int64)
    lengths = np.sqrt(np.square(vectors, dtype=np.float64).sum(axis=1))
    scores = codebook.half_norms - vectors @ codebook.vectors.T  # half the squared distance, less what all share
    best = scores.argmin(axis=1)
    # A float32 inner product is off by at most dim roundings of |x||e|; two of them are compared.
    bound = 2 * (vectors.shape[1] + 4) * UNIT_ROUNDOFF * codebook.largest_norm * (lengths + codebook.largest_norm)
    lowest = scores[np.arange(len(scores)), best]
    near = scores <= np.nextafter((lowest + bound).astype(np.float32), np.float32(np.inf))[:, None]
    unsure = np.flatnonzero(np.count_nonzero(near, axis=1) > 1)
    if len(unsure):
        best[unsure] = _decide(vectors[unsure], near[unsure], codebook=codebook)
    return best.astype(np.int64)


def _decide(vectors: NDArray[np.float32], candidates: NDArray[np.bool_], *, codebook: Codebook) -> NDArray[np.int64]:
    """Return the nearest of each vector's candidates ``[n, codes]`` by distances in float64."""
    rows, codes = np.nonzero(candidates)
    distances = np.empty(len(rows))
    size = max(1, PAIR_NUMBERS // vectors.shape[1])
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        gaps = vectors[rows[part]].astype(np.float64) - codebook.vectors[codes[part]]
        distances[part] = np.square(gaps).sum(axis=1)
    order = np.lexsort((codes, distances, rows))
    first = np.searchsorted(rows, np.arange(len(vectors)))  # rows ascend, before and after the sort
    return codes[order][first]


class Assigned(NamedTuple):
    """What residual assignment finds."""

    codes: NDArray[np.uint16]
    """``[n, levels]``."""
    residuals: NDArray[np.float32]
    """``[n, dim]``, what is left of the vectors after all levels."""


def assign(vectors: NDArray[np.float32], *, codebooks: Sequence[Codebook]) -> Assigned:
    """Take the nearest code of each level from what the levels before it have left.

    Args:
        vectors: ``[n, dim]``, finite.
        codebooks: of all levels.
    """
    codes = np.empty((len(vectors), len(codebooks)), np.uint16)
    residuals = vectors.copy()
    for level, codebook in enumerate(codebooks):
        chosen = nearest(residuals, codebook=codebook)
        codes[:, level] = chosen
        residuals -= codebook.vectors[chosen]
    return Assigned(codes, residuals)


def add_up(codes: NDArray[np.integer], *, codebooks: NDArray[np.float32]) -> NDArray[np.float32]:
    """Add up what codes stand for.

    Args:
        codes: ``[n, some]``, of the first levels, in order; may be fewer than there are levels.
        codebooks: ``[levels, codes, dim]``.

    Returns:
        ``[n, dim]``.
    """
    total = np.zeros((len(codes), codebooks.shape[2]), np.float32)
    for level in range(codes.shape[1]):
        total += codebooks[level][codes[:, level]]
    return total


def squared_distances(vectors: NDArray[np.float32], *, to: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the squared distances of vectors ``[..., n, dim]`` to vectors ``[codes, dim]``: ``[..., n, codes]``."""
    wide, codes = vectors.astype(np.float64), to.astype(np.float64)
    squares = np.square(wide).sum(axis=-1)[..., None] + np.square(codes).sum(axis=1)
    return np.maximum(squares - 2 * (wide @ codes.T), 0.0)
