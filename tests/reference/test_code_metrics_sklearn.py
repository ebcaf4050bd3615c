"""Figures of codes against scikit-learn, scipy, and loops."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import entropy
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from triptych.foundation.errors import DataError
from triptych.metrics.codes import (
    adjusted_rand,
    collision_rate,
    gini,
    in_cell_collision_rate,
    normalised_mutual_information,
    number_ids,
    perplexity,
    shared_rate,
    utilisation_rate,
)


@pytest.fixture(params=range(6))
def groupings(request):
    rng = np.random.default_rng(request.param)
    first = rng.integers(0, 1 + 3 * request.param, 200)  # the first case has one group only
    second = np.where(rng.random(200) < 0.5, first, rng.integers(0, 7, 200))
    return first, second


def test_mutual_information(groupings):
    expected = normalized_mutual_info_score(*groupings)
    assert normalised_mutual_information(*groupings) == pytest.approx(expected, abs=1e-12)


def test_adjusted_rand(groupings):
    assert adjusted_rand(*groupings) == pytest.approx(adjusted_rand_score(*groupings), abs=1e-12)


def test_one_group_each_is_the_same_grouping():
    same = np.zeros(9, int)
    assert adjusted_rand(same, same) == normalised_mutual_information(same, same) == 1


def test_groupings_of_different_items_are_refused():
    with pytest.raises(DataError, match="3 items, the other of 2"):
        adjusted_rand(np.arange(3), np.arange(2))


def test_use_of_codes():
    counts = np.random.default_rng(0).poisson(1.5, 40)
    assert perplexity(counts) == pytest.approx(np.exp(entropy(counts)))
    assert utilisation_rate(counts) == np.mean(counts > 0)
    differences = np.abs(counts[:, None] - counts[None, :]).mean()
    assert gini(counts) == pytest.approx(differences / 2 / counts.mean())
    assert perplexity(np.full(8, 3)) == pytest.approx(8)
    assert gini(np.full(8, 3)) == pytest.approx(0)
    assert gini(np.array([0, 0, 0, 12])) == pytest.approx(3 / 4)


def test_ids_and_collisions():
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 4, (300, 5)).astype(np.uint16)
    codes[:3] = 65_535
    rows = [tuple(row) for row in codes.tolist()]
    expected = {row: number for number, row in enumerate(sorted(set(rows)))}
    numbers = number_ids(codes)
    assert numbers.tolist() == [expected[row] for row in rows]
    assert collision_rate(numbers) == 1 - len(set(rows)) / 300
    assert shared_rate(numbers) == np.mean([rows.count(row) > 1 for row in rows])
    cells = rng.random((300, 6)) < 0.3
    pairs = [(cell, row) for item, row in enumerate(rows) for cell in np.flatnonzero(cells[item])]
    assert in_cell_collision_rate(numbers, item_cells=cells) == pytest.approx(1 - len(set(pairs)) / len(pairs))
