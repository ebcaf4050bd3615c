"""Dishes, drinks and sweets: one function per type.

The item's colour is that of the food; its pattern is on the plate, bowl, paper or icing.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from triptych.data.drawing.canvas import Canvas, Colour, Volume, arc, box, ellipse, lathe, ribbon, smooth, wobbly
from triptych.data.drawing.kit import FLOOR, Kit, View, bowl, lie, plate, scatter, stand
from triptych.data.drawing.textures import CREAM, mix, tone

LEAF: Colour = (92, 148, 66)
CRUST: Colour = (214, 158, 88)
WHITE: Colour = (252, 250, 244)


def soup(canvas: Canvas, kit: Kit) -> None:
    """A creamy soup in a bowl, with a swirl of cream and herbs."""
    bowl(canvas, kit, kit.main)
    turn = kit.rng.uniform(0, 6.28)
    angle = np.linspace(0, 4.6 * np.pi, 90)
    spiral = np.stack([np.cos(angle + turn), np.sin(angle + turn)], 1) * (0.03 + 0.0125 * angle)[:, None] + 0.5
    canvas.paint([ribbon(spiral, 0.021)], tone(kit.main, 1.9, saturation=0.7), opacity=0.85)
    leaves = [
        ellipse(x, y, 0.026, 0.012, turn=kit.rng.uniform(0, 3)) for x, y in scatter(kit.rng, 6, radius=0.16, gap=0.05)
    ]
    canvas.paint(leaves, LEAF, volume=Volume.FADE)


def ramen(canvas: Canvas, kit: Kit) -> None:
    """A noodle bowl: broth, noodles, half an egg, greens, seaweed."""
    bowl(canvas, kit, kit.main)
    for layer in range(3):
        strands = []
        for _ in range(7):
            x = np.linspace(0.29, 0.66, 24)
            y = 0.5 + kit.rng.uniform(-0.15, 0.19) + 0.022 * np.sin(x * kit.rng.uniform(24, 40) + kit.rng.uniform(0, 6))
            keep = np.hypot(x - 0.48, y - 0.5) < 0.25
            if keep.sum() > 4:
                strands.append(ribbon(np.stack([x, y], 1)[keep], 0.017))
        if strands:
            canvas.paint(strands, tone((240, 206, 128), 0.84 + 0.11 * layer), volume=Volume.FADE, strength=0.7)
    canvas.paint([box(0.57, 0.25, 0.74, 0.42, radius=0.01)], (40, 58, 48), volume=Volume.FADE)
    canvas.paint([ellipse(0.41, 0.38, 0.088, 0.072, turn=0.4)], WHITE, volume=Volume.DOME, strength=0.6)
    canvas.paint([ellipse(0.412, 0.382, 0.045, 0.04, turn=0.4)], (246, 164, 48), volume=Volume.DOME)
    canvas.paint([ellipse(0.62, 0.6, 0.085, 0.062, turn=-0.5)], (202, 132, 104), volume=Volume.EDGE)
    canvas.paint([ellipse(0.62, 0.6, 0.055, 0.03, turn=-0.5)], (226, 172, 146))
    rings = scatter(kit.rng, 12, radius=0.11, centre=(0.44, 0.62), gap=0.03)
    canvas.paint(
        [ellipse(x, y, 0.016, 0.016) for x, y in rings], LEAF, holes=[ellipse(x, y, 0.008, 0.008) for x, y in rings]
    )


def pizza(canvas: Canvas, kit: Kit) -> None:
    """A pizza on its plate: sauce and toppings of the item's colour."""
    plate(canvas, kit, radius=0.455, well=0.375)
    canvas.paint([wobbly(0.5, 0.5, 0.355, rng=kit.rng, amount=0.02)], CRUST, volume=Volume.EDGE, strength=1.3)
    canvas.paint([wobbly(0.5, 0.5, 0.305, rng=kit.rng, amount=0.03)], kit.main, volume=Volume.FADE, strength=0.5)
    blobs = scatter(kit.rng, 9, radius=0.24, gap=0.11)
    canvas.paint(
        [wobbly(x, y, kit.rng.uniform(0.03, 0.055), rng=kit.rng, amount=0.2) for x, y in blobs], (250, 228, 166)
    )
    for x, y in scatter(kit.rng, 8, radius=0.23, gap=0.12):
        canvas.paint([ellipse(x, y, 0.046, 0.046)], kit.deep, volume=Volume.EDGE)
    canvas.paint(
        [ellipse(x, y, 0.028, 0.014, turn=kit.rng.uniform(0, 3)) for x, y in scatter(kit.rng, 7, radius=0.25, gap=0.1)],
        LEAF,
        volume=Volume.FADE,
    )
    for cut in np.arange(3) * np.pi / 3 + kit.rng.uniform(0, 1):
        end = np.array([np.cos(cut), np.sin(cut)]) * 0.35
        canvas.paint([ribbon(np.stack([0.5 - end, 0.5 + end]), 0.006)], (120, 78, 44), opacity=0.55)


def salad(canvas: Canvas, kit: Kit) -> None:
    """A leafy salad; slices of the item's colour lie on the leaves."""
    bowl(canvas, kit, (96, 138, 62))
    for index, (x, y) in enumerate(scatter(kit.rng, 16, radius=0.25, gap=0.07)):
        green = tone((120, 172, 74), 0.75 + 0.12 * (index % 4))
        canvas.paint([wobbly(x, y, 0.078, rng=kit.rng, amount=0.28)], green, volume=Volume.EDGE)
    for x, y in scatter(kit.rng, 8, radius=0.21, gap=0.115):
        canvas.paint([ellipse(x, y, 0.056, 0.052)], kit.main, volume=Volume.EDGE)
        canvas.paint([ellipse(x, y, 0.037, 0.034)], kit.pale, volume=Volume.FADE, strength=0.5)
    canvas.paint([ellipse(x, y, 0.009, 0.009) for x, y in scatter(kit.rng, 14, radius=0.24, gap=0.06)], (250, 244, 224))


def curry(canvas: Canvas, kit: Kit) -> None:
    """Rice on one half of a plate, curry of the item's colour on the other."""
    plate(canvas, kit, radius=0.455, well=0.335)
    sauce = smooth([(0.5, 0.2), (0.68, 0.25), (0.79, 0.42), (0.77, 0.62), (0.62, 0.78), (0.46, 0.79), (0.44, 0.5)])
    canvas.paint([sauce], kit.main, volume=Volume.EDGE, strength=1.2)
    rice = smooth([(0.48, 0.22), (0.53, 0.38), (0.5, 0.55), (0.52, 0.72), (0.4, 0.77), (0.25, 0.62), (0.24, 0.4)])
    canvas.paint([rice], WHITE, volume=Volume.EDGE, strength=1.1)
    grains = [
        ellipse(x, y, 0.013, 0.006, turn=kit.rng.uniform(0, 3))
        for x, y in scatter(kit.rng, 34, radius=0.15, centre=(0.38, 0.5))
    ]
    canvas.paint(grains, (228, 222, 208))
    for x, y in scatter(kit.rng, 7, radius=0.13, centre=(0.64, 0.5), gap=0.08):
        canvas.paint([wobbly(x, y, 0.037, rng=kit.rng, amount=0.2)], kit.deep, volume=Volume.DOME)
    canvas.paint([ellipse(0.5 + d, 0.36 - d, 0.03, 0.014, turn=d * 30) for d in (-0.02, 0.02)], LEAF)


def sushi(canvas: Canvas, kit: Kit) -> None:
    """Rolls and nigiri on a rectangular plate; the fish has the item's colour."""
    tray = box(0.08, 0.2, 0.92, 0.8, radius=0.05)
    lie(canvas, [tray])
    canvas.paint([tray], kit.ware, volume=Volume.EDGE, strength=0.5)
    canvas.paint([box(0.13, 0.25, 0.87, 0.75, radius=0.03)], (248, 245, 238), volume=Volume.FADE, strength=0.4)
    for x in (0.24, 0.41, 0.58, 0.75):
        y = 0.39 + kit.rng.uniform(-0.01, 0.01)
        lie(canvas, [ellipse(x, y, 0.075, 0.075)], height=0.5)
        canvas.paint([ellipse(x, y, 0.078, 0.078)], (38, 52, 46), volume=Volume.EDGE)
        canvas.paint([ellipse(x, y, 0.063, 0.063)], WHITE, volume=Volume.DOME, strength=0.3)
        canvas.paint([wobbly(x, y, 0.036, rng=kit.rng, amount=0.15)], kit.main, volume=Volume.DOME)
    for x in (0.27, 0.5, 0.73):
        body = box(x - 0.088, 0.545, x + 0.088, 0.715, radius=0.05)
        lie(canvas, [body], height=0.5)
        canvas.paint([body], WHITE, volume=Volume.EDGE)
        canvas.paint([box(x - 0.094, 0.565, x + 0.094, 0.69, radius=0.055)], kit.main, volume=Volume.EDGE, strength=1.3)
        lines = [ribbon(np.array([(x + d - 0.02, 0.575), (x + d + 0.015, 0.68)]), 0.009) for d in (-0.05, 0.0, 0.05)]
        canvas.paint(lines, kit.pale, opacity=0.7)


def dumplings(canvas: Canvas, kit: Kit) -> None:
    """Six folded dumplings round a small dish of sauce."""
    plate(canvas, kit, radius=0.45, well=0.325)
    for step in range(6):
        angle = step * np.pi / 3 + 0.3
        x, y = 0.5 + 0.205 * np.cos(angle), 0.5 + 0.205 * np.sin(angle)
        turn = angle + np.pi / 2
        body = ellipse(x, y, 0.1, 0.066, turn=turn)
        lie(canvas, [body], height=0.4)
        canvas.paint([body], kit.main, volume=Volume.DOME)
        folds = []
        for fold in (-0.06, -0.03, 0.0, 0.03, 0.06):
            foot = np.array([x + fold * np.cos(turn), y + fold * np.sin(turn)])
            folds.append(ribbon(np.stack([foot, foot + 0.045 * np.array([np.cos(angle), np.sin(angle)])]), 0.007))
        canvas.paint(folds, kit.deep, opacity=0.6)
    canvas.paint([ellipse(0.5, 0.5, 0.095, 0.095)], CREAM, volume=Volume.EDGE)
    canvas.paint([ellipse(0.5, 0.502, 0.073, 0.073)], (74, 38, 26), volume=Volume.DOME)


def pie(canvas: Canvas, kit: Kit) -> None:
    """A lattice pie; the filling has the item's colour, the dish its pattern."""
    plate(canvas, kit, radius=0.455, well=0.37)
    canvas.paint([wobbly(0.5, 0.5, 0.36, rng=kit.rng, amount=0.008)], CRUST, volume=Volume.EDGE, strength=1.2)
    canvas.paint([ellipse(0.5, 0.5, 0.295, 0.295)], kit.main, volume=Volume.DOME, strength=0.7)
    for direction in (0.0, np.pi / 2):
        strips = []
        for offset in (-0.2, -0.1, 0.0, 0.1, 0.2):
            reach = np.sqrt(0.3**2 - offset**2)
            line = np.array([(-reach, offset), (reach, offset)])
            cos, sin = np.cos(direction + 0.4), np.sin(direction + 0.4)
            strips.append(ribbon(line @ np.array([[cos, sin], [-sin, cos]]) + 0.5, 0.038))
        canvas.paint(strips, tone(CRUST, 1.15), volume=Volume.FADE)
    crimps = [ellipse(0.5 + 0.328 * np.cos(a), 0.5 + 0.328 * np.sin(a), 0.032, 0.03) for a in np.arange(34) * 0.1848]
    canvas.paint(crimps, tone(CRUST, 1.1), volume=Volume.FADE)


def donut(canvas: Canvas, kit: Kit) -> None:
    """A ring with patterned icing and a few sprinkles."""
    ring = ellipse(0.5, 0.5, 0.37, 0.37)
    lie(canvas, [ring], height=1.4)
    hole = ellipse(0.5, 0.5, 0.115, 0.115)
    canvas.paint([ring], (206, 146, 84), volume=Volume.EDGE, strength=1.4, holes=[hole])
    icing = wobbly(0.497, 0.492, 0.325, rng=kit.rng, amount=0.05)
    inner = wobbly(0.5, 0.495, 0.142, rng=kit.rng, amount=0.08)
    canvas.paint([icing], kit.cloth, volume=Volume.EDGE, strength=1.5, holes=[inner])
    gloss = [ribbon(arc(0.5, 0.5, 0.25, 0.25, start, start + 0.5), 0.022) for start in (3.5, 4.2)]
    canvas.paint(gloss, WHITE, opacity=0.5)


def cookies(canvas: Canvas, kit: Kit) -> None:
    """Five iced biscuits on a plate."""
    plate(canvas, kit, radius=0.455, well=0.34)
    for x, y in ((0.39, 0.38), (0.62, 0.38), (0.33, 0.6), (0.55, 0.62), (0.7, 0.58)):
        x, y = x + kit.rng.uniform(-0.015, 0.015), y + kit.rng.uniform(-0.015, 0.015)
        body = wobbly(x, y, 0.118, rng=kit.rng, amount=0.03)
        lie(canvas, [body], height=0.5)
        canvas.paint([body], (218, 166, 102), volume=Volume.EDGE)
        canvas.paint([wobbly(x, y, 0.094, rng=kit.rng, amount=0.04)], kit.main, volume=Volume.EDGE, strength=1.2)
        chips = scatter(kit.rng, 5, radius=0.065, centre=(x, y), gap=0.03)
        canvas.paint([ellipse(a, b, 0.013, 0.012) for a, b in chips], tone(kit.deep, 0.8))


def burger(canvas: Canvas, kit: Kit) -> None:
    """A burger in patterned paper; the bun has the item's colour."""
    stand(canvas, width=0.56)
    canvas.paint([box(0.235, 0.555, 0.765, 0.63, radius=0.035)], (98, 58, 38), volume=Volume.FADE, strength=1.3)
    leaf = [(0.21, 0.555), (0.3, 0.585), (0.38, 0.555), (0.47, 0.595), (0.56, 0.555), (0.65, 0.592), (0.79, 0.55)]
    canvas.paint([smooth([*leaf, (0.75, 0.53), (0.25, 0.53)])], (122, 178, 70), volume=Volume.FADE)
    canvas.paint([np.array([(0.25, 0.525), (0.75, 0.525), (0.6, 0.54), (0.52, 0.6), (0.42, 0.54)])], (250, 196, 62))
    canvas.paint([box(0.245, 0.495, 0.755, 0.532, radius=0.018)], (206, 60, 48), volume=Volume.FADE)
    bun = smooth([(0.5, 0.235), (0.66, 0.275), (0.77, 0.39), (0.775, 0.49), (0.5, 0.512), (0.225, 0.49), (0.23, 0.39)])
    canvas.paint([bun], kit.main, volume=Volume.DOME, strength=1.1)
    seeds = [ellipse(x, y, 0.013, 0.009, turn=0.5) for x, y in scatter(kit.rng, 12, radius=0.15, centre=(0.5, 0.355))]
    canvas.paint([s for s in seeds if s[:, 1].max() < 0.45], (252, 240, 208))
    paper = np.array([(0.2, 0.6), (0.33, 0.64), (0.5, 0.605), (0.67, 0.64), (0.8, 0.6), (0.74, FLOOR), (0.26, FLOOR)])
    canvas.paint([paper], kit.ware, volume=Volume.TUBE, strength=0.8)


def taco(canvas: Canvas, kit: Kit) -> None:
    """Two tacos in a patterned paper holder; the shells have the item's colour."""
    stand(canvas, width=0.66)
    for x, shade in ((0.57, 0.86), (0.44, 1.0)):
        angles = np.linspace(1.14 * np.pi, 1.86 * np.pi, 15) + kit.rng.normal(0, 0.02, 15)
        for index, angle in enumerate(angles):
            tint = ((122, 178, 70), (206, 60, 48), (250, 204, 80), (122, 76, 48))[(index * 7) % 4]
            centre = (x + 0.285 * np.cos(angle), 0.74 + 0.3 * np.sin(angle) + kit.rng.uniform(-0.018, 0.012))
            canvas.paint([wobbly(*centre, 0.04, rng=kit.rng, amount=0.2)], tint, volume=Volume.FADE)
        shell = np.concatenate([arc(x, 0.74, 0.29, 0.3, np.pi, 2 * np.pi), [(x + 0.29, 0.76), (x - 0.29, 0.76)]])
        canvas.paint([shell], tone(kit.main, shade), volume=Volume.EDGE, strength=1.3)
        spots = scatter(kit.rng, 8, radius=0.15, centre=(x, 0.63))
        canvas.paint([ellipse(a, b, 0.014, 0.01) for a, b in spots], tone(kit.deep, 0.9), opacity=0.5)
    canvas.paint([box(0.15, 0.7, 0.86, FLOOR, radius=0.02)], kit.ware, volume=Volume.FADE, strength=0.9)


def cake(canvas: Canvas, kit: Kit) -> None:
    """A two-tier cake with patterned frosting on a stand."""
    stand(canvas, width=0.4)
    canvas.paint([lathe([(0.05, 0.77), (0.045, 0.8), (0.16, FLOOR)])], CREAM, volume=Volume.TUBE)
    canvas.paint([ellipse(0.5, 0.765, 0.37, 0.04)], (236, 230, 220), volume=Volume.FADE)
    for left, top, right, bottom in ((0.22, 0.515, 0.78, 0.755), (0.31, 0.31, 0.69, 0.54)):
        body = np.concatenate([arc(0.5, bottom, (right - left) / 2, 0.03, 0, np.pi), [(left, top), (right, top)]])
        canvas.paint([body], kit.cloth, volume=Volume.TUBE, strength=0.9)
        canvas.paint([ellipse(0.5, top, (right - left) / 2, 0.032)], kit.pale, volume=Volume.FADE, strength=0.6)
        drips = [
            box(x - 0.018, top, x + 0.018, top + kit.rng.uniform(0.05, 0.1), radius=0.018)
            for x in np.linspace(left + 0.02, right - 0.02, round((right - left) * 16))
        ]
        canvas.paint(drips, kit.pale, volume=Volume.FADE, strength=0.5)
    for x in (0.4, 0.5, 0.6):
        canvas.paint([ellipse(x, 0.285, 0.034, 0.034)], (198, 38, 56), volume=Volume.DOME, strength=1.2)


def cupcake(canvas: Canvas, kit: Kit) -> None:
    """A cupcake: frosting of the item's colour in a patterned paper cup."""
    stand(canvas, width=0.36)
    cup = np.array([(0.28, 0.57), (0.72, 0.57), (0.655, FLOOR), (0.345, FLOOR)])
    canvas.paint([cup], kit.ware, volume=Volume.TUBE)
    pleats = [
        ribbon(np.array([(0.5 + d * 1.0, 0.58), (0.5 + d * 0.71, FLOOR)]), 0.006) for d in np.linspace(-0.2, 0.2, 11)
    ]
    canvas.paint(pleats, (120, 100, 90), opacity=0.25)
    for y, half in ((0.545, 0.27), (0.455, 0.215), (0.37, 0.15), (0.3, 0.08)):
        wave = [(0.5 - half, y + 0.02), (0.5 - half * 0.5, y - 0.055), (0.5 + half * 0.5, y - 0.05), (0.5 + half, y)]
        wave += [(0.5 + half * 0.6, y + 0.055), (0.5, y + 0.065), (0.5 - half * 0.6, y + 0.06)]
        canvas.paint([smooth(wave)], kit.main, volume=Volume.EDGE, strength=1.3)
    canvas.paint([ellipse(0.5, 0.245, 0.042, 0.042)], (204, 34, 54), volume=Volume.DOME, strength=1.2)


def macarons(canvas: Canvas, kit: Kit) -> None:
    """Three stacked macarons and one beside them, on a patterned plate."""
    stand(canvas, width=0.64)
    canvas.paint([box(0.13, 0.8, 0.87, FLOOR, radius=0.025)], kit.ware, volume=Volume.FADE)
    for x, y in ((0.4, 0.725), (0.405, 0.56), (0.395, 0.395), (0.7, 0.725)):
        half = 0.165 if x < 0.6 else 0.13
        canvas.paint([box(x - half, y + 0.015, x + half, y + 0.072, radius=0.03)], kit.main, volume=Volume.FADE)
        canvas.paint([box(x - half * 0.94, y - 0.018, x + half * 0.94, y + 0.02, radius=0.015)], WHITE)
        shell = np.concatenate([arc(x, y - 0.012, half, 0.082, np.pi, 2 * np.pi), [(x + half, y), (x - half, y)]])
        canvas.paint([shell], kit.main, volume=Volume.DOME, strength=0.9)


def ice_cream(canvas: Canvas, kit: Kit) -> None:
    """Two scoops in a cone with a patterned paper sleeve."""
    stand(canvas, width=0.14)
    cone = np.array([(0.35, 0.47), (0.65, 0.47), (0.5, FLOOR)])
    canvas.paint([cone], (216, 160, 92), volume=Volume.TUBE)
    sleeve = np.array([(0.372, 0.525), (0.628, 0.525), (0.5, FLOOR)])
    canvas.paint([sleeve], kit.ware, volume=Volume.TUBE, strength=0.8)
    for y, radius, shade in ((0.41, 0.175, 0.94), (0.24, 0.145, 1.0)):
        scoop = wobbly(0.5, y, radius, rng=kit.rng, amount=0.03)
        canvas.paint([scoop], tone(kit.main, shade), volume=Volume.DOME, strength=1.1)
        drip = [
            ellipse(0.5 + d * radius, y + radius * 0.82, radius * 0.27, radius * 0.25) for d in (-0.7, -0.2, 0.3, 0.72)
        ]
        canvas.paint(drip, tone(kit.main, shade * 0.97), volume=Volume.FADE, strength=0.5)
    canvas.paint([ribbon(np.array([(0.58, 0.18), (0.68, 0.05)]), 0.034)], (150, 92, 52), volume=Volume.TUBE)


def bubble_tea(canvas: Canvas, kit: Kit) -> None:
    """A tall cup of tea with pearls, a straw, and a patterned band."""
    stand(canvas, width=0.34)
    canvas.paint([ribbon(np.array([(0.55, 0.3), (0.62, 0.06)]), 0.038)], kit.second, volume=Volume.TUBE)
    cup = np.array([(0.3, 0.27), (0.7, 0.27), (0.655, FLOOR), (0.345, FLOOR)])
    canvas.paint([cup], kit.main, volume=Volume.TUBE, strength=0.9)
    foam = np.array([(0.3, 0.27), (0.7, 0.27), (0.693, 0.35), (0.307, 0.35)])
    canvas.paint([foam], tone(kit.main, 2.2, saturation=0.7), volume=Volume.TUBE, strength=0.6)
    band = np.array([(0.318, 0.44), (0.682, 0.44), (0.665, 0.64), (0.335, 0.64)])
    canvas.paint([band], kit.ware, volume=Volume.TUBE, strength=0.9)
    pearls = [(x, y) for y in (0.7, 0.75, 0.8) for x in np.linspace(0.385, 0.615, 5) + (0.02 if y == 0.75 else 0)]
    canvas.paint([ellipse(x, y, 0.022, 0.022) for x, y in pearls], (50, 32, 28))
    canvas.paint([ellipse(x - 0.006, y - 0.008, 0.005, 0.004) for x, y in pearls], (170, 150, 140))
    canvas.paint([box(0.28, 0.235, 0.72, 0.28, radius=0.02)], (250, 250, 250), volume=Volume.FADE)


def pancakes(canvas: Canvas, kit: Kit) -> None:
    """A stack of pancakes with butter; the syrup has the item's colour."""
    stand(canvas, width=0.72)
    canvas.paint(
        [smooth([(0.08, 0.79), (0.5, 0.78), (0.92, 0.79), (0.7, FLOOR), (0.3, FLOOR)])], kit.ware, volume=Volume.FADE
    )
    for index, y in enumerate(np.linspace(0.755, 0.475, 5)):
        shift = kit.rng.uniform(-0.015, 0.015)
        canvas.paint(
            [box(0.22 + shift, y - 0.035, 0.78 + shift, y + 0.035, radius=0.034)],
            tone((226, 168, 92), 1 - 0.04 * (index % 2)),
            volume=Volume.FADE,
            strength=1.3,
        )
    canvas.paint([ellipse(0.5, 0.445, 0.27, 0.05)], (238, 188, 112), volume=Volume.FADE)
    drips = [ellipse(0.5, 0.442, 0.23, 0.042)]
    for x, length in ((0.3, 0.14), (0.39, 0.26), (0.5, 0.19), (0.6, 0.3), (0.69, 0.16)):
        drips.append(box(x - 0.026, 0.45, x + 0.026, 0.46 + length * kit.rng.uniform(0.8, 1.1), radius=0.026))
    canvas.paint(drips, kit.main, volume=Volume.FADE, strength=0.8)
    canvas.paint([box(0.44, 0.37, 0.57, 0.43, radius=0.014)], (252, 226, 130), volume=Volume.EDGE)


def juice(canvas: Canvas, kit: Kit) -> None:
    """A tumbler of juice on a patterned coaster, with a slice on its rim."""
    stand(canvas, width=0.5)
    canvas.paint([box(0.22, 0.815, 0.78, FLOOR, radius=0.014)], kit.ware, volume=Volume.FADE)
    canvas.paint([ellipse(0.66, 0.3, 0.125, 0.125)], kit.deep, volume=Volume.EDGE)
    canvas.paint([ellipse(0.66, 0.3, 0.103, 0.103)], kit.pale)
    spokes = [
        ribbon(
            np.array(
                [(0.66 - 0.1 * np.cos(a), 0.3 - 0.1 * np.sin(a)), (0.66 + 0.1 * np.cos(a), 0.3 + 0.1 * np.sin(a))]
            ),
            0.008,
        )
        for a in np.arange(4) * np.pi / 4
    ]
    canvas.paint(spokes, WHITE)
    glass = np.array([(0.315, 0.29), (0.685, 0.29), (0.65, 0.815), (0.35, 0.815)])
    canvas.paint([glass], (236, 244, 246), volume=Volume.TUBE, opacity=0.75)
    drink = np.array([(0.33, 0.36), (0.67, 0.36), (0.637, 0.795), (0.363, 0.795)])
    canvas.paint([drink], kit.main, volume=Volume.TUBE)
    canvas.paint([ellipse(0.5, 0.36, 0.17, 0.022)], kit.pale, volume=Volume.FADE)
    for x, y in ((0.43, 0.45), (0.56, 0.5), (0.47, 0.57)):
        canvas.paint(
            [box(x - 0.045, y - 0.045, x + 0.045, y + 0.045, radius=0.012)],
            mix(kit.main, WHITE, 0.6),
            opacity=0.5,
            volume=Volume.EDGE,
        )
    canvas.paint([ribbon(np.array([(0.385, 0.34), (0.4, 0.77)]), 0.02)], WHITE, opacity=0.4)


DISHES: dict[str, tuple[Callable[[Canvas, Kit], None], View]] = {
    "soup": (soup, View.ABOVE),
    "ramen": (ramen, View.ABOVE),
    "pizza": (pizza, View.ABOVE),
    "salad": (salad, View.ABOVE),
    "curry": (curry, View.ABOVE),
    "sushi": (sushi, View.ABOVE),
    "dumplings": (dumplings, View.ABOVE),
    "pie": (pie, View.ABOVE),
    "donut": (donut, View.ABOVE),
    "cookies": (cookies, View.ABOVE),
    "burger": (burger, View.FRONT),
    "taco": (taco, View.FRONT),
    "cake": (cake, View.FRONT),
    "cupcake": (cupcake, View.FRONT),
    "macarons": (macarons, View.FRONT),
    "ice cream": (ice_cream, View.FRONT),
    "bubble tea": (bubble_tea, View.FRONT),
    "pancakes": (pancakes, View.FRONT),
    "juice": (juice, View.FRONT),
}
"""Type → how to draw it, and from where it is seen."""
