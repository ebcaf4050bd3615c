"""Simulated shoppers: the tables against brute force, the click model against its closed form."""

from __future__ import annotations

import itertools
import re
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest

from triptych.data.datasets.generated_shop import generate_items
from triptych.data.schema import EVENTS_SCHEMA, TIME
from triptych.data.simulate import Attribute, ShoppersConfig, Simulation, Words, simulate, statistics_table
from triptych.data.simulate.intents import Intents, Queries, draw_intents, draw_queries, grades
from triptych.data.simulate.lexicon import TitleWords, read_lexicon
from triptych.data.simulate.market import Market, build_market
from triptych.data.simulate.pages import (
    Impressions,
    Pages,
    Tastes,
    click_rates,
    draw_pages,
    draw_tastes,
    lay_out,
)
from triptych.data.simulate.shop_lexicon import shop_attributes
from triptych.foundation.errors import ConfigError, DataError

CONFIG = ShoppersConfig(num_pages=4_000, num_users=300, num_intents=120, num_cells=4, min_matches=2)
SEED = 3


class Stages(NamedTuple):
    market: Market
    intents: Intents
    queries: Queries
    tastes: Tastes
    pages: Pages
    shown: Impressions


def staged(config: ShoppersConfig, items: pl.DataFrame) -> Stages:
    market = build_market(items, attributes=shop_attributes(), config=config, seed=SEED)
    intents = draw_intents(market, config=config, seed=SEED)
    queries = draw_queries(market, intents, config=config, seed=SEED)
    tastes = draw_tastes(market, config=config, seed=SEED)
    pages = draw_pages(intents, queries, tastes, config=config, seed=SEED)
    return Stages(
        market, intents, queries, tastes, pages, lay_out(market, intents, queries, pages, config=config, seed=SEED)
    )


@pytest.fixture(scope="module")
def items() -> pl.DataFrame:
    return generate_items(700, seed=SEED)


@pytest.fixture(scope="module")
def stages(items: pl.DataFrame) -> Stages:
    return staged(CONFIG, items)


@pytest.fixture(scope="module")
def log(items: pl.DataFrame) -> Simulation:
    return simulate(items, attributes=shop_attributes(), config=CONFIG, seed=SEED)


def day(number: int) -> datetime:
    start = datetime(CONFIG.start.year, CONFIG.start.month, CONFIG.start.day, tzinfo=UTC)
    return start + timedelta(days=number)


# ---- the tables


def test_the_same_seed_gives_the_same_tables_and_another_seed_others(items: pl.DataFrame, log: Simulation):
    again = simulate(items, attributes=shop_attributes(), config=CONFIG, seed=SEED)
    for name in ("items", "events", "judgements", "truth"):
        assert getattr(again, name).equals(getattr(log, name)), name
    assert again.statistics == log.statistics
    other = simulate(items, attributes=shop_attributes(), config=CONFIG, seed=SEED + 1)
    assert not other.events.equals(log.events)


def test_events_have_the_canonical_columns_in_time_order(log: Simulation):
    assert dict(log.events.schema) == EVENTS_SCHEMA
    assert log.events["time"].is_sorted()
    assert log.events.null_count().sum_horizontal().item() == 0
    assert day(0) <= log.events["time"].min()
    assert log.events["time"].max() < day(CONFIG.num_days)
    assert log.events["time"].dt.date().n_unique() == CONFIG.num_days
    assert log.items.schema["first_seen"] == TIME


def test_no_event_precedes_the_items_arrival_and_new_items_come_on_the_last_two_days(log: Simulation):
    joined = log.events.join(log.items.select("item_id", "first_seen"), on="item_id")
    assert joined.height == log.events.height
    assert (joined["time"] >= joined["first_seen"]).all()
    arrival = log.items["first_seen"]
    per_day = round(CONFIG.new_item_rate * log.items.height)
    assert arrival.is_between(day(6), day(7), closed="left").sum() == per_day
    assert arrival.is_between(day(7), day(8), closed="left").sum() == per_day
    assert (arrival < day(0)).sum() == log.items.height - 2 * per_day
    fresh = log.items.filter(pl.col("first_seen") >= day(0))["item_id"].implode()
    assert log.events.filter(pl.col("item_id").is_in(fresh))["time"].min() >= day(6)
    assert log.events.filter(pl.col("item_id").is_in(fresh), pl.col("kind") == "click").height > 0


def test_a_page_belongs_to_one_user_query_and_cell_and_shows_only_items_of_the_cell(log: Simulation):
    shown = log.events.filter(pl.col("kind") == "impression")
    pages = shown.group_by("page").agg(
        pl.col("user", "query", "cell", "time").n_unique(), pl.col("position").sort(), pl.col("item_id").n_unique(),
        length=pl.len(),
    )  # fmt: skip
    assert pages.select(pl.col("user", "query", "cell", "time").max()).row(0) == (1, 1, 1, 1)
    assert (pages["item_id"] == pages["length"]).all()
    assert all(row == list(range(len(row))) for row in pages["position"].to_list())
    assert pages["length"].min() >= CONFIG.min_page_items
    assert pages["length"].max() <= CONFIG.max_page_items
    assert pages.height == CONFIG.num_pages
    cells = dict(log.items.select("item_id", "cells").iter_rows())
    assert all(cell in cells[item] for item, cell in shown.select("item_id", "cell").iter_rows())
    assert {len(here) for here in cells.values()} == {1, 2, 3}
    homes = log.events.group_by("user").agg(pl.col("cell").n_unique())
    assert homes["cell"].max() == 1


def test_clicks_are_on_impressions_carts_on_clicks_orders_on_carts(log: Simulation):
    by_kind = {
        kind: log.events.filter(pl.col("kind") == kind).select(
            "page", "position", "item_id", "user", "query", "cell", at="time"
        )
        for kind in ("impression", "click", "cart", "order")
    }
    key = ["page", "position", "item_id", "user", "query", "cell"]
    for before, after in itertools.pairwise(by_kind):
        joined = by_kind[after].join(by_kind[before], on=key, suffix="_before")
        assert joined.height == by_kind[after].height > 0
        assert (joined["at"] > joined["at_before"]).all()
    rate = by_kind["cart"].height / by_kind["click"].height
    spread = 4 * np.sqrt(CONFIG.cart_rate * (1 - CONFIG.cart_rate) / by_kind["click"].height)
    assert rate == pytest.approx(CONFIG.cart_rate, abs=spread)


# ---- relevance


def toy_market() -> tuple[pl.DataFrame, list[Attribute]]:
    rows = [
        ("a", "Red Striped Cup", "cup", "red", "striped"),
        ("b", "Red Cup", "cup", "red", "plain"),
        ("c", "Blue Striped Cup", "cup", "blue", "striped"),
        ("d", "Blue Cup", "cup", "blue", None),
        ("e", "Red Striped Bowl", "bowl", "red", "striped"),
    ]
    frame = pl.DataFrame(rows, schema=["item_id", "title", "type", "colour", "pattern"], orient="row")
    attributes = [
        Attribute(column="type", head=True),
        Attribute(column="colour", visual=True, words={"red": Words(own=("red",), synonyms=("scarlet",))}),
        Attribute(column="pattern", visual=True),
    ]
    return frame, attributes


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (("cup", None, None), [3, 3, 3, 3, 0]),
        (("cup", "red", None), [3, 3, 1, 1, 0]),
        (("cup", "red", "striped"), [3, 2, 2, 1, 0]),
        (("bowl", "blue", "striped"), [0, 0, 0, 0, 2]),
    ],
)
def test_grades_by_hand(wanted: tuple[str | None, ...], expected: list[int]):
    frame, attributes = toy_market()
    market = build_market(frame, attributes=attributes, config=CONFIG, seed=0)
    named = np.array([-1 if v is None else market.values[a].index(v) for a, v in enumerate(wanted)])
    assert grades(market, named).tolist() == expected


def contains(title: str, phrase: str) -> bool:
    """Whether the phrase's words stand in a row in the title: no regular expressions."""
    words, wanted = (re.sub(r"[^a-z0-9']", " ", text.lower()).split() for text in (title, phrase))
    return any(words[place : place + len(wanted)] == wanted for place in range(len(words)))


def test_judgements_equal_a_brute_force_computation(items: pl.DataFrame, stages: Stages, log: Simulation):
    titles = log.items["title"].to_list()
    attributes = shop_attributes()
    rows = items.select(attribute.column for attribute in attributes).rows()
    late = log.events.filter(pl.col("time") >= day(CONFIG.num_days - 2))["query"].unique().to_list()
    expected = set()
    for query in late:
        named = stages.intents.named[stages.queries.intent[stages.queries.texts.index(query)]]
        wanted = {a: stages.market.values[a][code] for a, code in enumerate(named) if code >= 0}
        for item_id, title, row in zip(items["item_id"], titles, rows, strict=True):
            met = [a for a, value in wanted.items() if row[a] == value]
            if 0 not in met:  # the head comes first in the shop's attributes
                continue
            grade = 3 if len(met) == len(wanted) else 2 if len(met) > 1 else 1
            only = any(
                attributes[a].visual and not any(contains(title, hint) for hint in attributes[a].hints(wanted[a]))
                for a in met
            )
            expected.add((query, item_id, float(grade), only))
    assert log.judgements.height == len(expected)
    assert set(log.judgements.rows()) == expected
    assert log.judgements["photo_only"].mean() > 0.05


def test_every_attribute_a_query_names_is_said_in_it(stages: Stages):
    assert len(set(stages.queries.texts)) == len(stages.queries.texts)
    for text, intent, own in zip(stages.queries.texts, stages.queries.intent, stages.queries.own, strict=True):
        for a, code in enumerate(stages.intents.named[intent]):
            if code < 0:
                assert not own[a]
                continue
            words = stages.market.attributes[a].of(stages.market.values[a][code])
            assert any(contains(text, word) for word in (words.own if own[a] else words.synonyms)), text


def test_a_quarter_of_the_words_are_the_titles_own(items: pl.DataFrame):
    config = CONFIG.override("num_intents=400")
    market = build_market(items, attributes=shop_attributes(), config=config, seed=SEED)
    intents = draw_intents(market, config=config, seed=SEED)
    queries = draw_queries(market, intents, config=config, seed=SEED)
    named = intents.named[queries.intent] >= 0
    choice = np.array([any(words.synonyms for words in attribute.words.values()) for attribute in market.attributes])
    assert not choice.all()  # brands have no synonyms: they are always named in their own words
    assert queries.own[:, ~choice][named[:, ~choice]].all()
    # Strings already taken are drawn again, which favours neither side much.
    assert queries.own[:, choice][named[:, choice]].mean() == pytest.approx(config.own_word_rate, abs=0.05)


# ---- titles


@pytest.mark.parametrize(("keep", "expected"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
def test_titles_keep_visual_words_with_the_set_probability(items: pl.DataFrame, keep: float, expected: float):
    market = build_market(items, attributes=shop_attributes(), config=CONFIG.override(f"title_keep={keep}"), seed=SEED)
    spread = 4 * np.sqrt(expected * (1 - expected) / items.height)
    kept = np.stack([market.says[:, a] for a in (1, 2, 3)])
    # "orange" the colour also goes when … nothing else is called so: each attribute loses its own words only.
    assert kept.mean(axis=1) == pytest.approx([expected] * 3, abs=spread + 1e-9)
    assert (market.says[:, 0]).all()  # the type is not visual
    if keep == 1.0:
        assert market.titles == items["title"].to_list()
    if keep == 0.5:  # independently of each other
        assert np.abs(np.corrcoef(kept) - np.eye(3)).max() < 4 / np.sqrt(items.height)


@pytest.mark.parametrize(
    ("title", "keep", "expected"),
    [
        ("Red Tape Men Grey and Black Dress", 8, "Red Tape Men Dress"),
        ("Solid Navy Blue/White Shirt", 0, "Solid Shirt"),
        ("Tantra Men's Tan Belt", 0, "Tantra Men's Belt"),
        ("Off-White Shirt in off white", 0, "Shirt in"),
        ("Shirt - black, red & grey", 0, "Shirt"),
        ("RED shoe", 0, "shoe"),
    ],
)
def test_colour_words_leave_a_title_cleanly(title: str, keep: int, expected: str):
    lexicon = read_lexicon(
        "Red: red | scarlet\nGrey: grey, gray\nBlack: black\nNavy Blue: navy blue, navy\nBlue: blue\n"
        "Tan: tan\nWhite: white\nOff White: off white"
    )
    finder = TitleWords(Attribute(column="colour", visual=True, words=lexicon), list(lexicon))
    assert finder.without(title, keep=keep) == expected


def test_a_brand_that_opens_the_title_keeps_its_colour_word():
    frame, attributes = toy_market()
    frame = frame.with_columns(brand=pl.lit("Red Cup")).filter(pl.col("item_id") == "b")
    market = build_market(frame, attributes=attributes, config=CONFIG.override("title_keep=0"), seed=0)
    assert market.titles == ["Red Cup"]


# ---- behaviour


def rates_of(stages: Stages, **settings: object) -> tuple[np.ndarray, ShoppersConfig]:
    """Click rates with every influence switched off but those given."""
    off = {"zipf": 0, "taste_sd": 0, "hidden_sd": 0, "noise_sd": 0, "position_decay": 0, "clicks_per_page": 0.2}
    config = CONFIG.override(*(f"{name}={value}" for name, value in (off | settings).items()))
    tastes = draw_tastes(stages.market, config=config, seed=SEED)
    shown = stages.shown if config.hidden_sd else stages.shown._replace(hidden=np.zeros_like(stages.shown.hidden))
    return click_rates(stages.market, stages.pages, shown, tastes, config=config, seed=SEED), config


def test_without_hidden_part_taste_popularity_and_noise_only_grade_and_position_matter(stages: Stages):
    rates, config = rates_of(stages, position_decay=0.6)
    appeal = np.array(config.grade_appeal)[stages.shown.grade]
    expected = appeal * (1.0 + stages.shown.position) ** -0.6
    np.testing.assert_allclose(rates / expected, rates[0] / expected[0], rtol=1e-5)
    hidden, _ = rates_of(stages, position_decay=0.6, hidden_sd=1.2)
    same = (stages.shown.grade == 3) & (stages.shown.position == 0)
    assert np.log(hidden[same]).std() > 0.8


def test_popularity_follows_zipfs_law(stages: Stages):
    rates, config = rates_of(stages, zipf=0.45)
    relevant = np.flatnonzero(stages.shown.grade == 3)
    rank = np.argsort(np.argsort(-stages.market.log_popularity)) + 1.0
    expected = rank[stages.shown.item[relevant]] ** -config.zipf
    np.testing.assert_allclose(rates[relevant] / expected, rates[relevant[0]] / expected[0], rtol=1e-4)


def test_rates_are_solved_for_the_clicks_per_page_and_capped(stages: Stages):
    tastes = draw_tastes(stages.market, config=CONFIG, seed=SEED)
    rates = click_rates(stages.market, stages.pages, stages.shown, tastes, config=CONFIG, seed=SEED)
    assert rates.sum() / CONFIG.num_pages == pytest.approx(CONFIG.clicks_per_page, rel=1e-3)
    assert rates.max() <= np.float32(0.95)


def test_hidden_part_and_taste_have_their_standard_deviations(stages: Stages):
    pairs = np.stack([stages.pages.intent[stages.shown.page], stages.shown.item])
    _, first = np.unique(pairs, axis=1, return_index=True)
    assert stages.shown.hidden[first].std() == pytest.approx(CONFIG.hidden_sd, rel=0.05)
    # One number per pair of want and item, whoever looks at it.
    _, group = np.unique(pairs, axis=1, return_inverse=True)
    spread = np.zeros(group.max() + 1)
    np.maximum.at(spread, group, np.abs(stages.shown.hidden - stages.shown.hidden[first][group]))
    assert spread.max() == 0
    rng = np.random.default_rng(0)
    users, rows = rng.integers(0, CONFIG.num_users, 20_000), rng.integers(0, len(stages.market.titles), 20_000)
    known = (stages.market.codes[rows] >= 0).all(axis=1)
    taste = stages.tastes.log_rate(users[known], stages.market.codes[rows[known]])
    assert taste.std() == pytest.approx(CONFIG.taste_sd, rel=0.15)


def test_the_hidden_grid_moves_nothing_but_the_clicks(items: pl.DataFrame, stages: Stages):
    """Pages are the same for every hidden_sd, so tables over the grid compare like with like."""
    flat = staged(CONFIG.override("hidden_sd=0"), items)
    assert not flat.shown.hidden.any()
    for name in ("page", "position", "item", "grade"):
        np.testing.assert_array_equal(getattr(flat.shown, name), getattr(stages.shown, name))


def test_click_rate_falls_with_position_and_rises_with_grade(log: Simulation, stages: Stages):
    shown = log.events.filter(pl.col("kind") == "impression").select("page", "position", "item_id", "query")
    clicks = log.events.filter(pl.col("kind") == "click").select("page", "position", clicked=pl.lit(1))
    late = log.judgements["query"].unique().implode()
    table = (
        shown.filter(pl.col("query").is_in(late))
        .join(log.judgements, on=["query", "item_id"], how="left")
        .join(clicks, on=["page", "position"], how="left")
        .with_columns(pl.col("grade", "clicked").fill_null(0))
    )
    by_grade = table.group_by("grade").agg(pl.col("clicked").mean()).sort("grade")["clicked"].to_list()
    assert by_grade[3] > 3 * max(by_grade[:3])
    assert np.mean(by_grade[1:3]) > by_grade[0]
    relevant = table.filter(pl.col("grade") == 3).with_columns(block=pl.col("position") // 3)
    by_block = relevant.group_by("block").agg(pl.col("clicked").mean(), pl.len()).sort("block")
    enough = by_block.filter(pl.col("len") > 500)["clicked"].to_numpy()
    assert len(enough) >= 3
    assert (np.diff(enough) < 0).all()


def test_the_old_engine_ranks_by_relevance_title_and_popularity(stages: Stages):
    shown = stages.shown
    top, bottom = shown.position == 0, shown.position == 9
    assert shown.grade[top].mean() > shown.grade[bottom].mean()
    relevant = shown.grade == 3
    popularity = stages.market.log_popularity[shown.item]
    assert popularity[top & relevant].mean() > popularity[bottom & relevant].mean()


def test_users_want_what_they_like(stages: Stages):
    """Taste is persistent: the wants of a user's pages suit that user better than another's."""
    named = stages.intents.named[stages.pages.intent]
    own = stages.tastes.log_rate(stages.pages.user, named)
    shuffled = stages.tastes.log_rate(np.random.default_rng(0).permutation(stages.pages.user), named)
    assert own.mean() > shuffled.mean() + 3 * shuffled.std() / np.sqrt(len(own))


# ---- statistics and mistakes


def test_statistics_agree_with_the_tables(log: Simulation, stages: Stages):
    clicks = log.events.filter(pl.col("kind") == "click")
    train = clicks.filter(pl.col("time") < day(CONFIG.num_days - 2))
    test = clicks.filter(pl.col("time") >= day(CONFIG.num_days - 1)).select("query", "item_id").unique()
    judged = test.join(log.judgements, on=["query", "item_id"], how="left").with_columns(
        pl.col("photo_only").fill_null(value=False)
    )
    fresh = log.items.filter(pl.col("first_seen") >= day(0))["item_id"].implode()
    figures = log.statistics
    assert figures["clicks"] == clicks.height
    assert figures["train pairs"] == train.select("query", "item_id").n_unique()
    assert figures["test pairs"] == test.height
    assert figures["test queries"] == test["query"].n_unique()
    assert figures["test pairs, photo-only"] == pytest.approx(judged["photo_only"].mean())
    assert figures["test pairs, new item"] == pytest.approx(test["item_id"].is_in(fresh).mean())
    assert sum(figures[f"clicks of grade {grade}"] for grade in range(4)) == pytest.approx(1)
    assert figures["intents"] == len(stages.intents.named)
    assert "test pairs, photo-only" in statistics_table(figures)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f, a: (f.rename({"colour": "color"}), a), r"need a column 'colour'\. Did you mean 'color'\?"),
        (lambda f, a: (f, a[1:]), r"exactly one attribute must be the head, found 0"),
        (lambda f, a: (f.unique("type"), a), r"no combination of attributes is shared by 2 items"),
    ],
)
def test_mistakes_get_a_sentence(change, message: str):
    frame, attributes = change(*toy_market())
    with pytest.raises(DataError, match=message):
        simulate(frame, attributes=attributes, config=CONFIG, seed=0)


def test_there_is_only_version_one():
    assert ShoppersConfig().dump()["version"] == 1
    with pytest.raises(ConfigError, match="version"):
        ShoppersConfig.parse({"version": 2})
