"""What a federated run will need and move, worked out from the shapes of its tensors before anything is trained."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from shared.federated.aggregation import VectorAggregator
from shared.federated.client import ClientTraining
from shared.federated.client_states import KEPT, optimizer_tensors
from shared.federated.module import FederatedModule
from shared.text_table import size, text_table

FLOAT32 = 4
_HEADER_LENGTH = 8  # bytes that say how long the header is
# As safetensors names and orders them: wide types first.
_NAMES = {
    **{torch.int64: "I64", torch.float64: "F64", torch.float32: "F32", torch.int32: "I32"},
    **{torch.bfloat16: "BF16", torch.float16: "F16", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8"},
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Component:
    """One part of what travels."""

    name: str
    tensors: int
    numbers: int
    bytes: int


@dataclass(frozen=True)
class Footprint:
    """Sizes of a federated run; bytes are those of one copy unless said otherwise.

    Attributes:
        components: The parts of a message.
        coordinates: ``d``, length of the vector in which an upload reaches the server.
        seen: Coordinates of it that the rule and the attack see; the rest is averaged plainly.
        whole: Bytes of all parameters of the local model: what training all of it would send at least.
        message: Bytes of a message as it is sent, names and shapes included.
        clients: All clients K.
        participants: Those of one round.
        rounds: Rounds of the run.
        rule_state: Bytes that the server's rule keeps from round to round.
        client_state: Bytes that one client keeps from round to round.
    """

    components: tuple[Component, ...]
    coordinates: int
    seen: int
    whole: int
    message: int
    clients: int
    participants: int
    rounds: int
    rule_state: int
    client_state: int

    @property
    def upload(self) -> int:
        """Bytes of the vector alone, ``4 d``."""
        return FLOAT32 * self.coordinates

    @property
    def share_of_whole(self) -> float:
        """An upload relative to :attr:`whole`."""
        return self.upload / self.whole

    @property
    def round_bytes(self) -> int:
        """Bytes of one round in both directions, ``2 K 4 d``."""
        return 2 * self.participants * self.upload

    @property
    def run_bytes(self) -> int:
        """Bytes of the run in both directions."""
        return self.rounds * self.round_bytes

    @property
    def sent_per_round(self) -> int:
        """What the ledger will count in a round without failures: whole messages in both directions."""
        return 2 * self.participants * self.message

    @property
    def sent_per_run(self) -> int:
        """What the ledger will count in a run without failures."""
        return self.rounds * self.sent_per_round

    @property
    def uploads_in_memory(self) -> int:
        """Bytes of the matrix of one round's uploads on the server, ``K 4 d``."""
        return self.participants * self.upload

    @property
    def client_disk(self) -> int:
        """Bytes on disk of what all clients keep, in as many versions as are kept."""
        return self.clients * KEPT * self.client_state

    def components_table(self) -> str:
        """The parts of a message, one per line, and their sum."""
        total = Component(
            "together", *(sum(getattr(part, of) for part in self.components) for of in ("tensors", "numbers", "bytes"))
        )
        rows = [
            [part.name, f"{part.tensors:,}", f"{part.numbers:,}", size(part.bytes)]
            for part in (*self.components, total)
        ]
        return text_table(["what travels", "tensors", "numbers", "size"], rows)

    def traffic_table(self) -> str:
        """Bytes by message, round and run: the vectors alone, and as sent."""
        rows = [
            ["an upload, or a download", size(self.upload), size(self.message)],
            [f"a round of {self.participants} clients, both ways", size(self.round_bytes), size(self.sent_per_round)],
            [f"the run of {self.rounds:,} rounds", size(self.run_bytes), size(self.sent_per_run)],
        ]
        return text_table(["traffic", "4 bytes x d", "as sent"], rows)

    def memory_table(self) -> str:
        """What the server holds, and what clients leave on its disk."""
        rows = [
            [f"uploads of a round, {self.participants} x d x 4 bytes", size(self.uploads_in_memory)],
            ["state of the rule", size(self.rule_state)],
        ]
        kept = f"{self.clients} clients, {KEPT} versions of {size(self.client_state)}" if self.client_state else "none"
        return text_table(["held", "size"], [*rows, [f"client states on disk: {kept}", size(self.client_disk)]])


def footprint(module: FederatedModule, clients: int, rounds: int, trained: Iterable[Tensor] | None = None) -> Footprint:
    """The sizes of a run of ``module``, which may be built on the meta device.

    Args:
        module: The model, whose ``meter`` names the components.
        clients: Clients of the data.
        rounds: Rounds of the run.
        trained: What a client's optimiser holds, where that is not every parameter of ``module.local``.
    """
    payload = module.communicated()
    parts = []
    for name, members in module.meter.components.items():
        tensors = [tensor for key, tensor in payload.items() if key in members]
        if tensors:
            numbers = sum(tensor.numel() for tensor in tensors)
            parts.append(Component(name, len(tensors), numbers, tensor_bytes(tensors)))
    parameters = list(module.local.parameters())
    rule = module.aggregator
    return Footprint(
        components=tuple(parts),
        coordinates=module.layout.size,
        seen=module.layout.head if isinstance(rule, VectorAggregator) else module.layout.size,
        whole=tensor_bytes(parameters),
        message=message_bytes(payload),
        clients=clients,
        participants=module.participants(clients),
        rounds=rounds,
        rule_state=tensor_bytes(rule.buffers()),
        client_state=optimizer_bytes(module.client, trained or parameters) if module.client.keep_optimizer else 0,
    )


def layer_table(tensors: Mapping[str, Tensor], parameters: Iterable[str]) -> str:
    """Numbers in each layer: names are grouped by their first part behind what all of them have in common.

    Args:
        tensors: The state of a model.
        parameters: Names of those that are parameters; the others are buffers, or counters if they are integers.
    """
    trained = frozenset(parameters)
    names = [name.split(".") for name in tensors]
    depth = 0
    while all(len(name) > depth + 1 for name in names) and len({name[depth] for name in names}) == 1:
        depth += 1
    kinds = ["parameters", "buffers", "counters"]
    numbers: dict[str, list[int]] = {}
    for name, tensor in tensors.items():
        row = numbers.setdefault(name.split(".")[depth], [0, 0, 0])
        row[0 if name in trained else 1 if tensor.is_floating_point() else 2] += tensor.numel()
    numbers["together"] = [sum(column) for column in zip(*numbers.values(), strict=True)]
    shown = [kind for kind in range(3) if kind == 0 or numbers["together"][kind]]
    rows = [[layer, *(f"{parts[kind]:,}" for kind in shown)] for layer, parts in numbers.items()]
    return text_table(["layer", *(kinds[kind] for kind in shown)], rows)


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of all elements."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def message_bytes(payload: Mapping[str, Tensor]) -> int:
    """Bytes of a safetensors serialisation, from shapes and types alone.

    The file is eight bytes of length, a JSON header padded with blanks to a multiple of eight, and the elements, wide
    types before narrow ones and then by name. Source: the format's description in github.com/huggingface/safetensors.

    Example:
        >>> from safetensors.torch import save
        >>> payload = {"w": torch.zeros(3, 5), "n": torch.tensor(7)}
        >>> message_bytes(payload) == len(save(payload))
        True
    """
    order = list(_NAMES.values())
    header, offset = {}, 0
    for name in sorted(payload, key=lambda name: (order.index(_NAMES[payload[name].dtype]), name)):
        tensor = payload[name]
        end = offset + prod(tensor.shape) * tensor.element_size()
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return _HEADER_LENGTH + -(-len(text) // 8) * 8 + offset


def optimizer_bytes(training: ClientTraining, parameters: Iterable[Tensor]) -> int:
    """Bytes that the optimiser of ``training`` remembers about ``parameters``, found by one step on two numbers.

    What it keeps in the shape of a parameter counts once per coordinate, all else (step counters) once per parameter.
    """
    sample = nn.Parameter(torch.zeros(2))
    optimizer = training.optimizer([sample])
    sample.grad = torch.ones(2)
    optimizer.step()
    state = optimizer_tensors(optimizer).values()
    shaped = [tensor.element_size() for tensor in state if tensor.shape == sample.shape]
    fixed = tensor_bytes(tensor for tensor in state if tensor.shape != sample.shape)
    return sum(sum(shaped) * parameter.numel() + fixed for parameter in parameters)
