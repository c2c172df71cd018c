"""What server and clients say to each other, and how little of it is believed."""

import math
from collections.abc import Mapping

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from safetensors.torch import load, save
from torch import Tensor

from shared.federated.client import LocalResult
from shared.federated.client_work import Failed, Outcome
from shared.federated.uploads import upload_fault

TENSORS, TASK, REPORT = "tensors", "task", "report"
"""Names of the records: an ArrayRecord, a ConfigRecord down, and up a MetricRecord, or a ConfigRecord of a failure."""
PAYLOAD, SAFETENSORS = "payload", "safetensors"
"""Name and kind of the one array that carries all tensors of a message."""
HEADROOM = 4096
"""Bytes that an answer may be longer than expected, so that a wrong name is told as such."""
LONGEST_REASON = 300
UNGREETED = "the node has forgotten the run"
"""What a node answers that was started anew since it was told the run's options."""


def to_payload(tensors: Mapping[str, Tensor]) -> ArrayRecord:
    """Named tensors as Flower carries them: one array of bytes, the serialisation that the ledger counts.

    Flower sends every array, and every piece of it, as an object with a hash and a request of its own, so one for all
    tensors takes as many requests as there are megabytes, whatever their number.
    """
    data = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    return ArrayRecord({PAYLOAD: Array(dtype="uint8", shape=(len(data),), stype=SAFETENSORS, data=data)})


def from_payload(record: ArrayRecord) -> dict[str, Tensor]:
    """The named tensors of a record from a trusted side, sorted by name: safetensors gives them in any order."""
    return dict(sorted(load(record[PAYLOAD].data).items()))


def to_arrays(tensors: Mapping[str, Tensor]) -> ArrayRecord:
    """Named tensors as one array each, which Flower's own parts can calculate with."""
    return ArrayRecord({name: Array(tensor.detach().cpu().contiguous().numpy()) for name, tensor in tensors.items()})


def from_arrays(record: ArrayRecord) -> dict[str, Tensor]:
    """What :func:`to_arrays` made."""
    return {name: torch.from_numpy(array.numpy().copy()) for name, array in record.items()}


def work_order(round: int, last: int | None, state: ArrayRecord) -> RecordDict:
    """What the server sends: the global tensors, the round, and the client's last round that counted (-1: none)."""
    return RecordDict({TENSORS: state, TASK: ConfigRecord({"round": round, "last": -1 if last is None else last})})


def answer(upload: Mapping[str, Tensor], result: LocalResult) -> RecordDict:
    """What a client sends back: its tensors and three numbers."""
    report = MetricRecord({"num-examples": result.samples, "steps": result.steps, "loss": result.loss})
    return RecordDict({TENSORS: to_payload(upload), REPORT: report})


def failure(reason: str) -> RecordDict:
    """What a client sends back that could not do its work."""
    return RecordDict({REPORT: ConfigRecord({"failure": reason})})


# ---------------------------------------------------------------------- what the server believes


def read_answer(reply: Message | None, template: Mapping[str, Tensor], size: int, timeout: float) -> Outcome:
    """A client's answer, checked before anything of its size is allocated.

    Args:
        reply: The message; ``None``: there was none.
        template: The tensors that must come, with their shapes and types.
        size: Bytes of their payload.
        timeout: How long the server has waited.

    Returns:
        The upload and the report, or a :class:`~shared.federated.client_work.Failed` that says what is wrong.
    """
    try:
        return _read_answer(reply, template, size, timeout)
    except Failed as error:
        return error
    except Exception as error:  # whatever a stranger sends, the round goes on
        return Failed(f"unreadable answer ({one_line(f'{type(error).__name__}: {error}')})")


def _read_answer(reply: Message | None, template: Mapping[str, Tensor], size: int, timeout: float) -> Outcome:
    content = content_of(reply, timeout)
    report = content.get(REPORT)
    if isinstance(report, ConfigRecord):
        raise Failed(one_line(str(report.get("failure", "failed without a reason"))))
    arrays = content.get(TENSORS)
    if not isinstance(report, MetricRecord) or not isinstance(arrays, ArrayRecord):
        raise Failed(f"an answer must hold the records {TENSORS} and {REPORT}, got {sorted(content)}"[:LONGEST_REASON])
    payload = arrays.get(PAYLOAD)
    if payload is None or len(arrays) > 1 or payload.stype != SAFETENSORS:
        kinds = one_line(str({name: array.stype for name, array in arrays.items()}))
        raise Failed(f"an answer must hold one array, {PAYLOAD!r}, of kind {SAFETENSORS}, got {kinds}"[:LONGEST_REASON])
    if len(payload.data) > size + HEADROOM:
        raise Failed(f"payload of {len(payload.data):,} bytes, {size:,} expected")
    samples = report.get("num-examples")
    if not isinstance(samples, int) or samples < 0:
        raise Failed(f"num-examples must be a whole number from 0 on, got {samples}")
    # Names, shapes and places are checked by safetensors against the bytes that are there before any are read.
    upload = load(payload.data)
    fault = upload_fault(upload, template)
    if fault is not None:
        raise Failed(fault)
    for name, wanted in template.items():
        if upload[name].dtype != wanted.dtype:
            raise Failed(f"tensor {name!r} has type {_kind(upload[name])}, not {_kind(wanted)}")
    steps, loss = report.get("steps", 0), report.get("loss", math.nan)
    result = LocalResult(samples, int(steps), float(loss))  # type: ignore[arg-type]
    return {name: upload[name] for name in template}, result


def content_of(reply: Message | None, timeout: float) -> RecordDict:
    """The records of a message.

    Raises:
        Failed: There is no message, or it tells of an error.
    """
    if reply is None:
        raise Failed(f"no answer within {timeout:g} s")
    if reply.has_error():
        raise Failed(f"no answer: {one_line(str(reply.error.reason))}")
    return reply.content


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def one_line(text: str) -> str:
    r"""A stranger's words, fit for a table: one line, not too long, nothing that a terminal would obey.

    Example:
        >>> one_line("ValueError: no\n\x1b[31mslice")
        'ValueError: no [31mslice'
    """
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    plain = " ".join(plain.split())
    return plain if len(plain) <= LONGEST_REASON else plain[: LONGEST_REASON - 1] + "…"
