"""A small canvas over Pillow: antialiased shapes with paint, volume and soft shadows.

Coordinates are fractions of the picture's side, x to the right and y down. Every shape is a polygon
``float [points, 2]``, so one affine map turns, scales and shifts a whole item. Masks are drawn `SUPER` times as large
as the picture and reduced, over the shape's bounding box only, which is what makes a picture cost milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from functools import cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

Colour = tuple[int, int, int]
Paint = Colour | Image.Image
Points = np.ndarray
Box = tuple[int, int, int, int]

SUPER = 2
"""Masks are drawn this many times larger than the picture, per axis."""


class Volume(StrEnum):
    """How light falls on a painted shape."""

    FLAT = "flat"
    """No shading."""
    DOME = "dome"
    """Lit from above left, dark at the lower right rim: a ball, a bun."""
    TUBE = "tube"
    """A vertical cylinder: bright left of the middle, dark at both sides."""
    FADE = "fade"
    """Bright above, dark below."""
    EDGE = "edge"
    """Follows the outline: a soft bright edge towards the light, a dark one away from it."""


class Canvas:
    """One picture under construction."""

    def __init__(self, background: Image.Image, *, turn: float, scale: float, shift: tuple[float, float]) -> None:
        """Start from a background.

        Args:
            background: RGB, square.
            turn: rotation of all that is drawn, radians.
            scale: size of all that is drawn, 1 = as designed.
            shift: displacement, fractions of the side.
        """
        self.image = background
        self.px = background.width
        cos, sin = np.cos(turn) * scale, np.sin(turn) * scale
        self._turn = np.array([[cos, sin], [-sin, cos]])
        self._shift = np.array([0.5 + shift[0], 0.5 + shift[1]])

    def paint(
        self,
        shapes: Sequence[Points],
        paint: Paint,
        *,
        volume: Volume = Volume.FLAT,
        strength: float = 1.0,
        holes: Sequence[Points] = (),
        opacity: float = 1.0,
    ) -> None:
        """Fill the union of `shapes` less `holes`.

        Args:
            shapes: polygons, fractions of the side.
            paint: one colour, or an RGB picture of the canvas's size that shows through the shape.
            volume: how light falls on it.
            strength: of the light, 0 none, 1 as designed.
            holes: polygons cut out.
            opacity: in [0, 1].
        """
        placed = [self._place(shape) for shape in shapes]
        box = self._box(placed, margin=1)
        if box is None:
            return
        mask = self._mask(placed, box, cut=[self._place(hole) for hole in holes])
        size = (box[2] - box[0], box[3] - box[1])
        patch = paint.crop(box) if isinstance(paint, Image.Image) else Image.new("RGB", size, paint)
        if volume is not Volume.FLAT:
            if volume is Volume.EDGE:
                light = _edge_light(mask)
            else:
                light = _light(volume).resize(size, Image.Resampling.BILINEAR)
            if strength != 1.0:
                light = light.point(_fade_table(round(strength * 100)))
            patch = ImageChops.hard_light(patch, Image.merge("RGB", (light, light, light)))
        if opacity != 1.0:
            mask = mask.point(_opacity_table(round(opacity * 100)))
        self.image.paste(patch, box[:2], mask)

    def shadow(
        self, shapes: Sequence[Points], *, offset: tuple[float, float], blur: float, opacity: float, tint: Colour
    ) -> None:
        """Darken the ground under `shapes` softly.

        Args:
            shapes: what casts the shadow.
            offset: where it falls relative to the shapes, fractions of the side.
            blur: radius of the soft edge, fraction of the side.
            opacity: of the darkest part.
            tint: the shadow's colour.
        """
        coarse = 4  # a blurred mask needs no resolution
        placed = [self._place(shape + offset) for shape in shapes]
        box = self._box(placed, margin=round(2.4 * blur * self.px) + coarse)
        if box is None:
            return
        size = (box[2] - box[0], box[3] - box[1])
        mask = Image.new("L", (-(-size[0] // coarse), -(-size[1] // coarse)))
        draw = ImageDraw.Draw(mask)
        for points in placed:
            draw.polygon(((points / SUPER - box[:2]) / coarse).ravel().tolist(), fill=round(255 * opacity))
        mask = mask.filter(ImageFilter.GaussianBlur(blur * self.px / coarse)).resize(size, Image.Resampling.BILINEAR)
        self.image.paste(tint, box, mask)

    def _place(self, points: Points) -> Points:
        placed: Points = ((points - 0.5) @ self._turn + self._shift) * (self.px * SUPER)
        return placed

    def _box(self, placed: Sequence[Points], *, margin: int) -> Box | None:
        lows = np.min([p.min(axis=0) for p in placed], axis=0) / SUPER
        highs = np.max([p.max(axis=0) for p in placed], axis=0) / SUPER
        left, top = np.maximum(np.floor(lows).astype(int) - margin, 0).tolist()
        right, bottom = np.minimum(np.ceil(highs).astype(int) + margin, self.px).tolist()
        return (left, top, right, bottom) if right > left and bottom > top else None

    def _mask(self, placed: Sequence[Points], box: Box, *, cut: Sequence[Points]) -> Image.Image:
        origin = np.array(box[:2]) * SUPER
        mask = Image.new("L", ((box[2] - box[0]) * SUPER, (box[3] - box[1]) * SUPER))
        draw = ImageDraw.Draw(mask)
        for points in placed:
            draw.polygon((points - origin).ravel().tolist(), fill=255)
        for points in cut:
            draw.polygon((points - origin).ravel().tolist(), fill=0)
        return mask.reduce(SUPER)


@cache
def _light(volume: Volume) -> Image.Image:
    """Light map [64, 64], 128 = neutral, for `ImageChops.hard_light`."""
    y, x = np.mgrid[0:64, 0:64] / 63.0
    if volume is Volume.DOME:
        near = np.hypot(x - 0.36, y - 0.28)
        value = 128 + 62 * np.exp(-((near / 0.33) ** 2)) - 66 * np.clip(near - 0.38, 0, None) ** 1.2
    elif volume is Volume.TUBE:
        value = 128 + 46 * np.exp(-(((x - 0.3) / 0.16) ** 2)) - 58 * np.clip((x - 0.45) / 0.55, 0, 1) ** 1.5
        value -= 30 * np.clip((0.16 - x) / 0.16, 0, 1)
    else:
        value = 146 - 44 * y
    return Image.fromarray(np.clip(value, 0, 255).astype(np.uint8))


def _edge_light(mask: Image.Image) -> Image.Image:
    """Light that follows the outline: difference of the blurred mask shifted to and from the light."""
    width, height = mask.size
    small = mask.resize((max(width // 2, 4), max(height // 2, 4)), Image.Resampling.BOX)
    reach = max(2, round(0.035 * max(small.size)))
    soft = small.filter(ImageFilter.BoxBlur(reach))
    lit = ImageChops.offset(soft, reach, reach)
    dark = ImageChops.offset(soft, -reach, -reach)
    return ImageChops.subtract(dark, lit, scale=3.2, offset=128).resize(mask.size, Image.Resampling.BILINEAR)


@cache
def _fade_table(percent: int) -> list[int]:
    return [max(0, min(255, round(128 + (value - 128) * percent / 100))) for value in range(256)]


@cache
def _opacity_table(percent: int) -> list[int]:
    return [value * percent // 100 for value in range(256)]


def ellipse(x: float, y: float, width: float, height: float, *, turn: float = 0.0) -> Points:
    """Return an ellipse by its centre and half axes; `turn` in radians."""
    centre = np.array((x, y))
    points: Points = _circle(28 if max(width, height) < 0.05 else 64) * np.array((width, height))
    if turn:
        cos, sin = np.cos(turn), np.sin(turn)
        points = points @ np.array([[cos, sin], [-sin, cos]])
    moved: Points = points + centre
    return moved


@cache
def _circle(count: int) -> Points:
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def wobbly(x: float, y: float, radius: float, *, rng: np.random.Generator, amount: float = 0.05) -> Points:
    """Return a hand-made circle: a few low waves on the radius."""
    unit = _circle(64)
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    wave = np.zeros(64)
    for order in (2, 3, 5):
        wave += rng.normal(0, amount / order) * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
    outline: Points = unit * (radius * (1 + wave))[:, None] + np.array((x, y))
    return outline


def box(left: float, top: float, right: float, bottom: float, *, radius: float = 0.0) -> Points:
    """Return a rectangle with rounded corners."""
    if radius <= 0:
        return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], dtype=float)
    arc = _circle(32)
    inner = (left + radius, top + radius, right - radius, bottom - radius)
    corners = ((inner[2], inner[3]), (inner[0], inner[3]), (inner[0], inner[1]), (inner[2], inner[1]))
    return np.concatenate([arc[8 * i : 8 * i + 9] * radius + np.array(corner) for i, corner in enumerate(corners)])


def smooth(points: Sequence[tuple[float, float]], *, steps: int = 8) -> Points:
    """Return the closed Catmull-Rom curve through `points`."""
    p1 = np.asarray(points, dtype=float)
    p0, p2, p3 = np.roll(p1, 1, axis=0), np.roll(p1, -1, axis=0), np.roll(p1, -2, axis=0)
    t = np.linspace(0, 1, steps, endpoint=False)[:, None, None]
    curve = 2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3
    closed: Points = (0.5 * curve).transpose(1, 0, 2).reshape(-1, 2)
    return closed


def lathe(profile: Sequence[tuple[float, float]], *, axis: float = 0.5) -> Points:
    """Return the outline of a turned body (vase, glass).

    Args:
        profile: (half width, y) from top to bottom, smoothed in between; top and bottom are flat.
        axis: x of the axis.
    """
    half = np.asarray(profile, dtype=float)
    y = np.linspace(half[0, 1], half[-1, 1], 40)
    width = _smooth_interpolate(y, half[:, 1], half[:, 0])
    return np.concatenate([np.stack([axis + width, y], 1), np.stack([axis - width, y], 1)[::-1]])


def _smooth_interpolate(at: Points, x: Points, y: Points) -> Points:
    """Cubic Hermite interpolation with finite-difference slopes (no overshoot worth caring about here)."""
    slope = np.gradient(y, x)
    i = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(x) - 2)
    h = x[i + 1] - x[i]
    t = (at - x[i]) / h
    value: Points = (
        (1 + 2 * t) * (1 - t) ** 2 * y[i]
        + t * (1 - t) ** 2 * h * slope[i]
        + t**2 * (3 - 2 * t) * y[i + 1]
        + t**2 * (t - 1) * h * slope[i + 1]
    )
    return value


def ribbon(line: Points, width: float) -> Points:
    """Return the outline of a curve ``[points, 2]`` drawn with a pen of `width`."""
    tangent = np.gradient(line, axis=0)
    tangent /= np.maximum(np.hypot(tangent[:, 0], tangent[:, 1]), 1e-9)[:, None]
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1) * (width / 2)
    return np.concatenate([line + normal, (line - normal)[::-1]])


def arc(x: float, y: float, width: float, height: float, start: float, stop: float, *, count: int = 32) -> Points:
    """Return the open curve of an ellipse's arc between two angles (radians, clockwise from the right)."""
    angle = np.linspace(start, stop, count)
    return np.stack([x + width * np.cos(angle), y + height * np.sin(angle)], axis=1)
