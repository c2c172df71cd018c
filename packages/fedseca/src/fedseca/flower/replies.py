"""What the replies of Flower's clients hold: read, checked, and where something is wrong, told in a few words."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from shared.errors import UsageError
from shared.federated.uploads import upload_fault

if TYPE_CHECKING:
    from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict

HEADER = 16_384  # bytes, more than numpy writes before the values


class ReplyFault(Exception):
    """Why a reply does not count, in a few words."""


def record_tensors(record: "ArrayRecord") -> dict[str, Tensor]:
    """The server's own arrays as tensors, in the order of the record.

    Raises:
        UsageError: There is no floating point array, or one is no array of real numbers or truth values.
    """
    tensors = {}
    for name, array in record.items():
        try:
            tensors[name] = torch.from_numpy(array.numpy())
        except (TypeError, ValueError) as error:
            raise UsageError(f"array {name!r} must hold numbers that torch knows, got {array.dtype}") from error
        if tensors[name].is_complex():
            raise UsageError(f"array {name!r} must hold real numbers, got {array.dtype}")
    if not any(tensor.is_floating_point() for tensor in tensors.values()):
        raise UsageError(f"the global model must have a floating point array, got {len(tensors)} arrays and none")
    return tensors


def read_arrays(record: "ArrayRecord", template: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """A client's arrays, which must have the names, shapes and types of ``template``; their order does not matter.

    Names, shapes, types and sizes are compared as declared before anything is decoded, and again afterwards.

    Raises:
        ReplyFault: They do not fit.
    """
    # Flower's arrays declare their shape as tensors do.
    if fault := upload_fault(cast("Any", record), template):
        raise ReplyFault(fault)
    return {name: _decoded(name, record[name], wanted) for name, wanted in template.items()}


def _decoded(name: str, array: "Array", wanted: Tensor) -> np.ndarray:
    dtype = str(wanted.dtype).removeprefix("torch.")
    if array.dtype != dtype:
        raise ReplyFault(f"tensor {name!r} is of {array.dtype}, not {dtype}")
    if len(array.data) > wanted.nbytes + HEADER:
        raise ReplyFault(f"tensor {name!r} takes {len(array.data):,} bytes, not {wanted.nbytes:,}")
    try:
        values = array.numpy()
    # What stands before the values is the client's text: any mistake in it has an error of its own.
    except Exception as error:
        raise ReplyFault(f"tensor {name!r} cannot be decoded ({type(error).__name__})") from error
    if not isinstance(values, np.ndarray) or values.shape != tuple(wanted.shape) or str(values.dtype) != dtype:
        raise ReplyFault(f"tensor {name!r} is not what it is declared to be")
    return values


def sole_arrays(content: "RecordDict") -> "ArrayRecord":
    """The one ArrayRecord of a reply.

    Raises:
        ReplyFault: There is none, or more than one.
    """
    records = list(content.array_records.values())
    if len(records) != 1:
        raise ReplyFault(f"{len(records)} ArrayRecords, not 1")
    return records[0]


def sole_metrics(message: "Message") -> "MetricRecord":
    """The one MetricRecord of a reply.

    Raises:
        ReplyFault: The client answers with an error, or there is no metric record, or more than one.
    """
    if message.has_error():
        raise ReplyFault(f"error {message.error.code}: {message.error.reason or 'no reason given'}")
    records = list(message.content.metric_records.values())
    if len(records) != 1:
        raise ReplyFault(f"{len(records)} MetricRecords, not 1")
    return records[0]


def examples(metrics: "MetricRecord", key: str) -> float:
    """How many examples a client says that it used.

    Raises:
        ReplyFault: It does not say, or the number is not positive and finite.
    """
    value = metrics.get(key)
    if value is None:
        raise ReplyFault(f"no {key} among its metrics")
    if isinstance(value, list) or not (math.isfinite(value) and value > 0):
        raise ReplyFault(f"{key} is {value}, not a positive number")
    return float(value)


def declared_id(metrics: "MetricRecord", key: str, limit: int) -> int:
    """The id that a client gives itself.

    Raises:
        ReplyFault: It gives none, or it is no integer of 0 .. ``limit - 1``.
    """
    value = metrics.get(key)
    if value is None:
        raise ReplyFault(f"no {key} among its metrics, which most clients send")
    if not isinstance(value, int) or not 0 <= value < limit:
        raise ReplyFault(f"{key} is {value}, not an integer of 0 .. {limit - 1}")
    return value


def comparable(contents: Sequence["RecordDict"]) -> "list[RecordDict]":
    """The same replies, their metrics reduced to those that everyone sent in the same form (number, list of n).

    Flower's own averages stop the run where one client sends another set of metrics than the others.
    """
    from flwr.app import MetricRecord, RecordDict

    def form(value: Any) -> int | None:
        return len(value) if isinstance(value, list) else None

    named = [next(iter(content.metric_records.items())) for content in contents]
    first = named[0][1]
    shared = [
        name
        for name, value in first.items()
        if all(name in metrics and form(metrics[name]) == form(value) for _, metrics in named)
    ]
    return [
        RecordDict({**content, key: MetricRecord({name: metrics[name] for name in shared})})
        for content, (key, metrics) in zip(contents, named, strict=True)
    ]
