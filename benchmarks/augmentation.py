"""CPU time of augmenting batches in torch, against the same steps one window at a time with PIL and scipy.

    python benchmarks/augmentation.py [--quick] [--out benchmarks/results/augmentation.json]

24 windows of 5 slices, one thread. Both draw from the same distributions and return new arrays; pictures have
their final size, so that neither resizes. The whole comparison is made three times, because its runs differ by more
than their intervals say.

The floor: a picture is read and written once, with its labels (10 bytes a pixel and slice), at the bandwidth of a
copy. What stands between is bilinear interpolation, four values gathered per pixel.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from fedsam.augmentation import BatchAugmentation, SampleAugmentation
from paired import as_dict, compare, copy_bandwidth, table, write

WINDOWS = 24
PROMISED = 5.0
RUNS = 3
PAIRS = 63  # what is drawn differs from call to call, so that few pairs say little


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one size, three pairs: does it run?")
    parser.add_argument("--out", type=Path, help="where to write the JSON file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    bandwidth = copy_bandwidth()
    for size in (96,) if options.quick else (96, 224) * RUNS:
        rng = np.random.default_rng(0)
        noise = gaussian_filter(rng.standard_normal((WINDOWS, 5, size, size)), (0, 0, 4, 4)).astype(np.float32)
        images = (noise - noise.min()) / (noise.max() - noise.min())
        labels = (images > 0.6).astype(np.uint8)
        batch, batch_labels = torch.from_numpy(images), torch.from_numpy(labels)
        generator = torch.Generator().manual_seed(0)
        fast, plain = BatchAugmentation(), SampleAugmentation(size)
        timed = compare(
            lambda a=fast, x=batch, y=batch_labels, g=generator: a(x, y, g),  # type: ignore[misc]
            lambda a=plain, x=images, y=labels, r=rng: [a(*pair, r) for pair in zip(x, y, strict=True)],  # type: ignore[misc]
            3 if options.quick else PAIRS,
            budget_s=90,
        )
        row = {
            "size": size,
            "windows": WINDOWS,
            **as_dict(timed),
            "floor_s": round(WINDOWS * 5 * size**2 * 10 / bandwidth, 6),
            "promised": PROMISED,
            "kept": timed.low >= PROMISED,
        }
        results.append(row)
    header = ["size", "ours ms", "peer ms", "floor ms", "speed-up", "95 %", "promised"]
    rows = [
        [
            str(row["size"]),
            f"{1e3 * row['ours_cpu_s']:.1f}",
            f"{1e3 * row['peer_cpu_s']:.1f}",
            f"{1e3 * row['floor_s']:.1f}",
            f"{row['speedup']:.2f}",
            f"{row['low']:.2f}-{row['high']:.2f} ({row['pairs']})",
            f"{row['promised']:.0f} {'kept' if row['kept'] else 'MISSED'}",
        ]
        for row in results
    ]
    print(table(header, rows))
    if options.out:
        write(options.out, "augmentation of 24 windows of 5 slices: CPU seconds, one thread", results)


if __name__ == "__main__":
    main()
