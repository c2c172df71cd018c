"""A node that sends back what it gets, slightly changed. Its process imports Flower and nothing else."""

from hashlib import sha256

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

STRETCH = 65_536
"""Bytes of which one number is changed; Flower's pieces are larger."""
app = ClientApp()


@app.query()
def greet(message: Message, context: Context) -> Message:
    """Who this is; it has no weights that nobody trains, hence the digest of nothing."""
    client = int(context.node_config["partition-id"])
    report = ConfigRecord({"partition-id": client, "frozen": sha256().hexdigest()})
    return Message(RecordDict({"report": report}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """The payload with a few other bits: Flower knows pieces of a message by their hash and sends none twice."""
    (name, told), *_ = message.content.array_records["tensors"].items()
    round = int(message.content.config_records["task"]["round"])  # type: ignore[arg-type]
    mark = (1000 * (1 + round) + int(context.node_config["partition-id"])).to_bytes(2, "little")
    data = bytearray(told.data)
    numbers = 8 + int.from_bytes(data[:8], "little")  # behind the header of the safetensors format
    for low in range(numbers, len(data), STRETCH):
        data[low : low + 2] = mark  # the lower half of a number's mantissa
    array = Array(told.dtype, told.shape, told.stype, bytes(data))
    report = MetricRecord({"num-examples": 1, "steps": 0, "loss": 0.0})
    return Message(RecordDict({"tensors": ArrayRecord({name: array}), "report": report}), reply_to=message)
