"""Item-kNN against scikit-learn's cosine and a plain loop over users."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from triptych.data.targets import UserItems
from triptych.foundation.errors import EngineError
from triptych.recall.base import Request
from triptych.recall.models.item_knn import ItemKnn, ItemKnnConfig

NUM_ITEMS = 1_100
"""More than one block of similarities."""


@pytest.fixture(scope="module")
def chosen() -> list[list[int]]:
    rng = np.random.default_rng(0)
    popular = rng.zipf(1.3, size=(60, 40)) % NUM_ITEMS
    return [sorted(rng.permutation(rows)[: rng.integers(0, 40)].tolist()) for rows in popular]  # with repeats


@pytest.fixture(scope="module")
def histories(chosen: list[list[int]]) -> UserItems:
    offsets = np.concatenate([[0], np.cumsum([len(rows) for rows in chosen])])
    return UserItems(offsets, np.concatenate([np.array(rows, dtype=np.int32) for rows in chosen]).astype(np.int32))


def scores_of(retriever: ItemKnn, request: Request) -> np.ndarray:
    hits = retriever.retrieve([request], NUM_ITEMS)
    scores = np.zeros(NUM_ITEMS, dtype=np.float32)
    found = hits.item_rows[0][hits.item_rows[0] >= 0]
    scores[found] = hits.scores[0][: len(found)]
    return scores


def test_with_all_neighbours_it_is_the_cosine_of_the_columns(chosen: list[list[int]], histories: UserItems):
    matrix = np.zeros((len(chosen), NUM_ITEMS))
    for user, rows in enumerate(chosen):
        matrix[user, rows] = 1
    similar = cosine_similarity(matrix.T)
    np.fill_diagonal(similar, 0)
    retriever = ItemKnn.fit(histories, num_items=NUM_ITEMS, config=ItemKnnConfig(neighbours=None))
    asked = np.flatnonzero(matrix.sum(axis=0))[:40]
    for row in asked:
        np.testing.assert_allclose(scores_of(retriever, Request(item_row=int(row))), similar[row], atol=1e-6)
    history = np.array([asked[0], asked[7], asked[0], asked[30]])
    expected = similar[np.unique(history)].sum(axis=0)
    expected[history] = 0
    np.testing.assert_allclose(scores_of(retriever, Request(history=history)), expected, atol=1e-6)


def test_neighbours_and_shrinkage_equal_a_loop(chosen: list[list[int]], histories: UserItems):
    users_of = {item: {user for user, rows in enumerate(chosen) if item in rows} for item in range(NUM_ITEMS)}
    config = ItemKnnConfig(neighbours=3, shrinkage=2.0)
    retriever = ItemKnn.fit(histories, num_items=NUM_ITEMS, config=config)
    for item in [row for row, users in users_of.items() if users][:60]:
        shared = {
            other: np.float32(
                len(users_of[item] & users_of[other])
                / (np.sqrt(len(users_of[item])) * np.sqrt(len(users_of[other])) + 2.0)
            )
            for other in range(NUM_ITEMS)
            if other != item and users_of[item] & users_of[other]
        }
        kept = sorted(shared, key=lambda other: (-shared[other], other))[:3]
        expected = np.zeros(NUM_ITEMS)
        expected[kept] = [shared[other] for other in kept]
        np.testing.assert_allclose(scores_of(retriever, Request(item_row=item)), expected, atol=1e-6)


def test_it_goes_by_histories_only(histories: UserItems):
    retriever = ItemKnn.fit(histories, num_items=NUM_ITEMS)
    for request in (Request(query="lamp"), Request(user="u1", history=np.empty(0, int))):
        with pytest.raises(EngineError, match="give a history or an item"):
            retriever.retrieve([request], 3)
