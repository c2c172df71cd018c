"""A real deployment on this machine: a SuperLink and SuperNodes as processes, with TLS and node keys."""

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import psutil
import pytest
import torch
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

pytestmark = pytest.mark.slow  # every message starts a process that imports the libraries anew

PROGRAMS = Path(sys.executable).parent
REPOSITORY = Path(__file__).parents[2]
CLIENTS = 3
ROUNDS = 5
FEDSAM = [
    *("--data.source", "CtKidneyPhantom", "--data.source.scale", "0.01", "--data.source.slices", "6"),
    *("--data.source.size", "32", "--data.sites", "[site-A,site-B,site-C]"),
    *("--data.image_size", "32", "--data.stride", "3", "--model.rank", "2", "--model.scores.distances", "false"),
    *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.limit_val_batches", "0"),
]
"""The default, FLAP with svd_exact and clients that keep their moments, on small phantoms."""
LONGEST = 300.0
"""Seconds after which what is waited for is taken to have failed."""
PEM = serialization.Encoding.PEM
PLAIN = serialization.NoEncryption()


def wait_until(happened: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LONGEST
    while not happened():
        assert time.monotonic() < deadline, f"{what}: not within {LONGEST:g} s"
        time.sleep(0.1)  # between two looks


class Federation:
    """A SuperLink and its nodes in ``folder``; every process is ended by :meth:`end`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"127.0.0.1:{free_port()}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        (folder / "flwr").mkdir(parents=True)
        self.environment = os.environ | {
            "FLWR_HOME": str(folder / "flwr"),
            "PATH": os.pathsep.join([str(PROGRAMS), os.environ["PATH"]]),  # Flower calls its own programs by name
            "XDG_CACHE_HOME": str(folder / "cache"),
        }

    def begin(self) -> None:
        certificate_authority(self.folder, "ca")
        certificate_authority(self.folder, "other")
        server_certificate(self.folder)
        (self.folder / "flwr/config.toml").write_text(
            '[superlink]\ndefault = "hospitals"\n\n[superlink.hospitals]\n'
            f'address = "{self.address}"\nroot-certificates = "{self.folder / "ca.crt"}"\n'
        )
        host, port = self.address.split(":")
        self.start(
            "link",
            *("flower-superlink", "--ssl-ca-certfile", "ca.crt", "--ssl-certfile", "server.crt"),
            *("--ssl-keyfile", "server.key", "--enable-supernode-auth", "--host", host, "--port", port),
            *("--database", "federation.db", "--disable-runtime-dependency-installation"),
        )
        link = self.processes["link"]
        wait_until(lambda: answers(self.address) or link.poll() is not None, "the SuperLink")
        assert link.poll() is None, self.log("link")
        for client in range(CLIENTS):
            self.register(client)
            self.start_node(client)
        wait_until(lambda: self.said("link", "Activated node_id") >= CLIENTS, "three nodes")

    def end(self) -> None:
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
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [str(PROGRAMS / program), *words],
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return self.processes[name]

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def said(self, name: str, text: str) -> int:
        return self.log(name).count(text)

    def register(self, client: int) -> None:
        node_key(self.folder / f"node{client}.key")
        public = str(self.folder / f"node{client}.key.pub")
        command = [str(PROGRAMS / "flwr"), "supernode", "register", public, "hospitals"]
        done = subprocess.run(command, env=self.environment, cwd=self.folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def start_node(self, client: int) -> None:
        state = self.folder / f"state{client}"
        config = f'partition-id={client} num-partitions={CLIENTS} state-dir="{state}"'
        words = ["--auth-supernode-private-key", f"node{client}.key", "--node-config", config]
        self.join(f"node{client}", "--root-certificates", "ca.crt", *words)

    def join(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        """A node that tries to join."""
        port = str(free_port())
        return self.start(name, "flower-supernode", "--superlink", self.address, "--port", port, *words)

    def run(self, name: str, *words: str) -> "Run":
        """``flwr run``, as the guide has it."""
        runs = ["--run.root", str(self.folder / "runs"), "--run.name", name]
        return Run(self, name, [*FEDSAM, *runs, *words])


class Run:
    """A run that was handed to the SuperLink."""

    def __init__(self, federation: Federation, name: str, words: list[str]) -> None:
        self.federation = federation
        self.folder = federation.folder / "runs/fedsam" / name / "version_0"
        config = f'words="{" ".join(words)}"'
        command = [str(PROGRAMS / "flwr"), "run", str(REPOSITORY / "packages/fedsam"), "hospitals"]
        done = subprocess.run(
            [*command, "--run-config", config, "--format", "json"],
            env=federation.environment,
            cwd=federation.folder,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        self.id = str(json.loads(done.stdout)["run-id"])

    def status(self) -> str:
        command = [str(PROGRAMS / "flwr"), "list", "hospitals", "--run-id", self.id, "--format", "json"]
        done = subprocess.run(command, env=self.federation.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return str(json.loads(done.stdout)["runs"][0]["status"])

    def finish(self) -> str:
        status: list[str] = []

        def over() -> bool:
            status.append(self.status())
            return status[-1].startswith("finished")

        wait_until(over, "the end of the run")
        return status[-1]

    def checkpoints(self) -> list[Path]:
        return sorted((self.folder / "checkpoints").glob("round=*.ckpt"))

    def rounds(self) -> list[dict[str, str]]:
        with (self.folder / "rounds.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    def weights(self) -> dict[str, torch.Tensor]:
        return torch.load(self.checkpoints()[-1], weights_only=True)["state_dict"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(address: str) -> bool:
    host, port = address.split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def processes_of(pid: int, program: str) -> list[psutil.Process]:
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
    path.write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, PLAIN))


def certificate_authority(folder: Path, name: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    signed = certificate(name, name, key).add_extension(x509.BasicConstraints(True, None), True)
    signed = signed.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
    write_key(folder / f"{name}.key", key)
    (folder / f"{name}.crt").write_bytes(signed.sign(key, hashes.SHA256()).public_bytes(PEM))


def server_certificate(folder: Path) -> None:
    authority = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    signed = certificate("127.0.0.1", "ca", key).add_extension(names, False)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())
    signed = signed.add_extension(issuer, False)
    write_key(folder / "server.key", key)
    (folder / "server.crt").write_bytes(signed.sign(authority, hashes.SHA256()).public_bytes(PEM))


def node_key(path: Path) -> None:
    """As ``ssh-keygen -t ecdsa -b 384`` makes it."""
    key = ec.generate_private_key(ec.SECP384R1())
    path.write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.OpenSSH, PLAIN))
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    path.with_suffix(".key.pub").write_bytes(public + b"\n")


# ---------------------------------------------------------------------- what must hold


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    federation = Federation(tmp_path_factory.mktemp("federation"))
    try:
        federation.begin()
        yield federation
    finally:
        federation.end()


@pytest.fixture(scope="module")
def in_process(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Weights after the rounds of one process."""
    folder = tmp_path_factory.mktemp("alone")
    words = ["fit", *FEDSAM, "--trainer.max_epochs", str(ROUNDS), "--run.root", str(folder), "--run.name", "alone"]
    program = "import sys; from fedsam.cli import main; main(sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", program, *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    newest = max((folder / "fedsam/alone/version_0/checkpoints").glob("round=*.ckpt"))
    return torch.load(newest, weights_only=True)["state_dict"]


def assert_same(mine: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not mine[name].equal(theirs[name])] == []


def test_strangers_are_refused(federation: Federation) -> None:
    """Without a key, with a key that nobody registered, trusting another authority, and without TLS."""
    node_key(federation.folder / "stranger.key")
    once = ["--max-retries", "1"]
    trust = ["--root-certificates", "ca.crt"]
    federation.join("no key", *trust, *once)
    federation.join("unknown key", *trust, "--auth-supernode-private-key", "stranger.key", *once)
    key = ["--auth-supernode-private-key", "node0.key"]
    federation.join("wrong certificate", "--root-certificates", "other.crt", *key, *once)
    federation.join("no TLS", "--insecure", *once)
    for name in ("no key", "unknown key", "wrong certificate", "no TLS"):
        wait_until(lambda name=name: federation.processes[name].poll() is not None, name)
        assert federation.processes[name].returncode != 0, name
        assert "Failed to initialize the connection to the SuperLink" in federation.log(name)
    assert "[code: 2001] SuperNode authentication is enabled" in federation.log("no key")
    assert "[code: 2004]" in federation.log("unknown key")
    assert federation.said("link", "Activated node_id") == CLIENTS


def test_equal_to_one_process_though_the_server_is_killed(
    federation: Federation, in_process: dict[str, torch.Tensor]
) -> None:
    """The server's process is killed after two rounds; the same command with ``--ckpt_path last`` ends with the weights
    of an uninterrupted run in one process."""
    run = federation.run("killed", "--trainer.max_epochs", str(ROUNDS))
    wait_until(lambda: any(path.name >= "round=0001" for path in run.checkpoints()), "two rounds")
    (server,) = processes_of(federation.processes["link"].pid, "flwr-serverapp")
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: run.status().startswith("finished"), "the end of the killed run")
    assert len(run.rounds()) < ROUNDS

    run = federation.run("killed", "--trainer.max_epochs", str(ROUNDS), "--ckpt_path", "last")
    assert run.finish() == "finished:completed"
    assert [row["failures"] for row in run.rounds()] == [""] * ROUNDS
    assert [row["participants"] for row in run.rounds()] == ["0 1 2"] * ROUNDS
    assert_same(run.weights(), in_process)


def test_a_node_that_is_killed_is_left_out_and_may_come_back(federation: Federation) -> None:
    run = federation.run("node", "--trainer.max_epochs", "6", "--flower.timeout", "60")
    wait_until(lambda: len(run.checkpoints()) > 0, "a round")
    node = federation.processes["node2"]
    family = descendants(node.pid)
    node.kill()
    node.wait()
    for child in family:
        child.kill()
    wait_until(lambda: len(run.rounds()) > 1, "the round without the node")
    federation.start_node(2)
    assert run.finish() == "finished:completed"
    failures = [row["failures"] for row in run.rounds()]
    assert failures[0] == ""
    assert re.match(r"2: no answer", failures[1]), failures
    assert failures[-1] == "", failures  # it goes on from its own file of round 0, in a folder that served another run
