"""A few open files per process, closed when others need the room, never shared with another process."""

import os
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class OpenFiles(Generic[T]):
    """The most recently used files, opened on demand.

    Args:
        opener: Opens a path.
        closer: Closes what the opener gave.
        most: How many stay open.
    """

    def __init__(self, opener: Callable[[str], T], closer: Callable[[T], object], most: int = 16) -> None:
        self._opener, self._closer, self._most = opener, closer, most
        self._open: OrderedDict[str, T] = OrderedDict()
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict()}

    def __call__(self, path: str) -> T:
        """The open file."""
        if self._process != os.getpid():
            # Forked: the handles belong to the parent. Closing them here could disturb it, so they are only dropped.
            self._open, self._process = OrderedDict(), os.getpid()
        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
        while len(self._open) >= self._most:
            self._close(self._open.popitem(last=False)[1])
        self._open[path] = self._opener(path)
        return self._open[path]

    def close(self) -> None:
        """Close all that this process opened."""
        if self._process == os.getpid():
            for handle in self._open.values():
                self._close(handle)
        self._open = OrderedDict()

    def _close(self, handle: T) -> None:
        with suppress(Exception):  # a file that cannot be closed is not needed any more either
            self._closer(handle)
