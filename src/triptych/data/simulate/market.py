"""The market before anyone shops: titles that lost words, delivery cells, arrivals, popularity."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import polars as pl

from triptych.data.simulate.config import ShoppersConfig
from triptych.data.simulate.lexicon import Attribute, TitleWords
from triptych.foundation.errors import DataError, did_you_mean

DAY_US = 86_400_000_000
"""Microseconds in a day."""


class Market(NamedTuple):
    """Everything about the items that the shoppers and the old engine act on. Axis `items` is the frame's row."""

    attributes: Sequence[Attribute]
    """As given."""
    head: int
    """Index of the head attribute."""
    values: list[list[str]]
    """Per attribute, its values in order; a code is an index into it."""
    codes: np.ndarray
    """int32 ``[items, attributes]``, -1 where unknown."""
    own_words: list[list[dict[str, int]]]
    """Per attribute and value: own words as titles use them, with counts."""
    titles: list[str]
    """After the words of visual attributes were dropped."""
    says: np.ndarray
    """bool ``[items, attributes]``: the edited title has one of the value's own words."""
    hints: np.ndarray
    """bool ``[items, attributes]``: the edited title has any word, own or synonym, that gives the value away."""
    cells: np.ndarray
    """bool ``[items, cells]``."""
    first_seen_us: np.ndarray
    """int64 ``[items]``, microseconds since 1970."""
    arrival_day: np.ndarray
    """int8 ``[items]``: day of the log on which the item arrives, -1 before the log."""
    log_popularity: np.ndarray
    """float32 ``[items]``: logarithm of the Zipf popularity, mean 0."""
    hidden: np.ndarray
    """float32 ``[items]``: the item's own part of what no content shows."""


def day_start_us(config: ShoppersConfig, day: int) -> int:
    """Microseconds since 1970 at which a day of the log begins."""
    midnight = datetime(config.start.year, config.start.month, config.start.day, tzinfo=UTC)
    return int(midnight.timestamp()) * 1_000_000 + day * DAY_US


def build_market(items: pl.DataFrame, *, attributes: Sequence[Attribute], config: ShoppersConfig, seed: int) -> Market:
    """Prepare the items.

    Args:
        items: columns item_id, title, those of the attributes, and brand where there is one (a brand that opens a
            title keeps all its words).
        attributes: which columns shoppers name; exactly one is the head.
        config: parameters.
        seed: of everything random.

    Raises:
        DataError: a column is absent, or not exactly one attribute is the head.
    """
    _check(items, attributes)
    values, codes = _encode(items, attributes)
    full = [title or "" for title in items["title"].to_list()]
    finders = [TitleWords(attribute, names) for attribute, names in zip(attributes, values, strict=True)]
    titles = _edited_titles(items, full, attributes=attributes, finders=finders, config=config, seed=seed)
    says = np.zeros(codes.shape, dtype=bool)
    hints = np.zeros(codes.shape, dtype=bool)
    own_words: list[list[dict[str, int]]] = []
    for a, finder in enumerate(finders):
        names = values[a]
        column = codes[:, a]
        for row in np.flatnonzero(column >= 0).tolist():
            hints[row, a] = finder.hints(titles[row], names[column[row]])
            says[row, a] = hints[row, a] and finder.says(titles[row], names[column[row]])
        own_words.append(
            [finder.said((full[row] for row in np.flatnonzero(column == v)), name) for v, name in enumerate(names)]
        )
    first_seen_us, arrival_day = _arrivals(len(full), config=config, seed=seed)
    rng = np.random.default_rng([seed, 104])
    rank = rng.permutation(len(full)) + 1.0
    log_popularity = -np.log(rank)
    hidden_sd = config.hidden_sd * np.sqrt(config.hidden_item_share)
    return Market(
        attributes=attributes,
        head=next(a for a, attribute in enumerate(attributes) if attribute.head),
        values=values,
        codes=codes,
        own_words=own_words,
        titles=titles,
        says=says,
        hints=hints,
        cells=_cells(len(full), config=config, seed=seed),
        first_seen_us=first_seen_us,
        arrival_day=arrival_day,
        log_popularity=(log_popularity - log_popularity.mean()).astype(np.float32),
        hidden=(rng.standard_normal(len(full)) * hidden_sd).astype(np.float32),
    )


def _check(items: pl.DataFrame, attributes: Sequence[Attribute]) -> None:
    for column in ("item_id", "title", *(attribute.column for attribute in attributes)):
        if column not in items.columns:
            raise DataError(
                f"items: the simulated shoppers need a column '{column}'.{did_you_mean(column, items.columns)}"
            )
    heads = [attribute.column for attribute in attributes if attribute.head]
    if len(heads) != 1:
        raise DataError(f"items: exactly one attribute must be the head, found {len(heads)} ({', '.join(heads)}).")


def _encode(items: pl.DataFrame, attributes: Sequence[Attribute]) -> tuple[list[list[str]], np.ndarray]:
    values, columns = [], []
    for attribute in attributes:
        column = items[attribute.column].cast(pl.String)
        names = sorted(column.drop_nulls().unique().to_list())
        place = {name: code for code, name in enumerate(names)}
        values.append(names)
        columns.append([place[name] if name is not None else -1 for name in column.to_list()])
    return values, np.array(columns, dtype=np.int32).reshape(len(attributes), items.height).T.copy()


def _edited_titles(
    items: pl.DataFrame,
    titles: list[str],
    *,
    attributes: Sequence[Attribute],
    finders: Sequence[TitleWords],
    config: ShoppersConfig,
    seed: int,
) -> list[str]:
    rng = np.random.default_rng([seed, 101])
    brands = items["brand"].to_list() if "brand" in items.columns else [None] * items.height
    edited = list(titles)
    for attribute, finder in zip(attributes, finders, strict=True):
        if not attribute.visual:
            continue
        dropped = rng.random(items.height) >= config.title_keep
        for row in np.flatnonzero(dropped).tolist():
            edited[row] = finder.without(edited[row], keep=_brand_length(edited[row], brands[row]))
    return edited


def _brand_length(title: str, brand: str | None) -> int:
    return len(brand) if brand and title.lower().startswith(brand.lower()) else 0


def _cells(num_items: int, *, config: ShoppersConfig, seed: int) -> np.ndarray:
    rng = np.random.default_rng([seed, 102])
    most = min(config.max_item_cells, config.num_cells)
    count = rng.integers(1, most + 1, num_items)
    order = np.argsort(rng.random((num_items, config.num_cells)), axis=1)
    cells = np.zeros((num_items, config.num_cells), dtype=bool)
    for place in range(most):
        rows = np.flatnonzero(count > place)
        cells[rows, order[rows, place]] = True
    return cells


def _arrivals(num_items: int, *, config: ShoppersConfig, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([seed, 103])
    first = day_start_us(config, 0)
    seen = first - (rng.uniform(1, 400, num_items) * DAY_US).astype(np.int64)
    arrival = np.full(num_items, -1, dtype=np.int8)
    per_day = round(config.new_item_rate * num_items)
    fresh = rng.permutation(num_items)[: 2 * per_day]
    for place, day in enumerate((config.num_days - 2, config.num_days - 1)):
        rows = fresh[place * per_day : (place + 1) * per_day]
        arrival[rows] = day
        seen[rows] = day_start_us(config, day) + (rng.uniform(0, 0.4, len(rows)) * DAY_US).astype(np.int64)
    return seen, arrival
