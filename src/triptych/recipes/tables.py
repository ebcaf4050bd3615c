"""From a config to checked tables: a dataset prepares them, or they are the user's own."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from triptych.data.catalogue import fingerprint, photo_fingerprint
from triptych.data.check import Checked, check_tables
from triptych.data.datasets.base import DatasetConfig
from triptych.data.files import open_table
from triptych.data.memory import require_memory
from triptych.data.schema import EventsConfig, ItemsConfig, JudgementsConfig, Table
from triptych.data.splits import SplitBy
from triptych.data.tables import MappedTable, PhotoSource, read_events, read_items, read_judgements
from triptych.foundation.artifact import Artifact, produce, work_id, write_json
from triptych.foundation.config import Config
from triptych.foundation.errors import ConfigError, DataError
from triptych.pretrain.base import LearnsFrom
from triptych.recipes.config import RunConfig

log = logging.getLogger(__name__)

MAPPING = "tables.json"
ASKED = "?"
"""Stands in a drafted config (`recipes.draft`) where a person has to fill in a column."""


class Source(NamedTuple):
    """Tables not yet read, and what identifies them."""

    inputs: dict[str, str]
    """Name → fingerprint of everything the tables are made from."""
    read: Callable[[], Checked]
    """Reads and checks them."""
    artifact: Artifact | None
    """Where a dataset has written them."""


class _TableConfigs(Config):
    items: ItemsConfig
    events: EventsConfig | None = None
    judgements: JudgementsConfig | None = None


def require_tables(config: RunConfig) -> None:
    """Check that a run has tables to start from, before anything is written.

    Raises:
        ConfigError: the config names no items, or not what is to be learned from.
    """
    if config.dataset is not None:
        return
    own = _own_tables(config)
    if config.split.by is SplitBy.QUERY:
        if own.judgements is None:
            raise ConfigError("judgements: this config names no judgements table, and split.by = 'query' divides one.")
    elif own.events is None and config.pretrain.learns_from is not LearnsFrom.ITEMS:
        raise ConfigError(
            "events: this config names no events table, and there is nothing to learn from without one. "
            + ('Judged queries are learned from by recipe = "judged", t' if own.judgements else "T")
            + 'itles and photos alone by recipe = "catalogue".'
        )


def require_filled(config: RunConfig) -> None:
    """Check that nothing of a drafted config is left to fill in.

    Raises:
        ConfigError: names every field that is.
    """
    tables = {"items": config.items, "events": config.events, "judgements": config.judgements}
    asked = [
        f"{name}.{field}"
        for name, table in tables.items()
        if table is not None
        for field, value in table.dump().items()
        if value == ASKED
    ]
    if asked:
        raise ConfigError(f'{", ".join(asked)}: still "{ASKED}". Fill in the column, or "" where there is none.')


def require_behaviour(config: RunConfig, *, has_queries: bool, has_users: bool) -> None:
    """Check that a log holds what the config learns from.

    Args:
        config: of the run.
        has_queries: whether any event, or of judged data any judgement, has a query.
        has_users: whether any event has a user.

    Raises:
        DataError: it learns from queries and there are none, or from histories and there are no users.
    """
    learns = config.pretrain.learns_from
    if learns is LearnsFrom.QUERIES and not has_queries:
        raise DataError(
            f"events: no event has a query, and recipe '{config.recipe}' learns from queries. recipe = \"feed\" learns "
            "from what users chose one after another."
        )
    if learns is LearnsFrom.HISTORIES and not has_users:
        raise DataError(
            f"events: no event has a user, and recipe '{config.recipe}' learns from users' histories. Name the column "
            'with user under [events]; recipe = "shop" learns from queries.'
        )


def find_source(config: RunConfig, *, base: Path, out: Path) -> Source:
    """Prepare a dataset's tables, or take the fingerprints of the user's.

    Args:
        config: of the run.
        base: folder that the user's relative paths start from.
        out: folder of the stage ``tables``, for what a dataset writes.

    Raises:
        ConfigError: the config names no items.
        DataError: a table or the dataset's data is absent or unusable, or will not fit into memory.
    """
    if config.dataset is not None:
        return _from_dataset(config.dataset, out=out, limit_gib=config.memory_limit_gib)
    tables = _own_tables(config)

    def read() -> Checked:
        _require_memory(tables, base=base, limit_gib=config.memory_limit_gib)
        return _check(tables, base=base)

    return Source(_fingerprints(tables, base=base), read, None)


def read_and_check(config: RunConfig, *, base: Path) -> Checked:
    """Read the user's tables and check them against each other, without running anything.

    Raises:
        ConfigError: the config names no items table.
        DataError: a table is unusable, or will not fit into memory.
    """
    tables = _own_tables(config)
    _require_memory(tables, base=base, limit_gib=config.memory_limit_gib)
    return _check(tables, base=base)


def spoken(checked: Checked) -> list[str]:
    """Say in lines what was guessed and what was set aside, for a log; `triptych check` shows all of it."""
    lines = []
    for mapped in checked.tables.values():
        guessed = [f"{column} → {field}" for field, column in mapped.mapping.items() if field in mapped.guessed]
        if guessed:
            lines.append(f"{mapped.name}: guessed {', '.join(guessed)}")
    for fault in checked.faults:
        rows = ", ".join(str(row + 1) for row in fault.first_rows)
        lines.append(
            f"{fault.table}: {fault.column}: {fault.meaning} ({fault.count:,} rows, first {rows}): {fault.action}"
        )
    return lines


def _own_tables(config: RunConfig) -> _TableConfigs:
    if config.items is None:
        raise ConfigError(
            f"items: recipe '{config.recipe}' names no items table of yours. Give one with --items FILE, or in a "
            "config file under [items]."
        )
    require_filled(config)
    return _TableConfigs(items=config.items, events=config.events, judgements=config.judgements)


def _require_memory(tables: _TableConfigs, *, base: Path, limit_gib: float | None) -> None:
    """Say how much memory the tables will take, before they are read, and stop where there is not so much."""
    given = {Table.ITEMS: tables.items, Table.EVENTS: tables.events, Table.JUDGEMENTS: tables.judgements}
    there = {table: config for table, config in given.items() if config is not None}
    log.info("reading tables: %s", require_memory(there, base=base, limit_gib=limit_gib))


def _check(tables: _TableConfigs, *, base: Path) -> Checked:
    return check_tables(
        read_items(tables.items, base=base),
        None if tables.events is None else read_events(tables.events, base=base),
        None if tables.judgements is None else read_judgements(tables.judgements, base=base),
    )


def _from_dataset(dataset: DatasetConfig, *, out: Path, limit_gib: float | None) -> Source:
    def build(folder: Path) -> Mapping[str, Any]:
        prepared = dataset.prepare(folder)
        write_json(folder / MAPPING, _TableConfigs(**prepared._asdict()).dump())
        return dataset.card()._asdict()

    files = dataset.source_files()
    inputs = {"files": fingerprint(files)} if files else {}
    artifact = produce(out, kind="tables", config=dataset, inputs=inputs, build=build)
    tables = _TableConfigs.parse(json.loads(artifact.file(MAPPING).read_text(encoding="utf-8")))
    found = {"tables": artifact.id}
    photo_folder = dataset.photo_folder()
    if photo_folder is not None:  # where it is now: the same data may have moved since the tables were written
        items = tables.items.model_copy(update={"photo_root": str(photo_folder)})
        tables = tables.model_copy(update={"items": items})
        found["photos"] = _photo_fingerprint(read_items(items, base=artifact.path))

    def read() -> Checked:
        _require_memory(tables, base=artifact.path, limit_gib=limit_gib)
        return _check(tables, base=artifact.path)

    return Source(found, read, artifact)


def _fingerprints(tables: _TableConfigs, *, base: Path) -> dict[str, str]:
    """Identify the user's tables by the bytes of their files, their photos by size and time, and the column mapping."""
    items = read_items(tables.items, base=base)
    found = {"items": fingerprint(items.files)}
    for table, config in ((Table.EVENTS, tables.events), (Table.JUDGEMENTS, tables.judgements)):
        if config is not None:
            found[table.value] = fingerprint(open_table(config.path, base=base, table=table).files)
    if items.photo_source in (PhotoSource.PATHS, PhotoSource.FOLDER) and items.photo_root is not None:
        found["photos"] = _photo_fingerprint(items)
    mapping = {name: value and {**value, "path": ""} for name, value in tables.dump().items()}
    found["mapping"] = work_id(kind="mapping", config=mapping, inputs={})
    return found


def _photo_fingerprint(items: MappedTable) -> str:
    """Identify an items table's photo files."""
    root = items.photo_root
    assert root is not None, "asked only where photos are files"
    return photo_fingerprint(items.photo_files(), root=root)
