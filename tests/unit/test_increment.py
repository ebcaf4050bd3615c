"""What a model adds to others, against a count by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from triptych.evaluate.increment import increments
from triptych.evaluate.tasks.base import EvaluationConfig, Rankings
from triptych.metrics.ranking import TargetSets

NUM_ITEMS, K = 30, 5
CONFIG = EvaluationConfig(ks=(K,), headline_k=K, bootstrap_repeats=100, relevant_grade=2)


def catalogue(judgements: pl.DataFrame | None) -> SimpleNamespace:
    return SimpleNamespace(judgements=judgements, num_items=NUM_ITEMS)


@pytest.fixture
def judged() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    pairs = [(query, item) for query in range(12) for item in rng.permutation(NUM_ITEMS)[:8].tolist()]
    return pl.DataFrame(pairs, schema=["query_row", "item_row"], orient="row").with_columns(
        grade=pl.Series(rng.integers(0, 4, len(pairs)).astype(np.float32)),
        photo_only=pl.Series(rng.random(len(pairs)) < 0.5),
    )


@pytest.fixture
def rankings() -> Rankings:
    rng = np.random.default_rng(1)
    query_rows = np.array([3, 0, 7, 11, 20])  # nobody judged anything of 20
    lists = {
        name: np.stack([rng.permutation(NUM_ITEMS)[:9] for _ in query_rows])
        for name in ("bm25", "base", "ours", "same")
    }
    lists["same"] = lists["base"].copy()
    lists["ours"][1, 3:] = -1  # a short answer
    nothing = TargetSets(np.zeros(6, dtype=np.int64), np.empty(0, dtype=np.int64))
    return Rankings(query_rows, nothing, lists)


def test_against_a_count_by_hand(judged: pl.DataFrame, rankings: Rankings):
    found = {
        one.model: one
        for one in increments(rankings, there=("bm25", "base"), catalogue=catalogue(judged), config=CONFIG)
    }
    assert list(found) == ["ours", "same"]
    facts = {(query, item): (grade, photo) for query, item, grade, photo in judged.iter_rows()}
    sizes, shares, wholes, photos = [], [], [], []
    for place, query in enumerate(rankings.query_rows.tolist()):
        if query == 20:
            continue
        own = [item for item in rankings.item_rows["ours"][place, :K].tolist() if item >= 0]
        there = {item for name in ("bm25", "base") for item in rankings.item_rows[name][place, :K].tolist()}
        new = [item for item in own if item not in there]
        good = [item for item in new if facts.get((query, item), (0, False))[0] >= 2]
        sizes.append(len(new))
        if new:
            shares.append(len(good) / len(new))
            wholes.append(sum(facts.get((query, item), (0, False))[0] >= 2 for item in own) / len(own))
        if good:
            photos.append(sum(facts[query, item][1] for item in good) / len(good))
    ours = found["ours"]
    assert ours.num_queries == 4
    assert ours.size.value == pytest.approx(np.mean(sizes))
    assert ours.relevance.value == pytest.approx(np.mean(shares))
    assert ours.of_whole.value == pytest.approx(np.mean(wholes))
    assert photos and ours.photo_only.value == pytest.approx(np.mean(photos))
    assert ours.size.low <= ours.size.value <= ours.size.high
    assert found["same"].size.value == 0
    assert math.isnan(found["same"].relevance.value)  # nothing was added that could be relevant


def test_without_judgements_or_without_those_that_are_there_nothing_is_said(judged: pl.DataFrame, rankings: Rankings):
    assert increments(rankings, there=("bm25",), catalogue=catalogue(None), config=CONFIG) == []
    assert increments(rankings, there=("bm25", "absent"), catalogue=catalogue(judged), config=CONFIG) == []
    of_no_photo = catalogue(judged.drop("photo_only"))
    assert all(
        math.isnan(one.photo_only.value)
        for one in increments(rankings, there=("bm25",), catalogue=of_no_photo, config=CONFIG)
    )
