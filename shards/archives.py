"""Which documents does a tar or a zip hold?

Each regular file in it is a row: `text` (bytes), `path` (its name there), for the format `code` the `language` that
the name tells. A row's position is the offset of its header: in the decompressed stream of a tar, in a zip's file.
Compressed members (`a.html.gz`) are decompressed. Nothing is written to a disk, so that a name like `../../a` is only a
name; directories, links, devices, and what the recipe's `members` does not name are passed over.

    nested-archive    an archive in an archive, or of a kind that is not read
    encrypted         a member with a password       unsupported   a zip's compression but deflate, a sparse file
    corrupt-member    its sum or its stream is broken, it overlaps another, or it is smaller than it says
    too-large         over `max_document_bytes`, as stored or decompressed

A tar's broken header is a CorruptError, its early end a TruncatedError, and so is a zip without a directory, which
stands at its end.

Memory: a member of at most `max_document_bytes`, once more where it is compressed itself, and a zip's directory of
at most `ZIP_DIRECTORY` bytes, which Python's zipfile makes about ten times as large.
"""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from winnow.shards import decompress, storage, tar_stream
from winnow.shards.inputs import COMPRESSIONS, NOT_READ, InputError, Piece, glob_regex
from winnow.shards.readers import language_of
from winnow.shards.rows import ARCHIVES, RAW_KEPT, Row

if TYPE_CHECKING:
    from winnow.shards.readers import ReadSettings

ZIP_DIRECTORY = 32 << 20
"""Some 300,000 members."""
_ZIP_END = 1 << 16
"""Bytes from the end of a zip in which its last record begins, a comment and all."""
_DEFLATED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""What zipfile decompresses in bounded pieces; of bz2 and lzma it makes as much as there is."""


def rows(piece: Piece, settings: ReadSettings) -> Iterator[Row]:
    """Raises TruncatedError and CorruptError after the members before the fault, InputError for a zip too large."""
    wanted = [glob_regex(pattern) for pattern in settings.members]
    with storage.open_input(piece.location) as file:
        of_format = _zip_rows if piece.path.endswith(".zip") else _tar_rows
        yield from of_format(file, piece.path, wanted, settings)


def _tar_rows(
    file: BinaryIO, path: str, wanted: list[re.Pattern[str]], settings: ReadSettings
) -> Iterator[Row]:
    compression = "gzip" if path.endswith(".tgz") else COMPRESSIONS.get(os.path.splitext(path)[1])
    stream = tar_stream.Stream(decompress.blocks(file, compression))
    try:
        for member in tar_stream.members(stream):
            name = member.name.removeprefix("./")
            if member.is_file and _is_wanted(name, wanted):
                row = Row(member.offset, None, member.size, "unsupported" if member.is_sparse else "")
                yield _read(row, name, _tar_parts(stream, member.size), settings)
    except tar_stream.CutTarError as error:
        raise decompress.TruncatedError(str(error)) from error
    except tar_stream.BrokenTarError as error:
        raise decompress.CorruptError(str(error)) from error


def _tar_parts(stream: tar_stream.Stream, size: int) -> Iterator[memoryview]:
    end = stream.offset + size
    yield from stream.parts(size)
    stream.skip_to(end)


def _is_wanted(name: str, wanted: list[re.Pattern[str]]) -> bool:
    return not wanted or any(pattern.fullmatch(name) for pattern in wanted)


def _read(row: Row, name: str, parts: Iterable[bytes | memoryview], settings: ReadSettings) -> Row:
    """Fill the row of a member with what its parts hold, where it has no reason not to."""
    if name.endswith((*ARCHIVES, *NOT_READ)):
        row.reason = "nested-archive"
    if row.reason:
        row.raw = name.encode("utf-8", "replace")[:RAW_KEPT]
        return row
    data = bytearray()
    too_large = row.size > settings.max_document_bytes
    for part in parts:
        data += part
        if too_large and len(data) >= RAW_KEPT:
            break
    if not too_large and len(data) < row.size:
        row.reason = "corrupt-member"
    compression = COMPRESSIONS.get(os.path.splitext(name)[1])
    if compression and not too_large and not row.reason:
        data, row.reason = _decompressed(data, compression, settings.max_document_bytes)
    if too_large:
        row.reason = "too-large"
    if row.reason:
        row.raw = bytes(data[:RAW_KEPT])
        return row
    row.size = len(data)
    row.columns = _columns(bytes(data), name, settings)
    return row


def _columns(data: bytes, name: str, settings: ReadSettings) -> dict[str, Any]:
    columns: dict[str, Any] = {"text": data, "path": name}
    if settings.format == "code":
        columns["language"] = language_of(name)
    return columns


def _decompressed(data: bytearray, compression: str, max_bytes: int) -> tuple[bytearray, str]:
    """A member's content, or the first of it and a reason."""
    found = bytearray()
    try:
        for block in decompress.blocks(io.BytesIO(data), compression):
            found += block
            if len(found) > max_bytes:
                return found, "too-large"
    except (decompress.TruncatedError, decompress.CorruptError):
        return found, "corrupt-member"
    return found, ""


# ---- zip --------------------------------------------------------------------------------------------------------


def _zip_rows(
    file: BinaryIO, path: str, wanted: list[re.Pattern[str]], settings: ReadSettings
) -> Iterator[Row]:
    if _directory_bytes(file) > ZIP_DIRECTORY:
        raise InputError(f"{path}: a zip of too many files; make several of it, or a tar")
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError) as error:
        raise decompress.CorruptError(str(error)) from error
    with archive:
        # A member that should lie in the directory or behind it keeps a place there, so that it is told.
        by_offset = {
            info.header_offset if info.header_offset < archive.start_dir else archive.start_dir + number: info
            for number, info in enumerate(archive.infolist())
        }
        if min(by_offset, default=0) < 0:
            raise decompress.CorruptError("a member before the beginning")
        offsets = sorted(by_offset)
        stops = [*(min(offset, archive.start_dir) for offset in offsets[1:]), archive.start_dir]
        for offset, stop in zip(offsets, stops, strict=True):
            info = by_offset[offset]
            name = info.filename.removeprefix("./")
            kind = stat.S_IFMT(info.external_attr >> 16)
            if info.is_dir() or kind not in (0, stat.S_IFREG) or not _is_wanted(name, wanted):
                continue
            row = Row(offset, None, info.file_size, _zip_fault(info, stop))
            yield _read(row, name, _zip_parts(archive, info, row), settings)


def _zip_fault(info: zipfile.ZipInfo, stop: int) -> str:
    """Why a member cannot be read; `stop` is where the next header begins."""
    if info.flag_bits & 0x1:
        return "encrypted"
    if info.compress_type not in _DEFLATED:
        return "unsupported"
    # Members that share their data make a small file large.
    return "corrupt-member" if info.header_offset + 30 + info.compress_size > stop else ""


def _zip_parts(archive: zipfile.ZipFile, info: zipfile.ZipInfo, row: Row) -> Iterator[bytes]:
    """A member's data; a fault in it becomes the row's reason."""
    try:
        with archive.open(info) as member:
            while part := member.read(decompress.BLOCK):
                yield part
    except (
        zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, struct.error, UnicodeDecodeError,
    ):  # fmt: skip
        row.reason = "corrupt-member"


def _directory_bytes(file: BinaryIO) -> int:
    """The size that a zip says its directory has. Raises TruncatedError, CorruptError."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - _ZIP_END - 22 - 76, 0))
    end = file.read()
    at = end.rfind(b"PK\x05\x06")
    if at < 0 or len(end) - at < 22:
        file.seek(0)
        if size == 0 or file.read(4) == b"PK\x03\x04":
            raise decompress.TruncatedError("a zip without its directory")
        raise decompress.CorruptError("not a zip")
    (count,) = struct.unpack_from("<I", end, at + 12)
    large = end.rfind(b"PK\x06\x06", 0, at)
    if large >= 0 and len(end) - large >= 48:
        count = max(count if count < 0xFFFFFFFF else 0, struct.unpack_from("<Q", end, large + 40)[0])
    return count
