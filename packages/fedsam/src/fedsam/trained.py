"""A trained model as it comes out of a run folder, or of a file that ``fedsam export`` wrote."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from fedsam.export import adapter_metadata, load_adapters, merged_state, save_adapters
from fedsam.losses import CrossEntropyDiceLoss
from fedsam.module import FederatedSegmenter
from fedsam.options import FitOptions
from fedsam.sam import Sam
from fedsam.sam_checkpoint import SHIPPED
from fedsam.scan_reading import ScanReading
from fedsam.segmenter import Inference, Scores, VolumeSegmenter
from shared.checkpoints import AtomicCheckpointIO, load_tensors, require_same_tensors, save_tensors, sha256_of
from shared.errors import UsageError
from shared.runs import folder_of_checkpoint

MERGED = "fedsam-model-1"
"""What the metadata of a whole model says it is."""
HEADS = frozenset({"decoder.upscaling", "decoder.hypernetworks", "decoder.mask_tokens"})


@dataclass(frozen=True)
class Trained:
    """A trained model with everything that segmenting a scan needs.

    Attributes:
        segmenter: The model, in evaluation mode.
        reading: How scans are read.
        folder: The run folder; ``None`` where the model came from a file.
        regime: How it was trained.
        site: Whose model it is, where each site has its own.
    """

    segmenter: VolumeSegmenter
    reading: ScanReading
    folder: Path | None = None
    regime: str = "federated"
    site: str | None = None


def from_run(options: FitOptions) -> Trained:
    """The model of the checkpoint that ``--ckpt_path`` names; the training data need not be at hand.

    Where each site has a model of its own (``regime: local``, or weights that mix parallel LoRA pairs), it is that of
    ``--site``.

    Raises:
        UsageError: The checkpoint lies outside its run or belongs to another model, or ``--site`` names none of those
            that have their own.
    """
    checkpoint = Path(options.chosen.ckpt_path)
    folder = folder_of_checkpoint(checkpoint)
    if folder is None:
        raise UsageError(f"--ckpt_path must lie in the folder of its run, got {checkpoint}")
    reading = ScanReading.of_run(folder)
    chosen = options.chosen.model
    part = options.part("model") | {"init": "random"}  # the checkpoint holds every weight
    module = FederatedSegmenter(
        **part,
        image_size=options.chosen.data.image_size,
        num_classes=len(reading.class_names) - 1,
        class_names=list(reading.class_names),
    )
    content = AtomicCheckpointIO().load_checkpoint(checkpoint)
    state: dict[str, Tensor] = content["state_dict"]
    require_same_tensors(state, module.state_dict(), what=f"the checkpoint {checkpoint}")
    module.load_state_dict(state)
    module.on_load_checkpoint(content)
    record = folder / "results.json"
    if record.is_file():
        told = json.loads(record.read_text(encoding="utf-8"))["model"]
        module.network.pretrained = told["pretrained"]
        module.network.weights_sha256 = told.get("weights_sha256")
    elif chosen.init != "random":
        module.network.pretrained = "self" if chosen.init == "tiny" else "file"
    if module.regime == "centralised" or not module.kept():
        return Trained(module.local.eval(), reading, folder, chosen.regime)
    site: str | None = options.chosen.site
    if site not in reading.sites:
        raise UsageError(
            f"--site must name the site whose model is wanted, since in this run each has its own: "
            f"{', '.join(reading.sites)}, got {site or 'none'}"
        )
    client = reading.sites.index(site)
    if client not in module.client_rounds:
        raise UsageError(f"--site must name a site that finished a round, got {site}")
    module.open_states(folder / "clients")
    model = module.model_of(client)
    assert isinstance(model, VolumeSegmenter)
    model.network.pretrained, model.network.weights_sha256 = module.network.pretrained, module.network.weights_sha256
    return Trained(model, reading.of_site(site), folder, chosen.regime, site)


def _metadata(trained: Trained) -> dict[str, str]:
    return {
        "reading": trained.reading.to_json(),
        "inference": json.dumps(asdict(trained.segmenter.inference)),
    }


def save_merged(trained: Trained, path: Path) -> int:
    """Write the whole model with LoRA folded in, and all that segmenting needs; returns the bytes of its tensors.

    Raises:
        UsageError: ``path`` has another suffix than ``.safetensors``.
    """
    network = trained.segmenter.network
    state = merged_state(network)
    arguments = json.dumps(network.merged_arguments())
    save_tensors(path, state, {"format": MERGED, "arguments": arguments, **_metadata(trained)})
    return sum(tensor.numel() * tensor.element_size() for tensor in state.values())


def save_trained_adapters(trained: Trained, path: Path) -> int:
    """Write what was trained alone, and how to use it; returns the bytes of its tensors.

    Raises:
        UsageError: The run started from random weights, which nobody else has, or heads stayed as they were drawn.
    """
    network = trained.segmenter.network
    untrained = sorted(HEADS - network.plan.components)
    if untrained:
        raise UsageError(
            f"--what adapters needs a variant that trains the heads, which no SAM checkpoint holds; {network.variant} "
            f"leaves {', '.join(untrained)} as drawn: take --what merged"
        )
    if network.pretrained == "none":
        raise UsageError(
            "--what adapters needs a run that started from weights of a file (model.init), since adapters belong to "
            "them; this one started from random weights: take --what merged"
        )
    more = _metadata(trained) | {"network": json.dumps(_built(network)), "base_sha256": network.weights_sha256 or ""}
    return save_adapters(network, path, metadata=more)


def from_file(path: Path, base: str | None = None) -> Trained:
    """The model of a file that ``fedsam export`` wrote.

    Args:
        path: A merged model, or adapters.
        base: For adapters: the SAM checkpoint that they were trained on; the shipped one is found by its sum.

    Raises:
        UsageError: Another kind of file, or adapters without their base or with another one.
    """
    told = metadata_of(path)
    if told.get("format") == MERGED:
        network = Sam(**json.loads(told["arguments"]))
        tensors = load_tensors(path, "--weights")
        require_same_tensors(tensors, network.state_dict(), what=f"--weights {path}")
        network.load_state_dict(tensors)
    elif "network" in told:
        if base is None and told["base_sha256"] == sha256_of(SHIPPED):
            base = "tiny"
        if base is None:
            raise UsageError(f"--base must name the SAM checkpoint that the adapters belong to, got none with {path}")
        network = Sam(**json.loads(told["network"]), init=base)
        if told["base_sha256"] and network.weights_sha256 != told["base_sha256"]:
            raise UsageError(
                f"--base must be the file that the adapters were trained on (SHA-256 {told['base_sha256'][:12]}…), "
                f"got {base} ({str(network.weights_sha256)[:12]}…)"
            )
        load_adapters(network, path)
    else:
        raise UsageError(f"--weights must be a file that `fedsam export` wrote (merged or adapters), got {path}")
    reading = ScanReading.from_json(told["reading"])
    inference = Inference(**json.loads(told["inference"]))
    segmenter = VolumeSegmenter(network, reading.class_names, CrossEntropyDiceLoss(), inference, Scores())
    return Trained(segmenter.eval(), reading)


def metadata_of(path: Path) -> Mapping[str, str]:
    """The metadata of a safetensors file.

    Raises:
        UsageError: No such file, or it is of another kind or damaged.
    """
    if not path.is_file():
        raise UsageError(f"--weights must be an existing file, got {path}")
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except Exception as error:  # safetensors' own error, which has no public base
        raise UsageError(f"--weights must be a .safetensors file, {path} is not ({error})") from error


def _built(network: Sam) -> dict[str, Any]:
    """The arguments of :class:`Sam` that a file of adapters goes with, beside ``init``."""
    told = json.loads(adapter_metadata(network)["options"])
    names = ("size", "num_classes", "train", "rank", "upsampling", "alpha", "num_lora", "dora", "adapter_channels")
    return {"image_size": network.image_size, "variant": network.variant} | {name: told[name] for name in names}
