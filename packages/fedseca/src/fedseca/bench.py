"""``fedseca bench``: how long the server rules take, and how much memory, over clients K and coordinates d."""

import csv
import io
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from shared.commands import nearest, run_function
from shared.errors import UsageError

if TYPE_CHECKING:
    from shared.federated.aggregation import VectorAggregator

STEPS = ("StaticClipping", "NNM", "Bucketing")
# A sample lasts at least so long: a call of less is repeated.
SAMPLE_S = 0.02
# Waiting for a processor this many times as long as using it means that others use it too.
BUSY = 1.5
# Rounds before the first measured one: FLDetector begins to predict in its third.
WARM_UP = 3
_NONE = "-"


@dataclass(frozen=True)
class Measurement:
    """One rule at one size; times in milliseconds, ``None`` where the rule has no meaning at that size.

    Attributes:
        extra_of_input: Peak memory above what was held before the call, relative to the ``4 K d`` bytes of uploads.
        gb_s: ``4 K d`` bytes over the time of the clock.
        copy_gb_s: Bytes read and written per second when this machine copies memory.
        note: What the rule was given beside the uploads, or why it was not run.
    """

    rule: str
    clients: int
    coordinates: int
    device: str
    threads: int
    repeats: int
    wall_ms: float | None = None
    wall_low_ms: float | None = None
    wall_high_ms: float | None = None
    cpu_ms: float | None = None
    cpu_low_ms: float | None = None
    cpu_high_ms: float | None = None
    gb_s: float | None = None
    copy_gb_s: float | None = None
    extra_of_input: float | None = None
    note: str = ""


def run(words: list[str]) -> None:
    """``fedseca bench [options]``."""

    def bench(
        rules: list[str] | None = None,
        clients: list[int] = [5, 20],  # noqa: B006  read only; jsonargparse shows it as the default
        sizes: list[int] = [100_000, 1_000_000],  # noqa: B006
        repeats: int = 7,
        threads: int | None = None,
        device: Literal["cpu", "cuda"] = "cpu",
        out: str = "runs/bench",
    ) -> None:
        """Measure the time and the memory of server rules, and write OUT/bench.csv and OUT/bench.png.

        Uploads are random float32 matrices of K clients and d coordinates. Times are medians over the repeats, with
        order statistics between which the true median lies with 95 % confidence. GB/s are the 4 K d bytes that a rule
        cannot help reading, over its time; the speed at which this machine copies memory stands beside them.

        Args:
            rules: CLASS, or CLASS:OPTION=VALUE,OPTION=VALUE; steps before a rule are put in front with a plus sign, as
                in NNM:b=2+TrimmedMean:b=2. By default every rule, and NNM+TrimmedMean.
            clients: Numbers of clients K.
            sizes: Numbers of coordinates d; ResNet-18 has 11191242.
            repeats: Measurements of each rule and size.
            threads: Threads of torch; its own choice by default.
            device: Where the uploads lie.
            out: Folder of the results.
        """
        measured = measure_all(every_rule() if rules is None else rules, clients, sizes, repeats, threads, device)
        folder = Path(out)
        print(table(measured))
        print(f"\n{write_csv(measured, folder / 'bench.csv')}")
        if any(row.wall_ms is not None for row in measured):
            from shared.plots import save

            print(save(picture(measured), folder / "bench.png"))

    run_function("fedseca", bench, words)


def measure_all(
    rules: Sequence[str], clients: Sequence[int], sizes: Sequence[int], repeats: int, threads: int | None, device: str
) -> list[Measurement]:
    """Every rule at every size, with a progress bar.

    Raises:
        UsageError: An option is out of range, or a rule is unknown or does not take its options.
    """
    for option, values in (("rules", rules), ("clients", clients), ("sizes", sizes)):
        if not values:
            raise UsageError(f"--{option} must name at least one, got none")
    for option, number in (
        ("clients", min(clients)),
        ("sizes", min(sizes)),
        ("repeats", repeats),
        ("threads", threads),
    ):
        if number is not None and number < 1:
            raise UsageError(f"--{option} must be at least 1, got {number}")
    import torch
    from tqdm import tqdm

    from shared.measurement import copy_bandwidth, processor

    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda needs a GPU that torch can use, found none")
    for text in rules:
        build(text)
    if threads is not None:
        torch.set_num_threads(threads)
    bandwidth = copy_bandwidth(device=device) / 1e9
    name = processor() if device == "cpu" else torch.cuda.get_device_name()
    print(
        f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"copies memory at {bandwidth:.1f} GB/s{' on one thread' if device == 'cpu' else ''}\n"
    )
    measured = []
    with tqdm(total=len(clients) * len(sizes) * len(rules), unit="rule", disable=None) as bar:
        for k in clients:
            for d in sizes:
                generator = torch.Generator().manual_seed(k)
                updates = (0.01 * torch.randn(k, d, generator=generator)).to(device)
                for text in rules:
                    bar.set_postfix_str(f"{text}, K = {k}, d = {d:,}")
                    measured.append(measure(text, updates, repeats, bandwidth))
                    bar.update()
    return measured


def _names() -> list[str]:
    """Every rule that stands for itself."""
    from fedseca import aggregators

    return [name for name in aggregators.__all__ if name != "PreAggregated"]


def every_rule() -> list[str]:
    """Every rule with its defaults, and one behind a step that mixes neighbours."""
    return [*_names(), "NNM+TrimmedMean"]


def build(text: str) -> "VectorAggregator":
    """The rule that ``STEP+CLASS:OPTION=VALUE,OPTION=VALUE`` names.

    Raises:
        UsageError: A name or an option is unknown, or a value does not fit.
    """
    from fedseca import aggregators, pre_aggregation

    *before, last = text.split("+")
    steps = [_instance(step, STEPS, pre_aggregation, text) for step in before]
    rule = _instance(last, _names(), aggregators, text)
    return aggregators.PreAggregated(steps, rule) if steps else rule


def _instance(text: str, known: Sequence[str], module: Any, whole: str) -> Any:
    import yaml
    from jsonargparse import ArgumentError, ArgumentParser

    from shared.wrong_options import explain

    name, _, settings = text.partition(":")
    if name not in known:
        raise UsageError(f"--rules must name server rules, got {name!r} in {whole!r}; {nearest(name, known)}")
    pairs = [setting.partition("=") for setting in settings.split(",") if setting]
    if not all(equals and value for _, equals, value in pairs):
        raise UsageError(f"--rules must hold CLASS or CLASS:OPTION=VALUE, got {whole!r}")
    options = {option: yaml.safe_load(value) for option, _, value in pairs}
    parser = ArgumentParser(exit_on_error=False)
    takes = parser.add_class_arguments(getattr(module, name), fail_untyped=False)
    for option in options:
        if option not in takes:
            raise UsageError(f"--rules: {option} is no option of {name}; {nearest(option, takes)}")
    try:
        return getattr(module, name)(**parser.parse_object(options).as_dict())
    except ArgumentError as error:
        raise UsageError(f"--rules: in {whole!r} {explain(error, parser).removeprefix('--')}") from error


def measure(text: str, updates: Any, repeats: int, bandwidth: float) -> Measurement:
    """One rule on one matrix of uploads.

    Args:
        text: The rule, see :func:`build`.
        updates: ``(K, d)`` float32.
        repeats: How often.
        bandwidth: GB/s of copying memory.
    """
    import math

    import torch

    from shared.measurement import can_measure_peak, cpu_and_wall, median_interval, peak_growth

    k, d = updates.shape
    kind = updates.device.type
    row: dict[str, Any] = {"rule": text, "clients": k, "coordinates": d, "device": kind}
    row |= {"threads": torch.get_num_threads(), "repeats": repeats, "copy_gb_s": round(bandwidth, 2)}
    rule = build(text).to(updates.device)
    try:
        rule.check(k)
    except UsageError as error:
        return Measurement(**row, note=f"not run: {error}")
    rule.setup(d, updates.device)
    generator = torch.Generator().manual_seed(d)
    origin, reference = (0.01 * torch.randn(2, d, generator=generator)).to(updates.device)
    note = "given a random clean update" if rule.needs_reference else ""
    clean = reference if rule.needs_reference else None

    def call() -> object:
        return rule(updates, origin=origin, reference=clean)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice about hostile clients, of which there are none
        try:
            for _ in range(WARM_UP):
                call()
            calls = max(1, math.ceil(SAMPLE_S / max(cpu_and_wall(call)[1], 1e-9)))
            samples = [cpu_and_wall(call, calls) for _ in range(repeats)]
            extra = peak_growth(call, kind) if can_measure_peak(kind) else None
        except torch.OutOfMemoryError:
            return Measurement(**row, note="not run: the memory of the GPU is too small")
    for name, values in zip(("cpu", "wall"), zip(*samples, strict=True), strict=True):
        low, high = median_interval(values)
        row |= {f"{name}_ms": 1e3 * median(values), f"{name}_low_ms": 1e3 * low, f"{name}_high_ms": 1e3 * high}
    size = 4 * k * d
    return Measurement(
        **row,
        gb_s=size / (row["wall_ms"] * 1e6),
        extra_of_input=None if extra is None else extra / size,
        note=note,
    )


def table(measured: Sequence[Measurement]) -> str:
    """The measurements as a terminal shows them, and below them what was not run and why."""
    from shared.text_table import text_table

    header = ["rule", "K", "d", "wall ms", "95 %", "CPU ms", "95 %", "GB/s", "of copying", "extra memory"]
    rows = []
    for m in measured:
        cells = [_NONE] * 7
        if m.wall_ms is not None and m.gb_s is not None and m.copy_gb_s is not None:
            cells = [
                *(_digits(m.wall_ms), f"{_digits(m.wall_low_ms)} to {_digits(m.wall_high_ms)}"),
                *(_digits(m.cpu_ms), f"{_digits(m.cpu_low_ms)} to {_digits(m.cpu_high_ms)}"),
                *(f"{m.gb_s:.2f}", f"{100 * m.gb_s / m.copy_gb_s:.0f} %"),
                _NONE if m.extra_of_input is None else f"{m.extra_of_input:.2f} x input",
            ]
        rows.append([m.rule, str(m.clients), f"{m.coordinates:,}", *cells])
    notes = dict.fromkeys(f"{m.rule}, K = {m.clients}: {m.note}" for m in measured if m.note)
    if any(m.wall_ms is not None and m.extra_of_input is None for m in measured):
        notes["extra memory: measured on Linux and on GPUs alone"] = None
    waits = [m.wall_ms / m.cpu_ms for m in measured if m.wall_ms and m.cpu_ms and m.device == "cpu"]
    if waits and median(waits) > BUSY:
        notes[
            f"the machine was busy with something else: times of the clock are {median(waits):.1f} times those of the "
            "CPU, which are the ones to trust"
        ] = None
    return "\n".join([text_table(header, rows), *([""] if notes else []), *notes])


def _digits(value: float | None) -> str:
    """Three significant digits."""
    return _NONE if value is None else f"{value:.3g}" if value < 999.5 else f"{value:.0f}"


def write_csv(measured: Sequence[Measurement], path: Path) -> Path:
    """One line per measurement; under another name first, then renamed."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Measurement)], lineterminator="\n")
    writer.writeheader()
    for row in measured:
        values = asdict(row).items()
        writer.writerow({name: f"{value:.6g}" if isinstance(value, float) else value for name, value in values})
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text.getvalue(), encoding="utf-8")
    temporary.replace(path)
    return path


def picture(measured: Sequence[Measurement]) -> Any:
    """Time of the clock over d, a panel per K and a line per rule."""
    from shared.plots import Curve, scaling

    panels: dict[str, dict[str, Curve]] = {}
    for k in dict.fromkeys(m.clients for m in measured):
        for rule in dict.fromkeys(m.rule for m in measured):
            points = {m.coordinates: m.wall_ms for m in measured if (m.clients, m.rule) == (k, rule) and m.wall_ms}
            if points:
                xs = sorted(points)
                panels.setdefault(f"K = {k} clients", {})[rule] = Curve([points[x] for x in xs], x=xs)
    return scaling(panels, x_label="coordinates d", y_label="milliseconds a call")
