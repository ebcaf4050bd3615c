"""Household and fashion goods: one function per type. The item's colour and pattern cover its body."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from triptych.data.drawing.canvas import (
    Canvas,
    Colour,
    Volume,
    arc,
    box,
    ellipse,
    lathe,
    ribbon,
    smooth,
)
from triptych.data.drawing.kit import FLOOR, Kit, View, glow, lie, stand
from triptych.data.drawing.textures import CREAM, tone

WOOD: Colour = (176, 124, 78)
METAL: Colour = (196, 198, 204)
BRASS: Colour = (206, 168, 92)


def mug(canvas: Canvas, kit: Kit) -> None:
    """A mug with a handle and a sip of coffee."""
    stand(canvas, width=0.46)
    handle = arc(0.7, 0.58, 0.14, 0.14, -np.pi / 2, np.pi / 2)
    canvas.paint([ribbon(handle, 0.048)], kit.main, volume=Volume.EDGE, strength=1.3)
    body = np.concatenate([arc(0.48, FLOOR - 0.03, 0.235, 0.03, 0, np.pi), [(0.235, 0.36), (0.725, 0.36)]])
    canvas.paint([body], kit.cloth, volume=Volume.TUBE)
    canvas.paint([ellipse(0.48, 0.36, 0.245, 0.042)], kit.pale, volume=Volume.FADE, strength=0.5)
    canvas.paint([ellipse(0.48, 0.366, 0.215, 0.032)], (78, 46, 30), volume=Volume.FADE)


def teapot(canvas: Canvas, kit: Kit) -> None:
    """A round teapot with spout, handle and lid."""
    stand(canvas, width=0.5)
    canvas.paint([ribbon(arc(0.24, 0.6, 0.14, 0.13, np.pi / 2, 3 * np.pi / 2), 0.04)], kit.deep, volume=Volume.EDGE)
    spout = smooth([(0.68, 0.7), (0.8, 0.57), (0.86, 0.43), (0.91, 0.43), (0.89, 0.56), (0.78, 0.76), (0.68, 0.78)])
    canvas.paint([spout], kit.main, volume=Volume.EDGE)
    body = lathe([(0.12, 0.42), (0.24, 0.5), (0.285, 0.63), (0.24, 0.78), (0.15, FLOOR)])
    canvas.paint([body], kit.cloth, volume=Volume.DOME)
    canvas.paint([lathe([(0.03, 0.375), (0.11, 0.4), (0.135, 0.435)])], kit.main, volume=Volume.TUBE)
    canvas.paint([ellipse(0.5, 0.355, 0.032, 0.032)], kit.deep, volume=Volume.DOME)


def vase(canvas: Canvas, kit: Kit) -> None:
    """A vase with three flowers."""
    stand(canvas, width=0.3)
    heads = ((0.38, 0.17), (0.52, 0.11), (0.64, 0.2))
    stems = [ribbon(np.array([(0.5, 0.45), ((0.5 + x) / 2, 0.3), (x, y)]), 0.012) for x, y in heads]
    canvas.paint(stems, (92, 128, 72))
    canvas.paint(
        [ellipse(0.42, 0.3, 0.07, 0.024, turn=0.7), ellipse(0.6, 0.32, 0.07, 0.024, turn=-0.7)], (108, 146, 84)
    )
    petal_colour = tone(kit.second, 1.1)
    for x, y in heads:
        petals = [ellipse(x + 0.042 * np.cos(a), y + 0.042 * np.sin(a), 0.034, 0.03) for a in np.arange(6) * np.pi / 3]
        canvas.paint(petals, petal_colour, volume=Volume.FADE)
        canvas.paint([ellipse(x, y, 0.024, 0.024)], (240, 190, 70), volume=Volume.DOME)
    belly = kit.rng.uniform(0.18, 0.25)
    profile = [(0.1, 0.38), (0.075, 0.45), (0.12, 0.53), (belly, 0.66), (belly * 0.85, 0.77), (0.11, FLOOR)]
    canvas.paint([lathe(profile)], kit.cloth, volume=Volume.TUBE)
    canvas.paint([ellipse(0.5, 0.38, 0.1, 0.014)], kit.deep)


def lamp(canvas: Canvas, kit: Kit) -> None:
    """A table lamp with a patterned shade, lit."""
    glow(canvas, 0.5, 0.4, radius=0.33)
    stand(canvas, width=0.34)
    canvas.paint(
        [lathe([(0.02, 0.5), (0.02, 0.56), (0.085, 0.66), (0.075, 0.74), (0.03, 0.8)])], BRASS, volume=Volume.TUBE
    )
    canvas.paint([box(0.35, 0.8, 0.65, FLOOR, radius=0.02)], tone(BRASS, 0.85), volume=Volume.TUBE)
    shade = np.array([(0.36, 0.14), (0.64, 0.14), (0.78, 0.53), (0.22, 0.53)])
    canvas.paint([shade], kit.cloth, volume=Volume.TUBE, strength=0.8)
    canvas.paint([ribbon(np.array([(0.22, 0.525), (0.78, 0.525)]), 0.018)], kit.deep)
    canvas.paint([ribbon(np.array([(0.36, 0.147), (0.64, 0.147)]), 0.014)], kit.deep)


def tote_bag(canvas: Canvas, kit: Kit) -> None:
    """A shopping bag with two handles."""
    stand(canvas, width=0.56)
    canvas.paint([ribbon(arc(0.5, 0.42, 0.13, 0.27, np.pi, 2 * np.pi), 0.026)], kit.deep, volume=Volume.EDGE)
    body = smooth(
        [(0.24, 0.4), (0.5, 0.405), (0.76, 0.4), (0.8, 0.62), (0.8, 0.83), (0.5, FLOOR), (0.2, 0.83), (0.2, 0.62)]
    )
    canvas.paint([body], kit.cloth, volume=Volume.EDGE, strength=1.2)
    canvas.paint([ribbon(np.array([(0.245, 0.415), (0.755, 0.415)]), 0.026)], kit.deep)
    canvas.paint([ribbon(arc(0.5, 0.44, 0.15, 0.22, np.pi, 2 * np.pi), 0.03)], tone(kit.deep, 1.15), volume=Volume.EDGE)


def backpack(canvas: Canvas, kit: Kit) -> None:
    """A backpack with a front pocket."""
    stand(canvas, width=0.5)
    canvas.paint([ribbon(arc(0.5, 0.2, 0.075, 0.075, np.pi, 2 * np.pi), 0.026)], kit.deep)
    canvas.paint(
        [box(0.2, 0.42, 0.27, 0.78, radius=0.03), box(0.73, 0.42, 0.8, 0.78, radius=0.03)], kit.deep, volume=Volume.FADE
    )
    body = smooth(
        [
            (0.5, 0.17),
            (0.68, 0.23),
            (0.75, 0.42),
            (0.765, 0.7),
            (0.71, 0.84),
            (0.5, FLOOR),
            (0.29, 0.84),
            (0.235, 0.7),
            (0.25, 0.42),
            (0.32, 0.23),
        ]
    )
    canvas.paint([body], kit.cloth, volume=Volume.EDGE, strength=1.4)
    canvas.paint([ribbon(arc(0.5, 0.45, 0.2, 0.14, np.pi, 2 * np.pi), 0.012)], kit.deep)
    canvas.paint([box(0.31, 0.54, 0.69, 0.79, radius=0.05)], kit.main, volume=Volume.EDGE, strength=1.2)
    canvas.paint([ribbon(np.array([(0.32, 0.6), (0.68, 0.6)]), 0.014)], kit.deep)
    canvas.paint([box(0.49, 0.595, 0.51, 0.655, radius=0.008)], METAL)


def sneaker(canvas: Canvas, kit: Kit) -> None:
    """A sneaker from the side."""
    stand(canvas, width=0.78)
    upper = [(0.15, 0.48), (0.22, 0.44), (0.3, 0.5), (0.4, 0.47), (0.47, 0.43), (0.56, 0.55), (0.7, 0.62), (0.85, 0.67)]
    canvas.paint(
        [smooth([*upper, (0.89, 0.78), (0.5, 0.8), (0.13, 0.79)])], kit.cloth, volume=Volume.EDGE, strength=1.3
    )
    canvas.paint([smooth([(0.72, 0.63), (0.86, 0.67), (0.89, 0.78), (0.7, 0.79)])], kit.pale, volume=Volume.EDGE)
    canvas.paint(
        [smooth([(0.14, 0.5), (0.22, 0.47), (0.25, 0.62), (0.24, 0.79), (0.13, 0.79)])], kit.deep, volume=Volume.EDGE
    )
    laces = [
        ribbon(np.array([(0.4 + 0.065 * i, 0.52 + 0.042 * i), (0.5 + 0.06 * i, 0.475 + 0.05 * i)]), 0.02)
        for i in range(4)
    ]
    canvas.paint(laces, CREAM, volume=Volume.FADE)
    sole = smooth(
        [
            (0.11, 0.78),
            (0.5, 0.785),
            (0.9, 0.77),
            (0.915, 0.82),
            (0.86, FLOOR),
            (0.5, 0.848),
            (0.14, FLOOR),
            (0.095, 0.82),
        ]
    )
    canvas.paint([sole], (246, 244, 238), volume=Volume.FADE, strength=1.2)
    canvas.paint([ribbon(np.array([(0.11, 0.815), (0.5, 0.815), (0.9, 0.81)]), 0.012)], kit.main)


def t_shirt(canvas: Canvas, kit: Kit) -> None:
    """A T-shirt laid flat."""
    half = [
        (0.59, 0.17),
        (0.7, 0.205),
        (0.8, 0.28),
        (0.94, 0.45),
        (0.83, 0.53),
        (0.73, 0.44),
        (0.725, 0.6),
        (0.74, 0.87),
    ]
    outline = np.array([*half, *((1 - x, y) for x, y in reversed(half))])
    lie(canvas, [outline], height=0.7)
    canvas.paint([outline], kit.cloth, volume=Volume.EDGE, strength=1.2)
    folds = [
        ribbon(np.array([(x, y), (x + dx, y + 0.26)]), 0.018) for x, y, dx in ((0.36, 0.5, 0.03), (0.62, 0.45, -0.04))
    ]
    canvas.paint(folds, (20, 16, 24), opacity=0.1)
    neck = arc(0.5, 0.17, 0.095, 0.085, 0, np.pi)
    canvas.paint([neck], tone(kit.deep, 0.7))
    canvas.paint([ribbon(neck, 0.024)], kit.deep, volume=Volume.FADE)


def dress(canvas: Canvas, kit: Kit) -> None:
    """A sleeveless dress with a belt, laid flat."""
    half = [
        (0.545, 0.2),
        (0.58, 0.1),
        (0.63, 0.1),
        (0.635, 0.2),
        (0.66, 0.28),
        (0.615, 0.4),
        (0.7, 0.6),
        (0.79, 0.86),
        (0.65, 0.9),
    ]
    outline = np.array([*half, *((1 - x, y) for x, y in reversed(half))])
    lie(canvas, [outline], height=0.7)
    canvas.paint([outline], kit.cloth, volume=Volume.EDGE, strength=1.2)
    pleats = [ribbon(np.array([(0.5 + d * 0.3, 0.45), (0.5 + d, 0.88)]), 0.01) for d in (-0.2, -0.1, 0.0, 0.1, 0.2)]
    canvas.paint(pleats, (20, 16, 24), opacity=0.13)
    canvas.paint([box(0.38, 0.385, 0.62, 0.43, radius=0.01)], kit.deep, volume=Volume.FADE)


def cap(canvas: Canvas, kit: Kit) -> None:
    """A baseball cap."""
    stand(canvas, width=0.7, y=0.76)
    crown = smooth(
        [(0.2, 0.7), (0.21, 0.5), (0.31, 0.34), (0.47, 0.28), (0.63, 0.34), (0.72, 0.5), (0.73, 0.68), (0.46, 0.74)]
    )
    canvas.paint([crown], kit.cloth, volume=Volume.DOME)
    for bend in (-0.13, 0.06):
        seam = np.array([(0.47, 0.285), (0.47 + bend * 1.3, 0.45), (0.47 + bend * 1.6, 0.72)])
        canvas.paint([ribbon(seam, 0.008)], kit.deep, opacity=0.6)
    brim = smooth([(0.42, 0.715), (0.56, 0.65), (0.74, 0.635), (0.88, 0.68), (0.93, 0.75), (0.74, 0.735), (0.56, 0.74)])
    canvas.paint([brim], kit.deep, volume=Volume.EDGE, strength=1.4)
    canvas.paint([ellipse(0.47, 0.283, 0.026, 0.014)], kit.deep, volume=Volume.DOME)


def umbrella(canvas: Canvas, kit: Kit) -> None:
    """An open umbrella."""
    stand(canvas, width=0.1, x=0.47)
    canvas.paint([box(0.49, 0.3, 0.51, 0.76)], METAL, volume=Volume.TUBE)
    canvas.paint([ribbon(arc(0.445, 0.76, 0.055, 0.075, 0, np.pi), 0.026)], WOOD, volume=Volume.TUBE)
    top = arc(0.5, 0.5, 0.41, 0.37, np.pi, 2 * np.pi, count=40)
    scallops = [arc(0.5 + 0.41 * (3 - 2 * i) / 4, 0.5, 0.41 / 4, 0.055, 0, -np.pi, count=10) for i in range(4)]
    canopy = np.concatenate([top, *scallops])
    canvas.paint([canopy], kit.cloth, volume=Volume.DOME)
    ribs = [ribbon(np.array([(0.5, 0.13), (0.5 + d * 0.75, 0.3), (0.5 + d, 0.5)]), 0.008) for d in (-0.205, 0.0, 0.205)]
    canvas.paint(ribs, kit.deep, opacity=0.7)
    canvas.paint([box(0.49, 0.085, 0.51, 0.14, radius=0.008)], METAL)


def cushion(canvas: Canvas, kit: Kit) -> None:
    """A square cushion."""
    shape = smooth(
        [(0.14, 0.15), (0.5, 0.185), (0.86, 0.15), (0.825, 0.5), (0.86, 0.85), (0.5, 0.815), (0.14, 0.85), (0.175, 0.5)]
    )
    lie(canvas, [shape], height=1.8)
    canvas.paint([shape], kit.cloth, volume=Volume.EDGE, strength=1.3)
    for x, y in ((0.14, 0.15), (0.86, 0.15), (0.14, 0.85), (0.86, 0.85)):
        canvas.paint([ellipse(x, y, 0.03, 0.03)], kit.deep, volume=Volume.DOME)


def candle(canvas: Canvas, kit: Kit) -> None:
    """A candle in a patterned jar, burning."""
    glow(canvas, 0.5, 0.3, radius=0.17)
    stand(canvas, width=0.42)
    body = np.concatenate([arc(0.5, FLOOR - 0.028, 0.22, 0.028, 0, np.pi), [(0.28, 0.46), (0.72, 0.46)]])
    canvas.paint([body], kit.cloth, volume=Volume.TUBE)
    canvas.paint([ellipse(0.5, 0.46, 0.22, 0.04)], kit.pale, volume=Volume.FADE)
    canvas.paint([ellipse(0.5, 0.467, 0.195, 0.03)], (250, 242, 222), volume=Volume.FADE)
    canvas.paint([box(0.494, 0.38, 0.506, 0.465)], (60, 50, 44))
    canvas.paint(
        [smooth([(0.5, 0.2), (0.545, 0.31), (0.53, 0.37), (0.5, 0.39), (0.47, 0.37), (0.455, 0.31)])], (255, 178, 56)
    )
    canvas.paint([smooth([(0.5, 0.27), (0.525, 0.34), (0.5, 0.382), (0.475, 0.34)])], (255, 240, 180))


def scarf(canvas: Canvas, kit: Kit) -> None:
    """A folded scarf with fringes."""
    fringe = [
        ribbon(np.array([(x, 0.84), (x + kit.rng.uniform(-0.01, 0.01), 0.93)]), 0.011)
        for x in np.linspace(0.42, 0.68, 10)
    ]
    tail = box(0.4, 0.4, 0.7, 0.85, radius=0.012)
    loop = smooth(
        [(0.12, 0.33), (0.28, 0.15), (0.52, 0.1), (0.78, 0.16), (0.9, 0.34), (0.8, 0.55), (0.5, 0.62), (0.2, 0.55)]
    )
    lie(canvas, [tail, loop], height=1.2)
    canvas.paint(fringe, kit.main)
    canvas.paint([tail], kit.cloth, volume=Volume.TUBE)
    hole = smooth([(0.36, 0.33), (0.5, 0.27), (0.66, 0.33), (0.5, 0.385)])
    canvas.paint([loop], kit.cloth, volume=Volume.EDGE, strength=1.8, holes=[hole])


def socks(canvas: Canvas, kit: Kit) -> None:
    """A pair of socks."""
    for shift in np.array([(0.13, -0.015), (-0.11, 0.03)]):
        dx, dy = shift
        foot = smooth(
            [
                (0.61, 0.5),
                (0.66, 0.66),
                (0.6, 0.8),
                (0.42, 0.86),
                (0.24, 0.86),
                (0.19, 0.78),
                (0.25, 0.7),
                (0.38, 0.64),
                (0.4, 0.5),
            ]
        )
        leg = np.array([(0.4, 0.14), (0.61, 0.14), (0.618, 0.56), (0.395, 0.56)])
        both = [leg + shift, foot + shift]
        lie(canvas, both, height=0.7)
        canvas.paint(both, kit.cloth, volume=Volume.EDGE, strength=1.2)
        canvas.paint(
            [box(0.395 + dx, 0.13 + dy, 0.615 + dx, 0.2 + dy, radius=0.012)], kit.deep, volume=Volume.TUBE, strength=0.6
        )
        toe = smooth([(0.24, 0.86), (0.19, 0.78), (0.25, 0.7), (0.29, 0.78)]) + shift
        canvas.paint([toe], kit.deep, volume=Volume.EDGE)


def clock(canvas: Canvas, kit: Kit) -> None:
    """A round wall clock with a patterned frame."""
    frame = ellipse(0.5, 0.48, 0.39, 0.39)
    lie(canvas, [frame], height=1.4)
    canvas.paint([frame], kit.cloth, volume=Volume.EDGE, strength=1.3)
    canvas.paint([ellipse(0.5, 0.48, 0.265, 0.265)], (252, 250, 244), volume=Volume.FADE, strength=0.4)
    ticks = []
    centre = np.array((0.5, 0.48))
    for hour in range(12):
        way = np.array([np.cos(hour * np.pi / 6), np.sin(hour * np.pi / 6)])
        ticks.append(ribbon(np.stack([way * 0.215, way * 0.245]) + centre, 0.016 if hour % 3 == 0 else 0.008))
    canvas.paint(ticks, (70, 66, 70))
    hour, minute = kit.rng.uniform(0, 6.28, 2)
    for angle, length, width in ((hour, 0.13, 0.022), (minute, 0.2, 0.014)):
        way = np.array([np.cos(angle), np.sin(angle)])
        canvas.paint([ribbon(np.stack([way * -0.03, way * length]) + centre, width)], (50, 46, 52))
    canvas.paint([ellipse(0.5, 0.48, 0.02, 0.02)], kit.main, volume=Volume.DOME)


def armchair(canvas: Canvas, kit: Kit) -> None:
    """An upholstered armchair."""
    stand(canvas, width=0.66)
    legs = [
        np.array([(x - 0.022, 0.76), (x + 0.022, 0.76), (x + d + 0.012, FLOOR), (x + d - 0.012, FLOOR)])
        for x, d in ((0.26, -0.02), (0.74, 0.02))
    ]
    canvas.paint(legs, WOOD, volume=Volume.FADE)
    back = smooth([(0.28, 0.3), (0.34, 0.2), (0.5, 0.175), (0.66, 0.2), (0.72, 0.3), (0.72, 0.62), (0.28, 0.62)])
    canvas.paint([back], kit.cloth, volume=Volume.EDGE, strength=1.2)
    canvas.paint([box(0.26, 0.54, 0.74, 0.67, radius=0.05)], kit.cloth, volume=Volume.FADE, strength=1.2)
    canvas.paint([box(0.25, 0.655, 0.75, 0.775, radius=0.03)], kit.deep, volume=Volume.FADE)
    for left in (0.155, 0.705):
        canvas.paint([box(left, 0.43, left + 0.14, 0.785, radius=0.06)], kit.cloth, volume=Volume.TUBE)


def plant_pot(canvas: Canvas, kit: Kit) -> None:
    """A leafy plant in a patterned pot."""
    stand(canvas, width=0.36)
    for index, angle in enumerate(np.linspace(-2.6, -0.54, 9) + kit.rng.normal(0, 0.08, 9)):
        length = kit.rng.uniform(0.28, 0.4)
        tip = np.array([0.5 + np.cos(angle) * length, 0.52 + np.sin(angle) * length])
        centre = (np.array([0.5, 0.52]) + tip) / 2
        green = tone((84, 142, 84), 0.8 + 0.13 * (index % 3))
        canvas.paint([ellipse(centre[0], centre[1], length * 0.52, 0.052, turn=angle)], green, volume=Volume.EDGE)
        canvas.paint([ribbon(np.stack([np.array([0.5, 0.52]), tip]), 0.006)], tone(green, 1.4), opacity=0.8)
    pot = np.array([(0.31, 0.55), (0.69, 0.55), (0.63, FLOOR), (0.37, FLOOR)])
    canvas.paint([pot], kit.cloth, volume=Volume.TUBE)
    canvas.paint([box(0.285, 0.515, 0.715, 0.585, radius=0.015)], kit.main, volume=Volume.TUBE)


def rug(canvas: Canvas, kit: Kit) -> None:
    """A fringed rug."""
    body = box(0.14, 0.1, 0.86, 0.9)
    fringe = [box(x, y, x + 0.012, y + 0.05) for x in np.linspace(0.145, 0.84, 26) for y in (0.06, 0.89)]
    lie(canvas, [body], height=0.5)
    canvas.paint(fringe, (238, 228, 208))
    canvas.paint([body], kit.deep, volume=Volume.EDGE, strength=0.6)
    canvas.paint([box(0.175, 0.14, 0.825, 0.86)], kit.pale)
    canvas.paint([box(0.195, 0.16, 0.805, 0.84)], kit.cloth, volume=Volume.FADE, strength=0.5)


def watch(canvas: Canvas, kit: Kit) -> None:
    """A wristwatch with a patterned strap."""
    strap = np.array([(0.4, 0.05), (0.6, 0.05), (0.635, 0.5), (0.6, 0.95), (0.4, 0.95), (0.365, 0.5)])
    lie(canvas, [strap, ellipse(0.5, 0.5, 0.24, 0.24)], height=1.0)
    canvas.paint([strap], kit.cloth, volume=Volume.TUBE)
    canvas.paint([box(0.72, 0.475, 0.77, 0.525, radius=0.01)], METAL, volume=Volume.FADE)
    canvas.paint([ellipse(0.5, 0.5, 0.24, 0.24)], METAL, volume=Volume.EDGE, strength=1.4)
    canvas.paint([ellipse(0.5, 0.5, 0.2, 0.2)], kit.main, volume=Volume.DOME, strength=0.5)
    ticks = []
    for hour in range(12):
        way = np.array([np.cos(hour * np.pi / 6), np.sin(hour * np.pi / 6)])
        ticks.append(ribbon(np.stack([way * 0.155, way * 0.18]) + 0.5, 0.012))
    canvas.paint(ticks, kit.second)
    for angle, length in zip(kit.rng.uniform(0, 6.28, 2), (0.09, 0.14), strict=True):
        canvas.paint(
            [ribbon(np.array([(0, 0), (np.cos(angle) * length, np.sin(angle) * length)]) + 0.5, 0.014)], kit.second
        )


GOODS: dict[str, tuple[Callable[[Canvas, Kit], None], View]] = {
    "mug": (mug, View.FRONT),
    "teapot": (teapot, View.FRONT),
    "vase": (vase, View.FRONT),
    "lamp": (lamp, View.FRONT),
    "candle": (candle, View.FRONT),
    "plant pot": (plant_pot, View.FRONT),
    "armchair": (armchair, View.FRONT),
    "cushion": (cushion, View.FLAT),
    "rug": (rug, View.FLAT),
    "clock": (clock, View.FLAT),
    "tote bag": (tote_bag, View.FRONT),
    "backpack": (backpack, View.FRONT),
    "umbrella": (umbrella, View.FRONT),
    "sneaker": (sneaker, View.FRONT),
    "cap": (cap, View.FRONT),
    "t-shirt": (t_shirt, View.FLAT),
    "dress": (dress, View.FLAT),
    "scarf": (scarf, View.FLAT),
    "socks": (socks, View.FLAT),
    "watch": (watch, View.FLAT),
}
"""Type → how to draw it, and from where it is seen."""
