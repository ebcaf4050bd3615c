"""Items added at run time: from a user's rows to items that can be encoded, shown and filtered."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.data.images import decode_photo, display_jpeg
from triptych.data.schema import Role
from triptych.engine.photos import PhotoError
from triptych.foundation.errors import DataError, EngineError, did_you_mean

MAX_ADDED_ITEMS = 100_000
"""Most items an engine takes at run time: they live in memory, and every addition copies what is searched."""


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
    features: dict[str, Any] = field(default_factory=dict)


def check_rows(
    rows: Sequence[Mapping[str, Any]],
    *,
    features: Mapping[str, Role],
    is_known: Callable[[str], bool],
    room: int,
    px: int,
    display_px: int,
) -> list[NewItem]:
    """Check rows and decode their photos; all or none.

    Args:
        rows: ``item_id`` and at least one of ``title`` and ``photo`` (a path, or the bytes of a file); also
            ``category``, ``brand``, ``merchant``, ``price``, ``cells`` and the catalogue's features.
        features: the catalogue's further columns, and what each is.
        is_known: says whether an item id is taken.
        room: most items that may still be added.
        px: side of the square the encoder sees.
        display_px: longest side of the photo that is shown.

    Raises:
        EngineError: the first mistake, with the row's place (from 1) and its item; or there is no room.
    """
    if isinstance(rows, Mapping):
        raise EngineError("add_items takes a list of rows; put this one row into a list: [row].")
    if len(rows) > room:
        raise EngineError(
            f"There is room for {room:,} more items at run time, these are {len(rows):,}. "
            "Put new items into the items table and make the run anew."
        )
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
            raise EngineError(f"{where}: there is an item of this id already. Choose another id.")
        taken.add(item_id)
        items.append(_check(row, where=where, features=features, px=px, display_px=display_px))
    return items


def _check(row: Mapping[str, Any], *, where: str, features: Mapping[str, Role], px: int, display_px: int) -> NewItem:
    allowed = ["item_id", "title", "photo", "category", "brand", "merchant", "price", "cells", *features]
    for name in row:
        if name not in allowed:
            hint = did_you_mean(str(name), allowed) or f" Valid: {', '.join(allowed)}."
            raise EngineError(f"{where}: there is no column '{name}' in this catalogue.{hint}")
    title = _text(row, "title", where=where)
    pixels, jpeg = _photo(row.get("photo"), where=where, px=px, display_px=display_px)
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
        first_seen=datetime.now(UTC),
        pixels=pixels,
        jpeg=jpeg,
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


def _photo(source: Any, *, where: str, px: int, display_px: int) -> tuple[NDArray[np.uint8] | None, bytes | None]:
    if source is None:
        return None, None
    if isinstance(source, str):
        source = Path(source)
    if not isinstance(source, bytes | Path):
        raise EngineError(f"{where}: photo is a {type(source).__name__}, it must be a path or the bytes of a file.")
    try:
        return decode_photo(source, px=px), display_jpeg(source, px=display_px)
    except DataError as error:
        raise PhotoError(f"{where}: the photo cannot be used: {error}.") from None
