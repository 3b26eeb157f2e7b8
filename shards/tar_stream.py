"""What lies in a tar, read once from its beginning to its end?

Only headers are interpreted, and nothing is written to a disk: a member is a name, a place and some bytes. POSIX's and
GNU's long names and sizes are read, up to `LONGEST_EXTENSION` bytes of them; the standard library's tarfile reads
extended headers of any size and keeps every member. Archives one behind the other are one archive.

Memory: a block of the stream, a header, an extension.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

BLOCK = 512
LONGEST_EXTENSION = 1 << 16
FILES = (b"0", b"\0", b"7", b"S")
WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")
"""Links, devices, directories and pipes: a size in their header is what they link to, or what they may grow to."""
SPARSE = b"S"
EXTENSIONS = (b"x", b"g", b"L", b"K")
"""Types of members that say something of the next, or of all: POSIX's and GNU's."""


class BrokenTarError(Exception):
    """Bytes where a header belongs that are none."""


class CutTarError(BrokenTarError):
    """A tar that ends before its end."""


@dataclass(frozen=True, slots=True)
class Member:
    offset: int
    """Of its header in the stream; what extends the header lies before."""
    name: str
    """As it is written; it may be absolute, or lead out of the archive."""
    size: int
    """Bytes of its data in the stream."""
    modified: int
    """Seconds since 1970."""
    is_file: bool
    """Whether it is a regular file: no directory, link or device."""
    is_sparse: bool = False
    """A regular file, of which only the parts that are not zero are there."""


class Stream:
    """Reads and skips bytes of blocks."""

    def __init__(self, blocks: Iterator[bytes]):
        self.blocks = blocks
        self.block = memoryview(b"")
        self.offset = 0

    def parts(self, size: int) -> Iterator[memoryview]:
        """The next `size` bytes in parts; fewer at the end."""
        while size:
            if not self.block:
                self.block = memoryview(next(self.blocks, b""))
                if not self.block:
                    return
            part, self.block = self.block[:size], self.block[size:]
            size -= len(part)
            self.offset += len(part)
            yield part

    def read(self, size: int) -> bytes:
        return b"".join(self.parts(size))

    def skip_to(self, offset: int) -> None:
        """Raises CutTarError where the stream ends before."""
        for _ in self.parts(offset - self.offset):
            pass
        if self.offset < offset:
            raise CutTarError(f"it ends at byte {self.offset}, inside a member")


def members(stream: Stream) -> Iterator[Member]:
    """The members of a tar; what a member's data is not read of is passed over. Raises BrokenTarError, CutTarError."""
    extended: dict[bytes, bytes] = {}
    at_end = False
    while True:
        offset = stream.offset
        header = stream.read(BLOCK)
        if at_end and not is_header(header) and header.strip(b"\0"):
            return  # what lies behind the end is nobody's
        if not header.strip(b"\0"):
            if len(header) < BLOCK and at_end:
                return
            if len(header) < BLOCK:
                raise CutTarError(f"it ends at byte {stream.offset}, without the mark of an end")
            at_end = True
            continue
        if len(header) < BLOCK:
            raise CutTarError(f"it ends at byte {stream.offset}, inside a header")
        if not is_header(header):
            raise BrokenTarError(f"no tar header at byte {offset}")
        at_end = False
        kind, size = header[156:157], _number(header[124:136])
        if kind in EXTENSIONS:
            end = stream.offset + _padded(size)
            extended |= _extension(kind, stream.read(min(size, LONGEST_EXTENSION)))
        else:
            member = _member(offset, header, size, extended)
            if kind == SPARSE:
                _skip_map(stream, header)
            end = stream.offset + _padded(member.size)
            extended = {}
            yield member
        stream.skip_to(end)


def is_header(header: bytes) -> bool:
    """Whether 512 bytes are a tar header: the sum of its bytes is in it."""
    if len(header) < BLOCK:
        return False
    try:
        given = _number(header[148:156])
    except BrokenTarError:
        return False
    counted = header[:148] + 8 * b" " + header[156:]
    total = sum(counted)
    # Some old programs took bytes beyond 127 for negative ones.
    return given in (total, total - 256 * sum(byte > 127 for byte in counted))


def _member(offset: int, header: bytes, size: int, extended: dict[bytes, bytes]) -> Member:
    kind = header[156:157]
    prefix = _string(header[345:500]) if header[257:263] == b"ustar\0" else ""
    name = (f"{prefix}/" if prefix else "") + _string(header[:100])
    if b"path" in extended:
        name = extended[b"path"].decode("utf-8", "replace")
    if extended.get(b"size", b"").isdigit():
        size = int(extended[b"size"][:20])
    sparse = kind == SPARSE or any(key.startswith(b"GNU.sparse.") for key in extended)
    # Before POSIX a directory was a file whose name says it.
    is_directory = kind == b"\0" and name.endswith("/")
    if is_directory or kind in WITHOUT_DATA:
        size = 0
    return Member(offset, name, size, _number(header[136:148]), kind in FILES and not is_directory, sparse)


def _skip_map(stream: Stream, header: bytes) -> None:
    """Pass over the blocks in which GNU's old form goes on to say where a sparse file's parts belong."""
    more = header[482:483]
    while more.strip(b"\0"):
        more = stream.read(BLOCK)[504:505]


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _number(field: bytes) -> int:
    if field[0] & 0x80:  # GNU's base 256, for what octal digits do not hold
        return int.from_bytes(field[1:], "big")
    digits = field.partition(b"\0")[0].strip(b" ")
    if not re.fullmatch(rb"[0-7]*", digits):
        raise BrokenTarError("a number that is none")
    return int(digits or b"0", 8)


def _string(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "replace")


def _extension(kind: bytes, data: bytes) -> dict[bytes, bytes]:
    """What extends the next header, by POSIX's keywords; of all headers, or of links, nothing is."""
    if kind == b"L":
        return {b"path": data.partition(b"\0")[0]}
    found: dict[bytes, bytes] = {}
    at = 0
    while kind == b"x" and at < len(data):
        # A record is its own length in digits, a space, keyword=value and a line end.
        length, space, _ = data[at : at + 20].partition(b" ")
        if not space or not length.isdigit() or int(length) <= len(length):
            break
        keyword, _, value = data[at + len(length) + 1 : at + int(length) - 1].partition(b"=")
        found[keyword] = value
        at += int(length)
    return found
