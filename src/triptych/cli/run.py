"""``triptych run``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from triptych.cli.launch import with_fast_allocator
from triptych.cli.output import log_on_stderr
from triptych.foundation.errors import TriptychError

if TYPE_CHECKING:
    from triptych.training.distributed import Processes


def run(
    recipe: Annotated[
        str, typer.Argument(help="A config file (TOML or JSON), or a recipe: `triptych config recipes` lists them.")
    ],
    *,
    out: Annotated[Path, typer.Option(help="Run folder, e.g. runs/shop.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Override a field: a.b=value. May be repeated.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Encoders trained at a time, each on its share of the cores.")] = 1,
    data: Annotated[Path | None, typer.Option(help="Folder of the real data sets (default: TRIPTYCH_DATA).")] = None,
) -> None:
    """Run everything from tables to report; finished stages are skipped, interrupted ones resume.

    Started by torchrun, the processes train each encoder together: torchrun --nproc-per-node 2 -m triptych run …
    """
    with_fast_allocator()
    import os
    import shlex

    from triptych.recipes import resolve
    from triptych.recipes.pipeline import run_pipeline
    from triptych.training.distributed import Processes, join

    group = join()
    if isinstance(group, Processes) and group.rank > 0:
        _follow(group)
        return
    if data is not None:
        os.environ["TRIPTYCH_DATA"] = str(data.resolve())
    resolved = resolve(recipe, settings=settings or ())
    words = ["triptych", "run", recipe, "--out", str(out), *(w for s in settings or () for w in ("--set", s))]
    words += ["--jobs", str(jobs)] if jobs > 1 else []
    try:
        with log_on_stderr():
            run_pipeline(
                resolved.config, base=resolved.base, out=out, command=shlex.join(words), jobs=jobs, group=group
            )
    except KeyboardInterrupt:
        typer.echo("\ninterrupted; the same command goes on where it stopped", err=True)
        raise typer.Exit(130) from None
    group.tell(None)
    group.close()
    print(f"done: {out}    next: triptych report {out}    triptych serve {out}")


def _follow(group: Processes) -> None:
    """Train along with the first process, in silence; how it ends is for the first to tell."""
    import signal

    from triptych.recipes.encoders import follow_all
    from triptych.training.distributed import Parted

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the first, and with it goes the connection
    try:
        follow_all(group)
    except Parted:
        return
    except TriptychError as error:
        raise TriptychError(f"process {group.rank} of {group.size}: {error}") from None
    group.close()
