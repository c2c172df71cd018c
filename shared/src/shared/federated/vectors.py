"""Named tensors as one flat vector and back."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor


@dataclass(frozen=True)
class Slot:
    """Where one tensor lies in the vector."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    start: int
    stop: int


class VectorLayout:
    """The order in which named tensors stand in one float32 vector.

    Floating point tensors follow one another in the order of ``template`` (``state_dict`` order), those named in
    ``last`` behind all others. Integer tensors (BatchNorm's ``num_batches_tracked``, say) have no place in the vector.

    Args:
        template: The named tensors, with their final shapes and types.
        last: Names that go to the end.

    Attributes:
        size: Coordinates in all.
        head: Coordinates of the tensors that are not in ``last``.

    Example:
        >>> layout = VectorLayout({"w": torch.zeros(2, 2), "count": torch.tensor(3), "b": torch.zeros(1)})
        >>> layout.size
        5
        >>> vector = layout.flatten({"w": torch.ones(2, 2), "count": torch.tensor(3), "b": torch.tensor([5.0])})
        >>> vector.tolist()
        [1.0, 1.0, 1.0, 1.0, 5.0]
        >>> layout.views(vector)["b"].tolist()
        [5.0]
    """

    def __init__(self, template: Mapping[str, Tensor], last: frozenset[str] = frozenset()) -> None:
        self.slots: list[Slot] = []
        self.size = self.head = 0
        floating = [name for name, tensor in template.items() if tensor.is_floating_point()]
        for name in sorted(floating, key=lambda name: name in last):
            shape = tuple(template[name].shape)
            stop = self.size + prod(shape)
            self.slots.append(Slot(name, shape, template[name].dtype, self.size, stop))
            self.size = stop
            self.head = self.head if name in last else stop

    def flatten(self, tensors: Mapping[str, Tensor], out: Tensor | None = None) -> Tensor:
        """Write ``tensors`` into ``out`` (``(size,)`` float32, a new vector by default) and return it."""
        if out is None:
            device = next(iter(tensors.values())).device
            out = torch.empty(self.size, dtype=torch.float32, device=device)
        for slot in self.slots:
            out[slot.start : slot.stop].view(slot.shape).copy_(tensors[slot.name])
        return out

    def difference(self, origin: Tensor, tensors: Mapping[str, Tensor], out: Tensor) -> Tensor:
        """``origin`` minus :meth:`flatten` of ``tensors``, written into ``out`` in one pass."""
        for slot in self.slots:
            here = slice(slot.start, slot.stop)
            torch.sub(origin[here], tensors[slot.name].reshape(-1).to(origin.dtype), out=out[here])
        return out

    def views(self, vector: Tensor) -> dict[str, Tensor]:
        """The named tensors as float32 views into ``vector``."""
        return {slot.name: vector[slot.start : slot.stop].view(slot.shape) for slot in self.slots}

    def write(self, vector: Tensor, tensors: Mapping[str, Tensor]) -> None:
        """Copy ``vector`` into ``tensors`` in place; each keeps its own type and device."""
        for slot in self.slots:
            tensors[slot.name].copy_(vector[slot.start : slot.stop].view(slot.shape))
