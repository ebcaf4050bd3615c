"""Guessing which column of a foreign table is which, from names and from what the columns hold.

What is looked for stands in `fields`; this file only chooses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

import polars as pl

from triptych.data.files import FILE, TableFiles
from triptych.data.parse import plain
from triptych.foundation.config import Config
from triptych.foundation.errors import DataError, did_you_mean

Fit = Callable[[pl.Series], bool]

SAMPLE_ROWS = 1000
"""Rows looked at to guess a column."""

_TYPED = re.compile(r":(token|float)(_seq)?$")


@dataclass(frozen=True)
class Field:
    """One canonical column: how it is set, what it is called elsewhere, and what it must hold to be guessed."""

    name: str
    """Canonical column."""
    setting: str
    """Field of the table's config."""
    meaning: str
    """For messages, such as "the item's id"."""
    names: str
    """What it is called elsewhere, as `bare_name` spells it: groups between `|`, most telling first."""
    fits: Fit
    """Whether a sample without nulls may be it."""
    needed: bool = False
    """The table is unusable without it."""
    decisive: bool = False
    """Two fitting columns of one group are an error, not a choice of the first."""
    by_content: Fit | None = None
    """Recognises it whatever its name, where only one column fits."""

    @property
    def groups(self) -> list[list[str]]:
        """The names, group by group."""
        return [group.split() for group in self.names.split("|")]


def bare_name(name: str) -> str:
    """Return a column's name in lower-case letters and digits only: `Item ID` and `item_id` are `itemid`.

    So is `item_id:token`: RecBole writes a column's type behind its name.
    """
    return "".join(letter for letter in _TYPED.sub("", name.lower()) if letter.isalnum())


def guess_column(
    field: Field, sample: pl.DataFrame, *, taken: Collection[str], table_name: str, section: str
) -> str | None:
    """Return the column that a field is, or None.

    A column without a value is passed over where another of its group has some.

    Args:
        field: what is looked for.
        sample: the first rows of the table.
        taken: columns that already have a meaning.
        table_name: for messages.
        section: of the config, for messages.

    Raises:
        DataError: several columns could be it, and the choice matters.
    """
    free = {name: sample[name].drop_nulls() for name in sample.columns if name not in taken}
    for group in field.groups:
        named = sorted((group.index(bare_name(name)), name) for name in free if bare_name(name) in group)
        fitting = [name for _, name in named if field.fits(free[name])]
        fitting = [name for name in fitting if len(free[name]) > 0] or fitting
        if len(fitting) > 1 and field.decisive:
            listed = " and ".join(f"'{name}'" for name in fitting)
            raise DataError(
                f"{table_name}: columns {listed} could each be {field.meaning}; "
                f'say which under [{section}], for example {field.setting} = "{fitting[0]}".'
            )
        if fitting:
            return fitting[0]
    if field.by_content is None:
        return None
    alike = [name for name, values in free.items() if len(values) > 0 and field.by_content(values)]
    return alike[0] if len(alike) == 1 else None


def named_like(field: Field, columns: Collection[str], *, taken: Collection[str]) -> str | None:
    """Return the first column that is called like a field, whatever it holds."""
    names = [name for group in field.groups for name in group]
    return next((column for column in columns if column not in taken and bare_name(column) in names), None)


def map_columns(
    config: Config, fields: tuple[Field, ...], *, source: TableFiles, sample: pl.DataFrame, kept: Collection[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Decide which of the user's columns is which.

    Args:
        config: the table's config; its settings win over guesses.
        fields: what is looked for, in the order of guessing.
        source: the table.
        sample: its first rows.
        kept: columns that the user declared to be something else.

    Returns:
        Canonical column → the user's column, and the part of it that was guessed.

    Raises:
        DataError: a column that was named is not there, a needed one cannot be told, or several could be it.
    """
    given: dict[str, str | None] = {one.name: getattr(config, one.setting) for one in fields}
    for one in fields:
        column = given[one.name]
        if column and column not in source.columns:
            raise _no_column(column, f"{one.setting} under [{_section(config)}]", source=source)
    for column in kept:
        if column not in source.columns:
            raise _no_column(column, f"features under [{_section(config)}]", source=source)
    mapping: dict[str, str] = {}
    guessed: dict[str, str] = {}
    taken = {column for column in given.values() if column} | set(kept)
    sample = sample.drop(FILE, strict=False).select(plain(pl.col(name), sample[name].dtype) for name in source.columns)
    for one in fields:
        column = given[one.name]
        if column is None:
            column = guess_column(one, sample, taken=taken, table_name=source.name, section=_section(config))
            if column is not None:
                guessed[one.name] = column
                taken.add(column)
        if column:
            mapping[one.name] = column
        elif one.needed:
            raise _nothing_for(one, section=_section(config), source=source, taken=taken)
    return mapping, guessed


def _section(config: Config) -> str:
    return type(config).__name__.removesuffix("Config").lower()


def _no_column(column: str, setting: str, *, source: TableFiles) -> DataError:
    near = did_you_mean(column, source.columns)
    return DataError(f"{source.name} has no column '{column}' ({setting}).{near} {listed(source)}")


def _nothing_for(one: Field, *, section: str, source: TableFiles, taken: Collection[str]) -> DataError:
    near = named_like(one, source.columns, taken=taken)
    doubt = f" ('{near}' is called like it, but does not hold it)" if near else ""
    return DataError(
        f"{source.name} has no column that looks like {one.meaning}{doubt}; "
        f'name it with {one.setting} = "..." under [{section}]. {listed(source)}'
    )


def listed(source: TableFiles) -> str:
    """Return a sentence with the table's columns."""
    names = [f"'{name}'" for name in source.columns]
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return f"Its columns are {', '.join(names[:20])}{more}."
