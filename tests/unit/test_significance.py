"""Bootstrap intervals against closed forms, known coverage, and the verdicts' truth table."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from triptych.foundation.errors import DataError
from triptych.metrics import significance
from triptych.metrics.significance import (
    Claim,
    Effect,
    Interval,
    Relation,
    Verdict,
    bootstrap_interval,
    bootstrap_means,
    judge,
    paired_difference,
    percentile_interval,
    ratio_interval,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_interval_of_a_mean_agrees_with_the_normal_one():
    values = rng(1).normal(3.0, 2.0, size=800)
    interval = bootstrap_interval(values, rng=rng(), repeats=4000)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert interval.value == values.mean()
    assert interval.low == pytest.approx(values.mean() - half, abs=0.01)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.01)


def test_interval_agrees_with_scipy():
    values = rng(2).exponential(size=200)
    ours = bootstrap_interval(values, rng=rng(), repeats=5000, level=0.9)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=5000, confidence_level=0.9, method="percentile", rng=rng(9)
    ).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=0.01)
    assert ours.high == pytest.approx(theirs.high, abs=0.01)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    draws = rng(3)
    covered = 0
    for _ in range(300):
        interval = bootstrap_interval(draws.normal(size=60), rng=draws, repeats=300)
        covered += interval.low <= 0.0 <= interval.high
    assert 0.90 <= covered / 300 <= 0.98


def test_rows_of_one_group_are_one_piece_of_evidence():
    values = rng(4).normal(size=(50, 2))
    repeated = np.repeat(values, 3, axis=0)  # each three times: no more is known than before
    groups = np.repeat(rng(5).permutation(50), 3)
    alone = bootstrap_means(values[np.argsort(groups[::3])], rng=rng(), repeats=300)
    assert bootstrap_means(repeated, rng=rng(), repeats=300, groups=groups) == pytest.approx(alone)
    assert bootstrap_means(repeated, rng=rng(), repeats=300).std(axis=0).max() < alone.std(axis=0).min()
    uneven = bootstrap_means(np.array([[1.0], [1.0], [4.0]]), rng=rng(), repeats=300, groups=np.array([7, 7, 2]))
    assert set(np.unique(uneven)) == {1.0, 2.0, 4.0}


def test_a_constant_difference_has_an_interval_of_no_width():
    baseline = rng(4).random(50)
    interval = paired_difference(baseline + 0.25, baseline=baseline, rng=rng())
    assert interval == pytest.approx((0.25, 0.25, 0.25))
    # Unpaired, the two would spread as widely as the values themselves.
    alone = bootstrap_interval(baseline, rng=rng())
    assert alone.high - alone.low > 0.1


def test_a_constant_ratio_has_an_interval_of_no_width():
    baseline = rng(4).random(50)
    assert ratio_interval(1.3 * baseline, baseline=baseline, rng=rng()) == pytest.approx((1.3, 1.3, 1.3))


def test_the_ratio_is_one_of_means():
    interval = ratio_interval(np.array([1.0, 0.0, 1.0]), baseline=np.array([0.5, 0.5, 0.5]), rng=rng())
    assert interval.value == pytest.approx((2 / 3) / 0.5)


def test_seeds_are_averaged_before_queries_are_drawn():
    values = rng(5).random((3, 40))
    assert bootstrap_interval(values, rng=rng()) == bootstrap_interval(values.mean(axis=0), rng=rng())
    baseline = rng(6).random((2, 40))
    assert paired_difference(values, baseline=baseline, rng=rng()) == paired_difference(
        values.mean(axis=0), baseline=baseline.mean(axis=0), rng=rng()
    )


def test_the_same_generator_gives_the_same_interval():
    values = rng(7).random(30)
    assert bootstrap_interval(values, rng=rng(1)) == bootstrap_interval(values, rng=rng(1))
    assert bootstrap_interval(values, rng=rng(1)) != bootstrap_interval(values, rng=rng(2))


def test_all_columns_share_their_draws_and_chunks_do_not_matter(monkeypatch):
    values = rng(8).random((25, 3))
    values[:, 2] = values[:, 0]
    means = bootstrap_means(values, rng=rng(), repeats=100)
    np.testing.assert_array_equal(means[:, 0], means[:, 2])
    monkeypatch.setattr(significance, "_DRAWS_AT_ONCE", 60)
    np.testing.assert_allclose(bootstrap_means(values, rng=rng(), repeats=100), means, rtol=1e-12)


def test_a_loop_over_the_same_draws_gives_the_same_means():
    values = rng(9).random((11, 2))
    draws = rng().integers(11, size=(50, 11))
    expected = [values[drawn].mean(axis=0) for drawn in draws]
    np.testing.assert_allclose(bootstrap_means(values, rng=rng(), repeats=50), expected)


def test_a_ratio_to_nothing_is_unknown_not_narrow():
    nothing = np.zeros(10)
    assert judge(
        ratio_interval(nothing, baseline=nothing, rng=rng()), claim=Claim(Effect.RATIO, Relation.AT_MOST, 1.05)
    ) is (Verdict.UNDECIDED)
    something = ratio_interval(np.ones(10), baseline=nothing, rng=rng())
    assert math.isinf(something.low)
    sometimes = percentile_interval(2.0, resampled=np.array([1.0, 2.0, 3.0, np.inf, np.inf]))
    assert (sometimes.low, sometimes.high) == (1.0, np.inf)


@pytest.mark.parametrize(
    ("relation", "low", "high", "verdict"),
    [
        (Relation.ABOVE, 0.1, 0.3, Verdict.HOLDS),
        (Relation.ABOVE, -0.1, 0.3, Verdict.UNDECIDED),
        (Relation.ABOVE, 0.0, 0.3, Verdict.UNDECIDED),
        (Relation.ABOVE, 0.0, 0.0, Verdict.UNDECIDED),
        (Relation.ABOVE, -0.3, -0.1, Verdict.FAILS),
        (Relation.AT_LEAST, 0.0, 0.3, Verdict.HOLDS),
        (Relation.AT_LEAST, -0.1, 0.3, Verdict.UNDECIDED),
        (Relation.AT_LEAST, -0.3, -0.1, Verdict.FAILS),
        (Relation.AT_MOST, -0.3, 0.0, Verdict.HOLDS),
        (Relation.AT_MOST, -0.3, 0.1, Verdict.UNDECIDED),
        (Relation.AT_MOST, 0.1, 0.3, Verdict.FAILS),
        (Relation.ABOVE, math.nan, math.nan, Verdict.UNDECIDED),
    ],
)
def test_verdicts(relation, low, high, verdict):
    claim = Claim(Effect.DIFFERENCE, relation, 0.0)
    assert judge(Interval(low, low, high), claim=claim) is verdict


def test_a_claim_reads_as_it_is_written():
    assert str(Claim(Effect.RATIO, Relation.AT_LEAST, 1.25)) == "ratio ≥ 1.25"
    assert str(Claim(Effect.DIFFERENCE, Relation.ABOVE, 0.0)) == "difference > 0"


def test_errors_say_what_is_wrong():
    with pytest.raises(DataError, match="there is no query to draw from"):
        bootstrap_interval(np.empty(0), rng=rng())
    with pytest.raises(DataError, match="a value is NaN"):
        bootstrap_interval(np.array([1.0, np.nan]), rng=rng())
    with pytest.raises(DataError, match="one model has 3 queries and the other 4"):
        paired_difference(np.ones(3), baseline=np.ones(4), rng=rng())
