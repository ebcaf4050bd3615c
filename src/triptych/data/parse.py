"""From the cells of a foreign table to typed columns: blanks, ids, numbers, times, flags, lists.

Every function takes and returns a whole column. What cannot be read becomes null, never an error: the caller compares
with the nulls that were there before, and so counts the faults.
"""

from __future__ import annotations

import polars as pl

from triptych.data.schema import TIME

NULL_WORDS = ("\\N", "null", "NULL", "None", "nan", "NaN")
"""What exports write for nothing; no value in any column but titles, queries and other free text."""

_ZONED = ("%Y-%m-%dT%H:%M:%S%.f%#z",)
_SAMPLE = 100
_NAIVE = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d")
_CURRENCY = r"^[$€£¥₹₽]\s*|\s*[$€£¥₹₽]$"
_THOUSANDS = r"^[+-]?\d{1,3}(,\d{3})+\.\d+$"
_LIST_LITERAL = r"^\[.*\]$"
_LIST_PART = r"""\"[^\"]*\"|'[^']*'|[^,\[\]\"']+"""

# Where epoch seconds, milli-, micro- and nanoseconds part: each bound is the year 5138 in its unit.
_SECONDS, _MILLIS, _MICROS = 10**11, 10**14, 10**17
_FIRST_DAY, _LAST_DAY = 19000101, 21001231  # as YYYYMMDD; read as epoch seconds these would be days of 1970


def plain(column: pl.Expr, dtype: pl.DataType, *, free_text: bool = False) -> pl.Expr:
    """Return a column with its blanks made null and nothing else lost.

    Text is stripped; empty text and bytes, NaN and (outside free text) `NULL_WORDS` become null; enumerations become
    text, durations seconds. Lists and structs pass unchanged.
    """
    if isinstance(dtype, pl.Categorical | pl.Enum):
        column, dtype = column.cast(pl.String), pl.String()
    if isinstance(dtype, pl.String):
        stripped = column.str.strip_chars()
        blank = stripped == "" if free_text else (stripped == "") | stripped.is_in(NULL_WORDS)
        return pl.when(~blank).then(stripped)
    if isinstance(dtype, pl.Binary):
        return pl.when(column.bin.size() > 0).then(column)
    if isinstance(dtype, pl.Decimal):
        return column.cast(pl.Float64)
    if isinstance(dtype, pl.Duration):
        return column.dt.total_microseconds() / 1e6
    return column.fill_nan(None) if dtype.is_float() else column


def as_text(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Return a scalar column as text; whole floats lose their `.0`, so that ids survive a trip through floats."""
    if not dtype.is_float():
        return column.cast(pl.String)
    whole = pl.when((column % 1 == 0) & (column.abs() < 2**53)).then(column).cast(pl.Int64)
    return pl.coalesce(whole.cast(pl.String), column.cast(pl.String))


def trim_whole_floats(ids: pl.Series) -> pl.Series:
    """Drop the `.0` of text ids where every id ends in it: a column of integers that was once written with gaps."""
    pattern = r"^-?\d+\.0$"
    present = ids.drop_nulls()
    likely = len(present) > 0 and present.head(100).str.contains(pattern).all()
    if not likely or not present.str.contains(pattern).all():
        return ids
    return ids.str.strip_suffix(".0")


def parse_numbers(values: pl.Series, *, money: bool = False) -> pl.Series:
    """Read numbers.

    Args:
        values: numeric, Boolean or text.
        money: also allow a currency sign before or after, and commas between thousands where decimals follow
            (`1,299.00`; a comma without them could be a decimal comma, and is not guessed at).

    Returns:
        Float64; null where the value is null, not a number or not finite.
    """
    if values.dtype == pl.String and money:
        bare = values.str.replace_all(_CURRENCY, "")
        values = bare.to_frame("v").select(
            pl.when(pl.col("v").str.contains(_THOUSANDS)).then(pl.col("v").str.replace_all(",", "")).otherwise("v")
        )["v"]
    numbers = values.cast(pl.Float64, strict=False)
    return numbers.to_frame("v").select(pl.when(pl.col("v").is_finite()).then("v"))["v"]


def parse_times(values: pl.Series) -> pl.Series:
    """Read times.

    Text: ISO 8601 dates and times (`T` or a space between, `-` or `/` in the date, any fraction, any numeric offset or
    Z), or digits. Numbers: days as YYYYMMDD, else epoch seconds, milli-, micro- or nanoseconds, told apart by size
    value by value. Without a zone a time is UTC; a date is its midnight.

    Returns:
        `schema.TIME`; null where the value is null or not a time.
    """
    if isinstance(values.dtype, pl.Datetime):
        aware = values if values.dtype.time_zone else values.dt.replace_time_zone("UTC")
        return aware.dt.convert_time_zone("UTC").dt.cast_time_unit("us")
    if values.dtype == pl.Date:
        return values.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    if values.dtype.is_numeric():
        return _epoch(values)
    if values.dtype != pl.String:
        return pl.Series(values.name, [None] * len(values), dtype=TIME)
    numeric = values.str.contains(r"^[+-]?\d+(\.\d*)?$").fill_null(False)
    iso = _iso(values if not numeric.any() else values.set(numeric, None))
    return iso.fill_null(_epoch(values.set(~numeric, None))) if numeric.any() else iso


def _iso(text: pl.Series) -> pl.Series:
    """Read ISO text: the column's usual spelling as it stands, then what is left in one spelling made of all."""
    times = pl.Series(text.name, [None], dtype=TIME).new_from_index(0, len(text))
    sample = text.drop_nulls().head(_SAMPLE)
    spellings = [spelling.replace("T", between) for spelling in (*_ZONED, *_NAIVE) for between in ("T", " ")]
    usual = max(spellings, key=lambda spelling: len(sample) - _read(sample, spelling).null_count())
    times = times if sample.is_empty() else _read(text, usual)
    left = (times.is_null() & text.is_not_null()).arg_true()
    return times if left.is_empty() else times.scatter(left, _iso_slowly(text.gather(left)))


def _iso_slowly(text: pl.Series) -> pl.Series:
    unified = (
        text.str.replace(r"^(\d{4})[-/](\d{2})[-/](\d{2})[T ]\s*", "$1-$2-${3}T")
        .str.replace(r"^(\d{4})/(\d{2})/(\d{2})$", "$1-$2-$3")
        .str.replace(r"\s*(Z|z|UTC|GMT)$", "+00:00")
        .str.replace(r"^(.{10}T\d{2}:\d{2})(\s*[+-]\d{2}:?\d{2})$", "$1:00$2")
    )
    return pl.select(pl.coalesce(*(_read(unified, spelling) for spelling in (*_ZONED, *_NAIVE)))).to_series()


def _read(text: pl.Series, spelling: str) -> pl.Series:
    times = text.str.to_datetime(spelling, time_unit="us", strict=False)
    return times.cast(TIME) if "%#z" in spelling else times.dt.replace_time_zone("UTC")


def _epoch(values: pl.Series) -> pl.Series:
    """Read digits or numbers as days or epoch times."""
    # Integers stay integers: a float has too few digits for nanoseconds of today.
    whole = pl.lit(None, pl.Int64) if values.dtype.is_float() else pl.col("v").cast(pl.Int64, strict=False)
    real = pl.col("v").cast(pl.Float64, strict=False)
    frame = values.to_frame("v").select(whole=whole, real=real)
    whole, real = pl.col("whole"), pl.col("real")
    micros = pl.coalesce(_micros(whole), _micros(real).round().cast(pl.Int64, strict=False))
    is_day = (real % 1 == 0) & real.is_between(_FIRST_DAY, _LAST_DAY)
    day = pl.when(is_day).then(real).cast(pl.Int64).cast(pl.String).str.to_datetime("%Y%m%d", strict=False)
    times = pl.coalesce(day.cast(pl.Datetime("us")), micros.cast(pl.Datetime("us"))).dt.replace_time_zone("UTC")
    return frame.select(times.alias(values.name)).to_series()


def _micros(value: pl.Expr) -> pl.Expr:
    size = value.abs()
    return (
        pl.when(size < _SECONDS)
        .then(value * 1_000_000)
        .when(size < _MILLIS)
        .then(value * 1_000)
        .when(size < _MICROS)
        .then(value)
        .otherwise(value // 1_000)
    )


def parse_flags(values: pl.Series) -> pl.Series:
    """Read true and false (also t/f, yes/no, y/n, 1/0), in any case.

    Returns:
        Boolean; null where the value is null or neither.
    """
    words = values.cast(pl.String).str.to_lowercase().str.strip_suffix(".0")
    return (
        words.to_frame("v")
        .select(
            pl.when(pl.col("v").is_in(["true", "t", "yes", "y", "1"]))
            .then(True)
            .when(pl.col("v").is_in(["false", "f", "no", "n", "0"]))
            .then(False)
        )
        .to_series()
        .alias(values.name)
    )


def parse_lists(values: pl.Series) -> pl.Series:
    """Read several words: a list, text separated by `|`, or a list written as text (`["a", "b"]`).

    Returns:
        List of String without blanks; null where nothing is left.
    """
    column = pl.col("v")
    if isinstance(values.dtype, pl.List | pl.Array):
        parts = column.cast(pl.List(values.dtype.inner)).list.eval(as_text(pl.element(), _inner(values.dtype)))
    else:
        text = column.cast(pl.String)
        literal = text.str.extract_all(_LIST_PART).list.eval(pl.element().str.strip_chars(" \t\"'"))
        parts = pl.when(text.str.contains(_LIST_LITERAL)).then(literal).otherwise(text.str.split("|"))
    stripped = parts.list.eval(pl.element().str.strip_chars())
    kept = stripped.list.eval(pl.element().filter(pl.element().is_not_null() & (pl.element() != "")))
    return values.to_frame("v").select(pl.when(kept.list.len() > 0).then(kept))["v"].alias(values.name)


def _inner(dtype: pl.List | pl.Array) -> pl.DataType:
    inner = dtype.inner
    return inner if isinstance(inner, pl.DataType) else inner()
