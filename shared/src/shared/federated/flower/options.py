"""Options of the Flower engine; nothing here needs Flower."""

from dataclasses import dataclass

from shared.errors import UsageError


@dataclass(frozen=True)
class FlowerOptions:
    """How the server deals with Flower's nodes.

    Args:
        clients: Number of clients, where the server's own data do not name them all; None: as many as the data have.
        timeout: Seconds after which a client that has not answered is left out of a round.
        wait: Seconds to wait at the start until the node of every client is there.
        window: Clients at work at once in rounds whose uploads are added up one by one; so many uploads the server
            holds at most.
        at_once: Nodes that are asked at once otherwise; None: all. Fewer where many nodes share a machine, since
            Flower gives up a node whose process has not begun within 30 s.
        cpus: Processor cores of one simulated client; as many clients train at once as there are cores for.
        gpus: Share of a GPU of one simulated client.
    """

    clients: int | None = None
    timeout: float = 3600.0
    wait: float = 600.0
    window: int = 8
    at_once: int | None = None
    cpus: int = 1
    gpus: float = 0.0

    def __post_init__(self) -> None:
        if self.clients is not None and self.clients < 1:
            raise UsageError(f"flower.clients must be at least 1, got {self.clients}")
        for name, value in (("timeout", self.timeout), ("wait", self.wait)):
            if not value > 0:
                raise UsageError(f"flower.{name} must be above 0, got {value}")
        for name, count in (("window", self.window), ("at_once", self.at_once), ("cpus", self.cpus)):
            if count is not None and count < 1:
                raise UsageError(f"flower.{name} must be at least 1, got {count}")
        if self.gpus < 0:
            raise UsageError(f"flower.gpus must be at least 0, got {self.gpus}")
