"""The recommendation task against plain loops, and planted retrievers that must get the right verdicts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest

from triptych.data.targets import HistoryFrom
from triptych.evaluate import report
from triptych.evaluate.records import select, to_rows
from triptych.evaluate.report import read_records, text_tables
from triptych.evaluate.tasks import recommend
from triptych.evaluate.tasks.base import EvaluationConfig
from triptych.foundation.errors import DataError
from triptych.foundation.types import Hits
from triptych.recall.base import Request, rank

CONFIG = EvaluationConfig(ks=(1, 3, 5), headline_k=3, bootstrap_repeats=200, examples=6)


class ByUser:
    """Ranks by scores written down for each user; -inf for what the request does not keep."""

    def __init__(self, name: str, catalogue, scores: np.ndarray) -> None:
        self.name = name
        self.catalogue = catalogue
        self.scores = scores.astype(np.float32)
        self.asked: list[Request] = []

    def retrieve(self, requests: Sequence[Request], k: int) -> Hits:
        self.asked += requests
        rows = [self.catalogue.user_row(request.user) for request in requests]
        keep = np.stack([request.keep for request in requests])
        return rank(np.where(keep, self.scores[rows], -np.inf), k=k)


@pytest.fixture(scope="module")
def shop(small_shop):
    return small_shop


@pytest.fixture(scope="module")
def models(shop):
    """One that knows what each user will choose, one that knows half of it, and one that knows the opposite."""
    catalogue = shop.catalogue
    rng = np.random.default_rng(0)
    wanted = np.zeros((catalogue.num_users, catalogue.num_items))
    chosen = catalogue.events[shop.split.test].filter(pl.col("kind") > 0)
    wanted[chosen["user_row"].to_numpy(), chosen["item_row"].to_numpy()] = 1.0
    noise = rng.normal(0, 0.3, size=wanted.shape)
    return {
        "popularity": ByUser("popularity", catalogue, noise),
        "item-knn": ByUser("item-knn", catalogue, -wanted + noise),
        "title": ByUser("title", catalogue, 0.5 * wanted + noise),
        "title+photo": ByUser("title+photo", catalogue, wanted + 0.01 * noise),
    }


@pytest.fixture(scope="module")
def result(models, shop):
    return recommend.evaluate(models, catalogue=shop.catalogue, split=shop.split, config=CONFIG)


def naive(shop, *, history_parts: Sequence[str] = ("train", "validation")) -> dict[int, tuple[list[int], set[int]]]:
    """User row → history and targets, by walking through the events."""
    part_of = {}
    for part in ("train", "validation", "test"):
        places = getattr(shop.split, part)
        part_of |= dict.fromkeys(range(places.start, places.stop), part)
    found: dict[int, tuple[list[int], set[int]]] = {}
    for place, (user, item, kind) in enumerate(
        shop.catalogue.events.select("user_row", "item_row", "kind").iter_rows()
    ):
        if kind == 0:
            continue
        history, targets = found.setdefault(user, ([], set()))
        if part_of[place] in history_parts:
            history.append(item)
        elif part_of[place] == "test":
            targets.add(item)
    return {
        user: (history, targets - set(history))
        for user, (history, targets) in sorted(found.items())
        if history and targets - set(history)
    }


def one(records, **fields):
    found = select(to_rows(records), **{"baseline": None, **fields})
    assert len(found) == 1, f"{len(found)} records for {fields}"
    return found[0]


def test_every_metric_on_every_slice_equals_a_loop(models, result, shop):
    train = shop.catalogue.events[shop.split.train].filter(pl.col("kind") > 0)
    counts = dict(train["item_row"].value_counts().iter_rows())
    users = naive(shop)
    bands = {"items_1_5": (1, 5), "items_6_20": (6, 20), "items_21_up": (21, math.inf), "new_items": (0, 0)}
    lengths = {"history_1_5": (1, 5), "history_6_20": (6, 20), "history_21_100": (21, 100), "all": (0, math.inf)}
    for name in result.definitions:
        low, high = bands.get(name, (0, math.inf))
        shortest, longest = lengths.get(name, (0, math.inf))
        for model, retriever in models.items():
            recalls, ndcgs, ranks = [], [], []
            for user, (history, targets) in users.items():
                wanted = {item for item in targets if low <= counts.get(item, 0) <= high}
                if not wanted or not shortest <= len(history) <= longest:
                    continue
                order = [row for row in np.argsort(-retriever.scores[user], kind="stable") if row not in history][:3]
                recalls.append(len(wanted & set(order)) / len(wanted))
                gains = [item in wanted for item in order]
                ideal = sum(1 / math.log2(place + 2) for place in range(min(3, len(wanted))))
                ndcgs.append(sum(hit / math.log2(place + 2) for place, hit in enumerate(gains)) / ideal)
                ranks.append(1 / (gains.index(True) + 1) if any(gains) else 0.0)
            record = one(result.records, slice=name, model=model, metric="recall", k=3)
            assert record["value"] == pytest.approx(np.mean(recalls)), (name, model)
            assert record["num_queries"] == len(recalls)
            if name not in bands:
                assert one(result.records, slice=name, model=model, metric="ndcg", k=3)["value"] == pytest.approx(
                    np.mean(ndcgs)
                )
                assert one(result.records, slice=name, model=model, metric="mrr", k=3)["value"] == pytest.approx(
                    np.mean(ranks)
                )


def test_the_slices_are_those_of_this_log(result):
    assert set(result.definitions) >= {"all", "new_items", "items_1_5"}
    assert any(name.startswith("history_") for name in result.definitions)


def test_what_a_user_had_chosen_is_given_and_never_found(models, result, shop):
    users = naive(shop)
    for request in models["title"].asked[: len(users)]:
        history, _ = users[shop.catalogue.user_row(request.user)]
        assert request.history.tolist() == history
        assert not request.keep[history].any()
        assert request.keep.sum() == shop.catalogue.num_items - len(set(history))
    for rows, (history, _) in zip(result.rankings.item_rows["title+photo"], users.values(), strict=True):
        assert not set(rows.tolist()) & set(history)


def test_the_history_may_be_that_of_training_alone(shop, models):
    config = CONFIG.model_copy(update={"history": HistoryFrom.TRAIN})
    found = recommend.user_problem(shop.catalogue, split=shop.split, config=config)
    users = naive(shop, history_parts=("train",))
    assert found.user_row.tolist() == list(users)
    assert [found.histories.of(place).tolist() for place in range(len(users))] == [one for one, _ in users.values()]
    assert {place: set(found.targets.of(place).tolist()) for place in range(len(users))} == dict(
        enumerate(targets for _, targets in users.values())
    )


def test_planted_models_get_their_verdicts(result):
    rows = [row for row in to_rows(result.records) if row.get("kind") == "difference" and row["slice"] == "all"]
    kept = {row["baseline"]: row["verdict"] for row in select(rows, model="title+photo", metric="recall", k=3)}
    assert (kept["popularity"], kept["item-knn"]) == ("holds", "holds")


def test_a_worse_model_fails(models, shop):
    config = CONFIG.model_copy(update={"model": "item-knn"})
    found = recommend.evaluate(models, catalogue=shop.catalogue, split=shop.split, config=config)
    rows = [row for row in to_rows(found.records) if row.get("kind") == "difference" and row["slice"] == "all"]
    (row,) = select(rows, model="item-knn", baseline="title+photo", metric="recall", k=3)
    assert row["verdict"] == "fails"


def test_values_of_each_user_give_the_records_again(result):
    own = result.per_query.filter(slice="all", model="title")
    assert own["recall@3"].mean() == pytest.approx(
        one(result.records, slice="all", model="title", metric="recall", k=3)["value"]
    )
    assert {"user_row", "user"} <= set(own.columns)


def test_some_users_can_be_drawn(models, shop):
    config = CONFIG.model_copy(update={"max_queries": 3})
    found = recommend.evaluate(models, catalogue=shop.catalogue, split=shop.split, config=config)
    drawn = one(found.records, slice="all", model="title", metric="recall", k=3)
    assert drawn["num_queries"] == 3
    everybody = naive(shop)
    for place, user in enumerate(found.rankings.query_rows):
        assert found.rankings.histories.of(place).tolist() == everybody[int(user)][0]


def test_nobody_to_ask_is_one_sentence(other_shop, models):
    strangers = pl.concat_str(pl.lit("v"), pl.int_range(pl.len()).cast(pl.String))
    shop = other_shop(events=lambda events: events.with_columns(user=strangers))
    with pytest.raises(DataError, match=r"no user of the test part chose something before it and something new in it"):
        recommend.evaluate(models, catalogue=shop.catalogue, split=shop.split, config=CONFIG)


def test_the_report_speaks_of_users_and_says_what_the_split_lets_through(models, shop, tmp_path, monkeypatch):
    caution = "Split within each user: other users' later events are in training."
    monkeypatch.setattr(type(shop.split), "caution", caution)
    made = report.run(
        CONFIG,
        catalogue=shop.catalogue,
        split=shop.split,
        tasks=[lambda: recommend.evaluate(models, catalogue=shop.catalogue, split=shop.split, config=CONFIG)],
        inputs={"catalogue": shop.catalogue.artifact},
        out=tmp_path,
    )
    rows = read_records(made)
    assert {row["caution"] for row in rows} == {caution}
    tables = text_tables(rows, headline_k=CONFIG.headline_k)
    assert tables[0].title.startswith("recommend, test: 7 users, in %, [95 % interval over users]")
    assert all(caution in table.note for table in tables)
    assert [row["model"] for row in tables[0].rows] == ["popularity", "item-knn", "title", "title+photo"]
    assert "users" in tables[1].rows[0]
    assert made.summary["users"] == 7
    assert made.summary["recall@3"]["title+photo"] > made.summary["recall@3"]["popularity"]
    page = made.file("report.html").read_text(encoding="utf-8")
    assert page.count(f"<caption>{caution.replace(chr(39), '&#x27;')}</caption>") >= 3
    for words in ("User u", "chosen before", "split within each user", "7 users", "item-knn"):
        assert words in page, words
