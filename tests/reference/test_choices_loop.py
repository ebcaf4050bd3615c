"""Ranking losses against plain loops, and against the odds that thinned negatives must not change."""

from __future__ import annotations

import math

import pytest
import torch

from triptych.losses.choices import chosen_or_not, chosen_over_others


@pytest.fixture
def toy():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(30, dtype=torch.float64, generator=generator)
    labels = torch.rand(30, generator=generator) < 0.4
    groups = torch.randint(0, 8, (30,), generator=generator).sort().values * 3
    labels[groups == groups[0]] = True  # a request without negatives
    return logits, labels, groups


def test_cross_entropy_is_the_loop(toy):
    logits, labels, _ = toy
    expected = 0.0
    for z, y in zip(logits.tolist(), labels.tolist(), strict=True):
        p = 1 / (1 + math.exp(-z + math.log(0.25)))
        expected -= math.log(p if y else 1 - p) / 60
    assert float(chosen_or_not(logits, labels=labels, negative_rate=0.25, total=60).total) == pytest.approx(expected)
    assert float(chosen_or_not(logits[:0], labels=labels[:0]).total) == 0.0


def test_what_is_learned_from_thinned_negatives_are_the_odds_of_all():
    """Of 20 choices among 1,000 samples a tenth of the negatives is kept: the best constant is still 20 in 1,000."""
    score = torch.tensor(math.log(20 / 980), dtype=torch.float64, requires_grad=True)
    labels = torch.arange(20 + 98) < 20
    chosen_or_not(score.expand(len(labels)), labels=labels, negative_rate=0.1).total.backward()
    assert score.grad.item() == pytest.approx(0, abs=1e-12)


def test_pairs_are_those_of_a_loop(toy):
    logits, labels, groups = toy
    terms, in_order = [], []
    for i in range(30):
        for j in range(30):
            if groups[i] == groups[j] and labels[i] and not labels[j]:
                terms.append(math.log1p(math.exp(float(logits[j] - logits[i]))))
                in_order.append(float(logits[i] > logits[j]))
    found = chosen_over_others(logits, labels=labels, groups=groups)
    assert float(found.total) == pytest.approx(sum(terms) / len(terms), rel=1e-12)
    assert float(found.parts["pairs_in_order"]) == pytest.approx(sum(in_order) / len(in_order))


def test_the_gradient_of_pairs_is_that_of_differences(toy):
    logits, labels, groups = toy
    logits.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda scores: chosen_over_others(scores, labels=labels, groups=groups).total, (logits,)
    )
    alone = chosen_over_others(logits, labels=labels, groups=torch.arange(30)).total
    assert alone.item() == 0.0
    alone.backward()
    assert (logits.grad == 0).all()
