"""Items added at run time: from a user's rows to items that can be encoded, shown and filtered."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from triptych.data.images import decode_photo, display_jpeg, read_photo
from triptych.data.schema import Role
from triptych.data.text import with_features
from triptych.encoders.embed import Embedder
from triptych.engine.code_sets import Shown
from triptych.engine.photos import PhotoError
from triptych.foundation.errors import DataError, EngineError, did_you_mean

MAX_ADDED_ITEMS = 100_000
"""Most items an engine takes at run time: they live in memory, and every addition copies what is searched."""
COLUMNS = ("item_id", "title", "photo", "category", "brand", "merchant", "price", "cells")
"""Columns of a row; the catalogue's features follow."""


@dataclass(frozen=True, eq=False)
class NewItem:
    """One checked item."""

    item_id: str
    title: str | None
    category: str | None
    brand: str | None
    merchant: str | None
    price: float | None
    cells: list[str]
    first_seen: datetime
    pixels: NDArray[np.uint8] | None
    """``[px, px, 3]``, as the encoder sees it."""
    jpeg: bytes | None
    """As the page shows it."""
    file: bytes | None
    """As it was given, for the journal; `lightened` drops it."""
    features: dict[str, Any] = field(default_factory=dict)

    def text(self, features: Sequence[str]) -> str | None:
        """Return what the encoder reads as the title: the title with text features behind, None where all is empty."""
        if not features:
            return self.title
        return with_features(self.title, [self.features.get(name) for name in features]) or None

    def row(self) -> dict[str, Any]:
        """Return the row that it was made from, without what is empty; ``photo`` is the bytes of the file."""
        columns = {name: getattr(self, name) for name in COLUMNS if name != "photo"}
        given = columns | {"photo": self.file} | self.features
        return {name: value for name, value in given.items() if value is not None and value != []}

    def lightened(self, *, gone: bool = False) -> NewItem:
        """Return the same without the photo's file; of an item that has gone without its pictures, too."""
        return replace(self, file=None, pixels=None, jpeg=None) if gone else replace(self, file=None)


class PhotoSizes(NamedTuple):
    """How large a catalogue's photos are, in pixels."""

    px: int
    """Side of the square the encoder sees."""
    display_px: int
    """Longest side of the photo that is shown."""


def check_rows(
    rows: Sequence[Mapping[str, Any]],
    *,
    features: Mapping[str, Role],
    is_known: Callable[[str], bool],
    room: int,
    photos: PhotoSizes,
    now: datetime | None = None,
) -> list[NewItem]:
    """Check rows and decode their photos; all or none.

    Args:
        rows: ``item_id`` and at least one of ``title`` and ``photo`` (a path, or the bytes of a file); also
            ``category``, ``brand``, ``merchant``, ``price``, ``cells`` and the catalogue's features.
        features: the catalogue's further columns, and what each is.
        is_known: says whether an item id is taken.
        room: most items that may still be added.
        photos: how they are kept.
        now: when they were added; None: just now.

    Raises:
        EngineError: the first mistake, with the row's place (from 1) and its item; or there is no room.
    """
    if isinstance(rows, Mapping):
        raise EngineError("Items are given as a list of rows; put this one row into a list: [row].")
    if len(rows) > room:
        raise EngineError(
            f"There is room for {room:,} more items at run time, these are {len(rows):,}. "
            "Put new items into the items table and make the run anew."
        )
    now = now or datetime.now(UTC)
    items: list[NewItem] = []
    taken: set[str] = set()
    for place, row in enumerate(rows, start=1):
        item_id = row.get("item_id")
        if not isinstance(item_id, str) or not item_id.strip():
            raise EngineError(f"New item {place}: item_id is {item_id!r}, it must be a text that is not empty.")
        where = f"New item {place} ('{item_id}')"
        if item_id in taken:
            raise EngineError(f"{where}: the item is given twice. Keep one of its rows.")
        if is_known(item_id):
            raise EngineError(f"{where}: there is an item of this id already. Choose another id, or replace it.")
        taken.add(item_id)
        items.append(_check(row, where=where, features=features, photos=photos, now=now))
    return items


def encode_items(items: Sequence[NewItem], *, embedder: Embedder) -> NDArray[np.float32]:
    """Encode items ``[n, dim]``; they have one photo at most."""
    titles = [item.text(embedder.title_features) for item in items]
    if not embedder.modalities.reads_photo:
        return embedder.items(titles)
    pixels = _pixels(items, px=embedder.px)
    return embedder.items(titles, pixels=pixels, has_photo=[item.pixels is not None for item in items])


def shown_items(
    items: Sequence[NewItem], *, vectors: NDArray[np.float32], embedder: Embedder, with_photos: bool
) -> Shown:
    """Tell of items what a model may read.

    Args:
        items: checked.
        vectors: as `encode_items` returns them.
        embedder: that encoder.
        with_photos: whether photos are looked at by themselves.
    """
    return Shown(
        [item.item_id for item in items],
        [item.title or "" for item in items],
        [item.text(embedder.title_features) for item in items],
        vectors,
        _pixels(items, px=embedder.px) if with_photos else None,
        np.array([item.pixels is not None for item in items], dtype=np.bool_),
    )


def _pixels(items: Sequence[NewItem], *, px: int) -> NDArray[np.uint8]:
    """Return the photos ``[n, px, px, 3]``, black where there is none."""
    pixels = np.zeros((len(items), px, px, 3), np.uint8)
    for place, item in enumerate(items):
        if item.pixels is not None:
            pixels[place] = item.pixels
    return pixels


def _check(
    row: Mapping[str, Any], *, where: str, features: Mapping[str, Role], photos: PhotoSizes, now: datetime
) -> NewItem:
    allowed = [*COLUMNS, *features]
    for name in row:
        if name not in allowed:
            hint = did_you_mean(str(name), allowed) or f" Valid: {', '.join(allowed)}."
            raise EngineError(f"{where}: there is no column '{name}' in this catalogue.{hint}")
    title = _text(row, "title", where=where)
    file, pixels, jpeg = _photo(row.get("photo"), where=where, photos=photos)
    if title is None and pixels is None:
        raise EngineError(f"{where}: it has neither a title nor a photo, so nothing could find it. Give one of them.")
    return NewItem(
        item_id=row["item_id"],
        title=title,
        category=_text(row, "category", where=where),
        brand=_text(row, "brand", where=where),
        merchant=_text(row, "merchant", where=where),
        price=_price(row, where=where),
        cells=_texts(row, "cells", where=where),
        first_seen=now,
        pixels=pixels,
        jpeg=jpeg,
        file=file,
        features={name: _feature(row, name, role=role, where=where) for name, role in features.items() if name in row},
    )


def _text(row: Mapping[str, Any], name: str, *, where: str) -> str | None:
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise EngineError(f"{where}: {name} is {value!r}, it must be a text.")
    return value if value and value.strip() else None


def _price(row: Mapping[str, Any], *, where: str) -> float | None:
    value = row.get("price")
    if value is not None and (not _is_number(value) or value < 0):
        raise EngineError(f"{where}: price is {value!r}, it must be a number from 0 up.")
    return None if value is None else float(value)


def _feature(row: Mapping[str, Any], name: str, *, role: Role, where: str) -> str | float | list[str] | None:
    """Return a feature's value in the type its column is kept in."""
    if role is Role.MULTI:
        return _texts(row, name, where=where)
    if role is not Role.NUMERIC:
        return _text(row, name, where=where)
    value = row[name]
    if value is not None and not _is_number(value):
        raise EngineError(f"{where}: {name} is {value!r}, it must be a number.")
    return None if value is None else float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _texts(row: Mapping[str, Any], name: str, *, where: str) -> list[str]:
    value = row.get(name)
    texts = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) and text for text in texts):
        raise EngineError(f"{where}: {name} is {value!r}, it must be a list of texts.")
    return list(dict.fromkeys(texts))


class _Photo(NamedTuple):
    file: bytes | None
    pixels: NDArray[np.uint8] | None
    jpeg: bytes | None


def _photo(source: Any, *, where: str, photos: PhotoSizes) -> _Photo:
    if source is None:
        return _Photo(None, None, None)
    if isinstance(source, str):
        source = Path(source)
    if not isinstance(source, bytes | Path):
        raise EngineError(f"{where}: photo is a {type(source).__name__}, it must be a path or the bytes of a file.")
    try:
        file = source if isinstance(source, bytes) else read_photo(source)  # once: what is kept is what was seen
        return _Photo(file, decode_photo(file, px=photos.px), display_jpeg(file, px=photos.display_px))
    except DataError as error:
        raise PhotoError(f"{where}: the photo cannot be used: {error}.") from None
