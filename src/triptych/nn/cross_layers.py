"""Cross layers: explicit products of features."""

from __future__ import annotations

from torch import Tensor, nn


class CrossLayers(nn.Module):
    r"""Layers that multiply what came in with a linear map of what is there.

    .. math:: x_{l+1} = x_0 \odot (W_l x_l + b_l) + x_l, \qquad W_l = U_l V_l^T \text{ of low rank}

    Source: Wang et al., "DCN V2", WWW 2021, equations (1) and (2).
    """

    def __init__(self, dim: int, *, layers: int, rank: int = 0) -> None:
        """Make the layers.

        Args:
            dim: width.
            layers: how many.
            rank: of their matrices; 0: full.
        """
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, rank, bias=False), nn.Linear(rank, dim)) if rank else nn.Linear(dim, dim)
            for _ in range(layers)
        )

    def forward(self, first: Tensor) -> Tensor:
        """Map ``[n, dim]`` to ``[n, dim]``."""
        states = first
        for layer in self.layers:
            states = first * layer(states) + states
        return states
