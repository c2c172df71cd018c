import os
from collections.abc import Iterator
from unittest import mock

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

from shared.distributed import WholeOnEveryRank


class Silent(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def test_step(self, batch: list[torch.Tensor], batch_idx: int, dataloader_idx: int) -> None:
        pass


@pytest.fixture
def distributed_trainer() -> Iterator[Trainer]:
    """A trainer that takes itself for one of several ranks, which is what makes Lightning replace samplers."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    with mock.patch.dict(os.environ):
        yield Trainer(accelerator="cpu", devices=1, strategy="ddp", enable_checkpointing=False, **quiet)  # type: ignore[arg-type]
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(("rank", "world"), [(0, 1), (0, 2), (1, 2)])
def test_all_items_in_order_on_every_rank(rank: int, world: int) -> None:
    with (
        mock.patch("torch.distributed.is_available", return_value=True),
        mock.patch("torch.distributed.get_world_size", return_value=world),
        mock.patch("torch.distributed.get_rank", return_value=rank),
    ):
        sampler = WholeOnEveryRank(range(7))
        assert list(sampler) == list(range(7))
        assert len(sampler) == 7
        sampler.set_epoch(3)
        assert list(sampler) == list(range(7))


def test_lightning_leaves_the_sampler_alone(distributed_trainer: Trainer) -> None:
    dataset = TensorDataset(torch.arange(7))
    ours = DataLoader(dataset=dataset, batch_size=2, sampler=WholeOnEveryRank(dataset))
    plain = DataLoader(dataset=dataset, batch_size=2)
    distributed_trainer.test(Silent(), [ours, plain], verbose=False)
    kept, replaced = distributed_trainer.test_dataloaders  # type: ignore[misc]
    assert kept.sampler is ours.sampler
    assert replaced.sampler is not plain.sampler
