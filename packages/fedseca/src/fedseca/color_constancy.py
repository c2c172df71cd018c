"""Taking the colour of the light out of a photograph."""

import numpy as np


def shades_of_grey(image: np.ndarray, power: float = 6.0) -> np.ndarray:
    r"""Scale the channels so that their Minkowski means are equal.

    With :math:`e_c = (\frac1N \sum_i x_{ic}^p)^{1/p}` every channel is divided by
    :math:`\sqrt3\, e_c / \|e\|_2`, cut off at 255 and rounded down. Source: Finlayson, Trezzi, "Shades of Gray and
    Colour Constancy", Color Imaging Conference 2004, with p = 6.

    Args:
        image: ``(H, W, 3)`` uint8; read only.
        power: p.

    Returns:
        ``(H, W, 3)`` uint8. A channel that is 0 everywhere stays so.

    Example:
        >>> reddish = np.full((1, 1, 3), [200, 100, 100], np.uint8)
        >>> shades_of_grey(reddish).tolist()
        [[[141, 141, 141]]]
    """
    values = image.astype(np.float64)
    light = np.mean(values**power, axis=(0, 1)) ** (1 / power)
    scale = np.sqrt(3) * light / (np.linalg.norm(light) or 1.0)
    return np.clip(values / np.where(scale > 0, scale, 1.0), 0, 255).astype(np.uint8)
