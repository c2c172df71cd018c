"""Pretraining as a run: resume, guard, monitors, checkpoints, several processes."""

import functools
import inspect
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim import SGD
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset

from shared.checkpoints import AtomicCheckpointIO
from shared.errors import RunError, UsageError
from usssl.backbones import build_backbone
from usssl.fetal_heart_phantom.source import PhantomPlanes
from usssl.labelled import Part, PlaneDataModule
from usssl.learning_rates import Constant, Cosine, StepDecay, WarmupCosine
from usssl.methods import BYOL, METHODS, BarlowTwins, Method, SimCLR
from usssl.online_probe import OnlineProbe
from usssl.pretraining import Pretraining

TINY = "timm:test_resnet"
SMALL = {"hidden": 32, "width": 16, "queue_size": 10}


def small(method: type[Method]) -> dict[str, int]:
    """Of :data:`SMALL` what the method takes."""
    takes = inspect.signature(method).parameters
    return {name: value for name, value in SMALL.items() if name in takes}


class EpochOrder(Sampler[int]):
    """An order that depends on the epoch alone."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        yield from torch.randperm(self.count, generator=torch.Generator().manual_seed(self.epoch)).tolist()

    def __len__(self) -> int:
        return self.count


class Frames(Dataset[Any]):
    """Random pictures in the form that a method wants."""

    def __init__(self, name: str, count: int = 12, side: int = 32) -> None:
        self.name = name
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(count, 3, side, side, generator=generator)
        self.others = self.images + 0.3 * torch.randn(count, 3, side, side, generator=generator)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        if self.name in ("autoencoder", "denoise"):
            return (self.images[index],)
        views = (self.images[index], self.others[index])
        return {"views": views, "labels": index % 2} if self.name == "barlowtwins_supcon" else views


class FrameData(LightningDataModule):
    def __init__(self, name: str, batch_size: int = 4) -> None:
        super().__init__()
        self.frames = Frames(name)
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader[Any]:
        order = EpochOrder(len(self.frames))
        return DataLoader(self.frames, batch_size=self.batch_size, sampler=order, drop_last=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.frames, batch_size=10)  # the last batch is short


class Batches(FrameData):
    """Batches ready made, of which nobody says their size."""

    def train_dataloader(self) -> DataLoader[Any]:
        views = [tuple(torch.stack(part) for part in zip(*[self.frames[i] for i in range(4)], strict=True))]
        return DataLoader(views, batch_size=None)


def module(name: str = "simclr", **arguments: Any) -> Pretraining:
    given = {"lr_schedule": WarmupCosine(1) if name in ("barlowtwins", "vicreg") else None}
    method = functools.partial(METHODS[name], **small(METHODS[name]))
    if name == "barlowtwins_supcon":
        given["lr_schedule"] = WarmupCosine(1)
    return Pretraining(method, TINY, **(given | arguments))


def trainer(folder: Path, epochs: int, *callbacks: Callback, **arguments: Any) -> Trainer:
    return Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        plugins=[AtomicCheckpointIO()],
        callbacks=list(callbacks),
        **arguments,
    )


class Losses(Callback):
    """The mean loss of each epoch."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.values.append(float(trainer.callback_metrics["train/loss"]))


@pytest.mark.parametrize("name", METHODS)
def test_two_epochs_and_two_more_are_four(name: str, tmp_path: Path) -> None:
    whole, halves = Losses(), Losses()
    four = module(name, epochs=4)
    through = trainer(tmp_path, 4, whole)
    through.fit(four, FrameData(name))
    first = trainer(tmp_path, 2, halves)
    first.fit(module(name, epochs=4), FrameData(name))
    first.save_checkpoint(tmp_path / "half.ckpt")
    second = trainer(tmp_path, 4, halves)
    resumed = module(name, epochs=4, seed=5)  # everything comes from the checkpoint, but what the seed draws later
    resumed.seed = four.seed
    second.fit(resumed, FrameData(name), ckpt_path=tmp_path / "half.ckpt")
    assert halves.values == whole.values
    assert len(set(whole.values)) == 4
    states = [run.lightning_module.state_dict() for run in (through, second)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    optima = [run.optimizers[0].state_dict()["state"] for run in (through, second)]
    for index, state in optima[0].items():
        assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(optima[1][index][k])) for k, v in state.items())
    assert through.global_step == second.global_step == 12


class Rates(Callback):
    """Learning rate of every group at every step."""

    def __init__(self) -> None:
        self.values: list[list[float]] = []

    def on_train_batch_end(self, trainer: Trainer, *rest: Any) -> None:
        self.values.append([group["lr"] for group in trainer.optimizers[0].param_groups])


def test_learning_rates_follow_the_batch_size_and_the_true_steps(tmp_path: Path) -> None:
    rates = Rates()
    trainer(tmp_path, 3, rates).fit(module("barlowtwins"), FrameData("barlowtwins"))
    factors = [0, 1 / 3, 2 / 3]
    for t in range(6):
        q = (1 + math.cos(math.pi * t / 6)) / 2
        factors.append(q + 0.001 * (1 - q))
    for t, (matrices, vectors) in enumerate(rates.values):
        assert matrices == pytest.approx(0.2 * 4 / 256 * factors[t])
        assert vectors == pytest.approx(0.0048 * 4 / 256 * factors[t])
    rates = Rates()
    trainer(tmp_path, 4, rates).fit(module(lr_schedule=Cosine("reference")), FrameData("simclr"))
    assert [row[0] for row in rates.values[::3]] == pytest.approx([0.3, 0.225, 0.075, 0])


class Poison(Callback):
    """Puts NaN into some batches."""

    def __init__(self, batches: set[int]) -> None:
        self.batches = batches

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx in self.batches:
            batch[0].fill_(torch.nan)


def test_a_batch_that_is_no_number_is_skipped(tmp_path: Path) -> None:
    class Before(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            self.state = {key: p.detach().clone() for key, p in pl_module.named_parameters()}

        def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *rest: Any) -> None:
            same = all(torch.equal(p, self.state[key]) for key, p in pl_module.named_parameters())
            assert same == (rest[2] == 1)

    model = module()
    run = trainer(tmp_path, 1, Poison({1}), Before())
    run.fit(model, FrameData("simclr"))
    assert model.guard.skipped == 1
    assert run.global_step == 2
    assert run.callback_metrics["train/skipped"] == 1


def test_too_many_of_them_end_the_run(tmp_path: Path) -> None:
    model = module(max_non_finite=2)
    with pytest.raises(
        RunError, match=r"loss was not finite in 2 batches in a row, .* batch 2 of epoch 0 \(learning rate"
    ):
        trainer(tmp_path, 1, Poison({1, 2})).fit(model, FrameData("simclr"))


def test_a_gradient_that_is_no_number_is_skipped(tmp_path: Path) -> None:
    class Rooted(SimCLR):
        def loss(self, batch: Any) -> Tensor:
            return super().loss(batch) + (next(self.parameters()) * 0).sum().sqrt()  # its gradient is 0 times infinity

    model = Pretraining(functools.partial(Rooted, hidden=32, width=16), TINY)
    trainer(tmp_path, 1).fit(model, FrameData("simclr"))
    assert model.guard.skipped == 3


def test_monitors_and_probe_are_logged(tmp_path: Path) -> None:
    class Labelled(PlaneDataModule):
        num_classes = 2  # type: ignore[assignment]

        def setup(self, stage: str | None = None) -> None:
            """Nothing to read."""

        def plain_dataloader(self, part: Part) -> DataLoader[Any]:
            images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(1))
            labels = torch.arange(16) % 2
            return DataLoader(TensorDataset(images + 3 * labels[:, None, None, None], labels), batch_size=8)

        def train_dataloader(self) -> DataLoader[Any]:
            raise AssertionError("the probe must not see augmented images")

    run = trainer(tmp_path, 2)
    model = module(probe=OnlineProbe(Labelled(PhantomPlanes()), every=2, k=3))
    run.fit(model, FrameData("simclr"))
    logged = run.callback_metrics
    assert logged["probe/knn_macro_f1"] == 1
    assert logged["probe/linear_macro_f1"] == 1
    assert 0 < logged["collapse/relative_deviation"] < 1.2
    assert 1 <= logged["collapse/effective_rank"] <= 4
    assert model.backbone.training


@pytest.mark.filterwarnings("ignore:Total length of .* across ranks is zero")
def test_options_and_checkpoints_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    data = FrameData("simclr")
    with pytest.raises(UsageError, match=r"warmup_epochs must be fewer than the epochs of the training \(3\), got 10"):
        trainer(tmp_path, 3).fit(module(lr_schedule=WarmupCosine()), data)
    with pytest.raises(UsageError, match=r"model.epochs must be at least trainer.max_epochs \(3\), got 2"):
        trainer(tmp_path, 3).fit(module(epochs=2), data)
    with pytest.raises(UsageError, match=r"trainer.max_epochs must be at least 1"):
        trainer(tmp_path, -1).fit(module(), data)
    with pytest.raises(UsageError, match="at least one whole batch of the training frames, got 0 batches"):
        trainer(tmp_path, 3).fit(module(), FrameData("simclr", batch_size=13))
    with pytest.raises(UsageError, match=r"model.lr_batch must not be negative, got -1"):
        module(lr_batch=-1)
    with pytest.raises(UsageError, match=r"model.epochs must be at least 1, got 0"):
        module(epochs=0)
    run = trainer(tmp_path, 1)
    run.fit(module(), data)
    run.save_checkpoint(tmp_path / "one.ckpt")
    with pytest.raises(UsageError, match="ckpt_path must be of BYOL on timm:test_resnet, got SimCLR on"):
        trainer(tmp_path, 2).fit(module("byol"), FrameData("byol"), ckpt_path=tmp_path / "one.ckpt")
    with pytest.raises(UsageError, match="ckpt_path must be a checkpoint of usssl pretrain, got another one"):
        module().on_load_checkpoint({"state_dict": {}})
    with pytest.raises(UsageError, match=r"lr_schedule.epochs must be at least 1, got 0"):
        StepDecay(0)
    with pytest.raises(UsageError, match=r"lr_schedule.gamma must be positive, got 0"):
        StepDecay(gamma=0)
    with pytest.raises(UsageError, match=r"model.lr_batch must be 0 where the data do not say their batch size"):
        trainer(tmp_path, 1).fit(module(lr_batch=256), Batches("simclr"))
    with pytest.raises(UsageError, match=r"data.views must make an erased image and the whole one for Inpaint"):
        METHODS["inpaint"](build_backbone(TINY)).pair(torch.zeros(2, 3, 32, 32))


def test_options_of_the_probe_are_checked(small_planes: PhantomPlanes) -> None:
    data = PlaneDataModule(small_planes)
    with pytest.raises(UsageError, match=r"probe.every must be at least 1, got 0"):
        OnlineProbe(data, every=0)
    with pytest.raises(UsageError, match=r"probe.k must be at least 1, got 0"):
        OnlineProbe(data, k=0)


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = module(seed=3)
    state = torch.get_rng_state()
    second = module(seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    pairs = list(zip(first.parameters(), second.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), module(seed=4).parameters(), strict=True))


def test_validation_moves_nothing(tmp_path: Path) -> None:
    model = module("moco")
    before = {key: t.clone() for key, t in model.state_dict().items()}
    run = trainer(tmp_path, 1)
    run.validate(model, DataLoader(Frames("moco"), batch_size=5), verbose=False)  # the last batch is short
    assert all(torch.equal(t, before[key]) for key, t in model.state_dict().items())
    assert run.callback_metrics["val/loss"].isfinite()


# ---------------------------------------------------------------------- several processes


def one_step(model: Pretraining, views: list[Tensor]) -> dict[str, Tensor]:
    """Loss and gradients of a batch without a trainer."""
    model.train()
    loss = model.method.loss(views)
    loss.backward()
    grads = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **grads}


def distributed_model(name: str) -> Pretraining:
    method = functools.partial(METHODS[name], **small(METHODS[name]))
    return Pretraining(method, TINY, seed=1).double()


def worker(rank: int, name: str, folder: str) -> None:
    import torch.distributed as dist

    from usssl.synchronised_batchnorm import synchronise_batchnorm

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    model = distributed_model(name)
    synchronise_batchnorm(model.method, torch.device("cpu"))
    batch = [view.double()[4 * rank : 4 * rank + 4] for view in (Frames(name, 8).images, Frames(name, 8).others)]
    found = one_step(model, batch)
    for tensor in found.values():  # what DistributedDataParallel does with gradients
        dist.all_reduce(tensor)
        tensor /= 2
    model.method.after_step()
    if rank == 0:
        buffers = {f"buffer {key}": t for key, t in model.named_buffers()}
        torch.save(found | buffers, os.path.join(folder, "found.pt"))
    dist.destroy_process_group()


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let spawned processes, which get this one's path, import this file under the name it has here."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2])


def check_processes(name: str, folder: Path) -> None:
    torch.multiprocessing.spawn(worker, (name, str(folder)), nprocs=2)
    found = torch.load(folder / "found.pt", weights_only=True)
    model = distributed_model(name)
    wanted = one_step(model, [view.double() for view in (Frames(name, 8).images, Frames(name, 8).others)])
    model.method.after_step()
    wanted |= {f"buffer {key}": t for key, t in model.named_buffers()}
    assert found.keys() == wanted.keys()
    for key, tensor in wanted.items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-7, atol=1e-9, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.usefixtures("importable")
def test_two_processes_are_one_for_barlow_twins(tmp_path: Path) -> None:
    check_processes("barlowtwins", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vicreg", "simclr", "moco", "byol"])
@pytest.mark.usefixtures("importable")
def test_two_processes_are_one(name: str, tmp_path: Path) -> None:
    check_processes(name, tmp_path)


def test_options_of_the_methods_are_checked() -> None:
    for method, arguments, sentence in (
        (SimCLR, {"temperature": 0.0}, "temperature must be positive, got 0.0"),
        (BYOL, {"momentum": 1.5}, r"method.momentum must lie in \[0, 1\], got 1.5"),
        (BYOL, {"ema_schedule": "batch"}, "method.ema_schedule must be epoch or step, got 'batch'"),
    ):
        with pytest.raises(UsageError, match=sentence):
            Pretraining(functools.partial(method, **arguments), TINY)  # type: ignore[arg-type]
    own = Pretraining(
        functools.partial(BarlowTwins, hidden=8, width=8), TINY, optimizer=SGD, lr_schedule=Constant(), lr_batch=0
    )
    assert own.lr_batch == 0
    assert own.describe()["method"] == "BarlowTwins"
