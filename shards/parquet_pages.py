"""Which pages does a column chunk of a Parquet file have, how large are they, and what are their bytes?

`pages` goes from header to header (Apache Parquet 2.11, Thrift's compact protocol) and reads no page; `content` hands
out a page's bytes, decompressed, in blocks, where Arrow would make one piece of them. Uncompressed pages, Snappy,
gzip and zstd are read; others raise UnreadableError.

Memory: a header, one read of `BLOCK` bytes and as much decompressed, and zstd's window.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import pyarrow as pa

if TYPE_CHECKING:
    import pyarrow.parquet as pq

HEADER = 1 << 16
"""Bytes that are read for a page's header; statistics in it can hold two values."""
LONGEST_HEADER = 16 << 20
BLOCK = 1 << 20
DATA, DICTIONARY, DATA_V2 = 0, 2, 3


class UnreadableError(Exception):
    """A page that is not read here, or whose bytes are not what its format allows."""


@dataclass(frozen=True, slots=True)
class Page:
    at: int
    """Where its bytes begin in the file, behind the header."""
    kind: int
    stored: int
    size: int
    """Bytes, decompressed."""
    values: int
    encoding: int
    levels: int = 0
    """Bytes of levels before the values of a page of version 2; they are not compressed."""
    compressed: bool = True


def pages(file: BinaryIO, chunk: pq.ColumnChunkMetaData) -> Iterator[Page]:
    """The pages of a column chunk, in their order, by their headers alone. Raises UnreadableError."""
    first = chunk.dictionary_page_offset
    at = chunk.data_page_offset if not first else min(first, chunk.data_page_offset)
    seen = 0
    while seen < chunk.num_values:
        page, at = _page(file, at)
        if page.kind in (DATA, DATA_V2):
            seen += page.values
        if page.kind in (DATA, DATA_V2, DICTIONARY):
            yield page
        at += page.stored


def _page(file: BinaryIO, at: int) -> tuple[Page, int]:
    """The page whose header begins at a place, and where its bytes begin."""
    length = HEADER
    while True:
        file.seek(at)
        data = file.read(length)
        try:
            fields, used = _struct(data, 0)
            break
        except IndexError:
            if len(data) < length or length >= LONGEST_HEADER:
                raise UnreadableError("a page's header is cut") from None
            length *= 16
    kind, size, stored = fields.get(1, -1), fields.get(2, -1), fields.get(3, -1)
    if size < 0 or stored < 0:
        raise UnreadableError("a page without a size")
    body = at + used
    if kind == DATA_V2:
        of = fields.get(8, {})
        levels = of.get(5, 0) + of.get(6, 0)
        page = Page(
            body, kind, stored, size, of.get(1, 0), of.get(4, -1), levels, of.get(7, True) and stored > levels
        )
    else:
        of = fields.get(7 if kind == DICTIONARY else 5, {})
        page = Page(body, kind, stored, size, of.get(1, 0), of.get(2, -1))
    return page, body


def _struct(data: bytes, at: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """A struct of Thrift's compact protocol by its fields' numbers. Raises IndexError where the bytes end."""
    fields: dict[int, Any] = {}
    number = 0
    while True:
        head = data[at]
        at += 1
        if head == 0:
            return fields, at
        if head >> 4:
            number += head >> 4
        else:
            raw, at = _varint(data, at)
            number = _signed(raw)
        fields[number], at = _field(data, at, head & 15, depth)


def _field(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (1, 2):
        return kind == 1, at
    if kind == 3:
        return data[at], at + 1
    if kind in (4, 5, 6):
        raw, at = _varint(data, at)
        return _signed(raw), at
    if kind == 7:
        return None, at + 8
    if kind == 8:
        length, at = _varint(data, at)
        if at + length > len(data):
            raise IndexError
        return None, at + length
    if kind == 12 and depth < 8:
        return _struct(data, at, depth + 1)
    raise UnreadableError(f"a page's header of an unknown form ({kind})")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise UnreadableError("a number that does not end")


def _signed(raw: int) -> int:
    return (raw >> 1) ^ -(raw & 1)


# ---- content -----------------------------------------------------------------------------------------------------


def content(file: BinaryIO, page: Page, codec: str) -> Iterator[bytes]:
    """A page's bytes in blocks, without the levels of version 2. They raise UnreadableError."""
    stored = _stored(file, page)
    if codec == "UNCOMPRESSED" or not page.compressed:
        return stored
    if codec == "SNAPPY":
        return _unsnapped(Stream(stored))
    if codec == "GZIP":
        return _inflated(stored)
    if codec == "ZSTD":
        return _unzstd(stored)
    raise UnreadableError(f"a page of more than memory holds, compressed with {codec}")


def whole(file: BinaryIO, page: Page, codec: str) -> bytes:
    """The bytes of a page that memory holds, without the levels of version 2. Raises UnreadableError."""
    stored = b"".join(_stored(file, page))
    if codec == "UNCOMPRESSED" or not page.compressed:
        return stored
    # Parquet's LZ4 is raw blocks; Hadoop's older framing of them is an error here.
    name = "lz4_raw" if codec == "LZ4" else codec.lower()
    try:
        return cast(bytes, pa.decompress(stored, page.size - page.levels, name, asbytes=True))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UnreadableError(str(error)) from error


def _stored(file: BinaryIO, page: Page) -> Iterator[bytes]:
    at, stop = page.at + page.levels, page.at + page.stored
    while at < stop:
        file.seek(at)
        block = file.read(min(BLOCK, stop - at))
        if not block:
            raise UnreadableError("the file ends inside a page")
        at += len(block)
        yield block


def _inflated(stored: Iterator[bytes]) -> Iterator[bytes]:
    inflater = zlib.decompressobj(47)
    for block in stored:
        while block and not inflater.eof:
            try:
                out = inflater.decompress(block, BLOCK)
            except zlib.error as error:
                raise UnreadableError(str(error)) from error
            block = inflater.unconsumed_tail
            if out:
                yield out


def _unzstd(stored: Iterator[bytes]) -> Iterator[bytes]:
    import zstandard

    # The reader takes a piece of a source when it needs one, and gives no more than it was asked for.
    reader = zstandard.ZstdDecompressor().stream_reader(cast(BinaryIO, _Pieces(stored)), read_size=BLOCK)
    try:
        while block := reader.read(BLOCK):
            yield block
    except zstandard.ZstdError as error:
        raise UnreadableError(str(error)) from error


class _Pieces:
    """Blocks as a file that is read to its end."""

    def __init__(self, blocks: Iterator[bytes]):
        self.stream = blocks
        self.held = b""

    def read(self, size: int = -1) -> bytes:
        self.held = self.held or next(self.stream, b"")
        taken, self.held = self.held[:size], self.held[size:]
        return taken


def _unsnapped(stored: Stream) -> Iterator[bytes]:
    """The blocks of raw Snappy (google/snappy, format_description.txt).

    Its writers compress 64 KiB at a time and no copy reaches beyond them (snappy.h, kBlockSize), so that such a part
    is Snappy by itself. Raises UnreadableError for a page that is made otherwise.
    """
    left = stored.varint()
    codec = pa.Codec("snappy")
    while left:
        tags, size = bytearray(), min(left, 1 << 16)
        done = 0
        while done < size:
            tag = stored.take(1)
            tags += tag
            kind, length = tag[0] & 3, (tag[0] >> 2) + 1
            if kind == 0:
                if length > 60:
                    more = stored.take(length - 60)
                    tags += more
                    length = int.from_bytes(more, "little") + 1
                if done + length > size:
                    raise UnreadableError("Snappy that is not in blocks of 64 KiB")
                tags += stored.take(length)
            elif kind == 1:
                length = (tag[0] >> 2 & 7) + 4
                tags += stored.take(1)
            else:
                tags += stored.take(2 if kind == 2 else 4)
            done += length
        if done > size:
            raise UnreadableError("Snappy that is not in blocks of 64 KiB")
        try:
            yield codec.decompress(_as_varint(size) + tags, size, asbytes=True)
        except OSError as error:
            raise UnreadableError(str(error)) from error
        left -= size


def _as_varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


class Stream:
    """Reads bytes of blocks by count."""

    def __init__(self, blocks: Iterator[bytes]):
        self.blocks = blocks
        self.block = b""
        self.at = 0

    def take(self, count: int) -> bytes:
        """Raises UnreadableError where there are fewer."""
        if self.at + count <= len(self.block):
            self.at += count
            return self.block[self.at - count : self.at]
        return b"".join(self._parts(count))

    def skip(self, count: int) -> None:
        for _ in self._parts(count):
            pass

    def _parts(self, count: int) -> Iterator[bytes]:
        while count:
            if self.at == len(self.block):
                block = next(self.blocks, None)
                if block is None:
                    raise UnreadableError("a page that ends too early")
                self.block, self.at = block, 0
            part = self.block[self.at : self.at + count]
            self.at += len(part)
            count -= len(part)
            yield part

    def varint(self) -> int:
        value = shift = 0
        while shift < 70:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
        raise UnreadableError("a number that does not end")
