"""The ``item_states`` artefact: the states of each item's words and patches, as an encoder's last layer has them.

For what reads an item token by token, such as EM3's Fusion-Q-Former; the vectors of title and photo, one of each, are
`embeddings.run_views`. They take as much room as the longest title asks for, of every item, and are read from the disk.
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from triptych.data.catalogue import Catalogue
from triptych.encoders.catalogue_inputs import CatalogueInputs
from triptych.encoders.embed import SMALL_REQUEST, Embedder
from triptych.encoders.inputs import ItemInputs, View
from triptych.encoders.text import text_tensor
from triptych.foundation.artifact import Artifact, produce
from triptych.foundation.errors import ConfigError

log = logging.getLogger(__name__)

KIND = "item_states"


def run(
    *,
    encoder: Artifact,
    catalogue: Catalogue,
    views: Collection[View],
    out: Path,
    photo_rows: NDArray[np.integer] | None = None,
    features: Artifact | None = None,
) -> Artifact:
    """Encode every item of a catalogue token by token, or open what was encoded before.

    What it will take on the disk is logged before it begins.

    Args:
        encoder: the encoder's artefact.
        catalogue: items and photos.
        views: title, photo, or both.
        out: the stage's folder.
        photo_rows: ``[items]``, the permutation the encoder was trained with (the permuted-photo control); None shows
            every item its own photo.
        features: of the catalogue's photos, by the encoder's frozen vision model; None has it look at them again.

    Returns:
        Artefact ``item_states``: ``title.npy`` (words) and ``photo.npy`` (patches, row by row from the top left), as
        far as they are asked for, float16 ``[items, tokens, dim]`` in item row order, NaN behind the end of a title
        and where an item has no such side.

    Raises:
        ConfigError: the encoder reads no such side, or there is no room for it.
    """

    def build(folder: Path) -> Mapping[str, Any]:
        embedder = Embedder.open(encoder)
        inputs = CatalogueInputs(catalogue, embedder=embedder, features=features, photo_rows=photo_rows)
        return write_states(folder, inputs=inputs, embedder=embedder, views=views, items=catalogue.num_items)

    if features is not None:
        encoder.require_input("photo_features", features)
    inputs = {"encoder": encoder, "catalogue": catalogue.artifact}
    config = {"views": sorted(view.value for view in views), **({} if photo_rows is None else {"permuted": True})}
    return produce(out, kind=KIND, config=config, inputs=inputs, build=build)


def load_states(item_states: Artifact) -> dict[str, NDArray[np.float16]]:
    """Map what an ``item_states`` artefact has: side → ``[items, tokens, dim]``, NaN where there is nothing."""
    names = (view for view in (View.TITLE, View.PHOTO) if item_states.config["views"].count(view.value))
    return {view.value: np.load(item_states.file(f"{view}.npy"), mmap_mode="r", allow_pickle=False) for view in names}


def encode_states(
    titles: Sequence[str | None],
    *,
    pixels: NDArray[np.uint8],
    has_photo: NDArray[np.bool_],
    embedder: Embedder,
    views: Collection[View],
) -> dict[str, NDArray[np.float32]]:
    """Encode some items token by token, as `run` does a catalogue's, with ``item`` their vector where it is asked for.

    Args:
        titles: ``[n]``, with the encoder's `title_features` appended; None or empty: there is none.
        pixels: uint8 RGB ``[n, px, px, 3]``, anything where an item has no photo.
        has_photo: bool ``[n]``.
        embedder: the encoder.
        views: item, title, photo, as far as the encoder reads them.

    Returns:
        ``item``: ``[n, vector_dim]``; a side: ``[n, tokens, dim]``, as many as the longest of these has, at least one.
    """
    reads, config = embedder.modalities, embedder.encoder.config
    tokens = embedder.tokenizer.encode([title or "" for title in titles], max_tokens=config.max_title_tokens)
    there = np.asarray(has_photo, dtype=np.bool_)
    items = ItemInputs(
        title_tokens=text_tensor(tokens) if reads.reads_title else None,
        pixels=torch.from_numpy(pixels) if reads.reads_photo and there.any() else None,
        has_title=torch.tensor([bool(title) for title in titles]),
        has_photo=torch.from_numpy(there),
    )
    found = embedder.states(items, bulk=len(titles) > SMALL_REQUEST)
    nothing = np.full((len(titles), 1, config.dim), np.nan, dtype=np.float32)
    return {view.value: found.get(view, nothing) for view in views}


def write_states(
    folder: Path, *, inputs: CatalogueInputs, embedder: Embedder, views: Collection[View], items: int
) -> dict[str, Any]:
    """Encode a catalogue token by token, block by block, into ``VIEW.npy`` of a folder.

    Args:
        folder: where to.
        inputs: of the catalogue.
        embedder: the encoder.
        views: title and photo as `run` has them; item: the vectors, ``[items, vector_dim]``.
        items: of the catalogue.

    Returns:
        How many items, tokens of each side, numbers a token, and bytes there are.

    Raises:
        ConfigError: the encoder reads no such side, there is no room, or float16 does not hold what it says.
    """
    shapes = inputs.state_shapes(views)
    num_bytes = sum(2 * items * math.prod(shape) for shape in shapes.values())
    sides = {view: shape for view, shape in shapes.items() if view is not View.ITEM}
    counts = ", ".join(f"{shape[0]} of the {view}" for view, shape in sides.items())
    log.info("token states of %s items, %s each: %.2f GB on the disk", f"{items:,}", counts, num_bytes / 1e9)
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise ConfigError(
            f"The items' token states take {num_bytes / 1e9:,.1f} GB ({counts}), and {free / 1e9:,.1f} GB are free in "
            f"{str(folder)!r}. Choose a folder with more room, a shorter max_title_tokens of the encoder, or "
            "content.tokens = 'vectors'."
        )
    files = {
        view: open_memmap(folder / f"{view}.npy", mode="w+", dtype=np.float16, shape=(items, *shape))
        for view, shape in shapes.items()
    }
    rows = np.arange(items)
    for places, found in inputs.state_blocks(embedder, views=views, item_rows=rows, label="encoding words and patches"):
        for view, values in found.items():
            if np.abs(np.nan_to_num(values)).max(initial=0) > np.finfo(np.float16).max:
                raise ConfigError(f"The encoder gives states of the {view} that no float16 holds.")
            files[view][places] = values.astype(np.float16)
    for file in files.values():
        file.flush()
    return {
        "items": items,
        "tokens": {view.value: shape[0] for view, shape in sides.items()},
        "dim": {view.value: shape[-1] for view, shape in shapes.items()},
        "bytes": num_bytes,
    }
