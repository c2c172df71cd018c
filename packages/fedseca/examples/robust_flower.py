"""Ten clients fit one line together, three of them lie, and FedSECA finds it all the same: python robust_flower.py."""

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedseca.aggregators import FedSECA
from fedseca.flower import RobustStrategy

TRUTH = np.array([2.0, -3.0, 1.0])
client_app, server_app = ClientApp(), ServerApp()


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Take ten steps of gradient descent on this client's own 50 points; clients 0, 1 and 2 upload nonsense."""
    client = int(context.node_config["partition-id"])
    x = np.random.default_rng(client).normal(size=(50, 3))
    (weights,) = message.content["arrays"].to_numpy_ndarrays()
    for _ in range(10):
        weights = weights - 0.05 * x.T @ (x @ weights - x @ TRUTH) / len(x)
    weights = weights if client > 2 else -100 * weights - 100
    metrics = MetricRecord({"num-examples": len(x), "partition-id": client})
    return Message(RecordDict({"arrays": ArrayRecord([weights]), "metrics": metrics}), reply_to=message)


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Run 30 rounds."""
    strategy = RobustStrategy(FedSECA(gamma=0.0), fraction_evaluate=0.0)
    result = strategy.start(grid, ArrayRecord([np.zeros(3)]), num_rounds=30)
    print("found", result.arrays.to_numpy_ndarrays()[0].round(2), "true", TRUTH)


if __name__ == "__main__":
    from flwr.simulation import run_simulation

    run_simulation(server_app, client_app, num_supernodes=10)
