"""The real part of the default data: one echocardiogram clip, without its overlay of text."""

import numpy as np

from shared.data.samples import embedded
from usssl.sources.clips import ArrayReader, Clip, ClipSets, VideoSource

ECHO_CLIP_FILE = "samples/echo_clip.npz"
ECHO_CLIP_SHA256 = "b3186da036808b7cd8de40da90f5014ce0b9661850f0b325c44583b5807b6316"
ROWS, COLUMNS = slice(20, 206), slice(88, 303)
"""The region of the original 240 x 320 picture that moves."""
FRAME_MS = 33.3


def echo_frames() -> np.ndarray:
    """``(30, 186, 215)`` uint8."""
    return embedded("usssl", ECHO_CLIP_FILE, ECHO_CLIP_SHA256)["frames"]


class EchoClip(VideoSource):
    """One real clip: an adult's heart, apical four-chamber view, 30 frames at 30 per second.

    It shows one person and no fetus, and has no labels: it brings real speckle to the default run, nothing to measure.
    """

    def load(self) -> ClipSets:
        frames = echo_frames()
        clip = Clip(
            video_id="echo-clip",
            path="embedded",
            frames=len(frames),
            reader=ArrayReader({"frames": frames}),
            key="frames",
            fps=1000 / FRAME_MS,
            patient="echo-clip",
            machine="SonoSite",
        )
        return ClipSets("echo-clip", (clip,))
