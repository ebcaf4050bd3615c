"""Items alone: the encoder learns that a photo and a title belong to their item. For catalogues without any log.

A batch is a set of distinct items. A photo alone, varied as a shopper's photo would be, must find its item, and so must
a title, read by the query tower; since an item's title or photo is hidden now and then, each has to be found by the
other as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from triptych.data.augment import augment
from triptych.encoders.base import Encoder
from triptych.encoders.embed import Pixels
from triptych.encoders.inputs import ItemInputs
from triptych.foundation.errors import DataError
from triptych.losses.base import LossOutput
from triptych.pretrain.base import VALIDATION_SEED, Given, LearnsFrom, OneTaskConfig, Phase
from triptych.pretrain.reader import (
    ItemReader,
    PhotoViews,
    TitleQueries,
    Weighted,
    combined,
    encoded,
    top_items,
    view_loss,
)
from triptych.training.task import Validation


class ItemContrastConfig(OneTaskConfig):
    """Contrast of photos and titles with their items."""

    kind: Literal["item_contrast"] = "item_contrast"
    """Learn from titles and photos alone."""
    batch_items: int = Field(256, ge=2)
    """Distinct items in a batch; fewer where there are fewer."""
    title_query_items: int = Field(256, ge=1)
    """Items of a batch whose title, as a query, must find its item among the batch."""
    title_query_weight: float = Field(1.0, ge=0)
    """Weight of that loss; 0 leaves it out."""
    validation_items: int = Field(500, ge=1)
    """Items whose photo, varied in a way of its own, must find them; fewer where there are fewer."""

    @property
    def learns_from(self) -> LearnsFrom:
        """Items alone."""
        return LearnsFrom.ITEMS

    def phases(self, given: Given) -> Iterator[Phase]:
        """Yield the one phase."""
        yield Phase("", ItemContrastTask(self, given), self.loop)


CONFIG = ItemContrastConfig


class ItemBatch(NamedTuple):
    """One batch in host memory, items sorted by length and cut in parts that are padded apart.

    Of several processes each has its share, and what it asks with is contrasted with the items of all.
    """

    items: tuple[ItemInputs, ...]
    num_items: int
    """Items of all processes."""
    photo_views: PhotoViews | None
    """None where the encoder reads no photos, or that loss is off."""
    title_queries: TitleQueries | None
    """None where the encoder reads no titles, or that loss is off."""


class ItemContrastTask:
    """Contrast of photos and titles with their items as a `training.task.Task`."""

    name = "training encoder"

    def __init__(self, config: ItemContrastConfig, given: Given) -> None:
        """Tokenise all titles once and make the model.

        Raises:
            DataError: fewer than two items have anything that can be asked with.
        """
        self._config = config
        self._catalogue = given.catalogue
        self._seed = given.seed
        self._group = given.group
        self._reader = ItemReader(config, given)
        reads = config.encoder.modalities
        self._asks_by_photo = reads.reads_photo and config.photo_view_weight > 0
        self._asks_by_title = reads.reads_title and config.title_query_weight > 0
        self._rows = np.flatnonzero(
            (self._reader.has_photo & self._asks_by_photo) | (self._reader.can_be_named & self._asks_by_title)
        )
        if len(self._rows) < 2:
            raise DataError(
                f"items: {len(self._rows)} of them have what an encoder of modalities '{reads}' can learn from, and it "
                "takes two."
            )
        self.module = given.encoder(config.encoder)

    @property
    def encoder(self) -> Encoder:
        """The module."""
        return self.module

    def batch(self, index: int) -> ItemBatch:
        """Draw batch `index` and gather its tokens and pixels."""
        rng = np.random.default_rng([self._seed, index])
        size = min(self._config.batch_items, len(self._rows))
        drawn = np.sort(rng.choice(self._rows, size=size, replace=False))
        items = self._reader.parts(drawn, rng=rng)
        item_rows = drawn[items.order]
        most = self._config.title_query_items if self._asks_by_title else 0
        return ItemBatch(
            items=items.inputs,
            num_items=size,
            photo_views=self._reader.photo_views(item_rows, rng=rng),
            title_queries=self._reader.title_queries(item_rows, most=most, rng=rng),
        )

    def num_samples(self, batch: ItemBatch) -> int:
        """Count items."""
        return batch.num_items

    def losses(self, batch: ItemBatch) -> LossOutput:
        """Contrast photos alone and titles alone with their items."""
        config, module = self._config, self.module
        items = self._group.gather(encoded(batch.items, module=module), total=batch.num_items)
        seen = view_loss(batch.photo_views, module=module, items=items, temperature=config.temperature)
        named = view_loss(batch.title_queries, module=module, items=items, temperature=config.temperature)
        return combined(
            None,
            photo=Weighted(seen, config.photo_view_weight),
            title=Weighted(named, config.title_query_weight),
        )

    @cached_property
    def _validation(self) -> _Validation:
        """Drawn once: a frozen vision model looks at the photos once, not in every validation."""
        rng = np.random.default_rng(VALIDATION_SEED)
        rows = np.sort(rng.permutation(self._rows)[: self._config.validation_items])
        by_photo = rows[self._reader.has_photo[rows] & self._asks_by_photo]
        photos = augment(self._reader.pixels(by_photo), config=self._config.augment, rng=rng)
        return _Validation(rows, by_photo, self._reader.embedder(self.module).see(photos))

    def validate(self) -> Validation:
        """Measure how often a fixed sample of items is found by its photo, varied, and by its title.

        The items are those of training: there is nothing else. The variations are not.
        """
        k = min(self._config.validation_k, self._catalogue.num_items)
        rows = self._validation.rows
        items, embedder = self._reader.vectors(self.module), self._reader.embedder(self.module)
        found: dict[str, float] = {}
        by_photo = self._validation.by_photo
        if len(by_photo):
            asked = embedder.items([None] * len(by_photo), pixels=self._validation.photos)
            found[f"photo_recall@{k}"] = _hit_rate(top_items(asked, items, k=k), rows=by_photo)
        by_title = rows[self._reader.can_be_named[rows]]
        if self._asks_by_title and len(by_title):
            asked = embedder.queries([self._catalogue.titles[row] for row in by_title])
            found[f"title_recall@{k}"] = _hit_rate(top_items(asked, items, k=k), rows=by_title)
        name = f"recall@{k}"
        return Validation({**found, name: float(np.mean(list(found.values())))}, headline=name)


class _Validation(NamedTuple):
    """The items that are asked for."""

    rows: NDArray[np.int64]
    by_photo: NDArray[np.int64]
    """Those of them that have a photo."""
    photos: Pixels
    """Their photos, varied."""


def _hit_rate(found: NDArray[np.int64], *, rows: NDArray[np.int64]) -> float:
    return float((found == rows[:, None]).any(axis=1).mean())
