"""CLIP's tokenizer as files of Hugging Face, from the vocabulary inside open_clip."""

import json
from pathlib import Path
from typing import Any

from transformers import CLIPTokenizer

from finelip.tokenizer import EOS, SOT, vocabulary
from shared.atomic import write_text

START, END = "<|startoftext|>", "<|endoftext|>"
"""Hugging Face's names of the two tokens."""


def write_tokenizer(folder: Path, context_length: int) -> None:
    """Write the tokenizer for texts of so many tokens into a folder that exists."""
    bpe = vocabulary()
    vocab = {token: number for token, number in bpe.encoder.items() if number < SOT} | {START: SOT, END: EOS}
    merges = sorted(bpe.bpe_ranks, key=bpe.bpe_ranks.__getitem__)
    pairs: list[Any] = [tuple(pair) for pair in merges]  # what the tokenizers library takes
    CLIPTokenizer(vocab, pairs, model_max_length=context_length).save_pretrained(folder)
    # What readers without the tokenizers library look for.
    write_text(folder / "vocab.json", json.dumps(vocab, ensure_ascii=False))
    write_text(folder / "merges.txt", "\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)]) + "\n")
