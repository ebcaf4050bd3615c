"""What is wrong with a table, counted and kept: faults, and the rows they set aside.

Counting: a fault's count is the number of rows, of the table as read, that show it, whatever else is wrong with them.
Duplicates are counted among the rows that nothing else sets aside, since the first usable row is the one kept; notes
among the rows that stay.

Setting aside: a row is set aside once, for its first fault in the order of the checks. A value is set aside (its row
stays, with a null) once per fault, and only of rows that stay. So kept rows and rows set aside add up to the rows
read, and everything that is not in the clean tables is among the rejected.

A line of CSV or JSONL that could not be split into columns (see `lines`) counts as a row read and set aside. It has no
row number, since rows are numbered without it, but a file and a line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from triptych.data.lines import WORDS, BrokenLine
from triptych.data.schema import Table
from triptych.data.tables import ROW, MappedTable
from triptych.foundation.errors import DataError

FIRST_ROWS = 5
"""Rows that a fault names."""
EXAMPLE_CHARS = 80

_MARKS = {
    ROW: pl.UInt32(),
    "column": pl.String(),
    "fault": pl.String(),
    "reason": pl.String(),
    "set_aside": pl.String(),
}
_LINE_MARKS = {"file": pl.String(), "line": pl.UInt32(), "raw": pl.String()}


class Severity(StrEnum):
    """What a fault does."""

    SET_ASIDE = "set_aside"
    NOTE = "note"


class SetAside(StrEnum):
    """What of a rejected row is missing from the clean table: the row, or only the value of one column."""

    ROW = "row"
    VALUE = "value"


@dataclass(frozen=True)
class Fault:
    """One kind of fault in one column."""

    table: Table
    """The table."""
    column: str
    """The user's name of the column, or of several with commas between; for broken lines the file of the first."""
    fault: str
    """Slug, such as `bad_time`."""
    count: int
    """Rows that show it."""
    first_rows: list[int]
    """The first of them, from 0, as the table was read; for broken lines the first lines of `column`, from 0."""
    example: str
    """The value in the first of them: of a photo its path, or its item where it has none; of a broken line its text."""
    meaning: str
    """What is wrong, as a sentence without its full stop."""
    action: str
    """What is done."""
    severity: Severity
    """Whether something is set aside."""

    def to_row(self) -> dict[str, Any]:
        """Return the fault as plain JSON; rows count from 1, as a person counts the rows under a header."""
        return {
            "table": self.table.value,
            "column": self.column,
            "fault": self.fault,
            "count": self.count,
            "first_rows": [row + 1 for row in self.first_rows],
            "example": self.example,
            "meaning": self.meaning,
            "action": self.action,
            "severity": self.severity.value,
        }


class _Rejection(NamedTuple):
    rows: pl.Series
    column: str
    fault: str
    reason: str
    what: SetAside
    details: pl.Series | None
    """What is wrong with each row, where that says more than the reason."""


class Sieve:
    """Collects the faults of one table while it is checked."""

    def __init__(self, mapped: MappedTable) -> None:
        self.mapped = mapped
        self.faults: list[Fault] = []
        self.kept = pl.repeat(True, len(mapped.frame), eager=True, dtype=pl.Boolean)
        self._rejections: list[_Rejection] = []
        self._lines: list[tuple[Path, BrokenLine]] = []

    @property
    def num_rows(self) -> int:
        """Rows read, broken lines among them."""
        return len(self.kept) + len(self._lines)

    def set_lines_aside(self) -> None:
        """Record the lines that could not be read at all; call it first."""
        self._lines = self.mapped.source.broken
        for fault, words in WORDS.items():
            found = [(file, line) for file, line in self._lines if line.fault is fault]
            if not found:
                continue
            file, first = found[0]
            self.faults.append(
                Fault(
                    table=self.mapped.table,
                    column=file.name,
                    fault=fault.value,
                    count=len(found),
                    first_rows=[line.line - 1 for other, line in found if other == file][:FIRST_ROWS],
                    example=f"line {first.line}: {_shown(first.raw)}",
                    meaning=words.meaning,
                    action=f"line set aside; to keep such lines {words.advice}",
                    severity=Severity.SET_ASIDE,
                )
            )

    def set_rows_aside(self, fault: str, mask: pl.Series, *, columns: Sequence[str], meaning: str, action: str) -> None:
        """Record a fault that makes rows useless.

        Args:
            fault: slug.
            mask: Boolean ``[rows]``, true where a row shows it.
            columns: the canonical columns it lies in.
            meaning: what is wrong.
            action: what is done.
        """
        if self._add(fault, mask, columns=columns, meaning=meaning, action=action, severity=Severity.SET_ASIDE):
            self._reject(fault, mask & self.kept, columns=columns, reason=meaning, what=SetAside.ROW)
            self.kept = self.kept & ~mask

    def set_values_aside(
        self,
        fault: str,
        mask: pl.Series,
        *,
        column: str,
        meaning: str,
        action: str,
        details: pl.Series | None = None,
    ) -> None:
        """Record a fault that makes one column's value useless; call it after the table's `set_rows_aside`.

        Args:
            fault: slug.
            mask: Boolean ``[rows]``, true where a row shows it.
            column: the canonical column it lies in.
            meaning: what is wrong.
            action: what is done.
            details: text ``[rows]``, what is wrong with each row; `meaning` where left out.
        """
        if self._add(fault, mask, columns=[column], meaning=meaning, action=action, severity=Severity.SET_ASIDE):
            self._reject(
                fault, mask & self.kept, columns=[column], reason=meaning, what=SetAside.VALUE, details=details
            )

    def note(self, fault: str, mask: pl.Series, *, columns: Sequence[str], meaning: str, action: str) -> None:
        """Record something worth knowing about rows that stay; it changes nothing. Call it last."""
        self._add(fault, mask & self.kept, columns=columns, meaning=meaning, action=action, severity=Severity.NOTE)

    def require_rows(self) -> None:
        """Stop where nothing is left.

        Raises:
            DataError: every row is set aside; says for what.
        """
        if not self.kept.any():
            counts = ", ".join(
                f"{fault.count} {fault.fault}" for fault in self.faults if fault.severity != Severity.NOTE
            )
            raise DataError(
                f"{self.mapped.name}: all {self.num_rows} rows are set aside ({counts}); nothing is left to use."
            )

    def rejected(self) -> pl.DataFrame | None:
        """Return what was set aside, by row and then by line, or None; the columns are those of `rejected_rows`."""
        if not self._rejections and not self._lines:
            return None
        return rejected_rows(self.mapped, self._rejections, lines=self._lines)

    def _add(
        self, fault: str, mask: pl.Series, *, columns: Sequence[str], meaning: str, action: str, severity: Severity
    ) -> bool:
        rows = mask.arg_true()
        if rows.is_empty():
            return False
        first = int(rows[0])
        self.faults.append(
            Fault(
                table=self.mapped.table,
                column=self._names(columns),
                fault=fault,
                count=len(rows),
                first_rows=rows.head(FIRST_ROWS).to_list(),
                example=", ".join(self._example(name, first) for name in columns if name in self.mapped.frame.columns),
                meaning=meaning,
                action=action,
                severity=severity,
            )
        )
        return True

    def _example(self, column: str, row: int) -> str:
        value = self.mapped.frame[column][row]
        if column == "photo" and not isinstance(value, str):
            return f"item {_shown(self.mapped.frame['item_id'][row])}"
        return _shown(value)

    def _reject(
        self,
        fault: str,
        mask: pl.Series,
        *,
        columns: Sequence[str],
        reason: str,
        what: SetAside,
        details: pl.Series | None = None,
    ) -> None:
        rows = mask.arg_true()
        if not rows.is_empty():
            each = None if details is None else details.gather(rows)
            self._rejections.append(_Rejection(rows, self._names(columns), fault, reason, what, each))

    def _names(self, columns: Sequence[str]) -> str:
        return ", ".join(self.mapped.mapping[name] for name in columns if name in self.mapped.mapping)


def rejected_rows(
    mapped: MappedTable, rejections: Sequence[_Rejection], *, lines: Sequence[tuple[Path, BrokenLine]] = ()
) -> pl.DataFrame:
    """Return rejected rows as the user wrote them, then broken lines.

    After the user's columns come `row` (from 1), `column`, `fault`, `reason` and `set_aside` (`row` or `value`). Where
    there are broken lines, `file`, `line` (from 1) and `raw` (the text of the line, cut) follow; a broken line has
    these, its fault and its reason. A column of the user's with one of these names is called `original_<name>`.
    """
    marks = pl.concat(
        [
            pl.DataFrame(schema=_MARKS),
            *(
                pl.DataFrame({ROW: rejection.rows.cast(pl.UInt32)}).select(
                    ROW,
                    column=pl.lit(rejection.column),
                    fault=pl.lit(rejection.fault),
                    reason=pl.lit(rejection.reason if rejection.details is None else rejection.details),
                    set_aside=pl.lit(rejection.what.value),
                )
                for rejection in rejections
            ),
        ]
    )
    ours = set(_MARKS) | (set(_LINE_MARKS) if mapped.source.broken else set())
    raw = mapped.rows(marks[ROW].unique().sort())
    raw = raw.rename({name: f"original_{name}" for name in ours - {ROW, "file"} if name in raw.columns})
    joined = raw.join(marks, on=ROW, how="inner", maintain_order="left_right")
    order = [name for name in raw.columns if name != ROW]
    rejected = joined.select(*order, (pl.col(ROW) + 1).alias(ROW), "column", "fault", "reason", "set_aside")
    if not lines:
        return rejected
    torn = pl.DataFrame(
        {
            "fault": [line.fault.value for _, line in lines],
            "reason": [line.reason for _, line in lines],
            "set_aside": [SetAside.ROW.value] * len(lines),
            "file": [file.name for file, _ in lines],
            "line": [line.line for _, line in lines],
            "raw": [line.raw for _, line in lines],
        },
        schema_overrides=_MARKS | _LINE_MARKS,
    )
    return pl.concat([rejected, torn], how="diagonal")


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    text = str(value.to_list()) if isinstance(value, pl.Series) else str(value)
    return text if len(text) <= EXAMPLE_CHARS else f"{text[: EXAMPLE_CHARS - 1]}…"
