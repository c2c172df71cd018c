"""Random frames per second from HDF5, PNG folders, mp4 and DICOM, with the index of frames and without.

    python benchmarks/frame_reading.py [--quick] [--out benchmarks/results/frame_reading.json]

One clip of 240 grey frames of 256 x 256 pixels. With the index: a reader that opened the file before and knows where
its frames are. Without: what a loader does that keeps nothing: it opens the file for each frame, lists the folder,
decodes the video from its beginning, parses the DICOM header.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import h5py
import numpy as np
import pydicom
from PIL import Image
from scipy.ndimage import gaussian_filter

from paired import as_dict, compare, table, write
from usssl.phantom_files import write_dicom, write_mp4
from usssl.sources.clips import ArrayReader, Clip
from usssl.sources.dicom import decoded
from usssl.sources.folder import VideoFolder
from usssl.sources.frame_folders import frame_files

SIZE = 256
Read = Callable[[Path, int], np.ndarray]


def without_hdf5(root: Path, frame: int) -> np.ndarray:
    """Open, read, close."""
    with h5py.File(root / "train.h5") as file:
        return np.asarray(file["clip"][frame])


def without_frames(root: Path, frame: int) -> np.ndarray:
    """List and sort the folder, decode one picture."""
    return np.asarray(Image.open(frame_files(root / "train/clip")[frame]))


def without_video(root: Path, frame: int) -> np.ndarray:
    """Decode from the first frame on."""
    with av.open(str(root / "train/clip.mp4")) as container:
        for number, picture in enumerate(container.decode(video=0)):
            if number == frame:
                return np.asarray(picture.to_ndarray(format="rgb24"))
    raise IndexError(frame)


def without_dicom(root: Path, frame: int) -> np.ndarray:
    """Parse the file, decode one frame."""
    return decoded(pydicom.dcmread(root / "train/clip.dcm"), frame)


WITHOUT: dict[str, Read] = {
    "hdf5": without_hdf5,
    "frames": without_frames,
    "video": without_video,
    "dicom": without_dicom,
}


def written(layout: str, root: Path, frames: np.ndarray) -> None:
    """The clip in one layout."""
    (root / "train").mkdir(parents=True)
    if layout == "hdf5":
        with h5py.File(root / "train.h5", "w") as file:
            file.create_dataset("clip", data=frames, chunks=(1, *frames.shape[1:]), compression="lzf")
    elif layout == "frames":
        (root / "train/clip").mkdir()
        for number, frame in enumerate(frames):
            Image.fromarray(frame).save(root / f"train/clip/{number}.png")
    elif layout == "video":
        write_mp4(list(frames), root / "train/clip.mp4", 30)
    else:
        clip = Clip("clip", "", len(frames), ArrayReader(), fps=30.0, patient="P", machine="M")
        write_dicom(frames, root / "train/clip.dcm", clip)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="24 frames, three pairs: does it run?")
    parser.add_argument("--out", type=Path, help="where to write the JSON file")
    options = parser.parse_args()
    count = 24 if options.quick else 240
    rng = np.random.default_rng(0)
    noise = gaussian_filter(rng.standard_normal((count, SIZE, SIZE)), (1, 2, 2))
    frames = np.clip(128 + 60 * noise / noise.std(), 0, 255).astype(np.uint8)
    order = rng.integers(0, count, 8).tolist()
    results = []
    with TemporaryDirectory() as folder:
        for layout, read in WITHOUT.items():
            root = Path(folder) / layout
            written(layout, root, frames)
            (clip,) = VideoFolder(root, layout=layout, cache_dir=Path(folder) / "cache").load().train  # type: ignore[arg-type]
            timed = compare(
                lambda clip=clip: [clip.read(frame) for frame in order],  # type: ignore[misc]
                lambda read=read, root=root: [read(root, frame) for frame in order],  # type: ignore[misc]
                3 if options.quick else 21,
            )
            rates = {
                "frames_per_s": round(len(order) / timed.ours_wall_s, 1),
                "without_index": round(len(order) / timed.peer_wall_s, 1),
            }
            results.append({"layout": layout, "frames": count, "size": SIZE, **rates, **as_dict(timed)})
    header = ["layout", "frames/s", "without index", "speed-up", "95 %"]
    rows = [
        [
            str(row["layout"]),
            f"{row['frames_per_s']:.0f}",
            f"{row['without_index']:.0f}",
            f"{row['speedup']:.2f}",
            f"{row['low']:.2f}-{row['high']:.2f} ({row['pairs']})",
        ]
        for row in results
    ]
    print(table(header, rows))
    if options.out:
        write(options.out, "random frames per second of one clip, one thread", results)


if __name__ == "__main__":
    main()
