"""The sigmoid contrast against a plain loop."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from triptych.losses.sigmoid_contrast import sigmoid_contrast

POSITIVE = torch.tensor([0, 0, 1, 2, 4, 4])
SCALE, BIAS = torch.tensor(6.0), torch.tensor(-1.5)


def random_case(*, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(3)
    items = torch.randn(5, 4, generator=generator, dtype=dtype)
    queries = 0.5 * items[POSITIVE] + torch.randn(6, 4, generator=generator, dtype=dtype)
    known = torch.zeros(6, 5, dtype=torch.bool)
    known[torch.arange(6), POSITIVE] = True
    known[0, 3] = known[2, 0] = known[2, 3] = known[5, 1] = True
    return functional.normalize(queries, dim=1), functional.normalize(items, dim=1), known


def loop_loss(queries, items, known) -> tuple[float, float]:
    positives, negatives, right = [], [], []
    for q, query in enumerate(queries.tolist()):
        own = int(POSITIVE[q])
        scores = {}
        for i, item in enumerate(items.tolist()):
            if i != own and known[q, i]:
                continue
            scores[i] = sum(a * b for a, b in zip(query, item, strict=True))
            probability = 1 / (1 + math.exp(-(SCALE.item() * scores[i] + BIAS.item())))
            if i == own:
                positives.append(-math.log(probability))
            else:
                negatives.append(-math.log(1 - probability))
        right.append(max(scores, key=scores.get) == own)
    loss = (sum(positives) / len(positives) + sum(negatives) / len(negatives)) / 2
    return loss, sum(right) / len(right)


def test_equals_the_loop():
    queries, items, known = random_case()
    output = sigmoid_contrast(queries, items=items, positive=POSITIVE, known=known, scale=SCALE, bias=BIAS)
    expected, accuracy = loop_loss(queries, items, known)
    assert output.total.item() == pytest.approx(expected, rel=1e-5)
    assert output.parts["sigmoid_contrast"].item() == pytest.approx(expected, rel=1e-5)
    assert output.parts["accuracy"].item() == pytest.approx(accuracy)
    assert 0 < accuracy < 1


def test_own_item_counts_whether_marked_known_or_not():
    queries, items, known = random_case()
    unmarked = known.clone()
    unmarked[torch.arange(6), POSITIVE] = False
    first, second = (
        sigmoid_contrast(queries, items=items, positive=POSITIVE, known=mask, scale=SCALE, bias=BIAS).total
        for mask in (known, unmarked)
    )
    assert torch.equal(first, second)


def test_known_pairs_have_no_influence_and_others_have():
    queries, items, known = random_case()

    def first_query_loss(moved: int | None) -> float:
        there = items.clone()
        if moved is not None:
            there[moved] *= -1.0
        return sigmoid_contrast(
            queries[:1], items=there, positive=POSITIVE[:1], known=known[:1], scale=SCALE, bias=BIAS
        ).total.item()

    assert first_query_loss(3) == first_query_loss(None)  # masked
    assert first_query_loss(1) != first_query_loss(None)


def test_only_positives_where_nothing_is_negative():
    queries, items, known = random_case()
    everything = torch.ones_like(known)
    output = sigmoid_contrast(queries, items=items, positive=POSITIVE, known=everything, scale=SCALE, bias=BIAS)
    own = SCALE * (queries * items[POSITIVE]).sum(dim=1) + BIAS
    assert output.total.item() == pytest.approx(functional.softplus(-own).mean().item() / 2)
    assert output.parts["accuracy"].item() == 1


def test_stays_finite_at_extreme_scores():
    queries, items, known = random_case()
    bias = torch.tensor(-300.0, requires_grad=True)
    output = sigmoid_contrast(queries, items=items, positive=POSITIVE, known=known, scale=torch.tensor(10.0), bias=bias)
    output.total.backward()
    assert 140 < output.total.item() < 160
    assert bias.grad.item() == pytest.approx(-0.5)


def test_shares_add_up():
    queries, items, known = random_case()
    settings = {"items": items, "scale": SCALE, "bias": BIAS}
    whole = sigmoid_contrast(queries, positive=POSITIVE, known=known, **settings)
    negatives = int((~known).sum())
    shares = [
        sigmoid_contrast(
            queries[rows], positive=POSITIVE[rows], known=known[rows], total=6, total_negatives=negatives, **settings
        )
        for rows in (slice(0, 2), slice(2, 6), slice(6, 6))
    ]
    assert sum(share.total for share in shares).item() == pytest.approx(whole.total.item())
    assert sum(share.parts["accuracy"] for share in shares).item() == pytest.approx(whole.parts["accuracy"].item())
    assert shares[2].total.item() == 0


@pytest.mark.parametrize("given", [{"total": 6}, {"total_negatives": 20}])
def test_a_share_needs_both_totals(given):
    queries, items, known = random_case()
    with pytest.raises(ValueError, match=r"^total and total_negatives go together"):
        sigmoid_contrast(queries, items=items, positive=POSITIVE, known=known, scale=SCALE, bias=BIAS, **given)


def test_gradient_also_of_scale_and_bias():
    queries, items, known = random_case(dtype=torch.float64)
    inputs = [part.double().clone().requires_grad_() for part in (queries, items, SCALE, BIAS)]

    def total(q, i, scale, bias) -> torch.Tensor:
        return sigmoid_contrast(q, items=i, positive=POSITIVE, known=known, scale=scale, bias=bias).total

    assert torch.autograd.gradcheck(total, inputs)


def test_is_float32_under_autocast():
    queries, items, known = random_case()
    settings = {"items": items, "positive": POSITIVE, "known": known, "scale": SCALE, "bias": BIAS}
    plain = sigmoid_contrast(queries, **settings).total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = sigmoid_contrast(queries, **settings).total
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, plain)


def test_unbalanced_it_is_siglips_loss():
    """Zhai et al., algorithm 1: minus the sum of log sigmoid(±logit) over all pairs, divided by the queries."""
    torch.manual_seed(3)
    queries, items = (functional.normalize(torch.randn(6, 4, dtype=torch.float64), dim=-1) for _ in range(2))
    scale, bias = torch.tensor(10.0, dtype=torch.float64), torch.tensor(-3.0, dtype=torch.float64)
    labels = 2 * torch.eye(6, dtype=torch.float64) - 1
    expected = -functional.logsigmoid(labels * (scale * queries @ items.T + bias)).sum() / 6
    own = torch.arange(6)
    nothing = torch.zeros(6, 6, dtype=torch.bool)
    output = sigmoid_contrast(queries, items=items, positive=own, known=nothing, scale=scale, bias=bias, balanced=False)
    assert output.total.item() == pytest.approx(expected.item(), rel=1e-12)
    shares = [
        sigmoid_contrast(
            queries[rows],
            items=items,
            positive=own[rows],
            known=nothing[rows],
            scale=scale,
            bias=bias,
            total=6,
            total_negatives=30,
            balanced=False,
        ).total
        for rows in (slice(0, 2), slice(2, 6))
    ]
    assert sum(shares).item() == pytest.approx(expected.item(), rel=1e-12)
