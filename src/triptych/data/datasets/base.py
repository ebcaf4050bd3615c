"""What a dataset is: a config that writes tables and says where they are."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from triptych.data.schema import EventsConfig, ItemsConfig, JudgementsConfig
from triptych.foundation.config import Config
from triptych.foundation.errors import DataError

DATA_VARIABLE = "TRIPTYCH_DATA"
"""Environment variable that names the folder of the real data sets."""


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
