"""The ``usssl`` command."""

from collections.abc import Sequence

from shared.commands import Program, Verb

PROGRAM = Program(
    name="usssl",
    summary="pretraining on unlabelled ultrasound video, then classification of planes from few labels",
    verbs=(
        Verb("pretrain", "Train a backbone on video frames without labels.", "usssl.training:pretrain"),
        Verb("finetune", "Train a classifier of planes from a backbone, and test it.", "usssl.training:classify"),
        Verb("validate", "Score a classifier on the validation images.", "usssl.training:classify"),
        Verb("test", "Score a classifier on the test images.", "usssl.training:classify"),
        Verb("predict", "Classes of the pictures in a folder, as a table.", "usssl.predict:run"),
        Verb("embed", "Features of pictures or of the data of a run, as an array.", "usssl.embed:run"),
        Verb("knn", "How well nearest neighbours tell the classes from a backbone's features.", "usssl.knn:run"),
        Verb("export", "A backbone as one file under the names of torchvision or timm.", "usssl.export:run"),
        Verb("sweep", "Initial weights by mode, share of the labels and seed; resumable.", "usssl.sweep:run"),
        Verb("study", "More frames or more different ones; finding a clip again by another frame.", "usssl.study:run"),
        Verb("prepare", "Write the phantom in any layout; index and check public data.", "usssl.prepare:run"),
    ),
    examples=(
        "usssl pretrain                                # Barlow Twins on a real echo clip and phantom videos",
        "usssl finetune                                # from the newest pretraining, on phantom planes",
        "usssl finetune --model.init random --data.fraction 5",
        "usssl finetune --model.init runs/usssl/pretrain/version_0/checkpoints/last.ckpt --model.freeze true",
        "usssl pretrain --config simclr_resnet50 --data.source VideoFolder --data.source.root DIR",
        "usssl export --out backbone.safetensors       # the backbone of the newest pretraining",
        "usssl finetune --data.help                    # options of the data; --model.help of the model",
    ),
)


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of the console script."""
    PROGRAM.main(args)
