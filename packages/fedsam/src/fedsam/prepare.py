"""``fedsam prepare``: the presets, all written as NIfTI files in the Decathlon's layout.

Libraries are imported by the preset that runs.
"""

import csv
import io
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from shared.errors import UsageError
from shared.prepare import Preset, claim, prepare, write_text

if TYPE_CHECKING:
    from fedsam.volumes import Case, Split, VolumeSets

READ_BY = "--data.source Decathlon --data.source.root {out} --data.source.sites {out}/sites.csv"


def run(words: list[str]) -> None:
    """``fedsam prepare [--preset NAME] [options]``."""
    prepare("fedsam", PRESETS, words)


def mini_ixi(out: str, seed: int = 73) -> None:
    """The default data: virtual relatives of one real head at three sites, brain masks.

    The result is read by ``--data.source Decathlon --data.source.root OUT --data.source.sites OUT/sites.csv``.

    Args:
        out: Folder to write.
        seed: Of the relatives.
    """
    from fedsam.mini_ixi import MiniIxi

    _write(MiniIxi(seed=seed).load(), claim(out, "mini-ixi", seed=seed))


def mini_tissue(out: str, seed: int = 73) -> None:
    """Grey matter in virtual relatives of the ICBM average at three sites.

    Args:
        out: Folder to write.
        seed: Of the relatives.
    """
    from fedsam.mini_tissue import MiniTissue

    _write(MiniTissue(seed=seed).load(), claim(out, "mini-tissue", seed=seed))


def ct_kidney_phantom(out: str, scale: float = 1.0, slices: int = 48, size: int = 224, seed: int = 73) -> None:
    """Synthetic CT of kidneys and tumours in HU, six sites with the case counts of Fed-KiTS2019.

    Args:
        out: Folder to write.
        scale: Share of the 96 cases.
        slices: Slices of each volume.
        size: Height and width of each slice.
        seed: Of everything.
    """
    from fedsam.ct_kidney_phantom import CtKidneyPhantom

    made = {"scale": scale, "slices": slices, "size": size, "seed": seed}
    sets = CtKidneyPhantom(scale=scale, slices=slices, size=size, seed=seed).load()
    _write(sets, claim(out, "ct-kidney-phantom", **made))


def reference_tree(root: str, out: str) -> None:
    """FLAP-SAM's processed tree of pickled windows; its pickles may hold plain arrays only.

    Args:
        root: The folder of the 2D_all_5slice_site... folders.
        out: Folder to write.
    """
    from fedsam.reference_tree import ReferenceTree

    _write(ReferenceTree(Path(root)).load(), claim(out, "reference-tree", root=str(Path(root).resolve())))


PRESETS: dict[str, Preset] = {
    "ct-kidney-phantom": ct_kidney_phantom,
    "mini-ixi": mini_ixi,
    "mini-tissue": mini_tissue,
    "reference-tree": reference_tree,
}
"""Name of a preset to its function."""


def _write(sets: "VolumeSets", out: Path) -> None:
    write_decathlon(sets, out)
    print(f"{out}: {sum(1 for _ in (out / 'imagesTr').iterdir())} volumes; read by {READ_BY.format(out=out)}")


def write_decathlon(sets: "VolumeSets", out: Path) -> Path:
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
    from tqdm import tqdm

    from fedsam.readers.nifti import write_nifti
    from fedsam.volumes import SPLITS

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
    for _, case in tqdm(listed, desc=f"writing {sets.name}", unit="volume", disable=None):
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
    write_text(out / "dataset.json", json.dumps(content, indent=1) + "\n")
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([["case", "site", "split", "patient", "provenance"], *rows])
    write_text(out / "sites.csv", text.getvalue())
    return out


def _file_name(case: "Case") -> str:
    return re.sub(r"[^\w.-]", "-", f"{case.site}_{case.case}")


def _check_empty(out: Path, names: set[str]) -> None:
    for folder in ("imagesTr", "labelsTr"):
        strangers = [path for path in (out / folder).glob("[!.]*") if path.name.removesuffix(".nii.gz") not in names]
        if strangers:
            raise UsageError(f"prepare --out must be empty or hold the same data set, {strangers[0]} is of another")
