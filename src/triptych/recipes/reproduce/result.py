"""What was made, and how it is told to programs and on a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from triptych.data.catalogue import Catalogue
from triptych.data.splits import Split
from triptych.evaluate.compare import Column
from triptych.evaluate.examples import Example
from triptych.evaluate.increment import Increment
from triptych.evaluate.item_spaces import ItemSpaces
from triptych.evaluate.orderings import Judged
from triptych.evaluate.paces import JudgedPace
from triptych.evaluate.records import role_of
from triptych.evaluate.report import About
from triptych.evaluate.tasks.base import TaskResult
from triptych.evaluate.text_table import with_interval
from triptych.foundation.artifact import Artifact, git_commit, package_version
from triptych.foundation.config import Config
from triptych.metrics.significance import Interval
from triptych.pretrain.base import PretrainConfig
from triptych.recipes.reproduce.agreement import Agreement
from triptych.recipes.reproduce.base import Row
from triptych.recipes.reproduce.choices import Trial, trials_of
from triptych.recipes.reproduce.costs import Cost, machine
from triptych.recipes.reproduce.plans import Planned

ONE_SEED = "one seed"
NO_EVIDENCE = "no evidence: one seed"


class RowMade(NamedTuple):
    """A row with its choice and its training."""

    row: Row
    trials: Sequence[Trial]
    config: Config
    """With the chosen settings."""
    logs: Mapping[int, Sequence[Mapping[str, Any]]]
    """Seed → training log."""


@dataclass(frozen=True)
class Made:
    """A finished table and what it was made of."""

    planned: Planned
    rows: Sequence[RowMade]
    result: TaskResult
    records: Sequence[Mapping[str, Any]]
    """Those of single models, as `records.json` has them."""
    increments: Sequence[Increment]
    """What rows add to those that are there (`Table.there`); empty where the table asks for none, or cannot say."""
    spaces: Mapping[str, ItemSpaces]
    """Items by ID and by content, of the rows that the table names for it (`Table.spaces`), first seed."""
    costs: Sequence[Cost]
    """What rows cost where they answer; empty where the table does not ask (`Table.costs`)."""
    agreements: Sequence[Agreement]
    """How far the semantic IDs of different seeds agree; empty with one seed, or where nothing reads or says any."""
    pictures: Sequence[Example]
    """Queries to which photos bring a row's answers (`Table.shown`)."""
    judged: Sequence[Judged]
    paces: Sequence[JudgedPace]
    there: Sequence[str]
    """Those of `Table.there` that this form has."""
    unjudged: Mapping[str, str]
    """Claim → why this form says nothing of it."""
    catalogue: Catalogue
    split: Split
    about: About
    inputs: Mapping[str, Artifact | str]
    tried: Mapping[str, Any]
    """How the trials were made; see `choices.Choices`."""


def describe(made: Made) -> dict[str, Any]:
    """Return what `triptych reproduce --json` prints: rows, orderings, what else the table tells, data, settings."""
    return {
        "rows": [_row(record) for record in made.records if _is_told(record, made)],
        "increments": [_increment(one) for one in made.increments],
        "spaces": [_spaces(name, one) for name, one in made.spaces.items()],
        "costs": {"machine": machine(), "rows": [_cost(one) for one in made.costs]} if made.costs else None,
        "seed_agreement": [one._asdict() for one in made.agreements],
        "orderings": [_ordering(one) for one in made.judged],
        "paces": [_pace(one) for one in made.paces],
        "data": _data(made),
        "settings": _settings(made),
    }


def table_rows(result: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the claims of a result as lines for a terminal."""
    return [
        {
            "claim": f"{one['claim']}: {one['rows']}",
            "slice": one["slice"],
            "metric": one["metric"],
            "difference": with_interval({**one, "kind": "difference", "value": one["difference"]}),
            "seeds": " ".join(f"{100 * value:+.1f}" for value in one["seeds"]).replace("-", "−"),
            "verdict": one["verdict"],
            "evidence": one["evidence"],
        }
        for one in (*result["orderings"], *result.get("paces", ()))  # a table of before has none
    ]


def cost_rows(result: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return what rows cost as lines for a terminal; none where the table does not say."""
    return [cost_cells(one) for one in (result.get("costs") or {"rows": ()})["rows"]]


def cost_cells(one: Mapping[str, Any]) -> dict[str, str]:
    """Write what a row costs: column → cell."""
    parts = one["item_bytes"]
    by_part = f" ({', '.join(f'{name} {value:,.0f}' for name, value in parts.items())})" if len(parts) > 1 else ""
    said = one["said"]
    return {
        "row": one["name"],
        "p50, ms": f"{one['p50_ms']:.1f}",
        "p95, ms": f"{one['p95_ms']:.1f}",
        "bytes an item": f"{sum(parts.values()):,.0f}{by_part}",
        "illegal IDs": "" if said is None else f"{100 * said['illegal_rate']:.1f} % of {said['ids']:,}",
    }


def agreement_rows(result: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return how far the semantic IDs of seeds agree as lines for a terminal; none where there is nothing to say."""
    return [agreement_cells(one) for one in result.get("seed_agreement") or ()]


def agreement_cells(one: Mapping[str, Any]) -> dict[str, str]:
    """Write how far the IDs of seeds agree: column → cell."""
    return {
        "semantic IDs": one["of"],
        "adjusted Rand index, level 1": f"{one['value']:.2f}".replace("-", "−"),
        "seeds": str(one["seeds"]),
        "of": ", ".join(one["rows"]),
    }


def _is_told(record: Mapping[str, Any], made: Made) -> bool:
    """Everything over all requests; on other slices what the table is about."""
    column = Column(record["metric"], record["k"])
    wanted = {made.planned.headline, *(one.column for one in made.judged)}
    return record["slice"] == "all" or column in wanted


def _row(record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": record["model"],
        "role": role_of(record["model"]).value,
        "metric": str(Column(record["metric"], record["k"])),
        "slice": record["slice"],
        "value": record["value"],
        "low": record["low"],
        "high": record["high"],
        "seeds": list(record["seed_values"]),
        "num_queries": record["num_queries"],
    }


def _ordering(one: Judged) -> dict[str, Any]:
    return {
        "claim": one.ordering.claim,
        "verdict": one.verdict,
        "difference": _finite(one.difference),
        "low": _finite(one.low),
        "high": _finite(one.high),
        "seeds": list(one.seeds),
        "rows": str(one.ordering),
        "metric": str(one.column),
        "slice": one.ordering.slice,
        "num_queries": one.num_queries,
        "evidence": NO_EVIDENCE if one.evidence == ONE_SEED else one.evidence,
    }


def _pace(one: JudgedPace) -> dict[str, Any]:
    return {
        "claim": one.pace.claim,
        "verdict": one.verdict,
        "difference": one.difference.value,
        "low": _finite(one.difference.low),
        "high": _finite(one.difference.high),
        "seeds": list(one.seeds),
        "rows": str(one.pace),
        "metric": f"share of the best {one.metric}",
        "slice": f"{100 * one.pace.by:g} % of the steps",
        "reached": {one.pace.sooner: one.sooner, one.pace.later: one.later},
        "evidence": NO_EVIDENCE if one.evidence == ONE_SEED else one.evidence,
    }


def _increment(one: Increment) -> dict[str, Any]:
    figures = {name: value for name, value in one._asdict().items() if isinstance(value, Interval)}
    told = {name: {part: _finite(x) for part, x in value._asdict().items()} for name, value in figures.items()}
    return {"name": one.model, "num_queries": one.num_queries, "seeds": one.num_seeds, **told}


def _spaces(name: str, one: ItemSpaces) -> dict[str, Any]:
    told = ("alignment", "uniformity_ids", "uniformity_content", "num_items")
    return {"name": name, **{field: getattr(one, field) for field in told}}


def _cost(one: Cost) -> dict[str, Any]:
    said = None if one.said is None else {**one.said._asdict(), "illegal_rate": one.said.illegal / max(1, one.said.ids)}
    return {**one._asdict(), "item_bytes": dict(one.item_bytes), "said": said}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _data(made: Made) -> dict[str, Any]:
    dataset, about = made.planned.run.dataset, made.about
    return {
        "name": about.dataset,
        "source": about.source,
        "licence": about.licence,
        "simulated": about.simulated,
        "part": made.planned.evaluation.part.value,
        "caution": made.split.caution,
        "dataset": None if dataset is None else dataset.dump(),
        "catalogue": {"id": made.catalogue.artifact.id, **_counts(made.catalogue.artifact.summary)},
        "split": {"id": made.split.artifact.id, **made.split.config.dump(), "parts": made.split.artifact.summary},
    }


def _counts(summary: Mapping[str, Any]) -> dict[str, int]:
    return {name: value for name, value in summary.items() if isinstance(value, int)}


def _settings(made: Made) -> dict[str, Any]:
    return {
        "table": made.planned.table.name,
        "title": made.planned.table.title,
        "size": made.planned.size.value,
        "protocol": made.planned.table.protocol.value,
        "headline": str(made.planned.headline),
        "seeds": list(made.planned.run.seeds),
        "evaluation": made.planned.evaluation.dump(),
        "given": list(made.planned.given),
        "tried": dict(made.tried),
        "rows": {one.row.name: _row_settings(one, start=made.planned.start(one.row)) for one in made.rows},
        "claims_left_out": dict(made.unjudged),
        "triptych": package_version(),
        "git": git_commit(),
    }


def _row_settings(made: RowMade, *, start: PretrainConfig | None) -> dict[str, Any]:
    return {
        "what": made.row.what,
        **trials_of(made.trials),
        "control": made.row.control.value,
        "keeps_relevant": made.row.keeps_relevant,
        "steps_rate": made.row.steps_rate,
        "start": None if start is None else start.dump(),
        "seconds": [round(_last(lines, "seconds"), 1) for lines in made.logs.values()],
        "config": made.config.dump(),
    }


def _last(lines: Iterable[Mapping[str, Any]], field: str) -> float:
    return max((float(line[field]) for line in lines if field in line), default=0.0)
