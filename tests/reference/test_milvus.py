"""Milvus, in its local form, against the exact index; and what is asked of its files."""

from __future__ import annotations

import hashlib
import sys

import numpy as np
import pytest

from triptych.foundation.errors import ArtifactError, MissingExtra
from triptych.index.backends.exact import ExactConfig
from triptych.index.backends.milvus import MilvusConfig

NUM_ITEMS, DIM = 1500, 16


@pytest.fixture(scope="module")
def vectors():
    drawn = np.random.default_rng(0).standard_normal((NUM_ITEMS, DIM))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float16)


@pytest.fixture(scope="module")
def queries():
    return np.random.default_rng(1).standard_normal((70, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def index(vectors):
    pytest.importorskip("milvus_lite", reason="needs the milvus extra")
    return MilvusConfig(index_type="FLAT").build(vectors)


def checksums(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("rate", [None, 0.5, 0.02])
def test_finds_what_exact_search_finds(index, vectors, queries, rate):
    keep = None if rate is None else np.random.default_rng(2).random(NUM_ITEMS) < rate
    exact = ExactConfig().build(vectors).search(queries, k=20, keep=keep)
    hits = index.search(queries, k=20, keep=keep)
    np.testing.assert_array_equal(hits.item_rows, exact.item_rows)
    np.testing.assert_array_equal(hits.scores, exact.scores)


def test_the_collection_proposes_and_a_filter_has_it_asked_for_more(index, queries):
    """Of twice as many rows asked for, about half pass a filter of a half; and none that must not."""
    collection, keep = index._state.structure, np.arange(NUM_ITEMS) % 2 == 1
    narrow = collection.propose(queries, places=40, kept=keep, widening=1.0)
    wide = collection.propose(queries, places=40, kept=keep, widening=2.5)
    assert keep[narrow[narrow >= 0]].all()
    assert 0.3 < (narrow >= 0).mean() < 0.7
    assert (wide >= 0).mean() > 0.95


def test_opening_leaves_the_files_as_they_are(index, queries, tmp_path):
    index.save(tmp_path)
    before = checksums(tmp_path)
    opened = MilvusConfig().open_saved(tmp_path)
    opened.add(np.ones((3, DIM)))
    opened.search(queries, k=5)
    assert checksums(tmp_path) == before
    assert opened.config == index.config
    opened.save(tmp_path)
    np.testing.assert_array_equal(
        MilvusConfig().open_saved(tmp_path).search(queries, k=5).item_rows, opened.search(queries, k=5).item_rows
    )


def test_the_collection_is_named_by_what_is_in_it(index, vectors):
    def name(config, some):
        return config.build(some)._state.structure.name

    own = index._state.structure.name
    assert name(MilvusConfig(index_type="FLAT", refine=5), vectors) == own
    assert name(MilvusConfig(index_type="HNSW"), vectors) != own
    assert name(MilvusConfig(index_type="FLAT"), vectors[::-1]) != own


def test_another_collection_is_refused(index, vectors, tmp_path):
    index.save(tmp_path)
    about = tmp_path / "milvus.json"
    about.write_text(about.read_text().replace("triptych_", "triptych_0"))
    with pytest.raises(ArtifactError, match="has no rows of collection triptych_0"):
        MilvusConfig().open_saved(tmp_path)


def test_without_the_extra(vectors, monkeypatch):
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(MissingExtra, match=r"pip install 'triptych\[milvus\]'"):
        MilvusConfig().build(vectors)
