"""What an encoder is shown of a catalogue's items: gathered for some of them, or encoded by the encoder as it is.

For what trains an encoder behind something else, such as a ranker; pretraining, which varies and hides parts of items,
has a reader of its own.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from numpy.typing import NDArray

from triptych.data.catalogue import Catalogue
from triptych.data.text import item_texts
from triptych.encoders.embed import Embedder
from triptych.encoders.features import PhotoFeatures
from triptych.encoders.inputs import ItemInputs, OtherPhotos, View
from triptych.encoders.text import text_tensor
from triptych.foundation.artifact import Artifact
from triptych.foundation.errors import ConfigError


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
