"""Orderings against the records of the task and the bootstrap by hand; chance against every possible answer."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import polars as pl
import pytest

from triptych.evaluate.compare import Column
from triptych.evaluate.measure import Answer, Problem, chance_columns
from triptych.evaluate.orderings import Ordering, judge_ordering
from triptych.evaluate.records import PairedRecord
from triptych.evaluate.slices import Slice, SliceUnit
from triptych.evaluate.tasks import search
from triptych.evaluate.tasks.base import EvaluationConfig
from triptych.foundation.errors import DataError
from triptych.metrics.ranking import TargetSets, ndcg_at_k, recall_at_k
from triptych.metrics.significance import paired_difference

CONFIG = EvaluationConfig(ks=(1, 2, 5), headline_k=2, bootstrap_repeats=200)
HEADLINE = Column("recall", 2)


@pytest.fixture(scope="module")
def result(scripted, small_shop):
    models = {
        "bm25": scripted("bm25", knowledge=0.2),
        "title+photo": [scripted("title+photo", seed=seed) for seed in range(3)],
        "title": [scripted("title", sight=0.0, seed=10 + seed) for seed in range(3)],
        "joint": [scripted("joint", noise=2.0, seed=20 + seed) for seed in range(3)],
        "one": scripted("one", seed=5),
    }
    return search.evaluate(
        models, catalogue=small_shop.catalogue, split=small_shop.split, config=CONFIG, with_chance=True
    )


def values(result, model: str, slice_name: str = "all", column: str = "recall@2") -> np.ndarray:
    own = result.per_query.filter((pl.col("model") == model) & (pl.col("slice") == slice_name)).sort("query_row")
    return np.stack([own.filter(seed=seed)[column].to_numpy() for seed in own["seed"].unique().sort()])


def judge(result, ordering: Ordering):
    return judge_ordering(ordering, result.per_query, headline=HEADLINE, config=CONFIG)


@pytest.mark.parametrize("slice_name", ["all", "photo_only"])
@pytest.mark.parametrize("worse", ["title", "bm25", "chance", "one"])
def test_an_ordering_is_the_paired_record_of_the_task(result, worse, slice_name):
    found = judge(result, Ordering("the picture helps", "title+photo", worse, slice=slice_name))
    (record,) = [
        one
        for one in result.records
        if isinstance(one, PairedRecord)
        and (one.slice, one.model, one.baseline, one.kind) == (slice_name, "title+photo", worse, "difference")
        and (one.metric, one.k) == HEADLINE
    ]
    assert (found.difference, found.low, found.high) == (record.value, record.low, record.high)
    assert (found.verdict, found.evidence, found.num_queries) == (record.verdict, record.evidence, record.num_queries)
    expected = values(result, "title+photo", slice_name).mean(axis=1) - values(result, worse, slice_name).mean(axis=1)
    assert found.seeds == pytest.approx(tuple(expected))


def test_a_difference_of_differences_is_that_of_the_bootstrap_by_hand(result):
    ordering = Ordering("more", "title+photo", "title", than=("joint", "bm25"), column=Column("ndcg", 5))
    found = judge(result, ordering)
    of = {name: values(result, name, column="ndcg@5") for name in ("title+photo", "title", "joint", "bm25")}
    gain, other = of["title+photo"] - of["title"], of["joint"] - of["bm25"]
    expected = paired_difference(gain, baseline=other, rng=np.random.default_rng(CONFIG.seed), repeats=200)
    assert (found.difference, found.low, found.high) == pytest.approx(tuple(expected))
    assert found.seeds == pytest.approx(tuple((gain - other).mean(axis=1)))
    assert str(ordering) == "title+photo − title > joint − bm25"


def test_rows_are_alike_where_all_of_the_interval_is_within_the_margin(result):
    found = judge(result, Ordering("the picture helps", "title+photo", "title"))
    assert 0 < found.low < found.high
    middle = (found.low + found.high) / 2
    for within, verdict in ((found.high + 1e-6, "holds"), (middle, "undecided"), (found.low - 1e-6, "fails")):
        for pair in (("title+photo", "title"), ("title", "title+photo")):
            alike = judge(result, Ordering("they are alike", *pair, within=within))
            assert (alike.verdict, alike.ordering.within) == (verdict, within)
    assert str(Ordering("they are alike", "a", "b", within=0.01)) == "|a − b| < 0.01"


def test_what_is_not_in_the_table_is_told(result):
    assert judge(result, Ordering("c", "title", "bm25", slice="no_such_slice")) is None
    with pytest.raises(DataError, match="claim 'c': there is no row 'titel' in the table"):
        judge(result, Ordering("c", "titel", "bm25"))
    with pytest.raises(DataError, match="there is no metric 'ndcg@7' in the table"):
        judge(result, Ordering("c", "title", "bm25", column=Column("ndcg", 7)))
    two = result.per_query.filter((pl.col("model") != "title") | (pl.col("seed") < 2))
    with pytest.raises(DataError, match="one row has 3 seeds and the other 2"):
        judge_ordering(Ordering("c", "joint", "title"), two, headline=HEADLINE, config=CONFIG)


def test_chance_is_the_mean_over_all_answers():
    targets = TargetSets(np.array([0, 2, 3]), np.array([0, 3, 1]))
    candidates = np.array([5, 3])
    everything = Slice("all", SliceUnit.QUERIES, "", np.ones(3, dtype=bool))
    columns = chance_columns(targets, everything, num_candidates=candidates, ks=(1, 2, 4))
    for query, number in enumerate(candidates):
        own = TargetSets(
            np.array([0, np.diff(targets.offsets)[query]]), targets.item_rows[targets.query_of_pair == query]
        )
        answers = [Answer.of(np.array([order]), Problem(own)).chosen for order in permutations(range(number))]
        for k in (1, 2, 4):
            shown = min(k, number)
            recall = np.mean([recall_at_k(answer, k=shown)[0] for answer in answers])
            assert columns[Column("recall", k)][0, query] == pytest.approx(recall)
            if shown == k:
                ndcg = np.mean([ndcg_at_k(answer, k=k)[0] for answer in answers])
                assert columns[Column("ndcg", k)][0, query] == pytest.approx(ndcg)


def test_chance_on_some_pairs_leaves_out_who_has_none():
    targets = TargetSets(np.array([0, 2, 3]), np.array([0, 3, 1]))
    some = Slice("new_items", SliceUnit.PAIRS, "", np.array([True, False, False]))
    columns = chance_columns(targets, some, num_candidates=np.array([10, 10]), ks=(2,))
    assert columns[Column("recall", 2)][0] == pytest.approx([0.2, np.nan], nan_ok=True)
    assert columns[Column("hits", 2)][0] == pytest.approx([0.2, np.nan], nan_ok=True)
    assert Column("ndcg", 2) not in columns
