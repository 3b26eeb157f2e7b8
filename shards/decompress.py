"""How is a compressed stream read without trusting it?

Arrow's decompressors do the work for gzip, zstd, bz2 and lz4: they stream, take files of many members or frames,
hand out bounded pieces whatever the ratio, and, unlike python-zstandard's reader, say when the
input ends inside a member. xz is the standard library's. A cut file is an error by default, because an interrupted
download looks the same; `keep` reads up to the cut.

A bomb, a file of next to nothing that would fill a disk, is given up when it has become more than `BOMB_BYTES` and
more than `BOMB_RATIO` times what was read of it. Text hardly becomes a hundredth; gzip can make a 1,032th of anything
and lz4 a 255th, but a few kilobytes of bz2, xz or zstd can stand for many gigabytes.
"""

from __future__ import annotations

import contextlib
import lzma
from collections.abc import Iterator
from typing import BinaryIO

BLOCK = 1 << 20
"""Bytes handed out at a time; also the memory bound of a stream, with one such block of input and a window."""
BOMB_BYTES = 256 << 20
BOMB_RATIO = 2000
XZ_MEMORY = 256 << 20
"""Of a window; `xz -9` takes 65 MiB. The other formats have bounds of their own (zstd: 128 MiB)."""


class TruncatedError(OSError):
    """A compressed file ends inside a member or frame."""


class CorruptError(OSError):
    """A compressed file holds bytes that its format does not allow."""


class BombError(CorruptError):
    """A compressed file becomes more than any text does."""


def blocks(file: BinaryIO, compression: str | None, start: int = 0) -> Iterator[bytes]:
    """Yield the decompressed stream in blocks of at most `BLOCK` bytes.

    `start` (plain files only) seeks first. Raises TruncatedError after everything before the cut has
    been yielded, CorruptError and BombError; errors of reading the file itself pass as they are.
    """
    if compression is None:
        file.seek(start)
        while block := file.read(BLOCK):
            yield block
        return
    done = 0
    for block in _xz_blocks(file) if compression == "xz" else _arrow_blocks(file, compression):
        done += len(block)
        if done > BOMB_BYTES and done > BOMB_RATIO * file.tell():
            raise BombError(
                f"a decompression bomb: {file.tell():,} bytes became more than {done:,}; "
                "leave the file out with `exclude`"
            )
        yield block


def _arrow_blocks(file: BinaryIO, compression: str) -> Iterator[bytes]:
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
    with contextlib.suppress(OSError):
        while byte := stream.read(1):
            tail += byte
    if tail:
        yield bytes(tail)


def _xz_blocks(file: BinaryIO) -> Iterator[bytes]:
    """An .xz file's streams, one behind the other, with the zeros that may lie between them."""
    file.seek(0)
    stream: lzma.LZMADecompressor | None = None
    data = b""
    while True:
        ended = False
        if not data and (stream is None or stream.needs_input):
            data = file.read(BLOCK)
            ended = not data
        if stream is None:
            data = data.lstrip(b"\0")
            if ended:
                return
            if not data:
                continue
            stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)
        if ended:
            raise TruncatedError("Truncated compressed stream")
        try:
            block = stream.decompress(data, BLOCK)
        except lzma.LZMAError as error:
            raise CorruptError(str(error)) from error
        data = b""
        if stream.eof:
            data, stream = stream.unused_data, None
        if block:
            yield block
