"""What the networks hold, counted: the vectors that travel are these."""

import torch

from fedseca.networks import ResNet18
from shared.federated.vectors import VectorLayout


def test_resnet18_has_the_published_size_and_its_running_statistics_travel() -> None:
    network = ResNet18(3, 10)
    state = network.state_dict()
    layout = VectorLayout(state)
    assert sum(weight.numel() for weight in network.parameters()) == 11_181_642
    assert layout.size == 11_181_642 + 9_600 == 11_191_242
    assert sum(name.endswith("num_batches_tracked") for name in state) == 20
    assert layout.flatten(state).nbytes == 4 * 11_191_242


def test_residual_branches_of_resnet18_start_at_zero() -> None:
    state = ResNet18(3, 10).state_dict()
    last = [weight for name, weight in state.items() if name.endswith("bn2.weight")]
    assert len(last) == 8
    assert all(torch.equal(weight, torch.zeros_like(weight)) for weight in last)
