"""What the methods are made of and what one step of each does."""

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from shared.errors import UsageError
from usssl.backbones import build_backbone
from usssl.decoder import mirrored_decoder
from usssl.heads import byol_projector, infomax_projector, moco_projector, simclr_projector
from usssl.methods import BYOL, METHODS, Autoencoder, BarlowTwins, BarlowTwinsSupCon, Inpaint, Method, MoCo
from usssl.progress import Progress

TINY = "timm:test_resnet"
SMALL = {"hidden": 32, "width": 16, "queue_size": 10}
COUNTS = {
    # Backbone; autoencoder, decoder; BYOL, trained; MoCo, trained; SimCLR; projectors: BYOL, MoCo, SimCLR, Barlow Twins
    "resnet18": [
        *(11_176_512, 22_357_248, 11_180_736, 24_457_088, 12_491_840, 24_978_816, 12_489_408, 11_505_856),
        *(788_736, 1_312_896, 329_344, 138_444_800),
    ],
    "resnet34": [
        *(21_284_672, 40_803_072, 19_518_400, 44_673_408, 22_600_000, 45_195_136, 22_597_568, 21_614_016),
        *(788_736, 1_312_896, 329_344, 138_444_800),
    ],
    "resnet50": [
        *(23_508_032, 45_341_824, 21_833_792, 52_265_856, 26_396_224, 55_933_312, 27_966_656, 24_623_808),
        *(2_361_600, 4_458_624, 1_115_776, 151_027_712),
    ],
}


def small(method: type[Method]) -> dict[str, int]:
    """Of :data:`SMALL` what the method takes."""
    takes = inspect.signature(method).parameters
    return {name: value for name, value in SMALL.items() if name in takes}


def size(module: nn.Module, trained: bool = False) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained)


def make(name: str, seed: int = 0) -> Method:
    torch.manual_seed(seed)
    return METHODS[name](build_backbone(TINY), **small(METHODS[name]))


def batch_of(name: str, count: int = 4, side: int = 32, seed: int = 1) -> Any:
    generator = torch.Generator().manual_seed(seed)
    views = tuple(torch.randn(count, 3, side, side, generator=generator) for _ in range(2))
    if name in ("autoencoder", "denoise"):
        return views[:1]
    return {"views": views, "labels": torch.arange(count) % 2} if name == "barlowtwins_supcon" else views


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts(name: str) -> None:
    with torch.device("meta"):
        backbone = build_backbone(name)
        byol, moco = BYOL(build_backbone(name)), MoCo(build_backbone(name))
        width = backbone.width
        found = [size(backbone), size(Autoencoder(build_backbone(name))), size(mirrored_decoder(backbone)), size(byol)]
        found += [size(byol, trained=True), size(moco), size(moco, trained=True)]
        found += [size(METHODS["simclr"](build_backbone(name))), size(byol_projector(width))]
        found += [size(moco_projector(width)), size(simclr_projector(width)), size(infomax_projector(width))]
    assert found == COUNTS[name]
    assert size(byol.predictor) == 526_592


def test_residual_branches_start_at_zero() -> None:
    state = build_backbone("resnet18").state_dict()
    assert sum(not t.any() for name, t in state.items() if name.endswith("bn2.weight")) == 8
    with torch.device("meta"):
        assert size(build_backbone("resnet101")) == 42_500_160
        assert not hasattr(build_backbone("resnet152").fc, "weight")
    with pytest.raises(UsageError, match="backbone must be a ResNet or timm:NAME, got 'resnet19'; did you mean"):
        build_backbone("resnet19")
    with pytest.raises(UsageError, match=r"backbone must name a model of timm after timm:, got 'resnot50'"):
        build_backbone("timm:resnot50")


@pytest.mark.parametrize("side", [64, 96, 224, 256])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_decoder_gives_back_the_size_of_the_image(name: str, side: int) -> None:
    with torch.device("meta"):
        decoder = mirrored_decoder(build_backbone(name))
        width = 2048 if name == "resnet50" else 512
        assert decoder(torch.empty(2, width, side // 32, side // 32)).shape == (2, 3, side, side)


@pytest.mark.parametrize("name", ["simclr", "moco", "byol", "vicreg", "barlowtwins"])
def test_heads_without_units_are_refused(name: str) -> None:
    for option in ("hidden", "width"):
        with pytest.raises(UsageError, match=rf"model.method.{option} must be at least 1, got 0"):
            METHODS[name](build_backbone("resnet18"), **{option: 0})


def test_an_image_that_32_does_not_divide_is_refused() -> None:
    with pytest.raises(UsageError, match="image_size must be divisible by 32 for an autoencoder, got 40"):
        make("autoencoder").loss((torch.zeros(2, 3, 40, 40),))
    with pytest.raises(UsageError, match="divides the image side by 32 where a decoder follows, got timm:test_vit"):
        build_backbone("timm:test_vit").feature_map(torch.zeros(1, 3, 160, 160))


def test_the_deepest_stage_takes_the_first_number_of_blocks() -> None:
    with torch.device("meta"):
        backbone = build_backbone("resnet34")
        plain, mirrored = mirrored_decoder(backbone), mirrored_decoder(backbone, reverse_blocks=True)

    def blocks(decoder: nn.Sequential) -> list[int]:
        doubling = [
            i for i, block in enumerate(decoder) if any(isinstance(m, nn.ConvTranspose2d) for m in block.modules())
        ]
        return [b - a for a, b in zip([-1, *doubling], doubling, strict=False)]

    assert blocks(plain)[:4] == [3, 4, 6, 3]
    assert blocks(mirrored)[:4] == [3, 6, 4, 3]


@pytest.mark.parametrize("name", METHODS)
def test_one_step_trains_all_that_is_to_be_trained(name: str) -> None:
    method = make(name)
    progress = Progress(0, 2, 0, 4)
    method.before_forward(progress)
    loss = method.loss(batch_of(name))
    loss.backward()
    assert loss.shape == ()
    assert loss.isfinite()
    for key, p in method.named_parameters():
        assert (p.grad is not None) == p.requires_grad, key
    recipe = method.recipe()
    optimizer = recipe.optimizer([p for p in method.parameters() if p.requires_grad])
    before = {key: p.detach().clone() for key, p in method.named_parameters()}
    optimizer.step()
    method.after_step()
    moved = {key for key, p in method.named_parameters() if not torch.equal(p, before[key])}
    trained = {key: p.grad for key, p in method.named_parameters() if p.grad is not None}
    assert {key for key, gradient in trained.items() if gradient.any()} <= moved <= set(trained)  # decay moves as well
    assert "backbone" in {key.partition(".")[0] for key in moved}
    assert method.embeddings is not None
    assert method.embeddings.shape[0] == 4
    assert not method.embeddings.requires_grad


@pytest.mark.parametrize("name", METHODS)
def test_a_short_batch_counts_by_its_true_size(name: str) -> None:
    """Nothing remembers the size of an earlier batch."""
    method, other = make(name), make(name)
    other.load_state_dict(method.state_dict())
    method.train(), other.train()
    if name != "moco":  # its queue is as it was, only the batch differs
        method.loss(batch_of(name, 6))
        other.load_state_dict(method.state_dict())
    torch.manual_seed(3)
    short = method.loss(batch_of(name, 3))
    torch.manual_seed(3)
    torch.testing.assert_close(short, other.loss(batch_of(name, 3)), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["byol", "moco"])
def test_copies_move_before_the_forward_pass_and_get_no_gradient(name: str) -> None:
    method = make(name)
    copies = [p for p in method.parameters() if not p.requires_grad]
    assert len(copies) > 10
    with torch.no_grad():
        for p in method.backbone.parameters():
            p.add_(0.1)
    start = [p.clone() for p in copies]
    method.before_forward(Progress(epoch=1, epochs=2, step=2, steps=4))  # the last epoch: momentum 1
    assert all(torch.equal(p, q) for p, q in zip(copies, start, strict=True))
    method.before_forward(Progress(epoch=0, epochs=2, step=0, steps=4))
    moved = [p.clone() for p in copies]
    assert not all(torch.equal(p, q) for p, q in zip(moved, start, strict=True))
    method.loss(batch_of(name)).backward()
    assert all(torch.equal(p, q) for p, q in zip(copies, moved, strict=True))
    assert all(p.grad is None for p in copies)


def test_keys_enter_after_the_step_and_never_in_validation() -> None:
    method = make("moco")
    assert isinstance(method, MoCo)
    start = method.queue.keys.clone()
    with torch.no_grad():
        method.loss(batch_of("moco"))
    method.after_step()
    assert torch.equal(method.queue.keys, start)
    method.loss(batch_of("moco")).backward()
    assert torch.equal(method.queue.keys, start)
    method.after_step()
    assert int(method.queue.pointer) == 4
    assert torch.equal(method.queue.keys[4:], start[4:])
    torch.testing.assert_close(method.queue.keys.norm(dim=1), torch.ones(10))


def test_byol_compares_each_view_with_the_other() -> None:
    method = make("byol")
    assert isinstance(method, BYOL)
    v1, v2 = batch_of("byol")

    def unit(z: Tensor) -> Tensor:
        return z / z.norm(dim=1, keepdim=True)

    p1, p2 = (unit(method.predictor(method.projector(method.backbone(v)))) for v in (v1, v2))
    t1, t2 = (unit(method.target_projector(method.target_backbone(v))) for v in (v1, v2))
    wanted = ((2 - 2 * (p1 * t2).sum(1).mean()) + (2 - 2 * (p2 * t1).sum(1).mean())) / 2
    torch.testing.assert_close(method.loss((v1, v2)), wanted)


def test_reconstruction_compares_with_the_whole_image() -> None:
    method = make("inpaint")
    assert isinstance(method, Inpaint)
    erased, image = batch_of("inpaint")
    made = method.reconstruct(erased)
    torch.testing.assert_close(method.loss((erased, image)), (made - image).square().mean())
    plain = make("autoencoder")
    torch.testing.assert_close(plain.loss((image,)), (plain.reconstruct(image) - image).square().mean())  # type: ignore[operator]
    with pytest.raises(UsageError, match=r"data.views must make one image for Autoencoder"):
        plain.loss((erased, image))
    with pytest.raises(UsageError, match=r"data.views must make two views of equal shape"):
        make("simclr").loss((image,))


def test_sup_con_adds_its_term_for_images_with_labels() -> None:
    method = make("barlowtwins_supcon")
    batch = batch_of("barlowtwins_supcon")
    plain = make("barlowtwins")
    missing, unexpected = plain.load_state_dict(method.state_dict(), strict=False)
    assert not missing
    assert all(key.startswith("sup_con_head") for key in unexpected)
    unlabelled = batch | {"labels": torch.full((4,), -1)}
    torch.testing.assert_close(method.loss(unlabelled), plain.loss(batch["views"]))
    assert method.loss(batch) > method.loss(unlabelled)
    beside = batch | {"labelled": batch_of("simclr", 3, seed=5), "labels": torch.tensor([0, 0, 1])}
    assert method.loss(beside).isfinite()
    reference = BarlowTwinsSupCon(build_backbone(TINY), 32, 24, reference=True)
    assert not any(p.requires_grad for p in reference.sup_con_head.parameters())
    assert reference.temperature == 1
    with pytest.raises(UsageError, match="batches with views and labels"):
        method.loss(batch["views"])
    assert method.eval().loss(batch["views"]).isfinite()


def test_reference_recipes() -> None:
    vector, matrix = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3, 3))
    groups = {name: METHODS[name].recipe().optimizer([vector, matrix]).param_groups for name in METHODS}
    assert [(g["lr"], g["weight_decay"]) for g in groups["barlowtwins"]] == [(0.2, 1e-6), (0.0048, 1e-6)]
    assert groups["barlowtwins"][1]["params"] == [vector]
    first = {name: (g[0]["lr"], g[0]["weight_decay"], g[0].get("momentum")) for name, g in groups.items()}
    assert first["vicreg"] == (0.2, 1e-6, 0.9)
    assert first["simclr"] == (0.3, 1e-4, 0.9)
    assert first["moco"] == (0.03, 1e-4, 0.9)
    assert first["byol"] == (0.2, 1.5e-6, 0.9)
    assert first["autoencoder"] == first["inpaint"] == first["denoise"] == (1e-3, 1e-6, None)
    assert BarlowTwins.recipe().lr_batch == 256
