"""Masked-token prediction against a plain loop."""

from __future__ import annotations

import math

import pytest
import torch

from triptych.losses.masked_tokens import masked_tokens


def random_case(*, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(7, 11, generator=generator, dtype=dtype)
    targets = torch.randint(0, 11, (7,), generator=generator)
    targets[:3] = logits[:3].argmax(dim=1)
    return logits, targets


def test_equals_the_loop():
    logits, targets = random_case()
    losses, right = [], []
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        losses.append(math.log(sum(math.exp(score) for score in row)) - row[target])
        right.append(row.index(max(row)) == target)
    output = masked_tokens(logits, targets=targets)
    assert output.total.item() == pytest.approx(sum(losses) / 7, rel=1e-6)
    assert output.parts["masked_tokens"].item() == pytest.approx(sum(losses) / 7, rel=1e-6)
    assert output.parts["accuracy"].item() == pytest.approx(sum(right) / 7)
    assert 0 < sum(right) < 7


def test_nothing_masked_is_zero_with_a_gradient_of_zeros():
    head = torch.nn.Linear(4, 11)
    output = masked_tokens(head(torch.zeros(0, 4)), targets=torch.zeros(0, dtype=torch.int64))
    output.total.backward()
    assert output.total.item() == output.parts["accuracy"].item() == 0
    assert torch.equal(head.weight.grad, torch.zeros(11, 4))


def test_shares_add_up():
    logits, targets = random_case()
    whole = masked_tokens(logits, targets=targets)
    shares = [masked_tokens(logits[r], targets=targets[r], total=7) for r in (slice(0, 3), slice(3, 7), slice(7, 7))]
    assert sum(share.total for share in shares).item() == pytest.approx(whole.total.item())
    assert sum(share.parts["accuracy"] for share in shares).item() == pytest.approx(whole.parts["accuracy"].item())


def test_gradient():
    logits, targets = random_case(dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: masked_tokens(z, targets=targets).total, (logits.requires_grad_(),))


def test_low_precision_logits_are_taken_to_float32_under_autocast():
    logits, targets = random_case(dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = masked_tokens(logits, targets=targets).total
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, masked_tokens(logits.float(), targets=targets).total)
