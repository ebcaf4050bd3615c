"""What every type is drawn with, and the ways of standing on a table or lying on one."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from PIL import Image

from triptych.data.drawing.canvas import Canvas, Colour, Points, Volume, ellipse

FLOOR = 0.85
"""Height at which things seen from the front stand, fraction of the side."""

SHADOW: Colour = (46, 34, 32)


class View(StrEnum):
    """Where the eye is."""

    ABOVE = "above"
    """Looking down on a table."""
    FRONT = "front"
    """Looking at a table with a wall behind."""
    FLAT = "flat"
    """Looking down at something that lies flat: clothes, cushions."""


class Kit(NamedTuple):
    """Colours and cloths of one item."""

    main: Colour
    """The item's colour."""
    deep: Colour
    """A darker shade of it."""
    pale: Colour
    """A lighter shade of it."""
    second: Colour
    """The pattern's colour, far from `main` in brightness."""
    cloth: Image.Image
    """RGB ``[px, px]``: the pattern in `second` on `main`."""
    ware: Image.Image
    """RGB ``[px, px]``: the pattern in a shade of `main` on cream, for plates, bowls, paper."""
    rng: np.random.Generator


def stand(canvas: Canvas, *, width: float, x: float = 0.5, y: float = FLOOR) -> None:
    """Cast the shadow of something `width` wide that stands at `y`."""
    near = [ellipse(x + 0.01, y - 0.002, width * 0.52, 0.022)]
    far = [ellipse(x + 0.06, y - 0.01, width * 0.62, 0.04)]
    canvas.shadow(far, offset=(0.0, 0.0), blur=0.035, opacity=0.32, tint=SHADOW)
    canvas.shadow(near, offset=(0.0, 0.004), blur=0.009, opacity=0.5, tint=SHADOW)


def lie(canvas: Canvas, shapes: Sequence[Points], *, height: float = 1.0) -> None:
    """Cast the shadow of `shapes` that lie on the ground; `height` 1 = a plate's."""
    canvas.shadow(shapes, offset=(0.02 * height, 0.028 * height), blur=0.026 * height, opacity=0.48, tint=SHADOW)


def glow(canvas: Canvas, x: float, y: float, *, radius: float) -> None:
    """Brighten the air round a light."""
    canvas.shadow([ellipse(x, y, radius, radius)], offset=(0.0, 0.0), blur=0.09, opacity=0.55, tint=(255, 238, 196))


def plate(canvas: Canvas, kit: Kit, *, radius: float = 0.44, well: float = 0.29) -> None:
    """Draw a plate with a patterned rim, seen from above."""
    rim = ellipse(0.5, 0.5, radius, radius)
    lie(canvas, [rim])
    canvas.paint([rim], kit.ware, volume=Volume.EDGE, strength=0.5)
    canvas.paint([ellipse(0.5, 0.5, well + 0.012, well + 0.012)], (222, 216, 206))
    canvas.paint([ellipse(0.502, 0.503, well, well)], (250, 248, 243), volume=Volume.FADE, strength=0.35)


def bowl(canvas: Canvas, kit: Kit, fill: Colour | Image.Image, *, radius: float = 0.43, well: float = 0.315) -> None:
    """Draw a bowl with a patterned rim, filled to a little below it."""
    rim = ellipse(0.5, 0.5, radius, radius)
    lie(canvas, [rim], height=1.3)
    canvas.paint([rim], kit.ware, volume=Volume.EDGE, strength=0.6)
    canvas.paint([ellipse(0.5, 0.5, well + 0.025, well + 0.025)], (214, 207, 196), volume=Volume.FADE)
    canvas.paint([ellipse(0.5, 0.505, well, well)], fill, volume=Volume.DOME, strength=0.45)


def scatter(
    rng: np.random.Generator, count: int, *, radius: float, centre: tuple[float, float] = (0.5, 0.5), gap: float = 0.0
) -> list[tuple[float, float]]:
    """Return up to `count` points inside a circle, no two nearer than `gap` (best effort)."""
    points: list[tuple[float, float]] = []
    tries = rng.uniform(-1, 1, (count * 8, 2))
    for dx, dy in tries[np.hypot(tries[:, 0], tries[:, 1]) <= 1].tolist():
        x, y = centre[0] + dx * radius, centre[1] + dy * radius
        if all((x - a) ** 2 + (y - b) ** 2 >= gap * gap for a, b in points):
            points.append((x, y))
        if len(points) == count:
            break
    return points
