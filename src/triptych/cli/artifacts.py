"""``triptych artifacts``: what a run has left on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from triptych.cli.output import AsJson, print_json, print_table

app = typer.Typer(help="List, show, check and prune what a run has left on disk.", no_args_is_help=True)

Run = Annotated[Path, typer.Argument(help="Run folder, e.g. runs/shop.")]


@app.command("list")
def list_artifacts(run: Run, *, as_json: AsJson = False) -> None:
    """List the artefacts of a run with kind, id, whose they are, size and age; `*` marks those of the latest run."""
    from triptych.recipes.run_folder import RunFolder

    rows = RunFolder.existing(run).rows()
    if as_json:
        print_json(rows)
        return
    for row in rows:  # to the minute, so that a line of the table is a line
        row["created (UTC)"] = row.pop("created")[:16].replace("T", " ")
    print_table(rows, right=frozenset({"size_mib", "seconds"}), whole=frozenset({"artifact"}))


@app.command()
def show(artifact: Annotated[Path, typer.Argument(help="Artefact folder.")]) -> None:
    """Print an artefact's manifest: config, inputs, files, summary."""
    from triptych.foundation.artifact import Artifact

    print_json(Artifact.open(artifact).manifest)


@app.command()
def verify(run: Run) -> None:
    """Compare every file of every artefact with its checksum."""
    from triptych.recipes.run_folder import RunFolder

    artifacts = list(RunFolder.existing(run).artifacts())
    for artifact in artifacts:
        artifact.verify()
    print(f"{len(artifacts)} artefacts, every file as it was written")


@app.command()
def tree(run: Run, *, as_json: AsJson = False) -> None:
    """Print which artefact was made from which."""
    from triptych.recipes.run_folder import RunFolder

    folder = RunFolder.existing(run)
    if as_json:
        print_json({stage: folder.stage(stage).inputs for stage in folder.stages()})
        return
    for line in folder.tree():
        print(line)


@app.command()
def prune(
    run: Run,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it, only say what would go.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete artefacts the latest run does not use, and what interrupted runs left."""
    from triptych.recipes.run_folder import RunFolder

    gone = RunFolder.existing(run).prune(delete=yes)
    if as_json:
        print_json([{"path": str(path), "bytes": size, "deleted": yes} for path, size in gone])
        return
    for path, size in gone:
        print(f"{'deleted' if yes else 'would delete'} {path}  {size / 2**20:,.1f} MiB")
    if not gone:
        print("nothing to delete")
    elif not yes:
        print("add --yes to delete")
