"""Reader of MMRec's folders: ``NAME.inter`` with its own split, and vectors of the items in ``*_feat.npy``.

Source: Zhou, "MMRec: Simplifying Multimodal Recommendation", 2023. Users and items are whole numbers from 0, an item's
number is its row in the feature files, every interaction is a choice, and the column ``x_label`` says 0 (train),
1 (validation) or 2 (test): read it with ``split.by = "given"``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from triptych.data.datasets.base import (
    Card,
    DatasetConfig,
    Tables,
    events_config,
    find_one,
    items_config,
    times_in_order,
)
from triptych.data.schema import PART, EventKind
from triptych.data.simulate.tables import EVENTS_FILE, ITEMS_FILE, write_parquet
from triptych.data.tables import read_frame
from triptych.foundation.errors import DataError

INTER = ".inter"
FEATURES = "_feat.npy"
USER, ITEM, TIME, LABEL = "userID", "itemID", "timestamp", "x_label"


class MmrecConfig(DatasetConfig):
    """A folder in MMRec's format. Titles and photos are not part of it: there is nothing for an encoder to read."""

    kind: Literal["mmrec"] = "mmrec"
    """Name of the dataset."""
    path: str = "."
    """Folder that holds ``NAME.inter``, relative to the current one."""
    name: str | None = None
    """Of the data set, as in ``NAME.inter``; none: the one ``.inter`` file of the folder."""

    def prepare(self, out: Path) -> Tables:
        """Write the items (numbers only) and the events; the vectors stay where they are (`vectors`)."""
        events = self._interactions()
        numbers = range(self._num_items(events))
        write_parquet(pl.DataFrame({"item_id": [str(number) for number in numbers]}), out / ITEMS_FILE)
        times = pl.col(TIME).cast(pl.Float64) if TIME in events.columns else times_in_order(events.height)
        written = events.select(
            time=times,
            user=pl.col(USER).cast(pl.String),
            item_id=pl.col(ITEM).cast(pl.String),
            kind=pl.lit(EventKind.CLICK.value),
            part=pl.col(LABEL),
        )
        write_parquet(written.rename({"part": PART}), out / EVENTS_FILE)
        return Tables(items=items_config(ITEMS_FILE), events=events_config(EVENTS_FILE, part=True), judgements=None)

    def source_files(self) -> Sequence[Path]:
        """Return the interactions and the feature files."""
        return (self._inter(), *self._feature_files().values())

    def vectors(self) -> Mapping[str, NDArray[Any]]:
        """Map the items' vectors: ``image`` for ``image_feat.npy`` and so on, each ``[items, dim]`` by item row.

        Raises:
            DataError: a file does not have one row for each item.
        """
        num_items = self._num_items(self._interactions())
        found = {name: np.load(file, mmap_mode="r", allow_pickle=False) for name, file in self._feature_files().items()}
        for name, vectors in found.items():
            if vectors.ndim != 2 or len(vectors) != num_items:
                raise DataError(
                    f"{name}{FEATURES} has the shape {vectors.shape}; it must have one row for each of the "
                    f"{num_items:,} items of {self._inter().name}."
                )
        return found

    def card(self) -> Card:
        """Return what is known of the data: their folder."""
        return Card(
            name=self.name or "mmrec",
            source=f"interactions in MMRec's format, folder {self.path}",
            licence="that of the data you brought",
            note="Every interaction is a click. Without a timestamp, the order of the rows stands for time.",
            simulated=False,
        )

    def _inter(self) -> Path:
        return find_one(self.path, name=self.name, suffix=INTER)

    def _feature_files(self) -> dict[str, Path]:
        return {file.name.removesuffix(FEATURES): file for file in sorted(Path(self.path).glob(f"*{FEATURES}"))}

    def _interactions(self) -> pl.DataFrame:
        """Read user, item, label and, where there is one, time; users and items as numbers."""
        file = self._inter()
        frame = read_frame(file)
        absent = [name for name in (USER, ITEM, LABEL) if name not in frame.columns]
        if absent:
            raise DataError(
                f"{file.name} has no column '{absent[0]}' (it has {', '.join(frame.columns)}); MMRec's files have "
                f"{USER}, {ITEM} and {LABEL}, separated by tabs."
            )
        numbers = frame.with_columns(pl.col(USER, ITEM).cast(pl.Int64, strict=False))
        for name in (USER, ITEM):
            wrong = (numbers[name].is_null() | (numbers[name] < 0).fill_null(False)).arg_true()
            if len(wrong) > 0:
                raise DataError(
                    f"{file.name}, line {wrong[0] + 2}: {name} is {frame[name][wrong[0]]!r}; MMRec numbers users and "
                    "items from 0."
                )
        return numbers.select(USER, ITEM, LABEL, *([TIME] if TIME in numbers.columns else []))

    def _num_items(self, events: pl.DataFrame) -> int:
        """Return the number of items: the largest number that was met, and 1."""
        return int(events.select(pl.col(ITEM).max()).item()) + 1


CONFIG = MmrecConfig
