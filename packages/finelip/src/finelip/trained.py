"""Trained models from their files, for verbs that do not train."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import torch

from finelip.checkpoints.lengths import config_of
from finelip.checkpoints.read import AGGREGATORS, RECORD, load_clip, read_clip
from finelip.checkpoints.write import read_model
from finelip.clip_tiny import SHIPPED, read_tiny
from finelip.finelip import FineLIP, Refinement
from shared.checkpoints import load_content, newest_whole_checkpoint, require_same_tensors, sha256_of
from shared.errors import UsageError


class Trained(NamedTuple):
    """A model in evaluation mode.

    Attributes:
        model: The model.
        path: The file that it was read from.
        sha256: Of that file.
    """

    model: FineLIP
    path: Path
    sha256: str


def weights_file(weights: str, root: str) -> Path:
    """The file that ``--weights`` names; ``last`` is the newest whole checkpoint of any run.

    Raises:
        UsageError: There is none.
    """
    if weights != "last":
        return Path(weights).expanduser()
    found = newest_whole_checkpoint(Path(root) / "finelip")
    if found is None:
        raise UsageError(f"--weights last needs a run of finelip fit, found none in {Path(root) / 'finelip'}")
    return found


def trained_model(weights: str = "last", root: str = "runs", option: str = "--weights") -> Trained:
    """The model that ``--weights`` names.

    Args:
        weights: A checkpoint of ``finelip fit``, a file that ``finelip export`` wrote, a released Long-CLIP or FineLIP,
            or a plain CLIP, which is stretched by ``kps``; ``tiny`` is the shipped one, stretched; ``last`` the newest
            checkpoint.
        root: Folder of all runs.
        option: Name of the option, for error messages.

    Raises:
        UsageError: There is no such file, or it holds no model.
    """
    if weights == "tiny":
        model, read = FineLIP("clip_tiny", refinement="none"), read_tiny()
        load_clip(model, read, option)
        return Trained(model.eval(), SHIPPED, read.sha256)
    path = weights_file(weights, root)
    if path.suffix == ".ckpt":
        return Trained(from_checkpoint(path, option), path, sha256_of(path))
    read = read_clip(path, option)
    if read.about is not None and read.layout == "finelip":
        return Trained(read_model(path, option), path, read.sha256)
    sizes = {side: read.tensors.get(f"{AGGREGATORS}{side}.weight.3.weight") for side in ("aggr_net", "cap_aggr_net")}
    image, text = (None if tensor is None else len(tensor) for tensor in sizes.values())
    refinement: dict[tuple[bool, bool], Refinement] = {
        (True, True): "both",
        (True, False): "image",
        (False, True): "text",
        (False, False): "none",
    }
    model = FineLIP(
        config_of(read, None, option)[1],
        refinement=refinement[image is not None, text is not None],
        k_image=image,
        k_text=text,
    )
    report = load_clip(model, read, option, require_aggregators=True)
    plain = "; without aggregators: the sets are all tokens" if model.refinement == "none" else ""
    print(f"{path}: {report}{plain}")
    return Trained(model.eval(), path, read.sha256)


def from_checkpoint(path: Path, option: str = "--weights") -> FineLIP:
    """The model in a checkpoint of ``finelip fit``, in evaluation mode.

    Raises:
        UsageError: It is another file, or damaged.
    """
    content = load_content(path, option)
    record = content.get(RECORD) if isinstance(content, dict) else None
    if not isinstance(record, dict) or "options" not in record:
        raise UsageError(f"{option} must be a checkpoint of finelip fit, got another one ({path})")
    with torch.random.fork_rng(devices=[]):
        model = FineLIP(record["backbone"], **record["options"])
    prefix = "model."
    tensors = {name.removeprefix(prefix): t for name, t in content["state_dict"].items() if name.startswith(prefix)}
    require_same_tensors(tensors, model.state_dict(), what=option)
    model.load_state_dict(tensors)
    return model.eval()


def fingerprint(model: FineLIP) -> str:
    """SHA-256 of what decides about vectors and sets: names, shapes and values of all weights, and their use.

    Equal for one model in several files, other than that of a file.
    """
    used = {name: model.options[name] for name in ("stretch_by", "keep", "ratio", "refinement")}
    digest = hashlib.sha256(repr([sorted(used.items()), model.quick_gelu]).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
