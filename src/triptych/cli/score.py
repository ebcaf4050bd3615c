"""``triptych score``: batch scoring from a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from triptych.cli.output import AsJson, print_json

if TYPE_CHECKING:
    import polars as pl

    from triptych.engine import Engine

FIRST_ROWS = 5
"""Rows that are named of those that cannot be scored, as in `triptych check`."""

NO_ITEM, NO_QUERY = "no item_id", "no query"
UNKNOWN_ITEM, UNKNOWN_QUERY = "the catalogue has no such item", "nothing in the query is known"


class Scored(NamedTuple):
    """A table of pairs with the score of each, or the reason why it has none."""

    scores: list[float | None]
    reasons: list[str | None]


def score(
    run: Annotated[Path, typer.Argument(help="Run folder, e.g. runs/shop.")],
    pairs: Annotated[Path, typer.Argument(help="Table with the columns query and item_id (Parquet, CSV or JSONL).")],
    *,
    out: Annotated[Path, typer.Option(help="Table to write (.parquet, .csv or .jsonl): the pairs with their score.")],
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if any pair could not be scored.")] = False,
    as_json: AsJson = False,
) -> None:
    """Score (query, item) pairs: how well each item answers its query.

    The score is the cosine of their vectors by the encoder that the run serves, which is named. The table is written
    with the columns `score` and `reason`, in the order it was read; a pair that cannot be scored has no score and the
    reason why. Exit code 0: every pair that can be scored is; 1: one could not be, under
    --strict; 2: none can be.
    """
    import polars as pl

    from triptych.data.tables import read_frame, write_frame
    from triptych.engine import Engine
    from triptych.foundation.errors import DataError, did_you_mean

    frame = read_frame(pairs)
    for column in ("query", "item_id"):
        if column not in frame.columns:
            raise DataError(f"Column '{column}' is not in {str(pairs)!r}.{did_you_mean(column, frame.columns)}")
    engine = Engine.open(run)
    with _beside(out) as partial:
        write_frame(frame.clear(), partial)  # a name that no format has is told before the work
        asked = frame.select(pl.col("query", "item_id").cast(pl.String))
        scored = _score(asked, engine=engine)
        faults = _faults(asked, scored, engine=engine)
        if faults and all(value is None for value in scored.scores):
            raise DataError(
                f"None of the {frame.height:,} pairs of {str(pairs)!r} can be scored; "
                f"row {faults[0]['first'][0]['row']}: {faults[0]['first'][0]['hint']}"
            )
        columns = pl.Series("score", scored.scores, pl.Float64), pl.Series("reason", scored.reasons, pl.String)
        write_frame(frame.with_columns(*columns), partial)
        partial.replace(out)
    done = frame.height - sum(fault["pairs"] for fault in faults)
    by = engine.info()
    model = {"encoder": by["parts"]["encoder"], "reads": by["encoder"]["modalities"]}
    if as_json:
        print_json(
            {"pairs": frame.height, "scored": done, "not_scored": faults, "score": "cosine", **model, "out": str(out)}
        )
    else:
        print(f"{done:,} of {frame.height:,} pairs scored → {out}")
        print(f"score: cosine by encoder {model['encoder']}, which reads {model['reads']}")
        for fault in faults:
            _print_fault(fault)
    raise typer.Exit(int(strict and bool(faults)))


def _score(asked: pl.DataFrame, *, engine: Engine) -> Scored:
    """Score the pairs query by query; each query is encoded once."""
    from triptych.foundation.progress import track

    scored = Scored([None] * asked.height, [None] * asked.height)
    groups = asked.with_row_index("row").group_by("query", maintain_order=True).agg("row", "item_id")
    for query, rows, items in track(list(groups.iter_rows()), label="score", unit="query text"):
        reasons = [_reason(query, item, engine=engine) for item in items]
        usable = [place for place, reason in enumerate(reasons) if reason is None]
        values = engine.score(query, [items[place] for place in usable]) if usable else []
        for row, reason in zip(rows, reasons, strict=True):
            scored.reasons[row] = reason
        for place, value in zip(usable, values, strict=True):
            scored.scores[rows[place]] = value
    return scored


def _reason(query: str | None, item: str | None, *, engine: Engine) -> str | None:
    """Say why a pair cannot be scored; None where it can."""
    if query is None or not query.strip():
        return NO_QUERY
    if item is None or not item.strip():
        return NO_ITEM
    if not engine.knows_item(item):
        return UNKNOWN_ITEM
    return None if engine.knows_words(query) else UNKNOWN_QUERY


def _faults(asked: pl.DataFrame, scored: Scored, *, engine: Engine) -> list[dict[str, Any]]:
    """Count the reasons, each with the first rows that have it; rows count from 1, as in `triptych check`."""
    rows_of: dict[str, list[int]] = {}
    for row, reason in enumerate(scored.reasons):
        if reason is not None:
            rows_of.setdefault(reason, []).append(row)
    return [
        {
            "reason": reason,
            "pairs": len(rows),
            "first": [_first(asked, row, engine=engine) for row in rows[:FIRST_ROWS]],
        }
        for reason, rows in rows_of.items()
    ]


def _first(asked: pl.DataFrame, row: int, *, engine: Engine) -> dict[str, Any]:
    """One row that cannot be scored, with the engine's sentence about it, which names the nearest item id."""
    from triptych.foundation.errors import EngineError

    query, item = asked.row(row)
    hint = "The item_id is empty."
    if item is not None and item.strip():
        try:
            engine.score(query or "", [item])
        except EngineError as error:
            hint = str(error)
    return {"row": row + 1, "query": query, "item_id": item, "hint": hint}


def _print_fault(fault: dict[str, Any]) -> None:
    print(f"{fault['pairs']:,} not scored, {fault['reason']}:")
    for first in fault["first"]:
        print(f"  row {first['row']:,}: {first['hint']}")
    if fault["pairs"] > len(fault["first"]):
        print(f"  … and {fault['pairs'] - len(fault['first']):,} more, each with its reason in the table")


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """Give a file to write that becomes `out` when it is complete: a command that fails leaves what was there."""
    from triptych.foundation.errors import DataError

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=out.parent, prefix=".score-") as folder:
            yield Path(folder) / out.name
    except OSError as error:
        raise DataError(f"{str(out)!r} cannot be written: {error.strerror or error}.") from None
