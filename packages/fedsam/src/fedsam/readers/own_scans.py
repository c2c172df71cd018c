"""A user's own scans: a folder per site, or a table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsam.intensity import HounsfieldWindow, Normalisation, Percentiles
from fedsam.readers.nifti import NiftiCase, scans_in, stem
from fedsam.readers.site_table import read_table, split_of
from fedsam.volumes import Case, Provenance, Split, VolumeSets, VolumeSource, label_classes
from shared.data.sources import existing
from shared.data.split_names import SPLIT_NAMES
from shared.errors import UsageError


class OwnScans(VolumeSource):
    """What the readers of own scans have in common.

    Args:
        labels: Name of each foreground class to its value in the masks, or to several values that it unites.
        hounsfield: Clip to this range of values, the same for all scans (CT).
        percentiles: Clip to these percentiles of each scan, where ``hounsfield`` is not given (MR and others).
        channel: Which one to take where scans have several (0 is the first).
        slice_axis: Which of the files' axes counts slices.
        tolerance: How far in mm scan and mask may lie apart.
        name: What the data are called.
        provenance: Whether the scans are real, derived or synthetic.
    """

    def __init__(
        self,
        labels: Mapping[str, int | Sequence[int]],
        hounsfield: tuple[float, float] | None = None,
        percentiles: tuple[float, float] = (1.0, 99.0),
        channel: int | None = None,
        slice_axis: int = 2,
        tolerance: float = 0.5,
        name: str = "own scans",
        provenance: Provenance = "real",
    ) -> None:
        if not 0 <= percentiles[0] < percentiles[1] <= 100:
            raise UsageError(f"data.source.percentiles must rise within 0..100, got {list(percentiles)}")
        if hounsfield is not None and hounsfield[0] >= hounsfield[1]:
            raise UsageError(f"data.source.hounsfield must rise, got {list(hounsfield)}")
        if slice_axis not in (0, 1, 2):
            raise UsageError(f"data.source.slice_axis must be 0, 1 or 2, got {slice_axis}")
        self.class_names, self.classes = label_classes(labels)
        self.normalisation: Normalisation = (
            Percentiles(*percentiles) if hounsfield is None else HounsfieldWindow(*hounsfield)
        )
        self.channel, self.slice_axis, self.tolerance = channel, slice_axis, tolerance
        self.name = name
        self.provenance: Provenance = provenance

    def scan(self, site: str, case: str, image: Path, label: Path | None, patient: str | None = None) -> Case:
        """A case with the settings of this source; a folder is a DICOM series."""
        if image.is_dir():
            from fedsam.readers.dicom import DicomCase

            return DicomCase(
                site=site,
                case=case,
                patient=patient,
                provenance=self.provenance,
                series=image,
                label=label,
                classes=self.classes,
                normalisation=self.normalisation,
                tolerance=self.tolerance,
            )
        return NiftiCase(
            site=site,
            case=case,
            patient=patient,
            provenance=self.provenance,
            image=image,
            label=label,
            classes=self.classes,
            normalisation=self.normalisation,
            slice_axis=self.slice_axis,
            channel=self.channel,
            tolerance=self.tolerance,
        )


class SiteFolders(OwnScans):
    """A folder per site, in it one per split, in that scans and masks.

    ``SITE/train/images/CASE.nii.gz`` and ``SITE/train/labels/CASE.nii.gz``.

    The split folders may be called ``train``, ``training``, ``val``, ``valid``, ``validation``, ``test`` or
    ``testing``. A mask has its scan's name. Sites are sorted by name.

    Args:
        root: The folder that holds the sites'.
        labels: Name of each foreground class to its value in the masks, or to several values that it unites.
        **options: As for :class:`OwnScans`.
    """

    def __init__(
        self,
        root: str | Path,
        labels: Mapping[str, int | Sequence[int]],
        **options: Any,
    ) -> None:
        super().__init__(labels, **options)
        self.root = Path(root)

    def load(self) -> VolumeSets:
        root = existing(self.root, "data.source.root", "folder").expanduser()
        cases: dict[str, list[Case]] = {"train": [], "validation": [], "test": []}
        sites = [path for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith(".")]
        for site in sites:
            parts = {
                path: SPLIT_NAMES[path.name.lower()]
                for path in sorted(site.iterdir())
                if path.name.lower() in SPLIT_NAMES
            }
            if "train" not in parts.values():  # else the site would be missing among the clients, untold
                raise UsageError(f"data.source.root: every site must hold a folder train, {site} has none")
            for folder, split in parts.items():
                images = existing(folder / "images", "data.source.root: the folder of scans", "folder")
                scans = scans_in(images)
                if not scans:
                    raise UsageError(
                        f"data.source.root: every folder of scans must hold .nii.gz files, {images} has none"
                    )
                masks = {
                    stem(path): path
                    for path in scans_in(existing(folder / "labels", "data.source.root: the folder of masks", "folder"))
                }
                for scan in scans:
                    if stem(scan) not in masks:
                        raise UsageError(
                            f"data.source.root: every scan must have a mask of its name, {folder / 'labels'} "
                            f"lacks {scan.name}"
                        )
                    cases[split].append(self.scan(site.name, stem(scan), scan, masks[stem(scan)]))
        if not sites:
            raise UsageError(f"data.source.root must hold a folder per site, {root} has none")
        return VolumeSets(self.name, self.class_names, cases["train"], cases["validation"], cases["test"])


class SiteTable(OwnScans):
    """A CSV table with the columns ``site, image, label, split``, and perhaps ``case`` and ``patient``.

    Paths are relative to the table's folder, or absolute. An ``image`` may be a NIfTI file or the folder of a DICOM
    series. Without ``case`` a case is called after its file; rows with one ``patient`` must be in one split.

    Args:
        csv: The table.
        labels: Name of each foreground class to its value in the masks, or to several values that it unites.
        **options: As for :class:`OwnScans`.
    """

    def __init__(
        self,
        csv: str | Path,
        labels: Mapping[str, int | Sequence[int]],
        **options: Any,
    ) -> None:
        super().__init__(labels, **options)
        self.csv = Path(csv)

    def load(self) -> VolumeSets:
        table = existing(self.csv, "data.source.csv", "file").expanduser()
        cases: dict[Split, list[Case]] = {"train": [], "validation": [], "test": []}
        for number, row in enumerate(read_table(table, "data.source.csv", ("site", "image", "label", "split")), 2):
            paths = {}
            for part in ("image", "label"):
                if not row[part]:
                    raise UsageError(
                        f"data.source.csv: every row must name a scan and a mask, {table} has no {part} in row {number}"
                    )
                paths[part] = table.parent / row[part]
                if not paths[part].exists():
                    raise UsageError(
                        f"data.source.csv: every file must exist, {table} names {paths[part]} in row {number}"
                    )
            case = row.get("case") or stem(paths["image"])
            split = split_of(row["split"], "data.source.csv", table, number)
            cases[split].append(
                self.scan(row["site"], case, paths["image"], paths["label"], row.get("patient") or None)
            )
        return VolumeSets(self.name, self.class_names, cases["train"], cases["validation"], cases["test"])
