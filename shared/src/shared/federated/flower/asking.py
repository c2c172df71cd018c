"""Questions to many nodes at once, with a limit on how many are open and on how long an answer may take."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

POLL, LONGEST_POLL = 0.01, 1.0
"""Seconds between two looks for answers: at first, and after a long silence."""


class Question(NamedTuple):
    """``key`` names it to whoever asks; ``node`` is ``None`` where there is nobody to ask."""

    key: int
    node: int | None
    content: RecordDict


@dataclass
class _Open:
    """A question that was sent."""

    key: int
    deadline: float


def ask(
    grid: Grid, kind: str, questions: Iterable[Question], *, timeout: float, window: int, in_order: bool = False
) -> Iterator[tuple[int, Message | None]]:
    """Send questions and yield key and answer of each, ``None`` where there is no answer in time.

    At most ``window`` questions are asked and not yet yielded, so no more answers than that are ever held.

    Args:
        grid: The way to the nodes.
        kind: Type of the messages, ``train`` or ``query``.
        questions: Taken one by one as there is room.
        timeout: Seconds that an answer may take; Flower drops one that comes later.
        window: Most questions at once.
        in_order: Yield in the order of the questions, whoever answers first; otherwise as answers arrive.
    """
    waiting = iter(questions)
    turn: list[int] = []  # keys asked and not yet yielded, in the order of the questions
    answers: dict[int, Message | None] = {}
    sent: dict[str, _Open] = {}
    pause, exhausted = POLL, False
    while True:
        while not exhausted and len(turn) < window:
            question = next(waiting, None)
            if question is None:
                exhausted = True
                break
            turn.append(question.key)
            name = None if question.node is None else _push(grid, kind, question.node, question.content, timeout)
            if name is None:
                answers[question.key] = None
            else:
                sent[name] = _Open(question.key, time.monotonic() + timeout)
        if not turn:
            return
        if sent:
            for reply in grid.pull_messages(list(sent)):
                asked = sent.pop(reply.metadata.reply_to_message_id, None)
                if asked is not None:
                    answers[asked.key] = reply
            now = time.monotonic()
            for name in [name for name, asked in sent.items() if now > asked.deadline]:
                answers[sent.pop(name).key] = None
        ready = [key for key in turn if key in answers]
        if in_order:
            ready = ready[: next((i for i, key in enumerate(turn) if key not in answers), len(turn))]
        for key in ready:
            turn.remove(key)
            yield key, answers.pop(key)
        pause = POLL if ready else min(2 * pause, LONGEST_POLL)
        if sent and not ready:
            time.sleep(pause)


def _push(grid: Grid, kind: str, node: int, content: RecordDict, timeout: float) -> str | None:
    """Send one message; its name, or ``None`` if the node is not there."""
    message = Message(content, dst_node_id=node, message_type=kind, ttl=timeout)
    return next((name for name in grid.push_messages([message]) if name), None)
