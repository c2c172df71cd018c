"""A training step of each method against the same step put together from lightly's parts.

    python benchmarks/ssl_step.py [--quick] [--device cuda] [--out benchmarks/results/ssl_step.json]

Forward, backward, optimiser, momentum copies and queue on the same random batch, with the same backbone, heads of the
same widths and two threads: ours as :class:`usssl.pretraining.Pretraining` takes it, lightly's as its examples do
(torchvision's ResNet, lightly's heads, losses, LARS and momentum update). Steps alternate in one process and their CPU
time is compared. Peak memory is growth over the resident size before the model is built. lightly has no convolutional
autoencoder, so the reconstructing methods have a peer of plain layers: the same layers, default memory format. Ours
keeps channels side by side, which is faster from about 96 px on and slower on the tiny images of --quick.
"""

import argparse
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from lightly import loss as losses
from lightly.models.modules import heads
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.utils.lars import LARS
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from paired import as_dict, compare, device, machine, peak_growth, table, write
from usssl.backbones import build_backbone
from usssl.decoder import mirrored_decoder
from usssl.methods import METHODS
from usssl.progress import Progress

Step = Callable[[], object]
LIMIT = 1.1  # CPU seconds of ours over the peer's: most of both is the same library calls
BUDGET_S = 45.0  # of each method
NAMES = ("autoencoder", "inpaint", "simclr", "moco", "byol", "vicreg", "barlowtwins")


def images(batch: int, side: int, where: str) -> tuple[Tensor, Tensor]:
    """Two views."""
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(batch, 3, side, side, generator=generator).to(where) for _ in range(2))
    return first, second


def ours(name: str, backbone: str, batch: int, side: int, width: int, where: str) -> Step:
    """Our step."""
    wide = {"hidden": width, "width": width} if name in ("vicreg", "barlowtwins") else {}
    method = METHODS[name](build_backbone(backbone), **wide).to(where)
    optimizer = method.recipe().optimizer([p for p in method.parameters() if p.requires_grad])
    views: Any = images(batch, side, where)
    given = views[:1] if name == "autoencoder" else views

    def step() -> None:
        method.before_forward(Progress(0, 2, 0, 2))
        optimizer.zero_grad()
        method.loss(given).backward()
        optimizer.step()
        method.after_step()

    return step


class LightlyModel(nn.Module):
    """Backbone and head, as lightly's examples have them."""

    def __init__(self, backbone: str, head: Callable[[int], nn.Module]) -> None:
        super().__init__()
        network = models.get_model(backbone, weights=None, zero_init_residual=True)
        width = network.fc.in_features
        self.backbone = nn.Sequential(*list(network.children())[:-1])
        self.head = head(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x).flatten(1))


def simclr_head(width: int) -> nn.Module:
    """The reference's layers from lightly's blocks."""
    return heads.ProjectionHead([(width, 512, nn.BatchNorm1d(512), nn.ReLU(), True), (512, 128, None, None, True)])


def lightly(name: str, backbone: str, batch: int, side: int, width: int, where: str) -> Step:
    """The step from lightly's parts."""
    v1, v2 = images(batch, side, where)
    criterion: nn.Module
    parts: list[nn.Module] = []
    if name in ("autoencoder", "inpaint"):
        encoder = build_backbone(backbone, channels_last=False).to(where)
        decoder = mirrored_decoder(encoder, channels_last=False).to(where)
        parts = [encoder, decoder]
        target = v1 if name == "autoencoder" else v2

        def value() -> Tensor:
            return F.mse_loss(decoder(encoder.feature_map(v1)), target)

    elif name in ("vicreg", "barlowtwins"):
        model = LightlyModel(backbone, lambda features: heads.BarlowTwinsProjectionHead(features, width, width))
        model.to(where)
        criterion = losses.VICRegLoss() if name == "vicreg" else losses.BarlowTwinsLoss(0.0051)
        parts = [model]

        def value() -> Tensor:
            return criterion(model(v1), model(v2))

    elif name == "simclr":
        model = LightlyModel(backbone, simclr_head).to(where)
        criterion = losses.NTXentLoss(0.5)
        parts = [model]

        def value() -> Tensor:
            return criterion(model(v1), model(v2))

    elif name == "moco":
        model = LightlyModel(backbone, lambda features: heads.MoCoProjectionHead(features, 2048, 128)).to(where)
        copy = deepcopy(model)
        deactivate_requires_grad(copy)
        criterion = losses.NTXentLoss(0.5, memory_bank_size=(4096, 128)).to(where)
        parts = [model]

        def value() -> Tensor:
            update_momentum(model, copy, 0.996)
            with torch.no_grad():
                key = copy(v2)
            return criterion(model(v1), key)

    else:
        model = LightlyModel(backbone, lambda features: heads.BYOLProjectionHead(features, 1024, 256)).to(where)
        predictor = heads.BYOLPredictionHead(256, 1024, 256).to(where)
        copy = deepcopy(model)
        deactivate_requires_grad(copy)
        criterion = losses.NegativeCosineSimilarity()
        parts = [model, predictor]

        def value() -> Tensor:
            update_momentum(model, copy, 0.996)
            with torch.no_grad():
                t1, t2 = copy(v1), copy(v2)
            return (criterion(predictor(model(v1)), t2) + criterion(predictor(model(v2)), t1)) / 2

    trained = [p for part in parts for p in part.parameters()]
    optimizer: torch.optim.Optimizer
    if name in ("autoencoder", "inpaint"):
        optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=1e-6)
    elif name == "moco":
        optimizer = torch.optim.SGD(trained, lr=0.03, momentum=0.9, weight_decay=1e-4)
    else:
        optimizer = LARS(trained, lr=0.2, momentum=0.9, weight_decay=1e-6)

    def step() -> None:
        optimizer.zero_grad()
        value().backward()
        optimizer.step()

    return step


def measure(backbone: str, batch: int, side: int, width: int, pairs: int, where: str) -> list[dict[str, Any]]:
    """One row a method."""
    results = []
    for name in NAMES:
        setting = (name, backbone, batch, side, width, where)

        def two_steps(build: Callable[..., Step], setting: tuple[Any, ...] = setting) -> None:
            step = build(*setting)
            step()
            step()

        memory, peer_memory = (peak_growth(lambda b=build: two_steps(b), where) for build in (ours, lightly))  # type: ignore[misc]
        timed = compare(ours(*setting), lightly(*setting), pairs, budget_s=BUDGET_S, device=where)
        results.append(
            {"method": name, "backbone": backbone, "batch": batch, "side": side, "projector": width}
            | as_dict(timed)
            | {
                "time_ratio": round(1 / timed.speedup, 3),
                "limit": LIMIT,
                "holds": 1 / timed.low <= LIMIT,
                "ours_peak_mb": round(memory / 1e6),
                "peer_peak_mb": round(peer_memory / 1e6),
                "peer": "plain layers" if name in ("autoencoder", "inpaint") else "lightly",
            }
        )
    return results


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three pairs at 32 px and a projector of 256")
    parser.add_argument("--pairs", type=int, default=21, help="pairs; fewer where a pair takes long")
    parser.add_argument("--device", type=device, default="cpu", help="cpu, or a GPU such as cuda")
    parser.add_argument("--out", type=Path, help="where to write the numbers as JSON")
    options = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    batch, side, width, pairs = (4, 32, 256, 3) if options.quick else (32, 96, 2048, options.pairs)
    results = measure("resnet18", batch, side, width, pairs, options.device)
    header = ["method", "peer", "ours s", "peer s", "ratio", "95 %", "pairs", "limit", "ours MB", "peer MB"]
    rows = [
        [
            r["method"],
            r["peer"],
            f"{r['ours_cpu_s']:.3f}",
            f"{r['peer_cpu_s']:.3f}",
            f"{r['time_ratio']:.3f}",
            f"{1 / r['high']:.3f} to {1 / r['low']:.3f}",
            str(r["pairs"]),
            f"{r['limit']:.2f}",
            str(r["ours_peak_mb"]),
            str(r["peer_peak_mb"]),
        ]
        for r in results
    ]
    print(table(header, rows))
    print(machine())
    if options.out:
        about = "training steps of the self-supervised methods against lightly's parts"
        write(options.out, about, results, options.device)


if __name__ == "__main__":
    main()
