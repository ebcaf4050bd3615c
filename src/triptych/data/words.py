"""Text columns as codes: a log repeats its words, so what is done to text is done once to each distinct word.

Twenty million events name a million items, half a million users and some hundred thousand queries. As text a column
takes 16 bytes an event and more; as an Enum it takes 4, and cleaning, looking up and comparing touch each word once.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl

Clean = Callable[[pl.Series], pl.Series]
"""From distinct words (String) to what each stands for (String, null for none)."""


def as_words(text: pl.Expr) -> pl.Expr:
    """Number the words of a text column while it is read, before the text is held in memory.

    The numbers depend on the order in which threads meet the words; `enumerated` makes them anew.
    """
    return text.cast(pl.Categorical(pl.Categories.random()))


def enumerated(words: pl.Series, *, clean: Clean) -> pl.Series:
    """Turn words into an Enum of what they stand for.

    Args:
        words: Categorical, from `as_words`.
        clean: what each distinct word stands for; several may stand for the same.

    Returns:
        Enum ``[rows]``; its categories are in the order of their first appearance, and each appears.
    """
    distinct = words.drop_nulls().unique(maintain_order=True)
    meant = clean(distinct.cast(pl.String))
    names = meant.drop_nulls().unique(maintain_order=True)
    codes = meant.cast(pl.Enum(names)).to_physical().cast(pl.UInt32)
    # From polars' number of a word to ours.
    number = distinct.to_physical().to_numpy()
    known = np.zeros(int(number.max()) + 1 if len(number) else 0, dtype=np.uint32)
    known[number] = codes.fill_null(0).to_numpy()
    found = pl.Series(words.name, known).gather(words.to_physical())
    if codes.null_count() > 0:
        gone = np.zeros(len(known), dtype=np.bool_)
        gone[number] = codes.is_null().to_numpy()
        found = found.set(pl.Series(gone).gather(words.to_physical()).fill_null(False), None)
    return found.cat.to(pl.Enum(names))


def each(words: pl.Series, *, of: Clean) -> pl.Series:
    """Apply a function of text to a column, once per distinct word where the column is an Enum.

    Args:
        words: Enum, or String.
        of: from words (String) to anything, null to null.

    Returns:
        What `of` gives, ``[rows]``; null where the word is.
    """
    if not isinstance(words.dtype, pl.Enum):
        return of(words)
    return of(words.dtype.categories).gather(words.to_physical())


def rows_among(words: pl.Series, names: pl.Series) -> pl.Series:
    """Return the place of each word among some names.

    Args:
        words: Enum, or String.
        names: String, distinct.

    Returns:
        Int32 ``[rows]``; -1 where the word is null or not among them.
    """
    numbered = pl.Enum(names)
    return each(words, of=lambda text: text.cast(numbered, strict=False).to_physical().cast(pl.Int32)).fill_null(-1)
