"""What a simulated log looks like, in the terms of the feasibility study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from triptych.data.simulate.config import ShoppersConfig
from triptych.data.simulate.intents import Intents, Queries, grades
from triptych.data.simulate.market import Market, day_start_us
from triptych.data.simulate.pages import Impressions, Pages


class Facts(NamedTuple):
    """What the statistics are computed from."""

    market: Market
    intents: Intents
    queries: Queries
    pages: Pages
    shown: Impressions
    clicked: np.ndarray
    """int64 ``[clicks]``: rows of `shown`."""


def describe_log(facts: Facts, *, config: ShoppersConfig) -> dict[str, float]:
    """Summarise a log: sizes, the test day's pairs, and how clean the clicks are.

    Shares are in [0, 1]. A *pair* is a distinct (query string, item) with a click; the *test* day is the last one;
    *train* is all before the day before it. *visual* pairs have a query that names a visual attribute of the item;
    *photo-only* pairs are those for which the title lacks the word of such an attribute.
    """
    market, queries, pages, shown, clicked = facts.market, facts.queries, facts.pages, facts.shown, facts.clicked
    page = shown.page[clicked]
    query, item, grade = pages.query[page], shown.item[clicked], shown.grade[clicked]
    train = pages.time_us[page] < day_start_us(config, config.num_days - 2)
    test = pages.time_us[page] >= day_start_us(config, config.num_days - 1)
    train_pairs = np.unique(np.stack([query[train], item[train]]), axis=1)
    test_pairs = np.unique(np.stack([query[test], item[test]]), axis=1)
    named = facts.intents.named[queries.intent[test_pairs[0]]]
    visual = np.array([attribute.visual for attribute in market.attributes])
    same = market.codes[test_pairs[1]] == named
    meets = (named >= 0) & visual & same & same[:, [market.head]]
    seen = np.unique(train_pairs[0])
    tested = np.unique(test_pairs[0])
    matches = [int((grades(market, row) == 3).sum()) for row in facts.intents.named]
    figures: dict[str, float] = {
        "items": len(market.titles),
        "new items, day before last": int((market.arrival_day == config.num_days - 2).sum()),
        "new items, last day": int((market.arrival_day == config.num_days - 1).sum()),
        "intents": len(facts.intents.named),
        "query strings": len(queries.texts),
        "clicked query strings": len(np.unique(query)),
        "pages": len(pages.user),
        "impressions": len(shown.page),
        "clicks": len(clicked),
        "train clicks": int(train.sum()),
        "train pairs": train_pairs.shape[1],
        "test pairs": test_pairs.shape[1],
        "test queries": len(tested),
        "test queries seen in training": float(np.isin(tested, seen).mean()) if len(tested) else 0.0,
        "test pairs, visual": _share(meets.any(axis=1)),
        "test pairs, photo-only": _share((meets & ~market.hints[test_pairs[1]]).any(axis=1)),
        "test pairs, new item": _share(market.arrival_day[test_pairs[1]] >= 0),
        "median grade-3 items per intent": float(np.median(matches)),
        "mean title words": float(np.mean([len(title.split()) for title in market.titles])),
    }
    figures |= {f"clicks of grade {value}": _share(grade == value) for value in (3, 2, 1, 0)}
    figures |= {f"click rate of grade {value}": _rate(shown, clicked, value) for value in (3, 2, 1, 0)}
    for a in np.flatnonzero(visual).tolist():
        known = market.codes[:, a] >= 0
        column = market.attributes[a].column
        figures[f"titles that say their {column}"] = _share(market.says[known, a])
        figures[f"test pairs, {column} named"] = _share(meets[:, a])
        figures[f"test pairs, {column} only in photo"] = _share(meets[:, a] & ~market.hints[test_pairs[1], a])
    return figures


def statistics_table(figures: Mapping[str, float]) -> str:
    """Set figures as lines of text: counts in full, shares in per cent."""
    width = max(len(name) for name in figures)
    lines = []
    for name, value in figures.items():
        share = isinstance(value, float) and not name.startswith(("median", "mean"))
        text = f"{value:.1%}" if share else f"{value:,.2f}".removesuffix(".00")
        lines.append(f"{name:<{width}}  {text}")
    return "\n".join(lines)


def _share(mask: np.ndarray) -> float:
    return float(mask.mean()) if mask.size else 0.0


def _rate(shown: Impressions, clicked: np.ndarray, grade: int) -> float:
    impressions = int((shown.grade == grade).sum())
    return float((shown.grade[clicked] == grade).sum() / impressions) if impressions else 0.0
