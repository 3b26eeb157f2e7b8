"""Where do bytes live, and from when on do they count as written?

A location is a local path or a URL: `s3://…` (s3.py), whatever fsspec knows (`gs://…`, `memory://…`:
object_store.py), or a file of the Hugging Face hub (`hf://datasets/…`, hub.py), which is only read. No credentials are
part of one. Nothing else in Winnow opens a file for writing: every output goes through `commit` or `put_bytes`, which
publish a finished file in one step, so that a reader sees the whole of it or nothing.

Local: a temporary name per attempt in the same directory, fsync, `os.replace`, fsync of the
directory. Elsewhere: the file is finished in node-local scratch and sent with one put; a streaming
`fs.open(…, "wb")` is never used, because an exception inside it uploads the truncated object.

Errors of stores are StorageErrors (storage_errors.py), all of them OSErrors; `permanent` is true for those that the
same again would not mend.

Names that start with a dot are unfinished attempts; listings leave them out.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

from winnow.shards import scratch
from winnow.shards.storage_errors import StorageError, carries_credentials

__all__ = ["StorageError"]
UNFINISHED = ".tmp"
HUB = "hf://"


def is_local(location: str) -> bool:
    """Tell whether a location is a path of this machine's file system."""
    return "://" not in location or location.startswith("file://")


def local_path(location: str) -> str:
    """The path of a local location, without `file://`."""
    return location.removeprefix("file://")


def check_location(location: str) -> None:
    """Raises InputError for a URL that carries credentials: locations stand in recipes, manifests and logs."""
    from winnow.shards.inputs import InputError

    if carries_credentials(location):
        scheme, _, rest = location.partition("://")
        bare = rest.split("?", 1)[0].rsplit("@", 1)[-1]
        if ":" in bare.split("/", 1)[0]:
            bare = "(hidden)"
        raise InputError(
            f"{scheme}://{bare}: a location with a key or a signature in it is refused, because locations are written "
            "into RUN and logs; give the credentials by the environment of every node (AWS_ACCESS_KEY_ID, ...)"
        )


def absolute(location: str) -> str:
    """The location with a local path made absolute; a URL only loses its trailing slash.

    Raises InputError for a URL that carries credentials.
    """
    if is_local(location):
        return os.path.abspath(os.path.expanduser(local_path(location)))
    check_location(location)
    return location.rstrip("/")


def _store() -> ModuleType:
    from winnow.shards import object_store

    return object_store


def join(location: str, *names: str) -> str:
    """Append path components; `..` and absolute components are refused with ValueError."""
    for name in names:
        if name.startswith("/") or ".." in name.split("/"):
            raise ValueError(f"{name!r} leaves the directory it is joined to")
    return "/".join([location.rstrip("/"), *names])


def size(location: str) -> int:
    """Bytes of a file. Raises FileNotFoundError."""
    if is_local(location):
        return os.path.getsize(local_path(location))
    if location.startswith(HUB):
        from winnow.shards import hub

        return hub.facts(location).size
    return _store().size(location)


def open_input(location: str) -> BinaryIO:
    """Open a finished file for reading and seeking. Raises FileNotFoundError, PermissionError, OSError."""
    if is_local(location):
        return open(local_path(location), "rb")
    if location.startswith(HUB):
        from winnow.shards import hub

        return hub.open_file(location)
    return _store().open_input(location)


def read_bytes(location: str) -> bytes:
    """The whole of a small file."""
    if not is_local(location) and not location.startswith(HUB):
        return _store().read_all(location)
    with open_input(location) as file:
        return file.read()


def read_range(location: str, start: int, length: int) -> bytes:
    """`length` bytes from byte `start`. Raises OSError when the file ends before them."""
    data = bytearray(length)
    read_into(location, start, memoryview(data))
    return bytes(data)


def read_into(location: str, start: int, target: memoryview) -> None:
    """Fill `target` (bytes) from byte `start`: no copy on the way. Raises OSError when the file ends too early."""
    filled, length = 0, len(target)
    if is_local(location):
        with open(local_path(location), "rb", buffering=0) as file:
            file.seek(start)
            while filled < length and (n := file.readinto(target[filled:])):
                filled += n
    elif length:
        filled = _store().read_into(location, start, target)
    if filled != length:
        raise OSError(f"{location}: {length} bytes wanted at {start}, {filled} there")


def exists(location: str) -> bool:
    """Tell whether a finished file is there. Raises StorageError where an object store does not let that be known."""
    if is_local(location):
        return os.path.exists(local_path(location))
    return _store().exists(location)


def list_files(location: str, *, unfinished: bool = False) -> dict[str, int]:
    """Sizes in bytes of the finished files below a directory, by relative POSIX path; {} if there is none.

    With `unfinished` the attempts that a kill left behind instead; only local directories can have them.
    """
    found: dict[str, int] = {}
    if is_local(location):
        base = local_path(location)
        pending = [""]
        while pending:
            prefix = pending.pop()
            try:
                entries = list(os.scandir(os.path.join(base, prefix) if prefix else base))
            except (FileNotFoundError, NotADirectoryError):
                continue
            for entry in entries:
                name = f"{prefix}/{entry.name}" if prefix else entry.name
                attempt = entry.name.startswith(".")
                if entry.is_dir(follow_symlinks=False):
                    if not attempt:
                        pending.append(name)
                elif attempt == unfinished and (not attempt or name.endswith(UNFINISHED)):
                    with contextlib.suppress(FileNotFoundError):  # another run's clean
                        found[name] = entry.stat().st_size
        return found
    if unfinished:
        return found
    walk = _store().walk(location)
    return {path: n for path, _, n, _ in walk if not any(part.startswith(".") for part in path.split("/"))}


def _sync_directory(directory: str) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def commit(location: str) -> Iterator[str]:
    """Yield a local path to write a file at; publish it as `location` when the block ends without an exception.

    On an exception nothing is published and the attempt is removed. For a location that is not local the
    attempt lies in scratch (scratch.py).
    Raises OSError (ENOSPC among them) as the file system does.
    """
    if is_local(location):
        target = Path(local_path(location))
        target.parent.mkdir(parents=True, exist_ok=True)
        attempt = target.parent / f".{target.name}.{uuid.uuid4().hex}{UNFINISHED}"
        try:
            yield str(attempt)
            with open(attempt, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(attempt, target)
        except BaseException:
            attempt.unlink(missing_ok=True)
            raise
        _sync_directory(str(target.parent))
        return
    with scratch.folder() as folder:
        attempt = folder / "attempt"
        yield str(attempt)
        _store().put_file(location, str(attempt))


def put_bytes(location: str, data: bytes | memoryview) -> None:
    """Publish a small file in one step."""
    with commit(location) as path, open(path, "wb") as file:
        file.write(data)


def copy(source: str, target: str) -> None:
    """Publish a copy of a finished file in one step, by the store itself where both are on one that does it.

    Memory is one block of the copy.
    """
    if not is_local(source) and not is_local(target) and _store().copy(source, target):
        return
    with open_input(source) as reader, commit(target) as path, open(path, "wb") as writer:
        shutil.copyfileobj(reader, writer, 1 << 20)


def remove(location: str) -> None:
    """Delete a file, or a directory with all that is in it; nothing if it is not there."""
    if is_local(location):
        path = Path(local_path(location))
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        return
    _store().remove(location)
