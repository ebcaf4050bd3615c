"""What a dataset is: a config that writes tables and says where they are."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from triptych.data.schema import PART, EventsConfig, ItemsConfig, JudgementsConfig, Part, Role
from triptych.foundation.config import Config
from triptych.foundation.errors import DataError

DATA_VARIABLE = "TRIPTYCH_DATA"
"""Environment variable that names the folder of the real data sets."""

_FIRST_SECOND = 946_684_800
"""2000-01-01 UTC."""


class Tables(NamedTuple):
    """Where a dataset's tables are and what their columns mean; paths are relative to the folder prepared."""

    items: ItemsConfig
    events: EventsConfig | None
    judgements: JudgementsConfig | None


class Card(NamedTuple):
    """Where a dataset comes from."""

    name: str
    source: str
    licence: str
    note: str
    """What a reader of any number made from it has to know."""
    simulated: bool
    """Whether its behaviour (queries, impressions, clicks, orders) is simulated; every table made from it says so."""


class PhotoQuery(NamedTuple):
    """A photo that asks for the items it shows; it is no item's own photo."""

    path: Path
    item_ids: tuple[str, ...]
    """What it shows, at least one item."""
    part: Part
    """Settings may be chosen on validation; there is none to train on."""


class DatasetConfig(Config):
    """Base of every dataset."""

    kind: str
    """Name of the dataset's file."""

    @abstractmethod
    def prepare(self, out: Path) -> Tables:
        """Write ``items.parquet``, and what there is of ``events.parquet``, ``judgements.parquet`` and photos.

        What an interrupted attempt left in `out` is overwritten. The same config gives the same bytes.

        Args:
            out: a folder that exists.

        Raises:
            DataError: the data it reads is absent or damaged.
        """

    @abstractmethod
    def card(self) -> Card:
        """Return the dataset's origin and licence."""

    def source_files(self) -> Sequence[Path]:
        """Return the files that `prepare` reads: their bytes enter the artefact's id, so changed data is new work.

        Raises:
            DataError: the data is absent.
        """
        return ()

    def photo_folder(self) -> Path | None:
        """Return the folder of photos that stay where they are; None where `prepare` writes its own, or has none."""
        return None

    def photo_queries(self) -> Sequence[PhotoQuery]:
        """Return photos that ask for the items they show; none for most datasets.

        Raises:
            DataError: the data is absent.
        """
        return ()


def items_config(path: str, *, features: Mapping[str, Role] | None = None, **columns: str) -> ItemsConfig:
    """Describe an items table that a dataset writes under our own column names, so that nothing is guessed.

    Args:
        path: the file, relative to the folder prepared.
        features: further columns → what they hold.
        columns: further fields of `ItemsConfig`, such as ``photo="photo"``; those not named are not in the table.
    """
    absent = dict.fromkeys(("title", "photo", "category", "brand", "merchant", "price", "cells", "first_seen"), "")
    return ItemsConfig.parse({"path": path, "id": "item_id", **absent, **columns, "features": dict(features or {})})


def events_config(path: str, *, part: bool = False) -> EventsConfig:
    """Describe an events table of users without queries (time, user, item_id, kind) that a dataset writes.

    Args:
        path: the file, relative to the folder prepared.
        part: whether it has the column ``part``.
    """
    absent = dict.fromkeys(("query", "page", "position", "cell"), "")
    known = {"user": "user", "item": "item_id", "time": "time", "kind": "kind", "part": PART if part else ""}
    return EventsConfig.parse({"path": path, **known, **absent})


def times_in_order(num_rows: int) -> pl.Series:
    """Return times for a log that has none: its rows, a second apart, in epoch seconds ``[num_rows]``."""
    return pl.Series("time", range(_FIRST_SECOND, _FIRST_SECOND + num_rows), dtype=pl.Int64)


def find_one(folder: str, *, name: str | None, suffix: str) -> Path:
    """Find the file ``name`` + `suffix` of a folder; without a name, the only file with that suffix.

    Raises:
        DataError: there is none, or several without a name to choose by.
    """
    place = Path(folder)
    found = sorted(place.glob(f"{name or '*'}{suffix}"))
    if len(found) == 1:
        return found[0]
    if not found:
        listed = ", ".join(sorted(one.name for one in place.glob("*"))[:10]) if place.is_dir() else "no such folder"
        raise DataError(f"dataset.path = '{folder}': there is no {name or 'NAME'}{suffix} in it ({listed or 'empty'}).")
    listed = ", ".join(one.name for one in found)
    raise DataError(f"dataset.path = '{folder}' holds {listed}; say which with dataset.name.")


def dataset_folder(name: str, *, data_root: str | None) -> Path:
    """Find the folder of a real data set.

    Looked up in this order: `data_root` of the config, the environment variable TRIPTYCH_DATA, and
    ``../shared/data`` beside the current directory.

    Raises:
        DataError: none of them has the folder.
    """
    named = data_root or os.environ.get(DATA_VARIABLE)
    root = Path(named) if named else Path("..") / "shared" / "data"
    folder = (root / name).resolve()
    if not folder.is_dir():
        origin = "data_root" if data_root else DATA_VARIABLE if named else "the default folder"
        raise DataError(
            f"{origin} ({root}) has no folder '{name}'. Set data_root or the environment variable {DATA_VARIABLE} to "
            f"the folder that holds '{name}'."
        )
    return folder
