"""What models behind an encoder read of it beside its items' vectors: of title and photo each, and of queries.

Title and photo are one vector each (`Stages.item_views`), or one for every word and every patch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.encoders import embeddings
from triptych.encoders import item_states as encoded_states
from triptych.encoders.base import Export
from triptych.encoders.embeddings import Modality, load_vectors, load_views
from triptych.encoders.inputs import View
from triptych.encoders.item_states import load_states
from triptych.foundation.artifact import Artifact
from triptych.pretrain.base import PretrainConfig
from triptych.recipes.stages import Stages, Trained

SIDES = (Modality.TITLE, Modality.PHOTO)


def item_states(
    own: Trained,
    *,
    wanted: Sequence[Modality],
    pretrain: PretrainConfig,
    stages: Stages,
    name: str,
    photo_rows: NDArray[np.int64] | None,
) -> Artifact:
    """Encode each item word by word and patch by patch, or open what was encoded before.

    Args:
        own: the encoder.
        wanted: title, photo, or both.
        pretrain: how it was trained.
        stages: of the run.
        name: of the row and seed, for the record.
        photo_rows: whose photo each item is shown ``[items]``; None: its own.

    Raises:
        ConfigError: the encoder does not read what is wanted, or there is no room for it.
    """
    features = stages.models_for(pretrain).features
    return stages.stage(
        "item_states",
        lambda out: encoded_states.run(
            encoder=own.encoder,
            catalogue=stages.catalogue,
            views=[View(one.value) for one in wanted],
            features=features,
            photo_rows=photo_rows,
            out=out,
        ),
        record=f"item states {name}",
    )


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
    wanted: Sequence[Modality], *, item_vectors: Artifact, views: Artifact | None, states: Artifact | None = None
) -> dict[str, NDArray[Any]]:
    """Open what a model reads of items: name → ``[items, dim]``, NaN where an item has no such side.

    Args:
        wanted: in the order in which the model has them.
        item_vectors: an ``embeddings`` artefact.
        views: an ``item_views`` artefact; None where no vectors of title or photo are wanted.
        states: an ``item_states`` artefact, for title and photo as ``[items, tokens, dim]``; None: as vectors.
    """
    found: dict[str, NDArray[Any]] = {Modality.ITEM.value: load_vectors(item_vectors)}
    if views is not None:
        found |= load_views(views)
    if states is not None:
        found |= load_states(states)
    return {name.value: found[name] for name in wanted}


def side_by_side(modalities: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """Join what items are made of: ``[items, dims together]``, unit vectors, zeros where an item has no such side."""
    parts = [np.nan_to_num(np.asarray(one, dtype=np.float32), nan=0.0) for one in modalities.values()]
    return np.concatenate([one / np.maximum(np.linalg.norm(one, axis=1, keepdims=True), 1e-6) for one in parts], axis=1)
