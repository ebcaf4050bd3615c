r"""Low-rank adaptation (LoRA): a module's own weights for one branch, and those weights adapted for another.

.. math:: W' = \mathrm{sg}(W) + \frac{\alpha}{r} B A

A module is trained whole where it is cheap, and the branch that is run a hundred times as often learns A and B alone,
a few numbers for each matrix. B begins as 0, so both branches begin as one.

Source: Hu et al., "LoRA: Low-rank adaptation of large language models", 2021, equation (3). There W is frozen; here
another branch goes on training it, and the adapted one follows.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

M = TypeVar("M", bound=nn.Module)


class LowRankLinear(nn.Module):
    """A linear layer that stays as it is, and factors beside it that are trained; it reads like the layer itself."""

    def __init__(self, layer: nn.Linear, *, rank: int, alpha: float) -> None:
        """Make the factors; most callers want `adapt`."""
        super().__init__()
        if rank < 1:
            raise ValueError(f"rank {rank} must be at least 1")
        self.layer, self.scale = layer.requires_grad_(False), alpha / rank
        height, width = layer.weight.shape
        self.down = nn.Parameter(torch.randn(rank, width) * rank**-0.5)
        self.up = nn.Parameter(torch.zeros(height, rank))

    @property
    def weight(self) -> Tensor:
        """The adapted matrix."""
        own = self.layer.weight
        return own + self.scale * (self.up @ self.down).to(own.dtype)

    @property
    def bias(self) -> Tensor | None:
        """The layer's."""
        return self.layer.bias

    def forward(self, states: Tensor) -> Tensor:
        """Map ``[..., width]`` to ``[..., height]``."""
        return functional.linear(states, self.weight, self.bias)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """Return the layer with the factors added in."""
        self.layer.weight.copy_(self.weight)
        return self.layer


def adapt(module: nn.Module, names: Sequence[str], *, rank: int = 8, alpha: float = 16.0) -> None:
    """Put factors beside linear layers of a module, in place, whose own weights are trained no more.

    Args:
        module: of which.
        names: of the layers, as `named_modules` has them.
        rank: as of `LowRankBranch`.
        alpha: likewise.
    """
    for name in names:
        layer = module.get_submodule(name)
        assert isinstance(layer, nn.Linear), f"{name} is no linear layer"
        module.set_submodule(name, LowRankLinear(layer, rank=rank, alpha=alpha))


def merged(module: M) -> M:
    """Return a copy of an adapted module in which the factors are added in: of the shape that it had before."""
    found = copy.deepcopy(module)
    for name in [name for name, part in found.named_modules() if isinstance(part, LowRankLinear)]:
        part = found.get_submodule(name)
        assert isinstance(part, LowRankLinear)
        found.set_submodule(name, part.merged())
    return found


class LowRankMap(nn.Module):
    r"""Vectors changed by low rank, :math:`c + \frac{\alpha}{r} B A c`; B begins as 0, so they begin as they are."""

    def __init__(self, dim: int, *, rank: int = 8, alpha: float = 16.0) -> None:
        """Make the factors for vectors of a length; arguments as of `LowRankBranch`."""
        super().__init__()
        if rank < 1:
            raise ValueError(f"rank {rank} must be at least 1")
        self.scale = alpha / rank
        self.down = nn.Parameter(torch.randn(rank, dim) * rank**-0.5)
        self.up = nn.Parameter(torch.zeros(dim, rank))

    def forward(self, vectors: Tensor) -> Tensor:
        """Map ``[n, dim]`` to ``[n, dim]``."""
        change = functional.linear(functional.linear(vectors, self.down), self.up)
        return vectors + self.scale * change

    @torch.no_grad()
    def add_to(self, layer: nn.Linear) -> None:
        """Change a linear layer so that it gives what the map makes of its vectors."""
        for part in (layer.weight, layer.bias):
            part += self.scale * (self.up @ (self.down @ part))


class LowRankBranch(nn.Module):
    """Runs a module with adapted linear layers, and sends gradient to nothing of it but the factors.

    The module stays whose it is: the branch neither registers nor saves it, and every pass reads its weights as they
    are then. Weights are added up before the pass, so any module with linear layers will do, and a pass with merged
    weights is this one to the last bit. What is saved is the weights' gradients, optimiser state and exchange between
    processes; the product that gives a matrix's gradient is still made, once a pass, and taken down to the factors.
    """

    def __init__(self, module: nn.Module, *, rank: int = 8, alpha: float = 16.0) -> None:
        r"""Make two factors for every linear layer of the module; a fused one, such as query-key-value, counts as one.

        Args:
            module: whose weights are shared.
            rank: r, rows of A and columns of B; at least 1.
            alpha: :math:`\alpha`; B A is multiplied by :math:`\alpha / r`.
        """
        super().__init__()
        if rank < 1:
            raise ValueError(f"rank {rank} must be at least 1")
        names = [f"{name}.weight".lstrip(".") for name, part in module.named_modules() if isinstance(part, nn.Linear)]
        if not names:
            raise ValueError(f"{type(module).__name__} has no linear layer to adapt")
        self.rank, self.scale, self._names = rank, alpha / rank, tuple(names)
        self._shared = (module,)  # in a tuple, so that torch does not take it for a part of this module
        shapes = [module.get_parameter(name).shape for name in names]
        self.down = nn.ParameterList(torch.randn(rank, width) * rank**-0.5 for _, width in shapes)
        self.up = nn.ParameterList(torch.zeros(height, rank) for height, _ in shapes)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module; arguments and result as of its own `forward`.

        It runs in its own mode: of its dropout, both branches draw.
        """
        (module,) = self._shared
        return functional_call(module, dict(self._weights(module)), args, kwargs)

    @torch.no_grad()
    def merged(self) -> dict[str, Tensor]:
        """Return the module's state dict with the factors added in: load it into another copy to export the branch."""
        (module,) = self._shared
        return {name: value.clone() for name, value in (module.state_dict() | dict(self._weights(module))).items()}

    def _weights(self, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """Return every weight of the module as this branch has it."""
        factors = dict(zip(self._names, zip(self.up, self.down, strict=True), strict=True))
        for name, weight in module.named_parameters():
            own = weight.detach()
            if name in factors:
                up, down = factors[name]
                own = own + self.scale * (up @ down).to(own.dtype)
            yield name, own

    def extra_repr(self) -> str:
        """Describe the branch where torch prints a module."""
        return f"{type(self._shared[0]).__name__}, rank={self.rank}, scale={self.scale:g}"
