"""Ranking's classification metrics against scikit-learn, and calibration against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from triptych.foundation.errors import DataError
from triptych.metrics.calibration import expected_calibration_error, predicted_over_observed
from triptych.metrics.classification import auc, group_aucs, log_loss


@pytest.fixture
def toy():
    rng = np.random.default_rng(0)
    scores = np.round(rng.normal(size=500), 1)  # with ties
    labels = rng.random(500) < 1 / (1 + np.exp(-scores))
    groups = rng.integers(0, 60, size=500) * 7
    labels[groups == 7], labels[groups == 14] = True, False
    return labels, scores, groups


def test_auc_is_sklearns(toy):
    labels, scores, _ = toy
    assert auc(labels, scores) == pytest.approx(sklearn_metrics.roc_auc_score(labels, scores), rel=1e-12)
    assert np.isnan(auc(labels[:0], scores[:0]))
    assert np.isnan(auc(np.ones(4, bool), np.arange(4.0)))


def test_gauc_is_a_loop_over_groups(toy):
    labels, scores, groups = toy
    values, weights = [], []
    for group in np.unique(groups):
        own = groups == group
        if labels[own].any() and not labels[own].all():
            values.append(sklearn_metrics.roc_auc_score(labels[own], scores[own]))
            weights.append(own.sum())
    found = group_aucs(labels, scores, groups=groups)
    assert found.gauc() == pytest.approx(np.average(values, weights=weights), rel=1e-12)
    assert found.uauc() == pytest.approx(np.mean(values), rel=1e-12)
    assert len(values) < len(found.groups)
    assert found.is_defined.sum() == len(values)
    np.testing.assert_array_equal(found.groups, np.unique(groups))


def test_adding_a_number_to_a_group_changes_auc_but_not_gauc(toy):
    labels, scores, groups = toy
    moved = scores + groups
    assert group_aucs(labels, moved, groups=groups).gauc() == group_aucs(labels, scores, groups=groups).gauc()
    assert auc(labels, moved) != pytest.approx(auc(labels, scores), abs=0.05)


def test_log_loss_is_sklearns_and_is_exact_where_that_clips(toy):
    labels, scores, _ = toy
    chance = 1 / (1 + np.exp(-scores))
    assert log_loss(labels, scores) == pytest.approx(sklearn_metrics.log_loss(labels, chance), rel=1e-12)
    assert log_loss(np.array([False]), np.array([1000.0])) == 1000.0


def test_calibration_is_a_loop_over_bins():
    rng = np.random.default_rng(1)
    chances = rng.random(1_000) ** 3
    labels = rng.random(1_000) < chances / 2
    order = np.argsort(chances)
    expected = 0.0
    for some in np.split(order, 20):
        expected += abs(chances[some].mean() - labels[some].mean()) * len(some) / 1_000
    assert expected_calibration_error(labels, chances, bins=20) == pytest.approx(expected, rel=1e-12)
    assert expected_calibration_error(labels, chances, bins=1) == pytest.approx(abs(chances.mean() - labels.mean()))
    assert predicted_over_observed(labels, chances) == pytest.approx(chances.sum() / labels.sum())


def test_equal_probabilities_share_a_bin():
    """Half of those given 0.5 are chosen: that is perfect, however they are ordered."""
    labels = np.repeat([True, False], 50)
    assert expected_calibration_error(labels, np.full(100, 0.5), bins=10) == 0.0
    both = np.concatenate([np.full(100, 0.2), np.full(100, 0.8)])
    chosen = np.concatenate([np.arange(100) < 20, np.arange(100) < 80])
    assert expected_calibration_error(chosen, both, bins=10) == pytest.approx(0, abs=1e-12)


def test_what_cannot_be_measured_is_said(toy):
    labels, scores, groups = toy
    with pytest.raises(DataError, match="500 labels, 499 scores"):
        group_aucs(labels, scores[1:], groups=groups)
    with pytest.raises(DataError, match="not in"):
        predicted_over_observed(labels, scores)
    with pytest.raises(DataError, match="1 of 500 scores are NaN"):
        auc(labels, np.where(np.arange(500) == 3, np.nan, scores))
