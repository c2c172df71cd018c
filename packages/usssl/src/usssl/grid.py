"""The runs of ``usssl sweep``: initial weights by mode, share of the labels and seed.

Imports nothing heavy at the top: the parent process of a sweep only hands out work and draws.
"""

from collections.abc import Sequence
from hashlib import file_digest
from importlib.metadata import version
from pathlib import Path
from shutil import rmtree

from shared.commands import config_chain, config_path, named_configs
from shared.errors import UsageError
from shared.sweep import Cell, fingerprint
from usssl import __version__

WORK = "usssl.grid:train"
CHECK = "usssl.grid:check"
MODES = ("full", "linear")
WORDS = ("random", "imagenet")


def named_inits(inits: Sequence[str]) -> dict[str, str]:
    """Name to initial weights, from ``NAME=FILE``, ``FILE``, or the words ``random`` and ``imagenet``.

    A file without a name is called as its run is where it lies in the folder of one, else as itself.

    Raises:
        UsageError: Another form, a name given twice, or a file that is not there.

    Example:
        >>> named_inits(["random", "imagenet"])
        {'random': 'random', 'imagenet': 'imagenet'}
    """
    found: dict[str, str] = {}
    for given in inits:
        name, equals, file = given.partition("=")
        if given in WORDS:
            path = None
        elif equals and Path(file).expanduser().is_file():
            path = Path(file).expanduser().resolve()
        elif Path(given).expanduser().is_file():
            path = Path(given).expanduser().resolve()
            name = path.parents[2].name if path.parent.name == "checkpoints" else path.stem
        else:
            raise UsageError(f"--inits must be NAME=FILE, FILE, random or imagenet, and files must exist, got {given}")
        if name in found:
            raise UsageError(f"--inits must have a name each, got {name} twice")
        found[name] = given if path is None else str(path)
    if not found:
        raise UsageError("--inits must hold at least one, got []")
    return found


def check_seeds(seeds: Sequence[int], option: str = "--seeds") -> None:
    """Refuse what is no seed.

    Raises:
        UsageError: One is outside 0 .. 2^32 - 1.
    """
    for seed in seeds:
        if not 0 <= seed < 2**32:
            raise UsageError(f"{option} must lie in 0 .. {2**32 - 1}, got {seed}")


def sha256(file: str) -> str:
    """Checksum of a file, so that new weights under an old name are another cell."""
    with Path(file).open("rb") as opened:
        return file_digest(opened, "sha256").hexdigest()


def features_folder(out: Path) -> Path:
    """Where the linear probes of a sweep keep their features."""
    return out / "cells" / "features"


def cell(
    name: str,
    init: str,
    mode: str,
    fraction: float,
    seed: int,
    config: str,
    out: Path,
    extra: Sequence[str],
    linear_epochs: int,
) -> Cell:
    """One run: a classifier from one start, in one mode, on one share of the labels drawn by one seed."""
    options = [
        *("--model.freeze", "true" if mode == "linear" else "false", "--data.fraction", f"{fraction:g}"),
        *("--seed_everything", str(seed), "--data.seed", str(seed), "--data.fraction_seed", str(seed)),
        *extra,
        # A linear probe on cached features: nothing may change the images, and an epoch costs next to nothing.
        *(("--data.augment", "null", "--trainer.max_epochs", str(linear_epochs)) if mode == "linear" else ()),
    ]
    given, _ = named_configs("usssl", extra)
    configs = [config_path("usssl", "finetune"), *config_chain("usssl", config), *given]
    weights = init if init in WORDS else sha256(init)
    where = ["--config", config, "--run.root", str(out / "cells"), "--run.name", f"{name}-{mode}-{fraction:g}-{seed}"]
    # The best epoch is kept until it is tested; nobody goes on from the last one.
    quiet = ["--trainer.enable_progress_bar", "false", "--checkpoint.save_top_k", "0"]
    # Of one start all linear probes share the features, whatever their labels and seed.
    kept = ["--features", str(features_folder(out))] if mode == "linear" else []
    return Cell(
        key={"init": name, "mode": mode, "fraction": f"{fraction:g}", "seed": str(seed)},
        words=("finetune", *where, "--model.init", init, *options, *quiet, *kept),
        fingerprint=fingerprint([weights, *options], configs, f"{__version__} {version('medley-shared')}"),
    )


def check(words: Sequence[str]) -> None:
    """Read the options of one run and run nothing.

    Raises:
        UsageError: One of them is wrong.
    """
    from usssl.training import build_classifier

    build_classifier(list(words), parse_only=True)


def train(words: Sequence[str]) -> dict[str, str]:
    """One run in a worker: the test scores of its best epoch, and what the data are. Its weights are not kept."""
    from usssl.training import build_classifier

    cli = build_classifier(list(words))
    model, data, scores = cli.model, cli.datamodule, cli.trainer.callback_metrics
    low, high = model.intervals["macro_f1"]
    # Weights and optimiser of hundreds of runs would fill a disk.
    if cli.folder is not None:
        rmtree(cli.folder / "checkpoints", ignore_errors=True)
    return {
        **{name: f"{float(scores[f'test/{name}']):.6f}" for name in ("macro_f1", "balanced_accuracy", "accuracy")},
        "macro_f1_low": f"{low:.6f}",
        "macro_f1_high": f"{high:.6f}",
        "images": str(len(data.selected)),
        "test_images": str(len(data.labels("test"))),
        "backbone": model.network.backbone.name,
        "pretrained": model.pretrained,
        "provenance": data.provenance,
        "data": data.data_name,
    }
