"""Residual quantisation that learns: where gradients go, and dead codes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from triptych.nn.quantizer import CodebookUpdate, GradientPath, ResidualQuantizer, rotated
from triptych.semantic_ids.codebooks import Codebook, assign


def quantizer(**settings) -> ResidualQuantizer:
    made = ResidualQuantizer(levels=3, codes=5, dim=4, **settings)
    made.set_codebooks(torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1)))
    return made


@pytest.fixture
def vectors() -> torch.Tensor:
    return (2 * torch.randn(40, 4, generator=torch.Generator().manual_seed(0))).requires_grad_()


@pytest.mark.parametrize("path", list(GradientPath))
def test_the_sum_of_the_nearest_codes_and_the_losses_of_a_loop(vectors, path):
    module = quantizer(gradient_path=path)
    found = module(vectors)
    codebooks = module.codebooks.detach().numpy()
    expected = assign(vectors.detach().numpy(), codebooks=[Codebook.of(level) for level in codebooks])
    np.testing.assert_array_equal(found.codes.numpy(), expected.codes)
    residual, total, losses = vectors.detach(), torch.zeros(40, 4), []
    for level in range(3):
        said = module.codebooks[level][found.codes[:, level]].detach()
        losses.append((residual - said).square().mean())
        residual, total = residual - said, total + said
    torch.testing.assert_close(found.vectors, total)
    torch.testing.assert_close(found.codebook, torch.stack(losses))
    torch.testing.assert_close(found.commitment, torch.stack(losses))
    torch.testing.assert_close(found.vectors + torch.from_numpy(expected.residuals), vectors.detach())


@pytest.mark.parametrize("level", range(3))
def test_the_commitment_of_every_level_reaches_what_is_quantised(vectors, level):
    module = quantizer()
    found = module(vectors)
    found.commitment[level].backward()
    said = sum(module.codebooks[place][found.codes[:, place]] for place in range(level + 1))
    torch.testing.assert_close(vectors.grad, 2 * (vectors - said).detach() / vectors.numel())
    assert module.codebooks.grad is None


def test_the_codebook_loss_reaches_its_own_level_alone(vectors):
    module = quantizer()
    module(vectors).codebook[1].backward()
    assert vectors.grad is None
    assert module.codebooks.grad[1].abs().sum() > 0
    assert module.codebooks.grad[[0, 2]].abs().sum() == 0


def test_the_gradient_of_the_sum_passes_straight_through(vectors):
    module = quantizer()
    given = torch.randn(40, 4, generator=torch.Generator().manual_seed(2))
    module(vectors).vectors.backward(given)
    torch.testing.assert_close(vectors.grad, given)
    assert module.codebooks.grad is None


def test_the_rotation_turns_and_scales_gradients(vectors):
    to = torch.randn(40, 4, generator=torch.Generator().manual_seed(3))
    given = torch.randn(40, 4, generator=torch.Generator().manual_seed(4))
    turned = rotated(vectors, to=to)
    torch.testing.assert_close(turned, to)
    turned.backward(given)
    one = vectors.detach() / vectors.detach().norm(dim=1, keepdim=True)
    other = to / to.norm(dim=1, keepdim=True)
    mirror = (one + other) / (one + other).norm(dim=1, keepdim=True)
    for row in range(40):
        r, e, q = mirror[row], one[row], other[row]
        rotation = torch.eye(4) - 2 * torch.outer(r, r) + 2 * torch.outer(q, e)
        scale = to[row].norm() / vectors[row].detach().norm()
        torch.testing.assert_close(scale * rotation @ vectors[row].detach(), to[row])
        torch.testing.assert_close(vectors.grad[row], scale * rotation.T @ given[row])


def test_the_rotation_has_a_gradient_where_it_is_not_defined():
    vectors = torch.tensor([[0.0, 0.0], [1.0, 2.0], [3.0, 0.0]], requires_grad=True)
    to = torch.tensor([[1.0, 1.0], [0.0, 0.0], [-3.0, 0.0]])
    found = rotated(vectors, to=to)
    torch.testing.assert_close(found, to)
    found.sum().backward()
    torch.testing.assert_close(vectors.grad, torch.ones(3, 2))


def test_moving_averages_become_the_means_of_what_is_assigned():
    centres = torch.tensor([[4.0, 0.0], [-4.0, 0.0], [0.0, 4.0]])
    batch = centres.repeat(10, 1) + 0.1 * torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    module = ResidualQuantizer(levels=1, codes=3, dim=2, update=CodebookUpdate.EMA, ema_decay=0.5)
    module.set_codebooks(0.5 * centres[None])
    for _ in range(40):
        module(batch)
    means = torch.stack([batch[code::3].mean(dim=0) for code in range(3)])
    torch.testing.assert_close(module.codebooks[0].detach(), means, rtol=1e-4, atol=1e-4)
    assert not module.codebooks.requires_grad
    frozen = module.codebooks.clone()
    module.eval()
    module(batch + 1)
    torch.testing.assert_close(module.codebooks, frozen)


def test_dead_codes_are_revived_and_others_are_left():
    torch.manual_seed(0)
    batch = torch.randn(64, 2)
    module = ResidualQuantizer(
        levels=1, codes=4, dim=2, update=CodebookUpdate.EMA, ema_decay=0.8, dead_after=15, dead_below=0.25
    )
    far = torch.tensor([[0.5, 0.0], [-0.5, 0.0], [50.0, 50.0], [60.0, 60.0]])
    module.set_codebooks(far[None])
    for _ in range(10):
        module(batch)
    assert torch.bincount(module(batch).codes[:, 0], minlength=4)[2:].sum() == 0
    for _ in range(60):
        module(batch)
    used = torch.bincount(module.eval()(batch).codes[:, 0], minlength=4)
    assert (used > 0).all()
    assert module.codebooks.abs().max() < 5
