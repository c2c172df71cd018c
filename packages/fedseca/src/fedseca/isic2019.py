"""Fed-ISIC2019: dermoscopy of six hospitals, as FLamby lays it out."""

from pathlib import Path

import numpy as np
from PIL import Image

from fedseca.color_constancy import shades_of_grey
from shared.data.csv_table import CsvTable
from shared.data.labelled_images import read_image
from shared.data.sources import ImageSets, Source, existing
from shared.errors import UsageError

CLASS_NAMES = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")
"""Nine outputs, of which the last never occurs in the data; a flipped label 0 becomes it."""
IMAGE_FOLDER = "ISIC_2019_Training_Input_preprocessed"
SPLIT_TABLES = ("train_test_split", "train_test_split.csv")
TRAIN_TABLES = ("isic_train_data-noval.csv", "isic_train_data.csv")
TEST_TABLE = "isic_test_data.csv"


class FedIsic2019(Source):
    """23,247 dermoscopic images of six centres; divide them with ``ByColumn("center")``.

    ``root/ISIC_2019_Training_Input_preprocessed/<image>.jpg`` beside either FLamby's table ``train_test_split`` (with
    or without ``.csv``; columns ``image, …, target, center, fold, fold2``) or the pair ``isic_train_data-noval.csv``
    (or ``isic_train_data.csv``) and ``isic_test_data.csv`` (``image, target, center, fold``). :func:`prepare_isic2019`
    makes the folder of images out of the published ones.

    Source: Ogier du Terrail et al., *FLamby*, NeurIPS 2022; the images are those of the ISIC 2019 challenge.

    Args:
        root: The folder.
        name: What the set is called.
    """

    class_names = CLASS_NAMES
    stored_channels = 3

    def __init__(self, root: str | Path, name: str = "fed-isic2019") -> None:
        self.root = Path(root)
        self.name = name

    def load(self) -> ImageSets:
        root = existing(self.root, "data.source.root", "folder")
        both = next((root / table for table in SPLIT_TABLES if (root / table).is_file()), None)
        train = next((root / table for table in TRAIN_TABLES if (root / table).is_file()), None)
        table = both or train
        if table is None:
            raise UsageError(f"data.source.root must hold {SPLIT_TABLES[0]} or {TRAIN_TABLES[0]}, {root} has neither")
        return CsvTable(
            table,
            root / IMAGE_FOLDER,
            image="image",
            label="target",
            split="fold",
            test_csv=root / TEST_TABLE if both is None else None,
            suffix=".jpg",
            class_names=CLASS_NAMES,
            name=self.name,
        ).load()


def prepare_isic2019(source: str | Path, target: str | Path, shorter_side: int = 224) -> int:
    """Write the preprocessed images of Fed-ISIC2019: smaller, and with the light's colour taken out.

    The shorter side becomes ``shorter_side`` pixels (bilinear, aspect kept), then :func:`shades_of_grey`; images are
    written as JPEG of quality 95 under their old names. Images that are there already are left alone, so an
    interrupted run goes on.

    Args:
        source: The folder ``ISIC_2019_Training_Input`` of the challenge.
        target: The folder to write, ``ISIC_2019_Training_Input_preprocessed``; made if absent.
        shorter_side: Pixels of the shorter side.

    Returns:
        The number of images written.

    Raises:
        UsageError: ``source`` is no folder, has no ``.jpg``, or an image cannot be read.
    """
    images = sorted(existing(source, "prepare: the folder of ISIC 2019 images", "folder").glob("*.jpg"))
    if not images:
        raise UsageError(f"prepare: the folder of ISIC 2019 images must hold .jpg files, {source} has none")
    folder = Path(target).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    missing = [path for path in images if not (folder / path.name).is_file()]
    for path in missing:
        image = read_image(path)
        picture = Image.fromarray(np.broadcast_to(image, (*image.shape[:2], 3)))
        ratio = shorter_side / min(picture.size)
        width, height = (int(side * ratio) for side in picture.size)
        resized = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
        temporary = folder / f"{path.name}.tmp"
        Image.fromarray(shades_of_grey(resized)).save(temporary, format="JPEG", quality=95)
        temporary.replace(folder / path.name)
    return len(missing)
