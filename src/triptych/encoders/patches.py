"""Patches of photos, each seen by a pretrained vision model by itself, as FashionBERT and Taobao's pretraining do.

A model that sees the whole photo mixes its places, by attention or by the reach of its convolutions; here a patch's
state comes from that patch alone. So a patch can be hidden by leaving its state out, and asked for.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from triptych.encoders.pretrained import Output, PatchCut, PretrainedVision

PATCHES_AT_ONCE = 64
"""Patches that are seen at a time: of 64 photos of 8 x 8 patches, all at once would take what 4,096 photos do."""


class PatchVision(nn.Module):
    """Photos to the states of their patches.

    Source: Gao et al., "FashionBERT", 2020, section 3.1: 8 x 8 patches, a ResNet's pooled feature of each.
    """

    has_positions = False
    """A patch's state does not know where in the photo it is from."""

    def __init__(self, model: PretrainedVision, *, grid: int) -> None:
        """Put a model before the patches.

        Args:
            model: sees them; it gives one vector of each.
            grid: patches along each side of a photo.
        """
        super().__init__()
        if model.num_tokens != 1:
            raise ValueError(f"the model gives {model.num_tokens} states of a patch, which is to be one token")
        self.model = model
        self.folder = model.folder
        self.grid = grid
        self.num_tokens, self.dim = grid**2, model.dim

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode the patches of photos.

        Args:
            pixels: uint8 RGB ``[batch, px, px, 3]``, square, px a multiple of `grid`.

        Returns:
            ``[batch, grid * grid, dim]``, row by row from the top left.
        """
        parts = cut_patches(pixels, grid=self.grid).split(PATCHES_AT_ONCE)
        return torch.cat([self.model(part) for part in parts]).view(len(pixels), self.num_tokens, self.dim)


VisionModel = PretrainedVision | PatchVision
"""What may stand in the photo slot."""


def open_vision(
    folder: Path,
    *,
    output: Output,
    cut: PatchCut | None = None,
    with_weights: bool = True,
    name: str | None = None,
) -> VisionModel:
    """Open a vision model that sees whole photos, or their patches one by one.

    Args:
        folder: as of `PretrainedVision`.
        output: as there.
        cut: how photos are cut; None: they are seen whole.
        with_weights: as there.
        name: as there.

    Raises:
        ConfigError: it cannot be opened, is no vision model, or takes no patches of that side.
        MissingExtra: `transformers` is not installed.
    """
    px = None if cut is None else cut.px
    model = PretrainedVision(folder, output=output, px=px, with_weights=with_weights, name=name)
    return model if cut is None else PatchVision(model, grid=cut.grid)


def cut_patches(pixels: Tensor, *, grid: int) -> Tensor:
    """Cut photos ``[batch, px, px, 3]`` into patches ``[batch * grid * grid, px / grid, px / grid, 3]``, row by row.

    Raises:
        ValueError: they cannot be cut so.
    """
    if pixels.shape[1] % grid or pixels.shape[2] % grid:
        raise ValueError(f"photos of {pixels.shape[1]} x {pixels.shape[2]} px cannot be cut into {grid} x {grid}")
    size = pixels.shape[1] // grid
    return pixels.unflatten(2, (grid, size)).unflatten(1, (grid, size)).transpose(2, 3).flatten(0, 2)
