"""Pixels to patch states: the stems."""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import Tensor, nn

PATCH_PX = 16
"""Side of the square of pixels that becomes one token, in every stem."""


class Stem(StrEnum):
    """How pixels become patch tokens."""

    CONV = "conv"
    """Three small convolutions: 4x4 stride 4, then twice 3x3 stride 2. Sees over the edge of a patch."""
    LINEAR = "linear"
    """One linear map of the raw patch, as in ViT; slightly faster, slightly weaker."""


class PatchEmbedding(nn.Module):
    """A stem, and a learned position per patch.

    Source of the convolutional stem: Xiao et al., "Early convolutions help transformers see better", 2021; ours is
    smaller.
    """

    def __init__(self, dim: int, *, stem: Stem, px: int) -> None:
        """Make the stem.

        Args:
            dim: width of a token state.
            stem: which one.
            px: side of the square photo, a multiple of `PATCH_PX`.
        """
        super().__init__()
        if px % PATCH_PX:
            raise ValueError(f"photo side {px} px is not a multiple of {PATCH_PX}")
        self.num_patches = (px // PATCH_PX) ** 2
        if stem is Stem.CONV:
            self.stem: nn.Module = nn.Sequential(
                nn.Conv2d(3, dim // 4, 4, stride=4),
                nn.GELU(),
                nn.Conv2d(dim // 4, dim // 2, 3, stride=2, padding=1),
                nn.GELU(),
                nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1),
            )
        else:
            self.stem = nn.Conv2d(3, dim, PATCH_PX, stride=PATCH_PX)
        self.positions = nn.Parameter(torch.empty(self.num_patches, dim))
        nn.init.normal_(self.positions, std=0.02)

    def forward(self, pixels: Tensor) -> Tensor:
        """Embed photos.

        Args:
            pixels: uint8 RGB ``[batch, px, px, 3]``.

        Returns:
            ``[batch, patches, dim]``, patches row by row from the top left.
        """
        scaled = pixels.to(torch.float32).div_(127.5).sub_(1.0)  # [-1, 1]
        grid = self.stem(scaled.permute(0, 3, 1, 2))
        return grid.flatten(2).transpose(1, 2) + self.positions
