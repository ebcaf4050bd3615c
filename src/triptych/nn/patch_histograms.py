"""What a patch looks like as a distribution, computed from its pixels: a target for masked patches without weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor

ORIENTATIONS = 9
"""Bins of gradient orientation over half a turn, as Dalal and Triggs found enough."""
COLOUR_LEVELS = 4
"""Bins per channel; their centres lie at 0, 85, 170 and 255."""
FLAT_BELOW = 3.75
"""Grey levels per pixel under which a gradient counts as none: noise of a camera and of JPEG, shades of a backdrop.

About a quarter of the patches of shop photos on white are flat throughout, at any value from 1 to 8. No gradient of a
grey photo is exactly this, so rounding decides nothing.
"""
PATCH_BINS = ORIENTATIONS + 1 + COLOUR_LEVELS**3
"""Length of a patch's distribution: orientations, flat, colours."""
PATCHES_AT_ONCE = 256
"""On a CPU, so that what lies between pixels and histograms stays in its cache: several times faster than all."""
LUMA = (0.299, 0.587, 0.114)
"""Share of red, green and blue in luminance (ITU-R BT.601)."""


def patch_histograms(pixels: Tensor, *, patch_px: int = 16) -> Tensor:
    """Describe each patch by the orientations of its edges and by its colours, half of the mass each.

    Edges: gradients of luminance by central differences, one-sided on the patch's border, so that a patch's row depends
    on its own pixels alone and a masked patch's target cannot be read off its neighbours' pixels. Each pixel votes with
    its magnitude for the two nearest orientations; as in HOG the contrast is normalised away, within the patch. The
    pixels that have no gradient to speak of have one bin for themselves, by their share, so that a blank patch has a
    distribution too.

    Colours: each pixel is shared out among the up to eight nearest of 4 x 4 x 4 colours (trilinear interpolation in
    RGB). Of the spaces tried this told named colours apart best for its size: luminance against two differences of
    channels, with 100 bins, all but joins crimson to brown and blue to navy, as most of its corners lie outside of RGB
    and stay empty.

    Source: Dalal and Triggs, "Histograms of oriented gradients for human detection", 2005, without their overlapping
    blocks; as target of masked prediction Wei et al., "Masked feature prediction for self-supervised visual
    pre-training" (MaskFeat), 2022, which regresses HOG. The flat bin, the colours and the common mass of 1 are ours: so
    it can be the target of `triptych.losses.masked_patches`.

    Args:
        pixels: uint8 RGB ``[batch, px, px, 3]``.
        patch_px: side of a patch, at least 2; `px` is a multiple of it.

    Returns:
        float32 ``[batch, patches, PATCH_BINS]`` whatever autocast says, rows sum to 1; patches row by row from the top
        left, as in `triptych.encoders.image`. Bin k of the orientations is that of gradients at k * 20 degrees from the
        x axis (a vertical edge is bin 0, a horizontal one lies between 4 and 5); then flat; then colours, blue fastest.

    Raises:
        ValueError: the photos cannot be cut into such patches.
    """
    batch, height, width, _ = pixels.shape
    if patch_px < 2 or height % patch_px or width % patch_px:
        raise ValueError(f"photos of {height} x {width} px cannot be cut into patches of {patch_px} px (at least 2)")
    rows, columns = height // patch_px, width // patch_px
    cut = pixels.view(batch, rows, patch_px, columns, patch_px, 3)
    channels = cut.permute(5, 0, 1, 3, 2, 4).flatten(1, 3).to(torch.float32)
    at_once = PATCHES_AT_ONCE if pixels.device.type == "cpu" else max(channels.shape[1], 1)
    with torch.autocast(pixels.device.type, enabled=False):
        halves = [torch.cat([*_edges(part), _colours(part)], dim=1) for part in channels.split(at_once, dim=1)]
    return (torch.cat(halves) / 2).view(batch, rows * columns, PATCH_BINS)


def _edges(channels: Tensor) -> tuple[Tensor, Tensor]:
    """``[3, patches, patch_px, patch_px]`` → orientations ``[patches, ORIENTATIONS]`` and flat ``[patches, 1]``."""
    red, green, blue = channels
    luminance = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    down, right = (part.flatten(1) for part in torch.gradient(luminance, dim=(1, 2)))
    magnitude = (down.square() + right.square()).sqrt()
    is_flat = magnitude < FLAT_BELOW
    turn = torch.atan2(down, right) * (ORIENTATIONS / math.pi)
    place = (turn + (turn < 0) * float(ORIENTATIONS))[:, None]  # in [0, ORIENTATIONS]: unsigned
    votes = magnitude.masked_fill(is_flat, 0.0)[:, None]
    # Not scatter_add: its order of summation, and with it the result, varies on a GPU.
    summed = _nearness(place, centres=ORIENTATIONS + 1).mul_(votes).sum(dim=2)
    around = summed[:, :ORIENTATIONS].clone()
    around[:, 0] += summed[:, ORIENTATIONS]  # half a turn is none
    flat = is_flat.to(torch.float32).mean(dim=1, keepdim=True)
    mass = around.sum(dim=1, keepdim=True).clamp(min=FLAT_BELOW / 2)  # only 0 is below that
    return around / mass * (1 - flat), flat


def _colours(channels: Tensor) -> Tensor:
    """``[3, patches, patch_px, patch_px]`` → ``[patches, COLOUR_LEVELS ** 3]``."""
    place = channels.flatten(2)[:, :, None] * ((COLOUR_LEVELS - 1) / 255)
    red, green, blue = _nearness(place, centres=COLOUR_LEVELS)
    green_blue = (green[:, :, None] * blue[:, None]).flatten(1, 2)
    return (red @ green_blue.transpose(1, 2)).flatten(1) / red.shape[2]


def _nearness(place: Tensor, *, centres: int) -> Tensor:
    """Weights of linear interpolation, ``[..., 1, pixels]`` → ``[..., centres, pixels]``, centres at 0, 1, 2, …."""
    # In place after the first step, as fresh memory costs more than the sums.
    apart = place - torch.arange(centres, dtype=place.dtype, device=place.device)[:, None]
    return apart.abs_().neg_().add_(1.0).relu_()
