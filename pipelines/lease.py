"""Who holds the run directory?

One run holds RUN at a time: `RUN/lease.json` says which process on which host, since when, and is renewed
while it lives. A lease whose process is gone, or that was not renewed for `STALE_SECONDS` by a process on another
host, is taken over. Two runs in one directory would not corrupt it (both would write equal bytes), but one
of them would be waste, and a changed recipe a surprise.
"""

from __future__ import annotations

import os
import platform
import threading
import time
import uuid
from types import TracebackType

import orjson
from winnow.shards import storage

RENEW_SECONDS = 10.0
STALE_SECONDS = 60.0


FIELDS = {"token", "host", "pid", "process_start", "since", "renewed"}
_held: list[Lease] = []


class LeaseError(RuntimeError):
    """Another run holds the directory."""


class Lease:
    """Holds RUN while the `with` block runs."""

    def __init__(self, run: str):
        self.location = storage.join(run, "lease.json")
        self.token = uuid.uuid4().hex
        self.stopped = threading.Event()
        self.renewer = threading.Thread(target=self._renew, name="winnow-lease", daemon=True)

    def __enter__(self) -> Lease:
        holder = read(self.location)
        if holder and _alive(holder):
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["since"]))
            raise LeaseError(
                f"{os.path.dirname(self.location)} is held by process {holder['pid']} on {holder['host']} "
                f"since {since}; wait for it or stop it"
            )
        self.since = time.time()
        self._write()
        # Two takers at the same moment: the later put wins, and the other sees it.
        time.sleep(0.05 if storage.is_local(self.location) else 1.0)
        now = read(self.location)
        if not now or now["token"] != self.token:
            raise LeaseError(f"{os.path.dirname(self.location)} was taken by another run this moment")
        self.renewer.start()
        _held.append(self)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()

    def release(self) -> None:
        """Give the directory back, if it is still ours."""
        if self in _held:
            _held.remove(self)
        self.stopped.set()
        self.renewer.join(timeout=2)
        holder = read(self.location)
        if holder and holder["token"] == self.token:
            storage.remove(self.location)

    def _write(self) -> None:
        value = {
            "token": self.token,
            "host": platform.node(),
            "pid": os.getpid(),
            "process_start": _process_start(os.getpid()),
            "since": self.since,
            "renewed": time.time(),
        }
        storage.put_bytes(self.location, orjson.dumps(value, option=orjson.OPT_INDENT_2))

    def _renew(self) -> None:
        while not self.stopped.wait(RENEW_SECONDS):
            holder = read(self.location)
            if holder and holder["token"] != self.token:
                return  # taken over by somebody who held us for dead: not ours to take back
            try:
                self._write()
            except OSError:
                continue  # a full disk is for the tasks to report


def holding() -> bool:
    """Tell whether this process holds a run directory."""
    return bool(_held)


def release_held() -> None:
    """Give back what this process holds, before it ends without unwinding."""
    for held in tuple(_held):
        held.release()


def read(location: str) -> dict | None:
    """The lease at a location, None where there is none or it cannot be understood."""
    try:
        value = orjson.loads(storage.read_bytes(location))
    except (OSError, orjson.JSONDecodeError):
        return None
    return value if isinstance(value, dict) and value.keys() >= FIELDS else None


def _alive(holder: dict) -> bool:
    if holder["host"] == platform.node():
        started = _process_start(holder["pid"])
        return started is not None and started == holder["process_start"]
    return time.time() - holder["renewed"] < STALE_SECONDS


def _process_start(pid: int) -> str | None:
    """When a process of this host started, in the kernel's ticks: a reused pid has others. None if it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[19]
    except OSError:
        pass
    if os.path.isdir("/proc/self"):
        return None
    try:  # no /proc (macOS): alive or not is all there is to know
        os.kill(pid, 0)
    except OSError:
        return None
    return "alive"
