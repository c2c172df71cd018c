"""Finding a clip again by another of its frames: ``usssl study retrieval``."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from shared.errors import UsageError
from usssl.augmentation.normalisation import normalised_picture
from usssl.augmentation.resizing import Resize, resized
from usssl.backbones import Backbone
from usssl.sources.clips import Clip


def same_clip_rate(queries: Tensor, gallery: Tensor) -> float:
    """Share of the clips whose query is nearer, by cosine, to their own gallery vector than to every other one.

    Args:
        queries: ``(N, F)``, one of each clip.
        gallery: ``(N, F)``, another of each clip, in the same order. Among equally near ones the first counts.

    Example:
        >>> same_clip_rate(torch.eye(3), torch.eye(3)[[1, 0, 2]])
        0.3333333333333333
    """
    cosines = F.normalize(queries.double(), dim=1) @ F.normalize(gallery.double(), dim=1).T
    return float((cosines.argmax(1) == torch.arange(len(cosines))).double().mean())


def centred_pixels(pictures: list[np.ndarray], size: int, resize: Resize) -> Tensor:
    """``(N, H * W)`` pictures less their mean, so that cosines are correlations.

    Args:
        pictures: ``(H, W)`` or ``(H, W, 3)`` uint8; of one size they stay as they are.
        size: Height and width that pictures of several sizes are brought to.
        resize: How.
    """
    from PIL import Image

    if len({picture.shape[:2] for picture in pictures}) > 1:
        pictures = [np.asarray(resized(Image.fromarray(p).convert("L"), size, resize)) for p in pictures]
    grey = [picture if picture.ndim == 2 else picture.mean(2) for picture in pictures]
    pixels = torch.from_numpy(np.stack(grey)).double().flatten(1)
    return pixels - pixels.mean(1, keepdim=True)


def frames_at(clips: tuple[Clip, ...], number: int, option: str) -> list[np.ndarray]:
    """One frame of each clip, counted from 0, or from the end where negative.

    Args:
        clips: The clips.
        number: See above.
        option: Name of the option that gave the number, for the error message.

    Raises:
        UsageError: A clip has no such frame.
    """
    found = []
    for clip in clips:
        place = number if number >= 0 else clip.frames + number
        if not 0 <= place < clip.frames:
            raise UsageError(
                f"{option} must be a frame of every clip, got {number}, and {clip.video_id} has {clip.frames}"
            )
        found.append(clip.read(place))
    return found


@torch.no_grad()
def embedded(backbone: Backbone, pictures: list[np.ndarray], size: int, resize: Resize, batch: int = 64) -> Tensor:
    """``(N, F)`` features of pictures that are resized and normalised only; the backbone in evaluation mode."""
    from PIL import Image

    backbone.eval()
    images = [normalised_picture(resized(Image.fromarray(p).convert("RGB"), size, resize)) for p in pictures]
    parts = [backbone.features(torch.stack(images[start : start + batch])) for start in range(0, len(images), batch)]
    return torch.cat(parts).float()
