"""The tables that come out: edited items, events, judgements, and the hidden truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from triptych.data.schema import PHOTO_ONLY, TIME, EventKind
from triptych.data.simulate.config import ShoppersConfig
from triptych.data.simulate.intents import Intents, Queries, draw_intents, draw_queries, grades
from triptych.data.simulate.lexicon import Attribute
from triptych.data.simulate.market import Market, build_market, day_start_us
from triptych.data.simulate.pages import Impressions, Pages, click_rates, draw_pages, draw_tastes, lay_out
from triptych.data.simulate.statistics import Facts, describe_log

_KINDS = np.array([kind.value for kind in EventKind])


class Simulation(NamedTuple):
    """What `simulate` returns."""

    items: pl.DataFrame
    """The given frame, same rows, with `title` edited and `cells`, `first_seen` set."""
    events: pl.DataFrame
    """Columns of `schema.EVENTS_SCHEMA`, in time order."""
    judgements: pl.DataFrame
    """Columns query, item_id, grade (float32, 1 to 3), photo_only (bool): every item with a grade above 0, for every
    query string that occurs in the last two days."""
    truth: pl.DataFrame
    """item_id, all attributes, popularity and hidden quality: for oracles and reports, never for a model."""
    statistics: dict[str, float]
    """What the log looks like; see `statistics.describe_log`."""


def simulate(items: pl.DataFrame, *, attributes: Sequence[Attribute], config: ShoppersConfig, seed: int) -> Simulation:
    """Let simulated shoppers loose on a catalogue.

    Args:
        items: one row per item: item_id, title, the attributes' columns, brand if known.
        attributes: what shoppers name in queries, and in which words.
        config: sizes and strengths.
        seed: the same seed gives the same tables.

    Raises:
        DataError: a column is absent, no attribute (or more than one) is the head, or nothing can be wanted.
    """
    market = build_market(items, attributes=attributes, config=config, seed=seed)
    intents = draw_intents(market, config=config, seed=seed)
    queries = draw_queries(market, intents, config=config, seed=seed)
    tastes = draw_tastes(market, config=config, seed=seed)
    pages = draw_pages(intents, queries, tastes, config=config, seed=seed)
    shown = lay_out(market, intents, queries, pages, config=config, seed=seed)
    rates = click_rates(market, pages, shown, tastes, config=config, seed=seed)
    rng = np.random.default_rng([seed, 111])
    clicked = np.flatnonzero(rng.random(len(rates), dtype=np.float32) < rates)
    item_ids = items["item_id"].cast(pl.String)
    facts = Facts(market=market, intents=intents, queries=queries, pages=pages, shown=shown, clicked=clicked)
    return Simulation(
        items=_edited(items, market, config=config),
        events=_events(item_ids, queries, pages, shown, clicked, config=config, rng=rng),
        judgements=_judgements(item_ids, market, intents, queries, pages, config=config),
        truth=_truth(items, market, config=config),
        statistics=describe_log(facts, config=config),
    )


def _edited(items: pl.DataFrame, market: Market, *, config: ShoppersConfig) -> pl.DataFrame:
    names = _cell_names(config)
    cells = [[names[cell] for cell in np.flatnonzero(row).tolist()] for row in market.cells]
    return items.with_columns(
        pl.Series("title", [title or None for title in market.titles], dtype=pl.String),
        pl.Series("cells", cells, dtype=pl.List(pl.String)),
        pl.Series("first_seen", market.first_seen_us).cast(TIME),
    )


def _events(
    item_ids: pl.Series,
    queries: Queries,
    pages: Pages,
    shown: Impressions,
    clicked: np.ndarray,
    *,
    config: ShoppersConfig,
    rng: np.random.Generator,
) -> pl.DataFrame:
    """Impressions at the page's time, then clicks seconds later, carts and orders minutes later."""
    carted = clicked[rng.random(len(clicked)) < config.cart_rate]
    ordered = carted[rng.random(len(carted)) < config.order_rate]
    impression = np.concatenate([np.arange(len(shown.page)), clicked, carted, ordered])
    kind = np.repeat(np.arange(4), [len(shown.page), len(clicked), len(carted), len(ordered)])
    delay_s = np.zeros(len(shown.page))
    delay_s[clicked] = 2 + 6 * (shown.position[clicked] + rng.random(len(clicked)))
    late_s = np.array([0, 0, 30, 240])[kind] + np.array([0, 0, 60, 300])[kind] * rng.random(len(kind))
    delay_us = ((np.where(kind > 0, delay_s[impression], 0) + late_s) * 1e6).astype(np.int64)
    page = shown.page[impression]
    time_us = pages.time_us[page] + delay_us
    order = np.lexsort((shown.position[impression], page, kind, time_us))
    impression, kind, page = impression[order], kind[order], page[order]
    users = pl.Series([f"u{user:05d}" for user in range(config.num_users)])
    page_ids = pl.Series([f"p{number:06d}" for number in range(len(pages.user))])
    return pl.DataFrame(
        {
            "time": pl.Series(time_us[order]).cast(TIME),
            "user": users.gather(pages.user[page]),
            "query": pl.Series(queries.texts, dtype=pl.String).gather(pages.query[page]),
            "item_id": item_ids.gather(shown.item[impression]),
            "kind": pl.Series(_KINDS.tolist()).gather(kind),
            "page": page_ids.gather(page),
            "position": pl.Series(shown.position[impression]),
            "cell": pl.Series(_cell_names(config)).gather(pages.cell[page]),
        }
    )


def _judgements(
    item_ids: pl.Series, market: Market, intents: Intents, queries: Queries, pages: Pages, *, config: ShoppersConfig
) -> pl.DataFrame:
    late = np.unique(pages.query[pages.time_us >= day_start_us(config, config.num_days - 2)])
    visual = np.array([attribute.visual for attribute in market.attributes])
    query_rows, item_rows, grade_parts, photo_parts = [], [], [], []
    relevant: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    for query in late.tolist():
        intent = int(queries.intent[query])
        if intent not in relevant:
            named = intents.named[intent]
            grade = grades(market, named)
            rows = np.flatnonzero(grade > 0)
            told = (named >= 0) & visual
            only = (market.codes[rows][:, told] == named[told]) & ~market.hints[rows][:, told]
            relevant[intent] = rows, grade[rows], only.any(axis=1)
        rows, grade, photo_only = relevant[intent]
        query_rows.append(np.full(len(rows), query))
        item_rows.append(rows)
        grade_parts.append(grade)
        photo_parts.append(photo_only)
    return pl.DataFrame(
        {
            "query": pl.Series(queries.texts, dtype=pl.String).gather(np.concatenate(query_rows)),
            "item_id": item_ids.gather(np.concatenate(item_rows)),
            "grade": pl.Series(np.concatenate(grade_parts).astype(np.float32)),
            PHOTO_ONLY: pl.Series(np.concatenate(photo_parts)),
        }
    )


def _truth(items: pl.DataFrame, market: Market, *, config: ShoppersConfig) -> pl.DataFrame:
    popularity = np.exp(config.zipf * market.log_popularity.astype(np.float64))
    return items.select(
        pl.col("item_id"),
        *(pl.col(attribute.column) for attribute in market.attributes),
    ).with_columns(
        pl.Series("popularity", (popularity / popularity.mean()).astype(np.float32)),
        pl.Series("hidden", market.hidden),
    )


def _cell_names(config: ShoppersConfig) -> list[str]:
    return [f"c{cell:02d}" for cell in range(config.num_cells)]
