"""``triptych search``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from triptych.cli.output import AsJson, print_hits


def search(
    run: Annotated[Path, typer.Argument(help="Run folder, e.g. runs/shop.")],
    query: Annotated[str | None, typer.Argument(help="What to look for.")] = None,
    *,
    photo: Annotated[Path | None, typer.Option(help="A photo to search by, alone or with a query.")] = None,
    user: Annotated[
        str | None, typer.Option(help="Who asks, for a personal recall model and the ranker (default: nobody).")
    ] = None,
    k: Annotated[int, typer.Option(min=1, help="Number of results.")] = 10,
    category: Annotated[str | None, typer.Option(help="Only items of this category.")] = None,
    cell: Annotated[str | None, typer.Option(help="Only items delivered to this cell.")] = None,
    min_price: Annotated[float | None, typer.Option(help="Lowest price.")] = None,
    max_price: Annotated[float | None, typer.Option(help="Highest price.")] = None,
    channel: Annotated[
        str | None,
        typer.Option(help="recall, dense, generative, bm25, popularity or hybrid (default: the best there is)."),
    ] = None,
    rank: Annotated[
        bool | None,
        typer.Option(
            "--rank/--no-rank",
            help="Let the ranker order the first of what was found, or not (default: as validation chose).",
        ),
    ] = None,
    why: Annotated[
        bool,
        typer.Option(
            "--why",
            help="Show the words shared with the title, and who found it (hybrid); with --json also the score without "
            "title and without photo.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Search a finished run by text, by photo, or by both."""
    from triptych.engine import Engine, Filters

    engine = Engine.open(run)
    filters = Filters(category=category, cell=cell, min_price=min_price, max_price=max_price)
    hits = engine.search(query, photo=photo, k=k, user=user, filters=filters, channel=channel, rank=rank, explain=why)
    print_hits(hits, describe=engine.item, as_json=as_json)
