"""Pictures of scenes: shapes with soft edges on a textured ground."""

import math
from collections.abc import Callable
from functools import cache

import numpy as np

from finelip.late_detail.scenes import BACKGROUNDS, COLOURS, FILLS, LIGHTS, SHAPES, Scene

RGB = {
    "red": (205, 25, 30),
    "orange": (250, 130, 10),
    "yellow": (250, 230, 40),
    "green": (25, 135, 50),
    "cyan": (60, 215, 225),
    "blue": (25, 50, 215),
    "purple": (115, 30, 165),
    "pink": (255, 140, 190),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
}
GROUNDS = {
    "paper": (150, 150, 150),
    "fade": (140, 150, 165),
    "glow": (150, 140, 130),
    "waves": (125, 150, 165),
    "grid": (150, 160, 140),
    "sand": (170, 155, 130),
    "clouds": (155, 160, 170),
    "bricks": (160, 130, 120),
}
"""Mean colour of each background, muted so that every object stands out."""

RADII = (0.29, 0.38, 0.48)
"""Of small, medium and large objects, as a share of the side of a cell."""

FINE = 6
"""Samples per pixel and axis of the masks, whose mean gives soft edges."""

OFF = 0.15
"""How much of the colour is left in the gaps of a pattern."""

Mask = np.ndarray

# ---------------------------------------------------------------------- shapes on a frame of x, y in [-1, 1]


def _polygon(x: Mask, y: Mask, corners: list[tuple[float, float]]) -> Mask:
    """Inside of a polygon, by the even-odd rule."""
    inside = np.zeros(x.shape, bool)
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        if y0 != y1:
            inside ^= ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) / (y1 - y0) * (x1 - x0))
    return inside


def _corners(count: int, radii: tuple[float, ...] = (1.0,), turn: float = -math.pi / 2) -> list[tuple[float, float]]:
    angles = [turn + 2 * math.pi * i / count for i in range(count)]
    return [(math.cos(a) * radii[i % len(radii)], math.sin(a) * radii[i % len(radii)]) for i, a in enumerate(angles)]


def _heart(x: Mask, y: Mask) -> Mask:
    u, v = 1.2 * x, 0.15 - 1.2 * y
    return (u**2 + v**2 - 0.75) ** 3 < u**2 * v**3 * 1.6


def _spiral(x: Mask, y: Mask) -> Mask:
    """One turn and a third of an arm that is a little wider than the gap beside it."""
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    arm = (radius - angle * 0.76 / (2 * math.pi) + 0.1) % 0.76
    return (radius < 1) & (arm < 0.44)


DRAWN: dict[str, Callable[[Mask, Mask], Mask]] = {
    "disc": lambda x, y: np.hypot(x, y) < 0.95,
    "ring": lambda x, y: (np.hypot(x, y) < 1) & (np.hypot(x, y) > 0.52),
    "square": lambda x, y: np.maximum(abs(x), abs(y)) < 0.85,
    "triangle": lambda x, y: _polygon(x, y, [(0, -0.95), (1, 0.8), (-1, 0.8)]),
    "star": lambda x, y: _polygon(x, y, _corners(10, (1.05, 0.43))),
    "cross": lambda x, y: (np.minimum(abs(x), abs(y)) < 0.32) & (np.maximum(abs(x), abs(y)) < 0.98),
    "crescent": lambda x, y: (np.hypot(x + 0.1, y) < 0.98) & (np.hypot(x - 0.4, y) > 0.78),
    "arrow": lambda x, y: _polygon(
        x, y, [(-1, -0.3), (0.05, -0.3), (0.05, -0.85), (1, 0), (0.05, 0.85), (0.05, 0.3), (-1, 0.3)]
    ),
    "heart": _heart,
    "hexagon": lambda x, y: _polygon(x, y, _corners(6, turn=0.0)),
    "bar": lambda x, y: (abs(x) < 1) & (abs(y) < 0.34),
    "spiral": _spiral,
}


def _eroded(inside: Mask, width: int) -> Mask:
    """What is left of a shape after ``width`` samples are taken off its border all around."""
    padded = np.pad(inside, width)
    left = inside.copy()
    side = len(inside)
    for turn in np.linspace(0, 2 * math.pi, 48, endpoint=False):
        row, column = width + round(width * math.sin(turn)), width + round(width * math.cos(turn))
        left &= padded[row : row + side, column : column + side]
    return left


@cache
def object_mask(shape: int, size: int, fill: int, cell: int) -> Mask:
    """``(cell, cell, 1)`` float32 shares of the object's colour in every pixel of its cell.

    Args:
        shape: Index into :data:`~finelip.late_detail.scenes.SHAPES`.
        size: Index of the size.
        fill: Index of the fill.
        cell: Side of a cell in pixels.
    """
    side = cell * FINE
    axis = (np.arange(side) + 0.5) / side - 0.5
    y, x = np.meshgrid(axis, axis, indexing="ij")
    radius = RADII[size]
    inside = DRAWN[SHAPES[shape]](x / radius, y / radius)
    # The patterns have the same pitch in every size, about a fifth of a cell.
    name = FILLS[fill]
    if name == "striped":
        on = (y / 0.18 + 0.25) % 1 < 0.5
    elif name == "dotted":
        on = np.hypot((x / 0.2 + 0.5) % 1 - 0.5, (y / 0.2 + 0.5) % 1 - 0.5) > 0.32
    elif name == "checkered":
        on = (np.floor(x / 0.13) + np.floor(y / 0.13)) % 2 == 0
    elif name == "outlined":
        on = ~_eroded(inside, round(0.05 * side))
    else:
        on = np.ones_like(inside)
    if name in ("striped", "dotted", "checkered"):
        on |= ~_eroded(inside, round(0.03 * side))  # a rim, so that the shape stays clear
    share = inside * np.where(on, 1.0, 0.0 if name == "outlined" else OFF)
    return share.reshape(cell, FINE, cell, FINE).mean((1, 3), dtype=np.float32)[..., None].astype(np.float32)


def _smooth(noise: Mask, width: int) -> Mask:
    """Running mean over a square, with wrap-around, twice: a smooth field of standard deviation 1."""
    for _ in range(2):
        for axis in (0, 1):
            noise = np.mean([np.roll(noise, shift, axis) for shift in range(width)], axis=0)
    return (noise - noise.mean()) / noise.std()


@cache
def ground(background: int, variant: int, light: int, size: int) -> tuple[Mask, Mask]:
    """Picture of a background, ``(size, size, 3)`` float32 in 0..255, and the light on it, ``(size, size, 1)``."""
    name = BACKGROUNDS[background]
    rng = np.random.default_rng([background, variant])
    y, x = np.meshgrid(*[(np.arange(size) + 0.5) / size] * 2, indexing="ij")
    phase, other = rng.uniform(0, 1, 2)
    if name == "fade":
        tone = 35 * (1 - 2 * y) * (0.8 + 0.4 * phase)
    elif name == "glow":
        tone = 45 - 110 * np.hypot(x - 0.4 - 0.2 * phase, y - 0.4 - 0.2 * other)
    elif name == "waves":
        tone = 18 * np.sin(2 * math.pi * (6 * y + phase + 0.25 * np.sin(2 * math.pi * (2 * x + other))))
    elif name == "grid":
        lines = [((12 * axis + shift) % 1) < 0.2 for axis, shift in ((x, phase), (y, other))]
        tone = 12 - 32.0 * (lines[0] | lines[1])
    elif name == "sand":
        tone = 16 * _smooth(rng.standard_normal((size, size)), max(1, size // 96))
    elif name == "clouds":
        tone = 20 * _smooth(rng.standard_normal((size, size)), max(2, size // 7))
    elif name == "bricks":
        row = np.floor(8 * y + phase)
        joint = ((8 * y + phase) % 1 < 0.16) | ((4 * x + other + 0.5 * (row % 2)) % 1 < 0.08)
        tone = 38.0 * joint - 8
    else:
        tone = np.zeros_like(x)
    picture = np.asarray(GROUNDS[name], np.float32) + tone[..., None]
    shade = {"even": 1 + 0 * x, "dim": 0.75 + 0 * x, "left": 1.1 - 0.35 * x, "right": 0.75 + 0.35 * x}[LIGHTS[light]]
    return picture.astype(np.float32), shade[..., None].astype(np.float32)


_PAINT = np.array([RGB[name] for name in COLOURS], np.float32)


def render(scene: Scene, size: int = 96) -> np.ndarray:
    """The picture of a scene.

    An object changes no pixel outside its cell, so scenes that share setting and some objects share those pixels.

    Args:
        scene: What to paint.
        size: Height and width in pixels.

    Returns:
        ``(size, size, 3)`` uint8.

    Example:
        >>> from finelip.late_detail.scenes import draw_scene
        >>> render(draw_scene(np.random.default_rng(0), 4)).shape
        (96, 96, 3)
    """
    still, shade = ground(scene.background, scene.variant, scene.light, size)
    picture = still.copy()
    cell = size // 3
    margin = (size - 3 * cell) // 2
    for thing in scene.objects:
        row, column = (margin + place * cell for place in divmod(thing.cell, 3))
        part = picture[row : row + cell, column : column + cell]
        part += object_mask(thing.shape, thing.size, thing.fill, cell) * (_PAINT[thing.colour] - part)
    picture *= shade
    return np.clip(picture, 0, 255, out=picture).round().astype(np.uint8)
