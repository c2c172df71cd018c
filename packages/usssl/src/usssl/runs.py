"""Which run a command means: its folder, its checkpoint, what kind of training it was."""

from pathlib import Path
from typing import Any, Literal

from shared.checkpoints import load_content, newest_whole_checkpoint
from shared.errors import UsageError
from usssl.best_checkpoint import best_of
from usssl.initialise import RECORD

Kind = Literal["pretrain", "finetune"]


def record_of(checkpoint: Path, option: str) -> dict[str, Any]:
    """What a checkpoint of this package says about itself; empty for other files.

    Raises:
        UsageError: It cannot be read.
    """
    content = load_content(checkpoint, option)
    record = content.get(RECORD) if isinstance(content, dict) else None
    return dict(record) if isinstance(record, dict) else {}


def kind_of(checkpoint: Path, option: str) -> Kind | None:
    """Which training wrote a checkpoint; ``None`` for one of another program."""
    record = record_of(checkpoint, option)
    return "finetune" if "classes" in record else "pretrain" if "guard" in record else None


def require_kind(checkpoint: Path, kind: Kind) -> None:
    """Refuse ``--ckpt_path`` of the other training.

    Raises:
        UsageError: Says which training wrote it, and what to do with it.
    """
    found = kind_of(checkpoint, "--ckpt_path")
    if found != kind:
        found_text = f"one of usssl {found}" if found else "another one"
        advice = ": give it as --model.init" if (kind, found) == ("finetune", "pretrain") else ""
        raise UsageError(f"--ckpt_path must be a checkpoint of usssl {kind}, got {found_text} ({checkpoint}){advice}")


def newest_run(root: Path, kind: Kind, name: str | None = None) -> Path | None:
    """The folder of the newest run of one kind that has a whole checkpoint; of any name, or of one."""
    runs = [
        config.parent
        for config in (root / "usssl").glob(f"{name or '*'}/version_*/config.yaml")
        if config.read_text(encoding="utf-8").startswith(f"# usssl {kind}")
    ]
    whole = [(path.stat().st_mtime_ns, run) for run in runs if (path := newest_whole_checkpoint(run)) is not None]
    return max(whole)[1] if whole else None


def kept_checkpoint(run: Path) -> Path | None:
    """What a run is judged by: the best epoch where one was chosen, else the last."""
    return best_of(run) or newest_whole_checkpoint(run)


def newest_checkpoint(root: Path, kind: Kind, name: str | None = None) -> Path | None:
    """The checkpoint that the newest run of one kind is judged by, or ``None``."""
    run = newest_run(root, kind, name)
    return None if run is None else kept_checkpoint(run)
