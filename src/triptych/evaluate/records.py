"""Records: the numbers of an evaluation as plain rows, and what a model's name says about it.

`records.json` of a report, and `triptych report DIR --json`, hold one list of both sorts; a row with a `baseline`
compares two models, a row without measures one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any


class Role(StrEnum):
    """What a row stands for in a table."""

    MODEL = "model"
    """Trained: its seed matters."""
    BASELINE = "baseline"
    """Nothing of it is trained here."""
    CEILING = "ceiling"
    """Knows the answers; shows what could be had at most."""
    CONTROL = "control"
    """Trained with its input spoilt on purpose; shows where a gain comes from."""


_ROLES = {
    "popularity": Role.BASELINE,
    "bm25": Role.BASELINE,
    "item-knn": Role.BASELINE,
    "chance": Role.BASELINE,
    "constant": Role.BASELINE,
    "colour-histogram": Role.BASELINE,
    "pretrained": Role.BASELINE,
    "oracle": Role.CEILING,
    "permuted-photo": Role.CONTROL,
    "permuted-content": Role.CONTROL,
    "random-vector": Role.CONTROL,
    "random-id": Role.CONTROL,
}


def role_of(model: str) -> Role:
    """Look up the role of a model by its name, or the name's first word; an unknown name is a trained model.

    So `permuted-photo 6`, row 6 of a table with its photos permuted, is a control, and `pretrained minilm`, a model
    that others trained and that is used as it is, a baseline.
    """
    return _ROLES.get(model) or _ROLES.get(model.split(" ")[0], Role.MODEL)


def is_trained(model: str) -> bool:
    """Whether another seed would give another model."""
    return role_of(model) in (Role.MODEL, Role.CONTROL)


def evidence(seeds: Mapping[str, int]) -> str:
    """Say how far the models compared can be trusted.

    Args:
        seeds: model → number of seeds it was trained with.

    Returns:
        `"one seed"` (never evidence), `"3 seeds"` (the fewest of any trained model), or `"nothing trained"`.
    """
    fewest = min((number for model, number in seeds.items() if is_trained(model)), default=None)
    if fewest is None:
        return "nothing trained"
    return "one seed" if fewest == 1 else f"{fewest} seeds"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """One metric of one model on one slice."""

    task: str
    split: str
    slice: str
    model: str
    metric: str
    k: int | None
    value: float
    low: float
    """Lower end of the 95 % interval over queries; NaN where the metric has none (coverage, chance)."""
    high: float
    num_queries: int
    """Queries (users, photos) behind the value: a slice with few of them is a wide guess."""
    seeds: int
    seed_values: tuple[float, ...] = ()
    """The value of each seed, in the order given."""
    evidence: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairedRecord:
    """One model against another on the same queries."""

    task: str
    split: str
    slice: str
    model: str
    baseline: str
    metric: str
    k: int | None
    kind: str
    """`difference` (model − baseline) or `ratio` (model / baseline) of the means."""
    value: float
    low: float
    high: float
    claim: str | None
    """What was expected before the comparison, e.g. `difference > 0`; None where nothing was."""
    verdict: str | None
    """`holds`, `fails` or `undecided`; None without a claim."""
    num_queries: int
    seeds: int
    evidence: str


AnyRecord = Record | PairedRecord

SIMULATED = "Simulated behaviour."


def to_rows(records: Iterable[AnyRecord], *, simulated: bool = False, caution: str = "") -> list[dict[str, Any]]:
    """Turn records into JSON-ready rows; an unknown or infinite number becomes None.

    Args:
        records: From the tasks.
        simulated: Whether the behaviour behind them is simulated. Every row carries it, wherever it goes.
        caution: What else has to be said beside every number (`Split.caution`); likewise.
    """
    beside = {"simulated": simulated, "caution": caution}
    return [{**{key: _json(value) for key, value in dataclasses.asdict(one).items()}, **beside} for one in records]


def _json(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return [_json(one) for one in value] if isinstance(value, tuple) else value


def single(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Keep the rows that measure one model."""
    return [row for row in rows if "baseline" not in row]


def paired(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Keep the rows that compare two models."""
    return [row for row in rows if "baseline" in row]


def is_simulated(rows: Iterable[Mapping[str, Any]]) -> bool:
    """Whether simulated behaviour stands behind any of these rows."""
    return any(row["simulated"] for row in rows)


def cautions(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return what has to be said beside a table of these rows, in sentences; "" where there is nothing."""
    said = [SIMULATED] if is_simulated(rows := list(rows)) else []
    return " ".join([*said, *dict.fromkeys(row["caution"] for row in rows if row.get("caution"))])


def select(rows: Sequence[Mapping[str, Any]], **fields: Any) -> list[Mapping[str, Any]]:
    """Keep the rows whose fields have these values."""
    return [row for row in rows if all(row.get(name) == value for name, value in fields.items())]


def distinct(rows: Iterable[Mapping[str, Any]], field: str) -> list[Any]:
    """List the values of a field in order of first appearance."""
    return list(dict.fromkeys(row[field] for row in rows))
