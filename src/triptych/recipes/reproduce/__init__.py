"""Papers' tables, made again: one file for each, the harness that makes them, and the page that shows them."""

from __future__ import annotations

from collections.abc import Callable

from triptych.foundation.errors import ConfigError, did_you_mean
from triptych.recipes.reproduce import em3, em3_public, recommendation, smgr, taobao_pretraining, taobao_recall
from triptych.recipes.reproduce.base import Table

TABLES: dict[str, Callable[[], Table]] = {
    "taobao-pretraining": taobao_pretraining.table,
    "taobao-recall": taobao_recall.table,
    "smgr --part pretraining": smgr.pretraining,
    "smgr --part retrieval": smgr.retrieval,
    "recommendation --part within-users": recommendation.within_users,
    "recommendation --part by-time": recommendation.by_time,
    "em3 --part fashion": em3.on_fashion,
    "em3 --part movielens": em3.on_movielens,
    "em3 --part movielens-by-time": em3.on_movielens_by_time,
    "em3-public --part movielens": em3_public.on_movielens,
    "em3-public --part fashion": em3_public.on_fashion,
    "em3-public --part baby": em3_public.on_baby,
}
"""What `triptych reproduce` is asked with → the table."""


def find_table(name: str, *, part: str | None = None) -> Table:
    """Look a table up.

    Args:
        name: of the table, without its part.
        part: which part of a table that is made in several; it may be left out where there is one.

    Raises:
        ConfigError: there is no such table, or no such part.
    """
    parts = {key.partition(" --part ")[2]: make for key, make in TABLES.items() if key.partition(" --part ")[0] == name}
    if not parts:
        names = list(dict.fromkeys(key.partition(" --part ")[0] for key in TABLES))
        raise ConfigError(f"There is no table '{name}'.{did_you_mean(name, names)} Tables: {', '.join(names)}.")
    if part is None and len(parts) == 1:
        return next(iter(parts.values()))()
    if part is None and "" not in parts:
        raise ConfigError(f"Table '{name}' is made in parts. Name one: --part {' or --part '.join(parts)}.")
    if (part or "") not in parts:
        named = ", ".join(filter(None, parts)) or "none"
        raise ConfigError(f"Table '{name}' has no part '{part or ''}'. Parts: {named}.")
    return parts[part or ""]()
