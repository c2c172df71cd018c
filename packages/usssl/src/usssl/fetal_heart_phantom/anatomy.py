"""The five kinds of plane as maps of echogenicity, after the published description of what each view shows.

Points are given in the *body frame*: millimetres, x to the fetus's left, y from the breastbone to the spine, origin in
the middle of the trunk. The heart's own frame has its origin at the crux, one axis from the base to the apex and one
from the right to the left ventricle; its unit is 1/17 of the heart's length.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from usssl.fetal_heart_phantom.shapes import Canvas

CLASSES = ("3VV", "4CH", "LVOT", "NON-heart", "RVOT")
SWEEP = ("NON-heart", "4CH", "LVOT", "RVOT", "3VV")
"""The order in which a probe that moves from the belly to the neck passes the planes."""

MYOCARDIUM, LUNG, WALL, BONE, LINE, FLUID = 0.35, 0.55, 0.6, 1.5, 0.9, 0.02
HEART_LENGTHS = 17  # units from apex to base


@dataclass(frozen=True)
class Body:
    """What is drawn once per fetus and plane.

    Attributes:
        heart_length: Millimetres, 18 at 18 weeks to 32 at 28 weeks.
        thorax: Half axes of the trunk, left-right and front-back, in mm.
        axis: Angle of the heart's long axis to the left of the midline, in radians.
        offset: Of the crux from the middle of the trunk, as a share of its half axes.
        blood: Echogenicity of blood.
        shaded: Whether ribs cast shadows.
        ribs: Angles of the ribs round the trunk.
        variant: Which of a plane's variants is drawn, in [0, 1).
        wobble: ``(24,)`` factors around 1 that shapes are scaled by.
        texture: Angles, wavelengths and phases of the slow changes of brightness.
    """

    heart_length: float
    thorax: tuple[float, float]
    axis: float
    offset: tuple[float, float]
    blood: float
    shaded: bool
    ribs: np.ndarray = field(repr=False)
    variant: float
    wobble: np.ndarray = field(repr=False)
    texture: np.ndarray = field(repr=False)

    @property
    def unit(self) -> float:
        """Millimetres of one unit of the heart's frame."""
        return self.heart_length / HEART_LENGTHS

    def crux(self) -> tuple[float, float]:
        """Where the heart's frame has its origin in the body frame."""
        return self.offset[0] * self.thorax[0], self.offset[1] * self.thorax[1]


def draw_body(rng: np.random.Generator, heart_length: float) -> Body:
    """A fetus's trunk; the distributions are the same for every kind of plane."""
    width = heart_length * rng.uniform(1.0, 1.2)
    return Body(
        heart_length=heart_length,
        thorax=(width, width * rng.uniform(0.85, 1.0)),
        axis=np.deg2rad(rng.uniform(25, 65)),
        offset=(rng.uniform(-0.02, 0.14), rng.uniform(-0.18, 0.02)),
        blood=rng.uniform(0.01, 0.02),
        shaded=bool(rng.random() < 0.4),
        ribs=rng.uniform(0, 2 * np.pi, rng.integers(3, 6)),
        variant=rng.random(),
        wobble=rng.uniform(0.88, 1.12, 24),
        texture=np.stack([rng.uniform(0, np.pi, 4), rng.uniform(7, 26, 4), rng.uniform(0, 2 * np.pi, 4)]),
    )


def echogenicity(
    plane: str, body: Body, x: np.ndarray, y: np.ndarray, surroundings: np.ndarray, systole: float
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one plane.

    Args:
        plane: One of :data:`CLASSES`.
        body: The fetus.
        x: ``(N,)`` float32 mm in the body frame.
        y: The same.
        surroundings: ``(N,)`` float32 echogenicity where the fetus is not.
        systole: 0 while the ventricles fill and the valves to them are open, 1 while they empty.

    Returns:
        ``(N,)`` float32 echogenicity and ``(N,)`` float32 bone, between 0 and 1, that casts shadows.
    """
    values = surroundings.copy()
    bone = np.zeros_like(values)
    canvas = Canvas(x, y, values)
    _OUTER[_kind(plane, body)](canvas, bone, body, systole)
    for angle, wavelength, phase in body.texture.T:
        wave = np.float32(2 * np.pi / wavelength)
        wave_x, wave_y = wave * np.float32(np.cos(angle)), wave * np.float32(np.sin(angle))
        values *= np.float32(1) + np.float32(0.14) * np.sin(wave_x * x + wave_y * y + np.float32(phase))
    return values, bone


def _kind(plane: str, body: Body) -> str:
    if plane != "NON-heart":
        return plane
    return ("abdomen", "head", "femur", "placenta")[int(body.variant * 4)]


def _add(bone: np.ndarray, cover: np.ndarray, strength: float = 1.0) -> None:
    np.maximum(bone, np.float32(strength) * cover, out=bone)


# ------------------------------------------------------------------------------------------------ the trunk


def _trunk(canvas: Canvas, bone: np.ndarray, body: Body, inside: float) -> None:
    """Wall, ribs, spine and what fills the trunk."""
    a, b = body.thorax
    skin = canvas.ellipse(0, 0, a, b)
    canvas.paint(skin, WALL)
    canvas.paint(skin + np.float32(1.4), 0.3)
    canvas.paint(skin + np.float32(2.8), inside)
    for number, angle in enumerate(body.ribs):
        along = np.array([angle - 0.16, angle + 0.16]) * body.wobble[number]
        (x0, x1), (y0, y1) = np.cos(along) * (a - 2.2), np.sin(along) * (b - 2.2)
        cover = canvas.paint(canvas.tube(x0, y0, x1, y1, 0.9), BONE)
        _add(bone, cover, 1.0 if body.shaded else 0.08)
    spine = b - 5.5
    for dx, dy in ((0.0, -2.4), (-3.1, 2.2), (3.1, 2.2)):  # the vertebra's body and the two halves of its arch
        _add(bone, canvas.paint(canvas.ellipse(dx, spine + dy, 1.9, 1.5), BONE), 0.8)


def _aorta(canvas: Canvas, body: Body, dx: float = 2.4) -> None:
    """The descending aorta in front of the spine."""
    radius = 1.35 * body.unit * body.wobble[20]
    lumen = canvas.ellipse(dx, body.thorax[1] - 11.5, radius, radius)
    canvas.vessel(lumen, 0.7, LINE, body.blood)


def _lungs(canvas: Canvas, bone: np.ndarray, body: Body) -> None:
    _trunk(canvas, bone, body, LUNG)
    _aorta(canvas, body)


Draw = Callable[[Canvas, Body, float], None]


def _heart(draw: Draw, turned: bool = True) -> Callable[[Canvas, np.ndarray, Body, float], None]:
    """A thorax with a drawing in the heart's frame, evaluated near the heart only."""

    def outer(canvas: Canvas, bone: np.ndarray, body: Body, systole: float) -> None:
        _lungs(canvas, bone, body)
        cx, cy = body.crux()
        dx, dy = canvas.x - np.float32(cx), canvas.y - np.float32(cy)
        near = np.flatnonzero(dx * dx + dy * dy < (11.5 * body.unit) ** 2)
        scale = np.float32(1 / body.unit)
        c, s = (np.float32(f(body.axis if turned else 0.0)) for f in (np.cos, np.sin))
        dx, dy = dx[near] * scale, dy[near] * scale
        part = Canvas(c * dx + s * dy, s * dx - c * dy, canvas.values[near], body.unit)
        draw(part, body, systole)
        canvas.values[near] = part.values

    return outer


# ------------------------------------------------------------------------------------------------ the heart's planes
# First coordinate towards the left ventricle, second towards the apex.


def _muscle(c: Canvas, w: float, v: float, a: float, b: float) -> None:
    outline = c.ellipse(w, v, a, b)
    c.paint(outline - np.float32(0.35), 0.8)  # pericardium
    c.paint(outline, MYOCARDIUM)


def _atrioventricular(c: Canvas, body: Body, w: float, v: float, half: float, systole: float) -> None:
    """A valve between chambers above each other: two leaflets that hang into the ventricle while it fills."""
    if systole < 0.5:
        c.paint(c.ellipse(w, v, half, 1.4), body.blood)
    drop = 1.9 * (1 - systole)
    for side in (-1, 1):
        c.paint(c.tube(w + side * half, v, w + side * half * (1 - 0.95 * systole) * 0.6, v + drop, 0.24), LINE)


def _four_chambers(c: Canvas, body: Body, systole: float) -> None:
    k, blood = body.wobble, body.blood
    _muscle(c, 0, 0.7, 7.4, 8.6)
    c.paint(c.ellipse(3.25, 4.3, 2.35 * k[0], 4.3 * k[1]), blood)  # left ventricle
    c.paint(c.ellipse(-3.25, 4.0, 2.55 * k[2], 3.9 * k[3]), blood)  # right ventricle
    c.paint(c.ellipse(3.1, -3.4, 2.6 * k[4], 2.75 * k[5]), blood)  # left atrium
    c.paint(c.ellipse(-3.1, -3.3, 2.8 * k[6], 2.9 * k[7]), blood)  # right atrium
    c.paint(c.tube(-4.9, 5.9, -1.6, 6.4, 0.42), 0.6)  # moderator band
    c.paint(c.ellipse(0.1, -3.2, 0.95, 1.15), blood)  # foramen
    c.paint(c.tube(0.3, -4.4, 1.5, -2.7, 0.2), LINE)  # its flap, into the left atrium
    _atrioventricular(c, body, 3.2, -0.3, 1.9, systole)
    _atrioventricular(c, body, -3.2, 0.5, 2.0, systole)  # the tricuspid valve sits nearer to the apex


def _left_outflow(c: Canvas, body: Body, systole: float) -> None:
    k, blood = body.wobble, body.blood
    _muscle(c, 0.3, 1.2, 7.2, 8.2)
    c.paint(c.ellipse(-4.1, 3.4, 1.9 * k[0], 4.2 * k[1], -0.2), blood)  # right ventricle, in front
    c.paint(c.ellipse(4.3, -3.3, 2.5 * k[2], 2.3 * k[3]), blood)  # left atrium
    root = c.tube(1.6, 0.6, -2.9 * k[4], -6.6 * k[5], 1.5)
    c.vessel(root, 0.4, LINE, blood)
    c.paint(c.ellipse(2.5, 3.9, 2.4 * k[6], 4.6 * k[7], 0.12), blood)  # left ventricle
    c.paint(c.tube(1.4, 1.0, 0.2, -1.0, 1.35), blood)  # no gap between it and the root
    spread = 1.25 * systole
    for side in (-1, 1):  # aortic valve
        c.paint(c.tube(0.1 + side * 1.25, -1.2 - side * 0.85, -0.4 + side * spread, -1.9 - side * spread, 0.2), LINE)
    _atrioventricular(c, body, 4.0, -0.5, 1.4, systole)


def _right_outflow(c: Canvas, body: Body, systole: float) -> None:
    k, blood = body.wobble, body.blood
    _muscle(c, -0.6, 2.0, 6.8, 7.2)
    if body.variant < 0.5:
        c.paint(c.ellipse(3.4, 3.6, 1.6 * k[0], 3.2 * k[1]), blood)  # the edge of the left ventricle
    trunk_end = (1.7 * k[2], -5.0 * k[3])
    c.vessel(c.tube(*trunk_end, 4.6, -7.4, 1.1), 0.4, LINE, blood)  # the two branches
    c.vessel(c.tube(*trunk_end, -3.4, -7.3, 1.0), 0.4, LINE, blood)
    c.vessel(c.tube(-2.2, -0.6, *trunk_end, 1.75), 0.4, LINE, blood)
    c.paint(c.ellipse(-2.6, 3.0, 3.0 * k[4], 4.3 * k[5], 0.1), blood)  # right ventricle
    c.paint(c.tube(-2.4, 0.2, -1.5, -1.4, 1.55), blood)
    c.vessel(c.ellipse(-3.3, -4.0, 1.5 * k[6], 1.5 * k[6]), 0.45, LINE, blood)  # aorta, crossed by the trunk
    spread = 1.4 * systole
    for side in (-1, 1):  # pulmonary valve
        c.paint(c.tube(-1.0 + side * 1.3, -1.9 + side * 1.0, -0.6 + side * spread, -2.6 + side * spread, 0.2), LINE)


def _three_vessels(c: Canvas, body: Body, systole: float) -> None:
    """In the body's directions: first coordinate to the left, second to the breastbone."""
    k, blood = body.wobble, body.blood
    pulse = 1 + 0.06 * systole
    c.paint(c.ellipse(0, 0.6, 7.0, 6.2), 0.3)  # thymus and what else lies between the lungs
    if body.variant < 0.4:  # three vessels and trachea: two tubes meet in a V left of the spine
        c.vessel(c.tube(-2.6 * k[0], 2.2, 2.4, -5.6, 1.4 * pulse), 0.45, LINE, blood)
        c.vessel(c.tube(3.4 * k[1], 4.2, 2.6, -5.8, 1.65 * pulse), 0.45, LINE, blood)
        c.paint(c.tube(-2.3 * k[0], 1.8, 2.2, -5.2, 1.35 * pulse), blood)
        c.vessel(c.ellipse(-4.9, 0.6 * k[2], 1.0, 1.0), 0.4, LINE, blood)
        c.vessel(c.ellipse(-2.4, -4.2, 0.75, 0.75), 0.5, BONE, 0.1)  # trachea
        return
    slope = 0.35 * k[3]
    c.vessel(c.tube(3.6 * k[4], 3.6 * slope + 0.9, 3.1, -1.4, 1.75 * pulse), 0.45, LINE, blood)  # pulmonary
    c.vessel(c.ellipse(0.0, 0.0, 1.5 * pulse * k[5], 1.5 * pulse * k[5]), 0.45, LINE, blood)  # aorta
    c.vessel(c.ellipse(-3.2, -3.2 * slope - 0.4, 1.0 * k[6], 1.0 * k[6]), 0.4, LINE, blood)  # vena cava


# ------------------------------------------------------------------------------------------------ what is no heart


def _abdomen(canvas: Canvas, bone: np.ndarray, body: Body, systole: float) -> None:
    _trunk(canvas, bone, body, 0.45)
    _aorta(canvas, body, 1.8)
    a, b = body.thorax
    k, u = body.wobble, body.unit
    canvas.paint(canvas.ellipse(0.48 * a, 0.05 * b, 3.6 * u * k[0], 2.7 * u * k[1], 0.5), FLUID)  # stomach
    vein = 1.0 * u * k[2]
    points = [(0.02 * a, -0.62 * b), (0.0, -0.28 * b), (-0.12 * a, -0.05 * b), (-0.34 * a, 0.08 * b)]  # a hook
    for (x0, y0), (x1, y1) in pairwise(points):
        canvas.paint(canvas.tube(x0, y0, x1, y1, vein), body.blood)
    canvas.vessel(canvas.ellipse(-0.3 * a, 0.42 * b, 1.1 * u, 1.1 * u), 0.4, LINE, body.blood)  # vena cava
    canvas.paint(canvas.ellipse(-0.45 * a, -0.35 * b, 1.4 * u * k[3], 0.8 * u, 0.7), FLUID)  # gall bladder


def _head(canvas: Canvas, bone: np.ndarray, body: Body, systole: float) -> None:
    a, b = body.thorax[0] * 1.05, body.thorax[1] * 0.9
    k, u = body.wobble, body.unit
    skull = canvas.ellipse(0, 0, a, b)
    canvas.paint(skull, WALL)
    cover = canvas.paint(np.abs(skull + np.float32(2.2)) - np.float32(0.9), BONE)
    _add(bone, cover, 0.45 if body.shaded else 0.1)
    canvas.paint(skull + np.float32(3.4), 0.3)
    canvas.paint(canvas.tube(-0.82 * a, 0, 0.82 * a, 0, 0.35), LINE)  # midline
    for side in (-1, 1):
        cavity = canvas.ellipse(0.25 * a, side * 0.36 * b, 3.4 * u * k[0], 1.5 * u * k[1], side * 0.25)
        canvas.vessel(cavity, 0.3, 0.6, FLUID)
        canvas.paint(canvas.ellipse(0.3 * a, side * 0.38 * b, 1.8 * u, 0.8 * u), 0.8)  # choroid plexus
    canvas.paint(canvas.ellipse(-0.35 * a, 0, 2.2 * u * k[2], 2.6 * u * k[3]), 0.22)  # thalami


def _femur(canvas: Canvas, bone: np.ndarray, body: Body, systole: float) -> None:
    a, b = body.thorax
    skin = canvas.ellipse(0, 0, a * 1.05, b * 0.8)
    canvas.paint(skin, WALL)
    canvas.paint(skin + np.float32(1.4), 0.4)
    half = 0.6 * body.heart_length * body.wobble[0]  # the bar is 20 to 40 mm long
    bow = 1.6 * body.wobble[1]
    for x0, x1 in ((-half, 0.0), (0.0, half)):
        y0, y1 = (bow * (1 - (x / half) ** 2) - 1 for x in (x0, x1))
        _add(bone, canvas.paint(canvas.tube(x0, y0, x1, y1, 1.3), BONE), 1.0)
    for end in (-1, 1):
        canvas.paint(canvas.ellipse(end * (half + 2.6), -1, 2.6, 2.8), 0.12)  # cartilage
    for number in range(3):  # vessels and gaps between muscles
        y = (number - 1) * 0.42 * b + 2
        canvas.paint(canvas.tube(-0.6 * a, y, 0.6 * a, y + 2 * (body.wobble[number + 2] - 1) * b, 0.5), 0.75)


def _placenta(canvas: Canvas, bone: np.ndarray, body: Body, systole: float) -> None:
    a, b = body.thorax
    k = body.wobble
    canvas.paint(canvas.ellipse(0, 0.1 * b, a * 1.1, b * 0.75), 0.5)
    canvas.paint(canvas.ellipse(0.05 * a, -0.55 * b, a * k[0], b * 0.45), FLUID)
    for number in range(4):  # lakes
        angle = 2 * np.pi * k[number] * 3
        x, y = 0.5 * a * np.cos(angle), 0.25 * b + 0.25 * b * np.sin(angle)
        canvas.paint(canvas.ellipse(x, y, 2.3 * k[number + 4], 1.7 * k[number + 8]), 0.05)
    for number in range(2):  # cord
        x = 0.3 * a * (2 * number - 1) * k[number]
        canvas.vessel(canvas.ellipse(x, -0.6 * b, 1.9, 1.9), 0.5, LINE, body.blood)


_OUTER: dict[str, Callable[[Canvas, np.ndarray, Body, float], None]] = {
    "3VV": _heart(_three_vessels, turned=False),
    "4CH": _heart(_four_chambers),
    "LVOT": _heart(_left_outflow),
    "RVOT": _heart(_right_outflow),
    "abdomen": _abdomen,
    "femur": _femur,
    "head": _head,
    "placenta": _placenta,
}
