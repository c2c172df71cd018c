"""``usssl embed``: features of pictures."""

from typing import Literal

from shared.commands import run_function


def run(words: list[str]) -> None:
    """``usssl embed --pictures DIR --out FILE``."""

    def embed(
        pictures: str,
        out: str,
        weights: str = "last",
        image_size: int | None = None,
        resize: Literal["reference", "stretch", "letterbox"] = "stretch",
        batch_size: int = 64,
        root: str = "runs",
    ) -> None:
        """Write the features of every picture below a folder.

        Args:
            pictures: A picture or a folder of them.
            out: File to write, ending in .npz: features (N, F) float32 and files (N,).
            weights: Checkpoint of pretrain or finetune, or any file of a backbone; last is the newest pretraining.
            image_size: Height and width that pictures are brought to; by default that of the run.
            resize: How pictures become square.
            batch_size: Pictures at a time.
            root: Folder of all runs.
        """
        import numpy as np
        import torch

        from shared.errors import UsageError
        from shared.outputs import output_file
        from usssl.pictures import Pictures
        from usssl.trained import backbone_of, trained_size, weights_file

        path = output_file(out, ".npz")
        for option, value, least in (("image_size", image_size, 16), ("batch_size", batch_size, 1)):
            if value is not None and value < least:
                raise UsageError(f"--{option} must be at least {least}, got {value}")
        source = weights_file(weights, root)
        data = Pictures(pictures, trained_size(source, image_size), resize)
        backbone = backbone_of(source)
        with torch.no_grad():
            features = torch.cat([backbone.features(batch) for batch in data.batches(batch_size)])
        temporary = path.with_name(f"tmp-{path.name}")
        np.savez(temporary, features=features.numpy(), files=np.array(data.names))
        temporary.replace(path)
        print(f"{path}: {len(features)} x {features.shape[1]} features of {backbone.name} ({source})")

    run_function("usssl", embed, words)
