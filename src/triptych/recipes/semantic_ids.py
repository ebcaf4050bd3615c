"""Semantic IDs that models of a run read or say: the items' own, and the control that gives them to other items."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.foundation.artifact import Artifact
from triptych.recipes.controls import Control
from triptych.semantic_ids.stored import SemanticIds


def codes_of(ids: Artifact, *, control: Control, seed: int) -> NDArray[np.uint16]:
    """Return the ID of each item ``[items, levels]``.

    Args:
        ids: made by `Stages.semantic_ids`.
        control: whether they change IDs among each other.
        seed: draws it.
    """
    codes: NDArray[np.uint16] = np.asarray(SemanticIds.open(ids).codes)
    rows = control.id_rows(len(codes), seed=seed)
    return codes if rows is None else codes[rows]


def said_by(ids: Artifact, *, control: Control, seed: int) -> NDArray[Any]:
    """Return the vectors ``[items, dim]`` that the items' IDs stand for; arguments as of `codes_of`."""
    return SemanticIds.open(ids).reconstruct(codes_of(ids, control=control, seed=seed))
