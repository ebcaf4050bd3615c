"""``triptych recommend``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from triptych.cli.output import AsJson, print_hits


def recommend(
    run: Annotated[Path, typer.Argument(help="Run folder, e.g. runs/shop.")],
    user: Annotated[str | None, typer.Argument(help="User id; left out with --history.")] = None,
    *,
    history: Annotated[
        list[str] | None, typer.Option(help="An item chosen before, oldest first: repeat it for each.")
    ] = None,
    channel: Annotated[
        str | None, typer.Option(help="recall, item_knn, dense or popularity; by default the best that the shop has.")
    ] = None,
    k: Annotated[int, typer.Option(min=1, help="Number of results.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Recommend items by what a user clicked before, or by a history; where that is nothing, what is popular."""
    from triptych.engine import Engine

    engine = Engine.open(run)
    print_hits(
        engine.recommend(user=user, history=history or None, k=k, channel=channel),
        describe=engine.item,
        as_json=as_json,
    )
