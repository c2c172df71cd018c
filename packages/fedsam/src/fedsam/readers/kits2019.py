"""Fed-KiTS2019: contrast-enhanced CT of kidney tumours, six sites of the KiTS19 challenge, as FLamby divides them."""

from pathlib import Path

from fedsam.ct_kidney_phantom import KITS_WEIGHTS
from fedsam.intensity import HounsfieldWindow
from fedsam.readers.nifti import NiftiCase
from fedsam.volumes import VolumeSets, VolumeSource, label_classes
from shared.data.sources import existing
from shared.errors import UsageError

TRAIN = {
    "site-A": (21, 38, 55, 62, 74, 129, 164, 173, 175),
    "site-B": (0, 27, 51, 86, 101, 108, 116, 139, 141, 142, 155),
    "site-C": (3, 14, 33, 42, 98, 100, 102, 103, 120),
    "site-D": (53, 67, 70, 75, 78, 87, 113, 126, 135),
    "site-E": (11, 20, 39, 56, 69, 73, 77, 80, 119, 122, 136, 152),
    "site-F": (1, 2, 5, 16, 22, 26, 30, 47, 49, 52, 59, 63, 68, 71, 76, 89, 91, 93, 96, 110, 114, 115, 118, 132),
}
TEST = {
    "site-A": (181, 195, 208),
    "site-B": (161, 165, 198),
    "site-C": (154, 156, 157),
    "site-D": (140, 159, 188),
    "site-E": (153, 177, 184, 209),
    "site-F": (144, 146, 147, 148, 151, 158),
}
WINDOWS = {
    "site-A": HounsfieldWindow(-66, 208, 100.545, 61.677),
    "site-B": HounsfieldWindow(-77, 341, 110.722, 84.011),
    "site-C": HounsfieldWindow(-89, 325, 123.673, 97.306),
    "site-D": HounsfieldWindow(-64, 202, 71.069, 52.988),
    "site-E": HounsfieldWindow(-64, 236, 91.367, 60.980),
    "site-F": HounsfieldWindow(-82, 288, 105.312, 76.499),
}
"""HU: the 0.5 and 99.5 percentiles of each site's foreground, its mean and standard deviation."""


class FedKits2019(VolumeSource):
    """96 cases of six sites: kidney 1, tumour 2; 74 to train and 22 to test.

    Two layouts are found by themselves: the challenge's, ``[data/]case_00021/imaging.nii.gz`` and
    ``segmentation.nii.gz``, and trees of nnU-Net, ``[SITE/]imagesTr/CASE_0000.nii.gz`` and
    ``[SITE/]labelsTr/CASE.nii.gz``, whatever the sites' folders are called; there CASE is ``case_00021``. HU are
    clipped and scaled with each site's own numbers.

    Source: Heller et al., *The KiTS19 Challenge Data*, 2019; division: Ogier du Terrail et al., *FLamby*, NeurIPS 2022.

    Args:
        root: The folder.
        slice_axis: Which of the files' axes counts slices; the first in KiTS.
        tolerance: How far in mm scan and mask may lie apart.
        partial: Take the cases that are there instead of asking for all 96.
    """

    def __init__(self, root: str | Path, slice_axis: int = 0, tolerance: float = 0.5, partial: bool = False) -> None:
        self.root = Path(root)
        self.slice_axis, self.tolerance, self.partial = slice_axis, tolerance, partial

    def load(self) -> VolumeSets:
        found = self._pairs(existing(self.root, "data.source.root", "folder"))
        listed = {f"case_{number:05d}" for split in (TRAIN, TEST) for ids in split.values() for number in ids}
        missing = sorted(listed - found.keys())
        if missing and not (self.partial and len(missing) < len(listed)):
            raise UsageError(
                f"data.source.root must hold the 96 cases of Fed-KiTS2019 (or set data.source.partial), "
                f"{self.root} lacks {', '.join(missing[:3])}{f' and {len(missing) - 3} more' * (len(missing) > 3)}"
            )
        names, classes = label_classes({"kidney": 1, "tumour": 2})

        def cases(split: dict[str, tuple[int, ...]]) -> list[NiftiCase]:
            return [
                NiftiCase(
                    site=site,
                    case=case,
                    image=found[case][0],
                    label=found[case][1],
                    classes=classes,
                    clip_labels=2,
                    normalisation=WINDOWS[site],
                    slice_axis=self.slice_axis,
                    tolerance=self.tolerance,
                )
                for site, numbers in split.items()
                for case in (f"case_{number:05d}" for number in numbers)
                if case in found
            ]

        return VolumeSets("fed-kits2019", names, train=cases(TRAIN), test=cases(TEST), weights=KITS_WEIGHTS)

    def _pairs(self, root: Path) -> dict[str, tuple[Path, Path]]:
        """Scan and mask of every case, whichever layout it is in."""
        folder = root / "data" if (root / "data").is_dir() else root
        pairs = {
            image.parent.name: (image, image.with_name("segmentation.nii.gz"))
            for image in folder.glob("case_*/imaging.nii.gz")
        }
        if not pairs:
            for image in sorted(root.rglob("case_*_0000.nii.gz")):
                if image.parent.name.startswith("images"):
                    case = image.name.removesuffix("_0000.nii.gz")
                    labels = image.parent.with_name(image.parent.name.replace("images", "labels", 1))
                    pairs[case] = (image, labels / f"{case}.nii.gz")
        return pairs
