"""Checking the tables: every fault found, counted and named; what is faulty set aside; the rest in canonical types.

How faults are counted and rows set aside is told in `faults`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from triptych.data.check_events import check_events, check_judgements
from triptych.data.check_items import check_items
from triptych.data.faults import Fault, Severity, Sieve
from triptych.data.schema import CLICK_KINDS, EventKind, Role, Table
from triptych.data.tables import MappedTable, PhotoSource


@dataclass(frozen=True)
class Summary:
    """What the clean tables hold."""

    rows_read: dict[str, int]
    """Table → rows read, lines that could not be read among them."""
    rows_kept: dict[str, int]
    """Table → rows in the clean table."""
    title_rate: float
    """Share of items with a title."""
    photo_rate: float
    """Share of items with a photo (that is there, as far as was looked)."""
    num_items_without_content: int
    """Items with neither title nor photo: nothing describes them."""
    num_users: int
    """Distinct users of the events."""
    num_queries: int
    """Distinct queries of events and judgements."""
    num_positives: int
    """Events that are clicks, carts or orders."""
    events_by_kind: dict[str, int]
    """Kind → events."""
    first_time: datetime | None
    """Time of the first event."""
    last_time: datetime | None
    """Time of the last event."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; times as ISO text."""
        times = {name: getattr(self, name) for name in ("first_time", "last_time")}
        return asdict(self) | {name: time.isoformat() if time else None for name, time in times.items()}


@dataclass(frozen=True, eq=False)
class Checked:
    """Clean tables, and everything that was found on the way."""

    items: pl.DataFrame
    """`schema.ITEMS_SCHEMA`, all of it, then the features; in the order read."""
    events: pl.DataFrame | None
    """`schema.EVENTS_SCHEMA`, text as Enums (see `words`), in the order read; None where there is no such table."""
    judgements: pl.DataFrame | None
    """`schema.JUDGEMENTS_SCHEMA`, with `photo_only` where the table has it; in the order read; or None."""
    faults: list[Fault]
    """By table, in the order of the checks."""
    rejected: dict[str, pl.DataFrame]
    """Table → what was set aside of it (`faults.rejected_rows`); only tables with something set aside."""
    summary: Summary
    """Counts of the clean tables."""
    roles: dict[str, Role]
    """Feature → what it is."""
    tables: dict[str, MappedTable]
    """Table → as it was read and mapped."""
    photo_root: Path | None
    """Folder that `items["photo"]` starts from; None where it holds bytes or there are no photos."""
    rows_read: pl.Series
    """UInt32 ``[items]``, the row (from 0) that each clean item was read from."""

    def photo_sources(self) -> list[Path | bytes | None]:
        """Return where each item's photo is, in the order of `items`: what `photo_store.check_photos` takes."""
        return [None if photo is None else self._source(photo) for photo in self.items["photo"].to_list()]

    def other_photos(self, *, max_photos: int) -> list[tuple[int, Path | bytes]]:
        """Return where items' further photos are, each with its item's row; at most `max_photos` with the first one."""
        more = self.items["more_photos"].list.head(max_photos - 1)
        pairs = pl.DataFrame({"row": range(len(more)), "photo": more}).filter(more.list.len() > 0).explode("photo")
        return [(row, self._source(photo)) for row, photo in pairs.iter_rows()]

    def _source(self, photo: Any) -> Any:
        return (self.photo_root or Path()) / photo if isinstance(photo, str) else photo


def check_tables(
    items: MappedTable, events: MappedTable | None, judgements: MappedTable | None, *, now: datetime | None = None
) -> Checked:
    """Check the tables against their types and each other.

    Photos given as paths are looked for, not opened: see `set_aside_photos`.

    Args:
        items: from `tables.read_items`.
        events: from `tables.read_events`, or None.
        judgements: from `tables.read_judgements`, or None.
        now: times more than a day later are faults; the present where left out.

    Raises:
        DataError: a table is unusable: nothing in a column can be read, or nothing is left.
    """
    latest = (now or datetime.now(UTC)) + timedelta(days=1)
    sieves = [Sieve(items)]
    clean_items = check_items(sieves[0], latest=latest)
    clean_events = clean_judgements = None
    if events is not None:
        sieves.append(Sieve(events))
        clean_events = check_events(sieves[-1], items=items, item_ids=clean_items["item_id"], latest=latest)
    if judgements is not None:
        sieves.append(Sieve(judgements))
        clean_judgements = check_judgements(sieves[-1], items=items, item_ids=clean_items["item_id"])
    tables = {sieve.mapped.table.value: sieve.mapped for sieve in sieves}
    rejected = {sieve.mapped.table.value: sieve.rejected() for sieve in sieves}
    return Checked(
        items=clean_items,
        events=clean_events,
        judgements=clean_judgements,
        faults=[fault for sieve in sieves for fault in sieve.faults],
        rejected={table: rows for table, rows in rejected.items() if rows is not None},
        summary=_summarise(tables, clean_items, clean_events, clean_judgements),
        roles=items.roles,
        tables=tables,
        photo_root=items.photo_root,
        rows_read=sieves[0].kept.arg_true(),
    )


def set_aside_photos(checked: Checked, broken: Mapping[int, str], *, max_photos: int = 1) -> Checked:
    """Set aside photos that could not be decoded; their items stay.

    Args:
        checked: the tables.
        broken: place of a photo → reason, as `photo_store.check_photos` and `decode_photos` return it: the row of
            `checked.items`, and counted on from there for `checked.other_photos`.
        max_photos: that the other photos were asked for with.

    Returns:
        The tables without these photos, with a `broken_photo` fault and the rejected rows; their reasons name the
        photo's path as the table has it (below the photo root), or the item where the table holds bytes. Where an
        item has further photos, the first usable one takes the place of its own.
    """
    if not broken:
        return checked
    mapped = checked.tables[Table.ITEMS]
    found = _broken_by_item(broken, num_items=len(checked.items), others=checked.other_photos(max_photos=max_photos))
    rows = sorted(found)
    kept, reasons = [], []
    is_bytes = mapped.photo_source is PhotoSource.BYTES
    for row, (item_id, photo, more) in zip(
        rows, checked.items[rows].select("item_id", "photo", "more_photos").iter_rows(), strict=True
    ):
        photos = [photo, *(more or ())][:max_photos]
        kept.append([one for place, one in enumerate(photos) if place not in found[row]])
        names = [f"item {item_id}" if is_bytes else photos[place] for place in found[row]]
        reasons.append("; ".join(f"{name}: {why}" for name, why in zip(names, found[row].values(), strict=True)))
    sieve = Sieve(mapped)
    wanted = pl.Series(range(len(checked.items)), dtype=pl.UInt32).is_in(rows)
    read = pl.Series(range(len(mapped.frame)), dtype=pl.UInt32).is_in(checked.rows_read.filter(wanted).implode())
    details = pl.repeat(None, len(mapped.frame), dtype=pl.String, eager=True)
    sieve.set_values_aside(
        "broken_photo",
        read,
        column="photo",
        meaning="the photo cannot be decoded",
        action="photo set aside, item kept",
        details=details.scatter(read.arg_true(), pl.Series(reasons, dtype=pl.String)),
    )
    fresh = sieve.rejected()
    assert fresh is not None
    before = checked.rejected.get(Table.ITEMS)
    if before is not None:
        fresh = pl.concat([before, fresh], how="diagonal").sort("row", maintain_order=True, nulls_last=True)
    photo, more = checked.items["photo"], checked.items["more_photos"]
    photo = photo.scatter(rows, pl.Series([photos[0] if photos else None for photos in kept], dtype=photo.dtype))
    if more.null_count() < len(more):
        further = more.to_list()
        for row, photos in zip(rows, kept, strict=True):
            further[row] = photos[1:] or None
        more = pl.Series("more_photos", further, dtype=more.dtype)
    items = checked.items.with_columns(photo, more)
    at = sum(fault.table is Table.ITEMS for fault in checked.faults)
    return replace(
        checked,
        items=items,
        faults=[*checked.faults[:at], *sieve.faults, *checked.faults[at:]],
        rejected=checked.rejected | {Table.ITEMS.value: fresh},
        summary=_summarise(checked.tables, items, checked.events, checked.judgements),
    )


def _broken_by_item(
    broken: Mapping[int, str], *, num_items: int, others: Sequence[tuple[int, object]]
) -> dict[int, dict[int, str]]:
    """Sort broken photos by item: row → place among the item's photos → reason."""
    found: dict[int, dict[int, str]] = {}
    first_of: dict[int, int] = {}
    for at, (row, _) in enumerate(others):
        first_of.setdefault(row, at)
    for place, why in sorted(broken.items()):
        row, nth = place, 0
        if place >= num_items:
            row, _ = others[place - num_items]
            nth = 1 + place - num_items - first_of[row]
        found.setdefault(row, {})[nth] = why
    return found


def exit_code(checked: Checked, *, strict: bool) -> int:
    """Return how `triptych check` ends: 1 where something is set aside under `strict`, else 0.

    Notes never fail a check. Unusable tables are a `DataError`, which the command line turns into 2.
    """
    return int(strict and any(fault.severity is Severity.SET_ASIDE for fault in checked.faults))


def render(checked: Checked) -> dict[str, Any]:
    """Return everything `triptych check` tells, as plain JSON values.

    Returns:
        `summary` (`Summary.to_json`), `columns` (`MappedTable.describe`, table by table), `faults` (`Fault.to_row`).
    """
    return {
        "summary": checked.summary.to_json(),
        "columns": [row for table in checked.tables.values() for row in table.describe()],
        "faults": [fault.to_row() for fault in checked.faults],
    }


def write_rejected(checked: Checked, folder: Path) -> list[Path]:
    """Write what was set aside as `<table>.parquet` and return the files; none where nothing was."""
    files = []
    for table, rows in checked.rejected.items():
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{table}.parquet"
        rows.write_parquet(file)
        files.append(file)
    return files


def _summarise(
    tables: Mapping[str, MappedTable],
    items: pl.DataFrame,
    events: pl.DataFrame | None,
    judgements: pl.DataFrame | None,
) -> Summary:
    clean = {"items": items, "events": events, "judgements": judgements}
    queries = [
        table["query"].drop_nulls().unique().cast(pl.String) for table in (events, judgements) if table is not None
    ]
    kinds = {kind.value: 0 for kind in EventKind}
    if events is not None:
        kinds |= dict(events["kind"].value_counts().iter_rows())
    has_title, has_photo = items["title"].is_not_null(), items["photo"].is_not_null()
    return Summary(
        rows_read={name: len(table.frame) + len(table.source.broken) for name, table in tables.items()},
        rows_kept={name: len(table) for name, table in clean.items() if table is not None},
        title_rate=int(has_title.sum()) / len(items),
        photo_rate=int(has_photo.sum()) / len(items),
        num_items_without_content=int((~has_title & ~has_photo).sum()),
        num_users=0 if events is None else events["user"].drop_nulls().n_unique(),
        num_queries=pl.concat(queries).n_unique() if queries else 0,
        num_positives=sum(kinds[kind] for kind in CLICK_KINDS),
        events_by_kind={} if events is None else kinds,
        first_time=None if events is None else _time(events["time"].min()),
        last_time=None if events is None else _time(events["time"].max()),
    )


def _time(value: object) -> datetime | None:
    return value if isinstance(value, datetime) else None
