"""FETAL_PLANES_DB (Zenodo 3904280, CC BY 4.0): six kinds of fetal plane, official split by patient."""

from pathlib import Path
from typing import Literal

from usssl.plane_csv import Filters, PlaneCsv

TABLE = "FETAL_PLANES_DB_data.csv"


class FetalPlanesDb(PlaneCsv):
    """``FETAL_PLANES_DB_data.csv`` (fields between ``;``) and ``Images/NAME.png``.

    The column ``Train`` (1 or 0) is the official split, disjoint in patients; hold validation images out of the
    training part with ``data.validation``. X. P. Burgos-Artizzu et al., Scientific Reports 10:10200, 2020.

    Args:
        root: The folder of the table.
        label: ``Plane`` for the six planes, ``Brain_plane`` for the planes of the brain.
        filters: As in :class:`~usssl.plane_csv.PlaneCsv`, e.g. by ``US_Machine``.
    """

    def __init__(
        self, root: str | Path, label: Literal["Plane", "Brain_plane"] = "Plane", filters: Filters | None = None
    ) -> None:
        folder = Path(root).expanduser()
        super().__init__(
            folder / TABLE,
            folder / "Images",
            image="Image_name",
            label=label,
            patient="Patient_num",
            split="Train",
            splits={"1": "train", "0": "test"},
            filters=filters,
            delimiter=";",
            suffix=".png",
            name="fetal_planes_db",
        )
