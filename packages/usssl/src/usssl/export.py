"""``usssl export``: a backbone as one file to pass on."""

from shared.commands import run_function


def run(words: list[str]) -> None:
    """``usssl export --out FILE``."""

    def export(out: str, weights: str = "last", root: str = "runs") -> None:
        """Write a backbone under the names of torchvision or timm; heads and momentum copies are left out.

        ``usssl finetune --model.init FILE`` starts from it, and so does any program that reads safetensors.

        Args:
            out: File to write, ending in .safetensors.
            weights: Checkpoint of pretrain or finetune, or any file of a backbone; last is the newest pretraining.
            root: Folder of all runs.
        """
        import json
        from pathlib import Path

        from shared.checkpoints import save_tensors, sha256_of
        from shared.errors import UsageError
        from usssl.initialise import load_backbone, patients_seen
        from usssl.trained import weights_file

        path = Path(out).expanduser()
        if path.suffix != ".safetensors":
            raise UsageError(f"--out must end in .safetensors, got {out}")
        source = weights_file(weights, root)
        name, tensors = load_backbone(source, "--weights")
        path.parent.mkdir(parents=True, exist_ok=True)
        seen = patients_seen(source, "--weights")
        save_tensors(path, tensors, {"backbone": name, "patients": json.dumps(seen)})
        print(f"{path}: {name} of {source}, {len(tensors)} tensors, SHA-256 {sha256_of(path)}")

    run_function("usssl", export, words)
