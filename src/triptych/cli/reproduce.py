"""``triptych reproduce``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from triptych.cli.launch import with_fast_allocator
from triptych.cli.output import AsJson, log_on_stderr, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from triptych.data.schema import Part
    from triptych.foundation.artifact import Artifact
    from triptych.recipes.reproduce.base import Size, Table


def reproduce(
    name: Annotated[str | None, typer.Argument(help="The table; left out, the tables are listed.")] = None,
    *,
    part: Annotated[
        str | None,
        typer.Option(help="One part of a table that is made in several; left out, all, one after the other."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Run folder (default: runs/NAME-full or runs/NAME-quick); of all parts, the folder of theirs."
        ),
    ] = None,
    quick: Annotated[bool, typer.Option(help="Some rows, small models, one seed, the generated shop.")] = False,
    validation_only: Annotated[
        bool, typer.Option(help="Stop at the validation part: the test part is not read.")
    ] = False,
    trials_only: Annotated[bool, typer.Option(help="Stop when every row has been tried.")] = False,
    choices: Annotated[
        Path | None,
        typer.Option(help="choices.json or result.json of an earlier making: take its choices, try nothing."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Override a field: a.b=value; pretrain.a.b=, recall.a.b=, ranker.a.b=value in every row. "
            "May be repeated.",
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Encoders trained at a time, each on its share of the cores.")] = 1,
    data: Annotated[Path | None, typer.Option(help="Folder of the real data sets (default: TRIPTYCH_DATA).")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a paper's table again: rows, trials, seeds, and the verdict of each claim; what is finished is kept."""
    if name is None:
        _list(as_json=as_json)
        return
    with_fast_allocator()
    import os
    import shlex
    import sys

    from triptych.data.schema import Part
    from triptych.recipes.reproduce import find_tables, harness
    from triptych.recipes.reproduce.base import Size

    tables = find_tables(name, part=part)
    size, measured = Size.QUICK if quick else Size.FULL, Part.VALIDATION if validation_only else Part.TEST
    if data is not None:
        os.environ["TRIPTYCH_DATA"] = str(data.resolve())
    out = out or Path("runs") / "-".join(filter(None, [name, part, size.value]))
    folders = {out / each if len(tables) > 1 else out: table for each, table in tables.items()}
    if len(tables) > 1:
        _check_all(tables, out=out, size=size, measured=measured, settings=settings or (), choices=choices)
    finished = {}
    for folder, table in folders.items():
        try:
            with log_on_stderr():
                made = harness.reproduce(
                    table,
                    out=folder,
                    base=Path.cwd(),
                    size=size,
                    part=measured,
                    settings=settings or (),
                    jobs=jobs,
                    command=shlex.join(["triptych", *sys.argv[1:]]),
                    choices=choices,
                    trials_only=trials_only,
                )
        except KeyboardInterrupt:
            typer.echo("\ninterrupted; the same command goes on where it stopped", err=True)
            raise typer.Exit(130) from None
        finished[folder] = _read(made, trials_only=trials_only)
        if as_json:
            continue
        if len(tables) > 1:
            print(f"{table.name}: {table.title}\n")
        if trials_only:
            _print_choices(finished[folder], out=folder)
        else:
            print_made(made, out=folder, as_json=False)
    if as_json:
        print_json(finished[out] if len(tables) == 1 else {folder.name: tree for folder, tree in finished.items()})


def _check_all(
    tables: Mapping[str, Table], *, out: Path, size: Size, measured: Part, settings: Sequence[str], choices: Path | None
) -> None:
    """Refuse what not every part of a table can be made with, before hours of the first.

    Raises:
        ConfigError: it is of one part, or no place for several.
    """
    from triptych.foundation.errors import ConfigError
    from triptych.recipes.reproduce.plans import resolve
    from triptych.recipes.run_folder import RunFolder

    if choices is not None:
        raise ConfigError(f"--choices are those of one part. Name it: --part {' or --part '.join(tables)}.")
    if (found := RunFolder(out).recipe) is not None:
        raise ConfigError(
            f"--out '{out}' holds a run of '{found}', and all parts are made in folders of their own below it. "
            "Choose another folder, or name a --part."
        )
    for part, table in tables.items():
        try:
            resolve(table, size=size, part=measured, settings=settings)
        except ConfigError as error:
            raise ConfigError(f"--part {part}: {error} Or make the parts one by one.") from None


def _list(*, as_json: bool) -> None:
    from triptych.recipes.reproduce import TABLES
    from triptych.recipes.reproduce.base import Size

    rows = [
        {"table": key, "shows": table.title, **{f"{size} form, hours": table.form(size).hours for size in Size}}
        for key, table in ((key, make()) for key, make in TABLES.items())
    ]
    if as_json:
        print_json(rows)
        return
    print_table(rows, whole=frozenset({"table"}), right=frozenset({"full form, hours", "quick form, hours"}))
    print("hours: about, on two cores; triptych reproduce TABLE [--quick]")


def _read(made: Artifact, *, trials_only: bool) -> dict[str, Any]:
    """Read what a making says of itself: its choices, or its result."""
    import json

    from triptych.recipes.reproduce.choices import FILE
    from triptych.recipes.reproduce.harness import RESULT

    tree: dict[str, Any] = json.loads(made.file(FILE if trials_only else RESULT).read_text(encoding="utf-8"))
    return tree


def _print_choices(tree: Mapping[str, Any], *, out: Path) -> None:
    from triptych.recipes.reproduce.choices import FILE

    column = f"{tree['headline']}, validation"
    rows = [
        {
            "row": row if place == 0 else "",
            "settings": " ".join(trial["settings"]) or "as it is",
            column: f"{100 * trial['validation']:.1f}",
            "": "chosen" if trial["settings"] == own["chosen"] else "",
        }
        for row, own in tree["rows"].items()
        for place, trial in enumerate(own["trials"])
    ]
    print_table(rows, title="trials, in %", right=frozenset({column}), whole=frozenset({"row", column, ""}))
    print(f"go on: --choices {out / FILE}")


def print_made(made: Artifact, *, out: Path, as_json: bool) -> None:
    """Print a finished table; `out` is its run folder."""
    import json

    from triptych.evaluate.text_table import text_tables
    from triptych.recipes.reproduce.harness import HTML, RECORDS, RESULT
    from triptych.recipes.reproduce.result import agreement_rows, cost_rows, table_rows

    result = json.loads(made.file(RESULT).read_text(encoding="utf-8"))
    if as_json:
        print_json(result)
        return
    records = json.loads(made.file(RECORDS).read_text(encoding="utf-8"))
    for shown in text_tables(records, headline_k=result["settings"]["evaluation"]["headline_k"]):
        print_table(shown.rows, title=shown.title, right=frozenset(shown.rows[0]) - {"model", "slice"})
        if shown.note:
            print(shown.note)
        print()
    whole = frozenset({"slice", "metric", "difference", "seeds", "verdict", "evidence"})
    print_table(table_rows(result), title="claims, in points", right=frozenset({"difference", "seeds"}), whole=whole)
    if costs := cost_rows(result):
        print_table(costs, title="costs, of this machine", right=frozenset(costs[0]) - {"row"})
    if agreed := agreement_rows(result):
        print_table(agreed, title="semantic IDs of other seeds")
    for claim, why in result["settings"]["claims_left_out"].items():
        print(f"not judged: {claim} ({why})")
    print(f"result: {out / RESULT}    page: {out / HTML}")
