"""Which papers does one of arXiv's source archives hold?

`arXiv_src_YYMM_NNN.tar` (info.arxiv.org/help/bulk_data_s3) holds a member `YYMM/ID.gz` for each paper: a gzipped
tar of its files, or one gzipped file. A document is a paper: its `.tex` files in the order of its tar, as RedPajama
has them (RedPajama-Data v1, data_prep/arxiv), with a NUL between them for latex.py; its position is the offset of its
member's header. Columns: `text` (bytes), `arxiv_id` (`math/0304123`, `2208.13940`), `yymm`, `url`, `timestamp` (the
member's).

    mime       a paper without TeX: PDF, PostScript, HTML, pictures alone
    corrupt    its gzip stream or its tar is broken
    too-large  its TeX, or all that it unpacks to, in bytes or files

Nothing is written to a disk, and links are not followed (tar_stream.py). A broken header of the archive itself is a
CorruptError; its ending early is a TruncatedError, and the paper it ends in is not counted.

Memory: a paper's TeX of at most `max_document_bytes`, and two blocks.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from winnow.shards import decompress, storage, tar_stream
from winnow.shards.inputs import COMPRESSIONS, Piece
from winnow.shards.latex import NEXT_FILE
from winnow.shards.rows import Row

if TYPE_CHECKING:
    from winnow.shards.readers import ReadSettings

UNPACKED = 1 << 30
"""Bytes that a paper may unpack to, figures and all; arXiv takes 50 MB without asking (info.arxiv.org/help/sizes)."""
MEMBERS = 10_000
"""Files of a paper; more of them are no paper's, and each takes some microseconds."""
OLD_ID = re.compile(r"([a-z-]+(?:\.[A-Z]{2})?)([0-9]{7})", re.IGNORECASE)
NO_TEX = (b"%!PS", b"%PDF", b"\x89PNG", b"\xff\xd8\xff", b"PK\x03\x04", b"<!", b"<html")


class _Broken(Exception):
    """A gzip stream that cannot be read."""


class _Large(Exception):
    """A paper over a limit."""


def rows(piece: Piece, settings: ReadSettings) -> Iterator[Row]:
    """Raises TruncatedError and CorruptError after the papers before the fault."""
    compression = COMPRESSIONS.get(os.path.splitext(piece.path)[1])
    with storage.open_input(piece.location) as file:
        stream = tar_stream.Stream(decompress.blocks(file, compression))
        try:
            for member in tar_stream.members(stream):
                if member.is_file:
                    end = stream.offset + member.size
                    paper = _paper(member, stream, settings.max_document_bytes)
                    stream.skip_to(end)
                    yield paper
        except tar_stream.CutTarError as error:
            raise decompress.TruncatedError(str(error)) from error
        except tar_stream.BrokenTarError as error:
            raise decompress.CorruptError(str(error)) from error


def _paper(member: tar_stream.Member, stream: tar_stream.Stream, max_bytes: int) -> Row:
    directory, _, name = member.name.rpartition("/")
    id_, suffix = os.path.splitext(name)
    text, reason = None, "mime"
    try:
        if suffix == ".gz":
            text = _tex(tar_stream.Stream(_unzipped(stream.parts(member.size))), max_bytes)
    except (_Broken, tar_stream.BrokenTarError, tar_stream.CutTarError):
        reason = "corrupt"
    except _Large:
        reason = "too-large"
    if text is None:
        return Row(member.offset, None, member.size, reason, member.name.encode()[:1000])
    old = OLD_ID.fullmatch(id_)
    id_ = f"{old[1]}/{old[2]}" if old else id_
    columns = {
        "text": text,
        "arxiv_id": id_,
        "yymm": directory.rpartition("/")[2],
        "url": f"https://arxiv.org/abs/{id_}",
        "timestamp": datetime.fromtimestamp(min(member.modified, 1 << 37), UTC).isoformat(),
    }
    return Row(member.offset, columns, len(text))


def _unzipped(parts: Iterator[memoryview]) -> Iterator[bytes]:
    """The blocks of one gzip stream. Raises _Broken, and _Large beyond `UNPACKED` bytes."""
    inflate = zlib.decompressobj(wbits=31)
    size = 0
    for part in parts:
        waiting: bytes | memoryview = part
        while waiting and not inflate.eof:
            try:
                block = inflate.decompress(waiting, decompress.BLOCK)
            except zlib.error as error:
                raise _Broken from error
            waiting = inflate.unconsumed_tail
            size += len(block)
            if size > UNPACKED:
                raise _Large
            if block:
                yield block
    if not inflate.eof:
        raise _Broken


def _tex(stream: tar_stream.Stream, max_bytes: int) -> bytes | None:
    """A paper's TeX files with a NUL between; None where it has none. Raises as the streams do, and _Large."""
    start = stream.read(tar_stream.BLOCK)
    if not tar_stream.is_header(start):
        if start.startswith(NO_TEX) or b"\0" in start:
            return None
        return (start + _file(stream, UNPACKED, max_bytes - len(start))).replace(b"\0", b"")
    files: list[bytes] = []
    stream = tar_stream.Stream(_chained(start, stream))
    for count, member in enumerate(tar_stream.members(stream)):
        if count == MEMBERS:
            raise _Large
        if member.is_file and member.name.lower().endswith(".tex"):
            max_bytes -= len(files[-1]) if files else 0
            files.append(_file(stream, member.size, max_bytes).replace(b"\0", b""))
    return NEXT_FILE.encode().join(files) if files else None


def _chained(start: bytes, rest: tar_stream.Stream) -> Iterator[bytes]:
    yield start
    while block := rest.read(decompress.BLOCK):
        yield block


def _file(stream: tar_stream.Stream, size: int, max_bytes: int) -> bytes:
    """Raises _Large."""
    data = stream.read(min(size, max(max_bytes, 0) + 1))
    if len(data) > max_bytes:
        raise _Large
    return data
