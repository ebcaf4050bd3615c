"""Who has learned soon: shares of the best against hand counts, and verdicts over seeds against scipy's interval."""

from __future__ import annotations

import pytest
from scipy import stats

from triptych.evaluate.paces import Pace, judge_pace, share_reached
from triptych.metrics.significance import Verdict

PACE = Pace("early", "content", "ids", 0.25)


def log(*values: float, steps: int = 100) -> list[dict]:
    """Validations that are spread evenly over the steps."""
    between = steps // len(values)
    return [{"event": "train", "step": 1, "loss": 9.0}] + [
        {"event": "validation", "step": n * between, "r": value} for n, value in enumerate(values, start=1)
    ]


@pytest.mark.parametrize(
    ("values", "by", "share"),
    [
        ((0.2, 0.3, 0.4, 0.4), 0.25, 0.5),
        ((0.2, 0.3, 0.5, 0.4), 0.25, 0.4),  # of the best, which is kept, and not of the last
        ((0.2, 0.3, 0.4, 0.4), 0.375, 0.625),  # half way between two validations
        ((0.2, 0.4), 0.25, None),  # nothing was measured so early
        ((0.0, 0.0, 0.0, 0.0), 0.25, None),
        ((), 0.25, None),
    ],
)
def test_the_share_of_the_best_that_is_reached(values, by, share):
    lines = log(*values) if values else []
    found = share_reached(lines, "r", by=by)
    assert found == (None if share is None else pytest.approx(share))


def test_the_first_validation_is_an_eighth_whatever_the_rounding():
    lines = [{"event": "validation", "step": step, "r": step / 1049} for step in (132, 264, 1049)]  # ceil(1049 / 8)
    assert share_reached(lines, "r", by=0.125) == pytest.approx(132 / 1049)


def test_a_metric_that_the_log_has_not_is_not_told():
    assert share_reached(log(0.1, 0.2, 0.3, 0.4), "other", by=0.5) is None


@pytest.mark.parametrize(
    ("content", "verdict"),
    [((0.9, 0.92, 0.88), Verdict.HOLDS), ((0.2, 0.22, 0.19), Verdict.FAILS), ((0.9, 0.5, 0.2), Verdict.UNDECIDED)],
)
def test_verdicts_are_of_the_seeds(content, verdict):
    ids = (0.5, 0.52, 0.51)
    logs = {
        name: {seed: log(first, 0.5, 0.8, 1.0) for seed, first in enumerate(values)}
        for name, values in (("content", content), ("ids", ids))
    }
    judged = judge_pace(PACE, logs, metric="r")
    assert judged is not None
    differences = [a - b for a, b in zip(content, ids, strict=True)]
    low, high = stats.ttest_rel(content, ids).confidence_interval()
    assert judged.difference == pytest.approx((sum(differences) / 3, low, high))
    assert judged.seeds == pytest.approx(differences)
    assert (judged.verdict, judged.evidence) == (verdict, "3 seeds")


def test_of_one_seed_there_is_no_interval_and_no_verdict():
    logs = {"content": {0: log(0.9, 1.0, 1.0, 1.0)}, "ids": {0: log(0.1, 0.2, 0.3, 1.0)}}
    judged = judge_pace(PACE, logs, metric="r")
    assert judged is not None
    assert (judged.verdict, judged.evidence) == (Verdict.UNDECIDED, "one seed")


def test_nothing_is_said_where_one_log_does_not():
    logs = {"content": {0: log(0.9, 1.0, 1.0, 1.0)}, "ids": {0: log(0.5, 1.0)}}
    assert judge_pace(PACE, logs, metric="r") is None
