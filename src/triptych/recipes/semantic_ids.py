"""Semantic IDs in a run: those of an encoder's vectors of the items, and the control that gives them to other items."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.foundation.artifact import Artifact
from triptych.recipes.stages import Stages, Trained
from triptych.semantic_ids import fit
from triptych.semantic_ids.config import SemanticIdsConfig
from triptych.semantic_ids.stored import KIND, SemanticIds

SHUFFLE = 12
"""Sets apart what is drawn from a seed."""


def semantic_ids_of(own: Trained, *, config: SemanticIdsConfig, stages: Stages, name: str) -> Artifact:
    """Make the semantic IDs of an encoder's vectors, or open them; equal settings share them.

    Args:
        own: the encoder.
        config: of the quantiser.
        stages: of the run.
        name: of the row and seed, for the record.
    """
    return stages.stage(
        KIND,
        lambda out: fit.run(config, embeddings=own.embeddings, out=out, catalogue=stages.catalogue),
        record=f"semantic ids {name}",
    )


def codes_of(ids: Artifact, *, shuffled_by: int | None = None) -> NDArray[np.uint16]:
    """Return the ID of each item ``[items, levels]``.

    Args:
        ids: made by `semantic_ids_of`.
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
