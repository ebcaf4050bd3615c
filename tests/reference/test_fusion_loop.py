"""Fusion against plain loops over dictionaries: reciprocal ranks, normalised scores, learned features."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import torch

from triptych.foundation.types import Hits
from triptych.recall.base import Request
from triptych.recall.fusion import Context, Fusion, feature_names, features, unite
from triptych.recall.fusion_choice import fit_linear
from triptych.recall.models.hybrid import AskedBy, Hybrid, HybridChannel, HybridConfig, Rule

NUM_ITEMS = 40
CANDIDATES = 12
REQUESTS = 30
WEIGHTS = {"one": 0.7, "two": 1.3, "three": 0.0, "four": 0.25}


class Told:
    """Answers from a list: query (its place as text) → item row → score."""

    name = "told"

    def __init__(self, answers):
        self.answers = answers

    def retrieve(self, requests, k):
        hits = Hits(np.full((len(requests), k), -1, np.int64), np.full((len(requests), k), -np.inf, np.float32))
        for place, request in enumerate(requests):
            told = self.answers[int(request.query)]
            ordered = sorted(told, key=lambda row: (-told[row], row))[:k]
            hits.item_rows[place, : len(ordered)] = ordered
            hits.scores[place, : len(ordered)] = [told[row] for row in ordered]
        return hits


@pytest.fixture(scope="module")
def answers():
    """Of four channels: long and short lists, equal scores, one score for all, and nothing at all."""
    rng = np.random.default_rng(0)
    found = {}
    for scale, name in enumerate(WEIGHTS):
        found[name] = []
        for request in range(REQUESTS):
            number = [0, 1, 3, CANDIDATES, 30][rng.integers(0, 5)]
            rows = rng.permutation(NUM_ITEMS)[:number].tolist()
            scores = np.float32(rng.integers(-3, 6, number) * 10.0**scale)
            scores = np.full(number, 2, np.float32) if request % 7 == 0 else scores
            found[name].append(dict(zip(rows, scores.tolist(), strict=True)))
    return found


def cut(told):
    return {row: told[row] for row in sorted(told, key=lambda row: (-told[row], row))[:CANDIDATES]}


def loop(answers, request, *, contribution):
    """Sum what each channel says of each candidate."""
    lists = {name: cut(told[request]) for name, told in answers.items()}
    candidates = sorted(set().union(*lists.values()))
    fused = {row: sum(WEIGHTS[name] * contribution(told, row) for name, told in lists.items()) for row in candidates}
    return sorted(fused.items(), key=lambda pair: (-np.float32(pair[1]), pair[0]))


def by_place(told, row):
    return 1 / (60 + 1 + list(told).index(row)) if row in told else 0.0


def by_minmax(told, row):
    if not told:
        return 0.0
    low, high = min(told.values()), max(told.values())
    if low == high:
        return 1.0 if row in told else 0.0
    return (told.get(row, low) - low) / (high - low)


def by_zscore(told, row):
    if not told:
        return 0.0
    if min(told.values()) == max(told.values()):
        return 1.0 if row in told else 0.0
    return (told.get(row, min(told.values())) - statistics.fmean(told.values())) / statistics.pstdev(told.values())


@pytest.mark.parametrize(("fusion", "contribution"), [("rrf", by_place), ("minmax", by_minmax), ("zscore", by_zscore)])
def test_formulas_are_those_of_a_loop(answers, fusion, contribution):
    channels = {name: HybridChannel(Told(told), frozenset({AskedBy.WORDS})) for name, told in answers.items()}
    config = HybridConfig(candidates=CANDIDATES)
    hybrid = Hybrid(channels, rule=Rule(Fusion(fusion), tuple(WEIGHTS.values())), config=config)
    hits = hybrid.retrieve([Request(query=str(request)) for request in range(REQUESTS)], 60)
    longest = 0
    for request in range(REQUESTS):
        expected = loop(answers, request, contribution=contribution)
        count = int((hits.item_rows[request] >= 0).sum())
        assert count == len(expected)
        np.testing.assert_allclose(hits.scores[request, :count], [score for _, score in expected], rtol=1e-6, atol=1e-7)
        wanted = dict(expected)
        for place, row in enumerate(hits.item_rows[request, :count]):  # the order, but for sums that rounding parts
            assert wanted[row] == pytest.approx(expected[place][1], rel=1e-6, abs=1e-7)
        longest = max(longest, count)
    assert longest > CANDIDATES


def test_features_are_those_of_a_loop(answers):
    channels = {name: Told(told) for name, told in answers.items()}
    requests = [Request(query=str(request)) for request in range(REQUESTS)]
    united = unite([channel.retrieve(requests, CANDIDATES) for channel in channels.values()])
    rng = np.random.default_rng(1)
    frequency, is_new = rng.random(REQUESTS), rng.random(united.item_rows.shape) < 0.5
    found = features(united, context=Context(frequency, is_new))
    names = feature_names(list(channels), with_context=True)
    assert found.shape[-1] == len(names)
    for request in range(REQUESTS):
        lists = {name: cut(told[request]) for name, told in answers.items()}
        rows = sorted(set().union(*lists.values()))
        assert united.item_rows[request].tolist() == rows + [-1] * (united.item_rows.shape[1] - len(rows))
        for place, row in enumerate(rows):
            for column, name in enumerate(names[:-1]):
                told, feature = lists[name.split(": ")[0]], name.split(": ")[1]
                nth = list(told).index(row) + 1 if row in told else math.inf
                expected = {
                    "1/place": 1 / nth,
                    "61/(60+place)": 61 / (60 + nth),
                    "minmax": by_minmax(told, row),
                    "found": float(row in told),
                    "61/(60+place) * log frequency of the query": 61 / (60 + nth) * frequency[request],
                }
                assert found[request, place, column] == pytest.approx(expected[feature], rel=1e-6, abs=1e-9)
            assert found[request, place, -1] == is_new[request, place]
        assert not found[request, len(rows) :].any()
    plain = feature_names(list(channels), with_context=False)
    np.testing.assert_array_equal(features(united, context=None), found[..., [names.index(one) for one in plain]])


def test_the_fit_is_where_autograd_finds_no_slope():
    """The minimum by another way: PyTorch's loss of the same words, and its gradient at the weights found."""
    rng = np.random.default_rng(2)
    columns, is_item = rng.normal(size=(40, 9, 5)), rng.random((40, 9)) < 0.8
    gains = np.where(is_item & (rng.random((40, 9)) < 0.3), rng.integers(1, 4, (40, 9)), 0).astype(np.float64)
    weights = fit_linear(columns, gains=gains, is_item=is_item, l2=0.01)
    at = torch.tensor(weights, requires_grad=True)
    losses = []
    for request in range(40):
        if gains[request].sum() == 0:
            continue
        inside = is_item[request]
        logits = torch.tensor(columns[request, inside]) @ at
        target = torch.tensor(gains[request, inside] / gains[request].sum())
        losses.append(torch.nn.functional.cross_entropy(logits, target))
    (torch.stack(losses).mean() + 0.005 * (at**2).sum()).backward()
    assert at.grad.abs().max() < 1e-5
    assert np.abs(weights).max() > 0.05
