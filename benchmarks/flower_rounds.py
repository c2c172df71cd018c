"""Rounds with clients that do nothing: in process, over Flower's simulated nodes, and in a deployment of Flower.

    python benchmarks/flower_rounds.py [--quick] [--out benchmarks/results/flower_rounds.json]

Clients send back what they got. What is timed is therefore the way there and back: 7.4 MB is the message of FLAP on
SAM ViT-B, 45 MB a ResNet-18. Plain averaging, no evaluation and no checkpoint; the first round, in which nodes start,
is left out. Beside each time stands the floor: the bytes of all messages copied once, at the machine's measured rate.

The deployment is a SuperLink and a SuperNode per client as processes of this machine, with TLS and node keys. Flower
starts a process for every message to a node; here it imports Flower alone, a node that trains also imports torch and
lightning and builds its model. The first node reaches the SuperLink through a relay that counts what passes, TLS and
idle talk included: ``wire / ledger`` is that over the bytes that the ledger counts for this client.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from fedseca.networks import ResNet18
from local_federation import LocalFederation, free_port, wait_until
from paired import copy_bandwidth, machine, table, write
from shared.classification import Classifier
from shared.federated.client import LocalResult
from shared.federated.engine import Engine
from shared.federated.fedavg import FedAvg
from shared.federated.flower.options import FlowerOptions
from shared.federated.flower.simulation import SimulatedNodes
from shared.federated.module import FederatedModule

IDLE_NODES = Path(__file__).parent / "idle_nodes"
PAYLOADS = ("7.4 MB", "45 MB")


class IdleClients(FederatedModule):
    """In process, clients send back a copy of what they got."""

    def train_client(
        self, round: int, client: int, state: Any, place: tuple[int, int] = (1, 1)
    ) -> tuple[dict[str, Tensor], LocalResult]:
        return {name: tensor.clone() for name, tensor in state.items()}, LocalResult(samples=1, steps=0, loss=0.0)


class NoData(LightningDataModule):
    """The part of a data module that rounds without data need."""

    def __init__(self, clients: int) -> None:
        super().__init__()
        self.client_ids = tuple(range(clients))

    def train_dataloader(self) -> DataLoader[int]:
        return DataLoader([0])  # type: ignore[arg-type]


class RoundEnds(Callback):
    """When each round ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.times.append(time.perf_counter())


def model(payload: str) -> Classifier:
    """A model whose message has about the size: 1,846,873 numbers, or 11 M."""
    if payload == "7.4 MB":
        return Classifier(nn.Sequential(nn.Flatten(), nn.Linear(3072, 601)), 601)
    return Classifier(ResNet18(3, 10), 10)


def payload_bytes(payload: str) -> int:
    """What the ledger counts of a message in one direction."""
    module = IdleClients(model(payload), FedAvg(), seed=0)
    return sum(module.meter.measure(module.communicated()).values())


def rounds(payload: str, clients: int, count: int, engine: Engine | None = None) -> list[float]:
    """Seconds of each of ``count`` rounds after a first one, by default in this process."""
    module = IdleClients(model(payload), FedAvg(), seed=0)
    module.engine = engine
    ends = RoundEnds()
    trainer = Trainer(
        max_epochs=count + 1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        callbacks=[ends],
    )
    trainer.fit(module, datamodule=NoData(clients))
    return [end - start for start, end in zip(ends.times, ends.times[1:], strict=False)]


def simulated(payload: str, clients: int, count: int, window: int = 8) -> list[float]:
    """As :func:`rounds`, over simulated nodes."""
    sys.path.insert(0, str(IDLE_NODES))
    os.environ["PYTHONPATH"] = str(IDLE_NODES)  # of Ray's processes
    from idle_nodes.client import app

    with SimulatedNodes(FlowerOptions(window=window), lambda: "", "", app=app) as nodes:
        return rounds(payload, clients, count, nodes)


class Relay(threading.Thread):
    """Passes on what comes to ``address`` to another one, and counts it.

    Attributes:
        bytes: How many passed so far, both ways.
    """

    def __init__(self, there: str) -> None:
        super().__init__(daemon=True)
        self.there = there
        self.address = f"127.0.0.1:{free_port()}"
        self.bytes = 0

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        host, port = self.address.split(":")
        server = await asyncio.start_server(self._connect, host, int(port))
        await server.serve_forever()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = self.there.split(":")
        try:
            there_reader, there_writer = await asyncio.open_connection(host, int(port))
        except ConnectionError:  # the other side has ended
            writer.close()
            return
        await asyncio.gather(self._pass(reader, there_writer), self._pass(there_reader, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 20):
                self.bytes += len(data)
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass  # either side may hang up
        finally:
            writer.close()


def deployed(clients: int, count: int) -> dict[str, tuple[list[float], float]]:
    """By payload, seconds as in :func:`rounds` over a deployment, and the first node's bytes over its ledger's."""
    found = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalFederation(Path(folder) / "nodes", clients, {"PYTHONPATH": str(Path(__file__).parent)}) as federation,
    ):
        relay = Relay(federation.address)
        relay.start()
        first = federation.processes["node0"]
        first.terminate()
        first.wait()
        federation.start_node(0, relay.address)
        for payload in PAYLOADS:
            out, before = Path(folder) / "seconds.json", relay.bytes
            config = f'payload="{payload}" clients={clients} rounds={count} out="{out}"'
            run = federation.run(IDLE_NODES, config)
            wait_until(out.exists, "the rounds", longest=3600)
            ended = run.finish()
            if ended != "finished:completed":
                raise RuntimeError(f"the deployment of {clients} nodes: {ended}: {federation.log('link')[-2000:]}")
            ratio = (relay.bytes - before) / (2 * (count + 1) * payload_bytes(payload))
            found[payload] = (json.loads(out.read_text()), ratio)
            out.unlink()
    return found


def speed(quick: bool) -> list[dict[str, Any]]:
    """All payloads and numbers of clients, engines side by side."""
    rate = copy_bandwidth()
    rows = []
    for clients in (3,) if quick else (6, 50):
        count = 1 if quick else 3
        deployment = deployed(clients, count)
        for payload in PAYLOADS:
            seconds, ratio = deployment[payload]
            timed = {
                "in process": rounds(payload, clients, count),
                "simulation": simulated(payload, clients, count),
                "deployment": seconds,
            }
            row: dict[str, Any] = {"payload": payload, "clients": clients}
            row |= {f"{engine}: s per round": significant(statistics.median(s)) for engine, s in timed.items()}
            row |= {f"{engine}: rounds per s": significant(1 / statistics.median(s)) for engine, s in timed.items()}
            row["floor, s"] = significant(2 * clients * payload_bytes(payload) / rate)
            row["wire / ledger"] = round(ratio, 4)
            rows.append(row)
            print(row, flush=True)
    return rows


def significant(value: float) -> float:
    """Three digits."""
    return float(f"{value:.3g}")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 clients, one round")
    parser.add_argument("--out", type=Path, help="where to write the numbers as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = speed(options.quick)
    print(table(list(rows[0]), [[str(value) for value in row.values()] for row in rows]))
    print(machine())
    if options.out:
        write(options.out, "rounds per second with clients that do nothing", rows)


if __name__ == "__main__":
    main()
