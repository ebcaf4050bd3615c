"""``triptych recommend``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from triptych.cli.output import AsJson, print_hits


def recommend(
    run: Annotated[Path, typer.Argument(help="Run folder, e.g. runs/shop.")],
    user: Annotated[str, typer.Argument(help="User id.")],
    *,
    k: Annotated[int, typer.Option(min=1, help="Number of results.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Recommend items to a user from what the user clicked before; where that is nothing, what is popular."""
    from triptych.engine import Engine

    engine = Engine.open(run)
    print_hits(engine.recommend(user=user, k=k), describe=engine.item, as_json=as_json)
