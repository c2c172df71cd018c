import csv
import importlib.util
import json
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml

from shared.errors import UsageError
from usssl.echo_clip import ECHO_CLIP_FILE, ECHO_CLIP_SHA256
from usssl.fetal_heart_phantom.source import PhantomVideos
from usssl.labelled import PlaneDataModule
from usssl.methods import METHODS
from usssl.phantom_files import write_mp4
from usssl.plane_csv import PlaneCsv
from usssl.prepare import fetal_heart_phantom, run
from usssl.presets.camus_views import CamusViews
from usssl.presets.videos import Camus, EchonetDynamic
from usssl.sources.folder import LAYOUTS, VideoFolder

REPOSITORY = Path(__file__).parents[2]
SIZES = {"videos": 3, "patients": 3, "train": 10, "validation": 5, "test": 5, "size": 64}
SMALL = [word for name, n in (SIZES | {"least_frames": 5, "most_frames": 5}).items() for word in (f"--{name}", str(n))]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_phantom_is_written_in_every_layout(
    layout: str, tmp_path: Path, phantom_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(phantom_cache))
    out = tmp_path / "phantom"
    for _ in range(2):  # the second finds all done
        run(["prepare", "--preset", "fetal-heart-phantom", "--out", str(out), "--layout", layout, *SMALL])
    drawn = PhantomVideos(videos=3, patients=3, frames=(5, 5), size=64).load()
    read = VideoFolder(out / "videos").load()
    assert [len(read.train), len(read.validation)] == [3, 6]
    for ours, theirs in zip(read.train, drawn.train, strict=True):
        assert (ours.video_id, ours.patient, ours.machine) == (theirs.video_id, theirs.patient, theirs.machine)
        assert ours.frames == 5
        assert ours.fps == pytest.approx(theirs.fps, rel=1e-3)
        difference = np.abs(np.atleast_3d(ours.read(3))[..., 0].astype(int) - theirs.read(3))
        assert difference.mean() < (6 if layout == "video" else 1e-9)
    planes = out / "planes"
    data = PlaneDataModule(PlaneCsv(planes / "train.csv", None, planes / "valid.csv", planes / "test.csv"))
    assert data.describe()["images"] == {"train": 10, "validation": 5, "test": 5}


def test_another_phantom_does_not_go_into_the_same_folder(tmp_path: Path) -> None:
    words = ["prepare", "--preset", "fetal-heart-phantom", "--out", str(tmp_path / "out"), *SMALL]
    run(words)
    with pytest.raises(UsageError, match="same preset and options"):
        run([*words, "--seed", "74"])


def test_no_layout_and_no_range_of_lengths_are_refused(tmp_path: Path) -> None:
    words = ["prepare", "--preset", "fetal-heart-phantom", "--out", str(tmp_path / "out")]
    with pytest.raises(UsageError, match=r"--layout must be .*, got avi"):
        run([*words, "--layout", "avi"])
    with pytest.raises(UsageError, match=r"--layout must be one of hdf5, .*, got 'avi'"):
        fetal_heart_phantom(str(tmp_path / "out"), layout="avi")
    with pytest.raises(UsageError, match=r"--least_frames must lie in 1 .. --most_frames \(5\), got 6"):
        run([*words, "--least_frames", "6", "--most_frames", "5"])
    assert not (tmp_path / "out").exists()


def _echonet(root: Path) -> None:
    (root / "Videos").mkdir(parents=True)
    rows = []
    for name, split in (("A", "TRAIN"), ("B", "VAL"), ("C", "TEST")):
        write_mp4(list(np.zeros((4, 112, 112), np.uint8)), root / "Videos" / f"{name}.mp4", 50)
        (root / "Videos" / f"{name}.mp4").rename(root / "Videos" / f"{name}.avi")
        rows.append([name, 55.0, 40, 90, 112, 112, 50, 4, split])
    header = ["FileName", "EF", "ESV", "EDV", "FrameHeight", "FrameWidth", "FPS", "NumberOfFrames", "Split"]
    with (root / "FileList.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def test_echonet_leaves_its_test_videos_out(tmp_path: Path) -> None:
    _echonet(tmp_path / "in")
    sets = EchonetDynamic(tmp_path / "in").load()
    assert [[clip.video_id for clip in part] for part in (sets.train, sets.validation)] == [["A"], ["B"]]
    assert sets.train[0].read(3).shape[:2] == (112, 112)
    table = tmp_path / "in/FileList.csv"
    whole = table.read_text()
    table.write_text(whole.replace("\nA,", "\nD,"))
    with pytest.raises(UsageError, match=r"every video must exist, FileList.csv names .*D.avi"):
        EchonetDynamic(tmp_path / "in").load()
    table.write_text(whole.replace("FPS", "Rate"))
    with pytest.raises(UsageError, match=r"FileList.csv must have the columns FPS"):
        EchonetDynamic(tmp_path / "in").load()
    table.write_text(whole)
    run(["prepare", "--preset", "echonet_dynamic", "--root", str(tmp_path / "in"), "--out", str(tmp_path / "out")])
    assert len((tmp_path / "out/manifest.csv").read_text().splitlines()) == 3


def test_camus_is_divided_by_patient(tmp_path: Path) -> None:
    for person in range(1, 5):
        folder = tmp_path / "database_nifti" / f"patient{person:04d}"
        folder.mkdir(parents=True)
        for view in ("2CH", "4CH"):
            image = nibabel.Nifti1Image(np.full((20, 16, 6), person, np.uint8), np.eye(4))
            nibabel.save(image, folder / f"patient{person:04d}_{view}_half_sequence.nii.gz")
    sets = Camus(tmp_path, validation=1).load()
    assert [len(sets.train), len(sets.validation)] == [6, 2]
    assert sets.train[0].frames == 6
    assert sets.train[0].read(0).shape == (16, 20)
    assert {clip.patient for clip in sets.validation} == {"patient0004"}
    with pytest.raises(UsageError, match="must leave patients"):
        Camus(tmp_path, validation=4).load()


def test_views_of_camus_are_divided_by_patient(tmp_path: Path) -> None:
    for person in range(1, 6):
        folder = tmp_path / "database_nifti" / f"patient{person:04d}"
        folder.mkdir(parents=True)
        for view, grey in (("2CH", 50), ("4CH", 100)):
            for instant in ("ED", "ES"):
                image = nibabel.Nifti1Image(np.full((20 + person, 16), grey + person, np.uint8), np.eye(4))
                nibabel.save(image, folder / f"patient{person:04d}_{view}_{instant}.nii.gz")
    sets = CamusViews(tmp_path, test=2, validation=1, size=16).load()
    assert sets.test is not None
    assert sets.validation is not None
    assert [len(part) for part in (sets.train, sets.validation, sets.test)] == [8, 4, 8]
    assert sets.train.class_names == ("2CH", "4CH")
    assert set(sets.test.columns["patient_id"]) == {"patient0004", "patient0005"}
    pixels, label = sets.test[2]
    assert (int(pixels[0, 0, 0]), label) == (104, 1)
    for options, told in (
        ({"test": 0}, "test must be at least 1, got 0"),
        ({"validation": -1}, "validation must be at least 0, got -1"),
        ({"size": 8}, "size must be at least 16, got 8"),
    ):
        with pytest.raises(UsageError, match=rf"data.source.{told}"):
            CamusViews(tmp_path, **options)
    with pytest.raises(UsageError, match="must leave patients to train on, got 5 of 5"):
        CamusViews(tmp_path, test=4, validation=1).load()
    with pytest.raises(UsageError, match=r"2CH_ED.nii.gz and the like, .* has none"):
        CamusViews(tmp_path / "database_nifti/patient0001").load()


def test_only_what_the_abstract_says_is_quoted() -> None:
    quoted = yaml.safe_load((REPOSITORY / "packages/usssl/paper_results.yaml").read_text())
    assert quoted["source"] == "abstract"
    assert quoted["margins_in_points"] == {"imagenet": 12, "every_other_pretraining": 4}
    for mode in ("full", "linear"):
        starts = quoted["macro_f1"][mode]
        assert set(starts) >= set(list(METHODS)[:7]) | {"imagenet", "random"}
        assert all(score is None for scores in starts.values() for score in scores.values())


def test_the_summary_counts_files(tmp_path: Path) -> None:
    from PIL import Image

    root = tmp_path / "in"
    (root / "Images").mkdir(parents=True)
    lines = ["Image_name;Patient_num;Plane;Brain_plane;Operator;US_Machine;Train "]
    for person in range(4):
        Image.new("L", (8, 8)).save(root / "Images" / f"Patient{person}_a.png")
        lines.append(f"Patient{person}_a;{person};Fetal {'ab'[person % 2]};x;y;z;{int(person < 2)}")
    (root / "FETAL_PLANES_DB_data.csv").write_text("\n".join(lines) + "\n")
    run(["prepare", "--preset", "fetal_planes_db", "--root", str(root), "--out", str(tmp_path / "out")])
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["train"] == {"images": 2, "patients": 2, "classes": {"Fetal a": 1, "Fetal b": 1}}


def test_the_embedded_clip_is_the_published_one() -> None:
    folder = files("usssl")
    content = folder.joinpath(*ECHO_CLIP_FILE.split("/")).read_bytes()
    assert sha256(content).hexdigest() == ECHO_CLIP_SHA256
    assert len(content) < 600_000
    assert ECHO_CLIP_SHA256 in folder.joinpath("samples", "DATA_LICENSES.md").read_text(encoding="utf-8")


def test_the_embedded_clip_can_be_rebuilt() -> None:
    spec = importlib.util.spec_from_file_location("build_embedded", REPOSITORY / "tools/build_embedded.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    sample = tool.SAMPLES["echo-clip"]
    if not (sample.root / "examples_ybr_color.dcm").is_file():
        pytest.skip("pydicom comes without its test files")
    arrays = sample.build(sample.root)
    shipped = np.load(str(files("usssl").joinpath(*ECHO_CLIP_FILE.split("/"))), allow_pickle=False)["frames"]
    # Decoders of JPEG may differ in the last bit.
    assert np.abs(arrays["frames"].astype(int) - shipped).max() <= 2
