"""Puts the report together: from rows and results to one HTML text."""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Mapping, Sequence
from string import Template
from typing import Any

from triptych.data.events import KIND_CODES
from triptych.evaluate import figures
from triptych.evaluate.compare import Column
from triptych.evaluate.definitions import METRICS, label, layout
from triptych.evaluate.page import opening, tables
from triptych.evaluate.page.base import Page
from triptych.evaluate.page.examples import Gallery
from triptych.evaluate.page.markup import command, definitions, figure, section, table, text
from triptych.evaluate.page.parts import parts_of
from triptych.evaluate.page.semantic_ids import semantic_ids_section
from triptych.evaluate.page.training import training_section
from triptych.evaluate.records import distinct, select, single
from triptych.evaluate.tasks.base import TaskResult
from triptych.evaluate.text_table import ONE_SEED, headline, table_columns
from triptych.foundation.artifact import Artifact, git_commit, package_version
from triptych.semantic_ids.stored import KIND as SEMANTIC_IDS
from triptych.training.log import LOG_FILE, read_log


def write_page(page: Page) -> str:
    """Write the whole report as one HTML text that needs nothing else."""
    body = "".join(_task(page, result, is_first=i == 0) for i, result in enumerate(page.results))
    body += _photos(page) + semantic_ids_section(page.inputs) + _training(page) + _data(page) + _provenance(page)
    links = [("results", "Results"), *((_anchor(one), one.task) for one in page.results[1:])]
    links += [("pictures", "Photos"), ("semantic-ids", "Semantic IDs"), ("training", "Training"), ("data", "Data")]
    links += [("provenance", "Origin")]
    return assemble(
        title=page.about["name"] or page.about["dataset"] or "report",
        chips=opening.chips(page),
        heading=page.about["dataset"] or page.about["name"] or "Search quality",
        sentence=opening.sentence(page),
        tiles=opening.tiles(page),
        links=links,
        body=body,
    )


def assemble(
    *, title: str, chips: str, heading: str, sentence: str, tiles: str, links: Sequence[tuple[str, str]], body: str
) -> str:
    """Put a page together from its pieces.

    Args:
        title: of the browser's window, as text.
        chips: what to know before reading a number, as HTML.
        heading: as text.
        sentence: the result, as HTML.
        tiles: the numbers that decide, as HTML.
        links: anchors of the sections with their names; those without a section are left out.
        body: the sections, as HTML.
    """
    folder = importlib.resources.files("triptych.evaluate.page")
    template = Template((folder / "report.html").read_text(encoding="utf-8"))
    return template.substitute(
        style=(folder / "report.css").read_text(encoding="utf-8"),
        title=text(title),
        chips=chips,
        heading=text(heading),
        sentence=sentence,
        tiles=tiles,
        nav="".join(
            f'<a href="#{anchor}">{text(words)}</a>' for anchor, words in links if f'<section id="{anchor}"' in body
        ),
        body=body,
        foot=text(f"triptych {package_version()} · {git_commit() or 'no git'}"),
    )


def _task(page: Page, result: TaskResult, *, is_first: bool) -> str:
    rows = select(page.rows, task=result.task)
    first = headline(rows, headline_k=page.config.headline_k)
    k, unit = page.config.headline_k, layout(result.task).unit
    slices = distinct(select(single(rows), metric=first.metric, k=first.k), "slice")
    everything = select(single(rows), slice="all")
    number = everything[0]["num_queries"] if everything else 0
    lead = (
        f"{number:,} {unit}; all shares in percent; small print: 95 % bootstrap "
        f"interval over {layout(result.task).over}. <b>Bold</b>: the best that can be had (not the ceiling, not a "
        "control)."
    )
    metrics = [column.metric for column in table_columns(rows, headline_k=k)]
    meanings = {label(one): result.meanings.get(one, METRICS[one].meaning) for one in metrics}
    one_seed = (
        f'<p class="warning">{text(ONE_SEED.replace("queries", layout(result.task).over))}</p>'
        if "one seed" in distinct(rows, "evidence")
        else ""
    )
    parts = [
        tables.main_table(rows, headline_k=k, main_model=page.config.model),
        one_seed,
        definitions(meanings),
        command(page.about["report_command"], what="prints this table"),
    ]
    if len(slices) > 1:
        parts.append(_slices(rows, result, first=first))
    claims = tables.claims_table(rows, headline_k=k)
    if claims and is_first:
        parts.append(
            f"<h3>Is it more than luck?</h3><p>Both models answer the same {unit}, so the bootstrap is paired. A claim "
            "<i>holds</i> when the whole interval agrees with it and <i>fails</i> when all of it contradicts it.</p>"
        )
    parts += [claims, tables.all_pairs(rows)]
    if is_first:
        parts.append(command(_with(page.about["report_command"], "--json"), what="prints every number as data"))
    return section("results" if is_first else _anchor(result), result.title, *parts, lead=lead)


def _anchor(result: TaskResult) -> str:
    return "task-" + "-".join(result.task.split())


def _with(line: str, flag: str) -> str:
    return f"{line} {flag}" if line else ""


def _slices(rows: Sequence[Mapping[str, Any]], result: TaskResult, *, first: Column) -> str:
    metric, unit = first.metric, layout(result.task).unit
    ks = [None] if first.k is None else sorted({first.k, max(distinct(select(single(rows), metric=metric), "k"))})
    over = "" if first.k is None else f", macro over the slice's {unit}"
    picture = figures.by_slice(rows, metric=metric, ks=ks)
    curve = figures.by_cutoff(rows, metric=metric)
    meanings = {name.replace("_", " "): meaning for name, meaning in result.definitions.items()}
    return (
        "<h3>Where it is good, and where not</h3>"
        + figure(
            picture,
            caption=f"Point: {label(metric)}{over}. Line: 95 % interval. Hollow: control or ceiling.",
        )
        + tables.slice_table(rows, metric=metric, ks=ks)
        + '<div class="halves">'
        + definitions(meanings)
        + figure(curve, caption=f"{label(metric)} over all {unit} against the number of results shown.", css="half")
        + "</div>"
    )


def _photos(page: Page) -> str:
    rankings = page.results[0].rankings
    if not page.examples or rankings is None:
        return ""
    gallery = Gallery(page.catalogue, rankings=rankings, config=page.config)
    judged = rankings.histories is None and page.catalogue.judgements is not None
    relevant = '<span class="key relevant">judged relevant, not chosen</span>' if judged else ""
    asked = "query" if rankings.histories is None else "user"
    key = (
        '<span class="key clicked">✓ chosen in the period</span>'
        f"{relevant}"
        '<span class="key brought">◆ brought by the picture</span>'
    )
    lead = f'The first eight results of two models for the same {asked}. <span class="keys">{key}</span>'
    return section("pictures", "What it looks like", gallery.section(page.examples), lead=lead)


def _training(page: Page) -> str:
    """Show the encoders' logs."""
    # A quantiser's loss is of another kind than those of models that rank.
    inputs = {
        name: one for name, one in page.inputs.items() if not isinstance(one, Artifact) or one.kind != SEMANTIC_IDS
    }
    return training_section(training_logs(inputs, models=distinct(single(page.rows), "model")))


def training_logs(inputs: Mapping[str, Artifact | str], *, models: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Read the training log of every encoder among the inputs.

    Args:
        inputs: Name → artefact. An encoder's name ends with its model's, perhaps with a seed: `encoder/title+photo/1`.
        models: The models' names.

    Returns:
        `title+photo/1` → its log lines.
    """
    logs: dict[str, list[dict[str, Any]]] = {}
    for name, artifact in inputs.items():
        if not isinstance(artifact, Artifact) or LOG_FILE not in artifact.manifest["files"]:
            continue
        short = name.removeprefix("encoder").lstrip(":/_.- ")
        model = max((one for one in models if short.startswith(one)), key=len, default=short)
        rest = short.removeprefix(model).lstrip(":/_.- ")
        logs[f"{model}/{rest}" if rest else model] = list(read_log(artifact.file(LOG_FILE)))
    return logs


def _data(page: Page) -> str:
    about = page.about
    catalogue = page.catalogue
    with_photo = float(catalogue.photos.has.mean()) if catalogue.num_items else 0.0
    with_title = sum(1 for title in catalogue.titles if title) / max(1, catalogue.num_items)
    kinds: dict[int, int] = dict(catalogue.events["kind"].value_counts().iter_rows())
    counts = {"users": catalogue.num_users, "query strings": catalogue.num_queries}
    shares = f"{100 * with_photo:.1f} % with a photo, {100 * with_title:.1f} % with a title"
    facts = {
        "items": f"{catalogue.num_items:,} ({shares})",
        **{name: f"{number:,}" for name, number in counts.items() if number},
        **{f"{kind}s": f"{kinds[code]:,}" for kind, code in KIND_CODES.items() if code in kinds},
    }
    if catalogue.judgements is not None:
        facts["judgements"] = f"{len(catalogue.judgements):,}"
    rejected = {name: rows for name, rows in catalogue.artifact.summary.get("rejected", {}).items() if rows}
    if rejected:
        facts["set aside as faulty"] = ", ".join(f"{rows:,} rows of {name}" for name, rows in rejected.items())
    facts |= {name: about[name] for name in ("source", "licence") if about[name]}
    if about["simulated"]:
        facts["behaviour"] = "simulated: queries, impressions, clicks and orders come from simulated shoppers"
    faults = tables.faults_table(about["faults"])
    return section(
        "data",
        "Data",
        definitions(facts),
        "" if page.split is None else parts_of(page.split, config=page.config),
        f"<h3>What the check of the tables found</h3>{faults}" if faults else "",
    )


def _provenance(page: Page) -> str:
    rows = [
        [text(name), text(one.kind if isinstance(one, Artifact) else "fingerprint"), f"<code>{text(_id(one))}</code>"]
        for name, one in page.inputs.items()
    ]
    settings = json.dumps(page.config.dump(), indent=2, ensure_ascii=False)
    return section(
        "provenance",
        "Origin",
        command(page.about["run_command"], what="makes everything again"),
        command(page.about["report_command"], what="prints the tables"),
        table(["Input", "Kind", "Id"], rows, css="plain") if rows else "",
        f"<details><summary>Settings of the evaluation</summary><pre>{text(settings)}</pre></details>",
        lead="Every number follows from these artefacts and settings.",
    )


def _id(one: Artifact | str) -> str:
    return one.id if isinstance(one, Artifact) else one
