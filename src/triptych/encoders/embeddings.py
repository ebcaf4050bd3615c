"""The ``embeddings`` artefacts: one vector per item, or per query, of a catalogue, as an encoder sees it.

An ``item_views`` artefact has the vectors of title and photo alone beside them, for what fuses an item's sides itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.data.catalogue import Catalogue
from triptych.data.text import item_texts
from triptych.encoders.base import Export
from triptych.encoders.embed import Embedder, OtherPixels
from triptych.encoders.features import PhotoFeatures
from triptych.encoders.inputs import View
from triptych.foundation.artifact import Artifact, produce

KIND, QUERY_KIND, VIEWS_KIND = "embeddings", "query_embeddings", "item_views"
VECTORS = "vectors.npy"
SIDES = (View.TITLE, View.PHOTO)
"""What an ``item_views`` artefact has of each item: a file for each."""


class Modality(StrEnum):
    """One of the vectors that an encoder makes of an item."""

    ITEM = "item"
    """Of title and photo together."""
    TITLE = "title"
    PHOTO = "photo"


def run(
    *,
    encoder: Artifact,
    catalogue: Catalogue,
    out: Path,
    photo_rows: NDArray[np.integer] | None = None,
    features: Artifact | None = None,
    export: Export | None = None,
) -> Artifact:
    """Encode every item of a catalogue, or open what was encoded before.

    Args:
        encoder: the encoder's artefact.
        catalogue: items and photos.
        out: the stage's folder.
        photo_rows: ``[items]``, the permutation the encoder was trained with (the permuted-photo control); None shows
            every item its own photo.
        features: of the catalogue's photos, by the encoder's frozen vision model; None has it look at them again.
        export: which vector stands for an item; None: that of the encoder's config.

    Returns:
        Artefact ``embeddings``: ``vectors.npy``, float16 ``[items, vector_dim]`` in item row order, L2-normalised.
    """

    def build(folder: Path) -> Mapping[str, Any]:
        seen = None if features is None else PhotoFeatures(features, photos=catalogue.photos)
        vectors = Embedder.open(encoder, export=export).embed_catalogue(catalogue, photo_rows=photo_rows, features=seen)
        np.save(folder / VECTORS, vectors)
        return {"items": len(vectors), "vector_dim": vectors.shape[1]}

    if features is not None:
        encoder.require_input("photo_features", features)
    inputs = {"encoder": encoder, "catalogue": catalogue.artifact}
    # The encoder's id covers the permutation; it is named again because it decides which photos are read here.
    config = {"permuted": photo_rows is not None, **_exported(export)}
    return produce(out, kind=KIND, config=config, inputs=inputs, build=build)


def run_queries(*, encoder: Artifact, catalogue: Catalogue, out: Path, export: Export | None = None) -> Artifact:
    """Encode every query of a catalogue, or open what was encoded before.

    Args:
        encoder: the encoder's artefact.
        catalogue: whose queries.
        out: the stage's folder.
        export: which vector stands for a query; None: that of the encoder's config.

    Returns:
        Artefact ``query_embeddings``: ``vectors.npy``, float16 ``[queries, vector_dim]`` in query row order.
    """

    def build(folder: Path) -> Mapping[str, Any]:
        vectors = Embedder.open(encoder, export=export).queries(catalogue.queries)
        np.save(folder / VECTORS, vectors.astype(np.float16))
        return {"queries": len(vectors), "vector_dim": vectors.shape[1]}

    inputs = {"encoder": encoder, "catalogue": catalogue.artifact}
    return produce(out, kind=QUERY_KIND, config=_exported(export), inputs=inputs, build=build)


def run_views(
    *,
    encoder: Artifact,
    catalogue: Catalogue,
    out: Path,
    photo_rows: NDArray[np.integer] | None = None,
    features: Artifact | None = None,
) -> Artifact:
    """Encode title and photo of every item of a catalogue by themselves, or open what was encoded before.

    Args:
        encoder: the encoder's artefact; it reads both.
        catalogue: items and photos.
        out: the stage's folder.
        photo_rows: as of `run`.
        features: as of `run`.

    Returns:
        Artefact ``item_views``: ``title.npy`` and ``photo.npy``, float16 ``[items, vector_dim]`` in item row order,
        L2-normalised, NaN where an item has no such side.
    """

    def build(folder: Path) -> Mapping[str, Any]:
        seen = None if features is None else PhotoFeatures(features, photos=catalogue.photos)
        embedder = Embedder.open(encoder)
        found = embedder.embed_views(catalogue, views=SIDES, photo_rows=photo_rows, features=seen)
        there = items_with(catalogue, title_features=embedder.title_features)
        for view in SIDES:
            is_there = there[Modality(view.value)]
            np.save(folder / f"{view}.npy", np.where(is_there[:, None], found[view], np.float16(np.nan)))
        return {"items": catalogue.num_items, "vector_dim": found[SIDES[0]].shape[1]}

    if features is not None:
        encoder.require_input("photo_features", features)
    inputs = {"encoder": encoder, "catalogue": catalogue.artifact}
    config = {"views": [view.value for view in SIDES], **({} if photo_rows is None else {"permuted": True})}
    return produce(out, kind=VIEWS_KIND, config=config, inputs=inputs, build=build)


def load_views(item_views: Artifact) -> dict[str, NDArray[np.float16]]:
    """Map the vectors of an ``item_views`` artefact: side → ``[items, vector_dim]``, NaN where there is none."""
    return {view.value: np.load(item_views.file(f"{view}.npy"), mmap_mode="r", allow_pickle=False) for view in SIDES}


def encode_views(
    titles: Sequence[str | None],
    *,
    pixels: NDArray[np.uint8],
    has_photo: NDArray[np.bool_],
    embedder: Embedder,
    views: Collection[View] = SIDES,
    others: OtherPixels | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Encode title and photo of some items by themselves, as `run_views` does a catalogue's; or other `views`."""
    found = embedder.item_views(titles, views=views, pixels=pixels, has_photo=has_photo, others=others)
    for view, is_there in zip(SIDES, _sides(titles, has_photo), strict=True):
        if view in found:
            found[view][~is_there] = np.nan
    return {view.value: vectors for view, vectors in found.items()}


def encode_titles(titles: Sequence[str | None], *, embedder: Embedder) -> NDArray[np.float32]:
    """Encode titles by themselves, as `run_views` does a catalogue's: ``[n, vector_dim]``, NaN where there is none.

    Args:
        titles: ``[n]``, with the encoder's `title_features` appended; None or empty: there is none.
        embedder: the encoder.
    """
    vectors = np.full((len(titles), embedder.vector_dim), np.nan, dtype=np.float32)
    there = [place for place, title in enumerate(titles) if title]
    if there:
        found = embedder.item_views([titles[place] for place in there], views=(View.TITLE,))
        vectors[there] = found[View.TITLE]
    return vectors


def items_with(catalogue: Catalogue, *, title_features: Sequence[str] = ()) -> dict[Modality, NDArray[np.bool_]]:
    """Say which items of a catalogue ``[items]`` have a vector of each kind: all of the whole, some of a side."""
    titles, photos = _sides(item_texts(catalogue, features=tuple(title_features)), catalogue.photos.has)
    return {Modality.ITEM: np.ones(catalogue.num_items, np.bool_), Modality.TITLE: titles, Modality.PHOTO: photos}


def load_vectors(embeddings: Artifact) -> NDArray[np.float16]:
    """Map the vectors ``[items or queries, vector_dim]`` of an embeddings artefact."""
    vectors: NDArray[np.float16] = np.load(embeddings.file(VECTORS), mmap_mode="r", allow_pickle=False)
    return vectors


def _sides(titles: Sequence[str | None], has_photo: NDArray[Any]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Say which items have a title, and which a photo."""
    return np.array([bool(title) for title in titles], dtype=np.bool_), np.asarray(has_photo, dtype=np.bool_)


def _exported(export: Export | None) -> dict[str, str]:
    return {} if export is None else {"export": export.value}
