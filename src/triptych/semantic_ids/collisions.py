"""What is done about items whose codes are all the same.

Items that look and read alike should share an id, and an index can still tell them apart: keeping collisions is the
default. The other policies are for uses in which an id has to lead to one item, or to few.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from enum import StrEnum
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy.special import logsumexp

from triptych.foundation.config import Config
from triptych.foundation.errors import DataError
from triptych.metrics.codes import number_ids
from triptych.semantic_ids.base import Quantizer
from triptych.semantic_ids.codebooks import squared_distances
from triptych.semantic_ids.matching import match_with_room
from triptych.semantic_ids.vectors import take

CAP = 5
MOST_TOKENS = 1 << 16
EPSILON, ITERATIONS, ROUNDS = 0.003, 50, 20
"""LC-Rec's: of the plan's entropy, of its normalisation, of the search."""
PLAN_NUMBERS = 1 << 21
"""Numbers of the plans that are computed at a time."""


class Policy(StrEnum):
    """What is done about items whose codes are all the same."""

    KEEP = "keep"
    """Nothing."""
    EXTRA_TOKEN = "extra_token"  # noqa: S105
    """A further code numbers the items of an id, by item row from 0 (TIGER)."""
    SINKHORN_LAST_LEVEL = "sinkhorn_last_level"
    """Items that share an id are spread over the codes of the last level (LC-Rec)."""
    CAPPED = "capped"
    """An id keeps the nearest items, up to a number; the others take the nearest last code that has room (FORGE)."""


class CollisionsConfig(Config):
    """What is done about items whose codes are all the same."""

    policy: Policy = Policy.KEEP
    """keep; extra_token (a further code numbers the items of an id); sinkhorn_last_level (they are spread over the last
    level's codes); capped (an id keeps at most `cap` items, the others take the nearest last code with room)."""
    cap: int | None = Field(None, ge=1)
    """Items of an id, at most; only with policy = capped; 5 when not given."""

    @model_validator(mode="after")
    def _no_option_without_effect(self) -> Self:
        if self.cap is not None and self.policy is not Policy.CAPPED:
            raise ValueError(f"cap has no effect with policy = '{self.policy}'. Remove it, or set policy = 'capped'.")
        return self


def resolve(
    codes: NDArray[np.uint16],
    *,
    quantizer: Quantizer,
    vectors: NDArray[Any],
    config: CollisionsConfig,
    rows: NDArray[np.int64] | None = None,
) -> NDArray[np.uint16]:
    """Apply a policy to the codes of all items.

    Args:
        codes: ``[items, levels]``, as the quantiser assigned them; not changed.
        quantizer: assigned them.
        vectors: ``[items, dim]``, what they were assigned to.
        config: the policy.
        rows: of the items that it is about, ascending; None: all. The others keep their codes, and have no part in what
            becomes of these: their tokens, if there are any, come after.

    Returns:
        ``[items, levels]``, or one more with extra_token; only the last column differs from `codes`.

    Raises:
        DataError: the policy cannot be kept: too many items share an id, or its first levels.
    """
    if config.policy is Policy.EXTRA_TOKEN:
        return _with_token(codes, first=rows)
    own = slice(None) if rows is None else rows
    items = _Items(quantizer, vectors, codes[own].copy(), rows=rows)
    if config.policy is Policy.SINKHORN_LAST_LEVEL:
        items.spread()
    if config.policy is Policy.CAPPED:
        items.cap(config.cap or CAP)
    found = codes.copy()
    found[own] = items.codes
    return found


def sinkhorn_codes(distances: NDArray[np.float64]) -> NDArray[np.int64]:
    """Choose codes by an entropic transport plan that gives each item, and each code, its even share.

    Source: Zheng et al., "Adapting Large Language Models by Integrating Collaborative Semantics for Recommendation"
    (LC-Rec, 2023): distances are scaled to -1..1 over the items of a group, the plan's entropy weighs 0.003, and rows
    and columns are normalised in turn 50 times. Here in logarithms, so that nothing underflows.

    Args:
        distances: ``[groups, items, codes]``, squared.

    Returns:
        ``[groups, items]``, the code that gets most of each item, the lowest of equal ones.
    """
    largest = distances.max(axis=(1, 2), keepdims=True)
    middle = (largest + distances.min(axis=(1, 2), keepdims=True)) / 2
    plan = -(distances - middle) / (largest - middle + 1e-5) / EPSILON
    for _ in range(ITERATIONS):
        plan -= logsumexp(plan, axis=2, keepdims=True)
        plan -= logsumexp(plan, axis=1, keepdims=True)
    found: NDArray[np.int64] = plan.argmax(axis=2)
    return found


def _with_token(codes: NDArray[np.uint16], *, first: NDArray[np.int64] | None) -> NDArray[np.uint16]:
    numbers = number_ids(codes)
    later = np.zeros(len(codes), np.bool_)
    if first is not None:
        later[:] = True
        later[first] = False
    order = np.lexsort((later, numbers))  # stable: of those that share both, by row
    ordered = numbers[order]
    tokens = np.empty(len(codes), np.int64)
    tokens[order] = np.arange(len(codes)) - np.searchsorted(ordered, ordered)
    most = int(tokens.max(initial=0)) + 1
    if most > MOST_TOKENS:
        raise DataError(
            f"semantic ids: {most:,} items share an id, and a token tells {MOST_TOKENS:,} apart. Are their vectors all "
            "the same? Raise quantizer.codes, or set collisions.policy = 'keep'."
        )
    return np.concatenate([codes, tokens[:, None].astype(np.uint16)], axis=1)


class _Items:
    """Items whose last codes change."""

    def __init__(
        self,
        quantizer: Quantizer,
        vectors: NDArray[Any],
        codes: NDArray[np.uint16],
        *,
        rows: NDArray[np.int64] | None = None,
    ) -> None:
        self.codes = codes
        self._rows = rows  # of the vectors; None: as the codes
        self._quantizer = quantizer
        self._vectors = vectors
        self._last = quantizer.codebooks[-1]

    def spread(self) -> None:
        """Choose again, together, for the items of each shared id, until none is shared, nothing changes, or 20 times.

        Items with equal vectors are never told apart.
        """
        for _ in range(ROUNDS):
            before = self.codes[:, -1].copy()
            for groups in self._shared():
                left = self._left(groups.ravel()).reshape(*groups.shape, -1)
                self.codes[groups, -1] = sinkhorn_codes(squared_distances(left, to=self._last))
            if np.array_equal(before, self.codes[:, -1]):
                return

    def cap(self, cap: int) -> None:
        """Give the items of a prefix their nearest last codes with room, wherever one of its ids has too many."""
        prefixes, ids = number_ids(self.codes[:, :-1]), number_ids(self.codes)
        is_over = (np.bincount(ids) > cap)[ids]
        for rows in _groups(prefixes, only=np.unique(prefixes[is_over])):
            room = cap * len(self._last)
            if len(rows) > room:
                raise DataError(
                    f"semantic ids: {len(rows):,} items share all codes but the last, and with collisions.cap = {cap} "
                    f"there is room for {room:,}. Raise the cap, or quantizer.codes."
                )
            self.codes[rows, -1] = match_with_room(self._left(rows), codebook=self._last, room=cap)

    def _left(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return what the last level has to say of some items: ``[rows, code_dim]``."""
        vectors = take(self._vectors, rows if self._rows is None else self._rows[rows])
        residuals = self._quantizer.encode(vectors).copy()
        for level, codebook in enumerate(self._quantizer.codebooks[:-1]):  # in turn, as they were assigned
            residuals -= codebook[self.codes[rows, level]]
        return residuals

    def _shared(self) -> Iterator[NDArray[np.int64]]:
        """Yield the item rows of shared ids as ``[groups, items]``, ids of equally many items together."""
        ids = number_ids(self.codes)
        sizes = np.bincount(ids)
        order = np.argsort(ids, kind="stable")
        starts = np.cumsum(sizes) - sizes
        for size in np.unique(sizes[sizes > 1]):
            first = starts[sizes == size]
            together = max(1, PLAN_NUMBERS // (int(size) * len(self._last)))
            for part in np.array_split(first, math.ceil(len(first) / together)):
                yield order[part[:, None] + np.arange(size)]


def _groups(numbers: NDArray[np.int64], *, only: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Yield, for each of some numbers, the rows that have it, ascending."""
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]
    for number in only:
        start, end = np.searchsorted(ordered, [number, number + 1])
        yield order[start:end]
