"""What a DICOM header says of a person is in no file that training on it writes, and in no line that is printed."""

import base64
import csv
import gzip
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

import fedsam.cli
import usssl.cli
from fedsam.prepare import write_decathlon
from fedsam.readers.dicom import read_series
from fedsam.readers.own_scans import SiteTable
from shared.model_card import NOT_MEDICAL
from usssl.patients import pseudonym
from usssl.phantom_files import write_dicom
from usssl.sources.clips import ArrayReader, Clip

pydicom = pytest.importorskip("pydicom")

CPU = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]

VALUES = {
    "PN": "Qzfamily{0}^Qzgiven{0}",
    "DA": "1871{0:04d}",
    "TM": "23{0:04d}",
    "UI": "1.2.840.99{0}.1871",
    "LT": "Qztext{0}",
}
IDENTIFYING = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientBirthName", "PatientMotherBirthName", "PatientAddress"),
    *("OtherPatientNames", "PatientTelephoneNumbers", "PatientComments", "AdditionalPatientHistory", "Occupation"),
    *("MilitaryRank", "EthnicGroup", "PatientReligiousPreference", "MedicalRecordLocator", "IssuerOfPatientID"),
    *("InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "StationName", "DeviceSerialNumber"),
    *("ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName", "NameOfPhysiciansReadingStudy"),
    *("RequestingPhysician", "StudyID", "AccessionNumber", "StudyDescription", "SeriesDescription", "ProtocolName"),
    *("StudyDate", "StudyInstanceUID", "FrameOfReferenceUID", "ImageComments", "AdmissionID", "RequestingService"),
)


def sentinel(keyword: str, number: int) -> str:
    """A value of an element that occurs nowhere else; ``number`` tells people apart."""
    place = 100 * number + IDENTIFYING.index(keyword)
    kind = pydicom.datadict.dictionary_VR(keyword)
    return VALUES.get(kind, "Qzelem{0}").format(place)


def identify(file: Any, number: int) -> set[str]:
    """Fill a header with what identifies a person; returns every piece that must not be found again."""
    file.SpecificCharacterSet = "ISO_IR 192"
    pieces: set[str] = set()
    for keyword in IDENTIFYING:
        value = sentinel(keyword, number)
        setattr(file, keyword, value)
        pieces |= set(value.split("^"))
    file.PatientName = f"Qzmüller{number}^{file.PatientName.given_name}"
    private = file.private_block(0x0099, f"QZCREATOR{number}", create=True)
    private.add_new(1, "LO", f"Qzprivate{number}")
    inner = pydicom.Dataset()
    inner.PatientID = f"Qznested{number}"
    file.OtherPatientIDsSequence = [inner]
    file.file_meta.SourceApplicationEntityTitle = f"QZAET{number}"
    file.preamble = f"Qzpreamble{number}".encode().ljust(128, b"\0")
    pieces -= {f"Qzfamily{100 * number}"}
    more = ("müller", "private", "nested", "preamble")
    return pieces | {f"Qz{word}{number}" for word in more} | {f"QZCREATOR{number}", f"QZAET{number}"}


# ---------------------------------------------------------------------- the search


def readings(content: bytes) -> Iterator[bytes]:
    """A file's bytes, and those of everything that is packed in it."""
    yield content
    if content[:2] == b"\x1f\x8b":
        yield from readings(gzip.decompress(content))
    if content[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                yield name.encode()
                yield from readings(archive.read(name))
    if content[:8] == b"\x89PNG\r\n\x1a\n":
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
            yield repr({**picture.info, **picture.getexif()}).encode()
    for packed in re.findall(rb"base64,([A-Za-z0-9+/=]+)", content):
        yield from readings(base64.b64decode(packed))


def spellings(piece: str) -> set[bytes]:
    """How a text may be written."""
    words = {piece, json.dumps(piece)[1:-1], piece.encode("ascii", "xmlcharrefreplace").decode()}
    return {word.encode(code).lower() for word in words for code in ("utf-8", "latin-1", "utf-16-le", "utf-16-be")}


def found(pieces: set[str], *folders: Path) -> dict[str, list[str]]:
    """Pieces that occur in files below some folders, or in their names, by the file's path."""
    wanted: dict[bytes, list[tuple[bytes, str]]] = {}  # by their beginnings, of which there are few
    for piece in pieces:
        for way in spellings(piece):
            wanted.setdefault(way[:4], []).append((way, piece))
    hits: dict[str, list[str]] = {}
    for folder in folders:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            name, here = file.relative_to(folder.parent).as_posix(), set()
            for text in (name.encode(), *readings(file.read_bytes())):
                small = text.lower()
                for beginning, ways in wanted.items():
                    if beginning in small:
                        here |= {piece for way, piece in ways if way in small}
            if here:
                hits[name] = sorted(here)
    return hits


def test_the_search_finds_what_is_hidden(tmp_path: Path) -> None:
    folder = tmp_path / "hidden"
    folder.mkdir()
    text = "Qzmüller1"
    picture = io.BytesIO()
    about = PngImagePlugin.PngInfo()
    about.add_text("Comment", text, zip=True)
    Image.new("L", (4, 4)).save(picture, "PNG", pnginfo=about)
    with zipfile.ZipFile(folder / "a.ckpt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.pkl", text.encode("utf-16-le"))
    (folder / "b.nii.gz").write_bytes(gzip.compress(text.encode()))
    (folder / "c.png").write_bytes(picture.getvalue())
    (folder / "d.html").write_bytes(b'<img src="data:image/png;base64,' + base64.b64encode(picture.getvalue()) + b'">')
    (folder / "e.json").write_text(json.dumps([text]))
    (folder / f"{text}.txt").write_text("")
    assert len(found({text}, folder)) == 6
    assert found({"Qzmüller2"}, folder) == {}


# ---------------------------------------------------------------------- the two packages that read DICOM


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def written(folder: Path) -> list[Path]:
    """Every folder that commands have written to."""
    return [path for path in folder.iterdir() if path.is_dir() and path.name != "input"]


def ultrasound(folder: Path) -> set[str]:
    """Five clips of five people, four of them to train on."""
    pieces: set[str] = set()
    frames = np.random.default_rng(0).integers(0, 256, (6, 40, 44), dtype=np.uint8)
    for number in range(1, 6):
        path = folder / ("valid" if number == 5 else "train") / f"study-{number}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        clip = Clip(path.stem, str(path), 6, ArrayReader(), fps=30.0, patient="x", machine="scanner")
        write_dicom(frames, path, clip)
        file = pydicom.dcmread(path)
        pieces |= identify(file, number)
        file.save_as(path)
    return pieces


def test_ultrasound(empty_folder: Path, capfd: pytest.CaptureFixture[str], loaded: Callable[[Path], Any]) -> None:
    pieces = ultrasound(empty_folder / "input")
    assert set().union(*found(pieces, empty_folder / "input").values()) == pieces
    size = ["--data.image_size", "32", "--data.load_size", "36", "--data.batch_size", "4"]
    method = ["--model.method.hidden", "16", "--model.method.width", "16", "--model.lr_schedule.warmup_epochs", "0"]
    videos = ["--data.source", "VideoFolder", "--data.source.root", "input", "--data.sampling.frame_skip", "1"]
    once = ["--trainer.max_epochs", "1"]
    people = ["--data.sampling.share", "75", "--data.sampling.share_of", "patient"]
    usssl.cli.main(["pretrain", *CPU, *videos, *size, *method, *once, *people])
    record = json.loads(Path("runs/usssl/pretrain/version_0/results.json").read_text())
    assert record["data"]["train"]["patients"] == 3  # people are told apart, without their names
    (empty_folder / "out").mkdir()
    usssl.cli.main(["export", "--out", "out/backbone.safetensors"])
    card = empty_folder / "out/backbone.safetensors.MODEL_CARD.md"
    assert NOT_MEDICAL in card.read_text().splitlines()
    assert "pseudonyms of patients (3)" in card.read_text()
    assert loaded(card)["model"]
    usssl.cli.main(["export", "--out", "out/none.safetensors", "--patients", "false"])

    planes = ["--data.source.train", "20", "--data.source.validation", "10", "--data.source.test", "20"]
    small = [*planes, "--data.source.size", "32", "--data.image_size", "32", "--data.batch_size", "10"]
    usssl.cli.main(["finetune", *CPU, *small, *once])
    assert found(pieces, *written(empty_folder)) == {}
    told = capfd.readouterr()
    assert [piece for piece in pieces if piece.lower() in (told.out + told.err).lower()] == []
    files = {path.suffix for folder in written(empty_folder) for path in folder.rglob("*")}
    assert {".ckpt", ".html", ".json", ".csv", ".png", ".yaml", ".safetensors", ".md"} <= files

    # What stands for people goes where it is needed to keep them apart, and nowhere else.
    stand_ins = {pseudonym(sentinel("PatientID", number)) for number in range(1, 6)}
    holders = set(found(stand_ins, *written(empty_folder)))
    assert {Path(name).suffix for name in holders} == {".ckpt", ".safetensors", ".json"}
    assert {name.split("/")[0] for name in holders if name.endswith(".json")} == {"cache"}
    assert "out/none.safetensors" not in holders


def test_somebody_of_the_clips_is_not_tested(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ultrasound(empty_folder / "input")
    size = ["--data.image_size", "32", "--data.load_size", "36", "--data.batch_size", "4"]
    method = ["--model.method.hidden", "16", "--model.method.width", "16", "--model.lr_schedule.warmup_epochs", "0"]
    videos = ["--data.source", "VideoFolder", "--data.source.root", "input", "--data.source.name", "clinic"]
    once = ["--data.sampling.frame_skip", "1", "--trainer.max_epochs", "1"]
    usssl.cli.main(["pretrain", *CPU, *videos, *size, *method, *once])
    rows = []
    for number in range(9):
        Image.new("L", (32, 32), 20 * number).save(f"{number}.png")
        part = ("train", "valid", "test")[number // 3]
        patient = sentinel("PatientID", 2) if number == 8 else f"other-{number}"
        rows.append([f"{number}.png", "ab"[number % 2], patient, part])
    with Path("frames.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image_path", "class", "patient_id", "split"], *rows])
    table = ["--data.source", "PlaneCsv", "--data.source.train", "frames.csv", "--data.source.split", "split"]
    table += ["--data.source.patient", "patient_id", "--data.source.name", "clinic", "--data.image_size", "32"]
    capsys.readouterr()
    with pytest.raises(SystemExit):
        usssl.cli.main(["finetune", *CPU, *table, "--data.batch_size", "3"])
    told = capsys.readouterr().err
    assert f"no patient may be in both pretraining and test, but these are: {sentinel('PatientID', 2)}" in told


def scans(folder: Path) -> set[str]:
    """Six series of two sites with masks, and a table of them."""
    pieces: set[str] = set()
    rng = np.random.default_rng(0)
    rows = [["site", "image", "label", "split"]]
    for number in range(1, 7):
        series = folder / f"study-{number}"
        series.mkdir(parents=True)
        clip = Clip("x", "x", 1, ArrayReader(), patient="x", machine="scanner")
        for z in range(6):
            write_dicom(
                rng.integers(0, 256, (1, 32, 32), dtype=np.uint8), series / f"{z}.dcm", replace(clip, video_id=f"{z}")
            )
            file = pydicom.dcmread(series / f"{z}.dcm")
            file.SeriesInstanceUID, file.PixelSpacing = f"1.2.840.98.{number}.1871", [0.5, 0.8]
            file.ImageOrientationPatient, file.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [-10, -20, 3 * z]
            del file.NumberOfFrames
            pieces |= {*identify(file, number), file.SeriesInstanceUID}
            file.save_as(series / f"{z}.dcm")
        mask = np.zeros((6, 32, 32), np.uint8)
        mask[1:5, 8:20, 8:24] = 1
        nibabel.save(nibabel.Nifti1Image(mask, read_series(series)[1]), folder / f"mask-{number}.nii.gz")
        split = ("train", "train", "train", "train", "validation", "test")[number - 1]
        rows.append([f"site-{'AB'[number % 2]}", f"study-{number}", f"mask-{number}.nii.gz", split])
    with (folder / "scans.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return pieces


def test_scans(empty_folder: Path, capfd: pytest.CaptureFixture[str], loaded: Callable[[Path], Any]) -> None:
    pieces = scans(empty_folder / "input")
    assert set().union(*found(pieces, empty_folder / "input").values()) == pieces
    source = ["--data.source", "SiteTable", "--data.source.csv", "input/scans.csv"]
    data = [*source, "--data.source.labels", "{kidney: 1}", "--data.image_size", "32", "--data.stride", "3"]
    fedsam.cli.main(["fit", *CPU, *data, "--model.rank", "2", "--trainer.max_epochs", "1"])
    fedsam.cli.main(["test", *CPU, *data, "--model.rank", "2"])
    fedsam.cli.main(["predict", "--scans", "input/study-6", "--out", "masks", "--device", "cpu"])
    (empty_folder / "out").mkdir()
    fedsam.cli.main(["export", "--what", "merged", "--out", "out/model.safetensors"])
    fedsam.cli.main(["export", "--what", "adapters", "--out", "out/adapters.safetensors"])
    fedsam.cli.main(["export", "--what", "sam", "--out", "out/sam.pth"])
    write_decathlon(SiteTable("input/scans.csv", {"kidney": 1}).load(), empty_folder / "prepared")
    for name in ("model.safetensors", "adapters.safetensors", "sam.pth"):
        card = empty_folder / "out" / f"{name}.MODEL_CARD.md"
        assert NOT_MEDICAL in card.read_text().splitlines()
        assert loaded(card)
    assert found(pieces, *written(empty_folder)) == {}
    told = capfd.readouterr()
    assert [piece for piece in pieces if piece.lower() in (told.out + told.err).lower()] == []
    files = {path.suffix for folder in written(empty_folder) for path in folder.rglob("*")}
    assert {".ckpt", ".html", ".json", ".csv", ".png", ".yaml", ".safetensors", ".pth", ".md", ".gz", ".npy"} <= files

    # Cases are called after their folders, in tables and reports; what is passed on names none of them.
    named = {name.split("/")[0] for name in found({"study-6"}, *written(empty_folder))}
    assert named == {"cache", "masks", "prepared", "runs"}
    studies = {f"study-{number}" for number in range(1, 7)}
    assert not [name for name in found(studies, empty_folder / "runs") if name.endswith((".ckpt", "results.json"))]
