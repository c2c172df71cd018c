"""What every test relies on: no network, no display, steady threads, and the real data packs where they exist."""

import ipaddress
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Set before any library is imported: most of them read these names once, at import.
os.environ.update(
    FLWR_TELEMETRY_ENABLED="0",
    HF_HUB_OFFLINE="1",
    MPLBACKEND="Agg",
    OMP_NUM_THREADS="1",  # models here are tiny, and two threads that share a busy core wait for each other
    RAY_USAGE_STATS_ENABLED="0",
    TRANSFORMERS_OFFLINE="1",
)

REPOSITORY = Path(__file__).parents[1]


class NetworkBlocked(RuntimeError):
    """Not an ``OSError``: a library that quietly copes with a missing network must not hide the attempt."""


def is_loopback(host: str | bytes | None) -> bool:
    """Whether ``host`` is this machine (``None`` stands for it in name look-ups)."""
    name = host.decode() if isinstance(host, bytes) else host
    if name in {None, "", "localhost"}:
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    """Sockets reach this machine only, and no foreign name is looked up."""

    def guard_address(name: str) -> Callable[..., Any]:
        original = getattr(socket.socket, name)

        def guarded(self: socket.socket, *args: Any) -> Any:
            address = args[-1]  # sendto(data, [flags,] address)
            if self.family in {socket.AF_INET, socket.AF_INET6} and not is_loopback(address[0]):
                raise NetworkBlocked(f"a test tried to reach {address[0]}")
            return original(self, *args)

        return guarded

    look_up = socket.getaddrinfo

    def guarded_look_up(host: str | bytes | None, *args: Any, **kwargs: Any) -> Any:
        if not is_loopback(host):
            raise NetworkBlocked(f"a test tried to look up {host!r}")
        return look_up(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex", "sendto"):
            patch.setattr(socket.socket, name, guard_address(name))
        patch.setattr(socket, "getaddrinfo", guarded_look_up)
        yield


@pytest.fixture(scope="session")
def data_pack() -> Callable[[str], Path]:
    """``data_pack("cifar10")`` is the folder of a real data pack; the test is skipped where it is absent."""
    root = Path(os.environ.get("MEDLEY_DATA", REPOSITORY.parent / "shared/data"))

    def find(name: str) -> Path:
        folder = root / name
        if not folder.is_dir():
            pytest.skip(f"needs the data pack {name} in {root}; MEDLEY_DATA names another place")
        return folder

    return find
