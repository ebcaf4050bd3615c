"""The section on training that every report shares: curves, the balance of modalities, the cost of a second epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from triptych.evaluate import figures
from triptych.evaluate.curves import EPOCH, LOSS, RATIO, checked, learned, metrics_of, one_epoch_index
from triptych.evaluate.page.markup import definitions, figure, section, table, text

Logs = Mapping[str, Sequence[Mapping[str, Any]]]
"""Name (a model, or model and seed as `title/0`) → lines of its log."""


def training_section(
    logs: Logs,
    *,
    against: Sequence[str] = ("step",),
    facts: Mapping[str, str] | None = None,
    lead: str = "",
    claims: str = "",
) -> str:
    """Write the section.

    Args:
        logs: of every encoder.
        against: what validation is drawn against: step, seconds, epoch; where a log has it. All of them for the first
            metric, for the others the first one.
        facts: shown below, name → text.
        lead: shown above.
        claims: about these curves, shown below them.
    """
    validated = {name: checked(lines) for name, lines in logs.items()}
    trained = {name: learned(lines) for name, lines in logs.items()}
    pictures = [figures.training_curves(trained, field="loss", title="Training loss")]
    pictures += [
        figures.training_curves(validated, field=metric, title=f"Validation: {metric}", against=axis)
        for place, metric in enumerate(metrics_of(validated.values()))
        for axis in (against if place == 0 else against[:1])
    ]
    pictures.append(figures.training_curves(trained, field=RATIO, title="Gradient norm, photo / text"))
    is_wide = len({name.split("/")[0] for name in logs}) > figures.MOST_IN_HALF
    parts = "".join(figure(picture, caption="", css="" if is_wide else "half") for picture in pictures if picture)
    return section(
        "training",
        "Training",
        f'<div class="halves">{parts}</div>' if parts and not is_wide else parts,
        claims,
        _one_epoch(validated),
        definitions(facts, css="names") if facts else "",
        lead=lead,
    )


def _one_epoch(validated: Logs) -> str:
    """Write what a second epoch costs each model, by each metric, or why that is not known; nothing without epochs."""
    metrics = [metric for metric in metrics_of(validated.values()) if not metric.startswith(LOSS)]
    body = []
    for name, lines in _by_phase(validated).items():
        costs = [one_epoch_index(lines, metric) for metric in metrics]
        if any(cost is not None for cost in costs):
            body.append([text(name), *("" if cost is None else _points(cost) for cost in costs)])
    heading = "<h3>What a second epoch costs</h3>"
    if not body:
        has_epochs = any(EPOCH in line for lines in validated.values() for line in lines)
        why = "Not measured: that takes a validation within the first epoch and one behind the second."
        return f"{heading}<p>{why}</p>" if has_epochs else ""
    said = (
        f"{heading}<p>Best validation within the first epoch less that at the end of the "
        "second, in points. Positive: the second look at the data did harm. An epoch is once through all pairs.</p>"
    )
    return said + table(["Model", *(text(metric) for metric in metrics)], body, css="numbers")


def _by_phase(validated: Logs) -> dict[str, list[Mapping[str, Any]]]:
    """Take logs of several stages apart: each has epochs of its own."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for name, lines in validated.items():
        for line in lines:
            found.setdefault(f"{name} {line['phase']}" if "phase" in line else name, []).append(line)
    return found


def _points(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "−")
