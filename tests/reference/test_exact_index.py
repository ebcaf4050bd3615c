"""The exact index against faiss's flat index and against a loop over all items, equal scores included."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.index.backends.exact import ExactConfig, ExactIndex
from triptych.index.stored import NumberFormat
from triptych.index.top_k import Arithmetic, Store, exact_top_k

ARITHMETICS = [Arithmetic.FLOAT32, Arithmetic.BFLOAT16]


def unit(rng, shape):
    vectors = rng.standard_normal(shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def by_loop(vectors, queries, k, keep=None):
    """The definition: float64 products rounded to float32, sorted by score, then by row; one pair at a time."""
    rows = np.full((len(queries), k), -1, np.int64)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    for place, query in enumerate(queries):
        all_scores = [
            (-np.float32(np.einsum("d,d", vector.astype(np.float64), query.astype(np.float64))), row)
            for row, vector in enumerate(vectors)
            if keep is None or keep[row]
        ]
        for column, (negative, row) in enumerate(sorted(all_scores)[:k]):
            rows[place, column], scores[place, column] = row, -negative
    return rows, scores


def store(vectors):
    pieces = np.array_split(vectors, 3)
    norm = float(np.linalg.norm(vectors.astype(np.float64), axis=1).max(initial=0))
    return Store([torch.from_numpy(piece.copy()) for piece in pieces if len(piece)], norm)


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_equals_faiss_flat(arithmetic):
    rng = np.random.default_rng(0)
    centres = unit(rng, (200, 48))
    vectors = unit(rng, (20_000, 48)) * 0.5 + centres[rng.integers(0, 200, 20_000)]
    vectors = vectors.astype(np.float16).astype(np.float32)
    queries = unit(rng, (70, 48))
    flat = faiss.IndexFlatIP(48)
    flat.add(vectors)
    theirs, their_rows = flat.search(queries, 50)
    hits = ExactIndex.build(vectors, config=ExactConfig(arithmetic=arithmetic)).search(queries, k=50)
    np.testing.assert_allclose(hits.scores, theirs, rtol=0, atol=2e-6)
    # faiss sums in float32: neighbours closer than that may stand in another order, and no others
    differ = hits.item_rows != their_rows
    assert differ.mean() < 0.01
    true = np.einsum("qkd,qd->qk", vectors[their_rows].astype(np.float64), queries.astype(np.float64))
    np.testing.assert_allclose(true[differ], hits.scores[differ], rtol=0, atol=2e-6)


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("number_format", list(NumberFormat))
def test_equals_the_loop_with_many_ties(arithmetic, number_format):
    """Few distinct vectors, so that almost every score is shared by dozens of items."""
    rng = np.random.default_rng(1)
    vectors = np.concatenate([unit(rng, (7, 8))[rng.integers(0, 7, 400)], np.zeros((30, 8), np.float32)])
    vectors = rng.permutation(vectors).astype(number_format.value)
    queries = np.concatenate([unit(rng, (5, 8)), np.zeros((1, 8), np.float32), -vectors[:3].astype(np.float32)])
    index = ExactIndex.build(vectors, config=ExactConfig(arithmetic=arithmetic, stored_as=number_format))
    for k in (1, 10, 100, 500):
        rows, scores = by_loop(vectors, queries, k)
        hits = index.search(queries, k=k)
        np.testing.assert_array_equal(hits.item_rows, rows)
        np.testing.assert_array_equal(hits.scores, scores)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_items=st.integers(0, 300),
    num_queries=st.integers(0, 9),
    dim=st.integers(1, 20),
    k=st.integers(1, 40),
    arithmetic=st.sampled_from(ARITHMETICS),
    block_scores=st.sampled_from([16, 100, 1000, 10**6]),
    query_block=st.sampled_from([1, 4, 1000]),
    decimals=st.sampled_from([0, 1, 8]),
    scale=st.sampled_from([1e-3, 1.0, 50.0]),
    share=st.sampled_from([None, 0.0, 0.05, 0.5, 0.6, 0.97]),
)
def test_equals_the_loop_for_any_sizes(
    seed, num_items, num_queries, dim, k, arithmetic, block_scores, query_block, decimals, scale, share
):
    """Any block of items or queries, any scale, any mask; rounded coordinates give equal and nearly equal scores."""
    rng = np.random.default_rng(seed)
    vectors = (rng.standard_normal((num_items, dim)).round(decimals) * scale).astype(np.float16)
    queries = (rng.standard_normal((num_queries, dim)).round(decimals) * scale).astype(np.float32)
    keep = None if share is None else rng.random(num_items) < share
    hits = exact_top_k(
        store(vectors),
        queries,
        k=k,
        kept=None if keep is None else np.flatnonzero(keep),
        arithmetic=arithmetic,
        block_scores=block_scores,
        query_block=query_block,
    )
    rows, scores = by_loop(vectors, queries, k, keep)
    np.testing.assert_array_equal(hits.item_rows, rows)
    np.testing.assert_array_equal(hits.scores, scores)


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("number_format", list(NumberFormat))
def test_removed_and_filtered_rows_never_come_back(arithmetic, number_format):
    """Pieces of which all, most, few or no rows are kept; what is gone would have won; ties everywhere."""
    rng = np.random.default_rng(7)
    vectors = rng.permutation(unit(rng, (9, 8))[rng.integers(0, 9, 700)]).astype(number_format.value)
    queries = unit(rng, (5, 8))
    config = ExactConfig(arithmetic=arithmetic, stored_as=number_format)
    index = ExactIndex.build(vectors[:400], config=config)
    index.add(vectors[400:])
    gone = np.zeros(700, np.bool_)
    for removed in (index.search(queries, k=7).item_rows.ravel(), np.arange(350, 420), np.arange(420, 650)):
        index.remove(removed)
        gone[removed] = True
        for keep in (None, rng.random(700) < 0.9, rng.random(700) < 0.4, np.arange(700) < 400, np.arange(700) >= 400):
            hits = index.search(queries, k=60, keep=keep)
            rows, scores = by_loop(vectors, queries, 60, ~gone if keep is None else keep & ~gone)
            np.testing.assert_array_equal(hits.item_rows, rows)
            np.testing.assert_array_equal(hits.scores, scores)


@pytest.mark.parametrize("order", ["ascending", "descending"])
@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_items_sorted_by_score(order, arithmetic):
    """The worst order for a running threshold: every block beats all before it."""
    rng = np.random.default_rng(2)
    vectors = unit(rng, (3000, 16))
    query = unit(rng, (1, 16))
    vectors = vectors[np.argsort(vectors @ query[0])]
    if order == "descending":
        vectors = vectors[::-1]
    vectors = vectors.astype(np.float16)
    hits = exact_top_k(store(vectors), query, k=20, arithmetic=arithmetic, block_scores=128)
    np.testing.assert_array_equal(hits.item_rows, by_loop(vectors, query, 20)[0])


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_bound_holds_where_rounding_is_worst(arithmetic):
    """Scores that differ by less than the fast pass can see, of vectors whose coordinates all round the same way."""
    rng = np.random.default_rng(3)
    just_below = np.float32(1 + 2.0**-8) * (1 - 2.0**-10)  # halfway between two bfloat16 numbers
    vectors = (just_below * (1 + rng.integers(0, 3, (2000, 64)) * 2.0**-10)).astype(np.float16)
    queries = np.full((3, 64), just_below, np.float32) * rng.choice(np.array([-1, 1], np.float32), (3, 64))
    hits = exact_top_k(store(vectors), queries, k=25, arithmetic=arithmetic, block_scores=999)
    rows, scores = by_loop(vectors, queries, 25)
    np.testing.assert_array_equal(hits.item_rows, rows)
    np.testing.assert_array_equal(hits.scores, scores)


def test_bound_is_met_almost_exactly():
    """The best item is rounded down everywhere, and worse ones up everywhere, as far as bfloat16 can be wrong.

    Products: 66 against 65, true scores: the other way round. The bound allows 1.05.
    """
    half_up, half_down = 1 + 2.0**-8 + 2.0**-20, 1 + 2.0**-8 - 2.0**-20
    worse = np.array([half_up] * 65 + [63 / 256, 0], np.float32)
    best = np.array([half_down] * 65 + [63 / 256, 2.0**-12], np.float32)
    vectors = np.stack([worse] * 16 + [best])  # the best comes in the second block, when the bar stands
    query = np.ones((1, 67), np.float32)
    hits = exact_top_k(store(vectors), query, k=1, arithmetic=Arithmetic.BFLOAT16, block_scores=16)
    assert by_loop(vectors, query, 1)[0].tolist() == [[16]]
    assert hits.item_rows.tolist() == [[16]]


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_bound_holds_where_terms_cancel(arithmetic):
    """Large terms that cancel exactly, so that a float32 sum loses what tells the items apart."""
    rng = np.random.default_rng(6)
    small, large = rng.standard_normal((1500, 14)) * 2.0**-10, rng.standard_normal((1500, 1))
    vectors = np.concatenate([large, small, large], axis=1).astype(np.float16)
    queries = rng.standard_normal((4, 16)).astype(np.float32)
    queries[:, 0], queries[:, -1] = 3e4, -3e4
    hits = exact_top_k(store(vectors), queries, k=25, arithmetic=arithmetic, block_scores=999)
    rows, scores = by_loop(vectors, queries, 25)
    np.testing.assert_array_equal(hits.item_rows, rows)
    np.testing.assert_array_equal(hits.scores, scores)


def test_float32_products_rounded_by_a_global_setting_change_nothing():
    """`torch.set_float32_matmul_precision` is somebody else's business: read, never set, and allowed for."""
    rng = np.random.default_rng(4)
    vectors, queries = unit(rng, (5000, 32)).astype(np.float16), unit(rng, (40, 32))
    expected = exact_top_k(store(vectors), queries, k=30, arithmetic=Arithmetic.FLOAT32)
    torch.set_float32_matmul_precision("medium")
    try:
        hits = exact_top_k(store(vectors), queries, k=30, arithmetic=Arithmetic.FLOAT32)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    np.testing.assert_array_equal(hits.item_rows, expected.item_rows)
    np.testing.assert_array_equal(hits.scores, expected.scores)


def test_same_hits_for_any_number_of_threads():
    rng = np.random.default_rng(5)
    vectors, queries = unit(rng, (4000, 32)).astype(np.float16), unit(rng, (33, 32))
    threads = torch.get_num_threads()
    answers = []
    for count in (1, 2):
        torch.set_num_threads(count)
        answers.append(exact_top_k(store(vectors), queries, k=30))
    torch.set_num_threads(threads)
    np.testing.assert_array_equal(answers[0].item_rows, answers[1].item_rows)
    np.testing.assert_array_equal(answers[0].scores, answers[1].scores)
