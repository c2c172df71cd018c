"""A synthetic stand-in for Fed-KiTS2019: CT slabs of the abdomen with kidneys and tumours at six sites."""

from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from scipy import ndimage

from fedsam.volumes import SPLITS, Case, Split, Volume, VolumeSets, VolumeSource
from shared.errors import UsageError

FIELD_OF_VIEW = 360.0  # mm, in both directions of a slice
CORTEX = 8.0  # mm, thickness of the kidney's rim
_VERSION = 1  # of the drawing below; another number makes cached cases anew


@dataclass(frozen=True)
class Site:
    """A hospital's scanner and protocol.

    Attributes:
        train: Training cases at full scale.
        test: Test cases at full scale.
        noise: Standard deviation in HU.
        thickness: Of a slice in mm.
        phases: Shares of the arterial, nephrographic and late phase of the contrast agent.
        offset: Calibration error in HU.
    """

    train: int
    test: int
    noise: float
    thickness: float
    phases: tuple[float, float, float]
    offset: float


SITES = {
    "site-A": Site(9, 3, 8, 1, (0.8, 0.2, 0.0), 0),
    "site-B": Site(11, 3, 12, 3, (0.2, 0.6, 0.2), 5),
    "site-C": Site(9, 3, 18, 5, (0.1, 0.7, 0.2), -5),
    "site-D": Site(9, 3, 25, 3, (0.5, 0.5, 0.0), 0),
    "site-E": Site(12, 4, 12, 1, (0.0, 0.3, 0.7), 10),
    "site-F": Site(24, 6, 30, 5, (0.4, 0.4, 0.2), 0),
}


class Tissue(IntEnum):
    """What a point of the phantom consists of."""

    AIR = 0
    FAT = 1
    MUSCLE = 2
    TABLE = 3
    BONE = 4
    MARROW = 5
    VESSEL = 6
    LIVER = 7
    SPLEEN = 8
    GAS = 9
    CORTEX = 10
    MEDULLA = 11
    SINUS = 12
    CYST = 13
    TUMOUR = 14
    NECROSIS = 15
    BOWEL = 16  # and one more for each further loop


# HU of cortex, medulla, vessels, and what liver and spleen gain, in the arterial, nephrographic and late phase.
_PHASES = ((200, 100, 280, 20), (170, 160, 160, 50), (120, 120, 110, 30))
_KIDNEY = (Tissue.CORTEX, Tissue.MEDULLA, Tissue.CYST)
_TUMOUR = (Tissue.TUMOUR, Tissue.NECROSIS)


@dataclass(frozen=True)
class Ellipsoid:
    """Points p with ``|R (p - centre) / radii| <= 1``; coordinates z (up), y (to the back), x (to the left), in mm."""

    centre: np.ndarray
    radii: np.ndarray
    tilt: float = 0.0  # rad, in the plane of z and x

    def level(self, z: float, y: np.ndarray, x: np.ndarray, margin: float = 0.0) -> np.ndarray:
        """``|R (p - centre) / (radii + margin)|^2``, below 1 inside."""
        dz, dy, dx = z - self.centre[0], y - self.centre[1], x - self.centre[2]
        cosine, sine = np.cos(self.tilt), np.sin(self.tilt)
        along, across = cosine * dz + sine * dx, cosine * dx - sine * dz
        rz, ry, rx = self.radii + margin
        return np.asarray((along / rz) ** 2 + (dy / ry) ** 2 + (across / rx) ** 2)

    def contains(self, z: float, y: np.ndarray, x: np.ndarray, margin: float = 0.0) -> np.ndarray:
        """Whether points lie inside, after moving the surface out by ``margin`` mm."""
        return self.level(z, y, x, margin) <= 1

    def surface(self, direction: np.ndarray) -> np.ndarray:
        """The point of the surface in a direction given in the ellipsoid's own axes."""
        along, dy, across = self.radii * direction / np.linalg.norm(direction)
        cosine, sine = np.cos(self.tilt), np.sin(self.tilt)
        offset = np.array([cosine * along - sine * across, dy, sine * along + cosine * across])
        return np.asarray(self.centre + offset)


@dataclass(frozen=True)
class Anatomy:
    """One patient, in millimetres and HU."""

    body: tuple[float, float]
    fat: float
    table: bool
    spine: float
    kidneys: tuple[Ellipsoid, Ellipsoid]
    sinuses: tuple[Ellipsoid, Ellipsoid]
    liver: Ellipsoid
    spleen: Ellipsoid
    loops: tuple[tuple[Ellipsoid, bool], ...]
    cysts: tuple[Ellipsoid, ...]
    tumour: Ellipsoid | None
    necrosis: Ellipsoid | None
    hounsfield: np.ndarray
    """HU by :class:`Tissue`, further bowel loops behind."""


def draw_anatomy(phase: int, rng: np.random.Generator) -> Anatomy:
    """A random patient in one phase of the contrast agent (0 arterial, 1 nephrographic, 2 late)."""
    body = (float(rng.uniform(100, 130)), float(rng.uniform(150, 180)))
    fat = float(rng.uniform(15, 30))
    inner = (body[0] - fat, body[1] - fat)
    spine = inner[0] - 36  # its centre is that far behind the middle
    kidneys, sinuses = [], []
    for side in (-1, 1):  # right, left
        half = np.array([rng.uniform(100, 120), rng.uniform(45, 60), rng.uniform(45, 60)]) / 2
        place = np.array([rng.uniform(-8, 8), spine - rng.uniform(5, 15), side * (65 + rng.uniform(-8, 8))])
        tilt = side * np.deg2rad(rng.uniform(5, 20))
        kidneys.append(Ellipsoid(place, half, -tilt))
        sinuses.append(Ellipsoid(place - [0, 0, side * 0.5 * half[2]], half * [0.42, 0.4, 0.5], -tilt))
    liver = Ellipsoid(
        np.array([-25.0, -0.12 * inner[0], -0.45 * inner[1]]), np.array([115.0, 0.72, 0.5]) * [1, inner[0], inner[1]]
    )
    spleen = Ellipsoid(np.array([45.0, 0.1 * inner[0], 0.66 * inner[1]]), np.array([55.0, 38.0, 22.0]))
    loops = []
    for _ in range(int(rng.integers(8, 13))):
        angle, reach = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform(0, 1))
        middle = [
            rng.uniform(-70, 70),
            -0.3 * inner[0] + 0.38 * inner[0] * reach * np.sin(angle),
            0.6 * inner[1] * reach * np.cos(angle),
        ]
        loops.append((Ellipsoid(np.array(middle), rng.uniform([20, 11, 11], [45, 20, 24])), bool(rng.random() < 0.4)))
    cysts = []
    if rng.random() < 0.3:
        kidney = kidneys[rng.integers(2)]
        cysts = [Ellipsoid(kidney.surface(_outward(kidney, rng)), np.full(3, rng.uniform(5, 15)))]
    tumour = _draw_tumour(kidneys[rng.integers(2)], rng) if rng.random() >= 0.05 else None
    necrosis = None
    if tumour is not None and tumour.radii.mean() > 20:
        necrosis = Ellipsoid(tumour.centre + rng.normal(0, 2, 3), tumour.radii * rng.uniform(0.4, 0.6))
    cortex, medulla, vessel, gain = _PHASES[phase] + rng.normal(0, 10, 4) * [1, 1, 1, 0]
    means = {
        Tissue.AIR: -1000,
        Tissue.FAT: -100,
        Tissue.MUSCLE: 40,
        Tissue.TABLE: 100,
        Tissue.BONE: 600,
        Tissue.MARROW: 200,
        Tissue.VESSEL: vessel,
        Tissue.LIVER: 60 + gain + rng.normal(0, 10),
        Tissue.SPLEEN: 70 + gain + rng.normal(0, 10),
        Tissue.GAS: -900,
        Tissue.CORTEX: cortex,
        Tissue.MEDULLA: medulla,
        Tissue.SINUS: -80,
        Tissue.CYST: 5,
        Tissue.TUMOUR: rng.uniform(40, 120),
        Tissue.NECROSIS: rng.uniform(15, 30),
    }
    return Anatomy(
        body=body,
        fat=fat,
        table=bool(rng.random() < 0.5),
        spine=spine,
        kidneys=(kidneys[0], kidneys[1]),
        sinuses=(sinuses[0], sinuses[1]),
        liver=liver,
        spleen=spleen,
        loops=tuple(loops),
        cysts=tuple(cysts),
        tumour=tumour,
        necrosis=necrosis,
        hounsfield=np.array([*means.values(), *rng.uniform(0, 60, len(loops))], dtype=np.float32),
    )


def _outward(kidney: Ellipsoid, rng: np.random.Generator) -> np.ndarray:
    """A direction that points neither at the spine nor into the muscles of the back."""
    side = np.sign(kidney.centre[2])
    while True:
        direction = rng.standard_normal(3)
        direction /= np.linalg.norm(direction)
        if side * direction[2] > -0.2 and direction[1] < 0.5:
            return np.asarray(direction)


def _draw_tumour(kidney: Ellipsoid, rng: np.random.Generator) -> Ellipsoid:
    """An ellipsoid on the cortex, 30 to 80 % of it outside the kidney."""
    radii = rng.uniform(8, 35) * rng.uniform(0.9, 1.1, 3)
    cloud = rng.standard_normal((800, 3))
    cloud *= (rng.random((800, 1)) ** (1 / 3)) / np.linalg.norm(cloud, axis=1, keepdims=True)
    while True:
        # Seen from the kidney's middle, the tumour's centre lies in the rim or just beyond it.
        centre = kidney.centre + (kidney.surface(_outward(kidney, rng)) - kidney.centre) * rng.uniform(0.75, 1.15)
        points = centre + cloud * radii
        outside = np.mean([not kidney.contains(z, y, x) for z, y, x in points])
        if 0.3 <= outside <= 0.8:
            return Ellipsoid(centre, radii)


def tissue_map(patient: Anatomy, z: float, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """What lies at height ``z``: an index into ``patient.hounsfield`` of each point, uint8.

    Later structures cover earlier ones.

    Args:
        patient: The anatomy.
        z: Height in mm.
        y: ``(H, 1)`` mm.
        x: ``(1, W)`` mm.
    """
    (b, a), fat, spine = patient.body, patient.fat, patient.spine
    inner_b, inner_a = b - fat, a - fat
    tissue = np.zeros(np.broadcast_shapes(y.shape, x.shape), np.uint8)
    if patient.table:
        tissue[(np.abs(y - (b + 9 - (x / 170) ** 2 * 14)) < 3.5) & (np.abs(x) < 150)] = Tissue.TABLE
    tissue[(y / b) ** 2 + (x / a) ** 2 <= 1] = Tissue.FAT
    inside = (y / inner_b) ** 2 + (x / inner_a) ** 2 <= 1
    tissue[inside] = Tissue.MUSCLE
    cavity = (((y + 0.08 * inner_b) / (0.84 * inner_b)) ** 2 + (x / (0.9 * inner_a)) ** 2 <= 1) & inside
    back = (np.abs(x) < 62) & (y > spine + 2)  # the muscles beside and behind the spine
    tissue[cavity & ~back] = Tissue.FAT
    for side in (-1, 1):  # the psoas muscles
        tissue[((y - spine - 2) / 17) ** 2 + ((x - side * 30) / 13) ** 2 <= 1] = Tissue.MUSCLE
    for number, (loop, gas) in enumerate(patient.loops):
        within = loop.contains(z, y, x) & cavity
        tissue[within] = Tissue.BOWEL + number
        if gas:  # rises to the front
            tissue[loop.contains(z, y, x, -2) & cavity & (y < loop.centre[1] - 0.2 * loop.radii[1])] = Tissue.GAS
    if z > patient.liver.centre[0]:
        tissue[patient.liver.contains(z, y, x) & cavity] = Tissue.LIVER
    tissue[patient.spleen.contains(z, y, x) & cavity] = Tissue.SPLEEN
    for kidney in patient.kidneys:
        tissue[kidney.contains(z, y, x, 9) & cavity] = Tissue.FAT
    tissue[(y - spine + 32) ** 2 + (x - 12) ** 2 <= 10**2] = Tissue.VESSEL
    tissue[(y - spine + 31) ** 2 + (x + 14) ** 2 <= 11**2] = Tissue.VESSEL
    from_spine = (y - spine) ** 2 + x**2
    tissue[from_spine <= 18**2] = Tissue.BONE
    tissue[from_spine <= 15**2] = Tissue.MARROW
    # The arch and process behind the vertebral body; the canal between them is as soft as muscle.
    tissue[((y - spine - 26) ** 2 + x**2 <= 13**2)] = Tissue.BONE
    tissue[((y - spine - 26) ** 2 + x**2 <= 9**2)] = Tissue.MUSCLE
    for kidney, sinus in zip(patient.kidneys, patient.sinuses, strict=True):
        whole = kidney.contains(z, y, x)
        tissue[whole] = Tissue.CORTEX
        tissue[kidney.contains(z, y, x, -CORTEX)] = Tissue.MEDULLA
        tissue[sinus.contains(z, y, x) & whole] = Tissue.SINUS
    for cyst in patient.cysts:
        tissue[cyst.contains(z, y, x)] = Tissue.CYST
    if patient.tumour is not None:
        tumour = patient.tumour.contains(z, y, x)
        tissue[tumour] = Tissue.TUMOUR
        if patient.necrosis is not None:
            tissue[patient.necrosis.contains(z, y, x) & tumour] = Tissue.NECROSIS
    return tissue


@dataclass(frozen=True, kw_only=True)
class PhantomCase(Case):
    """One CT slab of a random patient.

    Every case has a random stream of its own, decided by seed, site, set and number.

    Attributes:
        scanner: The site's protocol.
        seed: Of everything random.
        place: Site number, set number, case number.
        slices: Z.
        size: H = W.
    """

    scanner: Site
    seed: int
    place: tuple[int, int, int]
    slices: int
    size: int

    def drawn(self) -> tuple[Anatomy, np.random.Generator]:
        """The patient, and the generator that the scan goes on with."""
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, *self.place]))
        phase = int(rng.choice(3, p=self.scanner.phases))
        return draw_anatomy(phase, rng), rng

    def heights(self, patient: Anatomy, rng: np.random.Generator) -> np.ndarray:
        """``(Z,)`` height of each slice in mm: a thin slab is put where the tumour is."""
        length = self.slices * self.scanner.thickness
        middle = rng.uniform(-5, 5)
        if length < 130:
            target = rng.uniform(-20, 20) if patient.tumour is None else patient.tumour.centre[0]
            middle = np.clip(target, -45, 45) + rng.uniform(-0.15, 0.15) * length
        return np.asarray(middle + (np.arange(self.slices) - (self.slices - 1) / 2) * self.scanner.thickness)

    def tissues(self) -> tuple[Anatomy, np.ndarray]:
        """The patient, and ``(Z, n, H, W)`` tissue of n layers in each slice, 1 mm apart at most."""
        patient, rng = self.drawn()
        return patient, self._layers(patient, self.heights(patient, rng))

    def _layers(self, patient: Anatomy, heights: np.ndarray) -> np.ndarray:
        layers = max(1, round(self.scanner.thickness))
        shifts = (np.arange(layers) - (layers - 1) / 2) * self.scanner.thickness / layers
        pixels = (np.arange(self.size, dtype=np.float32) - (self.size - 1) / 2) * (FIELD_OF_VIEW / self.size)
        y, x = pixels[:, None], pixels[None]
        return np.stack([np.stack([tissue_map(patient, height + s, y, x) for s in shifts]) for height in heights])

    def read(self) -> Volume:
        patient, rng = self.drawn()
        heights = self.heights(patient, rng)
        layers = self._layers(patient, heights)
        pixel = FIELD_OF_VIEW / self.size
        image = patient.hounsfield[layers].mean(1)  # what a thick slice shows is the mean over it
        spacing = np.array([self.scanner.thickness, pixel, pixel])
        texture = rng.standard_normal(image.shape, dtype=np.float32)
        texture = ndimage.gaussian_filter(texture, 6 / np.sqrt(2) / spacing)
        image += np.float32(15 / texture.std()) * texture * (layers == Tissue.TUMOUR).mean(1)
        kernel = (0, *[rng.uniform(0.6, 1.2) / pixel] * 2)
        noise = ndimage.gaussian_filter(rng.standard_normal(image.shape, dtype=np.float32), kernel)
        image = ndimage.gaussian_filter(image, kernel) + noise * (self.scanner.noise / noise.std())
        image = np.clip(image + self.scanner.offset, -1024, 3071).astype(np.float32)
        middle = layers[:, layers.shape[1] // 2]
        label = np.isin(middle, _KIDNEY).astype(np.uint8)
        label[np.isin(middle, _TUMOUR)] = 2
        affine = np.zeros((4, 4))  # to right, front, up; the arrays run up, to the back, to the patient's left
        affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = spacing[0], -spacing[1], -spacing[2], 1
        affine[:3, 3] = [FIELD_OF_VIEW / 2 - pixel / 2, FIELD_OF_VIEW / 2 - pixel / 2, heights[0]]
        native = affine[:, [1, 2, 0, 3]]  # files have their slices last
        return Volume(image, label, spacing, self.site, self.case, "synthetic", affine, native)

    def fingerprint(self) -> dict[str, Any]:
        return {
            "version": _VERSION,
            "scanner": asdict(self.scanner),
            "seed": self.seed,
            "place": self.place,
            "shape": [self.slices, self.size, self.size],
        }


class CtKidneyPhantom(VolumeSource):
    """Synthetic contrast-enhanced CT of six sites: kidney (with cysts) 1, tumour 2, in HU.

    The sites have the case counts of Fed-KiTS2019 and differ in noise, slice thickness, contrast phase and
    calibration. Nothing in it is a real patient: scores on it say nothing about hospitals.

    Args:
        scale: Share of Fed-KiTS2019's cases to draw, at least two to train and one to test at each site.
        slices: Slices of each volume.
        size: Height and width of each slice, over a field of view of 360 mm.
        seed: Of everything random. A case is the same whatever ``scale`` is.
    """

    def __init__(self, scale: float = 1.0, slices: int = 24, size: int = 96, seed: int = 73) -> None:
        if not 0 < scale <= 1:
            raise UsageError(f"data.source.scale must lie in (0, 1], got {scale}")
        for option, value, least in (("slices", slices, 5), ("size", size, 32), ("seed", seed, 0)):
            if value < least:
                raise UsageError(f"data.source.{option} must be at least {least}, got {value}")
        self.scale, self.slices, self.size, self.seed = scale, slices, size, seed

    def load(self) -> VolumeSets:
        return VolumeSets(
            name="ct-kidney-phantom",
            class_names=("background", "kidney", "tumour"),
            train=self._cases("train", 2),
            test=self._cases("test", 1),
            weights=KITS_WEIGHTS,
        )

    def _cases(self, split: Split, least: int) -> list[PhantomCase]:
        return [
            PhantomCase(
                site=name,
                case=f"{split}-{number:02d}",
                patient=f"{split} patient {number}",
                provenance="synthetic",
                scanner=site,
                seed=self.seed,
                place=(index, SPLITS.index(split), number),
                slices=self.slices,
                size=self.size,
            )
            for index, (name, site) in enumerate(SITES.items())
            for number in range(max(least, round(self.scale * (site.train if split == "train" else site.test))))
        ]


KITS_WEIGHTS = dict(zip(SITES, (0.03, 0.18, 0.15, 0.10, 0.05, 0.49), strict=True))
"""Weights of the six silos of Fed-KiTS2019 in the reference code of FLAP-SAM."""
