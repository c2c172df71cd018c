"""EuroSAT: land use seen by a satellite, in visible light."""

import csv
from pathlib import Path

import numpy as np

from shared.data.csv_table import CsvTable
from shared.data.image_folder import ImageFolder
from shared.data.partition import Dirichlet, Partition
from shared.data.sources import ImageSets, Source, existing
from shared.data.splits import stratified_split
from shared.errors import UsageError

CLASS_NAMES = (
    "AnnualCrop",
    "Forest",
    "HerbaceousVegetation",
    "Highway",
    "Industrial",
    "Pasture",
    "PermanentCrop",
    "Residential",
    "River",
    "SeaLake",
)
IMAGE_FOLDER = "EuroSAT_RGB"
TRAIN_TABLE = "eurosat_train_data_noval.csv"
TEST_TABLE = "eurosat_test_data.csv"


class EuroSat(Source):
    """27,000 pictures of 64 x 64 in ten classes, ``root/EuroSAT_RGB/<Class>/<Class>_<n>.jpg``.

    With ``eurosat_train_data_noval.csv`` and ``eurosat_test_data.csv`` beside that folder (columns ``filename``,
    relative to it, ``target, center, fold``) the sets and the centres are theirs; :func:`write_tables` makes such
    tables. Without them a share of every class is held out for testing, drawn with ``seed``: equal files and arguments
    give equal sets, and the arguments stand in the run's ``config.yaml``.

    Source: Helber, Bischke, Dengel, Borth, "EuroSAT: A Novel Dataset and Deep Learning Benchmark for Land Use and Land
    Cover Classification", IEEE JSTARS, 2019.

    Args:
        root: The folder.
        test: Share of each class to hold out where there are no tables.
        seed: Of that draw.
        name: What the set is called.
    """

    class_names = CLASS_NAMES
    stored_channels = 3

    def __init__(self, root: str | Path, test: float = 0.2, seed: int = 73, name: str = "eurosat") -> None:
        self.root = Path(root)
        self.test = test
        self.seed = seed
        self.name = name

    def load(self) -> ImageSets:
        root = existing(self.root, "data.source.root", "folder")
        folder = existing(root / IMAGE_FOLDER, "data.source.root: the images of EuroSAT", "folder")
        if (root / TRAIN_TABLE).is_file():
            return CsvTable(
                root / TRAIN_TABLE,
                folder,
                image="filename",
                label="target",
                split="fold",
                test_csv=root / TEST_TABLE,
                class_names=CLASS_NAMES,
                name=self.name,
            ).load()
        images = ImageFolder(folder, name=self.name).load().train
        rest, held = stratified_split(images.labels, self.test, np.random.default_rng(self.seed))
        train, test = images.subset(rest), images.subset(held)
        test.name = f"{self.name} test"
        return ImageSets(train, test)


def write_tables(
    root: str | Path,
    clients: int = 7,
    partition: Partition = Dirichlet(),  # noqa: B008 - frozen
    test: float = 0.2,
    seed: int = 73,
) -> None:
    """Draw a test set and centres once, and record both in the two tables that :class:`EuroSat` reads.

    How the authors drew theirs is not known. Test pictures belong to no centre, so their table has no such column.

    Args:
        root: The folder that holds ``EuroSAT_RGB``; the tables are written there.
        clients: Number of centres.
        partition: How the training pictures are divided among them.
        test: Share of each class to hold out.
        seed: Of both draws.

    Raises:
        UsageError: A table is there already, or an option is out of range.
    """
    folder = existing(root, "data.source.root", "folder")
    for table in (TRAIN_TABLE, TEST_TABLE):
        if (folder / table).exists():
            raise UsageError(f"data.source.root must not hold {table} yet, {folder} does: a record is never replaced")
    sets = EuroSat(folder, test, seed).load()
    assert sets.test is not None
    shares = partition(sets.train.labels, clients, np.random.default_rng(seed), sets.train.columns)
    center = np.empty(len(sets.train), np.int64)
    for number, share in enumerate(shares):
        center[share] = number
    for table, data, columns in (
        (TRAIN_TABLE, sets.train, {"center": center.tolist()}),
        (TEST_TABLE, sets.test, {}),
    ):
        names = [Path(file).relative_to(folder / IMAGE_FOLDER).as_posix() for file in data.files]
        fold = [data.name.split()[-1]] * len(names)
        with (folder / table).open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(["filename", "target", *columns, "fold"])
            writer.writerows(zip(names, data.labels.tolist(), *columns.values(), fold, strict=True))
