"""Where a batch's negatives come from, and how often each is expected, against draws."""

from __future__ import annotations

import numpy as np
import pytest

from triptych.data.pages import Pages, PageSampler
from triptych.recall.negatives import Against, LogQ, NegativeSource


@pytest.mark.parametrize(("against", "draws"), [(Against.IN_BATCH, 0), (Against.MIXED, 5)])
def test_negatives_of_the_batch_are_weighed_by_how_often_they_are_met(against, draws):
    """Where some pages are long, of whose choices a few are drawn: each item's weight is 1 on average."""
    sizes = np.array([1] * 40 + [30] * 10)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    item_rows = np.concatenate([np.zeros(40), np.tile(np.arange(1, 31), 10)]).astype(np.int32)
    zeros = np.zeros(50, dtype=np.int32)
    pages = Pages(zeros, zeros, np.arange(50), offsets, item_rows)
    settings = {"batch_pages": 10, "most_positives": 3}
    source = NegativeSource(
        pages,
        num_items=31,
        against=against,
        log_q=LogQ.IMPORTANCE,
        num_negatives=draws or 10_000,
        power=1.0,
        smoothing=0.0,
        **settings,
    )
    sampler, rng = PageSampler(pages, seed=0, **settings), np.random.default_rng(0)
    weights = np.zeros(31)
    for index in range(3_000):
        drawn, bias = source.draw(sampler.batch(index), rng=rng)
        weights[drawn] += np.exp(bias) / 3_000
    np.testing.assert_allclose(weights[0], 1, atol=0.02)
    np.testing.assert_allclose(weights[1:].mean(), 1, atol=0.02)
