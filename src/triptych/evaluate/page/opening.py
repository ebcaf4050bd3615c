"""The top of the page: what was run, the result in one sentence, and the few numbers that decide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from triptych.evaluate.page import tables
from triptych.evaluate.page.base import Page
from triptych.evaluate.page.markup import chip, text
from triptych.evaluate.records import distinct, is_trained, select, single
from triptych.evaluate.text_table import ONE_SEED, interval_text, value_text


def chips(page: Page) -> str:
    """What to know before reading a number: simulated or not, which period, how many seeds."""
    found = []
    if page.about["simulated"]:
        found.append(chip("simulated behaviour", css="warn", title="Queries and clicks come from simulated shoppers."))
    found.append(chip(f"{page.config.part} period", css=""))
    trained = [row for row in select(single(page.rows), task=page.results[0].task) if is_trained(row["model"])]
    if trained:
        seeds = min(row["seeds"] for row in trained)
        found.append(chip("one seed", css="warn", title=ONE_SEED) if seeds == 1 else chip(f"{seeds} seeds", css=""))
    return "".join(found)


def _headline(page: Page, model: str, *, slice_name: str = "all", k: int | None = None) -> Mapping[str, Any] | None:
    found = select(
        single(page.rows),
        task=page.results[0].task,
        slice=slice_name,
        model=model,
        metric="recall",
        k=page.config.headline_k if k is None else k,
    )
    return found[0] if found else None


def sentence(page: Page) -> str:
    """The result in one sentence."""
    config = page.config
    main = _headline(page, config.model)
    if main is None:
        return f"Recall@{config.headline_k} and more of {text(', '.join(distinct(single(page.rows), 'model')))}."
    who = "simulated shoppers" if page.about["simulated"] else "people"
    others = [
        f"{text(name)} {value_text(row)} %"
        for name in (config.title_model, "bm25", "popularity")
        if name != config.model and (row := _headline(page, name)) is not None
    ]
    ceiling = _headline(page, "oracle")
    best = f" An oracle that knows every true grade reaches {value_text(ceiling)} %." if ceiling else ""
    beside = f" In the same table: {', '.join(others)}." if others else ""
    return (
        f"With {config.headline_k} results shown, <b>{text(config.model)}</b> finds <b>{value_text(main)} %</b> of "
        f"what {who} went on to choose.{beside}{best}"
    )


def tiles(page: Page) -> str:
    """The few numbers that decide, as tiles: the headline, and the paired comparisons that carry a claim."""
    config, found = page.config, []
    main = _headline(page, config.model)
    if main is not None:
        caption = f"Recall@{config.headline_k}, {config.model}"
        found.append(_tile(f"{value_text(main)} %", caption, f"95 % interval {interval_text(main)}"))
    for baseline in (config.title_model, "bm25"):
        found += _pair_tile(page, baseline=baseline, kind="difference", slice_name="all", k=config.headline_k)
    largest = max(config.ks)
    found += _pair_tile(page, baseline=config.title_model, kind="ratio", slice_name="photo_only", k=largest)
    found += _pair_tile(
        page, baseline=config.title_model, kind="ratio", slice_name="photo_only", k=largest, model=config.control_model
    )
    return "".join(found)


def _pair_tile(page: Page, *, baseline: str, kind: str, slice_name: str, k: int, model: str | None = None) -> list[str]:
    name = page.config.model if model is None else model
    found = select(
        page.rows, model=name, baseline=baseline, kind=kind, slice=slice_name, metric="recall", k=k, task="search"
    )
    if not found or found[0]["value"] is None:
        return []
    row = found[0]
    value = f"{value_text(row)}{' pt' if kind == 'difference' else ''}"
    sign = "−" if kind == "difference" else "/"
    where = "" if slice_name == "all" else f", {slice_name.replace('_', ' ')}"
    caption = f"{name} {sign} {baseline}, Recall@{k}{where}"
    return [_tile(value, caption, interval_text(row), verdict=tables.verdict_chip(row))]


def _tile(value: str, caption: str, detail: str, *, verdict: str = "") -> str:
    return (
        f'<div class="tile"><strong>{text(value)}</strong><span>{text(caption)}</span>'
        f"<small>{text(detail)} {verdict}</small></div>"
    )
