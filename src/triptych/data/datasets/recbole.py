"""Reader of RecBole's atomic files: ``NAME.inter`` and ``NAME.item``, tab-separated, with ``name:type`` in the header.

Source: Zhao et al., "RecBole: Towards a Unified, Comprehensive and Efficient Framework for Recommendation Algorithms",
CIKM 2021. A ``token`` becomes a categorical feature, a ``token_seq`` (words between spaces) a title or a multi-valued
feature, a ``float`` a number. A ``float_seq`` has no place in the items table and is left out, and so is
``NAME.user``: users have no features here. A split brought as ``NAME.train.inter``, ``NAME.valid.inter`` and
``NAME.test.inter`` is read with ``split.by = "given"``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import polars as pl

from triptych.data.datasets.base import (
    Card,
    DatasetConfig,
    Tables,
    events_config,
    find_one,
    items_config,
    times_in_order,
)
from triptych.data.fields import ITEM_FIELDS
from triptych.data.guess import named_like
from triptych.data.schema import PART, EventKind, Part, Role
from triptych.data.simulate.tables import EVENTS_FILE, ITEMS_FILE, write_parquet
from triptych.data.tables import read_frame
from triptych.foundation.errors import DataError, did_you_mean

INTER, ITEM = ".inter", ".item"
_PART_FILES = {Part.TRAIN: "train", Part.VALIDATION: "valid", Part.TEST: "test"}
_TYPES = ("token", "token_seq", "float", "float_seq")
_ROLES = {"token": Role.CATEGORICAL, "token_seq": Role.MULTI, "float": Role.NUMERIC}
_CANONICAL = {"title": ("token", "token_seq"), "category": ("token",), "brand": ("token",), "price": ("float",)}
"""Item columns that are recognised by name → the types they may have."""


class RecboleConfig(DatasetConfig):
    """A folder of atomic files."""

    kind: Literal["recbole"] = "recbole"
    """Name of the dataset."""
    path: str = "."
    """Folder that holds ``NAME.inter``, relative to the current one."""
    name: str | None = None
    """Of the data set, as in ``NAME.inter``; none: the one data set of the folder."""
    user: str = "user_id"
    """Field of the user (RecBole's USER_ID_FIELD)."""
    item: str = "item_id"
    """Field of the item (ITEM_ID_FIELD)."""
    time: str = "timestamp"
    """Field of the time (TIME_FIELD); where the file has none, the order of its rows stands for time."""
    rating: str = "rating"
    """Field of the rating (RATING_FIELD), read only with positive_rating."""
    positive_rating: float | None = None
    """Rating from which an interaction is a click, a lower one an impression; none: every interaction is a click."""
    title: str | None = None
    """Field of the item's title; none: the one that is called like a title."""

    def prepare(self, out: Path) -> Tables:
        """Write items and events under canonical names."""
        events = self._events()
        items, features = self._items()
        met = events.select("item_id").unique(maintain_order=True)
        if items is None:
            items = met
        else:  # RecBole keeps items that were met and are not described
            others = met.join(items, on="item_id", how="anti", maintain_order="left")
            items = pl.concat([items, others], how="diagonal")
        write_parquet(items, out / ITEMS_FILE)
        write_parquet(events, out / EVENTS_FILE)
        columns = {name: name for name in _CANONICAL if name in items.columns}
        return Tables(
            items=items_config(ITEMS_FILE, features=features, **columns),
            events=events_config(EVENTS_FILE, part=PART in events.columns),
            judgements=None,
        )

    def source_files(self) -> Sequence[Path]:
        """Return the files that are read."""
        item = self._item_file()
        return (*self._inter_files().values(), *([item] if item.is_file() else []))

    def card(self) -> Card:
        """Return what is known of the data: their folder."""
        threshold = "Every interaction is a click."
        if self.positive_rating is not None:
            threshold = f"A rating of {self.positive_rating:g} or more is a click, a lower one an impression."
        return Card(
            name=self.name or "recbole",
            source=f"RecBole's atomic files, folder {self.path}",
            licence="that of the data you brought",
            note=f"{threshold} Features of users are not read.",
            simulated=False,
        )

    def _inter_files(self) -> dict[Part | None, Path]:
        """Return the files of the interactions, by the part they hold; None: the file holds all."""
        folder = Path(self.path)
        stem = self.name or next((file.name.removesuffix(".train.inter") for file in folder.glob("*.train.inter")), "")
        parts: dict[Part | None, Path] = {part: folder / f"{stem}.{word}{INTER}" for part, word in _PART_FILES.items()}
        if all(file.is_file() for file in parts.values()):
            return parts
        return {None: find_one(self.path, name=self.name, suffix=INTER)}

    def _item_file(self) -> Path:
        inter = next(iter(self._inter_files().values()))
        return inter.with_name(inter.name.removesuffix(INTER).removesuffix(".train") + ITEM)

    def _events(self) -> pl.DataFrame:
        """Read time, user, item_id, kind, and the part where the files bring a split."""
        read = []
        for part, file in self._inter_files().items():
            frame, types = _read_atomic(file)
            for name in (self.user, self.item, *([self.rating] if self.positive_rating is not None else [])):
                if name not in types:
                    near = did_you_mean(name, types)
                    raise DataError(f"{file.name} has no field '{name}'.{near} Its fields are {', '.join(types)}.")
            kind = pl.lit(EventKind.CLICK.value)
            if self.positive_rating is not None:
                is_positive = pl.col(self.rating).cast(pl.Float64) >= self.positive_rating
                kind = pl.when(is_positive).then(kind).otherwise(pl.lit(EventKind.IMPRESSION.value))
            columns = {"user": pl.col(self.user), "item_id": pl.col(self.item), "kind": kind}
            if self.time in types:
                columns["time"] = pl.col(self.time).cast(pl.Float64)
            if part is not None:
                columns[PART] = pl.lit(part.value)
            read.append(frame.select(**columns))
        events = pl.concat(read)
        return events if "time" in events.columns else events.with_columns(times_in_order(events.height))

    def _items(self) -> tuple[pl.DataFrame | None, dict[str, Role]]:
        """Read the items and what their further columns hold; None where there is no such file."""
        file = self._item_file()
        if not file.is_file():
            return None, {}
        frame, types = _read_atomic(file)
        if self.item not in types:
            raise DataError(f"{file.name} has no field '{self.item}'. Its fields are {', '.join(types)}.")
        names = {self.item: "item_id"}
        for one in ITEM_FIELDS:
            may_be = [name for name, kind in types.items() if kind in _CANONICAL.get(one.name, ())]
            column = named_like(one, may_be, taken=names)
            if one.name == "title" and self.title is not None:
                if self.title not in types:
                    raise DataError(f"{file.name} has no field '{self.title}' for the title.")
                column = self.title
            if column is not None:
                names[column] = one.name
        features = {name: _ROLES[kind] for name, kind in types.items() if name not in names and kind in _ROLES}
        lists = [name for name, role in features.items() if role is Role.MULTI]
        words = pl.col(lists).str.split(" ").list.eval(pl.element().str.strip_chars(","))
        kept = frame.with_columns(words).select(*names, *features)
        return kept.rename({old: new for old, new in names.items() if old != new}), features


def _read_atomic(file: Path) -> tuple[pl.DataFrame, dict[str, str]]:
    """Read a file as text, with its bare field names, and the type of each.

    Raises:
        DataError: a field has no type, or one that RecBole does not have.
    """
    frame = read_frame(file)
    types = {}
    for column in frame.columns:
        name, _, kind = column.rpartition(":")
        if not name or kind not in _TYPES:
            raise DataError(
                f"{file.name}: field '{column}' has no type; in an atomic file each is name:type, with one of "
                f"{', '.join(_TYPES)}."
            )
        types[name] = kind
    return frame.rename(dict(zip(frame.columns, types, strict=True))), types


CONFIG = RecboleConfig
