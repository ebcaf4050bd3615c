"""Generative retrieval beside what trains it: trees of parts in several threads, and IDs with a token."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from triptych.data.pages import PagesOf, read_pages
from triptych.foundation.artifact import produce
from triptych.foundation.errors import DataError
from triptych.recall import generative_retriever
from triptych.recall.base import Request
from triptych.recall.code_trie import CodeTrie
from triptych.recall.generative_retriever import GenerativeRetriever
from triptych.recall.generative_train import GenerativeTask, Given
from triptych.recall.models.generative import GenerativeConfig, GenerativeSizes
from triptych.recipes.generation import GenerationConfig, GenerationPlan, GenerationWork
from triptych.semantic_ids import fit
from triptych.semantic_ids.stored import SemanticIds

NUM_ITEMS = 40
MODEL = {"asks": "history", "dim": 16, "heads": 2, "layers": 1, "reader_layers": 1, "history_items": 3, "beams": 40}


@pytest.fixture
def retriever() -> GenerativeRetriever:
    codes = np.random.default_rng(0).integers(5, size=(NUM_ITEMS, 2))
    model = GenerativeConfig.parse(MODEL).build(GenerativeSizes(0, 2, 5), seed=0)
    return GenerativeRetriever(model, CodeTrie.build(codes))


@pytest.fixture
def hurried() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hurried")
def test_threads_that_ask_for_different_parts_each_get_theirs(retriever, monkeypatch):
    """More parts than are kept, so that trees are thrown away while others look for them."""
    monkeypatch.setattr(generative_retriever, "CACHED_TREES", 2)
    parts = [np.arange(NUM_ITEMS) % 5 == part for part in range(5)]

    def ask(start: int) -> bool:
        asked = [(start + step) % 5 for step in range(400)]
        return all(retriever._only(parts[part]).num_items == parts[part].sum() for part in asked)

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, range(8)))
    assert len(retriever._parts) == 2


def test_explaining_hits_throws_no_cells_tree_away(retriever, monkeypatch):
    monkeypatch.setattr(generative_retriever, "CACHED_TREES", 1)
    monkeypatch.setattr(generative_retriever, "FEW_LEFT_OUT", 0)
    cell = np.arange(NUM_ITEMS) % 2 == 0
    found = retriever.retrieve([Request(history=np.empty(0, np.int64), keep=cell)], 5)
    assert cell[found.item_rows].all()
    (kept,) = retriever._parts.values()
    for row, score in zip(found.item_rows[0], found.scores[0], strict=True):
        alone = Request(history=np.empty(0, np.int64), keep=np.arange(NUM_ITEMS) == row)
        np.testing.assert_allclose(retriever.retrieve([alone], 1).scores[0, 0], score, rtol=1e-5)
    assert list(retriever._parts.values()) == [kept]


def test_a_token_may_be_larger_than_any_code(small_shop, tmp_path):
    """Equal vectors share their codes, and are told apart by tokens of which there are more than codes."""
    config = GenerationConfig.parse(
        {
            "semantic_ids": {"quantizer": {"levels": 2, "codes": 8}, "collisions": {"policy": "extra_token"}},
            "generative": {"model": MODEL, "epochs": 1, "batch_pages": 64, "validations": 1, "device": "cpu"},
        }
    )
    catalogue = small_shop.catalogue

    def build(folder):
        np.save(folder / "vectors.npy", np.full((NUM_ITEMS, 4), 0.25, np.float16))
        return {}

    made_from = {"encoder": "none", "catalogue": catalogue.artifact}
    embeddings = produce(tmp_path / "embeddings", kind="embeddings", config={}, inputs=made_from, build=build)
    ids = fit.run(config.semantic_ids, embeddings=embeddings, out=tmp_path, catalogue=catalogue, split=small_shop.split)
    assert SemanticIds.open(ids).codes[:, -1].max() == NUM_ITEMS - 1
    work = GenerationWork(
        plan=GenerationPlan("decoder", config),
        seed=0,
        catalogue=catalogue.artifact,
        split=small_shop.split.artifact,
        queries=None,
        ids=ids,
        num_pages=len(read_pages(catalogue, places=small_shop.split.train, of=PagesOf.CHOICES).place),
        out=tmp_path / "generative",
    )
    retriever = GenerativeRetriever.load(work.train().path)
    (rows,), (scores,) = retriever.retrieve([Request(history=np.array([NUM_ITEMS - 1]))], NUM_ITEMS - 1)
    assert set(rows) == set(range(NUM_ITEMS - 1)), "every item but that of the history"
    assert len(np.unique(scores)) == NUM_ITEMS - 1
    codes = np.asarray(SemanticIds.open(ids).codes)
    with pytest.raises(DataError, match="a code is 39, and the decoder would say 0 to 7"):
        GenerativeTask(config.generative, Given(catalogue, small_shop.split, None, codes, num_codes=8, seed=0))
