"""Semantic IDs that models read: what is refused, and IDs that are almost an item's."""

from __future__ import annotations

import numpy as np
import pytest

from triptych.foundation.errors import DataError
from triptych.recall.code_trie import CodeTrie
from triptych.recall.item_codes import CodeNegatives, ItemCodes, check_item_codes

NUM_ITEMS, LEVELS, NUM_CODES = 60, 3, 4


def made(codes, *, num_codes: int = NUM_CODES) -> ItemCodes:
    codes = np.asarray(codes)
    return ItemCodes(codes, np.ones((codes.shape[1], num_codes, 2), np.float32))


@pytest.fixture(scope="module")
def codes():
    return np.random.default_rng(1).integers(NUM_CODES, size=(NUM_ITEMS, LEVELS))


def in_common(one, other) -> int:
    """Count the codes with which two IDs begin alike."""
    return next((place for place, (a, b) in enumerate(zip(one, other, strict=True)) if a != b), len(one))


def test_relatives_share_the_longest_prefix_that_another_id_has(codes):
    negatives = CodeNegatives([made(codes)])
    rows = np.arange(NUM_ITEMS)
    drawn = negatives.relatives(rows, count=200, rng=np.random.default_rng(0))
    for row in rows:
        others = [other for other in rows if tuple(codes[other]) != tuple(codes[row])]
        closest = max(in_common(codes[row], codes[other]) for other in others)
        nearest = {tuple(codes[other]) for other in others if in_common(codes[row], codes[other]) == closest}
        assert {tuple(codes[other]) for other in drawn[row]} == nearest, "all of them, and no other"


def test_where_there_is_but_one_id_it_is_its_own_relative():
    negatives = CodeNegatives([made(np.zeros((3, 2), np.int64))])
    drawn = negatives.relatives(np.arange(3), count=2, rng=np.random.default_rng(0))
    assert (negatives.leaves[drawn] == negatives.leaves[:, None]).all()


def test_a_corrupted_id_differs_in_one_code_of_the_first_set(codes):
    other = np.where(np.arange(NUM_ITEMS)[:, None] % 2, codes[:, :2], -1)  # half have none of the second set
    found = CodeNegatives([made(codes), made(other)]).corrupted(
        np.arange(NUM_ITEMS), count=50, rng=np.random.default_rng(0)
    )
    own = np.concatenate([codes, other], axis=1)
    changed = found != own[:, None]
    assert (changed.sum(axis=2) == 1).all() and not changed[:, :, LEVELS:].any()
    assert set(np.flatnonzero(changed.any(axis=(0, 1)))) == set(range(LEVELS))
    replaced = found[:, :, :LEVELS][changed[:, :, :LEVELS]]
    assert set(replaced) == set(range(NUM_CODES))


def test_leaves_are_those_of_the_items(codes):
    trie = CodeTrie.build(codes, item_rows=np.arange(NUM_ITEMS) * 2)
    for row, leaf in zip(np.arange(NUM_ITEMS), trie.leaves(np.arange(NUM_ITEMS) * 2), strict=True):
        assert 2 * row in trie.items(leaf)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ([made(np.zeros((3, 2), np.int64))], r"codes are \[3, 2\] of int64, and the 4 items"),
        ([made(np.zeros((4, 2)))], "of float64"),
        ([made(np.full((4, 2), NUM_CODES))], r"a code is outside 0\.\.3"),
        ([made(np.full((4, 2), -2))], r"a code is outside 0\.\.3"),
        ([made(np.tile([0, -1], (4, 1)))], "codes of some levels only"),
        ([made([[0, 0], [1, 1], [-1, -1], [0, 1]])], r"\(set 1\): item row 2 has none"),
        ([ItemCodes(np.zeros((4, 2), np.int64), np.full((2, 3, 2), np.nan))], "codebooks must be finite"),
    ],
)
def test_ids_that_do_not_fit_are_refused(sets, message):
    with pytest.raises(DataError, match=message):
        check_item_codes(sets, num_items=4)


def test_items_may_lack_ids_of_further_sets():
    first = made(np.zeros((4, 2), np.int64))
    check_item_codes([first, made([[0, 0], [1, 1], [-1, -1], [0, 1]])], num_items=4)


def test_no_relative_is_an_item_that_training_does_not_know(codes):
    known = np.random.default_rng(2).random(NUM_ITEMS) < 0.5
    negatives = CodeNegatives([made(codes)], known=known)
    rows = np.flatnonzero(known)
    drawn = negatives.relatives(rows, count=200, rng=np.random.default_rng(0))
    assert known[drawn].all()
    assert {tuple(one) for one in codes[~known]} - {tuple(one) for one in codes[known]}, "some IDs are of others only"
    alone = CodeNegatives([made(codes[known])])
    expected = rows[alone.relatives(np.arange(len(rows)), count=200, rng=np.random.default_rng(0))]
    np.testing.assert_array_equal(drawn, expected)
    np.testing.assert_array_equal(negatives.leaves[known], alone.leaves)
