"""Recognising what a feature column of the items table is."""

from __future__ import annotations

import polars as pl

from triptych.data.fields import number_rate
from triptych.data.guess import bare_name
from triptych.data.schema import Role

NUMERIC_RATE = 0.95
"""Share of a text column's values that must be numbers for it to be a numeric feature; the others are faults."""

_CODES = ("id", "code", "zip", "postcode", "phone", "ean", "gtin", "upc")


def recognise_role(values: pl.Series, *, name: str) -> Role | None:
    """Recognise what a feature column is.

    Lists and text with `|` are multi-valued; numbers are numeric unless the name says that they are codes; text of
    several words that mostly differ from row to row is text; the rest is categorical.

    Args:
        values: the whole column, blanks as nulls.
        name: the column's name.

    Returns:
        The role; None where the column is empty or its type holds no feature (structs, bytes).
    """
    present = values.drop_nulls()
    if isinstance(values.dtype, pl.List | pl.Array):
        return Role.MULTI
    if present.is_empty() or isinstance(values.dtype, pl.Struct | pl.Binary | pl.Object):
        return None
    is_code = bare_name(name).endswith(_CODES)
    if values.dtype.is_numeric() or (values.dtype == pl.String and number_rate(present) >= NUMERIC_RATE):
        return Role.CATEGORICAL if is_code else Role.NUMERIC
    if values.dtype != pl.String:
        return Role.CATEGORICAL
    if _is_multi(present):
        return Role.MULTI
    return Role.TEXT if _is_text(present) else Role.CATEGORICAL


def _is_multi(present: pl.Series) -> bool:
    if present.str.contains(r"^\[.*\]$").all():
        return True
    barred = present.filter(present.str.contains("|", literal=True))
    if len(barred) < 0.05 * len(present):
        return False
    parts = barred.str.split("|").explode().str.strip_chars()
    # `a|b` is a list; ` | ` may also stand between the phrases of a title, which rarely come back in other rows.
    is_tight = _mean(barred.str.contains(r"\S\|\S")) > 0.5
    return _mean(parts.str.len_chars()) <= 40 and (is_tight or parts.n_unique() <= 0.5 * len(parts))


def _is_text(present: pl.Series) -> bool:
    spaces = _mean(present.str.count_matches(r"\s"))
    letters = _mean(present.str.count_matches(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}]"))  # no spaces between words
    if present.n_unique() <= 0.5 * len(present):
        return spaces >= 8 or letters >= 25  # long enough to be prose, though many rows share it
    return spaces >= 2 or letters >= 10


def _mean(values: pl.Series) -> float:
    return float(values.cast(pl.Float64).to_numpy().mean())
