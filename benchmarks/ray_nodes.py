"""What is a Ray cluster of several nodes on one machine, and how is one of its nodes lost?

Every node is a `ray start --block` of its own: processes that can be killed, frozen, and given an environment, a mount
namespace or a copy of Winnow's sources that the others do not have. Nodes have addresses of their own (127.0.0.2, …).
Nothing is stopped by name: a cluster ends only what it started. Linux only.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

OBJECT_STORE_BYTES = 80 << 20
START_SECONDS = 90.0
STOP_SECONDS = 20.0
SOON = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3",
        "RAY_health_check_initial_delay_ms": "5000", "RAY_health_check_timeout_ms": "5000"}  # fmt: skip
"""A node that is gone or frozen is known to be lost within seconds (Ray's own pace: half a minute)."""


def descendants(*pids: int) -> dict[int, str]:
    """Command lines of the processes below some, by pid."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found, pending = {}, list(pids)
    while pending:
        for child in children.get(pending.pop(), []):
            pending.append(child)
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{child}/cmdline").read_bytes()
                found[child] = line.replace(b"\0", b" ").decode(errors="replace").strip()
    return found


class Node:
    """One node: what `ray start --block` started."""

    def __init__(self, process: subprocess.Popen[bytes], address: str, log: Path):
        self.process = process
        self.address = address
        self.log = log

    def pids(self) -> dict[int, str]:
        """Command lines of its processes, by pid."""
        return descendants(self.process.pid)

    def workers(self) -> list[int]:
        """Processes that run a task of ours now. Ray's own agents are called `ray::` too, and are none."""
        return [pid for pid, line in self.pids().items() if line.startswith(("ray::_", "ray::Worker"))]

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def send(self, number: int) -> None:
        """Send a signal to every process of the node, those that start others first."""
        for pid in (self.process.pid, *self.pids()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """End it as a power cut does: all at once, nothing is unwound."""
        # Stopped first, so that no process starts another or mourns one while the others are killed.
        tree = [self.process.pid, *self.pids()]
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in tree:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        self.process.wait()


class Nodes:
    """A cluster that lives while the `with` block runs."""

    def __init__(self, cpus: int = 1, memory: int = 2 << 30, environment: dict[str, str] | None = None):
        """`environment` is what every process of the cluster has beside this one's, and what drivers need."""
        self.folder = Path(tempfile.mkdtemp(prefix="winnow-nodes-"))
        self.port = _free_port()
        self.token = secrets.token_hex(32)
        self.environment = (
            os.environ
            | SOON
            | {
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN": self.token,
                "RAY_USAGE_STATS_ENABLED": "0",
                **(environment or {}),
            }
        )
        self.environment.pop("RAY_ADDRESS", None)
        self.memory = memory
        self.nodes: list[Node] = []
        self._hosts = itertools.count(2)
        try:
            # The ports that Ray would take by default may be another cluster's.
            self.head = self._start(
                cpus,
                [
                    "--head", f"--port={self.port}", "--node-ip-address=127.0.0.1", "--include-dashboard=false",
                    f"--dashboard-port={_free_port()}", f"--ray-client-server-port={_free_port()}",
                ],
                "127.0.0.1",
            )  # fmt: skip
            self.wait_for(self.head)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Nodes:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def address(self) -> str:
        """What `--address` takes."""
        return f"127.0.0.1:{self.port}"

    def begin(
        self, cpus: int = 1, environment: dict[str, str] | None = None, inside: tuple[str, ...] = ()
    ) -> Node:
        """Start a node, and return before it is up. `inside` is a command that starts it, in a namespace of its own."""
        host = f"127.0.0.{next(self._hosts)}"
        node = self._start(
            cpus, [f"--address={self.address}", f"--node-ip-address={host}"], host, environment, inside
        )
        self.nodes.append(node)
        return node

    def add(
        self, cpus: int = 1, environment: dict[str, str] | None = None, inside: tuple[str, ...] = ()
    ) -> Node:
        """Start a node and wait until it is up. Raises RuntimeError when it does not come up."""
        node = self.begin(cpus, environment, inside)
        self.wait_for(node)
        return node

    def kill(self, node: Node) -> None:
        """Lose a node."""
        node.kill()
        self.nodes.remove(node)

    def dismiss(self, node: Node) -> list[int]:
        """Ask a node to go, as a cloud does before it takes one back; its raylets, which tell the cluster."""
        asked = [pid for pid, line in node.pids().items() if "/raylet/raylet" in line]
        for pid in asked:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        return asked

    def bury(self) -> None:
        """Forget nodes that ended."""
        for node in [n for n in self.nodes if not n.alive]:
            self.kill(node)

    def stop(self, node: Node) -> None:
        """Take a node away in order: when this returns, the cluster knows that it is gone."""
        asked = self.dismiss(node)
        deadline = time.monotonic() + STOP_SECONDS
        # `ray start` itself notices later.
        while time.monotonic() < deadline and not node.pids().keys().isdisjoint(asked):
            time.sleep(0.05)
        self.kill(node)

    def close(self) -> None:
        """End all that was started here."""
        while self.nodes:
            self.nodes.pop().kill()
        if hasattr(self, "head"):
            self.head.kill()
        subprocess.run(["rm", "-rf", str(self.folder)], check=False)

    def wait_for(self, node: Node) -> None:
        """Return when a node is up. Raises RuntimeError with what it said when it does not come up."""
        deadline = time.monotonic() + START_SECONDS
        while node.alive and time.monotonic() < deadline:
            if b"Ray runtime started" in node.log.read_bytes():
                return
            time.sleep(0.05)
        said = node.log.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"node {node.address} did not come up: {said}")

    def _start(
        self,
        cpus: int,
        options: list[str],
        address: str,
        environment: dict[str, str] | None = None,
        inside: tuple[str, ...] = (),
    ) -> Node:
        log = self.folder / f"{address}.log"
        ray = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", "--block"]
        # A temporary directory for each node: two that start at once in one would take the same socket.
        settings = [
            f"--num-cpus={cpus}", f"--memory={self.memory}", f"--object-store-memory={OBJECT_STORE_BYTES}",
            f"--temp-dir={self.folder / address.rsplit('.', 1)[1]}", "--disable-usage-stats",
            "--include-log-monitor=false", "--dashboard-agent-listen-port=0",
        ]  # fmt: skip
        with open(log, "wb") as file:
            process = subprocess.Popen(
                [*inside, *ray, *options, *settings],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self.environment | (environment or {}),
                start_new_session=True,
            )
        return Node(process, address, log)


def _free_port() -> int:
    """A port that nobody listens on now, below those that the system hands out by itself."""
    for _ in range(100):
        port = random.SystemRandom().randrange(20_000, 32_000)
        with contextlib.closing(socket.socket()) as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port was found")
