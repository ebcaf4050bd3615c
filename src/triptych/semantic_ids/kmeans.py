"""k-means of one level: plain by faiss, or balanced, where no cluster is larger than its share."""

from __future__ import annotations

import math
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from triptych.semantic_ids.matching import match_with_room

START_PER_CODE = 16
"""Vectors for each code that the first centres are drawn from, at most."""
MOST_START = 1 << 16


class Assignment(StrEnum):
    """Which cluster a vector belongs to while centres are learned."""

    PLAIN = "plain"
    """The nearest."""
    BALANCED = "balanced"
    """The nearest that has room: each takes its share of the vectors, rounded up, and no more."""


def cluster(
    vectors: NDArray[np.float32], *, codes: int, iterations: int, assignment: Assignment, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Learn the centres of one level.

    Where there are no more distinct vectors than centres wanted, these are the centres, and the rest repeat the first:
    such repeats are never nearest (`codebooks.Codebook`).

    Source: k-means++ start: Arthur and Vassilvitskii, 2007. Balanced: as in OneRec (Deng et al., 2025), whose clusters
    take their share one after the other; here all vectors ask at once (`matching`), so that no cluster is served before
    another.

    Args:
        vectors: ``[n, dim]``, finite.
        codes: centres.
        iterations: rounds of assignment and averaging.
        assignment: which cluster a vector belongs to.
        rng: of the start.

    Returns:
        ``[codes, dim]``.
    """
    distinct = _few_distinct(vectors, most=codes)
    if distinct is not None:
        return np.concatenate([distinct, np.repeat(distinct[:1], codes - len(distinct), axis=0)])
    size = min(len(vectors), max(codes, min(START_PER_CODE * codes, MOST_START)))
    start = first_centres(vectors[np.sort(rng.choice(len(vectors), size, replace=False))], codes=codes, rng=rng)
    if assignment is Assignment.BALANCED:
        return _balanced(vectors, start, iterations=iterations)
    return _plain(vectors, start, iterations=iterations, seed=int(rng.integers(2**31)))


def first_centres(vectors: NDArray[np.float32], *, codes: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw k-means++ centres: each vector with a probability proportional to its squared distance from those drawn.

    Args:
        vectors: ``[n, dim]``.
        codes: how many are drawn.
        rng: draws them.

    Returns:
        ``[codes, dim]``; some are equal where there are too few distinct vectors.
    """
    chosen = np.empty(codes, np.int64)
    chosen[0] = rng.integers(len(vectors))
    squares = np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)
    closest = np.full(len(vectors), np.inf)
    for place in range(1, codes):
        last = chosen[place - 1]
        gaps = squares + squares[last] - 2.0 * (vectors @ vectors[last])
        closest = np.minimum(closest, np.maximum(gaps, 0.0))
        closest[last] = 0.0
        steps = closest.cumsum()
        drawn = rng.random() * steps[-1]
        # nothing is left to draw from where all are as good as drawn: any will do, and k-means moves it
        chosen[place] = np.searchsorted(steps, drawn, side="right") if steps[-1] > 0 else rng.integers(len(vectors))
        chosen[place] = min(chosen[place], len(vectors) - 1)
    return vectors[chosen]


def _plain(
    vectors: NDArray[np.float32], start: NDArray[np.float32], *, iterations: int, seed: int
) -> NDArray[np.float32]:
    import faiss

    codes, dim = start.shape
    learner = faiss.Kmeans(
        dim, codes, niter=iterations, seed=seed, min_points_per_centroid=1, max_points_per_centroid=1 << 30
    )
    learner.train(vectors, init_centroids=start)
    return np.asarray(learner.centroids, np.float32).reshape(codes, dim)


def _balanced(vectors: NDArray[np.float32], centres: NDArray[np.float32], *, iterations: int) -> NDArray[np.float32]:
    room = math.ceil(len(vectors) / len(centres))
    before: NDArray[np.int64] | None = None
    for _ in range(iterations):
        codes = match_with_room(vectors, codebook=centres, room=room)
        if before is not None and np.array_equal(codes, before):
            break
        before, centres = codes, _means(vectors, codes, instead=centres)
    return centres


def _means(
    vectors: NDArray[np.float32], codes: NDArray[np.int64], *, instead: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Average the vectors of each code; of none, the old centre."""
    order = np.argsort(codes, kind="stable")
    present, starts = np.unique(codes[order], return_index=True)
    sums = np.add.reduceat(vectors[order], starts, axis=0, dtype=np.float64)
    means = instead.copy()
    means[present] = sums / np.diff(np.append(starts, len(codes)))[:, None]
    return means


def _few_distinct(vectors: NDArray[np.float32], *, most: int) -> NDArray[np.float32] | None:
    """Return the distinct vectors, sorted, where there are at most so many; else None."""
    if len(np.unique(vectors[: 4 * most], axis=0)) > most:
        return None
    distinct = np.unique(vectors, axis=0)
    return distinct if len(distinct) <= most else None
