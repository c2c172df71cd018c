"""Whole federations of tiny models: what moves and what does not, resume, failures, and centralised training."""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fedsam.augmentation import BatchAugmentation
from fedsam.lora_aggregation import FedAvgFactors, FreezeA, Stack, SVDExact
from fedsam.lora_products import is_factor_a, lora_pairs
from fedsam.losses import proximal_term
from fedsam.module import FederatedSegmenter
from fedsam.robust_lora import RobustLora
from fedsam.sam import Sam
from fedsam.segmenter import Inference, Scores
from fedsam.variants import VARIANTS
from fedseca.aggregators import CoordinateMedian
from shared.errors import RunError, UsageError
from shared.federated.client import ClientTraining
from shared.federated.ledger import PayloadMeter
from shared.federated.seeds import derived_generator
from shared.runs import read_metrics
from shared.schedules import WarmupPolyLR

Make = Callable[..., Any]
State = dict[str, Tensor]
FUSED = Inference("fused", scaling="slice")


def tensors(module: FederatedSegmenter) -> State:
    return {name: tensor.clone() for name, tensor in module.local.state_dict().items()}


def recipe(**options: Any) -> ClientTraining:
    """AdamW that is kept, with the schedule of the paper in small."""
    optimizer = partial(torch.optim.AdamW, lr=5e-3, weight_decay=0.1)
    scheduler = partial(WarmupPolyLR, epochs=10, warmup_steps=3)
    settings: dict[str, Any] = {"optimizer": optimizer, "scheduler": scheduler, "keep_optimizer": True}
    return ClientTraining(**settings | options)


def same(left: State, right: State) -> list[str]:
    """Names of tensors that differ in any bit."""
    assert left.keys() == right.keys()
    return [name for name in left if not torch.equal(left[name], right[name])]


# ---------------------------------------------------------------------- what moves


@pytest.mark.parametrize("aggregator", [SVDExact, FedAvgFactors])
def test_what_is_not_sent_does_not_change_in_any_bit(
    make_volumes: Make, make_segmenter: Make, make_trainer: Make, aggregator: Any
) -> None:
    module = make_segmenter(aggregator())
    before, sent = tensors(module), module.communicated().keys()
    make_trainer(2).fit(module, datamodule=make_volumes())
    changed = same(before, tensors(module))
    assert set(changed) <= sent
    assert {name for name in sent if not name.endswith(".bias")} <= set(changed)
    worker = module._worker().state_dict()
    assert all(torch.equal(worker[name], tensor) for name, tensor in before.items() if name not in sent)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_trains_and_sends_four_bytes_a_number(
    make_volumes: Make, make_segmenter: Make, make_trainer: Make, tmp_path: Path, variant: str
) -> None:
    inference = FUSED if variant == "masam" else Inference("fast", scaling="slice")
    module = make_segmenter(SVDExact(), variant=variant, inference=inference)
    before = tensors(module)
    make_trainer(1, folder="run").fit(module, datamodule=make_volumes((1, 1)))
    assert set(same(before, tensors(module))) <= module.communicated().keys()
    assert same(before, tensors(module))
    numbers = module.network.trainable_numbers()
    assert numbers == sum(tensor.numel() for tensor in module.communicated().values())
    message = module.meter.measure(module.communicated())
    assert sum(message.values()) == module.describe()["payload_bytes"]
    assert sum(message.values()) - message["header"] == 4 * numbers
    assert module.ledger.totals == {way: 2 * module.describe()["payload_bytes"] for way in ("down", "up")}
    series = read_metrics(tmp_path / "run" / "metrics.csv")
    assert 0 < series["train/loss"][0][1] < 10
    assert 0 <= series["test/dice"][0][1] <= 1
    assert series["round/bytes_up"][0][1] == module.ledger.totals["up"]


def test_a_message_of_the_paper_is_four_bytes_a_number() -> None:
    with torch.device("meta"):
        model = Sam("vit_b", 224, 2, "flap")
    numbers = {name: torch.zeros(model.get_parameter(name).shape) for name in model.trainable_names()}
    assert 4 * model.trainable_numbers() == 7_385_536
    message = PayloadMeter({"parameters": frozenset(numbers)}).measure(numbers)
    assert sum(message.values()) == pytest.approx(7_385_536, rel=0.01)


def test_over_flower_a_message_is_what_the_ledger_counts() -> None:
    """Flower sends a message as objects that are known by their hash; all of them together are what is on the wire."""
    pytest.importorskip("flwr")
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

    from shared.federated.client import LocalResult
    from shared.federated.flower.messages import answer, to_payload, work_order

    with torch.device("meta"):
        model = Sam("vit_b", 224, 2, "flap")
    generator = derived_generator(1, "wire")
    shapes = {name: model.get_parameter(name).shape for name in model.trainable_names()}
    numbers = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    counted = sum(PayloadMeter({"parameters": frozenset(numbers)}).measure(numbers).values())
    for content in (work_order(3, 2, to_payload(numbers)), answer(numbers, LocalResult(5, 5, 0.5))):
        objects = get_all_nested_objects(content).values()
        assert sum(len(part.deflate()) for part in objects) == pytest.approx(counted, rel=0.001)


def test_the_order_in_which_clients_train_changes_nothing(
    make_volumes: Make, make_segmenter: Make, make_trainer: Make
) -> None:
    forth, back = make_segmenter(SVDExact(), client=recipe()), make_segmenter(SVDExact(), client=recipe())
    one_by_one = back._one_by_one
    back._one_by_one = lambda round, places, *rest: one_by_one(round, dict(reversed(places.items())), *rest)
    for module in (forth, back):
        make_trainer(2).fit(module, datamodule=make_volumes())
    assert same(tensors(forth), tensors(back)) == []


@pytest.mark.parametrize(
    "rule",
    [CoordinateMedian, partial(RobustLora, CoordinateMedian()), partial(RobustLora, CoordinateMedian(), space="b")],
)
def test_robust_rules(make_volumes: Make, make_segmenter: Make, make_trainer: Make, tmp_path: Path, rule: Any) -> None:
    made = rule()
    module = make_segmenter(made)
    received: list[State] = []
    train = module.train_client

    def watched(*place: Any) -> Any:
        upload, result = train(*place)
        received.append({name: tensor.clone() for name, tensor in upload.items()})
        return upload, result

    module.train_client = watched
    before = tensors(module)
    make_trainer(1, folder="run").fit(module, datamodule=make_volumes())
    after, head = tensors(module), "network.mask_decoder.mask_tokens.weight"
    median = torch.stack([upload[head] for upload in received]).median(0).values
    torch.testing.assert_close(after[head], median, rtol=0, atol=1e-6)
    name = "network.image_encoder.blocks.0.attn.lora_q"
    if isinstance(made, CoordinateMedian):
        expected = torch.stack([upload[f"{name}.B"] for upload in received]).median(0).values
        torch.testing.assert_close(after[f"{name}.B"], expected, rtol=0, atol=1e-6)
        return
    kept = read_metrics(tmp_path / "run" / "metrics.csv").get("server/kept_energy")
    if made.space == "b":
        assert kept is None
        assert torch.equal(after[f"{name}.A"], before[f"{name}.A"])
        return
    assert kept is not None
    assert 0 < kept[0][1] < 1
    products = torch.stack([upload[f"{name}.B"] @ upload[f"{name}.A"] for upload in received]).median(0).values
    u, s, vh = torch.linalg.svd(products.double())
    best = (u[:, :4] * s[:4]) @ vh[:4]
    found = (after[f"{name}.B"] @ after[f"{name}.A"]).double()
    torch.testing.assert_close(found, best, rtol=0, atol=1e-4 * float(s[0]))


def test_diagnostics_of_every_round_are_logged(
    make_volumes: Make, make_segmenter: Make, make_trainer: Make, tmp_path: Path
) -> None:
    for rule, names in ((SVDExact(), ("kept_energy", "kept_energy_worst")), (FedAvgFactors(), ("product_error",))):
        folder = type(rule).__name__
        make_trainer(3, folder=folder).fit(make_segmenter(rule), datamodule=make_volumes((1, 1)))
        series = read_metrics(tmp_path / folder / "metrics.csv")
        for name in (*(f"server/{name}" for name in names), "train/loss", "round/seconds", "round/bytes_down"):
            assert [epoch for epoch, _ in series[name]] == [0, 1, 2], name


# ---------------------------------------------------------------------- options of LoRA


@pytest.mark.parametrize("regime", ["federated", "centralised"])
def test_frozen_factors_are_neither_trained_nor_sent(
    make_volumes: Make, make_segmenter: Make, make_trainer: Make, regime: str
) -> None:
    module = make_segmenter(FreezeA(), regime=regime)
    before = tensors(module)
    make_trainer(2).fit(module, datamodule=make_volumes())
    changed = same(before, tensors(module))
    assert not any(map(is_factor_a, changed))
    assert any(name.endswith(".lora_v.B") for name in changed)
    assert not any(map(is_factor_a, module.communicated()))
    all_factors = make_segmenter(SVDExact()).network
    a = sum(p.numel() for name, p in all_factors.named_parameters() if is_factor_a(name))
    assert module.describe()["trainable"] == all_factors.trainable_numbers() - a
    assert sum(c.trainable for c in module.network.components()) == all_factors.trainable_numbers() - a


def test_moments_of_turned_factors_are_dropped_where_asked(
    make_volumes: Make, make_segmenter: Make, make_trainer: Make
) -> None:
    modules = {}
    for rule, reset in ((SVDExact(), False), (SVDExact(), True), (FedAvgFactors(), False), (FedAvgFactors(), True)):
        module = make_segmenter(rule, reset_lora_moments=reset)
        make_trainer(2).fit(module, datamodule=make_volumes((1, 1)))
        modules[type(rule).__name__, reset] = module
    assert same(tensors(modules["SVDExact", False]), tensors(modules["SVDExact", True]))
    assert not same(tensors(modules["FedAvgFactors", False]), tensors(modules["FedAvgFactors", True]))
    module = modules["SVDExact", True]
    stored = module._scratch["states"].load(0, 1)
    trained = [name for name, p in module._worker().named_parameters() if p.requires_grad]
    kept = {trained[int(key.split(".")[0])] for key in stored if key.endswith(".exp_avg")}
    factors = {name for pair in lora_pairs(trained) for name in (pair.a, pair.b)}
    assert kept == set(trained) - factors
    with pytest.raises(UsageError, match="reset_lora_moments can be true only with"):
        make_segmenter(SVDExact(), reset_lora_moments=True, client=ClientTraining())


def test_stacked_factors_are_refused(make_segmenter: Make) -> None:
    with pytest.raises(UsageError, match="aggregator must keep the frozen weights and the rank"):
        make_segmenter(Stack())


def test_mixing_weights_stay_with_their_site(
    make_volumes: Make, make_segmenter: Make, make_trainer: Make, tmp_path: Path
) -> None:
    module = make_segmenter(SVDExact(), num_lora=2)
    before = tensors(module)
    names = [f"network.{name}" for name in module.network.personal_names()]
    assert not set(names) & module.communicated().keys()
    make_trainer(2, folder="run").fit(module, datamodule=make_volumes())
    after = tensors(module)
    assert all(torch.equal(after[name], before[name]) for name in names)
    own = [{name: module.model_of(k).state_dict()[name].clone() for name in names} for k in range(3)]
    for client, scales in enumerate(own):
        drawn = module.drawn(client)
        for name in names:
            assert 0 < (scales[name] - drawn[name]).abs().max() < 0.1  # from its own draw, by a few small steps
            assert all(not torch.equal(scales[name], other[name]) for other in own[:client])
    series = read_metrics(tmp_path / "run" / "metrics.csv")
    means = [series[f"test/model_{k}/dice"][-1][1] for k in range(3)]
    assert series["test/dice"][-1][1] == pytest.approx(sum(means) / 3)


@pytest.mark.parametrize("options", [{"dora": "column"}, {"dora": "row", "alpha": 0.5}])
def test_trained_norms_travel(make_volumes: Make, make_segmenter: Make, make_trainer: Make, options: Any) -> None:
    module = make_segmenter(SVDExact(), **options)
    before = tensors(module)
    norms = [name for name in module.communicated() if ".dora_" in name]
    assert len(norms) == 2 * (6 + 7)
    make_trainer(1).fit(module, datamodule=make_volumes((1, 1)))
    assert set(norms) <= set(same(before, tensors(module)))


def test_a_federation_starts_from_a_checkpoint(
    make_volumes: Make, make_segmenter: Make, make_trainer: Make, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    published = Sam("tiny", 64, 3, "full", upsampling=4).state_dict()
    torch.save(published, tmp_path / "sam.pth")
    module = make_segmenter(FedAvgFactors(), init=str(tmp_path / "sam.pth"))
    told = module.describe()
    assert told["pretrained"] == "file"
    assert len(told["weights_sha256"]) == 64
    make_trainer(1).fit(module, datamodule=make_volumes((1, 1)))
    found = module.network.state_dict()
    for name in ("image_encoder.blocks.3.mlp.lin1.weight", "mask_decoder.transformer.layers.1.norm2.weight"):
        assert torch.equal(found[name], published[name])


# ---------------------------------------------------------------------- one client and centralised training


@pytest.mark.parametrize(
    ("options", "rule", "augment"),
    [
        ({}, FedAvgFactors, BatchAugmentation()),
        ({"variant": "masam", "inference": FUSED}, FedAvgFactors, None),  # with dropout
        ({"variant": "lora_decoder", "dora": "row"}, FreezeA, None),
    ],
)
def test_one_client_is_centralised_training(
    make_volumes: Make, make_segmenter: Make, make_trainer: Make, options: Any, rule: Any, augment: Any
) -> None:
    found = []
    for regime in ("federated", "centralised"):
        module = make_segmenter(rule(), regime=regime, client=recipe(max_grad_norm=1.0), **options)
        before = tensors(module)
        make_trainer(3).fit(module, datamodule=make_volumes((2,), augment=augment))
        assert same(before, tensors(module))
        found.append(tensors(module))
    assert same(*found) == []


def test_one_client_with_new_factors_has_the_same_products_after_a_round(
    make_volumes: Make, make_segmenter: Make, make_trainer: Make
) -> None:
    found = []
    for regime in ("federated", "centralised"):
        module = make_segmenter(SVDExact(), regime=regime, client=recipe())
        make_trainer(1).fit(module, datamodule=make_volumes((2,)))
        found.append(tensors(module))
    one, central = found
    pairs = lora_pairs(one)
    assert len(pairs) == 2 * (6 + 7)
    for pair in pairs:
        torch.testing.assert_close(one[pair.b] @ one[pair.a], central[pair.b] @ central[pair.a], rtol=0, atol=1e-4)
        assert not torch.equal(one[pair.b], central[pair.b])
    factors = {name for pair in pairs for name in (pair.a, pair.b)}
    assert set(same(one, central)) <= factors


def test_a_client_is_held_to_where_it_started(make_volumes: Make, make_segmenter: Make, make_trainer: Make) -> None:
    optimizer = partial(torch.optim.SGD, lr=0.02)
    module = make_segmenter(FedAvgFactors(), client=ClientTraining(optimizer=optimizer, epochs=2, proximal=0.7))
    data, model = make_volumes((2,)), deepcopy(module.local)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in module.communicated())
    trained = [p for p in model.parameters() if p.requires_grad]
    anchors = [p.detach().clone() for p in trained]
    data.setup()
    loader = data.client_loader(0, derived_generator(11, "shuffle", 0, 0))
    by_hand = optimizer(trained)
    for _ in range(2):
        for batch in loader:
            by_hand.zero_grad()
            (model.loss(batch) + proximal_term(trained, anchors, 0.7)).backward()
            by_hand.step()
    make_trainer(1).fit(module, datamodule=data)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(module.local.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------------- resume and failures


@pytest.mark.parametrize(
    ("regime", "options"),
    [
        ("federated", {"num_lora": 2, "reset_lora_moments": True}),
        ("local", {}),
        ("centralised", {"variant": "masam", "inference": FUSED}),
    ],
)
def test_resumed_equals_uninterrupted(
    make_volumes: Make, make_segmenter: Make, make_trainer: Make, tmp_path: Path, regime: str, options: Any
) -> None:
    def segmenter() -> Any:
        return make_segmenter(SVDExact(), regime=regime, client=recipe(), **options)

    def volumes() -> Any:
        return make_volumes((2, 1), augment=BatchAugmentation())

    whole, resumed = segmenter(), segmenter()
    make_trainer(4, folder="whole").fit(whole, datamodule=volumes())
    make_trainer(2, folder="cut").fit(segmenter(), datamodule=volumes())
    checkpoint = tmp_path / "cut" / "checkpoints" / "epoch=1.ckpt"
    torch.manual_seed(99)  # the resumed process has another past
    make_trainer(4, folder="cut").fit(resumed, datamodule=volumes(), ckpt_path=checkpoint)
    assert same(tensors(whole), tensors(resumed)) == []
    for client in (0, 1) if regime != "centralised" else ():
        assert same(dict(whole.model_of(client).state_dict()), dict(resumed.model_of(client).state_dict())) == []
        assert same(whole._recall(client), resumed._recall(client)) == []
    scores = [dict(read_metrics(tmp_path / folder / "metrics.csv")["test/dice"])[3] for folder in ("whole", "cut")]
    assert scores[0] == scores[1]


def test_clients_that_fail_are_named_and_left_out(
    make_volumes: Make, make_segmenter: Make, make_trainer: Make, tmp_path: Path
) -> None:
    data = make_volumes((1, 1, 1, 1))
    whole = data.client_loader

    def loader(client: int, generator: torch.Generator) -> Any:
        if client == 0:
            raise OSError("the disk is gone")
        batches = list(whole(client, generator))
        if client == 1:
            return []
        return [(images * float("nan"), labels) for images, labels in batches] if client == 2 else batches

    data.client_loader = loader
    module = make_segmenter(SVDExact(), weighting="published")
    train, sent = module.train_client, {}

    def watched(round: int, client: int, *rest: Any) -> Any:
        upload, result = train(round, client, *rest)
        sent[client] = {name: tensor.clone() for name, tensor in upload.items()}
        return upload, result

    module.train_client = watched
    make_trainer(1, folder="run").fit(module, datamodule=data)
    rows = (tmp_path / "run" / "rounds.csv").read_text().splitlines()
    assert "0: OSError: the disk is gone; 1: no training samples; 2: NaN or infinite values" in rows[1]
    assert read_metrics(tmp_path / "run" / "metrics.csv")["round/failures"] == [(0, 3.0)]
    assert module.ledger.totals["up"] * 4 == module.ledger.totals["down"]
    head = "network.mask_decoder.mask_tokens.weight"
    assert torch.equal(module.local.state_dict()[head], sent[3][head])  # the one good client counts alone

    def failing(*place: Any) -> Any:
        raise ValueError("no")

    module.train_client = failing
    with pytest.raises(
        RunError, match=r"round 1 has 0 good uploads of 4, needs 1 \(client 0: .*client 3: ValueError: no"
    ):
        make_trainer(2, folder="run").fit(
            module, datamodule=data, ckpt_path=tmp_path / "run" / "checkpoints" / "epoch=0.ckpt"
        )
    strict = make_segmenter(SVDExact(), min_clients=2)
    with pytest.raises(RunError, match=r"round 0 has 1 good uploads of 4, needs 2 \(client 0: OSError"):
        make_trainer(1).fit(strict, datamodule=data)


@pytest.mark.parametrize("site", ["b", "z"])  # beside others, and as all that a site has
def test_constant_volumes_with_empty_masks_give_no_nan(
    make_volumes: Make, make_segmenter: Make, make_trainer: Make, blank: Make, tmp_path: Path, site: str
) -> None:
    module = make_segmenter(SVDExact(), client=recipe(), scores=Scores(distances=True))
    make_trainer(2, folder="run").fit(module, datamodule=make_volumes((1, 1), more=[blank(site)]))
    series = read_metrics(tmp_path / "run" / "metrics.csv")
    assert series["round/failures"] == [(0, 0.0), (1, 0.0)]
    assert all(value == value and abs(value) < 10 for _, value in series["train/loss"])
    assert all(tensor.isfinite().all() for tensor in tensors(module).values())
    for name in ("dice", "dice_pooled", f"dice/site_{site}", "both_empty/class_block"):
        assert all(value == value for _, value in series[f"test/{name}"]), name


def test_a_volume_without_a_mask_is_refused(
    make_volumes: Make, make_segmenter: Make, make_trainer: Make, blank: Make
) -> None:
    with pytest.raises(UsageError, match=r"^data\.source: every case must have a mask, blank of b has none$"):
        make_trainer(1).fit(make_segmenter(), datamodule=make_volumes((1, 1), more=[blank("b", label=False)]))


# ---------------------------------------------------------------------- weights


def test_published_weights_reach_the_rule(make_volumes: Make, make_segmenter: Make, make_trainer: Make) -> None:
    rule = FedAvgFactors()
    combine, seen = rule.combine, []
    rule.combine = lambda uploads, **rest: (seen.append(rest["weights"]), combine(uploads, **rest))[1]  # type: ignore[method-assign]
    module = make_segmenter(rule, weighting="published")
    make_trainer(1).fit(module, datamodule=make_volumes())
    torch.testing.assert_close(seen[0], torch.tensor([1 / 6, 2 / 6, 3 / 6], dtype=torch.float64))
    assert module.describe()["client_weights"] == pytest.approx({0: 1 / 6, 1: 2 / 6, 2: 3 / 6})


def test_weights_of_a_rule_must_fit_the_federation(
    make_volumes: Make, make_segmenter: Make, make_trainer: Make
) -> None:
    with pytest.raises(UsageError, match="one weight per client, got 6 for 3"):
        make_trainer(1).fit(make_segmenter(SVDExact("kits")), datamodule=make_volumes())
    make_trainer(1).fit(make_segmenter(SVDExact("ixi"), participation=0.5), datamodule=make_volumes())
