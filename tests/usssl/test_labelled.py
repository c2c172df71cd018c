import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from shared.data.image_folder import ImageFolder
from shared.errors import UsageError
from usssl.fetal_heart_phantom.source import PhantomPlanes
from usssl.labelled import PlaneDataModule
from usssl.plane_csv import CommonClasses, PlaneCsv
from usssl.presets.african_planes import AfricanPlanes
from usssl.presets.array_packs import Busi, BusiFrames, Hc18, Hc18Frames, LungClips
from usssl.presets.fetal_planes_db import FetalPlanesDb


def _picture(path: Path, grey: int = 100, size: tuple[int, int] = (30, 24)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, grey).save(path)


def _table(path: Path, header: list[str], rows: list[list[Any]], delimiter: str = ",") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter, lineterminator="\n").writerows([header, *rows])


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """Three tables as the reference has them: trainV3.csv and so on, patients in the file names."""
    for part, people in (("train", range(6)), ("valid", range(6, 8)), ("test", range(8, 11))):
        rows = []
        for person in people:
            for n, name in enumerate(("rvot", "4ch", "lvot")):
                file = f"{part}/p{person}_{n}.png"
                _picture(tmp_path / file, 20 * person)
                rows.append([file, name, ("E8", "V830")[person % 2]])
        _table(tmp_path / f"{part}V3.csv", ["image_path", "class", "machine_type "], rows)
    return tmp_path


def _source(root: Path, **options: Any) -> PlaneCsv:
    parts = {"validation": root / "validV3.csv", "test": root / "testV3.csv"}
    return PlaneCsv(root / "trainV3.csv", **parts | options)


def test_classes_are_sorted_names_of_the_training_table(tables: Path) -> None:
    data = PlaneDataModule(_source(tables), image_size=32, batch_size=6)
    data.setup()
    assert data.class_names == ("4ch", "lvot", "rvot")
    assert data.class_counts == [6, 6, 6]
    assert data.labels("test").tolist() == [2, 0, 1] * 3
    patients = data.patients("test")
    assert patients is not None
    assert patients.tolist() == ["p8"] * 3 + ["p9"] * 3 + ["p10"] * 3
    x, y = next(iter(data.train_dataloader()))
    assert x.shape == (6, 3, 32, 32)
    assert x.dtype == torch.float32
    assert y.dtype == torch.int64
    assert data.describe()["patients"] == {"train": 6, "validation": 2, "test": 3}


def test_filters_keep_or_drop_rows(tables: Path) -> None:
    kept = _source(tables, filters={"whitelist": {"machine_type": ["E8"]}}).load()
    assert set(kept.train.columns["machine_type"]) == {"E8"}
    dropped = _source(tables, filters={"blacklist": {"machine_type": ["E8"]}}).load()
    assert set(dropped.train.columns["machine_type"]) == {"V830"}
    assert len(kept.train) + len(dropped.train) == 18


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filters": {"whitelist": {"class": []}, "blacklist": {"class": []}}}, "a whitelist or a blacklist, got both"),
        ({"filters": {"greylist": {}}}, "must be whitelist or blacklist, got greylist"),
        (
            {"filters": {"whitelist": {"maker": ["E8"]}}},
            r"filters \(maker\) must name a column of trainV3.csv, got 'maker'",
        ),
        ({"label": "plane"}, "label must name a column of trainV3.csv, got 'plane' of image_path, class, machine_type"),
        ({"patient": "who"}, "patient must name a column"),
        ({"suffix": ".jpg"}, "every picture must be an existing file"),
        ({"splits": {"1": "trian"}}, "splits must stand for some of train, .*, got 'trian'"),
        ({"delimiter": ";"}, "image must name a column"),
        ({"delimiter": ";;"}, "delimiter must be one character, got ';;'"),
        ({"split": "fold"}, "must be left out where there are tables"),
    ],
)
def test_wrong_tables_are_told_in_one_sentence(options: dict[str, Any], message: str, tables: Path) -> None:
    with pytest.raises(UsageError, match=message):
        _source(tables, **options).load()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "got .*, which is empty"),
        ("image_path,class\n", "at least one row below the header"),
        ("image_path,class\ntrain/p0_0.png,\n", "every row must have a class, .* has an empty class in row 2"),
        ("image_path,class\ntrain,4ch\n", "every picture must be an existing file, .*train is none"),
        (
            "image_path,class\ntrain/p0_0.png,4ch\ntrain/p1_0.png,4ch\n",
            "at least two classes, table train has 4ch alone",
        ),
        (
            "image_path,class\ntrain/p0_0.png,4ch\ntrain/p0_1.png,lvot\n",
            r"data.test 0.2 of 1 patients: a split must leave items on both sides",
        ),
    ],
)
def test_wrong_text_of_tables_is_told_in_one_sentence(text: str, message: str, tables: Path) -> None:
    (tables / "table.csv").write_text(text)
    with pytest.raises(UsageError, match=message):
        PlaneDataModule(PlaneCsv(tables / "table.csv"), image_size=32, test=0.2).setup()


def test_a_class_that_training_lacks_is_an_error(tables: Path) -> None:
    with (tables / "testV3.csv").open("a") as file:
        file.write("test/p8_0.png,3vv,E8\n")
    with pytest.raises(UsageError, match=r"every class of test must occur in training \(4ch, lvot, rvot\), got '3vv'"):
        _source(tables).load()


def test_overlapping_patients_are_named(tables: Path) -> None:
    with (tables / "validV3.csv").open("a") as file:
        file.write("train/p3_0.png,rvot,E8\n")
    with pytest.raises(UsageError, match="no patient may be in both train and validation, but these are: p3"):
        PlaneDataModule(_source(tables)).setup()


def test_an_unreadable_picture_is_named(tables: Path) -> None:
    (tables / "test/p8_0.png").write_bytes(b"nothing")
    data = PlaneDataModule(_source(tables), image_size=32)
    with pytest.raises(UsageError, match=r"every image must be readable, but .*p8_0.png is not"):
        next(iter(data.test_dataloader()))


def test_image_folders_fit_as_they_are(tmp_path: Path) -> None:
    for part in ("train", "valid", "test"):
        for name in ("b", "a"):
            for n in range(3):
                _picture(tmp_path / part / name / f"{part}{n}_x.png")
    data = PlaneDataModule(ImageFolder(tmp_path), image_size=32)
    assert data.class_names == ("a", "b")
    assert data.patients("test") is None
    for name in ("a", "b"):
        _picture(tmp_path / "ones" / name / "one.png")
    with pytest.raises(UsageError, match=r"data.test 0.3 of 2 images: a split must leave items on both sides"):
        PlaneDataModule(ImageFolder(tmp_path / "ones"), test=0.3).setup()
    _picture(tmp_path / "test" / "c" / "x.png")
    with pytest.raises(UsageError, match="every class must occur in training"):
        PlaneDataModule(ImageFolder(tmp_path)).setup()


def test_a_share_of_the_labels_is_chosen_and_written(small_planes: PhantomPlanes, tmp_path: Path) -> None:
    data = PlaneDataModule(small_planes, fraction=25, image_size=32)
    assert len(data.selected) == 15
    assert data.class_counts == [12] * 5  # weights are those of all labels
    assert data.train_images.class_counts().tolist() == [3] * 5
    rows = list(csv.DictReader(data.write_selection(tmp_path / "run").read_text().splitlines()))
    assert [int(row["index"]) for row in rows] == data.selected.tolist()
    assert set(rows[0]) == {"index", "label", "class", "patient_id"}
    with pytest.raises(UsageError, match="1 % leaves none of the 12 of"):
        PlaneDataModule(small_planes, fraction=1).setup()
    by_patient = PlaneDataModule(small_planes, fraction=50, fraction_by="patient")
    chosen = by_patient.patients("train")
    assert chosen is not None
    rest = np.delete(small_planes.load().train.columns["patient_id"], by_patient.selected)
    assert not set(chosen) & set(rest)


def test_held_out_shares_consist_of_whole_patients(tmp_path: Path) -> None:
    rows = []
    for person in range(30):
        for n in range(3):
            file = f"p{person}_{n}.png"
            _picture(tmp_path / file)
            rows.append([file, "ab"[(person + n) % 2]])
    _table(tmp_path / "all.csv", ["image_path", "class"], rows)
    data = PlaneDataModule(PlaneCsv(tmp_path / "all.csv"), validation=0.2, test=0.3)
    sizes = data.describe()["images"]
    assert sizes["test"] == pytest.approx(27, abs=3)
    assert sizes["validation"] == pytest.approx(18, abs=3)
    assert sum(sizes.values()) == 90
    with pytest.raises(UsageError, match=r"data\.test must be above 0 where the source has no test set"):
        PlaneDataModule(PlaneCsv(tmp_path / "all.csv")).setup()
    with pytest.raises(UsageError, match=r"data.test and data.validation must sum to less than 1, got 0.5 and 0.5"):
        PlaneDataModule(PlaneCsv(tmp_path / "all.csv"), validation=0.5, test=0.5).setup()


def test_order_and_change_follow_from_seed_and_epoch(small_planes: PhantomPlanes) -> None:
    def batches(epoch: int, **options: Any) -> torch.Tensor:
        loader = PlaneDataModule(small_planes, image_size=32, batch_size=20, **options).train_dataloader()
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        return torch.cat([x for x, _ in loader])

    assert torch.equal(batches(3), batches(3, num_workers=2))
    assert not torch.equal(batches(3), batches(4))
    assert torch.equal(
        batches(3, augment=None).sum((1, 2, 3)).sort()[0], batches(4, augment=None).sum((1, 2, 3)).sort()[0]
    )


@pytest.mark.parametrize(
    "options", [{"fraction": 0}, {"fraction": 101}, {"fraction_by": "clip"}, {"validation": 1.0}, {"resize": "x"}]
)
def test_options_out_of_range_are_refused(options: dict[str, Any], small_planes: PhantomPlanes) -> None:
    with pytest.raises(UsageError, match=f"data.{next(iter(options))} must"):
        PlaneDataModule(small_planes, **options)


# ------------------------------------------------------------------------------------------------ presets


def _fetal_planes(root: Path) -> None:
    planes = ("Fetal brain", "Fetal thorax", "Other")
    rows = []
    for person in range(1, 9):
        for n, plane in enumerate(planes):
            name = f"Patient{person:05d}_Plane{n}_1_of_1"
            _picture(root / "Images" / f"{name}.png")
            rows.append([name, person, plane, "Not A Brain", "Op. 1", "Voluson E6", int(person < 6)])
    header = ["Image_name", "Patient_num", "Plane", "Brain_plane", "Operator", "US_Machine", "Train "]
    _table(root / "FETAL_PLANES_DB_data.csv", header, rows, ";")


def _african(root: Path) -> None:
    rows = []
    for center in ("Algeria", "Egypt"):
        for person in (1, 2):
            for n, plane in enumerate(("Fetal brain", "Fetal thorax")):
                name = f"patient{person:03d}_{center[:3]}_plane{n}"
                _picture(root / "Zenodo_dataset" / center / f"{name}.png")
                rows.append([person, plane, int(person == 1), center, name])
    header = ["Patient_num", "Plane", "Train", "Center", "Filename"]
    _table(root / "Zenodo_dataset/African_planes_database.csv", header, rows)


def test_fetal_planes_db_has_its_official_split(tmp_path: Path) -> None:
    _fetal_planes(tmp_path)
    data = PlaneDataModule(FetalPlanesDb(tmp_path), validation=0.2)
    assert data.class_names == ("Fetal brain", "Fetal thorax", "Other")
    assert len(data.labels("test")) == 9
    assert data.describe()["patients"] == {"train": 4, "validation": 1, "test": 3}


def test_patients_of_two_countries_are_two_patients(tmp_path: Path) -> None:
    _african(tmp_path)
    sets = AfricanPlanes(tmp_path).load()
    assert sets.test is not None
    assert set(sets.train.columns["patient_id"]) == {"Algeria/1", "Egypt/1"}
    _fetal_planes(tmp_path / "db")
    data = PlaneDataModule(CommonClasses(FetalPlanesDb(tmp_path / "db"), AfricanPlanes(tmp_path)))
    assert data.class_names == ("Fetal brain", "Fetal thorax")
    assert data.describe()["images"] == {"train": 10, "test": 8}


def test_sets_that_have_nothing_in_common_are_refused(tables: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"data.source.train must hold a row to train on, .*trainV3.csv has none"):
        _source(tables, filters={"whitelist": {"machine_type": ["E10"]}}).load()
    ours = _source(tables)
    _fetal_planes(tmp_path / "db")
    with pytest.raises(
        UsageError, match=r"data.source.test must share two classes with data.source.train, .* share none"
    ):
        CommonClasses(ours, FetalPlanesDb(tmp_path / "db")).load()
    arrays = PhantomPlanes(train=10, validation=5, test=5, size=64, cache_dir=tmp_path / "cache")
    with pytest.raises(
        UsageError, match=r"data.source: .* must consist of picture files to be joined with another source"
    ):
        CommonClasses(arrays, arrays).load()


def test_packs_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"data.source.splits must be some of .*, got \['tset'\]"):
        BusiFrames(tmp_path, splits=["tset"])
    with pytest.raises(UsageError, match=r"data.source.splits must be some of .*, got \[\]"):
        Hc18Frames(tmp_path, splits=[])
    with pytest.raises(UsageError, match=r"data.source.validation must be at least 0, got -1"):
        LungClips(tmp_path, validation=-1)
    clips = {"frames": np.zeros((2, 3, 8, 8), np.uint8), "patient": np.arange(2), "source_name": np.array(["a", "b"])}
    np.savez(tmp_path / "lung_us_clips_112.npz", **clips)
    with pytest.raises(
        UsageError, match=r"must be an archive with frames, .*lung_us_clips_112.npz lacks probe, frames_per"
    ):
        LungClips(tmp_path).load()
    whole = {"probe": np.array(["c", "c"]), "frames_per_second": np.full(2, 20.0)}
    np.savez(tmp_path / "lung_us_clips_112.npz", **clips, **whole)
    assert len(LungClips(tmp_path, validation=1).load().train) == 1
    with pytest.raises(UsageError, match=r"data.source.validation must leave patients to train on, got 2 of 2"):
        LungClips(tmp_path, validation=2).load()
    np.savez(tmp_path / "busi_128.npz", images=np.zeros((2, 8, 8), np.uint8), group=np.arange(2))
    with pytest.raises(UsageError, match=r"must be an archive with images, split, group, .*busi_128.npz lacks split"):
        BusiFrames(tmp_path).load()


@pytest.mark.data
def test_the_packs_are_read_in_place(data_pack: Callable[[str], Path]) -> None:
    heads = PlaneDataModule(Hc18(data_pack("hc18")), image_size=96, patient="subject")
    assert heads.describe()["images"] == {"train": 283, "validation": 43, "test": 83}
    assert heads.class_names == ("first", "second", "third")
    breasts = PlaneDataModule(Busi(data_pack("busi")), image_size=96, patient="group")
    assert breasts.describe()["images"] == {"train": 363, "validation": 51, "test": 106}
    assert breasts.images("train").class_counts().sum() == 363
    clips = LungClips(data_pack("lung_us_clips"), validation=2).load()
    assert len(clips.train) + len(clips.validation) == 43
    assert not {clip.patient for clip in clips.train} & {clip.patient for clip in clips.validation}
    assert clips.train[0].read(23).shape == (112, 112)
    stills = Hc18Frames(data_pack("hc18")).load()
    assert len(stills.train) == 283
    tested = heads.patients("test")
    assert tested is not None
    assert not {clip.patient for clip in stills.train} & set(map(str, tested))
    assert len(BusiFrames(data_pack("busi")).load().train) == 363


@pytest.mark.parametrize("pack", [Busi, Hc18, BusiFrames, Hc18Frames, LungClips])
def test_a_pack_that_is_missing_names_the_option_that_was_given(pack: type, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^data.source.root must be an existing file, got .*\.npz$"):
        pack(tmp_path).load()
