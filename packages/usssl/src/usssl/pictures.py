"""Picture files as a data set, for verbs that look at any folder."""

from pathlib import Path

from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from shared.errors import UsageError
from usssl.augmentation.normalisation import normalised_picture
from usssl.augmentation.resizing import Resize, resized

SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))


class Pictures(Dataset[Tensor]):
    """``(3, S, S)`` float32, resized and normalised as for evaluation.

    Args:
        root: A picture, or a folder whose pictures are taken in sorted order, sub-folders included.
        size: Height and width S.
        resize: How to get there.

    Raises:
        UsageError: There is no picture.
    """

    def __init__(self, root: str | Path, size: int, resize: Resize = "stretch") -> None:
        self.root = Path(root).expanduser()
        if not self.root.exists():
            raise UsageError(f"--pictures must be a picture or a folder of them, got {root}")
        found = sorted(self.root.rglob("*")) if self.root.is_dir() else [self.root]
        self.files = [path for path in found if path.suffix.lower() in SUFFIXES and path.is_file()]
        if not self.files:
            raise UsageError(f"--pictures must hold at least one picture, {root} has none")
        self.size = size
        self.resize: Resize = resize

    @property
    def names(self) -> list[str]:
        """Paths below the folder."""
        base = self.root if self.root.is_dir() else self.root.parent
        return [path.relative_to(base).as_posix() for path in self.files]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, item: int) -> Tensor:
        try:
            with Image.open(self.files[item]) as picture:
                whole = picture.convert("RGB")
        except (OSError, UnidentifiedImageError) as error:
            raise UsageError(f"--pictures must hold readable pictures, got {self.files[item]}") from error
        return normalised_picture(resized(whole, self.size, self.resize))

    def batches(self, batch_size: int = 64) -> DataLoader[Tensor]:
        """All pictures in order."""
        return DataLoader(self, batch_size=batch_size)
