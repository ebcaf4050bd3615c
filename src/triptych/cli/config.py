"""``triptych config``: every field, its default, range, unit and meaning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from triptych.cli.output import AsJson, print_json, print_table

if TYPE_CHECKING:
    from triptych.foundation.config import Config
    from triptych.foundation.errors import ConfigError

app = typer.Typer(help="Draft a config for your own tables; show recipes and settings.", no_args_is_help=True)

MOST_NAMED = 4
"""Kinds that an error names."""

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
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """List every field with type, default, range and meaning.

    A section with a kind has the fields of the kind that is set: --set ranker.content.kind=em3 lists those of em3.
    """
    from triptych.foundation.config import choices, describe
    from triptych.recipes import resolve

    config = resolve(recipe, settings=settings or ()).config
    rows = [row.model_dump() for row in describe(config) if match in row.path]
    if not rows:
        raise _no_field(config, match=match, recipe=recipe)
    if as_json:
        print_json(rows)
        return
    print_table(rows, whole=frozenset({"path"}))
    paths = {row["path"] for row in rows}
    for place, choice, chosen in choices(config):
        if {place, f"{place}.kind"} & paths:
            other = next(kind for kind in choice.kinds() if kind != chosen)
            print(
                f"Fields of another kind: triptych config fields {recipe} --set {place}.kind={other} --match {place}."
            )
            break


def _no_field(config: Config, *, match: str, recipe: str) -> ConfigError:
    """Say where the field may be that is not among those of a config: with another kind, or by another name."""
    from triptych.foundation.config import describe, elsewhere
    from triptych.foundation.errors import ConfigError, did_you_mean

    found = list(elsewhere(config, match=match))
    if not found:
        paths = [row.path for row in describe(config)]
        near = paths if "." in match else sorted({part for path in paths for part in path.split(".")})
        return ConfigError(f"--match: no field of '{recipe}' contains '{match}'.{did_you_mean(match, near)}")
    where = list(dict.fromkeys(f"{one.place}.kind = '{one.kind}'" for one in found))
    more = f" and {len(where) - MOST_NAMED} more" if len(where) > MOST_NAMED else ""
    first = found[0]
    return ConfigError(
        f"--match: no field of '{recipe}' as it is set contains '{match}'; with {', '.join(where[:MOST_NAMED])}{more} "
        f"there is one: triptych config fields {recipe} --set {first.place}.kind={first.kind} --match {first.path}"
    )


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
