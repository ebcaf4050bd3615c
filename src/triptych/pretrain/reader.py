"""What the towers read of items: titles and photos gathered for a batch, some hidden, some varied."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from triptych.data.augment import Variations, vary
from triptych.data.text import PAD, item_texts
from triptych.encoders.base import Encoder
from triptych.encoders.embed import Embedder, Pixels
from triptych.encoders.features import PhotoFeatures
from triptych.encoders.inputs import ItemInputs, OtherPhotos, View
from triptych.encoders.text import cut_by_length, text_tensor, trim
from triptych.foundation.errors import ConfigError
from triptych.losses.base import LossOutput
from triptych.losses.infonce import infonce

if TYPE_CHECKING:
    from triptych.pretrain.base import Given, PretrainConfig


class ItemParts(NamedTuple):
    """A batch's items, sorted by length and cut in parts that are padded apart."""

    inputs: tuple[ItemInputs, ...]
    """This process's share."""
    order: NDArray[np.int64]
    """``[items]``, for each item of all processes, as encoded and gathered, its place among the rows asked for."""

    @property
    def place(self) -> NDArray[np.int64]:
        """``[items]``, for each row that was asked for its place among the encoded."""
        place = np.empty_like(self.order)
        place[self.order] = np.arange(len(self.order))
        return place


class PhotoViews(NamedTuple):
    """Photos of some items of a batch, varied anew and without their titles, as a shopper's own photo would be.

    Of several processes each has its share of the views, among the items of all.
    """

    items: ItemInputs
    positive: Tensor
    """int64 ``[views]``, the place in the batch of the item each photo shows."""
    known: Tensor
    """bool ``[views, items]``, items with the same photo: no negatives."""
    total: int
    """Views of all processes."""


class TitleQueries(NamedTuple):
    """Titles of some items of a batch, read by the query tower, as somebody would type them; shared as photo views."""

    tokens: Tensor
    """int32 ``[queries, tokens]``."""
    positive: Tensor
    """int64 ``[queries]``, the place in the batch of the item with that title."""
    known: Tensor
    """bool ``[queries, items]``, items with the same title: no negatives."""
    total: int
    """Queries of all processes."""


class ItemReader:
    """Gathers what the towers read of items. Every draw comes from the generator it is given.

    All that is drawn is drawn for the whole batch, so that it does not depend on the number of processes; titles and
    photos are gathered for this process's share.
    """

    def __init__(self, config: PretrainConfig, given: Given) -> None:
        """Tokenise all titles once.

        Raises:
            ConfigError: the catalogue's photos have another size than the encoder takes.
        """
        catalogue = given.catalogue
        encoder = config.encoder
        if encoder.modalities.reads_photo and catalogue.photos.px != encoder.photo_px:
            raise ConfigError(
                f"encoder.photo_px is {encoder.photo_px}, but the catalogue's photos are {catalogue.photos.px} px "
                "wide. Set both to the same."
            )
        self._config = config
        self._reads = encoder.modalities
        self._catalogue = catalogue
        self._tokenizer = given.tokenizer
        self._own_photos = given.photo_rows is None
        self._photo_rows = np.arange(len(catalogue.titles)) if given.photo_rows is None else given.photo_rows
        features = given.models.features
        self._features = None if features is None else PhotoFeatures(features, photos=catalogue.photos)
        self._group = given.group
        texts = item_texts(catalogue, features=encoder.title_features)
        self.has_photo = np.asarray(catalogue.photos.has)[self._photo_rows]
        """bool ``[items]``."""
        self.has_title = np.array([bool(text) for text in texts], dtype=bool)
        """bool ``[items]``, whether there is anything to read: a title, or one of the title features."""
        self.can_be_named = np.array([bool(title) for title in catalogue.titles], dtype=bool)
        """bool ``[items]``, whether there is a title that somebody could type."""
        self._tokens = self._tokenizer.encode(texts, max_tokens=encoder.max_title_tokens)

    def parts(self, item_rows: NDArray[np.int64], *, rng: np.random.Generator) -> ItemParts:
        """Gather items in parts of like title length, hiding the title or the photo of some."""
        has_title, has_photo = self.has_title[item_rows], self.has_photo[item_rows]
        drop_title, drop_photo = self._drawn_to_hide(has_title, has_photo, rng=rng)
        has_title, has_photo = has_title & ~drop_title, has_photo & ~drop_photo
        tokens = np.where(has_title[:, None], self._tokens[item_rows], PAD)
        parts = cut_by_length((tokens != PAD).sum(axis=1), parts=2 if self._reads.reads_title else 1)
        inputs = tuple(
            self._inputs(item_rows[rows], trim(tokens[rows]), has_title[rows], has_photo[rows], among=item_rows)
            for rows in self._group.shares(parts)
        )
        return ItemParts(inputs, np.concatenate(parts))

    def whole(self, item_rows: NDArray[np.int64], *, rng: np.random.Generator) -> ItemInputs:
        """Gather this process's share of items in one piece; some leave their title or photo out of their vector.

        Titles are padded to the longest of all processes, so that their states can be gathered.
        """
        has_title, has_photo = self.has_title[item_rows], self.has_photo[item_rows]
        dropped = self._drawn_to_hide(has_title, has_photo, rng=rng)
        tokens = self.title_tokens(item_rows)
        own = self._group.share(len(item_rows))
        found = self._inputs(item_rows[own], tokens[own], has_title[own], has_photo[own], among=item_rows)
        drop_title, drop_photo = (torch.from_numpy(one[own]) for one in dropped)
        return found._replace(drop_title=drop_title, drop_photo=drop_photo)

    def plain(self, item_rows: NDArray[np.int64]) -> ItemInputs:
        """Gather items in one piece as they are, nothing left out and nothing shared out."""
        has_title, has_photo = self.has_title[item_rows], self.has_photo[item_rows]
        return self._inputs(item_rows, self.title_tokens(item_rows), has_title, has_photo, among=item_rows)

    def _inputs(
        self,
        item_rows: NDArray[np.int64],
        tokens: NDArray[np.int32],
        has_title: NDArray[np.bool_],
        has_photo: NDArray[np.bool_],
        *,
        among: NDArray[np.int64],
    ) -> ItemInputs:
        reads = self._reads
        return ItemInputs(
            title_tokens=torch.from_numpy(np.ascontiguousarray(tokens)) if reads.reads_title else None,
            pixels=self._shown(item_rows) if reads.reads_photo else None,
            has_title=torch.from_numpy(has_title),
            has_photo=torch.from_numpy(has_photo),
            others=self._other_photos(item_rows, among=among),
        )

    def photo_views(self, item_rows: NDArray[np.int64], *, rng: np.random.Generator) -> PhotoViews | None:
        """Draw items of a batch that have a photo, and vary each photo apart from how the batch shows it.

        Args:
            item_rows: ``[items]`` in the order in which they are encoded.
            rng: source of the draws.

        Returns:
            None where the encoder reads no photos, no item has one, or the loss is off.
        """
        config = self._config
        if not config.encoder.modalities.reads_photo or not config.varies_photos:
            return None
        place = rng.permutation(np.flatnonzero(self.has_photo[item_rows]))[: config.photo_view_items]
        if len(place) == 0:
            return None
        photo_rows = self._photo_rows[item_rows]
        share = self._group.share(len(place))
        own = place[share]
        photos: Pixels
        if self._features is None:
            variations = Variations.draw(len(place), config=config.augment, rng=rng)
            photos = vary(self._catalogue.photos.pixels(photo_rows[own]), variations.of(share))
        else:
            views = self._features.draw_views(len(place), rng=rng)
            photos = self._features.pixels(photo_rows[own], views=views[share])
        picture = self._catalogue.photos.photo_rows[photo_rows]  # identical photos share a number
        has_photo = torch.ones(len(own), dtype=torch.bool)
        return PhotoViews(
            items=ItemInputs(None, torch.from_numpy(photos), has_title=~has_photo, has_photo=has_photo),
            positive=torch.from_numpy(own),
            known=torch.from_numpy(picture[own][:, None] == picture[None, :]),
            total=len(place),
        )

    def title_queries(
        self, item_rows: NDArray[np.int64], *, most: int, rng: np.random.Generator
    ) -> TitleQueries | None:
        """Draw items of a batch that have a title, to be asked for by it.

        Args:
            item_rows: ``[items]`` in the order in which they are encoded.
            most: how many at most.
            rng: source of the draws.

        Returns:
            None where no item has a title, or none are wanted.
        """
        place = rng.permutation(np.flatnonzero(self.can_be_named[item_rows]))[:most]
        if len(place) == 0:
            return None
        titles = np.array([self._catalogue.titles[row] for row in item_rows], dtype=object)
        longest = self._config.encoder.max_query_tokens
        own = place[self._group.share(len(place))]
        tokens = self._tokenizer.encode([str(title) for title in titles[own]], max_tokens=longest)
        return TitleQueries(
            tokens=text_tensor(tokens),
            positive=torch.from_numpy(own),
            known=torch.from_numpy((titles[own][:, None] == titles[None, :]).astype(bool)),
            total=len(place),
        )

    def title_tokens(self, item_rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return the titles' token ids ``[items, tokens]``, cut behind the longest, as `whole` shows them."""
        return trim(np.where(self.has_title[item_rows][:, None], self._tokens[item_rows], PAD))

    def title_groups(self, item_rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Number the titles of items: equal titles, but for case and spaces, share a number; none is like no other."""
        return self._title_groups[item_rows]

    def photo_groups(self, item_rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Number the photos of items: identical ones share a number."""
        found: NDArray[np.int64] = self._catalogue.photos.photo_rows[self._photo_rows[item_rows]].astype(np.int64)
        return found

    @cached_property
    def _title_groups(self) -> NDArray[np.int64]:
        folded = [" ".join(title.casefold().split()) for title in self._catalogue.titles]
        groups = np.unique(np.array(folded, dtype=str), return_inverse=True)[1].astype(np.int64)
        return np.where([bool(title) for title in folded], groups, len(groups) + np.arange(len(groups)))

    def pixels(self, item_rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the photos that items are shown in this run: uint8 ``[n, px, px, 3]``."""
        return self._catalogue.photos.pixels(self._photo_rows[item_rows])

    def embedder(self, module: Encoder) -> Embedder:
        """Put the encoder to use as it is now."""
        return Embedder(
            module,
            tokenizer=self._tokenizer,
            precision=self._config.loop.precision,
            device=str(next(module.parameters()).device),
        )

    def vectors(self, module: Encoder) -> NDArray[np.float32]:
        """Encode every item of the catalogue as it is shown in this run: ``[items, dim]``."""
        return self.views(module, views=(View.ITEM,))[View.ITEM]

    def views(self, module: Encoder, *, views: Collection[View]) -> dict[View, NDArray[np.float32]]:
        """Encode several vectors of every item: of each view ``[items, dim]``."""
        photo_rows = None if self._own_photos else self._photo_rows
        found = self.embedder(module).embed_views(
            self._catalogue, views=views, photo_rows=photo_rows, features=self._features, label=None
        )
        return {view: vectors.astype(np.float32) for view, vectors in found.items()}

    def _shown(self, item_rows: NDArray[np.int64]) -> Tensor:
        """Return what the encoder is given of items' photos: pixels, or what a frozen model saw in them."""
        return torch.from_numpy((self._features or self._catalogue.photos).pixels(self._photo_rows[item_rows]))

    def _other_photos(self, item_rows: NDArray[np.int64], *, among: NDArray[np.int64]) -> OtherPhotos | None:
        """Return further photos of some of a batch's items, as many as any of them has; None if none are read."""
        encoder = self._config.encoder
        if encoder.photos == 1 or not encoder.modalities.reads_photo:
            return None
        photos, most = self._catalogue.photos, encoder.photos - 1
        found = (self._features or photos).other_pixels(self._photo_rows[item_rows], most=most)
        pixels, present = (torch.from_numpy(one) for one in found)
        lacking = min(most, int(photos.other_counts[self._photo_rows[among]].max())) - present.shape[1]
        rows = len(item_rows)
        return OtherPhotos(
            torch.cat([pixels, pixels.new_zeros(rows, lacking, *pixels.shape[2:])], dim=1),
            torch.cat([present, present.new_zeros(rows, lacking)], dim=1),
        )

    def _drawn_to_hide(
        self, has_title: NDArray[np.bool_], has_photo: NDArray[np.bool_], *, rng: np.random.Generator
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Draw items that have both, to hide the title or the photo of, never both at once."""
        luck = rng.uniform(size=len(has_title))
        both = has_title & has_photo
        return both & (luck < self._config.title_dropout_rate), both & (luck >= 1 - self._config.photo_dropout_rate)


def encoded(inputs: Sequence[ItemInputs | Tensor], *, module: Encoder) -> Tensor:
    """Encode items, or the token ids of queries, that come in parts.

    Returns:
        ``[rows, vector_dim]``, the parts one after the other; no rows where there is no part, as a process may have no
        share of a small batch.
    """
    parts = [module.encode_items(one) if isinstance(one, ItemInputs) else module.encode_queries(one) for one in inputs]
    if not parts:
        # With a gradient all the same: every process takes part when those of the gathered vectors are added up.
        device = next(module.parameters()).device
        return torch.zeros(0, module.vector_dim, device=device, requires_grad=True)
    return torch.cat(parts)


def view_loss(
    views: PhotoViews | TitleQueries | None, *, module: Encoder, items: Tensor, temperature: float
) -> LossOutput | None:
    """Ask photos alone, or titles alone, for their items among those of the batch ``[items, dim]``; None for none."""
    if views is None:
        return None
    inputs = views.items if isinstance(views, PhotoViews) else views.tokens
    asked = encoded([inputs] if len(views.positive) else [], module=module)
    return infonce(
        asked, items=items, positive=views.positive, known=views.known, temperature=temperature, total=views.total
    )


class Weighted(NamedTuple):
    """A loss beside the main one; None where the batch has nothing for it."""

    loss: LossOutput | None
    weight: float


def combined(main: LossOutput | None, **beside: Weighted) -> LossOutput:
    """Add losses up; the parts of those beside the main one get their names in front.

    Args:
        main: weight 1; None where there is none.
        beside: name → loss and weight.
    """
    total, parts = (torch.zeros(()), {}) if main is None else (main.total, dict(main.parts))
    for name, (loss, weight) in beside.items():
        if loss is not None:
            total = total + weight * loss.total
            parts |= {f"{name}_{part}": value for part, value in loss.parts.items()}
    return LossOutput(total, parts)


def top_items(
    queries: NDArray[np.float32], items: NDArray[np.float32], *, k: int, block: int = 256
) -> NDArray[np.int64]:
    """Return the rows of the k items with the highest dot product for each query, ``[queries, k]``."""
    rows = [
        torch.topk(torch.from_numpy(queries[start : start + block] @ items.T), k).indices.numpy()
        for start in range(0, len(queries), block)
    ]
    return np.concatenate(rows)
