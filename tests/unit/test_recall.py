"""What each retriever means by its scores: counts and their decay, grades, and the vectors of requests."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.data.schema import EventKind
from triptych.data.text import TextTokenizer, TokenizerConfig
from triptych.encoders.embed import Embedder
from triptych.encoders.inputs import Modalities
from triptych.encoders.models.two_tower import TwoTowerConfig, TwoTowerEncoder
from triptych.foundation.errors import DataError, EngineError
from triptych.index.backends.exact import ExactConfig, ExactIndex
from triptych.recall.base import Request, group_by_keep, rank
from triptych.recall.models.dense import Dense, DenseConfig
from triptych.recall.models.oracle import Oracle
from triptych.recall.models.popularity import Popularity, PopularityConfig


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), items=st.integers(0, 40), k=st.integers(1, 50), levels=st.integers(1, 6))
def test_rank_equals_a_sort(seed, items, k, levels):
    """Few distinct scores, some of them -inf."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, (3, items)).astype(np.float32)
    scores[rng.random((3, items)) < 0.2] = -np.inf
    hits = rank(scores, k=k)
    for row in range(3):
        expected = sorted((item for item in range(items) if scores[row, item] > -np.inf), key=lambda i: -scores[row, i])
        padding = k - len(expected[:k])
        assert hits.item_rows[row].tolist() == expected[:k] + [-1] * padding
        assert hits.scores[row].tolist() == [scores[row, item] for item in expected[:k]] + [-np.inf] * padding


def test_group_by_keep_goes_by_the_array_itself():
    first, second = np.ones(3, bool), np.ones(3, bool)
    requests = [Request(keep=keep) for keep in (first, None, second, first)]
    groups = [(places.tolist(), keep) for places, keep in group_by_keep(requests)]
    assert [places for places, _ in groups] == [[0, 3], [1], [2]]
    assert groups[0][1] is first
    assert groups[2][1] is second


@pytest.mark.parametrize("half_life_days", [None, 0.5, 3.0])
def test_popularity_counts_training_choices(small_shop, half_life_days):
    catalogue, train = small_shop.catalogue, small_shop.split.train
    config = PopularityConfig(half_life_days=half_life_days)
    counts = Popularity.fit(catalogue, train=train, config=config).counts
    expected = np.zeros(catalogue.num_items)
    events = catalogue.events[train].to_dicts()
    for event in events:
        if list(EventKind)[event["kind"]] is not EventKind.IMPRESSION:
            age_days = (events[-1]["time"] - event["time"]).total_seconds() / 86_400
            expected[event["item_row"]] += 1.0 if half_life_days is None else 0.5 ** (age_days / half_life_days)
    np.testing.assert_allclose(counts, expected, rtol=1e-12)
    assert expected.any()


def test_popularity_sees_no_later_event(small_shop):
    catalogue, train = small_shop.catalogue, small_shop.split.train
    counts = Popularity.fit(catalogue, train=train).counts
    assert Popularity.fit(catalogue, train=slice(0, small_shop.split.test.stop)).counts.sum() > counts.sum()


def test_popularity_of_new_items_is_as_given(small_shop):
    grown = Popularity.fit(small_shop.catalogue, train=small_shop.split.train).with_items([0, 1e6, 0])
    rows = grown.retrieve([Request()], small_shop.catalogue.num_items + 3).item_rows[0]
    first = small_shop.catalogue.num_items
    assert (rows[0], rows[-2:].tolist()) == (first + 1, [first, first + 2])


def test_oracle_ranks_by_grade_then_popularity_then_row(small_shop):
    catalogue = small_shop.catalogue
    counts = Popularity.fit(catalogue, train=small_shop.split.train).counts
    oracle = Oracle.fit(catalogue, counts=counts)
    for row, query in enumerate(catalogue.queries):
        own = catalogue.judgements.filter(query_row=row)
        grades = dict(zip(own["item_row"].to_list(), own["grade"].to_list(), strict=True))
        expected = sorted(range(catalogue.num_items), key=lambda item: (-grades.get(item, 0.0), -counts[item], item))
        hits = oracle.retrieve([Request(query=query)], catalogue.num_items)
        assert hits.item_rows[0].tolist() == expected
    unknown = oracle.retrieve([Request(query="asked by nobody")], 5).item_rows[0]
    assert unknown.tolist() == np.lexsort((np.arange(catalogue.num_items), -counts))[:5].tolist()


def test_oracle_needs_judgements_and_a_query(small_shop, other_shop):
    shop = other_shop(judgements=lambda table: None)
    with pytest.raises(DataError, match="judgements: the catalogue has none"):
        Oracle.fit(shop.catalogue, counts=np.zeros(shop.catalogue.num_items))
    oracle = Oracle.fit(small_shop.catalogue, counts=np.zeros(small_shop.catalogue.num_items))
    with pytest.raises(EngineError, match="The oracle knows grades of queries only"):
        oracle.retrieve([Request(user="u1")], 3)


def make_embedder(catalogue, modalities=Modalities.TITLE_PHOTO):
    torch.manual_seed(0)
    config = TwoTowerConfig(dim=16, layers=1, heads=2, vector_dim=12, photo_px=32, modalities=modalities)
    tokenizer = TextTokenizer.fit(catalogue.titles, config=TokenizerConfig(vocab_size=200))
    return Embedder(TwoTowerEncoder(config, vocab_size=200), tokenizer=tokenizer, device="cpu")


@pytest.fixture(scope="module")
def embedder(small_shop):
    return make_embedder(small_shop.catalogue)


@pytest.fixture(scope="module")
def index(small_shop, embedder):
    vectors = embedder.items(small_shop.catalogue.titles)
    return ExactIndex.build(vectors, config=ExactConfig(stored_as="float32"))


@pytest.fixture(scope="module")
def photos():
    return np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)


def unit(vector):
    return vector / np.linalg.norm(vector)


def test_vector_of_each_request(embedder, index, photos):
    dense = Dense(embedder, index, config=DenseConfig(photo_weight=0.25, history_events=3))
    words = embedder.queries(["red bag", "blue hat"])
    seen = embedder.items([None, None], pixels=photos)
    history = np.array([9, 4, 4, 7])
    stored = index.vectors(np.arange(40))
    vectors = dense.request_vectors(
        [
            Request(item_row=5),
            Request(query="red bag"),
            Request(photo=photos[0]),
            Request(query="blue hat", photo=photos[1]),
            Request(history=history),
        ]
    )
    expected = [
        stored[5],
        words[0],
        seen[0],
        unit(0.75 * words[1] + 0.25 * seen[1]),
        unit(stored[[4, 4, 7]].mean(axis=0)),  # the latest three, an item as often as it was chosen
    ]
    np.testing.assert_allclose(vectors, expected, atol=1e-6)


def test_similar_leaves_the_item_out_and_recommendation_the_whole_history(embedder, index):
    dense = Dense(embedder, index, config=DenseConfig(history_events=2))
    history = np.array([3, 8, 8, 1])
    requests = [Request(item_row=5), Request(history=history), Request(query="red bag")]
    hits = dense.retrieve(requests, 40)
    full = index.search(dense.request_vectors(requests), k=40)
    for place, gone in enumerate([{5}, {1, 3, 8}, set()]):
        expected = [row for row in full.item_rows[place].tolist() if row not in gone]
        assert hits.item_rows[place].tolist() == expected + [-1] * len(gone)


@pytest.mark.parametrize(
    ("request_", "count"),
    [
        (Request(), 0),
        (Request(user="u1"), 0),
        (Request(history=np.empty(0, np.int64)), 0),
        (Request(query="red", item_row=3), 2),
        (Request(history=np.array([1]), item_row=3), 2),
    ],
)
def test_dense_request_must_ask_one_thing(embedder, index, request_, count):
    with pytest.raises(EngineError, match=f"exactly one of.* this one has {count} of them"):
        Dense(embedder, index).retrieve([request_], 3)


def test_a_title_encoder_refuses_photos(small_shop, index, photos):
    dense = Dense(make_embedder(small_shop.catalogue, Modalities.TITLE), index)
    with pytest.raises(EngineError, match="reads no photos. Search by words"):
        dense.retrieve([Request(photo=photos[0])], 3)
