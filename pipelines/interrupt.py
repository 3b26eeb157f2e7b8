"""What happens at Ctrl-C?

SIGINT and SIGTERM end the process with exit code 130, whatever its main thread is doing. A thread sees to it:
the main thread may be in compiled code for long, an exception that a handler raises inside Ray's comes out of it as
a SystemError, and Ray puts a SIGTERM handler of its own into the driver. The wakeup descriptor hears of a
signal whosever Python handler it has.

Nothing is unwound, for everything recorded is whole: RUN is given back, what this process started is killed, and it
ends. Ray's agents would outlive the raylet that started them by more than a quarter of a minute (Ray 2.60).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading

EXIT_CODE = 130
RELEASE_SECONDS = 1.0
"""What giving RUN back may take (a put to an object store): the whole is promised within two seconds."""


def watch() -> None:
    """From now on SIGINT and SIGTERM end this process. Must be called by the main thread."""
    heard, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    threading.Thread(target=_end_when_signalled, args=(heard,), name="winnow-signals", daemon=True).start()


def _end_when_signalled(heard: int) -> None:
    while os.read(heard, 1)[0] not in (signal.SIGINT, signal.SIGTERM):
        continue
    message = "interrupted"
    if lease := sys.modules.get("winnow.pipelines.lease"):  # else no run was begun
        if lease.holding():
            message += "; the same command continues"
        release = threading.Thread(target=lease.release_held, daemon=True)
        release.start()
        release.join(RELEASE_SECONDS)
    # Not through sys.stderr: the main thread may hold its lock.
    os.write(2, f"{chr(10) if os.isatty(2) else ''}{message}\n".encode())
    for pid in descendants(os.getpid()):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    os._exit(EXIT_CODE)


def descendants(pid: int) -> list[int]:
    """The processes below one, parents first; [] where there is no /proc (macOS)."""
    children: dict[int, list[int]] = {}
    with contextlib.suppress(OSError):
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                parent = int(file.read().rsplit(b")", 1)[1].split()[1])
                children.setdefault(parent, []).append(int(name))
    found = [pid]
    for parent in found:  # grows while it is walked
        found += children.get(parent, [])
    return found[1:]
