"""Words for scenes: long captions that tell scenes apart only late, and short ones that fit into 77 tokens."""

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from finelip.late_detail.scenes import BACKGROUNDS, COLOURS, FILLS, LIGHTS, SHAPES, SIZES, Scene, SceneObject
from finelip.tokenizer import EOS, SOT, vocabulary

LATE = 78
"""Tokens, start and end token not counted, before which a long caption says nothing of the fourth object."""

SHORT = 75
"""Tokens of a short caption at most, start and end token not counted."""

CELL_NAMES = (
    *("top left", "top middle", "top right"),
    *("middle left", "centre", "middle right"),
    *("bottom left", "bottom middle", "bottom right"),
)
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
GROUND_NAMES = {
    "paper": "plain grey paper",
    "fade": "a smooth fade from light at the top to dark at the bottom",
    "glow": "a soft round glow on brown",
    "waves": "bluish waves that run from side to side",
    "grid": "a greenish grid of thin dark lines",
    "sand": "coarse yellowish sand",
    "clouds": "soft grey clouds",
    "bricks": "a reddish wall of bricks",
}
LIGHT_NAMES = {
    "even": "is even all over",
    "dim": "is dim all over",
    "left": "comes from the left",
    "right": "comes from the right",
}

GENERAL = (
    (
        "The picture shows {count} objects on {ground}.",
        "{Count} objects are seen here on {ground}.",
        "In this picture {count} objects lie on {ground}.",
        "This is a scene of {count} objects, and the background is {ground}.",
    ),
    (
        "The light {light}.",
        "The light in it {light}, as far as one can tell.",
        "One sees that the light {light}.",
        "As to the light, one can say that it {light}.",
    ),
    (
        "They lie on a grid of three rows and three columns.",
        "There are three rows and three columns of places, named row by row.",
        "Each has a place of its own in three rows and three columns.",
        "All are placed in three rows and three columns, and they are named row by row from the left.",
    ),
)
"""Three sentences about the whole, each in four forms; the last is the longest."""

OBJECT = (
    "At the {cell} there is a {size} {fill} {shape} of {colour} colour.",
    "The place at the {cell} holds a {size} {shape}, which is {colour} and {fill}.",
    "At the {cell} one finds a {size} {colour} {shape} whose surface is {fill}.",
    "Looking at the {cell}, one can see a {size} {shape}; its colour is {colour}, and it is {fill}.",
)
"""The sentence about one object in four forms; the last is the longest."""

PHRASE = (
    "a {size} {fill} {colour} {shape} at the {cell}",
    "at the {cell} a {size} {colour} {shape}, {fill}",
    "one {fill} {shape} in {colour}, {size}, {cell}",
)
"""The same for short captions."""


@lru_cache(maxsize=1 << 16)
def count_tokens(text: str) -> int:
    """CLIP tokens of a text, start and end token not counted.

    Example:
        >>> count_tokens("a small red disc")
        4
    """
    return len(vocabulary().encode(text))


def _object_words(thing: SceneObject) -> dict[str, str]:
    return {
        "shape": SHAPES[thing.shape],
        "colour": COLOURS[thing.colour],
        "size": SIZES[thing.size],
        "fill": FILLS[thing.fill],
        "cell": CELL_NAMES[thing.cell],
    }


def _scene_words(scene: Scene, count: int) -> dict[str, str]:
    number = NUMBERS[count]
    return {
        "count": number,
        "Count": number.capitalize(),
        "ground": GROUND_NAMES[BACKGROUNDS[scene.background]],
        "light": LIGHT_NAMES[LIGHTS[scene.light]],
    }


def first_half(rng: np.random.Generator, scene: Scene, count: int) -> str:
    """The general sentences and those of the first three objects, in at least :data:`LATE` tokens.

    The forms are drawn; where they come out too short, one sentence after the other takes its longest form.

    Args:
        rng: Of the forms.
        scene: Its first three objects are told.
        count: How many objects the caption says there are.

    Example:
        >>> from finelip.late_detail.scenes import draw_scene
        >>> rng = np.random.default_rng(0)
        >>> count_tokens(first_half(rng, draw_scene(rng, 3), 4)) >= LATE
        True
    """
    words = _scene_words(scene, count)
    forms = [(templates, words) for templates in GENERAL]
    forms += [(OBJECT, _object_words(thing)) for thing in scene.objects[:3]]
    sentences = [templates[rng.integers(len(templates))].format(**told) for templates, told in forms]
    for i, (templates, told) in enumerate(forms):
        if sum(map(count_tokens, sentences)) >= LATE:
            break
        sentences[i] = templates[-1].format(**told)
    return " ".join(sentences)


def second_half(rng: np.random.Generator, scene: Scene) -> str:
    """A sentence for each object from the fourth on."""
    return " ".join(OBJECT[rng.integers(len(OBJECT))].format(**_object_words(thing)) for thing in scene.objects[3:])


def short_caption(rng: np.random.Generator, scene: Scene, mentioned: Sequence[int]) -> str:
    """A caption of at most :data:`SHORT` tokens that names some of the objects, six at most, in the order given.

    Half of the captions speak in the sentences of the long ones, the others in phrases; some tell of the background
    or of the light. What would be too long is told in the first form of the phrases alone.

    Example:
        >>> scene = Scene(5, 0, 0, (SceneObject(0, 0, 2, 1, 0), SceneObject(4, 5, 0, 0, 4)))
        >>> short_caption(np.random.default_rng(0), scene, [0, 1])
        'a large striped red disc at the top left, a small plain blue star at the centre; the light is even all over'
    """
    told = [_object_words(scene.objects[i]) for i in mentioned]
    words = _scene_words(scene, len(scene.objects))
    sentences, general = rng.random(2)
    if sentences < 0.5:
        parts = [OBJECT[rng.integers(len(OBJECT))].format(**each) for each in told]
        if general < 0.4:
            opening = GENERAL[0] if general < 0.2 else GENERAL[1]
            parts.insert(0, opening[rng.integers(len(opening))].format(**words))
        text = " ".join(parts)
    else:
        text = ", ".join(PHRASE[rng.integers(len(PHRASE))].format(**each) for each in told)
        if general < 0.2:
            text += f", on {words['ground']}"
        elif general < 0.3:
            text += f"; the light {words['light']}"
    return ", ".join(PHRASE[0].format(**each) for each in told) if count_tokens(text) > SHORT else text


def generator_vocabulary() -> list[int]:
    """Ids of all tokens that captions of scenes can have, start and end token included, in ascending order."""
    texts = [*(form for forms in (*GENERAL, OBJECT, PHRASE) for form in forms), *SHAPES, *COLOURS, *SIZES, *FILLS]
    texts += [*CELL_NAMES, *NUMBERS, *GROUND_NAMES.values(), *LIGHT_NAMES.values(), "on", "; the light", ", ."]
    words = [word for text in texts for word in re.sub(r"\{\w+\}", " ", text).split()]
    glued = [f"{word}{mark}" for word in (*SHAPES, *COLOURS, *FILLS) for mark in (",", ";", ".")]
    return sorted({SOT, EOS, *(token for word in (*words, *glued) for token in vocabulary().encode(word))})
