"""Masked-patch prediction against scipy and torch's own divergence."""

from __future__ import annotations

import pytest
import torch
from scipy.special import rel_entr, softmax
from torch.nn import functional

from triptych.losses.masked_patches import masked_patches

MASKED, BINS = 6, 9


def random_case(*, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(6)
    logits = 2 * torch.randn(MASKED, BINS, generator=generator, dtype=dtype)
    targets = torch.rand(MASKED, BINS, generator=generator, dtype=dtype)
    targets[targets < 0.3] = 0.0
    targets[0] = functional.one_hot(torch.tensor(4), BINS)
    return logits, targets / targets.sum(dim=1, keepdim=True)


def test_equals_scipy():
    logits, targets = random_case()
    output = masked_patches(logits, targets=targets)
    expected = rel_entr(targets.double().numpy(), softmax(logits.double().numpy(), axis=1)).sum() / MASKED
    assert output.total.item() == pytest.approx(expected, rel=1e-6)
    assert output.parts["masked_patches"].item() == pytest.approx(expected, rel=1e-6)


def test_equals_kl_div_of_a_feature_taken_as_a_softmax():
    logits, _ = random_case()
    feature = torch.randn(MASKED, BINS, generator=torch.Generator().manual_seed(7))
    expected = functional.kl_div(logits.log_softmax(-1), feature.softmax(-1), reduction="none").sum(-1).mean()
    torch.testing.assert_close(masked_patches(logits, targets=feature.softmax(-1)).total, expected)


def test_is_zero_at_the_target_and_above_elsewhere():
    logits, targets = random_case(dtype=torch.float64)
    exact = targets.log().requires_grad_()  # minus infinity where a target is 0
    output = masked_patches(exact, targets=targets)
    output.total.backward()
    assert output.total.item() == pytest.approx(0, abs=1e-15)
    assert torch.allclose(exact.grad, torch.zeros_like(exact), atol=1e-15)
    for row, target in zip(logits, targets, strict=True):
        assert masked_patches(row[None], targets=target[None]).total > 0.01
        shifted = target.clamp(min=1e-3).log()
        shifted[target.argmax()] -= 0.5
        assert masked_patches(shifted[None], targets=target[None]).total > 0.001


def test_nothing_masked_is_zero_with_a_gradient_of_zeros():
    head = torch.nn.Linear(4, BINS)
    output = masked_patches(head(torch.zeros(0, 4)), targets=torch.zeros(0, BINS))
    output.total.backward()
    assert output.total.item() == 0
    assert torch.equal(head.weight.grad, torch.zeros(BINS, 4))


def test_shares_add_up():
    logits, targets = random_case()
    whole = masked_patches(logits, targets=targets)
    shares = [
        masked_patches(logits[rows], targets=targets[rows], total=MASKED).total
        for rows in (slice(0, 2), slice(2, MASKED), slice(MASKED, MASKED))
    ]
    assert sum(shares).item() == pytest.approx(whole.total.item())


def test_gradient_reaches_the_logits_only():
    logits, targets = random_case(dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: masked_patches(z, targets=targets).total, (logits.requires_grad_(),))
    targets.requires_grad_()
    masked_patches(logits, targets=targets).total.backward()
    assert targets.grad is None


def test_low_precision_logits_are_taken_to_float32_under_autocast():
    logits, targets = random_case()
    rounded = logits.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = masked_patches(rounded, targets=targets).total
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, masked_patches(rounded.float(), targets=targets).total)
