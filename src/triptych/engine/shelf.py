"""The shelf: all items an engine knows at one moment, those added at run time included. Replaced, never changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.data.catalogue import NEAR_AMONG, Catalogue
from triptych.data.text import with_features
from triptych.encoders.embed import Embedder
from triptych.engine.filters import FilterColumns
from triptych.engine.new_items import NewItem
from triptych.foundation.errors import EngineError, did_you_mean


class Shelf:
    """Items by row: the catalogue's first, then the added ones in the order they came."""

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        rows: Mapping[str, int],
        columns: FilterColumns,
        added: Sequence[NewItem] = (),
    ) -> None:
        """Wrap a catalogue, the row of each of its ids, and what was added; use `of` and `extended`."""
        self._catalogue = catalogue
        self._catalogue_rows = rows
        self._added = tuple(added)
        self._added_rows = {item.item_id: catalogue.num_items + place for place, item in enumerate(self._added)}
        self.columns = columns

    @classmethod
    def of(cls, catalogue: Catalogue) -> Shelf:
        """Start with a catalogue."""
        rows = {item_id: row for row, item_id in enumerate(catalogue.item_ids)}
        return cls(catalogue, rows=rows, columns=FilterColumns.of(catalogue.items.select("category", "cells", "price")))

    def extended(self, new: Sequence[NewItem]) -> Shelf:
        """Return a shelf with items appended."""
        columns = self.columns.extended(
            categories=[item.category for item in new],
            cells=[item.cells for item in new],
            prices=[item.price for item in new],
        )
        return Shelf(self._catalogue, rows=self._catalogue_rows, columns=columns, added=[*self._added, *new])

    @property
    def num_items(self) -> int:
        """Number of items, added ones included."""
        return self._catalogue.num_items + len(self._added)

    @property
    def num_added(self) -> int:
        """Number of items added at run time."""
        return len(self._added)

    def row(self, item_id: str) -> int:
        """Return the row of an item.

        Raises:
            EngineError: there is no such item; the nearest id is named.
        """
        if not isinstance(item_id, str):
            raise EngineError(f"An item is named by its item_id, a text, not by {item_id!r}.")
        row = self._catalogue_rows.get(item_id, self._added_rows.get(item_id))
        if row is None:
            near = did_you_mean(item_id, self._catalogue.item_ids[:NEAR_AMONG])
            near = near or did_you_mean(item_id, list(self._added_rows)[:NEAR_AMONG])
            raise EngineError(f"There is no item '{item_id}' in the catalogue.{near}")
        return row

    def has(self, item_id: str) -> bool:
        """Say whether there is such an item."""
        return item_id in self._catalogue_rows or item_id in self._added_rows

    def item_id(self, row: int) -> str:
        """Return the outside id."""
        added = self._added_at(row)
        return self._catalogue.item_ids[row] if added is None else added.item_id

    def title(self, row: int) -> str | None:
        """Return the title, None where there is none."""
        added = self._added_at(row)
        return self._catalogue.titles[row] or None if added is None else added.title

    def text(self, row: int, *, features: Sequence[str]) -> str | None:
        """Return what the encoder reads as the title: the title with text features behind, None where all is empty."""
        if not features:
            return self.title(row)
        added = self._added_at(row)
        values = self._catalogue.items.row(row, named=True) if added is None else added.features
        return with_features(self.title(row), [values.get(name) for name in features]) or None

    def pixels(self, rows: Sequence[int]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Return photos uint8 ``[n, px, px, 3]``, zeros where there is none, and which items have one ``[n]``."""
        photos = self._catalogue.photos
        listed = np.asarray(rows, dtype=np.int64)
        own = listed < self._catalogue.num_items
        pixels = np.zeros((len(listed), photos.px, photos.px, 3), np.uint8)
        has = np.zeros(len(listed), np.bool_)
        pixels[own], has[own] = photos.pixels(listed[own]), photos.has[listed[own]]
        for place in np.flatnonzero(~own):
            added = self._added[listed[place] - self._catalogue.num_items]
            if added.pixels is not None:
                pixels[place], has[place] = added.pixels, True
        return pixels, has

    def other_pixels(self, rows: Sequence[int], *, most: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Return further photos as `PhotoStore.other_pixels` does; items added at run time have none."""
        listed = np.asarray(rows, dtype=np.int64)
        own = listed < self._catalogue.num_items
        pixels, present = self._catalogue.photos.other_pixels(np.where(own, listed, 0), most=most)
        return pixels, present & own[:, None]

    def encode(self, rows: Sequence[int], *, embedder: Embedder) -> NDArray[np.float32]:
        """Encode items ``[n, dim]``."""
        titles = [self.text(row, features=embedder.title_features) for row in rows]
        if not embedder.modalities.reads_photo:
            return embedder.items(titles)
        pixels, has_photo = self.pixels(rows)
        return embedder.items(titles, pixels=pixels, has_photo=has_photo)

    def jpeg(self, row: int) -> bytes | None:
        """Return the photo as the page shows it, None where there is none."""
        added = self._added_at(row)
        return self._catalogue.photos.jpeg(row) if added is None else added.jpeg

    def shown(self, row: int) -> dict[str, Any]:
        """Return what is shown of an item: its columns, ``has_photo``, and whether it was added at run time."""
        added = self._added_at(row)
        if added is None:
            columns = self._catalogue.items.row(row, named=True)
            columns["cells"] = columns["cells"] or []
            return columns | {"has_photo": bool(self._catalogue.photos.has[row]), "added": False}
        columns = {name: getattr(added, name) for name in self._catalogue.items.columns if hasattr(added, name)}
        features = {name: added.features.get(name) for name in self._catalogue.feature_roles}
        return columns | features | {"has_photo": added.jpeg is not None, "added": True}

    def _added_at(self, row: int) -> NewItem | None:
        place = row - self._catalogue.num_items
        return None if place < 0 else self._added[place]
