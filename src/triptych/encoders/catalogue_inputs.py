"""What an encoder is shown of a catalogue's items: gathered for some of them, or encoded by the encoder as it is.

For what trains an encoder behind something else, such as a ranker; pretraining, which varies and hides parts of items,
has a reader of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import nullcontext

import numpy as np
import torch
from numpy.typing import NDArray

from triptych.data.catalogue import Catalogue
from triptych.data.text import PAD, item_texts
from triptych.encoders.embed import Embedder
from triptych.encoders.features import PhotoFeatures
from triptych.encoders.inputs import ItemInputs, OtherPhotos, View
from triptych.encoders.text import text_tensor
from triptych.foundation.artifact import Artifact
from triptych.foundation.errors import ConfigError
from triptych.foundation.progress import Progress

STATES_AT_ONCE = 16_384
"""Token states of a block of items."""


class CatalogueInputs:
    """A catalogue's items as one encoder reads them."""

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        embedder: Embedder,
        features: Artifact | None = None,
        photo_rows: NDArray[np.integer] | None = None,
        content_rows: NDArray[np.integer] | None = None,
    ) -> None:
        """Tokenise all titles once.

        Args:
            catalogue: items and photos.
            embedder: the encoder with its tokenizer; what its weights are does not matter here.
            features: of the photos, by the encoder's frozen vision model; None has it look at them each time.
            photo_rows: ``[items]``, the permuted-photo control: item i is shown the photo of item ``photo_rows[i]``.
                None: its own.
            content_rows: ``[items]``, the permuted-content control: of item i, all is shown of item
                ``content_rows[i]``. None: its own.

        Raises:
            ConfigError: the catalogue's photos have another size than the encoder takes.
        """
        self._reads, self._photos_read = embedder.modalities, embedder.photos
        if self._reads.reads_photo and catalogue.photos.px != embedder.px:
            raise ConfigError(
                f"The encoder takes photos of {embedder.px} px, but the catalogue's are {catalogue.photos.px} px wide. "
                "Train it on this catalogue."
            )
        self.vector_dim = embedder.vector_dim
        """Length of the encoder's vectors."""
        self._catalogue = catalogue
        own = np.arange(catalogue.num_items)
        self._photo_rows = own if photo_rows is None else np.asarray(photo_rows, dtype=np.int64)
        self._content_rows = own if content_rows is None else np.asarray(content_rows, dtype=np.int64)
        self._features = None if features is None else PhotoFeatures(features, photos=catalogue.photos)
        texts = item_texts(catalogue, features=embedder.title_features)
        self._has_title = np.array([bool(text) for text in texts], dtype=np.bool_)
        self._has_photo = np.asarray(catalogue.photos.has)[self._photo_rows]
        self._tokens = (
            embedder.tokenizer.encode(texts, max_tokens=embedder.encoder.config.max_title_tokens)
            if self._reads.reads_title
            else None
        )
        lengths = np.zeros(len(texts), int) if self._tokens is None else (self._tokens != PAD).sum(axis=1)
        self._num_states = embedder.encoder.num_states(title_tokens=int(lengths.max(initial=0)))
        self._state_dim, self._title_tokens = embedder.encoder.config.dim, lengths

    def state_shapes(self, views: Collection[View]) -> dict[View, tuple[int, ...]]:
        """Say what each item has where title and photo are the states of words and patches (`state_blocks`).

        Args:
            views: item, title, photo.

        Returns:
            View → ``(vector_dim,)`` of the item, ``(tokens, dim)`` of a side: as many as the longest has.

        Raises:
            ConfigError: the encoder reads no such side.
        """
        for view in views:
            if view is not View.ITEM and view not in self._num_states:
                raise ConfigError(
                    f"modalities: an encoder of {self._reads} reads no {view}, so it has no states of one."
                )
        return {
            view: (self.vector_dim,) if view is View.ITEM else (self._num_states[view], self._state_dim)
            for view in views
        }

    def of(self, item_rows: NDArray[np.integer]) -> ItemInputs:
        """Gather what is shown of some items, in host memory."""
        rows = self._content_rows[item_rows]
        photos, photo_rows = self._features or self._catalogue.photos, self._photo_rows[rows]
        others = None
        if self._reads.reads_photo and self._photos_read > 1:
            found = photos.other_pixels(photo_rows, most=self._photos_read - 1)
            if found[1].any():
                others = OtherPhotos(*(torch.from_numpy(one) for one in found))
        return ItemInputs(
            title_tokens=None if self._tokens is None else text_tensor(self._tokens[rows]),
            pixels=torch.from_numpy(photos.pixels(photo_rows)) if self._reads.reads_photo else None,
            has_title=torch.from_numpy(self._has_title[rows]),
            has_photo=torch.from_numpy(self._has_photo[rows]),
            others=others,
        )

    def embed(
        self,
        embedder: Embedder,
        *,
        views: Collection[View],
        item_rows: NDArray[np.integer],
        label: str | None = None,
    ) -> dict[str, NDArray[np.float16]]:
        """Encode some items by an encoder as it is: of each view ``[n, vector_dim]``, NaN where there is no such side.

        Args:
            embedder: the encoder, in evaluation mode afterwards.
            views: which vectors.
            item_rows: ``[n]``.
            label: of the progress bar; None shows none.
        """
        rows = self._content_rows[item_rows]
        found = embedder.embed_views(
            self._catalogue,
            views=views,
            photo_rows=self._photo_rows,
            features=self._features,
            item_rows=rows,
            label=label,
        )
        there = {View.TITLE: self._has_title[rows], View.PHOTO: self._has_photo[rows]}
        for view, has in there.items():
            if view in found:
                found[view][~has] = np.nan
        return {view.value: vectors for view, vectors in found.items()}

    def state_blocks(
        self,
        embedder: Embedder,
        *,
        views: Collection[View],
        item_rows: NDArray[np.integer],
        label: str | None = None,
    ) -> Iterator[tuple[NDArray[np.int64], dict[View, NDArray[np.float32]]]]:
        """Encode some items with the states of their words and patches, a block at a time, short titles first.

        Args:
            embedder: the encoder, in evaluation mode afterwards.
            views: item, title, photo.
            item_rows: ``[n]``.
            label: of the progress bar; None shows none.

        Yields:
            Places among `item_rows` ``[block]``, and of each view what `state_shapes` says, NaN where there is none.
        """
        shapes = self.state_shapes(views)
        order = np.argsort(self._title_tokens[self._content_rows[item_rows]], kind="stable")
        at_once = max(1, STATES_AT_ONCE // max(1, sum(self._num_states.values())))
        told = nullcontext() if label is None else Progress(label, total=len(order), unit="item")
        with told as bar:
            for start in range(0, len(order), at_once):
                places = order[start : start + at_once]
                found = embedder.states(self.of(item_rows[places]), bulk=True)
                yield places, {view: _padded(found.get(view), (len(places), *shape)) for view, shape in shapes.items()}
                if bar is not None:
                    bar.advance(len(places))


def _padded(found: NDArray[np.float32] | None, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Put NaN behind the last states of a block."""
    if found is not None and found.shape == shape:
        return found
    padded = np.full(shape, np.nan, dtype=np.float32)
    if found is not None:
        padded[:, : found.shape[1]] = found
    return padded
