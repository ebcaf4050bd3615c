"""The checks of the events and judgements tables, against themselves and against the items."""

from __future__ import annotations

from datetime import datetime, time

import polars as pl

from triptych.data.check_columns import blank, check_times, read_flags, require_readable
from triptych.data.faults import Sieve
from triptych.data.fields import known_kinds, known_parts, number_rate
from triptych.data.parse import parse_numbers
from triptych.data.schema import (
    CLICK_KINDS,
    EVENTS_SCHEMA,
    JUDGEMENTS_SCHEMA,
    PART,
    PHOTO_ONLY,
    RATING,
    EventKind,
    Part,
)
from triptych.data.tables import MappedTable
from triptych.data.words import each
from triptych.foundation.errors import DataError

_ROW = "row set aside"


def check_events(sieve: Sieve, *, items: MappedTable, item_ids: pl.Series, latest: datetime) -> pl.DataFrame:
    """Check the events and return the clean table, in the order read.

    Args:
        sieve: of the events table; collects the faults.
        items: the items as read, for messages.
        item_ids: ids of the clean items.
        latest: later times are faults.

    Raises:
        DataError: a column cannot be read at all, no event's item is known, or no row is left.
    """
    sieve.set_lines_aside()
    frame = sieve.mapped.frame
    missing = [pl.lit(None, _held(name)).alias(name) for name in EVENTS_SCHEMA if name not in frame.columns]
    read = frame.with_columns(missing).with_columns(
        _item_ids(sieve, items=items, item_ids=item_ids).alias("item_id"),
        check_times(sieve, column="time", latest=latest, of_rows=True).alias("time"),
        _kinds(sieve).alias("kind"),
    )
    sieve.set_rows_aside(
        "no_user_no_query",
        read["user"].is_null() & read["query"].is_null(),
        columns=["user", "query"],
        meaning="the event has neither user nor query",
        action=_ROW,
    )
    position, strange = _positions(sieve)
    columns = [*EVENTS_SCHEMA, *([PART] if PART in frame.columns else [])]
    read = read.with_columns(position.alias("position")).select(columns)
    _check_repeats(sieve, read)
    sieve.require_rows()
    for fault, mask, meaning in strange:
        action = "position set aside, event kept"
        sieve.set_values_aside(fault, mask, column="position", meaning=meaning, action=action)
    if PART in columns:
        read = read.with_columns(_parts(sieve).alias(PART))
    clean = read if sieve.kept.all() else read.filter(sieve.kept)  # a long log is not copied for nothing
    if not clean["kind"].is_in([kind.value for kind in CLICK_KINDS]).any():
        sieve.note(
            "no_positives",
            sieve.kept,
            columns=["kind", RATING],
            meaning="no event is a click, cart or order, so nothing can be learnt from them",
            action='events kept; where a word means a click, say so: kinds = {view = "click"}',
        )
    return clean


def check_judgements(sieve: Sieve, *, items: MappedTable, item_ids: pl.Series) -> pl.DataFrame:
    """Check the judgements and return the clean table, in the order read.

    Args:
        sieve: of the judgements table; collects the faults.
        items: the items as read, for messages.
        item_ids: ids of the clean items.

    Raises:
        DataError: a column cannot be read at all, no judgement's item is known, or no row is left.
    """
    sieve.set_lines_aside()
    frame = sieve.mapped.frame
    empty = frame["query"].is_null()
    sieve.set_rows_aside("empty_query", empty, columns=["query"], meaning="the query is missing", action=_ROW)
    _item_ids(sieve, items=items, item_ids=item_ids)
    raw = frame["grade"]
    grades = parse_numbers(raw)
    require_readable(sieve, grades, column="grade", what="numbers")
    for fault, mask, meaning in (
        ("empty_grade", raw.is_null(), "the grade is missing"),
        ("bad_grade", raw.is_not_null() & grades.is_null(), "the grade is not a number"),
        ("negative_grade", (grades < 0).fill_null(False), "the grade is below zero"),
    ):
        sieve.set_rows_aside(fault, mask, columns=["grade"], meaning=meaning, action=_ROW)
    sieve.set_rows_aside(
        "duplicate_judgement",
        _repeats(frame.select("query", "item_id"), among=sieve.kept),
        columns=["query", "item_id"],
        meaning="an earlier row judges the same query and item",
        action="first row kept, later ones set aside",
    )
    sieve.require_rows()
    read = frame.with_columns(grades.alias("grade"))
    types = dict(JUDGEMENTS_SCHEMA)
    if PHOTO_ONLY in frame.columns:
        read = read.with_columns(read_flags(sieve, column=PHOTO_ONLY).alias(PHOTO_ONLY))
        types[PHOTO_ONLY] = pl.Boolean()
    return read.filter(sieve.kept).select(pl.col(name).cast(dtype) for name, dtype in types.items())


def _item_ids(sieve: Sieve, *, items: MappedTable, item_ids: pl.Series) -> pl.Series:
    """Return each row's item, an Enum of the items' ids; null where set aside."""
    ids = sieve.mapped.frame["item_id"]
    held = pl.Enum(item_ids)
    found = each(ids, of=lambda text: text.cast(held, strict=False))
    known = found.is_not_null()
    if not known.any():
        here, there = sieve.mapped.mapping["item_id"], items.mapping["item_id"]
        raise DataError(
            f"no item of {sieve.mapped.name} is in {items.name}: '{here}' holds {_some(ids)}, '{there}' holds "
            f"{_some(item_ids)}; name the columns that hold the same ids."
        )
    sieve.set_rows_aside("empty_item", ids.is_null(), columns=["item_id"], meaning="the item is missing", action=_ROW)
    sieve.set_rows_aside(
        "unknown_item",
        ids.is_not_null() & ~known,
        columns=["item_id"],
        meaning="the item is not in the items table",
        action=_ROW,
    )
    return found


def _held(column: str) -> pl.DataType:
    """Return the type a column of events is held in: text as an Enum."""
    dtype = EVENTS_SCHEMA[column]
    return pl.Enum([]) if dtype == pl.String else dtype


def _some(ids: pl.Series) -> str:
    return ", ".join(repr(one) for one in ids.drop_nulls().head(2)) or "nothing"


def _kinds(sieve: Sieve) -> pl.Series:
    """Return each event's kind, an Enum of `EventKind`; all clicks where the table does not say."""
    frame = sieve.mapped.frame
    held = pl.Enum([kind.value for kind in EventKind])
    if RATING in frame.columns:
        return _kinds_of_ratings(sieve, held=held)
    if "kind" not in frame.columns:
        return pl.repeat(EventKind.CLICK.value, len(frame), dtype=held, eager=True)
    words = frame["kind"]
    kinds = each(words, of=lambda text: known_kinds(text, sieve.mapped.kinds).cast(held))
    unknown = words.is_not_null() & kinds.is_null()
    if kinds.null_count() == len(kinds) and unknown.any():
        column, some = sieve.mapped.mapping["kind"], words.unique(maintain_order=True)
        advice = 'say what they mean under [events], for example kinds = { opened = "click" }'
        if number_rate(some.drop_nulls().cast(pl.String)) == 1:
            advice = f'if they are ratings, say rating = "{column}" and positive_rating in place of kind'
        raise DataError(f"{sieve.mapped.name}: no word of column '{column}' is known ({_some(some)}, …); {advice}.")
    sieve.set_rows_aside(
        "empty_kind", words.is_null(), columns=["kind"], meaning="what happened is missing", action=_ROW
    )
    strange = words.filter(unknown).unique(maintain_order=True).head(3).to_list()
    hint = "kinds = { " + ", ".join(f'"{word}" = "click"' for word in strange) + " }"
    sieve.set_rows_aside(
        "unknown_kind",
        unknown,
        columns=["kind"],
        meaning="the word for what happened is not known",
        action=f"row set aside; to keep such rows say what the word means under [events]: {hint}",
    )
    return kinds


def _kinds_of_ratings(sieve: Sieve, *, held: pl.Enum) -> pl.Series:
    """Return a click where the rating is high enough, else an impression."""
    raw = sieve.mapped.frame[RATING]
    ratings = parse_numbers(raw)
    require_readable(sieve, ratings, column=RATING, what="numbers")
    for fault, mask, meaning in (
        ("empty_rating", raw.is_null(), "the rating is missing"),
        ("bad_rating", raw.is_not_null() & ratings.is_null(), "the rating is not a number"),
    ):
        sieve.set_rows_aside(fault, mask, columns=[RATING], meaning=meaning, action=_ROW)
    clicked = pl.when(ratings >= sieve.mapped.positive_rating).then(pl.lit(EventKind.CLICK.value))
    return pl.select(clicked.otherwise(pl.lit(EventKind.IMPRESSION.value)).cast(held)).to_series()


def _positions(sieve: Sieve) -> tuple[pl.Series, list[tuple[str, pl.Series, str]]]:
    """Return the positions, null where strange, and the faults: fault, mask, meaning."""
    frame = sieve.mapped.frame
    if "position" not in frame.columns:
        return pl.repeat(None, len(frame), dtype=pl.Int32, eager=True), []
    raw = frame["position"]
    if raw.dtype.is_integer():
        positions = raw.cast(pl.Int32, strict=False)
        whole = positions.is_not_null()
    else:
        numbers = parse_numbers(raw)
        require_readable(sieve, numbers, column="position", what="numbers")
        positions = numbers.cast(pl.Int32, strict=False)
        whole = ((numbers % 1 == 0) & positions.is_not_null()).fill_null(False)
    negative = whole & (positions < 0).fill_null(False)
    faults = [
        ("bad_position", raw.is_not_null() & ~whole, "the position is not a whole number"),
        ("negative_position", negative, "the position is below zero"),
    ]
    return blank(positions, ~whole | negative), faults


def _parts(sieve: Sieve) -> pl.Series:
    """Return the part of a split that each event is in, an Enum of `Part`; null where the table does not say."""
    words = sieve.mapped.frame[PART]
    parts = each(words, of=lambda text: known_parts(text).cast(pl.Enum([part.value for part in Part])))
    require_readable(sieve, parts, column=PART, what="train, validation or test")
    sieve.set_values_aside(
        "unknown_part",
        words.is_not_null() & parts.is_null(),
        column=PART,
        meaning="the word for the part of a split is not known (train, validation, test, or 0, 1, 2)",
        action="part set aside: the event is in none",
    )
    return parts


def _check_repeats(sieve: Sieve, read: pl.DataFrame) -> None:
    """Set repeated events aside, where times are fine enough to tell a repeat from a second click that day."""
    repeated = _repeats(read, among=sieve.kept)
    if not repeated.any():
        return
    days_only = bool((read["time"].drop_nulls().dt.time() == time(0)).all())
    columns = [name for name in read.columns if name in sieve.mapped.mapping]
    meaning = "an earlier row is the same event in every column"
    if days_only:
        action = "kept: the times are whole days, so it may have happened again"
        sieve.note("duplicate_event", repeated, columns=columns, meaning=meaning, action=action)
    else:
        action = "first row kept, later ones set aside"
        sieve.set_rows_aside("duplicate_event", repeated, columns=columns, meaning=meaning, action=action)


def _repeats(frame: pl.DataFrame, *, among: pl.Series) -> pl.Series:
    """Tell which rows repeat an earlier one.

    Hashes find the few rows that could; only these are compared, so that millions of rows need little memory.

    Args:
        frame: the columns to compare.
        among: Boolean ``[rows]``; other rows neither repeat nor are repeated.

    Returns:
        Boolean ``[rows]``.
    """
    plain = frame.select(pl.all().to_physical())
    hashes = (plain if among.all() else plain.filter(among)).hash_rows()
    if hashes.n_unique() == len(hashes):
        return pl.repeat(False, len(frame), dtype=pl.Boolean, eager=True)
    rows, alike = among.arg_true(), hashes.is_duplicated()
    candidates = frame[rows.filter(alike)]
    first = candidates.select(pl.struct(pl.all()).is_first_distinct()).to_series()
    repeated = pl.repeat(False, len(frame), dtype=pl.Boolean, eager=True)
    return repeated.scatter(rows.filter(alike).filter(~first), True)
