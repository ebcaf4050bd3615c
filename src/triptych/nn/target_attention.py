"""Target attention: how much each step of a history says of one candidate.

Steps are few items that many histories name, so vectors are handed over once each, with the places where they stand
(`Steps`), and neither the steps' part of the first layer nor the weighted sum makes a copy for each place.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from triptych.nn.dense_layers import Activation, DenseLayers

CACHED_PAIRS = 2_048
"""Pairs of candidate and step that are weighed at a time where nothing is learned: on a CPU, what lies between two
operations then stays in its cache. With a gradient all of it is kept anyway."""


class Steps(NamedTuple):
    """Histories as places among some vectors."""

    vectors: Tensor
    """float32 ``[distinct, dim]``."""
    places: Tensor
    """int64 ``[n, longest]``, -1 behind the end, or wherever nothing stands."""

    @property
    def keep(self) -> Tensor:
        """Where something stands, bool ``[n, longest]``."""
        return self.places >= 0

    def looked_up(self) -> Tensor:
        """Return the vectors ``[n, longest, dim]``, zeros where nothing stands."""
        if 0 in self.vectors.shape:
            return self.vectors.new_zeros(*self.places.shape, self.vectors.shape[1])
        found = functional.embedding(self.places.clamp(min=0), self.vectors)
        return found.masked_fill(~self.keep[:, :, None], 0.0)

    def mean(self) -> Tensor:
        """Return the mean of each history ``[n, dim]``, zeros for an empty one."""
        keep = self.keep
        return self.weighed(keep.float() / keep.sum(dim=1, keepdim=True).clamp(min=1))

    def weighed(self, weights: Tensor) -> Tensor:
        """Return the sum of each history's vectors times weights ``[n, longest]``: ``[n, dim]``, float32."""
        if 0 in self.vectors.shape:
            return self.vectors.new_zeros(self.places.shape[0], self.vectors.shape[1], dtype=torch.float32)
        if torch.compiler.is_exporting():  # graphs know no bags: every history takes as much room as the longest
            return torch.bmm(weights.float()[:, None], self.looked_up().float())[:, 0]
        keep = self.keep
        places, counts = self.places[keep], keep.sum(dim=1)
        if not len(places):
            return self.vectors.new_zeros(self.places.shape[0], self.vectors.shape[1], dtype=torch.float32)
        starts = counts.cumsum(0) - counts
        return functional.embedding_bag(
            places, self.vectors.float(), starts, mode="sum", per_sample_weights=weights.float()[keep]
        )


class Weights(StrEnum):
    """What becomes of the scores of a history's steps."""

    RAW = "raw"
    """They are the weights: a longer or more telling history weighs more. As the paper."""
    SOFTMAX = "softmax"
    """Weights that sum to 1."""


class TargetAttention(nn.Module):
    r"""A small network scores each pair of candidate and step; the interest is the steps' weighted sum.

    .. math:: a_{ij} = MLP([t_i, s_j, t_i \odot s_j, b_{ij}]), \qquad u_i = \sum_j w_{ij} s_j

    Source: Zhou et al., "Deep interest network for click-through rate prediction", KDD 2018, section 4.3 and its
    released code, which also gives :math:`t_i - s_j`: a first layer that has both sides can make it of them, so it adds
    weights and nothing that could not be learned.
    """

    def __init__(
        self,
        dim: int,
        *,
        hidden_dims: Sequence[int],
        beside_dim: int = 0,
        activation: Activation = Activation.PRELU,
        weights: Weights = Weights.SOFTMAX,
    ) -> None:
        """Make the layers.

        Args:
            dim: length of candidates and steps.
            hidden_dims: layers of the network, at least one.
            beside_dim: length of b, what else is known of a step.
            activation: between its layers.
            weights: what becomes of scores.
        """
        super().__init__()
        first, *others = hidden_dims
        width = 3 * dim + beside_dim
        # One layer, drawn as one, kept as the parts that are computed apart.
        whole = nn.Linear(width, first)
        parts = whole.weight.detach().split([dim, dim, dim, beside_dim], dim=1)
        self.of_target, self.of_step, self.of_product = (nn.Parameter(part.clone()) for part in parts[:3])
        self.of_beside = nn.Parameter(parts[3].clone()) if beside_dim else None
        self.bias = nn.Parameter(whole.bias.detach().clone())
        self.layers = DenseLayers(first, hidden_dims=others, out_dim=1, activation=activation, begins_active=True)
        self._weights = weights

    def forward(self, targets: Tensor, steps: Steps, *, beside: Steps | None = None) -> Tensor:
        """Sum up histories as each candidate sees them.

        Args:
            targets: ``[n, dim]``.
            steps: of ``n`` histories.
            beside: what else is known of each step, ``beside_dim`` long; None where nothing is.

        Returns:
            float32 ``[n, dim]``; zeros for an empty history.
        """
        return steps.weighed(self.weigh(targets, steps, beside=beside))

    def weigh(self, targets: Tensor, steps: Steps, *, beside: Steps | None = None) -> Tensor:
        """Return the steps' weights, float32 ``[n, longest]``, 0 where nothing stands; arguments as of `forward`."""
        keep = steps.keep
        row, column = keep.nonzero(as_tuple=True)
        scores = targets.new_zeros(keep.shape, dtype=torch.float32)
        if not torch.compiler.is_exporting() and not len(row):
            return scores
        place = steps.places[row, column]
        by_target = functional.linear(targets, self.of_target, self.bias)
        by_step = functional.linear(steps.vectors, self.of_step)
        pairs, by_beside = [row, place], by_step
        if self.of_beside is not None:
            assert beside is not None, "it was made to read something beside the steps"
            by_beside = functional.linear(beside.vectors, self.of_beside)
            pairs.append(beside.places[row, column])

        def weighed(row: Tensor, place: Tensor, *of_beside: Tensor) -> Tensor:
            product = functional.embedding(row, targets) * functional.embedding(place, steps.vectors)
            hidden = functional.embedding(row, by_target) + functional.embedding(place, by_step)
            hidden = hidden + functional.linear(product, self.of_product)
            for places in of_beside:
                hidden = hidden + functional.embedding(places, by_beside)
            return self.layers(hidden)[:, 0].float()

        # Not of a graph, which knows no loops, nor in training, where an activation may ask for all pairs' mean.
        if torch.compiler.is_exporting() or torch.is_grad_enabled() or self.training or targets.device.type != "cpu":
            found = weighed(*pairs)
        else:
            blocks = zip(*(part.split(CACHED_PAIRS) for part in pairs), strict=True)
            found = torch.cat([weighed(*block) for block in blocks])
        scores = scores.masked_scatter(keep, found)
        if self._weights is Weights.RAW:
            return scores
        # Not -inf: of an empty history it would be 0 / 0.
        weights = torch.softmax(scores.masked_fill(~keep, torch.finfo(scores.dtype).min), dim=1)
        return torch.where(keep, weights, 0.0)
