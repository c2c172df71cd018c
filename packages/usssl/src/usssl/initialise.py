"""Initial weights of a backbone from whatever file holds them; all of its tensors, or a refusal."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torchvision.models import get_model_weights

from shared.checkpoints import KeyReport, compare_tensors, load_content, sha256_of
from shared.errors import UsageError
from usssl.backbones import RESNETS, Backbone, build_backbone

RECORD = "usssl"
"""Where a checkpoint of this package says what it holds: ``{"backbone": name, ...}``."""

WRAPPERS = frozenset(
    {
        *("module", "_orig_mod", "model", "method", "network", "net"),  # DataParallel, compile, Lightning modules
        *("backbone", "encoder", "encoder_q", "resnet"),  # this package and lightly, solo-learn, MoCo
        *("classy_state_dict", "base_model", "trunk", "_feature_blocks"),  # VISSL
        *("state_dict", "model_state_dict"),
    }
)
"""Words that may stand before the names of a backbone's tensors; a momentum copy's word is none of them."""

SEQUENTIAL = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
"""Positions in ``nn.Sequential(*resnet.children())``, as lightly's examples wrap a ResNet."""


def flatten(content: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors in nested dicts, with the keys joined by dots.

    Example:
        >>> [name for name, _ in flatten({"model": {"trunk": {"fc.bias": torch.zeros(1)}}, "epoch": 3})]
        ['model.trunk.fc.bias']
    """
    if isinstance(content, Tensor):
        yield prefix, content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from flatten(value, f"{prefix}.{key}" if prefix else str(key))


def prefixes(names: Iterator[str] | Mapping[str, Tensor]) -> list[str]:
    """Every chain of :data:`WRAPPERS` that some name begins with, shortest first.

    Example:
        >>> prefixes(iter(["module.backbone.conv1.weight", "module.projector.0.weight", "momentum_backbone.bn1.bias"]))
        ['', 'module.', 'module.backbone.']
    """
    found = {""}
    for name in names:
        prefix = ""
        for word in name.split("."):
            if word not in WRAPPERS:
                break
            prefix += word + "."
            found.add(prefix)
    return sorted(found, key=lambda prefix: (len(prefix), prefix))


def named(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``tensors`` under the names of a ResNet where they are numbered as the children of one."""
    if "0.weight" not in tensors or "conv1.weight" not in wanted:
        return dict(tensors)
    renamed = {}
    for name, tensor in tensors.items():
        first, dot, rest = name.partition(".")
        renamed[SEQUENTIAL.get(first, first) + dot + rest] = tensor
    return renamed


def fit(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], KeyReport]:
    """Find a backbone's tensors among those of a file.

    Of all prefixes the one that gives most is taken. What lies beside the backbone there (a classifier, a projector)
    does not count; what lies in one of its own parts and is not wanted (blocks of a deeper network) is unexpected.
    BatchNorm's counters of batches, which old files lack, may be missing.

    Args:
        tensors: Of the file, flat.
        wanted: ``state_dict`` of the backbone in published names.

    Returns:
        The tensors to load under the names of ``wanted``, and the report.
    """
    parts = {name.partition(".")[0] for name in wanted}
    best: tuple[dict[str, Tensor], KeyReport] | None = None
    for prefix in prefixes(tensors):
        below = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        own = {name: t for name, t in named(below, wanted).items() if name.partition(".")[0] in parts}
        counters = {name: t for name, t in wanted.items() if name.endswith("num_batches_tracked") and name not in own}
        report = compare_tensors(own | counters, wanted)
        if not own.keys() & wanted.keys():
            report = compare_tensors({}, wanted)
        if best is None or len(report.matched) > len(best[1].matched):
            best = {name: own[name] for name in report.matched if name in own}, report
    assert best is not None
    return best


def torchvision_file(name: str) -> Path:
    """Where torchvision would have put its ImageNet weights of a ResNet, had it fetched them.

    Raises:
        UsageError: They are not there, or torchvision has none of this backbone.
    """
    if name not in RESNETS:
        raise UsageError(f"backbone_init imagenet stands for torchvision's ResNets; give a file for {name}")
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(get_model_weights(name).DEFAULT.url).name
    if not path.is_file():
        raise UsageError(
            f"backbone_init imagenet needs torchvision's file {path.name}, which is not in {path.parent}: "
            "give its path instead (nothing is downloaded)"
        )
    return path


def load_weights(backbone: Backbone, path: Path, option: str = "backbone_init") -> KeyReport:
    """Load a backbone's weights from a file (``.safetensors``, or ``.ckpt`` and ``.pth`` read without unpickling).

    It may hold the backbone alone or a whole model, in a dict (``state_dict``, ``model`` …) or not, with the prefixes
    of DataParallel, Lightning, lightly, solo-learn and VISSL; heads and momentum copies are passed over.

    Args:
        backbone: What to load into.
        path: The file.
        option: Name of the option that gave the path, for the error message.

    Returns:
        Which tensors matched: all of them.

    Raises:
        UsageError: No such file, or any tensor of the backbone is missing, of another shape, or one too many.
    """
    module = backbone.published()
    wanted = module.state_dict()
    found, report = fit(dict(flatten(load_content(path, option))), wanted)
    if not report.complete:
        raise UsageError(f"{option} must hold every tensor of {backbone.name} and no other, got {path}: {report}")
    with torch.no_grad():
        for name, tensor in found.items():
            wanted[name].copy_(tensor)
    backbone.pretrained = "file"
    backbone.weights_sha256 = sha256_of(path)
    return report


def initialise(backbone: Backbone, init: str, option: str = "backbone_init") -> None:
    """Give a new backbone the weights that a word stands for.

    Args:
        backbone: With random weights.
        init: ``random`` leaves them; ``imagenet`` is the file of torchvision's default weights where torchvision keeps
            such files; anything else is the path of a file (:func:`load_weights`).
        option: Name of the option, for the error message.

    Raises:
        UsageError: See :func:`torchvision_file` and :func:`load_weights`.
    """
    if init == "random":
        return
    path = torchvision_file(backbone.name) if init == "imagenet" else Path(init).expanduser()
    print(f"initial weights: {path} ({load_weights(backbone, path, option)})")


def recorded_name(path: Path, content: Any) -> str | None:
    """The backbone that a file of this package says it holds."""
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("backbone")
    record = content.get(RECORD) if isinstance(content, Mapping) else None
    return record.get("backbone") if isinstance(record, Mapping) else None


def patients_seen(path: Path, option: str = "model.init") -> dict[str, list[str]]:
    """Whose frames a backbone of this package was pretrained on, by the name of their data; empty where unknown.

    Patients are recorded under pseudonyms (:func:`usssl.patients.pseudonym`).

    Args:
        path: A checkpoint or an exported file.
        option: Name of the option that gave the path, for the error message.
    """
    content = load_content(path, option)
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            return json.loads((file.metadata() or {}).get("patients", "{}"))
    record = content.get(RECORD) if isinstance(content, Mapping) else None
    return dict(record.get("patients", {})) if isinstance(record, Mapping) else {}


def wrong(report: KeyReport) -> int:
    """How many tensors do not match."""
    return len(report.missing) + len(report.unexpected) + len(report.misshapen)


def load_backbone(path: Path, option: str = "model.init") -> tuple[str, dict[str, Tensor]]:
    """Which backbone a file holds, and its tensors in published names.

    Checkpoints and exported files of this package say which it is; of other files the ResNet that fits is taken.

    Args:
        path: The file.
        option: Name of the option that gave the path, for the error message.

    Raises:
        UsageError: No such file, it fits no ResNet, or not the backbone that it names.
    """
    content = load_content(path, option)
    tensors = dict(flatten(content))
    recorded = recorded_name(path, content)
    closest: tuple[str, KeyReport] | None = None
    for name in RESNETS if recorded is None else [recorded]:
        with torch.device("meta"):
            wanted = build_backbone(name).published().state_dict()
        found, report = fit(tensors, wanted)
        if report.complete:
            return name, found
        if closest is None or wrong(report) < wrong(closest[1]):
            closest = name, report
    assert closest is not None
    raise UsageError(f"{option} must hold every tensor of a backbone, got {path}: of {closest[0]} {closest[1]}")
