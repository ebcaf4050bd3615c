"""``triptych similar``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from triptych.cli.output import AsJson, print_hits


def similar(
    run: Annotated[Path, typer.Argument(help="Run folder, e.g. runs/shop.")],
    item: Annotated[str, typer.Argument(help="Item id.")],
    *,
    k: Annotated[int, typer.Option(min=1, help="Number of results.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Find the items nearest to an item."""
    from triptych.engine import Engine

    engine = Engine.open(run)
    print_hits(engine.similar(item, k=k), describe=engine.item, as_json=as_json)
