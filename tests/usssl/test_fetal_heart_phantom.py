from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shared.errors import UsageError
from usssl.fetal_heart_phantom.anatomy import CLASSES, draw_body, echogenicity
from usssl.fetal_heart_phantom.clip import draw_subject, plane_picture, video
from usssl.fetal_heart_phantom.image_formation import PolarGrid, complex_normal
from usssl.fetal_heart_phantom.machines import MACHINES, draw_settings
from usssl.fetal_heart_phantom.source import PhantomPlanes, PhantomVideos, draw_planes


def _grid(size: int = 64, seed: int = 0) -> PolarGrid:
    return PolarGrid(draw_settings(MACHINES[1], np.random.default_rng(seed)), size)


def test_classes_are_sorted_names() -> None:
    assert CLASSES == ("3VV", "4CH", "LVOT", "NON-heart", "RVOT") == tuple(sorted(CLASSES))


def test_mean_power_of_the_echoes_is_the_echogenicity() -> None:
    grid, rng = _grid(), np.random.default_rng(0)
    power = np.full(grid.x.shape, 0.35, np.float32)
    seen = np.mean([np.abs(grid.echoes(power, complex_normal(rng, *grid.x.shape))) ** 2 for _ in range(20)])
    assert seen == pytest.approx(0.35, rel=0.03)


def test_speckle_is_rayleigh() -> None:
    grid, rng = _grid(), np.random.default_rng(1)
    field = [
        np.abs(grid.echoes(np.ones(grid.x.shape, np.float32), complex_normal(rng, *grid.x.shape))) for _ in range(30)
    ]
    envelope = np.stack(field)[:, 10:-10, 5:-5]
    assert envelope.mean() / envelope.std() == pytest.approx(1.913, rel=0.02)  # sqrt(pi / (4 - pi))


def test_bone_leaves_a_fifth_of_the_intensity_behind_it() -> None:
    grid = _grid()
    bone = np.zeros(grid.x.shape, np.float32)
    bone[30:36, 20] = 1
    passed = grid.transmission(bone)
    assert passed[:30, 20].min() == 1
    assert passed[60:, 20] == pytest.approx(0.2, abs=0.02)
    assert passed[:, 21].min() == 1


def test_scan_conversion_keeps_a_ring_a_ring() -> None:
    grid = _grid(128)
    level = np.full(grid.x.shape, -100, np.float32)
    middle = len(grid.r) // 2
    level[middle - 1 : middle + 2] = 0
    picture = grid.picture(level, grid.settings.dynamic_range)
    rows, columns = np.nonzero(picture > 100)
    s = grid.settings
    side = 128 * grid.mm_per_pixel
    top = (s.radius * np.cos(s.half_angle) + s.radius + s.depth - side) / 2
    x, z = (columns + 0.5) * grid.mm_per_pixel - side / 2, (rows + 0.5) * grid.mm_per_pixel + top
    assert np.abs(np.hypot(x, z) - grid.r[middle]).max() < 2.5 * grid.mm_per_pixel
    assert len(rows) > 100
    assert (picture[~grid.sector] == 0).all()


def test_a_window_shows_its_part_of_the_sector_at_its_scale() -> None:
    settings = draw_settings(MACHINES[1], np.random.default_rng(0))
    middle = settings.radius + settings.depth / 2
    grid = PolarGrid(settings, 96, (6.0, middle, 48.0))
    assert grid.mm_per_pixel == 0.5
    assert grid.sector.all()
    assert settings.radius < grid.r[0] < middle - 24
    assert middle + 24 < grid.r[-1] < settings.radius + settings.depth
    level = np.zeros(grid.x.shape, np.float32)
    row, column = len(grid.r) // 3, len(grid.angles) // 4
    level[row, column] = 1e3
    brightest = np.argwhere(grid.picture(level, 0.0) > 0).mean(0)
    where = (grid.z[row, column] - middle + 24, grid.x[row, column] - 6 + 24)
    assert brightest == pytest.approx([mm / 0.5 - 0.5 for mm in where], abs=1)


def test_gain_sets_the_mean_grey_value() -> None:
    grid, rng = _grid(128, seed=4), np.random.default_rng(2)
    for scale in (0.05, 1.0):
        level = grid.decibels(
            grid.echoes(np.full(grid.x.shape, scale, np.float32), complex_normal(rng, *grid.x.shape)),
            complex_normal(rng, *grid.x.shape),
        )
        picture = grid.picture(level, grid.gain(level))
        assert picture[grid.sector].mean() / 255 == pytest.approx(grid.settings.brightness, abs=0.03)


def test_four_chambers_are_four_dark_rooms_and_walls_lie_between() -> None:
    body = draw_body(np.random.default_rng(0), 25.0)
    cx, cy = body.crux()
    u = body.unit
    c, s = np.cos(body.axis), np.sin(body.axis)

    def at(*points: tuple[float, float]) -> np.ndarray:
        """Heart's frame to the body's: w to the left ventricle, v to the apex."""
        w, v = np.array(points).T * u
        x, y = cx + c * w + s * v, cy + s * w - c * v
        values, _ = echogenicity(
            "4CH", body, x.astype(np.float32), y.astype(np.float32), np.zeros(len(w), np.float32), 1.0
        )
        return values

    rooms, walls = at((3.2, 4), (-3.2, 3.0), (3.1, -3.4), (-3.1, -3.3)), at((0, 4), (6.6, 2), (0, 8.2))
    assert rooms.max() < 0.05
    assert walls.min() > 0.2


@pytest.mark.parametrize("plane", CLASSES)
def test_every_plane_is_drawn_within_its_sector(plane: str) -> None:
    for seed in range(4):
        rng = np.random.default_rng(seed)
        picture = plane_picture(draw_subject(rng), plane, 64, rng)
        assert picture.shape == (64, 64)
        assert picture.dtype == np.uint8
        assert 10 < picture.mean() < 90
        assert picture.std() > 10


def test_a_video_moves_smoothly() -> None:
    rng = np.random.default_rng(3)
    clip = video(draw_subject(rng), 16, 64, rng)
    frames = clip.frames.astype(float)
    assert frames.shape == (16, 64, 64)
    assert 30 <= clip.fps <= 60
    neighbours = np.abs(np.diff(frames, axis=0)).mean()
    strangers = np.abs(frames[0] - np.random.default_rng(0).permutation(frames[0].ravel()).reshape(64, 64)).mean()
    assert 0 < neighbours < 0.4 * strangers


def test_pictures_depend_on_patient_and_place_alone() -> None:
    few, many = draw_planes("train", 12, 5, 64, 73), draw_planes("train", 20, 5, 64, 73)
    assert np.array_equal(few[0], many[0][:12])
    assert not np.array_equal(few[0], draw_planes("train", 12, 5, 64, 74)[0])


def test_sets_are_balanced_and_patients_in_one_set_only(
    small_planes: PhantomPlanes, small_videos: PhantomVideos
) -> None:
    planes, clips = small_planes.load(), small_videos.load()
    assert planes.validation is not None
    assert planes.test is not None
    assert planes.train.class_counts().tolist() == [12] * 5
    assert planes.test.class_counts().tolist() == [8] * 5
    sets = [set(part.columns["patient_id"]) for part in (planes.train, planes.validation, planes.test)]
    sets += [{clip.patient for clip in part} for part in (clips.train, clips.validation)]
    assert sum(map(len, sets)) == len(set().union(*sets))
    assert len(clips.train) == 6
    assert len(sets[3]) == 4
    assert set(planes.train.columns["machine_type"]) <= {machine.name for machine in MACHINES}
    assert {clip.provenance for clip in clips.train} == {"synthetic"} == {planes.train.provenance}


def test_what_was_drawn_is_read_back(small_videos: PhantomVideos, small_planes: PhantomPlanes) -> None:
    first, again = small_videos.load().train[2], small_videos.load().train[2]
    assert np.array_equal(first.read(5), again.read(5))
    assert np.array_equal(small_planes.load().train[7][0][..., 0], draw_planes("train", 8, 5, 64, 73)[0][7])


def test_a_cache_that_is_damaged_or_cannot_be_written_is_named(tmp_path: Path) -> None:
    def planes(folder: Path) -> PhantomPlanes:
        return PhantomPlanes(train=5, validation=5, test=5, size=64, cache_dir=folder)

    planes(tmp_path / "cache").load()
    for file in (tmp_path / "cache").rglob("*.npz"):
        file.write_bytes(b"no archive")
    with pytest.raises(UsageError, match=r"the cache must hold readable files, .*npz is damaged: delete it$"):
        planes(tmp_path / "cache").load()
    (tmp_path / "file").touch()
    with pytest.raises(
        UsageError, match=r"the cache must be a folder with room to write, got .*file.* \(.*\); XDG_CACHE"
    ):
        planes(tmp_path / "file").load()


@pytest.mark.parametrize(
    ("options", "option"), [({"size": 8}, "size"), ({"seed": -1}, "seed"), ({"frames": (5, 4)}, "frames")]
)
def test_numbers_out_of_range_are_refused(options: dict[str, int], option: str) -> None:
    with pytest.raises(UsageError, match=f"data.source.{option} must"):
        PhantomVideos(**options)  # type: ignore[arg-type]


def _linear_accuracy(train: int, test: int, size: int) -> float:
    from sklearn.linear_model import LogisticRegression

    def small(part: str, count: int) -> tuple[np.ndarray, np.ndarray]:
        pictures, labels, _, _ = draw_planes(part, count, 5, size, 73)
        thumbnails = [np.asarray(Image.fromarray(p).resize((32, 32), Image.Resampling.BOX)) for p in pictures]
        return np.stack(thumbnails).reshape(count, -1) / 255, labels

    model = LogisticRegression(max_iter=100, C=0.1).fit(*small("train", train))
    return float(model.score(*small("test", test)))


def test_a_linear_model_of_pixels_finds_little() -> None:
    assert _linear_accuracy(200, 100, 64) < 0.6


@pytest.mark.slow
def test_a_linear_model_of_pixels_stays_below_the_floor() -> None:
    assert _linear_accuracy(1000, 400, 128) < 0.6
