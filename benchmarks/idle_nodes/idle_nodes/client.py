"""A node that sends back what it gets, all but the last number. Its process imports Flower and nothing else."""

import struct
from hashlib import sha256

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.query()
def greet(message: Message, context: Context) -> Message:
    """Who this is; it has no weights that nobody trains, hence the digest of nothing."""
    client = int(context.node_config["partition-id"])
    report = ConfigRecord({"partition-id": client, "frozen": sha256().hexdigest()})
    return Message(RecordDict({"report": report}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """The payload with another last number: Flower knows contents by their hash and sends none twice."""
    (name, told), *_ = message.content.array_records["tensors"].items()
    round = int(message.content.config_records["task"]["round"])  # type: ignore[arg-type]
    last = struct.pack("<f", 1 + round + int(context.node_config["partition-id"]) / 1000)
    array = Array(told.dtype, told.shape, told.stype, told.data[: -len(last)] + last)
    report = MetricRecord({"num-examples": 1, "steps": 0, "loss": 0.0})
    return Message(RecordDict({"tensors": ArrayRecord({name: array}), "report": report}), reply_to=message)
