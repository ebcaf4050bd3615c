"""Where a batch's negatives come from, how often each is expected, against draws, and what is mined, against a loop."""

from __future__ import annotations

import numpy as np
import pytest

from triptych.data.pages import Pages, PageSampler
from triptych.data.sampling import KnownPairs
from triptych.foundation.errors import DataError
from triptych.recall.mining import MinedNegatives
from triptych.recall.negatives import Against, LogQ, NegativeSource


@pytest.mark.parametrize(("against", "draws"), [(Against.IN_BATCH, 0), (Against.MIXED, 5)])
def test_negatives_of_the_batch_are_weighed_by_how_often_they_are_met(against, draws):
    """To a page that did not choose it each item weighs 1 on average; of the choices of long pages a few are drawn."""
    sizes = np.array([1] * 40 + [30] * 10)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    item_rows = np.concatenate([np.zeros(40), np.tile(np.arange(1, 31), 10)]).astype(np.int32)
    zeros = np.zeros(50, dtype=np.int32)
    pages = Pages(zeros, zeros, np.arange(50), offsets, item_rows)
    settings = {"batch_pages": 10, "most_positives": 3}
    source = NegativeSource(
        pages,
        known=np.ones(31, dtype=bool),
        against=against,
        log_q=LogQ.IMPORTANCE,
        num_negatives=draws or 10_000,
        power=1.0,
        smoothing=0.0,
        **settings,
    )
    sampler, rng = PageSampler(pages, seed=0, **settings), np.random.default_rng(0)
    known = KnownPairs(np.repeat(np.arange(50), sizes), item_rows)
    weights, times = np.zeros(31), np.zeros(31)
    for index in range(3_000):
        batch = sampler.batch(index)
        drawn, bias = source.draw(batch, rng=rng)
        weights[drawn] += (np.exp(bias) * ~known.among(batch.pages, item_rows=drawn)).sum(axis=0)
        times += (~known.among(batch.pages, item_rows=np.arange(31))).sum(axis=0)
    np.testing.assert_allclose((weights / times)[0], 1, atol=0.02)
    np.testing.assert_allclose((weights / times)[1:].mean(), 1, atol=0.02)


@pytest.mark.parametrize(
    ("against", "power", "smoothing"),
    [(Against.FULL, 1.0, 0.0), (Against.SAMPLED, 1.0, 2.0), (Against.SAMPLED, 0.0, 0.0)],
)
def test_what_training_does_not_know_is_no_negative(against, power, smoothing):
    """An item that comes after the training part is not there to be learned against; one that nobody chose is."""
    known = np.array([True, True, False, True, False])
    zeros = np.zeros(2, dtype=np.int32)
    pages = Pages(zeros, zeros, np.arange(2), np.array([0, 1, 2]), np.array([0, 3], dtype=np.int32))
    source = NegativeSource(
        pages,
        known=known,
        batch_pages=2,
        most_positives=1,
        against=against,
        log_q=LogQ.IMPORTANCE,
        num_negatives=200,
        power=power,
        smoothing=smoothing,
    )
    batch = PageSampler(pages, batch_pages=2, most_positives=1, seed=0).batch(0)
    drawn, bias = source.draw(batch, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(drawn, [0, 1, 3])
    np.testing.assert_allclose(np.exp(bias).sum(), 3, atol=0.5)


def test_what_is_mined_is_what_a_loop_finds():
    """All ranks that were asked for, but what was chosen; a query all of whose neighbours were chosen has none."""
    rng = np.random.default_rng(0)
    queries, items = (rng.standard_normal((count, 5)).astype(np.float32) for count in (7, 40))
    asked = np.array([5, 2, 2, 6, 0])
    order = np.argsort(-(queries @ items.T), axis=1)
    pairs = [(5, order[5, 4]), (2, order[2, 0]), (2, order[2, 3]), *((6, item) for item in order[6, :8])]
    mined = MinedNegatives.fit(
        asked,
        query_content=queries,
        item_content=items,
        chosen=KnownPairs(*np.array(pairs).T),
        first=3,
        last=8,
    )
    found, there = mined.draw(asked, number=200, rng=rng)
    for place, query in enumerate(asked):
        right = set(order[query, 2:8]) - {item for row, item in pairs if row == query}
        assert there[place].all() if right else not there[place].any()
        assert set(found[place, there[place]]) == right


def test_ranks_are_among_the_items_that_training_knows():
    rng = np.random.default_rng(0)
    queries, items = (rng.standard_normal((count, 5)).astype(np.float32) for count in (7, 40))
    known = rng.random(40) < 0.5
    settings = {"chosen": KnownPairs(np.array([0]), np.array([0])), "first": 2, "last": 6}
    mined = MinedNegatives.fit(np.arange(1, 7), query_content=queries, item_content=items, known=known, **settings)
    found, there = mined.draw(np.arange(1, 7), number=200, rng=rng)
    assert there.all()
    for place, query in enumerate(range(1, 7)):
        order = [row for row in np.argsort(-(items @ queries[query])) if known[row]]
        assert set(found[place]) == set(order[1:6])


def test_a_catalogue_too_small_to_mine_in_is_a_sentence():
    vectors = np.eye(4, dtype=np.float32)
    content = {"query_content": vectors, "item_content": vectors, "chosen": KnownPairs(np.arange(4), np.arange(4))}
    with pytest.raises(DataError, match="of 4 items none has a rank from 5 to 4"):
        MinedNegatives.fit(np.arange(4), first=5, last=9, **content)
