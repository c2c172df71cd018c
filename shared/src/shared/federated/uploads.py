"""The failure policy: which uploads count, and why the others do not."""

from collections.abc import Iterable, Mapping
from typing import Protocol

import torch
from torch import Tensor

SMALL = 65_536  # numbers; the call for each of hundreds of tensors would take longer than copying them


def is_finite(values: Tensor) -> bool:
    """Whether no entry is NaN or infinite: one pass, nothing allocated (the extremes carry NaN and infinities)."""
    if values.numel() == 0:
        return True
    low, high = torch.aminmax(values.detach())
    return bool(torch.isfinite(low) & torch.isfinite(high))


def are_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no floating point tensor holds NaN or infinite values; small ones are looked at together.

    Example:
        >>> are_finite([torch.ones(3), torch.tensor([1.0, float("nan")])])
        False
    """
    small: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        if tensor.is_floating_point():
            if tensor.numel() > SMALL:
                if not is_finite(tensor):
                    return False
            else:
                small.setdefault(tensor.dtype, []).append(tensor.detach().flatten())
    return all(is_finite(torch.cat(alike)) for alike in small.values())


class Shaped(Protocol):
    """Something with a shape: a tensor, or what announces one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of its dimensions."""


def upload_fault(upload: Mapping[str, Shaped], template: Mapping[str, Tensor]) -> str | None:
    """What is wrong with the names and shapes of an upload, in a few words; ``None`` if nothing is."""
    missing = [name for name in template if name not in upload]
    if missing:
        return f"missing tensor {missing[0]!r}" + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
    extra = [name for name in upload if name not in template]
    if extra:
        return f"unexpected tensor {extra[0]!r}" + (f" and {len(extra) - 1} more" if len(extra) > 1 else "")
    for name, tensor in upload.items():
        if tensor.shape != template[name].shape:
            return f"tensor {name!r} has shape {tuple(tensor.shape)}, not {tuple(template[name].shape)}"
    return None
