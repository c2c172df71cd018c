"""Prostate MRI of six sources, in the folders of the distribution that came with SAML."""

import re
from pathlib import Path

from fedsam.intensity import Percentiles
from fedsam.readers.nifti import NiftiCase, scans_in
from fedsam.volumes import VolumeSets, VolumeSource, label_classes
from shared.data.sources import existing
from shared.errors import UsageError

TEST = {
    "RUNMC": frozenset((3, 8, 12, 15, 18, 26)),
    "BMC": frozenset((3, 8, 12, 15, 18, 26)),
    "I2CVB": frozenset((3, 8, 13, 15)),
    "UCL": frozenset((1, 32, 34)),
    "BIDMC": frozenset((0, 4, 9)),
    "HK": frozenset((38, 41, 46)),
}
WEIGHTS = dict(zip(TEST, (0.15, 0.26, 0.31, 0.08, 0.13, 0.07), strict=True))
"""In the reference code of FLAP-SAM."""
_NAME = re.compile(r"Case(\d+)(_segmentation)?\.nii(\.gz)?", re.IGNORECASE)


class Prostate(VolumeSource):
    """T2 volumes of six sources with a mask of the whole prostate, divided by case number as FLAP-SAM does.

    Layout: ``RUNMC/Case00.nii.gz`` beside ``RUNMC/Case00_segmentation.nii.gz``, likewise ``BMC``, ``I2CVB``, ``UCL``,
    ``BIDMC`` and ``HK``. Two sources tell peripheral zone and central gland apart: every label above 0 becomes 1.
    Values are clipped above at their 99 % quantile and scaled to [0, 1].

    Source: Liu, Dou, Heng, *Shape-aware Meta-learning for Generalizing Prostate MRI Segmentation*, MICCAI 2020.

    Args:
        root: The folder that holds the six.
        slice_axis: Which of the files' axes counts slices.
        tolerance: How far in mm scan and mask may lie apart.
    """

    def __init__(self, root: str | Path, slice_axis: int = 2, tolerance: float = 0.5) -> None:
        self.root = Path(root)
        self.slice_axis, self.tolerance = slice_axis, tolerance

    def load(self) -> VolumeSets:
        root = existing(self.root, "data.source.root", "folder")
        names, _ = label_classes({"prostate": 1})
        train: list[NiftiCase] = []
        test: list[NiftiCase] = []
        for site, held_out in TEST.items():
            folder = existing(root / site, f"data.source.root: the source {site} of the prostate data", "folder")
            scans: dict[int, Path] = {}
            masks: dict[int, Path] = {}
            for path in scans_in(folder):
                match = _NAME.fullmatch(path.name)
                if match is not None:
                    (masks if match[2] else scans)[int(match[1])] = path
            for number, scan in sorted(scans.items()):
                if number not in masks:
                    raise UsageError(f"data.source: every scan must have its Case…_segmentation file, {scan} has none")
                case = NiftiCase(
                    site=site,
                    case=f"Case{number:02d}",
                    image=scan,
                    label=masks[number],
                    clip_labels=1,
                    normalisation=Percentiles(0, 99),
                    slice_axis=self.slice_axis,
                    tolerance=self.tolerance,
                )
                (test if number in held_out else train).append(case)
        return VolumeSets("prostate", names, train=train, test=test, weights=WEIGHTS)
