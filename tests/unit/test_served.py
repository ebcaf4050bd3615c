"""Which training is served: one beside that of `pretrain` only where it finds more by more than luck."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from triptych.foundation.artifact import Artifact
from triptych.metrics.ranking import FloatArray
from triptych.recipes.served import gain_of, words_of

QUERIES = 400
BASE = np.random.default_rng(0).random(QUERIES) * 0.5


def values(gain: float, *, noise: float = 0.02, seeds: tuple[float, ...] = (0.0,)) -> FloatArray:
    """What a training finds of each query: as another one, and `gain` more; its seeds are ahead of it by `seeds`."""
    rng = np.random.default_rng([7, int(1000 * abs(gain))])
    drawn = rng.standard_normal((len(seeds), QUERIES))
    drawn -= drawn.mean(axis=1, keepdims=True)
    return BASE + gain + np.array(seeds)[:, None] + noise * drawn


@pytest.mark.parametrize(
    ("found", "other", "is_better", "is_tie"),
    [
        ({"own": values(0), "far": values(0.05), "near": values(0.01)}, "far", True, False),
        ({"own": values(0), "worse": values(-0.05)}, "worse", False, False),
        # One query in many decides nothing: the interval over queries has 0 in it.
        ({"own": values(0), "noisy": values(0.01, noise=0.5)}, "noisy", False, True),
        # Every query is a little better, and another seed of the same training is so as well.
        ({"own": values(0, seeds=(0.0, 0.03)), "seedy": values(0.03, seeds=(0.0, 0.01))}, "seedy", False, True),
        ({"own": values(0, seeds=(0.0, 0.01)), "ahead": values(0.05, seeds=(0.0, 0.01))}, "ahead", True, False),
        ({"own": values(0), "same": values(0)}, "same", False, True),
    ],
)
def test_a_training_takes_over_by_more_than_queries_and_seeds_vary(
    found: dict[str, FloatArray], other: str, is_better: bool, is_tie: bool
):
    gain = gain_of(found)
    assert (gain.other, gain.is_better, gain.is_tie) == (other, is_better, is_tie)
    assert gain.over.value == pytest.approx(found[other].mean() - found["own"].mean())


def choice(against: dict[str, Any]) -> Artifact:
    summary = {"served": "own", "metric": "recall@20", "queries": 400, "seeds": {"own": [0.44, 0.46], "other": [0.46]}}
    return Artifact(Path("nowhere"), {"summary": {**summary, **against}})


def test_a_tie_is_told():
    tie = {"other": "other", "over": [0.01, -0.01, 0.03], "spread": 0.02, "is_tie": True}
    said = words_of(choice({"against": tie}))
    assert said == (
        "own (a tie, so that of pretrain): recall@20 own 45.0 %, other 46.0 %, of 400 validation queries; "
        "other − own +1.0 [-1.0, +3.0] points, seeds differ by up to 2.0"
    )
    for against in ({"against": {**tie, "is_tie": False}}, {}):
        assert words_of(choice(against)) == "own: recall@20 own 45.0 %, other 46.0 %, of 400 validation queries"
