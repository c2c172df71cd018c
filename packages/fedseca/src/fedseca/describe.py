"""``fedseca describe``: what a run would be, need and send, without running it."""

import re
from typing import TYPE_CHECKING

from shared.errors import UsageError

if TYPE_CHECKING:
    from fedseca.data import FederatedImages
    from fedseca.module import FederatedClassifier
    from fedseca.options import FitOptions

HELP = """\
usage: fedseca describe [--classes N] [options of fit]

Tell what `fedseca fit` with the same options would be, need and send, without training anything: the layers of the
model, the length d of what a client uploads, bytes per upload, round and run, what the server has to hold, which client
has how many images and makes how many steps, what the rule must be told, who is hostile.

The numbers of the model need no data: where these are not at hand, the channels and classes that the reader is known
to give are used.

options:
  --config NAME    A file, or a shipped config by name; `fedseca configs` lists them.
  --classes N      Number of classes, for data that are not at hand and of an unknown kind.
  --ckpt_path P    Describe the run that a checkpoint belongs to; `last` is the newest.
  ...              Every option of fit; `fedseca fit --help` lists them.

examples:
  fedseca describe
  fedseca describe --config cifar10_resnet18
  fedseca describe --config cifar10_resnet18 --data.source.root FOLDER --data.clients 25
  fedseca describe --model.aggregator Krum --model.aggregator.b 2 --model.client.keep_optimizer true"""


def run(words: list[str]) -> None:
    """``fedseca describe [options of fit]``."""
    if any(word in ("-h", "--help") for word in words):
        print(HELP)
        return
    print(described(words))


def described(words: list[str]) -> str:
    """The text that the verb prints.

    Raises:
        UsageError: An option is wrong, or neither the data nor their kind tell channels and classes.
    """
    import warnings

    import torch

    from fedseca.data import FederatedImages
    from fedseca.module import FederatedClassifier

    options, missing = _options(words)
    data = FederatedImages(**options.part("data"))
    absent = f"needs --{missing}" if missing else _absence(data)
    channels, classes = (data.in_channels, data.num_classes) if absent is None else _known(data, options, absent)
    if options.chosen.classes not in (None, classes):
        raise UsageError(f"--classes must be that of the data, {classes}, got {options.chosen.classes}")
    # On the meta device tensors have shapes and no numbers: a model of any size takes no memory and no time.
    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*a no-op.*")
        model = FederatedClassifier(**options.part("model"), in_channels=channels, num_classes=classes)
    blocks = [
        _head(options),
        _data(data, model, absent),
        _model(model, channels, classes),
        *_traffic(model, data, options.chosen.trainer.max_epochs),
        _rule(model, options),
        _hostile(model, data),
    ]
    return "\n\n".join(blocks)


def _options(words: list[str]) -> tuple["FitOptions", str | None]:
    """The parsed options, and the option of the reader that is missing if one is."""
    from fedseca.options import FitOptions

    try:
        return FitOptions(words, {"classes": int}), None
    except UsageError as error:
        missing = re.findall(r"--(data\.source\.\w+)(?=.* required by)", str(error))
        if not missing:
            raise
    for name in missing:
        words = [*words, f"--{name}", "."]  # never read: the data count as absent
    return FitOptions(words, {"classes": int}), " and --".join(missing)


def _absence(data: "FederatedImages") -> str | None:
    """Why the data cannot be read, or ``None`` once they are."""
    try:
        data.setup()
    except UsageError as error:
        if not str(error).startswith("data.source"):  # the images are there, what is asked of them is wrong
            raise
        return str(error)
    return None


def _known(data: "FederatedImages", options: "FitOptions", absent: str) -> tuple[int, int]:
    """Channels and classes without the data."""
    source = data.source
    channels = data.channels or source.stored_channels
    classes = len(source.class_names) if source.class_names else options.chosen.classes
    if classes is not None and classes < 2:
        raise UsageError(f"--classes must be at least 2, got {classes}")
    unknown = [name for name, value in (("--data.channels", channels), ("--classes", classes)) if value is None]
    if channels is None or classes is None:
        raise UsageError(
            f"describe needs the data or {' and '.join(unknown)} to build the model; {type(source).__name__}: {absent}"
        )
    return channels, classes


def _head(options: "FitOptions") -> str:
    chosen = options.chosen
    rule, attack = (chosen.model[part].class_path.rsplit(".", 1)[-1] for part in ("aggregator", "attack"))
    return f"{rule} under {attack}, {chosen.data.clients} clients, {chosen.trainer.max_epochs} rounds"


def _data(data: "FederatedImages", model: "FederatedClassifier", absent: str | None) -> str:
    import torch

    from shared.text_table import text_table

    if absent is not None:
        return (
            f"data: {type(data.source).__name__}, not at hand: {absent}\nclients: {data.num_clients}, {data.partition}"
        )
    told = data.describe()
    images = ", ".join(f"{count:,} {part}" for part, count in told["images"].items())
    generator = torch.Generator()
    rows = []
    for client, name in enumerate(data.client_names):
        counts = told["clients"][str(client)]
        steps = len(data.client_loader(client, generator)) * model.client.epochs
        hostile = "hostile" if client in model.byzantine else ""
        rows.append([name, f"{sum(counts):,}", str(sum(map(bool, counts))), f"{steps:,}", hostile])
    height, width = data.image_size
    return (
        f"data: {data.data_name} ({data.provenance}), {images} images of {height} x {width}\n"
        f"clients: {data.num_clients}, {data.partition}, batches of {data.batch_size}\n\n"
        + text_table(["client", "images", "classes", "steps a round", ""], rows)
    )


def _model(model: "FederatedClassifier", channels: int, classes: int) -> str:
    from shared.federated.footprint import layer_table

    told = model.describe_network()
    start = "random weights" if told["pretrained"] == "none" else "weights of a file"
    parameters = [name for name, _ in model.local.named_parameters()]
    table = layer_table(model.communicated(), parameters)
    planes = f"{channels} channel{'s' if channels > 1 else ''}"
    return f"model: {told['network']}, {planes} to {classes} classes, {start}\n\n{table}"


def _traffic(model: "FederatedClassifier", data: "FederatedImages", rounds: int) -> list[str]:
    from shared.federated.footprint import footprint

    sizes = footprint(model, data.num_clients, rounds)
    seen = "" if sizes.seen == sizes.coordinates else f", of which the rule sees {sizes.seen:,}"
    vector = f"d = {sizes.coordinates:,} numbers in an upload{seen}"
    return [sizes.components_table(), f"{vector}\n\n{sizes.traffic_table()}", sizes.memory_table()]


def _rule(model: "FederatedClassifier", options: "FitOptions") -> str:
    from fedseca.aggregators import PreAggregated

    rule = model.aggregator
    innermost = rule
    while isinstance(innermost, PreAggregated):
        innermost = innermost.rule
    told = getattr(innermost, "b", None)
    facts = [
        f"rule: {_named(options, 'aggregator')}",
        "  is not told how many clients are hostile"
        if told is None
        else f"  is told that at most {told} of the clients are hostile",
        f"  needs at least {rule.min_clients} upload{'s' if rule.min_clients > 1 else ''}",
    ]
    if getattr(rule, "needs_reference", False):
        facts.append("  needs an update that the server computes on clean data: data.server_samples must be above 0")
    return "\n".join(facts)


def _hostile(model: "FederatedClassifier", data: "FederatedImages") -> str:
    count, clients = len(model.byzantine), data.num_clients
    if not count:
        who = "nobody"
    else:
        ids = ", ".join(map(str, model.byzantine))
        who = f"client{'s' if count > 1 else ''} {ids} ({count} of {clients}, {100 * count / clients:.0f} %)"
    lines = [f"attack: {type(model.attack).__name__}", f"  hostile: {who}"]
    try:
        model.check_clients(data.client_ids)
    except UsageError as error:
        lines.append(f"  fit would refuse this: {error}")
    return "\n".join(lines)


def _named(options: "FitOptions", part: str) -> str:
    """Class and arguments of a part of the model, as one would write them in Python."""
    chosen = options.chosen.model[part]
    given = {name: value for name, value in dict(chosen.get("init_args") or {}).items() if value is not None}
    inside = ", ".join(f"{name}={value!r}" for name, value in given.items())
    return f"{chosen.class_path.rsplit('.', 1)[-1]}({inside})"
