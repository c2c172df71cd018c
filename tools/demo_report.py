"""Write runs/demo/report.html, one page about the runs of all packages; the last step of `make demo`."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import RunError, UsageError
from shared.report import Report

ATTACKS = ("NoAttack", "ALIE", "IPM", "SignFlip")
"""What ``fedseca compare`` tries by default."""


@dataclass(frozen=True)
class Job:
    """What the demo ran of one package.

    Attributes:
        package: Its name.
        told: What was run, in a sentence or two.
        label: What the headline number is.
        metric: Its name in the record.
        find: From the demo's folder to the record that holds it, the commands, and the folders of the runs; the last
            folder is that of the headline.
        own: Commands for one's own data, as in the package's tutorial.
        needed: What these need, in a sentence.
    """

    package: str
    told: str
    label: str
    metric: str
    find: Callable[[Path], tuple[dict[str, Any], list[str], list[Path]]]
    own: tuple[str, ...]
    needed: str


def read(path: Path) -> str:
    """Text of a file that a run should have left.

    Raises:
        RunError: It is not there.
    """
    if not path.is_file():
        raise RunError(f"the demo's page needs every run, and {path} is missing: run make demo")
    return path.read_text(encoding="utf-8")


def newest(name: Path) -> Path:
    """Newest ``version_N`` of a run name.

    Raises:
        RunError: There is none.
    """
    versions = [path for path in name.glob("version_*") if path.name[8:].isdigit()]
    if not versions:
        raise RunError(f"the demo's page needs every run, and {name} holds none: run make demo")
    return max(versions, key=lambda path: int(path.name[8:]))


def fitted_and_tested(package: str) -> Callable[[Path], tuple[dict[str, Any], list[str], list[Path]]]:
    """Finds the run of ``PACKAGE fit`` with its ``PACKAGE test``."""

    def find(root: Path) -> tuple[dict[str, Any], list[str], list[Path]]:
        run = newest(root / package / "fit")
        fit, test = (json.loads(read(run / file)) for file in ("results.json", "results_test.json"))
        return test, [fit["command"], test["command"]], [run]

    return find


def pretrained_and_finetuned(root: Path) -> tuple[dict[str, Any], list[str], list[Path]]:
    """Finds the runs of ``usssl pretrain`` and ``usssl finetune``."""
    start, run = newest(root / "usssl" / "pretrain"), newest(root / "usssl" / "finetune")
    record = json.loads(read(run / "results_test.json"))
    return record, [json.loads(read(start / "results.json"))["command"], record["command"]], [start, run]


def compared(root: Path) -> tuple[dict[str, Any], list[str], list[Path]]:
    """Finds ``fedseca compare``; the record is that of FedSECA's run with the lowest score."""
    out = root / "fedseca" / "compare"
    command = read(out / "command.txt").strip()
    cells = out / "cells" / "fedseca"
    runs = []
    for attack in ATTACKS:
        names = sorted(cells.glob(f"FedSECA-{attack}-*")) or [cells / f"FedSECA-{attack}"]
        runs += [json.loads(read(newest(name) / "results.json")) for name in names]
    return min(runs, key=lambda record: float(record["metrics"]["test/macro_f1"])), [command], [out]


JOBS = (
    Job(
        "fedsam",
        "Three sites adapt a small SAM to brain masks together; scans stay where they are.",
        "Dice on the test volumes, mean over sites",
        "test/dice",
        fitted_and_tested("fedsam"),
        ("fedsam describe --config kidneys.yaml", "fedsam fit --config kidneys.yaml"),
        "kidneys.yaml names the folders of your scans and what the numbers in their masks mean.",
    ),
    Job(
        "usssl",
        "Pretraining on unlabelled ultrasound video, then five planes of the fetal heart from labelled frames.",
        "macro-F1 on the test images",
        "test/macro_f1",
        pretrained_and_finetuned,
        (
            "usssl pretrain --data.source VideoFolder --data.source.root videos",
            "usssl finetune --data.source ImageFolder --data.source.root planes --data.test 0.2 --data.validation 0.2",
        ),
        "videos holds a folder of clips per patient or machine, planes a folder of pictures per class.",
    ),
    Job(
        "finelip",
        "CLIP with texts of up to 248 tokens learns pictures that only the end of a caption tells apart.",
        "R@1 text to image, fused score, on the test pairs",
        "test/fused/t2i_r1",
        fitted_and_tested("finelip"),
        ("finelip prepare --preset folder --root photos --out counted", "finelip fit --config photos.yaml"),
        "photos holds pictures, each with a text file of its name; photos.yaml names the folder.",
    ),
    Job(
        "fedseca",
        "Five clients train an image classifier together, two of them hostile: averaging and FedSECA, with nobody "
        "attacking and under three attacks.",
        "macro-F1 on the test images, FedSECA's lowest over no attack and three attacks",
        "test/macro_f1",
        compared,
        (
            "fedseca partition --config owners.yaml",
            "fedseca fit --config owners.yaml --model.aggregator FedAvg --run.name honest",
        ),
        "owners.yaml names a table that says whose picture it is.",
    ),
)


def add(report: Report, job: Job, root: Path) -> str:
    """Add the section of one package to the page; returns its headline as a line of text.

    Raises:
        RunError: A run is missing, or it lacks its number, its pictures or its own report.
    """
    record, commands, folders = job.find(root)
    provenance, pretrained = record["data"]["provenance"], record["model"]["pretrained"]
    if job.metric not in record["metrics"]:
        raise RunError(f"{job.package}: the record of {folders[-1]} has no {job.metric}")
    value = float(record["metrics"][job.metric])
    report.section(job.package, job.told)
    report.headline(
        job.label, value, provenance=provenance, pretrained=pretrained, note=f"Data: {record['data']['name']}."
    )
    report.code("\n".join(commands))
    for folder in folders:
        read(folder / "report.html")
        pictures = sorted(folder.glob("*.png"))
        if not pictures:
            raise RunError(f"{job.package}: {folder} has no picture")
        shown = folder.relative_to(root).as_posix()
        for picture in pictures:
            report.figure(picture, f"{picture.stem.replace('_', ' ')} ({shown})")
        report.link(f"The run's own report: {shown}/report.html", f"{shown}/report.html")
    report.prose(f"On your own data: {job.needed}").code("\n".join(job.own))
    tutorial = Path(__file__).resolve().parents[1] / "docs" / job.package / "tutorial.md"
    report.link(
        f"Step by step: docs/{job.package}/tutorial.md", Path(os.path.relpath(tutorial, root.resolve())).as_posix()
    )
    return f"{job.package}: {job.label}: {value:.4f} ({provenance} data, pretrained: {pretrained})"


def write_page(root: Path) -> list[str]:
    """Write ``report.html`` into the demo's folder; returns what to print."""
    report = Report("medley", "What make demo ran: the main job of every package on data that ships with it")
    lines = [add(report, job, root) for job in JOBS]
    return [*lines, f"report: {report.write(root / 'report.html')}"]


def main() -> None:
    """Write the page of the folder that is given, and print each headline and where the page is."""
    try:
        print("\n".join(write_page(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo"))))
    except (RunError, UsageError) as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
