"""``fedsam describe``: what a run would train, need and send, without running it."""

import re
from typing import TYPE_CHECKING, Any

from shared.errors import UsageError

if TYPE_CHECKING:
    from fedsam.data import VolumeDataModule
    from fedsam.module import FederatedSegmenter
    from fedsam.options import FitOptions
    from fedsam.sam import Sam

HELP = """\
usage: fedsam describe [--classes N] [--clients K] [options of fit]

Tell what `fedsam fit` with the same options would train, need and send, without training anything: the components of
the model, bytes per message, round and run in both directions, the same for every variant and how much less that is
than full fine-tuning, which site has how many volumes and makes how many steps.

The numbers of the model need no data. Where these are not at hand, the classes and sites that the reader is known to
give are used. --classes and --clients go before both.

options:
  --config NAME    A file, or a shipped config by name; `fedsam configs` lists them.
  --classes N      Foreground classes, in place of those of the data.
  --clients K      Sites, in place of those of the data.
  --ckpt_path P    Describe the run that a checkpoint belongs to; `last` is the newest.
  ...              Every option of fit; `fedsam fit --help` lists them.

examples:
  fedsam describe
  fedsam describe --config flap_kits
  fedsam describe --config flap_224 --model.variant lora_decoder --classes 4 --clients 10
  fedsam describe --config flap_kits --data.source.root FOLDER"""

PAPER_ROUNDS = 25
PAPER_UNIT = "the paper's unit: 32 bits x numbers x 25 rounds / 2^30, one site and one direction, printed there as GB"
KNOWN = {"FedKits2019": (2, 6), "FedIxi": (1, 3), "Prostate": (1, 6)}
"""Foreground classes and sites of published data sets."""


def run(words: list[str]) -> None:
    """``fedsam describe [options of fit]``."""
    if any(word in ("-h", "--help") for word in words):
        print(HELP)
        return
    print(described(words))


def paper_unit(numbers: int) -> float:
    """What the paper's column "transmission overhead for 25 rounds" holds for so many numbers in a message.

    Example:
        >>> round(paper_unit(1_846_384), 3)
        1.376
    """
    return numbers * 32 * PAPER_ROUNDS / 2**30


def full_numbers(model: "Sam") -> int:
    """Numbers of the model without what the variant adds to it: what full fine-tuning trains and sends.

    Example:
        >>> import torch
        >>> from fedsam.sam import Sam
        >>> with torch.device("meta"):
        ...     full_numbers(Sam("vit_b", 224, 2, "flap"))
        90532927
    """
    from fedsam.components import ADDED

    return sum(part.parameters for part in model.components() if part.name not in ADDED)


def described(words: list[str]) -> str:
    """The text that the verb prints.

    Raises:
        UsageError: An option is wrong, or neither the data nor their kind tell classes and sites.
    """
    import warnings

    import torch

    from fedsam.data import VolumeDataModule
    from fedsam.module import FederatedSegmenter

    options, missing = _options(words)
    for name in ("classes", "clients"):
        if options.chosen[name] is not None and options.chosen[name] < 1:
            raise UsageError(f"--{name} must be at least 1, got {options.chosen[name]}")
    data = VolumeDataModule(**options.part("data"))
    absent = f"needs --{missing}" if missing else _absence(data)
    classes, clients = _sizes(options, data, absent)
    # `local` and `centralised` send nothing: what the same model would send is told.
    part = options.part("model") | {"init": "random", "regime": "federated"}
    sizes: dict[str, Any] = {"image_size": data.image_size, "num_classes": classes}
    if absent is not None:
        listed = f"data: {type(data.source).__name__}, not at hand: {absent}"
    elif options.chosen.classes or options.chosen.clients:
        listed = (
            f"data: not those of data.source, but {_counted(classes, 'class', 'classes')} at {clients} sites, as told"
        )
    else:
        listed = ""
    names = ["background", *(str(number + 1) for number in range(classes))]
    # On the meta device tensors have shapes and no numbers: a model of any size takes no memory and no time.
    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*a no-op.*")
        model = FederatedSegmenter(**part, **sizes, class_names=names)
        others = _variants(part, sizes)
    rounds = options.chosen.trainer.max_epochs
    return "\n\n".join(
        [
            _head(model, clients, classes, rounds, options),
            listed or _data(data, model),
            _components(model.network),
            _traffic(model, clients, rounds),
            _comparison(model.network, others),
        ]
    )


def _options(words: list[str]) -> tuple["FitOptions", str | None]:
    """The parsed options, and the option of the reader that is missing if one is."""
    from fedsam.options import FitOptions

    own: dict[str, dict[str, Any]] = {"classes": {"type": int | None}, "clients": {"type": int | None}}
    try:
        return FitOptions(words, own), None
    except UsageError as error:
        missing = re.findall(r"--(data\.source\.\w+)(?=.* required by)", str(error))
        if not missing:
            raise
    # Never used: the data count as absent.
    for name in missing:
        words = [*words, f"--{name}", '{"1": 1}' if name.endswith(".labels") else "."]
    return FitOptions(words, own), " and --".join(missing)


def _absence(data: "VolumeDataModule") -> str | None:
    """Why the data cannot be read, or ``None`` once they are listed."""
    try:
        data.setup()
    except UsageError as error:
        if not str(error).startswith("data.source"):  # the scans are there, what is asked of them is wrong
            raise
        return str(error)
    return None


def _sizes(options: "FitOptions", data: "VolumeDataModule", absent: str | None) -> tuple[int, int]:
    """Classes and sites: as told, else of the data, else as published."""
    if absent is None:
        return options.chosen.classes or data.num_classes, options.chosen.clients or len(data.client_ids)
    reader = options.chosen.data.source.class_path.rsplit(".", 1)[-1]
    known = KNOWN.get(reader, (None, None))
    classes, clients = options.chosen.classes or known[0], options.chosen.clients or known[1]
    unknown = [name for name, value in (("--classes", classes), ("--clients", clients)) if value is None]
    if classes is None or clients is None:
        raise UsageError(f"{absent}; without the data of {reader} describe needs {' and '.join(unknown)}")
    return classes, clients


def _head(model: "FederatedSegmenter", clients: int, classes: int, rounds: int, options: "FitOptions") -> str:
    from shared.text_table import counted

    network, chosen = model.network, options.chosen.model
    start = "random weights" if chosen.init == "random" else f"weights of {chosen.init}"
    return (
        f"{network.variant} of SAM {network.size} at {network.image_size} x {network.image_size}, rank "
        f"{network.plan.rank}, {_counted(classes, 'class', 'classes')} and background, {start}\n"
        f"{chosen.regime}: {counted(clients, 'site')}, {counted(rounds, 'round')}, {type(model.aggregator).__name__}"
    )


def _counted(count: int, one: str, several: str) -> str:
    return f"{count} {one if count == 1 else several}"


def _data(data: "VolumeDataModule", model: "FederatedSegmenter") -> str:
    import torch

    from shared.text_table import text_table

    told, generator = data.describe(), torch.Generator()
    rows = []
    for client in data.client_ids:
        site = told["clients"][str(client)]
        batches = len(data.client_loader(client, generator))
        steps = model.client.steps_per_epoch(batches) * model.client.epochs
        volumes = [site["volumes"][split] for split in ("train", "validation", "test")]
        rows.append([site["site"], *(f"{count:,}" for count in (*volumes, site["slices"], site["windows"], steps))])
    head = ["site", "train", "validation", "test", "slices", "windows", "steps a round"]
    return (
        f"data: {data.data_name} ({data.provenance}), classes {', '.join(data.class_names[1:])}, "
        f"batches of {data.batch_size} windows\n\n{text_table(head, rows)}"
    )


def _components(network: "Sam") -> str:
    from shared.text_table import size, text_table

    parts = network.components()
    rows = [[part.name, f"{part.parameters:,}", f"{part.trainable:,}", size(part.bytes)] for part in parts]
    sums = [sum(getattr(part, of) for part in parts) for of in ("parameters", "trainable", "bytes")]
    rows.append(["together", f"{sums[0]:,}", f"{sums[1]:,}", size(sums[2])])
    return text_table(["component", "numbers", "trained", "size"], rows)


def _traffic(model: "FederatedSegmenter", clients: int, rounds: int) -> str:
    from shared.federated.footprint import footprint
    from shared.text_table import size, text_table

    sizes = footprint(model, clients, rounds, [p for p in model.local.parameters() if p.requires_grad])
    rows = []
    for what, bytes_, sent in (
        ("a message, up or down", sizes.upload, sizes.message),
        (f"a round of {sizes.participants} sites, up", sizes.round_bytes // 2, sizes.sent_per_round // 2),
        (f"a round of {sizes.participants} sites, both ways", sizes.round_bytes, sizes.sent_per_round),
        (f"the run of {rounds:,} rounds, up", sizes.run_bytes // 2, sizes.sent_per_run // 2),
        (f"the run of {rounds:,} rounds, both ways", sizes.run_bytes, sizes.sent_per_run),
    ):
        rows.append([what, f"{bytes_:,} B", size(bytes_), size(sent)])
    numbers, full = sizes.coordinates, full_numbers(model.network)
    return (
        f"{text_table(['traffic', '4 bytes x numbers', '', 'as sent, names included'], rows)}\n\n"
        f"{numbers:,} numbers in a message, {full / numbers:.2f} times fewer than full fine-tuning ({full:,})"
    )


def _variants(part: dict[str, Any], sizes: dict[str, Any]) -> dict[str, "Sam"]:
    """Every preset on the same SAM, with the user's rank where one is given."""
    from fedsam.sam import Sam
    from fedsam.variants import VARIANTS

    same = {name: part[name] for name in ("size", "rank", "num_lora", "dora", "adapter_channels")}
    return {name: Sam(variant=name, **same, **sizes) for name in VARIANTS}


def _comparison(chosen: "Sam", others: dict[str, "Sam"]) -> str:
    from shared.text_table import size, text_table

    full, rows = full_numbers(chosen), []
    for name, model in others.items():
        numbers = model.trainable_numbers()
        mark = " *" if (name, model.plan) == (chosen.variant, chosen.plan) else ""
        sizes = [f"{numbers:,}", f"{4 * numbers:,} B", size(4 * numbers), f"{paper_unit(numbers):.3f}"]
        rows.append([name + mark, *sizes, f"{full / numbers:.1f}"])
    head = ["variant", "numbers", "a message", "", "paper's GB", "times less than full"]
    note = "* as chosen; " if any("*" in row[0] for row in rows) else ""
    return f"{text_table(head, rows)}\n{note}{PAPER_UNIT}"
