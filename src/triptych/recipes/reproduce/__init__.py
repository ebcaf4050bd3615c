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


def find_tables(name: str, *, part: str | None = None) -> dict[str, Table]:
    """Look a table up, or all parts of one that is made in several.

    Args:
        name: of the table, without its part.
        part: the one part that is wanted; None: all.

    Returns:
        Part → its table, in the order they are made; the part of a table that has none is "".

    Raises:
        ConfigError: there is no such table, or no such part.
    """
    parts = {key.partition(" --part ")[2]: make for key, make in TABLES.items() if key.partition(" --part ")[0] == name}
    if not parts:
        names = list(dict.fromkeys(key.partition(" --part ")[0] for key in TABLES))
        raise ConfigError(f"There is no table '{name}'.{did_you_mean(name, names)} Tables: {', '.join(names)}.")
    if part is None:
        return {found: make() for found, make in parts.items()}
    if part not in parts:
        named = ", ".join(filter(None, parts)) or "none"
        raise ConfigError(f"Table '{name}' has no part '{part}'.{did_you_mean(part, list(parts))} Parts: {named}.")
    return {part: parts[part]()}
