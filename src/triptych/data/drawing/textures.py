"""Colours, patterns and the surfaces things stand on.

Pattern masks and surfaces are made once per process from fixed seeds and then cropped, turned and tinted per picture.
"""

from __future__ import annotations

import colorsys
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from triptych.data.drawing.canvas import SUPER, Colour

COLOURS: dict[str, Colour] = {
    "red": (204, 46, 46),
    "orange": (240, 128, 36),
    "yellow": (248, 204, 62),
    "green": (78, 152, 74),
    "teal": (24, 150, 150),
    "blue": (64, 128, 216),
    "navy": (34, 50, 104),
    "purple": (128, 78, 172),
    "pink": (242, 142, 174),
    "brown": (126, 78, 46),
    "beige": (224, 196, 156),
    "black": (44, 44, 48),
    "grey": (148, 152, 158),
    "white": (248, 246, 242),
}
"""Main colours by name."""

PATTERNS = ("plain", "striped", "dotted", "checked", "zigzag", "floral", "marbled")
"""Names of the patterns `pattern_mask` draws."""

SETTINGS = ("studio", "marble", "walnut", "slate", "linen", "terrazzo", "tiles")
"""Names of the surfaces `surface` draws."""

CREAM: Colour = (250, 247, 240)
INK: Colour = (52, 48, 54)
WALLS: tuple[Colour, ...] = (
    (233, 222, 210),
    (214, 224, 226),
    (224, 214, 224),
    (216, 226, 212),
    (242, 226, 206),
    (228, 208, 202),
    (206, 212, 224),
    (240, 236, 228),
)
"""Quiet wall colours behind what is seen from the front."""

DARK_WALLS: tuple[Colour, ...] = (
    (96, 118, 124),
    (122, 108, 126),
    (168, 122, 106),
    (104, 124, 108),
    (92, 104, 130),
)
"""Walls behind pale things."""

_BANK_PX = 400
_VARIANTS = 4


def tone(colour: Colour, lightness: float, *, saturation: float = 1.0) -> Colour:
    """Scale a colour's lightness (towards white above 1, towards black below) and saturation."""
    hue, light, sat = colorsys.rgb_to_hls(*(channel / 255 for channel in colour))
    light = light * lightness if lightness <= 1 else 1 - (1 - light) / lightness
    red, green, blue = colorsys.hls_to_rgb(hue, min(max(light, 0), 1), min(sat * saturation, 1))
    return round(red * 255), round(green * 255), round(blue * 255)


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """Blend two colours; `share` is that of the second."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def luminance(colour: Colour) -> float:
    """Perceived brightness in [0, 1]."""
    return (0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]) / 255


def jittered(colour: Colour, rng: np.random.Generator) -> Colour:
    """Return a near shade of a colour, as two dye lots differ."""
    hue, light, sat = colorsys.rgb_to_hls(*(channel / 255 for channel in colour))
    hue = (hue + rng.normal(0, 0.008)) % 1
    light = min(max(light + rng.normal(0, 0.02), 0.13), 0.97)
    sat = min(max(sat * rng.uniform(0.9, 1.08), 0), 1)
    red, green, blue = colorsys.hls_to_rgb(hue, light, sat)
    return round(red * 255), round(green * 255), round(blue * 255)


def cloth(main: Colour, second: Colour, pattern: str, *, px: int, rng: np.random.Generator) -> Image.Image:
    """Return an RGB picture ``[px, px]`` of `pattern` in `second` on `main`, at a random offset."""
    if pattern == "plain":
        return Image.new("RGB", (px, px), main)
    bank = pattern_mask(pattern, int(rng.integers(_VARIANTS)))
    left, top = rng.integers(0, bank.width - px + 1, 2).tolist()
    mask = bank.crop((left, top, left + px, top + px))
    return Image.composite(Image.new("RGB", (px, px), second), Image.new("RGB", (px, px), main), mask)


@cache
def pattern_mask(pattern: str, variant: int) -> Image.Image:
    """Mask ``L [400, 400]``: white where the second colour goes."""
    rng = np.random.default_rng([11, PATTERNS.index(pattern), variant])
    side = _BANK_PX * SUPER
    image = Image.new("L", (side, side))
    draw = ImageDraw.Draw(image)
    step = int(side / (17 + 2 * variant))
    if pattern == "striped":
        return _stripes(side, step=step * 1.5, vertical=variant % 2 == 0)
    if pattern == "checked":
        across, along = (_stripes(side, step=step * 1.9, vertical=v).point(lambda v: v // 2) for v in (False, True))
        return Image.fromarray(np.asarray(across) + np.asarray(along))
    if pattern == "dotted":
        for row in range(-1, side // step + 2):
            for column in range(-1, side // step + 2):
                x, y = (column + 0.5 * (row % 2)) * step * 1.25, row * step * 1.1
                draw.ellipse((x - step * 0.33, y - step * 0.33, x + step * 0.33, y + step * 0.33), fill=255)
    elif pattern == "zigzag":
        wave = np.abs(np.arange(0, 2 * side // step + 4) % 2 - 0.5) * 2 - 0.5
        for row in range(-2, side // step + 3):
            y = row * step * 1.7
            line = [(i * step * 0.8, y + (step * 0.9 if i % 2 else 0)) for i in range(len(wave))]
            draw.line(line, fill=255, width=int(step * 0.55), joint="curve")
    elif pattern == "floral":
        for row in range(-1, int(side / step / 1.9) + 2):
            for column in range(-1, int(side / step / 1.9) + 2):
                x = (column + 0.5 * (row % 2) + rng.uniform(-0.12, 0.12)) * step * 2.1
                y = (row + rng.uniform(-0.12, 0.12)) * step * 2.0
                _flower(draw, x, y, step * rng.uniform(0.62, 0.8), rng.uniform(0, 6))
    elif pattern == "marbled":
        return _marbled(rng)
    return image.reduce(SUPER)


def _stripes(side: int, *, step: float, vertical: bool) -> Image.Image:
    line = ((np.arange(side) / step) % 1 < 0.42).astype(np.uint8) * 255
    full = np.broadcast_to(line[None, :] if vertical else line[:, None], (side, side))
    return Image.fromarray(np.ascontiguousarray(full)).reduce(SUPER)


def _flower(draw: ImageDraw.ImageDraw, x: float, y: float, size: float, turn: float) -> None:
    for petal in range(5):
        angle = turn + petal * 2 * np.pi / 5
        px, py, radius = x + np.cos(angle) * size * 0.55, y + np.sin(angle) * size * 0.55, size * 0.38
        draw.ellipse((px - radius, py - radius, px + radius, py + radius), fill=255)
    draw.ellipse((x - size * 0.22, y - size * 0.22, x + size * 0.22, y + size * 0.22), fill=0)


def _marbled(rng: np.random.Generator) -> Image.Image:
    y, x = np.mgrid[0:_BANK_PX, 0:_BANK_PX] / _BANK_PX
    warp = noise(rng, _BANK_PX, cells=5) * 0.36
    band = np.sin((x * 0.6 + y + warp) * 2 * np.pi * 5.5)
    return Image.fromarray((np.clip((band - 0.1) * 4, 0, 1) * 255).astype(np.uint8))


def noise(rng: np.random.Generator, px: int, *, cells: int, octaves: int = 3) -> np.ndarray:
    """Smooth noise ``float32 [px, px]``, about unit range around 0; `cells` = bumps per side."""
    total = np.zeros((px, px), dtype=np.float32)
    for octave in range(octaves):
        count = cells * 2**octave
        grid = Image.fromarray(rng.standard_normal((count + 1, count + 1)).astype(np.float32))
        total += np.asarray(grid.resize((px, px), Image.Resampling.BICUBIC)) * 0.5**octave
    return total * 0.5


@cache
def surface(setting: str, variant: int) -> Image.Image:
    """A surface seen from above, RGB ``[400, 400]``; `variant` in [0, 4)."""
    rng = np.random.default_rng([23, SETTINGS.index(setting), variant])
    if setting == "tiles":
        return _tiles(rng)
    if setting == "terrazzo":
        return _terrazzo(rng)
    y, x = np.mgrid[0:_BANK_PX, 0:_BANK_PX].astype(np.float32) / _BANK_PX
    base: Colour
    if setting == "marble":
        field = noise(rng, _BANK_PX, cells=3, octaves=4)
        veins = np.exp(-np.abs(np.sin((x * 1.3 + y * 0.8 + field * 0.5) * 5)) * 14) * 34
        veins += np.exp(-np.abs(np.sin((x - y + field * 0.9) * 3.1)) * 26) * 22
        base, delta = (238, 238, 240), -veins + noise(rng, _BANK_PX, cells=4) * 4
    elif setting == "walnut":
        grain = noise(rng, _BANK_PX, cells=2) * 0.5
        rings = np.sin((y * 9 + grain * 1.6 + 0.2 * np.sin(x * 5)) * 2 * np.pi)
        fibre = rng.standard_normal((_BANK_PX, 1)).astype(np.float32) * 5
        plank = np.abs((y * 3.5) % 1 - 0.02) < 0.012
        base, delta = (128, 84, 56), rings * 9 + fibre - plank * 40 + grain * 14
    elif setting == "slate":
        base, delta = (74, 80, 88), noise(rng, _BANK_PX, cells=6, octaves=5) * 15
    elif setting == "linen":
        threads = rng.standard_normal((_BANK_PX, 1)) * 6 + rng.standard_normal((1, _BANK_PX)) * 6
        folds = noise(rng, _BANK_PX, cells=2, octaves=2) * 10
        base, delta = (216, 202, 176), threads.astype(np.float32) + folds
    else:
        base, delta = WALLS[(2 * variant + 1) % len(WALLS)], noise(rng, _BANK_PX, cells=2, octaves=1) * 3
    return Image.fromarray(np.clip(np.asarray(base, dtype=np.float32) + delta[..., None], 0, 255).astype(np.uint8))


def _tiles(rng: np.random.Generator) -> Image.Image:
    count = 9
    size = _BANK_PX // count + 1
    glaze = np.array([[150, 196, 196], [140, 186, 190], [162, 206, 200]])
    image = Image.new("RGB", (_BANK_PX, _BANK_PX), (232, 236, 232))
    draw = ImageDraw.Draw(image)
    for row in range(count + 1):
        for column in range(count + 1):
            shade = (glaze[rng.integers(3)] + rng.integers(-6, 7)).tolist()
            corner = (column * size, row * size)
            draw.rounded_rectangle((*corner, corner[0] + size - 5, corner[1] + size - 5), 4, fill=tuple(shade))
            draw.line((corner[0] + 3, corner[1] + 2, corner[0] + size - 9, corner[1] + 2), fill=(206, 232, 228))
    return image.filter(ImageFilter.GaussianBlur(0.6))


def _terrazzo(rng: np.random.Generator) -> Image.Image:
    chips: tuple[Colour, ...] = ((198, 120, 98), (92, 112, 120), (222, 182, 128), (146, 164, 148), (120, 94, 92))
    image = Image.new("RGB", (_BANK_PX * SUPER, _BANK_PX * SUPER), (240, 234, 226))
    draw = ImageDraw.Draw(image)
    for _ in range(520):
        centre = rng.uniform(0, _BANK_PX * SUPER, 2)
        angles = np.sort(rng.uniform(0, 2 * np.pi, 5))
        radius = rng.uniform(5, 17) * rng.uniform(0.6, 1.2, 5)
        corners = centre + np.stack([np.cos(angles), np.sin(angles)], 1) * radius[:, None]
        draw.polygon(corners.ravel().tolist(), fill=chips[rng.integers(len(chips))])
    return image.reduce(SUPER)
