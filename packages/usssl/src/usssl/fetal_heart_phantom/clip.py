"""One examination: a fetus, a machine, a probe that drifts; a single plane or a video of it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from usssl.fetal_heart_phantom.anatomy import CLASSES, SWEEP, Body, draw_body, echogenicity
from usssl.fetal_heart_phantom.image_formation import PolarGrid, complex_normal
from usssl.fetal_heart_phantom.machines import MACHINES, Machine, draw_settings

FIELD = 256  # samples of the field of scatterers that moves with the tissue, in each direction
FIELD_STEP = 0.55  # mm between them


@dataclass(frozen=True)
class Subject:
    """What is the same in all examinations of one fetus."""

    heart_length: float
    machine: Machine


def draw_subject(rng: np.random.Generator) -> Subject:
    """A fetus of 18 to 28 weeks, examined on one of the machines."""
    return Subject(rng.uniform(18, 32), MACHINES[int(rng.integers(len(MACHINES)))])


@dataclass(frozen=True)
class Examination:
    """The frames of one clip, or of one plane where there is a single frame.

    Attributes:
        planes: The planes that the probe passes, in order.
        frames: ``(T, size, size)`` uint8.
        fps: Frames per second.
    """

    planes: tuple[str, ...]
    frames: np.ndarray
    fps: float


def plane_picture(subject: Subject, plane: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """``(size, size)`` uint8: one plane at a random moment of the heartbeat."""
    scene = _Scene(subject, (plane,), size, rng, still=True)
    return _with_marks(next(scene.frames(np.zeros(1))), scene.grid, rng)


def video(subject: Subject, frames: int, size: int, rng: np.random.Generator) -> Examination:
    """A clip; every second one passes neighbouring planes."""
    start = int(rng.integers(len(SWEEP)))
    if rng.random() < 0.5:
        way = [start, *([start + 1] if start + 1 < len(SWEEP) else [start - 1])]
        planes = tuple(SWEEP[i] for i in way)
    else:
        planes = (SWEEP[start],)
    fps = rng.uniform(30, 60)
    scene = _Scene(subject, planes, size, rng, still=False)
    pictures = np.stack(list(scene.frames(np.arange(frames) / fps)))
    return Examination(planes, _with_marks(pictures, scene.grid, rng), fps)


class _Scene:
    def __init__(
        self, subject: Subject, planes: tuple[str, ...], size: int, rng: np.random.Generator, still: bool
    ) -> None:
        assert set(planes) <= set(CLASSES)
        self.planes, self.rng, self.still = planes, rng, still
        self.body: Body = draw_body(rng, subject.heart_length)
        if len(planes) > 1 and "NON-heart" in planes:  # what lies beside the heart is the belly, variant 0
            object.__setattr__(self.body, "variant", self.body.variant / 4)
        settings = draw_settings(subject.machine, rng)
        reach = max(self.body.thorax)
        low, high = settings.radius + 0.22 * settings.depth + reach, settings.radius + settings.depth - 0.75 * reach
        middle = rng.uniform(min(low, high), max(low, high))
        aside = min(middle * np.tan(settings.half_angle), settings.depth / 2) - reach
        self.place = np.array([rng.uniform(-1, 1) * max(aside, 0), middle])
        # The operator magnifies what is looked at, whatever it is, and does not quite centre it.
        side = 2 * reach * rng.uniform(1.1, 1.5)
        shift = rng.uniform(-0.12, 0.12, 2) * reach
        self.grid = grid = PolarGrid(settings, size, (self.place[0] + shift[0], self.place[1] + shift[1], side))
        self.turn = rng.uniform(0, 2 * np.pi)
        self.drift, self.drift_turn = rng.uniform(-8, 8, 2) / np.sqrt(2), np.deg2rad(rng.uniform(-15, 15))
        self.rate, self.phase = rng.uniform(120, 160) / 60, rng.random()
        self.surroundings = self._surroundings()
        shape = grid.x.shape
        self.outside = complex_normal(rng, *shape)
        self.inside = [complex_normal(rng, *(shape if still else (FIELD, FIELD))) for _ in planes]

    def _surroundings(self) -> np.ndarray:
        """Layers of the mother's wall near the probe, fluid, and the far wall of the womb; ``(R * A,)``."""
        rng, grid = self.rng, self.grid
        s = grid.settings
        depth = (grid.r - s.radius)[:, None] / s.depth
        wave = 0.02 * np.sin(3 * grid.angles / s.half_angle * rng.uniform(0.6, 1.4) + rng.uniform(0, 2 * np.pi))
        near, far = rng.uniform(0.14, 0.26), rng.uniform(0.84, 0.96)
        wall = 0.45 + 0.25 * np.sin(depth * rng.uniform(60, 110) + 4 * wave)
        tissue = 1 / (1 + np.exp((depth + wave - near) * 90)) + 1 / (1 + np.exp((far - depth - 2 * wave) * 90))
        fluid = rng.uniform(0.01, 0.03)
        return (fluid + (wall - fluid) * np.clip(tissue, 0, 1)).astype(np.float32).ravel()

    def frames(self, times: np.ndarray) -> Iterator[np.ndarray]:
        """A picture at each time in seconds."""
        grid, gain = self.grid, None
        for number, time in enumerate(times):
            share = number / max(len(times) - 1, 1) - 0.5
            moved = share if not self.still else 0.0
            x, y = self._body_frame(self.place + self.drift * moved, self.turn + self.drift_turn * moved)
            beat = (self.phase + time * self.rate) % 1.0
            systole = float(np.clip(1.5 * np.sin(2 * np.pi * beat) + 0.5, 0, 1))
            x, y = self._beating(x, y, 0.1 * np.sin(2 * np.pi * beat))
            echoes, bone = self._echoes(x, y, systole, share + 0.5)
            noise = np.roll(self.outside, 37 * number + 11, axis=1)
            level = grid.decibels(echoes * np.sqrt(grid.transmission(bone)), noise)
            if gain is None:
                gain = grid.gain(level)
            yield grid.picture(level, gain)

    def _body_frame(self, place: np.ndarray, turn: float) -> tuple[np.ndarray, np.ndarray]:
        dx = (self.grid.x - np.float32(place[0])).ravel()
        dz = (self.grid.z - np.float32(place[1])).ravel()
        c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
        return c * dx + s * dz, c * dz - s * dx

    def _beating(self, x: np.ndarray, y: np.ndarray, amount: float) -> tuple[np.ndarray, np.ndarray]:
        """Points of the tissue at rest that are now at (x, y): the ventricles shrink, the atria widen, and back."""
        body = self.body
        cx, cy = body.crux()
        toward = np.array([np.sin(body.axis), -np.cos(body.axis)]) * body.unit  # to the apex
        for along, sign, width in ((4.2, 1.0, 6.0), (-3.4, -0.7, 5.0)):
            centre = np.array([cx, cy]) + along * toward
            dx, dy = x - np.float32(centre[0]), y - np.float32(centre[1])
            fall = np.exp((dx * dx + dy * dy) * np.float32(-0.5 / (width * body.unit) ** 2))
            fall *= np.float32(sign * amount)
            x, y = x + fall * dx, y + fall * dy
        return x, y

    def _echoes(self, x: np.ndarray, y: np.ndarray, systole: float, share: float) -> tuple[np.ndarray, np.ndarray]:
        grid = self.grid
        shape = grid.x.shape
        # The slice of a beam is thick: between two planes both are seen, each with scatterers of its own.
        second = float(np.clip((share - 0.3) / 0.4, 0, 1)) if len(self.planes) > 1 else 0.0
        weights = [1 - second, second][: len(self.planes)]
        a, b = self.body.thorax
        is_body = ((x / np.float32(1.1 * a)) ** 2 + (y / np.float32(1.1 * b)) ** 2 < 1).reshape(shape)
        echoes, bone = np.zeros(shape, np.complex64), np.zeros(shape, np.float32)
        for plane, weight, field in zip(self.planes, weights, self.inside, strict=True):
            if weight == 0:
                continue
            power, hard = echogenicity(plane, self.body, x, y, self.surroundings, systole)
            if not self.still:
                column = np.floor(x * np.float32(1 / FIELD_STEP)).astype(np.int64) & (FIELD - 1)
                row = np.floor(y * np.float32(1 / FIELD_STEP)).astype(np.int64) & (FIELD - 1)
                field = field.ravel()[row * FIELD + column].reshape(shape)
            scatterers = np.where(is_body, field, self.outside)
            echoes += grid.echoes(np.float32(weight) * power.reshape(shape), scatterers)
            bone += np.float32(weight) * hard.reshape(shape)
        return echoes, bone


def _with_marks(pictures: np.ndarray, grid: PolarGrid, rng: np.random.Generator) -> np.ndarray:
    """Callipers and burnt-in letters in every tenth examination, whatever it shows; pictures are changed in place."""
    size = grid.size
    if rng.random() >= 0.1:
        return pictures
    arm = max(1, size // 48)
    for _ in range(2):
        row, column = rng.integers(size // 4, 3 * size // 4, 2)
        pictures[..., row - arm : row + arm + 1, column] = 235
        pictures[..., row, column - arm : column + arm + 1] = 235
    glyphs = rng.random((5, 4 * int(rng.integers(3, 7)))) < 0.55
    glyphs[:, 3::4] = False  # gaps between letters
    row, column = int(rng.integers(0, size // 8)), int(rng.integers(0, max(1, size // 4)))
    height, width = (min(n, size - start) for n, start in zip(glyphs.shape, (row, column), strict=True))
    box = pictures[..., row : row + height, column : column + width]
    box[..., glyphs[:height, :width]] = 210
    return pictures
