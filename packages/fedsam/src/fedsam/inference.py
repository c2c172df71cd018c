"""A whole volume through a network that sees windows of a few slices."""

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedsam.fusion import check_slices, fuse_windows, padded_slices
from shared.errors import UsageError

Forward = Callable[[Tensor, int], Tensor]
Scaling = Literal["window", "slice", "volume"]
Resizing = Literal["torch", "spline"]
RANGE_EPSILON = 1e-8


def resize(images: Tensor, size: tuple[int, int], mode: Literal["bicubic", "bilinear", "spline"]) -> Tensor:
    """Pictures of another size, first and last pixels on first and last pixels; unchanged where sizes agree.

    Args:
        images: ``(N, C, H, W)`` float32.
        size: New height and width.
        mode: ``bicubic`` or ``bilinear`` in torch on the images' device; ``spline`` is scipy's spline of order 3, as
            the reference has it. Both cubic ones may leave the range of the input.
    """
    if tuple(images.shape[-2:]) == size:
        return images
    if mode != "spline":
        return F.interpolate(images, size=size, mode=mode, align_corners=True)
    from scipy.ndimage import zoom

    factors = (size[0] / images.shape[-2], size[1] / images.shape[-1])
    flat = images.flatten(0, 1).cpu().numpy()
    # Mirror has the same spline as scipy's default, but never takes the last pixel for one outside.
    zoomed = np.stack([zoom(picture, factors, order=3, mode="mirror") for picture in flat])
    return torch.from_numpy(zoomed).to(images).view(*images.shape[:2], *size)


def value_ranges(image: Tensor, scaling: Scaling, slices: int) -> tuple[Tensor, Tensor]:
    """Least and greatest value that stand for 0 and 1, ``(Z,)`` each: per window, per slice, or of the volume.

    Raises:
        UsageError: ``scaling`` is unknown.
    """
    low, high = image.flatten(1).amin(1), image.flatten(1).amax(1)
    if scaling == "volume":
        return low.amin().expand_as(low), high.amax().expand_as(high)
    if scaling == "window":
        places = padded_slices(len(image), slices)
        return low[places].unfold(0, slices, 1).amin(1), high[places].unfold(0, slices, 1).amax(1)
    if scaling != "slice":
        raise UsageError(f"scaling must be window, slice or volume, got {scaling}")
    return low, high


class VolumePredictor:
    r"""Segments volumes of any size with a network for ``S x S`` pictures.

    ``fused``: every window of ``slices`` neighbours (edges repeated) is scaled to [0, 1] by
    :math:`(x - \min) / (\max - \min + 10^{-8})`, resized to ``S``, predicted, and its probabilities are resized
    back; each slice takes the mean over the up to ``slices`` windows that hold it, then the likeliest class. Slices are
    resized before they are scaled, once per chunk: resizing is linear and keeps constants, so only rounding differs.

    ``fast``: one prediction per slice, for networks that treat slices apart and a scaling that does not depend on the
    window. All windows then say the same about a slice, and the mean of equal numbers is that number: the result is
    the fused one, to rounding, for ``slices`` times less work.

    Memory does not grow with the depth: a chunk of pictures and their probabilities at a time.

    Source: the MA-SAM and FLAP-SAM reference code (test.py); ``fast`` is ours.

    Args:
        forward: ``(N, 3, S, S)`` float32 in [0, 1] and the slices per window to ``(N, C+1, S, S)`` logits.
        image_size: ``S``.
        mode: ``fused`` or ``fast``.
        slices: Slices per window, odd.
        scaling: What is scaled to [0, 1] as a whole: a ``window`` (as in the reference), a ``slice`` or the ``volume``.
        resizing: ``torch`` (bicubic there, bilinear back, on the network's device) or ``spline`` (the reference's).
        chunk: About how many pictures go through the network at once.
        device: Where the network is; results come back on the CPU.

    Raises:
        UsageError: ``mode`` is fast with scaling by window, or a value is unknown or out of range.
    """

    def __init__(
        self,
        forward: Forward,
        image_size: int,
        mode: Literal["fused", "fast"] = "fused",
        slices: int = 5,
        scaling: Scaling = "window",
        resizing: Resizing = "torch",
        chunk: int = 20,
        device: torch.device | str = "cpu",
    ) -> None:
        check_slices(slices)
        for name, value, known in (("mode", mode, ("fused", "fast")), ("resizing", resizing, ("torch", "spline"))):
            if value not in known:
                raise UsageError(f"{name} must be {known[0]} or {known[1]}, got {value}")
        if mode == "fast" and scaling == "window":
            raise UsageError("mode fast needs scaling slice or volume, got window: each window scales a slice anew")
        if chunk < 1:
            raise UsageError(f"chunk must be at least 1, got {chunk}")
        self.forward = forward
        self.image_size = image_size
        self.mode = mode
        self.slices = slices
        self.scaling: Scaling = scaling
        self.resizing: Resizing = resizing
        self.chunk = chunk
        self.device = torch.device(device)

    def _probabilities(self, images: Tensor, slices: int, size: tuple[int, int]) -> Tensor:
        """``(N, S, S)`` scaled pictures to ``(N, C+1, H, W)``."""
        logits = self.forward(images[:, None].expand(-1, 3, -1, -1), slices)
        probabilities = logits.softmax(1, dtype=torch.float32)
        return resize(probabilities, size, "bilinear" if self.resizing == "torch" else "spline")

    def _pictures(self, image: Tensor, wanted: Tensor) -> Tensor:
        """The wanted slices, ``(n, S, S)``, not yet scaled; each is resized once."""
        distinct, where = wanted.unique(return_inverse=True)
        pictures = image[distinct].to(self.device, torch.float32)[:, None]
        square = (self.image_size, self.image_size)
        return resize(pictures, square, "bicubic" if self.resizing == "torch" else "spline")[where.to(self.device), 0]

    def _chunks(self, image: Tensor) -> Iterator[Tensor]:
        """Probabilities of successive windows ``(W, slices, C+1, H, W)``, or slices ``(W, 1, C+1, H, W)`` when fast."""
        slices = self.slices if self.mode == "fused" else 1
        size = (image.shape[1], image.shape[2])
        places = padded_slices(len(image), slices)
        low, high = (bound.to(self.device, torch.float32) for bound in value_ranges(image, self.scaling, self.slices))
        per_slice = self.scaling == "slice"
        count = max(1, self.chunk // slices)
        for start in range(0, len(image), count):
            stop = min(start + count, len(image))
            members = places[start : stop + slices - 1].unfold(0, slices, 1)  # (W, slices)
            bounds = members if per_slice else torch.arange(start, stop)[:, None].expand_as(members)
            lows, highs = (bound[bounds.flatten().to(self.device)][:, None, None] for bound in (low, high))
            pictures = (self._pictures(image, members.flatten()) - lows) / (highs - lows + RANGE_EPSILON)
            # A constant window is 0; its rounding errors from resizing, over the tiny denominator, could be anything.
            pictures = torch.where(highs > lows, pictures, 0.0)
            probabilities = self._probabilities(pictures, slices, size)
            yield probabilities.view(stop - start, slices, *probabilities.shape[1:])

    @torch.inference_mode()
    def probabilities(self, image: Tensor) -> Iterator[Tensor]:
        """Class probabilities of one slice after the other.

        Args:
            image: ``(Z, H, W)`` real numbers on the CPU.

        Yields:
            ``(C+1, H, W)`` float32 on the device.

        Raises:
            UsageError: The volume is not three-dimensional, or is empty.
        """
        if image.ndim != 3 or image.numel() == 0:
            raise UsageError(f"a volume must be (slices, height, width) and not empty, got shape {tuple(image.shape)}")
        yield from fuse_windows(self._chunks(image), self.slices if self.mode == "fused" else 1)

    @torch.inference_mode()
    def __call__(self, image: Tensor) -> Tensor:
        """The likeliest class of every voxel, ``(Z, H, W)`` uint8 on the CPU."""
        # Not argmax, which takes ten times as long over a dimension that is not the last.
        return torch.stack([p.max(0).indices.to("cpu", torch.uint8) for p in self.probabilities(image)])
