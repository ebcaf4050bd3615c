"""Items added at run time: from a user's rows to items that can be encoded, shown and filtered."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.data.images import decode_photo, display_jpeg
from triptych.foundation.errors import DataError, EngineError, did_you_mean


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
    features: Collection[str],
    is_known: Callable[[str], bool],
    px: int,
    display_px: int,
) -> list[NewItem]:
    """Check rows and decode their photos; all or none.

    Args:
        rows: ``item_id`` and at least one of ``title`` and ``photo`` (a path, or the bytes of a file); also
            ``category``, ``brand``, ``merchant``, ``price``, ``cells`` and the catalogue's features.
        features: names of the catalogue's further columns.
        is_known: says whether an item id is taken.
        px: side of the square the encoder sees.
        display_px: longest side of the photo that is shown.

    Raises:
        EngineError: the first mistake, with the row's place (from 1) and its item.
    """
    if isinstance(rows, Mapping):
        raise EngineError("add_items takes a list of rows; put this one row into a list: [row].")
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


def _check(row: Mapping[str, Any], *, where: str, features: Collection[str], px: int, display_px: int) -> NewItem:
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
        price=_price(row.get("price"), where=where),
        cells=_cells(row.get("cells"), where=where),
        first_seen=datetime.now(UTC),
        pixels=pixels,
        jpeg=jpeg,
        features={name: row[name] for name in features if name in row},
    )


def _text(row: Mapping[str, Any], name: str, *, where: str) -> str | None:
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise EngineError(f"{where}: {name} is {value!r}, it must be a text.")
    return value if value and value.strip() else None


def _price(value: Any, *, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise EngineError(f"{where}: price is {value!r}, it must be a number from 0 up.")
    return float(value)


def _cells(value: Any, *, where: str) -> list[str]:
    cells = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(cells, list | tuple) or not all(isinstance(cell, str) and cell for cell in cells):
        raise EngineError(f"{where}: cells is {value!r}, it must be a list of texts.")
    return list(dict.fromkeys(cells))


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
        raise EngineError(f"{where}: the photo cannot be used: {error}.") from None
