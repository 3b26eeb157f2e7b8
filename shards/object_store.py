"""How are files elsewhere listed, read, made and deleted, on whatever store?

S3 through s3.py, s3_read.py and s3_put.py; the others (gs://, abfs://, https://, memory://) through fsspec, whose file
systems try again by themselves: here it is seen to that no part of a file is taken for the whole (fsspec's buffered
files take a short answer for the end), that "cannot tell" is not "not there", and that nothing comes from a cache.

Raises FileNotFoundError, PermissionError, StorageError (storage_errors.py); an error's `permanent` says whether the
same again would fail the same way.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from winnow.shards import s3, s3_put, s3_read
from winnow.shards.ranged_file import RangedFile
from winnow.shards.storage_errors import (
    MOST_SAID,
    ChangedError,
    Patience,
    StorageError,
    UnusableError,
    scrub,
)

if TYPE_CHECKING:
    import fsspec

T = TypeVar("T")
FINGERPRINTS = ("ETag", "etag", "md5Hash", "blob_id", "sha256", "checksum", "mtime", "modified", "LastModified",
                "last_modified", "last_commit", "updated", "created")  # fmt: skip
"""What the listings of local disks, S3, GCS, Azure, the hub and memory call a file's version."""
LARGEST_COPY = 5 << 30
"""Bytes that S3 copies in one request."""
REMOVERS = 16


def is_s3(location: str) -> bool:
    """Tell whether a location is asked of through s3.py."""
    return location.startswith(s3.SCHEMES)


def fingerprint(facts: dict) -> str:
    """What a listing knows about a file's content; "size" where it knows no more than that."""
    for key in FINGERPRINTS:
        if (value := facts.get(key)) is not None:
            # A listing and a single look-up may give the same time as a number and as a datetime.
            value = value.timestamp() if hasattr(value, "timestamp") else value
            return f"{key}:{value}".replace('"', "")
    return "size"


@contextlib.contextmanager
def _errors_of(location: str) -> Iterator[None]:
    """Make a StorageError of what a store's library raises that is no OSError (gcsfs, google.auth, aiohttp, azure.core
    have errors of their own), without what looks like a credential."""
    try:
        yield
    except (OSError, ImportError):  # the latter: the library is not installed
        raise
    except Exception as error:
        kind = UnusableError if isinstance(error, NotImplementedError) else StorageError
        said = scrub(str(error))[:MOST_SAID]
        raise kind(f"{location}: the store does not serve it ({type(error).__name__}: {said})") from None


def _fsspec(location: str) -> tuple[fsspec.AbstractFileSystem, str]:
    import fsspec

    with _errors_of(location):
        fs, path = fsspec.core.url_to_fs(location)
        fs.invalidate_cache(path)
    return fs, path


def _asked(location: str, ask: Callable[[], T], patience: Patience | None = None) -> T:
    """`ask()`, tried again after a cut connection or silence."""
    patience = patience or Patience(location)
    while True:
        try:
            with _errors_of(location):
                return ask()
        except (ConnectionError, TimeoutError) as error:
            reason = type(error).__name__
        patience.wait(reason)


def _info(location: str) -> dict[str, Any]:
    fs, path = _fsspec(location)
    return _asked(location, lambda: fs.info(path))


def size(location: str) -> int:
    """Bytes of a file."""
    return s3.known(location).size if is_s3(location) else int(_info(location)["size"])


def exists(location: str) -> bool:
    """Tell whether a file is there; raises StorageError where that cannot be told."""
    if is_s3(location):
        return s3.facts(location) is not None
    try:
        _info(location)
    except FileNotFoundError:
        return False
    return True


def identity(location: str) -> tuple[int, str]:
    """(bytes, fingerprint) of a file as it is now."""
    if is_s3(location):
        facts = s3.known(location)
        return facts.size, facts.fingerprint
    there = _info(location)
    return int(there["size"]), fingerprint(there)


class S3File(RangedFile):
    """An object on S3; all of it is what it was when it was opened."""

    def __init__(self, location: str):
        self.location, self.facts = location, s3.known(location)
        super().__init__(self.facts.size)

    def fetch(self, start: int, stop: int) -> bytes:
        data = bytearray(stop - start)
        if s3_read.read_into(self.location, start, memoryview(data), self.facts) != len(data):
            raise ChangedError(f"{self.location}: was changed while it was read; run again")
        return bytes(data)


class FsspecFile(RangedFile):
    """A file of an fsspec file system, by exact ranges."""

    def __init__(self, location: str, length: int):
        super().__init__(length)
        self.location = location
        self.fs, self.path = _fsspec(location)

    def fetch(self, start: int, stop: int) -> bytes:
        data = bytearray()
        patience = Patience(self.location)
        while (at := start + len(data)) < stop:
            part = _asked(self.location, partial(self.fs.cat_file, self.path, start=at, end=stop), patience)
            if len(part) > stop - at:
                raise UnusableError(f"{self.location}: the store does not serve parts of files")
            data += part
            if part:
                patience.progress()
            else:
                patience.wait("an empty answer")
        return bytes(data)


def open_input(location: str) -> BinaryIO:
    """Open a file for reading and seeking."""
    file: Any
    if is_s3(location):
        file = S3File(location)
    elif (length := _info(location).get("size")) is None:  # a web server that does not say it
        fs, path = _fsspec(location)
        file = _asked(location, lambda: fs.open(path, "rb"))
    else:
        file = FsspecFile(location, int(length))
    return file


def read_all(location: str) -> bytes:
    """The whole of a small file."""
    if is_s3(location):
        return s3_read.read_all(location)
    with open_input(location) as file:
        return file.read()


def read_into(location: str, start: int, target: memoryview) -> int:
    """Fill `target` from byte `start` on; the bytes filled are fewer only where the file ends."""
    if is_s3(location):
        return s3_read.read_into(location, start, target)
    file = FsspecFile(location, size(location))
    stop = min(start + len(target), file.length)
    data = file.fetch(start, stop) if stop > start else b""
    target[: len(data)] = data
    return len(data)


def walk(location: str, depth: int | None = None) -> Iterator[tuple[str, str, int, str]]:
    """(path below it, location, bytes, fingerprint) of the files below a directory; nothing where there is none.

    depth : names that such a path has at most; None for any number.
    """
    base = location.rstrip("/")
    if is_s3(location):
        start = len(base.split("://", 1)[1].partition("/")[2])
        for key, facts in _s3_objects(base, depth):
            path = key[start:].removeprefix("/")
            yield path, f"{base}/{path}", facts.size, facts.fingerprint
        return
    fs, inner = _fsspec(base)
    try:
        found = _asked(location, lambda: fs.find(inner, maxdepth=depth, detail=True))
    except (FileNotFoundError, NotADirectoryError):
        return
    below = len(inner.rstrip("/")) + 1
    for full, facts in found.items():
        yield full[below:], f"{base}/{full[below:]}", int(facts["size"]), fingerprint(facts)


def _s3_objects(location: str, depth: int | None) -> Iterator[tuple[str, s3.Facts]]:
    for key, facts in s3.listing(location, deep=depth is None):
        if facts is not None:
            yield key, facts
        elif depth is not None and depth > 1:
            bucket = s3.place(location)[0]
            yield from _s3_objects(f"s3://{bucket}/{key}", depth - 1)


def put_file(location: str, path: str) -> None:
    """Make a file there of a finished local one, whole or not at all."""
    if is_s3(location):
        s3_put.put_file(location, path)
        return
    fs, inner = _fsspec(location)
    _asked(location, lambda: fs.put_file(path, inner))
    there, wanted = size(location), os.path.getsize(path)
    if there != wanted:
        raise StorageError(f"{location}: the store took {wanted:,} bytes and holds {there:,}")


def copy(source: str, target: str) -> bool:
    """Let the store copy a file; False where it does not do that."""
    if is_s3(source) and is_s3(target):
        if size(source) > LARGEST_COPY:
            return False
        s3_put.copy(source, target)
        return True
    return False


def remove(location: str) -> None:
    """Delete a file, or a directory with all that is in it; nothing where there is none."""
    if is_s3(location):
        with ThreadPoolExecutor(REMOVERS) as pool:
            below = (place for _, place, _, _ in walk(location))
            for _ in pool.map(s3.remove, [location, *below]):
                pass
        return
    fs, path = _fsspec(location)
    with contextlib.suppress(FileNotFoundError), _errors_of(location):
        fs.rm(path, recursive=True)
