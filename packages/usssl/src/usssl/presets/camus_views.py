"""CAMUS as a labelled task: two-chamber or four-chamber view."""

from pathlib import Path

import numpy as np
from PIL import Image

from shared.data.labelled_images import LabelledImages
from shared.data.sources import ImageSets, Source, existing
from shared.errors import UsageError
from usssl.sources.nifti import NiftiReader

VIEWS = ("2CH", "4CH")
INSTANTS = ("ED", "ES")


class CamusViews(Source):
    """The view of ``database_nifti/patientXXXX/patientXXXX_{2CH,4CH}_{ED,ES}.nii.gz``, split by patient.

    Columns: ``patient_id`` and ``instant`` (end of diastole or of systole). S. Leclerc et al., IEEE Transactions on
    Medical Imaging 38(9), 2019.

    Args:
        root: The folder that holds ``database_nifti``, or that folder.
        test: The last patients by number, for the test.
        validation: Those before them, for validation.
        size: Height and width that the pictures, whose sizes differ, are stretched to.
    """

    class_names = VIEWS
    stored_channels = 1

    def __init__(self, root: str | Path, test: int = 100, validation: int = 50, size: int = 256) -> None:
        for option, value, least in (("test", test, 1), ("validation", validation, 0), ("size", size, 16)):
            if value < least:
                raise UsageError(f"data.source.{option} must be at least {least}, got {value}")
        self.root, self.held, self.size = Path(root).expanduser(), (validation, test), size

    def load(self) -> ImageSets:
        root = existing(self.root, "data.source.root", "folder")
        base = root / "database_nifti" if (root / "database_nifti").is_dir() else root
        files = [
            (folder.name, view, instant, file)
            for folder in sorted(base.glob("patient*"))
            for view in VIEWS
            for instant in INSTANTS
            for file in sorted(folder.glob(f"{folder.name}_{view}_{instant}.nii*"))
        ]
        if not files:
            raise UsageError(f"data.source.root must hold patientXXXX/*_2CH_ED.nii.gz and the like, {base} has none")
        patients = sorted({patient for patient, *_ in files})
        left = len(patients) - sum(self.held)
        if left < 1:
            raise UsageError(
                f"data.source.test and validation must leave patients to train on, got {sum(self.held)} of "
                f"{len(patients)}"
            )
        ends = {"train": (0, left), "validation": (left, left + self.held[0]), "test": (left + self.held[0], None)}
        parts = {}
        for part, (first, last) in ends.items():
            chosen = set(patients[first:last])
            own = [row for row in files if row[0] in chosen]
            parts[part] = self._images(own, part) if own else None
        assert parts["train"] is not None
        return ImageSets(parts["train"], parts["test"], parts["validation"])

    def _images(self, files: list[tuple[str, str, str, Path]], part: str) -> LabelledImages:
        reader = NiftiReader()
        pixels = np.empty((len(files), self.size, self.size), np.uint8)
        for row, (*_, file) in enumerate(files):
            picture = reader.probe(file)[0].read(0)
            stretched = Image.fromarray(picture).resize((self.size, self.size), Image.Resampling.BILINEAR)
            pixels[row] = np.asarray(stretched)
        columns = {"patient_id": np.array([f[0] for f in files]), "instant": np.array([f[2] for f in files])}
        labels = np.array([VIEWS.index(f[1]) for f in files])
        return LabelledImages(pixels, labels, VIEWS, name=f"camus {part}", columns=columns)
