"""The ``fedseca`` command."""

from collections.abc import Sequence

from shared.commands import Program, Verb

PROGRAM = Program(
    name="fedseca",
    summary="federated training that survives hostile clients (FedSECA and the rules and attacks around it)",
    verbs=(
        Verb("fit", "Train one model: one rule, one attack, all rounds.", "fedseca.training:run"),
        Verb("validate", "Evaluate a checkpoint on the validation data.", "fedseca.training:run"),
        Verb("test", "Evaluate a checkpoint on the test data.", "fedseca.training:run"),
        Verb("predict", "Class probabilities of the test images from a checkpoint.", "fedseca.training:run"),
        Verb("describe", "What a run would be, need and send; trains nothing.", "fedseca.describe:run"),
        Verb("partition", "Divide the images among clients: look, draw, write, read back.", "fedseca.split:run"),
        Verb("prepare", "Bring published data into the layout that is read.", "fedseca.prepare:run"),
        Verb("bench", "How long the server rules take, and how much memory.", "fedseca.bench:run"),
        Verb("sweep", "Every rule against every attack, over partitions and seeds; resumable.", "fedseca.sweep:run"),
        Verb("compare", "Rules against attacks: one table and one picture, resumable.", "fedseca.compare:run"),
    ),
    examples=(
        "fedseca fit                                    # five clients, two hostile, real photographs of clothes",
        "fedseca fit --model.aggregator Krum --model.attack SignFlip --trainer.max_epochs 10",
        "fedseca fit --ckpt_path last                   # go on where the last run stopped",
        "fedseca test                                   # score its newest checkpoint",
        "fedseca describe --config cifar10_resnet18     # what the paper's run would need, before you have its data",
        "fedseca fit --model.help                       # options of the model; --model.aggregator.help Krum",
    ),
)


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of the console script."""
    PROGRAM.main(args)
