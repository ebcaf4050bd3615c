"""Records as tables of text: what `triptych report` prints, and the words the HTML report shares with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from triptych.evaluate.compare import Column
from triptych.evaluate.definitions import METRICS, is_share, layout
from triptych.evaluate.records import Role, cautions, distinct, paired, role_of, select, single

Row = Mapping[str, Any]
Rows = Sequence[Row]

HEADLINE_K = 20
_SHORT = {
    "recall": "R",
    "ndcg": "NDCG",
    "mrr": "MRR",
    "ndcg_judged": "NDCG judged",
    "ndcg_catalogue": "NDCG all",
    "unjudged": "unjudged",
    "gauc": "GAUC",
    "auc": "AUC",
    "log_loss": "log loss",
    "calibration_error": "ECE",
    "predicted_over_observed": "pred/obs",
}
"""What a terminal has room for."""
_ORDER = (Role.BASELINE, Role.MODEL, Role.CONTROL, Role.CEILING)
WIDEST, GAP = 132, 3
"""Columns of a terminal that a table may take, and those between two of the table's own."""
ONE_SEED = "Trained with one seed: the intervals speak of queries, not of training luck. One seed is never evidence."


class TextTable(NamedTuple):
    """A table to print."""

    title: str
    rows: list[dict[str, str]]
    """The same columns in every row."""
    note: str
    """A sentence below the table, or ""."""


def text_tables(rows: Rows, *, headline_k: int = HEADLINE_K) -> list[TextTable]:
    """Turn records into the tables a terminal shows: for each task the models, the slices, the verdicts.

    The note below each says whether behaviour is simulated, and what the split lets through.

    Args:
        rows: Records as read from `records.json`.
        headline_k: The cut-off shown with its interval, as the report's summary has it; where a task does not have it,
            its largest stands in.
    """
    tables: list[TextTable] = []
    for task in distinct(rows, "task"):
        own = select(rows, task=task)
        for split in distinct(own, "split"):
            tables += _tables_of(select(own, split=split), task=task, split=split, headline_k=headline_k)
    return [table for table in tables if table.rows]


def _tables_of(rows: Rows, *, task: str, split: str, headline_k: int) -> list[TextTable]:
    first = headline(rows, headline_k=headline_k)
    name, unit, over = f"{task}, {split}", layout(task).unit, layout(task).over
    models = ordered_models(rows)
    everything = select(single(rows), slice="all")
    number = everything[0]["num_queries"] if everything else 0
    columns = [column for column in table_columns(rows, headline_k=headline_k) if column.metric in _SHORT]
    main = [
        {"model": model, **{_short(column): _cell(everything, model, column, first=first) for column in columns}}
        for model in models
    ]
    slices = distinct(select(single(rows), metric=first.metric, k=first.k), "slice")
    note = cautions(rows)
    one_seed = ONE_SEED.replace("queries", over) if "one seed" in distinct(rows, "evidence") else ""
    return [
        TextTable(
            f"{name}: {number:,} {unit}, in %, [95 % interval over {over}]",
            main,
            " ".join(filter(None, [note, one_seed])),
        ),
        TextTable(
            f"{name}: {_short(first)} by slice, in %",
            _by_slice(rows, slices, models=models, column=first) if len(slices) > 1 else [],
            note,
        ),
        TextTable(
            f"{name}: paired comparisons",
            [_verdict_row(row) for row in shown_pairs(rows, headline_k=headline_k)],
            note,
        ),
    ]


def _short(column: Column) -> str:
    name = _SHORT[column.metric]
    return name if column.k is None else f"{name}@{column.k}"


def _cell(rows: Rows, model: str, column: Column, *, first: Column) -> str:
    found = select(rows, model=model, metric=column.metric, k=column.k)
    if not found:
        return "–"
    return with_interval(found[0]) if column == first else value_text(found[0])


def _by_slice(rows: Rows, slices: Sequence[str], *, models: Sequence[str], column: Column) -> list[dict[str, str]]:
    """Put slices below each other; where that is too wide, models, if that is less so."""
    lines = [_slice_row(rows, one, models=models, column=column) for one in slices]
    _, *across = lines[0]
    turned = [{"model": name, **{line["slice"]: line[name] for line in lines}} for name in across]
    return lines if _width(lines) <= WIDEST else min(lines, turned, key=_width)


def _width(table: Sequence[Mapping[str, str]]) -> int:
    """Return how many columns of a terminal a table takes."""
    return sum(GAP + max(len(name), *(len(row[name]) for row in table)) for name in table[0])


def _slice_row(rows: Rows, name: str, *, models: Sequence[str], column: Column) -> dict[str, str]:
    found = select(single(rows), slice=name, metric=column.metric, k=column.k)
    values = {row["model"]: value_text(row) for row in found}
    return {
        "slice": name,
        layout(found[0]["task"]).unit: f"{found[0]['num_queries']:,}",
        **{model: values.get(model, "–") for model in models},
    }


def _verdict_row(row: Row) -> dict[str, str]:
    sign = "−" if row["kind"] == "difference" else "/"
    return {
        "slice": row["slice"],
        "model": f"{row['model']} {sign} {row['baseline']}",
        "metric": _short(Column(row["metric"], row["k"])),
        "effect": with_interval(row),
        "claim": row["claim"] or "",
        "verdict": row["verdict"] or "",
    }


def headline(rows: Rows, *, headline_k: int) -> Column:
    """Return what to show first of one task's rows: its metric at the wanted cut-off, or at its largest without it.

    A metric without cut-offs has none.
    """
    metric = layout(rows[0]["task"]).headline if rows else "recall"
    found = distinct(select(single(rows), metric=metric), "k")
    if found == [None]:
        return Column(metric)
    ks = [k for k in found if k is not None]
    return Column(metric, headline_k if headline_k in ks or not ks else max(ks))


def table_columns(rows: Rows, *, headline_k: int) -> list[Column]:
    """List the columns of the main table: the headline at every cut-off, then the other metrics at one each."""
    first = headline(rows, headline_k=headline_k)
    present = dict.fromkeys(Column(row["metric"], row["k"]) for row in select(single(rows), slice="all"))
    firsts = [column for column in present if column.metric == first.metric]
    firsts.sort(key=lambda column: column.k or 0)
    others = [
        column
        for metric in METRICS
        if metric not in (first.metric, "recall_micro")
        for column in present
        if column.metric == metric and (column.k == first.k or metric == "ndcg_graded")
    ]
    return firsts + others


def ordered_models(rows: Rows) -> list[str]:
    """List the models: baselines, then trained ones in the order given, then controls, then ceilings."""
    return sorted(distinct(single(rows), "model"), key=lambda model: _ORDER.index(role_of(model)))


def shown_pairs(rows: Rows, *, headline_k: int) -> list[Row]:
    """Choose the comparisons worth a line: the headline over all queries, and the picture's ratios."""
    found = paired(rows)
    first = headline(rows, headline_k=headline_k)
    largest = max((row["k"] for row in found if row["k"] is not None), default=headline_k)
    differences = select(found, slice="all", metric=first.metric, k=first.k, kind="difference")
    ratios = [
        row
        for row in select(found, kind="ratio", metric="recall")
        if row["k"] in (first.k, largest) and (row["claim"] or row["slice"] == "photo_only_new")
        if role_of(row["baseline"]) is not Role.CEILING
    ]
    return [row for row in differences if row["claim"] is not None] + ratios


def value_text(row: Row) -> str:
    """Write the value of a record: a share in percent, a difference in points with its sign, a ratio with ×.

    What is no share is written as it is.
    """
    return _number(row, row["value"])


def with_interval(row: Row) -> str:
    """Write value and interval: `36.9 [35.2, 38.4]`."""
    interval = interval_text(row, between=", ")
    return f"{value_text(row)} [{interval}]" if interval else value_text(row)


def interval_text(row: Row, *, between: str = " to ") -> str:
    """Write the interval alone; "" where there is none. A ratio to almost nothing may have no upper end."""
    if row["low"] is None:
        return ""
    return f"{_number(row, row['low'])}{between}{_number(row, row['high'])}"


def _number(row: Row, value: float | None) -> str:
    if value is None:
        return "∞" if row.get("kind") == "ratio" else "–"
    kind = row.get("kind")
    if kind == "ratio":
        return f"{value:.2f}×"
    if not is_share(row.get("metric", "")):
        return (f"{value:+.4f}" if kind == "difference" else f"{value:.4f}").replace("-", "−")
    return (f"{100 * value:+.1f}" if kind == "difference" else f"{100 * value:.1f}").replace("-", "−")
