"""What are the values of a Parquet column whose pages memory does not hold?

Arrow reads a page as a whole. It has about 1 MiB in most files, but pyarrow writes 1,024 rows to one at least, and
puts strings of any size into a dictionary: of a gigabyte among short ones the page has a gigabyte, and 1,024 books
of a megabyte are a page as well. Here a flat column of strings is read a value at a time; what is longer than a
limit is passed over, and its size and first bytes are known. Encodings: PLAIN, PLAIN_DICTIONARY and RLE_DICTIONARY, in
pages of both versions; others raise UnreadableError.

Memory: one value, what parquet_pages.py holds, for each row of a page nine bytes, and for each value of a dictionary
some 40; the values themselves lie in a file in scratch meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from winnow.shards import scratch
from winnow.shards.parquet_pages import (
    DATA_V2,
    DICTIONARY,
    HEADER,
    Page,
    Stream,
    UnreadableError,
    content,
    pages,
    whole,
)

if TYPE_CHECKING:
    import pyarrow.parquet as pq

PLAIN, PLAIN_DICTIONARY, RLE_DICTIONARY = 0, 2, 8
MOST_VALUES = 1 << 24
"""Of a page or a dictionary; pyarrow writes at most 20,000 rows to a page."""
GROUPS = 1 << 13
"""Packed numbers, by eights, that are unpacked at a time."""


@dataclass(frozen=True, slots=True)
class Large:
    """A value over the limit."""

    size: int
    start: bytes


class _Dictionary:
    """The values that a chunk's pages name by numbers, in a file; use it in a `with`."""

    def __init__(self) -> None:
        self.file = scratch.nameless()
        self.ends = [0]
        self.large: dict[int, Large] = {}

    def __enter__(self) -> _Dictionary:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def read(self, stream: Stream, count: int, longest: int, kept: int) -> None:
        """Raises OSError where scratch is full."""
        for i in range(count):
            value = _plain(stream, longest, kept)
            if isinstance(value, Large):
                self.large[i] = value
                value = b""
            self.file.write(value)
            self.ends.append(self.ends[-1] + len(value))
        self.file.flush()

    def __getitem__(self, i: int) -> bytes | Large:
        if i in self.large:
            return self.large[i]
        if not 0 <= i < len(self.ends) - 1:
            raise UnreadableError("a value that is not in its dictionary")
        start, end = self.ends[i : i + 2]
        return os.pread(self.file.fileno(), end - start, start)


def values(
    file: BinaryIO, chunk: pq.ColumnChunkMetaData, optional: bool, longest: int, kept: int
) -> Iterator[bytes | Large | None]:
    """The values of a flat column of strings, in their order.

    optional : whether a value can be null. kept : bytes that are kept of a value over `longest`.
    Raises UnreadableError, and OSError where scratch is full.
    """
    with _Dictionary() as dictionary:
        for page in pages(file, chunk):
            if page.values > MOST_VALUES:
                raise UnreadableError(f"a page of {page.values:,} values")
            stream = Stream(content(file, page, chunk.compression))
            if page.kind == DICTIONARY:
                dictionary.read(stream, page.values, longest, kept)
                continue
            present = _present(file, page, stream, optional)
            some = page.values if present is None else int(np.count_nonzero(present))
            each: Iterator[bytes | Large]
            if page.encoding in (PLAIN_DICTIONARY, RLE_DICTIONARY):
                numbers = _hybrid(stream, stream.take(1)[0], some) if some else np.empty(0, np.uint32)
                each = map(dictionary.__getitem__, numbers.tolist())
            elif page.encoding == PLAIN:
                each = (_plain(stream, longest, kept) for _ in range(some))
            else:
                raise UnreadableError(f"a page of encoding {page.encoding}")
            if present is None:
                yield from each
            else:
                for there in present.tolist():
                    yield next(each) if there else None


def longest_of(file: BinaryIO, chunk: pq.ColumnChunkMetaData, page: Page) -> int:
    """Bytes of the longest string of a dictionary page, which is held as a whole. Raises UnreadableError."""
    data = whole(file, page, chunk.compression)
    at = longest = 0
    for _ in range(page.values):
        size = int.from_bytes(data[at : at + 4], "little")
        at += 4 + size
        if size > longest:
            longest = size
    if at > len(data):
        raise UnreadableError("a page that ends too early")
    return longest


def _present(file: BinaryIO, page: Page, stream: Stream, optional: bool) -> np.ndarray | None:
    """bool[values]: where there is a value; None where there are all."""
    if not optional:
        return None
    if page.kind == DATA_V2:
        file.seek(page.at)
        stream = Stream(iter([file.read(page.levels)]))
    else:
        length = int.from_bytes(stream.take(4), "little")
        if length > page.values + HEADER:
            raise UnreadableError(f"{length:,} bytes of levels")
        stream = Stream(iter([stream.take(length)]))
    return _hybrid(stream, 1, page.values) > 0


def _plain(stream: Stream, longest: int, kept: int) -> bytes | Large:
    size = int.from_bytes(stream.take(4), "little")
    if size <= longest:
        return stream.take(size)
    start = stream.take(min(size, kept))
    stream.skip(size - len(start))
    return Large(size, start)


def _hybrid(stream: Stream, width: int, count: int) -> np.ndarray:
    """uint32[count]: numbers of `width` bits, as runs of one or packed by eights."""
    if width > 32:
        raise UnreadableError(f"numbers of {width} bits")
    if width == 0:
        return np.zeros(count, np.uint32)
    out = np.empty(count, np.uint32)
    weights = np.left_shift(np.uint64(1), np.arange(width, dtype=np.uint64))
    done = 0
    while done < count:
        head = stream.varint()
        if head & 1:
            groups = min(head >> 1, -(-(count - done) // 8))
            while groups:
                some = min(groups, GROUPS)
                stored = np.frombuffer(stream.take(some * width), np.uint8)
                bits = np.unpackbits(stored, bitorder="little").reshape(-1, width)
                found = (bits * weights).sum(1, dtype=np.uint64)[: count - done]
                out[done : done + len(found)] = found
                done += len(found)
                groups -= some
        else:
            run = min(head >> 1, count - done)
            if not run:
                raise UnreadableError("a run of nothing")
            out[done : done + run] = int.from_bytes(stream.take((width + 7) // 8), "little")
            done += run
    return out
