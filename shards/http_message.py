"""What did a web server answer, and what is the page it sent?

HTTP/1's grammar (RFC 9112) read leniently, as archives hold what servers sent: lines that end in a bare line feed,
a status line without a reason, a body that says it is chunked or compressed and is not. Transfer and content encodings
are undone up to a limit.
"""

from __future__ import annotations

import io
import re
import zlib
from dataclasses import dataclass

HEAD_BYTES = 1 << 16
"""Of the headers of a record or an answer."""
STATUS_LINE = re.compile(rb"HTTP/\d(?:\.\d)? +(\d{3})(?: |$)")
CHUNK = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\n]*)?\r?\n")
CHARSET = re.compile(r"charset\s*=\s*[\"']?\s*([^\s\"';,]+)", re.I)
MOST_CODINGS = 4
"""Content encodings of one body. Ours; each costs a body of the largest size."""
BLANK_LINE = re.compile(rb"\r?\n\r?\n")


class TooLarge(ValueError):
    """A body of more bytes than are wanted."""


class Undecodable(ValueError):
    """A body whose encoding cannot be undone."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    """By their names in lower case; of several of one name the last."""
    body: memoryview


def headers_of(lines: bytes) -> dict[str, str]:
    """The fields of a block of header lines; names in lower case, lines that are none left out.

    UTF-8 where the block is UTF-8, as WARC has it; otherwise Latin-1, as HTTP.
    """
    try:
        text = lines.decode()
    except UnicodeDecodeError:
        text = lines.decode("latin-1")
    headers: dict[str, str] = {}
    name = ""
    for line in text.split("\n"):
        if line[:1] in (" ", "\t") and name:
            headers[name] += " " + line.strip()
            continue
        before, colon, value = line.partition(":")
        name = before.strip().lower() if colon else ""
        if name:
            headers[name] = value.strip()
    return headers


def answer(block: bytes) -> Answer | None:
    """The parts of an answer; None for what is no HTTP."""
    status = STATUS_LINE.match(block.split(b"\n", 1)[0][:HEAD_BYTES].rstrip())
    if status is None:
        return None
    end = BLANK_LINE.search(block, 0, HEAD_BYTES)
    if end is None:
        # Only headers, or no end of them.
        if len(block) > HEAD_BYTES:
            return None
        return Answer(int(status[1]), headers_of(block.partition(b"\n")[2]), memoryview(b""))
    lines = block[: end.start()].partition(b"\n")[2]
    return Answer(int(status[1]), headers_of(lines), memoryview(block)[end.end() :])


def media_type(content_type: str) -> str:
    """`text/html` of `Text/HTML; charset=…`."""
    return content_type.partition(";")[0].strip().lower()


def charset(content_type: str) -> str | None:
    """The encoding that a Content-Type names, in lower case."""
    found = CHARSET.search(content_type)
    return found[1].lower() if found else None


def payload(answer: Answer, limit: int) -> bytes:
    """The body with its encodings undone. Raises TooLarge and Undecodable.

    A body that is not encoded as its headers say is taken as it is if it looks like markup: crawlers undo
    encodings and keep the headers. One that ends too early is kept as far as it goes.
    """
    body = answer.body
    if "chunked" in answer.headers.get("transfer-encoding", "").lower():
        body = unchunked(body)
    codings = answer.headers.get("content-encoding", "").lower().replace(" ", "").split(",")
    if len(codings) > MOST_CODINGS:
        raise Undecodable(f"{len(codings)} content encodings")
    for coding in reversed(codings):
        if coding in DECODERS:
            try:
                body = memoryview(DECODERS[coding](body, limit))
            except Undecodable:
                if b"<" not in bytes(body[:1024]):
                    raise
    if len(body) > limit:
        raise TooLarge
    return bytes(body)


def unchunked(body: memoryview) -> memoryview:
    """The chunks of a body, joined; the body as it is where it does not begin with a chunk."""
    joined = bytearray()
    at = 0
    while head := CHUNK.match(body, at, min(at + HEAD_BYTES, len(body))):
        size = int(head[1], 16)
        if size == 0:
            return memoryview(joined)
        joined += body[head.end() : head.end() + size]
        at = head.end() + size
        if body[at : at + 2] == b"\r\n":
            at += 2
        elif body[at : at + 1] == b"\n":
            at += 1
    if at == 0:
        return body
    # Something that is no chunk behind one: the rest as it is, so that nothing is lost.
    joined += body[at:]
    return memoryview(joined)


def _gunzipped(body: memoryview, limit: int) -> bytes:
    return _inflated(body, limit, 31)


def _deflated(body: memoryview, limit: int) -> bytes:
    # Servers send it with zlib's header, as they should, and without.
    try:
        return _inflated(body, limit, 15)
    except Undecodable:
        return _inflated(body, limit, -15)


def _inflated(body: memoryview, limit: int, bits: int) -> bytes:
    inflater = zlib.decompressobj(bits)
    out = bytearray()
    try:
        while body and not inflater.eof:
            out += inflater.decompress(body[: 1 << 16], limit + 1 - len(out))
            if len(out) > limit:
                raise TooLarge
            body = body[1 << 16 :]
    except zlib.error as error:
        if not out:
            raise Undecodable from error
    return bytes(out)


def _unbrotlied(body: memoryview, limit: int) -> bytes:
    try:
        from fastwarc.stream_io import BrotliReader
    except ImportError:
        raise ImportError("a page compressed with Brotli needs FastWARC: pip install 'winnow[web]'") from None
    return _read(BrotliReader(io.BytesIO(body)), limit, OSError)


def _unzstd(body: memoryview, limit: int) -> bytes:
    import zstandard

    reader = zstandard.ZstdDecompressor().stream_reader(body, read_across_frames=True)
    return _read(reader, limit, zstandard.ZstdError)


def _read(reader, limit: int, failure: type[Exception]) -> bytes:
    out = bytearray()
    try:
        while block := reader.read(1 << 16):
            out += block
            if len(out) > limit:
                raise TooLarge
    except failure as error:
        if not out:
            raise Undecodable from error
    return bytes(out)


DECODERS = {
    "gzip": _gunzipped,
    "x-gzip": _gunzipped,
    "deflate": _deflated,
    "br": _unbrotlied,
    "zstd": _unzstd,
}
