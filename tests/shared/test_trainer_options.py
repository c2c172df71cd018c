"""Options of the trainer and of checkpoints: what is refused before a run, and what Lightning's own words become."""

from typing import Any

import pytest
from jsonargparse import Namespace

from shared.errors import UsageError
from shared.trainer_options import check_accelerator, check_trainer_options, lightnings_refusal


def options(**changed: Any) -> Namespace:
    """Options that make a run, but for those changed; ``trainer__max_epochs`` stands for ``trainer.max_epochs``."""
    trainer = {"precision": "32-true", "check_val_every_n_epoch": 1, "limit_train_batches": None, "max_epochs": 2}
    chosen = Namespace(
        seed_everything=7,
        trainer=Namespace(trainer | {"accelerator": "cpu"}),
        checkpoint=Namespace(dirpath=None, filename="round={epoch:04d}", monitor="epoch"),
    )
    for name, value in changed.items():
        chosen[name.replace("__", ".")] = value
    return chosen


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"seed_everything": -1}, r"--seed_everything must lie in 0 .. 4294967295, got -1"),
        ({"seed_everything": 2**32}, r"--seed_everything must lie in 0 .. 4294967295, got 4294967296"),
        ({"trainer__precision": "64"}, r"--trainer.precision must be one for float32 images, .* got 64"),
        (
            {"trainer__check_val_every_n_epoch": 0},
            r"--trainer.check_val_every_n_epoch must be at least 1 or null, got 0",
        ),
        ({"trainer__limit_train_batches": 0}, r"--trainer.limit_train_batches must be above 0, got 0"),
        ({"trainer__max_epochs": -7}, r"--trainer.max_epochs must be at least -1, for no end, got -7"),
        ({"trainer__accelerator": "warp"}, r"--trainer.accelerator must be auto or cpu.* on this machine, got warp"),
        ({"checkpoint__dirpath": "x"}, r"--checkpoint.dirpath must be null, for the run folder has them, got x"),
        ({"checkpoint__filename": "a/b"}, r"--checkpoint.filename must be a name without folders, got a/b"),
    ],
)
def test_what_makes_no_run_is_refused(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=f"^{told}$"):
        check_trainer_options(options(**changed), trains=True)


def test_what_makes_a_run_is_taken() -> None:
    check_trainer_options(options(), trains=True)
    check_trainer_options(options(seed_everything=True), trains=True)
    check_trainer_options(options(trainer__max_epochs=-1, trainer__check_val_every_n_epoch=None), trains=True)
    check_trainer_options(options(trainer__limit_train_batches=0), trains=False)
    check_accelerator("auto")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            "`ModelCheckpoint(monitor='epohc')` could not find the monitored key",
            "--checkpoint.monitor must name a metric that is logged, got epohc; choose from val/epoch",
        ),
        (
            "Early stopping conditioned on metric `val/dice` which is not available",
            "--trainer.callbacks: monitor must name a metric that is logged, got val/dice; choose from val/epoch",
        ),
        ("The max_epochs 2 is odd", "--trainer.max_epochs cannot be 2: The max_epochs 2 is odd"),
        ("Nobody knows", "--trainer cannot be built: Nobody knows"),
    ],
)
def test_what_lightning_refuses_names_the_option(error: str, told: str) -> None:
    chosen = options(checkpoint__monitor="epohc")
    assert lightnings_refusal(ValueError(error), chosen, ["val/epoch", "lr"]) == told
