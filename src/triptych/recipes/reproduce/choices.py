"""What the rows of a table were tried with and what was chosen: written when all have been tried, read to try no more.

Trials are most of a table's work. Who makes a published table again, or goes on with one on another day, takes its
choices instead (``--choices FILE``): they are numbers and settings, and need no encoder to be kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from triptych.foundation.artifact import git_commit, package_version, write_json
from triptych.foundation.errors import ConfigError
from triptych.recipes.reproduce.base import Row
from triptych.recipes.reproduce.plans import Planned

FILE = "choices.json"


class Trial(NamedTuple):
    """One setting of a row, and what it reached."""

    settings: tuple[str, ...]
    """What it changes; nothing: the row as it is."""
    value: float
    """The headline on the validation part, first seed."""


class Choices(NamedTuple):
    """What every row was tried with, and how."""

    rows: Mapping[str, Sequence[Trial]]
    """Row → its trials."""
    made: Mapping[str, Any]
    """``given``: the settings given beside the form's; ``trial_steps_rate``; ``git``: the commit."""


def new_choices(rows: Mapping[str, Sequence[Trial]], *, planned: Planned) -> Choices:
    """Tell of trials that were made now."""
    made = {"given": list(planned.given), "trial_steps_rate": planned.form.trial_steps_rate, "git": git_commit()}
    return Choices(rows, made)


def first_best(trials: Sequence[Trial]) -> int:
    """Return the place of the trial with the highest value; of equal ones the first."""
    values = [trial.value for trial in trials]
    return values.index(max(values))


def trials_of(trials: Sequence[Trial]) -> dict[str, Any]:
    """Return a row's trials and its choice, as a result tells them."""
    return {
        "trials": [{"settings": list(trial.settings), "validation": trial.value} for trial in trials],
        "chosen": list(trials[first_best(trials)].settings),
    }


def write_choices(file: Path, *, planned: Planned, choices: Choices) -> None:
    """Write them as JSON."""
    dataset = planned.run.dataset
    tree = {
        "table": planned.table.name,
        "size": planned.size.value,
        "headline": str(planned.headline),
        "part": "validation",
        "dataset": None if dataset is None else dataset.dump(),
        "seed": planned.run.seeds[0],
        "tried": dict(choices.made),
        "rows": {row: trials_of(own) for row, own in choices.rows.items()},
        "triptych": package_version(),
    }
    write_json(file, tree)


def read_choices(file: Path, *, planned: Planned) -> Choices:
    """Read what `write_choices` wrote, or the `result.json` of a table.

    Returns:
        The trials of every row of the form that it has, and how they were made; a row that was added to the table since
        is not among them, and is still to be tried.

    Raises:
        ConfigError: it cannot be read, or is of another table, form, headline or data, or a row was tried with other
            settings.
    """
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
        told = tree.get("settings", tree)
        table, size, headline = told["table"], told["size"], told["headline"]
        rows = {name: _trials(row) for name, row in told["rows"].items()}
        made = dict(told["tried"])
        dataset = tree["dataset"] if "dataset" in tree else tree["data"]["dataset"]
    except OSError as error:
        raise ConfigError(f"--choices {file}: {error.strerror or error}.") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(
            f"--choices {file}: this is neither a {FILE} nor a result.json of triptych reproduce."
        ) from None
    if (table, size) != (planned.table.name, planned.size.value):
        raise ConfigError(
            f"--choices {file}: these are of the {size} form of '{table}', not of the {planned.size} form of "
            f"'{planned.table.name}'."
        )
    if headline != str(planned.headline):
        raise ConfigError(f"--choices {file}: they were chosen by {headline}, and this is by {planned.headline}.")
    own = planned.run.dataset
    if dataset != (None if own is None else json.loads(json.dumps(own.dump()))):
        raise ConfigError(f"--choices {file}: they were made on other data. Leave it out to try the rows anew.")
    found = {
        row.name: _of_row(row, rows[row.name], planned=planned, file=file) for row in planned.rows if row.name in rows
    }
    return Choices(found, made)


def _trials(row: Mapping[str, Any]) -> list[Trial]:
    return [Trial(tuple(trial["settings"]), float(trial["validation"])) for trial in row["trials"]]


def _of_row(row: Row, found: list[Trial], *, planned: Planned, file: Path) -> list[Trial]:
    expected = [settings for settings, _ in zip(row.trials, planned.plans[row.name], strict=False)]
    if [trial.settings for trial in found] != expected:
        raise ConfigError(
            f"--choices {file}: row '{row.name}' is to be tried with other settings than these. Leave it out to try "
            "the rows anew."
        )
    return found
