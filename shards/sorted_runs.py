"""How are records of a file sorted that memory does not hold?

Records are gathered up to a budget, sorted and written, a run at a time, to one file without a name in scratch
(scratch.py): it is gone with the process, however that ends. Runs are merged as they are read back.

Memory: the budget, with `RECORD` bytes for each record; while merging, `BUFFER` bytes and one record for each run.
"""

from __future__ import annotations

import heapq
import os
import struct
from collections.abc import Iterator
from types import TracebackType
from typing import BinaryIO

from winnow.shards import scratch

HEAD = struct.Struct(">5qI")
RECORD = 360
"""Bytes of a record in memory beside its payload: two tuples, five integers, the object of the payload (ours)."""
BUFFER = 1 << 16

Key = tuple[int, ...]


class SortedRuns:
    """Sorts (five integers, bytes): `add` all, then read `merged` once. Use it in a `with`."""

    def __init__(self, budget: int):
        self.budget = budget
        self.held: list[tuple[Key, bytes]] = []
        self.bytes = 0
        self.file: BinaryIO | None = None
        self.ends: list[int] = []

    def __enter__(self) -> SortedRuns:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.file is not None:
            self.file.close()

    def add(self, key: Key, payload: bytes) -> None:
        """Raises OSError where scratch is full."""
        self.held.append((key, payload))
        self.bytes += RECORD + len(payload)
        if self.bytes >= self.budget:
            self._spill()

    def merged(self) -> Iterator[tuple[Key, bytes]]:
        """All records in the order of their keys, then their payloads."""
        self.held.sort()
        if self.file is None:
            yield from self.held
            return
        self._spill()
        starts = [0, *self.ends[:-1]]
        yield from heapq.merge(*(self._run(start, end) for start, end in zip(starts, self.ends, strict=True)))

    def _spill(self) -> None:
        if self.file is None:
            self.file = scratch.nameless()
        self.held.sort()
        for key, payload in self.held:
            self.file.write(HEAD.pack(*key, len(payload)))
            self.file.write(payload)
        self.file.flush()
        self.ends.append(self.file.tell())
        self.held, self.bytes = [], 0

    def _run(self, start: int, end: int) -> Iterator[tuple[Key, bytes]]:
        assert self.file is not None
        file = self.file.fileno()
        buffer, at = b"", 0

        def more(wanted: int) -> None:
            nonlocal buffer, at, start
            parts = [buffer[at:]]
            missing = wanted - len(parts[0])
            while missing > 0:
                part = os.pread(file, min(max(missing, BUFFER), end - start), start)
                if not part:
                    raise OSError("the sorted runs in scratch were cut")
                parts.append(part)
                start += len(part)
                missing -= len(part)
            buffer, at = b"".join(parts), 0

        while start < end or at < len(buffer):
            if len(buffer) - at < HEAD.size:
                more(HEAD.size)
            *key, length = HEAD.unpack_from(buffer, at)
            at += HEAD.size
            if len(buffer) - at < length:
                more(length)
            yield tuple(key), buffer[at : at + length]
            at += length
