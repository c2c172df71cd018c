"""``fedseca partition``: what is written is what ``fit`` divides, and is read back as the same."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from fedseca.blobs import Blobs
from fedseca.data import FederatedImages
from fedseca.split import keep, run, shown
from shared.data.class_partition import MergedDirichlet, MergedShards
from shared.data.labelled_images import LabelledImages
from shared.data.partition import Dirichlet, Partition
from shared.data.sources import ImageSets, Source
from shared.data.split_table import FromTable
from shared.errors import UsageError


def blobs(partition: Partition, clients: int = 4, **options: object) -> FederatedImages:
    return FederatedImages(Blobs(train=300, test=10, size=8), clients, partition, **options)  # type: ignore[arg-type]


def test_a_written_division_gives_the_same_clients(tmp_path: Path) -> None:
    data = blobs(Dirichlet(0.3), fraction=0.5, validation=0.2)
    assert [path.name for path in keep(data, tmp_path)] == ["split.csv", "split.png", "split.json"]
    assert {path.name for path in tmp_path.iterdir()} == {"split.csv", "split.png", "split.json"}
    again = blobs(FromTable(str(tmp_path / "split.csv")), fraction=0.5, validation=0.2)
    for client in range(4):
        np.testing.assert_array_equal(data.shares[client], again.shares[client])
        assert data.client_dataset(client)[0][0].equal(again.client_dataset(client)[0][0])
    with pytest.raises(UsageError, match=r"data.partition.file must hold each of the 240 training images once"):
        blobs(FromTable(str(tmp_path / "split.csv")), validation=0.2).setup()
    record = json.loads((tmp_path / "split.json").read_text())
    assert record["sizes"] == [len(share) for share in data.shares]
    assert record["data"]["partition"] == "Dirichlet(alpha=0.3, min_size=2)"


def test_another_division_is_not_written_over(tmp_path: Path) -> None:
    keep(blobs(Dirichlet(0.3)), tmp_path)
    keep(blobs(Dirichlet(0.3)), tmp_path)
    with pytest.raises(UsageError, match=r"--out must be a folder without another split.csv"):
        keep(blobs(Dirichlet(0.4)), tmp_path)


class WithShards(Source):
    """Blobs with the column of a written division."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def load(self) -> ImageSets:
        sets = Blobs(train=300, test=10, size=8).load()
        with self.file.open(newline="") as stream:
            shards = np.array([int(row["y_alpha_id"]) for row in csv.DictReader(stream)])
        train = LabelledImages(
            np.stack(list(sets.train.pixels(np.arange(300)))),
            sets.train.labels,
            sets.train.class_names,
            name="with shards train",
            columns={"y_alpha_id": shards},
        )
        return ImageSets(train, sets.test)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_virtual_clients_are_written_for_merged_shards(tmp_path: Path, seed: int) -> None:
    # Twelve clients of 300 images want 15 each, so that some draws are thrown away.
    drawn = blobs(MergedDirichlet(alpha=0.5, min_size=15), clients=12, seed=seed)
    keep(drawn, tmp_path)
    read = FederatedImages(WithShards(tmp_path / "split.csv"), 12, MergedShards())
    for one, other in zip(drawn.shares, read.shares, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_table_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(blobs(Dirichlet(0.3))).splitlines()
    rows = [line.replace("·", "0").split() for line in lines if line.split()[:1] and line.split()[0] in "0123"]
    together = next(line for line in lines if line.startswith("all")).split()
    assert len(rows) == 4
    assert [sum(int(row[place]) for row in rows) for place in range(1, 12)] == [300, *[30] * 10]
    assert together[1:] == ["300", *["30"] * 10]
    run(["partition", "--help"])
    assert "FromTable" in capsys.readouterr().out
