"""Tasks of the Medical Segmentation Decathlon, and everything that is laid out like them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsam.intensity import Percentiles
from fedsam.readers.nifti import NiftiCase, stem
from fedsam.readers.site_table import read_table, split_of
from fedsam.volumes import Split, VolumeSets, VolumeSource, label_classes
from shared.data.sources import existing
from shared.errors import UsageError


class Decathlon(VolumeSource):
    """``dataset.json`` beside ``imagesTr/`` and ``labelsTr/``, divided among sites by a table.

    Classes are those of ``dataset.json``; values are scaled to [0, 1] between two percentiles of each volume, since
    scanners differ by more than a factor of ten.

    Source of the layout: Antonelli et al., *The Medical Segmentation Decathlon*, Nature Communications 13:4128, 2022.

    Args:
        root: The folder of ``dataset.json``, as ``Task04_Hippocampus``.
        sites: A table with the columns ``case, site, split`` (and perhaps ``patient``); without it there is one site
            called ``all``, and every labelled case is for training.
        labels: Name of each foreground class to its value or values, instead of those of ``dataset.json``.
        percentiles: Of each volume, lower and upper.
        channel: Which one to take where scans have several (0 is the first).
        slice_axis: Which of the files' axes counts slices.
        tolerance: How far in mm scan and mask may lie apart.
        name: What the data are called; without it as ``dataset.json`` says.
        provenance: Whether the scans are real, derived or synthetic; without it as ``dataset.json`` says, else real.
    """

    def __init__(
        self,
        root: str | Path,
        sites: str | Path | None = None,
        labels: Mapping[str, int | Sequence[int]] | None = None,
        percentiles: tuple[float, float] = (1.0, 99.0),
        channel: int | None = None,
        slice_axis: int = 2,
        tolerance: float = 0.5,
        name: str | None = None,
        provenance: str | None = None,
    ) -> None:
        if not 0 <= percentiles[0] < percentiles[1] <= 100:
            raise UsageError(f"data.source.percentiles must rise within 0..100, got {list(percentiles)}")
        if slice_axis not in (0, 1, 2):
            raise UsageError(f"data.source.slice_axis must be 0, 1 or 2, got {slice_axis}")
        self.root = Path(root)
        self.sites = None if sites is None else Path(sites)
        self.labels = labels
        self.normalisation = Percentiles(*percentiles)
        self.channel, self.slice_axis, self.tolerance = channel, slice_axis, tolerance
        self.name, self.provenance = name, provenance

    def load(self) -> VolumeSets:
        root = existing(self.root, "data.source.root", "folder").expanduser()
        content = _dataset_json(root / "dataset.json")
        names, classes = label_classes(self.labels if self.labels is not None else _labels(content, root))
        pairs = _pairs(content, root)
        if self.sites is None:
            rows: list[tuple[str, str, Split, str | None]] = [(case, "all", "train", None) for case in pairs]
        else:
            table = read_table(self.sites, "data.source.sites", ("case", "site", "split"))
            rows = [
                (
                    row["case"],
                    row["site"],
                    split_of(row["split"], "data.source.sites", self.sites, number),
                    row.get("patient"),
                )
                for number, row in enumerate(table, start=2)
            ]
        cases: dict[Split, list[NiftiCase]] = {"train": [], "validation": [], "test": []}
        for case, site, split, patient in rows:
            if case not in pairs:
                raise UsageError(
                    f"data.source.sites: every case must be listed in dataset.json, {self.sites} names {case}"
                )
            cases[split].append(
                NiftiCase(
                    site=site,
                    case=case,
                    patient=patient or None,
                    provenance=self.provenance or content.get("provenance", "real"),  # type: ignore[arg-type]
                    image=pairs[case][0],
                    label=pairs[case][1],
                    classes=classes,
                    normalisation=self.normalisation,
                    slice_axis=self.slice_axis,
                    channel=self.channel,
                    tolerance=self.tolerance,
                )
            )
        return VolumeSets(
            self.name or str(content.get("name", root.name)), names, cases["train"], cases["validation"], cases["test"]
        )


def _dataset_json(path: Path) -> dict[str, Any]:
    option = "data.source.root: dataset.json of the Decathlon"
    try:
        content = json.loads(existing(path, option, "file").read_text(encoding="utf-8"))
    except ValueError as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{option} must be JSON, {path} is not ({error})") from error
    if not isinstance(content, dict) or not isinstance(content.get("training"), list) or not content["training"]:
        raise UsageError(f"{option} must list the pairs of image and label under 'training', {path} has none")
    return content


def _labels(content: dict[str, Any], root: Path) -> dict[str, int]:
    """Foreground names to values; the Decathlon writes ``{"1": "liver"}``, nnU-Net ``{"liver": 1}``."""
    try:
        pairs = [
            (str(name), int(value)) if str(value).isdecimal() else (str(value), int(name))
            for value, name in ((second, first) for first, second in content["labels"].items())
        ]
    except (KeyError, AttributeError, ValueError, TypeError) as error:
        raise UsageError(
            f"data.source.root: dataset.json must name the labels by number, {root} has {content.get('labels')}"
        ) from error
    return {name: value for name, value in sorted(pairs, key=lambda pair: pair[1]) if value != 0}


def _pairs(content: dict[str, Any], root: Path) -> dict[str, tuple[Path, Path]]:
    pairs: dict[str, tuple[Path, Path]] = {}
    for entry in content["training"]:
        if not isinstance(entry, dict) or not {"image", "label"} <= entry.keys():
            raise UsageError(f"data.source.root: dataset.json must list pairs of image and label, {root} has {entry}")
        image, label = (root / str(entry[part]) for part in ("image", "label"))
        for path in (image, label):
            if not path.is_file():
                raise UsageError(f"data.source.root: every file of dataset.json must exist, {path} does not")
        pairs[stem(image)] = (image, label)
    return pairs
