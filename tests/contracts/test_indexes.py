"""One suite for every registered index: what `triptych.index.base.Index` promises.

Approximate kinds are given what makes them miss nothing among 60 vectors: every list, and enough candidates. What they
miss where they look into less is the business of tests/reference/test_approximate_indexes.py.
"""

from __future__ import annotations

import numpy as np
import pytest

from triptych.foundation.errors import ArtifactError, DataError
from triptych.foundation.registry import config_class, kinds
from triptych.index.base import BACKENDS

LISTS = {"kind": "ivf", "num_lists": 4, "num_probes": 4, "refine": 4, "exact_below_rate": 0}
SETTINGS = {
    "auto": {},
    "auto with lists": {"kind": "auto", "exact_up_to": 0, "ivf": LISTS},
    "exact": {},
    "hnsw": {"ef_search": 60, "exact_below_rate": 0},
    "ivf": LISTS,
    "milvus": {"index_type": "FLAT", "exact_below_rate": 0},
    "ivf flat": LISTS | {"storage": "flat"},
    "ivf pq": LISTS | {"storage": "pq"},
}
"""Kind → its settings here; a kind may be there more than once."""
CASES = sorted({*kinds(BACKENDS), *SETTINGS})


@pytest.fixture(params=CASES)
def config(request):
    kind = request.param
    if kind == "milvus":
        pytest.importorskip("milvus_lite", reason="needs the milvus extra")
    settings = {"kind": kind, **SETTINGS.get(kind, {})}
    return config_class(BACKENDS, settings["kind"]).parse(settings)


@pytest.fixture
def vectors():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((60, 12)).astype(np.float32)
    vectors[40:50] = vectors[0:10]  # equal scores
    return vectors.astype(np.float16)


@pytest.fixture
def queries():
    return np.random.default_rng(1).standard_normal((5, 12)).astype(np.float32)


@pytest.fixture
def index(config, vectors):
    return config.build(vectors)


def assert_same(first, second):
    np.testing.assert_array_equal(first.item_rows, second.item_rows)
    np.testing.assert_array_equal(first.scores, second.scores)


def test_shapes_and_types(index, queries):
    hits = index.search(queries, k=7)
    assert hits.item_rows.shape == hits.scores.shape == (5, 7)
    assert hits.item_rows.dtype == np.int64
    assert hits.scores.dtype == np.float32
    assert (index.num_rows, index.dim) == (60, 12)
    assert index.memory_bytes >= 60 * 12 * 2


def test_descending_and_ties_by_item_row(index, queries):
    hits = index.search(queries, k=60)
    for rows, scores in zip(*hits, strict=True):
        order = sorted(zip(-scores, rows, strict=True))
        assert [row for _, row in order] == rows.tolist()
        place = {row: position for position, row in enumerate(rows.tolist())}
        assert all(place[row + 40] == place[row] + 1 for row in range(10))


def test_deterministic_for_any_batch(index, queries):
    together = index.search(queries, k=9)
    assert_same(together, index.search(queries, k=9))
    for place in range(len(queries)):
        alone = index.search(queries[place : place + 1], k=9)
        np.testing.assert_array_equal(alone.item_rows[0], together.item_rows[place])
        np.testing.assert_array_equal(alone.scores[0], together.scores[place])


def test_queries_may_be_read_only_or_strided(index, queries):
    expected = index.search(queries, k=5)
    padded = np.zeros((5, 24), np.float32)
    padded[:, ::2] = queries
    frozen = queries.copy()
    frozen.flags.writeable = False
    assert_same(index.search(padded[:, ::2], k=5), expected)
    assert_same(index.search(frozen, k=5), expected)


def test_no_queries(index):
    hits = index.search(np.empty((0, 12), np.float32), k=3)
    assert hits.item_rows.shape == hits.scores.shape == (0, 3)


def test_more_places_than_items_are_padding(index, queries):
    hits = index.search(queries, k=75)
    assert (hits.item_rows[:, 60:] == -1).all()
    assert (hits.scores[:, 60:] == -np.inf).all()
    assert (np.sort(hits.item_rows[:, :60], axis=1) == np.arange(60)).all()


def test_keep_gives_what_a_smaller_index_gives(config, index, vectors, queries):
    for share in (0.0, 0.1, 0.9):
        keep = np.random.default_rng(2).random(60) < share
        hits = index.search(queries, k=8, keep=keep)
        small = config.build(vectors[keep]).search(queries, k=8)
        rows = np.append(np.flatnonzero(keep), -1)
        np.testing.assert_array_equal(hits.item_rows, rows[small.item_rows])
        np.testing.assert_array_equal(hits.scores, small.scores)


def test_added_rows_are_found_as_if_built_in(config, index, vectors, queries):
    part = config.build(vectors[:50])
    np.testing.assert_array_equal(part.add(vectors[50:55]), np.arange(50, 55))
    np.testing.assert_array_equal(part.add(vectors[55:]), np.arange(55, 60))
    assert_same(part.search(queries, k=20), index.search(queries, k=20))
    np.testing.assert_array_equal(part.vectors(np.array([58, 3, 51])), vectors[[58, 3, 51]].astype(np.float32))


def test_add_to_an_empty_index(config, vectors, queries):
    empty = config.build(vectors[:0])
    assert (empty.search(queries, k=2).item_rows == -1).all()
    empty.add(vectors)
    assert_same(empty.search(queries, k=5), config.build(vectors).search(queries, k=5))


def test_removed_rows_are_never_returned_and_rows_keep_their_numbers(index, queries):
    first = index.search(queries, k=1).item_rows[:, 0]
    index.remove(first[:2])
    index.remove(first[2:])
    keep = np.ones(60, bool)
    keep[first] = False
    left = index.search(queries, k=60)
    assert not np.isin(left.item_rows, first).any()
    assert_same(left, index.search(queries, k=60, keep=keep))


def test_copy_is_independent(index, vectors, queries):
    before = index.search(queries, k=60)
    other = index.copy()
    other.add(vectors[:3])
    other.remove(np.array([0, 1]))
    assert_same(index.search(queries, k=60), before)
    assert (index.num_rows, other.num_rows) == (60, 63)


def test_says_what_it_is(config, index, vectors, tmp_path):
    """The kind of an index that a rule chose is that of what was chosen, saved or not."""
    registered = config_class(BACKENDS, index.config.kind)
    assert isinstance(index.config, registered)
    assert index.config == registered.parse(index.config.dump())
    index.save(tmp_path)
    assert config.open_saved(tmp_path).config == index.config
    assert config.kind in ("auto", index.config.kind)


def test_save_and_load(config, index, vectors, queries, tmp_path):
    index.add(vectors[:4] * 2)
    index.remove(np.array([5, 61]))
    expected = index.search(queries, k=70)
    index.save(tmp_path / "index")
    loaded = config.open_saved(tmp_path / "index")
    assert_same(loaded.search(queries, k=70), expected)
    loaded.add(vectors[:1] * 3)
    grown = loaded.search(queries, k=70)
    loaded.save(tmp_path / "index")  # over the files it is mapped from
    assert_same(loaded.search(queries, k=70), grown)
    assert_same(config.open_saved(tmp_path / "index").search(queries, k=70), grown)


def test_empty_save_and_load(config, vectors, queries, tmp_path):
    config.build(vectors[:0]).save(tmp_path)
    assert (config.open_saved(tmp_path).search(queries, k=2).item_rows == -1).all()


def test_refusals(config, index, vectors, queries, tmp_path):
    with pytest.raises(DataError, match=r"shape \(5, 11\), expected \[n, 12\]"):
        index.search(queries[:, :11], k=3)
    spoilt = queries.copy()
    spoilt[2, 3] = np.nan
    with pytest.raises(DataError, match="query vector 2 holds NaN"):
        index.search(spoilt, k=3)
    with pytest.raises(DataError, match="scores overflow; normalise them"):
        index.search(queries * 1e37, k=3)
    with pytest.raises(DataError, match="k is 0"):
        index.search(queries, k=0)
    with pytest.raises(DataError, match=r"keep is bool \(59,\), expected bool \[60\]"):
        index.search(queries, k=3, keep=np.ones(59, bool))
    with pytest.raises(DataError, match="item row 60 is outside 0..59"):
        index.vectors(np.array([0, 60]))
    with pytest.raises(DataError, match="item row -1 is outside"):
        index.remove(np.array([-1]))
    with pytest.raises(DataError, match="vectors to add have 3 numbers, the index has 12"):
        index.add(vectors[:, :3])
    with pytest.raises(DataError, match="vector 1 holds NaN, infinity or a number too large"):
        index.add(np.array([[0.0] * 12, [1e6] * 12]))
    with pytest.raises(ArtifactError, match=r"has no index\.json"):
        config.open_saved(tmp_path)
