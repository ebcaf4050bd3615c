"""What a model adds to others, against a count by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from triptych.evaluate.examples import ExampleKind
from triptych.evaluate.increment import increments, photo_examples
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
    more = {name: np.stack([rng.permutation(NUM_ITEMS)[:9] for _ in query_rows]) for name in ("base", "ours")}
    more["ours"][0] = more["base"][0]  # to this query the second seed adds nothing
    by_seed = {"bm25": [lists["bm25"]], "same": [lists["same"]]}
    by_seed |= {name: [lists[name], rows] for name, rows in more.items()}
    return Rankings(query_rows, nothing, lists, by_seed=by_seed)


def test_against_a_count_by_hand(judged: pl.DataFrame, rankings: Rankings):
    """Each seed against the same seed of what is there, BM25 against both; of a query over the seeds that add to it."""
    found = {
        one.model: one
        for one in increments(rankings, there=("bm25", "base"), catalogue=catalogue(judged), config=CONFIG)
    }
    assert list(found) == ["ours", "same"]
    facts = {(query, item): (grade, photo) for query, item, grade, photo in judged.iter_rows()}
    means: dict[str, list[float]] = {name: [] for name in ("size", "relevance", "of_whole", "difference", "photo_only")}
    for place, query in enumerate(rankings.query_rows.tolist()):
        if query == 20:
            continue
        values: dict[str, list[float]] = {name: [] for name in means}
        for seed in (0, 1):
            own = [item for item in rankings.by_seed["ours"][seed][place, :K].tolist() if item >= 0]
            there = set(rankings.by_seed["bm25"][0][place, :K].tolist())
            there |= set(rankings.by_seed["base"][seed][place, :K].tolist())
            new = [item for item in own if item not in there]
            good = [item for item in new if facts.get((query, item), (0, False))[0] >= 2]
            values["size"].append(len(new))
            if new:
                of_whole = sum(facts.get((query, item), (0, False))[0] >= 2 for item in own) / len(own)
                values["relevance"].append(len(good) / len(new))
                values["of_whole"].append(of_whole)
                values["difference"].append(len(good) / len(new) - of_whole)
            if good:
                values["photo_only"].append(sum(facts[query, item][1] for item in good) / len(good))
        for name, own_values in values.items():
            means[name] += [float(np.mean(own_values))] if own_values else []
    ours = found["ours"]
    assert (ours.num_queries, ours.num_seeds) == (4, 2)
    for name, expected in means.items():
        assert expected and getattr(ours, name).value == pytest.approx(np.mean(expected)), name
        assert getattr(ours, name).low <= getattr(ours, name).value <= getattr(ours, name).high
    first = rankings._replace(by_seed=None)
    (_, same) = increments(first, there=("bm25", "base"), catalogue=catalogue(judged), config=CONFIG)
    assert same.num_seeds == 1
    assert same.size.value == 0
    assert math.isnan(same.difference.value)  # nothing was added that could be relevant


def test_the_queries_shown_are_those_to_which_photos_alone_bring_something(judged: pl.DataFrame, rankings: Rankings):
    given = {"there": ("bm25", "base"), "model": "ours", "catalogue": catalogue(judged)}
    facts = {(query, item): grade >= 2 and photo for query, item, grade, photo in judged.iter_rows()}
    expected = {}
    for place, query in enumerate(rankings.query_rows.tolist()):
        there = {item for name in ("bm25", "base") for item in rankings.item_rows[name][place, :K].tolist()}
        own = [item for item in rankings.item_rows["ours"][place, :K].tolist() if facts.get((query, item), False)]
        if set(own) - there:
            expected[place] = set(own) - there
    found = photo_examples(rankings, **given, config=CONFIG)
    assert {one.position: set(one.highlights) for one in found} == expected and expected
    assert {(one.kind, one.model, one.beside, one.others) for one in found} == {
        (ExampleKind.ADDED, "ours", "bm25", ("base",))
    }
    assert len(photo_examples(rankings, **given, config=CONFIG.override("examples=1"))) == 1
    of_no_photo = {**given, "catalogue": catalogue(judged.drop("photo_only"))}
    assert photo_examples(rankings, **of_no_photo, config=CONFIG) == []


def test_without_judgements_or_without_those_that_are_there_nothing_is_said(judged: pl.DataFrame, rankings: Rankings):
    assert increments(rankings, there=("bm25",), catalogue=catalogue(None), config=CONFIG) == []
    assert increments(rankings, there=("bm25", "absent"), catalogue=catalogue(judged), config=CONFIG) == []
    of_no_photo = catalogue(judged.drop("photo_only"))
    assert all(
        math.isnan(one.photo_only.value)
        for one in increments(rankings, there=("bm25",), catalogue=of_no_photo, config=CONFIG)
    )
