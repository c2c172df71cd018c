"""What server and clients say to each other, and how little of it is believed."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from numpy.lib import format as npy
from torch import Tensor

from shared.federated.client import LocalResult
from shared.federated.client_work import Failed, Outcome
from shared.federated.uploads import upload_fault

TENSORS, TASK, REPORT = "tensors", "task", "report"
"""Names of the records: an ArrayRecord, a ConfigRecord down, and up a MetricRecord, or a ConfigRecord of a failure."""
NPY = "numpy.ndarray"
HEADER = 256
"""More than the header of an array in numpy's format takes."""
LONGEST_REASON = 300
UNGREETED = "the node has forgotten the run"
"""What a node answers that was started anew since it was told the run's options."""


def to_arrays(tensors: Mapping[str, Tensor]) -> ArrayRecord:
    """Named tensors as Flower carries them, each in numpy's format."""
    return ArrayRecord({name: Array(tensor.detach().cpu().contiguous().numpy()) for name, tensor in tensors.items()})


def from_arrays(record: ArrayRecord) -> dict[str, Tensor]:
    """The named tensors of a record from a side that is trusted."""
    return {name: torch.from_numpy(array.numpy().copy()) for name, array in record.items()}


def work_order(round: int, last: int | None, state: ArrayRecord) -> RecordDict:
    """What the server sends: the global tensors, the round, and the client's last round that counted (-1: none)."""
    return RecordDict({TENSORS: state, TASK: ConfigRecord({"round": round, "last": -1 if last is None else last})})


def answer(upload: Mapping[str, Tensor], result: LocalResult) -> RecordDict:
    """What a client sends back: its tensors and three numbers."""
    report = MetricRecord({"num-examples": result.samples, "steps": result.steps, "loss": result.loss})
    return RecordDict({TENSORS: to_arrays(upload), REPORT: report})


def failure(reason: str) -> RecordDict:
    """What a client sends back that could not do its work."""
    return RecordDict({REPORT: ConfigRecord({"failure": reason})})


# ---------------------------------------------------------------------- what the server believes


@dataclass(frozen=True)
class _Header:
    """What an array in numpy's format says about itself."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    start: int


def read_answer(reply: Message | None, template: Mapping[str, Tensor], timeout: float) -> Outcome:
    """A client's answer, checked before anything of its size is allocated.

    Args:
        reply: The message; ``None``: there was none.
        template: The tensors that must come, with their shapes and types.
        timeout: How long the server has waited.

    Returns:
        The upload and the report, or a :class:`~shared.federated.client_work.Failed` that says what is wrong.
    """
    try:
        return _read_answer(reply, template, timeout)
    except Failed as error:
        return error
    except Exception as error:  # whatever a stranger sends, the round goes on
        return Failed(f"unreadable answer ({one_line(f'{type(error).__name__}: {error}')})")


def _read_answer(reply: Message | None, template: Mapping[str, Tensor], timeout: float) -> Outcome:
    content = content_of(reply, timeout)
    report = content.get(REPORT)
    if isinstance(report, ConfigRecord):
        raise Failed(one_line(str(report.get("failure", "failed without a reason"))))
    arrays = content.get(TENSORS)
    if not isinstance(report, MetricRecord) or not isinstance(arrays, ArrayRecord):
        raise Failed(f"an answer must hold the records {TENSORS} and {REPORT}, got {sorted(content)}"[:LONGEST_REASON])
    size = sum(len(array.data) for array in arrays.values())
    most = sum(tensor.numel() * tensor.element_size() + HEADER for tensor in template.values())
    if size > most:
        raise Failed(f"payload of {size:,} bytes, at most {most:,} expected")
    samples = report.get("num-examples")
    if not isinstance(samples, int) or samples < 0:
        raise Failed(f"num-examples must be a whole number from 0 on, got {samples}")
    headers = {name: _header(name, array) for name, array in arrays.items()}
    fault = upload_fault(headers, template)
    if fault is not None:
        raise Failed(fault)
    upload = {name: _decoded(name, array, headers[name], template[name]) for name, array in arrays.items()}
    return upload, LocalResult(samples, int(report.get("steps", 0)), float(report.get("loss", float("nan"))))  # type: ignore[arg-type]


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


def _header(name: str, array: Array) -> _Header:
    if array.stype != NPY:
        raise Failed(f"tensor {name!r} is stored as {one_line(str(array.stype))}, not {NPY}")
    stream = io.BytesIO(array.data[:HEADER])
    version = npy.read_magic(stream)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    return _Header(shape, fortran, dtype, stream.tell())


def _decoded(name: str, array: Array, header: _Header, wanted: Tensor) -> Tensor:
    dtype = torch.empty(0, dtype=wanted.dtype).numpy().dtype
    if header.dtype != dtype:
        raise Failed(f"tensor {name!r} has type {header.dtype}, not {dtype}")
    numbers = np.frombuffer(array.data, dtype, offset=header.start)
    if numbers.size != prod(header.shape):
        raise Failed(f"tensor {name!r} has {numbers.size} numbers, not {prod(header.shape)}")
    return torch.from_numpy(numbers.reshape(header.shape, order="F" if header.fortran else "C").copy())


def one_line(text: str) -> str:
    r"""A stranger's words, fit for a table: one line, not too long, nothing that a terminal would obey.

    Example:
        >>> one_line("ValueError: no\n\x1b[31mslice")
        'ValueError: no [31mslice'
    """
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    plain = " ".join(plain.split())
    return plain if len(plain) <= LONGEST_REASON else plain[: LONGEST_REASON - 1] + "…"
