"""What a query requires, against a plain count of the log, and what is left of an answer."""

from __future__ import annotations

from collections import Counter

import numpy as np
import polars as pl
import pytest

from triptych.foundation.errors import ConfigError
from triptych.recall.base import Request
from triptych.recall.models.bm25 import Bm25
from triptych.recall.relevance_control import (
    Answers,
    ControlledRetriever,
    RelevanceControl,
    RelevanceControlConfig,
    RequiredValues,
)
from triptych.recipes import resolve


@pytest.mark.parametrize("least_share", [0.1, 0.6])
def test_answers_keep_the_categories_of_a_querys_choices(other_shop, least_share):
    """Of a log whose choices are drawn anew, so that queries have several categories, some of them seldom."""
    rng = np.random.default_rng(0)
    categories = pl.Series("category", [None if row % 9 == 0 else f"c{row // 10}" for row in range(40)])
    shop = other_shop(
        events=lambda table: table.with_columns(
            pl.Series("item_id", [f"i{row}" for row in rng.integers(0, 40, len(table))])
        ),
        items=lambda table: table.with_columns(categories),
    )
    catalogue = shop.catalogue
    clicks: dict[str, Counter] = {}
    for event in catalogue.events[shop.split.train].to_dicts():
        if event["kind"] > 0:
            category = catalogue.items["category"][event["item_row"]]
            clicks.setdefault(catalogue.queries[event["query_row"]], Counter())[category] += 1
    plain = Bm25.fit([f"{title} shirt shoe bag" for title in catalogue.titles])
    control = ControlledRetriever(
        plain, required=RequiredValues.fit(catalogue, split=shop.split, least_share=least_share)
    )
    requests = [Request(query=query.upper()) for query in catalogue.queries]
    full, found = plain.retrieve(requests, 30), control.retrieve(requests, 30)
    lengths = []
    for row, query in enumerate(catalogue.queries):
        counts = clicks.get(query, Counter())
        wanted = {value for value, n in counts.items() if value and n >= least_share * counts.total()}
        answer = full.item_rows[row][full.item_rows[row] >= 0].tolist()
        kept = [item for item in answer if not wanted or catalogue.items["category"][item] in wanted]
        assert found.item_rows[row].tolist() == kept + [-1] * (30 - len(kept))
        np.testing.assert_array_equal(np.isneginf(found.scores[row]), found.item_rows[row] == -1)
        lengths.append((len(kept), len(answer)))
    assert any(kept < answer for kept, answer in lengths)
    assert all(kept for kept, answer in lengths if answer > 20)


def test_a_query_that_training_has_not_met_loses_nothing(small_shop):
    plain = Bm25.fit(small_shop.catalogue.titles)
    control = ControlledRetriever(plain, required=RequiredValues.fit(small_shop.catalogue, split=small_shop.split))
    request = [Request(query="nice shirt or shoe")]
    np.testing.assert_array_equal(control.retrieve(request, 9).item_rows, plain.retrieve(request, 9).item_rows)
    assert control.name == plain.name


def test_what_items_do_not_have_cannot_be_required(small_shop):
    with pytest.raises(ConfigError, match="items have no 'brand' that could be required. They have: category"):
        RequiredValues.fit(small_shop.catalogue, split=small_shop.split, attribute="brand")


def everything_of(titles: list[str]) -> Bm25:
    """A retriever that finds all items for a query with the word."""
    return Bm25.fit([f"{title} thing" for title in titles])


def test_answers_are_filled_up_with_what_is_of_the_kind(small_shop):
    catalogue = small_shop.catalogue
    plain = everything_of(catalogue.titles)
    control = RelevanceControl.fit(RelevanceControlConfig(), catalogue=catalogue, split=small_shop.split)
    retriever = control.over(plain)
    kept = np.arange(catalogue.num_items) % 3 != 0
    categories = catalogue.items["category"].to_list()
    shorter = 0
    for keep in (None, kept):
        requests = [Request(query=query, keep=keep) for query in [*catalogue.queries, "thing"]]
        full, found = plain.retrieve(requests, catalogue.num_items), retriever.retrieve(requests, 5)
        for row, request in enumerate(requests):
            wanted = retriever.required(request)
            ranking = [item for item in full.item_rows[row].tolist() if item >= 0]
            expected = [item for item in ranking if not wanted or categories[item] in wanted][:5]
            assert found.item_rows[row].tolist() == expected + [-1] * (5 - len(expected))
            shorter += expected != ranking[:5]
    assert shorter
    assert retriever.required(requests[-1]) == []


def test_what_is_filtered_by_comes_before_what_a_query_asks_for(small_shop):
    catalogue = small_shop.catalogue
    plain = everything_of(catalogue.titles)
    retriever = RelevanceControl.fit(RelevanceControlConfig(), catalogue=catalogue, split=small_shop.split).over(plain)
    query = next(one for one in catalogue.queries if retriever.required(Request(query=one)))
    asked_for = retriever.required(Request(query=query))
    others = ~catalogue.items["category"].is_in(asked_for).fill_null(value=False).to_numpy()
    request = Request(query=f"{query}", keep=others)
    assert retriever.required(request) == []
    np.testing.assert_array_equal(retriever.retrieve([request], 4).item_rows, plain.retrieve([request], 4).item_rows)


@pytest.mark.parametrize("answers", Answers)
def test_a_control_is_saved_and_grows_with_the_shop(small_shop, tmp_path, answers):
    catalogue = small_shop.catalogue
    config = RelevanceControlConfig(answers=answers, least_share=0.2)
    control = RelevanceControl.fit(config, catalogue=catalogue, split=small_shop.split)
    control.save(tmp_path)
    read = RelevanceControl.load(tmp_path, catalogue=catalogue)
    assert read.config == config
    requests = [Request(query=query) for query in catalogue.queries]
    plain = everything_of(catalogue.titles)
    for one, other in zip(
        control.over(plain).retrieve(requests, 9), read.over(plain).retrieve(requests, 9), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    query = next(one for one in catalogue.queries if len(control.required.of_query(one)))
    name = control.required.named(control.required.of_query(query))[0]
    new = [{"category": value, "brand": None, "merchant": None} for value in (name, "quite new", None)]
    grown = read.with_items(new).required
    assert grown.dropped(query, np.arange(catalogue.num_items, catalogue.num_items + 3)).tolist() == [False, True, True]


def test_a_log_that_says_nothing_of_kinds_is_refused(other_shop):
    """Only one item has a category, and nobody chose that."""
    categories = pl.Series("category", [None] * 39 + ["c"], dtype=pl.String)
    shop = other_shop(
        events=lambda table: table.with_columns(item_id=pl.lit("i0")),
        items=lambda table: table.with_columns(categories),
    )
    config = RelevanceControlConfig()
    with pytest.raises(ConfigError, match="no category holds 10 % of what was chosen under a query in training"):
        RelevanceControl.fit(config, catalogue=shop.catalogue, split=shop.split)


@pytest.mark.parametrize(
    ("recipe", "settings", "message"),
    [
        ("demo", ("recall=null",), "relevance_control has no effect: there is no recall model"),
        ("movielens", ('recall={"model":{"kind":"sasrec"}}',), "relevance_control is of answers to queries"),
    ],
)
def test_a_run_that_cannot_have_it_is_refused(recipe, settings, message):
    with pytest.raises(ConfigError, match=message):
        resolve(recipe, settings=("relevance_control={}", *settings))
