"""One picture: ground, item, light, and JPEG bytes."""

from __future__ import annotations

import io
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops, ImageEnhance

from triptych.data.drawing.canvas import Canvas, Colour
from triptych.data.drawing.dishes import DISHES
from triptych.data.drawing.goods import GOODS
from triptych.data.drawing.kit import FLOOR, Kit, View
from triptych.data.drawing.textures import (
    COLOURS,
    CREAM,
    DARK_WALLS,
    INK,
    WALLS,
    cloth,
    jittered,
    luminance,
    mix,
    surface,
    tone,
)

TYPES = DISHES | GOODS
"""Every type that can be drawn."""

_HORIZON = 0.7


class Look(NamedTuple):
    """All that decides a picture."""

    type: str
    """A key of `TYPES`."""
    colour: str
    """A key of `COLOURS`."""
    pattern: str
    """One of `PATTERNS`."""
    setting: str
    """One of `SETTINGS`."""
    seed: tuple[int, ...]
    """What no word says: lot of dye, turn, size, light, where the sprinkles lie."""


def photo(look: Look, *, px: int = 256) -> Image.Image:
    """Draw a look as an RGB picture ``[px, px]``."""
    rng = np.random.default_rng(look.seed)
    draw, view = TYPES[look.type]
    main = jittered(COLOURS[look.colour], rng)
    ground = _ground(look.setting, view, main, px=px, rng=rng)
    spin = {View.ABOVE: 0.25, View.FLAT: 0.12, View.FRONT: 0.015}[view]
    scale = rng.uniform(1.0, 1.13) if view is View.FRONT else rng.uniform(0.92, 1.05)
    # What stands stays on the table however large it is.
    drop = 0.885 - 0.5 - (FLOOR - 0.5) * scale if view is View.FRONT else rng.uniform(-0.02, 0.02)
    canvas = Canvas(ground, turn=rng.normal(0, spin), scale=scale, shift=(rng.uniform(-0.035, 0.035), drop))
    draw(canvas, _kit(main, look.pattern, px=px, rng=rng))
    return _lit(canvas.image, rng)


def jpeg(look: Look, *, px: int = 256, quality: int = 86) -> bytes:
    """Draw a look and return it as JPEG bytes; the same look gives the same bytes."""
    buffer = io.BytesIO()
    photo(look, px=px).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _kit(main: Colour, pattern: str, *, px: int, rng: np.random.Generator) -> Kit:
    bright = luminance(main)
    deep, pale = tone(main, 0.72), tone(main, 1.45)
    if bright < 0.2:  # near black: shades must differ by light, not darkness
        deep, pale = tone(main, 0.6), mix(main, CREAM, 0.25)
    if bright > 0.9:
        deep = mix(main, INK, 0.18)
    light, dark = mix(tone(main, 1.9), CREAM, 0.55), mix(tone(main, 0.42), INK, 0.3)
    second = dark if bright > 0.62 else light
    ware_tint = deep if 0.2 < bright < 0.85 else (mix(main, INK, 0.5) if bright >= 0.85 else main)
    return Kit(
        main=main,
        deep=deep,
        pale=pale,
        second=second,
        cloth=cloth(main, second, pattern, px=px, rng=rng),
        ware=cloth(CREAM, ware_tint, pattern, px=px, rng=rng),
        rng=rng,
    )


def _ground(setting: str, view: View, main: Colour, *, px: int, rng: np.random.Generator) -> Image.Image:
    bank = surface(setting, int(rng.integers(4)))
    left, top = rng.integers(0, bank.width - px + 1, 2).tolist()
    patch = bank.crop((left, top, left + px, top + px))
    if rng.random() < 0.5:
        patch = patch.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if view is not View.FRONT:
        return patch
    walls = WALLS if luminance(main) < 0.68 else DARK_WALLS  # keep the item off the wall
    wall = walls[int(rng.integers(len(walls)))]
    if setting == "studio":  # a paper backdrop without a horizon
        wall = mix(wall, patch.getpixel((0, 0)), 0.35)  # type: ignore[arg-type]
        table = Image.new("RGB", (px, px), tone(wall, 0.93))
    else:
        table = patch.resize((px, px // 2), Image.Resampling.BILINEAR)  # seen at a slant
    image = ImageChops.multiply(Image.new("RGB", (px, px), wall), _wall_light(px))
    top = px - table.height
    image.paste(table, (0, top), _table_mask(px, soft=setting == "studio").crop((0, top, px, px)))
    return image


@cache
def _wall_light(px: int) -> Image.Image:
    y, x = np.mgrid[0:px, 0:px] / px
    value = 255 * (1.0 - 0.16 * np.hypot(x - 0.35, y - 0.3))
    return Image.merge("RGB", [Image.fromarray(value.astype(np.uint8))] * 3)


@cache
def _table_mask(px: int, *, soft: bool) -> Image.Image:
    y = np.arange(px) / px
    edge = 0.16 if soft else 0.008
    ramp = np.clip((y - _HORIZON + edge / 2) / edge, 0, 1) * 255
    return Image.fromarray(np.repeat(ramp.astype(np.uint8)[:, None], px, axis=1))


@cache
def _vignette(px: int, variant: int) -> Image.Image:
    y, x = np.mgrid[0:px, 0:px] / px
    cx, cy = ((0.4, 0.36), (0.6, 0.36), (0.5, 0.45))[variant]
    value = 255 * (1.0 - 0.3 * np.clip(np.hypot(x - cx, y - cy) - 0.22, 0, None) ** 1.4)
    return Image.merge("RGB", [Image.fromarray(value.astype(np.uint8))] * 3)


def _lit(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Fall-off towards the corners, and an exposure of its own for each picture."""
    image = ImageChops.multiply(image, _vignette(image.width, int(rng.integers(3))))
    return ImageEnhance.Brightness(image).enhance(float(rng.uniform(0.95, 1.08)))
