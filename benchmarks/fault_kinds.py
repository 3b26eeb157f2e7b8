"""Which faults can befall a run, and how is each brought about?

Those of processes and of the disk befall a run while it works (`Lab.inject`); files are damaged between two drivers
(`damage`); an object store's faults come from benchmarks/flaky_s3.py by the request. A fault that cannot be brought
about now (no worker is busy, no node to lose, the disk is no tmpfs) is not counted.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from ray_nodes import Node, Nodes
from winnow.shards import storage

WORKER_NODES = 2
MOST_NODES = 3
FROZEN_S = 25.0
"""Longer than it takes until a node that does not answer is taken for lost: its workers come back to finish tasks that
others have been given."""
BUCKET = "winnow-faults"

LIVE: dict[str, int] = {
    "a worker killed": 36,
    "a worker frozen for some seconds": 8,
    "a node killed": 14,
    "a node frozen until it is given up": 3,
    "a node taken away in order": 5,
    "a node added": 6,
    "the driver killed": 9,
    "the driver ended by SIGTERM": 5,
    "the driver frozen for some seconds": 3,
    "the disk full for some seconds": 7,
    "the whole cluster killed": 2,
}
"""Faults of a run at work, and how often each is drawn."""
ENDING = {"the driver killed", "the driver ended by SIGTERM", "the whole cluster killed"}
"""The driver does not outlive them."""
FILES = ("an output cut short", "an output gone", "a record cut short", "a record gone")
GARBAGE = "garbage in an input"


class Disk:
    """A file system of its own for runs, which can be made full; a plain folder where nothing may be mounted."""

    def __init__(self, folder: Path, size: int = 1 << 30):
        self.folder = folder
        self.size = size
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "winnow-faults", str(folder)]
        self.mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0

    def fill(self) -> bool:
        """Leave no more than a few blocks; False where that is impossible."""
        if not self.mounted:
            return False
        found = os.statvfs(self.folder)
        used = (found.f_blocks - found.f_bfree) * found.f_frsize
        return self._resize(used + found.f_frsize * 8)

    def empty(self) -> None:
        """Give back the room that `fill` took."""
        if self.mounted:
            self._resize(self.size)

    def _resize(self, size: int) -> bool:
        remount = ["mount", "-o", f"remount,size={size}", str(self.folder)]
        return subprocess.run(remount, capture_output=True, check=False).returncode == 0

    def close(self) -> None:
        """Unmount it."""
        if self.mounted:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=False)


class Store:
    """An S3 server on this machine that fails now and then."""

    def __init__(self, folder: Path, seed: int):
        port_file = folder / "s3"
        script = Path(__file__).with_name("flaky_s3.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script), "--port-file", str(port_file), "--bucket", BUCKET, "--seed", str(seed),
             "--rate", "0"],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while not port_file.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the S3 server did not start")
            time.sleep(0.05)
        self.url = port_file.read_text()
        self.environment = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "winnow",
            "AWS_SECRET_ACCESS_KEY": "winnow",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def fail(self, rate: float) -> None:
        """Spoil this share of the requests from now on."""
        body = json.dumps({"rate": rate}).encode()
        with urllib.request.urlopen(urllib.request.Request(f"{self.url}/_faults", data=body), timeout=30):
            pass

    def counts(self) -> dict[str, int]:
        """Faults so far, by kind."""
        with urllib.request.urlopen(f"{self.url}/_faults", timeout=30) as answer:
            return json.load(answer)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


class Lab:
    """A cluster, a disk and a store that things go wrong with."""

    def __init__(self, folder: Path, rng: random.Random):
        self.rng = rng
        self.disk = Disk(folder / "disk")
        self.store = Store(folder, rng.randrange(1 << 30))
        os.environ.update(self.store.environment)
        self.later: list[tuple[float, Callable[[], object]]] = []
        """What is to be undone, and when."""
        self.nodes = self._cluster()

    def _cluster(self) -> Nodes:
        nodes = Nodes()
        while len(nodes.nodes) < WORKER_NODES:
            nodes.begin()
        return nodes

    def close(self) -> None:
        self.settle()
        self.nodes.close()
        self.store.close()
        self.disk.close()

    def inject(self, kind: str, driver: subprocess.Popen[bytes], local: bool) -> bool:
        """Bring a fault about; False where it cannot be now. `local`: the run is on the disk."""
        rng, nodes = self.rng, self.nodes
        everywhere = [nodes.head, *nodes.nodes]
        match kind:
            case "a worker killed" | "a worker frozen for some seconds":
                busy = [pid for node in everywhere for pid in node.workers()]
                if not busy:
                    return False
                return self._worker(rng.choice(busy), kill=kind == "a worker killed")
            case "a node killed" | "a node frozen until it is given up" | "a node taken away in order":
                return bool(nodes.nodes) and self._lose(kind, rng.choice(nodes.nodes))
            case "a node added":
                if len(nodes.nodes) >= MOST_NODES:
                    return False
                nodes.begin()
            case "the driver killed":
                driver.kill()
            case "the driver ended by SIGTERM":
                driver.terminate()
            case "the driver frozen for some seconds":
                self._freeze([driver.pid], rng.uniform(1, 6))
            case "the disk full for some seconds":
                if not local or not self.disk.fill():
                    return False
                self._after(rng.uniform(0.5, 8), self.disk.empty)
            case "the whole cluster killed":
                nodes.close()
            case _:
                raise ValueError(kind)
        return True

    def tick(self) -> None:
        """Undo what is due."""
        now = time.monotonic()
        due = [action for when, action in self.later if when <= now]
        self.later = [(when, action) for when, action in self.later if when > now]
        for action in due:
            action()

    def settle(self) -> None:
        """Undo what is left, whether it is due or not, and bring the cluster back to its size."""
        for _, action in self.later:
            action()
        self.later.clear()
        if not self.nodes.head.alive:
            self.nodes.close()
            self.nodes = self._cluster()
        self.nodes.bury()
        while len(self.nodes.nodes) < WORKER_NODES:
            self.nodes.begin()

    def _after(self, seconds: float, action: Callable[[], object]) -> None:
        self.later.append((time.monotonic() + seconds, action))

    def _worker(self, pid: int, *, kill: bool) -> bool:
        if not kill:
            return self._freeze([pid], self.rng.uniform(1, 6))
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def _freeze(self, pids: list[int], seconds: float) -> bool:
        def thaw() -> None:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

        self._after(seconds, thaw)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        return True

    def _lose(self, kind: str, node: Node) -> bool:
        nodes = self.nodes
        if kind == "a node killed":
            nodes.kill(node)
        elif kind == "a node taken away in order":
            nodes.dismiss(node)
        else:
            # Those that started others first: none mourns a child that does not answer.
            self._freeze([node.process.pid, *node.pids()], FROZEN_S)
        if kind != "a node frozen until it is given up" and self.rng.random() < 0.7:
            nodes.begin()
        return True


def damage(kind: str, run: str, rng: random.Random) -> list[str]:
    """Damage a file that a task recorded, while nobody works on the run; the records of the tasks that are made again.

    [] where nothing is recorded yet.
    """
    stages = storage.join(run, "stages")
    listed = storage.list_files(stages)
    names = sorted(n for n in listed if "/records/" in n and n.endswith(".json"))
    if not names:
        return []
    name = rng.choice(names)
    place = storage.join(stages, name)
    if kind == "a record gone":
        storage.remove(place)
        return [name]
    data = storage.read_bytes(place)
    if kind == "a record cut short":
        storage.put_bytes(place, data[: rng.randrange(len(data))])
        return [name]
    try:
        outputs = json.loads(data)["identity"]["outputs"]
    except ValueError:
        return []  # cut short before
    stage = name.split("/records/")[0]
    there = sorted(output for output in outputs if listed.get(f"{stage}/{output}"))
    if not there:
        return []
    chosen = f"{stage}/{rng.choice(there)}"
    place = storage.join(stages, chosen)
    if kind == "an output gone":
        storage.remove(place)
    else:
        storage.put_bytes(place, storage.read_bytes(place)[: rng.randrange(listed[chosen])])
    return [name]
