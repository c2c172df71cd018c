"""Fed-IXI: T1 heads and brain masks of three London hospitals, in the tiny form that FLamby uses."""

import re
from pathlib import Path

from fedsam.intensity import Unchanged
from fedsam.readers.nifti import NiftiCase
from fedsam.volumes import VolumeSets, VolumeSource, label_classes
from shared.data.sources import existing
from shared.errors import UsageError

SITES = ("Guys", "HH", "IOP")
WEIGHTS = {"Guys": 0.55, "HH": 0.32, "IOP": 0.13}
"""In the reference code of FLAP-SAM; the proportions 249 : 145 : 59 of the training subjects."""


def _numbers(text: str) -> frozenset[int]:
    return frozenset(map(int, text.split()))


TEST = {
    "Guys": _numbers(
        "2 17 24 27 36 54 58 63 65 75 106 107 111 112 116 118 120 121 129 135 141 145 151 153 185 189 194 229 240 264 "
        "269 270 279 289 319 336 364 369 398 401 402 406 408 415 420 428 456 461 479 492 496 499 502 503 504 523 585 "
        "589 594 607 626 648"
    ),
    "HH": _numbers(
        "12 15 34 49 97 127 148 161 201 211 214 218 248 254 256 282 313 327 328 329 362 383 437 444 451 485 511 518 "
        "519 524 586 598 612 633 634 635"
    ),
    "IOP": _numbers("231 238 291 293 294 310 314 337 388 430 470 543 547 571 595"),
}
_FOLDER = re.compile(r"IXI(\d+)-(Guys|HH|IOP)-\d+")


class FedIxi(VolumeSource):
    """566 heads of 83 x 44 x 55 voxels with a binary brain mask: 249 + 62, 145 + 36 and 59 + 15 subjects.

    Layout: ``[IXI_sample/]IXI002-Guys-0828/T1/IXI002-Guys-0828_image.nii.gz`` and
    ``…/label/IXI002-Guys-0828_label.nii.gz``. Slices run along the last axis; values are taken as they are, and each
    window is scaled to [0, 1] when it is cut.

    Source: the IXI data set (CC BY-SA 3.0); division: Ogier du Terrail et al., *FLamby*, NeurIPS 2022.

    Args:
        root: The folder.
        slice_axis: Which of the files' axes counts slices.
        tolerance: How far in mm scan and mask may lie apart.
    """

    def __init__(self, root: str | Path, slice_axis: int = 2, tolerance: float = 0.5) -> None:
        self.root = Path(root)
        self.slice_axis, self.tolerance = slice_axis, tolerance

    def load(self) -> VolumeSets:
        root = existing(self.root, "data.source.root", "folder")
        folder = root / "IXI_sample" if (root / "IXI_sample").is_dir() else root
        names, classes = label_classes({"brain": 1})
        found: dict[str, list[tuple[int, NiftiCase]]] = {site: [] for site in SITES}
        for subject in sorted(folder.iterdir()):
            match = _FOLDER.fullmatch(subject.name)
            if match is None or not subject.is_dir():
                continue
            number, site = int(match[1]), match[2]
            case = NiftiCase(
                site=site,
                case=subject.name,
                image=subject / "T1" / f"{subject.name}_image.nii.gz",
                label=subject / "label" / f"{subject.name}_label.nii.gz",
                classes=classes,
                normalisation=Unchanged(),
                slice_axis=self.slice_axis,
                tolerance=self.tolerance,
            )
            found[site].append((number, case))
        if not any(found.values()):
            raise UsageError(f"data.source.root must hold folders like IXI002-Guys-0828, {folder} has none")
        return VolumeSets(
            name="fed-ixi",
            class_names=names,
            train=[case for site in SITES for number, case in found[site] if number not in TEST[site]],
            test=[case for site in SITES for number, case in found[site] if number in TEST[site]],
            weights=WEIGHTS,
        )
