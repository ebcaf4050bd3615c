"""``triptych export``: a run's ranker as ONNX graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from triptych.cli.output import AsJson, print_json, print_table


def export(
    run: Annotated[Path, typer.Argument(help="Run folder, e.g. runs/shop.")],
    *,
    out: Annotated[Path | None, typer.Option(help="Folder to write to (default: exported_ranker/ of the run).")] = None,
    as_json: AsJson = False,
) -> None:
    """Write the ranker of a run as ONNX graphs, with all that is needed to serve it elsewhere.

    Prints what the graphs read and give; signature.json beside them says the same, and of which artefacts they are.
    """
    import json

    from triptych.ranker.export import SIGNATURE_FILE
    from triptych.recipes.export import export_run

    made = export_run(run, out=out)
    signature = json.loads(made.file(SIGNATURE_FILE).read_text(encoding="utf-8"))
    if as_json:
        print_json({"path": made.path, **signature})
        return
    for name, graph in signature["graphs"].items():
        rows = [
            {"": way, "name": one["name"], "type": one["dtype"], "shape": " × ".join(map(str, one["shape"]))}
            for way, ports in (("in", graph["inputs"]), ("out", graph["outputs"]))
            for one in ports
        ]
        print_table(rows, title=name)
    for name, about in made.manifest["files"].items():
        if "/" not in name:
            print(f"{name}  {about['bytes'] / 2**20:,.1f} MiB")
    print(made.path)
