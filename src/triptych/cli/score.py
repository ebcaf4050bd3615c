"""``triptych score``: batch scoring from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def score(
    run: Annotated[Path, typer.Argument(help="Run folder, e.g. runs/shop.")],
    pairs: Annotated[Path, typer.Argument(help="Table with the columns query and item_id (Parquet, CSV or JSONL).")],
    *,
    out: Annotated[Path, typer.Option(help="Table to write (.parquet, .csv or .jsonl): the pairs with their score.")],
) -> None:
    """Score (query, item) pairs: how well each item answers its query."""
    import polars as pl

    from triptych.data.tables import read_frame, write_frame
    from triptych.engine import Engine
    from triptych.foundation.errors import DataError, did_you_mean
    from triptych.foundation.progress import track

    frame = read_frame(pairs)
    for column in ("query", "item_id"):
        if column not in frame.columns:
            raise DataError(f"Column '{column}' is not in {str(pairs)!r}.{did_you_mean(column, frame.columns)}")
    engine = Engine.open(run)
    groups = frame.with_row_index("row").group_by("query", maintain_order=True).agg("row", "item_id")
    scores = [0.0] * frame.height
    for query, rows, items in track(list(groups.iter_rows()), label="score", unit="query"):
        for row, value in zip(rows, engine.score(query, items), strict=True):
            scores[row] = value
    write_frame(frame.with_columns(pl.Series("score", scores)), out)
    print(f"{frame.height:,} pairs scored → {out}")
