"""What models behind an encoder read of it beside its items' vectors: those of title and photo alone, of queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.encoders import embeddings
from triptych.encoders.base import Export
from triptych.encoders.embeddings import Modality, load_vectors, load_views
from triptych.foundation.artifact import Artifact
from triptych.recipes.stages import Stages, Trained

SIDES = (Modality.TITLE, Modality.PHOTO)


def query_vectors(own: Trained, *, stages: Stages, name: str, export: Export | None = None) -> Artifact:
    """Encode the catalogue's queries, or open what was encoded before.

    Args:
        own: the encoder.
        stages: of the run.
        name: of the row and seed, for the record.
        export: which vector stands for a query; None: that of the encoder's config.
    """
    return stages.stage(
        "query_embeddings",
        lambda out: embeddings.run_queries(encoder=own.encoder, catalogue=stages.catalogue, out=out, export=export),
        record=f"query embeddings {name}",
    )


def of_modalities(
    wanted: Sequence[Modality], *, item_vectors: Artifact, views: Artifact | None
) -> dict[str, NDArray[Any]]:
    """Open the vectors that a model reads: name → ``[items, dim]``, NaN where an item has no such side.

    Args:
        wanted: in the order in which the model has them.
        item_vectors: an ``embeddings`` artefact.
        views: an ``item_views`` artefact; None where neither title nor photo is wanted.
    """
    found: dict[str, NDArray[Any]] = {Modality.ITEM.value: load_vectors(item_vectors)}
    if views is not None:
        found |= load_views(views)
    return {name.value: found[name] for name in wanted}


def side_by_side(modalities: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """Join what items are made of: ``[items, dims together]``, unit vectors, zeros where an item has no such side."""
    parts = [np.nan_to_num(np.asarray(one, dtype=np.float32), nan=0.0) for one in modalities.values()]
    return np.concatenate([one / np.maximum(np.linalg.norm(one, axis=1, keepdims=True), 1e-6) for one in parts], axis=1)
