from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor
from torchvision.transforms import v2

from shared.data.datamodule import ClassificationDataModule
from shared.data.labelled_images import LabelledImages
from shared.data.partition import IID, ByColumn, Dirichlet
from shared.data.sources import ImageSets, Source
from shared.errors import UsageError


class Numbered(Source):
    """Grey pictures whose every pixel is the picture's number, so that batches tell which items they hold."""

    def __init__(self, train: int = 60, test: int = 20, validation: int = 0, classes: int = 3) -> None:
        self.sizes = {"train": train, "test": test, "validation": validation}
        self.classes = classes
        self.loads = 0

    def load(self) -> ImageSets:
        self.loads += 1
        sets: dict[str, LabelledImages] = {}
        first = 0
        for part, count in self.sizes.items():
            if count:
                numbers = np.arange(first, first + count)
                images = np.broadcast_to(numbers.astype(np.uint8)[:, None, None], (count, 6, 8)).copy()
                columns = {"patient": numbers // 4, "center": numbers % 3}
                names = [f"class {c}" for c in range(self.classes)]
                sets[part] = LabelledImages(
                    images, numbers % self.classes, names, name=part, provenance="synthetic", columns=columns
                )
                first += count
        return ImageSets(**sets)


PLAIN: dict[str, Any] = {"mean": [0.0], "std": [1 / 255]}  # a normalised pixel is the byte


def module(**options: Any) -> ClassificationDataModule:
    return ClassificationDataModule(**{"source": Numbered(), "batch_size": 8, "partition": IID()} | PLAIN | options)


def numbers(batches: Any) -> list[list[int]]:
    return [images[:, 0, 0, 0].round().int().tolist() for images, _ in batches]


def flat(batches: Any) -> list[int]:
    return list(chain.from_iterable(numbers(batches)))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_each_client_sees_its_items_once_per_pass_in_a_new_order() -> None:
    data = module(clients=3)
    seen: list[int] = []
    for client in data.client_ids:
        loader = data.client_loader(client, generator())
        first, second = flat(loader), flat(loader)
        assert first != second
        assert sorted(first) == sorted(second)
        seen += first
        assert len(data.client_dataset(client)) == len(first)
    assert sorted(seen) == list(range(60))


def test_batches_are_normalised_float32_with_int64_labels() -> None:
    images, labels = next(iter(module(mean=[0.5], std=[0.25], channels=3).client_loader(0, generator())))
    assert (images.shape, images.dtype) == ((8, 3, 6, 8), torch.float32)
    assert (labels.shape, labels.dtype) == ((8,), torch.int64)
    number = ((images * 0.25 + 0.5) * 255).round().long()
    assert (number == number[:, :1, :1, :1]).all()
    assert (number[:, 0, 0, 0] % 3 == labels).all()
    item, label = module().client_dataset(0)[5]
    assert (item.shape, item.dtype, label) == ((1, 6, 8), torch.float32, 2)


@pytest.mark.parametrize("workers", [0, 2])
def test_order_and_augmentation_follow_from_the_generator_alone(workers: int) -> None:
    augment = [v2.RandomAffine(20, translate=(0.2, 0.2)), v2.ColorJitter(0.5)]
    data = module(augment=augment, num_workers=workers)
    reference = module(augment=augment)

    def two_passes(owner: ClassificationDataModule, seed: int) -> Tensor:
        loader = owner.client_loader(0, generator(seed))
        return torch.cat([images for _ in range(2) for images, _ in loader])

    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = two_passes(data, seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(first, two_passes(reference, seed=4))
    assert not torch.equal(first, two_passes(reference, seed=5))


def test_augmentation_differs_between_items_and_passes_and_spares_evaluation() -> None:
    data = module(augment=[v2.ColorJitter(brightness=(0.1, 0.9))], source=Numbered(train=8))
    loader = data.client_loader(0, generator())
    first, second = set(flat(loader)), set(flat(loader))
    assert first != second
    assert flat(data.test_dataloader()) == list(range(8, 28))


def test_augmentation_must_keep_bytes() -> None:
    data = module(augment=[v2.ToDtype(torch.float32, scale=True)])
    with pytest.raises(UsageError, match=r"data.augment must keep images uint8 with 1 channels .*, got torch.float32"):
        next(iter(data.client_loader(0, generator())))


def test_a_last_batch_of_one_is_left_out_and_larger_ones_are_kept() -> None:
    sizes = {
        count: list(map(len, numbers(module(source=Numbered(train=count)).client_loader(0, generator()))))
        for count in (24, 25, 26)
    }
    assert sizes == {24: [8, 8, 8], 25: [8, 8, 8], 26: [8, 8, 8, 2]}
    pooled = module(source=Numbered(train=25))
    assert list(map(len, numbers(pooled.train_dataloader()))) == [8, 8, 8]
    assert len(pooled.client_loader(0, generator())) == 3


def test_evaluation_is_whole_and_in_order() -> None:
    data = module(eval_batch_size=7)
    assert flat(data.test_dataloader()) == flat(data.predict_dataloader()) == list(range(60, 80))
    assert data.val_is_test
    assert flat(data.val_dataloader()) == list(range(60, 80))


def test_validation_is_stratified_and_held_out() -> None:
    data = module(validation=0.2, clients=2)
    assert not data.val_is_test
    held = flat(data.val_dataloader())
    assert np.bincount(np.array(held) % 3).tolist() == [4, 4, 4]
    assert sorted(held + flat(data.train_dataloader())) == list(range(60))


def test_groups_stay_whole() -> None:
    data = module(source=Numbered(test=0), test=0.2, validation=0.2, group="patient")
    parts = [flat(data.train_dataloader()), flat(data.val_dataloader()), flat(data.test_dataloader())]
    assert sorted(chain.from_iterable(parts)) == list(range(60))
    patients = [{number // 4 for number in part} for part in parts]
    assert sum(map(len, patients)) == len(set().union(*patients)) == 15


def test_a_leak_in_the_source_is_found() -> None:
    with pytest.raises(UsageError, match=r"no patient may be in both train and test, but these are: 7"):
        module(source=Numbered(train=30), group="patient").setup()


def test_the_validation_set_of_the_source_is_used() -> None:
    data = module(source=Numbered(validation=10))
    assert not data.val_is_test
    assert flat(data.val_dataloader()) == list(range(80, 90))


def test_fraction_thins_the_training_set_only() -> None:
    data = module(fraction=0.1, clients=2)
    assert data.describe()["images"] == {"train": 6, "test": 20}
    assert data.describe()["class_counts"]["train"] == [2, 2, 2]


def test_splits_have_independent_streams() -> None:
    without, other = module(clients=4, partition=Dirichlet(2.0)), module(clients=4, partition=Dirichlet(2.0), test=0.0)
    assert without.describe()["clients"] == other.describe()["clients"]
    assert without.describe()["clients"] != module(clients=4, partition=Dirichlet(2.0), seed=1).describe()["clients"]
    thin = module(validation=0.2, fraction=0.5)
    assert flat(thin.val_dataloader()) == flat(module(validation=0.2).val_dataloader())


def test_statistics_come_from_the_training_pixels() -> None:
    data = module(mean=None, std=None, fraction=0.5)
    images = torch.cat([images for images, _ in data.train_dataloader()])
    assert abs(float(images.mean())) < 1e-5
    assert abs(float(images.std(unbiased=False)) - 1) < 1e-5


def test_facts_for_the_model_and_the_report() -> None:
    source = Numbered()
    data = module(source=source, clients=3, partition=ByColumn("center"), image_size=10, channels=3)
    assert source.loads == 0
    data.setup("fit")
    data.setup("test")
    assert (data.num_classes, data.in_channels, data.image_size, data.num_clients) == (3, 3, (10, 10), 3)
    assert (data.provenance, data.data_name, data.class_names[0]) == ("synthetic", "train", "class 0")
    assert source.loads == 1
    assert data.describe() == {
        "name": "train",
        "provenance": "synthetic",
        "class_names": ["class 0", "class 1", "class 2"],
        "images": {"train": 60, "test": 20},
        "class_counts": {"train": [20, 20, 20], "test": [7, 7, 6]},
        "clients": {"0": [20, 0, 0], "1": [0, 20, 0], "2": [0, 0, 20]},
        "partition": "ByColumn(column='center', merge=False, min_size=2)",
        "image_shape": [3, 10, 10],
        "mean": [0.0],
        "std": [1 / 255],
        "validated_on": "test",
        "seed": 73,
    }
    assert data.train_dataset.labels.tolist() == [i % 3 for i in range(60)]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"clients": 0}, "data.clients must be at least 1, got 0"),
        ({"batch_size": 1}, "data.batch_size must be at least 2, got 1"),
        ({"eval_batch_size": 0}, "data.eval_batch_size must be at least 1, got 0"),
        ({"image_size": 0}, "data.image_size must be at least 1, got 0"),
        ({"num_workers": -1}, "data.num_workers must be at least 0, got -1"),
        ({"seed": -1}, "data.seed must be at least 0, got -1"),
        ({"validation": 1.0}, r"data.validation must lie in \[0, 1\), got 1.0"),
        ({"test": -0.1}, r"data.test must lie in \[0, 1\), got -0.1"),
        ({"fraction": 0.0}, r"data.fraction must lie in \(0, 1\], got 0.0"),
        ({"channels": 2}, "data.channels must be 1, 3 or null, got 2"),
        ({"std": None}, "data.mean and data.std must be given together, got mean .* and std None"),
        ({"std": [0.0]}, r"data.std must be positive, got \[0.0\]"),
        ({"mean": [0.0, 0.0]}, r"must have 1 or 1 values for images of 1 channels, got \[0.0, 0.0\]"),
        ({"test": 0.1}, "data.test must be 0 where the source has a test set, got 0.1"),
        ({"source": Numbered(test=0)}, "data.test must be above 0 where the source has no test set, got 0.0"),
        ({"source": Numbered(validation=9), "validation": 0.1}, "data.validation must be 0 where the source has a"),
        ({"group": "person"}, "data.group must name a column of the data, got 'person' of patient, center in train"),
        ({"clients": 40}, "data.clients must leave every client 2 items .*, got 40 clients for 60 items"),
    ],
)
def test_bad_options_are_told_in_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        module(**options).setup()


def test_an_unknown_client_is_refused() -> None:
    with pytest.raises(UsageError, match=r"client ids lie in 0..2 \(data.clients\), got 3"):
        module(clients=3).client_dataset(3)


def parse(words: Sequence[str]) -> ClassificationDataModule:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(ClassificationDataModule, "data")
    parsed = parser.parse_args([*words])
    parser.parse_string(parser.dump(parsed))  # a written configuration can be read again
    return parser.instantiate(parsed).data


def test_options_from_the_command_line() -> None:
    source = ["--data.source", "shared.data.npz.Npz", "--data.source.path", "x.npz", "--data.source.columns", "[who]"]
    assert parse(source).partition == Dirichlet(1.0)
    data = parse(
        [
            *source,
            *("--data.partition", "shared.data.partition.Dirichlet", "--data.partition.alpha", "0.5"),
            *("--data.augment", '[{"class_path": "torchvision.transforms.v2.RandomHorizontalFlip"}]'),
            *("--data.mean", "[0.1, 0.2, 0.3]", "--data.std", "[1, 1, 1]", "--data.channels", "3"),
        ]
    )
    assert data.partition == Dirichlet(0.5)
    assert isinstance((data.augment or [])[0], v2.RandomHorizontalFlip)
    assert data.channels == 3


def test_what_the_server_keeps_is_no_client_s_and_leaves_the_other_draws_alone() -> None:
    data = module(clients=3, server_samples=12)
    kept = flat(data.server_loader(generator()))
    clients = [flat(data.client_loader(k, generator())) for k in data.client_ids]
    assert len(kept) == len(set(kept)) == 12
    assert sorted([*kept, *chain.from_iterable(clients)]) == list(range(60))
    assert sorted(flat(module(clients=3, server_samples=12).server_loader(generator(1)))) == sorted(kept)
    assert sorted(flat(module(clients=3, server_samples=12, seed=5).server_loader(generator()))) != sorted(kept)
    assert data.describe()["images"]["server"] == 12
    with pytest.raises(UsageError, match=r"data.server_samples must be above 0 where the server trains, got 0"):
        module().server_loader(generator())
    with pytest.raises(UsageError, match=r"data.server_samples must leave images to the clients, got 60 of 60"):
        module(server_samples=60).client_loader(0, generator())
