"""The three parts of the split beside each other: what was learnt from, chosen on, and measured."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from triptych.data.splits import Part, Split, SplitBy
from triptych.evaluate.page.markup import text
from triptych.evaluate.tasks.base import EvaluationConfig

_HEADINGS = {
    SplitBy.USER: "Split within each user",
    SplitBy.QUERY: "Split by query",
    SplitBy.GIVEN: "Split as the events bring it",
}
_COUNTS = ("events", "users", "judged_queries", "judgements", "queries", "pairs")


def parts_of(split: Split, *, config: EvaluationConfig) -> str:
    """Show the parts; the longer the one, the more events or judgements it has."""
    summary = split.artifact.summary
    heading = _HEADINGS.get(split.config.by, "Split by time")
    shown = "".join(_part(part, summary[part.value]) for part in Part)
    caution = f" {text(split.caution)}" if split.caution else ""
    return (
        f'<h3>{heading}</h3><div class="timeline">{shown}</div><p class="rule">Models learn from train; '
        f"settings are chosen on validation; the numbers above are of {config.part}.{caution}</p>"
    )


def _part(part: Part, own: Mapping[str, Any]) -> str:
    size = own.get("events", own.get("judgements", 1))
    times = f"<span>{_day(own['from'])} – {_day(own['to'])}</span>" if "from" in own else ""
    counts = [f"{own[name]:,} {name.replace('_', ' ')}" for name in _COUNTS if own.get(name)]
    return (
        f'<div class="period {part.value}" style="flex-grow:{max(size, 1)}"><b>{part.value}</b>{times}'
        f"<small>{'<br>'.join(counts)}</small></div>"
    )


def _day(instant: str) -> str:
    time = datetime.fromisoformat(instant)
    return f"{time.day} {time:%b %Y, %H:%M}"
