"""Users come, the old engine lays out pages, and users click.

Pages are worked through by (intent, cell), since all pages of such a group share their candidates.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from triptych.data.simulate.config import ShoppersConfig
from triptych.data.simulate.intents import Intents, Queries, grades
from triptych.data.simulate.market import Market, day_start_us

_RELEVANCE_VIEW = np.array([-2.0, 0.0, 0.6, 2.0], dtype=np.float32)
"""What the old engine makes of grades 0 to 3: click counters and editors tell it that much."""
_TITLE_VIEW = 0.5
"""What it makes of each named attribute whose own word stands in both query and title."""
_POPULARITY_VIEW = 0.35
"""What it makes of log popularity, which has a standard deviation near 1."""
_HIGHEST_RATE = 0.95

_HOURS = np.array([2, 3, 4, 5, 6, 7, 8, 7, 6, 6, 6, 7, 8, 10, 11, 9, 6], dtype=float)
"""Shopping by the hour, from 6 to 23 o'clock; the day's last hour is left for late clicks and orders."""


class Pages(NamedTuple):
    """One row per page, in time order."""

    time_us: np.ndarray
    """int64 ``[pages]``."""
    user: np.ndarray
    """int32 ``[pages]``."""
    query: np.ndarray
    """int32 ``[pages]``."""
    intent: np.ndarray
    """int32 ``[pages]``."""
    cell: np.ndarray
    """int32 ``[pages]``."""
    length: np.ndarray
    """int32 ``[pages]``: items asked for; fewer are shown where the cell has fewer."""


class Impressions(NamedTuple):
    """One row per item shown, by page and position."""

    page: np.ndarray
    """int32 ``[impressions]``."""
    position: np.ndarray
    """int32 ``[impressions]``, from 0."""
    item: np.ndarray
    """int32 ``[impressions]``."""
    grade: np.ndarray
    """int8 ``[impressions]``: true grade for the page's intent."""
    hidden: np.ndarray
    """float32 ``[impressions]``: what no content shows, of the item and of the pair, in log click rate."""


class Tastes(NamedTuple):
    """Persistent preferences over attribute values."""

    of_user: list[np.ndarray]
    """Per attribute, float32 ``[users, values + 1]``; the last column, for an unknown value, is 0."""

    def log_rate(self, user: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Return the taste of users for items with these codes ``[n, attributes]``, float32 ``[n]``."""
        total = np.zeros(len(user), dtype=np.float32)
        for a, table in enumerate(self.of_user):
            total += table[user, codes[:, a]]
        return total


def draw_tastes(market: Market, *, config: ShoppersConfig, seed: int) -> Tastes:
    """Draw every user's preferences; over a random item they have the standard deviation `taste_sd`."""
    rng = np.random.default_rng([seed, 107])
    sd = config.taste_sd / np.sqrt(len(market.attributes))
    tables = []
    for names in market.values:
        table = rng.standard_normal((config.num_users, len(names) + 1), dtype=np.float32) * np.float32(sd)
        table[:, -1] = 0.0
        tables.append(table)
    return Tastes(tables)


def draw_pages(intents: Intents, queries: Queries, tastes: Tastes, *, config: ShoppersConfig, seed: int) -> Pages:
    """Draw who asks for what, where, when, and in which words."""
    rng = np.random.default_rng([seed, 108])
    activity = rng.lognormal(0.0, 0.8, config.num_users)
    user = np.sort(rng.choice(config.num_users, config.num_pages, p=activity / activity.sum())).astype(np.int32)
    intent = _wanted(user, intents, queries, tastes, rng=rng)
    query = _said(intent, queries, rng=rng)
    home = rng.integers(0, config.num_cells, config.num_users)
    day = rng.integers(0, config.num_days, config.num_pages)
    hour = 6 + rng.choice(len(_HOURS), config.num_pages, p=_HOURS / _HOURS.sum())
    within = ((hour + rng.random(config.num_pages)) * 3_600_000_000).astype(np.int64)
    time_us = day_start_us(config, 0) + day * (day_start_us(config, 1) - day_start_us(config, 0)) + within
    length = rng.integers(config.min_page_items, max(config.max_page_items, config.min_page_items) + 1, len(user))
    order = np.argsort(time_us, kind="stable")
    return Pages(
        time_us=time_us[order],
        user=user[order],
        query=query[order],
        intent=intent[order],
        cell=home[user[order]].astype(np.int32),
        length=length[order].astype(np.int32),
    )


def _wanted(
    user: np.ndarray, intents: Intents, queries: Queries, tastes: Tastes, *, rng: np.random.Generator
) -> np.ndarray:
    """Draw an intent per page: what is common, tilted by the user's taste. `user` is sorted."""
    said = np.bincount(queries.intent, minlength=len(intents.weight)) > 0
    share = np.where(said, intents.weight, 0.0)
    uniform = rng.random(len(user))
    wanted = np.empty(len(user), dtype=np.int32)
    num_users = len(tastes.of_user[0])
    for first in range(0, num_users, 1024):  # one table [users, intents] would not fit everywhere
        last = min(first + 1024, num_users)
        log_rate = np.zeros((last - first, len(share)), dtype=np.float32)
        for a, table in enumerate(tastes.of_user):
            named = np.where(intents.named[:, a] >= 0, intents.named[:, a], table.shape[1] - 1)
            log_rate += table[first:last][:, named]
        cumulative = np.cumsum(np.exp(log_rate * 2.0) * share, axis=1, dtype=np.float64)
        cumulative /= cumulative[:, -1:]
        here = slice(*np.searchsorted(user, [first, last]).tolist())
        # Row r of the flattened table lies in [r, r + 1], so one search serves every row.
        flat = (cumulative + np.arange(last - first)[:, None]).ravel()
        place = np.searchsorted(flat, uniform[here] + (user[here] - first), side="right")
        wanted[here] = np.minimum(place - (user[here] - first) * len(share), len(share) - 1)
    return wanted


def _said(intent: np.ndarray, queries: Queries, *, rng: np.random.Generator) -> np.ndarray:
    """Draw a query string of the intent per page. Strings are grouped by intent."""
    cumulative = np.cumsum(queries.weight)
    first = np.searchsorted(queries.intent, intent, side="left")
    last = np.searchsorted(queries.intent, intent, side="right") - 1
    low = np.where(first > 0, cumulative[first - 1], 0.0)
    at = low + rng.random(len(intent)) * (cumulative[last] - low)
    said: np.ndarray = np.clip(np.searchsorted(cumulative, at, side="right"), first, last).astype(np.int32)
    return said


def lay_out(
    market: Market, intents: Intents, queries: Queries, pages: Pages, *, config: ShoppersConfig, seed: int
) -> Impressions:
    """Let the old engine choose and order the items of every page.

    It adds up relevance as it sees it, title match, popularity, a boost for what has just arrived, and chance.
    """
    rng = np.random.default_rng([seed, 109])
    parts: list[tuple[np.ndarray, ...]] = []
    hidden_sd = np.float32(config.hidden_sd * np.sqrt(1 - config.hidden_item_share))
    for intent, rows in _groups(pages.intent, len(intents.named)):
        grade_of_all = grades(market, intents.named[intent])
        pool = _pool(grade_of_all, size=config.pool_items, rng=rng)
        grade = grade_of_all[pool]
        hidden = market.hidden[pool] + rng.standard_normal(len(pool), dtype=np.float32) * hidden_sd
        base = _RELEVANCE_VIEW[grade] + _POPULARITY_VIEW * market.log_popularity[pool]
        base += config.new_item_boost * (market.arrival_day[pool] >= 0)
        named = np.flatnonzero(intents.named[intent] >= 0)
        meets = market.codes[pool][:, named] == intents.named[intent][named]
        title = (meets & market.says[pool][:, named]).astype(np.float32) * _TITLE_VIEW
        for cell, group in _groups(pages.cell[rows], config.num_cells):
            here = rows[group]
            there = np.flatnonzero(market.cells[pool, cell])
            score = base[there] + queries.own[pages.query[here]][:, named].astype(np.float32) @ title[there].T
            score += rng.standard_normal(score.shape, dtype=np.float32) * np.float32(config.engine_noise_sd)
            score[market.first_seen_us[pool[there]] > pages.time_us[here][:, None]] = -np.inf
            ranked = np.argsort(-score, axis=1, kind="stable")[:, : config.max_page_items]
            position = np.broadcast_to(np.arange(ranked.shape[1]), ranked.shape)
            shown = (position < pages.length[here][:, None]) & np.isfinite(np.take_along_axis(score, ranked, axis=1))
            row = there[ranked[shown]]
            page = np.broadcast_to(here[:, None], ranked.shape)[shown]
            parts.append((page, position[shown], pool[row], grade[row], hidden[row]))
    page, position, item, grade, hidden = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((position, page))
    return Impressions(
        page=page[order].astype(np.int32),
        position=position[order].astype(np.int32),
        item=item[order].astype(np.int32),
        grade=grade[order],
        hidden=hidden[order],
    )


def _groups(keys: np.ndarray, count: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each key with its rows, ascending, skipping keys without rows."""
    order = np.argsort(keys, kind="stable")
    bounds = np.searchsorted(keys[order], np.arange(count + 1))
    for key in range(count):
        if bounds[key + 1] > bounds[key]:
            yield key, order[bounds[key] : bounds[key + 1]]


def _pool(grade: np.ndarray, *, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return the item rows the old engine looks at.

    At most two thirds of the pool are of grade 3, a sixth each of grades 2 and 1; the rest, at least a sixth, is
    from anywhere.
    """
    chosen = []
    for wanted, most in ((3, size * 2 // 3), (2, size // 6), (1, size // 6)):
        rows = np.flatnonzero(grade == wanted)
        chosen.append(rows if len(rows) <= most else np.sort(rng.choice(rows, most, replace=False)))
    others = np.flatnonzero(grade == 0)
    left = min(max(size - sum(len(rows) for rows in chosen), size // 6), len(others))
    chosen.append(np.sort(rng.choice(others, left, replace=False)))
    return np.concatenate(chosen)


def click_rates(
    market: Market, pages: Pages, shown: Impressions, tastes: Tastes, *, config: ShoppersConfig, seed: int
) -> np.ndarray:
    """Return every impression's click probability, float32 ``[impressions]``.

    Appeal of the grade × popularity × taste × hidden part × position bias × chance, times a constant that is solved
    for `clicks_per_page`; no rate exceeds 0.95.
    """
    rng = np.random.default_rng([seed, 110])
    log_rate = np.log(np.array(config.grade_appeal, dtype=np.float32))[shown.grade]
    log_rate += config.zipf * market.log_popularity[shown.item]
    log_rate += tastes.log_rate(pages.user[shown.page], market.codes[shown.item])
    log_rate += shown.hidden
    log_rate -= config.position_decay * np.log1p(shown.position.astype(np.float32))
    log_rate += rng.standard_normal(len(log_rate), dtype=np.float32) * np.float32(config.noise_sd)
    odds = np.exp(log_rate)
    target = min(config.clicks_per_page * len(pages.user), 0.9 * _HIGHEST_RATE * len(odds))
    low, high = 1e-6, 1e6
    for _ in range(40):
        middle = float(np.sqrt(low * high))
        clicks = float(np.minimum(odds * np.float32(middle), _HIGHEST_RATE).sum(dtype=np.float64))
        low, high = (middle, high) if clicks < target else (low, middle)
    rates: np.ndarray = np.minimum(odds * np.float32(low), np.float32(_HIGHEST_RATE))
    return rates
