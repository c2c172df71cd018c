"""Contract of an engine: where the clients of a round are trained, if not in this process."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from shared.federated.client_work import Outcome
    from shared.federated.server_work import ServerWork


class Engine(Protocol):
    """Asks clients elsewhere to train; everything else of a round stays as it is.

    Attributes:
        name: What ``results.json`` calls it.
        reads_states: Whether what clients keep for themselves can be read by this process.
    """

    name: str
    reads_states: bool

    def start(self, module: "ServerWork") -> None:
        """Called once when training is set up, after the data: find the clients of ``module``.

        Raises:
            RunError: A client is not there.
        """

    @property
    def client_ids(self) -> list[int]:
        """All clients, ascending; known after :meth:`start`."""

    def outcomes(
        self, round: int, places: Mapping[int, int], state: Mapping[str, Tensor], last_rounds: Mapping[int, int]
    ) -> "Iterator[tuple[int, Outcome]]":
        """Train clients from the global ``state`` and yield what each sends back, or what went wrong.

        Args:
            round: Index of the round.
            places: Position in the round's list to client; where the module streams, answers come in this order.
            state: The tensors to send.
            last_rounds: Client to the last round that counted, after which it goes on.
        """
