"""Generative retrieval on a shop whose answer is known: every query has one right item, and so one right ID."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from planted_content import WORDS, Encoder, content_of

from triptych.data.catalogue import Catalogue
from triptych.foundation.errors import DataError, EngineError
from triptych.recall import generative_train
from triptych.recall.base import Request
from triptych.recall.generative_retriever import GenerativeRetriever
from triptych.recall.generative_train import GenerativeTask, GenerativeTrainConfig, Given


def codes_of(catalogue: Catalogue) -> np.ndarray:
    """The thing, then the colour, as numbers: IDs that mean something."""
    return np.array([[WORDS.index(word) for word in item_id.split("-")[:2]] for item_id in catalogue.item_ids])


def given(shop, *, seed: int = 0) -> Given:
    catalogue = shop.catalogue
    codes = codes_of(catalogue).astype(np.uint16)
    return Given(catalogue, shop.split, content_of(catalogue.queries), codes, num_codes=len(WORDS), seed=seed)


def config(**settings) -> GenerativeTrainConfig:
    tree = {"batch_pages": 15, "epochs": 60, "validation_k": 1, "learning_rate": 3e-3, "device": "cpu"}
    return GenerativeTrainConfig.parse({**tree, "model": {"dim": 16, "heads": 2, "layers": 1, "beams": 8}, **settings})


@pytest.fixture(scope="module")
def made(planted_shop, tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("generative")
    return generative_train.run(config(), given(planted_shop), inputs={"shop": "planted"}, out=folder)


def test_it_learns_to_say_what_was_chosen(made):
    assert made.summary["metrics"]["recall@1"] > 0.9


def test_new_words_are_answered_and_what_is_gone_is_not(made, planted_shop):
    catalogue = planted_shop.catalogue
    answers = GenerativeRetriever.load(made.path, encoder=Encoder())
    asked = [Request(query="red shirt"), Request(query="crimson lamp")]
    found = answers.retrieve(asked, 3)
    assert [catalogue.item_ids[row] for row in found.item_rows[:, 0]] == ["shirt-red", "lamp-red"]
    assert (np.diff(found.scores[found.scores > -np.inf]) < 0).any()
    gone = answers.over(answers.trie.without(found.item_rows[:, 0]), vectors=None)
    assert not np.isin(gone.retrieve(asked, 30).item_rows, found.item_rows[:, 0]).any()
    with pytest.raises(EngineError, match="it answers words"):
        answers.retrieve([Request(item_row=0)], 1)


def test_items_under_one_id_stand_in_the_order_of_their_vectors(made, planted_shop):
    """A newcomer that is nearer to the query goes before the item whose ID it shares; one that is farther, after it."""
    first = GenerativeRetriever.load(made.path, encoder=Encoder())
    query = "red shirt"
    best = first.retrieve([Request(query=query)], 1).item_rows[0, 0]
    vector = content_of([query])[0]
    num_items = planted_shop.catalogue.num_items
    vectors = np.zeros((num_items + 2, len(vector)), dtype=np.float32)
    vectors[best], vectors[num_items], vectors[num_items + 1] = 0.5 * vector, 0.9 * vector, 0.1 * vector
    own = codes_of(planted_shop.catalogue)[best]
    grown = first.trie.with_items(np.stack([own, own]), item_rows=np.array([num_items, num_items + 1]))
    found = first.over(grown, vectors=vectors).retrieve([Request(query=query)], 3)
    assert found.item_rows[0].tolist() == [num_items, best, num_items + 1]
    assert (np.diff(found.scores[0]) < 0).all()


def test_a_batch_is_a_function_of_its_number_and_of_what_was_chosen(planted_shop):
    task, other = GenerativeTask(config(), given(planted_shop)), GenerativeTask(config(), given(planted_shop))
    codes, pages = codes_of(planted_shop.catalogue), task.pages
    chosen = {
        tuple(codes[row])
        for first, last in zip(pages.offsets, pages.offsets[1:], strict=False)
        for row in pages.item_rows[first:last]
    }
    for index in (0, 3, 50):
        batch = task.batch(index)
        np.testing.assert_array_equal(batch.codes, other.batch(index).codes)
        assert {tuple(row) for row in batch.codes.tolist()} <= chosen
    assert not np.array_equal(task.batch(0).ask.content, task.batch(1).ask.content)


def test_ids_of_another_catalogue_are_refused(planted_shop):
    fewer = given(planted_shop)
    with pytest.raises(DataError, match="semantic IDs: there are 3 for"):
        GenerativeTask(config(), Given(**{**vars(fewer), "codes": fewer.codes[:3]}))
