"""What an encoder makes of a catalogue beside its items' vectors: of title and photo each, and of queries.

Title and photo are one vector each, or one for every word and every patch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.encoders import embeddings
from triptych.encoders import item_states as encoded_states
from triptych.encoders.base import Export
from triptych.encoders.embeddings import load_vectors, load_views
from triptych.encoders.inputs import View
from triptych.encoders.item_states import load_states
from triptych.foundation.artifact import Artifact
from triptych.foundation.errors import ConfigError
from triptych.pretrain.base import PretrainConfig
from triptych.recipes.stages import Stages, Trained


class Modality(StrEnum):
    """One of the vectors that an encoder makes of an item."""

    ITEM = "item"
    """Of title and photo together."""
    TITLE = "title"
    PHOTO = "photo"


SIDES = (Modality.TITLE, Modality.PHOTO)


def item_views(
    own: Trained, *, pretrain: PretrainConfig, stages: Stages, name: str, photo_rows: NDArray[np.int64] | None
) -> Artifact:
    """Encode title and photo of each item by themselves, or open what was encoded before.

    Args:
        own: the encoder.
        pretrain: how it was trained.
        stages: of the run.
        name: of the row and seed, for the record.
        photo_rows: whose photo each item is shown ``[items]``; None: its own.

    Raises:
        ConfigError: the encoder reads one of both alone.
    """
    read = pretrain.encoder.modalities
    if not (read.reads_title and read.reads_photo):
        raise ConfigError(f"{name}: an encoder of {read} has no vectors of title and photo each.")
    features = stages.models_for(pretrain).features
    return stages.stage(
        "item_views",
        lambda out: embeddings.run_views(
            encoder=own.encoder, catalogue=stages.catalogue, features=features, photo_rows=photo_rows, out=out
        ),
        record=f"item views {name}",
    )


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
        pretrain: as of `item_views`.
        stages: likewise.
        name: likewise.
        photo_rows: likewise.

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
