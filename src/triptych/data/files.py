"""Finding and opening the files of a table: one file, a glob or a folder; Parquet, CSV, TSV or JSONL.

CSV and JSONL values are read as text whatever they look like, so that `007` stays `007`, one bad price does not
change its column, and the same content gives the same table in every format (lists and structs of JSONL stay what
they are). Files of one table may differ in columns; what a file lacks is null.

Text is gone through once on opening: a line that cannot be read is set aside (see `lines`), and the others are rows.
A `.json` file may also hold one array of objects; it is read into memory at once.
"""

from __future__ import annotations

import glob
import gzip
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import IO, NamedTuple, cast

import polars as pl

from triptych.data.lines import (
    WORDS,
    Block,
    BrokenLine,
    LineFault,
    csv_blocks,
    json_blocks,
    json_schema,
    lazy_rows,
    read_csv_block,
    read_header,
    read_json_block,
    scan,
    without_misfits,
)
from triptych.foundation.errors import DataError, did_you_mean

FILE = "(file)"
"""Column of `TableFiles.frame` with the file's name, present where the table has several files."""


class _Format(StrEnum):
    PARQUET = "Parquet"
    CSV = "CSV"
    TSV = "TSV"
    JSONL = "JSONL"


_SUFFIXES = {
    ".parquet": _Format.PARQUET,
    ".pq": _Format.PARQUET,
    ".csv": _Format.CSV,
    ".tsv": _Format.TSV,
    ".inter": _Format.TSV,  # RecBole's
    ".item": _Format.TSV,
    ".jsonl": _Format.JSONL,
    ".ndjson": _Format.JSONL,
    ".json": _Format.JSONL,
}
_SEPARATORS = ",;\t|"


class TableFiles(NamedTuple):
    """The files of one table, opened and not yet read."""

    name: str
    """How messages call the table: its file's name, else the path as the user wrote it."""
    files: list[Path]
    """In the order of their names; rows follow this order."""
    frame: pl.LazyFrame
    """All columns as stored."""
    columns: dict[str, pl.DataType]
    """The user's columns."""
    broken: list[tuple[Path, BrokenLine]]
    """The lines that are no rows, in order; `frame` is without them."""

    def collect(self, frame: pl.LazyFrame) -> pl.DataFrame:
        """Run a query over `frame`.

        Raises:
            DataError: a file is damaged or has gone.
        """
        with _explained(self.name):
            return frame.collect(engine="streaming")

    def pieces(self, frame: pl.LazyFrame, *, num_rows: int) -> Iterator[pl.DataFrame]:
        """Run a query over `frame` and yield what it finds piece by piece, in order.

        Raises:
            DataError: a file is damaged or has gone.
        """
        with _explained(self.name):
            yield from frame.collect_batches(chunk_size=num_rows, maintain_order=True, engine="streaming")


def open_table(path: str, *, base: Path, table: str) -> TableFiles:
    """Find and open the files of a table.

    Args:
        path: a file, glob or folder, relative to `base` or absolute.
        base: folder that relative paths start from.
        table: what to call it in messages about its path.

    Raises:
        DataError: there is no such file, its format is unknown, it has no columns, or none of its lines can be read.
    """
    files = find_files(path, base=base, table=table)
    name = files[0].name if len(files) == 1 else path
    with _explained(name):
        opened = [_open(file) for file in files]
        broken = [(file, line) for file, one in zip(files, opened, strict=True) for line in one.broken]
        if broken and not any(one.has_rows for one in opened):
            raise _nothing_left(name, broken)
        frames = [one.frame for one in opened]
        if len(files) > 1:
            frames = [
                frame.with_columns(pl.lit(file.name).alias(FILE)) for frame, file in zip(frames, files, strict=True)
            ]
        frame = frames[0] if len(frames) == 1 else pl.concat(frames, how="diagonal_relaxed")
        columns = dict(frame.collect_schema())
    columns.pop(FILE, None)
    if not columns:
        raise DataError(f"{name} has no columns.")
    return TableFiles(name=name, files=files, frame=frame, columns=columns, broken=broken)


def _nothing_left(name: str, broken: list[tuple[Path, BrokenLine]]) -> DataError:
    file, first = broken[0]
    where = f"line {first.line}" if file.name == name else f"{file.name}, line {first.line}"
    if all(line.fault is LineFault.NOT_UTF8 for _, line in broken):
        return DataError(f"{name} is not UTF-8 text; save it as UTF-8.")
    whole = "its only line cannot" if len(broken) == 1 else f"none of its {len(broken):,} lines can"
    return DataError(f"{name}: {whole} be read ({where}: {first.reason}); {WORDS[first.fault].advice}.")


def find_files(path: str, *, base: Path, table: str) -> list[Path]:
    """Find the files of a table, all of one format, in the order of their names.

    Raises:
        DataError: there is none, or a format that is not read.
    """
    full = base / path
    if full.is_file():
        files = [full]
    elif full.is_dir():
        files = sorted(file for file in full.rglob("*") if _is_part(file.relative_to(full)) and file.is_file())
        if not files:
            raise DataError(f"{table}: the folder '{path}' holds no Parquet, CSV, TSV or JSONL file.")
    elif glob.has_magic(path):
        files = sorted(Path(file) for file in glob.glob(str(full), recursive=True) if Path(file).is_file())  # noqa: PTH207
        if not files:
            raise DataError(f"{table}: no file matches '{path}' (in {base}).")
    else:
        near = did_you_mean(full.name, (p.name for p in full.parent.iterdir())) if full.parent.is_dir() else ""
        raise DataError(f"{table}: there is no file or folder '{path}' (in {base}).{near}")
    formats = {_format(file) for file in files}
    if len(formats) > 1:
        raise DataError(
            f"{table}: '{path}' holds files of several formats ({', '.join(sorted(formats))}); "
            f"name those of one with a glob, such as '{path.rstrip('/')}/*.parquet'."
        )
    return files


def _is_part(file: Path) -> bool:
    """Tell the files of a table from the marks that other tools leave beside them (`_SUCCESS`, `.crc`, `x.json`)."""
    hidden = any(part.startswith((".", "_")) for part in file.parts)
    suffix = _suffix(file)
    return not hidden and suffix in _SUFFIXES and suffix != ".json"


def _suffix(file: Path) -> str:
    return Path(file.stem).suffix.lower() if file.suffix.lower() == ".gz" else file.suffix.lower()


def _format(file: Path) -> _Format:
    form = _SUFFIXES.get(_suffix(file))
    if form is None or (form is _Format.PARQUET and file.suffix.lower() == ".gz"):
        raise DataError(f"'{file.name}' is in no format that is read: save it as Parquet, CSV, TSV or JSONL.")
    return form


class _Opened(NamedTuple):
    frame: pl.LazyFrame
    broken: list[BrokenLine]
    has_rows: bool


def _open(file: Path) -> _Opened:
    form = _format(file)
    if form is _Format.PARQUET:
        return _Opened(pl.scan_parquet(file, hive_partitioning=False), [], has_rows=True)
    if form is not _Format.JSONL:
        return _open_csv(file, separators="\t" if form is _Format.TSV else _SEPARATORS)
    with bytes_of(file) as data:
        start = data.read(1 << 16).removeprefix(b"\xef\xbb\xbf").lstrip()
    if not start:
        raise DataError(f"'{file.name}' is empty.")
    return _open_array(file) if start.startswith(b"[") else _open_jsonl(file)


def is_parquet(file: Path) -> bool:
    """Say whether a file of a table is Parquet, and else text."""
    return _format(file) is _Format.PARQUET


def size_of(file: Path) -> int:
    """Return the bytes of a file of a table; of a packed one, those that it unpacks to, below 4 GiB."""
    size = file.stat().st_size
    if file.suffix.lower() != ".gz" or size < 8:
        return size
    with file.open("rb") as data:
        data.seek(-4, os.SEEK_END)
        return max(size, int.from_bytes(data.read(4), "little"))


def bytes_of(file: Path) -> IO[bytes]:
    """Open a file of a table, unpacked."""
    return cast("IO[bytes]", gzip.open(file)) if file.suffix.lower() == ".gz" else file.open("rb")


def _open_csv(file: Path, *, separators: str) -> _Opened:
    with bytes_of(file) as data:
        try:
            header = read_header(data, separators=separators, name=file.name)
        except UnicodeDecodeError:
            raise DataError(f"{file.name} is not UTF-8 text; save it as UTF-8.") from None
    if header is None:
        raise DataError(f"'{file.name}' is empty.")
    names = header.names
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise DataError(f"'{file.name}' has two columns called '{twice}'; rename one.")
    grammar = header.grammar()

    def blocks() -> Iterator[Block]:
        with bytes_of(file) as data:
            data.read(header.num_bytes)
            yield from csv_blocks(data, grammar=grammar, first_line=header.num_lines + 1)

    found = scan(blocks())
    if found.is_clean and header.is_verbatim:
        frame = pl.scan_csv(file, separator=header.separator, infer_schema=False)
    else:
        frame = lazy_rows(
            blocks,
            read=lambda data: read_csv_block(data, header=header),
            schema={name: pl.String() for name in names},
        )
    return _Opened(frame, found.broken, found.has_rows)


def _open_jsonl(file: Path) -> _Opened:
    try:
        inferred = pl.scan_ndjson(file, infer_schema_length=None).collect_schema()
        frame = pl.scan_ndjson(file, schema=_texts(inferred))
        frame.select(pl.all().null_count()).collect(engine="streaming")  # what inferring lets pass, reading need not
    except pl.exceptions.PolarsError:  # a broken line, a byte order mark, or types that conflict
        return _open_jsonl_by_lines(file)
    return _Opened(frame, [], has_rows=True)


def _texts(schema: pl.Schema) -> dict[str, pl.DataType]:
    return {name: dtype if dtype.is_nested() else pl.String() for name, dtype in schema.items()}


def _open_jsonl_by_lines(file: Path) -> _Opened:
    def blocks() -> Iterator[Block]:
        with bytes_of(file) as data:
            yield from json_blocks(data)

    def good() -> Iterator[bytes]:
        return (block.data for block in blocks() if block.data)

    found = scan(blocks())
    schema = without_misfits(json_schema(good()), good())
    return _Opened(
        lazy_rows(blocks, read=lambda data: read_json_block(data, schema=schema), schema=schema),
        found.broken,
        found.has_rows,
    )


def _open_array(file: Path) -> _Opened:
    """Read one JSON array of objects; where most lines are objects by themselves, it is JSONL whose first is not."""
    with bytes_of(file) as data:
        text = data.read().removeprefix(b"\xef\xbb\xbf")
    try:
        inferred = pl.read_json(text, infer_schema_length=None).schema
        frame = pl.read_json(text, schema=_texts(inferred))
    except pl.exceptions.PolarsError as error:
        lines = _open_jsonl_by_lines(file)
        if lines.has_rows and lines.frame.select(pl.len()).collect().item() >= len(lines.broken):
            return lines
        first = (str(error).splitlines() or [""])[0].rstrip(".")
        raise DataError(
            f"{file.name} holds a JSON array that cannot be read ({first}); write one object per line (JSON Lines)."
        ) from None
    return _Opened(frame.lazy(), [], has_rows=True)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn what the readers raise into one sentence."""
    try:
        yield
    except (pl.exceptions.PolarsError, OSError, EOFError, zlib.error) as error:
        first = (str(error).splitlines() or [""])[0]
        raise DataError(f"{name} cannot be read: {first.rstrip('.')}.") from None
