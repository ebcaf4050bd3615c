"""Nearest codes with room: no code is given to more vectors than it has room for."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from triptych.semantic_ids.codebooks import squared_distances
from triptych.semantic_ids.vectors import BLOCK_NUMBERS

SHORT_LIST = 32
"""Nearest codes that are kept of each vector at first, where there are too many pairs to keep all."""
ALL_PAIRS = 1 << 22


def match_with_room(vectors: NDArray[np.float32], *, codebook: NDArray[np.float32], room: int) -> NDArray[np.int64]:
    """Give every vector a code, and no code to more than `room` vectors.

    In rounds: each vector without a code asks the nearest code that has room, and a code that is asked by more than it
    has room for takes the nearest of them. Equal distances go by code, then by row.

    Args:
        vectors: ``[n, dim]``.
        codebook: ``[codes, dim]``; ``codes * room`` is at least n.
        room: vectors per code, at most.

    Returns:
        ``[n]``, codes.
    """
    num_codes = len(codebook)
    assert num_codes * room >= len(vectors), "there is room for all"
    length = num_codes if len(vectors) * num_codes <= ALL_PAIRS else min(num_codes, SHORT_LIST)
    lists = _Lists.of(vectors, codebook=codebook, length=length)
    asked = np.zeros(len(vectors), np.int64)  # place in its list that each vector has come to
    chosen = np.full(len(vectors), -1)
    left = np.full(num_codes, room)
    free = np.arange(len(vectors))
    while len(free):
        moving = free
        while len(moving):  # past the codes that are full
            if (asked[moving] >= lists.codes.shape[1]).any():
                lists = _Lists.of(vectors, codebook=codebook, length=min(num_codes, 4 * lists.codes.shape[1]))
            moving = moving[left[lists.codes[moving, asked[moving]]] == 0]
            asked[moving] += 1
        codes, distances = lists.codes[free, asked[free]], lists.distances[free, asked[free]]
        order = np.lexsort((free, distances, codes))
        codes, rows = codes[order], free[order]
        place = np.arange(len(rows)) - np.searchsorted(codes, codes)
        taken = place < left[codes]
        chosen[rows[taken]] = codes[taken]
        left -= np.bincount(codes[taken], minlength=num_codes)
        free = np.sort(rows[~taken])
    return chosen


class _Lists(NamedTuple):
    """Of each vector its nearest codes, nearest first."""

    codes: NDArray[np.int64]
    """``[n, length]``."""
    distances: NDArray[np.float64]
    """``[n, length]``, squared."""

    @classmethod
    def of(cls, vectors: NDArray[np.float32], *, codebook: NDArray[np.float32], length: int) -> _Lists:
        """Compute them in blocks, which are the same for every length: a longer list begins as a shorter one."""
        size = max(1, BLOCK_NUMBERS // len(codebook))
        codes = np.empty((len(vectors), length), np.int64)
        distances = np.empty((len(vectors), length))
        for start in range(0, len(vectors), size):
            block = squared_distances(vectors[start : start + size], to=codebook)
            if length < len(codebook):
                nearest = np.sort(np.argpartition(block, length - 1, axis=1)[:, :length], axis=1)
            else:
                nearest = np.broadcast_to(np.arange(length), block.shape)
            found = np.take_along_axis(block, nearest, axis=1)
            order = np.argsort(found, axis=1, kind="stable")
            codes[start : start + size] = np.take_along_axis(nearest, order, axis=1)
            distances[start : start + size] = np.take_along_axis(found, order, axis=1)
        return cls(codes, distances)
