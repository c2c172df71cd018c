"""Readers, on small trees in the exact public layouts, and every bad input in one sentence."""

import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from fedsam.intensity import HounsfieldWindow, Percentiles, Unchanged
from fedsam.readers import ixi, kits2019, prostate
from fedsam.readers.decathlon import Decathlon
from fedsam.readers.ixi import FedIxi
from fedsam.readers.kits2019 import FedKits2019
from fedsam.readers.nifti import NiftiCase, write_nifti
from fedsam.readers.own_scans import SiteFolders, SiteTable
from fedsam.readers.prostate import Prostate
from fedsam.scan_reading import ScanReading
from fedsam.volumes import VolumeSource, label_classes
from fedsam.window_dataset import anti_transposed_volume
from shared.errors import UsageError

WritePair = Callable[..., tuple[Path, Path]]
WriteScan = Callable[..., Path]


@pytest.fixture
def pair(tmp_path: Path, write_pair: WritePair) -> tuple[Path, Path]:
    return write_pair(tmp_path / "a.nii.gz", tmp_path / "a_mask.nii.gz")


def case_of(pair: tuple[Path, Path], **options: object) -> NiftiCase:
    return NiftiCase(site="s", case="c", image=pair[0], label=pair[1], **options)  # type: ignore[arg-type]


# ---------------------------------------------------------------------- the public data sets


def test_the_published_division_of_fed_kits2019() -> None:
    assert [len(ids) for ids in kits2019.TRAIN.values()] == [9, 11, 9, 9, 12, 24]
    assert [len(ids) for ids in kits2019.TEST.values()] == [3, 3, 3, 3, 4, 6]
    every = [number for split in (kits2019.TRAIN, kits2019.TEST) for ids in split.values() for number in ids]
    assert len(set(every)) == 96
    assert max(every) < 210


@pytest.mark.parametrize("layout", ["challenge", "nnunet"])
def test_fed_kits2019(tmp_path: Path, write_scan: WriteScan, layout: str) -> None:
    values = np.full((6, 8, 8), 500.0, np.float32)  # slices come first
    values[:, :4] = -1000
    mask = np.zeros((6, 8, 8), np.uint8)
    mask[2, 3:5], mask[3, 4] = 1, 3
    for number in (21, 181, 1, 144):
        if layout == "challenge":
            folder = tmp_path / f"data/case_{number:05d}"
            paths = folder / "imaging.nii.gz", folder / "segmentation.nii.gz"
        else:
            folder = tmp_path / ("Task1_siteA" if number in (21, 181) else "Task6_siteF")
            paths = folder / f"imagesTr/case_{number:05d}_0000.nii.gz", folder / f"labelsTr/case_{number:05d}.nii.gz"
        write_scan(paths[0], values)
        write_scan(paths[1], mask)
    sets = FedKits2019(tmp_path, partial=True).load()
    assert [(c.site, c.case) for c in sets.train] == [("site-A", "case_00021"), ("site-F", "case_00001")]
    assert [(c.site, c.case) for c in sets.test] == [("site-A", "case_00181"), ("site-F", "case_00144")]
    volume = sets.train[0].read()
    assert volume.label is not None
    assert volume.image.shape == (6, 8, 8)
    assert np.unique(volume.label).tolist() == [0, 1, 2]  # clipped to 2
    expected = (np.array([-66, 208]) - 100.545) / 61.677
    np.testing.assert_allclose(np.unique(volume.image), expected, rtol=1e-5)
    assert sets.class_names == ("background", "kidney", "tumour")
    with pytest.raises(
        UsageError, match=r"must hold the 96 cases .* lacks case_00000, case_00002, case_00003 and 89 more"
    ):
        FedKits2019(tmp_path).load()


def test_fed_ixi(tmp_path: Path, write_pair: WritePair) -> None:
    assert [len(ixi.TEST[site]) for site in ixi.SITES] == [62, 36, 15]
    names = ("IXI002-Guys-0828", "IXI013-HH-1212", "IXI012-HH-1211", "IXI035-IOP-0873", "IXI026-Guys-0696")
    for seed, name in enumerate(names):
        folder = tmp_path / "IXI_sample" / name
        shape = (83, 44, 55) if seed == 0 else (12, 10, 7)
        write_pair(folder / f"T1/{name}_image.nii.gz", folder / f"label/{name}_label.nii.gz", shape, seed)
    for root in (tmp_path, tmp_path / "IXI_sample"):
        sets = FedIxi(root).load()
        assert [(c.site, c.case[:6]) for c in sets.train] == [("Guys", "IXI026"), ("HH", "IXI013"), ("IOP", "IXI035")]
        assert [(c.site, c.case[:6]) for c in sets.test] == [("Guys", "IXI002"), ("HH", "IXI012")]
    assert sets.test[0].read().image.shape == (55, 83, 44)
    assert sum(sets.weights.values()) == pytest.approx(1)
    with pytest.raises(UsageError, match=r"must hold folders like IXI002-Guys-0828, .*T1 has none"):
        FedIxi(tmp_path / "IXI_sample" / names[0] / "T1").load()


def test_prostate(tmp_path: Path, write_pair: WritePair) -> None:
    for site in prostate.TEST:
        for number in (sorted(prostate.TEST[site])[0], 50):
            suffix = "_Segmentation" if site == "HK" else "_segmentation"
            write_pair(
                tmp_path / site / f"Case{number:02d}.nii.gz",
                tmp_path / site / f"Case{number:02d}{suffix}.nii.gz",
                value=2,
            )
    sets = Prostate(tmp_path).load()
    assert [c.case for c in sets.train] == ["Case50"] * 6
    assert [c.case for c in sets.test] == ["Case03", "Case03", "Case03", "Case01", "Case00", "Case38"]
    volume = sets.train[0].read()
    assert volume.label is not None
    assert np.unique(volume.label).tolist() == [0, 1]  # 2 is prostate too
    assert volume.image.shape == (7, 12, 10)
    raw = nibabel.load(tmp_path / "RUNMC/Case50.nii.gz").get_fdata()
    low, high = raw.min(), np.quantile(raw, 0.99)
    expected = (np.minimum(raw, high) - low) / (high - low)
    np.testing.assert_allclose(volume.image, np.moveaxis(expected, 2, 0), atol=1e-5)
    (tmp_path / "UCL/Case50_segmentation.nii.gz").unlink()
    with pytest.raises(UsageError, match=r"must have its Case…_segmentation file, .*UCL/Case50.nii.gz has none"):
        Prostate(tmp_path).load()


@pytest.mark.data
def test_the_real_hippocampus_pack(data_pack: Callable[[str], Path], tmp_path: Path) -> None:
    root = data_pack("hippocampus")
    sets = Decathlon(root / "Task04_Hippocampus", root / "sites.csv").load()
    assert (len(sets.train), len(sets.validation), len(sets.test)) == (93, 13, 26)
    assert sets.class_names == ("background", "Anterior", "Posterior")
    assert sorted(sets.sites) == [f"site-{x}" for x in "ABCDEF"]
    volumes = [next(c for c in sets.train if c.site == site).read() for site in sorted(sets.sites)]
    assert len({v.image.shape for v in volumes}) > 1
    for volume in volumes:
        assert volume.label is not None
        assert volume.label.dtype == np.uint8
        assert set(np.unique(volume.label)) == {0, 1, 2}
        assert (volume.image.min(), volume.image.max()) == (0, 1)
        assert volume.spacing.tolist() == [1, 1, 1]
    stored = nibabel.load(root / "Task04_Hippocampus/labelsTr" / f"{volumes[0].case}.nii.gz")
    assert volumes[0].label is not None
    written = nibabel.load(write_nifti(tmp_path / "p.nii.gz", volumes[0].label, volumes[0]))
    np.testing.assert_array_equal(written.get_fdata(), stored.get_fdata())
    np.testing.assert_array_equal(written.affine, stored.affine)


def decathlon_tree(root: Path, write_pair: WritePair, cases: int = 4) -> Path:
    names = [f"case_{n}" for n in range(cases)]
    for seed, name in enumerate(names):
        write_pair(
            root / f"imagesTr/{name}.nii.gz", root / f"labelsTr/{name}.nii.gz", seed=seed, label_dtype=np.float32
        )
    content = {
        "name": "Task",
        "labels": {"0": "background", "1": "organ"},
        "training": [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names],
    }
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def test_decathlon_with_and_without_sites(tmp_path: Path, write_pair: WritePair) -> None:
    root = decathlon_tree(tmp_path / "t", write_pair)
    assert Decathlon(root).load().sites == ("all",)
    table = tmp_path / "sites.csv"
    table.write_text("case,site,split\ncase_0,b,train\ncase_1,a,train\ncase_2,a,val\ncase_3,b,test\n")
    sets = Decathlon(root, table).load()
    assert sets.sites == ("b", "a")
    assert [c.case for c in (*sets.validation, *sets.test)] == ["case_2", "case_3"]
    table.write_text("case,site,split,patient\ncase_0,a,train,x\ncase_1,a,test,x\ncase_2,a,val,y\n")
    with pytest.raises(
        UsageError, match=r"no patient may be in more than one of .* Task has x of a \(train and test\)$"
    ):
        Decathlon(root, table).load()
    table.write_text("case,site,split\ncase_0,a,train\ncase_9,a,test\n")
    with pytest.raises(UsageError, match=r"must be listed in dataset.json, .* names case_9"):
        Decathlon(root, table).load()
    table.write_text("case,site,split\ncase_0,a,train\ncase_0,a,train\n")
    with pytest.raises(UsageError, match=r"every case must be listed once, Task lists case_0 of a twice"):
        Decathlon(root, table).load()
    table.write_text("case,site,split\ncase_0,a,tarin\n")
    with pytest.raises(UsageError, match=r"split must hold train, .* holds 'tarin' in row 2"):
        Decathlon(root, table).load()
    for labels in ({"0": "background", "organ": "x"}, ["background", "organ"]):
        content = json.loads((root / "dataset.json").read_text()) | {"labels": labels}
        (tmp_path / "other").mkdir(exist_ok=True)
        (tmp_path / "other/dataset.json").write_text(json.dumps(content))
        with pytest.raises(UsageError, match=r"dataset.json must name the labels by number, .*other has [{\[]"):
            Decathlon(tmp_path / "other").load()
    (root / "labelsTr/case_1.nii.gz").unlink()
    with pytest.raises(UsageError, match=r"every file of dataset.json must exist, .*labelsTr/case_1.nii.gz does not"):
        Decathlon(root).load()


# ---------------------------------------------------------------------- own scans


def test_a_folder_per_site_and_a_table_are_the_same_data(tmp_path: Path, write_pair: WritePair) -> None:
    rows = ["site,image,label,split"]
    for seed, (site, split, case) in enumerate(
        [("x", "train", "p1"), ("x", "val", "p2"), ("y", "Train", "p1"), ("y", "test", "p3")]
    ):
        image, label = (f"{site}/{split}/{part}/{case}.nii.gz" for part in ("images", "labels"))
        write_pair(tmp_path / image, tmp_path / label, seed=seed)
        rows.append(f"{site},{image},{label},{split}")
    (tmp_path / "table.csv").write_text("\n".join(rows) + "\n")
    sources: list[VolumeSource] = [SiteFolders(tmp_path, {"organ": 1}), SiteTable(tmp_path / "table.csv", {"organ": 1})]
    for source in sources:
        sets = source.load()
        assert [[(c.site, c.case) for c in sets.cases(s)] for s in ("train", "validation", "test")] == [  # type: ignore[arg-type]
            [("x", "p1"), ("y", "p1")],
            [("x", "p2")],
            [("y", "p3")],
        ]
        assert sets.train[0].read().image.shape == (7, 12, 10)
    assert sources[0].load().train[0].fingerprint() == sources[1].load().train[0].fingerprint()


def test_bad_tables_and_folders(tmp_path: Path, write_pair: WritePair) -> None:
    write_pair(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz")
    table = tmp_path / "t.csv"

    def told(text: str, sentence: str) -> None:
        table.write_text(text)
        with pytest.raises(UsageError, match=sentence):
            SiteTable(table, {"organ": 1}).load()

    told("site,image,label\n", r"data.source.csv must have a column split, .* has site, image, label")
    told("site,image,label,split\n", r"must have at least one row below the header")
    told("site,image,label,split\nx,a.nii.gz,b.nii.gz\n", r"4 fields of the header, .* has 3 in row 2")
    told("site,image,label,split\nx,a.nii.gz,,train\n", r"must name a scan and a mask, .* has no label in row 2")
    told("site,image,label,split\nx,a.nii.gz,c.nii.gz,train\n", r"every file must exist, .* names .*c.nii.gz in row 2")
    told("site,image,label,split\nx,a.nii.gz,b.nii.gz,test\n", r"at least one training case, own scans has none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"must hold a folder per site, .*empty has none"):
        SiteFolders(tmp_path / "empty", {"organ": 1}).load()
    (tmp_path / "sites/x/train/images").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"every folder of scans must hold .nii.gz files, .*images has none"):
        SiteFolders(tmp_path / "sites", {"organ": 1}).load()
    write_pair(tmp_path / "sites/x/train/images/p.nii.gz", tmp_path / "sites/x/train/labels/q.nii.gz")
    with pytest.raises(UsageError, match=r"must have a mask of its name, .*labels lacks p.nii.gz"):
        SiteFolders(tmp_path / "sites", {"organ": 1}).load()
    write_pair(tmp_path / "sites/x/train/images/q.nii.gz", tmp_path / "sites/x/train/labels/p.nii.gz")
    write_pair(tmp_path / "sites/y/test/images/p.nii.gz", tmp_path / "sites/y/test/labels/p.nii.gz")
    with pytest.raises(UsageError, match=r"every site must hold a folder train, .*y has none"):
        SiteFolders(tmp_path / "sites", {"organ": 1}).load()


def test_label_maps() -> None:
    assert label_classes({"a": 2, "b": [1, 4]}) == (("background", "a", "b"), {0: 0, 2: 1, 1: 2, 4: 2})
    with pytest.raises(UsageError, match=r"values of its own in 1..255, got 2 for b"):
        label_classes({"a": 2, "b": [2]})
    with pytest.raises(UsageError, match=r"at least one foreground class, got none"):
        label_classes({})


def test_a_dicom_series_needs_pydicom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedsam.readers.dicom import read_series

    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    (tmp_path / "a.dcm").touch()
    with pytest.raises(UsageError, match=r"a DICOM series needs the package pydicom \(pip install pydicom\), got"):
        read_series(tmp_path)


# ---------------------------------------------------------------------- single files


def test_axes_spacing_and_affine(tmp_path: Path, write_pair: WritePair) -> None:
    affine = np.array([[0, 0, 3.0, -20], [-0.7, 0, 0, 30], [0, 0.8, 0, 5], [0, 0, 0, 1]])
    pair = write_pair(tmp_path / "a.nii", tmp_path / "b.nii", affine=affine, dtype=np.float64)
    stored = nibabel.load(pair[0]).get_fdata()
    for axis in range(3):
        case = case_of(pair, slice_axis=axis, normalisation=Unchanged())
        volume = case.read()
        assert volume.affine is not None
        assert volume.image.dtype == np.float32
        assert volume.spacing.tolist() == pytest.approx(
            [*np.roll([0.7, 0.8, 3.0], -axis)[:1], *np.delete([0.7, 0.8, 3.0], axis)]
        )
        np.testing.assert_array_equal(volume.image, np.moveaxis(stored, axis, 0).astype(np.float32))
        for back in (volume, anti_transposed_volume(volume)):
            index = np.array([3, 4, 2])
            assert back.affine is not None
            there = np.linalg.inv(affine) @ back.affine @ [*index, 1]
            assert back.image[tuple(index)] == np.float32(stored[tuple(np.rint(there[:3]).astype(int))])
            written = nibabel.load(write_nifti(tmp_path / "out.nii.gz", np.asarray(back.label), back))
            np.testing.assert_array_equal(written.get_fdata(), nibabel.load(pair[1]).get_fdata())
            np.testing.assert_allclose(written.affine, affine)


def test_a_map_of_another_shape_is_not_written(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    volume = case_of(pair).read()
    with pytest.raises(UsageError, match=r"a map of c must have shape \(7, 12, 10\), got \(7, 12, 9\)"):
        write_nifti(tmp_path / "out.nii.gz", volume.image[..., 1:], volume)
    pair[1].unlink()
    with pytest.raises(UsageError, match=r"every scan and mask must exist, .*a_mask.nii.gz does not"):
        case_of(pair).fingerprint()


def test_normalisations_by_their_formulas() -> None:
    image = np.random.default_rng(0).normal(0, 200, (9, 8, 7))
    np.testing.assert_allclose(
        HounsfieldWindow(-66, 208, 100.5, 61.7)(image), (np.clip(image, -66, 208) - 100.5) / 61.7, rtol=1e-5
    )
    low, high = np.percentile(image, [5, 90])
    np.testing.assert_allclose(Percentiles(5, 90)(image), (np.clip(image, low, high) - low) / (high - low), atol=1e-6)
    for value in (0, 7.5):
        assert not Percentiles()(np.full((5, 4, 4), value)).any()


def test_a_model_of_sites_that_differ_asks_for_one() -> None:
    kinds = {"a": Percentiles(), "b": HounsfieldWindow(-66, 208, 100.5, 61.7)}
    reading = ScanReading("scans", "real", ("background", "organ"), kinds)
    assert reading.normalisation("b") == kinds["b"]
    assert ScanReading("scans", "real", ("background", "organ"), {"a": kinds["a"], "c": kinds["a"]}).normalisation()
    with pytest.raises(
        UsageError, match=r"--site must name the site whose normalisation the scans want, .* from a, b$"
    ):
        reading.normalisation()


def test_empty_masks_and_constant_scans_are_read(tmp_path: Path, write_scan: WriteScan) -> None:
    flat = write_scan(tmp_path / "flat.nii.gz", np.full((8, 9, 6), 40, np.int16))
    empty = write_scan(tmp_path / "empty.nii.gz", np.zeros((8, 9, 6), np.uint8))
    volume = case_of((flat, empty)).read()
    assert not volume.image.any()
    assert volume.label is not None
    assert not volume.label.any()


def test_bad_files_are_told_in_one_sentence(tmp_path: Path, pair: tuple[Path, Path], write_scan: WriteScan) -> None:
    image, label = pair
    zeros = np.zeros((12, 10, 7), np.float32)

    def told(sentence: str, image: Path = image, label: Path = label, **options: object) -> None:
        with pytest.raises(UsageError, match=sentence) as raised:
            case_of((image, label), **options).read()
        assert "\n" not in str(raised.value)

    thin = write_scan(tmp_path / "thin.nii.gz", zeros[..., :4])
    told(r"at least 5 slices along data.source.slice_axis 2, .*thin.nii.gz has shape \(12, 10, 4\)", thin, thin)
    told(r"every scan and mask must exist, .*absent.nii.gz does not", label=tmp_path / "absent.nii.gz")
    told(r"the same shape, .*a.nii.gz has \(12, 10, 7\) and .*thin.nii.gz \(12, 10, 4\)", label=thin)
    four = write_scan(tmp_path / "four.nii.gz", np.stack([zeros, zeros + 1], -1))
    told(r"must have 3 dimensions, .*four.nii.gz has shape \(12, 10, 7, 2\); data.source.channel picks one", four)
    told(r"channel must lie in 0..1, .*four.nii.gz has no channel 2", four, channel=2)
    assert case_of((four, label), channel=1, normalisation=Unchanged()).read().image.min() == 1
    shifted = write_scan(tmp_path / "shifted.nii.gz", zeros, np.diag([0.8, 0.9, 2.7, 1]))
    told(r"same grid \(within data.source.tolerance 0.5 mm\), .*shifted.nii.gz lies 1.2 mm away", label=shifted)
    assert case_of((image, shifted), tolerance=1.5).read().depth == 7
    told(r"labels must be one of 0, 1, .*holds 7", label=write_scan(tmp_path / "seven.nii.gz", zeros + 7))
    told(
        r"labels must be whole numbers, .*half.nii.gz holds 0.5",
        label=write_scan(tmp_path / "half.nii.gz", zeros + 0.5),
    )
    told(r"must hold finite values, .*nan.nii.gz has NaN", write_scan(tmp_path / "nan.nii.gz", zeros * np.nan))
    whole, middle = label.read_bytes(), label.stat().st_size // 2
    wrong = tmp_path / "wrong.nii.gz"
    wrong.write_bytes(whole[:middle] + b"\xff" * 9 + whole[middle + 9 :])
    told(r"every scan and mask must be readable, .*wrong.nii.gz is not \(Error -3 while decompress", label=wrong)
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(image.read_bytes()[:200])
    told(r"every scan and mask must be readable, .*broken.nii.gz is not", broken)
    text = tmp_path / "text.nii.gz"
    text.write_text("no scan")
    told(r"every scan and mask must be readable, .*text.nii.gz is not", text)
