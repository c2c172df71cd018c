"""Soft-edged shapes on a set of points: how far inside each point lies, and painting with it."""

import numpy as np

EDGE = 0.9  # mm over which a border fades


class Canvas:
    """Echogenicity at given points, painted shape by shape; lengths in units of ``unit`` mm.

    Args:
        x: ``(N,)`` float32 coordinates.
        y: The same.
        values: ``(N,)`` float32 echogenicity to begin with; painted in place.
        unit: Millimetres of one unit.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, values: np.ndarray, unit: float = 1.0) -> None:
        self.x, self.y, self.values = x, y, values
        self._sharpness = np.float32(unit / EDGE)

    def paint(self, distance: np.ndarray, value: float) -> np.ndarray:
        """Blend ``value`` in where the signed ``distance`` is negative; gives the ``(N,)`` cover between 0 and 1."""
        cover = np.clip(np.float32(0.5) - distance * self._sharpness, 0, 1)
        self.values += cover * (np.float32(value) - self.values)
        return cover

    def ellipse(self, cx: float, cy: float, a: float, b: float, angle: float = 0.0) -> np.ndarray:
        """Signed distance (to first order) to an ellipse with half axes ``a`` and ``b``, turned by ``angle``."""
        dx, dy = self.x - np.float32(cx), self.y - np.float32(cy)
        if angle:
            c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
            dx, dy = c * dx + s * dy, c * dy - s * dx
        dx *= np.float32(1 / a)
        dy *= np.float32(1 / b)
        radius = np.sqrt(dx * dx + dy * dy)
        return (radius - np.float32(1)) * np.float32(min(a, b))

    def tube(self, x0: float, y0: float, x1: float, y1: float, radius: float) -> np.ndarray:
        """Signed distance to all points within ``radius`` of a line."""
        ex, ey = x1 - x0, y1 - y0
        dx, dy = self.x - np.float32(x0), self.y - np.float32(y0)
        along = np.clip((dx * np.float32(ex) + dy * np.float32(ey)) / np.float32(ex * ex + ey * ey + 1e-9), 0, 1)
        dx -= along * np.float32(ex)
        dy -= along * np.float32(ey)
        return np.sqrt(dx * dx + dy * dy) - np.float32(radius)

    def vessel(self, distance: np.ndarray, wall: float, wall_value: float, blood: float) -> None:
        """A lumen where ``distance`` is negative, with a wall of so many units around it."""
        self.paint(distance - np.float32(wall), wall_value)
        self.paint(distance, blood)
