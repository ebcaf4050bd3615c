"""Ranking metrics against ir-measures (trec_eval) and scikit-learn, on random rankings without ties."""

from __future__ import annotations

import ir_measures
import numpy as np
import pytest
from ir_measures import RR, P, R, Success, nDCG
from sklearn.metrics import ndcg_score

from triptych.metrics.ranking import (
    TargetSets,
    graded_ndcg_at_k,
    hit_rate_at_k,
    match,
    mrr_at_k,
    ndcg_at_k,
    precision_at_k,
    recall_at_k,
)

NUM_QUERIES, NUM_ITEMS, WIDTH = 40, 120, 50


@pytest.fixture(scope="module")
def item_rows() -> np.ndarray:
    rng = np.random.default_rng(3)
    rows = np.stack([rng.permutation(NUM_ITEMS)[:WIDTH] for _ in range(NUM_QUERIES)])
    rows[::7, 20:] = -1  # some lists are short
    return rows


@pytest.fixture(scope="module")
def targets() -> TargetSets:
    rng = np.random.default_rng(4)
    sizes = rng.integers(1, 30, size=NUM_QUERIES)
    chosen = [rng.permutation(NUM_ITEMS)[:size] for size in sizes]
    grades = rng.integers(1, 4, size=sizes.sum()).astype(np.float64)
    return TargetSets(np.concatenate([[0], np.cumsum(sizes)]), np.concatenate(chosen), grades)


def their_values(measure, *, item_rows: np.ndarray, targets: TargetSets, gains: np.ndarray) -> np.ndarray:
    qrels = [
        ir_measures.Qrel(str(query), str(item), int(gain))
        for query, item, gain in zip(targets.query_of_pair, targets.item_rows, gains, strict=True)
    ]
    run = [
        ir_measures.ScoredDoc(str(query), str(item), -float(rank))
        for query, row in enumerate(item_rows)
        for rank, item in enumerate(row)
        if item >= 0
    ]
    values = {int(one.query_id): one.value for one in ir_measures.iter_calc([measure], qrels, run)}
    return np.array([values[query] for query in range(len(item_rows))])


@pytest.mark.parametrize("k", [1, 5, 20, 50])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(recall_at_k, R), (precision_at_k, P), (hit_rate_at_k, Success), (mrr_at_k, RR), (ndcg_at_k, nDCG)],
)
def test_binary_metrics_equal_ir_measures(ours, theirs, k, item_rows, targets):
    expected = their_values(theirs @ k, item_rows=item_rows, targets=targets, gains=np.ones(len(targets.item_rows)))
    np.testing.assert_allclose(ours(match(item_rows, targets=targets), k=k), expected, atol=1e-9)


@pytest.mark.parametrize("k", [1, 5, 10, 50])
def test_graded_ndcg_equals_ir_measures_on_exponential_gains(k, item_rows, targets):
    expected = their_values(nDCG @ k, item_rows=item_rows, targets=targets, gains=2**targets.grades - 1)
    np.testing.assert_allclose(graded_ndcg_at_k(match(item_rows, targets=targets), k=k), expected, atol=1e-9)


@pytest.mark.parametrize("k", [1, 5, 10, 50])
def test_graded_ndcg_equals_scikit_learn_on_exponential_gains(k, item_rows, targets):
    gains = np.zeros((NUM_QUERIES, NUM_ITEMS))
    gains[targets.query_of_pair, targets.item_rows] = 2**targets.grades - 1
    full = np.argsort(np.random.default_rng(5).random((NUM_QUERIES, NUM_ITEMS)), axis=1)
    scores = np.empty_like(gains)
    np.put_along_axis(scores, full, -np.arange(NUM_ITEMS, dtype=float)[None, :], axis=1)
    ours = graded_ndcg_at_k(match(full, targets=targets), k=k)
    theirs = [ndcg_score(gain[None], score[None], k=k) for gain, score in zip(gains, scores, strict=True)]
    np.testing.assert_allclose(ours, theirs, atol=1e-9)
