"""What federated training asks of a data module."""

from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader


class RoundClock(LightningDataModule):
    """Mixin: while rounds are run, an epoch is one step; otherwise training data are the pooled data.

    Beside it a federated data module has ``client_ids`` and ``client_loader(client, generator)``, the batches of one
    local epoch in an order that the generator alone decides; and, for rules that need clean data of the server,
    ``server_samples``, how many there are, and ``server_loader(generator)``.
    """

    def train_dataloader(self) -> Any:
        """One empty step per round, or the pooled batches of the class behind this one."""
        module = self.trainer.lightning_module if self.trainer is not None else None
        if getattr(module, "regime", None) == "federated":
            return DataLoader([0], batch_size=1)  # type: ignore[arg-type]
        return super().train_dataloader()
