"""InfoNCE against a plain loop."""

from __future__ import annotations

import math

import pytest
import torch

from triptych.losses.base import LossOutput
from triptych.losses.infonce import infonce

TEMPERATURE = 0.2


def random_case(*, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(3)
    items = torch.randn(5, 4, generator=generator, dtype=dtype)
    positive = torch.tensor([0, 0, 1, 2, 4, 4])
    queries = 0.5 * items[positive] + torch.randn(6, 4, generator=generator, dtype=dtype)
    known = torch.zeros(6, 5, dtype=torch.bool)
    known[torch.arange(6), positive] = True
    known[0, 3] = known[2, 0] = known[2, 3] = known[5, 1] = True
    return queries, items, positive, known


def loop_loss(queries, items, positive, known, log_q=(0.0,) * 5) -> tuple[float, float]:
    losses, right = [], []
    for q, query in enumerate(queries.tolist()):
        own = int(positive[q])
        scores = {
            i: sum(a * b for a, b in zip(query, item, strict=True)) / TEMPERATURE - log_q[i]
            for i, item in enumerate(items.tolist())
            if i == own or not known[q, i]
        }
        losses.append(math.log(sum(math.exp(score) for score in scores.values())) - scores[own])
        right.append(max(scores, key=scores.get) == own)
    return sum(losses) / len(losses), sum(right) / len(right)


def test_equals_the_loop():
    queries, items, positive, known = random_case()
    output = infonce(queries, items=items, positive=positive, known=known, temperature=TEMPERATURE)
    expected, accuracy = loop_loss(queries, items, positive, known)
    assert output.total.item() == pytest.approx(expected, rel=1e-6)
    assert output.parts["infonce"].item() == pytest.approx(expected, rel=1e-6)
    assert output.parts["accuracy"].item() == pytest.approx(accuracy)
    assert 0 < accuracy < 1


def test_log_q_is_taken_off_every_score():
    queries, items, positive, known = random_case()
    log_q = [-0.1, -3.0, -1.5, -0.7, -5.0]
    corrected = infonce(
        queries, items=items, positive=positive, known=known, temperature=TEMPERATURE, log_q=torch.tensor(log_q)
    )
    expected, accuracy = loop_loss(queries, items, positive, known, log_q)
    assert corrected.total.item() == pytest.approx(expected, rel=1e-6)
    assert corrected.parts["accuracy"].item() == pytest.approx(accuracy)


def test_own_item_counts_whether_marked_known_or_not():
    queries, items, positive, known = random_case()
    unmarked = known.clone()
    unmarked[torch.arange(6), positive] = False
    first, second = (
        infonce(queries, items=items, positive=positive, known=mask, temperature=TEMPERATURE).total
        for mask in (known, unmarked)
    )
    assert torch.equal(first, second)


def test_known_pairs_have_no_influence_and_others_have():
    queries, items, positive, known = random_case()

    def first_query_loss(moved_item: int) -> float:
        moved = items.clone()
        moved[moved_item] += 1.0
        one = infonce(queries[:1], items=moved, positive=positive[:1], known=known[:1], temperature=TEMPERATURE)
        return one.total.item()

    still = infonce(queries[:1], items=items, positive=positive[:1], known=known[:1], temperature=TEMPERATURE)
    assert first_query_loss(3) == still.total.item()  # masked
    assert first_query_loss(1) != still.total.item()


def test_gradient():
    queries, items, positive, known = random_case(dtype=torch.float64)

    def total(q: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
        return infonce(q, items=i, positive=positive, known=known, temperature=TEMPERATURE).total

    assert torch.autograd.gradcheck(total, (queries.requires_grad_(), items.requires_grad_()))


def test_is_float32_under_autocast():
    queries, items, positive, known = random_case()
    plain = infonce(queries, items=items, positive=positive, known=known, temperature=TEMPERATURE).total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = infonce(queries, items=items, positive=positive, known=known, temperature=TEMPERATURE).total
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, plain)


def test_logged_parts_never_join_the_gradient():
    weight = torch.ones(1, requires_grad=True)
    output = LossOutput((2 * weight).sum(), {"diagnostic": (1e6 * weight).sum()})
    assert not output.parts["diagnostic"].requires_grad
    (output.total + output.parts["diagnostic"]).backward()
    assert weight.grad.item() == 2.0
