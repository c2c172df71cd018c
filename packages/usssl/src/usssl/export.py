"""``usssl export``: a backbone as one file to pass on."""

from shared.commands import run_function


def run(words: list[str]) -> None:
    """``usssl export --out FILE``."""

    def export(out: str, weights: str = "last", root: str = "runs", patients: bool = True) -> None:
        """Write a backbone under the names of torchvision or timm, and a model card beside it.

        Heads and momentum copies are left out.

        ``usssl finetune --model.init FILE`` starts from it, and so does any program that reads safetensors.

        Args:
            out: File to write, ending in .safetensors.
            weights: Checkpoint of pretrain or finetune, or any file of a backbone; last is the newest pretraining.
            root: Folder of all runs.
            patients: Keep the pseudonyms of the patients of the pretraining, so that nobody is tested on them.
        """
        import json

        from shared.checkpoints import save_tensors, sha256_of
        from shared.model_card import write_card
        from shared.outputs import output_file
        from usssl.card import card_of
        from usssl.initialise import load_backbone, patients_seen
        from usssl.trained import weights_file

        path = output_file(out, ".safetensors")
        source = weights_file(weights, root)
        name, tensors = load_backbone(source, "--weights")
        seen = patients_seen(source, "--weights") if patients else {}
        save_tensors(path, tensors, {"backbone": name, "patients": json.dumps(seen)})
        print(f"{path}: {name} of {source}, {len(tensors)} tensors, SHA-256 {sha256_of(path)}")
        print(f"{write_card(path, card_of(path, name, source, seen))}: model card")

    run_function("usssl", export, words)
