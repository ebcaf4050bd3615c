"""Sampled softmax against a plain loop, and against the full softmax that it estimates."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from triptych.losses.sampled_softmax import HardMixes, sampled_softmax
from triptych.recall.negatives import LogQ, Negatives, NegativeSampler

REQUESTS, ITEMS, DIM, T = 4, 500, 6, 0.3


@pytest.fixture
def toy():
    """Five hundred items, four requests, some pairs; popular items are those with small rows."""
    torch.manual_seed(0)
    requests = functional.normalize(torch.randn(REQUESTS, DIM, dtype=torch.float64), dim=1)
    items = functional.normalize(torch.randn(ITEMS, DIM, dtype=torch.float64), dim=1)
    request = torch.tensor([0, 0, 0, 1, 2, 2, 3])
    positive = torch.tensor([3, 7, 250, 1, 0, 499, 3])
    counts = np.round(2_000 / np.arange(1, ITEMS + 1)).astype(np.int64)
    return requests, items, request, positive, counts


def masked_of(request, positive, negative):
    masked = torch.zeros(REQUESTS, len(negative), dtype=torch.bool)
    for one, item in zip(request.tolist(), positive.tolist(), strict=True):
        masked[one] |= torch.as_tensor(negative) == item
    return masked


def loop(requests, items, request, positive, negative, *, negative_bias, positive_bias, mixes=None):
    total = 0.0
    for r in range(REQUESTS):
        own = [p for p, one in enumerate(request.tolist()) if one == r]
        mine = {int(positive[p]) for p in own}
        others = [(n, float(requests[r] @ items[n]) / T) for n in negative if n not in mine]
        for p in own:
            z = float(requests[r] @ items[positive[p]]) / T
            bias = dict(zip(negative, negative_bias, strict=True))
            denominator = sum(math.exp(score + bias[n]) for n, score in others)
            if mixes is not None:
                count, share = mixes
                hardest = sorted((score for _, score in others), reverse=True)[:count]
                denominator += sum(math.exp(share[r] * z + (1 - share[r]) * score) for score in hardest)
            z += positive_bias[p]
            total -= math.log(math.exp(z) / (math.exp(z) + denominator)) / len(own) / REQUESTS
    return total


def test_equals_a_loop(toy):
    requests, items, request, positive, _ = toy
    negative = np.array([0, 1, 3, 5, 7, 8, 100, 400])
    bias = np.linspace(-1, 1, len(negative))
    own_bias = np.linspace(-0.5, 0.5, len(request))
    share = torch.tensor([0.4, 0.5, 0.6, 0.45], dtype=torch.float64)
    for mixes, told in ((None, None), (HardMixes(3, share), (3, share.tolist()))):
        found = sampled_softmax(
            requests,
            positives=items[positive],
            request=request,
            negatives=items[negative],
            masked=masked_of(request, positive, negative),
            temperature=T,
            negative_bias=torch.from_numpy(bias),
            positive_bias=torch.from_numpy(own_bias),
            mixes=mixes,
        )
        expected = loop(
            requests, items, request, positive, negative, negative_bias=bias, positive_bias=own_bias, mixes=told
        )
        assert float(found.total) == pytest.approx(expected, rel=1e-9)


def step_by_step(requests, positives, negatives, *, request, masked, negative_bias, mixes):
    """The loss and its accuracy by operations of autograd's own, each over all scores."""
    own = (requests[request] * positives).sum(dim=1) / T
    scores = (requests @ negatives.T / T).masked_fill(masked, float("-inf"))
    right = (own >= scores.amax(dim=1)[request]).to(own.dtype)
    others = (scores + negative_bias).logsumexp(dim=1)[request]
    if mixes is not None:
        hardest = scores.topk(min(mixes.number, scores.shape[1]), dim=1).values[request]
        share, there = mixes.share.to(own.dtype)[request, None], hardest > float("-inf")
        mixed = share * own[:, None] + (1 - share) * hardest.where(there, torch.zeros_like(hardest))
        others = torch.logaddexp(others, mixed.masked_fill(~there, float("-inf")).logsumexp(dim=1))
    pairs = torch.bincount(request, minlength=len(requests)).to(own.dtype)[request]
    losses = torch.logaddexp(own, others) - own
    return (losses / pairs).sum() / len(requests), (right / pairs).sum() / len(requests)


def drawn_batch(dtype, *, count):
    """A batch in which one request has no negative left, and another no positive."""
    generator = torch.Generator().manual_seed(0)
    request = torch.tensor([0, 0, 0, 1, 2, 2, 4])
    leaves = [torch.randn(rows, DIM, generator=generator, dtype=dtype) / 2 for rows in (5, len(request), count)]
    leaves[1][2] *= 8  # one that is right
    masked = torch.rand(5, count, generator=generator) < 0.1
    masked[2] = True
    bias, share = torch.randn(count, generator=generator), torch.rand(5, generator=generator)
    share[1] = 1.0
    return [leaf.requires_grad_() for leaf in leaves], request, masked, bias.to(dtype), share


@pytest.mark.parametrize("number", [None, 7, 1_000])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 2e-5), (torch.float64, 1e-12)])
def test_few_passes_are_the_loss_and_the_gradients_of_many(dtype, close, number):
    leaves, request, masked, bias, share = drawn_batch(dtype, count=300)
    mixes = None if number is None else HardMixes(number, share)
    given = {"request": request, "masked": masked, "negative_bias": bias, "mixes": mixes}
    expected, accuracy = step_by_step(*leaves, **given)
    found = sampled_softmax(leaves[0], positives=leaves[1], negatives=leaves[2], temperature=T, **given)
    torch.testing.assert_close(found.total, expected, rtol=close, atol=0)
    assert 0 < accuracy == found.parts["accuracy"]
    for one, other in zip(torch.autograd.grad(found.total, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(one, other, rtol=close, atol=close * float(other.abs().max()))


@pytest.mark.parametrize("number", [None, 4])
def test_gradients_are_those_of_finite_differences(number):
    leaves, request, masked, bias, share = drawn_batch(torch.float64, count=12)

    def loss(requests, positives, negatives):
        return sampled_softmax(
            requests,
            positives=positives,
            request=request,
            negatives=negatives,
            masked=masked,
            temperature=T,
            negative_bias=bias,
            mixes=None if number is None else HardMixes(number, share),
        ).total

    assert torch.autograd.gradcheck(loss, leaves)


def test_autocast_changes_nothing():
    leaves, request, masked, bias, _ = drawn_batch(torch.float32, count=50)
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss = sampled_softmax(
                leaves[0],
                positives=leaves[1],
                request=request,
                negatives=leaves[2],
                masked=masked,
                temperature=T,
                negative_bias=bias,
            ).total
            found.append((loss, *torch.autograd.grad(loss, [leaves[0], leaves[2]])))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def full(requests, items, request, positive):
    every = np.arange(ITEMS)
    return sampled_softmax(
        requests,
        positives=items[positive],
        request=request,
        negatives=items,
        masked=masked_of(request, positive, every),
        temperature=T,
    ).total


def test_all_items_give_the_softmax_over_the_catalogue(toy):
    requests, items, request, positive, _ = toy
    expected = 0.0
    for r in range(REQUESTS):
        own = positive[request == r]
        scores = requests[r] @ items.T / T
        for p in own:
            kept = torch.ones(ITEMS, dtype=torch.bool)
            kept[[int(one) for one in own if one != p]] = False
            expected -= float(scores[kept].log_softmax(0)[kept[: int(p)].sum()]) / len(own) / REQUESTS
    assert float(full(*toy[:4])) == pytest.approx(expected, rel=1e-9)


def sampled(toy, *, count, log_q, seed):
    """Return loss and gradient with respect to the requests, averaged over some draws."""
    requests, items, request, positive, counts = toy
    sampler = NegativeSampler(counts, num_negatives=count)
    rng = np.random.default_rng(seed)
    losses, gradients = [], []
    for _ in range(60):
        drawn = sampler.draw(rng)
        asked = requests.clone().requires_grad_()
        bias = sampler.positive_bias(positive.numpy(), log_q=log_q)
        found = sampled_softmax(
            asked,
            positives=items[positive],
            request=request,
            negatives=items[drawn.item_rows],
            masked=masked_of(request, positive, drawn.item_rows),
            temperature=T,
            negative_bias=torch.from_numpy(sampler.negative_bias(drawn, log_q=log_q)),
            positive_bias=None if bias is None else torch.from_numpy(bias),
        ).total
        found.backward()
        losses.append(found.item())
        gradients.append(asked.grad)
    return np.mean(losses), torch.stack(gradients).mean(0)


def test_importance_approaches_the_full_softmax_and_its_gradient_and_none_does_not(toy):
    """Check 2 of the Taobao reconstruction, section 9."""
    asked = toy[0].clone().requires_grad_()
    exact = full(asked, *toy[1:4])
    exact.backward()
    off, steep = {}, {}
    for count in (50, 500, 5_000):
        loss, gradient = sampled(toy, count=count, log_q=LogQ.IMPORTANCE, seed=1)
        off[count] = abs(loss - exact.item())
        steep[count] = float((gradient - asked.grad).norm() / asked.grad.norm())
    assert off[5_000] < 0.02
    assert steep[5_000] < steep[500] < steep[50]
    assert steep[5_000] < 0.01
    loss, gradient = sampled(toy, count=5_000, log_q=LogQ.NONE, seed=1)
    assert abs(loss - exact.item()) > 1.0
    assert float((gradient - asked.grad).norm() / asked.grad.norm()) > 0.2


def test_tf_and_importance_agree_when_trained_to_the_end():
    """They rank alike at the end, and not as training without correction does, which damps what is popular."""
    rng = np.random.default_rng(0)
    chance = rng.dirichlet(np.full(30, 0.7), size=3)  # what is chosen under each of three queries
    counts = np.round(3_000 * chance.sum(0)).astype(np.int64)
    sampler = NegativeSampler(counts, num_negatives=200)
    weights = {log_q: torch.zeros(3, 30, dtype=torch.float64, requires_grad=True) for log_q in LogQ}
    eye = torch.eye(30, dtype=torch.float64)
    for log_q, scores in weights.items():
        optimizer = torch.optim.Adam([scores], lr=0.1)
        draws = np.random.default_rng(1)
        for step in range(600):
            optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 600)
            item = torch.from_numpy(np.concatenate([draws.choice(30, size=16, p=row) for row in chance]))
            request = torch.arange(3).repeat_interleave(16)
            drawn = sampler.draw(draws)
            bias = sampler.positive_bias(item.numpy(), log_q=log_q)
            loss = sampled_softmax(
                scores[request],
                positives=eye[item],
                request=torch.arange(48),
                negatives=eye[drawn.item_rows],
                masked=torch.from_numpy(drawn.item_rows)[None] == item[:, None],
                temperature=1.0,
                negative_bias=torch.from_numpy(sampler.negative_bias(drawn, log_q=log_q)),
                positive_bias=None if bias is None else torch.from_numpy(bias),
            ).total
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    learned = {log_q: scores.detach().softmax(1).numpy() for log_q, scores in weights.items()}
    for log_q in (LogQ.IMPORTANCE, LogQ.TF):
        assert np.abs(learned[log_q] - chance).max() < 0.04
    assert np.abs(learned[LogQ.NONE] - chance).max() > 0.1


def test_a_drawn_item_that_was_chosen_is_no_negative_and_a_gradient_exists_where_all_are(toy):
    requests, items, *_ = toy
    asked = requests[:1].clone().requires_grad_()
    found = sampled_softmax(
        asked,
        positives=items[[3, 7]],
        request=torch.tensor([0, 0]),
        negatives=items[[3, 7]],
        masked=torch.ones(1, 2, dtype=torch.bool),
        temperature=T,
        mixes=HardMixes(2, torch.tensor([0.5])),
    )
    assert found.total.item() == 0.0
    found.total.backward()
    assert torch.isfinite(asked.grad).all()


def test_counts_stand_for_repeated_draws():
    """What is drawn twice is encoded once, and counts as if it stood twice."""
    sampler = NegativeSampler(np.array([5, 3, 1, 0]), num_negatives=7, smoothing=1)
    drawn = Negatives(np.array([0, 2]), np.array([5, 2]))
    for log_q in (LogQ.IMPORTANCE, LogQ.NONE):
        found = np.exp(sampler.negative_bias(drawn, log_q=log_q))
        chance = np.array([6, 4, 2, 1]) / 13
        expected = drawn.counts / (7 * chance[drawn.item_rows] if log_q is LogQ.IMPORTANCE else 1)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(
        np.exp(-sampler.negative_bias(drawn, log_q=LogQ.TF)), 1 - (1 - np.array([6, 2]) / 13) ** 7, rtol=1e-6
    )


def test_draws_follow_the_counts():
    counts = np.array([99, 49, 0, 9])
    sampler = NegativeSampler(counts, num_negatives=20_000, power=0.5, smoothing=1)
    drawn = sampler.draw(np.random.default_rng(0))
    expected = np.sqrt(counts + 1) / np.sqrt(counts + 1).sum()
    np.testing.assert_allclose(drawn.counts / 20_000, expected, atol=0.01)
    np.testing.assert_allclose(sampler.chance, expected)
    one_by_one = np.searchsorted(np.cumsum(expected), np.random.default_rng(0).random(20_000), side="right")
    assert np.array_equal(np.repeat(drawn.item_rows, drawn.counts), np.sort(one_by_one))
