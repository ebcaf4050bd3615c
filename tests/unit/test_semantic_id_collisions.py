"""Each policy against the loop that says what it means."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from triptych.foundation.errors import DataError
from triptych.semantic_ids import collisions
from triptych.semantic_ids.collisions import CollisionsConfig, Policy, resolve, sinkhorn_codes
from triptych.semantic_ids.quantizers.residual_kmeans import ResidualKmeansConfig


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((9, 5))[rng.integers(0, 9, 150)]
    return (centres + 0.2 * rng.standard_normal((150, 5))).astype(np.float32)


@pytest.fixture(scope="module")
def quantizer(vectors):
    return ResidualKmeansConfig(levels=2, codes=8).fit(vectors)


@pytest.fixture(scope="module")
def codes(quantizer, vectors):
    found = quantizer.assign(vectors)
    assert Counter(map(tuple, found.tolist())).most_common(1)[0][1] > 6  # there is something to resolve
    return found


def ids_of(codes):
    return [tuple(row) for row in codes.tolist()]


def resolved(codes, quantizer, vectors, **settings):
    before = codes.copy()
    found = resolve(codes, quantizer=quantizer, vectors=vectors, config=CollisionsConfig(**settings))
    np.testing.assert_array_equal(codes, before)
    np.testing.assert_array_equal(found[:, 0], before[:, 0])
    return found


def test_kept(codes, quantizer, vectors):
    np.testing.assert_array_equal(resolved(codes, quantizer, vectors), codes)


def test_a_token_numbers_the_items_of_an_id(codes, quantizer, vectors):
    found = resolved(codes, quantizer, vectors, policy=Policy.EXTRA_TOKEN)
    seen = Counter()
    expected = []
    for row in ids_of(codes):
        expected.append((*row, seen[row]))
        seen[row] += 1
    assert ids_of(found) == expected
    assert len(set(expected)) == 150


def test_a_token_cannot_tell_too_many_apart(codes, quantizer, vectors, monkeypatch):
    monkeypatch.setattr(collisions, "MOST_TOKENS", 3)
    with pytest.raises(DataError, match=r"items share an id, and a token tells 3 apart"):
        resolved(codes, quantizer, vectors, policy=Policy.EXTRA_TOKEN)


@pytest.mark.parametrize("cap", [2, 5, 7, 100])
def test_capped_keeps_the_nearest_and_moves_the_others(codes, quantizer, vectors, cap):
    groups = defaultdict(list)
    for row, code in enumerate(codes[:, 0].tolist()):
        groups[code].append(row)
    if max(map(len, groups.values())) > cap * 8:
        with pytest.raises(DataError, match=r"share all codes but the last, and with collisions\.cap = 2 there is"):
            resolved(codes, quantizer, vectors, policy=Policy.CAPPED, cap=cap)
        return
    found = resolved(codes, quantizer, vectors, policy=Policy.CAPPED, cap=cap)
    left = vectors - quantizer.codebooks[0][codes[:, 0]]
    distances = cdist(left.astype(np.float64), quantizer.codebooks[1].astype(np.float64), "sqeuclidean")
    expected = codes[:, 1].tolist()
    for rows in groups.values():
        if max(Counter(codes[rows, 1].tolist()).values()) <= cap:
            continue
        room, free = [cap] * 8, set(rows)
        while free:
            asks = defaultdict(list)
            for row in free:
                asks[min((c for c in range(8) if room[c]), key=lambda c: (distances[row, c], c))].append(row)
            for code, wanting in asks.items():
                for row in sorted(wanting, key=lambda row: (distances[row, code], row))[: room[code]]:
                    expected[row] = code
                    free.discard(row)
            counts = Counter(expected[row] for row in rows if row not in free)
            room = [cap - counts[code] for code in range(8)]
    assert found[:, 1].tolist() == expected
    assert max(Counter(ids_of(found)).values()) <= cap


def plan_by_loop(distances):
    """LC-Rec's, in plain numbers: scale, exponentiate, normalise rows and columns in turn."""
    middle = (distances.max() + distances.min()) / 2
    plan = np.exp(-(distances - middle) / (distances.max() - middle + 1e-5) / 0.003)
    for _ in range(50):
        plan = plan / plan.sum(axis=1, keepdims=True) / len(plan)
        plan = plan / plan.sum(axis=0, keepdims=True) / plan.shape[1]
    return plan.argmax(axis=1)


def test_sinkhorn_is_that_of_a_loop():
    rng = np.random.default_rng(4)
    distances = rng.random((5, 6, 8))
    expected = [plan_by_loop(group) for group in distances]
    np.testing.assert_array_equal(sinkhorn_codes(distances), expected)


def test_sinkhorn_on_the_last_level_is_that_of_a_loop(codes, quantizer, vectors):
    found = resolved(codes, quantizer, vectors, policy=Policy.SINKHORN_LAST_LEVEL)
    left = (vectors - quantizer.codebooks[0][codes[:, 0]]).astype(np.float64)
    now = codes.copy()
    for _ in range(20):
        groups = defaultdict(list)
        for row, own in enumerate(ids_of(now)):
            groups[own].append(row)
        shared = [rows for rows in groups.values() if len(rows) > 1]
        for rows in shared:
            now[rows, 1] = plan_by_loop(cdist(left[rows], quantizer.codebooks[1].astype(np.float64), "sqeuclidean"))
        if not shared:
            break
    np.testing.assert_array_equal(found, now)
    assert len(set(ids_of(found))) > len(set(ids_of(codes)))


def test_sinkhorn_ends_where_vectors_are_equal():
    vectors = np.repeat(np.eye(4, dtype=np.float32), 3, axis=0)
    quantizer = ResidualKmeansConfig(levels=2, codes=4).fit(vectors)
    found = resolved(quantizer.assign(vectors), quantizer, vectors, policy=Policy.SINKHORN_LAST_LEVEL)
    assert len(set(ids_of(found))) == 4
