"""The generated set: what it promises about captions, pictures and splits."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finelip.late_detail.captions import (
    CELL_NAMES,
    GENERAL,
    GROUND_NAMES,
    LATE,
    LIGHT_NAMES,
    NUMBERS,
    OBJECT,
    count_tokens,
    first_half,
    generator_vocabulary,
    short_caption,
)
from finelip.late_detail.families import EARLY, MEMBERS, CaptionedScene, draw_family
from finelip.late_detail.rendering import RGB, ground, object_mask, render
from finelip.late_detail.scenes import (
    ALL_LOOKS,
    BACKGROUNDS,
    CELLS,
    COLOURS,
    FILLS,
    HELD_BACK,
    HELD_BACK_LOOKS,
    LIGHTS,
    SHAPES,
    SIZES,
    TRAINING_LOOKS,
    VARIANTS,
    Scene,
    SceneObject,
    altered,
    draw_scene,
)
from finelip.late_detail.source import LateDetail
from finelip.tokenizer import LongTokenizer
from shared.errors import UsageError

SPLITS = ("train", "validation", "test")


def families(split: str, count: int = 60) -> list[list[CaptionedScene]]:
    return [draw_family(73, split, family) for family in range(count)]


def words_of(thing: SceneObject) -> set[str]:
    return {SHAPES[thing.shape], COLOURS[thing.colour], SIZES[thing.size], FILLS[thing.fill]}


# ---------------------------------------------------------------------- captions


@pytest.mark.parametrize("split", SPLITS)
def test_a_reader_of_77_tokens_sees_no_difference_within_a_family(split: str) -> None:
    cut, whole = LongTokenizer(77), LongTokenizer(248)
    for members in families(split):
        captions = [member.caption for member in members]
        ids = cut(captions).ids
        assert (ids == ids[0]).all()
        assert len(set(captions)) == MEMBERS
        read = whole(captions)
        assert not read.truncated.any()
        assert read.lengths.min() > 77 + 10
        # Not even one more token gives it away.
        assert (read.ids[:, : LATE + 1] == read.ids[0, : LATE + 1]).all()


def test_lengths_are_typical_and_never_over_248() -> None:
    lengths = [count_tokens(m.caption) + 2 for members in families("train", 300) for m in members]
    assert np.mean([110 <= n <= 230 for n in lengths]) > 0.9

    def longest(forms: tuple[str, ...], **words: str) -> int:
        return max(count_tokens(form.format(**words)) for form in forms)

    general = sum(
        max(longest(forms, count=n, Count=n, ground=g, light=li) for n in NUMBERS for g in grounds for li in lights)
        for forms, grounds, lights in (
            (GENERAL[0], list(GROUND_NAMES.values()), [""]),
            (GENERAL[1], [""], list(LIGHT_NAMES.values())),
            (GENERAL[2], [""], [""]),
        )
    )
    one = max(
        longest(OBJECT, cell=cell, shape=shape, colour=colour, fill=fill, size="medium")
        for cell in CELL_NAMES
        for shape in ("hexagon", "disc")
        for colour in ("cyan", "red")
        for fill in ("checkered", "plain")
    )
    assert general + 7 * one + 2 <= 248  # whatever is drawn


def test_the_first_half_is_long_enough_even_in_its_shortest_words() -> None:
    scene = Scene(BACKGROUNDS.index("paper"), 0, 0, tuple(SceneObject(0, 0, 0, 0, 4) for _ in range(3)))
    for seed in range(300):
        assert count_tokens(first_half(np.random.default_rng(seed), scene, 4)) >= LATE


def test_every_object_is_told_in_scan_order_with_all_its_attributes() -> None:
    for members in families("train", 40):
        for scene, caption in members:
            told = caption.split(". ")[3:]
            assert len(told) == len(scene.objects)
            for thing, sentence in zip(scene.objects, told, strict=True):
                assert words_of(thing) <= set(sentence.replace(",", "").replace(";", "").replace(".", "").split())
                assert CELL_NAMES[thing.cell] in sentence
            assert NUMBERS[len(scene.objects)] in caption.lower().split(". ")[0]
            assert GROUND_NAMES[BACKGROUNDS[scene.background]] in caption
            assert LIGHT_NAMES[LIGHTS[scene.light]] in caption


@given(st.integers(0, 10_000), st.integers(1, 6))
def test_short_captions_fit_and_name_what_they_shall(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    scene = draw_scene(rng, count)
    named = sorted(rng.permutation(count)[: rng.integers(1, count + 1)].tolist())
    caption = short_caption(rng, scene, named)
    assert 8 <= count_tokens(caption) <= 75
    for index in named:
        assert words_of(scene.objects[index]) <= set(caption.translate(str.maketrans(",;.", "   ")).split())
    # What is not named is not told: as many cells are mentioned as objects.
    assert sum(caption.count(shape) for shape in SHAPES) >= len(named)
    if len(named) < count:
        untold = [scene.objects[i] for i in range(count) if i not in named]
        wanted = {CELL_NAMES[scene.objects[i].cell] for i in named}
        assert all(CELL_NAMES[t.cell] in wanted or f" {CELL_NAMES[t.cell]}" not in caption for t in untold)


def test_the_vocabulary_holds_every_token_of_every_caption() -> None:
    known = set(generator_vocabulary())
    whole = LongTokenizer(248)
    rng = np.random.default_rng(0)
    captions = [member.caption for split in SPLITS for members in families(split) for member in members]
    captions += [short_caption(rng, draw_scene(rng, 1 + i % 6, ALL_LOOKS), range(1 + i % 6)) for i in range(1000)]
    ids, lengths, _ = whole(captions)
    for row, length in zip(ids, lengths, strict=True):
        assert set(row[:length].tolist()) <= known


# ---------------------------------------------------------------------- scenes and splits


def test_held_back_combinations_are_never_trained_and_always_tested() -> None:
    held = set(HELD_BACK_LOOKS.tolist())
    assert len(held) == 24
    assert sum(HELD_BACK) == 24
    # Every shape and every colour is trained in some other combination.
    assert {look // 10 for look in TRAINING_LOOKS} == set(range(12))
    assert {look % 10 for look in TRAINING_LOOKS} == set(range(10))
    for members in families("train", 200):
        assert all(thing.look not in held for scene, _ in members for thing in scene.objects)
    for split in ("validation", "test"):
        for members in families(split):
            assert all(scene.objects[0].look in held and scene.objects[EARLY].look in held for scene, _ in members)


@pytest.mark.parametrize("split", SPLITS)
def test_members_share_the_first_half_of_the_picture_bit_for_bit(split: str) -> None:
    for members in families(split, 30):
        scenes = [member.scene for member in members]
        pictures = [render(scene) for scene in scenes]
        for one, two in combinations(range(MEMBERS), 2):
            assert scenes[one].objects[:EARLY] == scenes[two].objects[:EARLY]
            assert scenes[one][:3] == scenes[two][:3]
            different = np.ones((96, 96), bool)
            for thing in scenes[one].objects[EARLY:] + scenes[two].objects[EARLY:]:
                row, column = divmod(thing.cell, 3)
                different[32 * row : 32 * row + 32, 32 * column : 32 * column + 32] = False
            assert (pictures[one] == pictures[two])[different].all()
            assert (pictures[one] != pictures[two]).any()


def test_scenes_are_well_made() -> None:
    for split in SPLITS:
        for members in families(split):
            for scene, _ in members:
                cells = [thing.cell for thing in scene.objects]
                assert 4 <= len(cells) <= 7
                assert cells == sorted(set(cells))
                assert cells[-1] < CELLS
    counts = {len(members[0].scene.objects) for members in families("train")}
    assert counts == {4, 5, 6, 7}


def test_a_family_depends_on_its_number_alone() -> None:
    small, large = LateDetail(8, 4, 4), LateDetail(40, 20, 20)
    later = LateDetail(40, 20, 20)
    later.picture("test", 19)  # asked in another order
    for split in SPLITS:
        few, many = small.pairs(split), large.pairs(split)
        assert list(few) == list(many[: len(few)])
        assert list(many) == list(later.pairs(split))
        for index in (0, len(few) - 1):
            assert (np.asarray(small.picture(split, index)) == np.asarray(later.picture(split, index))).all()
    other = LateDetail(8, 4, 4, seed=74)
    assert other.pairs("train")[0].caption != small.pairs("train")[0].caption
    captions = [pair.caption for split in SPLITS for pair in large.pairs(split)]
    assert len(set(captions)) == len(captions)


@given(st.integers(0, 10_000), st.integers(1, 7))
def test_a_twin_differs_in_little(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    scene = draw_scene(rng, count)
    twin = altered(rng, scene)
    assert twin != scene
    assert twin[:3] == scene[:3]
    assert len(twin.objects) == count
    assert len({thing.cell for thing in twin.objects}) == count
    assert all(thing.look in TRAINING_LOOKS for thing in twin.objects)
    # One attribute of one object, or of two.
    mine, other = ([sorted(column) for column in zip(*s.objects, strict=True)] for s in (scene, twin))
    changed = [one != two for one, two in zip(mine, other, strict=True)]
    assert sum(changed) <= 1


# ---------------------------------------------------------------------- pictures


def test_shapes_fills_and_sizes_look_different() -> None:
    """Any two masks of one size differ in a good part of what they cover; larger ones cover more."""
    masks = {(s, f): object_mask(s, 1, f, 32)[..., 0] for s in range(12) for f in range(5)}
    for one, two in combinations(masks, 2):
        a, b = masks[one], masks[two]
        assert abs(a - b).sum() > 0.1 * np.maximum(a, b).sum(), (SHAPES[one[0]], FILLS[one[1]], SHAPES[two[0]])
    for shape in range(12):
        areas = [object_mask(shape, size, 0, 32).sum() for size in range(3)]
        assert areas[1] > 1.3 * areas[0]
        assert areas[2] > 1.3 * areas[1]
        assert 0 < object_mask(shape, 2, 0, 32).mean() < 0.9


def test_colours_stand_apart_and_from_every_background() -> None:
    paint = [np.array(rgb, float) for rgb in RGB.values()]
    for one, two in combinations(paint, 2):
        assert abs(one - two).max() > 80
    for background in range(len(BACKGROUNDS)):
        for variant in range(VARIANTS):
            still, _ = ground(background, variant, 0, 96)
            for colour in paint:
                assert abs(still.mean((0, 1)) - colour).max() > 60


@pytest.mark.parametrize("size", [48, 96, 100, 224])
def test_pictures_of_any_size(size: int) -> None:
    scene = draw_scene(np.random.default_rng(2), 7)
    picture = render(scene, size)
    assert picture.shape == (size, size, 3)
    assert picture.dtype == np.uint8
    empty = render(scene._replace(objects=()), size)
    assert (picture != empty).any(2).mean() > 0.05
    again = render(scene, size)
    assert (again == picture).all()


def test_an_object_has_its_colour_in_the_middle_of_its_cell() -> None:
    for colour, rgb in enumerate(RGB.values()):
        scene = Scene(0, 0, LIGHTS.index("even"), (SceneObject(0, colour, 2, 0, 5),))
        assert render(scene)[48, 80].tolist() == list(rgb)


# ---------------------------------------------------------------------- the source


def test_it_is_a_source_of_pairs() -> None:
    source = LateDetail(8, 4, 4, size=64)
    pairs = source.pairs("train")
    assert [pair.image_id for pair in pairs] == list(range(8))
    assert len({pair.name for pair in pairs}) == 8
    assert source.picture("train", 3).size == (64, 64)
    assert source.picture("train", 3).mode == "RGB"
    assert all(pair.short is not None and pair.caption.startswith(pair.short) for pair in pairs)
    assert source.provenance == "synthetic"
    assert list(source.pairs("elsewhere")) == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"pairs": 10}, "data.source.pairs must be a positive multiple of 4, got 10"),
        ({"test_pairs": 0}, "data.source.test_pairs must be a positive multiple of 4, got 0"),
        ({"size": 32}, "data.source.size must be at least 48, got 32"),
        ({"seed": -1}, "data.source.seed must not be negative, got -1"),
    ],
)
def test_bad_options(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        LateDetail(**options)
