"""Two branches of one module: how they begin, what each of them trains, and the merged weights."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from triptych.nn.low_rank import LowRankBranch
from triptych.nn.query_former import ModalityTokens, QueryFormer

DIMS, ITEMS = (6, 4), 7


def made(*, preset=QueryFormer.full, **settings) -> tuple[QueryFormer, LowRankBranch]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shared = preset(DIMS, dim=16, heads=4, queries=2, **settings)
        return shared, LowRankBranch(shared, rank=3, alpha=6.0)


def tokens(seed: int) -> list[ModalityTokens]:
    generator = torch.Generator().manual_seed(seed)
    return [ModalityTokens(torch.randn(ITEMS, 5, dim, generator=generator)) for dim in DIMS]


def grown(branch: LowRankBranch) -> None:
    """Give the factors something to add."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for factor in branch.up:
            factor.normal_(std=0.3, generator=generator)


TARGETS, BEHAVIOURS = tokens(1), tokens(2)


@pytest.mark.parametrize("preset", [QueryFormer.full, QueryFormer.as_published])
def test_at_first_it_is_the_shared_module_bit_for_bit(preset):
    shared, branch = made(preset=preset)
    shared.eval()
    assert torch.equal(branch(BEHAVIOURS), shared(BEHAVIOURS))
    grown(branch)
    assert not torch.allclose(branch(BEHAVIOURS), shared(BEHAVIOURS), atol=1e-3)


def test_a_linear_layer_is_its_formula():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = nn.Linear(5, 4)
        branch = LowRankBranch(layer, rank=2, alpha=3.0)
    grown(branch)
    states = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    (down,), (up,) = branch.down, branch.up
    torch.testing.assert_close(branch(states), layer(states) + 1.5 * (states @ down.T) @ up.T)


def test_every_matrix_has_its_two_factors():
    shared, branch = made()
    shapes = [layer.weight.shape for layer in shared.modules() if isinstance(layer, nn.Linear)]
    assert sum(weight.numel() for weight in branch.parameters()) == sum(
        3 * (rows + columns) for rows, columns in shapes
    )
    assert len(shapes) == len(DIMS) + 2 * 4 + 1  # projections; query-key-value, out, up, down of two blocks; readout
    spread = torch.cat([factor.flatten() for factor in branch.down]).std().item()
    assert spread == pytest.approx(3**-0.5, rel=0.1)


def test_behaviours_train_the_factors_alone():
    """The shared gradient is that of targets without any behaviours, to the last bit."""
    shared, branch = made()
    grown(branch)
    shared.eval()
    gradients = []
    for share in (1.0, 0.0):
        shared.zero_grad()
        branch.zero_grad()
        (shared(TARGETS).square().sum() + share * branch(BEHAVIOURS).square().sum()).backward()
        gradients.append({name: weight.grad.clone() for name, weight in shared.named_parameters()})
        assert all((weight.grad != 0).any().item() == bool(share) for weight in branch.parameters())
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])
    assert all((gradient != 0).any() for name, gradient in gradients[0].items() if name != "absent")  # none is


def test_alone_they_leave_the_shared_weights_without_gradient():
    shared, branch = made()
    branch(BEHAVIOURS).sum().backward()
    assert all(weight.grad is None for weight in shared.parameters())
    # B is 0 at first: A has no gradient until B has moved.
    assert all((factor.grad != 0).any() for factor in branch.up)
    assert all((factor.grad == 0).all() for factor in branch.down)


def test_targets_do_not_train_the_factors():
    shared, branch = made()
    grown(branch)
    shared(TARGETS).sum().backward()
    assert all(factor.grad is None for factor in branch.parameters())


def test_the_branch_follows_what_targets_have_taught():
    shared, branch = made()
    optimizer = torch.optim.SGD(shared.parameters(), lr=0.1)
    shared(TARGETS).square().sum().backward()
    before = branch.eval()(BEHAVIOURS)
    optimizer.step()
    shared.eval()
    assert not torch.allclose(branch(BEHAVIOURS), before, atol=1e-3)
    assert torch.equal(branch(BEHAVIOURS), shared(BEHAVIOURS))


def test_merged_weights_answer_alike(tmp_path):
    shared, branch = made()
    grown(branch)
    shared.eval()
    save_file(branch.merged(), tmp_path / "merged.safetensors")
    exported = copy.deepcopy(shared)
    exported.load_state_dict(load_file(tmp_path / "merged.safetensors"))
    assert torch.equal(exported(BEHAVIOURS), branch(BEHAVIOURS))
    assert not torch.allclose(exported(BEHAVIOURS), shared(BEHAVIOURS), atol=1e-3)


def test_merging_changes_nobody():
    shared, branch = made()
    grown(branch)
    before = {name: weight.clone() for name, weight in shared.state_dict().items()}
    merged = branch.merged()
    for weight in merged.values():
        weight.zero_()
    assert all(torch.equal(before[name], weight) for name, weight in shared.state_dict().items())


def test_saved_are_the_factors_alone():
    shared, branch = made()
    assert set(branch.state_dict()) == {name for name, _ in branch.named_parameters()}
    assert not any(weight is own for weight in branch.parameters() for own in shared.parameters())


def test_what_cannot_be_adapted_is_refused():
    with pytest.raises(ValueError, match="no linear layer"):
        LowRankBranch(nn.LayerNorm(3))
    with pytest.raises(ValueError, match="rank 0"):
        LowRankBranch(nn.Linear(3, 3), rank=0)
