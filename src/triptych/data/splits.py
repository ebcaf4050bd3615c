"""Splits by time: train, then validation, then test, as three runs of the events sorted by time.

Nobody's later events can train a model that is tested on earlier ones, since each part ends before the next begins;
events of one instant are never divided. For search, the targets of a part are the article's next-day sets: all that
anybody chose under a query in that part, merged.
"""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from triptych.data.catalogue import Catalogue
from triptych.data.events import is_positive
from triptych.foundation.artifact import Artifact, produce, write_json
from triptych.foundation.config import Config
from triptych.foundation.errors import DataError

KIND = "split"
DAY_US = 86_400_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DEFAULT_FRACTION = 0.1


class SplitBy(StrEnum):
    """How the parts are cut."""

    LAST_DAY = "last_day"
    FRACTION = "fraction"
    DATES = "dates"


class Part(StrEnum):
    """The three parts, in order of time."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class SplitConfig(Config):
    """Where the log is cut into train, validation and test."""

    by: SplitBy = SplitBy.LAST_DAY
    """last_day: test is the last day (UTC) that has events, validation the one before it; fraction: shares of the
    events; dates: days given here."""
    validation_fraction: float | None = Field(None, gt=0, lt=1)
    """Share of the events that is validation, only with by = fraction; 0.1 when not given."""
    test_fraction: float | None = Field(None, gt=0, lt=1)
    """Share of the events that is test, only with by = fraction; 0.1 when not given."""
    validation_from: date | None = None
    """First day (UTC) of validation, only and always with by = dates."""
    test_from: date | None = None
    """First day (UTC) of test, only and always with by = dates."""

    @model_validator(mode="after")
    def _no_option_without_effect(self) -> Self:
        fractions = {"validation_fraction": self.validation_fraction, "test_fraction": self.test_fraction}
        dates = {"validation_from": self.validation_from, "test_from": self.test_from}
        idle = (fractions if self.by is not SplitBy.FRACTION else {}) | (dates if self.by is not SplitBy.DATES else {})
        for name, value in idle.items():
            if value is not None:
                needed = "fraction" if name in fractions else "dates"
                raise ValueError(f"{name} has no effect with by = '{self.by}'. Remove it, or set by = '{needed}'.")
        if self.by is SplitBy.DATES:
            if self.validation_from is None or self.test_from is None:
                raise ValueError("by = 'dates' needs both validation_from and test_from, for example 2024-05-30.")
            if self.validation_from >= self.test_from:
                raise ValueError(
                    f"validation_from ({self.validation_from}) must be before test_from ({self.test_from})."
                )
        if sum(self.fractions) >= 1:
            raise ValueError("validation_fraction and test_fraction leave nothing to train on: keep their sum below 1.")
        return self

    @property
    def fractions(self) -> tuple[float, float]:
        """Shares of validation and test, the defaults filled in."""
        given = (self.validation_fraction, self.test_fraction)
        validation, test = (DEFAULT_FRACTION if share is None else share for share in given)
        return validation, test


class Targets(NamedTuple):
    """What each query of a part should find: everybody's positives under it, merged."""

    query_row: NDArray[np.int32]
    """``[queries]``, ascending."""
    offsets: NDArray[np.int64]
    """``[queries + 1]``; query i has ``item_rows[offsets[i]:offsets[i + 1]]``."""
    item_rows: NDArray[np.int32]
    """``[pairs]``, distinct and ascending within a query."""


class TrainPairs(NamedTuple):
    """Distinct (query, item) pairs of the training part, sorted by query, then item."""

    query_row: NDArray[np.int32]
    """``[pairs]``."""
    item_row: NDArray[np.int32]
    """``[pairs]``."""
    clicks: NDArray[np.int32]
    """``[pairs]``, how many positive events the pair has."""


class Split:
    """Three runs of a catalogue's events, and the target sets of the last two."""

    def __init__(self, artifact: Artifact) -> None:
        """Wrap the artefact; use `open`."""
        self.artifact = artifact
        bounds = json.loads(artifact.file("parts.json").read_text(encoding="utf-8"))
        self._parts = {part: slice(*bounds[part]) for part in Part}

    @classmethod
    def open(cls, source: Artifact | str | Path) -> Split:
        """Open a split artefact.

        Raises:
            ArtifactError: there is none, or it is something else.
        """
        return cls(Artifact.open(source.path if isinstance(source, Artifact) else source, kind=KIND))

    def part(self, part: Part) -> slice:
        """Return the places of a part among the catalogue's events."""
        return self._parts[part]

    @property
    def train(self) -> slice:
        """Places of the training events."""
        return self._parts[Part.TRAIN]

    @property
    def validation(self) -> slice:
        """Places of the validation events."""
        return self._parts[Part.VALIDATION]

    @property
    def test(self) -> slice:
        """Places of the test events."""
        return self._parts[Part.TEST]

    def targets(self, part: Part) -> Targets:
        """Return the merged target sets of validation or test; empty where no search led to a choice."""
        arrays = (_load(self.artifact.file(f"{part}_{name}.npy")) for name in Targets._fields)
        return Targets(*arrays)

    def train_pairs(self, catalogue: Catalogue) -> TrainPairs:
        """Return what was chosen under which query in training, over all users."""
        self.artifact.require_input("catalogue", catalogue.artifact)
        return count_pairs(*_searches(catalogue, self.train), num_items=catalogue.num_items)

    def query_seen_in_train(self, catalogue: Catalogue) -> NDArray[np.bool_]:
        """Say, for each query ``[queries]``, whether something was chosen under it in training."""
        self.artifact.require_input("catalogue", catalogue.artifact)
        seen = np.zeros(catalogue.num_queries, dtype=np.bool_)
        seen[_searches(catalogue, self.train)[0]] = True
        return seen

    def items_new(self, catalogue: Catalogue) -> NDArray[np.bool_]:
        """Say, for each item ``[items]``, whether nobody chose it in training, with or without a query."""
        self.artifact.require_input("catalogue", catalogue.artifact)
        new = np.ones(catalogue.num_items, dtype=np.bool_)
        positive = is_positive(catalogue.event_array("kind")[self.train])
        new[catalogue.event_array("item_row")[self.train][positive]] = False
        return new


def build(config: SplitConfig, *, catalogue: Catalogue, out: Path) -> Artifact:
    """Cut a catalogue's log and merge the target sets.

    Args:
        config: where to cut.
        catalogue: whose events.
        out: the stage's folder; the artefact is made in it.

    Raises:
        DataError: the log is too short for this cut.
    """
    return produce(
        out,
        kind=KIND,
        config=config,
        inputs={"catalogue": catalogue.artifact},
        build=lambda folder: _write(folder, config=config, catalogue=catalogue),
    )


def cut(time_us: NDArray[np.int64], *, config: SplitConfig) -> dict[Part, slice]:
    """Find the three parts.

    Args:
        time_us: ``[events]``, microseconds since 1970 UTC, ascending.
        config: where to cut.

    Raises:
        DataError: a part would be empty.
    """
    if len(time_us) == 0:
        raise DataError("events: there are none, so there is nothing to split.")
    match config.by:
        case SplitBy.LAST_DAY:
            validation_us, test_us = _last_days(time_us)
        case SplitBy.FRACTION:
            validation_us, test_us = _by_fraction(time_us, config=config)
        case SplitBy.DATES:
            assert config.validation_from is not None and config.test_from is not None  # the config has checked
            validation_us, test_us = _midnight_us(config.validation_from), _midnight_us(config.test_from)
    first, second = (int(place) for place in np.searchsorted(time_us, [validation_us, test_us]))
    parts = {
        Part.TRAIN: slice(0, first),
        Part.VALIDATION: slice(first, second),
        Part.TEST: slice(second, len(time_us)),
    }
    for part, places in parts.items():
        if places.start == places.stop:
            raise DataError(
                f"events: the {part} part is empty (cut at {_instant(validation_us)} and {_instant(test_us)}; the log "
                f"covers {_instant(time_us[0])} to {_instant(time_us[-1])}). Choose other cuts in split."
            )
    return parts


def merge_targets(query_row: NDArray[np.int32], item_row: NDArray[np.int32], *, num_items: int) -> Targets:
    """Merge the chosen items of each query into a set.

    Args:
        query_row: ``[events]`` of positive search events.
        item_row: ``[events]``, the item of each.
        num_items: items in the catalogue.
    """
    pairs = count_pairs(query_row, item_row, num_items=num_items)
    queries, starts = np.unique(pairs.query_row, return_index=True)
    return Targets(queries, np.append(starts, len(pairs.item_row)).astype(np.int64), pairs.item_row)


def count_pairs(query_row: NDArray[np.int32], item_row: NDArray[np.int32], *, num_items: int) -> TrainPairs:
    """Count how often each distinct (query, item) pair occurs, sorted by query, then item."""
    codes, counts = np.unique(query_row.astype(np.int64) * num_items + item_row, return_counts=True)
    queries, items = np.divmod(codes, max(num_items, 1))
    return TrainPairs(queries.astype(np.int32), items.astype(np.int32), counts.astype(np.int32))


def _write(folder: Path, *, config: SplitConfig, catalogue: Catalogue) -> dict[str, Any]:
    time_us = catalogue.event_array("time")
    parts = cut(time_us, config=config)
    write_json(folder / "parts.json", {part: [places.start, places.stop] for part, places in parts.items()})
    summary: dict[str, Any] = {}
    for part, places in parts.items():
        targets = merge_targets(*_searches(catalogue, places), num_items=catalogue.num_items)
        if part is not Part.TRAIN:
            for name, array in targets._asdict().items():
                np.save(folder / f"{part}_{name}.npy", array)
        summary[part] = {
            "from": _instant(time_us[places.start]),
            "to": _instant(time_us[places.stop - 1]),
            "events": places.stop - places.start,
            "queries": len(targets.query_row),
            "pairs": len(targets.item_rows),
        }
    return summary


def _searches(catalogue: Catalogue, places: slice) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return query and item of the positive events under a query."""
    query_row = catalogue.event_array("query_row")[places]
    chosen = is_positive(catalogue.event_array("kind")[places]) & (query_row >= 0)
    return query_row[chosen], catalogue.event_array("item_row")[places][chosen]


def _last_days(time_us: NDArray[np.int64]) -> tuple[int, int]:
    days = np.unique(time_us // DAY_US)
    if len(days) < 3:
        raise DataError(
            f"events: the log has events on {len(days)} day{'s' if len(days) > 1 else ''} ({_instant(time_us[0])} to "
            f'{_instant(time_us[-1])}), and a split by last day needs 3. Set split.by = "fraction".'
        )
    return int(days[-2]) * DAY_US, int(days[-1]) * DAY_US


def _by_fraction(time_us: NDArray[np.int64], *, config: SplitConfig) -> tuple[int, int]:
    """Cut at the instants before which the wanted share of the events lies; ties go to the later part."""
    validation, test = config.fractions
    last = len(time_us) - 1
    places = [min(last, round(len(time_us) * share)) for share in (1 - test - validation, 1 - test)]
    return int(time_us[places[0]]), int(time_us[places[1]])


def _midnight_us(day: date) -> int:
    return (day - EPOCH.date()).days * DAY_US


def _instant(time_us: int | np.int64) -> str:
    return (EPOCH + timedelta(microseconds=int(time_us))).isoformat(timespec="seconds")


def _load(path: Path) -> NDArray[Any]:
    array: NDArray[Any] = np.load(path, allow_pickle=False)
    return array
