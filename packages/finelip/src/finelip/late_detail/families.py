"""Families of four: scenes that share the first half of picture and caption, told apart by what comes late."""

from typing import NamedTuple

import numpy as np

from finelip.late_detail.captions import first_half, second_half
from finelip.late_detail.scenes import (
    ALL_LOOKS,
    HELD_BACK_LOOKS,
    TRAINING_LOOKS,
    Scene,
    SceneObject,
    draw_cells,
    draw_object,
    draw_setting,
)
from shared.federated.seeds import derived_seed

MEMBERS = 4
EARLY = 3
"""Objects that a family shares."""


class CaptionedScene(NamedTuple):
    """A scene and its long caption."""

    scene: Scene
    caption: str


def draw_family(seed: int, split: str, family: int) -> list[CaptionedScene]:
    """Four scenes of 4 to 7 objects with captions; depends on the arguments alone.

    Background, light, number of objects and the first three objects are the same, and so are the sentences about
    them; the later objects differ in shape, colour or place. Pairs of shape and colour that are held back do not
    occur in ``train``; in every other split the first and the fourth object are such a pair, the others any.
    """
    rng = np.random.default_rng(derived_seed(seed, f"late-detail {split}", family))
    rest, first = (TRAINING_LOOKS, TRAINING_LOOKS) if split == "train" else (ALL_LOOKS, HELD_BACK_LOOKS)
    count = EARLY + int(rng.integers(1, 5))
    setting = draw_setting(rng)

    def objects(rng: np.random.Generator, cells: list[int]) -> tuple[SceneObject, ...]:
        return tuple(draw_object(rng, cell, first if i == 0 else rest) for i, cell in enumerate(cells))

    early = objects(rng, draw_cells(rng, count)[:EARLY])
    beginning = first_half(rng, Scene(*setting, early), count)
    members: list[CaptionedScene] = []
    seen: set[tuple[tuple[int, int], ...]] = set()
    while len(members) < MEMBERS:
        late = objects(rng, draw_cells(rng, count - EARLY, first=early[-1].cell + 1))
        key = tuple((thing.look, thing.cell) for thing in late)
        if key in seen:
            continue
        seen.add(key)
        scene = Scene(*setting, early + late)
        members.append(CaptionedScene(scene, f"{beginning} {second_half(rng, scene)}"))
    return members
