"""A real deployment of Flower on this machine: a SuperLink and SuperNodes as processes, with TLS and node keys."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Self

import psutil
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PROGRAMS = Path(sys.executable).parent
LONGEST = 300.0
"""Seconds after which what is waited for is taken to have failed."""
PEM = serialization.Encoding.PEM
PLAIN = serialization.NoEncryption()


def wait_until(happened: Callable[[], bool], what: str, longest: float = LONGEST) -> None:
    """Look until something has happened.

    Raises:
        TimeoutError: It does not happen within ``longest`` seconds.
    """
    deadline = time.monotonic() + longest
    while not happened():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {longest:g} s")
        time.sleep(0.1)  # between two looks


class LocalFederation:
    """A SuperLink and its nodes with their certificates, keys and logs in ``folder``; all end with the ``with`` block.

    Args:
        folder: New or empty.
        nodes: How many, with ``partition-id`` 0, 1, …
        environment: Variables for all processes over those of this one.
    """

    def __init__(self, folder: Path, nodes: int, environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.nodes = nodes
        self.address = f"127.0.0.1:{free_port()}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = {
            **os.environ,
            "FLWR_HOME": str(folder / "flwr"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "PATH": os.pathsep.join([str(PROGRAMS), os.environ["PATH"]]),  # Flower calls its own programs by name
            "XDG_CACHE_HOME": str(folder / "cache"),
            **(environment or {}),
        }

    def __enter__(self) -> Self:
        (self.folder / "flwr").mkdir(parents=True)
        certificate_authority(self.folder, "ca")
        server_certificate(self.folder)
        (self.folder / "flwr/config.toml").write_text(
            '[superlink]\ndefault = "hospitals"\n\n[superlink.hospitals]\n'
            f'address = "{self.address}"\nroot-certificates = "{self.folder / "ca.crt"}"\n'
        )
        try:
            self._begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _begin(self) -> None:
        host, port = self.address.split(":")
        link = self.start(
            "link",
            *("flower-superlink", "--ssl-ca-certfile", "ca.crt", "--ssl-certfile", "server.crt"),
            *("--ssl-keyfile", "server.key", "--enable-supernode-auth", "--host", host, "--port", port),
            *("--database", "federation.db", "--disable-runtime-dependency-installation"),
        )
        wait_until(lambda: answers(self.address) or link.poll() is not None, "the SuperLink")
        if link.poll() is not None:
            raise RuntimeError(f"the SuperLink ended: {self.log('link')}")
        for node in range(self.nodes):
            self.register(node)
            self.start_node(node)
        wait_until(lambda: self.said("link", "Activated node_id") >= self.nodes, f"{self.nodes} nodes")

    def __exit__(self, *error: object) -> None:
        # Flower starts processes of its own, of which it ends some only if asked politely.
        family = [child for process in self.processes.values() for child in descendants(process.pid)]
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for child in family:
            if child.is_running():
                child.kill()

    def start(self, name: str, program: str, *words: str) -> subprocess.Popen[bytes]:
        """Start a program of Flower's; what it prints goes into ``name.log``."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [str(PROGRAMS / program), *words],
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return self.processes[name]

    def call(self, *words: str) -> str:
        """What a command of ``flwr`` prints.

        Raises:
            RuntimeError: It fails.
        """
        command = [str(PROGRAMS / "flwr"), *words]
        done = subprocess.run(command, env=self.environment, cwd=self.folder, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"flwr {words[0]} failed: {done.stdout}{done.stderr}")
        return done.stdout

    def log(self, name: str) -> str:
        """What a process has printed."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def said(self, name: str, text: str) -> int:
        """How often it printed ``text``."""
        return self.log(name).count(text)

    def register(self, node: int) -> None:
        """Make a key for a node and tell the SuperLink of it."""
        node_key(self.folder / f"node{node}.key")
        self.call("supernode", "register", str(self.folder / f"node{node}.key.pub"), "hospitals")

    def start_node(self, node: int, superlink: str | None = None) -> None:
        """Start a registered node, or start it again; ``superlink`` is another way to the SuperLink."""
        config = f'partition-id={node} num-partitions={self.nodes} state-dir="{self.folder / f"state{node}"}"'
        words = ["--auth-supernode-private-key", f"node{node}.key", "--node-config", config]
        self.join(f"node{node}", "--root-certificates", "ca.crt", *words, superlink=superlink)

    def join(self, name: str, *words: str, superlink: str | None = None) -> subprocess.Popen[bytes]:
        """Start a node that tries to join."""
        port = str(free_port())
        return self.start(name, "flower-supernode", "--superlink", superlink or self.address, "--port", port, *words)

    def run(self, app: Path, config: str) -> "Run":
        """``flwr run`` with a run config, as the guide has it."""
        printed = self.call("run", str(app), "hospitals", "--run-config", config, "--format", "json")
        return Run(self, str(json.loads(printed)["run-id"]))


class Run:
    """A run that was handed to the SuperLink."""

    def __init__(self, federation: LocalFederation, run_id: str) -> None:
        self.federation = federation
        self.id = run_id

    def status(self) -> str:
        """As the SuperLink tells it, ``finished:completed`` say."""
        printed = self.federation.call("list", "hospitals", "--run-id", self.id, "--format", "json")
        return str(json.loads(printed)["runs"][0]["status"])

    def finish(self, longest: float = LONGEST) -> str:
        """Wait for the end and tell how it ended."""
        status: list[str] = []

        def over() -> bool:
            status.append(self.status())
            return status[-1].startswith("finished")

        wait_until(over, "the end of the run", longest)
        return status[-1]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(address: str) -> bool:
    """Whether somebody listens."""
    host, port = address.split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def descendants(pid: int) -> list[psutil.Process]:
    """All processes that a process has started, and those that these have."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def processes_of(pid: int, program: str) -> list[psutil.Process]:
    """Those of its descendants that run ``program``."""
    found = []
    for process in descendants(pid):
        try:
            if process.status() != psutil.STATUS_ZOMBIE and any(program in word for word in process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


# ---------------------------------------------------------------------- certificates and keys


def certificate(subject: str, issuer: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    """Of one day."""
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
    )


def write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """In PEM, without a password."""
    path.write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, PLAIN))


def certificate_authority(folder: Path, name: str) -> None:
    """``name.key`` and ``name.crt``."""
    key = ec.generate_private_key(ec.SECP256R1())
    signed = certificate(name, name, key).add_extension(x509.BasicConstraints(True, None), True)
    signed = signed.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
    write_key(folder / f"{name}.key", key)
    (folder / f"{name}.crt").write_bytes(signed.sign(key, hashes.SHA256()).public_bytes(PEM))


def server_certificate(folder: Path) -> None:
    """``server.key`` and ``server.crt`` for 127.0.0.1, signed by ``ca``."""
    authority = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
    assert isinstance(authority, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())
    signed = certificate("127.0.0.1", "ca", key).add_extension(names, False).add_extension(issuer, False)
    write_key(folder / "server.key", key)
    (folder / "server.crt").write_bytes(signed.sign(authority, hashes.SHA256()).public_bytes(PEM))


def node_key(path: Path) -> None:
    """As ``ssh-keygen -t ecdsa -b 384`` makes it."""
    key = ec.generate_private_key(ec.SECP384R1())
    path.write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.OpenSSH, PLAIN))
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    path.with_suffix(".key.pub").write_bytes(public + b"\n")
