"""How is a file that is only served by ranges read like one that is open?

`READ_AHEAD` bytes ahead at most, growing while the file is read on and on, so that a jump to a footer costs little and
a stream few requests. `read` gives all the bytes that are asked for but at the end of the file, which is where its size
says; what fetches the bytes must give exactly those that are asked for or raise.

Memory: READ_AHEAD bytes a file, or one longer read.
"""

from __future__ import annotations

import io
import os
from typing import Any

READ_AHEAD, FIRST_READ = 8 << 20, 1 << 20
"""Bytes of a request: the first after a jump, and the most when a file is read on and on."""


class RangedFile(io.RawIOBase):
    """A file of `length` bytes; those who know how to fetch its bytes are made of it."""

    def __init__(self, length: int):
        super().__init__()
        self.length = length
        self.position = 0
        self.start = 0
        self.block = b""
        """What was read ahead, from `start` on."""
        self.ahead = FIRST_READ

    def fetch(self, start: int, stop: int) -> bytes:
        """The bytes from `start` to `stop`, all of them; raises OSError."""
        raise NotImplementedError

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def size(self) -> int:
        """Bytes of the file."""
        return self.length

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.length}[whence]
        if position < 0:
            raise ValueError(f"there is no byte {position}")
        self.position = position
        return position

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return self.read(-1)

    def read(self, size: int | None = -1) -> bytes:
        stop = self.length
        if size is not None and size >= 0:
            stop = min(stop, self.position + size)
        if stop <= self.position:
            return b""
        at = self.position - self.start
        out = self.block[at : at + stop - self.position] if at >= 0 else b""
        self.position += len(out)
        if self.position < stop:
            out += self._read_on(stop)
            self.position = stop
        return out

    def _read_on(self, stop: int) -> bytes:
        """The bytes up to `stop` that the block has not; what comes behind them is read ahead."""
        goes_on = self.block and self.position == self.start + len(self.block)
        self.ahead = min(2 * self.ahead, READ_AHEAD) if goes_on else FIRST_READ
        wanted = stop - self.position
        data = self.fetch(self.position, min(self.length, self.position + max(wanted, self.ahead)))
        self.start, self.block = self.position, data
        if wanted >= READ_AHEAD:  # a long read is its reader's, not kept here as well
            self.start, self.block = stop, data[wanted:]
        return data[:wanted]
