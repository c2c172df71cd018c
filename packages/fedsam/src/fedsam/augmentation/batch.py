"""The same augmentation for whole batches in torch, on the device of the batch."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedsam.augmentation.affine_sampling import axes, bilinear, columns_inside, nearest, pixels, traced
from fedsam.augmentation.policy import ERASED_AREA, ERASED_RATIO, LEAST_ANGLE, MOST_ANGLE, OPERATIONS, Policy
from shared.errors import UsageError

NAMES = list(OPERATIONS)
RANGES = torch.tensor(list(OPERATIONS.values()))  # (10, 2)
CACHED_PIXELS = 65_536  # of a window's grid, at 16 bytes or so


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
    u = torch.rand(12 + len(NAMES) + policy.operations, batch, generator=generator)
    turned, bent, curved, erased = u[:4] < torch.tensor(
        [[policy.rot_flip], [policy.rotate], [policy.gamma], [policy.erase]]
    )
    quarters = (4 * u[4]).long() * turned
    flips = torch.where(turned, (2 * u[5]).long(), -1)
    angles = (LEAST_ANGLE + ((MOST_ANGLE + 1 - LEAST_ANGLE) * u[6]).floor_()) * bent
    area = ERASED_AREA[0] + (ERASED_AREA[1] - ERASED_AREA[0]) * u[7]
    ratio = ERASED_RATIO[0] + (ERASED_RATIO[1] - ERASED_RATIO[0]) * u[8]
    # At most 5 % of the area and a ratio of 3.3: such a box always fits.
    height, width = (area * ratio).sqrt(), (area / ratio).sqrt()
    boxes = torch.stack([u[9] * (1 - height), u[10] * (1 - width), height, width], 1)
    chosen = u[12 : 12 + len(NAMES)].T.argsort(1)[:, : policy.operations]
    low, high = RANGES[chosen].unbind(-1)
    return Draws(
        quarters=quarters,
        flips=flips,
        angles=angles,
        gammas=torch.where(curved, 3 * u[11] + 0.5, 1.0),
        boxes=boxes * erased[:, None],
        operations=chosen,
        magnitudes=low + (high - low) * u[12 + len(NAMES) :].T,
    )


def affine(rows: list[list[Tensor]]) -> Tensor:
    """``(..., 3, 3)`` with two given rows of entries ``(...)`` above ``(0, 0, 1)``."""
    zero = torch.zeros_like(rows[0][0])
    entries = [*rows[0], *rows[1], zero, zero, zero + 1]
    return torch.stack(entries, -1).unflatten(-1, (3, 3))


def early_matrices(draws: Draws) -> Tensor:
    """``(B, 3, 3)`` from a pixel of the result to its source, for quarter turns, flips and the rotation.

    Coordinates ``(x, y, 1)`` with the square at [-1, 1], y downwards. A result's pixel goes back through the last step
    first: quarter turn after flip after rotation, as a matrix product.
    """
    # Mirrored axes, then cosine and sine of the quarter turn: whole numbers, so that pixels fall on pixels.
    u, v = 1.0 - 2 * (draws.flips == 1), 1.0 - 2 * (draws.flips == 0)
    quarter = draws.quarters % 4
    c, s = torch.tensor([1.0, 0.0, -1.0, 0.0])[quarter], torch.tensor([0.0, 1.0, 0.0, -1.0])[quarter]
    radians = draws.angles * (math.pi / 180)
    cos, sin = radians.cos(), radians.sin()
    zero = torch.zeros_like(cos)
    return affine(
        [
            [c * u * cos - s * v * sin, -c * u * sin - s * v * cos, zero],
            [s * u * cos + c * v * sin, -s * u * sin + c * v * cos, zero],
        ]
    )


def operation_matrices(draws: Draws) -> Tensor:
    """``(B, n, 3, 3)`` of each operation in turn, like :func:`early_matrices`; identities unless it is geometric."""
    v, zero = draws.magnitudes, torch.zeros_like(draws.magnitudes)

    def magnitude(name: str, otherwise: Tensor) -> Tensor:
        return torch.where(draws.operations == NAMES.index(name), v, otherwise)

    # The scale leaves the corner at the origin where it is.
    scale = magnitude("scale", zero + 1)
    return affine(
        [
            [scale, magnitude("shear_x", zero), scale - 1 + 2 * magnitude("translate_x", zero)],
            [magnitude("shear_y", zero), scale, scale - 1 + 2 * magnitude("translate_y", zero)],
        ]
    )


def gamma_tables(gammas: Tensor) -> Tensor:
    """``(B, 256)`` values of ``x ** gamma`` at ``x = 0, 1/255, ..., 1``, rounded down to 8 bits as in the reference."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    return (levels ** gammas[:, None] * 255).floor_().div_(255)


def look_up_(x: Tensor, table: Tensor) -> None:
    """Values of [0, 1] by a table of 256, in place; what lies outside takes its ends. Half the time of a power."""
    levels = x.mul_(255).clamp_(0, 255).int().flatten()
    torch.index_select(table.to(x), 0, levels, out=x.view(-1))


def enhance_(x: Tensor, name: str, value: float) -> None:
    """One of the operations that do not move pixels, in place, on the slices ``(n, S, S)`` of a window in [0, 1]."""
    if name == "posterize":
        step = 2.0 ** (8 - math.floor(value))
        # k / 255 * 255 may fall short of k.
        x.mul_(255 / step).add_(1e-3 / step).floor_().mul_(step / 255)
    elif name == "brightness":
        x.mul_(value).clamp_(0, 1)
    elif name == "contrast":
        base = (x.mean((-2, -1), keepdim=True) * 255).round_().div_(255)
        x.mul_(value).add_(base, alpha=1 - value).clamp_(0, 1)
    elif name == "sharpness":
        # Between the picture and PIL's SMOOTH of it, weights 5 at the centre and 1 around it over 13; the border stays.
        rows = (x[:, :-2] + x[:, 1:-1]).add_(x[:, 2:])
        box = (rows[..., :-2] + rows[..., 1:-1]).add_(rows[..., 2:])
        x[:, 1:-1, 1:-1].mul_(value + 4 * (1 - value) / 13).add_(box, alpha=(1 - value) / 13)
        x.clamp_(0, 1)


def erase_(images: Tensor, labels: Tensor, windows: Tensor, first: Tensor, last: Tensor, rng: torch.Generator) -> None:
    """Uniform noise, the same in all slices, and label 0 between two columns of each row of some windows, in place.

    Args:
        images: ``(B, n, S, S)``, contiguous like ``labels``.
        labels: Likewise.
        windows: ``(H,)`` which of them, on the CPU like all that follows.
        first: ``(H, S)`` first column of each row.
        last: ``(H, S)`` last column; less than ``first`` where a row has none.
        rng: Of the noise.
    """
    slices, size = images.shape[1:3]
    lengths = (last - first + 1).clamp_(min=0)
    start = first + size * (torch.arange(size) + slices * size * windows[:, None])
    # Pixels are counted through all rows, so each row begins its own count where it stands less what came before.
    before = lengths.flatten().cumsum(0).view_as(lengths) - lengths
    pixels = (start - before).flatten().repeat_interleave(lengths.flatten())
    pixels += torch.arange(len(pixels))
    noise = torch.rand(len(pixels), generator=rng).to(images)
    index = (pixels + size**2 * torch.arange(slices)[:, None]).to(images.device)
    images.view(-1).index_copy_(0, index.flatten(), noise.expand(slices, -1).flatten())
    labels.view(-1).index_fill_(0, index.flatten(), 0)


class BatchAugmentation(nn.Module):
    """The steps of :class:`~fedsam.augmentation.sample.SampleAugmentation` with the same distributions, batch-wise.

    All slices of a window share its draws. What differs from the reference is how, not what: everything that moves
    pixels is composed into one affine map and sampled once (as in the reference bilinear for images that an operation
    moves, nearest for those only turned and for labels, 0 outside), so the two operations act with their brightness
    part last; values are rounded to 8 bits only by gamma and posterize; the batch has its final size already. The box
    that is erased is moved by the operations like the rest, its noise is drawn where it ends.

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
        return self.transform(images, labels, draw(len(images), self.policy, generator), generator)

    def transform(
        self, images: Tensor, labels: Tensor, draws: Draws, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The steps with given parameters; the noise in erased boxes is drawn from ``generator``, window by window."""
        size, operations = images.shape[-1], operation_matrices(draws)
        # From a result's pixel back to before the last operation, before the last two, ..., before all of them.
        maps = [torch.eye(3).expand(len(images), 3, 3)]
        for slot in reversed(range(operations.shape[1])):
            maps.append(operations[:, slot] @ maps[-1])
        images, labels = self.moved(images, labels, maps, early_matrices(draws) @ maps[-1])

        curved = (draws.gammas != 1).nonzero()[:, 0]
        for row, table in zip(curved.tolist(), gamma_tables(draws.gammas[curved]), strict=True):
            look_up_(images[row], table)

        holed = (draws.boxes[:, 2] > 0).nonzero()[:, 0]
        if len(holed):
            # In the box before the operations, and cut off by those that come later than the first.
            boxes, ways = draws.boxes[holed], torch.stack(maps[1:] or maps, 1)[holed]
            square = torch.ones(*ways.shape[:2], 2)
            low, high = -square, square.clone()
            low[:, -1] = 2 * boxes[:, [1, 0]] - 1
            high[:, -1] = low[:, -1] + 2 * boxes[:, [3, 2]]
            first, last = columns_inside(ways, low, high, size)
            erase_(images, labels, holed, first, last, generator)

        for row, (chosen, values) in enumerate(zip(draws.operations.tolist(), draws.magnitudes.tolist(), strict=True)):
            for operation, value in zip(chosen, values, strict=True):
                enhance_(images[row], NAMES[operation], value)
        return images, labels

    @staticmethod
    def moved(images: Tensor, labels: Tensor, maps: list[Tensor], whole: Tensor) -> tuple[Tensor, Tensor]:
        """New tensors under the ``whole`` map; as in the reference, bilinear only where an operation moves pixels.

        What an operation moves outside is cut off: a composed map alone would bring it back. So each of the ``maps``
        on the way must stay inside.
        """
        size, device, still = images.shape[-1], images.device, torch.eye(3)
        # The first map leaves all where it is.
        first, last = columns_inside(torch.stack([*maps[1:], whole], 1), -torch.ones(2), torch.ones(2), size)
        places = [part.to(device) for part in (*axes(whole, size), first, last)]
        operated = torch.stack(maps).ne(still).flatten(2).any(2).any(0).tolist()
        turned = whole.ne(still).flatten(1).any(1).tolist()
        pictures, classes = torch.empty_like(images), torch.empty_like(labels)
        # On a CPU a few windows at a time, so that grid and index stay in its caches.
        windows = len(images) if device.type != "cpu" else max(1, CACHED_PIXELS // size**2)
        for rows in torch.arange(len(images)).split(windows):
            part = slice(int(rows[0]), int(rows[-1]) + 1)
            grid = traced(*(place[part] for place in places))
            index = pixels(grid)
            classes[part] = nearest(labels[part], index)
            for row in range(len(images))[part]:
                one, at = slice(row, row + 1), slice(row - part.start, row - part.start + 1)
                if operated[row]:
                    # The copy reads memory in order, so that the slanted walk finds all in the cache.
                    pictures[one] = bilinear(images[one].clone(), grid[at])
                else:
                    pictures[one] = nearest(images[one], index[at]) if turned[row] else images[one]
        return pictures, classes
