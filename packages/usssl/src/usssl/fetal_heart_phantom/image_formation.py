"""From echogenicity to a B-mode picture: point spread, shadows, gain, log compression, scan conversion.

The usual speckle model: every point scatters with a random complex amplitude whose power is the echogenicity, the
echoes of neighbouring points interfere within the point spread of the machine, and what is shown is the logarithm of
the envelope.
"""

import numpy as np

from usssl.fetal_heart_phantom.machines import Settings

SHADOW = 0.2  # what is left of the intensity behind bone


class PolarGrid:
    """Sample points of a sector: ``(R, A)`` depths times beam angles, and the way from there to a square picture.

    Args:
        settings: Of the machine.
        size: Height and width of the picture in pixels.
        window: What the picture is magnified to: ``(x, z)`` of its middle and its side, in mm. ``None`` shows the
            whole height of the sector.

    Attributes:
        x: ``(R, A)`` float32 mm across, 0 in the middle.
        z: ``(R, A)`` float32 mm away from the centre of the probe's curvature.
        sector: ``(size, size)`` bool, pixels that show something.
    """

    def __init__(self, settings: Settings, size: int, window: tuple[float, float, float] | None = None) -> None:
        self.settings, self.size = settings, size
        self.window = window or whole_sector(settings)
        depths, beams = max(24, 3 * size // 2), max(16, 3 * size // 4)
        (near, far), (left, right) = _seen(settings, self.window)
        self.r = np.linspace(near, far, depths, dtype=np.float32)
        self.angles = np.linspace(left, right, beams, dtype=np.float32)
        self.x = self.r[:, None] * np.sin(self.angles)
        self.z = self.r[:, None] * np.cos(self.angles)
        self.step = float(self.r[1] - self.r[0])
        self._axial = _blur_matrix(depths, settings.axial / self.step)
        self._lateral = _blur_matrix(beams, settings.lateral / float(self.angles[1] - self.angles[0])).T
        self.mm_per_pixel, self._where, self._corners, self._weights = self._scan_conversion()
        self.sector = np.zeros((size, size), bool)
        self.sector.ravel()[self._where] = True

    def _scan_conversion(self) -> tuple[float, np.ndarray, list[np.ndarray], list[np.ndarray]]:
        middle_x, middle_z, side = self.window
        mm = side / self.size
        along = (np.arange(self.size) + 0.5) * mm - side / 2
        x, z = np.meshgrid(along + middle_x, along + middle_z)
        row = (np.hypot(x, z) - self.r[0]) / self.step
        column = (np.arctan2(x, z) - self.angles[0]) / float(self.angles[1] - self.angles[0])
        inside = (row >= 0) & (row < len(self.r) - 1) & (column >= 0) & (column < len(self.angles) - 1) & (z > 0)
        where = np.flatnonzero(inside)
        row, column = row.ravel()[where], column.ravel()[where]
        i, j = row.astype(np.int64), column.astype(np.int64)
        fi, fj = (row - i).astype(np.float32), (column - j).astype(np.float32)
        corner = i * len(self.angles) + j
        corners = [corner, corner + 1, corner + len(self.angles), corner + len(self.angles) + 1]
        return mm, where, corners, [(1 - fi) * (1 - fj), (1 - fi) * fj, fi * (1 - fj), fi * fj]

    def echoes(self, power: np.ndarray, scatterers: np.ndarray) -> np.ndarray:
        """``(R, A)`` complex64: scatterers of unit power times the root of ``power``, seen through the point spread."""
        field = np.sqrt(power) * scatterers
        return self._axial @ field @ self._lateral

    def transmission(self, bone: np.ndarray) -> np.ndarray:
        """``(R, A)`` share of the intensity that bone nearer to the probe lets through."""
        crossed = np.cumsum(bone, axis=0, dtype=np.float32) * np.float32(self.step)
        passed = np.exp(np.float32(-1.2) * np.maximum(crossed - np.float32(0.4), 0))
        result = np.float32(SHADOW) + np.float32(1 - SHADOW) * passed
        return np.concatenate([np.ones((2, result.shape[1]), np.float32), result[:-2]])

    def decibels(self, echoes: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """``(R, A)`` float32 level, with uncompensated attenuation and noise that grows with depth."""
        s = self.settings
        depth = (self.r - np.float32(s.radius)) / np.float32(s.depth)
        loss = np.power(10, -s.attenuation * depth * s.depth / 100).astype(np.float32)  # of power: dB per cm over 10 mm
        floor = np.power(10, (s.noise - 14 * (1 - depth)) / 20).astype(np.float32)
        amplitude = echoes * np.sqrt(loss)[:, None] + noise * floor[:, None]
        power = amplitude.real**2 + amplitude.imag**2
        return np.float32(10) * np.log10(power + np.float32(1e-6))

    def picture(self, decibels: np.ndarray, gain: float) -> np.ndarray:
        """``(size, size)`` uint8, black outside the sector."""
        s = self.settings
        grey = np.clip((decibels + np.float32(gain)) * np.float32(1 / s.dynamic_range), 0, 1)
        flat = grey.ravel()
        shown = sum(weight * flat[corner] for corner, weight in zip(self._corners, self._weights, strict=True))
        result = np.zeros(self.size * self.size, np.uint8)
        result[self._where] = np.rint(255 * np.power(shown, np.float32(s.gamma))).astype(np.uint8)
        return result.reshape(self.size, self.size)

    def gain(self, decibels: np.ndarray) -> float:
        """The gain in decibels that brings the mean grey value to ``settings.brightness``, by bisection."""
        s = self.settings
        # Polar samples near the probe stand for less area than those far away.
        weight = (self.r / self.r.sum() / len(self.angles))[::3, None]
        sample = decibels[::3]
        low, high = 0.0, s.dynamic_range + 20
        for _ in range(9):
            middle = (low + high) / 2
            grey = np.clip((sample + np.float32(middle)) * np.float32(1 / s.dynamic_range), 0, 1)
            bright = float((weight * np.power(grey, np.float32(s.gamma))).sum() * 3)
            low, high = (middle, high) if bright < s.brightness else (low, middle)
        return (low + high) / 2


def whole_sector(settings: Settings) -> tuple[float, float, float]:
    """The window of the sector's height; a wide sector loses its wings, so that the fetus is not small."""
    top, bottom = settings.radius * np.cos(settings.half_angle), settings.radius + settings.depth
    return 0.0, (top + bottom) / 2, (bottom - top) * 1.02


def _seen(settings: Settings, window: tuple[float, float, float]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Range of radius in mm and of angle that the window needs, both within the sector."""
    x, z, side = window
    edge = np.linspace(-side / 2, side / 2, 33)
    across, down = np.meshgrid(x + edge, z + edge)
    down = np.maximum(down, 1e-3)  # nothing behind the centre of curvature is seen
    r, angle = np.hypot(across, down), np.arctan2(across, down)
    # Two steps more on each side, as the filters of the point spread want neighbours.
    spare, turn = 2 * side / 32, 2 * side / 32 / float(r.max())
    near, far = settings.radius, settings.radius + settings.depth
    return (
        (max(near, float(r.min()) - spare), min(far, float(r.max()) + spare)),
        (max(-settings.half_angle, float(angle.min()) - turn), min(settings.half_angle, float(angle.max()) + turn)),
    )


def _blur_matrix(count: int, sd: float) -> np.ndarray:
    """``(count, count)`` float32: Gaussian of ``sd`` samples, rows of unit energy, so that mean power is kept."""
    offset = np.arange(count)[:, None] - np.arange(count)
    matrix = np.exp(-(offset**2) / (2 * max(sd, 0.3) ** 2))
    return (matrix / np.sqrt((matrix**2).sum(axis=1, keepdims=True))).astype(np.float32)


def complex_normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Complex64 of unit mean power."""
    parts = rng.standard_normal((*shape, 2), dtype=np.float32)
    parts *= np.float32(np.sqrt(0.5))
    return parts.view(np.complex64)[..., 0]
