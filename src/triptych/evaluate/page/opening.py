"""The top of the page: what was run, the result in one sentence, and the few numbers that decide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from triptych.evaluate.compare import Column
from triptych.evaluate.definitions import label, layout
from triptych.evaluate.page import tables
from triptych.evaluate.page.base import Page
from triptych.evaluate.page.markup import chip, text
from triptych.evaluate.records import distinct, is_trained, select, single
from triptych.evaluate.text_table import ONE_SEED, headline, interval_text, value_text


def chips(page: Page) -> str:
    """What to know before reading a number: simulated or not, which period, how many seeds."""
    found = []
    if page.about["simulated"]:
        found.append(chip("simulated behaviour", css="warn", title="Queries and clicks come from simulated shoppers."))
    if page.caution:
        found.append(chip(page.caution.split(":")[0].lower(), css="warn", title=page.caution))
    found.append(chip(f"{page.config.part} period", css=""))
    trained = [row for row in select(single(page.rows), task=page.results[0].task) if is_trained(row["model"])]
    if trained:
        seeds = min(row["seeds"] for row in trained)
        found.append(chip("one seed", css="warn", title=ONE_SEED) if seeds == 1 else chip(f"{seeds} seeds", css=""))
    if page.about["chosen"]:
        served, _, why = page.about["chosen"].partition(": ")
        found.append(chip(f"serves {served}", css="", title=f"Chosen on the validation part: {why}."))
    return "".join(found)


def _first(page: Page) -> Column:
    rows = select(page.rows, task=page.results[0].task)
    return headline(rows, headline_k=page.config.headline_k)


def _headline(page: Page, model: str) -> Mapping[str, Any] | None:
    task, (metric, k) = page.results[0].task, _first(page)
    found = select(single(page.rows), task=task, slice="all", model=model, metric=metric, k=k)
    return found[0] if found else None


def _answers(page: Page) -> str:
    """Return the model that answers words: the recall model where there is one."""
    config = page.config
    return config.model if _headline(page, config.recall_model) is None else config.recall_model


def sentence(page: Page) -> str:
    """The result in one sentence."""
    config, first, answers = page.config, _first(page), _answers(page)
    main = _headline(page, answers)
    if main is None:
        return f"{label(*first)} and more of {text(', '.join(distinct(single(page.rows), 'model')))}."
    who = "simulated shoppers" if page.about["simulated"] else "people"
    others = [
        f"{text(name)} {value_text(row)} %"
        for name in (config.model, config.title_model, "item-knn", "bm25", "popularity", "colour-histogram", "chance")
        if name != answers and (row := _headline(page, name)) is not None
    ]
    ceiling = _headline(page, "oracle")
    best = f" An oracle that knows every true grade reaches {value_text(ceiling)} %." if ceiling else ""
    beside = f" In the same table: {', '.join(others)}." if others else ""
    said = layout(page.results[0].task).sentence.format(
        k=first.k, model=f"<b>{text(answers)}</b>", value=f"<b>{value_text(main)} %</b>", who=who
    )
    return f"{said}{beside}{best}"


def tiles(page: Page) -> str:
    """The few numbers that decide, as tiles: the headline, and the paired comparisons that carry a claim."""
    config, first, answers, found = page.config, _first(page), _answers(page), []
    main = _headline(page, answers)
    if main is not None:
        caption = f"{label(*first)}, {answers}"
        found.append(_tile(f"{value_text(main)} %", caption, f"95 % interval {interval_text(main)}"))
    found += _pair_tile(
        page, baseline=config.model, kind="difference", slice_name="all", column=first, model=config.recall_model
    )
    for baseline in (config.title_model, "item-knn", "bm25", "colour-histogram"):
        found += _pair_tile(page, baseline=baseline, kind="difference", slice_name="all", column=first)
    last = Column("recall", max(config.ks))
    found += _pair_tile(page, baseline=config.title_model, kind="ratio", slice_name="photo_only", column=last)
    found += _pair_tile(
        page,
        baseline=config.title_model,
        kind="ratio",
        slice_name="photo_only",
        column=last,
        model=config.control_model,
    )
    return "".join(found)


def _pair_tile(
    page: Page, *, baseline: str, kind: str, slice_name: str, column: Column, model: str | None = None
) -> list[str]:
    name = page.config.model if model is None else model
    own = select(page.rows, task=page.results[0].task, slice=slice_name, metric=column.metric, k=column.k)
    found = select(own, model=name, baseline=baseline, kind=kind)
    if not found or found[0]["value"] is None:
        return []
    row = found[0]
    value = f"{value_text(row)}{' pt' if kind == 'difference' else ''}"
    sign = "−" if kind == "difference" else "/"
    where = "" if slice_name == "all" else f", {slice_name.replace('_', ' ')}"
    caption = f"{name} {sign} {baseline}, {label(*column)}{where}"
    return [_tile(value, caption, interval_text(row), verdict=tables.verdict_chip(row))]


def _tile(value: str, caption: str, detail: str, *, verdict: str = "") -> str:
    return (
        f'<div class="tile"><strong>{text(value)}</strong><span>{text(caption)}</span>'
        f"<small>{text(detail)} {verdict}</small></div>"
    )
