"""``triptych config``: every field, its default, range, unit and meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from triptych.cli.output import AsJson, print_json, print_table

app = typer.Typer(help="Draft a config for your own tables; show recipes and settings.", no_args_is_help=True)

Settings = Annotated[list[str] | None, typer.Option("--set", help="Override a field: a.b=value. May be repeated.")]


@app.command()
def recipes(*, as_json: AsJson = False) -> None:
    """List the recipes."""
    from triptych.recipes import RECIPES

    rows = [{"recipe": name, "what": (recipe.__doc__ or "").splitlines()[0]} for name, recipe in RECIPES.items()]
    if as_json:
        print_json(rows)
    else:
        print_table(rows)


@app.command()
def show(
    recipe: Annotated[str, typer.Argument(help="A recipe, or a config file.")], *, settings: Settings = None
) -> None:
    """Print the resolved config as JSON; the output is itself a valid config file."""
    from triptych.recipes import resolve

    print(resolve(recipe, settings=settings or ()).config.to_json(), end="")


@app.command()
def fields(
    recipe: Annotated[str, typer.Argument(help="A recipe, or a config file.")] = "shop",
    *,
    match: Annotated[str, typer.Option(help="Only fields whose path contains this text.")] = "",
    as_json: AsJson = False,
) -> None:
    """List every field with type, default, range and meaning."""
    from triptych.foundation.config import describe
    from triptych.recipes import resolve

    rows = [row.model_dump() for row in describe(resolve(recipe, settings=()).config) if match in row.path]
    if as_json:
        print_json(rows)
    else:
        print_table(rows, whole=frozenset({"path"}))


@app.command()
def draft(
    *,
    items: Annotated[Path, typer.Option(help="Items table: file, glob or folder.")],
    events: Annotated[Path | None, typer.Option(help="Events table: file, glob or folder.")] = None,
    judgements: Annotated[Path | None, typer.Option(help="Judgements table: file, glob or folder.")] = None,
    photos: Annotated[Path | None, typer.Option(help="Folder of the photos.")] = None,
    out: Annotated[Path | None, typer.Option(help="Config file to write; left out: printed.")] = None,
) -> None:
    """Write a first config file for your own tables: what can be told is filled in, the rest is asked for."""
    from triptych.foundation.errors import ConfigError
    from triptych.recipes.draft import draft as drafted
    from triptych.recipes.tables import ASKED

    if out is not None and out.exists():
        raise ConfigError(f"--out {out}: the file exists, and nothing is overwritten. Name another one.")
    base = Path() if out is None else out.parent
    if not base.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {base}.")
    text = drafted(items=items, events=events, judgements=judgements, photos=photos, base=base)
    if out is None:
        print(text, end="")
        return
    out.write_text(text, encoding="utf-8")
    asked = sum(line.count(f'"{ASKED}"') for line in text.splitlines() if not line.startswith("#"))
    todo = f"{asked} to fill in, marked {ASKED}; then: " if asked else ""
    print(f"written: {out}    read it; {todo}triptych check {out}")


@app.command()
def check(path: Annotated[Path, typer.Argument(help="Config file.")], *, settings: Settings = None) -> None:
    """Check a config file without running it; with `--set`, as a run with the same ones would have it."""
    from triptych.recipes import resolve
    from triptych.recipes.tables import require_filled

    require_filled(resolve(str(path), settings=settings or ()).config)
    print(f"{path}: fine")
