"""What a training step of FLAP-SAM costs beside full fine-tuning, and beside transformers with peft.

    python benchmarks/sam_step.py [--quick] [--device cuda] [--out benchmarks/results/sam_step.json]

One sample of five slices: forward, backward and AdamW, random weights. The first row trains the same ViT-B at 224
pixels as FLAP-SAM (LoRA of rank 32 and the output layers) and whole. The second has the published four-fold decoder on
both sides, since transformers has no other: ours with FLAP-SAM's trainable set, and ``SamModel`` with peft's LoRA of
rank 32 on the fused projection and on the decoder's query and value projections, plus the same output layers. That is
the same number of trained values. Steps alternate in one process and their CPU time is compared. Peak memory is growth
over the resident size before the model is built, optimiser and gradients included.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import SamConfig, SamModel

from fedsam.sam import Sam
from paired import as_dict, compare, device, machine, peak_growth, table, write

SLICES = 5
RANK = 32
HEADS = ("upscale_", "output_hypernetworks_mlps", "mask_tokens")

Step = Callable[[], object]


def step_of(model: nn.Module, loss: Callable[[Tensor], Tensor], image_size: int, where: str) -> Step:
    """A training step on fixed random slices."""
    images = torch.rand(SLICES, 3, image_size, image_size).to(where)
    model.to(where)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=8e-4, weight_decay=0.1)

    def step() -> None:
        optimizer.zero_grad()
        loss(images).backward()
        optimizer.step()

    return step


def ours(size: str, image_size: int, where: str, variant: str, classes: int, upsampling: Any) -> Step:
    """Our model; the loss is the mean cross-entropy with random labels at the logits' resolution."""
    model = Sam(size, image_size, classes, variant, rank=RANK, upsampling=upsampling)
    side = image_size * upsampling // 16
    labels = torch.randint(classes + 1, (SLICES, side, side)).to(where)
    return step_of(model, lambda images: F.cross_entropy(model.low_res_logits(images), labels), image_size, where)


def transformers_peft(size: str, image_size: int, where: str) -> Step:
    """``SamModel`` of the same size with peft's LoRA and the same output layers to train."""
    with torch.device("meta"):
        m = Sam(size, image_size).measures
    config = SamConfig(
        vision_config={
            "hidden_size": m.width,
            "num_hidden_layers": m.depth,
            "num_attention_heads": m.heads,
            "mlp_ratio": m.mlp_ratio,
            "window_size": m.window,
            "global_attn_indexes": list(m.global_blocks),
            "image_size": image_size,
            "output_channels": m.prompt_width,
            "num_pos_feats": m.prompt_width // 2,
        },
        prompt_encoder_config={"hidden_size": m.prompt_width, "image_size": image_size},
        mask_decoder_config={
            "hidden_size": m.prompt_width,
            "mlp_dim": m.decoder_mlp,
            "num_attention_heads": m.decoder_heads,
            "iou_head_hidden_dim": m.prompt_width,
        },
    )
    lora = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["qkv", "q_proj", "v_proj"])
    model = get_peft_model(SamModel(config), lora)
    for name, parameter in model.named_parameters():
        if any(head in name for head in HEADS):
            parameter.requires_grad_(True)
    side = image_size // 4
    labels = torch.randint(3, (SLICES, side, side)).to(where)  # it returns three of its four masks

    def loss(images: Tensor) -> Tensor:
        return F.cross_entropy(model(pixel_values=images, multimask_output=True).pred_masks[:, 0], labels)

    return step_of(model, loss, image_size, where)


def measure(size: str, image_size: int, pairs: int, where: str) -> list[dict[str, Any]]:
    """Both comparisons."""

    def flap() -> Step:
        return ours(size, image_size, where, "flap", 2, 16)

    def full() -> Step:
        return ours(size, image_size, where, "full", 2, 16)

    def stock() -> Step:
        return ours(size, image_size, where, "flap", 3, 4)

    def peer() -> Step:
        return transformers_peft(size, image_size, where)

    cases = [
        ("flap", "full fine-tuning", flap, full, 0.80, 0.60),
        ("flap, 4x decoder", "transformers + peft", stock, peer, 1.0, None),
    ]
    results = []
    for name, peer_name, build, build_peer, time_limit, memory_limit in cases:

        def two_steps(build: Callable[[], Step]) -> None:
            step = build()
            step()
            step()

        memory = [peak_growth(lambda build=make: two_steps(build), where) for make in (build, build_peer)]  # type: ignore[misc]
        timed = compare(build(), build_peer(), pairs, budget_s=300, device=where)
        ratio = 1 / timed.speedup
        results.append(
            {"case": name, "peer": peer_name, "size": size, "image_size": image_size, "slices": SLICES}
            | as_dict(timed)
            | {
                "time_ratio": round(ratio, 3),
                "time_limit": time_limit,
                "time_holds": 1 / timed.low <= time_limit,
                "ours_peak_mb": round(memory[0] / 1e6),
                "peer_peak_mb": round(memory[1] / 1e6),
                "memory_ratio": round(memory[0] / memory[1], 3),
                "memory_limit": memory_limit,
                "memory_holds": memory_limit is None or memory[0] <= memory_limit * memory[1],
            }
        )
    return results


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three pairs of size tiny in place of ViT-B")
    parser.add_argument("--pairs", type=int, default=63, help="pairs; a third of them where a pair takes long")
    parser.add_argument("--device", type=device, default="cpu", help="cpu, or a GPU such as cuda")
    parser.add_argument("--out", type=Path, help="where to write the numbers as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    where = options.device
    results = measure("tiny", 96, 3, where) if options.quick else measure("vit_b", 224, options.pairs, where)
    header = [
        "case",
        "peer",
        "ours s",
        "peer s",
        "ratio",
        "95 %",
        "pairs",
        "limit",
        "ours MB",
        "peer MB",
        "ratio",
        "limit",
    ]
    rows = [
        [
            r["case"],
            r["peer"],
            f"{r['ours_cpu_s']:.3f}",
            f"{r['peer_cpu_s']:.3f}",
            f"{r['time_ratio']:.3f}",
            f"{1 / r['high']:.3f} to {1 / r['low']:.3f}",
            str(r["pairs"]),
            f"{r['time_limit']:.2f}",
            str(r["ours_peak_mb"]),
            str(r["peer_peak_mb"]),
            f"{r['memory_ratio']:.3f}",
            "" if r["memory_limit"] is None else f"{r['memory_limit']:.2f}",
        ]
        for r in results
    ]
    print(table(header, rows))
    print(machine())
    if options.out:
        about = "training steps of FLAP-SAM against full fine-tuning and transformers with peft"
        write(options.out, about, results, options.device)


if __name__ == "__main__":
    main()
