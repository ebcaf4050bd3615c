"""Text columns as codes say what the text says, whatever is done to them."""

from __future__ import annotations

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.data.parse import plain, trim_whole_floats
from triptych.data.words import as_words, each, enumerated, rows_among

TEXTS = st.lists(st.sampled_from(["red", " red ", "blue", "", "nan", "NULL", "1.0", "2.0", "é", None]), max_size=30)


def clean(words: pl.Series) -> pl.Series:
    return trim_whole_floats(words.to_frame("w").select(plain(pl.col("w"), pl.String()))["w"])


@settings(max_examples=200, deadline=None)
@given(TEXTS, TEXTS)
def test_cleaning_each_word_once_equals_cleaning_every_row(texts: list[str | None], names: list[str | None]):
    raw = pl.Series("w", texts, dtype=pl.String)
    found = enumerated(raw.to_frame().select(as_words(pl.col("w")))["w"], clean=clean)
    every_row = clean(raw)
    assert found.to_list() == every_row.to_list()
    assert found.name == "w"
    # Each category appears, in the order of first appearance: the codes depend on the rows alone.
    assert found.dtype.categories.to_list() == every_row.drop_nulls().unique(maintain_order=True).to_list()

    lengths = each(found, of=lambda words: words.str.len_chars())
    assert lengths.to_list() == every_row.str.len_chars().to_list()

    known = pl.Series("n", names, dtype=pl.String).drop_nulls().unique(maintain_order=True)
    place = {name: row for row, name in enumerate(known)}
    expected = [place.get(word, -1) for word in every_row]
    assert rows_among(found, known).to_list() == expected
    assert rows_among(every_row, known).to_list() == expected
