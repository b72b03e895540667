"""Game sprites drawn by numpy: shapes as inequalities on a grid of points, coloured and shaded.

Each sprite depends on (seed, split, its number) alone.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genkit.data import Split, Splits
from genkit_sprites import SpritesConfig

Mask = NDArray[np.bool_]
Grid = NDArray[np.float64]
Layers = list[tuple[Mask, Grid]]
Drawer = Callable[[Grid, Grid, np.random.Generator], Layers]

OVERSAMPLING = 2  # points a side in each pixel; their mean is the pixel's value
SKIES = ((18, 20, 38), (28, 40, 36), (44, 28, 44), (36, 36, 44))


def colour(
    random: np.random.Generator, hues: tuple[float, ...], saturation: float, value: float
) -> Grid:
    """RGB in [0, 255], (3,): one of the hues (in turns), all three values jittered."""
    hue = float(random.choice(hues)) + random.normal(0, 0.02)
    saturation = np.clip(saturation + random.normal(0, 0.06), 0, 1)
    value = np.clip(value + random.normal(0, 0.06), 0, 1)
    return 255 * np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value))


def disc(x: Grid, y: Grid, at: tuple[float, float], radii: tuple[float, float]) -> Mask:
    return ((x - at[0]) / radii[0]) ** 2 + ((y - at[1]) / radii[1]) ** 2 < 1


def box(x: Grid, y: Grid, left: float, right: float, top: float, bottom: float) -> Mask:
    return (x > left) & (x < right) & (y > top) & (y < bottom)


def ship(x: Grid, y: Grid, random: np.random.Generator) -> Layers:
    hull = colour(random, (0.55, 0.0, 0.12, 0.78), 0.25, 0.85)
    wing = colour(random, (0.0, 0.6, 0.1, 0.35), 0.8, 0.8)
    span, length = random.uniform(0.55, 0.8), random.uniform(0.65, 0.85)
    body = (np.abs(x) < 0.24 * (1 - ((y + 0.05) / length) ** 2)) & (np.abs(y) < length)
    wings = (np.abs(x) < span * (y + 0.35)) & (y < 0.45) & (y > -0.2)
    flame = disc(x, y, (0, length - 0.1), (0.11, random.uniform(0.15, 0.28)))
    return [
        (flame, colour(random, (0.08,), 0.9, 1.0)),
        (wings, wing),
        (body, hull),
        (disc(x, y, (0, -0.25), (0.11, 0.2)), colour(random, (0.52,), 0.7, 0.95)),
    ]


def tree(x: Grid, y: Grid, random: np.random.Generator) -> Layers:
    leaves = colour(random, (0.33, 0.28, 0.22, 0.07), 0.7, 0.6)
    trunk = box(x, y, -0.12, 0.12, 0.2, 0.85)
    layers = [(trunk, colour(random, (0.07,), 0.6, 0.45))]
    if random.random() < 0.5:  # a fir in three tiers
        for top, wide in ((0.1, 0.7), (-0.3, 0.55), (-0.65, 0.4)):
            tier = (y > top - 0.2) & (y < top + 0.4) & (np.abs(x) < wide * (y - top + 0.2) / 0.6)
            layers.append((tier, leaves * random.uniform(0.85, 1.1)))
        return layers
    for _ in range(5):
        at = (random.uniform(-0.3, 0.3), random.uniform(-0.45, 0.05))
        layers.append((disc(x, y, at, (0.38, 0.34)), leaves * random.uniform(0.85, 1.15)))
    return layers


def house(x: Grid, y: Grid, random: np.random.Generator) -> Layers:
    half, eaves = random.uniform(0.5, 0.65), random.uniform(-0.15, 0.05)
    roof = (y > -0.8) & (y < eaves) & (np.abs(x) < (half + 0.15) * (y + 0.8) / (eaves + 0.8))
    side = random.choice((-1.0, 1.0))
    chimney = box(side * x, y, 0.22, 0.4, -0.8, eaves - 0.1)
    window = box(side * x, y, 0.1, 0.38, eaves + 0.18, eaves + 0.45)
    return [
        (chimney, colour(random, (0.02,), 0.3, 0.4)),
        (box(x, y, -half, half, eaves, 0.8), colour(random, (0.1, 0.12, 0.58), 0.25, 0.8)),
        (roof, colour(random, (0.0, 0.04, 0.6, 0.35), 0.7, 0.6)),
        (box(side * x, y, -0.38, -0.1, 0.3, 0.8), colour(random, (0.07,), 0.65, 0.4)),
        (window, colour(random, (0.14, 0.53), 0.6, 0.95)),
    ]


def gem(x: Grid, y: Grid, random: np.random.Generator) -> Layers:
    stone = colour(random, (0.0, 0.33, 0.5, 0.6, 0.78, 0.9), 0.8, 0.75)
    wide, girdle = random.uniform(0.6, 0.75), random.uniform(-0.25, -0.1)
    crown = (y > -0.6) & (y <= girdle) & (np.abs(x) < wide * (0.55 + 0.45 * (y + 0.6) / 0.45))
    pavilion = (y > girdle) & (np.abs(x) < wide * (0.75 - y) / (0.75 - girdle))
    return [
        (pavilion, stone * 0.8),
        (pavilion & (np.abs(x) < 0.45 * (0.75 - y) * wide), stone),
        (crown, stone * 1.15),
        (crown & (np.abs(x) < 0.4 * wide), np.minimum(stone * 1.3 + 50, 255)),
    ]


def potion(x: Grid, y: Grid, random: np.random.Generator) -> Layers:
    glass = colour(random, (0.52,), 0.15, 0.8)
    radius, level = random.uniform(0.48, 0.6), random.uniform(-0.05, 0.25)
    belly = disc(x, y, (0, 0.25), (radius, radius))
    neck = box(x, y, -0.17, 0.17, -0.6, 0)
    inside = disc(x, y, (0, 0.25), (radius - 0.1, radius - 0.1)) & (y > level)
    layers = [
        (neck | belly, glass),
        (inside, colour(random, (0.0, 0.3, 0.6, 0.8, 0.13), 0.85, 0.8)),
        (box(x, y, -0.22, 0.22, -0.85, -0.55), colour(random, (0.08,), 0.55, 0.6)),
    ]
    shine = disc(x, y, (-0.45 * radius, 0.1), (0.08, 0.16))
    return [*layers, (shine, np.full(3, 245.0))]


def skull(x: Grid, y: Grid, random: np.random.Generator) -> Layers:
    bone = colour(random, (0.12, 0.1, 0.55), 0.12, 0.9)
    dark = colour(random, (0.0, 0.75), 0.4, 0.15)
    glow = dark if random.random() < 0.6 else colour(random, (0.0, 0.33, 0.55), 0.9, 0.9)
    jaw, gap = random.uniform(0.5, 0.75), random.uniform(0.24, 0.32)
    eyes = disc(np.abs(x), y, (gap, -0.1), (0.18, random.uniform(0.16, 0.24)))
    teeth = (np.abs(x) < 0.3) & (np.abs(np.mod(x + 0.06, 0.2) - 0.06) < 0.035)
    return [
        (disc(x, y, (0, -0.15), (0.68, 0.62)) | box(x, y, -0.38, 0.38, 0.2, jaw), bone),
        (eyes, glow),
        ((np.abs(x) < 0.5 * (y - 0.08)) & (y < 0.28), dark),
        (teeth & (y > jaw - 0.22) & (y < jaw), dark),
    ]


def sword(x: Grid, y: Grid, random: np.random.Generator) -> Layers:
    angle = random.choice((-1.0, 1.0)) * random.uniform(0.5, 0.9)
    across = np.cos(angle) * x + np.sin(angle) * y
    along = np.cos(angle) * y - np.sin(angle) * x
    wide, guard = random.uniform(0.12, 0.2), random.uniform(0.3, 0.42)
    steel = colour(random, (0.58, 0.1, 0.5), 0.15, 0.85)
    blade = (along > -1.05) & (along < 0.4) & (np.abs(across) < np.minimum(wide, along + 1.05))
    hilt = colour(random, (0.12, 0.0, 0.6), 0.75, 0.75)
    return [
        (blade, steel),
        (blade & (across > 0), steel * 0.7),
        (box(across, along, -0.09, 0.09, 0.4, 0.85), colour(random, (0.07,), 0.6, 0.4)),
        (box(across, along, -guard, guard, 0.36, 0.5), hilt),
        (disc(across, along, (0, 0.88), (0.13, 0.13)), hilt),
    ]


def heart(x: Grid, y: Grid, random: np.random.Generator) -> Layers:
    red = colour(random, (0.97, 0.0, 0.88, 0.08), 0.8, 0.85)
    wide = random.uniform(0.85, 1.0)
    tip = random.uniform(0.65, 0.8)

    def inside(x: Grid, y: Grid) -> Mask:
        halves = disc(np.abs(x), y, (0.33 * wide, -0.25), (0.4 * wide, 0.42))
        return halves | ((y > -0.2) & (np.abs(x) < 0.74 * wide * (tip - y) / (tip + 0.2)))

    return [
        (inside(x, y), red * 0.7),
        (inside(1.2 * x + 0.06, 1.2 * y), red),
        (disc(x, y, (-0.36, -0.32), (0.13, 0.1)), np.minimum(red + 110, 255)),
    ]


DRAWERS: dict[str, Drawer] = {
    drawer.__name__: drawer for drawer in (ship, tree, house, gem, potion, skull, sword, heart)
}


def sprite(drawer: Drawer, size: int, random: np.random.Generator) -> NDArray[np.uint8]:
    """One sprite, (3, size, size): shifted, scaled, lit from the top left and outlined."""
    points = (np.arange(size * OVERSAMPLING) + 0.5) / (size * OVERSAMPLING) * 2 - 1
    scale = random.uniform(0.9, 1.08)
    x = (points[None, :] - random.uniform(-0.08, 0.08)) * scale
    y = (points[:, None] - random.uniform(-0.08, 0.08)) * scale
    x, y = np.broadcast_arrays(x, y)
    light = 1 - 0.14 * (x + y)
    canvas = np.empty((*x.shape, 3))
    canvas[:] = np.array(SKIES[random.integers(len(SKIES))]) + random.normal(0, 3, 3)
    layers = drawer(x, y, random)
    around = np.logical_or.reduce([mask for mask, _ in layers])
    for _ in range(OVERSAMPLING):  # an outline of one pixel
        padded = np.pad(around, 1)
        around = (
            around | padded[2:, 1:-1] | padded[:-2, 1:-1] | padded[1:-1, 2:] | padded[1:-1, :-2]
        )
    canvas[around] = (8, 8, 14)
    for mask, tint in layers:
        canvas[mask] = tint * light[mask, None]
    pixels: Grid = canvas.reshape(size, OVERSAMPLING, size, OVERSAMPLING, 3).mean((1, 3))
    levels: NDArray[np.uint8] = pixels.clip(0, 255).round().astype(np.uint8)  # (size, size, 3)
    return levels.transpose(2, 0, 1)


def draw_split(count: int, size: int, seed: int, split: int) -> Split:
    """So many sprites, (count, 3, size, size), each kind in its turn."""
    labels = np.arange(count) % len(DRAWERS)
    drawers = list(DRAWERS.values())
    images = np.stack(
        [
            sprite(drawers[label], size, np.random.default_rng((seed, split, number)))
            for number, label in enumerate(labels)
        ]
    )
    return Split(images, labels.astype(np.int64))


def load(config: SpritesConfig, source: str | None, root: Path) -> Splits:
    """Sprites of 8 kinds, as many of each, the same for the same options; neither of the other
    arguments is used."""
    train, test = (
        draw_split(count, config.size, config.drawing_seed, split)
        for split, count in enumerate((config.train_images, config.test_images))
    )
    return Splits(train, test, tuple(DRAWERS))
