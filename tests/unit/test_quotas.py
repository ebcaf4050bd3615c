"""Quotas: what they promise, against every other order that they could have chosen."""

from __future__ import annotations

import itertools

import numpy as np

from triptych.foundation.types import Hits
from triptych.recall.quotas import with_quotas

PLACES = 4


def case(rng):
    """One request: some of nine candidates, by up to three channels, with equal scores; and quotas that can be met."""
    count = int(rng.integers(0, 10))
    rows = rng.permutation(20)[:count]
    scores = np.sort(rng.integers(0, 5, count))[::-1].astype(np.float32)
    order = np.lexsort((rows, -scores))
    hits = Hits(np.full((1, 9), -1, np.int64), np.full((1, 9), -np.inf, np.float32))
    hits.item_rows[0, :count], hits.scores[0, :count] = rows[order], scores[order]
    has = np.zeros((1, 9, 3), np.bool_)
    has[0, :count] = rng.random((count, 3)) < [0.6, 0.3, 0.2]
    quotas = {2: int(rng.integers(1, 3)), 1: int(rng.integers(1, 3))}
    return hits, has, quotas, count


def is_met(chosen, has, quotas):
    """Whether each channel has its places among the chosen, or all that it found."""
    return all(has[0, list(chosen), one].sum() >= min(least, has[0, :, one].sum()) for one, least in quotas.items())


def test_quotas_are_met_and_nothing_else_moves():
    rng = np.random.default_rng(0)
    changed = 0
    for _ in range(1500):
        hits, has, quotas, count = case(rng)
        found = with_quotas(hits, has, quotas=quotas, places=PLACES)
        rows, before = found.item_rows[0].tolist(), hits.item_rows[0].tolist()
        assert sorted(rows) == sorted(before)  # nothing lost, nothing twice
        place_of = {row: place for place, row in enumerate(before[:count])}
        places = [place_of[row] for row in rows[:count]]
        first, rest = places[:PLACES], places[PLACES:]
        assert first == sorted(first)
        assert rest == sorted(rest)
        assert is_met(first, has, quotas)
        moved = set(first) - set(range(PLACES))
        changed += bool(moved)
        assert found.scores.dtype == np.float32
        for one, other in itertools.pairwise(range(count)):  # the order that every retriever keeps
            high, low = found.scores[0, one], found.scores[0, other]
            assert high > low or (high == low and rows[one] < rows[other])
        if not moved:
            np.testing.assert_array_equal(found.scores, hits.scores)
        for place, row in enumerate(rows[:count]):
            if row not in {before[one] for one in moved} and place >= PLACES:
                assert found.scores[0, place] == hits.scores[0, place_of[row]]
    assert changed > 200


def test_no_more_is_lifted_than_one_quota_needs():
    """With one quota the best way is known: of all ways to choose the first places, the one that moves least."""
    rng = np.random.default_rng(1)
    for _ in range(500):
        hits, has, quotas, count = case(rng)
        one = {1: quotas[1]}
        found = with_quotas(hits, has, quotas=one, places=PLACES)
        place_of = {row: place for place, row in enumerate(hits.item_rows[0, :count].tolist())}
        first = {place_of[row] for row in found.item_rows[0, : min(PLACES, count)].tolist()}
        ways = (set(way) for way in itertools.combinations(range(count), min(PLACES, count)))
        assert sum(first) == min(sum(way) for way in ways if is_met(way, has, one))


def test_without_lack_every_number_stays():
    hits = Hits(np.array([[3, 1, 2, -1]]), np.array([[2.0, 1.0, 1.0, -np.inf]], np.float32))
    found = with_quotas(hits, np.ones((1, 4, 1), np.bool_), quotas={0: 2}, places=3)
    np.testing.assert_array_equal(found.item_rows, hits.item_rows)
    np.testing.assert_array_equal(found.scores, hits.scores)
