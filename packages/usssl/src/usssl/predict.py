"""``usssl predict``: classes of pictures."""

from shared.commands import run_function


def run(words: list[str]) -> None:
    """``usssl predict --pictures DIR``."""

    def predict(
        pictures: str, out: str = "predictions.csv", ckpt_path: str = "last", name: str = "finetune", root: str = "runs"
    ) -> None:
        """Write the class of every picture below a folder, with the probability of each class.

        The training data need not be at hand. Not a medical device.

        Args:
            pictures: A picture or a folder of them.
            out: CSV file to write.
            ckpt_path: Checkpoint of finetune; last is the one that the newest run is judged by.
            name: Name of that run.
            root: Folder of all runs.
        """
        import csv
        import io
        from pathlib import Path

        import torch

        from shared.atomic import write_text
        from shared.errors import UsageError
        from shared.outputs import output_file
        from usssl.pictures import Pictures
        from usssl.runs import newest_checkpoint
        from usssl.trained import classifier_of

        written = output_file(out)
        path = newest_checkpoint(Path(root), "finetune", name) if ckpt_path == "last" else Path(ckpt_path).expanduser()
        if path is None:
            raise UsageError(f"--ckpt_path last needs a run of usssl finetune, found none in {root}/usssl/{name}")
        trained = classifier_of(path)
        data = Pictures(pictures, trained.record["image_size"], trained.record["resize"])
        with torch.no_grad():
            probabilities = torch.cat([trained.network(batch).softmax(1) for batch in data.batches()])
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["file", "class", *trained.class_names])
        for file, row in zip(data.names, probabilities.tolist(), strict=True):
            best = trained.class_names[max(range(len(row)), key=row.__getitem__)]
            writer.writerow([file, best, *(f"{value:.6f}" for value in row)])
        write_text(written, text.getvalue())
        print(f"{out}: {len(data)} pictures, classified by {path}")

    run_function("usssl", predict, words)
