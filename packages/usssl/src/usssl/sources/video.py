"""Compressed video through PyAV (FFmpeg): an index of time stamps makes every frame reachable from its key frame."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from shared.errors import UsageError
from usssl.sources.clips import Clip, FileReader
from usssl.sources.open_files import OpenFiles

SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".m4v", ".webm", ".mpg", ".wmv")


@dataclass
class _Open:
    container: Any
    stream: Any
    times: np.ndarray  # presentation time of every frame, ascending
    keys: np.ndarray  # those of frames that need no other
    decoder: Any = None
    next: int = -1  # the frame that the decoder gives next


def time_stamps(path: Path) -> tuple[np.ndarray, np.ndarray, float | None]:
    """Presentation times of all frames and of the key frames, ascending, and frames per second; nothing is decoded.

    Raises:
        UsageError: The file is no video, or a frame has no time stamp.
    """
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UsageError(f"data.source.root: every video must be readable, {path} holds no picture stream")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise UsageError(
                    f"data.source.root: every video must be readable, {path} has no codec that FFmpeg knows"
                )
            packets = [(packet.pts, packet.is_keyframe) for packet in container.demux(stream) if packet.size]
            rate = stream.average_rate
    except UsageError:
        raise
    except Exception as error:  # containers of many kinds, each with errors of its own
        why = getattr(error, "strerror", None) or error  # without FFmpeg's number and the path once more
        raise UsageError(f"data.source.root: every video must be readable, {path} is not ({why})") from error
    if not packets:
        raise UsageError(f"data.source.root: every video must have a frame, {path} has none")
    if any(pts is None for pts, _ in packets):
        raise UsageError(
            f"data.source.root: every frame of a video must have a time stamp, {path} leaves some out: "
            f"convert it to mp4"
        )
    times = np.sort(np.array([pts for pts, _ in packets], np.int64))
    keys = np.sort(np.array([pts for pts, key in packets if key], np.int64))
    return times, keys, None if not rate else float(rate)


class VideoReader(FileReader):
    """Frames of video files; grey streams are read as grey, all others as RGB.

    The time stamps are read once when a file is opened. A frame is reached by jumping to the key frame before it and
    decoding from there, or by decoding on where the last one was read.
    """

    def __init__(self) -> None:
        self._files: OpenFiles[_Open] = OpenFiles(_opened, lambda file: file.container.close(), most=8)

    def __getstate__(self) -> dict[str, object]:
        return {}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__()  # type: ignore[misc]

    def probe(self, path: Path) -> list[Clip]:
        """The video, with the number of its frames and their rate."""
        times, _, fps = time_stamps(path)
        return [Clip(video_id=path.stem, path=str(path), frames=len(times), reader=self, fps=fps)]

    def read(self, clip: Clip, frame: int) -> np.ndarray:
        try:
            return _frame(self._files(clip.path), frame)
        except UsageError:
            raise
        except Exception as error:  # decoders of many formats, each with errors of its own
            raise UsageError(
                f"data.source.root: every frame must be readable, frame {frame} of {clip.path} is not ({error})"
            ) from error


def _opened(path: str) -> _Open:
    times, keys, _ = time_stamps(Path(path))
    container = av.open(path)
    stream = container.streams.video[0]
    stream.thread_type = "NONE"  # loader workers are the parallelism; more threads would fight them
    stream.codec_context.thread_count = 1
    return _Open(container, stream, times, keys)


def _frame(file: _Open, number: int) -> np.ndarray:
    wanted = int(file.times[number])
    before = file.keys[file.keys <= wanted]
    key = int(before[-1]) if len(before) else int(file.times[0])
    # Going on is cheaper unless a key frame lies between here and there.
    behind = file.decoder is None or number < file.next or int(file.times[file.next]) < key
    if behind:
        file.container.seek(key, stream=file.stream, backward=True)
        file.decoder = file.container.decode(file.stream)
    for picture in file.decoder:
        if picture.pts is not None and picture.pts >= wanted:
            file.next = min(number + 1, len(file.times) - 1)
            if number + 1 == len(file.times):
                file.decoder = None
            return picture.to_ndarray(format="gray" if picture.format.name.startswith("gray") else "rgb24")
    file.decoder = None
    raise IndexError("it ends before")
