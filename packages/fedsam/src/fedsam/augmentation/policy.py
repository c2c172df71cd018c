"""What both modes of augmentation draw from: probabilities, the ten operations and their ranges."""

from dataclasses import dataclass

from shared.errors import UsageError

# Ranges of the operations' magnitudes, in the order in which they are numbered.
OPERATIONS: dict[str, tuple[float, float]] = {
    "shear_x": (-0.3, 0.3),
    "shear_y": (-0.3, 0.3),
    "scale": (0.8, 1.2),
    "translate_x": (-0.2, 0.2),
    "translate_y": (-0.2, 0.2),
    "posterize": (4.0, 8.99),
    "contrast": (0.7, 1.3),
    "brightness": (0.7, 1.3),
    "sharpness": (0.1, 1.9),
    "identity": (0.0, 1.0),
}
GEOMETRIC = ("shear_x", "shear_y", "scale", "translate_x", "translate_y")
LEAST_ANGLE, MOST_ANGLE = -15, 14
ERASED_AREA = (0.02, 0.05)
ERASED_RATIO = (0.3, 3.3)


@dataclass(frozen=True)
class Policy:
    """How often each step is taken.

    Args:
        rot_flip: Probability of a turn by 0 to 3 quarters followed by a flip along one of the axes.
        rotate: Probability of a rotation by a whole number of degrees in [-15, 14].
        gamma: Probability of ``x ** g`` with ``g`` uniform in [0.5, 3.5].
        erase: Probability that a box (2 to 5 % of the area, height to width 0.3 to 3.3) becomes noise without label.
        operations: How many different ones of the ten operations follow; 2 in the reference.

    Raises:
        UsageError: A probability is outside [0, 1], or ``operations`` outside 0 .. 10.
    """

    rot_flip: float = 0.5
    rotate: float = 0.5
    gamma: float = 0.5
    erase: float = 0.5
    operations: int = 2

    def __post_init__(self) -> None:
        for name in ("rot_flip", "rotate", "gamma", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"augmentation.{name} must lie in [0, 1], got {getattr(self, name)}")
        if not 0 <= self.operations <= len(OPERATIONS):
            raise UsageError(f"augmentation.operations must lie in 0..{len(OPERATIONS)}, got {self.operations}")
