"""Memory of Flower's server with 200 simulated clients of a ResNet-18, three rounds of plain averaging.

    python benchmarks/flower_load.py [--quick] [--out benchmarks/results/flower_load.json]

Clients send back what they got. What is read is the most memory that the server's process had of its own. It must stay
below the ``window`` uploads, global vector, row and float64 sum of :mod:`shared.federated.streaming` and 16 vectors
that Flower and Ray carry; all uploads of a round together would take 8.9 GB. Ray's object store is shared memory with a
limit of its own.
"""

import argparse
import threading
import time
from pathlib import Path
from typing import Any

import torch

from flower_rounds import payload_bytes, simulated
from paired import machine, table, write

CLIENTS, ROUNDS, WINDOW = 200, 3, 8
CARRIED = 16
"""Vectors that Flower and Ray hold in the server's process on their way, whatever the number of clients."""


class OwnMemory(threading.Thread):
    """The most bytes of this process's own that were resident at once, by looking every 20 ms.

    Ray's object store is shared memory, which has its own limit, and is left out.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.over = threading.Event()
        self.start_bytes = self.peak = self.now()

    def run(self) -> None:
        while not self.over.wait(0.02):
            self.peak = max(self.peak, self.now())

    @staticmethod
    def now() -> int:
        """Bytes."""
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("RssAnon")))


def load(clients: int) -> dict[str, Any]:
    """The server's memory with many clients of a large model."""
    memory = OwnMemory()
    memory.start()
    start = time.perf_counter()
    seconds = simulated("45 MB", clients, ROUNDS - 1, WINDOW)
    memory.over.set()
    memory.join()
    vector = payload_bytes("45 MB")
    bound = vector * (WINDOW + 4 + CARRIED)
    grown = memory.peak - memory.start_bytes
    return {
        "clients": clients,
        "rounds": len(seconds) + 1,
        "seconds": round(time.perf_counter() - start, 1),
        "window": WINDOW,
        "all uploads, MB": round(clients * vector / 1e6),
        "server grew by, MB": round(grown / 1e6),
        "bound, MB": round(bound / 1e6),
        "within": grown <= bound,
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20 clients")
    parser.add_argument("--out", type=Path, help="where to write the numbers as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [load(20 if options.quick else CLIENTS)]
    print(table(list(rows[0]), [[str(value) for value in row.values()] for row in rows]))
    print(machine())
    if options.out:
        write(options.out, "memory of the server", rows)


if __name__ == "__main__":
    main()
