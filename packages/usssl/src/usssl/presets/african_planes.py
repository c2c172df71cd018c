"""African planes (Zenodo 7540447): four fetal planes from five countries, a test set for models trained elsewhere."""

from pathlib import Path

from usssl.plane_csv import Filters, PlaneCsv, Row

TABLE = "Zenodo_dataset/African_planes_database.csv"


class AfricanPlanes(PlaneCsv):
    """``Zenodo_dataset/African_planes_database.csv`` and ``Zenodo_dataset/CENTER/FILENAME.png``.

    Patient numbers start anew in every country, so a patient is the country with the number. To test a model of
    FETAL_PLANES_DB on it: :class:`~usssl.plane_csv.CommonClasses`. C. Sendra-Balcells et al., Scientific Reports
    13:2728, 2023.

    Args:
        root: The folder that holds ``Zenodo_dataset``.
        filters: As in :class:`~usssl.plane_csv.PlaneCsv`, e.g. by ``Center``.
    """

    def __init__(self, root: str | Path, filters: Filters | None = None) -> None:
        table = Path(root).expanduser() / TABLE
        super().__init__(
            table,
            table.parent,
            image="Filename",
            label="Plane",
            patient="Patient_num",
            split="Train",
            splits={"1": "train", "0": "test"},
            filters=filters,
            name="african_planes",
        )

    def image_of(self, row: Row) -> str:
        name = row["Filename"]
        return f"{row['Center']}/{name}" + ("" if name.lower().endswith(".png") else ".png")

    def patient_of(self, row: Row) -> str:
        return f"{row['Center']}/{row['Patient_num']}"
