"""The file of what a client remembers."""

from pathlib import Path

import pytest
import torch

from shared.errors import RunError
from shared.federated.client_states import KEPT, ClientStates, optimizer_tensors, restore_optimizer


def adam() -> torch.optim.Adam:
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(shape)) for shape in ((3, 4), (5,), (2, 1, 2))]
    optimizer = torch.optim.Adam(weights, lr=0.1)
    for _ in range(3):
        sum(weight.square().sum() for weight in weights).backward()  # type: ignore[union-attr]
        optimizer.step()
    return optimizer


def test_states_come_back_bit_for_bit(tmp_path: Path) -> None:
    state = optimizer_tensors(adam()) | {
        "personal/scale": torch.tensor(-0.0),
        "steps/": torch.tensor([7], dtype=torch.int64),
        "half/": torch.tensor([[float("nan"), 1e-7]], dtype=torch.bfloat16),
        "none/": torch.empty(0, 3),
        "turned/": torch.arange(6.0).view(2, 3).T,
    }
    states = ClientStates(tmp_path)
    states.save(1, 0, state)
    found = states.load(1, 0)
    assert list(found) == list(state)
    for name, tensor in state.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert found[name].contiguous().view(-1).tolist().__repr__() == tensor.reshape(-1).tolist().__repr__()


def test_an_optimiser_goes_on_with_what_was_kept(tmp_path: Path) -> None:
    states, before = ClientStates(tmp_path), adam()
    states.save(0, 4, optimizer_tensors(before))
    after = adam()
    for group in after.param_groups:
        after.state.clear()
        assert group["lr"] == 0.1
    restore_optimizer(after, states.load(0, 4))
    for name, tensor in optimizer_tensors(after).items():
        assert torch.equal(tensor, optimizer_tensors(before)[name])


def test_the_newest_are_kept(tmp_path: Path) -> None:
    states = ClientStates(tmp_path)
    for number in range(KEPT + 2):
        states.save(2, number, {"x": torch.tensor(float(number))})
    assert len(list((tmp_path / "client=0002").iterdir())) == KEPT
    assert float(states.load(2, KEPT + 1)["x"]) == KEPT + 1
    with pytest.raises(RunError, match="client 2 after round 0 is missing"):
        states.load(2, 0)


@pytest.mark.parametrize("in_files", [True, False])
def test_a_new_run_in_the_folder_of_an_older_one(tmp_path: Path, in_files: bool) -> None:
    states = ClientStates(tmp_path if in_files else None)
    for round in (7, 8, 9):
        states.save(0, round, {"value": torch.tensor(float(round))})
    for round in (0, 1):
        states.save(0, round, {"value": torch.tensor(-1.0)})
        assert states.load(0, round)["value"] == -1
    assert in_files is False or sorted(p.name for p in tmp_path.rglob("*.safetensors")) == [
        "round=0000.safetensors",
        "round=0001.safetensors",
    ]
