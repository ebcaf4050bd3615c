"""Search asked for users: metrics averaged over those who asked, against a loop through the log."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from triptych.data.askers import draw_askers
from triptych.data.schema import Part
from triptych.evaluate.askers import as_request
from triptych.evaluate.records import select, to_rows
from triptych.evaluate.tasks import search
from triptych.evaluate.tasks.base import EvaluationConfig
from triptych.foundation.errors import ConfigError
from triptych.index.backends.exact import ExactConfig, ExactIndex
from triptych.recall.base import Request, rank
from triptych.recall.config import RecallTrainConfig
from triptych.recall.retriever import LearnedRetriever
from triptych.recall.task import Given, RecallTask

ONCE = EvaluationConfig(ks=(2, 5), headline_k=2, bootstrap_repeats=100)
MANY = ONCE.model_copy(update={"users_per_query": 100})


class Personal:
    """Scores drawn by who asks for what, and when."""

    name = "personal"

    def __init__(self, catalogue) -> None:
        self.catalogue = catalogue
        self.asked: list[Request] = []

    def scores(self, query: str, user: str | None, before: int | None) -> np.ndarray:
        who = -1 if user is None else self.catalogue.user_row(user)
        seed = [self.catalogue.query_row(query), who + 1, 0 if before is None else before]
        return np.random.default_rng(seed).random(self.catalogue.num_items).astype(np.float32)

    def retrieve(self, requests, k):
        self.asked += requests
        return rank(np.stack([self.scores(one.query, one.user, one.before) for one in requests]), k=k)


def askers(shop) -> dict[str, dict[str, int]]:
    """Query → who chose something under it in the test part → where first."""
    catalogue, found = shop.catalogue, {}
    for place in range(len(catalogue.events))[shop.split.test]:
        event = catalogue.events.row(place, named=True)
        if event["kind"] > 0:
            query, user = catalogue.queries[event["query_row"]], catalogue.users[event["user_row"]]
            found.setdefault(query, {}).setdefault(user, place)
    return found


@pytest.fixture(scope="module")
def shop(small_shop):
    assert max(len(users) for users in askers(small_shop).values()) > 1
    return small_shop


def test_metrics_are_averaged_over_those_who_asked(shop):
    catalogue, retriever = shop.catalogue, Personal(shop.catalogue)
    found = search.evaluate({"personal": retriever}, catalogue=catalogue, split=shop.split, config=MANY)
    everybody = askers(shop)
    asked = [(one.query, one.user, one.before) for one in retriever.asked]
    assert sorted(asked) == sorted((q, u, place) for q, users in everybody.items() for u, place in users.items())
    targets = {catalogue.queries[row]: set() for row in found.rankings.query_rows}
    for query, item, kind in catalogue.events[shop.split.test].select("query_row", "item_row", "kind").iter_rows():
        if kind > 0:
            targets[catalogue.queries[query]].add(item)
    new = set(np.flatnonzero(shop.split.items_new(catalogue)).tolist())
    rows = to_rows(found.records)
    for name, kept in (("all", lambda items: items), ("new_items", lambda items: items & new)):
        for k in MANY.ks:
            by_query, first_k = [], set()
            for query, users in everybody.items():
                wanted, recalls = kept(targets[query]), []
                for user, place in users.items():
                    best = np.argsort(-retriever.scores(query, user, place), kind="stable")[:k]
                    first_k |= set(best.tolist())
                    recalls.append(len(wanted & set(best.tolist())) / max(1, len(wanted)))
                if wanted:
                    by_query.append(np.mean(recalls))
            (record,) = select(rows, slice=name, model="personal", metric="recall", k=k, baseline=None)
            assert record["value"] == pytest.approx(np.mean(by_query))
            if name == "all":
                (coverage,) = select(rows, slice=name, model="personal", metric="coverage", k=k, baseline=None)
                assert coverage["value"] == pytest.approx(len(first_k) / catalogue.num_items)


def test_who_asks_changes_nothing_for_a_model_that_does_not_look(shop, scripted):
    models = {"title": scripted("title", seed=1), "title+photo": scripted("title+photo", seed=2)}
    results = [
        search.evaluate(models, catalogue=shop.catalogue, split=shop.split, config=config, with_chance=True)
        for config in (ONCE, MANY)
    ]
    once, many = (list(to_rows(result.records)) for result in results)
    assert len(once) == len(many) > 100
    for one, other in zip(once, many, strict=True):
        assert {key: one[key] for key in ("slice", "model", "metric", "k")} == {
            key: other[key] for key in ("slice", "model", "metric", "k")
        }
        assert one["value"] == pytest.approx(other["value"])
    np.testing.assert_array_equal(*(result.rankings.item_rows["title"] for result in results))


def test_for_nobody_no_moment_is_named(shop):
    """Else a ranker would take the log's first event for the moment, and every item would be new."""
    nobody = np.array([shop.catalogue.num_queries])
    places = shop.split.test
    rows = np.append(np.sort([shop.catalogue.query_row(query) for query in askers(shop)]), nobody)
    found = draw_askers(shop.catalogue, places=places, query_rows=rows, most=1, seed=0)
    assert (found.query_of[-1], found.user_row[-1]) == (len(rows) - 1, -1) and (found.user_row[:-1] >= 0).all()
    queries = [*(shop.catalogue.queries[row] for row in rows[:-1]), "nobody asks"]
    requests = [as_request(found, place, queries=queries, users=shop.catalogue.users) for place in range(len(rows))]
    assert (requests[-1].query, requests[-1].user, requests[-1].before) == ("nobody asks", None, None)
    assert None not in {one.user for one in requests[:-1]} | {one.before for one in requests[:-1]}


def test_so_many_users_are_drawn_at_most(shop):
    retriever = Personal(shop.catalogue)
    config = ONCE.model_copy(update={"users_per_query": 1})
    search.evaluate({"personal": retriever}, catalogue=shop.catalogue, split=shop.split, config=config)
    assert len(retriever.asked) == len(askers(shop))
    assert {one.query for one in retriever.asked} == set(askers(shop))


SEED = 5
"""Weights that have not learned: of these, histories change what is found."""
PERSONAL = {
    "mgdspr": {
        "kind": "mgdspr",
        "dim": 8,
        "heads": 2,
        "id_init_std": 0.5,
        "real_time": 3,
        "short_term": 4,
        "long_term": 6,
    },
    "two towers": {"asks": "query+history", "fusion": "mm+id_sum", "dim": 8, "id_init_std": 0.5},
}


@pytest.mark.parametrize("kind", PERSONAL)
def test_weights_are_kept_by_what_the_table_then_measures(shop, kind):
    """Validation, of all queries for the same users with the same histories, is the search task's recall."""
    settings = {"model": PERSONAL[kind], "validation_k": 5, "device": "cpu", "precision": "fp32"}
    rng, found = np.random.default_rng(0), {}
    queries, items = (
        rng.standard_normal((count, 6)).astype(np.float32)
        for count in (shop.catalogue.num_queries, shop.catalogue.num_items)
    )
    encoder = SimpleNamespace(queries=lambda texts: queries[[shop.catalogue.query_row(text) for text in texts]])
    reads_content = kind == "two towers"
    given = Given(shop.catalogue, shop.split, queries, items, SEED)
    for most in (None, 2):
        task = RecallTask(RecallTrainConfig.parse({**settings, "validation_users": most}), given)
        task.module.eval()
        with torch.no_grad():
            index = ExactIndex.build(task.item_vectors().numpy(), config=ExactConfig(stored_as="float32"))
            (found[most],) = task.validate().metrics.values()
        retriever = LearnedRetriever(
            task.module, index, ids=task.ids, encoder=encoder if reads_content else None, features=task.features
        )
        config = ONCE.model_copy(update={"part": Part.VALIDATION, "users_per_query": most})
        result = search.evaluate({"model": retriever}, catalogue=shop.catalogue, split=shop.split, config=config)
        (record,) = select(to_rows(result.records), slice="all", model="model", metric="recall", k=5, baseline=None)
        assert found[most] == pytest.approx(record["value"])
    assert found[2] != found[None]


def test_users_are_asked_of_models_that_read_histories_alone():
    with pytest.raises(ConfigError, match="validation_users has no effect with model.kind = 'two_tower'"):
        RecallTrainConfig.parse({"validation_users": 2})
