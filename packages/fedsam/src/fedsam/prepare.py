"""Write data sets as files: the embedded ones as NIfTI in the Decathlon's layout, the reference's trees too."""

import csv
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from uuid import uuid4

from tqdm import tqdm

from fedsam.ct_kidney_phantom import CtKidneyPhantom
from fedsam.mini_ixi import MiniIxi
from fedsam.mini_tissue import MiniTissue
from fedsam.readers.nifti import write_nifti
from fedsam.reference_tree import ReferenceTree
from fedsam.volumes import SPLITS, Case, Split, VolumeSets, VolumeSource
from shared.errors import UsageError


def write_decathlon(sets: VolumeSets, out: Path) -> Path:
    """Write every case as ``imagesTr/SITE_CASE.nii.gz`` and ``labelsTr/SITE_CASE.nii.gz``, and the tables.

    ``dataset.json`` and ``sites.csv`` (case, site, split, patient, provenance) are written last. Files that are there
    already are left alone, so an interrupted run goes on.

    Args:
        sets: What to write.
        out: The folder, made if absent.

    Returns:
        ``out``.

    Raises:
        UsageError: The folder holds another data set, or a case has no mask.
    """
    listed: list[tuple[Split, Case]] = [(split, case) for split in SPLITS for case in sets.cases(split)]
    names = {_file_name(case) for _, case in listed}
    kinds = {case.provenance for _, case in listed}
    content = {
        "name": sets.name,
        "tensorImageSize": "3D",
        "modality": {"0": "CT" if "kidney" in sets.class_names else "MRI"},
        "labels": {str(number): name for number, name in enumerate(sets.class_names)},
        "provenance": next(kind for kind in ("synthetic", "derived", "real") if kind in kinds),
        "numTraining": len(listed),
        "numTest": 0,
        "training": [
            {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in sorted(names)
        ],
    }
    _check_empty(out, names)
    for _, case in tqdm(listed, desc=f"writing {sets.name}", unit="volume"):
        image, label = (out / folder / f"{_file_name(case)}.nii.gz" for folder in ("imagesTr", "labelsTr"))
        if image.is_file() and label.is_file():
            continue
        volume = case.read()
        if volume.label is None:
            raise UsageError(f"prepare: every case must have a mask, {case.case} of {case.site} has none")
        write_nifti(image, volume.image, volume)
        write_nifti(label, volume.label, volume)
    rows = [
        [_file_name(case), case.site, split, f"{case.site} {case.patient or case.case}", case.provenance]
        for split, case in listed
    ]
    _write_text(out / "dataset.json", [json.dumps(content, indent=1) + "\n"])
    _write_table(out / "sites.csv", ["case", "site", "split", "patient", "provenance"], rows)
    return out


def prepare_mini_ixi(root: Path | None, out: Path) -> None:
    """The default data as NIfTI files."""
    _embedded(MiniIxi(), root, out)


def prepare_mini_tissue(root: Path | None, out: Path) -> None:
    """Grey matter in virtual relatives of the ICBM average, as NIfTI files."""
    _embedded(MiniTissue(), root, out)


def prepare_ct_kidney_phantom(root: Path | None, out: Path) -> None:
    """All 96 cases of the CT kidney phantom at 48 x 224 x 224, in HU, as NIfTI files."""
    _embedded(CtKidneyPhantom(slices=48, size=224), root, out)


def prepare_reference_tree(root: Path | None, out: Path) -> None:
    """FLAP-SAM's processed tree of pickled windows as NIfTI files; its pickles may hold plain arrays only."""
    if root is None:
        raise UsageError("prepare --root must name the folder of the 2D_all_5slice_site… folders, got none")
    write_decathlon(ReferenceTree(root).load(), out)


PRESETS: dict[str, Callable[[Path | None, Path], None]] = {
    "mini-ixi": prepare_mini_ixi,
    "mini-tissue": prepare_mini_tissue,
    "ct-kidney-phantom": prepare_ct_kidney_phantom,
    "reference-tree": prepare_reference_tree,
}


def _embedded(source: VolumeSource, root: Path | None, out: Path) -> None:
    if root is not None:
        raise UsageError(f"prepare --root must be left out for data that the package brings, got {root}")
    write_decathlon(source.load(), out)


def _file_name(case: Case) -> str:
    return re.sub(r"[^\w.-]", "-", f"{case.site}_{case.case}")


def _check_empty(out: Path, names: set[str]) -> None:
    for folder in ("imagesTr", "labelsTr"):
        strangers = [path for path in (out / folder).glob("[!.]*") if path.name.removesuffix(".nii.gz") not in names]
        if strangers:
            raise UsageError(f"prepare --out must be empty or hold the same data set, {strangers[0]} is of another")


def _write_table(path: Path, header: list[str], rows: list[list[str]]) -> None:
    class Lines(list[str]):
        write = list.append

    lines = Lines()
    csv.writer(lines, lineterminator="\n").writerows([header, *rows])
    _write_text(path, lines)


def _write_text(path: Path, lines: Iterable[str]) -> None:
    temporary = path.with_name(f".{uuid4().hex}.tmp")
    temporary.write_text("".join(lines), encoding="utf-8")
    temporary.replace(path)
