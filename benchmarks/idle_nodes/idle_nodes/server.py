"""The server of a deployment with idle nodes: the rounds of ``flower_rounds.py``, which must be on the module path."""

import json
from pathlib import Path

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from flower_rounds import rounds
from shared.federated.flower.options import FlowerOptions
from shared.federated.flower.server import FlowerEngine

AT_ONCE = 8
"""Nodes whose processes start together on this machine's cores; all fifty would not begin in time."""
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run rounds and write the seconds of each but the first into the file ``out``."""
    config = context.run_config
    clients = int(config["clients"])
    torch.set_num_threads(1)
    engine = FlowerEngine(FlowerOptions(clients=clients, at_once=AT_ONCE), lambda: "", grid)
    seconds = rounds(str(config["payload"]), clients, int(config["rounds"]), engine)
    Path(str(config["out"])).write_text(json.dumps(seconds))
