"""How three ultrasound machines draw the same tissue: ranges of the settings, and one draw from them."""

from dataclasses import dataclass

import numpy as np

Range = tuple[float, float]


@dataclass(frozen=True)
class Machine:
    """Ranges that a machine's settings are drawn from, uniformly.

    Attributes:
        name: As in the reference's column ``machine_type``.
        axial: Standard deviation of the axial point spread in mm.
        lateral: The same across the beam, in degrees, so that it widens with depth.
        dynamic_range: Decibels from black to white.
        gamma: Of the grey map.
        sector: Opening angle in degrees.
        radius: Of the probe's curved face in mm.
    """

    name: str
    axial: Range
    lateral: Range
    dynamic_range: Range
    gamma: Range
    sector: Range
    radius: Range


MACHINES = (
    Machine("V830", (0.35, 0.45), (0.75, 1.0), (45, 52), (0.8, 0.95), (62, 80), (22, 30)),
    Machine("Voluson E8", (0.25, 0.32), (0.5, 0.7), (54, 65), (0.9, 1.1), (60, 76), (18, 26)),
    Machine("Voluson S10 Expert", (0.3, 0.4), (0.6, 0.9), (48, 58), (1.0, 1.2), (55, 70), (14, 22)),
)


@dataclass(frozen=True)
class Settings:
    """One examination's settings: lengths in mm, angles in radians, levels in decibels.

    Attributes:
        axial: Standard deviation of the axial point spread.
        lateral: The same in angle.
        dynamic_range: From black to white.
        gamma: Of the grey map.
        half_angle: Half the sector.
        radius: Of the probe's face.
        depth: Of the picture below the probe's face.
        attenuation: Decibels per centimetre that the gain does not make up for.
        noise: Level of the electronic noise at full depth, against tissue of echogenicity 1.
        brightness: Mean grey value inside the sector that the gain is set to, on the scale 0 to 1.
    """

    axial: float
    lateral: float
    dynamic_range: float
    gamma: float
    half_angle: float
    radius: float
    depth: float
    attenuation: float
    noise: float
    brightness: float


def draw_settings(machine: Machine, rng: np.random.Generator) -> Settings:
    """Settings of one examination; nothing about them depends on what is looked at."""
    return Settings(
        axial=rng.uniform(*machine.axial),
        lateral=np.deg2rad(rng.uniform(*machine.lateral)),
        dynamic_range=rng.uniform(*machine.dynamic_range),
        gamma=rng.uniform(*machine.gamma),
        half_angle=np.deg2rad(rng.uniform(*machine.sector)) / 2,
        radius=rng.uniform(*machine.radius),
        depth=90 + 50 * rng.beta(1, 3),
        attenuation=rng.uniform(-0.3, 0.3),
        noise=rng.uniform(-36, -28),
        brightness=rng.uniform(0.18, 0.30),
    )
