"""``finelip predict``: which of some texts says what a picture shows."""

from shared.commands import run_function


def run(words: list[str]) -> None:
    """``finelip predict --pictures DIR --texts FILE``."""

    def predict(
        pictures: str,
        texts: str,
        out: str = "predictions.csv",
        top: int = 1,
        alpha: float | None = None,
        weights: str = "last",
        device: str = "auto",
        root: str = "runs",
    ) -> None:
        """Write the best of some texts for every picture, with global and fused score.

        For a few hundred texts and as many pictures as you like; larger sets of texts are for ``finelip encode``,
        ``index`` and ``retrieve``. Pictures that cannot be read are named and left out.

        Args:
            pictures: A picture, or a folder of them at any depth.
            texts: A text file with a text a line.
            out: CSV file to write: file, rank, text, global score, fused score.
            top: Texts for each picture.
            alpha: Weight of the global score in the fused one, by which texts are ranked; by default the model's.
            weights: Checkpoint of fit, or any file of a CLIP, Long-CLIP or FineLIP; last is the newest checkpoint.
            device: cpu, cuda, or auto.
            root: Folder of all runs.
        """
        import csv
        import io
        from pathlib import Path

        import torch

        from finelip.encoding import Encoder, cut_sentence, from_pictures, from_texts
        from finelip.index import exact_top
        from finelip.retrieval import check_numbers
        from finelip.scores import fuse_scores, global_scores
        from finelip.trained import trained_model
        from shared.atomic import write_text
        from shared.device import device_named
        from shared.errors import RunError
        from shared.outputs import output_file

        check_numbers(top, 0, alpha)
        path = output_file(out)
        seen = from_pictures(Path(pictures).expanduser())
        captions = from_texts(Path(texts).expanduser()).captions
        trained = trained_model(weights, root)
        model = trained.model
        where = device_named(device)
        encoder = Encoder(model, device=where)
        read = encoder.texts(captions)
        if encoder.truncated:
            print(cut_sentence(encoder.truncated, model.context_length))
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["file", "rank", "text", "global", "fused"])
        done = 0
        assert seen.picture is not None
        for start in range(0, len(seen.images), encoder.batch_size):
            names, batch = [], []
            for row in range(start, min(start + encoder.batch_size, len(seen.images))):
                try:
                    batch.append(seen.picture(row))
                    names.append(seen.images[row])
                except OSError as error:
                    print(f"left out: {error}")
            if not batch:
                continue
            found = encoder.images(batch)
            coarse = global_scores(found.vector, read.vector)
            with torch.no_grad():
                sets = (part.to(where) for part in (found.tokens, read.tokens, read.mask))
                local = model.local_scores(*sets).cpu()
            fused = fuse_scores(coarse, local, model.alpha if alpha is None else alpha)
            for name, first, second in zip(names, coarse, fused, strict=True):
                for rank, best in enumerate(exact_top(second, top).tolist(), 1):
                    writer.writerow([name, rank, captions[best], f"{first[best]:.6f}", f"{second[best]:.6f}"])
            done += len(names)
        if not done:
            raise RunError(f"none of the {len(seen.images)} pictures in {pictures} can be read")
        write_text(path, stream.getvalue())
        print(f"{path}: {done} pictures, the best {min(top, len(captions))} of {len(captions)} texts ({trained.path})")

    run_function("finelip", predict, words)
