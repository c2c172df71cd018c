"""Write benchmarks/README.md from the recorded results; the last step of `make bench`."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmark_sections import federated, long_captions, segmentation, self_supervised

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
HEAD = """# Benchmarks

Each script is one claim: `python benchmarks/NAME.py [--quick] [--out FILE]`; `make bench` runs them all and writes this
page from what they recorded. Times are CPU seconds of the process over all threads. A ratio is the
median over alternating pairs of ours and the peer's, with its 95 % interval; a limit is kept when the worse end of the
interval meets it. The machines are shared and noisy: quote ratios, not single times.
"""

RECORDS = (
    *(federated.aggregators, federated.rounds, segmentation.sam_round, federated.clients, federated.flower_load),
    *(segmentation.lora_aggregation, segmentation.augmentation, segmentation.volume_inference, segmentation.sam_step),
    *(self_supervised.ssl_losses, self_supervised.ssl_step, self_supervised.two_views, self_supervised.frame_reading),
    *(long_captions.clim, long_captions.text_lengths, long_captions.clip_step, long_captions.retrieval),
)
"""Sections of one recorded benchmark each, named after its script."""

STUDIES = (
    segmentation.hippocampus,
    self_supervised.starts,
    long_captions.ablations,
    federated.comparison,
    federated.battles,
)
"""Sections of what the packages' own commands wrote; empty where nothing is recorded."""


def recorded(results: Path) -> list[str]:
    """The sections of all recorded benchmarks."""
    files = ((section, results / f"{section.__name__}.json") for section in RECORDS)
    return [section(json.loads(file.read_text())) for section, file in files if file.exists()]


def studied(results: Path, studies: Sequence[Callable[[Path], str]] = STUDIES) -> list[str]:
    """The sections of all studies of which something is recorded."""
    return [section for study in studies if (section := study(results))]


def main() -> None:
    """Write the page."""
    results = BENCHMARKS / "results"
    (BENCHMARKS / "README.md").write_text("\n".join([HEAD, *recorded(results), *studied(results)]))


if __name__ == "__main__":
    main()
