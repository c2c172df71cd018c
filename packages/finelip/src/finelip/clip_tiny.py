"""The small CLIP that comes with this package: a file of the trained part of it, and how to make it whole."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from finelip.checkpoints.read import ClipWeights
from finelip.finelip import FineLIP
from finelip.towers import CLIP_TINY
from shared.checkpoints import load_tensors, save_tensors, sha256_of

SHIPPED = Path(__file__).with_name("weights") / "clip_tiny.safetensors"
"""The shipped weights of ``clip_tiny``, made by ``tools/pretrain_clip_tiny.py``; see the README beside them."""

LIMIT_BYTES = 3_000_000
ROWS_SEED = 73
ROW_STD = 0.02
TABLE, KEPT = "token_embedding.weight", "token_embedding.ids"


@cache
def untrained_rows(seed: int = ROWS_SEED) -> Tensor:
    """``(49408, W)`` float32 rows of a token table as they were before training, from the seed alone.

    The table does not fit into the file, and the pretraining has seen few of its tokens: the others mean nothing yet.
    """
    text = CLIP_TINY["text_cfg"]
    # The stream of RandomState is frozen for good, unlike that of numpy's newer generators and of torch's.
    drawn = np.random.RandomState(seed).standard_normal((text["vocab_size"], text["width"]))
    return torch.from_numpy((ROW_STD * drawn).astype(np.float32))


def export_tiny(model: FineLIP, kept: Sequence[int], out: Path, about: dict[str, str]) -> int:
    """Write a pretrained model in half precision.

    Args:
        model: Of 77 positions, all of them in the trained table, with a table of the kept tokens alone.
        kept: Ids of those tokens.
        out: The file.
        about: What to note in its head.

    Returns:
        Its size in bytes.

    Raises:
        ValueError: It would be larger than :data:`LIMIT_BYTES`.
    """
    tensors = {name: tensor.half() for name, tensor in model.state_dict().items()}
    tensors["positional_embedding"] = tensors.pop("positional_embedding_res")
    tensors[KEPT] = torch.tensor(kept, dtype=torch.int32)
    size = sum(tensor.nbytes for tensor in tensors.values())
    if size > LIMIT_BYTES:
        raise ValueError(f"the weights of clip_tiny must fit into {LIMIT_BYTES} bytes, got {size}")
    out.parent.mkdir(parents=True, exist_ok=True)
    head = {"backbone": CLIP_TINY, "rows_seed": ROWS_SEED}
    save_tensors(out, tensors, about | {"finelip": json.dumps(head)})
    return out.stat().st_size


def read_tiny(path: Path = SHIPPED) -> ClipWeights:
    """The weights of ``clip_tiny`` with the whole table of tokens, under OpenAI's names.

    Raises:
        UsageError: The file is missing or damaged.
    """
    tensors = {name: t.float() if t.is_floating_point() else t for name, t in load_tensors(path, "model.init").items()}
    with safe_open(path, "pt") as file:
        about: dict[str, Any] = json.loads(file.metadata()["finelip"])
    table = untrained_rows(about["rows_seed"]).clone()
    table[tensors.pop(KEPT).long()] = tensors[TABLE]
    tensors[TABLE] = table
    return ClipWeights(tensors, "openai", "quick_gelu", sha256_of(path), about)
