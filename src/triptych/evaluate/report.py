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
from triptych.evaluate.definitions import layout
from triptych.evaluate.examples import choose_examples
from triptych.evaluate.page.base import Page
from triptych.evaluate.page.layout import write_page
from triptych.evaluate.records import select, single, to_rows
from triptych.evaluate.tasks.base import EvaluationConfig, TaskResult
from triptych.evaluate.text_table import headline, text_tables
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
    chosen: str = ""
    """Which training the validation part chose to be served, and what each found there; empty: none was chosen."""
    faults: Sequence[Mapping[str, Any]] = ()
    """What the check of the tables found: one row for each fault, the same keys in each."""


def run(
    config: EvaluationConfig,
    *,
    catalogue: Catalogue,
    split: Split | None,
    tasks: Sequence[Callable[[], TaskResult]],
    inputs: Mapping[str, Artifact | str],
    out: Path,
    about: About | None = None,
) -> Artifact:
    """Run evaluation tasks and write the report, or open it where it is finished already.

    Args:
        config: Cut-offs, resamples, claims, examples.
        catalogue: Items, queries, judgements, photos.
        split: The parts; None where no task speaks of any.
        tasks: At least one, called only when the report is not there yet. The first is shown first, with examples.
        inputs: Everything the numbers depend on: catalogue, split, and what the tasks' models are made of. An encoder's
            `train.jsonl` is drawn as its training curve.
        out: The stage's folder.
        about: Words for the page.

    Returns:
        Artefact of kind `report` with `records.json`, `per_query.parquet` and `report.html`.

    Raises:
        DataError: A task has nothing to measure.
    """

    def build(folder: Path) -> Mapping[str, Any]:
        words = about or About()
        results = [task() for task in tasks]
        rows = to_rows(
            (record for result in results for record in result.records),
            simulated=words.simulated,
            caution=split.caution if split is not None else "",
        )
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
        return summary(select(rows, task=results[0].task), config=config, simulated=words.simulated)

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
    """Sum up a report for its manifest: what to show first, and that metric of each model over all queries.

    Args:
        rows: of the report's first task.
        config: its cut-offs.
        simulated: whether behaviour is simulated.
    """
    metric, k = headline(rows, headline_k=config.headline_k)
    found = select(single(rows), slice="all", metric=metric, k=k)
    return {
        layout(found[0]["task"]).unit if found else "queries": found[0]["num_queries"] if found else 0,
        "split": config.part.value,
        "headline_k": config.headline_k,
        "simulated": simulated,
        f"{metric}@{k}": {row["model"]: round(row["value"], 6) for row in found},
    }
