"""The ``embeddings`` artefact: one vector per item of a catalogue, as an encoder sees it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.data.catalogue import Catalogue
from triptych.encoders.embed import Embedder
from triptych.encoders.features import PhotoFeatures
from triptych.foundation.artifact import Artifact, produce

KIND = "embeddings"
VECTORS = "vectors.npy"


def run(
    *,
    encoder: Artifact,
    catalogue: Catalogue,
    out: Path,
    photo_rows: NDArray[np.integer] | None = None,
    features: Artifact | None = None,
) -> Artifact:
    """Encode every item of a catalogue, or open what was encoded before.

    Args:
        encoder: the encoder's artefact.
        catalogue: items and photos.
        out: the stage's folder.
        photo_rows: ``[items]``, the permutation the encoder was trained with (the permuted-photo control); None shows
            every item its own photo.
        features: of the catalogue's photos, by the encoder's frozen vision model; None has it look at them again.

    Returns:
        Artefact ``embeddings``: ``vectors.npy``, float16 ``[items, vector_dim]`` in item row order, L2-normalised.
    """

    def build(folder: Path) -> Mapping[str, Any]:
        seen = None if features is None else PhotoFeatures(features, photos=catalogue.photos)
        vectors = Embedder.open(encoder).embed_catalogue(catalogue, photo_rows=photo_rows, features=seen)
        np.save(folder / VECTORS, vectors)
        return {"items": len(vectors), "vector_dim": vectors.shape[1]}

    if features is not None:
        encoder.require_input("photo_features", features)
    inputs = {"encoder": encoder, "catalogue": catalogue.artifact}
    # The encoder's id covers the permutation; it is named again because it decides which photos are read here.
    return produce(out, kind=KIND, config={"permuted": photo_rows is not None}, inputs=inputs, build=build)


def load_vectors(embeddings: Artifact) -> NDArray[np.float16]:
    """Map the vectors ``[items, vector_dim]`` of an embeddings artefact."""
    vectors: NDArray[np.float16] = np.load(embeddings.file(VECTORS), mmap_mode="r", allow_pickle=False)
    return vectors
