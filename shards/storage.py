"""Where do bytes live, and from when on do they count as written?

A location is a local path or an fsspec URL (`s3://…`, `gs://…`, `memory://…`); a file of the Hugging Face hub
(`hf://datasets/…`, hub.py) is only read. Nothing else in Winnow opens a file for writing: every output goes
through `commit` or `put_bytes`, which publish a finished file in one step, so that a reader sees the whole of it
or nothing.

Local: a temporary name per attempt in the same directory, fsync, `os.replace`, fsync of the
directory. Elsewhere: the file is finished in node-local scratch and sent with one put; a streaming
`fs.open(…, "wb")` is never used, because an exception inside it uploads the truncated object.

Names that start with a dot are unfinished attempts; listings leave them out.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from winnow.shards import scratch

if TYPE_CHECKING:
    import fsspec

UNFINISHED = ".tmp"
HUB = "hf://"


def is_local(location: str) -> bool:
    """Tell whether a location is a path of this machine's file system."""
    return "://" not in location or location.startswith("file://")


def local_path(location: str) -> str:
    """The path of a local location, without `file://`."""
    return location.removeprefix("file://")


def absolute(location: str) -> str:
    """The location with a local path made absolute; a URL only loses its trailing slash."""
    if is_local(location):
        return os.path.abspath(os.path.expanduser(local_path(location)))
    return location.rstrip("/")


def join(location: str, *names: str) -> str:
    """Append path components; `..` and absolute components are refused with ValueError."""
    for name in names:
        if name.startswith("/") or ".." in name.split("/"):
            raise ValueError(f"{name!r} leaves the directory it is joined to")
    return "/".join([location.rstrip("/"), *names])


def filesystem(location: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The fsspec file system of a location and the path inside it."""
    import fsspec

    return fsspec.core.url_to_fs(location)


def size(location: str) -> int:
    """Bytes of a file. Raises FileNotFoundError."""
    if is_local(location):
        return os.path.getsize(local_path(location))
    if location.startswith(HUB):
        from winnow.shards import hub

        return hub.facts(location).size
    fs, path = filesystem(location)
    return int(fs.size(path))


def open_input(location: str) -> BinaryIO:
    """Open a finished file for reading and seeking. Raises FileNotFoundError, PermissionError, OSError."""
    if is_local(location):
        return open(local_path(location), "rb")
    if location.startswith(HUB):
        from winnow.shards import hub

        return hub.open_file(location)
    fs, path = filesystem(location)
    return fs.open(path, "rb")


def read_bytes(location: str) -> bytes:
    """The whole of a small file."""
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
        fs, path = filesystem(location)
        data = fs.cat_file(path, start=start, end=start + length)
        filled = len(data)
        target[:filled] = data
    if filled != length:
        raise OSError(f"{location}: {length} bytes wanted at {start}, {filled} there")


def exists(location: str) -> bool:
    """Tell whether a finished file is there."""
    if is_local(location):
        return os.path.exists(local_path(location))
    fs, path = filesystem(location)
    return fs.exists(path)


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
    fs, path = filesystem(location)
    fs.invalidate_cache(path)
    try:
        listing = fs.find(path, detail=True)
    except FileNotFoundError:
        return found
    start = len(path.rstrip("/")) + 1
    for full, info in listing.items():
        name = full[start:]
        if not any(part.startswith(".") for part in name.split("/")):
            found[name] = int(info["size"])
    return found


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
        fs, path = filesystem(location)
        fs.put_file(str(attempt), path)


def put_bytes(location: str, data: bytes | memoryview) -> None:
    """Publish a small file in one step."""
    with commit(location) as path, open(path, "wb") as file:
        file.write(data)


def copy(source: str, target: str) -> None:
    """Publish a copy of a finished file in one step; memory is one block of the copy."""
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
    fs, inner = filesystem(location)
    with contextlib.suppress(FileNotFoundError):
        fs.rm(inner, recursive=True)
