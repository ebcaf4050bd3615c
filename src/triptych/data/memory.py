"""How much memory ingestion will take, told from a sample of each table before anything else is read.

What is held depends on the rows, on the columns that are used, and on how many different words a log's text columns
have. Rows stand in the footers of Parquet files, or follow from a file's size. Words are counted in a first sample; how
many new ones every further row brings is counted in a second sample from the middle of the table, and taken to go on to
its end. New words become rarer, so this is more than there will be; the constants are rounded up from measured peaks
(`docs/decisions/0008-memory-estimate.md`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import polars as pl
import polars.selectors as cs

from triptych.data.fields import event_fields
from triptych.data.files import TableFiles, bytes_of, find_files, is_parquet, open_table, size_of
from triptych.data.guess import SAMPLE_ROWS, map_columns
from triptych.data.schema import KIND_WORDS, TEXT_COLUMNS, EventsConfig, ItemsConfig, JudgementsConfig, Table
from triptych.foundation.errors import DataError
from triptych.foundation.machine import available_bytes, held_bytes

TableConfig = ItemsConfig | EventsConfig | JudgementsConfig

GIB = 2**30


class _Size(NamedTuple):
    """Of a sample."""

    rows: int
    """Where it is of Parquet."""
    bytes: int
    """Where it is of text."""


_FIRST, _LATER = _Size(2**20, 2**26), _Size(2**17, 2**23)

_WORKING_BYTES = 512 * 2**20
"""What pieces under way, the readers and their buffers take, whatever the size."""
_EVENT_BYTES = 10
"""Of each event, beside its columns as they are read; those of the catalogue take the room of the hashes."""
_CODE_BYTES = 12
"""Of each event and word column: hash and code."""
_WORD_BYTES = 100
"""Of each distinct word, beside its text: its hash, its place in an Enum and the tables by which it is found."""
_ITEM_COPIES = 4
"""How often an items table is held, as read, checked and written."""
_PHOTO_COPIES = 2
"""How often its photos are, where they are bytes in the table: as the reader has them and as they are kept."""
_UNKNOWN_COPIES = 12
"""How often a file is held that cannot be sampled: one JSON array, which is read as a whole."""


class Need(NamedTuple):
    """What one table will take."""

    table: Table
    num_rows: int
    """As far as can be told."""
    num_bytes: int


def estimate(config: TableConfig, *, base: Path, table: Table) -> Need:
    """Tell how much memory a table will take on its way into a catalogue; only samples of it are read.

    Args:
        config: where it is, and what is known of its columns.
        base: folder that relative paths start from.
        table: which it is.

    Raises:
        DataError: there is no such file.
    """
    files = find_files(config.path, base=base, table=table)
    try:
        # Of other tables than a log no words are counted, so that a few rows say enough.
        first = _FIRST if isinstance(config, EventsConfig) else _Size(_FIRST.rows // 16, _FIRST.bytes // 16)
        sample = _sample_parquet(files, first) if is_parquet(files[0]) else _sample_text(files, first)
    except (DataError, pl.exceptions.PolarsError, OSError):  # reading will say what is wrong
        sample = None
    if sample is None or sample.first.is_empty():
        return Need(table, 0, _UNKNOWN_COPIES * sum(map(size_of, files)))
    if isinstance(config, EventsConfig):
        return Need(table, sample.num_rows, _of_log(sample, config=config))
    photos = sample.first.select(cs.by_dtype(pl.Binary, pl.List(pl.Binary)))
    per_row = _ITEM_COPIES * _held(sample.first.drop(photos.columns)) + _PHOTO_COPIES * _held(photos)
    return Need(table, sample.num_rows, int(sample.num_rows * per_row))


def estimate_peak(tables: Mapping[Table, TableConfig], *, base: Path) -> tuple[int, list[Need]]:
    """Tell the most bytes that this process will hold on the way to a catalogue, and what each table adds.

    Args:
        tables: where they are.
        base: folder that relative paths start from.

    Raises:
        DataError: one of them is not there.
    """
    held = held_bytes()
    needs = [estimate(config, base=base, table=table) for table, config in tables.items()]
    return held + _WORKING_BYTES + sum(need.num_bytes for need in needs), needs


def require_memory(tables: Mapping[Table, TableConfig], *, base: Path, limit_gib: float | None) -> str:
    """Compare what the tables will take with what there is.

    Args:
        tables: where they are.
        base: folder that relative paths start from.
        limit_gib: what the process may take in all; None: what it has and what the machine has free.

    Returns:
        A line that says both.

    Raises:
        DataError: they will not fit, or one of them is not there.
    """
    limit = held_bytes() + available_bytes() if limit_gib is None else int(limit_gib * GIB)
    peak, needs = estimate_peak(tables, base=base)
    rows = ", ".join(f"{need.num_rows:,} {need.table}" for need in needs)
    there = "there are" if limit_gib is None else "memory_limit_gib allows"
    said = f"about {peak / GIB:.1f} GiB of memory for about {rows}; {there} {limit / GIB:.1f} GiB"
    if peak > limit:
        raise DataError(
            f"Reading the tables takes {said}. Use a shorter log or one with fewer columns (page and cell can be left "
            'out: page = "" under [events]), or a machine with more memory; to try all the same, set '
            f"memory_limit_gib = {peak / GIB + 0.1:.1f}."
        )
    return said


class _Sample(NamedTuple):
    first: pl.DataFrame
    later: pl.DataFrame
    """From the middle of the table; empty where `first` is all of it."""
    num_rows: int


def _sample_parquet(files: list[Path], size: _Size) -> _Sample:
    frame = open_table(str(files[0]), base=Path(), table="").frame
    if len(files) > 1:
        frame = pl.concat([pl.scan_parquet(file, hive_partitioning=False) for file in files], how="diagonal_relaxed")
    num_rows = frame.select(pl.len()).collect().item()
    first = frame.head(size.rows).collect(engine="streaming")
    middle = max(len(first), num_rows // 2)
    return _Sample(first, frame.slice(middle, _LATER.rows).collect(engine="streaming"), num_rows)


def _sample_text(files: list[Path], size: _Size) -> _Sample | None:
    """Sample CSV or JSONL; None where it is one JSON array."""
    total, taken, firsts = sum(map(size_of, files)), 0, []
    for file in files:
        if taken < size.bytes:
            part, num_bytes = _part(file, at=0, num_bytes=size.bytes - taken)
            if part is None:
                return None
            firsts.append(part)
            taken += num_bytes
    first = pl.concat(firsts, how="diagonal_relaxed")
    num_rows = round(len(first) * max(1.0, total / taken))
    later = first.clear()
    if taken < total:
        file = files[len(files) // 2]
        at = max(taken if file == files[0] else 0, size_of(file) // 2)
        if file.suffix.lower() == ".gz":  # what is packed cannot be entered in the middle
            at = size.bytes if file == files[0] else 0
        part, _ = _part(file, at=at, num_bytes=_LATER.bytes)
        later = later if part is None else part
    return _Sample(first, later, num_rows)


def _part(file: Path, *, at: int, num_bytes: int) -> tuple[pl.DataFrame | None, int]:
    """Read the whole lines of a part of a file, as `open_table` would, and return how many bytes they are."""
    with bytes_of(file) as data, tempfile.TemporaryDirectory() as folder:
        header = b""
        if at > 0:
            header = data.readline()
            data.seek(at)
            data.readline()
        text = data.read(num_bytes)
        text += data.readline()
        if header == b"" and text.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
            return None, len(text)
        copy = Path(folder) / file.name.removesuffix(".gz").removesuffix(".GZ")
        copy.write_bytes(header + text)
        source = open_table(str(copy), base=Path(), table="")
        return source.collect(source.frame), len(text)


def _of_log(sample: _Sample, *, config: EventsConfig) -> int:
    used = _used(sample.first, config=config)
    words = [name for name in used if name in TEXT_COLUMNS[Table.EVENTS]]
    others = sample.first.select(column for name, column in used.items() if name not in words)
    per_row = _EVENT_BYTES + _CODE_BYTES * len(words) + _held(others)
    return int(sample.num_rows * per_row) + sum(_of_words(sample, column=used[name]) for name in words)


def _used(sample: pl.DataFrame, *, config: EventsConfig) -> dict[str, str]:
    """Return canonical column → the user's column, as reading will find it; all columns where it will find fault."""
    columns = dict(sample.schema)
    source = TableFiles(name="", files=[], frame=sample.lazy(), columns=columns, broken=[])
    try:
        fields = event_fields(KIND_WORDS | dict(config.kinds))
        mapping, _ = map_columns(config, fields, source=source, sample=sample.head(SAMPLE_ROWS), kept=())
    except DataError:
        return {name: name for name in columns}
    return mapping


def _of_words(sample: _Sample, *, column: str) -> int:
    first = sample.first[column].hash().unique()
    later = sample.later[column].hash() if column in sample.later.columns else first.clear()
    num_new = int((~later.unique().is_in(first.implode())).sum())
    rows_left = sample.num_rows - len(sample.first)
    num_words = len(first) + (rows_left * num_new // len(later) if len(later) > 0 else 0)
    return int(num_words * (_WORD_BYTES + _held(sample.first.select(column))))


def _held(frame: pl.DataFrame) -> float:
    """Return the bytes that a row takes in memory; text also where another table shares it."""
    if frame.is_empty():
        return 0.0
    views = sum(16 for dtype in frame.dtypes if dtype == pl.String)
    return frame.rechunk().estimated_size() / len(frame) + views
