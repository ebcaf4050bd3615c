"""Text columns as codes say what the text says, whatever is done to them."""

from __future__ import annotations

from random import Random

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.data.parse import plain, trim_whole_floats
from triptych.data.words import SameHash, WordColumn, each, numbered, rows_among

TEXTS = st.lists(st.sampled_from(["red", " red ", "blue", "", "nan", "NULL", "1.0", "2.0", "é", None]), max_size=30)


def clean(words: pl.Series) -> pl.Series:
    return trim_whole_floats(words.to_frame("w").select(plain(pl.col("w"), pl.String()))["w"])


def read(texts: list[str | None], *, piece_rows: int = 7) -> pl.Series:
    column = WordColumn("w")
    for words in pl.Series("w", texts, dtype=pl.String).to_frame().iter_slices(piece_rows):
        column.add(words["w"])
    return column.enumerated(clean=clean)


@settings(max_examples=200, deadline=None)
@given(TEXTS, TEXTS)
def test_cleaning_each_word_once_equals_cleaning_every_row(texts: list[str | None], names: list[str | None]):
    found = read(texts)
    every_row = clean(pl.Series("w", texts, dtype=pl.String))
    assert found.to_list() == every_row.to_list()
    assert found.name == "w"
    # Each category appears, in the order of first appearance: the codes depend on the rows alone.
    distinct = every_row.drop_nulls().unique(maintain_order=True)
    assert found.dtype.categories.to_list() == distinct.to_list()

    lengths = each(found, of=lambda words: words.str.len_chars())
    assert lengths.to_list() == every_row.str.len_chars().to_list()

    known = pl.Series("n", names, dtype=pl.String).drop_nulls().unique(maintain_order=True)
    place = {name: row for row, name in enumerate(known)}
    expected = [place.get(word, -1) for word in every_row]
    assert rows_among(found, known).to_list() == expected
    assert rows_among(every_row, known).to_list() == expected
    assert rows_among(found, found.dtype.categories).to_list() == numbered(found)[0].to_list()


@settings(max_examples=100, deadline=None)
@given(TEXTS, st.randoms())
def test_words_are_numbered_by_first_appearance(texts: list[str | None], random: Random):
    found = read(texts)
    order = random.sample(range(len(texts)), k=len(texts) // 2)  # as after a filter and a sort: some words are gone
    rows, names = numbered(found.gather(order))
    words = [found.to_list()[row] for row in order]
    assert names.to_list() == list(dict.fromkeys(word for word in words if word is not None))
    assert [names[row] if row >= 0 else None for row in rows] == words


def test_integers_are_words_too():
    column = WordColumn("w")
    column.add(pl.Series([7, None, 2**40, 7]))
    assert column.enumerated(clean=lambda words: words.cast(pl.String)).to_list() == ["7", None, str(2**40), "7"]


def test_many_words_in_several_pieces_are_told_apart():
    words = pl.select(pl.format("item-{}", pl.int_range(400_000) // 2)).to_series().rename("w")
    column = WordColumn("w")
    for piece in words.to_frame().iter_slices(150_000):
        column.add(piece["w"])
    assert column.enumerated(clean=lambda words: words).cast(pl.String).equals(words)


@pytest.mark.parametrize("second", ["blue", "red"])
def test_two_words_of_one_hash_are_noticed(second: str):
    """Whether they meet in one piece or in two, and only where they are two."""

    def weak(words: pl.Series, seed: int) -> pl.Series:
        return words.hash(seed) if seed % 2 else words.str.len_bytes().cast(pl.UInt64) * 0 + 5

    for pieces in ([["red", second]], [["red"], [second]]):
        column = WordColumn("w", hashed=weak)
        for piece in pieces:
            column.add(pl.Series(piece))
        if second == "red":
            assert column.enumerated(clean=lambda words: words).to_list() == ["red", "red"]
        else:
            with pytest.raises(SameHash):
                column.enumerated(clean=lambda words: words)
