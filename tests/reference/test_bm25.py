"""BM25 against the formula in a plain loop."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.data.text import words
from triptych.foundation.errors import EngineError
from triptych.recall.base import Request
from triptych.recall.models.bm25 import Bm25, Bm25Config, Variant

TITLES = [
    "Red cotton dress",
    "red RED dress, long",
    "Blue dress",
    "",
    "t-shirt 500ml red",
    "红色连衣裙",
    "连衣裙 长款",
    "dress dress dress",
    "Red cotton dress",
    "a the of",
]


def by_loop(titles, query, *, variant, k1, b):
    """Score every title, word by word; see the formula in `triptych.recall.models.bm25`."""
    documents = [words(title) for title in titles]
    mean = sum(map(len, documents)) / len(documents)
    scores = []
    for document in documents:
        counts, score = Counter(document), 0.0
        for word in words(query):
            holding = sum(word in other for other in documents)
            odds = (len(documents) - holding + 0.5) / (holding + 0.5)
            idf = math.log(1 + odds) if variant is Variant.LUCENE else math.log(max(odds, 1.0))
            if counts[word]:
                score += idf * counts[word] / (counts[word] + k1 * (1 - b + b * len(document) / mean))
        scores.append(score)
    return scores


def hits_of(bm25, query, k, keep=None):
    hits = bm25.retrieve([Request(query=query, keep=keep)], k)
    return hits.item_rows[0].tolist(), hits.scores[0]


@pytest.mark.parametrize("variant", list(Variant))
@pytest.mark.parametrize(("k1", "b"), [(1.2, 0.75), (0.0, 0.5), (2.0, 0.0), (0.9, 1.0)])
@pytest.mark.parametrize("query", ["red dress", "red red dress", "连衣裙", "500ml", "T-Shirt unknown word"])
def test_equals_the_loop(variant, k1, b, query):
    bm25 = Bm25.fit(TITLES, config=Bm25Config(variant=variant, k1=k1, b=b))
    expected = by_loop(TITLES, query, variant=variant, k1=k1, b=b)
    np.testing.assert_allclose(bm25.scores(query), expected, rtol=2e-6, atol=1e-7)


@settings(max_examples=40, deadline=None)
@given(
    titles=st.lists(st.lists(st.sampled_from("abcdef"), max_size=6).map(" ".join), min_size=1, max_size=25),
    query=st.lists(st.sampled_from("abcdefgh"), max_size=4).map(" ".join),
    variant=st.sampled_from(list(Variant)),
    k=st.integers(1, 30),
)
def test_ranking_equals_the_loop(titles, query, variant, k):
    bm25 = Bm25.fit(titles, config=Bm25Config(variant=variant))
    expected = by_loop(titles, query, variant=variant, k1=1.2, b=0.75)
    np.testing.assert_allclose(bm25.scores(query), expected, rtol=2e-6, atol=1e-7)
    rows, scores = hits_of(bm25, query, k)
    own = bm25.scores(query)
    wanted = sorted((row for row in range(len(titles)) if own[row] > 0), key=lambda row: (-own[row], row))[:k]
    assert rows == wanted + [-1] * (k - len(wanted))
    assert np.isneginf(scores[len(wanted) :]).all()


def test_titles_that_share_no_word_are_no_hits():
    bm25 = Bm25.fit(TITLES)
    rows, _ = hits_of(bm25, "red", 10)
    assert sorted(row for row in rows if row >= 0) == [0, 1, 4, 8]
    assert rows.index(0) + 1 == rows.index(8)  # equal titles: by item row
    assert hits_of(bm25, "nothing here", 3)[0] == [-1, -1, -1]
    assert hits_of(bm25, "!?", 3)[0] == [-1, -1, -1]


def test_added_titles_are_as_if_they_had_been_there():
    grown = Bm25.fit(TITLES[:6]).with_items(TITLES[6:8]).with_items(TITLES[8:])
    for query in ("red dress", "连衣裙", "the dress"):
        np.testing.assert_array_equal(grown.scores(query), Bm25.fit(TITLES).scores(query))
    assert grown.num_items == 10


def test_titles_taken_away_are_as_if_they_had_been_empty():
    grown = Bm25.fit(TITLES[:6]).with_items(TITLES[6:], without=[1, 4])
    grown = grown.with_items([], without=[8])
    left = ["" if row in (1, 4, 8) else title for row, title in enumerate(TITLES)]
    for query in ("red dress", "连衣裙", "the dress"):
        np.testing.assert_array_equal(grown.scores(query), Bm25.fit(left).scores(query))
    nothing = Bm25.fit(["red"]).with_items([""], without=[0])
    assert hits_of(nothing, "red", 2)[0] == [-1, -1]
    assert hits_of(nothing.with_items(["red"]), "red", 2)[0] == [2, -1]


def test_a_shop_without_any_word(tmp_path):
    empty = Bm25.fit(["", ""])
    assert hits_of(empty, "red", 2)[0] == [-1, -1]
    empty.save(tmp_path)
    loaded = Bm25.load(tmp_path)
    assert hits_of(loaded, "red", 2)[0] == [-1, -1]
    assert hits_of(loaded.with_items(["red"]), "red", 2)[0] == [2, -1]
    assert hits_of(Bm25.fit([]), "red", 2)[0] == [-1, -1]


def test_loaded_grows_like_the_original(tmp_path):
    bm25 = Bm25.fit(TITLES[:7], config=Bm25Config(k1=0.4))
    bm25.save(tmp_path)
    loaded = Bm25.load(tmp_path).with_items(TITLES[7:])
    expected = Bm25.fit(TITLES, config=Bm25Config(k1=0.4))
    np.testing.assert_array_equal(loaded.scores("red long dress"), expected.scores("red long dress"))


def test_a_request_without_words_is_refused():
    with pytest.raises(EngineError, match="bm25 compares words: give a query text"):
        Bm25.fit(TITLES).retrieve([Request(item_row=1)], 3)


def test_same_bytes_in_every_process(tmp_path):
    """Python orders sets of words differently in every process; what is stored must not show it."""
    script = (
        "import sys, pathlib; from triptych.recall.models.bm25 import Bm25;"
        "Bm25.fit([f'word{i % 17} thing{i % 5} red' for i in range(60)]).save(pathlib.Path(sys.argv[1]))"
    )
    digests = []
    for seed in ("1", "2"):
        out = tmp_path / seed
        subprocess.run([sys.executable, "-c", script, str(out)], check=True, env=os.environ | {"PYTHONHASHSEED": seed})
        files = sorted(file for file in out.rglob("*") if file.is_file())
        digests.append([(file.name, hashlib.sha256(file.read_bytes()).hexdigest()) for file in files])
    assert digests[0] == digests[1]
