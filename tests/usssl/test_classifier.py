import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from shared.errors import UsageError
from usssl.backbones import Backbone, build_backbone
from usssl.classifier import PlaneClassifier, class_weights, trained_parameters
from usssl.finetuning import Finetuning
from usssl.initialise import RECORD


class Tiny(Backbone):
    """A convolution with BatchNorm, pooled."""

    name, width = "tiny", 6

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU())

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x).mean((2, 3))


def test_class_weights_of_the_specification() -> None:
    labels = [0, 0, 1, 3, 3, 3]
    counts = [labels.count(c) for c in range(5)]
    # 3, 6, 1, 2, 1 by the formula n / n_c with 1 for a class without an image
    assert class_weights(counts) == [3, 6, 1, 2, 1]


@given(st.lists(st.integers(0, 50), min_size=2, max_size=6).filter(any))
def test_weighted_images_count_alike_for_every_class(counts: list[int]) -> None:
    weighted = [count * weight for count, weight in zip(counts, class_weights(counts), strict=True) if count]
    assert weighted == pytest.approx([sum(counts)] * len(weighted))


@pytest.mark.parametrize(("name", "total", "head"), [("resnet18", 11_179_072, 2_560), ("resnet50", 23_518_272, 10_240)])
def test_parameters_of_the_specification(name: str, total: int, head: int) -> None:
    with torch.device("meta"):
        network = PlaneClassifier(build_backbone(name), 5)
    assert sum(p.numel() for p in network.parameters()) == total
    assert sum(p.numel() for p in network.head.parameters()) == head


def test_head_without_hidden_layers_is_a_product() -> None:
    network = PlaneClassifier(Tiny(), 4, dropout=0.5).eval()
    images = torch.randn(5, 3, 8, 8)
    weight = network.head[-1].weight
    torch.testing.assert_close(network(images), network.backbone.features(images) @ weight.T)


def test_hidden_layers_have_no_bias_but_layernorm() -> None:
    network = PlaneClassifier(Tiny(), 4, hidden=[8], feature_bnorm=True)
    kinds = [type(layer).__name__ for layer in network.head]
    assert kinds == ["BatchNorm1d", "Dropout", "Linear", "LayerNorm", "ReLU", "Dropout", "Linear"]
    assert all(layer.bias is None for layer in network.head if isinstance(layer, nn.Linear))
    assert not list(network.head[0].parameters())


def test_features_take_the_place_of_images() -> None:
    network = PlaneClassifier(Tiny(), 4).eval()
    images = torch.randn(5, 3, 8, 8)
    torch.testing.assert_close(network(network.backbone.features(images)), network(images))


@pytest.mark.parametrize("still", [True, False])
def test_running_statistics_of_a_frozen_backbone(still: bool) -> None:
    network = PlaneClassifier(Tiny(), 4, freeze=True, freeze_bn_stats=still).train()
    before = network.backbone.layers[1].running_mean.clone()
    network(torch.randn(5, 3, 8, 8))
    assert torch.equal(network.backbone.layers[1].running_mean, before) is still
    assert {id(p) for p in trained_parameters(network)} == {id(p) for p in network.head.parameters()}


def test_without_freeze_everything_is_trained() -> None:
    network = PlaneClassifier(Tiny(), 4, freeze=False, freeze_bn_stats=True).train()
    assert network.backbone.training
    assert len(trained_parameters(network)) == len(list(network.parameters()))


@pytest.mark.parametrize(("options", "told"), [({"dropout": 1.0}, "dropout"), ({"hidden": [0]}, "hidden")])
def test_refusals(options: dict, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        PlaneClassifier(Tiny(), 4, **options)


def test_another_checkpoint_is_refused() -> None:
    def made(*classes: str) -> Finetuning:
        return Finetuning(len(classes), classes, [3] * len(classes), backbone="timm:test_resnet", init="random")

    about = {"classes": ["a", "b"], "init": "mine.ckpt", "pretrained": "self", "weights_sha256": "0"}
    trained = {"state_dict": made("a", "b").state_dict(), RECORD: about}
    same = made("a", "b")
    same.on_load_checkpoint(trained)
    assert (same.init, same.pretrained) == ("mine.ckpt", "self")
    with pytest.raises(UsageError, match=r"data.source must hold the classes of the checkpoint \(a, b\), got a, c"):
        made("a", "c").on_load_checkpoint(trained)
    for other in ({}, {"init": "random"}):
        with pytest.raises(UsageError, match="ckpt_path must be a checkpoint of usssl finetune, got another one"):
            made("a", "b").on_load_checkpoint(trained | {RECORD: other})
