"""The default data of fedseca: Fashion-MNIST, a balanced part inside the package and the whole from Debian."""

from pathlib import Path

from fedseca import blobs, cifar10, digits, eurosat, isic2019  # noqa: F401  so that --data.source knows these readers too
from shared.data import class_partition, csv_table, image_folder, npz, split_table  # noqa: F401  and these, and the partitions
from shared.data.datamodule import ClassificationDataModule
from shared.data.idx import Idx
from shared.data.labelled_images import LabelledImages
from shared.data.samples import embedded
from shared.data.sources import ImageSets, Source
from shared.errors import UsageError
from shared.federated.data import RoundClock

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
MINI_FILE = "samples/fashion_mnist_mini.npz"
MINI_SHA256 = "e7ba830b18bca5625e65b1129bb34440e7b9600d8a71144730aec1035479420b"


class FashionMnistMini(Source):
    """The first 300 training and 100 test pictures of each class of Fashion-MNIST, shipped in this package.

    3,000 + 1,000 real grey pictures of 28 x 28. Multinomial logistic regression on the pixels reaches an accuracy of
    0.829. Source: Xiao, Rasul, Vollgraf, *Fashion-MNIST*, 2017, arXiv:1708.07747; MIT licence, see
    ``samples/DATA_LICENSES.md``.
    """

    class_names = CLASS_NAMES
    stored_channels = 1

    def load(self) -> ImageSets:
        arrays = embedded("fedseca", MINI_FILE, MINI_SHA256)
        train, test = (
            LabelledImages(arrays[f"x_{part}"], arrays[f"y_{part}"], CLASS_NAMES, name=f"fashion-mnist-mini {part}")
            for part in ("train", "test")
        )
        return ImageSets(train, test)


class FashionMnist(Idx):
    """All 60,000 + 10,000 pictures of Fashion-MNIST, from its four idx files.

    Args:
        root: The folder that holds them; where Debian's package ``dataset-fashion-mnist`` puts them by default.
    """

    def __init__(self, root: str | Path = "/usr/share/datasets/fashion-mnist") -> None:
        super().__init__(root, class_names=CLASS_NAMES, name="fashion-mnist")

    def load(self) -> ImageSets:
        if not self.root.expanduser().is_dir():
            raise UsageError(
                f"data.source.root must be a folder with the four idx files of Fashion-MNIST "
                f"(Debian package dataset-fashion-mnist), got {self.root}"
            )
        return super().load()


class FederatedImages(RoundClock, ClassificationDataModule):
    """Labelled images divided among clients; see :class:`shared.data.datamodule.ClassificationDataModule`."""
