"""AM-softmax against a plain loop, and against InfoNCE where the margin is 0."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from triptych.losses.am_softmax import am_softmax
from triptych.losses.infonce import infonce

SCALE, MARGIN = 8.0, 0.3
POSITIVE = torch.tensor([0, 0, 1, 2, 4, 4])
LOG_Q = [-0.1, -3.0, -1.5, -0.7, -5.0]


def random_case(*, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(3)
    items = torch.randn(5, 4, generator=generator, dtype=dtype)
    queries = 0.5 * items[POSITIVE] + torch.randn(6, 4, generator=generator, dtype=dtype)
    known = torch.zeros(6, 5, dtype=torch.bool)
    known[torch.arange(6), POSITIVE] = True
    known[0, 3] = known[2, 0] = known[2, 3] = known[5, 1] = True
    return functional.normalize(queries, dim=1), functional.normalize(items, dim=1), known


def loop_loss(queries, items, known, *, log_q) -> tuple[float, float]:
    losses, right = [], []
    for q, query in enumerate(queries.tolist()):
        own = int(POSITIVE[q])
        cosines = {
            i: sum(a * b for a, b in zip(query, item, strict=True))
            for i, item in enumerate(items.tolist())
            if i == own or not known[q, i]
        }
        harder = {i: SCALE * (cosine - MARGIN * (i == own)) - log_q[i] for i, cosine in cosines.items()}
        losses.append(math.log(sum(math.exp(score) for score in harder.values())) - harder[own])
        plain = {i: SCALE * cosine - log_q[i] for i, cosine in cosines.items()}
        right.append(max(plain, key=plain.get) == own)
    return sum(losses) / len(losses), sum(right) / len(right)


@pytest.mark.parametrize("log_q", [None, LOG_Q])
def test_equals_the_loop(log_q):
    queries, items, known = random_case()
    correction = None if log_q is None else torch.tensor(log_q)
    output = am_softmax(
        queries, items=items, positive=POSITIVE, known=known, scale=SCALE, margin=MARGIN, log_q=correction
    )
    expected, accuracy = loop_loss(queries, items, known, log_q=log_q or [0.0] * 5)
    assert output.total.item() == pytest.approx(expected, rel=1e-6)
    assert output.parts["am_softmax"].item() == pytest.approx(expected, rel=1e-6)
    assert output.parts["accuracy"].item() == pytest.approx(accuracy)
    assert 0 < accuracy < 1


def test_without_margin_is_infonce_in_value_and_gradient():
    results = []
    for loss, settings in ((am_softmax, {"scale": SCALE, "margin": 0.0}), (infonce, {"temperature": 1 / SCALE})):
        queries, items, known = random_case()
        queries, items, log_q = (part.requires_grad_() for part in (queries, items, torch.tensor(LOG_Q)))
        output = loss(queries, items=items, positive=POSITIVE, known=known, log_q=log_q, **settings)
        output.total.backward()
        results.append((output.total, output.parts["accuracy"], queries.grad, items.grad, log_q.grad))
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-6, atol=1e-6)


def test_the_own_score_is_pushed_harder_as_the_margin_grows():
    """With unit vectors as items, the queries are the scores."""
    scores = torch.randn(6, 5, generator=torch.Generator().manual_seed(4), dtype=torch.float64).tanh()
    slopes = []
    for margin in (0.0, 0.05, 0.1, 0.2, 0.35, 0.7):
        queries = scores.clone().requires_grad_()
        known = torch.zeros(6, 5, dtype=torch.bool)
        items = torch.eye(5, dtype=torch.float64)
        am_softmax(queries, items=items, positive=POSITIVE, known=known, scale=SCALE, margin=margin).total.backward()
        slopes.append(queries.grad[torch.arange(6), POSITIVE])
    assert (slopes[0] < 0).all()
    assert (torch.stack(slopes).diff(dim=0) < 0).all()


def test_the_margin_does_not_change_the_accuracy():
    queries, items, known = random_case()
    first, second = (
        am_softmax(queries, items=items, positive=POSITIVE, known=known, scale=SCALE, margin=margin).parts["accuracy"]
        for margin in (0.0, 1.5)
    )
    assert first == second
    assert first > 0


def test_shares_add_up():
    queries, items, known = random_case()
    settings = {"items": items, "scale": SCALE, "margin": MARGIN}
    whole = am_softmax(queries, positive=POSITIVE, known=known, **settings)
    shares = [
        am_softmax(queries[rows], positive=POSITIVE[rows], known=known[rows], total=6, **settings)
        for rows in (slice(0, 2), slice(2, 6), slice(6, 6))
    ]
    assert sum(share.total for share in shares).item() == pytest.approx(whole.total.item())
    assert sum(share.parts["accuracy"] for share in shares).item() == pytest.approx(whole.parts["accuracy"].item())
    assert shares[2].total.item() == 0


def test_gradient():
    queries, items, known = random_case(dtype=torch.float64)

    def total(q: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
        return am_softmax(q, items=i, positive=POSITIVE, known=known, scale=SCALE, margin=MARGIN).total

    assert torch.autograd.gradcheck(total, (queries.requires_grad_(), items.requires_grad_()))


def test_is_float32_under_autocast():
    queries, items, known = random_case()
    settings = {"items": items, "positive": POSITIVE, "known": known, "scale": SCALE, "margin": MARGIN}
    plain = am_softmax(queries, **settings).total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = am_softmax(queries, **settings).total
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, plain)
