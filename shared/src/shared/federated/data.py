"""What federated training asks of a data module."""

from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader


class RoundClock(LightningDataModule):
    """Mixin: while rounds are run, an epoch is one step; otherwise training data are the pooled data.

    Beside it a federated data module has ``client_ids`` and ``client_loader(client, generator)``, the batches of one
    local epoch in an order that the generator alone decides.

    It may have ``eval_clients``, a list of client ids. ``val_dataloader()`` and ``test_dataloader()`` are then lists of
    loaders, one for each id in turn, none of them empty; together they are the pooled set. Scores are logged for the
    pooled set and for each client.

    For rules that need clean data of the server it has ``server_samples``, how many there are, and
    ``server_loader(generator)``.
    """

    def train_dataloader(self) -> Any:
        """One empty step per round, or the pooled batches of the class behind this one."""
        module = self.trainer.lightning_module if self.trainer is not None else None
        if getattr(module, "regime", None) in ("federated", "local"):
            return DataLoader([0], batch_size=1)  # type: ignore[arg-type]
        return super().train_dataloader()
