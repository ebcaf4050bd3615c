"""The checks of the items table."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

import polars as pl

from triptych.data.check_columns import blank, check_times, read_numbers
from triptych.data.faults import Sieve
from triptych.data.parse import as_text, parse_lists
from triptych.data.schema import FEATURE_TYPES, ITEMS_SCHEMA, Role
from triptych.data.tables import PhotoSource, is_unicode

_TEXTS = pl.List(pl.String)


def check_items(sieve: Sieve, *, latest: datetime) -> pl.DataFrame:
    """Check the items and return the clean table.

    Args:
        sieve: of the items table; collects the faults.
        latest: later times are faults.

    Raises:
        DataError: a column cannot be read at all, or no row is left.
    """
    sieve.set_lines_aside()
    frame = sieve.mapped.frame
    ids = frame["item_id"]
    action = "row set aside"
    sieve.set_rows_aside("empty_id", ids.is_null(), columns=["item_id"], meaning="the item has no id", action=action)
    sieve.set_rows_aside(
        "duplicate_id",
        ids.is_not_null() & ~ids.is_first_distinct(),
        columns=["item_id"],
        meaning="an earlier row has the same id",
        action="first row kept, later ones set aside",
    )
    sieve.require_rows()
    read: dict[str, pl.Series] = {}
    if "price" in frame.columns:
        read["price"] = _prices(sieve)
    if "first_seen" in frame.columns:
        read["first_seen"] = check_times(sieve, column="first_seen", latest=latest, of_rows=False)
    if "cells" in frame.columns:
        read["cells"] = parse_lists(frame["cells"])
    for name, role in sieve.mapped.roles.items():
        read[name] = _feature(sieve, name=name, role=role)
    if sieve.mapped.photo_source is PhotoSource.PATHS:
        read["photo"], read["more_photos"] = _photos(sieve)
    _note_gaps(sieve)
    types = ITEMS_SCHEMA | {name: FEATURE_TYPES[role] for name, role in sieve.mapped.roles.items()}
    if sieve.mapped.photo_source is PhotoSource.BYTES:
        types = types | {"photo": pl.Binary(), "more_photos": pl.List(pl.Binary())}
    whole = frame.with_columns(values.alias(name) for name, values in read.items())
    missing = [pl.lit(None).alias(name) for name in types if name not in whole.columns]
    return (
        whole.with_columns(missing).filter(sieve.kept).select(pl.col(name).cast(dtype) for name, dtype in types.items())
    )


def missing_files(paths: pl.Series, *, root: Path) -> pl.Series:
    """Tell which files are not there.

    Folders are listed once each, which is far cheaper than asking for every file.

    Args:
        paths: text with `/` between parts, relative to `root` or absolute.
        root: folder that relative paths start from.

    Returns:
        Boolean ``[paths]``; false where the path is null.
    """
    parts = (
        paths.alias("path")
        .to_frame()
        .select(
            folder=pl.col("path")
            .str.extract(r"^(.*/)[^/]*$", 1)
            .fill_null(pl.when(pl.col("path").is_not_null()).then(pl.lit(""))),
            name=pl.col("path").str.extract(r"([^/]*)$", 1),
        )
    )
    wanted = parts.drop_nulls().unique()
    listings = []
    for (folder,), names in wanted.group_by("folder"):
        there = pl.Series(_files_in(root, str(folder)), dtype=pl.String)
        listings.append(names.filter(pl.col("name").is_in(there.implode())))
    found = pl.concat([wanted.clear(), *listings]).with_columns(found=pl.lit(True))
    seen = parts.join(found, on=["folder", "name"], how="left", maintain_order="left")["found"]
    return (seen.is_null() & paths.is_not_null()).alias("missing")


def _files_in(root: Path, folder: str) -> list[str]:
    try:
        with os.scandir(root / folder) as entries:
            return [entry.name for entry in entries if _is_file(entry)]
    except (OSError, ValueError):  # no such folder, or a path no file system takes
        return []


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file() and is_unicode(entry.name)
    except OSError:  # a link that leads to itself
        return False


def _prices(sieve: Sieve) -> pl.Series:
    prices = read_numbers(sieve, column="price", fault="bad_price", money=True)
    negative = (prices < 0).fill_null(False)
    sieve.set_values_aside(
        "negative_price",
        negative,
        column="price",
        meaning="the price is below zero",
        action="price set aside, item kept",
    )
    return blank(prices, negative)


def _feature(sieve: Sieve, *, name: str, role: Role) -> pl.Series:
    values = sieve.mapped.frame[name]
    if role is Role.NUMERIC:
        return read_numbers(sieve, column=name, fault="bad_number")
    if role is Role.MULTI:
        return parse_lists(values)
    return values.to_frame().select(as_text(pl.col(name), values.dtype)).to_series()


def _photos(sieve: Sieve) -> tuple[pl.Series, pl.Series]:
    """Look for the photos; return each item's first that is there, and its further ones."""
    frame = sieve.mapped.frame
    further = pl.col("more_photos").fill_null([]) if "more_photos" in frame.columns else pl.lit([], dtype=_TEXTS)
    rows = frame.select(row=pl.int_range(pl.len(), dtype=pl.UInt32))
    listed = frame.select(rows["row"], photo=pl.concat_list("photo", further)).explode("photo").drop_nulls("photo")
    is_url = listed["photo"].str.contains(r"^(?i:https?)://")
    missing = missing_files(listed["photo"].set(is_url, None), root=sieve.mapped.photo_root or Path())
    for fault, meaning, faulty in (
        ("photo_is_url", "the photo is a web address; download it into a folder", is_url),
        ("missing_photo", "there is no such file under the photo root", missing),
    ):
        found = listed.filter(faulty).group_by("row", maintain_order=True).agg(pl.col("photo").str.join(", "))
        details = found.select(pl.format("{}: {}", "photo", pl.lit(meaning))).to_series()
        sieve.set_values_aside(
            fault,
            pl.repeat(False, len(frame), eager=True).scatter(found["row"], True),
            column="photo",
            meaning=meaning,
            action="photo set aside, item kept",
            details=pl.repeat(None, len(frame), dtype=pl.String, eager=True).scatter(found["row"], details),
        )
    usable = listed.filter(~is_url & ~missing).group_by("row", maintain_order=True).agg("photo")
    photos = rows.join(usable, on="row", how="left", maintain_order="left")["photo"]
    more = pl.select(pl.when(photos.list.len() > 1).then(photos.list.slice(1))).to_series()
    return photos.list.first(), more


def _note_gaps(sieve: Sieve) -> None:
    frame = sieve.mapped.frame
    for column in ("title", "photo"):
        if column in frame.columns:
            sieve.note(
                f"no_{column}",
                frame[column].is_null(),
                columns=[column],
                meaning=f"the item has no {column}",
                action="item kept without it",
            )
