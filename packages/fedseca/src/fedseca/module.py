"""Federated image classification under attack."""

from collections.abc import Callable
from typing import Any, Literal

from fedseca import aggregators, attacks, timm_network  # noqa: F401  so that the command line knows their short names
from fedseca.networks import ImageNetwork
from shared.classification import Classifier
from shared.federated.aggregation import VectorAggregator
from shared.federated.attack import Attack
from shared.federated.client import ClientTraining
from shared.federated.module import FederatedModule


class FederatedClassifier(FederatedModule):
    """Clients train an image classifier together while some of them attack.

    Args:
        network: Network to train; it is built for the channels and classes of the data.
        in_channels: Channels of the images; read off the data.
        num_classes: Number of classes; read off the data.
        aggregator: The server's rule.
        attack: What the hostile clients do.
        byzantine: Ids of the hostile clients; fewer than half of all.
        client: How a client trains in one round.
        regime: ``federated``; ``centralised``: the same network trained on the pooled data; ``local``: every client
            alone on its own data.
        weighting: ``equal``, or ``samples``: clients count by their number of images, for rules that look at weights.
        participation: Share of the clients that take part in a round.
        min_clients: Fewest good uploads with which a round still counts.
        include_buffers: Whether BatchNorm's running statistics are part of the vector that rule and attack see.
        evaluate_round_start: Log the scores of the model that each round starts from beside those after it.
        seed: Seed of everything random in the rounds; follows ``seed_everything``.
    """

    def __init__(
        self,
        network: Callable[[int, int], ImageNetwork],
        in_channels: int,
        num_classes: int,
        aggregator: VectorAggregator,
        attack: Attack,
        byzantine: list[int],
        client: ClientTraining,
        regime: Literal["federated", "local", "centralised"] = "federated",
        weighting: Literal["equal", "samples"] = "equal",
        participation: float = 1.0,
        min_clients: int = 1,
        include_buffers: bool = True,
        evaluate_round_start: bool = False,
        seed: int = 73,
    ) -> None:
        built = network(in_channels, num_classes)
        super().__init__(
            local=Classifier(built, num_classes),
            aggregator=aggregator,
            attack=attack,
            byzantine=byzantine,
            client=client,
            regime=regime,
            weighting=weighting,
            participation=participation,
            min_clients=min_clients,
            include_buffers=include_buffers,
            evaluate_round_start=evaluate_round_start,
            seed=seed,
        )

    def describe(self) -> dict[str, Any]:
        """What ``results.json`` says about the model."""
        return super().describe() | self.describe_network()

    def describe_network(self) -> dict[str, str]:
        """What is known of the network and of the weights it starts from."""
        network = self.local.network
        assert isinstance(network, ImageNetwork)
        return network.describe()
