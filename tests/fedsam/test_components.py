import pytest
import torch

from fedsam.components import ADDED, COMPONENTS, GROUPS, component_of, expand
from fedsam.sam import Sam
from fedsam.variants import VARIANTS, variant_named
from shared.errors import UsageError


def test_every_parameter_of_every_variant_has_one_component_and_every_component_has_parameters() -> None:
    seen = set()
    for name in VARIANTS:
        with torch.device("meta"):
            model = Sam("tiny", 64, 2, name, dora="row")
        for parameter, tensor in model.named_parameters():
            component = component_of(parameter)
            seen.add(component)
            assert tensor.requires_grad == (component in model.plan.components)
    assert seen == set(COMPONENTS)
    with pytest.raises(KeyError):
        component_of("image_encoder.strange.weight")


def test_groups_hold_all_of_the_published_sam() -> None:
    assert expand(["encoder", "prompt", "decoder"]) == set(COMPONENTS) - ADDED
    assert set(GROUPS["decoder.transformer"]) < set(GROUPS["decoder"])


def test_users_combine_components() -> None:
    with torch.device("meta"):
        model = Sam("tiny", 64, 1, "flap", train=["prompt.no_mask", "decoder.iou", "decoder.lora"], rank=2)
    rows = {row.name: row for row in model.components()}
    assert {name for name, row in rows.items() if row.trainable} == {"prompt.no_mask", "decoder.iou", "decoder.lora"}
    assert "encoder.lora" not in rows
    assert all(row.trainable in {0, row.parameters} and row.bytes == 4 * row.parameters for row in rows.values())
    assert sum(row.parameters for row in rows.values()) == sum(p.numel() for p in model.parameters())
    assert model.trainable_numbers() == sum(row.trainable for row in rows.values())


def test_what_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match=r"model.train must name components .* got 'encoder.atn'; did you mean enc"):
        variant_named("flap", train=["encoder.atn"])
    with pytest.raises(UsageError, match=r"model.variant must be one of full, .* got 'flapp'; did you mean flap\?"):
        variant_named("flapp")
    with pytest.raises(UsageError, match=r"model.rank must be at least 1, got 0"):
        variant_named("flap", rank=0)
    with pytest.raises(UsageError, match=r"model.upsampling must be 4 or 16, got 8"):
        variant_named("flap", upsampling=8)
