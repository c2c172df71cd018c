import pickle
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import av
import h5py
import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from shared.errors import UsageError
from usssl.echo_clip import COLUMNS, ROWS, EchoClip, echo_frames
from usssl.phantom_files import write_dicom, write_mp4
from usssl.sources.clips import ArrayReader, Clip, Joined
from usssl.sources.dicom import DicomReader, decoded
from usssl.sources.folder import VideoFolder
from usssl.sources.frame_folders import FrameFolderReader
from usssl.sources.video import VideoReader, time_stamps

FRAMES = np.random.default_rng(0).integers(0, 256, (7, 24, 32), dtype=np.uint8)
STEPS = np.stack([np.full((48, 64), 8 * n, np.uint8) for n in range(30)])  # frame n is grey level 8 n


def _clip(frames: np.ndarray) -> Clip:
    return Clip("clip", "", len(frames), ArrayReader({"": frames}), fps=25.0, patient="P1", machine="M")


def _hdf5(root: Path) -> None:
    for split in ("train", "valid"):
        with h5py.File(root / f"{split}-all-frames.hdf5", "w") as file:
            file[f"{split}_1"] = FRAMES
            file[f"{split}_2"] = np.repeat(FRAMES[:2, ..., None], 3, axis=3)


def _frames(root: Path) -> None:
    for split in ("train", "valid"):
        for n in range(7):
            folder = root / split / "nested" / f"{split}_1"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(FRAMES[n]).save(folder / f"f{n + 8}.png")  # f8, f9, f10: natural order matters


def _dicom(root: Path) -> None:
    for split in ("train", "valid"):
        (root / split).mkdir()
        write_dicom(FRAMES, root / split / f"{split}_1.dcm", replace(_clip(FRAMES), patient=split))


def _nifti(root: Path) -> None:
    for split in ("train", "valid"):
        (root / split).mkdir()
        nibabel.save(nibabel.Nifti1Image(FRAMES.transpose(2, 1, 0), np.eye(4)), root / split / f"{split}_1.nii.gz")


@pytest.mark.parametrize(
    ("write", "layout"), [(_hdf5, "hdf5"), (_frames, "frames"), (_dicom, "dicom"), (_nifti, "nifti")]
)
def test_a_layout_is_found_out_and_read(write: Callable[[Path], None], layout: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    write(root)
    for forced in ("auto", layout):
        sets = VideoFolder(root, layout=forced).load()  # type: ignore[arg-type]
        assert sets.train[0].frames == 7
        assert sets.validation[0].frames == 7
        for frame in (3, 0, 6):
            assert np.array_equal(sets.train[0].read(frame), FRAMES[frame])
        clip = pickle.loads(pickle.dumps(sets.train[0]))  # as a spawned worker receives it
        assert np.array_equal(clip.read(5), FRAMES[5])
    with pytest.raises(IndexError):
        sets.train[0].read(7)


def test_colour_in_hdf5_is_three_channels(tmp_path: Path) -> None:
    _hdf5(tmp_path)
    clip = VideoFolder(tmp_path).load().train[1]
    assert clip.read(1).shape == (24, 32, 3)
    assert clip.video_id == "train_2"


def test_frames_of_a_video_are_reached_in_any_order(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    write_mp4(list(STEPS), tmp_path / "train" / "a.mp4", 25)
    (clip,) = VideoFolder(tmp_path).load().train
    assert clip.frames == 30
    assert clip.fps == pytest.approx(25)
    for frame in [29, 0, 13, 14, 15, 3, 28, 29, *np.random.default_rng(0).integers(0, 30, 12).tolist()]:
        assert abs(clip.read(frame).mean() - 8 * frame) < 3, frame
    times, keys, _ = time_stamps(tmp_path / "train" / "a.mp4")
    assert len(times) == 30
    assert 2 <= len(keys) < 30


def test_the_index_opens_a_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _dicom(tmp_path)
    VideoFolder(tmp_path).load()
    monkeypatch.setattr(DicomReader, "probe", lambda self, path: pytest.fail(f"{path} was opened again"))
    assert VideoFolder(tmp_path).load().train[0].frames == 7
    monkeypatch.undo()
    write_dicom(
        FRAMES[:3], tmp_path / "train" / "train_1.dcm", _clip(FRAMES)
    )  # another size: the index is no longer true
    assert VideoFolder(tmp_path).load().train[0].frames == 3


# ------------------------------------------------------------------------------------------------ DICOM


def _test_file(name: str) -> Path:
    path = get_testdata_file(name, download=False)
    if not isinstance(path, str):
        pytest.skip(f"pydicom comes without {name}")
    return Path(path)


def test_ybr_becomes_rgb_and_the_embedded_clip_is_its_moving_part() -> None:
    path = _test_file("examples_ybr_color.dcm")
    (clip,) = DicomReader().probe(path)
    assert clip.frames == 30
    assert clip.fps == pytest.approx(30, abs=0.05)
    picture = clip.read(11)
    assert picture.shape == (240, 320, 3)
    expected = np.rint(picture[ROWS, COLUMNS].mean(axis=-1))
    assert np.abs(expected - echo_frames()[11]).max() <= 1
    assert EchoClip().load().train[0].read(11).shape == (186, 215)
    assert EchoClip().load().train[0].provenance == "real"


def test_palettes_become_colour() -> None:
    path = _test_file("examples_palette.dcm")
    picture = DicomReader().probe(path)[0].read(0)
    file = pydicom.dcmread(path)
    expected = pydicom.pixels.apply_color_lut(file.pixel_array, file) >> 8
    assert picture.shape == expected.shape
    assert np.array_equal(picture, expected)


def test_monochrome1_is_inverted_and_more_bits_are_scaled(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    write_dicom(FRAMES, path, _clip(FRAMES))
    file = pydicom.dcmread(path)
    file.PhotometricInterpretation = "MONOCHROME1"
    assert np.array_equal(decoded(file, 2), 255 - FRAMES[2])
    file.PhotometricInterpretation = "MONOCHROME2"
    file.BitsAllocated, file.BitsStored, file.HighBit = 16, 12, 11
    file.PixelData = (FRAMES.astype(np.uint16) * 16).tobytes()
    assert np.abs(decoded(file, 2).astype(int) - FRAMES[2]).max() <= 1


def test_the_tissue_region_is_cropped(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    write_dicom(FRAMES, path, _clip(FRAMES))
    file = pydicom.dcmread(path)
    regions = []
    for kind, box in ((1, (2, 3, 20, 12)), (3, (0, 0, 31, 23))):  # tissue, and a larger spectrum
        region = pydicom.Dataset()
        region.RegionDataType = kind
        region.RegionLocationMinX0, region.RegionLocationMinY0 = box[:2]
        region.RegionLocationMaxX1, region.RegionLocationMaxY1 = box[2:]
        regions.append(region)
    file.SequenceOfUltrasoundRegions = regions
    file.save_as(path)
    assert np.array_equal(DicomReader(region=True).probe(path)[0].read(4), FRAMES[4, 3:13, 2:21])
    assert np.array_equal(DicomReader().probe(path)[0].read(4), FRAMES[4])


# ------------------------------------------------------------------------------------------------ the manifest


def _manifest(root: Path, text: str) -> None:
    (root / "manifest.csv").write_text(text)


def test_a_manifest_says_what_belongs_where(tmp_path: Path) -> None:
    _frames(tmp_path)
    _manifest(
        tmp_path,
        "video_id,path,patient_id,split,machine,fps\n"
        "a,train/nested/train_1,P1,train,E8,40\nb,valid/nested/valid_1,P2,val,,\nc,valid/nested/valid_1,P3,test,,\n",
    )
    sets = VideoFolder(tmp_path).load()
    (clip,) = sets.train
    assert (clip.video_id, clip.patient, clip.machine, clip.fps, clip.frames) == ("a", "P1", "E8", 40, 7)
    assert [clip.patient for clip in sets.validation] == ["P2"]  # nobody pretrains on test videos


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video_id,file\na,b\n", r"must have the columns video_id and path, .* has video_id, file"),
        ("video_id,path,split\na,train/nested/train_1,left\n", r"split must be one of .* has 'left' in row 2"),
        ("video_id,path,fps\na,train/nested/train_1,fast\n", r"fps must be a positive number, .* has 'fast' in row 2"),
        ("video_id,path\na,nowhere\n", r"every video must exist, manifest.csv names .*nowhere"),
        ("video_id,path\na,train/nested/train_1\na,valid/nested/valid_1\n", "has a twice"),
        ("video_id,path,n_frames\na,train/nested/train_1,9\n", r"says 9 and .* has 7"),
        ("video_id,path,n_frames\na,train/nested/train_1,few\n", r"n_frames must be .*'few' in row 2"),
        ("video_id,path\n", "at least one video"),
        (
            "video_id,path,patient_id,split\na,train/nested/train_1,P1,train\nb,valid/nested/valid_1,P1,valid\n",
            "no patient may be in both train and validation, but these are: P1",
        ),
    ],
)
def test_a_wrong_manifest_is_told_in_one_sentence(text: str, message: str, tmp_path: Path) -> None:
    _frames(tmp_path)
    _manifest(tmp_path, text)
    with pytest.raises(UsageError, match=message):
        VideoFolder(tmp_path).load()


def test_patients_may_be_read_off_names(tmp_path: Path) -> None:
    _dicom(tmp_path)
    sets = VideoFolder(tmp_path, patient_from_name=True).load()
    assert [clip.patient for clip in (*sets.train, *sets.validation)] == ["train", "valid"]


# ------------------------------------------------------------------------------------------------ bad input


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"data.source.root must hold videos .* has none"):
        VideoFolder(tmp_path).load()
    with pytest.raises(UsageError, match=r"at least one video to train on, .* has none \(video\)"):
        VideoFolder(tmp_path, layout="video").load()
    with pytest.raises(UsageError, match="must be an existing folder"):
        VideoFolder(tmp_path / "nowhere").load()


def test_compressed_data_with_a_wrong_byte_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.repeat(FRAMES[:1], 9, axis=0).transpose(2, 1, 0), np.eye(4)), path)
    (clip,) = VideoFolder(tmp_path).load().train
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes(40) + whole[middle + 40 :])
    with pytest.raises(UsageError, match=r"every NIfTI file must be readable, .*a.nii.gz is not"):
        clip.read(3)


@pytest.mark.parametrize("name", ["a.mp4", "a.dcm", "a.nii.gz", "train.h5"])
def test_a_corrupt_file_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"no such thing" * 40)
    with pytest.raises(UsageError, match=f"must be readable, .*{name} is not") as caught:
        VideoFolder(tmp_path).load()
    assert "\n" not in str(caught.value)


def test_a_video_cut_off_is_named_when_it_is_read(tmp_path: Path) -> None:
    write_mp4(list(STEPS), tmp_path / "a.mp4", 25)
    (clip,) = VideoReader().probe(tmp_path / "a.mp4")
    damaged = replace(clip, frames=31)
    with pytest.raises(UsageError, match=r"frame 30 of .*a.mp4 is not"):
        damaged.read(30)


def test_pixels_cut_off_in_dicom_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    write_dicom(FRAMES, path, _clip(FRAMES))
    path.write_bytes(path.read_bytes()[:-2000])
    (clip,) = DicomReader().probe(path)
    with pytest.raises(UsageError, match=r"frame 6 of .*a.dcm is not"):
        clip.read(6)


def test_an_unreadable_picture_is_named(tmp_path: Path) -> None:
    _frames(tmp_path)
    (tmp_path / "train/nested/train_1/f9.png").write_bytes(b"no picture")
    (clip,) = FrameFolderReader().probe(tmp_path / "train/nested/train_1")
    with pytest.raises(UsageError, match=r"every image must be readable, but .*f9.png is not"):
        clip.read(1)


def test_other_types_in_hdf5_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "train.h5", "w") as file:
        file["a"] = FRAMES.astype(np.float32)
    with pytest.raises(UsageError, match=r"must be uint8 of shape .* a of .* is float32"):
        VideoFolder(tmp_path).load()


def test_a_manifest_names_videos_that_hdf5_holds(tmp_path: Path) -> None:
    _hdf5(tmp_path)
    _manifest(tmp_path, "video_id,path\ntrain_2,train-all-frames.hdf5\n")
    assert VideoFolder(tmp_path).load().train[0].frames == 2
    _manifest(tmp_path, "video_id,path\ntrain_3,train-all-frames.hdf5\n")
    with pytest.raises(UsageError, match=r"every video must exist, .*train-all-frames.hdf5 holds no train_3"):
        VideoFolder(tmp_path).load()


def test_files_that_changed_under_a_run_are_named(tmp_path: Path) -> None:
    _frames(tmp_path)
    (clip,) = FrameFolderReader().probe(tmp_path / "train/nested/train_1")
    (tmp_path / "train/nested/train_1/f14.png").unlink()
    with pytest.raises(UsageError, match=r"train_1 must hold 7 frames, it has 6"):
        clip.read(6)
    _hdf5(tmp_path)
    clip = next(clip for clip in VideoFolder(tmp_path, "hdf5").load().train if clip.key == "train_1")
    with h5py.File(tmp_path / "train-all-frames.hdf5", "w") as file:
        file["other"] = FRAMES
    with pytest.raises(UsageError, match=r"must be readable, frame 2 of train_1 in .*train-all-frames.hdf5 is not"):
        clip.read(2)
    np.save(tmp_path / "cache.npy", FRAMES)
    stored = Clip("c", str(tmp_path / "cache.npy"), 7, ArrayReader())
    assert np.array_equal(stored.read(6), FRAMES[6])
    (tmp_path / "cache.npy").write_bytes(b"no array")
    with pytest.raises(UsageError, match=r"the cache must hold readable files, .*cache.npy is damaged: delete it$"):
        Clip("c", str(tmp_path / "cache.npy"), 7, ArrayReader()).read(6)


def test_frames_that_are_no_grey_or_colour_bytes_are_refused() -> None:
    for frames, told in (
        (FRAMES.astype(np.float32), r"float32 of shape \(24, 32\)"),
        (np.repeat(FRAMES[..., None], 4, axis=3), r"uint8 of shape \(24, 32, 4\)"),
    ):
        with pytest.raises(
            UsageError, match=rf"frames must be uint8 of shape \(H, W\) or \(H, W, 3\), frame 2 of  is {told}"
        ):
            _clip(frames).read(2)


def test_nifti_that_is_no_sequence_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6, 7), np.uint8), np.eye(4)), path)
    with pytest.raises(UsageError, match=r"a NIfTI sequence must have shape \(H, W, T\), .*a.nii has \(4, 5, 6, 7\)"):
        VideoFolder(tmp_path).load()
    nibabel.save(nibabel.Nifti1Image(FRAMES.transpose(2, 1, 0), np.eye(4)), path)
    (clip,) = VideoFolder(tmp_path).load().train
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(UsageError, match=r"every NIfTI file must be readable, .*a.nii is not"):
        clip.read(3)


def test_videos_without_pictures_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        for packet in (*stream.encode(sound), *stream.encode(None)):
            container.mux(packet)
    with pytest.raises(UsageError, match=r"every video must be readable, .*sound.mp4 holds no picture stream"):
        time_stamps(tmp_path / "sound.mp4")
    write_mp4(list(STEPS[:3]), tmp_path / "a.mp4", 25)
    whole = (tmp_path / "a.mp4").read_bytes()
    assert b"avc1" in whole
    (tmp_path / "a.mp4").write_bytes(whole.replace(b"avc1", b"xyz1"))
    with pytest.raises(UsageError, match=r"every video must be readable, .*a.mp4 has no codec that FFmpeg knows"):
        time_stamps(tmp_path / "a.mp4")

    def opened(*packets: SimpleNamespace) -> None:
        """Files as encoders of old wrote them; today's give every packet a time stamp."""
        stream = SimpleNamespace(average_rate=25, codec_context=object())
        container = SimpleNamespace(streams=SimpleNamespace(video=[stream]), demux=lambda stream: packets)
        monkeypatch.setattr(av, "open", lambda path: nullcontext(container))

    opened()
    with pytest.raises(UsageError, match=r"every video must have a frame, old.avi has none"):
        time_stamps(Path("old.avi"))
    opened(SimpleNamespace(pts=None, is_keyframe=True, size=9))
    with pytest.raises(
        UsageError, match=r"every frame of a video must have a time stamp, old.avi leaves some out: convert"
    ):
        time_stamps(Path("old.avi"))


def test_dicom_without_pictures_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    write_dicom(FRAMES, path, _clip(FRAMES))
    file = pydicom.dcmread(path)
    region = pydicom.Dataset()
    region.RegionDataType = 1
    region.RegionLocationMinX0, region.RegionLocationMaxX1 = 9, 3
    region.RegionLocationMinY0, region.RegionLocationMaxY1 = 0, 9
    file.SequenceOfUltrasoundRegions = [region]
    file.save_as(path)
    (clip,) = DicomReader(region=True).probe(path)
    with pytest.raises(
        UsageError,
        match=r"data.source.region: a region must have an area, .*a.dcm marks rows 0 to 9 and columns 9 to 3",
    ):
        clip.read(0)
    del file.Rows
    file.save_as(path)
    with pytest.raises(UsageError, match=r"every DICOM file must hold pictures, .*a.dcm holds none"):
        DicomReader().probe(path)


def test_an_unknown_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"data.source.layout must be auto or one of .*, got 'avi'"):
        VideoFolder(tmp_path, layout="avi")  # type: ignore[arg-type]


def test_sources_are_joined_without_confusion() -> None:
    sets = Joined([EchoClip(), EchoClip()]).load()
    assert [clip.video_id for clip in sets.train] == ["0/echo-clip", "1/echo-clip"]
    assert len({clip.patient for clip in sets.train}) == 2
    with pytest.raises(UsageError, match="at least one source"):
        Joined([])
