"""Where to compute."""

import torch

from shared.errors import UsageError


def device_named(name: str | None) -> torch.device:
    """The device that an option names; ``auto`` and ``None`` are the GPU where there is one.

    Raises:
        UsageError: There is no such device.

    Example:
        >>> device_named("cpu")
        device(type='cpu')
    """
    if name in (None, "auto"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(str(name))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(f"--device must be auto, cpu or a GPU that is here, got {name}") from error
    return device
