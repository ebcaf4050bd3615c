"""The report: an artefact with every number (`records.json`, `per_query.parquet`) and one HTML file that shows them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from triptych.data.catalogue import Catalogue
from triptych.data.splits import Split
from triptych.evaluate.examples import choose_examples
from triptych.evaluate.page.base import Page
from triptych.evaluate.page.layout import write_page
from triptych.evaluate.records import select, single, to_rows
from triptych.evaluate.tasks import search
from triptych.evaluate.tasks.base import EvaluationConfig, Models, TaskResult
from triptych.evaluate.text_table import text_tables
from triptych.foundation.artifact import Artifact, produce, write_json
from triptych.foundation.errors import ArtifactError

__all__ = ["About", "EvaluationConfig", "read_records", "run", "text_tables"]

KIND = "report"
RECORDS = "records.json"
PER_QUERY = "per_query.parquet"
HTML = "report.html"


@dataclass(frozen=True)
class About:
    """What the report says about the run besides its numbers. None of it changes a number or the artefact's id."""

    name: str = ""
    """Of the run."""
    dataset: str = ""
    """What the catalogue holds, in a few words."""
    source: str = ""
    """Where the data come from."""
    licence: str = ""
    simulated: bool = False
    """Whether the behaviour is simulated; every record and every table then says so."""
    run_command: str = ""
    """The command that makes everything again, e.g. `triptych run fashion --out runs/fashion`."""
    report_command: str = ""
    """The command that prints the tables, e.g. `triptych report runs/fashion`."""
    faults: Sequence[Mapping[str, Any]] = ()
    """What the check of the tables found: one row for each fault, the same keys in each."""


def run(
    config: EvaluationConfig,
    *,
    catalogue: Catalogue,
    split: Split,
    retrievers: Models | Callable[[], Models],
    inputs: Mapping[str, Artifact | str],
    out: Path,
    about: About | None = None,
    more: Sequence[Callable[[], TaskResult]] = (),
) -> Artifact:
    """Evaluate retrievers and write the report, or open it where it is finished already.

    Args:
        config: Cut-offs, resamples, claims, examples.
        catalogue: Items, queries, judgements, photos.
        split: The periods.
        retrievers: Model name → retriever, or one for each seed; or a function that loads them, called only when the
            report is not there yet.
        inputs: Everything the numbers depend on: catalogue, split, and what the retrievers and `more` are made of. An
            encoder's `train.jsonl` is drawn as its training curve.
        out: The stage's folder.
        about: Words for the page.
        more: Further tasks to run and show, such as photo → item.

    Returns:
        Artefact of kind `report` with `records.json`, `per_query.parquet` and `report.html`.

    Raises:
        DataError: The held-out period has no query with a click.
    """

    def build(folder: Path) -> Mapping[str, Any]:
        words = about or About()
        models = retrievers() if callable(retrievers) else retrievers
        results = [search.evaluate(models, catalogue=catalogue, split=split, config=config)]
        results += [task() for task in more]
        rows = to_rows((record for result in results for record in result.records), simulated=words.simulated)
        write_json(folder / RECORDS, rows)
        frames = [one.per_query.select(pl.lit(one.task).alias("task"), pl.all()) for one in results]
        pl.concat(frames, how="diagonal").write_parquet(folder / PER_QUERY)
        page = Page(
            config=config,
            rows=rows,
            results=results,
            catalogue=catalogue,
            split=split,
            inputs=inputs,
            about=vars(words),
            examples=choose_examples(results[0].rankings, config=config) if results[0].rankings else [],
        )
        (folder / HTML).write_text(write_page(page), encoding="utf-8")
        return summary(rows, config=config, simulated=words.simulated)

    return produce(out, kind=KIND, config=config, inputs=inputs, build=build)


def read_records(artifact: Artifact) -> list[dict[str, Any]]:
    """Read the records of a report: what `triptych report DIR --json` prints.

    Raises:
        ArtifactError: it was written by an earlier version, whose records do not say whether behaviour is simulated.
    """
    rows: list[dict[str, Any]] = json.loads(artifact.file(RECORDS).read_text(encoding="utf-8"))
    if not all("simulated" in row for row in rows):
        raise ArtifactError(
            f"Report {str(artifact.path)!r} was written by an earlier version and does not say whether its behaviour "
            "is simulated. Delete the folder and run again: triptych run."
        )
    return rows


def summary(rows: Sequence[Mapping[str, Any]], *, config: EvaluationConfig, simulated: bool) -> dict[str, Any]:
    """Sum up a report for its manifest: what to show first, and that metric of each model over all queries."""
    found = select(single(rows), task=search.TASK, slice="all", metric="recall", k=config.headline_k)
    return {
        "queries": found[0]["num_queries"] if found else 0,
        "split": config.part.value,
        "headline_k": config.headline_k,
        "simulated": simulated,
        f"recall@{config.headline_k}": {row["model"]: round(row["value"], 6) for row in found},
    }
