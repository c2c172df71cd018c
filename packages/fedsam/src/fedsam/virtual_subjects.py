"""Virtual subjects: one template head seen as many, by a smooth change of shape and the look of a scanner."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.interpolate import make_interp_spline

from fedsam.volumes import SPLITS, Case, Split, Volume
from shared.data.samples import embedded

_VERSION = 1  # of the drawing below; another number makes cached subjects anew
_CONTROL_GRID = (6, 7, 6)
_WARP_SD, _WARP_LIMIT, _LEAST_JACOBIAN = 4.0, 8.0, 0.2  # mm, mm, ratio of volumes


@dataclass(frozen=True)
class Template:
    """The head that all virtual subjects come from.

    Attributes:
        image: ``(X, Y, Z)`` uint8.
        label: ``(X, Y, Z)`` uint8, 1 inside.
        affine: ``(4, 4)`` from voxel to mm.
        sha256: Of the file it was read from.
    """

    image: np.ndarray
    label: np.ndarray
    affine: np.ndarray
    sha256: str

    @property
    def spacing(self) -> np.ndarray:
        """``(3,)`` mm."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)


@lru_cache(maxsize=2)
def shipped_template(file: str, sha256: str) -> Template:
    """A template out of this package; read once per process."""
    arrays = embedded("fedsam", file, sha256)
    return Template(arrays["image"], arrays["label"], arrays["affine"], sha256)


@dataclass(frozen=True)
class Appearance:
    """How a site's scanner shows a head.

    Attributes:
        gamma: Exponent applied to the intensities, which lie in [0, 1].
        bias: Largest deviation of the receive field from 1.
        noise: Sigma of the Rician noise.
        blur: Standard deviation of the in-plane blur in voxels.
        every: Keep every so many-th slice.
    """

    gamma: float = 1.0
    bias: float = 0.0
    noise: float = 0.0
    blur: float = 0.0
    every: int = 1


def upsampling_matrix(nodes: int, points: int) -> np.ndarray:
    """``(points, nodes)``: values of the cubic spline through ``nodes`` equidistant values, end to end.

    Its slope is zero at both ends: a spline with free ends swings far beyond the values that it was given.
    """
    spline = make_interp_spline(np.linspace(0, 1, nodes), np.eye(nodes), k=3, bc_type="clamped")
    return np.asarray(spline(np.linspace(0, 1, points)))


def smooth_warp(shape: tuple[int, int, int], spacing: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A displacement field that folds nothing.

    Normal displacements (sd 4 mm) on a control grid of 6 x 7 x 6 points, cubic splines between them, each component
    clipped to 8 mm; drawn again until the determinant of the Jacobian of ``x -> x + u(x)`` exceeds 0.2 everywhere,
    which about every second draw does.

    Returns:
        ``(3, *shape)`` mm.
    """
    up = [upsampling_matrix(nodes, points) for nodes, points in zip(_CONTROL_GRID, shape, strict=True)]
    up = [matrix.astype(np.float32) for matrix in up]
    while True:
        control = rng.normal(0, _WARP_SD, (3, *_CONTROL_GRID)).astype(np.float32)
        field = np.ascontiguousarray(np.einsum("cijk,xi,yj,zk->cxyz", control, *up, optimize=True))
        np.clip(field, -_WARP_LIMIT, _WARP_LIMIT, out=field)
        if jacobian_determinant(field, spacing).min() > _LEAST_JACOBIAN:
            return field


def jacobian_determinant(field: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """det(I + du/dx) by finite differences.

    Args:
        field: ``(3, X, Y, Z)`` displacement in mm.
        spacing: ``(3,)`` mm.

    Returns:
        ``(X, Y, Z)``: the ratio of volumes after and before.
    """
    (a, b, c), (d, e, f), (g, h, i) = (np.gradient(component, *spacing.tolist()) for component in field)
    a, e, i = a + 1, e + 1, i + 1
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)


def affine_map(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A random linear map (rotations N(0, 5 degrees), scales U(0.92, 1.08)) and a shift U(-6, 6) mm."""
    angles = np.deg2rad(rng.normal(0, 5, 3))
    scales = rng.uniform(0.92, 1.08, 3)
    shift = rng.uniform(-6, 6, 3)
    linear = np.diag(scales)
    for axis, angle in enumerate(angles):
        i, j = [(1, 2), (0, 2), (0, 1)][axis]
        rotation = np.eye(3)
        rotation[[i, j], [i, j]] = np.cos(angle)
        rotation[i, j], rotation[j, i] = -np.sin(angle), np.sin(angle)
        linear = rotation @ linear
    return linear, shift


def deformed(template: Template, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The template under one random affine map and smooth warp: image linear, label nearest, through the same map.

    Returns:
        Image ``(X, Y, Z)`` float32 in [0, 1] and label uint8.
    """
    shape, spacing = template.image.shape, template.spacing
    linear, shift = affine_map(rng)
    warp = smooth_warp(shape, spacing, rng)  # type: ignore[arg-type]
    centre = (np.array(shape) - 1) / 2
    axes = [(np.arange(n) - c) * s for n, c, s in zip(shape, centre, spacing, strict=True)]
    grid = np.meshgrid(*axes, indexing="ij", sparse=True)
    coordinates = warp  # filled in place: voxel coordinates in the template of each voxel of the subject
    for row in range(3):
        coordinates[row] += sum(linear[row, column] * grid[column] for column in range(3)) + shift[row]
        coordinates[row] /= spacing[row]
        coordinates[row] += centre[row]
    image = ndimage.map_coordinates(template.image.astype(np.float32), coordinates, order=1, cval=0.0)
    label = ndimage.map_coordinates(template.label, coordinates, order=0, cval=0)
    return np.clip(image / 255, 0, 1), label


def bias_field(shape: tuple[int, ...], largest: float, rng: np.random.Generator) -> np.ndarray:
    """One plus a random polynomial of order three in three variables, scaled to a largest deviation of ``largest``."""
    powers = [np.linspace(-1, 1, n)[None] ** np.arange(4)[:, None] for n in shape]
    orders = np.add.outer(np.add.outer(np.arange(4), np.arange(4)), np.arange(4))
    coefficients = np.where((orders > 0) & (orders <= 3), rng.standard_normal((4, 4, 4)), 0)
    field = np.einsum("ijk,ix,jy,kz->xyz", coefficients, *powers, optimize=True)
    return (1 + largest * field / np.abs(field).max()).astype(np.float32)


def scanned(image: np.ndarray, look: Appearance, rng: np.random.Generator) -> np.ndarray:
    """The head as a site's scanner shows it: contrast, blur in plane, receive field, Rician noise, in this order.

    Args:
        image: ``(X, Y, Z)`` in [0, 1].
        look: The scanner; its ``every`` is left to the caller.
        rng: Field and noise.

    Returns:
        ``(X, Y, Z)`` float32, not negative.
    """
    values = image**look.gamma if look.gamma != 1 else image
    if look.blur:
        values = ndimage.gaussian_filter(values, (look.blur, look.blur, 0))
    if look.bias:
        values = values * bias_field(image.shape, look.bias, rng)
    if look.noise:
        real, imaginary = rng.standard_normal((2, *image.shape), dtype=np.float32) * np.float32(look.noise)
        values = np.hypot(values + real, imaginary)
    return np.asarray(values, dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class VirtualSubject(Case):
    """A template head, deformed and scanned anew, or as it is.

    Every subject has a random stream of its own, decided by seed, site, set and number: it is the same whatever the
    number of subjects and the order in which they are asked for.

    Attributes:
        template: Gives the head.
        look: The scanner.
        seed: Of everything random.
        place: Site number, set number, subject number; ``None`` leaves shape and intensities as they are.
    """

    template: Callable[[], Template]
    look: Appearance
    seed: int
    place: tuple[int, int, int] | None

    def read(self) -> Volume:
        template = self.template()
        if self.place is None:
            image, label = template.image.astype(np.float32) / 255, template.label
        else:
            rng = np.random.default_rng(np.random.SeedSequence([self.seed, *self.place]))
            shape, label = deformed(template, rng)
            image = scanned(shape, self.look, rng)
        affine = template.affine @ np.diag([1.0, 1.0, self.look.every, 1.0])
        spacing = template.spacing * [1, 1, self.look.every]
        return Volume(
            image=np.ascontiguousarray(image[..., :: self.look.every].transpose(2, 0, 1)),
            label=np.ascontiguousarray(label[..., :: self.look.every].transpose(2, 0, 1)),
            spacing=spacing[[2, 0, 1]],
            site=self.site,
            case=self.case,
            provenance=self.provenance,
            affine=affine[:, [2, 0, 1, 3]],
            native_affine=affine,
        )

    def fingerprint(self) -> dict[str, Any]:
        return {
            "version": _VERSION,
            "template": self.template().sha256,
            "look": asdict(self.look),
            "seed": self.seed,
            "place": self.place,
        }


def subjects(
    split: Split, counts: tuple[int, ...], sites: dict[str, Appearance], template: Callable[[], Template], seed: int
) -> list[VirtualSubject]:
    """The virtual subjects of one set, ``counts`` of them at each site."""
    return [
        VirtualSubject(
            site=site,
            case=f"{split}-{number:02d}",
            patient=f"{split} subject {number}",
            provenance="derived",
            template=template,
            look=look,
            seed=seed,
            place=(index, SPLITS.index(split), number),
        )
        for index, ((site, look), count) in enumerate(zip(sites.items(), counts, strict=True))
        for number in range(count)
    ]
