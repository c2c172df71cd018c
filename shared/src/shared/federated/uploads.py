"""The failure policy: which uploads count, and why the others do not."""

from collections.abc import Mapping

import torch
from torch import Tensor


def is_finite(values: Tensor) -> bool:
    """Whether no entry is NaN or infinite: one pass, nothing allocated (the extremes carry NaN and infinities)."""
    if values.numel() == 0:
        return True
    low, high = torch.aminmax(values.detach())
    return bool(torch.isfinite(low) & torch.isfinite(high))


def upload_fault(upload: Mapping[str, Tensor], template: Mapping[str, Tensor]) -> str | None:
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
