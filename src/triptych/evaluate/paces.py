"""Paces: claims that one training is nearer its end than another after the same share of its steps.

What a model finds on the validation part, as a share of the best that it comes to: a model with little to learn is
there early, and more of the log does little for it. Read from the trainings' logs, which have means over queries and no
queries: so the interval is over seeds (Student's t, paired), and of one seed there is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

from triptych.evaluate.curves import Lines, checked
from triptych.evaluate.records import evidence
from triptych.metrics.significance import Claim, Effect, Interval, Relation, judge

_ABOVE = Claim(Effect.DIFFERENCE, Relation.ABOVE, 0.0)


@dataclass(frozen=True)
class Pace:
    """A claim: `sooner` has reached more of its best than `later` when `by` of the steps are done."""

    claim: str
    sooner: str
    """Name of a row."""
    later: str
    """Name of a row."""
    by: float
    """Share of the steps, above 0 and below 1."""

    @property
    def rows(self) -> tuple[str, ...]:
        """Every row that it speaks of."""
        return (self.sooner, self.later)

    def __str__(self) -> str:
        return f"{self.sooner} > {self.later}"


class JudgedPace(NamedTuple):
    """What the logs say of a pace."""

    pace: Pace
    metric: str
    verdict: str
    """`holds`, `fails` or `undecided`."""
    sooner: float
    """Share of its best that the first has reached, mean over the seeds."""
    later: float
    """And the second."""
    difference: Interval
    """Of the two, with its 95 % interval over seeds; of one seed it is unknown."""
    seeds: tuple[float, ...]
    """The difference of each seed."""
    evidence: str
    """As `records.evidence`."""


def share_reached(lines: Lines, metric: str, *, by: float) -> float | None:
    """Return what a training has reached of its best value when a share of its steps is done.

    Args:
        lines: of a log.
        metric: of its validations; higher is better. Between two of them it is interpolated.
        by: share of the steps.

    Returns:
        None where it was not measured so early, or never above 0.
    """
    found = [(line["step"], line[metric]) for line in checked(lines) if metric in line]
    steps, values = np.array(found, dtype=float).reshape(-1, 2).T
    if not len(steps) or values.max() <= 0 or steps[0] - 1 >= by * steps[-1]:  # the first one's place is rounded up
        return None
    return float(np.interp(by * steps[-1], steps, values) / values.max())


def judge_pace(pace: Pace, logs: Mapping[str, Mapping[int, Lines]], *, metric: str) -> JudgedPace | None:
    """Compare the rows of a pace, seed by seed.

    Args:
        pace: the claim.
        logs: row → seed → lines of its log; both rows have the same seeds.
        metric: of their validations.

    Returns:
        None where a log does not say.
    """
    both = [
        (share_reached(lines, metric, by=pace.by), share_reached(logs[pace.later][seed], metric, by=pace.by))
        for seed, lines in logs[pace.sooner].items()
    ]
    told = [(sooner, later) for sooner, later in both if sooner is not None and later is not None]
    if not told or len(told) < len(both):
        return None
    sooner, later = np.array(told).T
    difference = _over_seeds(sooner - later)
    return JudgedPace(
        pace=pace,
        metric=metric,
        verdict=judge(difference, claim=_ABOVE).value,
        sooner=float(sooner.mean()),
        later=float(later.mean()),
        difference=difference,
        seeds=tuple((sooner - later).tolist()),
        evidence=evidence(dict.fromkeys(pace.rows, len(told))),
    )


def _over_seeds(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Interval:
    """Return the mean and its 95 % interval over seeds, unknown of one."""
    mean = float(values.mean())
    if len(values) < 2:
        return Interval(mean, float("nan"), float("nan"))
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return Interval(mean, mean - half, mean + half)
