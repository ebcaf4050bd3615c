"""The catalogue: items, events, judgements and photos of one shop, numbered, on disk, memory-mapped.

Strings become dense numbers once, here: an item's `item_row` is its place in the clean items table; users and queries
are numbered by their first appearance in time (queries that only judgements have come after). Everything later works
on the numbers and asks the catalogue for the strings.

    items.arrow  users.arrow  queries.arrow  events.arrow  judgements.arrow    Arrow IPC, uncompressed, one batch each
    history_offsets.npy  history_positions.npy                                see `events.Histories`
    photos/                                                                   see `photo_store`
    rejected/<table>.parquet                                                  rows set aside, each with its reason
    checks.json                                                               what the check found, see `check.render`
    features.json                                                             feature column → role
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from triptych.data.check import Checked, render, set_aside_photos, write_rejected
from triptych.data.events import KIND_CODES, Histories, build_histories, is_positive
from triptych.data.images import MAX_PIXELS
from triptych.data.photo_store import PhotoStore, decode_photos
from triptych.data.schema import EVENTS_SCHEMA, PART, TIME, Part, Role
from triptych.data.words import each, numbered, rows_among
from triptych.foundation.artifact import RESUME, Artifact, produce, sha256, write_json
from triptych.foundation.config import Config
from triptych.foundation.errors import DataError, did_you_mean

KIND = "catalogue"
CHECKS = "checks.json"
NEAR_AMONG = 20_000
"""Items among which the nearest id to a wrong one is looked for; comparing takes some ten microseconds each."""


class CatalogueConfig(Config):
    """How photos are kept. Everything else about a catalogue is decided by the tables."""

    photo_px: int = Field(64, ge=8, le=1024)
    """Side of the square that models see, in pixels."""
    display_px: int = Field(256, ge=16, le=4096)
    """Longest side of the photo that the page shows, in pixels; smaller photos are not enlarged."""
    display_bytes: int = Field(0, ge=0, le=2**24)
    """JPEGs of at most so many bytes are shown as they are, however many pixels they have: not making a smaller one
    saves two thirds of the time that a photo of 600 × 800 takes, and costs the room."""
    max_photos: int = Field(1, ge=1, le=5)
    """Photos kept of an item; its first one stands for it wherever one is shown."""
    max_photo_pixels: int = Field(MAX_PIXELS, ge=64**2, le=MAX_PIXELS)
    """Larger photos are set aside unread: a file of 100 kB can unpack to gigabytes."""


class Catalogue:
    """An opened catalogue; each table is mapped when it is first asked for. All arrays are read-only."""

    def __init__(self, artifact: Artifact) -> None:
        """Wrap the artefact; use `open`."""
        self.artifact = artifact

    @classmethod
    def open(cls, source: Artifact | str | Path) -> Catalogue:
        """Open a catalogue artefact.

        Raises:
            ArtifactError: there is none, or it is something else.
        """
        return cls(Artifact.open(source.path if isinstance(source, Artifact) else source, kind=KIND))

    @property
    def num_items(self) -> int:
        """Number of items."""
        return len(self.photos.photo_rows)

    @cached_property
    def num_users(self) -> int:
        """Number of distinct users in the events."""
        return len(self._table("users"))

    @cached_property
    def num_queries(self) -> int:
        """Number of distinct query strings in events and judgements."""
        return len(self._table("queries"))

    @cached_property
    def items(self) -> pl.DataFrame:
        """In item_row order: item_id, title, category, brand, merchant, price, cells, first_seen, then the features.

        `first_seen` is what was declared, else the item's first event, else the log's first event.
        """
        return self._table("items")

    @cached_property
    def events(self) -> pl.DataFrame:
        """By time: time, user_row, query_row, item_row, kind (as `events.KIND_CODES`), page, position, cell.

        A row, page or position that is not known is -1; cell is null. `part` (an Enum of `schema.Part`) follows where
        the table brings a split.
        """
        return self._table("events")

    @cached_property
    def judgements(self) -> pl.DataFrame | None:
        """query_row, item_row, grade, and photo_only where the table has it; None without judgements."""
        return self._table("judgements") if "judgements.arrow" in self.artifact.manifest["files"] else None

    @cached_property
    def item_ids(self) -> list[str]:
        """The outside ids, in item_row order."""
        return self.items["item_id"].to_list()

    @cached_property
    def item_cells(self) -> NDArray[np.bool_]:
        """Where items are delivered: bool ``[items, cells]``, cells in the order of their names; none: no column."""
        cells = self.items["cells"].list.drop_nulls()
        names = cells.explode().drop_nulls().unique().sort()
        found = np.zeros((len(cells), len(names)), dtype=np.bool_)
        lengths = cells.list.len().fill_null(0).to_numpy()
        named = cells.explode().drop_nulls()
        found[np.repeat(np.arange(len(cells)), lengths), names.search_sorted(named).to_numpy()] = True
        return found

    @cached_property
    def titles(self) -> list[str]:
        """The titles, in item_row order; "" for an item that has none."""
        return self.items["title"].fill_null("").to_list()

    @cached_property
    def users(self) -> list[str]:
        """The users, in user_row order."""
        return self._table("users")["user"].to_list()

    @cached_property
    def queries(self) -> list[str]:
        """The query strings, in query_row order."""
        return self._table("queries")["query"].to_list()

    @cached_property
    def photos(self) -> PhotoStore:
        """Pixels for models and JPEGs for the page."""
        return PhotoStore(self.artifact.path / "photos")

    @cached_property
    def feature_roles(self) -> dict[str, Role]:
        """Feature column → what it is."""
        roles = json.loads(self.artifact.file("features.json").read_text(encoding="utf-8"))
        return {name: Role(role) for name, role in roles.items()}

    @cached_property
    def checks(self) -> dict[str, Any] | None:
        """What the check of the tables found, as `check.render` returns it; None where it was not kept yet."""
        if CHECKS not in self.artifact.manifest["files"]:
            return None
        found: dict[str, Any] = json.loads(self.artifact.file(CHECKS).read_text(encoding="utf-8"))
        return found

    @cached_property
    def histories(self) -> Histories:
        """The positive events of every user."""
        names = ("history_offsets.npy", "history_positions.npy")
        return Histories(*(np.load(self.artifact.file(name), mmap_mode="r", allow_pickle=False) for name in names))

    def history(self, user_row: int, *, before: int | None = None) -> NDArray[np.int32]:
        """Return the items a user chose, in time order.

        Args:
            user_row: which user.
            before: only events whose place in `events` is smaller; None for all.

        Returns:
            Item rows, int32 ``[positive events]``, an item as often as it was chosen.
        """
        return self.event_array("item_row")[self.histories.of(user_row, before=before)]

    def event_array(self, column: str) -> NDArray[Any]:
        """Return a column of `events` as an array ``[events]``, mapped, not copied.

        Times are int64 microseconds since 1970 UTC; a cell is its place among `events["cell"].dtype.categories`,
        -1 for none (and copied).
        """
        values = self.events[column].to_physical()
        return (values if values.null_count() == 0 else values.cast(pl.Int32).fill_null(-1)).to_numpy()

    def item_row(self, item_id: str) -> int:
        """Return the row of an item.

        Raises:
            DataError: there is no such item; the nearest id is named.
        """
        row = self._item_rows.get(item_id)
        if row is None:
            near = did_you_mean(item_id, self.item_ids[:NEAR_AMONG])
            raise DataError(f"There is no item '{item_id}' in the catalogue.{near}")
        return row

    def user_row(self, user: str) -> int | None:
        """Return the row of a user, or None for one who is not in the events."""
        return self._user_rows.get(user)

    def query_row(self, query: str) -> int | None:
        """Return the row of a query string, or None for one that is in neither events nor judgements."""
        return self._query_rows.get(query)

    @cached_property
    def _item_rows(self) -> dict[str, int]:
        return {item_id: row for row, item_id in enumerate(self.item_ids)}

    @cached_property
    def _user_rows(self) -> dict[str, int]:
        return {user: row for row, user in enumerate(self.users)}

    @cached_property
    def _query_rows(self) -> dict[str, int]:
        return {query: row for row, query in enumerate(self.queries)}

    def _table(self, name: str) -> pl.DataFrame:
        """Map an Arrow file; polars' own reader copies it."""
        with pa.memory_map(str(self.artifact.file(f"{name}.arrow"))) as file:
            frame = pl.from_arrow(pa.ipc.open_file(file).read_all())
        assert isinstance(frame, pl.DataFrame)
        return frame


def build(
    config: CatalogueConfig,
    *,
    tables: Checked | Callable[[], Checked],
    inputs: Mapping[str, str],
    out: Path,
) -> Artifact:
    """Make a catalogue from checked tables.

    Args:
        config: how photos are kept.
        tables: the clean tables, or a function that reads and checks them; it is called only if the catalogue is not
            there yet.
        inputs: name → fingerprint of all the tables were made from (see `fingerprint`): the files, the photos, and
            the config that maps the columns. Equal inputs and config are taken to be the same work.
        out: the stage's folder; the artefact is made in it.
    """

    def write(folder: Path) -> dict[str, Any]:
        return _write(folder, config=config, tables=tables() if callable(tables) else tables)

    return produce(out, kind=KIND, config=config, inputs=inputs, build=write)


def fingerprint(files: Iterable[Path]) -> str:
    """Hash the contents of files, in order; their names do not matter."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(bytes.fromhex(sha256(file)))
    return digest.hexdigest()[:16]


def photo_fingerprint(files: Iterable[Path], *, root: Path) -> str:
    """Hash the path below `root`, size and time of change of files, without reading them: photos are many and large.

    A file that does not exist counts as such, so that the fingerprint changes when it appears.
    """
    digest = hashlib.sha256()
    for file in files:
        try:
            status = file.stat()
            state = f"{status.st_size} {status.st_mtime_ns}"
        except (OSError, ValueError):  # ValueError: a name that no file can have
            state = "absent"
        digest.update(f"{os.path.relpath(file, root)}\0{state}\n".encode())
    return digest.hexdigest()[:16]


def _write(folder: Path, *, config: CatalogueConfig, tables: Checked) -> dict[str, Any]:
    photos = decode_photos(
        tables.photo_sources(),
        others=tables.other_photos(max_photos=config.max_photos) if config.max_photos > 1 else None,
        px=config.photo_px,
        display_px=config.display_px,
        keep_bytes=config.display_bytes,
        max_pixels=config.max_photo_pixels,
        out=folder / "photos",
        resume=folder / RESUME,
    )
    tables = set_aside_photos(tables, photos.faults, max_photos=config.max_photos)
    write_rejected(tables, folder / "rejected")
    write_json(folder / CHECKS, render(tables))

    events, users, queries = _number_events(_log(tables), item_ids=tables.items["item_id"])
    if tables.judgements is not None:
        queries = pl.concat([queries, tables.judgements["query"]]).unique(maintain_order=True)
    _write_table(folder, "users", users.alias("user").to_frame())
    _write_table(folder, "queries", queries.alias("query").to_frame())
    _write_table(folder, "events", events)
    _write_table(folder, "items", _fill_first_seen(tables.items.drop("photo", "more_photos"), events))
    if tables.judgements is not None:
        _write_table(folder, "judgements", _number_judgements(tables, queries=queries))
    write_json(folder / "features.json", tables.roles)

    kind = events["kind"].to_numpy()
    histories = build_histories(user_row=events["user_row"].to_numpy(), kind=kind, num_users=len(users))
    np.save(folder / "history_offsets.npy", histories.offsets)
    np.save(folder / "history_positions.npy", histories.positions)
    return {
        "items": len(tables.items),
        "users": len(users),
        "queries": len(queries),
        "events": len(events),
        "positives": int(is_positive(kind).sum()),
        "judgements": 0 if tables.judgements is None else len(tables.judgements),
        "items_with_title": len(tables.items) - tables.items["title"].null_count(),
        "items_with_photo": photos.num_with_photo,
        "further_photos": photos.num_others,
        "distinct_photos": photos.num_photos,
        "broken_photos": len(photos.faults),
        "rejected": {table: len(rows) for table, rows in tables.rejected.items()},
        "from": None if events.is_empty() else events["time"][0].isoformat(),
        "to": None if events.is_empty() else events["time"][-1].isoformat(),
    }


def _log(tables: Checked) -> pl.DataFrame:
    """Return the events by time; of one time in the order read."""
    if tables.events is None:
        held = {name: pl.Enum([]) if dtype == pl.String else dtype for name, dtype in EVENTS_SCHEMA.items()}
        return pl.DataFrame(schema=held)
    is_sorted = tables.events["time"].is_sorted()
    return tables.events if is_sorted else tables.events.sort("time", maintain_order=True)


def _number_events(events: pl.DataFrame, *, item_ids: pl.Series) -> tuple[pl.DataFrame, pl.Series, pl.Series]:
    """Return the events in numbers, and the users and queries that are numbered."""
    kind_codes = {kind.value: code for kind, code in KIND_CODES.items()}
    user_row, users = numbered(events["user"])
    query_row, queries = numbered(events["query"])
    page, _ = numbered(events["page"])
    _, cells = numbered(events["cell"])
    given = [pl.col(PART).cast(pl.Enum([part.value for part in Part]))] if PART in events.columns else []
    rows = events.select(
        "time",
        user_row.alias("user_row"),
        query_row.alias("query_row"),
        rows_among(events["item_id"], item_ids).alias("item_row"),
        each(events["kind"], of=lambda text: text.replace_strict(kind_codes, return_dtype=pl.UInt8)).alias("kind"),
        page.alias("page"),
        pl.col("position").fill_null(-1),
        # Sorted, and an Enum: the codes of a Categorical depend on what the process has read before.
        pl.col("cell").cast(pl.Enum(cells.sort())),
        *given,
    )
    return rows, users, queries


def _number_judgements(tables: Checked, *, queries: pl.Series) -> pl.DataFrame:
    assert tables.judgements is not None
    return tables.judgements.select(
        rows_among(tables.judgements["query"], queries).alias("query_row"),
        rows_among(tables.judgements["item_id"], tables.items["item_id"]).alias("item_row"),
        pl.col("grade").cast(pl.Float32),
        pl.exclude("query", "item_id", "grade"),
    )


def _fill_first_seen(items: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
    """Fill in the first event's time, else the log's first; null stays where there is no log."""
    log_start = events["time"].min()
    first = events["item_row"].arg_unique()  # the events are sorted by time
    first_event = pl.repeat(None, len(items), dtype=TIME, eager=True)
    first_event = first_event.scatter(events["item_row"].gather(first), events["time"].gather(first))
    return items.with_columns(first_seen=pl.coalesce("first_seen", first_event, pl.lit(log_start, dtype=TIME)))


def _write_table(folder: Path, name: str, frame: pl.DataFrame) -> None:
    """Write an Arrow file that can be mapped: uncompressed, and in one batch, so that a column is one array."""
    frame.rechunk().write_ipc(
        folder / f"{name}.arrow", compression="uncompressed", record_batch_size=max(1, len(frame))
    )
