"""How commands print: a table for people, JSON for programs."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from triptych.engine import Answer

PIPED_WIDTH = 132
"""Columns of a table that does not go to a terminal."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@contextmanager
def log_on_stderr() -> Iterator[None]:
    """Say what we do, for as long as it is done; libraries, by Python's default, say only what worries them."""
    ours, handler = logging.getLogger("triptych"), logging.StreamHandler()
    before = ours.level
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    try:
        yield
    finally:
        ours.removeHandler(handler)
        ours.setLevel(before)


def print_json(value: Any) -> None:
    """Print a value as JSON on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def print_table(
    rows: Sequence[Mapping[str, Any]],
    *,
    title: str | None = None,
    right: frozenset[str] = frozenset(),
    whole: frozenset[str] = frozenset(),
) -> None:
    """Print rows as a table whose columns are the keys of the first row.

    Args:
        rows: one mapping per line; no rows print nothing.
        title: a line above.
        right: columns to align to the right.
        whole: columns that are never folded, so that they can be copied and searched for.
    """
    if not rows:
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in rows[0]:
        justify: Literal["left", "right"] = "right" if column in right else "left"
        table.add_column(column, justify=justify, overflow="fold", no_wrap=column in whole)
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    console = Console()
    if title is not None:
        console.print(Text(title, style="bold"), soft_wrap=True)
    # Into a file or a pipe there is no edge to fold at, except that of whoever reads it.
    Console(width=console.width if console.is_terminal else PIPED_WIDTH).print(table)


def print_hits(hits: Answer, *, describe: Any, as_json: bool) -> None:
    """Print ranked items on stdout, and what has to be said of them on stderr.

    Args:
        hits: what the engine returned.
        describe: item id → what is shown of an item (``Engine.item``).
        as_json: JSON instead of a table.
    """
    if hits.note is not None:
        print(f"note: {hits.note}", file=sys.stderr)
    if as_json:
        print_json([{**_tree(hit), "item": describe(hit.item_id)} for hit in hits])
        return
    rows: list[dict[str, Any]] = []
    for place, hit in enumerate(hits, start=1):
        item = describe(hit.item_id)
        row = {"#": place, "score": f"{hit.score:.3f}", "item": hit.item_id, "title": item.get("title") or "(no title)"}
        row["category"] = item.get("category")
        row["price"] = None if item.get("price") is None else f"{item['price']:,.2f}"
        if hit.ranked is not None:
            row["was"], row["chosen"] = hit.ranked.place, f"{100 * hit.ranked.probability:.1f} %"
        if hit.why is not None:
            row["shared words"] = " ".join(hit.why.shared_words)
            if hit.why.found_by is not None:
                row["found by"] = ", ".join(f"{channel} {place}" for channel, place in hit.why.found_by.items())
            if hit.why.required is not None:
                row["asked for"] = ", ".join(hit.why.required.values)
        rows.append(row)
    print_table(rows, right=frozenset({"#", "score", "price", "was", "chosen"}))
    if not rows:
        print("nothing found")


def _tree(value: Any) -> Any:
    """Turn named tuples into mappings, those within them, too."""
    if not hasattr(value, "_asdict"):
        return value
    return {name: _tree(part) for name, part in value._asdict().items()}
