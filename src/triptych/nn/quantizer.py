"""Residual quantisation that learns: the nearest code of each level, gradients that pass it, and dead codes revived."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class CodebookUpdate(StrEnum):
    """How codebooks follow what is quantised."""

    GRADIENT = "gradient"
    """By the gradient of the codebook loss."""
    EMA = "ema"
    """Each code is a moving average of what was assigned to it, and dead codes are replaced."""


class GradientPath(StrEnum):
    """How the gradient of what is quantised reaches what it was before."""

    STRAIGHT_THROUGH = "straight_through"
    """As it is (van den Oord et al., "Neural Discrete Representation Learning", 2017)."""
    ROTATION = "rotation"
    """Turned and scaled as the one was into the other (Fifty et al., "Restructuring Vector Quantization with the
    Rotation Trick", 2024)."""


class Quantized(NamedTuple):
    """What the codes say of some vectors."""

    vectors: Tensor
    """``[n, dim]``, the sum of the codes' vectors; its gradient reaches what was quantised, and no codebook."""
    codes: Tensor
    """int64 ``[n, levels]``."""
    codebook: Tensor
    """``[levels]``, mean squared error of the codes' vectors, whose gradient reaches the codebooks alone."""
    commitment: Tensor
    """``[levels]``, the same number, whose gradient reaches what was quantised alone, from every level."""


class ResidualQuantizer(nn.Module):
    r"""Levels of codebooks, each of which quantises what the levels before it have left.

    .. math:: c_l = \arg\min_k \|r_l - e_{l,k}\|^2, \qquad r_{l+1} = r_l - \mathrm{sg}[e_{l,c_l}]

    The gradient passes the quantiser once, at the end. Passing it inside each level, and subtracting what comes out,
    makes later residuals constant in the input: their commitment then reaches no weight of an encoder.

    Source: Lee et al., "Autoregressive Image Generation using Residual Quantization" (RQ-VAE, 2022); Rajput et al.,
    "Recommender Systems with Generative Retrieval" (TIGER, 2023). Moving averages: van den Oord et al. (2017),
    appendix A.1.

    Attributes:
        codebooks: ``[levels, codes, dim]``; all 0 until set.
    """

    def __init__(
        self,
        *,
        levels: int,
        codes: int,
        dim: int,
        update: CodebookUpdate = CodebookUpdate.GRADIENT,
        gradient_path: GradientPath = GradientPath.STRAIGHT_THROUGH,
        ema_decay: float = 0.99,
        dead_below: float = 0.25,
        dead_after: int = 200,
    ) -> None:
        """Make room for the codebooks.

        Args:
            levels: codes of a vector.
            codes: to choose from, at each level.
            dim: length of a vector.
            update: how codebooks learn.
            gradient_path: how gradients pass.
            ema_decay: share of a moving average that a batch leaves as it is; with `update` ema, as what follows.
            dead_below: a code is quiet while the average number of vectors assigned to it is below this share of an
                even one.
            dead_after: batches in a row after which a quiet code is replaced by a residual of the batch.
        """
        super().__init__()
        self.codebooks = nn.Parameter(torch.zeros(levels, codes, dim))
        self.update = update
        self.gradient_path = gradient_path
        self.ema_decay = ema_decay
        self.dead_below = dead_below
        self.dead_after = dead_after
        if update is CodebookUpdate.EMA:
            self.codebooks.requires_grad_(False)
            self.register_buffer("ema_counts", torch.ones(levels, codes))
            self.register_buffer("ema_sums", torch.zeros(levels, codes, dim))
            self.register_buffer("quiet", torch.zeros(levels, codes, dtype=torch.int64))

    @torch.no_grad()
    def set_codebooks(self, codebooks: Tensor) -> None:
        """Start from codebooks ``[levels, codes, dim]``."""
        self.codebooks.copy_(codebooks)
        if self.update is CodebookUpdate.EMA:
            self.ema_sums.copy_(codebooks)
            self.ema_counts.fill_(1.0)
            self.quiet.zero_()

    def forward(self, vectors: Tensor) -> Quantized:
        """Quantise vectors ``[n, dim]``, in float32 whatever autocast says; in training, moving averages move."""
        with torch.autocast(vectors.device.type, enabled=False):
            vectors = vectors.float()
            total, residual = torch.zeros_like(vectors), vectors
            codes, codebook, commitment = [], [], []
            for level in range(len(self.codebooks)):
                chosen = nearest_codes(residual.detach(), self.codebooks[level].detach())
                said = functional.embedding(chosen, self.codebooks[level])
                codebook.append(functional.mse_loss(said, residual.detach()))
                commitment.append(functional.mse_loss(residual, said.detach()))
                if self.training and self.update is CodebookUpdate.EMA:
                    self._follow(level, residual.detach(), chosen)
                total, residual = total + said.detach(), residual - said.detach()
                codes.append(chosen)
            passed = rotated(vectors, to=total) if self.gradient_path is GradientPath.ROTATION else None
            out = vectors + (total - vectors).detach() if passed is None else passed
            return Quantized(out, torch.stack(codes, dim=1), torch.stack(codebook), torch.stack(commitment))

    @torch.no_grad()
    def _follow(self, level: int, residuals: Tensor, chosen: Tensor) -> None:
        """Move the averages of a level, and replace codes that have been quiet for too long."""
        counts, sums = self.ema_counts[level], self.ema_sums[level]
        new_counts = torch.bincount(chosen, minlength=len(counts)).to(counts.dtype)
        new_sums = torch.zeros_like(sums).index_add_(0, chosen, residuals)
        counts.mul_(self.ema_decay).add_(new_counts, alpha=1 - self.ema_decay)
        sums.mul_(self.ema_decay).add_(new_sums, alpha=1 - self.ema_decay)
        even = len(residuals) / len(counts)
        quiet = self.quiet[level]
        quiet.add_(1).mul_(counts < self.dead_below * even)
        dead = (quiet >= self.dead_after).nonzero()[:, 0]
        if len(dead):
            drawn = residuals[torch.randint(len(residuals), (len(dead),), device=residuals.device)]
            counts[dead], quiet[dead] = even, 0
            sums[dead] = drawn * even
        # A code that nothing was ever assigned to has a count near 0, and keeps its place: sums shrink alike.
        self.codebooks[level].copy_(sums / counts.clamp(min=1e-12)[:, None])


def nearest_codes(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Return the nearest code of each vector, by float32: training does not mind which of two equally near ones.

    Args:
        vectors: ``[n, dim]``.
        codebook: ``[codes, dim]``.

    Returns:
        int64 ``[n]``.
    """
    return (codebook.square().sum(dim=1) / 2 - vectors @ codebook.T).argmin(dim=1)


def rotated(vectors: Tensor, *, to: Tensor) -> Tensor:
    """Return `to`, as vectors turned and scaled into it, by a map that is constant to the gradient.

    The map is the rotation in the plane of both: two reflections. It is not defined where one is the other turned
    around, or where one is 0; there the gradient goes straight through.

    Source: Fifty et al. (2024), section 4 and equation 4.

    Args:
        vectors: ``[n, dim]``.
        to: ``[n, dim]``, no gradient reaches it.
    """
    start, end = vectors.detach(), to.detach()
    lengths, end_lengths = start.norm(dim=1, keepdim=True), end.norm(dim=1, keepdim=True)
    one, other = functional.normalize(start, dim=1), functional.normalize(end, dim=1)
    middle = one + other
    usual = (lengths > 0) & (end_lengths > 0) & (middle.norm(dim=1, keepdim=True) > 1e-4)
    mirror = functional.normalize(middle, dim=1)
    turned = (
        vectors
        - 2 * (vectors * mirror).sum(dim=1, keepdim=True) * mirror
        + 2 * (vectors * one).sum(dim=1, keepdim=True) * other
    )
    scaled = turned * (end_lengths / lengths.clamp(min=1e-30))
    exact = scaled + (end - scaled).detach()  # the value without the rounding of the way there
    return torch.where(usual, exact, vectors + (end - vectors).detach())
