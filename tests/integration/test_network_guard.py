"""The guard of conftest.py: what leaves this machine raises, what stays on it works."""

import socket
import urllib.request
from pathlib import Path

import pytest

ELSEWHERE = "192.0.2.1"  # reserved for documentation: nobody answers there


@pytest.mark.parametrize("method", ["connect", "connect_ex"])
def test_a_connection_elsewhere_raises(method: str) -> None:
    with socket.socket() as client, pytest.raises(RuntimeError, match=f"tried to reach {ELSEWHERE}"):
        getattr(client, method)((ELSEWHERE, 80))


def test_a_datagram_elsewhere_raises() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as client, pytest.raises(RuntimeError, match="tried to reach"):
        client.sendto(b"data", (ELSEWHERE, 9))


@pytest.mark.parametrize("page", ["http://example.org", f"http://{ELSEWHERE}"])
def test_a_download_raises_before_any_name_is_looked_up(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")  # a proxy on this machine would be allowed
    with pytest.raises(RuntimeError, match="a test tried to"):
        urllib.request.urlopen(page, timeout=1)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_loopback_stays_open(host: str) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection((host, server.getsockname()[1])) as client,
        server.accept()[0] as connection,
    ):
        client.sendall(b"hello")
        assert connection.recv(5) == b"hello"


def test_unix_sockets_stay_open(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(path)
        server.listen()
        client.connect(path)
