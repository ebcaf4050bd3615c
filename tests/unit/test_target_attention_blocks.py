"""What is weighed some pairs at a time is what is weighed all at once."""

from __future__ import annotations

import pytest
import torch

from triptych.nn import target_attention
from triptych.nn.dense_layers import Activation
from triptych.nn.target_attention import Steps, TargetAttention, Weights


@pytest.mark.parametrize("activation", [Activation.PRELU, Activation.DICE])
@pytest.mark.parametrize("weights", list(Weights))
@pytest.mark.parametrize("beside_dim", [0, 3])
def test_blocks_weigh_as_one(monkeypatch, activation, weights, beside_dim):
    torch.manual_seed(0)
    attention = TargetAttention(
        6, hidden_dims=(8, 4), beside_dim=beside_dim, activation=activation, weights=weights
    ).eval()
    places = torch.randint(-1, 9, (13, 5))
    steps = Steps(torch.randn(9, 6), places)
    beside = Steps(torch.randn(4, 3), torch.where(places >= 0, places % 4, -1)) if beside_dim else None
    targets = torch.randn(13, 6)
    at_once = attention(targets, steps, beside=beside).detach()
    monkeypatch.setattr(target_attention, "CACHED_PAIRS", 7)
    with torch.no_grad():
        torch.testing.assert_close(attention(targets, steps, beside=beside), at_once)
        attention.train()  # of Dice, the mean of all pairs
        torch.manual_seed(1)
        in_training = attention(targets, steps, beside=beside)
    monkeypatch.undo()
    torch.testing.assert_close(attention(targets, steps, beside=beside).detach(), in_training)
