"""``finelip stretch``: a CLIP that reads more tokens, and back."""

from typing import Literal

from shared.commands import run_function

Layout = Literal["openai", "open_clip", "hf"]


def run(words: list[str]) -> None:
    """``finelip stretch --weights IN --out OUT``."""

    def stretch(
        weights: str,
        out: str,
        layout: Layout = "openai",
        by: Literal["kps", "linear", "random"] = "kps",
        keep: int = 20,
        ratio: int = 4,
        back: bool = False,
        backbone: str | None = None,
        seed: int = 0,
    ) -> None:
        """Stretch the text positions of any CLIP: 77 become 248, or ``keep + ratio (77 - keep)``.

        Texts of up to ``keep + 1`` tokens, start and end included, keep their embeddings to the last bit. Nothing is
        trained: for that, ``finelip fit --model.init FILE`` stretches by itself.

        Args:
            weights: A CLIP, a Long-CLIP or a FineLIP: .safetensors, .pt, or a folder of Hugging Face.
            out: File to write, ending in .safetensors; for hf a folder that does not exist yet.
            layout: openai and open_clip are the same file; hf is a folder that transformers reads.
            by: kps keeps the first positions and interpolates the others; linear interpolates all; random draws them.
            keep: Positions that stay.
            ratio: New positions for each of the others.
            back: From the long table to the short one that kps with these keep and ratio had started from.
            backbone: Name of the architecture, such as ViT-B-16-quickgelu; by default what the file's shapes tell.
            seed: Of what random draws.
        """
        from pathlib import Path

        import torch

        from finelip.card import card_of
        from finelip.checkpoints.lengths import config_of, shrunk_clip, stretched_clip
        from finelip.checkpoints.read import read_clip
        from finelip.checkpoints.write import write_clip
        from shared.errors import UsageError
        from shared.model_card import write_card
        from shared.outputs import output_folder

        if back and by != "kps":
            raise UsageError(f"--back needs --by kps, for {by} leaves no row of the old table behind, got {by}")
        source, path = Path(weights).expanduser(), Path(out).expanduser()
        output_folder(path.parent)
        read = read_clip(source, "--weights")
        name, config = config_of(read, backbone)
        if back:
            model, lost = shrunk_clip(read, config, keep, ratio)
            told = f"{name} with {model.context_length} positions; {lost}"
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model = stretched_clip(read, config, by, keep, ratio)
            before = len(read.tensors["positional_embedding"])
            told = f"{name} with {model.context_length} positions, stretched from {before} by {by}"
            if before == model.context_length:
                told = f"{name}, which has {before} positions already: only the layout is new"
        write_clip(model, path, "huggingface" if layout == "hf" else layout)
        made_from = f"{source.name}, SHA-256 `{read.sha256}`"
        card = write_card(path, card_of(path, layout, model, told, made_from))
        print(f"{path}: {told}\n{card}: model card")

    run_function("finelip", stretch, words)
