"""Cells of foreign tables against Python's own readers and values known by hand."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.data.parse import as_text, parse_flags, parse_lists, parse_numbers, parse_times, plain, trim_whole_floats

NOON = datetime(2024, 1, 31, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-01-31T12:00:00Z", NOON),
        ("2024-01-31 12:00:00", NOON),
        ("2024-01-31T12:00", NOON),
        ("2024-01-31 14:00:00+02:00", NOON),
        ("2024-01-31 14:00:00+0200", NOON),
        ("2024-01-31 14:00:00 +02", NOON),
        ("2024-01-31T17:30+05:30", NOON),
        ("2024/01/31 12:00:00 UTC", NOON),
        ("2024-01-31T12:00:00.250", NOON + timedelta(milliseconds=250)),
        ("2024-01-31", NOON.replace(hour=0)),
        ("2024/01/31", NOON.replace(hour=0)),
        ("20240131", NOON.replace(hour=0)),
        ("1706702400", NOON),
        ("1706702400.25", NOON + timedelta(milliseconds=250)),
        ("1706702400250", NOON + timedelta(milliseconds=250)),
        ("1706702400250001", NOON + timedelta(microseconds=250_001)),
        ("1706702400250001999", NOON + timedelta(microseconds=250_001)),
        ("31.01.2024", None),
        ("01/31/2024", None),
        ("2024-02-30", None),
        ("2024-01-31 25:00:00", None),
        ("2024-01-31 12:00:00 or so", None),
        ("12:00", None),
        ("soon", None),
    ],
)
def test_time_spellings(text: str, expected: datetime | None) -> None:
    assert parse_times(pl.Series([text])).to_list() == [expected]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.datetimes(min_value=datetime(1990, 1, 1), max_value=datetime(2100, 1, 1)),  # noqa: DTZ001
        min_size=1,
        max_size=8,
    ),
    st.integers(-14 * 60, 14 * 60),
    st.sampled_from(["T", " "]),
)
def test_times_agree_with_python_in_every_form(times: list[datetime], offset: int, between: str) -> None:
    zoned = [time.replace(tzinfo=timezone(timedelta(minutes=offset))) for time in times]
    expected = [time.astimezone(UTC) for time in zoned]
    assert parse_times(pl.Series([time.isoformat(sep=between) for time in zoned])).to_list() == expected
    micros = [(time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) for time in expected]
    assert parse_times(pl.Series([micro * 1000 for micro in micros])).to_list() == expected
    assert parse_times(pl.Series([str(micro) for micro in micros if micro >= 10**14])).to_list() == [
        time for time, micro in zip(expected, micros, strict=True) if micro >= 10**14
    ]
    whole = [time.replace(microsecond=0) for time in expected]
    assert parse_times(pl.Series([str(int(time.timestamp())) for time in whole])).to_list() == whole
    assert parse_times(pl.Series([time.replace(tzinfo=None) for time in expected])).to_list() == expected


def test_times_mixed_in_one_column_keep_their_places() -> None:
    column = pl.Series([None, "2024-01-31", "x", "1706702400", "2024-01-31T13:00:00+01:00"])
    assert parse_times(column).to_list() == [None, NOON.replace(hour=0), None, NOON, NOON]


def test_times_of_other_types() -> None:
    assert parse_times(pl.Series([date(2024, 1, 31)])).to_list() == [NOON.replace(hour=0)]
    shanghai = pl.Series([NOON]).dt.convert_time_zone("Asia/Shanghai").dt.cast_time_unit("ns")
    assert parse_times(shanghai).to_list() == [NOON]
    assert parse_times(pl.Series([1706702400.0, float("nan"), float("inf")])).to_list() == [NOON, None, None]
    assert parse_times(pl.Series([True])).to_list() == [None]


def test_numbers() -> None:
    text = ["12.50", "-3", "1e3", "inf", "nan", "12,50", "1,299.00", "$5", "", None, "free"]
    assert parse_numbers(pl.Series(text)).to_list() == [12.5, -3.0, 1000.0, *[None] * 8]
    money = parse_numbers(pl.Series(text), money=True).to_list()
    assert money == [12.5, -3.0, 1000.0, None, None, None, 1299.0, 5.0, None, None, None]
    assert parse_numbers(pl.Series(["1,299", "12 €", "€ 12"]), money=True).to_list() == [None, 12.0, 12.0]
    assert parse_numbers(pl.Series([1, 2])).to_list() == [1.0, 2.0]


def test_flags() -> None:
    assert parse_flags(pl.Series(["True", "no", "1", "0.0", "maybe", None])).to_list() == [
        True, False, True, False, None, None,
    ]  # fmt: skip
    assert parse_flags(pl.Series([1, 0, 2])).to_list() == [True, False, None]


def test_lists_from_every_form() -> None:
    expected = [["a b", "c"], ["c"], None, None]
    assert parse_lists(pl.Series(["a b| c|", "c", " | ", None])).to_list() == expected
    assert parse_lists(pl.Series(['["a b", "c"]', "['c']", "[]", None])).to_list() == expected
    assert parse_lists(pl.Series([["a b ", "c"], ["c", None], ["", " "], None])).to_list() == expected
    assert parse_lists(pl.Series([[1, 2], []])).to_list() == [["1", "2"], None]
    assert parse_lists(pl.Series([7])).to_list() == [["7"]]


def test_blanks_become_null_and_free_text_keeps_its_words() -> None:
    frame = pl.DataFrame({"a": [" x ", "", "  ", "NULL", "nan", None]})
    assert frame.select(plain(pl.col("a"), pl.String())).to_series().to_list() == ["x", *[None] * 5]
    kept = frame.select(plain(pl.col("a"), pl.String(), free_text=True)).to_series().to_list()
    assert kept == ["x", None, None, "NULL", "nan", None]


def test_ids_survive_a_trip_through_floats() -> None:
    floats = pl.DataFrame({"a": [15970.0, None, 2.5]})
    assert floats.select(as_text(pl.col("a"), pl.Float64())).to_series().to_list() == ["15970", None, "2.5"]
    assert trim_whole_floats(pl.Series(["15970.0", None, "7.0"])).to_list() == ["15970", None, "7"]
    assert trim_whole_floats(pl.Series(["15970.0", "v7"])).to_list() == ["15970.0", "v7"]
