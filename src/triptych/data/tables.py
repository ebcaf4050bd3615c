"""Reading items, events and judgements: the user's columns under our names, and nothing judged yet.

What is unclear is guessed, and every guess is kept for printing; what cannot be told is one sentence. Values that may
be faulty (times, numbers, lists, kinds) stay as they were found: `check` reads them, and counts what it cannot read.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import polars as pl

from triptych.data.fields import (
    ITEM_FIELDS,
    JUDGEMENT_FIELDS,
    PHOTO_SUFFIXES,
    bare_word,
    event_fields,
    has_few_values,
    number_rate,
)
from triptych.data.files import FILE, TableFiles, open_table
from triptych.data.guess import SAMPLE_ROWS, Field, listed, map_columns, named_like
from triptych.data.lines import WORDS
from triptych.data.parse import as_text, parse_lists, plain, trim_whole_floats
from triptych.data.roles import recognise_role
from triptych.data.schema import (
    ITEMS_SCHEMA,
    KIND_WORDS,
    RATING,
    SCHEMAS,
    TEXT_COLUMNS,
    EventKind,
    EventsConfig,
    ItemsConfig,
    JudgementsConfig,
    Role,
    Table,
)
from triptych.data.words import Clean, SameHash, WordColumn
from triptych.foundation.errors import DataError, did_you_mean

ROW = "row"
"""Column of `MappedTable.rows` with the row's number, from 0."""

_FREE_TEXT = {"title", "query"}
_PIECE_ROWS = 1 << 21
"""Rows of a log that are held as text at a time."""
_LISTS = (pl.List, pl.Array)
_NESTED = (*_LISTS, pl.Struct, pl.Binary)
_PHOTO_FILE = rf"[^|,;\n]+\.(?:{'|'.join(PHOTO_SUFFIXES)})(?:\?[^|,;\n]*)?"
_SEVERAL = rf"(?i)^(?:{_PHOTO_FILE}\s*[|,;\n]\s*)+(?:{_PHOTO_FILE})?$"
"""Several photos in one text: each part ends like a photo's name, so that a comma within a name parts nothing."""
_NUMBERED = r"^(.+)[_-](\d{1,4})$"


class PhotoSource(StrEnum):
    """Where the photos of an items table are."""

    NONE = "none"
    PATHS = "paths"
    FOLDER = "folder"
    BYTES = "bytes"


@dataclass(frozen=True, eq=False)
class MappedTable:
    """A user's table under canonical column names, before any check."""

    table: Table
    """Which of the three it is."""
    name: str
    """How messages call it: its file's name, or the path as the user wrote it."""
    frame: pl.DataFrame
    """Canonical columns that the table has, then features, blanks as nulls. Ids, words and titles are text (of events:
    Enums, see `words`); what is read by `check` (times, numbers, lists, flags) is as it was found."""
    mapping: dict[str, str]
    """Canonical column or feature → the user's column (for photos in a folder keyed by id: the folder)."""
    guessed: dict[str, str]
    """The part of `mapping` that the config did not give."""
    files: list[Path]
    """The files read, in row order."""
    source: TableFiles
    """The files themselves, for going back to rows as the user wrote them."""
    roles: dict[str, Role] = field(default_factory=dict)
    """Feature → what it is (items)."""
    guessed_roles: set[str] = field(default_factory=set)
    """Features whose role was recognised, not declared."""
    unused: dict[str, str] = field(default_factory=dict)
    """The user's columns that are not read → why."""
    photo_source: PhotoSource = PhotoSource.NONE
    """Where the photos are (items)."""
    photo_root: Path | None = None
    """Folder that `frame["photo"]` starts from, unless it holds bytes (items)."""
    kinds: dict[str, EventKind] = field(default_factory=dict)
    """Every event word that is known (events)."""
    positive_rating: float | None = None
    """Rating from which an event is a click (events with ratings)."""

    def rows(self, numbers: pl.Series) -> pl.DataFrame:
        """Return rows as the user wrote them.

        Args:
            numbers: distinct row numbers from 0, ascending.

        Returns:
            `ROW` (UInt32), the file's name where there are several, then all of the user's columns.
        """
        numbers = numbers.cast(pl.UInt32)
        wanted = self.source.frame.with_row_index("(row)").filter(pl.col("(row)").is_in(numbers.implode()))
        raw = self.source.collect(wanted if len(numbers) > 0 else wanted.head(0))
        taken = {ROW, "file"} & set(self.source.columns)
        raw = raw.rename({name: f"original_{name}" for name in taken})
        return raw.rename({"(row)": ROW, FILE: "file"}, strict=False)

    def photo_files(self) -> list[Path]:
        """Return the files of all photos: of each item the first, then further ones; empty where photos are bytes."""
        if self.photo_root is None or "photo" not in self.frame.columns:
            return []
        names = self.frame["photo"].drop_nulls().to_list()
        if "more_photos" in self.frame.columns:
            names += self.frame["more_photos"].drop_nulls().explode().to_list()
        return [self.photo_root / name for name in names]

    def describe(self) -> list[dict[str, Any]]:
        """Return one row per column: what it was taken for, and whether that was given or guessed."""
        used = [
            {
                "table": self.table.value,
                "field": "feature" if name in self.roles else name,
                "column": column,
                "role": self.roles[name].value if name in self.roles else None,
                "how": "guessed" if name in self.guessed or name in self.guessed_roles else "given",
            }
            for name, column in self.mapping.items()
        ]
        if self.table is Table.EVENTS and not {"kind", RATING} & set(self.mapping):
            how = "every event is a click"
            used.append({"table": self.table.value, "field": "kind", "column": None, "role": None, "how": how})
        unused = [
            {"table": self.table.value, "field": None, "column": column, "role": None, "how": f"not used: {why}"}
            for column, why in self.unused.items()
        ]
        return used + unused


def read_items(config: ItemsConfig, *, base: Path) -> MappedTable:
    """Read the items table and recognise its features.

    Args:
        config: where it is and what is known of its columns.
        base: folder that relative paths start from (the config file's).

    Raises:
        DataError: no such file or column, no rows, a column of the wrong type, or a guess that could go two ways.
    """
    source = open_table(config.path, base=base, table=Table.ITEMS)
    sample = source.collect(source.frame.head(SAMPLE_ROWS))
    folder = _photo_folder(config, source=source, base=base)
    given = config.model_copy(update={"photo": ""}) if folder else config
    mapping, guessed = map_columns(given, ITEM_FIELDS, source=source, sample=sample, kept=config.features)
    features = _feature_columns(config, source=source, mapping=mapping)
    frame = _read(source, {**mapping, **features}, table=Table.ITEMS)

    roles: dict[str, Role] = {}
    unused = {column: "it has no name" for column in source.columns if not column.strip()}
    for name, column in features.items():
        role = config.features.get(column) or recognise_role(frame[name], name=column)
        if role is None:
            unused[column] = "empty" if frame[name].null_count() == len(frame) else "neither text, number nor list"
        else:
            _check_role(role, frame[name].dtype, column=column, source=source)
            roles[name] = role
    frame = frame.drop(name for name in features if name not in roles)
    mapping |= {name: features[name] for name in roles}

    photo_source, root = PhotoSource.NONE, None
    if "photo" in mapping:
        frame = _part_photos(frame, column=mapping["photo"], source=source)
        is_bytes = frame["photo"].dtype == pl.Binary
        photo_source = PhotoSource.BYTES if is_bytes else PhotoSource.PATHS
        root = None if is_bytes else _photo_root(config, frame["photo"], source=source, base=base)
    elif folder is not None or config.photo_root is not None:
        photo_source, root = PhotoSource.FOLDER, folder or _existing_root(config, base=base)
        frame = _photos_of(frame, root)
        mapping["photo"] = config.photo or config.photo_root or ""
    return MappedTable(
        table=Table.ITEMS,
        name=source.name,
        frame=frame.select([name for name in (*ITEMS_SCHEMA, *roles) if name in frame.columns]),
        mapping=mapping,
        guessed=guessed,
        files=source.files,
        source=source,
        roles=roles,
        guessed_roles={name for name in roles if features[name] not in config.features},
        unused=unused,
        photo_source=photo_source,
        photo_root=root,
    )


def read_events(config: EventsConfig, *, base: Path) -> MappedTable:
    """Read the events table; only the columns that are used are loaded.

    Args:
        config: where it is and what is known of its columns.
        base: folder that relative paths start from (the config file's).

    Raises:
        DataError: as `read_items`; also where neither user nor query has a column.
    """
    source = open_table(config.path, base=base, table=Table.EVENTS)
    if config.rating:
        config = config.model_copy(update={"kind": ""})  # the rating says what happened: nothing else is guessed to
    words = KIND_WORDS | {bare_word(word): kind for word, kind in config.kinds.items()}
    fields = event_fields(words)
    sample = source.collect(source.frame.head(SAMPLE_ROWS))
    mapping, guessed = map_columns(config, fields, source=source, sample=sample, kept=())
    if "user" not in mapping and "query" not in mapping:
        raise DataError(
            f"{source.name} has no column for the user and none for the query; "
            f"name at least one under [events]. {listed(source)}"
        )
    if "kind" not in mapping and config.kind is None:
        _refuse_unknown_kinds(fields, source=source, sample=sample, taken=mapping.values())
    frame = _read(source, mapping, table=Table.EVENTS)
    table = _mapped(Table.EVENTS, source=source, frame=frame, mapping=mapping, guessed=guessed)
    if not {"kind", RATING} & set(mapping):
        table.unused.update(_may_say_what_happened(sample, unused=table.unused))
    return replace(table, kinds=words, positive_rating=config.positive_rating)


def read_judgements(config: JudgementsConfig, *, base: Path) -> MappedTable:
    """Read the judgements table.

    Args:
        config: where it is and what is known of its columns.
        base: folder that relative paths start from (the config file's).

    Raises:
        DataError: as `read_items`.
    """
    source = open_table(config.path, base=base, table=Table.JUDGEMENTS)
    sample = source.collect(source.frame.head(SAMPLE_ROWS))
    mapping, guessed = map_columns(config, JUDGEMENT_FIELDS, source=source, sample=sample, kept=())
    frame = _read(source, mapping, table=Table.JUDGEMENTS)
    return _mapped(Table.JUDGEMENTS, source=source, frame=frame, mapping=mapping, guessed=guessed)


def read_frame(path: Path) -> pl.DataFrame:
    """Read a table that is none of the three, under its own names; what CSV and JSONL hold is text.

    Raises:
        DataError: there is no such file, or a line of it cannot be read: there is nowhere to set it aside to.
    """
    source = open_table(str(path), base=Path(), table="table")
    if source.broken:
        file, broken = source.broken[0]
        raise DataError(f"{file.name}, line {broken.line}: {broken.reason}; {WORDS[broken.fault].advice}.")
    return source.collect(source.frame.drop(FILE, strict=False))


def write_frame(frame: pl.DataFrame, path: Path) -> None:
    """Write a table in the format that the file's name asks for: .parquet, .csv or .jsonl.

    Raises:
        DataError: the name asks for another format.
    """
    if path.suffix == ".parquet":
        frame.write_parquet(path)
    elif path.suffix == ".csv":
        frame.write_csv(path)
    elif path.suffix == ".jsonl":
        frame.write_ndjson(path)
    else:
        raise DataError(f"'{path.name}' names no format that is written: let it end in .parquet, .csv or .jsonl.")


def photos_by_id(folder: Path) -> pl.DataFrame:
    """List the photos of a folder (and of the folders in it) by the item id that names them.

    Returns:
        `item_id` and `photo` (path below the folder), one row per id; of several the first by path.
    """
    found = (os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names)  # noqa: PTH118
    paths = sorted(os.path.relpath(path, folder).replace(os.sep, "/") for path in found if is_unicode(path))
    pattern = rf"^(?:.*/)?([^/]+)\.(?i:{'|'.join(PHOTO_SUFFIXES)})$"
    listed = pl.DataFrame({"photo": pl.Series(paths, dtype=pl.String)}).select(
        item_id=pl.col("photo").str.extract(pattern, 1), photo="photo"
    )
    return listed.drop_nulls("item_id").unique("item_id", keep="first", maintain_order=True)


def is_unicode(name: str) -> bool:
    """Say whether a file's name can stand in a table; to the file system it is bytes, and those may spell nothing."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _mapped(
    table: Table,
    *,
    source: TableFiles,
    frame: pl.DataFrame,
    mapping: dict[str, str],
    guessed: dict[str, str],
) -> MappedTable:
    used = set(mapping.values())
    unused = {column: "no field of this table" for column in source.columns if column not in used}
    return MappedTable(
        table=table,
        name=source.name,
        frame=frame,
        mapping=mapping,
        guessed=guessed,
        files=source.files,
        source=source,
        unused=unused,
    )


def _may_say_what_happened(sample: pl.DataFrame, *, unused: Collection[str]) -> dict[str, str]:
    """Point out columns of few values where every event is a click: a bad rating, or a look, would be one too."""
    found = {}
    for name in unused:
        values = sample[name].drop_nulls()
        if not has_few_values(values):
            continue
        is_number = number_rate(values) == 1
        found[name] = (
            f'if it is a rating, say rating = "{name}" and positive_rating'
            if is_number
            else f'if it says what happened, say kind = "{name}" and what its words mean with kinds'
        )
    return found


def _refuse_unknown_kinds(
    fields: tuple[Field, ...], *, source: TableFiles, sample: pl.DataFrame, taken: Collection[str]
) -> None:
    """Stop where a column is called like the kind but holds other words: they need not all be clicks."""
    kind = next(one for one in fields if one.name == "kind")
    column = named_like(kind, source.columns, taken=taken)
    if column is None or isinstance(source.columns[column], _NESTED):
        return
    words = sample[column].cast(pl.String).drop_nulls().unique(maintain_order=True).head(3).to_list()
    raise DataError(
        f"{source.name}: column '{column}' may be what happened, but its words are not known "
        f'({", ".join(repr(word) for word in words)}); give kind = "{column}" and their meaning in kinds, '
        f'or kind = "" where every event is a click.'
    )


def _read(source: TableFiles, mapping: Mapping[str, str], *, table: Table) -> pl.DataFrame:
    """Load the mapped columns under their canonical names, blanks as nulls."""
    columns = {}
    text = TEXT_COLUMNS[table]
    for name, column in mapping.items():
        dtype = source.columns[column]
        is_ours = name in SCHEMAS[table]
        may_be = {"cells": _LISTS, "photo": (pl.Binary, *_LISTS)}.get(name, () if is_ours else _NESTED)
        if isinstance(dtype, _NESTED) and not isinstance(dtype, may_be):
            raise DataError(f"{source.name}: column '{column}' ({name}) holds {_shape(dtype)}, not one value per row.")
        if table is Table.EVENTS and name in text:  # a log is long and repeats its words: each is cleaned once
            may_wait = dtype == pl.String or dtype.is_integer()
            read = pl.col(column) if may_wait else as_text(plain(pl.col(column), dtype), dtype)
        else:
            read = plain(pl.col(column), dtype, free_text=name in text & _FREE_TEXT)
            read = as_text(read, dtype) if name in text else read
        columns[name] = read.alias(name)
    wanted = source.frame.select(columns.values())
    if table is Table.EVENTS:
        frame = _read_log(source, wanted, words=[name for name in columns if name in text])
    else:
        frame = source.collect(wanted)
        frame = frame.with_columns(trim_whole_floats(frame[name]) for name in text - _FREE_TEXT if name in columns)
    if frame.is_empty():
        raise DataError(f"{source.name} has no rows; the {table} table needs at least one.")
    return frame


def _read_log(source: TableFiles, wanted: pl.LazyFrame, *, words: list[str], seed: int = 0) -> pl.DataFrame:
    """Load a log, its text columns as Enums of clean words, so that no more than a piece of it is ever held as text."""
    columns = {name: WordColumn(name, seed=seed) for name in words}
    others = [wanted.select(pl.exclude(words)).collect_schema().to_frame(eager=True)]
    with ThreadPoolExecutor(pl.thread_pool_size()) as pool:
        for piece in source.pieces(wanted, num_rows=_PIECE_ROWS):
            for taken in [pool.submit(column.add, piece[name]) for name, column in columns.items()]:
                taken.result()
            others.append(piece.drop(words))
        try:
            enumerated = list(pool.map(lambda name: columns[name].enumerated(clean=_clean(name)), words))
        except SameHash:
            return _read_log(source, wanted, words=words, seed=seed + 1)
    return pl.concat(others, rechunk=True).with_columns(enumerated).select(wanted.collect_schema().names())


def _clean(name: str) -> Clean:
    """Return what makes a log's words plain: blanks null and, but in free text, whole floats integers."""

    def clean(words: pl.Series) -> pl.Series:
        text = words.cast(pl.String).to_frame("word")
        told = text.select(plain(pl.col("word"), pl.String(), free_text=name in _FREE_TEXT))["word"]
        return told if name in _FREE_TEXT else trim_whole_floats(told)

    return clean


def _shape(dtype: pl.DataType) -> str:
    if isinstance(dtype, pl.Binary):
        return "bytes"
    return "records" if isinstance(dtype, pl.Struct) else "lists"


def _feature_columns(config: ItemsConfig, *, source: TableFiles, mapping: Mapping[str, str]) -> dict[str, str]:
    """Return feature → the user's column, for all columns without another meaning; our own names are left to us."""
    used = set(mapping.values()) - set(config.features)
    names: dict[str, str] = {}
    for column in source.columns:
        if column in used or not column.strip():
            continue
        name = column
        while name in ITEMS_SCHEMA or name in names or (name != column and name in source.columns):
            name = f"extra_{name}"
        names[name] = column
    return names


def _check_role(role: Role, dtype: pl.DataType, *, column: str, source: TableFiles) -> None:
    is_list = isinstance(dtype, _LISTS)
    if isinstance(dtype, _NESTED) and not (is_list and role is Role.MULTI):
        hint = '; declare it "multi"' if is_list else ""
        shape = _shape(dtype)
        raise DataError(
            f"{source.name}: column '{column}' is declared {role} (items.features) but holds {shape}{hint}."
        )


def _part_photos(frame: pl.DataFrame, *, column: str, source: TableFiles) -> pl.DataFrame:
    """Put an item's first photo into `photo`, and its further ones, where any item has some, into `more_photos`."""
    photos = frame["photo"]
    if isinstance(photos.dtype, _LISTS):
        if isinstance(photos.dtype.inner, pl.Struct | pl.List | pl.Array):
            raise DataError(f"{source.name}: column '{column}' (photo) holds lists of neither paths nor bytes.")
        is_bytes = photos.dtype.inner == pl.Binary
        element = pl.element()
        bytes_given = pl.col("photo").cast(pl.List(pl.Binary)).list.eval(element.filter(element.bin.size() > 0))
        parts = frame.select(bytes_given).to_series() if is_bytes else parse_lists(photos)
    elif photos.dtype == pl.Binary:
        return frame
    else:
        photos = photos.cast(pl.String)
        split = pl.col("photo").str.extract_all(r"[^|,;\n]+").list.eval(pl.element().str.strip_chars())
        one = pl.concat_list("photo")
        parts = photos.to_frame().select(pl.when(pl.col("photo").str.contains(_SEVERAL)).then(split).otherwise(one))[
            "photo"
        ]
        literal = photos.str.contains(r"^\[.*\]$").fill_null(False)
        if literal.any():
            parts = pl.select(pl.when(literal).then(parse_lists(photos)).otherwise(parts)).to_series()
    if parts.dtype == pl.List(pl.String):
        parts = parts.list.eval(pl.element().str.replace_all("\\", "/", literal=True))
    return _with_photos(frame, parts)


def _with_photos(frame: pl.DataFrame, photos: pl.Series) -> pl.DataFrame:
    """Set `photo` and `more_photos` from lists that may be empty or null."""
    more = pl.select(pl.when(photos.list.len() > 1).then(photos.list.slice(1))).to_series().alias("more_photos")
    frame = frame.with_columns(photos.list.first().alias("photo"))
    return frame if more.null_count() == len(more) else frame.with_columns(more)


def _photos_of(frame: pl.DataFrame, folder: Path) -> pl.DataFrame:
    """Find items' photos in a folder: `<id>.jpg`, then `<id>_1.jpg` or `<id>-1.jpg` by number.

    A name that is an item's id as a whole is that item's, whatever number it ends in.
    """
    ids = frame["item_id"].drop_nulls().unique()
    listing = photos_by_id(folder).with_columns(
        whole=pl.col("item_id").is_in(ids.implode()),
        base=pl.col("item_id").str.extract(_NUMBERED, 1),
        number=pl.col("item_id").str.extract(_NUMBERED, 2).cast(pl.UInt32),
    )
    own = listing.filter("whole").select("item_id", "photo", number=pl.lit(None, dtype=pl.UInt32))
    numbered = listing.filter(~pl.col("whole") & pl.col("base").is_in(ids.implode()))
    found = (
        pl.concat([own, numbered.select(pl.col("base").alias("item_id"), "photo", "number")])
        .sort("item_id", "number", "photo", nulls_last=False)
        .group_by("item_id", maintain_order=True)
        .agg("photo")
    )
    joined = frame.select("item_id").join(found, on="item_id", how="left", maintain_order="left")
    return _with_photos(frame, joined["photo"])


def _photo_folder(config: ItemsConfig, *, source: TableFiles, base: Path) -> Path | None:
    """Return the folder that `photo` names, where it names no column."""
    if not config.photo or config.photo in source.columns:
        return None
    for folder in (base / config.photo, base / (config.photo_root or "") / config.photo):
        if folder.is_dir():
            return folder.absolute()
    near = did_you_mean(config.photo, source.columns)
    raise DataError(
        f'photo = "{config.photo}" under [items] is neither a column of {source.name} nor a folder.{near} '
        f"{listed(source)}"
    )


def _existing_root(config: ItemsConfig, *, base: Path) -> Path:
    root = base / (config.photo_root or "")
    if not root.is_dir():
        near = did_you_mean(root.name, (p.name for p in root.parent.iterdir())) if root.parent.is_dir() else ""
        raise DataError(f'photo_root = "{config.photo_root}" under [items] is no folder (in {base}).{near}')
    return root.absolute()


def _photo_root(config: ItemsConfig, photos: pl.Series, *, source: TableFiles, base: Path) -> Path:
    """Return the folder that photo paths start from: as given, else beside the items, else beside the config."""
    if config.photo_root is not None:
        return _existing_root(config, base=base)
    beside = source.files[0].parent.absolute()
    some = photos.drop_nulls().cast(pl.String).head(20).to_list()
    found = (root for root in (beside, base.absolute()) if any(_is_file(root / path) for path in some))
    return next(found, beside)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # such as a name that is too long
        return False
