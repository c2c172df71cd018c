"""Any backbone of the library timm, with a linear layer for the classes of the data."""

from pathlib import Path
from typing import Any

from torch import Tensor

from fedseca.networks import ImageNetwork
from shared.checkpoints import load_tensors, require_same_tensors, sha256_of
from shared.commands import nearest
from shared.errors import UsageError


class Timm(ImageNetwork):
    """A timm model whose classifier is one linear layer without dropout.

    With ``init`` the backbone starts from a file that the user has, for instance the ``model.safetensors`` that timm
    publishes for the model. Every tensor but the classifier's must have the name and shape that the model wants;
    the file's classifier is left out and a new one drawn. Nothing is ever downloaded.

    ConvNeXt-nano with nine classes has 14,958,329 numbers, DeiT-small (patch 16, 224 pixels) with ten 21,669,514.

    Args:
        in_channels: Channels of the images.
        num_classes: Number of classes.
        name: Name of the model in timm, ``convnext_nano`` or ``deit_small_patch16_224`` say.
        init: ``random``, or the path of a ``.safetensors`` file or checkpoint.

    Raises:
        UsageError: timm has no such model, the model has no linear classifier, or the file does not fit.
    """

    def __init__(self, in_channels: int, num_classes: int, name: str, init: str = "random") -> None:
        import timm

        super().__init__(in_channels, num_classes)
        if not timm.is_model(name):
            close = nearest(name, timm.list_models())
            raise UsageError(f"model.network.name must be a model of timm, got {name!r}" + (close and f"; {close}"))
        self.name = name
        self.network = timm.create_model(name, pretrained=False, in_chans=in_channels, num_classes=num_classes)
        if init != "random":
            self._load(Path(init).expanduser())

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    def describe(self) -> dict[str, str]:
        """What ``results.json`` says about the network."""
        return super().describe() | {"network": self.name}

    def _load(self, path: Path) -> None:
        config: Any = self.network.pretrained_cfg
        classifiers = config["classifier"]
        heads = tuple(f"{name}." for name in ([classifiers] if isinstance(classifiers, str) else classifiers))

        def backbone(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {key: tensor for key, tensor in tensors.items() if not key.startswith(heads)}

        own = self.network.state_dict()
        found = backbone(load_tensors(path, "model.network.init"))
        report = require_same_tensors(found, backbone(own), what=f"model.network.init {path}")
        self.network.load_state_dict(own | found)
        self.pretrained = "file"
        self.weights_sha256 = sha256_of(path)
        print(f"initial weights: {path} ({report})")
