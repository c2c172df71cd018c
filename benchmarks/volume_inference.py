"""CPU time of segmenting a volume slice by slice, against fusing five predictions of every slice.

    python benchmarks/volume_inference.py [--quick] [--out benchmarks/results/volume_inference.json]

A volume of 64 x 256 x 256 voxels, a vision transformer on 224 x 224 pictures with three classes as the network, both
with one scaling for the whole volume, where the two must agree. The network is trained for a few steps on the volume
itself, so that it draws shapes and not noise. Beside the times stand the Dice of one result against the other and the
memory that each takes beyond the volume and the network.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from fedsam.inference import VolumePredictor
from fedsam.losses import CrossEntropyDiceLoss
from paired import as_dict, compare, peak_growth, table, write
from shared.metrics.volume import dice_score

CLASSES = 3
PROMISED = 4.0
AGREEMENT = 0.999


class SmallTransformer(nn.Module):
    """Patches of 16, two transformer layers, and a transposed convolution back to pixels."""

    def __init__(self, width: int = 96, depth: int = 2) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.up = nn.ConvTranspose2d(width, 16, 16, 16)
        self.head = nn.Conv2d(19, CLASSES, 5, padding=2)

    def forward(self, images: Tensor, slices: int = 1) -> Tensor:
        tokens = self.patches(images)
        mixed = self.layers(tokens.flatten(2).mT).mT.view_as(tokens)
        return self.head(torch.cat([images, self.up(mixed)], 1))


def volume(depth: int, side: int) -> tuple[Tensor, Tensor]:
    """Smooth shapes with noise, and their labels."""
    rng = np.random.default_rng(0)
    smooth = gaussian_filter(rng.standard_normal((depth, side, side)).astype(np.float32), (3, 12, 12))
    smooth /= smooth.std()
    labels = np.digitize(smooth, [0.5, 1.5])
    noisy = 100 * smooth + 10 * rng.standard_normal(smooth.shape).astype(np.float32)
    return torch.from_numpy(noisy.astype(np.float32)), torch.from_numpy(labels)


def trained(image: Tensor, labels: Tensor, size: int, steps: int) -> SmallTransformer:
    """A network that has seen crops of the volume."""
    torch.manual_seed(0)
    network, loss = SmallTransformer(), CrossEntropyDiceLoss()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    scaled = (image - image.min()) / (image.max() - image.min())
    for step in range(steps):
        chosen = torch.arange(4) * len(image) // 4 + step % (len(image) // 4)
        pictures = scaled[chosen, :size, :size][:, None].expand(-1, 3, -1, -1)
        optimizer.zero_grad()
        loss(network(pictures), labels[chosen, :size, :size]).backward()
        optimizer.step()
    return network.eval()


def agreement(a: Tensor, b: Tensor) -> float:
    """The least Dice of one result against the other over all classes."""
    sizes = [(int((a == c).sum()), int((b == c).sum()), int(((a == c) & (b == c)).sum())) for c in range(CLASSES)]
    return min(dice_score(*each) for each in sizes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small volume, three pairs: does it run?")
    parser.add_argument("--out", type=Path, help="where to write the JSON file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    depth, side, size = (12, 128, 96) if options.quick else (64, 256, 224)
    image, labels = volume(depth, side)
    network = trained(image, labels, size, 10 if options.quick else 60)
    fast, fused = (VolumePredictor(network, size, mode, scaling="volume") for mode in ("fast", "fused"))
    dice = agreement(fast(image), fused(image))
    truth = agreement(fast(image), labels)
    assert dice >= AGREEMENT, f"the two paths agree to a Dice of {dice} only"
    timed = compare(lambda: fast(image), lambda: fused(image), 3 if options.quick else 21, budget_s=180)
    result: dict[str, Any] = {
        "volume": [depth, side, side],
        "image_size": size,
        **as_dict(timed),
        "promised": PROMISED,
        "kept": timed.low >= PROMISED,
        "agreement": dice,
        "dice_of_truth": truth,
        "fast_extra_mb": round(peak_growth(lambda: fast(image)) / 1e6, 1),
        "fused_extra_mb": round(peak_growth(lambda: fused(image)) / 1e6, 1),
    }
    header = [
        "volume",
        "fast s",
        "fused s",
        "speed-up",
        "95 %",
        "promised",
        "agreement",
        "truth",
        "fast MB",
        "fused MB",
    ]
    row = [
        "x".join(map(str, result["volume"])),
        f"{timed.ours_cpu_s:.2f}",
        f"{timed.peer_cpu_s:.2f}",
        f"{timed.speedup:.2f}",
        f"{timed.low:.2f}-{timed.high:.2f} ({timed.pairs})",
        f"{PROMISED:.0f} {'kept' if result['kept'] else 'MISSED'}",
        f"{dice:.5f}",
        f"{truth:.3f}",
        str(result["fast_extra_mb"]),
        str(result["fused_extra_mb"]),
    ]
    print(table(header, [row]))
    if options.out:
        write(options.out, "segmenting a volume: CPU seconds, one thread", [result])


if __name__ == "__main__":
    main()
