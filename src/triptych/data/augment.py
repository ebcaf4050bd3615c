"""Photo augmentation: the same thing photographed a little differently.

Only changes that leave the answer the same: mirrored, cropped, lit otherwise. The tint is kept small, since colour is
what many queries ask for.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from triptych.foundation.config import Config


class AugmentConfig(Config):
    """How training photos are varied. All zero (and `min_side_rate` 1) shows them as they are."""

    mirror_rate: float = Field(0.5, ge=0, le=1)
    """Share of photos mirrored left to right."""
    min_side_rate: float = Field(0.75, gt=0, le=1)
    """A square of between this share and all of the side is cut out anywhere and enlarged; 1 cuts nothing."""
    brightness: float = Field(0.2, ge=0, le=0.5)
    """Brightness is multiplied by 1 ± up to this."""
    tint: float = Field(0.05, ge=0, le=0.3)
    """Each colour channel is multiplied by 1 ± up to this, on top."""


def augment(pixels: NDArray[np.uint8], *, config: AugmentConfig, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Vary a batch of photos, each in its own way.

    Args:
        pixels: RGB ``[batch, px, px, 3]``.
        config: how much.
        rng: what is drawn depends on it and the batch size only.

    Returns:
        A new array like `pixels`.
    """
    batch, px = pixels.shape[:2]
    side = px * rng.uniform(config.min_side_rate, 1.0, size=(batch, 1))
    corner = rng.uniform(size=(2, batch, 1)) * (px - side)
    mirrored = rng.uniform(size=(batch, 1)) < config.mirror_rate
    gain = rng.uniform(-config.brightness, config.brightness, size=(batch, 1)) + 1.0
    gain = gain * (rng.uniform(-config.tint, config.tint, size=(batch, 3)) + 1.0)

    middle = (np.arange(px) + 0.5) / px
    down, across = np.minimum(corner + middle * side, px - 1).astype(np.int64)  # the nearest pixel, [batch, px]
    across = np.where(mirrored, across[:, ::-1], across)
    row = np.arange(batch)[:, None] * px + down
    flat = row[:, :, None] * px + across[:, None, :]
    cut = pixels.reshape(-1, 3).take(flat, axis=0)

    # Fixed point with 7 bits behind the point, over whole lines of pixels: many times faster than floats.
    factor = np.tile(np.round(gain * 128).astype(np.uint16), (1, px))[:, None, :]
    lit: NDArray[np.uint16] = cut.reshape(batch, px, px * 3).astype(np.uint16)
    lit *= factor
    lit >>= 7
    return np.minimum(lit, 255, out=lit).astype(np.uint8).reshape(pixels.shape)
