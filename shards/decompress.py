"""How is a compressed stream read without trusting it?

Arrow's decompressors do the work: they stream, take gzip and zstd files of many members or frames,
hand out bounded pieces whatever the ratio, and, unlike python-zstandard's reader, say when the
input ends inside a member. A cut file is an error by default, because an interrupted download
looks the same; `keep` reads up to the cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

BLOCK = 1 << 20
"""Bytes handed out at a time; also the memory bound of a stream, with one such block of input."""


class TruncatedError(OSError):
    """A compressed file ends inside a member or frame."""


class CorruptError(OSError):
    """A compressed file holds bytes that its format does not allow."""


def blocks(file: BinaryIO, compression: str | None, start: int = 0) -> Iterator[bytes]:
    """Yield the decompressed stream in blocks of at most `BLOCK` bytes.

    `start` (plain files only) seeks first. Raises TruncatedError after everything before the cut has
    been yielded, and CorruptError; errors of reading the file itself pass as they are.
    """
    if compression is None:
        file.seek(start)
        while block := file.read(BLOCK):
            yield block
        return
    done = 0
    stream = _open(file, compression)
    while True:
        try:
            block = stream.read(BLOCK)
        except OSError as error:
            if not is_from_arrow(error):
                raise
            if "truncated" not in str(error).lower():
                raise CorruptError(str(error)) from error
            # The failed read threw away what it had gathered. Read that part again, a byte at a
            # time, so that nothing before the cut is lost; at most one block, once a file.
            yield from _last_bytes(file, compression, done)
            raise TruncatedError(str(error)) from error
        if not block:
            return
        done += len(block)
        yield block


def is_from_arrow(error: OSError) -> bool:
    """Tell Arrow's complaint about content from an error of the file system, which may pass with time."""
    return type(error) is OSError and error.errno is None


def _open(file: BinaryIO, compression: str):
    import pyarrow as pa

    file.seek(0)
    return pa.CompressedInputStream(pa.PythonFile(file, mode="r"), compression)


def _last_bytes(file: BinaryIO, compression: str, done: int) -> Iterator[bytes]:
    stream = _open(file, compression)
    while done:
        done -= len(stream.read(min(done, BLOCK)))
    tail = bytearray()
    try:
        while byte := stream.read(1):
            tail += byte
    except OSError:
        pass
    if tail:
        yield bytes(tail)
