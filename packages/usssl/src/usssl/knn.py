"""``usssl knn``: how well nearest neighbours tell the classes from a backbone's features."""

from typing import Any

HELP = """\
usage: usssl knn [--k K] [--model.init WEIGHTS] [--data.... as for finetune]

Classify every test image by a vote of its nearest training images in the features of a backbone, and print the scores
with intervals by patient. Nothing is trained.

options:
  --k K               Neighbours that vote (20).
  --model.init W      As for finetune: a file, imagenet, random or last; by default the newest pretraining.
  ...                 Options of finetune's data, such as --data.source and --data.fraction.

examples:
  usssl knn
  usssl knn --model.init backbone.safetensors --data.fraction 10"""


def run(words: list[str]) -> None:
    """``usssl knn [options]``."""
    if any(word in ("-h", "--help") for word in words):
        print(HELP)
        return
    import torch
    from lightning.pytorch.cli import LightningArgumentParser
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    from shared.errors import UsageError
    from shared.metrics.classification import accuracy, balanced_accuracy, macro_f1
    from usssl.finetuning import Finetuning, intervals_by_patient
    from usssl.labelled import PlaneDataModule
    from usssl.online_probe import features_of, nearest_neighbours
    from usssl.training import FinetuneCli, UltrasoundTrainer, choose_init

    class Options(FinetuneCli):
        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            super().add_arguments_to_parser(parser)
            parser.add_argument("--k", type=int, default=20)

    options = Options(
        "usssl", Finetuning, PlaneDataModule, ["finetune", *words[1:]], parse_only=True, trainer_class=UltrasoundTrainer
    )
    chosen = options.config["finetune"]
    if chosen.k < 1:
        raise UsageError(f"--k must be at least 1, got {chosen.k}")
    choose_init(chosen)
    data = PlaneDataModule(**options.part("data"))
    data.setup()
    told: dict[str, Any] = options.part("model")
    facts = (data.num_classes, data.class_names, data.class_counts)
    model = Finetuning(*facts, init=told["init"], backbone=told["backbone"], seed=told["seed"])
    backbone, device = model.network.backbone, torch.device("cpu")
    support, labels = features_of(backbone, data.plain_dataloader("train"), device)
    query, truth = features_of(backbone, data.plain_dataloader("test"), device)
    predicted = nearest_neighbours(support, labels, query, data.num_classes, chosen.k)
    confusion = multiclass_confusion_matrix(predicted, truth, data.num_classes)
    low, high = intervals_by_patient(truth, predicted, data.num_classes, data.patients("test"))["macro_f1"]
    print(
        f"{min(chosen.k, len(support))} nearest of {len(support)} training images: macro-F1 "
        f"{float(macro_f1(confusion)):.3f} (95 % CI {low:.3f} to {high:.3f}), balanced accuracy "
        f"{float(balanced_accuracy(confusion)):.3f}, accuracy {float(accuracy(confusion)):.3f} on {len(truth)} test "
        f"images, {data.provenance} data ({data.data_name}), pretrained: {model.pretrained}"
    )
