"""Where do files lie until they are finished, or while a sort needs them?

In a directory of this node: what `--scratch` says (the environment variable WINNOW_SCRATCH in every process of a run),
or the system's temporary directory (TMPDIR). Nothing in it outlives the work it is for, but for copies of models,
which `kept` holds for later tasks and runs.

A folder's name says who made it: `winnow-<user>-<host>-<pid namespace>-<pid>-<start>-<random>`, where `start` is when
the process began, so that a number that another process has by now is not taken for it. A process that is killed
leaves its folders: the next one of the same user, host and namespace that wants scratch there removes them. What
belongs to others, to another host that shares the directory or to another container is never touched.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import BinaryIO

VARIABLE = "WINNOW_SCRATCH"
UNKNOWN = "0"
"""Start and namespace of a process where there is no /proc (macOS): there its number alone says whether it lives."""
FOLDER = re.compile(r"winnow-(?P<node>\d+-.+-\d+)-(?P<pid>\d+)-(?P<start>\d+)-\w+")


def directory() -> str:
    """The scratch directory of this process, absolute."""
    return os.path.abspath(os.environ.get(VARIABLE) or tempfile.gettempdir())


def free_bytes() -> int:
    """Bytes that are free in the scratch directory. Raises OSError where nothing can be written into it."""
    place = directory()
    try:
        with nameless() as file:
            file.write(b"\0")
        return shutil.disk_usage(place).free
    except OSError as error:
        raise OSError(
            f"nothing can be written into the scratch directory {place} ({error.strerror or error}): it has to be a "
            f"directory of every node that Winnow may write into; `--scratch DIR` or TMPDIR names another"
        ) from error


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A new directory in scratch, gone with all that is in it when the block ends. Raises OSError."""
    place = directory()
    sweep(place)
    made = tempfile.mkdtemp(prefix=f"winnow-{_node()}-{os.getpid()}-{_start(os.getpid())}-", dir=place)
    try:
        yield Path(made)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def nameless() -> BinaryIO:
    """A file without a name, gone when it is closed, and with the process. Raises OSError."""
    return tempfile.TemporaryFile(dir=directory())


def kept() -> Path:
    """The folder of copies that all processes of this user on this node use, and later runs too.

    Raises OSError where its name belongs to somebody else: what is loaded from there must be ours.
    """
    place = Path(directory(), f"winnow-models-{os.getuid()}")
    place.mkdir(mode=0o700, exist_ok=True)
    about = place.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o022:
        raise OSError(f"{place} is not this user's own directory; remove it, or name another with --scratch")
    return place


@cache
def sweep(place: str) -> None:
    """Remove what processes that are gone left in a directory; once for each process and directory."""
    with contextlib.suppress(OSError), os.scandir(place) as entries:
        for entry in entries:
            named = FOLDER.fullmatch(entry.name)
            if named is None or named["node"] != _node():
                continue
            with contextlib.suppress(OSError):
                mine = (
                    entry.is_dir(follow_symlinks=False)
                    and entry.stat(follow_symlinks=False).st_uid == os.getuid()
                )
                if mine and not _lives(int(named["pid"]), named["start"]):
                    shutil.rmtree(entry.path, ignore_errors=True)


@cache
def _node() -> str:
    """This user on this host, among the processes that are seen here."""
    host = re.sub(r"[^\w.-]", "_", platform.node()) or "host"
    try:
        namespace = re.sub(r"\D", "", os.readlink("/proc/self/ns/pid"))
    except OSError:
        namespace = UNKNOWN
    return f"{os.getuid()}-{host}-{namespace}"


def _start(pid: int) -> str:
    """When a process began, in clock ticks since the host did. Raises ProcessLookupError for one that is not there."""
    if not os.path.exists("/proc/self/stat"):
        os.kill(pid, 0)
        return UNKNOWN
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state, *facts = file.read().rsplit(b")", 1)[1].split()
    except FileNotFoundError as error:
        raise ProcessLookupError(f"there is no process {pid}") from error
    if state == b"Z":
        raise ProcessLookupError(f"the process {pid} has ended, and nobody has asked how")
    return facts[18].decode()


def _lives(pid: int, start: str) -> bool:
    try:
        return _start(pid) == start
    except ProcessLookupError:
        return False
    except OSError:
        return True
