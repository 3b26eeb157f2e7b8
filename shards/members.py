"""Where do the members of a gzip file, or the frames of a zstd file, begin, and what is in each?

A web archive has a member for each record, so that one record can be fetched alone, and a reader can begin anywhere.
Arrow's streams (decompress.py) do not tell members apart; here a member is read block by block, and the place it
begins at is known. Zstandard files may open with a skippable frame that holds a dictionary (IIPC's zstd profile of
WARC).

Memory: one read of the file (`READ` bytes), one block of at most `decompress.BLOCK` bytes, zlib's or zstd's window
(at most 128 MiB, the library's own limit), and a dictionary of at most `DICTIONARY` bytes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from winnow.shards.decompress import BLOCK, BOMB_BYTES, BOMB_RATIO, BombError, CorruptError, TruncatedError

READ = 1 << 16
GZIP = b"\x1f\x8b\x08"
ZSTD = b"\x28\xb5\x2f\xfd"
SKIPPABLE = range(0x184D2A50, 0x184D2A60)
DICTIONARY_FRAME = 0x184D2A5D
DICTIONARY = 16 << 20
ZSTD_BLOCK = 1 << 17
"""Bytes of the largest block of a frame (RFC 8878)."""
ZSTD_HEADER = 18
"""Bytes of the largest header of a frame."""
TRIED = 1 << 10
"""Stored bytes of a supposed gzip member that are inflated to see what it is: more than a header and the code
tables of its first block."""


class Stored:
    """The bytes of a file from a place on, a piece at a time."""

    def __init__(self, file: BinaryIO, at: int = 0):
        file.seek(at)
        self.file = file
        self.held = b""
        self.at = at
        """Where `held` begins in the file."""

    def fill(self, wanted: int) -> bool:
        """Hold at least so many bytes; False where the file ends before."""
        while len(self.held) < wanted:
            block = self.file.read(max(READ, wanted - len(self.held)))
            if not block:
                return False
            self.held += block
        return True

    def take(self, count: int) -> bytes:
        """The next bytes. Raises TruncatedError."""
        if not self.fill(count):
            raise TruncatedError("the file ends inside a member")
        taken, self.held = self.held[:count], self.held[count:]
        self.at += count
        return taken

    def take_held(self) -> bytes:
        """What is held, or the next read; empty at the end."""
        self.fill(1)
        taken, self.held = self.held, b""
        self.at += len(taken)
        return taken

    def give_back(self, data: bytes) -> None:
        self.held = data + self.held
        self.at -= len(data)

    def skip_zeros(self) -> None:
        """Pass over padding, as tape archivers leave it behind a gzip member."""
        while self.fill(1) and self.held[0] == 0:
            rest = self.held.lstrip(b"\0")
            self.at += len(self.held) - len(rest)
            self.held = rest


class Gzip:
    """The members of a gzip file."""

    magic = GZIP

    def __init__(self, file: BinaryIO):
        self.file = file
        self.place = 0
        """Where what is read now begins: a member, or what should be one."""

    def members(self, at: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        """(place, blocks) of the members from a place on, where one begins.

        A member's blocks are to be used up before the next is asked for. They raise TruncatedError and
        CorruptError, as does what lies between members and is none.
        """
        stored = Stored(self.file, at)
        while stored.fill(1):
            start = self.place = stored.at
            if stored.fill(2) and not stored.held.startswith(GZIP[:2]):
                stored.skip_zeros()
                if not stored.fill(1):
                    return
                if stored.at == start:
                    raise CorruptError("no gzip member where one should begin")
                continue
            yield start, _inflated(stored)

    def begins(self, data: bytes, prefix: bytes) -> bool:
        """Whether bytes that begin with the magic are a member whose content begins with a prefix."""
        try:
            return zlib.decompressobj(31).decompress(data[:TRIED], len(prefix)) == prefix
        except zlib.error:
            return False


def _inflated(stored: Stored) -> Iterator[bytes]:
    inflater = zlib.decompressobj(31)
    data = b""
    while not inflater.eof:
        data = data or stored.take_held()
        try:
            block = inflater.decompress(data, BLOCK)
        except zlib.error as error:
            raise CorruptError(str(error)) from error
        if not data and not block and not inflater.eof:
            raise TruncatedError("the file ends inside a gzip member")
        data = inflater.unconsumed_tail
        if block:
            yield block
    stored.give_back(inflater.unused_data)


class Zstd:
    """The frames of a zstd file."""

    magic = ZSTD

    def __init__(self, file: BinaryIO):
        import zstandard

        self.file = file
        self.place = 0
        self.done = 0
        self.given = 0
        dictionary = _dictionary(file)
        self.decompressor = zstandard.ZstdDecompressor(
            dict_data=zstandard.ZstdCompressionDict(dictionary) if dictionary else None
        )

    def members(self, at: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        """(place, blocks) of the frames from a place on; as Gzip's."""
        stored = Stored(self.file, at)
        while stored.fill(1):
            start = self.place = stored.at
            if not stored.fill(4):
                raise TruncatedError("the file ends inside a zstd frame")
            if int.from_bytes(stored.held[:4], "little") in SKIPPABLE:
                _, size = struct.unpack("<II", stored.take(8))
                while size:
                    size -= len(stored.take(min(size, READ)))
            elif stored.held.startswith(ZSTD):
                yield start, self._blocks(stored)
            else:
                raise CorruptError("no zstd frame where one should begin")

    def _blocks(self, stored: Stored) -> Iterator[bytes]:
        # A frame is walked block by block: the library hands out all that a piece of input holds, which is bounded
        # for one block alone, and says where a frame ends only by what it leaves.
        import zstandard

        whole = stored.fill(ZSTD_HEADER)
        try:
            size = zstandard.frame_header_size(stored.held)
            checksum = zstandard.get_frame_parameters(stored.held).has_checksum
        except zstandard.ZstdError as error:
            raise (CorruptError if whole else TruncatedError)(str(error)) from error
        try:
            frame = self.decompressor.decompressobj()
            frame.decompress(stored.take(size))
            last = False
            while not last:
                head = stored.take(3)
                word = int.from_bytes(head, "little")
                last, kind, length = bool(word & 1), word >> 1 & 3, word >> 3
                if length > ZSTD_BLOCK:
                    raise CorruptError("a zstd block of more than 128 KiB")
                length = 1 if kind == 1 else length  # one byte, repeated
                data = frame.decompress(head + stored.take(length))
                self.done += len(data)
                self.given += 3 + length
                if self.done > BOMB_BYTES and self.done > BOMB_RATIO * self.given:
                    raise BombError(
                        f"a decompression bomb: {self.given:,} bytes became more than {self.done:,}"
                    )
                if data:
                    yield data
            if checksum:
                frame.decompress(stored.take(4))
        except zstandard.ZstdError as error:
            raise CorruptError(str(error)) from error

    def begins(self, data: bytes, prefix: bytes) -> bool:
        """As Gzip's; a first block that `data` does not hold whole is no beginning."""
        import io

        try:
            return next(self._blocks(Stored(io.BytesIO(data))), b"").startswith(prefix)
        except (CorruptError, TruncatedError):
            return False


def _dictionary(file: BinaryIO) -> bytes:
    """The dictionary a zstd file opens with; empty without one. Raises CorruptError."""
    import zstandard

    file.seek(0)
    head = file.read(8)
    if len(head) < 8 or int.from_bytes(head[:4], "little") != DICTIONARY_FRAME:
        return b""
    size = int.from_bytes(head[4:], "little")
    if size > DICTIONARY:
        raise CorruptError(f"a dictionary of {size:,} bytes")
    data = file.read(size)
    if len(data) < size:
        raise TruncatedError("the file ends inside its dictionary")
    if not data.startswith(ZSTD):
        return data
    try:
        with zstandard.ZstdDecompressor().stream_reader(data) as reader:
            return reader.read(DICTIONARY)
    except zstandard.ZstdError as error:
        raise CorruptError(str(error)) from error


FORMATS: dict[str, type[Gzip] | type[Zstd]] = {"gzip": Gzip, "zstd": Zstd}
"""By the names of inputs.COMPRESSIONS."""
WINDOW = ZSTD_BLOCK + 64
"""Stored bytes that `begins` may need."""


def find(format_: Gzip | Zstd, at: int, prefix: bytes) -> int | None:
    """The first place from `at` on where a member begins whose content begins with a prefix; None without one.

    Bytes inside a member can look like one: those of an archive that a crawler fetched and stored. A caller
    that begins some way before the place it is after and goes from member to member is not misled by them.
    """
    stored = Stored(format_.file, at)
    while True:
        stored.fill(WINDOW + READ)
        found = stored.held.find(format_.magic)
        if found < 0:
            whole = len(stored.held) < WINDOW + READ
            if whole:
                return None
            found = len(stored.held) - len(format_.magic) + 1
            stored.take(found)
            continue
        stored.take(found)
        stored.fill(WINDOW)
        if format_.begins(stored.held[:WINDOW], prefix):
            return stored.at
        stored.take(1)
