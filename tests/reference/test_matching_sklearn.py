"""Matching against scikit-learn's log loss and accuracy."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss

from triptych.losses.matching import matching


def random_case(*, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(8)
    logits = 2 * torch.randn(10, 2, generator=generator, dtype=dtype)
    return logits, torch.rand(10, generator=generator) < 0.4


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64])
def test_equals_scikit_learn(dtype):
    logits, labels = random_case()
    probabilities = logits.double().softmax(dim=1).numpy()
    output = matching(logits, labels=labels.to(dtype))
    expected = log_loss(labels.numpy(), probabilities)
    assert output.total.item() == pytest.approx(expected, rel=1e-6)
    assert output.parts["matching"].item() == pytest.approx(expected, rel=1e-6)
    accuracy = accuracy_score(labels.numpy(), probabilities[:, 1] > 0.5)
    assert output.parts["accuracy"].item() == pytest.approx(accuracy)
    assert 0 < accuracy < 1


def test_a_tie_counts_as_no_match():
    labels = torch.tensor([True, False, False])
    assert matching(torch.zeros(3, 2), labels=labels).parts["accuracy"].item() == pytest.approx(2 / 3)


def test_no_pairs_are_zero_with_a_gradient_of_zeros():
    head = torch.nn.Linear(4, 2)
    output = matching(head(torch.zeros(0, 4)), labels=torch.zeros(0, dtype=torch.bool))
    output.total.backward()
    assert output.total.item() == output.parts["accuracy"].item() == 0
    assert torch.equal(head.weight.grad, torch.zeros(2, 4))


def test_shares_add_up():
    logits, labels = random_case()
    whole = matching(logits, labels=labels)
    shares = [matching(logits[r], labels=labels[r], total=10) for r in (slice(0, 3), slice(3, 10), slice(10, 10))]
    assert sum(share.total for share in shares).item() == pytest.approx(whole.total.item())
    assert sum(share.parts["accuracy"] for share in shares).item() == pytest.approx(whole.parts["accuracy"].item())


def test_gradient():
    logits, labels = random_case(dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: matching(z, labels=labels).total, (logits.requires_grad_(),))


def test_low_precision_logits_are_taken_to_float32_under_autocast():
    logits, labels = random_case(dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = matching(logits, labels=labels).total
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, matching(logits.float(), labels=labels).total)
