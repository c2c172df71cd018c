"""Pictures sorted into one folder per class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shared.data.labelled_images import LabelledImages, Provenance
from shared.data.sources import ImageSets, Source, existing
from shared.data.split_names import SPLIT_NAMES
from shared.errors import UsageError

_SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))


class ImageFolder(Source):
    """``root/train/CLASS/…`` and ``root/test/CLASS/…`` (perhaps ``root/val/CLASS/…``), or ``root/CLASS/…`` alone.

    Classes are the sorted folder names of the training part; pictures are taken in sorted order, sub-folders of a
    class included, and decoded when they are used.

    Args:
        root: The folder.
        name: What the set is called; without it the folder's name.
        provenance: Whether the pictures are real, derived or synthetic.
    """

    def __init__(self, root: str | Path, name: str | None = None, provenance: Provenance = "real") -> None:
        self.root = Path(root)
        self.name = name if name is not None else self.root.name
        self.provenance: Provenance = provenance

    def load(self) -> ImageSets:
        root = existing(self.root, "data.source.root", "folder")
        folders = {SPLIT_NAMES[f.name.lower()]: f for f in _subfolders(root) if f.name.lower() in SPLIT_NAMES}
        if not folders:
            folders = {"train": root}
        elif "train" not in folders:
            raise UsageError(
                f"data.source.root must hold a folder train beside {', '.join(f.name for f in folders.values())}, "
                f"{root} has none"
            )
        classes = [folder.name for folder in _subfolders(folders["train"])]
        if not classes:
            raise UsageError(
                f"data.source.root must hold one folder of images per class, {folders['train']} has no folder"
            )
        return ImageSets(**{part: self._labelled(part, folder, classes) for part, folder in folders.items()})

    def _labelled(self, part: str, folder: Path, classes: Sequence[str]) -> LabelledImages:
        paths: list[Path] = []
        labels: list[int] = []
        for class_folder in _subfolders(folder):
            if class_folder.name not in classes:
                raise UsageError(
                    f"data.source.root: every class must occur in training, "
                    f"{class_folder} is none of {', '.join(classes)}"
                )
            found = sorted(path for path in class_folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
            if not found:
                raise UsageError(f"data.source.root: every class folder must hold an image, {class_folder} has none")
            paths += found
            labels += [classes.index(class_folder.name)] * len(found)
        return LabelledImages(
            paths,
            np.array(labels, dtype=np.int64),
            classes,
            name=f"{self.name} {part}",
            provenance=self.provenance,
        )


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
