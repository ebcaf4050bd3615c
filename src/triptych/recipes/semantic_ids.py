"""Semantic IDs that models of a run read or say: the items' own, and the control that gives them to other items."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from triptych.encoders.embeddings import Modality
from triptych.foundation.artifact import Artifact
from triptych.ranker.config import RankTrainConfig
from triptych.ranker.content.semantic_ids import SemanticIdsContentConfig
from triptych.recipes.controls import Control
from triptych.semantic_ids.config import SemanticIdsConfig
from triptych.semantic_ids.stored import PARTS, SemanticIds


class SetsConfig(SemanticIdsConfig):
    """One set of semantic IDs, or several: each of another vector of the items, with codebooks of its own."""

    sets: tuple[Modality, ...] = Field((Modality.ITEM,), min_length=1)
    """What there are IDs of: item (title and photo together), title, photo. All are made in the same way. Their order
    has no effect."""

    @model_validator(mode="after")
    def _no_set_twice(self) -> Self:
        if len(set(self.sets)) != len(self.sets):
            raise ValueError("sets must not name one twice.")
        return self

    @property
    def in_order(self) -> tuple[Modality, ...]:
        """The sets in the order in which models read them."""
        return tuple(one for one in PARTS if one in self.sets)

    @property
    def reads_sides(self) -> bool:
        """Whether any is of a title or a photo alone."""
        return self.sets != (Modality.ITEM,)

    @property
    def of_one(self) -> SemanticIdsConfig:
        """How each of them is made."""
        return SemanticIdsConfig(**{name: getattr(self, name) for name in SemanticIdsConfig.model_fields})


def codes_of(ids: Artifact, *, control: Control, seed: int) -> NDArray[Any]:
    """Return the ID of each item ``[items, levels]``, -1 at every level of an item that has none.

    Args:
        ids: made by `Stages.semantic_ids`.
        control: whether they change IDs among each other.
        seed: draws it.
    """
    opened = SemanticIds.open(ids)
    codes: NDArray[Any] = np.asarray(opened.codes)
    if opened.there is not None:
        codes = np.where(opened.there[:, None], codes.astype(np.int64), -1)
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
