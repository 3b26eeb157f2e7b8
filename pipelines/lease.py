"""Who holds the run directory?

One run holds RUN at a time: `RUN/lease.json` says which process on which host, since when, and is renewed
while it lives. On the machine that looks, the process decides: one that is gone is followed at once. Of a process
elsewhere nothing is known but whether it renews its lease, so the lease is watched, by the clock of the one who
watches: changes within `STALE_SECONDS` and it is held, none and it is taken over. Clocks of two hosts are never
compared: they may be any time apart.

Two runs in one directory would not corrupt its stages (both would write equal bytes), but one of them would be
waste, and a changed recipe a surprise. A run that finds itself replaced (its machine slept, its network was
cut) ends at its next `check`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from types import TracebackType

import orjson
from winnow.shards import storage

RENEW_SECONDS = 10.0
STALE_SECONDS = 60.0
LOOK_SECONDS = 2.0
"""Between two looks at a lease that is watched."""
LOCK_SECONDS = 5.0
"""How long one taker waits for another; one that was stopped in the middle holds up nobody."""

FIELDS = {"token", "host", "place", "pid", "process_start", "since", "renewed"}
_held: list[Lease] = []


class LeaseError(RuntimeError):
    """Another run holds the directory."""


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Lease:
    """Holds RUN while the `with` block runs.

    say : hears what takes a while: that another host's lease is watched.

    Entering raises LeaseError when another run holds RUN, and OSError when the lease cannot be read or written.
    """

    def __init__(self, run: str, say: Callable[[str], None] = _to_stderr):
        self.run = run
        self.location = storage.join(run, "lease.json")
        self.token = uuid.uuid4().hex
        self.say = say
        self.lost = False
        self.stopped = threading.Event()
        self.renewer = threading.Thread(target=self._renew, name="winnow-lease", daemon=True)

    def __enter__(self) -> Lease:
        self._watch()
        with _alone(self.run):
            if (found := _content(self.location)) is not None and not _abandoned(found, self.left):
                raise LeaseError(f"{self.run} was taken by another run this moment")
            self.since = time.time()
            self._write()
        # Where nothing keeps two takers apart the later put wins, and the other sees it.
        time.sleep(0.05 if storage.is_local(self.location) else 1.0)
        if (now := read(self.location)) is None or now["token"] != self.token:
            raise LeaseError(f"{self.run} was taken by another run this moment")
        self.renewer.start()
        _held.append(self)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()

    def _watch(self) -> None:
        """Return when nobody holds RUN; `left` is then the lease that its holder left behind, None where there is none.

        Raises LeaseError when somebody does.
        """
        self.left = first = _content(self.location)
        if first is None or _abandoned(first):
            return
        holder = _understood(first)
        if holder and _here(holder):
            raise self._held_by(holder)
        who = _name(holder) if holder else "a run whose lease.json cannot be understood"
        self.say(
            f"{self.run} was held by {who}; watching for {STALE_SECONDS:.0f} s whether that still runs "
            f"(a run renews its lease every {RENEW_SECONDS:.0f} s)"
        )
        begun = time.monotonic()
        while time.monotonic() - begun < STALE_SECONDS:
            time.sleep(LOOK_SECONDS)
            self.left = _content(self.location)
            if self.left is None:
                return
            if self.left != first:
                raise self._held_by(_understood(self.left))
        self.say(f"{self.run}: nobody renewed the lease; taking over")

    def _held_by(self, holder: dict | None) -> LeaseError:
        return LeaseError(
            f"{self.run} is held by {_name(holder) if holder else 'another run'}; wait for it or stop it"
        )

    def release(self) -> None:
        """Give the directory back, if it is still ours."""
        if self in _held:
            _held.remove(self)
        self.stopped.set()
        self.renewer.join(timeout=2)
        # Whoever comes next finds that nobody renews what could not be removed.
        with contextlib.suppress(OSError):
            if (holder := read(self.location)) is not None and holder["token"] == self.token:
                storage.remove(self.location)

    def _write(self) -> None:
        value = {
            "token": self.token,
            "host": platform.node(),
            "place": place(),
            "pid": os.getpid(),
            "process_start": _process_start(os.getpid()),
            "since": self.since,
            "renewed": time.time(),
        }
        storage.put_bytes(self.location, orjson.dumps(value, option=orjson.OPT_INDENT_2))

    def _renew(self) -> None:
        while not self.stopped.wait(RENEW_SECONDS):
            try:
                holder = read(self.location)
                if holder is not None and holder["token"] != self.token:
                    self.lost = True
                    return  # taken over by somebody who held us for dead: not ours to take back
                self._write()
            except Exception:  # what a store's library raises need not be an OSError
                continue  # a full disk or a store that is away is for the tasks to report


def check() -> None:
    """Raise LeaseError when another run has taken over what this process holds. Costs nothing to ask."""
    for held in _held:
        if held.lost:
            raise LeaseError(f"{held.run} was taken over by another run while this one did not answer")


def holding() -> bool:
    """Whether this process holds a run directory."""
    return bool(_held)


def release_held() -> None:
    """Give back what this process holds, before it ends without unwinding."""
    for held in tuple(_held):
        held.release()


def read(location: str) -> dict | None:
    """The lease at a location, None where there is none or it cannot be understood. Raises OSError."""
    content = _content(location)
    return None if content is None else _understood(content)


def place() -> str:
    """Where process ids mean what they mean here: this boot of this machine and its container; else its name."""
    with contextlib.suppress(OSError):
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return platform.node()


def _content(location: str) -> bytes | None:
    try:
        return storage.read_bytes(location)
    except FileNotFoundError:
        return None


def _understood(content: bytes) -> dict | None:
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(value, dict) or not value.keys() >= FIELDS:
        return None
    numbers = (value["pid"], value["since"], value["renewed"])
    return value if all(isinstance(number, int | float) for number in numbers) else None


def _name(holder: dict) -> str:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["since"]))
    return f"process {holder['pid']} on {holder['host']} since {since}"


def _here(holder: dict) -> bool:
    return holder["place"] == place()


def _abandoned(content: bytes, watched: bytes | None = None) -> bool:
    """Whether the run that wrote a lease is known to be gone; `watched` is one that was not renewed."""
    if content == watched:
        return True
    holder = _understood(content)
    if holder is None:
        return False
    if not _here(holder):
        return False
    started = _process_start(holder["pid"])
    return started is None or started != holder["process_start"]


@contextlib.contextmanager
def _alone(run: str) -> Iterator[None]:
    """One taker at a time in a directory that can be locked: local file systems, and most shared ones."""
    if not storage.is_local(run):
        yield
        return
    path = storage.local_path(run)
    os.makedirs(path, exist_ok=True)
    directory = os.open(path, os.O_RDONLY)
    try:
        begun = time.monotonic()
        while time.monotonic() - begun < LOCK_SECONDS:
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.01)
                continue
            except OSError:  # a file system without locks
                pass
            break
        yield
    finally:
        os.close(directory)


def _process_start(pid: int) -> str | None:
    """When a process of this host started, in the kernel's ticks: a reused pid has others. None if it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return None if fields[0] in "ZX" else fields[19]  # killed, and nobody asked for its exit code yet
    except OSError:
        pass
    if os.path.isdir("/proc/self"):
        return None
    try:  # no /proc (macOS): alive or not is all there is to know
        os.kill(pid, 0)
    except OSError:
        return None
    return "alive"
