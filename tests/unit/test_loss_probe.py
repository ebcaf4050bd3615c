"""Losses of fixed pairs against a plain loop, and the weights made of them."""

from __future__ import annotations

import numpy as np
import pytest

from triptych.data.targets import Targets, TrainPairs
from triptych.pretrain.loss_probe import PAIRS, TEMPERATURE, LossProbe, blend_weights

TRAINED = {(0, 0), (0, 1), (1, 2), (2, 3), (2, 0), (3, 4)}
CHOSEN_LATER = {(0, 5), (1, 1), (4, 2)}


def probe() -> LossProbe:
    pairs = TrainPairs(*np.array([(*pair, 1) for pair in sorted(TRAINED)], dtype=np.int32).T)
    later = np.array(sorted(CHOSEN_LATER), dtype=np.int32)
    targets = Targets(np.array([0, 1, 4], np.int32), np.arange(4), later[:, 1])
    return LossProbe(pairs=pairs, log=pairs, targets=targets)


def test_the_training_sample_is_of_what_is_learned_from():
    """Of a shorter log the rest is as new as validation is, and learned by heart it cannot be."""
    rng = np.random.default_rng(0)
    pairs = TrainPairs(*np.unique(rng.integers(0, 40, size=(900, 2)), axis=0).T.astype(np.int32), np.ones(0, np.int32))
    few = pairs._replace(query_row=pairs.query_row[::9], item_row=pairs.item_row[::9])
    targets = Targets(np.array([3], np.int32), np.array([0, 1]), np.array([5], np.int32))
    sample = LossProbe(pairs=few, log=pairs, targets=targets)._samples["training"]
    drawn, learned, log = (
        set(zip(rows.tolist(), items.tolist(), strict=True))
        for rows, items in ((sample.query_rows, sample.item_rows), few[:2], pairs[:2])
    )
    assert len(drawn) > 5
    assert drawn <= learned
    everything = log | {(3, 5)}
    expected = [[(query, item) in everything for item in sample.item_rows.tolist()] for query in sample.query_rows]
    assert sample.known.tolist() == expected


def test_losses_equal_a_plain_loop():
    rng = np.random.default_rng(0)
    by_query = rng.normal(size=(5, 3)).astype(np.float32)
    items = rng.normal(size=(6, 3)).astype(np.float32)
    made = probe()
    losses = made.measure(by_query[made.query_rows], items)
    for where, pairs in (("training", TRAINED), ("validation", CHOSEN_LATER)):
        sample = made._samples[where]
        drawn = list(zip(sample.query_rows.tolist(), sample.item_rows.tolist(), strict=True))
        assert set(drawn) <= pairs
        assert {item for _, item in drawn} == {item for _, item in pairs}, "every item once"
        assert len(drawn) == len({item for _, item in drawn})
        total = 0.0
        for query, item in drawn:
            others = [i for _, i in drawn if i == item or (query, i) not in TRAINED | CHOSEN_LATER]
            scores = {i: float(by_query[query] @ items[i]) / TEMPERATURE for i in others}
            highest = max(scores.values())
            total += np.log(sum(np.exp(one - highest) for one in scores.values())) + highest - scores[item]
        assert losses[where] == pytest.approx(total / len(drawn), rel=1e-5)


def test_samples_are_bounded_and_the_same_for_everyone():
    count = 3 * PAIRS
    rows = np.arange(count, dtype=np.int32)
    pairs = TrainPairs(rows % 50, rows, np.ones(count, np.int32))
    targets = Targets(np.arange(50, dtype=np.int32), np.linspace(0, count, 51).astype(int), rows)
    first, second = (LossProbe(pairs=pairs, log=pairs, targets=targets) for _ in range(2))
    assert len(first.query_rows) == 2 * PAIRS
    assert (first.query_rows == second.query_rows).all()


def losses(**by_name: tuple[float, float]) -> dict[str, dict[str, float]]:
    return {name: {"training": train, "validation": held} for name, (train, held) in by_name.items()}


def test_what_generalises_has_the_weight():
    start = losses(text=(5.0, 5.0), photo=(5.0, 5.0), fused=(5.0, 5.0))
    # text gains 2 and overfits by 1; photo gains 1 and overfits by 0.5; fused gains 2 and overfits by 2
    end = losses(text=(2.0, 3.0), photo=(3.5, 4.0), fused=(1.0, 3.0))
    raw = np.array([2 / 1**2, 1 / 0.5**2, 2 / 2**2])
    assert list(blend_weights(start, end).values()) == pytest.approx((3 * raw / raw.sum()).tolist())


def test_what_gains_nothing_has_none_and_a_tiny_gap_not_all():
    start = losses(a=(5.0, 5.0), b=(5.0, 5.0))
    worse = blend_weights(start, losses(a=(4.0, 5.5), b=(4.0, 4.5)))
    assert worse == pytest.approx({"a": 0.0, "b": 2.0})
    lucky = blend_weights(start, losses(a=(4.0, 4.0), b=(3.99, 4.0)))
    assert lucky["a"] == pytest.approx(lucky["b"])
    with pytest.raises(ValueError, match="no loss gained anything"):
        blend_weights(start, losses(a=(4.0, 6.0), b=(4.0, 6.0)))
