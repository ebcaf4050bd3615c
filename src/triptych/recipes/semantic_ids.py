"""Semantic IDs that models of a run read or say: the items' own, and the control that gives them to other items."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.foundation.artifact import Artifact
from triptych.semantic_ids.stored import SemanticIds

SHUFFLE = 12
"""Sets apart what is drawn from a seed."""


def codes_of(ids: Artifact, *, shuffled_by: int | None = None) -> NDArray[np.uint16]:
    """Return the ID of each item ``[items, levels]``.

    Args:
        ids: made by `Stages.semantic_ids`.
        shuffled_by: a seed; the items then change IDs among each other, so that as many share one as before and none
            says anything of its item: the random-id control.
    """
    codes: NDArray[np.uint16] = np.asarray(SemanticIds.open(ids).codes)
    if shuffled_by is None:
        return codes
    return codes[np.random.default_rng([shuffled_by, SHUFFLE]).permutation(len(codes))]


def said_by(ids: Artifact, *, shuffled_by: int | None = None) -> NDArray[Any]:
    """Return the vectors ``[items, dim]`` that the items' IDs stand for; arguments as of `codes_of`."""
    return SemanticIds.open(ids).reconstruct(codes_of(ids, shuffled_by=shuffled_by))
