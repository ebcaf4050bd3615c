"""Rows of outside strings: by vocabulary, by hash, and dropped."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.data.ids import UNK, IdVocabulary
from triptych.foundation.errors import ArtifactError

words = st.lists(st.one_of(st.none(), st.text("abé表 ", max_size=3)), max_size=40)


@given(words, words, st.integers(1, 3), st.one_of(st.none(), st.integers(0, 4)))
def test_a_vocabulary_is_that_of_a_counter(training, asked, min_count, max_strings):
    ids = IdVocabulary.fit(training, min_count=min_count, max_strings=max_strings)
    counts = Counter(word for word in training if word is not None)
    ranked = sorted((-count, word) for word, count in counts.items() if count >= min_count)
    expected = {word: row for row, (_, word) in enumerate(ranked[:max_strings], start=1)}
    assert ids.num_rows == 1 + len(expected)
    for strings in (asked, pl.Series(asked, dtype=pl.String)):
        found = ids.rows(strings)
        assert found.dtype == np.int64
        assert found.tolist() == [expected.get(word, UNK) for word in asked]


@given(words, st.integers(1, 50), st.integers(-5, 5))
def test_a_hash_depends_on_string_and_seed_alone(asked, buckets, seed):
    found = IdVocabulary.hashed(buckets, seed=seed).rows(asked)
    key = seed.to_bytes(8, "little", signed=True)
    for word, row in zip(asked, found.tolist(), strict=True):
        if word is None:
            assert row == UNK
        else:
            digest = hashlib.blake2b(word.encode(), digest_size=8, key=key).digest()
            assert row == 1 + int.from_bytes(digest, "little") % buckets


def test_a_hash_is_the_same_for_ever():
    """A trained table is of no use with another hash."""
    assert IdVocabulary.hashed(1_000, seed=7).rows(["blue dress", "P-0017", "裙子", ""]).tolist() == [
        697,
        900,
        683,
        745,
    ]


def test_hashes_fill_every_bucket_alike_and_other_seeds_part_what_collides():
    strings = [f"item {number:06d}" for number in range(20_000)]
    first, second = (IdVocabulary.hashed(1_000, seed=seed).rows(strings) for seed in (0, 1))
    counts = np.bincount(first, minlength=1_001)[1:]
    assert abs(counts.var() - 20) < 5  # Poisson: 20 a bucket, and that is the variance
    together = first[:-1] == first[1:]
    assert (second[:-1] == second[1:])[together].mean() < 0.3


@pytest.mark.parametrize(
    "ids", [IdVocabulary.fit(["b", "a", "a", None]), IdVocabulary.fit([]), IdVocabulary.hashed(5, seed=-3)]
)
def test_what_is_saved_is_read_again(tmp_path, ids):
    ids.save(tmp_path)
    again = IdVocabulary.load(tmp_path)
    assert again.num_rows == ids.num_rows
    assert again.rows(["a", "b", "c"]).tolist() == ids.rows(["a", "b", "c"]).tolist()


def test_a_folder_without_ids(tmp_path):
    with pytest.raises(ArtifactError, match=r"holds no ids \('ids.json'\)"):
        IdVocabulary.load(tmp_path)
