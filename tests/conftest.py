"""What every test relies on: no network, no display, steady threads, and the real data packs where they exist."""

import csv
import ipaddress
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

# Set before any library is imported: most of them read these names once, at import.
os.environ.update(
    FLWR_TELEMETRY_ENABLED="0",
    HF_HUB_OFFLINE="1",
    MPLBACKEND="Agg",
    OMP_NUM_THREADS="1",  # models here are tiny, and two threads that share a busy core wait for each other
    RAY_USAGE_STATS_ENABLED="0",
    TRANSFORMERS_OFFLINE="1",
)

# The same examples in every run: a test must not pass or fail by chance. Deadlines would measure the machine.
settings.register_profile("medley", derandomize=True, deadline=None)
settings.load_profile("medley")

REPOSITORY = Path(__file__).parents[1]


class NetworkBlocked(RuntimeError):
    """Not an ``OSError``: a library that quietly copes with a missing network must not hide the attempt."""


def is_loopback(host: str | bytes | None) -> bool:
    """Whether ``host`` is this machine (``None`` stands for it in name look-ups)."""
    name = host.decode() if isinstance(host, bytes) else host
    if name in {None, "", "localhost"}:
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True)
def _ctrl_c() -> None:
    """Ctrl-C interrupts: a process in the background ignores it, and Lightning does once a training was interrupted."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    """Sockets reach this machine only, and no foreign name is looked up."""

    def guard_address(name: str) -> Callable[..., Any]:
        original = getattr(socket.socket, name)

        def guarded(self: socket.socket, *args: Any) -> Any:
            address = args[-1]  # sendto(data, [flags,] address)
            if self.family in {socket.AF_INET, socket.AF_INET6} and not is_loopback(address[0]):
                raise NetworkBlocked(f"a test tried to reach {address[0]}")
            return original(self, *args)

        return guarded

    look_up = socket.getaddrinfo

    def guarded_look_up(host: str | bytes | None, *args: Any, **kwargs: Any) -> Any:
        if not is_loopback(host):
            raise NetworkBlocked(f"a test tried to look up {host!r}")
        return look_up(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex", "sendto"):
            patch.setattr(socket.socket, name, guard_address(name))
        patch.setattr(socket, "getaddrinfo", guarded_look_up)
        yield


@pytest.fixture(scope="session")
def data_pack() -> Callable[[str], Path]:
    """``data_pack("cifar10")`` is the folder of a real data pack; the test is skipped where it is absent."""
    root = Path(os.environ.get("MEDLEY_DATA", REPOSITORY.parent / "shared/data"))

    def find(name: str) -> Path:
        folder = root / name
        if not folder.is_dir():
            pytest.skip(f"needs the data pack {name} in {root}; MEDLEY_DATA names another place")
        return folder

    return find


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., Any]:
    """Makes a Trainer for so many rounds; with ``folder`` it leaves a run there, with all its checkpoints."""
    from lightning.pytorch import Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint

    from shared.checkpoints import AtomicCheckpointIO
    from shared.runs import RunLogger

    def make(rounds: int, folder: str | None = None, **options: Any) -> Trainer:
        callbacks: list[Any] = []
        logger: Any = False
        if folder is not None:
            (tmp_path / folder).mkdir(exist_ok=True)
            logger = RunLogger(tmp_path / folder, "test", folder)
            callbacks.append(
                ModelCheckpoint(dirpath=tmp_path / folder / "checkpoints", filename="{epoch}", save_top_k=-1)
            )
        return Trainer(
            max_epochs=rounds,
            accelerator="cpu",
            logger=logger,
            callbacks=callbacks,
            enable_checkpointing=folder is not None,
            plugins=[AtomicCheckpointIO()],
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
            default_root_dir=tmp_path,
            **options,
        )

    return make


# ---------------------------------------------------------------------- public archives, small

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
EUROSAT_CLASSES = (
    *("AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial"),
    *("Pasture", "PermanentCrop", "Residential", "River", "SeaLake"),
)


def _pictures(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(count, height, width, 3), dtype=np.uint8)


def _write_table(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def _write_pictures(folder: Path, names: list[str], pictures: np.ndarray) -> None:
    for name, picture in zip(names, pictures, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / name)


@pytest.fixture
def cifar10_binary(tmp_path: Path) -> Path:
    """20 pictures as the authors' binary version has them: ten to train, in five files, and ten to test."""
    root = tmp_path / "cifar10"
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    planes = _pictures(20, 32, 32).transpose(0, 3, 1, 2).reshape(20, -1)
    rows = np.concatenate([(np.arange(20) % 10).astype(np.uint8)[:, None], planes], axis=1)
    for number in range(5):
        rows[2 * number : 2 * number + 2].tofile(folder / f"data_batch_{number + 1}.bin")
    rows[10:].tofile(folder / "test_batch.bin")
    (folder / "batches.meta.txt").write_text("\n".join(CIFAR10_CLASSES) + "\n\n")
    return root


@pytest.fixture
def cifar10_table(tmp_path: Path) -> Path:
    """20 pictures as the authors of FedSECA export them: 12 to train, two of them for validation, and eight to test."""
    root = tmp_path / "cifar10-table"
    pictures, header = _pictures(20, 32, 32), ["filename", "image_id", "label", "fold", "x_alpha_id", "y_alpha_id"]
    rows = [[f"{i}.png", i, i % 10, "valid" if i % 6 == 5 else "train", i % 100, (7 * i + 3) % 100] for i in range(20)]
    _write_pictures(root / "train_images", [row[0] for row in rows[:12]], pictures[:12])
    _write_pictures(root / "test_images", [row[0] for row in rows[12:]], pictures[12:])
    _write_table(root / "cifar10_train_data.csv", header, rows[:12])
    _write_table(root / "cifar10_test_data.csv", header[:3], [row[:3] for row in rows[12:]])
    return root


@pytest.fixture
def isic2019(tmp_path: Path) -> Path:
    """20 pictures of six centres in FLamby's layout, and the two tables of the authors of FedSECA beside it."""
    root = tmp_path / "isic2019"
    classes = ["MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK"]
    rows: list[list[Any]] = []
    for i in range(20):
        target, center, fold = i % 8, i % 6, "train" if i < 13 else "test"
        onehot = [float(target == c) for c in range(9)]
        rows.append([f"ISIC_{i:07d}", *onehot, target, center, fold, f"{fold}_{center}"])
    names = [f"{row[0]}.jpg" for row in rows]
    folder = root / "ISIC_2019_Training_Input_preprocessed"
    _write_pictures(folder, names[:10], _pictures(10, 224, 300))
    _write_pictures(folder, names[10:], _pictures(10, 298, 224, seed=1))
    _write_table(root / "train_test_split", ["image", *classes, "target", "center", "fold", "fold2"], rows)
    return root


@pytest.fixture
def eurosat(tmp_path: Path) -> Path:
    """20 pictures, two of each class."""
    root = tmp_path / "eurosat"
    names = [f"{name}/{name}_{n}.jpg" for name in EUROSAT_CLASSES for n in (1, 2)]
    _write_pictures(root / "EuroSAT_RGB", names, _pictures(20, 64, 64))
    return root


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], dict[str, Any]]:
    """Run the loading code of a model card where the card says to, and return the names that it made."""

    def run(card: Path) -> dict[str, Any]:
        title, *_ = text = card.read_text(encoding="utf-8").splitlines()
        name = title.removeprefix("# ")
        code = "\n".join(text[text.index("```python") + 1 : text.index("```", text.index("```python"))])
        names: dict[str, Any] = {}
        with monkeypatch.context() as patch:
            patch.chdir(card.parent.parent if card.parent.name == name else card.parent)
            exec(compile(code, str(card), "exec"), names)
        return names

    return run
