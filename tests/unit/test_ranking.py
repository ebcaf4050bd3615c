"""Ranking metrics against plain Python loops, and against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.foundation.errors import DataError
from triptych.metrics.ranking import (
    TargetSets,
    coverage_at_k,
    graded_ndcg_at_k,
    hit_counts,
    hit_rate_at_k,
    macro,
    match,
    micro_recall_at_k,
    mrr_at_k,
    ndcg_at_k,
    precision_at_k,
    recall_at_k,
)

NUM_ITEMS = 9


def ragged(sets: list[dict[int, float]]) -> TargetSets:
    return TargetSets(
        offsets=np.cumsum([0, *map(len, sets)]),
        item_rows=np.array([item for one in sets for item in one], dtype=np.int32),
        grades=np.array([grade for one in sets for grade in one.values()], dtype=np.float32),
    )


def padded(lists: list[list[int]], width: int) -> np.ndarray:
    return np.array([one + [-1] * (width - len(one)) for one in lists], dtype=np.int64).reshape(len(lists), width)


def naive(retrieved: list[int], judged: dict[int, float], k: int, part: set[int]) -> dict[str, float]:
    """The textbook, one query at a time, with sets and loops."""
    first = retrieved[:k]
    nan = math.nan
    ranks = [rank for rank, item in enumerate(first, start=1) if item in judged]
    gains = {item: 2**grade - 1 for item, grade in judged.items()}
    dcg = sum(1 / math.log2(rank + 1) for rank in ranks)
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(judged)) + 1))
    graded = sum(gains.get(item, 0) / math.log2(rank + 1) for rank, item in enumerate(first, start=1))
    best = sorted(gains.values(), reverse=True)[:k]
    graded_ideal = sum(gain / math.log2(rank + 1) for rank, gain in enumerate(best, start=1))
    return {
        "recall": len(set(first) & set(judged)) / len(judged) if judged else nan,
        "part": len(set(first) & part) / len(part) if part else nan,
        "precision": len(set(first) & set(judged)) / k if judged else nan,
        "hit_rate": float(bool(ranks)) if judged else nan,
        "mrr": (1 / ranks[0] if ranks else 0.0) if judged else nan,
        "ndcg": dcg / ideal if judged else nan,
        "graded": graded / graded_ideal if graded_ideal else nan,
    }


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[list[int]], list[dict[int, float]], list[set[int]], int]:
    num_queries = draw(st.integers(1, 6))
    item = st.integers(0, NUM_ITEMS - 1)
    lists = [draw(st.lists(item, unique=True, max_size=7)) for _ in range(num_queries)]
    grade = st.sampled_from([0.0, 1.0, 2.0, 3.0])
    sets = [draw(st.dictionaries(item, grade, max_size=6)) for _ in range(num_queries)]
    parts = [{i for i in one if draw(st.booleans())} for one in sets]
    return lists, sets, parts, draw(st.integers(1, 9))


@given(problems())
@settings(max_examples=300, deadline=None)
def test_every_metric_equals_the_loop_whatever_the_padding(problem):
    lists, sets, parts, k = problem
    targets = ragged(sets)
    matches = match(padded(lists, 7), targets=targets)
    mask = np.array([item in part for one, part in zip(sets, parts, strict=True) for item in one], dtype=bool)
    expected = [naive(*arguments, k, part) for *arguments, part in zip(lists, sets, parts, strict=True)]

    def column(name: str) -> list[float]:
        return [row[name] for row in expected]

    np.testing.assert_allclose(recall_at_k(matches, k=k), column("recall"))
    np.testing.assert_allclose(recall_at_k(matches, k=k, pair_mask=mask), column("part"))
    np.testing.assert_allclose(precision_at_k(matches, k=k), column("precision"))
    np.testing.assert_allclose(hit_rate_at_k(matches, k=k), column("hit_rate"))
    np.testing.assert_allclose(mrr_at_k(matches, k=k), column("mrr"))
    np.testing.assert_allclose(ndcg_at_k(matches, k=k), column("ndcg"))
    np.testing.assert_allclose(graded_ndcg_at_k(matches, k=k), column("graded"))
    total = sum(map(len, sets))
    found = sum(len(set(one[:k]) & set(judged)) for one, judged in zip(lists, sets, strict=True))
    np.testing.assert_allclose(micro_recall_at_k(matches, k=k), found / total if total else math.nan)
    shown = {item for one in lists for item in one[:k]}
    assert coverage_at_k(padded(lists, 7), k=k, num_items=NUM_ITEMS) == len(shown) / NUM_ITEMS


@given(problems(), st.integers(0, 6))
@settings(max_examples=100, deadline=None)
def test_a_value_does_not_depend_on_the_batch(problem, cut):
    lists, sets, _, k = problem
    cut = min(cut, len(lists))
    for metric in (recall_at_k, mrr_at_k, ndcg_at_k, graded_ndcg_at_k):
        whole = metric(match(padded(lists, 7), targets=ragged(sets)), k=k)
        halves = [
            metric(match(padded(lists[part], 7), targets=ragged(sets[part])), k=k)
            for part in (slice(0, cut), slice(cut, None))
        ]
        np.testing.assert_array_equal(whole, np.concatenate(halves))


def test_padding_is_not_the_last_item_of_the_query_before():
    targets = ragged([{3: 1}, {0: 1}])
    matches = match(np.array([[3, -1], [-1, -1]]), targets=targets)
    np.testing.assert_array_equal(recall_at_k(matches, k=2), [1.0, 0.0])


def test_a_repeated_item_is_credited_once():
    matches = match(np.array([[4, 4, 4]]), targets=ragged([{4: 1, 5: 1}]))
    assert recall_at_k(matches, k=3).item() == 0.5
    assert precision_at_k(matches, k=3).item() == pytest.approx(1 / 3)
    assert ndcg_at_k(matches, k=3).item() == pytest.approx(1 / (1 + 1 / math.log2(3)))


def test_worked_by_hand():
    # Ranks of the three targets: 2 and 4, the third is not retrieved.
    matches = match(np.array([[7, 1, 8, 2, 6]]), targets=ragged([{1: 3, 2: 1, 5: 2}]))
    assert recall_at_k(matches, k=4).item() == pytest.approx(2 / 3)
    assert mrr_at_k(matches, k=4).item() == 0.5
    assert mrr_at_k(matches, k=1).item() == 0.0
    dcg = 1 / math.log2(3) + 1 / math.log2(5)
    assert ndcg_at_k(matches, k=4).item() == pytest.approx(dcg / (1 + 1 / math.log2(3) + 1 / 2))
    graded = 7 / math.log2(3) + 1 / math.log2(5)
    assert graded_ndcg_at_k(matches, k=4).item() == pytest.approx(graded / (7 + 3 / math.log2(3) + 1 / 2))


def test_a_perfect_list_has_exactly_one():
    rng = np.random.default_rng(0)
    grades = np.sort(rng.integers(1, 5, size=(50, 60)), axis=1)[:, ::-1].astype(np.float64)
    rows = np.tile(np.arange(60), (50, 1))
    matches = match(rows, targets=TargetSets(np.arange(51) * 60, rows.ravel(), grades.ravel()))
    for k in (1, 10, 60):
        assert (graded_ndcg_at_k(matches, k=k) == 1.0).all()
        assert (ndcg_at_k(matches, k=k) == 1.0).all()


def test_macro_leaves_out_queries_without_a_target():
    matches = match(np.array([[0], [1], [2]]), targets=ragged([{0: 1}, {}, {5: 1}]))
    values = recall_at_k(matches, k=1)
    assert np.isnan(values[1])
    assert macro(values) == 0.5
    assert hit_counts(matches, k=1).targets.tolist() == [1, 0, 1]


def test_no_queries_and_no_targets_are_no_accident():
    empty = match(np.empty((0, 5), dtype=np.int64), targets=ragged([]))
    assert recall_at_k(empty, k=5).shape == (0,)
    assert math.isnan(macro(recall_at_k(empty, k=5)))
    nothing = match(np.array([[1, 2]]), targets=ragged([{}]))
    assert np.isnan(ndcg_at_k(nothing, k=2)).all()
    assert math.isnan(micro_recall_at_k(nothing, k=2))


def test_targets_may_stand_in_any_order():
    ordered = TargetSets(np.array([0, 3]), np.array([1, 4, 6]), np.array([1.0, 3.0, 0.0]))
    shuffled = TargetSets(np.array([0, 3]), np.array([6, 1, 4]), np.array([0.0, 1.0, 3.0]))
    rows = np.array([[4, 2, 1, 6]])
    for metric in (recall_at_k, graded_ndcg_at_k):
        assert metric(match(rows, targets=ordered), k=3) == metric(match(rows, targets=shuffled), k=3)


def test_errors_say_what_is_wrong():
    with pytest.raises(DataError, match=r"item_rows has shape \(1, 2\) but there are target sets for 2 queries"):
        match(np.array([[0, 1]]), targets=ragged([{0: 1}, {1: 1}]))
    with pytest.raises(DataError, match="query 1 has item row 3 as a target twice"):
        match(np.array([[0], [1]]), targets=TargetSets(np.array([0, 1, 3]), np.array([3, 3, 3])))
    with pytest.raises(DataError, match="offsets of the target sets end at 2 but there are 1"):
        match(np.array([[0]]), targets=TargetSets(np.array([0, 2]), np.array([3])))
    with pytest.raises(DataError, match="the targets have no grades"):
        graded_ndcg_at_k(match(np.array([[0]]), targets=TargetSets(np.array([0, 1]), np.array([3]))), k=1)
