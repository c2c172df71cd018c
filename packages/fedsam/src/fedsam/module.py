"""Federated, centralised or local fine-tuning of SAM on volumes."""

from typing import Any, Literal

from torch import Tensor

from fedsam import lora_aggregation, robust_lora  # noqa: F401  so that the command line knows their short names
from fedsam.losses import CrossEntropyDiceLoss
from fedsam.sam import Sam
from fedsam.segmenter import Inference, Scores, VolumeSegmenter
from shared.federated.aggregation import StateRule, VectorAggregator
from shared.federated.attack import Attack
from shared.federated.client import ClientTraining
from shared.federated.module import FederatedModule

PREFIX = "network."


class FederatedSegmenter(FederatedModule):
    """Hospitals adapt SAM to their volumes together and send only what the variant trains.

    Args:
        image_size: Side S of the model's images; read off the data.
        num_classes: Foreground classes; read off the data.
        class_names: Background and the foreground classes; read off the data.
        aggregator: The server's rule: for LoRA factors one of :mod:`fedsam.lora_aggregation`, or any rule on vectors.
        client: How a client trains in one round.
        loss: Of the windows.
        inference: How whole volumes are predicted.
        scores: What is measured on them.
        attack: What hostile clients do, for experiments.
        byzantine: Ids of hostile clients.
        regime: ``federated``; ``local``, every site alone; or ``centralised``, all windows in one place.
        weighting: ``samples``: sites count by their number of windows; or ``equal``.
        participation: Share of the sites that take part in a round.
        min_clients: Fewest good uploads with which a round still counts.
        seed: Of everything random in the rounds; follows ``seed_everything``.
        **sam: The model: size, variant, rank, init and more.
    """

    local: VolumeSegmenter

    def __init__(
        self,
        image_size: int,
        num_classes: int,
        class_names: list[str],
        aggregator: StateRule | VectorAggregator,
        client: ClientTraining,
        loss: CrossEntropyDiceLoss,
        inference: Inference,
        scores: Scores,
        attack: Attack | None = None,
        byzantine: list[int] | None = None,
        regime: Literal["federated", "local", "centralised"] = "federated",
        weighting: Literal["equal", "samples"] = "samples",
        participation: float = 1.0,
        min_clients: int = 1,
        seed: int = 73,
        **sam: Any,
    ) -> None:
        network = Sam(image_size=image_size, num_classes=num_classes, **sam)
        super().__init__(
            local=VolumeSegmenter(network, class_names, loss, inference, scores),
            aggregator=aggregator,
            attack=attack,
            byzantine=byzantine or (),
            client=client,
            regime=regime,
            weighting=weighting,
            participation=participation,
            min_clients=min_clients,
            seed=seed,
        )

    @property
    def network(self) -> Sam:
        """The model."""
        return self.local.network

    def communicated(self) -> dict[str, Tensor]:
        """What the variant trains, without what stays with each site."""
        state = self.local.state_dict()
        return {PREFIX + name: state[PREFIX + name] for name in self.local.network.trainable_names()}

    def personal(self) -> dict[str, Tensor]:
        """What each site keeps to itself: the weights that mix parallel LoRA pairs."""
        state = self.local.state_dict()
        return {PREFIX + name: state[PREFIX + name] for name in self.local.network.personal_names()}

    def describe(self) -> dict[str, Any]:
        """What ``results.json`` says about the model."""
        return super().describe() | self.network.describe()
