"""Where a log is cut into train, validation and test: by time for all, within each user, by query, or as given.

Only a cut by time for all keeps everybody's later events out of training. The others answer other questions, and
`splits.CAUTIONS` says beside every number what they let through.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from triptych.data.schema import Part
from triptych.foundation.config import Config
from triptych.foundation.errors import DataError

DAY_US = 86_400_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DEFAULT_FRACTION = 0.1
PARTS = (Part.TRAIN, Part.VALIDATION, Part.TEST)
"""A part's place here is its code; -1 is no part."""
_ROUNDING = 1e-9
"""A share of 0.8 must cut ten events after the eighth, whatever 1 − 0.1 − 0.1 is in binary."""


class SplitBy(StrEnum):
    """How the parts are cut."""

    LAST_DAY = "last_day"
    FRACTION = "fraction"
    DATES = "dates"
    USER = "user"
    QUERY = "query"
    GIVEN = "given"

    @property
    def is_by_time(self) -> bool:
        """Whether each part ends before the next begins, for everybody."""
        return self in (SplitBy.LAST_DAY, SplitBy.FRACTION, SplitBy.DATES)


class SplitConfig(Config):
    """Where the log is cut into train, validation and test."""

    by: SplitBy = SplitBy.LAST_DAY
    """last_day: test is the last day (UTC) that has events, validation the one before it; fraction: shares of the
    events in time; dates: days given here; user: shares of each user's events in time, so that other users' later
    events are in training; query: shares of the judged queries, for judgements without events; given: what the events
    table says itself in its column `part`."""
    validation_fraction: float | None = Field(None, gt=0, lt=1)
    """Share that is validation, only with by = fraction, user or query; 0.1 when not given."""
    test_fraction: float | None = Field(None, gt=0, lt=1)
    """Share that is test, only with by = fraction, user or query; 0.1 when not given."""
    validation_from: date | None = None
    """First day (UTC) of validation, only and always with by = dates."""
    test_from: date | None = None
    """First day (UTC) of test, only and always with by = dates."""
    seed: int | None = None
    """Draws the queries of each part, only with by = query; 0 when not given."""
    relevant_grade: float | None = None
    """Judged grade from which a pair is learnt from and has to be found, only with by = query; none: the highest."""

    @model_validator(mode="after")
    def _no_option_without_effect(self) -> Self:
        fractions = (SplitBy.FRACTION, SplitBy.USER, SplitBy.QUERY)
        read_by: Mapping[str, tuple[SplitBy, ...]] = {
            "validation_fraction": fractions,
            "test_fraction": fractions,
            "validation_from": (SplitBy.DATES,),
            "test_from": (SplitBy.DATES,),
            "seed": (SplitBy.QUERY,),
            "relevant_grade": (SplitBy.QUERY,),
        }
        for name, kinds in read_by.items():
            if getattr(self, name) is not None and self.by not in kinds:
                needed = " or ".join(f"'{kind}'" for kind in kinds)
                raise ValueError(f"{name} has no effect with by = '{self.by}'. Remove it, or set by = {needed}.")
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


def cut(time_us: NDArray[np.int64], *, config: SplitConfig) -> dict[Part, slice]:
    """Find the three parts of a cut by time for all; events of one instant are never divided.

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
        case _:
            raise AssertionError(f"{config.by} is no cut by time for all")
    first, second = (int(place) for place in np.searchsorted(time_us, [validation_us, test_us]))
    parts = {
        Part.TRAIN: slice(0, first),
        Part.VALIDATION: slice(first, second),
        Part.TEST: slice(second, len(time_us)),
    }
    for part, places in parts.items():
        if places.start == places.stop:
            raise DataError(
                f"events: the {part} part is empty (cut at {instant(validation_us)} and {instant(test_us)}; the log "
                f"covers {instant(time_us[0])} to {instant(time_us[-1])}). Choose other cuts in split."
            )
    return parts


def cut_within_users(user_row: NDArray[np.integer], *, config: SplitConfig) -> NDArray[np.int8]:
    """Cut each user's events into the first share, the next and the last.

    A user of n events has floor(n · share) of them before each cut, and at least one in training. Events of one instant
    stay in the order of the log, so a cut may divide them. Events without a user are training.

    Args:
        user_row: ``[events]`` in time order, -1 where the user is unknown.
        config: the shares.

    Returns:
        ``[events]``, the code of each event's part.
    """
    validation, test = config.fractions
    codes = np.zeros(len(user_row), dtype=np.int8)
    known = np.flatnonzero(user_row >= 0)
    order = known[np.argsort(user_row[known], kind="stable")]
    _, starts, sizes = np.unique(user_row[order], return_index=True, return_counts=True)
    before = np.maximum(_shares(sizes, 1 - validation - test), 1)
    until = np.maximum(_shares(sizes, 1 - test), before)
    rank = np.arange(len(order)) - np.repeat(starts, sizes)
    codes[order] = (rank >= np.repeat(before, sizes)).astype(np.int8) + (rank >= np.repeat(until, sizes))
    return codes


def cut_queries(query_rows: NDArray[np.integer], *, num_queries: int, config: SplitConfig) -> NDArray[np.int8]:
    """Divide the judged queries at random.

    Args:
        query_rows: ``[judged queries]``, distinct.
        num_queries: of the catalogue.
        config: shares and seed.

    Returns:
        ``[queries]``, the code of each query's part, -1 for one that was not judged.
    """
    validation, test = config.fractions
    drawn = np.random.default_rng(config.seed or 0).permutation(np.sort(query_rows))
    sizes = np.array([len(drawn)])
    first, second = int(_shares(sizes, 1 - validation - test)[0]), int(_shares(sizes, 1 - test)[0])
    codes = np.full(num_queries, -1, dtype=np.int8)
    for code, rows in enumerate((drawn[:first], drawn[first:second], drawn[second:])):
        codes[rows] = code
    return codes


def instant(time_us: int | np.int64) -> str:
    """Write a time in microseconds since 1970 UTC as ISO text."""
    return (EPOCH + timedelta(microseconds=int(time_us))).isoformat(timespec="seconds")


def _shares(sizes: NDArray[np.integer], share: float) -> NDArray[np.int64]:
    counts: NDArray[np.int64] = np.floor(sizes * share + _ROUNDING).astype(np.int64)
    return counts


def _last_days(time_us: NDArray[np.int64]) -> tuple[int, int]:
    midnights: list[int] = []
    left = len(time_us)
    while left > 0 and len(midnights) < 3:  # from the end, day by day that has events
        midnights.append(int(time_us[left - 1]) // DAY_US * DAY_US)
        left = int(np.searchsorted(time_us, midnights[-1]))
    if len(midnights) < 3:
        raise DataError(
            f"events: the log has events on {len(midnights)} day{'s' if len(midnights) > 1 else ''} "
            f"({instant(time_us[0])} to {instant(time_us[-1])}), and a split by last day needs 3. Set split.by = "
            '"fraction".'
        )
    return midnights[1], midnights[0]


def _by_fraction(time_us: NDArray[np.int64], *, config: SplitConfig) -> tuple[int, int]:
    """Cut at the instants before which the wanted share of the events lies; ties go to the later part."""
    validation, test = config.fractions
    last = len(time_us) - 1
    places = [min(last, round(len(time_us) * share)) for share in (1 - test - validation, 1 - test)]
    return int(time_us[places[0]]), int(time_us[places[1]])


def _midnight_us(day: date) -> int:
    return (day - EPOCH.date()).days * DAY_US
