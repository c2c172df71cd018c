from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from scipy import ndimage
from torch import Tensor
from torchvision.transforms import v2

from shared.errors import UsageError
from usssl.augmentation import (
    AutoencoderViews,
    ClassifierAugmentation,
    InfomaxCustomViews,
    InfomaxViews,
    InpaintViews,
    SimclrViews,
)
from usssl.augmentation.colour import jittered, solarised
from usssl.augmentation.extras import DepthAttenuation, GammaGain, GaussianShadow, Haze, Speckle, sector_boxes
from usssl.augmentation.normalisation import MEAN, STD, normalised_batch, normalised_picture
from usssl.augmentation.rand_augment import OPERATIONS, apply, rand_augmented, strength
from usssl.augmentation.recipes import ViewRecipe, item_uniforms
from usssl.augmentation.reconstruction import erased_mask
from usssl.augmentation.resizing import resized
from usssl.augmentation.two_views import RATIO


def _smooth(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((count, height, width)), (0, 4, 4))
    return np.clip(128 + 60 * noise / noise.std(), 0, 255).astype(np.uint8)


GREY = _smooth(24, 60, 60)
COLOUR = np.stack([_smooth(24, 60, 60, seed) for seed in range(3)], axis=-1)
RECIPES: list[ViewRecipe] = [SimclrViews(), InfomaxViews(), InfomaxCustomViews(), AutoencoderViews(), InpaintViews()]


def _bytes(images: np.ndarray) -> Tensor:
    return (
        torch.from_numpy(images)[:, None]
        if images.ndim == 3
        else torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    )


def _pictures(images: np.ndarray) -> list[Image.Image]:
    return [Image.fromarray(image).convert("RGB") for image in images]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: type(recipe).__name__)
@pytest.mark.parametrize("images", [GREY, COLOUR], ids=["grey", "colour"])
def test_both_forms_give_normalised_images(recipe: ViewRecipe, images: np.ndarray) -> None:
    size = 60 if recipe.resizes_first else 32
    batch = recipe.batched(size)([_bytes(images)], range(24))
    torch.manual_seed(0)
    single = recipe.pil(size, "stretch")(_pictures(images[:1]))
    assert len(batch) == len(single) == (1 if type(recipe) is AutoencoderViews else 2)
    for ours, theirs in zip(batch, single, strict=True):
        assert ours.shape == (24, 3, size, size)
        assert theirs.shape == (3, size, size)
        assert ours.dtype == theirs.dtype == torch.float32
        assert ours.is_contiguous()


def _statistics(views: Sequence[Tensor]) -> np.ndarray:
    """Means over many images of what each step changes: level, contrast, sharpness, share of extremes."""
    grey = torch.stack(list(views)).mean(1) * np.mean(STD) + np.mean(MEAN)
    level, spread = grey.mean((1, 2)), grey.std((1, 2))
    sharp = (grey[:, 1:] - grey[:, :-1]).abs().mean((1, 2))
    middle = grey[:, 12:20, 12:20].std((1, 2))
    return torch.stack([level, level**2, spread, sharp, middle], 1).numpy()


@pytest.mark.parametrize("recipe", [SimclrViews(), InfomaxViews(), AutoencoderViews()], ids=lambda r: type(r).__name__)
@pytest.mark.parametrize("images", [GREY, COLOUR], ids=["grey", "colour"])
def test_both_forms_have_the_same_distribution(recipe: ViewRecipe, images: np.ndarray) -> None:
    size, repeats = (60 if recipe.resizes_first else 32), 12
    torch.manual_seed(1)
    pil, batched = recipe.pil(size, "stretch"), recipe.batched(size)
    for view in range(1 if recipe.resizes_first else 2):
        theirs = _statistics([pil([p])[view] for _ in range(repeats) for p in _pictures(images)])
        ours = _statistics(
            [x for r in range(repeats) for x in batched([_bytes(images)], range(24 * r, 24 * r + 24))[view]]
        )
        error = np.sqrt((theirs.var(0) + ours.var(0)) / len(ours))
        assert (np.abs(ours.mean(0) - theirs.mean(0)) < 4.5 * error + 2e-3).all()


@pytest.mark.parametrize("recipe", RECIPES[:4], ids=lambda recipe: type(recipe).__name__)
def test_an_item_depends_on_its_seed_alone(recipe: ViewRecipe) -> None:
    size = 60 if recipe.resizes_first else 32
    views = recipe.batched(size)
    whole = views([_bytes(GREY)], list(range(24)))
    order = [17, 3, 9]
    part = views([_bytes(GREY[order])], order)
    for all_of_them, some in zip(whole, part, strict=True):
        assert torch.allclose(all_of_them[order], some, atol=1e-5)


def test_two_frames_make_two_views() -> None:
    views = InfomaxViews(flip=0.0).batched(32)
    first, second = views([_bytes(GREY), _bytes(np.zeros_like(GREY))], range(24))
    black = normalised_batch(torch.zeros(1, 1, 1, 1))
    dark_or_solarised = ((second - black).abs().amax((1, 2, 3)) < 1e-5) | (
        second.amin((1, 2, 3)) == second.amax((1, 2, 3))
    )
    assert dark_or_solarised.all()
    assert first.std() > 0.1


def test_colour_jitter_is_pillows_in_any_order() -> None:
    pixels = COLOUR[0]
    factors, hue = (1.4, 0.6, 1.7), 0.1
    steps = [
        lambda p: ImageEnhance.Brightness(p).enhance(factors[0]),
        lambda p: ImageEnhance.Contrast(p).enhance(factors[1]),
        lambda p: ImageEnhance.Color(p).enhance(factors[2]),
        lambda p: v2.functional.adjust_hue(p, hue),
    ]
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]):
        picture = Image.fromarray(pixels)
        for step in order:
            picture = steps[step](picture)
        ours = jittered(_bytes(COLOUR[:1]).float(), torch.tensor([[*factors, hue]]), torch.tensor([order]))
        difference = np.abs(ours[0].permute(1, 2, 0).numpy() - np.asarray(picture, dtype=float))
        assert difference.mean() < 2.5  # each of four steps cuts fractions off
        assert np.quantile(difference, 0.97) < 8  # Pillow keeps the hue in 8 bits


def test_grey_jitter_is_the_colour_jitter_of_equal_channels() -> None:
    rng = np.random.default_rng(2)
    factors = torch.tensor(np.concatenate([rng.uniform(0.2, 1.8, (24, 3)), rng.uniform(-0.2, 0.2, (24, 1))], 1))
    factors[::4] = torch.tensor([1.0, 1, 1, 0])
    order = torch.tensor(np.stack([rng.permutation(4) for _ in range(24)]))
    grey = _bytes(GREY).float()
    colour = jittered(grey.expand(-1, 3, -1, -1).clone(), factors, order)
    ours = jittered(grey.clone(), factors, order)
    assert torch.allclose(ours.expand(-1, 3, -1, -1), colour, atol=0.6)


def test_solarising_turns_bright_levels_round() -> None:
    x = torch.tensor([[[[0.0, 100, 127, 128, 200, 255]]]]).repeat(2, 1, 1, 1)
    changed = solarised(x, torch.tensor([1]))
    assert changed[0].flatten().tolist() == [0, 100, 127, 128, 200, 255]
    assert changed[1].flatten().tolist() == [0, 100, 127, 127, 55, 0]


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_of_rand_augment_are_torchvisions(name: str) -> None:
    from torchvision.transforms.autoaugment import _apply_op

    space = v2.RandAugment()._AUGMENTATION_SPACE
    magnitudes = space[name][0](31, 60, 60)
    for magnitude in (3, 5, 20):
        expected = 0.0 if magnitudes is None else float(magnitudes[magnitude])
        assert strength(name, magnitude, 60, 60) == pytest.approx(expected, abs=1e-6)
        amount = strength(name, magnitude, 60, 60)
        theirs = _apply_op(
            Image.fromarray(GREY[0]),
            name,
            255 * amount if name == "Solarize" else amount,
            v2.InterpolationMode.NEAREST,
            None,
        )
        ours = apply(name, _bytes(GREY[:1]), amount)[0, 0].numpy()
        difference = np.abs(ours.astype(int) - np.asarray(theirs, dtype=int))
        assert np.median(difference) <= 1
        assert np.quantile(difference, 0.9) <= (12 if name in ("Rotate", "ShearX", "ShearY") else 2)


def test_rand_augment_draws_for_every_item() -> None:
    images = _bytes(GREY)
    ours = rand_augmented(images, 2, 9, item_uniforms(range(24), 4))
    assert torch.equal(images, _bytes(GREY))  # the caller's batch stays
    assert (ours != images).flatten(1).any(1).float().mean() > 0.7
    with pytest.raises(UsageError, match=r"must lie in 0\.\.30"):
        strength("Rotate", 31, 8, 8)


def test_inpainting_erases_a_box_and_keeps_the_target() -> None:
    torch.manual_seed(0)
    erased, image = InpaintViews().batched(60)([_bytes(GREY)], range(24))
    share = (erased != image).any(1).float().mean((1, 2))
    assert share.min() > 0.015
    assert share.max() < 0.34
    hole = erased[(erased != image)]
    assert hole.mean().abs() < 0.05
    assert hole.std() == pytest.approx(1, abs=0.05)
    single_erased, single = InpaintViews().pil(60, "stretch")(_pictures(GREY[:1]))
    assert 0.015 < (single_erased != single).any(0).float().mean() < 0.34


def test_erased_areas_have_torchvisions_distribution() -> None:
    from torchvision.transforms import RandomErasing

    torch.manual_seed(0)
    boxes = [
        RandomErasing.get_params(torch.zeros(1, 50, 50), (0.02, 0.33), (0.3, 3.3), [0.0])[2:4] for _ in range(1500)
    ]
    theirs = np.array(boxes)
    masks = erased_mask(item_uniforms(range(1500), 40), 50, 50)[:, 0]
    ours = np.stack([masks.any(2).sum(1).numpy(), masks.any(1).sum(1).numpy()], 1)
    for share in (0.1, 0.5, 0.9):
        assert np.abs(np.quantile(ours, share, axis=0) - np.quantile(theirs, share, axis=0)).max() <= 2.5


@pytest.mark.parametrize("extra", [Speckle(1.0), DepthAttenuation(1.0), GaussianShadow(1.0), Haze(1.0), GammaGain(1.0)])
def test_extras_leave_black_black_and_change_the_rest(extra: Speckle) -> None:
    images = _bytes(GREY).float()
    images[:, :, :, :20] = 0
    before = images.clone()
    changed = extra.on_batch(images, item_uniforms(range(24), 8), torch.Generator().manual_seed(0))
    assert torch.equal(images, before)
    assert (changed[:, :, :, :20] == 0).all()
    assert changed.min() >= 0
    assert changed.max() <= 255
    assert ((changed != before).flatten(1).any(1)).all()
    none = type(extra)(0.0).on_batch(images, item_uniforms(range(24), 8), torch.Generator())
    assert torch.equal(none, before)
    torch.manual_seed(0)
    assert extra.on_picture(Image.fromarray(GREY[0])).size == (60, 60)


def test_extras_and_the_sector_crop_work_in_both_forms() -> None:
    recipe = SimclrViews(extras=(Speckle(), DepthAttenuation()), sector=0.5)
    torch.manual_seed(0)
    assert recipe.pil(32, "stretch")(_pictures(GREY[:1]))[0].shape == (3, 32, 32)
    assert recipe.batched(32)([_bytes(GREY)], range(24))[1].shape == (24, 3, 32, 32)


def test_sector_crops_show_the_sector() -> None:
    images = torch.zeros(200, 1, 64, 64, dtype=torch.uint8)
    images[:, :, 20:44, 30:60] = 120
    boxes = sector_boxes(item_uniforms(range(200), 40), images, (0.08, 0.3), RATIO, 0.5)
    shares = [
        float((images[n, 0, top : top + h, left : left + w] > 0).float().mean())
        for n, (top, left, h, w) in enumerate(boxes.tolist())
    ]
    assert np.mean(np.array(shares) > 0.35) > 0.95  # the mask is two pixels wider than what is bright


def test_resize_modes_agree_on_squares_and_differ_elsewhere() -> None:
    square, wide = Image.fromarray(GREY[0]), Image.fromarray(np.full((40, 80), 90, np.uint8))
    pictures = [np.asarray(resized(square, 32, mode)) for mode in ("reference", "stretch", "letterbox")]  # type: ignore[arg-type]
    assert all(np.array_equal(pictures[0], other) for other in pictures)
    boxed = np.asarray(resized(wide, 32, "letterbox"))
    assert boxed.shape == (32, 32)
    assert (boxed[:8] == 0).all()
    assert (boxed[-8:] == 0).all()
    assert boxed[8:24].min() > 0
    with pytest.raises(UsageError, match="got reference and a picture of 40 x 80"):
        resized(wide, 32, "reference")


def test_normalisation_is_imagenets() -> None:
    picture = normalised_picture(Image.fromarray(GREY[0]))
    expected = (GREY[0] / 255 - 0.456) / 0.224
    assert np.abs(picture[1].numpy() - expected).max() < 1e-5


def test_the_classifier_resizes_and_may_do_no_more() -> None:
    picture = _pictures(_smooth(1, 40, 80))[0]
    plain = ClassifierAugmentation.plain(picture, 32, "stretch")
    still = ClassifierAugmentation(operations=0, horizontal_flip=0, vertical_flip=0).changed(picture, 32, "stretch")
    assert torch.equal(plain, still)
    torch.manual_seed(3)
    assert not torch.equal(plain, ClassifierAugmentation().changed(picture, 32, "stretch"))


@pytest.mark.parametrize("options", [{"scale": (0.0, 1.0)}, {"flip": 2.0}, {"sector": 0.0}])
def test_recipes_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=r"data\.views\."):
        SimclrViews(**options)  # type: ignore[arg-type]
