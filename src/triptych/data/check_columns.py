"""Reading one column of a table under check: what can be read, and faults for the rest."""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl

from triptych.data.faults import Sieve
from triptych.data.parse import parse_flags, parse_numbers, parse_times
from triptych.foundation.errors import DataError

FIRST_YEAR = 1990
"""Earlier times are faults: mostly zeros, or numbers in another unit."""


def blank(values: pl.Series, where: pl.Series) -> pl.Series:
    """Return a column with null where a mask is true; the column itself where it never is, which costs nothing."""
    return values.set(where, None) if where.any() else values


def require_readable(sieve: Sieve, read: pl.Series, *, column: str, what: str) -> None:
    """Stop where nothing in a column could be read: then it is another column than was meant.

    Args:
        sieve: of the table.
        read: the column as read, null where it could not be.
        column: canonical name.
        what: what it should hold, in the plural.

    Raises:
        DataError: every value that is there could not be read.
    """
    raw = sieve.mapped.frame[column].drop_nulls()
    if len(raw) > 0 and read.null_count() == len(read):
        name, first = sieve.mapped.mapping[column], str(raw[0])[:80]
        field = "feature" if column in sieve.mapped.roles else column
        raise DataError(
            f"{sieve.mapped.name}: column '{name}' ({field}) holds no {what} (its first value is {first!r}); "
            f"name another column, or mend this one."
        )


def read_numbers(sieve: Sieve, *, column: str, fault: str, money: bool = False) -> pl.Series:
    """Read a numeric column, setting aside what is no number.

    Returns:
        Float64 ``[rows]``.
    """
    raw = sieve.mapped.frame[column]
    numbers = parse_numbers(raw, money=money)
    require_readable(sieve, numbers, column=column, what="numbers")
    field = "value" if column in sieve.mapped.roles else column
    sieve.set_values_aside(
        fault,
        raw.is_not_null() & numbers.is_null(),
        column=column,
        meaning=f"the {field} is not a number",
        action=f"{field} set aside, row kept",
    )
    return numbers


def read_flags(sieve: Sieve, *, column: str) -> pl.Series:
    """Read a column of true and false, setting aside what is neither.

    Returns:
        Boolean ``[rows]``.
    """
    raw = sieve.mapped.frame[column]
    flags = parse_flags(raw)
    require_readable(sieve, flags, column=column, what="true or false")
    sieve.set_values_aside(
        "bad_flag",
        raw.is_not_null() & flags.is_null(),
        column=column,
        meaning="the mark is neither true nor false",
        action="mark set aside, row kept",
    )
    return flags


def check_times(sieve: Sieve, *, column: str, latest: datetime, of_rows: bool) -> pl.Series:
    """Read a column of times, setting aside what is no time or cannot be one.

    Args:
        sieve: of the table.
        column: canonical name.
        latest: later times are faults.
        of_rows: a row without its time is useless (an event); else only the time is.

    Returns:
        `schema.TIME` ``[rows]``, null where set aside.
    """
    raw = sieve.mapped.frame[column]
    times = parse_times(raw)
    require_readable(sieve, times, column=column, what="times such as 2024-05-30T18:20:00 or epoch seconds")
    early = (times < datetime(FIRST_YEAR, 1, 1, tzinfo=UTC)).fill_null(False)
    late = (times > latest).fill_null(False)
    found = [
        ("bad_time", raw.is_not_null() & times.is_null(), "the time cannot be read"),
        ("time_too_early", early, f"the time is before {FIRST_YEAR}"),
        ("time_in_future", late, "the time is more than a day in the future"),
    ]
    if of_rows:
        found.insert(0, ("empty_time", raw.is_null(), "the time is missing"))
    for fault, mask, meaning in found:
        if of_rows:
            sieve.set_rows_aside(fault, mask, columns=[column], meaning=meaning, action="row set aside")
        else:
            sieve.set_values_aside(fault, mask, column=column, meaning=meaning, action="time set aside, row kept")
    return blank(times, early | late)
