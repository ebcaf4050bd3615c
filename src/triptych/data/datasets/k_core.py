"""Another dataset as tables of graph recommenders have it: a k-core of who chose what, divided at random by user.

Source: Zhou, "MMRec: Simplifying Multimodal Recommendation", 2023, whose notebooks keep users and items with at least
five interactions, put each user's in a random order, and hold out the last two (one for validation, one for test) of
fewer than ten, else the last fifth, half of it (rounded down) for validation. Read it with ``split.by = "given"``; the
tables made so also leave a user's validation choices among the answers: ``evaluation.history = "train"``.

Queries, impressions and judgements are left out: what is asked is what a user chose as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from triptych.data.datasets.base import Card, DatasetConfig, Tables, events_config
from triptych.data.schema import CLICK_KINDS, PART, EventKind, Part
from triptych.data.simulate.tables import EVENTS_FILE, ITEMS_FILE, write_parquet
from triptych.foundation.errors import DataError
from triptych.foundation.registry import one_of

FEW = 10
"""A user of fewer choices has one in validation and one in test."""
HELD_OUT_PERCENT = 20
"""Share that validation and test have of a user with more."""


class KCoreConfig(DatasetConfig):
    """The k-core of another dataset's choices."""

    kind: Literal["k_core"] = "k_core"
    """Name of the dataset."""
    of: Annotated[DatasetConfig, one_of("triptych.data.datasets")]
    """The dataset: its items, and who chose which of them."""
    core: int = Field(5, ge=3)
    """Items that every user chose at least, and users that chose every item; two of a user's are held out."""
    seed: int = 0
    """Draws the order of each user's choices."""

    def prepare(self, out: Path) -> Tables:
        """Have the dataset write its tables, and keep of them what is in the core.

        Raises:
            DataError: the dataset has no log, or nothing of it is in the core.
        """
        tables = self.of.prepare(out)
        if tables.events is None:
            raise DataError(f"dataset.of: '{self.of.kind}' has no log, and a core is of who chose what.")
        if tables.judgements is not None:
            (out / tables.judgements.path).unlink()
        events = pl.read_parquet(out / tables.events.path)
        chosen = core_of(first_choices(events), core=self.core)
        if chosen.is_empty():
            raise DataError(
                f"dataset.of: nothing is left of '{self.of.kind}' when every user and every item has {self.core} "
                "choices. Lower dataset.core."
            )
        codes = cut_at_random(chosen["user"].rank("dense").to_numpy() - 1, rng=np.random.default_rng([self.seed, 401]))
        parts = pl.Series(PART, [part.value for part in Part]).gather(codes)
        items = pl.read_parquet(out / tables.items.path)
        write_parquet(items.filter(pl.col("item_id").is_in(chosen["item_id"].implode())), out / ITEMS_FILE)
        written = chosen.with_columns(parts, kind=pl.lit(EventKind.CLICK.value))
        write_parquet(written.select("time", "user", "item_id", "kind", PART), out / EVENTS_FILE)
        return Tables(items=tables.items, events=events_config(EVENTS_FILE, part=True), judgements=None)

    def source_files(self) -> Sequence[Path]:
        """Return those of the dataset."""
        return self.of.source_files()

    def photo_folder(self) -> Path | None:
        """Return that of the dataset."""
        return self.of.photo_folder()

    def card(self) -> Card:
        """Return the dataset's, with what was kept of it."""
        card = self.of.card()
        note = f"{self.core}-core of its choices, each user's divided at random: later ones may be in training."
        return card._replace(name=f"{card.name}, {self.core}-core", note=f"{note} {card.note}".strip())


def first_choices(events: pl.DataFrame) -> pl.DataFrame:
    """Return each user's choices, every item once, when he first chose it: time, user, item_id, by time."""
    positive = pl.col("kind").is_in([kind.value for kind in CLICK_KINDS])
    chosen = events.filter(positive & pl.col("user").is_not_null()).sort("time", maintain_order=True)
    return chosen.unique(["user", "item_id"], keep="first", maintain_order=True).select("time", "user", "item_id")


def core_of(chosen: pl.DataFrame, *, core: int) -> pl.DataFrame:
    """Leave out users and items of fewer than `core` pairs until there are none; order stays.

    Args:
        chosen: distinct pairs of ``user`` and ``item_id``.
        core: pairs that each of both must have.
    """
    while True:
        counts = [pl.len().over(name) >= core for name in ("user", "item_id")]
        kept = chosen.filter(counts[0] & counts[1])
        if kept.height == chosen.height:
            return kept
        chosen = kept


def cut_at_random(user: NDArray[np.integer], *, rng: np.random.Generator) -> NDArray[np.int64]:
    """Divide each user's choices as MMRec does.

    Args:
        user: ``[choices]``, numbers from 0, at least three choices each.
        rng: draws the orders.

    Returns:
        ``[choices]``, the place of each one's part in `Part`.
    """
    order = np.lexsort((rng.random(len(user)), user))
    sizes = np.bincount(user)
    few = sizes < FEW
    held_out = np.where(few, 2, sizes * HELD_OUT_PERCENT // 100)
    tested = np.where(few, 1, held_out - held_out // 2)
    behind = np.repeat(np.cumsum(sizes), sizes) - np.arange(len(user))  # 1: the last of its user
    codes = np.empty(len(user), dtype=np.int64)
    codes[order] = (behind <= np.repeat(held_out, sizes)).astype(np.int64) + (behind <= np.repeat(tested, sizes))
    return codes


CONFIG = KCoreConfig
