import json
import os
import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import torch
from torch import Tensor

from fedsam.array_cache import ArrayCache, user_cache_folder
from fedsam.ct_kidney_phantom import CtKidneyPhantom
from fedsam.data import VolumeDataModule
from fedsam.mini_ixi import MiniIxi
from fedsam.prepare import PRESETS, write_decathlon
from fedsam.readers.decathlon import Decathlon
from fedsam.readers.own_scans import SiteTable
from fedsam.reference_tree import ReferenceTree, read_pickled_array
from fedsam.volumes import Case
from fedsam.windows import anti_transpose, min_max, resize_images, resize_labels, window_slices
from shared.errors import UsageError

WritePair = Callable[..., tuple[Path, Path]]


@pytest.fixture
def table(tmp_path: Path, write_pair: WritePair) -> Path:
    """Two sites: x with two training cases, y with one; each one more to test."""
    rows = ["site,image,label,split"]
    for seed, (site, split) in enumerate(
        [("x", "train"), ("x", "train"), ("y", "train"), ("x", "test"), ("y", "test")]
    ):
        shape = (12, 10, 7) if seed % 2 else (14, 9, 8)
        write_pair(tmp_path / f"i{seed}.nii.gz", tmp_path / f"l{seed}.nii.gz", shape, seed)
        rows.append(f"{site},i{seed}.nii.gz,l{seed}.nii.gz,{split}")
    path = tmp_path / "table.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def module(table: Path, **options: object) -> VolumeDataModule:
    settings: dict[str, object] = {"image_size": 16, "batch_size": 4} | options
    data = VolumeDataModule(SiteTable(table, {"organ": 1}), **settings)  # type: ignore[arg-type]
    data.setup()
    return data


class Jitter:
    """Adds noise that the generator alone decides."""

    def __init__(self, batched: bool) -> None:
        self.batched = batched
        self.seen: list[tuple[int, ...]] = []

    def __call__(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        self.seen.append(tuple(images.shape))
        return images + torch.rand(images.shape, generator=generator), labels


def batches(data: VolumeDataModule, client: int = 0, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    return list(data.client_loader(client, torch.Generator().manual_seed(seed)))


def test_windows_by_hand(table: Path) -> None:
    data = module(table)
    dataset, case = data.train_dataset(0), data.cases("train", 0)[1]
    volume = case.read()
    assert volume.label is not None
    assert len(dataset) == 8 + 7
    for z in (0, 3, 6):
        image, label, _ = dataset[8 + z]
        rows = window_slices(z, 7)
        expected = resize_images(torch.from_numpy(min_max(volume.image[rows])), 16)
        torch.testing.assert_close(image, expected)
        assert torch.equal(label, resize_labels(torch.from_numpy(volume.label[rows]), 16))
    turned, mirrored, _ = module(table, anti_transposed=True).train_dataset(0)[8]
    rows = window_slices(0, 7)
    torch.testing.assert_close(
        turned, resize_images(torch.from_numpy(anti_transpose(min_max(volume.image[rows])).copy()), 16)
    )
    assert torch.equal(mirrored, resize_labels(torch.from_numpy(anti_transpose(volume.label[rows]).copy()), 16))


def test_sites_are_clients(table: Path) -> None:
    data = module(table, stride=5)
    assert (data.sites, data.client_ids, data.class_names, data.num_classes) == (
        ("x", "y"),
        [0, 1],
        ("background", "organ"),
        1,
    )
    images, labels = batches(data)[0]
    assert images.shape == labels.shape == (4, 5, 16, 16)
    assert (images.dtype, labels.dtype) == (torch.float32, torch.uint8)
    assert [len(data.train_dataset(k)) for k in (0, 1, None)] == [4, 2, 6]
    told = json.loads(json.dumps(data.describe()))
    assert told["clients"]["0"]["site"] == "x"
    assert told["clients"]["0"]["slices"] == 15
    assert told["clients"]["1"]["windows"] == 2
    assert told["volumes"] == {"train": 3, "validation": 0, "test": 2}
    assert told["clients"]["1"]["voxels"]["organ"] == 5 * 4 * 6
    assert (data.val_is_test, told["validated_on"], data.provenance) == (True, "test", "real")
    volumes = list(data.val_dataloader())
    assert [(v.site, v.image.shape) for v in volumes] == [("x", (7, 12, 10)), ("y", (8, 14, 9))]
    assert volumes[0].image.dtype == np.float32
    assert volumes[0].image.flags.writeable
    alone = module(table, sites=["y"])
    assert (alone.sites, len(alone.train_dataset()), len(list(alone.test_dataloader()))) == (("y",), 8, 1)
    with pytest.raises(UsageError, match=r"client ids lie in 0..1 \(the sites of data.source\), got 2"):
        data.cases("train", 2)


@pytest.mark.parametrize("batched", [False, True])
def test_order_and_augmentation_follow_from_the_generator_alone(table: Path, batched: bool) -> None:
    jitter = Jitter(batched)
    data, workers = module(table, augment=jitter), module(table, augment=Jitter(batched), num_workers=2)
    state = torch.get_rng_state()
    first, second = batches(data), batches(workers)
    for (a, b), (c, d) in zip(first, second, strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)
    assert torch.equal(torch.get_rng_state(), state)
    assert jitter.seen[0] == ((4, 5, 16, 16) if batched else jitter.seen[0])
    assert len(jitter.seen[0]) == (4 if batched else 3)
    assert batched or {shape[1:] for shape in jitter.seen} == {(14, 9), (12, 10)}  # before resizing
    assert not torch.equal(first[0][0], batches(data, seed=1)[0][0])


def test_pooled_order_follows_from_seed_and_epoch(table: Path) -> None:
    def epoch(data: VolumeDataModule, number: int) -> Tensor:
        loader = data.train_dataloader()
        loader.sampler.set_epoch(number)  # type: ignore[attr-defined]
        return torch.cat([images for images, _ in loader])

    data = module(table)
    assert torch.equal(epoch(data, 1), epoch(module(table), 1))
    assert not torch.equal(epoch(data, 0), epoch(data, 1))
    assert torch.equal(epoch(data, 0).sum(0).sort().values, epoch(data, 0).sum(0).sort().values)
    assert len(epoch(data, 0)) == len(data.train_dataset())
    sampler = data.train_dataloader().sampler
    every = {draw.item for draw in sampler}
    assert every == set(range(23))


def test_validation_holds_out_whole_cases_of_each_site(tmp_path: Path) -> None:
    data = VolumeDataModule(CtKidneyPhantom(scale=0.2, slices=5, size=32), 32, validation=0.3, in_memory=True)
    train, held = data.cases("train"), data.cases("validation")
    assert not data.val_is_test
    assert {c.site for c in held} == set(data.sites)
    assert not {(c.site, c.case) for c in train} & {(c.site, c.case) for c in held}
    assert len(train) + len(held) == len(CtKidneyPhantom(scale=0.2).load().train)
    assert data.published_weights == pytest.approx([0.03, 0.18, 0.15, 0.10, 0.05, 0.49])
    data._loaded.cases["test"] = []
    with pytest.raises(UsageError, match=r"data.source must hold test cases to test on, .* has none"):
        data.test_dataloader()
    again = VolumeDataModule(CtKidneyPhantom(scale=0.2, slices=5, size=32), 32, validation=0.3, in_memory=True)
    assert again.cases("validation") == held
    with pytest.raises(UsageError, match=r"data.validation must be 0 where the source has validation cases, got 0.5"):
        VolumeDataModule(MiniIxi(), validation=0.5).cases("train")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"image_size": 40}, r"data.image_size must be a multiple of 16, got 40"),
        ({"stride": 0}, r"data.stride must be at least 1, got 0"),
        ({"validation": 1.0}, r"data.validation must lie in \[0, 1\), got 1.0"),
        ({"interpolation": "cubic"}, r"data.interpolation must be spline or linear, got 'cubic'"),
        ({"sites": ["x", "x"]}, r"data.sites must name each site once, got \['x', 'x'\]"),
        ({"sites": ["z"]}, r"data.sites must name sites with training cases, got 'z' of x, y"),
        ({"cache_dtype": "int8"}, r"data.cache_dtype must be float32 or float16, got 'int8'"),
    ],
)
def test_bad_options(table: Path, options: dict[str, object], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        module(table, **options)


def test_data_that_cannot_be_scored_are_refused(tmp_path: Path, write_pair: WritePair) -> None:
    write_pair(tmp_path / "i.nii.gz", tmp_path / "l.nii.gz")
    table = tmp_path / "table.csv"
    table.write_text("site,image,label,split\nx,i.nii.gz,l.nii.gz,train\n")
    with pytest.raises(
        UsageError, match=r"data.validation must be above 0 .* neither validation nor test cases, got 0"
    ):
        module(table)
    with pytest.raises(
        UsageError, match=r"data.validation must be 0 where a site has one training patient, got 0.5 and x"
    ):
        module(table, validation=0.5)


# ---------------------------------------------------------------------- the cache


def test_the_cache_maps_files_and_knows_when_they_changed(table: Path, tmp_path: Path, write_pair: WritePair) -> None:
    folder = tmp_path / "cache"
    case = module(table).cases("train")[0]
    cache, expected = ArrayCache(folder), case.read()
    volume = cache.volume(case)
    assert isinstance(volume.image, np.memmap)
    np.testing.assert_array_equal(volume.image, expected.image)
    np.testing.assert_array_equal(volume.label, expected.label)
    np.testing.assert_allclose(volume.affine, expected.affine)
    assert sorted(p.name.split(".", 1)[1] for p in folder.iterdir()) == ["image.npy", "json", "label.npy"]
    stamp = next(folder.glob("*.image.npy")).stat().st_mtime_ns
    assert ArrayCache(folder).facts(case)["shape"] == [8, 14, 9]
    assert next(folder.glob("*.image.npy")).stat().st_mtime_ns == stamp
    assert len(pickle.dumps(cache)) < 5000  # no arrays go to workers
    half = ArrayCache(folder, "float16").volume(case)
    assert half.image.dtype == np.float16
    np.testing.assert_allclose(half.image, expected.image, atol=1e-3)
    write_pair(table.parent / "i0.nii.gz", table.parent / "l0.nii.gz", (14, 9, 9), 99)
    assert ArrayCache(folder).facts(case)["shape"] == [9, 14, 9]
    next(folder.glob(f"{cache.key(case)}.image.npy")).unlink()  # an incomplete entry is made anew
    assert ArrayCache(folder).volume(case).depth == 9


def test_several_may_make_the_same_entry_at_once(table: Path, tmp_path: Path) -> None:
    case, barrier = module(table).cases("train")[0], Barrier(4)

    def read(_: int) -> float:
        cache = ArrayCache(tmp_path / "cache")
        barrier.wait()
        return float(cache.volume(case).image.sum())

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(read, range(4)))) == 1
    assert not list((tmp_path / "cache").glob("*.tmp"))


def test_memory_instead_of_files(table: Path, tmp_path: Path) -> None:
    data = module(table, in_memory=True)
    assert not (tmp_path / "xdg").exists()
    on_disk = module(table)
    assert user_cache_folder() == tmp_path / "xdg/fedsam/volumes"
    assert len(list(user_cache_folder().glob("*.json"))) == 5
    assert torch.equal(batches(data)[0][0], batches(on_disk)[0][0])


@pytest.mark.parametrize("part", ["image.npy", "json"])
def test_a_damaged_entry_is_named(table: Path, tmp_path: Path, part: str) -> None:
    folder = tmp_path / "cache"
    case = module(table).cases("train")[0]
    ArrayCache(folder).volume(case)
    (entry,) = folder.glob(f"*.{part}")
    entry.write_bytes(b"{")
    with pytest.raises(UsageError, match=rf"data.cache_dir must hold readable files, {entry} is damaged: delete it$"):
        ArrayCache(folder).volume(case)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written(table: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(UsageError, match=r"data.cache_dir must be a folder with room to write, got .*locked"):
        module(table, cache_dir=tmp_path / "locked/x")


def test_a_cache_folder_that_is_a_file(table: Path) -> None:
    with pytest.raises(UsageError, match=r"data.cache_dir must be a folder with room to write, got .*table.csv"):
        module(table, cache_dir=table)


# ---------------------------------------------------------------------- prepare


def test_prepared_files_are_the_cases(tmp_path: Path) -> None:
    source = CtKidneyPhantom(scale=0.01, slices=5, size=32)
    root = write_decathlon(source.load(), tmp_path / "out")
    sets = Decathlon(root, root / "sites.csv", percentiles=(0, 100)).load()
    assert (sets.name, sets.class_names, sets.train[0].provenance) == (
        "ct-kidney-phantom",
        ("background", "kidney", "tumour"),
        "synthetic",
    )
    assert (len(sets.train), len(sets.test)) == (12, 6)
    written, drawn = sets.train[0].read(), source.load().train[0].read()
    assert written.affine is not None
    np.testing.assert_array_equal(written.label, np.asarray(drawn.label))  # slices, rows and columns in their order
    np.testing.assert_allclose(written.affine, np.asarray(drawn.affine), atol=1e-4)
    stamps = {p: p.stat().st_mtime_ns for p in root.glob("*/*")}
    write_decathlon(source.load(), root)
    assert {p: p.stat().st_mtime_ns for p in root.glob("*/*")} == stamps
    with pytest.raises(UsageError, match=r"prepare --out must be empty or hold the same data set, .* is of another"):
        write_decathlon(MiniIxi().load(), root)
    with pytest.raises(UsageError, match=r"--out must be a new or empty folder, got .*out"):
        PRESETS["mini-ixi"](str(root))


def test_a_case_without_a_mask_cannot_be_prepared(
    make_volumes: Callable[..., VolumeDataModule], blank: Callable[..., Case], tmp_path: Path
) -> None:
    sets = make_volumes((1,), [blank("a", label=False)]).source.load()
    with pytest.raises(UsageError, match=r"prepare: every case must have a mask, blank of a has none"):
        write_decathlon(sets, tmp_path / "out")


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_the_references_tree_is_converted(tmp_path: Path, protocol: int) -> None:
    rng = np.random.default_rng(0)
    volume, labels = rng.random((6, 9, 7)), rng.integers(0, 3, (6, 9, 7)).astype(float)
    for split in ("training", "test"):
        rows = ["image_pth,mask_pth"]
        for z in range(6):
            stacks = [anti_transpose(a[window_slices(z, 6)]).transpose(1, 2, 0) for a in (volume, labels)]
            names = [f"{split}0/{kind}s/2D{kind}_{z:04d}.pkl" for kind in ("image", "mask")]
            for name, stack in zip(names, stacks, strict=True):
                path = tmp_path / "2D_all_5slice_siteA" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(pickle.dumps(stack, protocol=protocol))
            rows.append(",".join(names))
        (tmp_path / f"2D_all_5slice_siteA/{split}.csv").write_text("\n".join([rows[0], *rows[:0:-1]]) + "\n")
    sets = ReferenceTree(tmp_path).load()
    assert sets.class_names == ("background", "class 1", "class 2")
    read = sets.train[0].read()
    np.testing.assert_array_equal(read.image, volume.astype(np.float32))
    np.testing.assert_array_equal(read.label, labels)
    PRESETS["reference-tree"](str(tmp_path), str(tmp_path / "out"))
    written = Decathlon(tmp_path / "out", tmp_path / "out/sites.csv", percentiles=(0, 100)).load()
    assert [c.case for c in written.test] == ["site-A_test0"]
    assert written.class_names == ("background", "class 1", "class 2")
    again = written.train[0].read()
    np.testing.assert_array_equal(again.label, labels)
    np.testing.assert_allclose(again.image, (volume - volume.min()) / np.ptp(volume), atol=1e-6)


def test_windows_that_make_no_volume_are_refused(tmp_path: Path) -> None:
    site = tmp_path / "2D_all_5slice_siteA"

    def told(shapes: Sequence[tuple[tuple[int, ...], tuple[int, ...]]], sentence: str) -> None:
        rows = ["image_pth,mask_pth"]
        for z, pair in enumerate(shapes):
            names = [f"case0/{kind}s/{z}.pkl" for kind in ("image", "mask")]
            for name, shape in zip(names, pair, strict=True):
                (site / name).parent.mkdir(parents=True, exist_ok=True)
                (site / name).write_bytes(pickle.dumps(np.zeros(shape)))
            rows.append(",".join(names))
        (site / "training.csv").write_text("\n".join(rows) + "\n")
        (site / "test.csv").write_text(rows[0] + "\n")
        with pytest.raises(UsageError, match=sentence):
            ReferenceTree(tmp_path).load().train[0].read()

    with pytest.raises(UsageError, match=r"prepare --root must hold folders called 2D_all_5slice_site…, .* has none"):
        ReferenceTree(tmp_path).load()
    told([((9, 7, 5), (9, 7, 5))] * 4, r"prepare --root: a case must have at least 5 slices, case0 has 4")
    window = r"prepare --root: windows must be arrays \(H, W, 5\), the same for image and mask, .*0.pkl has"
    told([((9, 7, 3), (9, 7, 3))] * 5, rf"{window} \(9, 7, 3\)")
    told([((9, 7, 5), (7, 9, 5))] * 5, rf"{window} \(7, 9, 5\)")
    several = [((9, 7 + z, 5), (9, 7 + z, 5)) for z in range(5)]
    told(several, r"prepare --root: the slices of a case must have one size, case0 has several")
    (site / "training.csv").write_text("image_pth,mask\ncase0/images/0.pkl,case0/masks/0.pkl\n")
    with pytest.raises(UsageError, match=r"must have the columns image_pth and mask_pth, .*training.csv lacks one"):
        ReferenceTree(tmp_path).load()


def test_pickles_that_hold_more_than_numbers_are_refused(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (os.mkdir, (str(tmp_path / "ran"),))

    path = tmp_path / "a.pkl"
    for content, reason in (
        (Trap(), r"is refused \(it asks for posix.mkdir\)"),
        (np.array([Trap()], dtype=object), r"is refused \(it asks for posix.mkdir\)"),
        (np.array([None, 1], dtype=object), "holds an array of object"),
        ({"a": 1}, "holds a dict"),
        (np.array(["x"]), "holds an array of <U1"),
    ):
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(UsageError, match=rf"pickles must hold a plain array of numbers, .*a.pkl {reason}"):
            read_pickled_array(path)
    path.write_bytes(b"\x80\x04.")
    with pytest.raises(UsageError, match=r"a.pkl is refused"):
        read_pickled_array(path)
    assert not (tmp_path / "ran").exists()
