"""What is wrong with a table, counted and kept: faults, and the rows they set aside.

Counting: a fault's count is the number of rows, of the table as read, that show it, whatever else is wrong with them.
Duplicates are counted among the rows that nothing else sets aside, since the first usable row is the one kept; notes
among the rows that stay.

Setting aside: a row is set aside once, for its first fault in the order of the checks. A value is set aside (its row
stays, with a null) once per fault, and only of rows that stay. So kept rows and rows set aside add up to the rows
read, and everything that is not in the clean tables is among the rejected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import polars as pl

from triptych.data.schema import Table
from triptych.data.tables import ROW, MappedTable
from triptych.foundation.errors import DataError

FIRST_ROWS = 5
"""Rows that a fault names."""
EXAMPLE_CHARS = 80


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
    """The user's name of the column, or of several with commas between."""
    fault: str
    """Slug, such as `bad_time`."""
    count: int
    """Rows that show it."""
    first_rows: list[int]
    """The first of them, from 0, as the table was read."""
    example: str
    """The value in the first of them."""
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


class Sieve:
    """Collects the faults of one table while it is checked."""

    def __init__(self, mapped: MappedTable) -> None:
        self.mapped = mapped
        self.faults: list[Fault] = []
        self.kept = pl.repeat(True, len(mapped.frame), eager=True, dtype=pl.Boolean)
        self._rejections: list[_Rejection] = []

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

    def set_values_aside(self, fault: str, mask: pl.Series, *, column: str, meaning: str, action: str) -> None:
        """Record a fault that makes one column's value useless; call it after the table's `set_rows_aside`."""
        if self._add(fault, mask, columns=[column], meaning=meaning, action=action, severity=Severity.SET_ASIDE):
            self._reject(fault, mask & self.kept, columns=[column], reason=meaning, what=SetAside.VALUE)

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
                f"{self.mapped.name}: all {len(self.kept)} rows are set aside ({counts}); nothing is left to use."
            )

    def rejected(self) -> pl.DataFrame | None:
        """Return what was set aside, by row, or None: the user's columns, then what `rejected_rows` adds."""
        return rejected_rows(self.mapped, self._rejections) if self._rejections else None

    def _add(
        self, fault: str, mask: pl.Series, *, columns: Sequence[str], meaning: str, action: str, severity: Severity
    ) -> bool:
        rows = mask.arg_true()
        if rows.is_empty():
            return False
        first = int(rows[0])
        frame = self.mapped.frame
        values = [frame[name][first] for name in columns if name in frame.columns]
        self.faults.append(
            Fault(
                table=self.mapped.table,
                column=self._names(columns),
                fault=fault,
                count=len(rows),
                first_rows=rows.head(FIRST_ROWS).to_list(),
                example=", ".join(_shown(value) for value in values),
                meaning=meaning,
                action=action,
                severity=severity,
            )
        )
        return True

    def _reject(self, fault: str, mask: pl.Series, *, columns: Sequence[str], reason: str, what: SetAside) -> None:
        rows = mask.arg_true()
        if not rows.is_empty():
            self._rejections.append(_Rejection(rows, self._names(columns), fault, reason, what))

    def _names(self, columns: Sequence[str]) -> str:
        return ", ".join(self.mapped.mapping[name] for name in columns if name in self.mapped.mapping)


def rejected_rows(mapped: MappedTable, rejections: Sequence[_Rejection]) -> pl.DataFrame:
    """Return rejected rows as the user wrote them.

    After the user's columns come `row` (from 1), `column`, `fault`, `reason` and `set_aside` (`row` or `value`). A
    column of the user's with one of these names is called `original_<name>`.
    """
    ours = {"column", "fault", "reason", "set_aside"}
    marks = pl.concat(
        pl.DataFrame({ROW: rejection.rows.cast(pl.UInt32)}).with_columns(
            column=pl.lit(rejection.column),
            fault=pl.lit(rejection.fault),
            reason=pl.lit(rejection.reason),
            set_aside=pl.lit(rejection.what.value),
        )
        for rejection in rejections
    )
    raw = mapped.rows(marks[ROW].unique().sort())
    raw = raw.rename({name: f"original_{name}" for name in ours & set(raw.columns)})
    joined = raw.join(marks, on=ROW, how="inner", maintain_order="left_right")
    order = [name for name in raw.columns if name != ROW]
    return joined.select(*order, (pl.col(ROW) + 1).alias(ROW), "column", "fault", "reason", "set_aside")


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    text = str(value.to_list()) if isinstance(value, pl.Series) else str(value)
    return text if len(text) <= EXAMPLE_CHARS else f"{text[: EXAMPLE_CHARS - 1]}…"
