"""A trained encoder in use: texts and photos in, numpy vectors out, one request or a whole catalogue.

Queries and small requests are encoded in float32: they take milliseconds, and a query has the same vector online and
in an evaluation. Only bulk encoding of items drops to bf16 (where the hardware gains by it).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from triptych.data.catalogue import Catalogue
from triptych.data.text import PAD, AnyTokenizer, TextTokenizer, item_texts
from triptych.encoders.base import Encoder, Export, load_encoder
from triptych.encoders.features import PhotoFeatures
from triptych.encoders.inputs import ItemInputs, Modalities, OtherPhotos, View
from triptych.encoders.models.two_tower import TwoTowerEncoder
from triptych.encoders.pretrained import PretrainedTokenizer
from triptych.encoders.slots import PhotoSlot, TextSlot
from triptych.encoders.text import text_tensor
from triptych.foundation.artifact import Artifact
from triptych.foundation.errors import ArtifactError, ConfigError, DataError
from triptych.foundation.progress import Progress
from triptych.nn.precision import Precision, autocast, find_device

KIND = "encoder"
TOKENIZER_FILE = "tokenizer.json"
BLOCK_TOKENS = 16_384
"""Tokens (padding included) encoded at once: bounds memory, large enough for full speed."""
SMALL_REQUEST = 64
"""Up to this many items are encoded in float32."""

Pixels = NDArray[np.uint8] | NDArray[np.float16]
"""Photos, or the features that a frozen vision model has made of them (`Embedder.see`)."""
PixelSource = Callable[[NDArray[np.int64]], Pixels]
OtherPixels = tuple[Pixels, NDArray[np.bool_]]
OtherSource = Callable[[NDArray[np.int64]], OtherPixels]


class Embedder:
    """Turn texts and photos into vectors whose dot product is their cosine."""

    def __init__(
        self,
        encoder: Encoder,
        *,
        tokenizer: AnyTokenizer,
        precision: Precision = Precision.AUTO,
        device: str = "auto",
    ) -> None:
        """Put an encoder to use; most callers want `open`.

        Args:
            encoder: the model; it is moved to the device and set to evaluation mode.
            tokenizer: the one it was trained with.
            precision: of bulk encoding.
            device: ``auto``, ``cpu`` or ``cuda``.
        """
        self._device = find_device(device)
        self._encoder = encoder.to(self._device).eval()
        self._tokenizer = tokenizer
        self._precision = precision

    @classmethod
    def open(
        cls,
        source: Artifact | str | Path,
        *,
        precision: Precision = Precision.AUTO,
        device: str = "auto",
        export: Export | None = None,
    ) -> Self:
        """Open an encoder artefact.

        Args:
            source: where it is.
            precision: of bulk encoding.
            device: ``auto``, ``cpu`` or ``cuda``.
            export: which vector stands for a query or an item; None: that of the encoder's config.

        Raises:
            ArtifactError: there is none, it is incomplete, or something else.
            ConfigError: an export is asked of an encoder that has but one.
        """
        artifact = Artifact.open(source.path if isinstance(source, Artifact) else source, kind=KIND)
        return cls.load(artifact.path, precision=precision, device=device, export=export)

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        precision: Precision = Precision.AUTO,
        device: str = "auto",
        export: Export | None = None,
    ) -> Self:
        """Open an encoder's files, wherever they are; arguments and errors as of `open`."""
        encoder = load_encoder(folder)
        if export is not None:
            if not isinstance(encoder, TwoTowerEncoder):
                raise ConfigError(f"export: the encoder in {str(folder)!r} has one kind of vectors. Leave it out.")
            encoder.export = export
        tokenizer: AnyTokenizer
        if isinstance(encoder.text, TextSlot):
            tokenizer = PretrainedTokenizer(encoder.text.pretrained.folder)
        elif not (folder / TOKENIZER_FILE).is_file():
            raise ArtifactError(f"{str(folder)!r} holds no '{TOKENIZER_FILE}'.")
        else:
            tokenizer = TextTokenizer.load(folder / TOKENIZER_FILE)
        return cls(encoder, tokenizer=tokenizer, precision=precision, device=device)

    def save(self, folder: Path) -> None:
        """Write what `load` reads."""
        folder.mkdir(parents=True, exist_ok=True)
        self._encoder.save(folder)
        if isinstance(self._tokenizer, TextTokenizer):
            self._tokenizer.save(folder / TOKENIZER_FILE)

    @property
    def encoder(self) -> Encoder:
        """The model."""
        return self._encoder

    @property
    def vector_dim(self) -> int:
        """Length of a vector."""
        return self._encoder.vector_dim

    @property
    def px(self) -> int:
        """Side of the square photos it takes, in pixels."""
        return self._encoder.config.photo_px

    @property
    def modalities(self) -> Modalities:
        """What it reads of an item."""
        return self._encoder.config.modalities

    @property
    def photos(self) -> int:
        """How many photos of an item it reads."""
        return self._encoder.config.photos

    @property
    def title_features(self) -> tuple[str, ...]:
        """Text features of an item that it reads behind the title (`data.text.with_features`)."""
        return self._encoder.config.title_features

    @property
    def tokenizer(self) -> AnyTokenizer:
        """Of titles and queries."""
        return self._tokenizer

    def queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode query texts.

        Returns:
            ``[len(texts), vector_dim]``, L2-normalised, in the order given, the same for any batch size.
        """
        tokens = self._tokenizer.encode(texts, max_tokens=self._encoder.config.max_query_tokens)
        out = np.empty((len(tokens), self.vector_dim), dtype=np.float32)
        lengths = (tokens != PAD).sum(axis=1)
        with torch.inference_mode():
            for rows in _blocks(lengths):
                encoded = self._encoder.encode_queries(text_tensor(tokens[rows]).to(self._device))
                out[rows] = encoded.cpu().numpy()
        return out

    def items(
        self,
        titles: Sequence[str | None],
        *,
        pixels: Pixels | None = None,
        has_photo: ArrayLike | None = None,
        others: OtherPixels | None = None,
    ) -> NDArray[np.float32]:
        """Encode items, or photos as queries: ``items([None], pixels=photo)``.

        What the encoder does not read (see `modalities`) has no influence.

        Args:
            titles: None or an empty text where there is no title; with the encoder's `title_features` appended.
            pixels: uint8 RGB ``[len(titles), px, px, 3]``, or what `see` made of them; None where nobody has a photo.
            has_photo: bool ``[len(titles)]``; None means all if there are pixels.
            others: further photos, as `PhotoStore.other_pixels` returns them; None where nobody has any.

        Returns:
            ``[len(titles), vector_dim]``, L2-normalised.

        Raises:
            DataError: the pixels have another shape or type.
        """
        item = View.ITEM
        return self.item_views(titles, views=(item,), pixels=pixels, has_photo=has_photo, others=others)[item]

    def item_views(
        self,
        titles: Sequence[str | None],
        *,
        views: Collection[View],
        pixels: Pixels | None = None,
        has_photo: ArrayLike | None = None,
        others: OtherPixels | None = None,
    ) -> dict[View, NDArray[np.float32]]:
        """Encode several vectors of items.

        Args:
            titles: as of `items`.
            views: which of an item's vectors.
            pixels: as of `items`.
            has_photo: likewise.
            others: likewise.

        Returns:
            For each view ``[len(titles), vector_dim]``, L2-normalised.

        Raises:
            DataError: the pixels have another shape or type.
        """
        present = np.full(len(titles), pixels is not None) if has_photo is None else np.asarray(has_photo, dtype=bool)
        if pixels is None:
            present = np.zeros(len(titles), dtype=bool)
        else:
            self._check(pixels, num_items=len(titles))
        bulk = len(titles) > SMALL_REQUEST
        return self._items(
            titles,
            source=None if pixels is None else pixels.__getitem__,
            others=None if others is None else lambda rows: (others[0][rows], others[1][rows]),
            present=present,
            bulk=bulk,
            views=views,
        )

    def embed_catalogue(
        self,
        catalogue: Catalogue,
        *,
        photo_rows: NDArray[np.integer] | None = None,
        features: PhotoFeatures | None = None,
        label: str | None = "embedding items",
    ) -> NDArray[np.float16]:
        """Encode every item of a catalogue.

        Args:
            catalogue: items and photos.
            photo_rows: as of `embed_views`.
            features: as of `embed_views`.
            label: of the progress bar; None shows none.

        Returns:
            ``[num_items, vector_dim]`` in item row order.

        Raises:
            DataError: the catalogue's photos have another size than the encoder takes.
        """
        item = View.ITEM
        return self.embed_views(catalogue, views=(item,), photo_rows=photo_rows, features=features, label=label)[item]

    def embed_views(
        self,
        catalogue: Catalogue,
        *,
        views: Collection[View],
        photo_rows: NDArray[np.integer] | None = None,
        features: PhotoFeatures | None = None,
        item_rows: NDArray[np.integer] | None = None,
        label: str | None = "embedding items",
    ) -> dict[View, NDArray[np.float16]]:
        """Encode several vectors of every item of a catalogue, or of some, reading it once.

        Args:
            catalogue: items and photos.
            views: which of an item's vectors.
            photo_rows: ``[num_items]``; item i is shown the photo of item ``photo_rows[i]`` (the permuted-photo
                control). None shows its own.
            features: what the encoder's frozen vision model sees in the photos, so that it need not look again.
            item_rows: int ``[n]``, which items; None: all in their order.
            label: of the progress bar; None shows none.

        Returns:
            For each view ``[n, vector_dim]``, in the order of `item_rows`.

        Raises:
            DataError: the catalogue's photos have another size than the encoder takes.
        """
        rows = np.arange(catalogue.num_items) if item_rows is None else np.asarray(item_rows, dtype=np.int64)
        photo_of = rows if photo_rows is None else np.asarray(photo_rows, dtype=np.int64)[rows]
        texts = item_texts(catalogue, features=self.title_features)
        photos = catalogue.photos
        if self.modalities.reads_photo and photos.px != self.px:
            raise DataError(f"The catalogue's photos are {photos.px} px wide, the encoder takes {self.px} px.")
        source = photos if features is None else features
        bar = None if label is None else Progress(label, total=len(rows), unit="item")
        with nullcontext() if bar is None else bar:
            vectors = self._items(
                texts if item_rows is None else [texts[row] for row in rows],
                source=lambda some: source.pixels(photo_of[some]),
                others=None
                if self.photos == 1
                else lambda some: source.other_pixels(photo_of[some], most=self.photos - 1),
                present=np.asarray(photos.has)[photo_of],
                bulk=True,
                views=views,
                bar=bar,
            )
        return {view: found.astype(np.float16) for view, found in vectors.items()}

    def states(self, items: ItemInputs, *, bulk: bool) -> dict[View, NDArray[np.float32]]:
        """Encode items with the states of their words and patches, in one pass.

        Args:
            items: the batch, on any device.
            bulk: encode as a catalogue is encoded, by the embedder's precision; else in float32.

        Returns:
            ``item``: ``[batch, vector_dim]``; ``title`` and ``photo``: ``[batch, tokens, dim]``, NaN behind a title's
            end and where an item has no such side; one that nobody in the batch has is left out.
        """
        moved = items.on(self._device)
        with torch.inference_mode(), autocast(self._precision if bulk else Precision.FP32, device=self._device):
            reading = self._encoder.read_items(moved)
        found = {View.ITEM: reading.vectors.float().cpu().numpy()}
        for view, tokens in reading.sides(moved).items():
            states = tokens.states.float().masked_fill(~tokens.keep[:, :, None], float("nan"))
            found[view] = states.cpu().numpy()
        return found

    def see(self, pixels: NDArray[np.uint8], *, block: int = 64) -> Pixels:
        """Return what a frozen vision model makes of photos, to be used more than once; else the photos themselves.

        Args:
            pixels: uint8 RGB ``[n, px, px, 3]``.
            block: photos at a time.

        Returns:
            Features float16 ``[n, tokens, model dim]``, or `pixels`.
        """
        slot = self._encoder.patches
        if not isinstance(slot, PhotoSlot) or not slot.is_frozen or len(pixels) == 0:
            return pixels
        with torch.inference_mode(), autocast(self._precision, device=self._device):
            blocks = (torch.from_numpy(pixels[start : start + block]) for start in range(0, len(pixels), block))
            seen = [slot.see(one.to(self._device)).half().cpu().numpy() for one in blocks]
        return np.concatenate(seen)

    def _items(
        self,
        titles: Sequence[str | None],
        *,
        source: PixelSource | None,
        others: OtherSource | None,
        present: NDArray[np.bool_],
        bulk: bool,
        views: Collection[View] = (View.ITEM,),
        bar: Progress | None = None,
    ) -> dict[View, NDArray[np.float32]]:
        """Encode items in blocks of like length, photos fetched block by block from `source` and `others`."""
        config = self._encoder.config
        has_title = np.array([bool(title) for title in titles], dtype=bool)
        tokens = self._tokenizer.encode([title or "" for title in titles], max_tokens=config.max_title_tokens)
        num_patches = self._encoder.patches.num_patches if self._encoder.patches is not None else 0
        lengths = (tokens != PAD).sum(axis=1) + np.where(present, num_patches, 0)
        out = {view: np.empty((len(titles), self.vector_dim), dtype=np.float32) for view in views}
        precision = self._precision if bulk else Precision.FP32
        with torch.inference_mode():
            for rows in _blocks(lengths, group=present):
                with_photo = source if config.modalities.reads_photo and present[rows[0]] else None
                batch = ItemInputs(
                    title_tokens=text_tensor(tokens[rows]).to(self._device) if config.modalities.reads_title else None,
                    pixels=None if with_photo is None else torch.from_numpy(with_photo(rows)).to(self._device),
                    has_title=torch.from_numpy(has_title[rows]).to(self._device),
                    has_photo=torch.from_numpy(present[rows]).to(self._device),
                    others=None if with_photo is None or others is None else self._others(others(rows)),
                )
                with autocast(precision, device=self._device):
                    encoded = self._encoder.encode_views(batch, views=views)
                for view, vectors in encoded.items():
                    out[view][rows] = vectors.cpu().numpy()
                if bar is not None:
                    bar.advance(len(rows))
        return out

    def _others(self, found: OtherPixels) -> OtherPhotos | None:
        if self.photos == 1 or not found[1].any():
            return None
        return OtherPhotos(*(torch.from_numpy(one).to(self._device) for one in found))

    def _check(self, pixels: Pixels, *, num_items: int) -> None:
        expected = (num_items, self.px, self.px, 3)
        slot = self._encoder.patches
        as_seen = (num_items, slot.num_patches, slot.pretrained.dim) if isinstance(slot, PhotoSlot) else None
        if pixels.shape == as_seen and pixels.dtype == np.float16:
            return
        if pixels.shape != expected or pixels.dtype != np.uint8:
            raise DataError(
                f"Photos must be uint8 {expected}, these are {pixels.dtype} {pixels.shape}. "
                f"Decode them with triptych.data.images.decode_photo(…, px={self.px})."
            )


def _blocks(lengths: NDArray[np.integer], *, group: NDArray[np.bool_] | None = None) -> Iterator[NDArray[np.int64]]:
    """Cut rows, shortest first, into blocks of at most `BLOCK_TOKENS` tokens after padding; `group` is not mixed."""
    order = np.argsort(lengths, kind="stable")
    parts = [order] if group is None else [order[~group[order]], order[group[order]]]
    for part in parts:
        start = 0
        while start < len(part):
            most = max(1, BLOCK_TOKENS // int(lengths[part[start]]))
            padded = lengths[part[start : start + most]] * np.arange(1, min(most, len(part) - start) + 1)
            end = start + max(1, int(np.searchsorted(padded, BLOCK_TOKENS, side="right")))
            yield part[start:end]
            start = end
