"""Volumes of several sites as a LightningDataModule: windows to train on, whole volumes to evaluate."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader
from tqdm import tqdm

from fedsam import ct_kidney_phantom, mini_tissue  # noqa: F401  so that --data.source knows these sources
from fedsam.array_cache import ArrayCache, user_cache_folder
from fedsam.mini_ixi import MiniIxi
from fedsam.readers import decathlon, ixi, kits2019, own_scans, prostate  # noqa: F401  and these
from fedsam.volumes import SPLITS, Case, Split, Volume, VolumeSets, VolumeSource
from fedsam.window_dataset import Augmentation, Batcher, EpochDraws, WholeVolumes, Windows
from fedsam.windows import Interpolation
from shared.data.prepared_images import ShuffledDraws
from shared.distributed import WholeOnEveryRank
from shared.errors import UsageError
from shared.federated.data import RoundClock


@dataclass(frozen=True)
class _Loaded:
    sets: VolumeSets
    cases: dict[Split, list[Case]]
    sites: tuple[str, ...]


class PooledVolumes(LightningDataModule):
    """Windows of five slices for training, whole volumes for validation and test; each site is a client.

    A training batch is ``(images (B, 5, S, S) float32 in about [0, 1], labels (B, 5, S, S) uint8)``, an evaluation
    batch one :class:`~fedsam.volumes.Volume`. All scans are decoded once, when the module is set up, and kept as
    uncompressed arrays that loader workers map into memory.

    Args:
        source: Where the cases come from.
        image_size: S, height and width that windows are resized to.
        stride: Train on every so many-th window of a volume; neighbouring windows share four of five slices.
        batch_size: Samples of five slices.
        validation: Share of each site's training cases to hold out for validation, at least one; 0 validates on the
            source's validation cases if it has some, else on the test cases.
        sites: Use these sites only, in this order; ``None`` uses all. One site trains alone.
        interpolation: How images are resized: ``spline`` as in the reference (it overshoots [0, 1] at edges) or
            ``linear``. Labels take the nearest voxel.
        anti_transposed: Mirror slices at their other diagonal, as the reference's processed data are.
        augment: A random change of training samples; see :class:`~fedsam.window_dataset.Augmentation`.
        cache_dir: Where decoded arrays are kept; ``None`` takes the user's cache folder.
        in_memory: Keep decoded arrays in memory instead.
        cache_dtype: How image values are kept; ``float16`` halves the space.
        num_workers: Loader processes.
        seed: Of the held-out cases; of order and augmentation of the pooled windows where the module that is trained
            has no seed.

    Raises:
        UsageError: An option is out of range.
    """

    def __init__(
        self,
        source: VolumeSource = MiniIxi(),  # noqa: B008 - it holds numbers only
        image_size: int = 96,
        stride: int = 1,
        batch_size: int = 8,
        validation: float = 0.0,
        sites: Sequence[str] | None = None,
        interpolation: Interpolation = "spline",
        anti_transposed: bool = False,
        augment: Augmentation | None = None,
        cache_dir: str | Path | None = None,
        in_memory: bool = False,
        cache_dtype: Literal["float32", "float16"] = "float32",
        num_workers: int = 0,
        seed: int = 73,
    ) -> None:
        super().__init__()
        for option, value, least in (
            ("image_size", image_size, 16),
            ("stride", stride, 1),
            ("batch_size", batch_size, 1),
            ("num_workers", num_workers, 0),
            ("seed", seed, 0),
        ):
            if value < least:
                raise UsageError(f"data.{option} must be at least {least}, got {value}")
        if image_size % 16:
            raise UsageError(f"data.image_size must be a multiple of 16, got {image_size}")
        if not 0 <= validation < 1:
            raise UsageError(f"data.validation must lie in [0, 1), got {validation}")
        if interpolation not in ("spline", "linear"):
            raise UsageError(f"data.interpolation must be spline or linear, got {interpolation!r}")
        if sites is not None and (not sites or len(set(sites)) != len(sites)):
            raise UsageError(f"data.sites must name each site once, got {list(sites)}")
        self.source = source
        self.image_size = image_size
        self.stride = stride
        self.batch_size = batch_size
        self.validation = validation
        self.chosen_sites = sites
        self.interpolation: Interpolation = interpolation
        self.anti_transposed = anti_transposed
        self.augment = augment
        folder = None if in_memory else Path(cache_dir) if cache_dir is not None else user_cache_folder()
        self.cache = ArrayCache(folder, cache_dtype)
        self.num_workers = num_workers
        self.seed = seed

    def setup(self, stage: str | None = None) -> None:
        """List the cases and decode those that are not cached yet; a second call does nothing."""
        cases = [case for split in SPLITS for case in self._loaded.cases[split]]
        for case in tqdm(cases, desc="reading volumes", unit="volume", leave=False, delay=3):
            if not self.cache.facts(case)["labelled"]:
                raise UsageError(f"data.source: every case must have a mask, {case.case} of {case.site} has none")

    @property
    def sites(self) -> tuple[str, ...]:
        """Name of each client, in the order of their ids."""
        return self._loaded.sites

    @property
    def client_ids(self) -> list[int]:
        """``0 .. K-1``."""
        return list(range(len(self.sites)))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Background and the foreground classes, in the order of their labels."""
        return self._loaded.sets.class_names

    @property
    def num_classes(self) -> int:
        """Number of foreground classes C."""
        return len(self.class_names) - 1

    @property
    def data_name(self) -> str:
        """What the data are called."""
        return self._loaded.sets.name

    @property
    def provenance(self) -> str:
        """The least real of the training and test cases: ``synthetic``, ``derived`` or ``real``.

        Each volume carries its own.
        """
        found = {case.provenance for split in SPLITS for case in self._loaded.cases[split]}
        return next(kind for kind in ("synthetic", "derived", "real") if kind in found)

    @property
    def published_weights(self) -> list[float] | None:
        """Each client's published weight in the server's average, scaled to sum 1; ``None`` if there are none."""
        weights = self._loaded.sets.weights
        if not set(self.sites) <= weights.keys():
            return None
        total = sum(weights[site] for site in self.sites)
        return [weights[site] / total for site in self.sites]

    @property
    def val_is_test(self) -> bool:
        """Whether :meth:`val_dataloader` gives the test cases, so that its metrics must be called ``test/...``."""
        return not self._loaded.cases["validation"]

    def cases(self, split: Split, client: int | None = None) -> list[Case]:
        """The cases of one set, of all clients or of one.

        Raises:
            UsageError: There is no such client.
        """
        if client is not None and client not in self.client_ids:
            raise UsageError(f"client ids lie in 0..{len(self.sites) - 1} (the sites of data.source), got {client}")
        wanted = None if client is None else self.sites[client]
        return [case for case in self._loaded.cases[split] if wanted in (None, case.site)]

    def train_dataset(self, client: int | None = None) -> Windows:
        """The training windows of all clients, or of one."""
        sample_by_sample = self.augment if self.augment is not None and not self.augment.batched else None
        return Windows(
            self.cache,
            self.cases("train", client),
            self.image_size,
            self.stride,
            self.interpolation,
            self.anti_transposed,
            sample_by_sample,
        )

    def client_loader(self, client: int, generator: torch.Generator) -> DataLoader[Any]:
        """Shuffled batches of one client, each window once per pass.

        Order and augmentation follow from ``generator`` alone, whatever the number of workers; every pass advances
        it. torch's global generator is neither read nor changed.
        """
        dataset = self.train_dataset(client)
        return self._train_loader(dataset, ShuffledDraws(len(dataset), generator))

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled batches of the pooled windows; order and augmentation follow from the seed and the epoch.

        The seed is that of the module that is trained, if it has one, so that pooled data of one site come in the
        batches that its client sees in rounds of one pass.
        """
        dataset = self.train_dataset()
        seed = getattr(self.trainer.lightning_module if self.trainer is not None else None, "seed", self.seed)
        return self._train_loader(dataset, EpochDraws(dataset, seed))

    def val_dataloader(self) -> DataLoader[Volume]:
        """The validation volumes in order, or the test volumes if :attr:`val_is_test`."""
        return self._eval_loader("test" if self.val_is_test else "validation")

    def test_dataloader(self) -> DataLoader[Volume]:
        """The test volumes in order.

        Raises:
            UsageError: There is none.
        """
        if not self._loaded.cases["test"]:
            raise UsageError(f"data.source must hold test cases to test on, {self.data_name} has none")
        return self._eval_loader("test")

    def predict_dataloader(self) -> DataLoader[Volume]:
        """The test volumes in order."""
        return self.test_dataloader()

    def describe(self) -> dict[str, Any]:
        """Where the scans come from and who has which, ready for JSON."""
        loaded = self._loaded
        kinds = {split: sorted({case.provenance for case in loaded.cases[split]}) for split in SPLITS}
        return {
            "name": self.data_name,
            "provenance": self.provenance,
            "provenances": {split: kind for split, kind in kinds.items() if kind},
            "class_names": list(self.class_names),
            "volumes": {split: len(loaded.cases[split]) for split in SPLITS},
            "clients": {str(client): self._describe_client(client) for client in self.client_ids},
            "image_size": self.image_size,
            "stride": self.stride,
            "interpolation": self.interpolation,
            "anti_transposed": self.anti_transposed,
            "validated_on": "test" if self.val_is_test else "validation",
            "seed": self.seed,
        }

    def _describe_client(self, client: int) -> dict[str, Any]:
        cases = {split: self.cases(split, client) for split in SPLITS}
        facts = [self.cache.facts(case) for case in cases["train"]]
        voxels = np.zeros(len(self.class_names), np.int64)
        for fact in facts:
            voxels[: len(fact["labels"])] += fact["labels"]
        return {
            "site": self.sites[client],
            "volumes": {split: len(cases[split]) for split in SPLITS},
            "slices": sum(fact["shape"][0] for fact in facts),
            "windows": len(self.train_dataset(client)),
            "voxels": dict(zip(self.class_names, voxels.tolist(), strict=True)),
        }

    @cached_property
    def _loaded(self) -> _Loaded:
        sets = self.source.load()
        sites = sets.sites
        if self.chosen_sites is not None:
            for site in self.chosen_sites:
                if site not in sites:
                    raise UsageError(
                        f"data.sites must name sites with training cases, got {site!r} of {', '.join(sites)}"
                    )
            sites = tuple(self.chosen_sites)
        chosen = {
            split: [case for case in sets.cases(split) if self.chosen_sites is None or case.site in sites]
            for split in SPLITS
        }
        if self.validation > 0:
            if chosen["validation"]:
                raise UsageError(
                    f"data.validation must be 0 where the source has validation cases, got {self.validation}"
                )
            chosen |= self._held_out(chosen["train"], sites)
        if not chosen["test"] and not chosen["validation"]:
            raise UsageError(
                f"data.validation must be above 0 where the source has neither validation nor test cases, "
                f"got {self.validation}"
            )
        return _Loaded(sets, chosen, sites)

    def _held_out(self, train: list[Case], sites: tuple[str, ...]) -> dict[Split, list[Case]]:
        """Whole patients of each site, drawn from a stream of the site's own."""
        held: set[tuple[str, str]] = set()
        for number, site in enumerate(sites):
            patients = list(dict.fromkeys(case.patient or case.case for case in train if case.site == site))
            if len(patients) < 2:
                raise UsageError(
                    f"data.validation must be 0 where a site has one training patient, got {self.validation} and {site}"
                )
            rng = np.random.default_rng(np.random.SeedSequence([self.seed, number]))
            count = min(max(1, round(self.validation * len(patients))), len(patients) - 1)
            held |= {(site, patients[i]) for i in rng.permutation(len(patients))[:count]}
        parts: dict[Split, list[Case]] = {"train": [], "validation": []}
        for case in train:
            parts["validation" if (case.site, case.patient or case.case) in held else "train"].append(case)
        return parts

    def _train_loader(self, dataset: Windows, sampler: Any) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            collate_fn=Batcher(self.augment if self.augment is not None and self.augment.batched else None),
            num_workers=self.num_workers,
            # For the workers' base seed, which decides nothing here: a seed comes with each draw. Not the sampler's
            # generator, whose course would then not be that of the draws alone.
            generator=torch.Generator(),
        )

    def _eval_loader(self, split: Split) -> DataLoader[Volume]:
        dataset = WholeVolumes(self.cache, self._loaded.cases[split], self.anti_transposed)
        return DataLoader(
            dataset,
            batch_size=None,
            sampler=WholeOnEveryRank(dataset),
            collate_fn=_as_it_is,
            num_workers=self.num_workers,
        )


class VolumeDataModule(RoundClock, PooledVolumes):
    """Volumes of several sites for federated, centralised and local training; see :class:`PooledVolumes`."""


def _as_it_is(volume: Any) -> Any:
    return volume
