"""Finding and opening the files of a table: one file, a glob or a folder; Parquet, CSV, TSV or JSONL.

CSV and JSONL values are read as text whatever they look like, so that `007` stays `007`, one bad price does not
change its column, and the same content gives the same table in every format (lists and structs of JSONL stay what
they are). Files of one table may differ in columns; what a file lacks is null.
"""

from __future__ import annotations

import csv
import glob
import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import IO, NamedTuple

import polars as pl

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

    def collect(self, frame: pl.LazyFrame) -> pl.DataFrame:
        """Run a query over `frame`.

        Raises:
            DataError: a file is damaged; names the line where one can be found.
        """
        with _explained(self.name, self.files):
            return frame.collect(engine="streaming")


def open_table(path: str, *, base: Path, table: str) -> TableFiles:
    """Find and open the files of a table.

    Args:
        path: a file, glob or folder, relative to `base` or absolute.
        base: folder that relative paths start from.
        table: what to call it in messages about its path.

    Raises:
        DataError: there is no such file, its format is unknown, or it has no columns.
    """
    files = _find(path, base=base, table=table)
    name = files[0].name if len(files) == 1 else path
    with _explained(name, files):
        scans = [_scan(file) for file in files]
        if len(files) > 1:
            scans = [scan.with_columns(pl.lit(file.name).alias(FILE)) for scan, file in zip(scans, files, strict=True)]
        frame = scans[0] if len(scans) == 1 else pl.concat(scans, how="diagonal_relaxed")
        columns = dict(frame.collect_schema())
    columns.pop(FILE, None)
    if not columns:
        raise DataError(f"{name} has no columns.")
    return TableFiles(name=name, files=files, frame=frame, columns=columns)


def _find(path: str, *, base: Path, table: str) -> list[Path]:
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


def _open_text(file: Path) -> IO[str]:
    if file.suffix.lower() == ".gz":
        return gzip.open(file, "rt", encoding="utf-8-sig", newline="")
    return file.open(encoding="utf-8-sig", newline="")


def _scan(file: Path) -> pl.LazyFrame:
    form = _format(file)
    if form is _Format.PARQUET:
        return pl.scan_parquet(file, hive_partitioning=False)
    with _open_text(file) as text:
        header = text.readline()
    if not header.strip():
        raise DataError(f"'{file.name}' is empty.")
    if form is _Format.JSONL:
        if header.lstrip().startswith("["):
            raise DataError(f"'{file.name}' holds a JSON array; write one object per line instead (JSON Lines).")
        inferred = pl.scan_ndjson(file, infer_schema_length=None).collect_schema()
        kept = (pl.List, pl.Struct)
        return pl.scan_ndjson(
            file, schema={name: dtype if isinstance(dtype, kept) else pl.String() for name, dtype in inferred.items()}
        )
    separator = "\t" if form is _Format.TSV else max(_SEPARATORS, key=header.count)
    names = next(csv.reader([header], delimiter=separator))
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise DataError(f"'{file.name}' has two columns called '{twice}'; rename one.")
    return pl.scan_csv(file, separator=separator, infer_schema=False)


@contextmanager
def _explained(name: str, files: list[Path]) -> Iterator[None]:
    """Turn what the readers raise into one sentence with the line."""
    try:
        yield
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError) as error:
        reason = next((reason for file in files if (reason := _bad_line(file)) is not None), None)
        first = (str(error).splitlines() or [""])[0]
        raise DataError(reason or f"{name} cannot be read: {first.rstrip('.')}.") from None


def _bad_line(file: Path) -> str | None:
    """Return what is wrong with the first bad line of a text file, or None. Slow, and only called for a broken one."""
    form = _format(file)
    if form is _Format.PARQUET:
        return None
    line = 0
    try:
        with _open_text(file) as text:
            if form is _Format.JSONL:
                for line, record in enumerate(text, start=1):
                    if record.strip() and not isinstance(json.loads(record, parse_constant=_refuse), dict):
                        return f"{file.name}, line {line}: every line must hold one JSON object."
                return None
            header = text.readline()
            text.seek(0)
            separator = "\t" if form is _Format.TSV else max(_SEPARATORS, key=header.count)
            rows = csv.reader(text, delimiter=separator, strict=True)
            width, line = len(next(rows)), rows.line_num
            for row in rows:
                line = rows.line_num
                if len(row) > width:
                    return (
                        f"{file.name}, line {line}: {len(row)} fields where the header has {width}; "
                        f"put quotes around a field that holds the separator."
                    )
    except UnicodeDecodeError:
        return f"{file.name} is not UTF-8 text; save it as UTF-8."
    except csv.Error as error:
        is_open = "unexpected end" in str(error)
        return f"{file.name}, line {line + 1}: {'a quote is opened and never closed' if is_open else error}."
    except ValueError as error:  # json.JSONDecodeError is one
        return f"{file.name}, line {line}: this is not JSON ({error})."
    except (OSError, EOFError) as error:
        return f"{file.name} cannot be read: {error}."
    return None


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no JSON value; write null")
