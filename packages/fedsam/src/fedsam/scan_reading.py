"""How a trained model wants scans to be read; written beside it, so that it can segment without its training data."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fedsam.intensity import HounsfieldWindow, Normalisation, Percentiles, Unchanged
from fedsam.volumes import Case
from shared.atomic import write_text
from shared.errors import UsageError

FILE = "scans.json"
_KINDS: dict[str, type] = {kind.__name__: kind for kind in (HounsfieldWindow, Percentiles, Unchanged)}


@dataclass(frozen=True)
class ScanReading:
    """What the training data tell about scans to come.

    Attributes:
        data: What the training data are called.
        provenance: The least real of them.
        class_names: Background and the foreground classes.
        normalisations: Of whole volumes, by site.
        sites: Of the clients, in the order of their ids.
        slice_axis: Which of a NIfTI file's axes counts slices.
        channel: Which channel of a four-dimensional scan.
        anti_transposed: Whether slices are mirrored.
    """

    data: str
    provenance: str
    class_names: tuple[str, ...]
    normalisations: Mapping[str, Normalisation]
    sites: tuple[str, ...] = ()
    slice_axis: int = 2
    channel: int | None = None
    anti_transposed: bool = False

    def normalisation(self, site: str | None = None) -> Normalisation:
        """That of ``site``, or the one that all sites have.

        Raises:
            UsageError: No such site, or the sites differ and none is named.
        """
        sites = ", ".join(self.normalisations)
        if site is not None:
            if site not in self.normalisations:
                raise UsageError(f"--site must name a site of the training data ({sites}), got {site}")
            return self.normalisations[site]
        kinds = set(self.normalisations.values())
        if len(kinds) > 1:
            raise UsageError(
                f"--site must name the site whose normalisation the scans want, since those of the training data "
                f"differ; choose from {sites}"
            )
        return kinds.pop()

    def of_site(self, site: str) -> "ScanReading":
        """What a model of one site's own wants."""
        return replace(self, sites=(site,), normalisations={site: self.normalisation(site)})

    def to_json(self) -> str:
        """As text."""
        normalisations = {
            site: {"kind": type(chosen).__name__, **asdict(chosen)} for site, chosen in self.normalisations.items()
        }
        return json.dumps({**self.__dict__, "normalisations": normalisations}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "ScanReading":
        """Read what :meth:`to_json` wrote."""
        content: dict[str, Any] = json.loads(text)
        normalisations = {}
        for site, told in content["normalisations"].items():
            kind = _KINDS[told.pop("kind")]
            normalisations[site] = kind(**told)
        lists = {name: tuple(content.get(name, ())) for name in ("class_names", "sites")}
        return cls(**content | lists | {"normalisations": normalisations})

    def write(self, folder: Path) -> None:
        """Write ``scans.json`` into a run folder."""
        write_text(folder / FILE, self.to_json() + "\n")

    @classmethod
    def of_run(cls, folder: Path) -> "ScanReading":
        """Read ``scans.json`` of a run folder.

        Raises:
            UsageError: The folder has none.
        """
        file = folder / FILE
        if not file.is_file():
            raise UsageError(f"--ckpt_path must lie in the folder of its run, beside {FILE}, {folder} has none")
        return cls.from_json(file.read_text(encoding="utf-8"))


def reading_of(
    name: str,
    provenance: str,
    class_names: Sequence[str],
    sites: Sequence[str],
    cases: Sequence[Case],
    anti_transposed: bool,
) -> ScanReading:
    """What training cases tell. Cases that are made rather than read from files have values as they should be."""
    first = cases[0]
    return ScanReading(
        data=name,
        provenance=provenance,
        class_names=tuple(class_names),
        normalisations={case.site: getattr(case, "normalisation", Unchanged()) for case in reversed(cases)},
        sites=tuple(sites),
        slice_axis=getattr(first, "slice_axis", 2),
        channel=getattr(first, "channel", None),
        anti_transposed=anti_transposed,
    )
