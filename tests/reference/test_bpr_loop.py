"""BPR against a plain loop, and against the expectation that its estimates have."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from triptych.losses.bpr import CACHED_PAIRS, Penalty, bpr
from triptych.recall.negatives import LogQ, NegativeSampler

REQUESTS, ITEMS, DIM, T = 4, 60, 5, 0.7


@pytest.fixture
def toy():
    generator = torch.Generator().manual_seed(0)
    requests, items = (torch.randn(n, DIM, dtype=torch.float64, generator=generator) for n in (REQUESTS, ITEMS))
    request, positive = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([3, 7, 50, 0, 1, 59])  # request 3 has none
    masked = torch.zeros(REQUESTS, ITEMS, dtype=torch.bool)
    masked[request, positive] = True
    masked[1, 10:20] = True
    return requests, items, request, positive, masked


def loop(requests, items, request, positive, masked, weights):
    total = 0.0
    for r in range(REQUESTS):
        own = positive[request == r].tolist()
        for p in own:
            z = float(requests[r] @ items[p]) / T
            terms = [
                (weights[n], math.log1p(math.exp(-(z - float(requests[r] @ items[n]) / T))))
                for n in range(ITEMS)
                if not masked[r, n]
            ]
            total += sum(w * term for w, term in terms) / sum(w for w, _ in terms) / len(own)
    return total / REQUESTS


@pytest.mark.parametrize("biased", [False, True])
def test_it_is_the_loop(toy, biased):
    requests, items, request, positive, masked = toy
    bias = torch.randn(ITEMS, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) if biased else None
    weights = [1.0] * ITEMS if bias is None else bias.exp().tolist()
    found = bpr(
        requests,
        positives=items[positive],
        request=request,
        negatives=items,
        masked=masked,
        temperature=T,
        negative_bias=bias,
    )
    assert float(found.total) == pytest.approx(loop(*toy, weights), rel=1e-12)


def test_what_is_penalised_is_what_each_comparison_is_made_of(toy):
    """λ/2 of the squared lengths of a request, its choice and a negative, averaged as the comparisons are."""
    requests, items, request, positive, masked = toy
    masked[2] = True  # nothing to compare with: nothing is learned, and nothing penalised
    bias = torch.randn(ITEMS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    of_requests, of_items = (torch.rand(n, dtype=torch.float64) for n in (REQUESTS, ITEMS))
    given = {"positives": items[positive], "request": request, "negatives": items, "masked": masked}
    given |= {"temperature": T, "negative_bias": bias}
    without = bpr(requests, **given)
    found = bpr(requests, **given, penalty=Penalty(0.3, of_requests, of_items[positive], of_items))
    expected, weights = 0.0, bias.exp().tolist()
    for r in (0, 1):
        own, there = positive[request == r].tolist(), [n for n in range(ITEMS) if not masked[r, n]]
        for p in own:
            for n in there:
                share = weights[n] / sum(weights[n] for n in there) / len(own)
                expected += share * 0.3 / 2 * float(of_requests[r] + of_items[p] + of_items[n])
    assert float(found.parts["l2"]) == pytest.approx(expected / REQUESTS, rel=1e-12)
    assert float(found.total) == pytest.approx(float(without.total) + expected / REQUESTS, rel=1e-12)
    assert float(found.parts["bpr"]) == float(without.total)


def test_the_gradient_is_that_of_differences(toy):
    requests, items, request, positive, masked = toy
    items.requires_grad_()

    def loss(vectors):
        return bpr(
            requests, positives=vectors[positive], request=request, negatives=vectors, masked=masked, temperature=T
        ).total

    assert torch.autograd.gradcheck(loss, (items,))


@pytest.mark.parametrize("once", [True, False])
def test_many_pairs_are_worked_out_some_at_a_time_as_all_at_once(once):
    """Value, parts and gradients, against the formula as autograd has it."""
    pairs, generator = 2 * CACHED_PAIRS + 5, torch.Generator().manual_seed(2)
    users, items = (torch.randn(n, DIM, dtype=torch.float64, generator=generator) for n in (pairs, ITEMS))
    request = torch.arange(pairs) if once else torch.randint(pairs, (pairs,), generator=generator).sort().values
    positive = torch.randint(ITEMS, (pairs,), generator=generator)
    masked = torch.rand(pairs, ITEMS, generator=generator) < 0.3
    masked[request, positive] = True
    bias = torch.randn(ITEMS, dtype=torch.float64, generator=generator)
    own, slow = ([part.clone().requires_grad_() for part in (users, items)] for _ in range(2))
    given = {"request": request, "masked": masked, "temperature": T, "negative_bias": bias}
    found = bpr(own[0], positives=own[1][positive], negatives=own[1], **given)
    margins = ((slow[0][request] * slow[1][positive]).sum(dim=1, keepdim=True) - slow[0][request] @ slow[1].T) / T
    weights = bias.exp().expand(pairs, ITEMS).masked_fill(masked[request], 0)
    weights = weights / weights.sum(dim=1, keepdim=True) / torch.bincount(request)[request][:, None] / pairs
    expected = (weights * -torch.nn.functional.logsigmoid(margins)).sum()
    torch.testing.assert_close(found.total, expected)
    torch.testing.assert_close(found.parts["auc"], (weights * (margins > 0)).sum())
    found.total.backward()
    expected.backward()
    for one, other in zip(own, slow, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_a_request_without_negatives_adds_nothing(toy):
    requests, items, request, positive, masked = toy
    masked[1] = True
    requests.requires_grad_()
    found = bpr(requests, positives=items[positive], request=request, negatives=items, masked=masked, temperature=T)
    found.total.backward()
    assert torch.isfinite(requests.grad).all()
    assert (requests.grad[1] == 0).all() and (requests.grad[3] == 0).all() and (requests.grad[0] != 0).any()


def test_draws_by_popularity_estimate_the_uniform_mean(toy):
    """With importance weights, what popular draws give comes to the mean over all items alike."""
    requests, items, request, positive, _ = toy
    nothing = torch.zeros(REQUESTS, ITEMS, dtype=torch.bool)
    exact = float(
        bpr(requests, positives=items[positive], request=request, negatives=items, masked=nothing, temperature=T).total
    )
    counts = np.round(100 / np.arange(1, ITEMS + 1)).astype(np.int64)
    sampler, rng = NegativeSampler(counts, num_negatives=4_000), np.random.default_rng(0)
    found = {LogQ.IMPORTANCE: [], LogQ.NONE: []}
    for _ in range(40):
        drawn = sampler.draw(rng)
        for log_q, values in found.items():
            values.append(
                float(
                    bpr(
                        requests,
                        positives=items[positive],
                        request=request,
                        negatives=items[drawn.item_rows],
                        masked=nothing[:, drawn.item_rows],
                        temperature=T,
                        negative_bias=torch.from_numpy(sampler.negative_bias(drawn, log_q=log_q)),
                    ).total
                )
            )
    assert np.mean(found[LogQ.IMPORTANCE]) == pytest.approx(exact, rel=0.01)
    assert np.mean(found[LogQ.NONE]) != pytest.approx(exact, rel=0.05)
