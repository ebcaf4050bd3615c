"""A first config file for tables nobody has described yet: what can be told is filled in, the rest is asked for.

Guesses go further here than on reading (`data.guess`), since the file is read by a person before it is used: an events
column is taken for the item because it holds the items' ids, a number for a rating because of its name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from triptych.data.fields import (
    ITEM_FIELDS,
    JUDGEMENT_FIELDS,
    RATING_NAMES,
    event_fields,
    has_few_values,
    number_rate,
)
from triptych.data.files import FILE, TableFiles, open_table
from triptych.data.guess import SAMPLE_ROWS, Field, bare_name, guess_column, named_like
from triptych.data.parse import as_text, parse_numbers, plain
from triptych.data.roles import recognise_role
from triptych.data.schema import KIND_WORDS, RATING, Role, Table
from triptych.foundation.errors import DataError
from triptych.recipes.tables import ASKED

_WIDTH = 34
_ENDS_LIKE_TIME = ("time", "timestamp", "date", "at", "ts")
_HIGHEST_RATING = 100
_EPOCH_SECONDS = (631_152_000, 4_102_444_800)
"""1990 to 2100."""


@dataclass
class _Section:
    """One table's part of the file."""

    name: Table
    source: TableFiles
    sample: pl.DataFrame
    lines: list[str] = field(default_factory=list)
    found: dict[str, str] = field(default_factory=dict)
    """Canonical column → the user's."""

    def say(self, setting: str, value: str | float, *, why: str = "") -> None:
        """Add a setting, and why it has this value."""
        line = f"{setting} = {json.dumps(value, ensure_ascii=False)}"
        self.lines.append(_with_remark(line, why) if why else line)

    def remark(self, text: str) -> None:
        """Add a line for the reader."""
        self.lines.append(f"# {_one_line(text)}")

    @property
    def free(self) -> list[str]:
        """The user's columns without a meaning yet."""
        return [name for name in self.source.columns if name not in self.found.values()]


def draft(*, items: Path, events: Path | None, judgements: Path | None, photos: Path | None, base: Path) -> str:
    """Write a config file for some tables.

    Args:
        items: the items table: file, glob or folder.
        events: the events table, if there is one.
        judgements: the judgements table, if there is one.
        photos: the folder that photo paths start from, or whose files are named by item id.
        base: folder of the config file; paths are written relative to it.

    Returns:
        TOML with a remark beside each guess. A column that could not be told is `ASKED`.

    Raises:
        DataError: a table cannot be opened, or there is no such folder of photos.
    """
    if photos is not None and not photos.is_dir():
        raise DataError(f"--photos {photos}: there is no such folder.")
    sections = [_items(_open(items, Table.ITEMS, base=base), photos=photos, base=base)]
    ids = _ids(sections[0])
    if events is not None:
        sections.append(_events(_open(events, Table.EVENTS, base=base), ids=ids))
    if judgements is not None:
        sections.append(_judgements(_open(judgements, Table.JUDGEMENTS, base=base), ids=ids))
    recipe, why = _recipe({one.name: one for one in sections})
    title = "# A draft: read every line. All settings: triptych config fields THIS_FILE --match WORD"
    parts = [f"{title}\n{_with_remark(f'recipe = {json.dumps(recipe)}', why)}\n"]
    parts += ["\n".join([f"[{one.name}]", *one.lines]) + "\n" for one in sections]
    if recipe == "feed":
        parts.append(
            "# To learn who chose what as well, uncomment (docs/recall.md, Users without queries).\n"
            '# [recall.model]\n# kind = "sasrec"\n# fusion = "mm+idfc"\n'
        )
    texts = [name for name, role in _features(sections[0]).items() if role is Role.TEXT]
    if texts and sections[0].found.get("title") != ASKED:
        parts.append(
            "# To have the encoder read more than the title, uncomment; it costs time by the token.\n"
            f"# [pretrain.encoder]\n# title_features = {json.dumps(texts, ensure_ascii=False)}\n"
            "# max_title_tokens = 64\n"
        )
    return "\n".join(parts)


def _open(path: Path, table: Table, *, base: Path) -> _Section:
    source = open_table(str(path.absolute()), base=base, table=table)
    sample = source.collect(source.frame.head(SAMPLE_ROWS)).drop(FILE, strict=False)
    sample = sample.select(plain(pl.col(name), sample[name].dtype) for name in source.columns)
    section = _Section(table, source, sample)
    section.say("path", _relative(path, base=base))
    return section


def _items(section: _Section, *, photos: Path | None, base: Path) -> _Section:
    _guess(section, ITEM_FIELDS)
    if "title" not in section.found:
        _ask_for_title(section)
    if photos is not None:
        by = "photo paths start here" if "photo" in section.found else "its files are named by item id"
        section.say("photo_root", _relative(photos, base=base), why=by)
    elif "photo" not in section.found:
        section.remark('no column of photos; for a folder of files named by item id: photo_root = "photos/"')
    features = ", ".join(f"{name} ({role})" for name, role in _features(section).items())
    if features:
        section.remark(f"kept as features: {features}")
    return section


def _ask_for_title(section: _Section) -> None:
    """Take the only column of text for the title, or ask which it is: without one nothing is found by words."""
    texts = [name for name, role in _features(section).items() if role in (Role.TEXT, Role.CATEGORICAL)]
    texts = [name for name in texts if section.sample[name].dtype == pl.String]
    if not texts:
        section.remark("no column of titles")
        return
    column, why = ASKED, f'which is the title? {_choices(texts)}; "" if there is none'
    if len(texts) == 1:
        column, why = texts[0], "the only column of words: is it the title?"
    section.say("title", column, why=why)
    section.found["title"] = column


def _events(section: _Section, *, ids: pl.Series) -> _Section:
    _guess(section, event_fields(KIND_WORDS), ids=ids)
    if "kind" not in section.found:
        _rating_or_words(section)
    if "user" not in section.found:
        free = section.free
        column, why = ASKED, f'which is the user? {_choices(free)}; "" if there is none'
        if len(free) == 1:
            column, why = free[0], "the only column left: is it the user?"
        section.say("user", column, why=why)
        section.found["user"] = column
        if column == ASKED:
            return section
    _name_unused(section)
    return section


def _judgements(section: _Section, *, ids: pl.Series) -> _Section:
    _guess(section, JUDGEMENT_FIELDS, ids=ids)
    _name_unused(section)
    return section


def _guess(section: _Section, fields: tuple[Field, ...], *, ids: pl.Series | None = None) -> None:
    """Fill in what can be told, and ask for what is needed and cannot."""
    for one in fields:
        taken = section.found.values()
        try:
            column = guess_column(one, section.sample, taken=taken, table_name=section.source.name, section="")
            why = "guessed by name" if column and _is_named(one, column) else "guessed by what it holds"
        except DataError:  # several fit, and the choice matters
            alike = [name for name in section.free if _is_named(one, name)]
            section.say(one.setting, ASKED, why=f"{_choices(alike)}?")
            section.found[one.name] = ASKED
            continue
        if one.name == "item_id" and ids is not None and (held := _column_of_ids(section, ids)) is not None:
            column, why = held, "it holds the items' ids"
        if one.name == "time" and column is None:
            column, why = _epoch_column(section), "guessed: seconds since 1970"
        if column is None and not one.needed:
            continue
        if column is None:
            holding = [] if one.name != "item_id" or ids is None else _columns_of_ids(section, ids)
            among = f"{_choices(holding)} hold items' ids" if holding else _choices(section.free)
            column, why = ASKED, f"which is {one.meaning}? {among}"
        section.say(one.setting, column, why=why)
        section.found[one.name] = column


def _rating_or_words(section: _Section) -> None:
    """Say what happened by a rating, or ask for the meaning of words, or leave it at clicks."""
    ratings = [name for name in section.free if _may_be_rating(section, name)]
    if len(ratings) == 1:
        low, high, least = _rating_range(section.sample[ratings[0]].drop_nulls())
        section.say("rating", ratings[0], why=f"{low:g} to {high:g} in the first rows")
        section.say("positive_rating", least, why="from here on it is a click, below an impression: change it")
        section.found[RATING] = ratings[0]
        return
    kind = next(one for one in event_fields(KIND_WORDS) if one.name == "kind")
    named = named_like(kind, section.source.columns, taken=section.found.values())
    if named is None:
        _point_out(section)
        section.remark("as it stands, every event is a click")
        return
    words = [str(word) for word in section.sample[named].drop_nulls().unique(maintain_order=True).head(8)]
    section.say("kind", named, why="its words are not known; say what each means:")
    section.lines.append("kinds = { " + ", ".join(f'{json.dumps(word)} = "{ASKED}"' for word in words) + " }")
    section.found["kind"] = named


def _point_out(section: _Section) -> None:
    """Say which columns may say what happened, without taking any for it."""
    for name in section.free:
        values = section.sample[name].drop_nulls()
        if not has_few_values(values):
            continue
        if number_rate(values) == 1:
            low, high, least = _rating_range(values)
            if low < 0 or high > _HIGHEST_RATING:
                continue
            section.remark(f"is '{name}' a rating ({low:g} to {high:g})? then: rating = {json.dumps(name)}")
            section.remark(f"positive_rating = {least:g}")
        else:
            words = ", ".join(f"{json.dumps(str(word))} = {json.dumps(ASKED)}" for word in values.unique().sort()[:8])
            section.remark(f"does '{name}' say what happened? then: kind = {json.dumps(name)}")
            section.remark(f"kinds = {{ {words} }}")


def _rating_range(values: pl.Series) -> tuple[float, float, float]:
    """Return the lowest and the highest value, and the lowest of the upper quarter between them."""
    numbers = parse_numbers(values).to_numpy()
    low, high = float(numbers.min()), float(numbers.max())
    return low, high, float(numbers[numbers >= low + 0.75 * (high - low)].min())


def _recipe(sections: Mapping[Table, _Section]) -> tuple[str, str]:
    events = sections.get(Table.EVENTS)
    if events is not None:
        if "query" in events.found:
            return "shop", "learns from queries and what was chosen under them"
        return "feed", "no queries: learns from what users chose one after another"
    if Table.JUDGEMENTS in sections:
        return "judged", "no log: learns from judged queries"
    return "catalogue", "no log: learns from titles and photos alone"


def _ids(items: _Section) -> pl.Series:
    """Return the items' ids as text, named as their column; none where it could not be told."""
    column = items.found.get("item_id", ASKED)
    if column == ASKED:
        return pl.Series(dtype=pl.String)
    dtype = items.source.columns[column]
    ids = items.source.collect(items.source.frame.select(as_text(plain(pl.col(column), dtype), dtype).alias(column)))
    return ids[column]


def _column_of_ids(section: _Section, ids: pl.Series) -> str | None:
    """Return the free column that holds items' ids; of several one called like it."""
    alike = _columns_of_ids(section, ids)
    same = [name for name in alike if name == ids.name]
    named = [name for name in alike if _is_named(ITEM_FIELDS[0], name)]
    chosen = same or named or alike
    return chosen[0] if len(chosen) == 1 else None


def _columns_of_ids(section: _Section, ids: pl.Series) -> list[str]:
    """Return the free columns whose values are items' ids, or nearly all of them."""
    alike = []
    for name in section.free:
        dtype = section.sample[name].dtype
        if not (dtype == pl.String or dtype.is_integer()):
            continue
        values = section.sample[name].cast(pl.String).drop_nulls()
        if len(values) > 0 and int(values.is_in(ids.implode()).sum()) >= 0.9 * len(values):
            alike.append(name)
    return alike


def _epoch_column(section: _Section) -> str | None:
    """Return the only column that is called like a time and holds seconds or more since 1970."""
    alike = []
    for name in section.free:
        values = section.sample[name].drop_nulls()
        if not bare_name(name).endswith(_ENDS_LIKE_TIME) or values.is_empty() or number_rate(values) < 1:
            continue
        numbers = parse_numbers(values)
        if any((numbers / unit).is_between(*_EPOCH_SECONDS).all() for unit in (1, 1e3, 1e6, 1e9)):
            alike.append(name)
    return alike[0] if len(alike) == 1 else None


def _features(items: _Section) -> dict[str, Role]:
    """Return what the items' other columns seem to be."""
    roles = {name: recognise_role(items.sample[name], name=name) for name in items.free if name.strip()}
    return {name: role for name, role in roles.items() if role is not None}


def _may_be_rating(section: _Section, name: str) -> bool:
    dtype = section.sample[name].dtype
    if isinstance(dtype, pl.List | pl.Array | pl.Struct | pl.Binary):
        return False
    values = section.sample[name].drop_nulls()
    return bare_name(name) in RATING_NAMES.split() and len(values) > 0 and number_rate(values) == 1


def _name_unused(section: _Section) -> None:
    if section.free:
        section.remark(f"not used: {', '.join(section.free)}")


def _is_named(one: Field, column: str) -> bool:
    return bare_name(column) in [name for group in one.groups for name in group]


def _choices(columns: Collection[str]) -> str:
    return ", ".join(f"'{name}'" for name in columns) or "no column is left"


def _with_remark(line: str, remark: str) -> str:
    return f"{line:<{_WIDTH - 2}}  # {_one_line(remark)}"


def _one_line(text: str) -> str:
    """Keep a remark on its line: the name of a column may hold a line break."""
    return " ".join(text.split())


def _relative(path: Path, *, base: Path) -> str:
    return os.path.relpath(path.absolute(), base.absolute()).replace(os.sep, "/")
