"""What do a command and everything it starts cost?

Ray starts a dozen processes, and some outlive their parents: the caller becomes their reaper
(PR_SET_CHILD_SUBREAPER), so that all stay in one tree, and the tree is sampled from /proc. CPU is user + system of
every process, as last seen; memory is what is not file cache (Pss_Anon + Pss_Shmem of smaps_rollup), by role.
Linux only.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
TICK = os.sysconf("SC_CLK_TCK")
CPU_EVERY, MEMORY_EVERY = 0.05, 0.25


@dataclass
class Cost:
    """What one command took."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    cpu_by_role: dict[str, float] = field(default_factory=dict)
    heap_bytes: dict[str, int] = field(default_factory=dict)
    """Largest heap of one process, by role."""
    output: str = ""


def measure(command: list[str], *, memory: bool = False, environment: dict[str, str] | None = None) -> Cost:
    """Run a command to its end and account for its whole tree. Raises RuntimeError when it fails."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    cost = Cost()
    seen: dict[int, tuple[str, float]] = {}
    started = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        next_memory = 0.0
        while process.poll() is None:
            _sample(process.pid, seen)
            now = time.perf_counter()
            if memory and now >= next_memory:
                _sample_memory(process.pid, cost)
                next_memory = now + MEMORY_EVERY
            time.sleep(CPU_EVERY)
        cost.wall_s = time.perf_counter() - started
        assert process.stdout is not None
        assert process.stderr is not None
        cost.output, errors = process.stdout.read(), process.stderr.read()
    _reap()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {errors[-3000:]}")
    for role, seconds in seen.values():
        cost.cpu_by_role[role] = cost.cpu_by_role.get(role, 0.0) + seconds
    cost.cpu_s = sum(cost.cpu_by_role.values())
    return cost


def _tree() -> dict[int, tuple[int, float]]:
    """(parent, CPU seconds) of every process of the machine."""
    found = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                fields = Path(entry.path, "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            found[int(entry.name)] = (int(fields[1]), (int(fields[11]) + int(fields[12])) / TICK)
    return found


def _below(top: int) -> dict[int, float]:
    """CPU seconds of every process below this one (the caller adopts orphans), the caller itself left out."""
    tree = _tree()
    children: dict[int, list[int]] = {}
    for pid, (parent, _) in tree.items():
        children.setdefault(parent, []).append(pid)
    found, pending = {}, list(children.get(top, []))
    while pending:
        pid = pending.pop()
        found[pid] = tree[pid][1]
        pending += children.get(pid, [])
    return found


def _role(pid: int, driver: int) -> str:
    if pid == driver:
        return "driver"
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return "ray"
    busy = line.startswith((b"ray::_", b"ray::IDLE")) or b"default_worker.py" in line
    return "worker" if busy else "ray"


def _sample(driver: int, seen: dict[int, tuple[str, float]]) -> None:
    for pid, seconds in _below(os.getpid()).items():
        role = _role(pid, driver)
        # A process that was seen as a worker stays one, whatever its last name was.
        if pid in seen and seen[pid][0] != "ray":
            role = seen[pid][0]
        seen[pid] = (role, seconds)


def _sample_memory(driver: int, cost: Cost) -> None:
    for pid in _below(os.getpid()):
        role = _role(pid, driver)
        if role == "ray":
            continue
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        kib = sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))
        cost.heap_bytes[role] = max(cost.heap_bytes.get(role, 0), kib * 1024)


def _reap() -> None:
    """Wait for adopted orphans; Ray's daemons end a moment after their driver."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            time.sleep(0.05)
