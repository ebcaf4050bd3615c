"""``triptych report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from triptych.cli.output import AsJson, print_json, print_table
from triptych.cli.reproduce import print_made
from triptych.cli.semantic_ids import print_quality


def report(
    run: Annotated[Path, typer.Argument(help="Run folder, e.g. runs/shop.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Print the tables of a finished run, or of a paper's table made again, and where its HTML report is."""
    from triptych.evaluate.report import read_records, text_tables
    from triptych.recipes.reproduce.harness import finished_table
    from triptych.recipes.run_folder import RunFolder
    from triptych.recipes.served import KIND, words_of
    from triptych.semantic_ids.stored import KIND as SEMANTIC_IDS
    from triptych.semantic_ids.stored import read_quality

    if (made := finished_table(RunFolder.existing(run))) is not None:
        print_made(made, out=run, as_json=as_json)
        return
    artifact = RunFolder.existing(run).stage("report")
    records = read_records(artifact)
    if as_json:
        print_json(records)
        return
    for table in text_tables(records, headline_k=artifact.summary["headline_k"]):
        print_table(table.rows, title=table.title, right=frozenset(table.rows[0]) - {"model", "slice"})
        if table.note:
            print(table.note)
        print()
    own = set(artifact.inputs.values())
    for name, place in RunFolder.existing(run).stages().items():
        if Path(place).parent.name == SEMANTIC_IDS and Path(place).name in own:
            print_quality(read_quality(RunFolder.existing(run).stage(name)), title=name)
            print()
    if KIND in (folder := RunFolder.existing(run)).stages():
        print(f"serves {words_of(folder.stage(KIND))}")
    print(f"report with pictures: {artifact.file('report.html')}")
