"""Pixels to patch states: the stems, and the pooling of an item's further photos."""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import Tensor, nn

PATCH_PX = 16
"""Side of the square of pixels that becomes one token, in every stem."""
POOLED_TOKENS = 4
"""Tokens that an item's further photos become, however many they are: a quarter of those of a photo of 64 px."""


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
        self.stem = _ConvStem(dim) if stem is Stem.CONV else _LinearStem(dim)
        self.positions = nn.Parameter(torch.empty(self.num_patches, dim))
        nn.init.normal_(self.positions, std=0.02)

    def forward(self, pixels: Tensor, *, hidden: Tensor | None = None) -> Tensor:
        """Embed photos.

        Args:
            pixels: uint8 RGB ``[batch, px, px, 3]``.
            hidden: bool ``[batch, patches]``, patches that are blanked before the stem, whose convolutions would
                otherwise carry them into their neighbours; None: none.

        Returns:
            ``[batch, patches, dim]``, patches row by row from the top left.
        """
        scaled = pixels.to(torch.float32).div_(127.5).sub_(1.0)  # [-1, 1]
        if hidden is not None:
            scaled = blank(scaled, hidden)
        return self.stem(scaled) + self.positions


def blank(pixels: Tensor, hidden: Tensor) -> Tensor:
    """Set patches of photos to 0.

    Args:
        pixels: ``[batch, px, px, 3]``.
        hidden: bool ``[batch, patches]``, row by row from the top left, of a square grid.
    """
    side = round(hidden.shape[1] ** 0.5)
    size = pixels.shape[1] // side
    squares = pixels.unflatten(2, (side, size)).unflatten(1, (side, size))  # [batch, side, size, side, size, 3]
    mask = hidden.unflatten(1, (side, side))[:, :, None, :, None, None]
    return squares.masked_fill(mask, 0.0).flatten(3, 4).flatten(1, 2)


class PhotoPool(nn.Module):
    """Pool the patch states of several photos into a few tokens; the order of the photos has no influence.

    Learned queries attend to all patches of all photos. Source: Lee et al., "Set Transformer", 2019, section 3.2,
    pooling by multi-head attention; ours has one head, no values of its own and no feed-forward layer.
    """

    def __init__(self, dim: int) -> None:
        """Make the queries.

        Args:
            dim: width of a token state.
        """
        super().__init__()
        self.queries = nn.Parameter(torch.empty(POOLED_TOKENS, dim))
        self.kind = nn.Parameter(torch.empty(dim))
        self.norm = nn.LayerNorm(dim)
        self.keys = nn.Linear(dim, dim, bias=False)
        for vectors in (self.queries, self.kind):
            nn.init.normal_(vectors, std=0.02)

    def forward(self, patches: Tensor, *, present: Tensor) -> Tensor:
        """Pool photos.

        Args:
            patches: ``[batch, photos, patches, dim]``; of a photo that is not there, anything.
            present: bool ``[batch, photos]``.

        Returns:
            ``[batch, POOLED_TOKENS, dim]``; finite, but of no meaning, for an item without photos.
        """
        keep = present.repeat_interleave(patches.shape[2], dim=1)[:, None]
        states = patches.flatten(1, 2)
        scores = self.queries @ self.keys(self.norm(states)).transpose(1, 2) / states.shape[-1] ** 0.5
        weights = scores.masked_fill(~keep, torch.finfo(scores.dtype).min).softmax(dim=-1)
        return weights @ states + self.kind


class _ConvStem(nn.Sequential):
    """``[batch, px, px, 3]`` → ``[batch, patches, dim]`` by three convolutions of stride 4, 2, 2."""

    def __init__(self, dim: int) -> None:
        super().__init__(
            nn.Conv2d(3, dim // 4, 4, stride=4),
            nn.GELU(),
            nn.Conv2d(dim // 4, dim // 2, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1),
        )

    def forward(self, photos: Tensor) -> Tensor:
        return super().forward(photos.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)


class _LinearStem(nn.Linear):
    """``[batch, px, px, 3]`` → ``[batch, patches, dim]`` by one matrix."""

    def __init__(self, dim: int) -> None:
        super().__init__(3 * PATCH_PX**2, dim)

    def forward(self, photos: Tensor) -> Tensor:
        batch, side = photos.shape[0], photos.shape[1] // PATCH_PX
        squares = photos.view(batch, side, PATCH_PX, side, PATCH_PX, 3).transpose(2, 3)
        return super().forward(squares.reshape(batch, side * side, self.in_features))
