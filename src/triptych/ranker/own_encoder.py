"""The encoder that a ranker has trained as its own: what it begins from, its files, and the same in use.

    encoder/              its weights (low-rank factors added in), config and tokenizer
    item_vectors/         item.npy, title.npy, photo.npy: float16 [items, dim] of the catalogue, as it sees them; of a
                          ranker that reads words and patches, those of title and photo [items, tokens, dim]

Answers read the vectors, so they take no pass through the encoder; only an item that has come since takes one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.data.catalogue import Catalogue
from triptych.encoders.catalogue_inputs import CatalogueInputs
from triptych.encoders.embed import Embedder
from triptych.encoders.embeddings import encode_views
from triptych.encoders.inputs import View
from triptych.encoders.item_states import encode_states, write_states
from triptych.foundation.artifact import Artifact
from triptych.foundation.errors import ArtifactError, ConfigError
from triptych.nn.low_rank import merged
from triptych.ranker.features import Looks

ENCODER, VECTORS = "encoder", "item_vectors"
"""Folders of the ranker's artefact."""


@dataclass(frozen=True)
class EncoderStart:
    """An encoder that a ranker is to train on as its own."""

    artifact: Artifact
    """Kind ``encoder``, of the same catalogue's tokenizer and photo size; its weights are what training begins with."""
    views: Sequence[View]
    """Which of its vectors an item is made of: item, title, photo."""
    features: Artifact | None = None
    """What its frozen vision model sees in the catalogue's photos; None has it look at them each time."""
    photo_rows: NDArray[np.integer] | None = None
    """``[items]``, for the permuted-photo control, as of `CatalogueInputs`."""
    content_rows: NDArray[np.integer] | None = None
    """``[items]``, for the permuted-content control, as of `CatalogueInputs`."""

    def open(self, *, states: bool = False) -> Embedder:
        """Open the encoder.

        Args:
            states: whether title and photo are the states of words and patches (`CatalogueInputs.state_shapes` sees
                that there are such).

        Raises:
            ConfigError: there are no views, or the encoder has no such vectors.
        """
        embedder = Embedder.open(self.artifact, device="cpu")
        if not self.views:
            raise ConfigError("modalities: a ranker that trains its encoder is told which of its vectors to read.")
        reads = embedder.modalities
        if not states and set(self.views) != {View.ITEM} and not (reads.reads_title and reads.reads_photo):
            raise ConfigError(f"modalities: an encoder of {reads} has no vectors of title and photo each, only 'item'.")
        return embedder

    def inputs(self, catalogue: Catalogue, *, embedder: Embedder) -> CatalogueInputs:
        """Gather what it is shown of a catalogue."""
        return CatalogueInputs(
            catalogue,
            embedder=embedder,
            features=self.features,
            photo_rows=self.photo_rows,
            content_rows=self.content_rows,
        )


def write_encoder(folder: Path, *, embedder: Embedder, looks: Looks, items: int) -> None:
    """Write an encoder into a ranker's folder, and what it makes of every item.

    Args:
        folder: of the ranker.
        embedder: the encoder as training has left it.
        looks: how the catalogue's items look to it.
        items: of the catalogue.

    Raises:
        ConfigError: there is no room for the states of words and patches.
    """
    (folder / VECTORS).mkdir(exist_ok=True)
    if looks.states:
        write_states(folder / VECTORS, inputs=looks.inputs, embedder=embedder, views=looks.views, items=items)
    else:
        rows = np.arange(items)
        found = looks.inputs.embed(embedder, views=looks.views, item_rows=rows, label="encoding items")
        for name, vectors in found.items():
            np.save(folder / VECTORS / f"{name}.npy", vectors)
    plain = merged(embedder.encoder).cpu()
    Embedder(plain, tokenizer=embedder.tokenizer, device="cpu").save(folder / ENCODER)


class OwnEncoder:
    """A ranker's own encoder in use."""

    def __init__(self, folder: Path, *, device: str = "cpu") -> None:
        """Find the files.

        Args:
            folder: of the ranker.
            device: of what is encoded.

        Raises:
            ArtifactError: there are none.
        """
        self._folder, self._device = folder / ENCODER, device
        files = sorted((folder / VECTORS).glob("*.npy"))
        if not files or not self._folder.is_dir():
            raise ArtifactError(f"Ranker {str(folder)!r} has trained an encoder, and lacks it. Train it again.")
        self.vectors: dict[str, NDArray[Any]] = {
            file.stem: np.load(file, mmap_mode="r", allow_pickle=False) for file in files
        }
        """Of the catalogue's items: view → ``[items, dim]``, or ``[items, tokens, dim]`` of words and patches, NaN
        where there is no such side."""

    @staticmethod
    def is_in(folder: Path) -> bool:
        """Whether the ranker in a folder has one."""
        return (folder / VECTORS).is_dir()

    @cached_property
    def embedder(self) -> Embedder:
        """The encoder; opened when something is first encoded."""
        return Embedder.load(self._folder, device=self._device)

    def encode(
        self, titles: Sequence[str | None], *, pixels: NDArray[np.uint8], has_photo: NDArray[np.bool_]
    ) -> dict[str, NDArray[np.float32]]:
        """Encode items that are not of the catalogue; the result is what `Ranker.with_items` asks for.

        Args:
            titles: with the encoder's title features appended; None or empty where there is none.
            pixels: uint8 RGB ``[n, px, px, 3]``, anything where an item has no photo.
            has_photo: bool ``[n]``.
        """
        views = [View(name) for name in self.vectors]
        encode = encode_states if any(one.ndim == 3 for one in self.vectors.values()) else encode_views
        return encode(titles, pixels=pixels, has_photo=has_photo, embedder=self.embedder, views=views)
