"""Federated, centralised or local fine-tuning of SAM on volumes."""

from collections.abc import Collection
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from fedsam import robust_lora  # noqa: F401  so that the command line knows its short name
from fedsam.lora_aggregation import LoraRule, Stack
from fedsam.losses import CrossEntropyDiceLoss
from fedsam.sam import Sam
from fedsam.segmenter import Inference, Scores, VolumeSegmenter
from shared.errors import UsageError
from shared.federated.aggregation import StateRule, VectorAggregator
from shared.federated.attack import Attack
from shared.federated.client import ClientTraining
from shared.federated.module import FederatedModule
from shared.federated.seeds import derived_generator, derived_seed

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
        low_res_loss: Take the loss at the decoder's own resolution; see :class:`~fedsam.segmenter.VolumeSegmenter`.
        reset_lora_moments: Where clients keep their optimiser's moments (``client.keep_optimizer``), drop those of the
            factors to which the rule has given a new basis (``SVDExact``, say).
        attack: What hostile clients do, for experiments.
        byzantine: Ids of hostile clients.
        regime: ``federated``; ``local``, every site alone; or ``centralised``, all windows in one place.
        weighting: What sites count by: ``samples``, their number of windows; ``equal``; or ``published``, the weights
            of the publication that the data come from.
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
        weighting: Literal["equal", "samples", "published"] = "samples",
        participation: float = 1.0,
        min_clients: int = 1,
        low_res_loss: bool = True,
        reset_lora_moments: bool = False,
        seed: int = 73,
        **sam: Any,
    ) -> None:
        if isinstance(aggregator, Stack):
            raise UsageError(
                "model.aggregator must keep the frozen weights and the rank as they are, as SVDExact, SVDBalanced, "
                "FedAvgFactors, FreezeA and RobustLora do, got Stack"
            )
        if reset_lora_moments and not client.keep_optimizer:
            raise UsageError("model.reset_lora_moments can be true only with model.client.keep_optimizer, got true")
        network = Sam(image_size=image_size, num_classes=num_classes, **sam)
        if isinstance(aggregator, LoraRule) and not aggregator.trains_a:
            network.freeze_lora_a()
        super().__init__(
            local=VolumeSegmenter(network, class_names, loss, inference, scores, low_res_loss),
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
        self.reset_lora_moments = reset_lora_moments

    @property
    def network(self) -> Sam:
        """The model."""
        return self.local.network

    @cached_property
    def _sent(self) -> list[str]:
        return [PREFIX + name for name in self.network.trainable_names()]

    @cached_property
    def _own(self) -> list[str]:
        return [PREFIX + name for name in self.network.personal_names()]

    def communicated(self) -> dict[str, Tensor]:
        """What the variant trains, without what stays with each site."""
        return self._tensors(self._sent)

    def personal(self) -> dict[str, Tensor]:
        """What each site keeps to itself: the weights that mix parallel LoRA pairs."""
        return self._tensors(self._own)

    def _tensors(self, names: list[str]) -> dict[str, Tensor]:
        state = self.local.state_dict() if names else {}
        return {name: state[name] for name in names}

    def drawn(self, client: int) -> dict[str, Tensor]:
        """The mixing weights that a site starts from, uniform in [0, 1) as in the authors' code."""
        generator = derived_generator(self.seed, "mixing weights", client)
        return {PREFIX + name: scale for name, scale in self.network.drawn_lora_scales(generator).items()}

    def rebased(self) -> Collection[str]:
        """The LoRA factors that the rule has turned, where their moments are to be dropped."""
        if self.reset_lora_moments and self.regime == "federated" and isinstance(self.aggregator, LoraRule):
            return frozenset(self.aggregator.rebased(self.communicated()))
        return ()

    def owners(self) -> list[int]:
        """All sites where each has tensors of its own; a model without them is nobody's."""
        return self.client_ids if self.regime != "centralised" and self.kept() else []

    def on_train_epoch_start(self) -> None:
        """Let dropout of centralised training depend on seed and epoch alone, as a client's does."""
        if self.regime == "centralised":
            torch.manual_seed(derived_seed(self.seed, "client", self.current_epoch, self.global_rank))

    def describe(self) -> dict[str, Any]:
        """What ``results.json`` says about the model."""
        return super().describe() | self.network.describe()
