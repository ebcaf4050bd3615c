"""The report's tables: models × metrics, paired comparisons, what stands in the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from triptych.evaluate.compare import Column
from triptych.evaluate.definitions import METRICS, label, layout
from triptych.evaluate.figures import forest, forest_scale
from triptych.evaluate.page.markup import chip, table, text
from triptych.evaluate.palette import variables
from triptych.evaluate.records import Role, cautions, distinct, paired, role_of, select, single
from triptych.evaluate.text_table import (
    headline,
    interval_text,
    ordered_models,
    shown_pairs,
    table_columns,
    value_text,
)

Row = Mapping[str, Any]
Rows = Sequence[Row]

_ROLE_HINTS = {
    Role.BASELINE: "Trivial, nothing trained.",
    Role.CEILING: "Knows the true grades: what could be had at most.",
    Role.CONTROL: "Trained with its photos shuffled over the items: its gain over the title must vanish.",
}
_VERDICT_HINTS = {
    "holds": "The whole interval agrees with the claim.",
    "fails": "The whole interval contradicts the claim.",
    "undecided": "The interval has values on both sides of the claim.",
}


def model_name(model: str, *, colours: Mapping[str, str]) -> str:
    """A model's name behind a dot in its colour, with its role where it has a special one."""
    role = role_of(model)
    tag = chip(role.value, css="role", title=_ROLE_HINTS[role]) if role in _ROLE_HINTS else ""
    hollow = " hollow" if role in (Role.CEILING, Role.CONTROL) else ""
    return f'<span class="model{hollow}" style="--c:var({colours[model]})"><i></i>{text(model)}</span>{tag}'


def main_table(rows: Rows, *, headline_k: int, main_model: str) -> str:
    """Models × metrics over all queries; the best of those that can be had is bold, the headline has a bar."""
    first = headline(rows, headline_k=headline_k)
    found = select(single(rows), slice="all")
    columns, models = table_columns(rows, headline_k=headline_k), ordered_models(rows)
    cells = {(row["model"], Column(row["metric"], row["k"])): row for row in found}
    best = {column: _best(cells, models, column) for column in columns}
    largest = max((cells[model, first]["value"] for model in models if (model, first) in cells), default=0.0)
    head = ["Model", *(_metric_head(column, is_headline=column == first) for column in columns)]
    colours = variables(models)
    body = [
        [
            model_name(model, colours=colours),
            *(
                _cell(
                    cells.get((model, column)),
                    is_best=best[column] == model,
                    scale=largest if column == first else None,
                )
                for column in columns
            ),
        ]
        for model in models
    ]
    row_css = [f"is-{'main' if model == main_model else role_of(model).value}" for model in models]
    return table(head, body, css="numbers main-table", row_css=row_css, caption=cautions(rows))


def _best(cells: Mapping[tuple[str, Column], Row], models: Sequence[str], column: Column) -> str | None:
    if column.metric in METRICS and not METRICS[column.metric].is_goal:
        return None
    rivals = [model for model in models if role_of(model) in (Role.MODEL, Role.BASELINE) and (model, column) in cells]
    return max(rivals, key=lambda model: cells[model, column]["value"], default=None) if len(rivals) > 1 else None


def _metric_head(column: Column, *, is_headline: bool) -> str:
    definition = METRICS.get(column.metric)
    name = definition.label if definition else column.metric
    meaning = definition.meaning if definition else ""
    words = f'<abbr title="{text(meaning)}">{text(name)}</abbr>{_cut(column.k)}'
    return f"<strong>{words}</strong>" if is_headline else words


def _cut(k: int | None) -> str:
    """Write a cut-off; "" where there is none."""
    return "" if k is None else f"<small>@{k}</small>"


def _cell(row: Row | None, *, is_best: bool, scale: float | None) -> str:
    if row is None:
        return '<span class="none">–</span>'
    value = f"<b>{value_text(row)}</b>" if is_best else value_text(row)
    bar = "" if not scale else f'<span class="bar"><i style="width:{100 * row["value"] / scale:.1f}%"></i></span>'
    seeds = ""
    if len(row["seed_values"]) > 1 and scale:
        seeds = f'<small class="seeds">seeds {" · ".join(f"{100 * one:.1f}" for one in row["seed_values"])}</small>'
    return f'<span class="value">{value}</span>{_interval(row)}{seeds}{bar}'


def _interval(row: Row) -> str:
    words = interval_text(row, between=" to " if "baseline" in row else " – ")
    return f'<small class="interval">{words or "&nbsp;"}</small>'


def verdict_chip(row: Row) -> str:
    """What the interval says of the claim, in colour; with one seed the frame is dashed."""
    if row["verdict"] is None:
        return '<span class="none">no claim</span>'
    weak = " weak" if row["evidence"] == "one seed" else ""
    hint = _VERDICT_HINTS[row["verdict"]] + (" One seed is never evidence." if weak else "")
    return chip(row["verdict"], css=f"verdict {row['verdict']}{weak}", title=hint)


def claims_table(rows: Rows, *, headline_k: int) -> str:
    """The comparisons that carry a claim: differences over all queries, and the ratios about the picture."""
    shown = shown_pairs(rows, headline_k=headline_k)
    parts = []
    for kind, heading in (("difference", "Difference"), ("ratio", "Ratio")):
        own = [row for row in shown if row["kind"] == kind]
        if own:
            parts.append(_pairs_table(own, kind=kind, heading=heading))
    return "".join(parts)


def all_pairs(rows: Rows) -> str:
    """Every comparison, folded away."""
    found = paired(rows)
    parts = [
        _pairs_table(select(found, kind=kind), kind=kind, heading=heading)
        for kind, heading in (("difference", "Difference"), ("ratio", "Ratio"))
        if select(found, kind=kind)
    ]
    if not parts:
        return ""
    return f"<details><summary>All {len(found)} comparisons, by slice and cut-off</summary>{''.join(parts)}</details>"


def _pairs_table(rows: Rows, *, kind: str, heading: str) -> str:
    place = forest_scale(rows, kind=kind)
    sign = "−" if kind == "difference" else "/"
    colours = variables({model for row in rows for model in (row["model"], row["baseline"])})
    body = [
        [
            _pair_name(row, sign=sign, colour=colours[row["model"]]),
            f'<span class="slice">{text(row["slice"].replace("_", " "))}</span>',
            text(label(row["metric"], row["k"])),
            f'<span class="value">{value_text(row)}</span>{_interval(row)}',
            f'<span style="--c:var({colours[row["model"]]})">{forest(row, place=place)}</span>',
            f"{row['num_queries']:,}",
            text(row["claim"] or ""),
            verdict_chip(row),
        ]
        for row in rows
    ]
    unit = "points" if kind == "difference" else "×"
    head = [
        heading,
        "Slice",
        "Metric",
        f"{heading}, {unit}",
        f"<small>dashes: {'0' if kind == 'difference' else '1×'}; right of it is better</small>",
        layout(rows[0]["task"]).unit.capitalize(),
        "Claim",
        "Verdict",
    ]
    return table(head, body, css="numbers pairs", caption=cautions(rows))


def _pair_name(row: Row, *, sign: str, colour: str) -> str:
    model = f'<span class="model" style="--c:var({colour})"><i></i>{text(row["model"])}</span>'
    return f'<span class="pair">{model} <em>{sign}</em> {text(row["baseline"])}</span>'


def slice_table(rows: Rows, *, metric: str, ks: Sequence[int | None]) -> str:
    """One metric of every model on every slice, for reading off what the figure shows."""
    found = select(single(rows), metric=metric)
    slices, models = distinct(found, "slice"), ordered_models(rows)
    colours = variables(models)
    head = ["Model", *(f"{text(name.replace('_', ' '))}{_cut(k)}" for name in slices for k in ks)]
    body = []
    for model in models:
        cells = [select(found, model=model, slice=name, k=k) for name in slices for k in ks]
        values = (_cell(cell[0] if cell else None, is_best=False, scale=None) for cell in cells)
        body.append([model_name(model, colours=colours), *values])
    shown = table(head, body, css="numbers", caption=cautions(rows))
    return f"<details><summary>The same as a table</summary>{shown}</details>"


def faults_table(faults: Sequence[Mapping[str, Any]]) -> str:
    """What the check of the tables found, one line for each fault."""
    if not faults:
        return ""
    names = list(faults[0])
    head = [text(name.replace("_", " ")) for name in names]
    return table(head, [[text(_plain(fault[name])) for name in names] for fault in faults], css="plain")


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(str(one) for one in value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
