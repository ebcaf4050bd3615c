"""The shelf: all items an engine knows at one moment, those added at run time included. Replaced, never changed.

A row is never given to another item. An item that is replaced gets a new row; its old one, like that of an item that is
removed, is dead: nothing finds it any more, but its vector stays, so that histories that name it keep their meaning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.data.catalogue import NEAR_AMONG, Catalogue
from triptych.data.text import with_features
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
        """Wrap a catalogue, the row of each of its ids, and what was added; use `of` and `changed`."""
        self._catalogue = catalogue
        self._catalogue_rows = rows
        self._added = tuple(added)
        self._added_rows = {
            item.item_id: row for row, item in enumerate(self._added, start=catalogue.num_items) if columns.live[row]
        }
        self.columns = columns

    @classmethod
    def of(cls, catalogue: Catalogue) -> Shelf:
        """Start with a catalogue."""
        rows = {item_id: row for row, item_id in enumerate(catalogue.item_ids)}
        return cls(catalogue, rows=rows, columns=FilterColumns.of(catalogue.items.select("category", "cells", "price")))

    def changed(self, new: Sequence[NewItem], *, without: Sequence[int] = ()) -> Shelf:
        """Return a shelf with rows taken away, and items appended."""
        gone = set(without)
        added = [
            item.lightened(gone=True) if row in gone else item
            for row, item in enumerate(self._added, start=self._catalogue.num_items)
        ]
        columns = (self.columns.without(without) if gone else self.columns).extended(
            categories=[item.category for item in new],
            cells=[item.cells for item in new],
            prices=[item.price for item in new],
        )
        added += [item.lightened() for item in new]
        return Shelf(self._catalogue, rows=self._catalogue_rows, columns=columns, added=added)

    @property
    def num_items(self) -> int:
        """Number of items, added ones included; not those that have gone."""
        return int(np.count_nonzero(self.columns.live))

    @property
    def num_added(self) -> int:
        """Number of items added at run time, or replaced."""
        return len(self._added_rows)

    @property
    def num_changes(self) -> int:
        """Number of items that are not as the catalogue has them: added, replaced or removed."""
        dead = np.flatnonzero(~self.columns.live[: self._catalogue.num_items]).tolist()
        return self.num_added + sum(self._catalogue.item_ids[row] not in self._added_rows for row in dead)

    @property
    def num_added_rows(self) -> int:
        """Number of rows given at run time, those of items that have gone since included."""
        return len(self._added)

    def row(self, item_id: str) -> int:
        """Return the row of an item.

        Raises:
            EngineError: there is no such item; the nearest id is named.
        """
        if not isinstance(item_id, str):
            raise EngineError(f"An item is named by its item_id, a text, not by {item_id!r}.")
        row = self._live_row(item_id)
        if row is None:
            near = did_you_mean(item_id, self._catalogue.item_ids[:NEAR_AMONG])
            near = near or did_you_mean(item_id, list(self._added_rows)[:NEAR_AMONG])
            raise EngineError(f"There is no item '{item_id}' in the catalogue.{near}")
        return row

    def has(self, item_id: str) -> bool:
        """Say whether there is such an item."""
        return self._live_row(item_id) is not None

    def own_row(self, item_id: str) -> int | None:
        """Return the row that the catalogue gave an id, whatever has become of it; None: it has no such item."""
        return self._catalogue_rows.get(item_id)

    def history_row(self, item_id: str) -> int:
        """Return the row of an item that a history names; one of the catalogue's that has gone still says what it was.

        Raises:
            EngineError: there never was such an item; the nearest id is named.
        """
        own = self.own_row(item_id) if isinstance(item_id, str) and not self.has(item_id) else None
        return self.row(item_id) if own is None else own

    def current(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows that these rows' ids have now; that of an item that has gone is still the old one."""
        if self.columns.live[rows].all():
            return rows
        return np.array([self._added_rows.get(self.item_id(row), row) for row in rows.tolist()], dtype=np.int64)

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
        added = self._added_at(row)
        if added is not None:
            return added.text(features)
        if not features:
            return self.title(row)
        values = self._catalogue.items.row(row, named=True)
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

    def _live_row(self, item_id: str) -> int | None:
        row = self._added_rows.get(item_id)
        if row is None:
            row = self._catalogue_rows.get(item_id)
        return row if row is not None and self.columns.live[row] else None

    def _added_at(self, row: int) -> NewItem | None:
        place = row - self._catalogue.num_items
        return None if place < 0 else self._added[place]
