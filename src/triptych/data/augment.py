"""Photo augmentation: the same thing photographed a little differently.

Only changes that leave the answer the same: mirrored, cropped, lit otherwise. The tint is kept small, since colour is
what many queries ask for.
"""

from __future__ import annotations

from typing import NamedTuple, Self

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


class Variations(NamedTuple):
    """How each photo of a batch is varied; all arrays have the batch first."""

    side: NDArray[np.float64]
    """``[batch, 1]``, of the square that is cut out, as a share of the photo's."""
    down: NDArray[np.float64]
    """``[batch, 1]``, where the square begins, as a share of what is left."""
    across: NDArray[np.float64]
    """``[batch, 1]``, likewise."""
    mirrored: NDArray[np.bool_]
    """``[batch, 1]``."""
    gain: NDArray[np.float64]
    """``[batch, 3]``, factor of each colour channel."""

    @classmethod
    def draw(cls, batch: int, *, config: AugmentConfig, rng: np.random.Generator) -> Self:
        """Draw variations; what is drawn depends on the generator and the batch size only."""
        side = rng.uniform(config.min_side_rate, 1.0, size=(batch, 1))
        down, across = rng.uniform(size=(2, batch, 1))
        mirrored = rng.uniform(size=(batch, 1)) < config.mirror_rate
        gain = rng.uniform(-config.brightness, config.brightness, size=(batch, 1)) + 1.0
        gain = gain * (rng.uniform(-config.tint, config.tint, size=(batch, 3)) + 1.0)
        return cls(side, down, across, mirrored, gain)

    def of(self, places: slice) -> Self:
        """Keep those of some photos."""
        side, down, across, mirrored, gain = self
        return type(self)(side[places], down[places], across[places], mirrored[places], gain[places])


def augment(pixels: NDArray[np.uint8], *, config: AugmentConfig, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Vary a batch of photos, each in its own way.

    Args:
        pixels: RGB ``[batch, px, px, 3]``.
        config: how much.
        rng: what is drawn depends on it and the batch size only.

    Returns:
        A new array like `pixels`.
    """
    return vary(pixels, Variations.draw(len(pixels), config=config, rng=rng))


def vary(pixels: NDArray[np.uint8], variations: Variations) -> NDArray[np.uint8]:
    """Apply variations to the photos ``[batch, px, px, 3]`` they were drawn for; returns a new array."""
    batch, px = pixels.shape[:2]
    side = px * variations.side
    corner = np.stack([variations.down, variations.across]) * (px - side)
    middle = (np.arange(px) + 0.5) / px
    down, across = np.minimum(corner + middle * side, px - 1).astype(np.int64)  # the nearest pixel, [batch, px]
    across = np.where(variations.mirrored, across[:, ::-1], across)
    row = np.arange(batch)[:, None] * px + down
    flat = row[:, :, None] * px + across[:, None, :]
    cut = pixels.reshape(-1, 3).take(flat, axis=0)

    # Fixed point with 7 bits behind the point, over whole lines of pixels: many times faster than floats.
    factor = np.tile(np.round(variations.gain * 128).astype(np.uint16), (1, px))[:, None, :]
    lit: NDArray[np.uint16] = cut.reshape(batch, px, px * 3).astype(np.uint16)
    lit *= factor
    lit >>= 7
    return np.minimum(lit, 255, out=lit).astype(np.uint8).reshape(pixels.shape)
