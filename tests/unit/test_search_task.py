"""The search task against plain loops over the shop, and planted retrievers that must get the right verdicts."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import polars as pl
import pytest

from triptych.data.events import KIND_CODES, is_positive
from triptych.evaluate import measure
from triptych.evaluate.measure import take_queries
from triptych.evaluate.records import PairedRecord, Record, evidence, select, to_rows
from triptych.evaluate.tasks import base, search
from triptych.evaluate.tasks.base import EvaluationConfig
from triptych.foundation.errors import ConfigError, DataError
from triptych.foundation.types import Hits
from triptych.metrics.ranking import TargetSets
from triptych.metrics.significance import bootstrap_interval, paired_difference, ratio_interval

CONFIG = EvaluationConfig(ks=(1, 2, 5), headline_k=2, bootstrap_repeats=200)


@pytest.fixture(scope="module")
def models(scripted):
    return {
        "popularity": scripted("popularity", knowledge=0.0),
        "title": scripted("title", sight=0.0, seed=1),
        "title+photo": scripted("title+photo", seed=2),
        "permuted-photo": scripted("permuted-photo", sight=0.0, seed=3),
        "oracle": scripted("oracle", noise=0.0),
    }


@pytest.fixture(scope="module")
def result(models, small_shop):
    return search.evaluate(models, catalogue=small_shop.catalogue, split=small_shop.split, config=CONFIG)


def one(records, **fields):
    found = select(to_rows(records), **{"baseline": None, **fields})
    assert len(found) == 1, f"{len(found)} records for {fields}"
    return found[0]


def naive_slices(shop) -> dict[str, dict[int, set[int]]]:
    """Slice → query row → targets, by walking through the events."""
    catalogue, split = shop
    rows = list(catalogue.events.select("query_row", "item_row", "kind").iter_rows())
    seen_queries = {query for query, _, kind in rows[split.train] if kind > 0}
    seen_items = {item for _, item, kind in rows[split.train] if kind > 0}
    judged = {(query, item): hidden for query, item, _, hidden in catalogue.judgements.iter_rows()}
    slices: dict[str, dict[int, set[int]]] = {}
    for query, item, kind in rows[split.test]:
        if kind == KIND_CODES["impression"]:
            continue
        memberships = {
            "all": True,
            "seen_queries": query in seen_queries,
            "unseen_queries": query not in seen_queries,
            "seen_items": item in seen_items,
            "new_items": item not in seen_items,
            "photo_only": judged[query, item],
            "photo_only_new": judged[query, item] and item not in seen_items,
            "title_has_it": not judged[query, item],  # every query of this shop names a colour
        }
        for name, inside in memberships.items():
            if inside:
                slices.setdefault(name, {}).setdefault(query, set()).add(item)
    return slices


def test_recall_on_every_slice_equals_a_loop(models, result, small_shop):
    slices = naive_slices(small_shop)
    assert set(slices) == set(result.definitions)
    for name, targets in slices.items():
        for model, retriever in models.items():
            for k in CONFIG.ks:
                recalls, hits = [], 0
                for query, items in targets.items():
                    order = np.argsort(-retriever.scores[query], kind="stable")[:k]
                    recalls.append(len(items & set(order.tolist())) / len(items))
                    hits += len(items & set(order.tolist()))
                record = one(result.records, slice=name, model=model, metric="recall", k=k)
                assert record["value"] == pytest.approx(np.mean(recalls))
                assert record["num_queries"] == len(targets)
                assert record["low"] <= record["value"] <= record["high"]
                micro = one(result.records, slice=name, model=model, metric="recall_micro", k=k)
                assert micro["value"] == pytest.approx(hits / sum(map(len, targets.values())))


def test_the_slices_are_those_the_shop_was_built_with(small_shop):
    slices = naive_slices(small_shop)
    assert len(slices["all"]) == 20
    assert len(slices["unseen_queries"]) == 4
    assert {item % 2 for items in slices["photo_only"].values() for item in items} == {1}
    assert {item % 4 for items in slices["new_items"].values() for item in items} >= {3}


def test_the_oracle_has_the_best_of_everything(result):
    for metric, k in [("recall", 2), ("ndcg", 2), ("mrr", 5), ("hit_rate", 1), ("relevance", 2), ("ndcg_graded", 10)]:
        assert one(result.records, slice="all", model="oracle", metric=metric, k=k)["value"] == 1.0
    assert one(result.records, slice="all", model="oracle", metric="recall", k=1)["value"] == 0.5


def test_relevance_and_coverage_equal_loops(models, result, small_shop):
    grades = np.zeros((small_shop.catalogue.num_queries, small_shop.catalogue.num_items))
    judged = small_shop.catalogue.judgements
    grades[judged["query_row"].to_numpy(), judged["item_row"].to_numpy()] = judged["grade"].to_numpy()
    queries = sorted(naive_slices(small_shop)["all"])
    first = {query: np.argsort(-models["title"].scores[query], kind="stable")[:5] for query in queries}
    relevance = one(result.records, slice="all", model="title", metric="relevance", k=5)
    assert relevance["value"] == pytest.approx(
        np.mean([(grades[query][first[query]] >= 3).mean() for query in queries])
    )
    coverage = one(result.records, slice="all", model="title", metric="coverage", k=5)
    assert coverage["value"] == len(set(np.concatenate(list(first.values())).tolist())) / small_shop.catalogue.num_items
    assert coverage["low"] is None
    assert coverage["high"] is None


def test_category_relevance_equals_a_loop(models, result, small_shop):
    catalogue, split = small_shop.catalogue, small_shop.split
    category = catalogue.items["category"].to_list()
    pairs = split.train_pairs(catalogue)
    values = []
    for query in sorted(naive_slices(small_shop)["all"]):
        clicks = Counter()
        for item, count in zip(
            pairs.item_row[pairs.query_row == query], pairs.clicks[pairs.query_row == query], strict=True
        ):
            clicks[category[item]] += int(count)
        wanted = {name for name, count in clicks.items() if name is not None and count >= 0.1 * sum(clicks.values())}
        first = np.argsort(-models["title"].scores[query], kind="stable")[:5]
        if wanted:
            values.append(np.mean([category[item] in wanted for item in first]))
    told = one(result.records, slice="all", model="title", metric="category", k=5)
    assert told["value"] == pytest.approx(np.mean(values))
    assert 0 < told["value"] < 1


def test_choices_without_a_category_count_in_a_querys_share(other_shop):
    """Of a log whose choices are drawn anew, many of them of items without a category."""
    rng = np.random.default_rng(1)
    names = pl.Series("category", [None if row % 3 else f"c{row % 2}" for row in range(40)])
    shop = other_shop(
        events=lambda table: table.with_columns(
            pl.Series("item_id", [f"i{row}" for row in rng.choice([0, 1, 2, 3, 4, 5, 7, 8], size=len(table))])
        ),
        items=lambda table: table.with_columns(names),
    )
    catalogue = shop.catalogue
    clicks: dict[int, Counter] = {row: Counter() for row in range(catalogue.num_queries)}
    for event in catalogue.events[shop.split.train].to_dicts():
        if event["kind"] > 0:
            clicks[event["query_row"]][names[event["item_row"]]] += 1
    pl.Series([f"x{number}" for number in range(99)]).cast(pl.Categorical)  # codes of its own, in the same process
    least = 0.4
    every = np.arange(catalogue.num_queries)
    found = measure.query_categories(catalogue, split=shop.split, query_rows=every, least_share=least)
    assert found.wanted.shape == (catalogue.num_queries, 2)
    told = 0
    for query, counts in clicks.items():
        wanted = {name for name, n in counts.items() if name and n >= least * counts.total()}
        held = {
            names[item] for item in range(40) if found.of_item[item] >= 0 and found.wanted[query, found.of_item[item]]
        }
        assert held == wanted
        told += wanted != {name for name, n in counts.items() if name and n >= least * (counts.total() - counts[None])}
    assert told, "the share of all choices is another than that of those with a category"


def test_no_number_depends_on_the_batch(models, result, small_shop, monkeypatch):
    monkeypatch.setattr(base, "BATCH", 3)
    again = search.evaluate(models, catalogue=small_shop.catalogue, split=small_shop.split, config=CONFIG)
    assert to_rows(again.records) == to_rows(result.records)
    assert again.per_query.equals(result.per_query)


def test_intervals_can_be_computed_again_from_the_values_of_each_query(result):
    def values(model: str, slice_name: str) -> np.ndarray:
        own = result.per_query.filter((pl.col("model") == model) & (pl.col("slice") == slice_name))
        return own.sort("query_row")["recall@2"].to_numpy()

    def rng() -> np.random.Generator:
        return np.random.default_rng(CONFIG.seed)

    for name in ("all", "photo_only"):
        ours, title = values("title+photo", name), values("title", name)
        record = one(result.records, slice=name, model="title+photo", metric="recall", k=2)
        expected = bootstrap_interval(ours, rng=rng(), repeats=200)
        assert (record["value"], record["low"], record["high"]) == pytest.approx(expected)
        pair = {"slice": name, "model": "title+photo", "baseline": "title", "metric": "recall", "k": 2}
        difference = one(result.records, **pair, kind="difference")
        expected = paired_difference(ours, baseline=title, rng=rng(), repeats=200)
        assert (difference["value"], difference["low"], difference["high"]) == pytest.approx(expected)
        quotient = one(result.records, **pair, kind="ratio")
        expected = ratio_interval(ours, baseline=title, rng=rng(), repeats=200)
        finite = [end if math.isfinite(end) else None for end in expected]
        assert [quotient["value"], quotient["low"], quotient["high"]] == pytest.approx(finite)


def test_a_planted_better_model_holds_and_a_planted_worse_one_fails(scripted, small_shop):
    good, bad = scripted("good", noise=0.0), scripted("bad", knowledge=-1.0)
    both = {"title+photo": good, "title": bad, "permuted-photo": bad}

    def verdicts(models) -> dict[tuple[str, str, str], str]:
        found = search.evaluate(models, catalogue=small_shop.catalogue, split=small_shop.split, config=CONFIG)
        paired = [record for record in found.records if isinstance(record, PairedRecord)]
        chosen = [one for one in paired if one.metric == "recall" and one.k == 5]
        return {(one.slice, f"{one.model} {one.kind} {one.baseline}", one.claim): one.verdict for one in chosen}

    right = verdicts(both)
    assert right["all", "title+photo difference title", "difference > 0"] == "holds"
    assert right["photo_only", "title+photo difference title", "difference > 0"] == "holds"
    wrong = verdicts({"title+photo": bad, "title": good, "permuted-photo": good})
    assert wrong["all", "title+photo difference title", "difference > 0"] == "fails"
    assert wrong["photo_only", "title+photo ratio title", "ratio ≥ 1.25"] == "fails"
    assert wrong["photo_only", "permuted-photo ratio title", "ratio ≤ 1.05"] == "holds"
    same = verdicts({"title+photo": good, "title": good, "permuted-photo": bad})
    assert same["all", "title+photo difference title", "difference > 0"] == "undecided"
    assert same["photo_only", "title+photo ratio title", "ratio ≥ 1.25"] == "fails"
    blind = scripted("blind", sight=0.0, noise=0.0)  # without its photos the control finds none of these
    gain = verdicts({"title+photo": good, "title": scripted("title", sight=0.3), "permuted-photo": blind})
    assert gain["photo_only", "permuted-photo ratio title", "ratio ≤ 1.05"] == "holds"
    spoilt = verdicts({"title+photo": good, "title": scripted("title", sight=0.1), "permuted-photo": good})
    assert spoilt["photo_only", "permuted-photo ratio title", "ratio ≤ 1.05"] == "fails"


def test_claims_about_the_picture_stand_on_its_slice_alone(result):
    ratios = [one for one in result.records if isinstance(one, PairedRecord) and one.kind == "ratio"]
    assert {(one.slice, one.claim) for one in ratios if one.claim} == {
        ("photo_only", "ratio ≥ 1.25"),
        ("photo_only", "ratio ≤ 1.05"),
    }
    assert {one.baseline for one in ratios} == {"title", "oracle"}


def test_seeds_are_averaged_and_printed(scripted, small_shop):
    seeds = [scripted("title", noise=2.0, seed=seed) for seed in range(3)]
    config = CONFIG.override("model=title")
    found = search.evaluate(
        {"title": seeds, "bm25": scripted("bm25", knowledge=0.2)},
        catalogue=small_shop.catalogue,
        split=small_shop.split,
        config=config,
    )
    alone = [
        search.evaluate({"title": seed}, catalogue=small_shop.catalogue, split=small_shop.split, config=config)
        for seed in seeds
    ]
    fields = {"slice": "all", "model": "title", "metric": "recall", "k": 2}
    record = one([record for record in found.records if isinstance(record, Record)], **fields)
    assert record["seed_values"] == pytest.approx([one(single.records, **fields)["value"] for single in alone])
    assert record["value"] == pytest.approx(np.mean(record["seed_values"]))
    assert len(set(record["seed_values"])) > 1
    assert (record["seeds"], record["evidence"]) == (3, "3 seeds")
    against = one(found.records, **fields, baseline="bm25")
    assert against["evidence"] == "3 seeds"
    assert found.per_query.filter(pl.col("model") == "title")["seed"].unique().sort().to_list() == [0, 1, 2]


def test_one_seed_is_never_evidence():
    assert evidence({"title": 1, "bm25": 1}) == "one seed"
    assert evidence({"title": 3, "bm25": 1}) == "3 seeds"
    assert evidence({"title": 3, "photo": 1}) == "one seed"
    assert evidence({"bm25": 1, "oracle": 1}) == "nothing trained"


def test_records_have_the_fields_that_scripts_read(result):
    rows = to_rows(result.records)
    singles = [row for row in rows if "baseline" not in row]
    paired = [row for row in rows if "baseline" in row]
    shared = {
        "task",
        "split",
        "slice",
        "model",
        "metric",
        "k",
        "value",
        "low",
        "high",
        "num_queries",
        "seeds",
        "evidence",
        "simulated",
        "caution",
    }
    assert {frozenset(row) for row in singles} == {frozenset(shared | {"seed_values"})}
    assert {frozenset(row) for row in paired} == {frozenset(shared | {"baseline", "kind", "claim", "verdict"})}
    assert {row["verdict"] for row in paired} <= {"holds", "fails", "undecided", None}
    assert not any(isinstance(value, float) and not math.isfinite(value) for row in rows for value in row.values())
    assert {row["split"] for row in rows} == {"test"}
    keys = [tuple(row.get(name) for name in ("slice", "model", "baseline", "metric", "k", "kind")) for row in rows]
    assert len(keys) == len(set(keys))


def test_without_judgements_the_clicks_are_measured_all_the_same(scripted, other_shop):
    shop = other_shop(judgements=lambda judgements: None)
    found = search.evaluate({"bm25": scripted("bm25")}, catalogue=shop.catalogue, split=shop.split, config=CONFIG)
    assert {record.metric for record in found.records} == {
        "recall",
        "recall_micro",
        "ndcg",
        "mrr",
        "category",
        "hit_rate",
        "coverage",
    }
    assert set(found.definitions) == {"all", "seen_queries", "unseen_queries", "seen_items", "new_items"}


def test_an_empty_slice_has_no_record(small_shop, scripted):
    validation = CONFIG.override("part=validation")
    found = search.evaluate(
        {"bm25": scripted("bm25")}, catalogue=small_shop.catalogue, split=small_shop.split, config=validation
    )
    asked = small_shop.split.targets(validation.part).query_row
    assert small_shop.split.query_seen_in_train(small_shop.catalogue)[asked].all()
    assert "unseen_queries" not in {record.slice for record in found.records}
    assert {record.split for record in found.records} == {"validation"}


def test_max_queries_draws_the_same_queries_for_every_model(models, small_shop):
    found = search.evaluate(
        models, catalogue=small_shop.catalogue, split=small_shop.split, config=CONFIG.override("max_queries=7")
    )
    everything = found.per_query.filter(pl.col("slice") == "all")
    asked = {frozenset(rows) for rows in everything.group_by("model").agg("query_row")["query_row"].to_list()}
    assert [len(rows) for rows in asked] == [7]
    assert one(found.records, slice="all", model="title", metric="mrr", k=2)["num_queries"] == 7


def test_take_queries_keeps_each_set_whole():
    targets = TargetSets(np.array([0, 2, 2, 5]), np.array([7, 8, 1, 2, 3]), np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    taken = take_queries(targets, chosen=np.array([2, 1, 0]))
    assert taken.offsets.tolist() == [0, 3, 3, 5]
    assert taken.item_rows.tolist() == [1, 2, 3, 7, 8]
    assert taken.grades.tolist() == [3.0, 4.0, 5.0, 1.0, 2.0]


def test_errors_say_what_is_wrong(small_shop, scripted):
    def evaluate(models):
        return search.evaluate(models, catalogue=small_shop.catalogue, split=small_shop.split, config=CONFIG)

    class Short:
        name = "short"

        def retrieve(self, requests, k):
            return Hits(np.zeros((1, k), dtype=np.int64), np.zeros((1, k), dtype=np.float32))

    with pytest.raises(DataError, match="there is no retriever to evaluate"):
        evaluate({})
    with pytest.raises(DataError, match="model 'title' has an empty list of retrievers"):
        evaluate({"title": []})
    with pytest.raises(DataError, match=r"retriever 'short' returned item rows of shape \(1, 10\) for 20 requests"):
        evaluate({"short": Short()})
    with pytest.raises(ConfigError, match="headline_k is 3, which is not one of ks"):
        CONFIG.override("headline_k=3")
    with pytest.raises(ConfigError, match="ks must be distinct cut-offs"):
        CONFIG.override("ks=[5, 2]")
    with pytest.raises(ConfigError, match="the training period was learnt from"):
        CONFIG.override("part=train")


def test_a_period_without_clicks_under_a_query_is_refused(small_shop, scripted, other_shop):
    shop = other_shop(events=lambda events: events.with_columns(query=pl.lit(None, dtype=pl.String)))
    assert is_positive(shop.catalogue.event_array("kind")).any()
    with pytest.raises(DataError, match="the test period has no query with a click"):
        search.evaluate({"bm25": scripted("bm25")}, catalogue=shop.catalogue, split=shop.split, config=CONFIG)
