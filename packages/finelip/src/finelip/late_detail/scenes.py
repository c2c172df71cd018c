"""What a generated scene is made of, and how one is drawn: plain data, no pixels and no words in order."""

from typing import NamedTuple

import numpy as np

BACKGROUNDS = ("paper", "fade", "glow", "waves", "grid", "sand", "clouds", "bricks")
SHAPES = (
    *("disc", "ring", "square", "triangle", "star", "cross"),
    *("crescent", "arrow", "heart", "hexagon", "bar", "spiral"),
)
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "white", "black")
SIZES = ("small", "medium", "large")
FILLS = ("plain", "striped", "dotted", "checkered", "outlined")
LIGHTS = ("even", "dim", "left", "right")
CELLS = 9
"""Places of the 3 x 3 grid, row by row."""

VARIANTS = 4
"""Textures of one background that differ in phase or noise."""

HELD_BACK = tuple((3 * shape + colour) % 5 == 0 for shape in range(12) for colour in range(10))
"""Whether a pair of shape and colour (``10 * shape + colour``) is kept from training: 24 of 120."""

TRAINING_LOOKS = np.flatnonzero(np.logical_not(HELD_BACK))
HELD_BACK_LOOKS = np.flatnonzero(HELD_BACK)
ALL_LOOKS = np.arange(len(HELD_BACK))


class SceneObject(NamedTuple):
    """One object; every field is an index into the tuple of that name, ``cell`` one of the nine places."""

    shape: int
    colour: int
    size: int
    fill: int
    cell: int

    @property
    def look(self) -> int:
        """Shape and colour in one number, see :data:`HELD_BACK`."""
        return len(COLOURS) * self.shape + self.colour


class Scene(NamedTuple):
    """A background under some light with objects in scan order: row by row, from left to right."""

    background: int
    variant: int
    light: int
    objects: tuple[SceneObject, ...]


def draw_cells(rng: np.random.Generator, count: int, cells: int = CELLS, first: int = 0) -> list[int]:
    """So many different places from ``first`` to ``cells - 1``, in scan order."""
    return sorted((first + rng.permutation(cells - first)[:count]).tolist())


def draw_object(rng: np.random.Generator, cell: int, looks: np.ndarray) -> SceneObject:
    """An object in a place, its shape and colour one of the ``looks``."""
    shape, colour = divmod(int(looks[rng.integers(len(looks))]), len(COLOURS))
    size, fill = rng.integers((len(SIZES), len(FILLS))).tolist()
    return SceneObject(shape, colour, size, fill, cell)


def draw_setting(rng: np.random.Generator) -> tuple[int, int, int]:
    """Background, variant and light."""
    background, variant, light = rng.integers((len(BACKGROUNDS), VARIANTS, len(LIGHTS))).tolist()
    return background, variant, light


def draw_scene(rng: np.random.Generator, count: int, looks: np.ndarray = TRAINING_LOOKS) -> Scene:
    """A scene of ``count`` objects.

    Example:
        >>> scene = draw_scene(np.random.default_rng(0), 3)
        >>> len(scene.objects), len({thing.cell for thing in scene.objects})
        (3, 3)
    """
    setting = draw_setting(rng)
    return Scene(*setting, tuple(draw_object(rng, cell, looks) for cell in draw_cells(rng, count)))


def altered(rng: np.random.Generator, scene: Scene, looks: np.ndarray = TRAINING_LOOKS) -> Scene:
    """The scene with one attribute of one object drawn anew, or with one attribute exchanged between two objects.

    Such a twin has nearly the same words. Shapes and colours stay within ``looks``; where an exchange would leave them
    or change nothing, another change is drawn.
    """
    objects = list(scene.objects)
    while True:
        changed = list(objects)
        one = int(rng.integers(len(objects)))
        field = ("shape", "colour", "size", "fill", "cell")[rng.integers(5)]
        if len(objects) > 1 and field != "cell" and rng.random() < 0.5:
            other = (one + int(rng.integers(1, len(objects)))) % len(objects)
            for a, b in ((one, other), (other, one)):
                changed[a] = objects[a]._replace(**{field: getattr(objects[b], field)})
        elif field == "cell":
            changed[one] = objects[one]._replace(cell=int(rng.integers(CELLS)))
        else:
            fresh = draw_object(rng, 0, looks)
            changed[one] = objects[one]._replace(**{field: getattr(fresh, field)})
        changed.sort(key=lambda thing: thing.cell)
        apart = len({thing.cell for thing in changed}) == len(changed)
        if apart and changed != objects and all(thing.look in looks for thing in changed):
            return scene._replace(objects=tuple(changed))
