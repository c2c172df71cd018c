"""The same augmentation for whole batches in torch, on the device of the batch."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsam.augmentation.policy import (
    ERASED_AREA,
    ERASED_RATIO,
    GEOMETRIC,
    LEAST_ANGLE,
    MOST_ANGLE,
    OPERATIONS,
    Policy,
)
from shared.errors import UsageError

NAMES = list(OPERATIONS)
OUTSIDE = 3.0  # any coordinate a pixel and more beyond 1


@dataclass
class Draws:
    """The parameters of ``B`` windows, on the CPU; identities where a step is not taken.

    Attributes:
        quarters: ``(B,)`` quarter turns, 0 to 3.
        flips: ``(B,)`` -1 none, 0 along rows, 1 along columns; after the turn.
        angles: ``(B,)`` degrees.
        gammas: ``(B,)``.
        boxes: ``(B, 4)`` top, left, height, width as shares of the side; height 0 where nothing is erased.
        operations: ``(B, n)`` index into the ten operations.
        magnitudes: ``(B, n)`` of those operations.
    """

    quarters: Tensor
    flips: Tensor
    angles: Tensor
    gammas: Tensor
    boxes: Tensor
    operations: Tensor
    magnitudes: Tensor


def draw(batch: int, policy: Policy, generator: torch.Generator) -> Draws:
    """Parameters with the distributions of the reference.

    Args:
        batch: How many windows.
        policy: How often each step is taken.
        generator: On the CPU.
    """
    coins = torch.rand(4, batch, generator=generator)
    u = torch.rand(5, batch, generator=generator)
    turned, bent = coins[0] < policy.rot_flip, coins[1] < policy.rotate
    quarters = torch.randint(4, (batch,), generator=generator) * turned
    flips = torch.where(turned, torch.randint(2, (batch,), generator=generator), -1)
    angles = torch.randint(LEAST_ANGLE, MOST_ANGLE + 1, (batch,), generator=generator) * bent
    area = ERASED_AREA[0] + (ERASED_AREA[1] - ERASED_AREA[0]) * u[1]
    ratio = ERASED_RATIO[0] + (ERASED_RATIO[1] - ERASED_RATIO[0]) * u[2]
    # At most 5 % of the area and a ratio of 3.3: such a box always fits.
    height, width = (area * ratio).sqrt(), (area / ratio).sqrt()
    boxes = torch.stack([u[3] * (1 - height), u[4] * (1 - width), height, width], 1)
    chosen = torch.rand(batch, len(NAMES), generator=generator).argsort(1)[:, : policy.operations]
    low, high = torch.tensor(list(OPERATIONS.values())).T
    v = torch.rand(chosen.shape, generator=generator)
    return Draws(
        quarters=quarters,
        flips=flips,
        angles=angles.float(),
        gammas=torch.where(coins[2] < policy.gamma, 3 * u[0] + 0.5, 1.0),
        boxes=boxes * (coins[3] < policy.erase)[:, None],
        operations=chosen,
        magnitudes=low[chosen] + (high - low)[chosen] * v,
    )


def _matrices(a: Tensor, b: Tensor, c: Tensor, d: Tensor, e: Tensor, f: Tensor) -> Tensor:
    zero, one = torch.zeros_like(a), torch.ones_like(a)
    return torch.stack([a, b, c, d, e, f, zero, zero, one], -1).view(-1, 3, 3)


def early_matrices(draws: Draws) -> Tensor:
    """``(B, 3, 3)`` from a pixel of the result to its source, for quarter turns, flips and the rotation.

    Coordinates ``(x, y, 1)`` with the square at [-1, 1], y downwards.
    """
    zero = torch.zeros_like(draws.angles)
    one = torch.ones_like(zero)
    flip = _matrices(one - 2 * (draws.flips == 1), zero, zero, zero, one - 2 * (draws.flips == 0), zero)
    quarter = draws.quarters % 4
    cos = torch.tensor([1.0, 0.0, -1.0, 0.0])[quarter]
    sin = torch.tensor([0.0, 1.0, 0.0, -1.0])[quarter]
    turn = _matrices(cos, -sin, zero, sin, cos, zero)
    radians = draws.angles * (math.pi / 180)
    rotation = _matrices(radians.cos(), -radians.sin(), zero, radians.sin(), radians.cos(), zero)
    # A result's pixel goes back through the last step first.
    return turn @ flip @ rotation


def operation_matrices(draws: Draws) -> list[Tensor]:
    """``(B, 3, 3)`` of each operation in turn, like :func:`early_matrices`; identities unless it is geometric."""
    matrices = []
    for slot in range(draws.operations.shape[1]):
        v = draws.magnitudes[:, slot]
        is_ = {name: draws.operations[:, slot] == NAMES.index(name) for name in GEOMETRIC}
        zero = torch.zeros_like(v)
        scale = torch.where(is_["scale"], v, 1.0)
        matrices.append(
            _matrices(
                scale,
                torch.where(is_["shear_x"], v, zero),
                scale - 1 + torch.where(is_["translate_x"], 2 * v, zero),
                torch.where(is_["shear_y"], v, zero),
                scale,
                scale - 1 + torch.where(is_["translate_y"], 2 * v, zero),
            )
        )
    return matrices


def traced(matrices: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Where the pixels of results come from, as ``x`` and ``y`` in [-1, 1], both ``(N, S, S)``.

    Args:
        matrices: ``(N, 3, 3)``, affine.
        size: Side ``S``.
    """
    line = (torch.arange(size, device=matrices.device) * 2 + 1) / size - 1
    down = matrices[:, :2, 1, None] * line + matrices[:, :2, 2, None]
    across = matrices[:, :2, 0, None] * line
    return down[:, 0, :, None] + across[:, 0, None], down[:, 1, :, None] + across[:, 1, None]


def outside(x: Tensor, y: Tensor) -> Tensor:
    """Whether points are not in the square."""
    return torch.maximum(x.abs(), y.abs()) > 1


def smoothed(x: Tensor) -> Tensor:
    """PIL's SMOOTH filter on ``(N, n, S, S)``: weights 5 and 1 over 13; the border stays."""
    result = x.clone()
    rows = x[..., :-2, :] + x[..., 1:-1, :] + x[..., 2:, :]
    box = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    result[..., 1:-1, 1:-1] = (box + 4 * x[..., 1:-1, 1:-1]) / 13
    return result


def enhanced(x: Tensor, name: str, value: Tensor) -> Tensor:
    """One of the operations that do not move pixels, on ``(N, n, S, S)`` in [0, 1], with ``(N,)`` magnitudes."""
    value = value[:, None, None, None].to(x)
    if name == "posterize":
        step = torch.exp2(8 - value.floor())
        whole = (x * 255 + 1e-3).floor()  # k / 255 * 255 may fall short of k
        return (whole / step).floor() * step / 255
    if name == "brightness":
        return (x * value).clamp_(0, 1)
    base = (x.mean((-2, -1), keepdim=True) * 255).round() / 255 if name == "contrast" else smoothed(x)
    return torch.lerp(base, x, value).clamp_(0, 1)


class BatchAugmentation(nn.Module):
    """The steps of :class:`~fedsam.augmentation.sample.SampleAugmentation` with the same distributions, batch-wise.

    All slices of a window share its draws. What differs from the reference is how, not what: everything that moves
    pixels is composed into one affine map and sampled once (bilinear for images, nearest for labels, 0 outside), so
    the two operations act with their brightness part last; values are not rounded to 8 bits, except by posterize; the
    batch has its final size already. The box that is erased is moved by the operations like the rest, its noise is
    that of the pixels where it ends.

    Args:
        policy: How often each step is taken.
    """

    batched = True

    def __init__(self, policy: Policy | None = None) -> None:
        super().__init__()
        self.policy = policy or Policy()

    def forward(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Augment a batch.

        Args:
            images: ``(B, n, S, S)`` floating point in [0, 1].
            labels: ``(B, n, S, S)`` integers.
            generator: On the CPU; the only source of randomness, whatever the device.

        Returns:
            New tensors of the same shapes and types.

        Raises:
            UsageError: The shapes differ or are not square.
        """
        if images.ndim != 4 or images.shape != labels.shape or images.shape[-1] != images.shape[-2]:
            raise UsageError(
                "images and labels must both be (windows, slices, S, S), "
                f"got {tuple(images.shape)} and {tuple(labels.shape)}"
            )
        draws = draw(len(images), self.policy, generator)
        noise = torch.rand(len(images), 1, *images.shape[-2:], generator=generator)
        return self.transform(images, labels, draws, noise)

    def transform(self, images: Tensor, labels: Tensor, draws: Draws, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The steps with given parameters; ``noise`` ``(B, 1, S, S)`` fills erased boxes."""
        device, size = images.device, images.shape[-1]
        # From a result's pixel back to before the last operation, before the last two, ..., before all steps.
        maps = [torch.eye(3).expand(len(images), 3, 3)]
        for matrix in (*reversed(operation_matrices(draws)), early_matrices(draws)):
            maps.append(matrix @ maps[-1])
        *cutting, whole = maps[1:]
        before_operations = maps[-2]

        moves = torch.stack(maps).ne(torch.eye(3)).flatten(2).any(2).any(0)
        if moves.any():
            x, y = traced(whole.to(device), size)
            for matrix in cutting:
                # Each operation cuts off what it moves outside; a composed map alone would bring it back.
                x.masked_fill_(outside(*traced(matrix.to(device), size)), OUTSIDE)
            grid, still = torch.stack([x, y], -1), (~moves).nonzero()[:, 0].to(device)
            pictures = F.grid_sample(images, grid.to(images), mode="bilinear", align_corners=False)
            classes = F.grid_sample(labels.float(), grid, mode="nearest", align_corners=False).to(labels.dtype)
            pictures[still], classes[still] = images[still], labels[still]
            images, labels = pictures, classes
        else:
            images, labels = images.clone(), labels.clone()

        for row, gamma in enumerate(draws.gammas.tolist()):
            if gamma != 1:
                images[row].clamp_(0, 1).pow_(gamma)

        holed = (draws.boxes[:, 2] > 0).nonzero()[:, 0]
        if len(holed):
            x, y = traced(before_operations[holed].to(device), size)
            top, left, height, width = (2 * side.to(device)[:, None, None] for side in draws.boxes[holed].T)
            box = ((y + 1 - top - height / 2).abs() < height / 2).logical_and_(
                (x + 1 - left - width / 2).abs() < width / 2
            )
            for matrix in cutting[:-1]:
                box &= ~outside(*traced(matrix[holed].to(device), size))
            window, i, j = box.nonzero(as_tuple=True)
            window = holed.to(device)[window]
            images[window, :, i, j] = noise.to(images)[window, :, i, j]
            labels[window, :, i, j] = 0

        for slot in range(draws.operations.shape[1]):
            for name in ("posterize", "contrast", "brightness", "sharpness"):
                chosen = (draws.operations[:, slot] == NAMES.index(name)).nonzero()[:, 0]
                if len(chosen):
                    rows = chosen.to(device)
                    images[rows] = enhanced(images[rows], name, draws.magnitudes[chosen, slot])
        return images, labels
