"""Which pages does a web archive hold?

WARC files (ISO 28500) and Common Crawl's WET files, plain or compressed. Formats:

    warc   `response` and `resource` records whose payload is HTML or plain text, as the bytes that were sent, with
           HTTP's transfer and content encodings undone
    wet    `conversion` records: the text as it is

Columns, where the record has them: `text`, `url`, `date` (when it was fetched), `mime` (what the crawler found it to
be, before what the server said), `charset`, `language` (the header `Content-Language`; in WET the languages that Common
Crawl identified), `status`, `ip`, `record_id`, `truncated` (why the crawler cut it). Passed over in silence is what
holds no document: `warcinfo`, `request`, `metadata`, and `revisit`, which says that a page was as before. Reasons:

    warc-record     a record that is broken or in segments     http-status    not 200
    http-encoding   a body that is not encoded as it says      mime           neither HTML nor text
    too-large       over the conversion's `max_bytes`          record-type    a document, but of the other format

A position is the place of a record's gzip member or zstd frame in the file where each record has one of its own, as
the indexes of crawls give it, otherwise the place in the decompressed stream. Files of the first kind are cut at byte
ranges: a record belongs to the range in which its member begins. A broken record is set aside and reading goes on at
the next; in files of the first kind also behind corrupt bytes. A member without an end that others follow, less than
`LOOK_BACK` bytes before the file's end, is such a record; the file is not cut short.

FastWARC (2.0) is not used for records: it takes a cut file for a whole one and ends at the first broken record.

Memory: one record's block, of at most twice `max_bytes` and a mebibyte, twice while it is copied; its payload of at
most `max_bytes`; and what members.py or decompress.py hold.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from winnow.shards import decompress, http_message, members, storage
from winnow.shards.inputs import COMPRESSIONS, InputError, Piece
from winnow.shards.rows import RAW_KEPT, Row
from winnow.shards.splits import byte_ranges

if TYPE_CHECKING:
    from winnow.shards.readers import ReadSettings

VERSION = b"WARC/"
HEAD_BYTES = http_message.HEAD_BYTES
LOOK_BACK = 4 << 20
"""Stored bytes before a range from which members are followed to its first one. A member that is longer than this,
begins before the range and itself holds a stored web archive is the one case that would be read wrongly."""
RUN_ON, READ_AGAIN, ONCE = 1 << 18, 64, 1 << 28
"""A broken member may run over those behind it, which are then read again. Bytes it may do so uncounted; how many are
read again for each byte that reading gets on, and how many without. Beyond, a file is made to be read for ever."""
NO_DOCUMENT = ("warcinfo", "request", "metadata", "revisit")
WANTED = {"warc": ("response", "resource"), "wet": ("conversion",)}
HTML = ("text/html", "application/xhtml+xml", "application/vnd.wap.xhtml+xml")
READ_AS_TEXT = ("text/plain",)
NEWLINES = re.compile(rb"[\r\n]+")
MARKUP = re.compile(rb"<!doctype html|<html[\s>]", re.I)
SNIFFED = 1 << 10
"""Bytes of a page of no declared type that are searched for markup."""


class _EndsInside(Exception):
    """The stream ends inside a record."""

    def __init__(self, offset: int):
        super().__init__(offset)
        self.offset = offset


@dataclass(slots=True)
class Record:
    offset: int
    """In the stream it was read from."""
    size: int
    """Bytes of its block; of a broken record those that were passed over."""
    headers: dict[str, str] | None = None
    """By names in lower case; None for a broken record."""
    block: bytes = b""
    """Of a type that is wanted: all of it, or the first `HEAD_BYTES` of one larger than the limit."""
    raw: bytes = b""
    """The first bytes of a broken record."""


class Stream:
    """Blocks of bytes, read by count or up to a blank line."""

    def __init__(self, blocks: Iterator[bytes]):
        self.blocks = blocks
        self.held = bytearray()
        self.at = 0
        self.searched = 0
        """No blank line begins before this place; so that no byte is searched twice."""

    def fill(self, wanted: int) -> bool:
        """Hold at least so many bytes; False where the stream ends before."""
        while len(self.held) < wanted:
            block = next(self.blocks, None)
            if block is None:
                return False
            self.held += block
        return True

    def begins(self, prefix: bytes) -> bool:
        return self.fill(len(prefix)) and self.held.startswith(prefix)

    def take(self, count: int) -> bytes:
        """The next bytes; fewer at the end."""
        self.fill(count)
        with memoryview(self.held) as held:
            taken = bytes(held[:count])
        del self.held[:count]
        self.at += len(taken)
        return taken

    def skip(self, count: int) -> int:
        """Pass over bytes; how many there were."""
        done = 0
        while done < count and self.fill(1):
            step = min(count - done, len(self.held))
            del self.held[:step]
            self.at += step
            done += step
        return done

    def skip_newlines(self) -> None:
        while self.fill(1) and (newlines := NEWLINES.match(self.held)):
            self.skip(newlines.end())

    def head(self) -> bytes:
        """The lines up to a blank one; empty where that is not within `HEAD_BYTES`."""
        while True:
            start = max(self.searched - self.at - 3, 0)
            found = http_message.BLANK_LINE.search(self.held, start, HEAD_BYTES)
            if found:
                return self.take(found.end())
            self.searched = max(self.searched, self.at + min(len(self.held), HEAD_BYTES))
            if len(self.held) >= HEAD_BYTES or not self.fill(len(self.held) + 1):
                return b""

    def skip_to_record(self) -> tuple[int, bytes]:
        """Pass over all before a line that begins a record, and at least a byte; how many, and the first of them."""
        marker = b"\n" + VERSION
        size, raw, more = 0, b"", True
        while more:
            more = self.fill(len(marker))
            found = self.held.find(marker)
            passed = self.take(found + 1 if found >= 0 else max(len(self.held) - more * (len(marker) - 1), 0))
            raw += passed[: RAW_KEPT - len(raw)]
            size += len(passed)
            more = more and found < 0
        return size, raw


def records(stream: Stream, wanted: tuple[str, ...], limit: int) -> Iterator[Record]:
    """The records of a stream; with their blocks those of the wanted types, of at most `limit` bytes.

    Raises _EndsInside where the stream ends within a record, and what its blocks raise, after all whole records.
    """
    stream.skip_newlines()
    while stream.fill(1):
        offset = stream.at
        head = stream.head() if stream.begins(VERSION) else b""
        if not head and len(stream.held) < HEAD_BYTES and VERSION.startswith(stream.held[: len(VERSION)]):
            raise _EndsInside(offset)
        headers = http_message.headers_of(head)
        length = headers.get("content-length", "")
        if not (length.isascii() and length.isdigit() and len(length) < 19):
            size, raw = stream.skip_to_record()
            yield Record(offset, len(head) + size, raw=(head + raw)[:RAW_KEPT])
            continue
        size, held = int(length), 0
        if headers.get("warc-type", "").lower() in wanted:
            held = size if size <= limit else min(size, HEAD_BYTES)
        block = stream.take(held)
        if len(block) + stream.skip(size - held) < size:
            raise _EndsInside(offset)
        record = Record(offset, size, headers, block)
        try:
            if stream.fill(1) and not NEWLINES.match(stream.held):
                # Its length is not its block's.
                passed, _ = stream.skip_to_record()
                record = Record(offset, size + passed, raw=head[:RAW_KEPT])
            stream.skip_newlines()
        except decompress.TruncatedError:
            yield record
            raise
        yield record


def rows(piece: Piece, settings: ReadSettings) -> Iterator[Row]:
    """The documents of a file, or of a byte range of one, in their order.

    Raises decompress.TruncatedError where the file ends inside a record (or a member), after everything before;
    decompress.CorruptError; InputError for an ARC file.
    """
    with storage.open_input(piece.location) as file:
        limit = settings.convert.max_bytes if settings.convert is not None else settings.max_document_bytes
        for position, record in _placed(file, piece, WANTED[settings.format], 2 * limit + (1 << 20)):
            row = _row(position, record, settings.format, limit)
            if row is not None:
                yield row


def ranges(location: str, size: int, split_bytes: int) -> list[tuple[int, int, int]]:
    """Byte ranges (start, stop, bytes) of a file as splits.byte_ranges gives them; one where it cannot be cut."""
    if size > split_bytes and _compression(location) in members.FORMATS:
        with storage.open_input(location) as file:
            try:
                if _record_a_member(members.FORMATS[_compression(location)](file)):
                    return byte_ranges(size, split_bytes)
            except (decompress.TruncatedError, decompress.CorruptError):
                pass  # told when it is read
    return [(0, -1, size)]


def _compression(path: str) -> str:
    return COMPRESSIONS.get(os.path.splitext(path)[1], "")


def _placed(
    file: BinaryIO, piece: Piece, wanted: tuple[str, ...], limit: int
) -> Iterator[tuple[int, Record]]:
    """(position, record) of a piece."""
    compression = _compression(piece.path)
    if compression in members.FORMATS:
        format_ = members.FORMATS[compression](file)
        if _record_a_member(format_):
            yield from _by_member(format_, piece, wanted, limit)
            return
        blocks: Iterator[bytes] = (block for _, inner in format_.members(0) for block in inner)
    else:
        blocks = decompress.blocks(file, compression or None)
    stream = Stream(blocks)
    if stream.begins(b"filedesc:"):
        raise InputError(
            f"{piece.path}: an ARC file, the format before WARC; `warcio recompress` makes a WARC file of it"
        )
    try:
        for record in records(stream, wanted, limit):
            yield record.offset, record
    except _EndsInside:
        raise decompress.TruncatedError("the file ends inside a record") from None


def _record_a_member(format_: members.Gzip | members.Zstd) -> bool:
    """Whether each of a file's records has a member of its own, as its first two members tell."""
    count = 0
    try:
        for count, (_, blocks) in enumerate(format_.members(0)):
            stream = Stream(blocks)
            if count == 1:
                return stream.begins(VERSION)
            found = records(stream, (), 0)
            if next(found, Record(0, 0)).headers is None or next(found, None) is not None:
                return False
    except (decompress.TruncatedError, decompress.CorruptError):
        return count == 1  # told when it is read
    except _EndsInside:
        return False
    return True


def _by_member(
    format_: members.Gzip | members.Zstd, piece: Piece, wanted: tuple[str, ...], limit: int
) -> Iterator[tuple[int, Record]]:
    """(position, record) of a range of a file with a member for each record."""
    first, stop = piece.start, piece.stop if piece.stop >= 0 else None
    at = members.find(format_, first - LOOK_BACK, VERSION) if first > LOOK_BACK else 0
    origin, again = at or 0, 0
    while at is not None:
        held, before = 0, at
        try:
            for start, blocks in format_.members(at):
                if held > max(start - before, 1):
                    raise decompress.BombError("a member of more records than bytes")
                held, before = 0, start
                if stop is not None and start >= stop:
                    return
                for record in _member(blocks, wanted, limit):
                    if start >= first:
                        yield start + held, record
                    held += 1
            return
        except decompress.BombError:
            raise
        except (decompress.TruncatedError, decompress.CorruptError) as error:
            place = format_.place
            if stop is not None and place >= stop:
                return
            again += max(format_.file.tell() - place - RUN_ON, 0)
            if again > READ_AGAIN * (place - origin) + ONCE:
                raise decompress.CorruptError("broken members that lie in each other") from error
            at = None
            if isinstance(error, decompress.CorruptError) or _bytes_from(format_, place) <= LOOK_BACK:
                at = members.find(format_, place + 1, VERSION)
            if at is None and isinstance(error, decompress.TruncatedError):
                if place >= first:
                    raise
                return
            if place >= first:
                yield place + (held if place == before else 0), Record(0, (at or place) - place)


def _bytes_from(format_: members.Gzip | members.Zstd, place: int) -> int:
    """Stored bytes from a place to the end of its file."""
    return format_.file.seek(0, os.SEEK_END) - place


def _member(blocks: Iterator[bytes], wanted: tuple[str, ...], limit: int) -> Iterator[Record]:
    """The records of a member, the last when the member's end, and with it its sum, has been seen to be right."""
    stream = Stream(blocks)
    held: Record | None = None
    try:
        for record in records(stream, wanted, limit):
            if held is not None:
                yield held
            held = record
    except _EndsInside as error:
        if held is not None:
            yield held
        held = Record(error.offset, stream.at - error.offset)
    except decompress.TruncatedError:
        if held is not None:
            yield held
        raise
    if held is not None:
        yield held


def _row(position: int, record: Record, format_: str, limit: int) -> Row | None:
    """The document of a record, or why it is none; None for what is not counted."""
    headers = record.headers
    if headers is None:
        return Row(position, None, record.size, "warc-record", record.raw)
    kind = headers.get("warc-type", "").lower()
    if kind in NO_DOCUMENT:
        return None
    if kind not in WANTED[format_]:
        return Row(position, None, record.size, "warc-record" if kind == "continuation" else "record-type")
    whole = len(record.block) == record.size
    columns: dict[str, Any] = {}
    text, reason = b"", "warc-record"
    if "warc-segment-number" not in headers:
        columns, text, reason = _content(kind, headers, record.block, whole, limit)
    if not reason and (not whole or len(text) > limit):
        reason = "too-large"
    if reason:
        return Row(position, None, record.size, reason, record.block[:RAW_KEPT])
    columns = {
        "text": text,
        "url": headers.get("warc-target-uri", "").strip("<>") or None,
        "date": headers.get("warc-date"),
        **columns,
        "ip": headers.get("warc-ip-address"),
        "record_id": headers.get("warc-record-id"),
        "truncated": headers.get("warc-truncated"),
    }
    return Row(position, {n: v for n, v in columns.items() if v is not None}, len(text))


def _content(
    kind: str, headers: dict[str, str], block: bytes, whole: bool, limit: int
) -> tuple[dict[str, Any], bytes, str]:
    """(columns, payload, reason why it is no document) of a record."""
    content_type = headers.get("content-type", "")
    if kind == "conversion":
        languages = headers.get("warc-identified-content-language")
        return {"mime": http_message.media_type(content_type), "language": languages}, block, ""
    columns: dict[str, Any] = {}
    answer = None
    if kind == "response":
        answer = http_message.answer(block)
        if answer is None:
            is_http = http_message.media_type(content_type) in ("application/http", "")
            return {}, b"", "warc-record" if is_http else "mime"
        if answer.status != 200:
            return {}, b"", "http-status"
        content_type = answer.headers.get("content-type", "")
        columns = {"language": answer.headers.get("content-language"), "status": answer.status}
    mime = headers.get("warc-identified-payload-type") or content_type
    columns["mime"] = http_message.media_type(mime)
    columns["charset"] = http_message.charset(content_type)
    try:
        body = block if answer is None or not whole else http_message.payload(answer, limit)
    except http_message.TooLarge:
        return {}, b"", "too-large" if _is_page(columns, b"") else "mime"
    except http_message.Undecodable:
        return {}, b"", "http-encoding"
    return columns, body, "" if _is_page(columns, body) else "mime"


def _is_page(columns: dict[str, Any], body: bytes) -> bool:
    """Whether it is HTML or text; `mime` gets the type of a page that was sent without one."""
    if not columns["mime"] and MARKUP.search(body[:SNIFFED]):
        columns["mime"] = HTML[0]
    return columns["mime"] in HTML or columns["mime"] in READ_AS_TEXT
