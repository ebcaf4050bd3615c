"""What a query requires, against a plain count of the log, and what is left of an answer."""

from __future__ import annotations

from collections import Counter

import numpy as np
import polars as pl
import pytest

from triptych.foundation.errors import ConfigError
from triptych.recall.base import Request
from triptych.recall.models.bm25 import Bm25
from triptych.recall.relevance_control import ControlledRetriever, RequiredValues


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
