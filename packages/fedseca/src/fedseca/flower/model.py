"""The global model between Flower and a rule: named arrays there, one vector here."""

import re
from collections.abc import Mapping

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from torch import Tensor

from fedseca.flower.replies import ReplyFault, read_arrays, record_tensors
from shared.checkpoints import require_same_tensors
from shared.errors import UsageError
from shared.federated.uploads import are_finite, is_finite
from shared.federated.vectors import VectorLayout


class GlobalModel:
    """Named tensors and their layout in a vector, float64 where one of them is, else float32.

    Attributes:
        tensors: The model; empty before the first round.
        layout: Where each tensor lies in the vector; from the first :meth:`take` on, as is ``dtype``.
        dtype: Of the vector.
    """

    layout: VectorLayout
    dtype: torch.dtype

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    @property
    def arrays(self) -> ArrayRecord:
        """The model as Flower carries it."""
        return ArrayRecord({name: Array(tensor.numpy()) for name, tensor in self.tensors.items()})

    def take(self, tensors: dict[str, Tensor]) -> bool:
        """Take ``tensors`` for the global model; the first ones say what the vector looks like.

        Returns:
            Whether these are the first ones.

        Raises:
            UsageError: They are not finite, or those of another model.
        """
        if not are_finite(tensors.values()):
            raise UsageError("the global model must be finite, got NaN or infinite values")
        first = not self.tensors
        if first:
            self.layout = VectorLayout(tensors)
            double = any(tensor.dtype == torch.float64 for tensor in tensors.values())
            self.dtype = torch.float64 if double else torch.float32
        else:
            require_same_tensors(tensors, self.tensors, what="the model of this round")
            tensors = {name: tensors[name] for name in self.tensors}
        self.tensors = tensors
        return first

    def vectors(self, *rows: int) -> Tensor:
        """Room for one vector, or for ``rows`` of them."""
        return torch.empty(*rows, self.layout.size, dtype=self.dtype)

    def flat(self) -> Tensor:
        """The model as a vector."""
        return self.layout.flatten(self.tensors, out=self.vectors())

    def update(self, record: ArrayRecord, origin: Tensor, row: Tensor) -> dict[str, np.ndarray]:
        """Write ``origin`` minus a client's arrays into ``row`` and return its integer arrays.

        Raises:
            ReplyFault: The arrays do not fit the model, or are not finite.
        """
        arrays = read_arrays(record, self.tensors)
        self.layout.difference(origin, {name: torch.from_numpy(array) for name, array in arrays.items()}, out=row)
        if not is_finite(row):
            raise ReplyFault("NaN or infinite values")
        return {name: array for name, array in arrays.items() if not self.tensors[name].is_floating_point()}

    def reference(self, record: ArrayRecord, origin: Tensor) -> Tensor:
        """``origin`` minus what the server trained itself.

        Raises:
            UsageError: These are arrays of another model.
        """
        trained = record_tensors(record)
        require_same_tensors(trained, self.tensors, what="what reference_fn returns")
        return self.layout.difference(origin, trained, out=self.vectors())

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors, each under a name with its place."""
        # A file does not keep the order of its tensors, and the order is that of the vector.
        return {f"arrays.{place}.{name}": tensor for place, (name, tensor) in enumerate(self.tensors.items())}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`state_dict` gave; other names are ignored."""
        found = [match for name in state if (match := re.fullmatch(r"arrays\.(\d+)\.(.*)", name, re.DOTALL))]
        found.sort(key=lambda match: int(match[1]))
        self.tensors = {}
        self.take({match[2]: state[match[0]].clone() for match in found})
