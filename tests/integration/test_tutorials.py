"""The tutorials' own words: their commands are taken out of the pages and run in order, on data made as they say.

A block ``console`` is run, line by line; a block with a title is written as that file; ``sh`` blocks need what a test
does not have (weights, a GPU, long hours). Options that make a run small stand in :data:`SMALL` and are all that is
added.
"""

import csv
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import shared.sweep

REPOSITORY = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CPU = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
ONE = [*CPU, "--trainer.max_epochs=1"]
SCANS = [
    "--data.image_size=32",
    "--data.stride=3",
    "--model.rank=2",
    "--model.scores.distances=false",
    "--model.init=random",
]
FRAMES = ["--data.image_size=32", "--data.load_size=48", "--data.batch_size=8", "--model.lr_schedule.warmup_epochs=0"]
FRAMES += ["--model.method.hidden=16", "--model.method.width=16"]
PLANES = ["--data.image_size=32", "--data.batch_size=4"]
PAIRS = ["--data.batch_size=4", "--data.keep_mib=0"]
CLIENTS = ["--data.image_size=16", "--model.network.width=4", "--data.batch_size=8"]

SMALL: dict[str, dict[str, list[str]]] = {
    "fedsam": {"fit": [*ONE, *SCANS], "test": CPU, "describe": SCANS},
    "usssl": {
        "pretrain": [*ONE, *FRAMES],
        "finetune": [*ONE, *PLANES],
        "sweep": [*ONE, *PLANES],
        "knn": PLANES,
    },
    "fedseca": {
        "fit": [*ONE, *CLIENTS],
        "test": CPU,
        "predict": CPU,
        "partition": [],
        "describe": CLIENTS,
        "compare": [*CPU, *CLIENTS],
    },
    "finelip": {"fit": [*ONE, *PAIRS], "test": [*CPU, *PAIRS]},
}
"""What is added to the commands of a verb, behind everything else."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Path:
    """An empty working folder; sweeps train in this process, which has the libraries already."""

    def one_by_one(cells: Sequence[Any], work: str, *rest: Any) -> Iterator[tuple[Any, dict[str, str]]]:
        for cell in cells:
            yield cell, shared.sweep._work(work, cell.words)

    monkeypatch.setattr(shared.sweep, "_results", one_by_one)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def walk(package: str) -> list[list[str]]:
    """Do what the tutorial of a package says; returns the words of its commands."""
    main: Callable[[list[str]], None] = import_module(f"{package}.cli").main
    page = (REPOSITORY / "docs" / package / "tutorial.md").read_text(encoding="utf-8")
    done = []
    for language, title, text in BLOCK.findall(page):
        if title:
            Path(title).write_text(text, encoding="utf-8")
        for line in text.splitlines() if language == "console" else ():
            assert line.startswith("$ "), line
            words = shlex.split(line[2:], comments=True)
            if words[0] == "PYTHONPATH=.":
                words = words[1:]
            assert words[0] == package, line
            main([*words[1:], *SMALL[package].get(words[1], [])])
            done.append(words[1:])
    return done


def write_picture(path: Path, seed: int, side: int = 40) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shade = np.random.default_rng(seed).integers(0, 256, (side, side + 8, 3), dtype=np.uint8)
    Image.fromarray(shade).save(path)


def write_table(path: str, *rows: Sequence[object]) -> None:
    with Path(path).open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)


def read_table(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as stream:
        return list(csv.DictReader(stream))


# ---------------------------------------------------------------------- fedsam


def test_own_scans() -> None:
    from fedsam.ct_kidney_phantom import CtKidneyPhantom
    from fedsam.readers.nifti import write_nifti

    sets = CtKidneyPhantom(scale=0.1, slices=6, size=32).load()
    volumes = [case.read() for case in sets.train[:6]]
    places = [("north", "train"), ("north", "train"), ("south", "train"), ("south", "train")]
    places += [("north", "test"), ("south", "test")]
    rows: list[list[str]] = [["site", "image", "label", "split", "patient"]]
    for number, ((site, split), volume) in enumerate(zip(places, volumes, strict=True)):
        image, label = (f"scans/{site}/{split}/{part}/case{number}.nii.gz" for part in ("images", "labels"))
        for path in (image, label):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        assert volume.label is not None
        write_nifti(Path(image), volume.image, volume)
        write_nifti(Path(label), volume.label, volume)
        rows.append([site, image, label, split, f"p{number}"])
    write_table("scans.csv", *rows)
    Path("new").mkdir()
    write_nifti(Path("new/someone.nii.gz"), volumes[0].image, volumes[0])

    walk("fedsam")
    assert (Path("runs/fedsam/kidneys/version_0/report.html")).is_file()
    assert (Path("runs/fedsam/kidneys/version_0/volumes.csv")).is_file()
    for name in (
        "masks/someone.nii.gz",
        "masks/someone.png",
        "masks2/someone.nii.gz",
        "kidneys.safetensors.MODEL_CARD.md",
    ):
        assert Path(name).is_file(), name


# ---------------------------------------------------------------------- usssl


def write_avi(path: Path, codec: str) -> None:
    import av

    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for number in range(12):
            shade = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(shade, format="rgb24")))
        file.mux(stream.encode())


def test_own_videos_and_frames() -> None:
    from usssl.fetal_heart_phantom.source import PhantomVideos
    from usssl.phantom_files import write_videos

    write_videos(PhantomVideos(6, 6, frames=(16, 20), size=48).load(), Path("made"), "video")
    Path("videos").mkdir()
    for number, path in enumerate(sorted(Path("made").rglob("*.mp4"))):
        path.rename(f"videos/scan_{number:03d}.mp4")
    for codec in ("mpeg4", "mjpeg"):
        write_avi(Path(f"videos/scan_{codec}.avi"), codec)

    table: list[list[str]] = [["image_path", "class", "patient_id", "split"]]
    for patient in range(10):
        for number, name in enumerate(("4CH", "LVOT")):
            path = f"frames/p{patient:02d}_{number:04d}.png"
            write_picture(Path(path), 2 * patient + number)
            table.append(
                [path, name, f"p{patient:02d}", "train" if patient < 6 else "valid" if patient < 8 else "test"]
            )
            write_picture(Path(f"planes/{name}/{patient}.png"), 50 + 2 * patient + number)
    write_table("frames.csv", *table)
    write_table("labelled.csv", *(row[:3] for row in table))
    write_picture(Path("new/one.png"), 7)

    walk("usssl")
    assert Path("runs/usssl/pretrain/version_0/report.html").is_file()
    assert [row["file"] for row in read_table("classes.csv")] == ["one.png"]
    assert Path("features.npz").is_file()
    assert len(read_table("runs/sweep/results.csv")) == 8


# ---------------------------------------------------------------------- fedseca


def test_own_clients() -> None:
    rows: list[list[str]] = [["file", "label", "hospital", "split"]]
    for number in range(48):
        label, hospital = ("cat", "dog", "hen")[number % 3], ("east", "north", "south", "west")[number // 3 % 4]
        split = "test" if number >= 36 else "train"
        name = f"{hospital[0]}/{number:04d}.png"
        write_picture(Path("pictures") / name, number, side=20)
        write_picture(Path("photos") / label / f"{number}.jpg", number, side=20)
        rows.append([name, label, hospital, split])
    write_table("pictures.csv", *rows)

    walk("fedseca")
    for name in ("honest", "averaged", "robust", "mine"):
        assert Path(f"runs/fedseca/{name}/version_0/report.html").is_file(), name
    with Path("runs/fedseca/robust/version_0/predictions.csv").open(newline="") as file:
        assert all(Path(row["file"]).is_file() for row in csv.DictReader(file))
    with Path("runs/compared/results.csv").open(newline="") as file:
        scores = [(row["rule"], row["loss"]) for row in csv.DictReader(file)]
    assert len(set(scores)) == len(scores) == 4  # the flag of each attack wins over the config


# ---------------------------------------------------------------------- finelip


def test_own_photographs() -> None:
    rows = [["filepath", "title", "split"]]
    for number in range(20):
        name = "harbour.jpg" if number == 0 else f"2021/{number}.jpg"
        path = Path("photos") / name
        write_picture(path, number, side=100)
        text = f"Picture number {number}. " + "Boats lie behind a red lighthouse. " * (1 + number % 12)
        path.with_suffix(".txt").write_text(text, encoding="utf-8")
        rows.append([name, text, ("train", "train", "train", "val", "test")[number % 5]])
    write_table("captions.csv", *rows)
    Path("labels.txt").write_text("a harbour\nroses along a wall\n")

    walk("finelip")
    assert Path("runs/finelip/photos/version_0/report.html").is_file()
    for name in ("retrieval/report.html", "found/report.html", "explanation/report.html", "best.csv"):
        assert Path(name).is_file(), name
    assert Path("model.safetensors").is_file()
    assert Path("model_hf").is_dir()
