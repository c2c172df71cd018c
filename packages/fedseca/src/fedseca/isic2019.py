"""Fed-ISIC2019: dermoscopy of six hospitals, as FLamby lays it out."""

from pathlib import Path

import numpy as np
from PIL import Image

from fedseca.color_constancy import shades_of_grey
from shared.data.csv_table import CsvTable
from shared.data.labelled_images import LabelledImages, read_image
from shared.data.sources import ImageSets, Source, existing
from shared.errors import UsageError
from shared.prepare import write_images

CLASS_NAMES = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")
"""Nine outputs, of which the last never occurs in the data; a flipped label 0 becomes it."""
IMAGE_FOLDER = "ISIC_2019_Training_Input_preprocessed"
SPLIT_TABLES = ("train_test_split", "train_test_split.csv")
TRAIN_TABLES = ("isic_train_data-noval.csv", "isic_train_data.csv")
TEST_TABLE = "isic_test_data.csv"
PARQUET_COLUMNS = ("image", "label", "center")


class FedIsic2019(Source):
    """23,247 dermoscopic images of six centres; divide them with ``ByColumn("center")``.

    ``root/ISIC_2019_Training_Input_preprocessed/<image>.jpg`` beside either FLamby's table ``train_test_split`` (with
    or without ``.csv``; columns ``image, …, target, center, fold, fold2``) or the pair ``isic_train_data-noval.csv``
    (or ``isic_train_data.csv``) and ``isic_test_data.csv`` (``image, target, center, fold``). :func:`prepare_isic2019`
    makes the folder of images out of the published ones.

    Or the parquet form ``flwrlabs/fed-isic2019``: files ``train-*.parquet`` and ``test-*.parquet`` in ``root`` or in
    ``root/data``, with columns ``image, center, label``. The pictures stay encoded in memory, about 150 MB. It needs
    pyarrow, ``pip install fedseca[parquet]``.

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
        if table is None and (parquet := _parquet_files(root)):
            return ImageSets(**{part: _read_parquet(files, f"{self.name} {part}") for part, files in parquet.items()})
        if table is None:
            raise UsageError(
                f"data.source.root must hold {SPLIT_TABLES[0]} or {TRAIN_TABLES[0]}, {root} has neither, "
                f"and no train-*.parquet with test-*.parquet"
            )
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


def _parquet_files(root: Path) -> dict[str, list[Path]]:
    """The files of both parts, or nothing where one of them is not there."""
    for folder in (root, root / "data"):
        found = {part: sorted(folder.glob(f"{part}-*.parquet")) for part in ("train", "test")}
        if all(found.values()):
            return found
    return {}


def _read_parquet(files: list[Path], name: str) -> LabelledImages:
    """The rows of all files of a part, pictures encoded as they are stored."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise UsageError(
            f"data.source.root: parquet files need pyarrow (pip install fedseca[parquet]), got {files[0]}"
        ) from error
    pictures: list[bytes] = []
    labels: list[int] = []
    centers: list[int] = []
    for file in files:
        try:
            lacking = [name for name in PARQUET_COLUMNS if name not in parquet.read_schema(file).names]
            if lacking:
                raise UsageError(
                    f"data.source.root: {file} must have the columns {', '.join(PARQUET_COLUMNS)}, lacks "
                    f"{', '.join(lacking)}"
                )
            table = parquet.read_table(file, columns=list(PARQUET_COLUMNS))
        except (ArrowException, OSError) as error:
            raise UsageError(f"data.source.root: {file} must be a readable parquet file ({error})") from error
        for image in table.column("image").to_pylist():
            if not isinstance(image, dict) or not isinstance(image.get("bytes"), bytes):
                raise UsageError(
                    f"data.source.root: column image of {file} must hold the bytes of a picture in every row"
                )
            pictures.append(image["bytes"])
        labels += table.column("label").to_pylist()
        centers += table.column("center").to_pylist()
    columns = {"center": np.array(centers)}
    return LabelledImages(pictures, np.array(labels), CLASS_NAMES, name=name, columns=columns)


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
    return write_images(
        [folder / path.name for path in images],
        lambda position: _without_light(read_image(images[position]), shorter_side),
        "photographs",
        quality=95,
    )


def _without_light(image: np.ndarray, shorter_side: int) -> np.ndarray:
    """Bilinearly resized in colour, then :func:`shades_of_grey`."""
    picture = Image.fromarray(np.broadcast_to(image, (*image.shape[:2], 3)))
    ratio = shorter_side / min(picture.size)
    width, height = (int(side * ratio) for side in picture.size)
    return shades_of_grey(np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR)))
