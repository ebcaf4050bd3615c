"""Semantic IDs that models of a run read or say: the items' own, and the control that gives them to other items."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.foundation.artifact import Artifact
from triptych.ranker.config import RankTrainConfig
from triptych.ranker.content.semantic_ids import SemanticIdsContentConfig
from triptych.recipes.controls import Control
from triptych.semantic_ids.config import SemanticIdsConfig
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


def check_codes(ranker: RankTrainConfig, ids: SemanticIdsConfig | None) -> None:
    """Check that a ranker that reads semantic IDs has some, and knows as many codes as they have.

    Raises:
        ValueError: it has none, or knows others.
    """
    content = ranker.content
    if not content.reads_codes:
        return
    if ids is None:
        raise ValueError(f"ranker.content.kind = '{content.kind}' reads semantic IDs: set semantic_ids.")
    if isinstance(content, SemanticIdsContentConfig) and content.codes != ids.quantizer.codes:
        raise ValueError(
            f"ranker.content.codes is {content.codes} and semantic_ids.quantizer.codes is {ids.quantizer.codes}: set "
            "both to the same."
        )
