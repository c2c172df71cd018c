"""A progress bar that counts rounds, clients and local steps."""

import sys
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm


class RoundBar(ProgressBar):
    """One bar over all rounds; beside it the client and step at work and the newest metric.

    Where the output is no terminal (a log file), each round prints one line instead.

    Args:
        metric: Name of the metric to show, without ``val/`` or ``test/`` before it.
        unit: What an epoch of the trainer is.
    """

    def __init__(self, metric: str = "macro_f1", unit: str = "round") -> None:
        super().__init__()
        self.metric = metric
        self.unit = unit
        self._bar: tqdm[Any] | None = None
        self._enabled = True
        self._at_work = ""
        self._newest = ""

    def disable(self) -> None:
        """Show nothing (other ranks than the first)."""
        self._enabled = False

    def enable(self) -> None:
        """Show again."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._enabled and sys.stderr.isatty():
            total = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else None
            self._bar = tqdm(
                total=total,
                initial=trainer.current_epoch,
                unit=self.unit,
                dynamic_ncols=True,
                desc=f"{self.unit}s",
                leave=True,
            )

    def client_step(self, position: int, participants: int, step: int, steps: int) -> None:
        """Called by the round after each local step."""
        if self._bar is not None:
            self._at_work = f"client {position}/{participants} step {step}/{steps}"
            self._bar.set_postfix_str(" · ".join(part for part in (self._at_work, self._newest) if part), refresh=False)
            self._bar.update(0)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        ending = f"/{self.metric}"
        shown = {name: float(value) for name, value in trainer.callback_metrics.items() if name.endswith(ending)}
        loss = trainer.callback_metrics.get("train/loss")
        parts = [f"loss {float(loss):.3f}"] if loss is not None else []
        parts += [f"{name} {value:.3f}" for name, value in shown.items()]
        self._newest = " · ".join(parts)
        if self._bar is not None:
            self._bar.set_postfix_str(self._newest, refresh=False)
            self._bar.update(1)
        elif self._enabled:
            print(
                f"{self.unit} {trainer.current_epoch + 1}/{trainer.max_epochs} · {self._newest}",
                file=sys.stderr,
                flush=True,
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
