"""Stacks of linear layers, with the activations that ranking models use."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import torch
from torch import Tensor, nn

_MOMENTUM, _EPS = 0.1, 1e-6


class Activation(StrEnum):
    """What stands between linear layers."""

    RELU = "relu"
    PRELU = "prelu"
    """ReLU with a learned slope below 0, one for each channel."""
    DICE = "dice"
    """PReLU whose bend lies where the data do (`Dice`)."""

    def build(self, dim: int) -> nn.Module:
        """Make it, for ``dim`` channels."""
        match self:
            case Activation.RELU:
                return nn.ReLU()
            case Activation.PRELU:
                return nn.PReLU(dim)
            case Activation.DICE:
                return Dice(dim)


class Dice(nn.Module):
    r"""Data-adaptive activation: PReLU with a soft step at the mean of each channel instead of a hard one at 0.

    .. math:: f(s) = p(s)\, s + (1 - p(s))\, \alpha s, \qquad p(s) = \sigma((s - E[s]) / \sqrt{Var[s] + \epsilon})

    In training mean and variance are the batch's, otherwise those seen in training, a moving average.

    Source: Zhou et al., "Deep interest network for click-through rate prediction", KDD 2018, section 5.2.
    """

    def __init__(self, dim: int) -> None:
        """Make it, for ``dim`` channels."""
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(dim))
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("variance", torch.ones(dim))

    def forward(self, states: Tensor) -> Tensor:
        """Map ``[n, dim]`` to ``[n, dim]``; every row counts, so leave padding out."""
        precise = states.float()
        mean, variance = self.get_buffer("mean"), self.get_buffer("variance")
        if self.training and len(states):
            now, spread = precise.mean(dim=0), precise.var(dim=0, unbiased=False)
            with torch.no_grad():
                mean.lerp_(now, _MOMENTUM)
                variance.lerp_(spread, _MOMENTUM)
            mean, variance = now, spread
        step = torch.sigmoid((precise - mean) * torch.rsqrt(variance + _EPS))
        return (step * precise + (1 - step) * self.slope * precise).to(states.dtype)


class DenseLayers(nn.Module):
    """Linear layers with activations and dropout between them, and none behind the last."""

    def __init__(
        self,
        in_dim: int,
        *,
        hidden_dims: Sequence[int],
        out_dim: int | None,
        activation: Activation = Activation.RELU,
        dropout_rate: float = 0.0,
        begins_active: bool = False,
    ) -> None:
        """Make the layers.

        Args:
            in_dim: width of what comes in.
            hidden_dims: widths within.
            out_dim: width of what comes out; None: the last hidden one, with its activation.
            activation: between layers.
            dropout_rate: behind each activation.
            begins_active: whether what comes in has been through a linear layer and wants its activation first.
        """
        super().__init__()
        layers: list[nn.Module] = [activation.build(in_dim)] if begins_active else []
        width = in_dim
        for hidden_dim in hidden_dims:
            layers += [nn.Linear(width, hidden_dim), activation.build(hidden_dim)]
            layers += [nn.Dropout(dropout_rate)] if dropout_rate else []
            width = hidden_dim
        layers += [] if out_dim is None else [nn.Linear(width, out_dim)]
        self.layers = nn.Sequential(*layers)
        self.out_dim = width if out_dim is None else out_dim

    @property
    def last(self) -> nn.Linear:
        """The last layer, of those that were made with `out_dim`."""
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        return last

    def forward(self, states: Tensor) -> Tensor:
        """Map ``[n, in_dim]`` to ``[n, out_dim]``."""
        return self.layers(states)
