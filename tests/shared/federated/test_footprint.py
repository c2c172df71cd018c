from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import SGD, AdamW

from shared.classification import Classifier
from shared.federated.client import ClientTraining
from shared.federated.client_states import optimizer_tensors
from shared.federated.fedavg import FedAvg
from shared.federated.footprint import footprint, layer_table, message_bytes, optimizer_bytes
from shared.federated.module import FederatedModule
from shared.text_table import size

TYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool]


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters='"\\', min_codepoint=32), min_size=1, max_size=9),
        st.tuples(st.sampled_from(TYPES), st.lists(st.integers(0, 4), max_size=3)),
        min_size=1,
        max_size=8,
    )
)
def test_the_size_of_a_message_is_that_of_its_serialisation(shapes: dict[str, tuple[torch.dtype, list[int]]]) -> None:
    payload = {name: torch.zeros(shape, dtype=kind) for name, (kind, shape) in shapes.items()}
    on_meta = {name: tensor.to("meta") for name, tensor in payload.items()}
    assert message_bytes(on_meta) == len(save(payload))


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))


def module(**options: object) -> FederatedModule:
    return FederatedModule(Classifier(network(), 3), FedAvg(), **options)  # type: ignore[arg-type]


def test_sizes_by_hand() -> None:
    with torch.device("meta"):
        sizes = footprint(module(participation=0.5), clients=10, rounds=7)
    parameters = (4 * 6 + 6) + (6 + 6) + (6 * 3 + 3)
    assert sizes.coordinates == sizes.seen == parameters + 12
    assert [(part.name, part.numbers) for part in sizes.components] == [("parameters", parameters), ("buffers", 13)]
    assert (sizes.clients, sizes.participants) == (10, 5)
    assert sizes.upload == 4 * sizes.coordinates
    assert sizes.round_bytes == 2 * 5 * 4 * sizes.coordinates
    assert sizes.run_bytes == 7 * sizes.round_bytes
    assert sizes.uploads_in_memory == 5 * 4 * sizes.coordinates
    assert sizes.client_disk == 0
    assert sizes.share_of_whole == sizes.coordinates / parameters
    state = Classifier(network(), 3).state_dict()
    assert sizes.message == len(save(dict(state)))


def test_what_the_rule_does_not_see_is_told() -> None:
    sizes = footprint(module(include_buffers=False), clients=2, rounds=1)
    assert sizes.coordinates - sizes.seen == 12


@pytest.mark.parametrize(
    "optimizer",
    [
        partial(AdamW, lr=0.1),
        partial(AdamW, lr=0.1, amsgrad=True),
        partial(SGD, lr=0.1, momentum=0.9),
        partial(SGD, lr=0.1),
    ],
)
def test_the_state_of_an_optimiser_is_as_large_as_foretold(optimizer: "partial[torch.optim.Optimizer]") -> None:
    net = network()
    net(torch.randn(5, 4)).sum().backward()
    training = ClientTraining(optimizer=optimizer, keep_optimizer=True)
    stepped = training.optimizer(net.parameters())
    stepped.step()
    kept = sum(tensor.numel() * tensor.element_size() for tensor in optimizer_tensors(stepped).values())
    assert optimizer_bytes(training, net.parameters()) == kept
    sizes = footprint(module(client=training), clients=4, rounds=1)
    assert sizes.client_disk == 4 * 3 * kept


def test_layers_are_grouped_behind_what_their_names_share() -> None:
    tensors: dict[str, Tensor] = {f"network.{name}": tensor for name, tensor in network().state_dict().items()}
    names = [f"network.{name}" for name, _ in network().named_parameters()]
    assert [line.split() for line in layer_table(tensors, names).splitlines()] == [
        ["layer", "parameters", "buffers", "counters"],
        ["0", "30", "0", "0"],
        ["1", "12", "12", "1"],
        ["2", "21", "0", "0"],
        ["together", "63", "12", "1"],
    ]


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (999_999, "1 MB"), (59_833_316, "59.83 MB")]
)
def test_sizes_are_rounded_once(count: int, text: str) -> None:
    assert size(count) == text
