"""How does a line of JSON become a document?

A line is what ends in `\\n` (a `\\r` before it is white space of JSON), or the rest of the file. orjson
parses; what it refuses is shown to the standard library, which takes NaN and tells the reasons apart.
Reasons are those of shards/readers.py. What a document's other columns become is kept as JSON: NaN is
null there, and an integer beyond 64 bits a float, as orjson reads it. A row of more than `DEEPEST` levels is
taken for broken.

Memory: a line of at most `longest` bytes, and what parsing makes of it: as much again for the parser, one,
two or four bytes a character for strings, some 200 bytes for each of the other values. What that comes to is
estimated before a line is parsed (`parsed_bytes`), and a line that would take more than `most_memory` is too large:
250 MB of `0,0,0,…` would be more than 4 GB of numbers, and 250 MB of ASCII with one emoji 1 GB of characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import orjson
from winnow.shards import decompress

ESCAPED = 4
"""Bytes of a line that are read for each byte of the largest document: JSON's escapes spell two bytes of UTF-8 in
six, and there are other columns. Ours."""

DEEPEST = 254
"""Levels of lists and objects; what orjson writes."""

PARSED = 12
"""Bytes of memory that a line may take while it is parsed, for each byte of the largest document: one of that size
with an emoji takes six. Ours."""
PARSED_LEAST = 64 << 20
VALUE = 200
"""Bytes of a value or a member: orjson 3.11 and Python 3.11 take 85 for an empty object in a list, 30 for a number,
160 to 210 for a member with a number (measured)."""
LINE_START = 1 << 16
"""Bytes that are kept of a line that is too long."""
# The second alternative ends a string that nothing ends, so that no byte is looked at twice.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_WIDE = re.compile(rb"[\xf0-\xf7]|\\u[dD][89abAB]")


class RowError(Exception):
    """A row that is no document."""

    def __init__(self, reason: str):
        self.reason = reason


def lines(
    file: BinaryIO, compression: str | None, start: int, stop: int, longest: int
) -> Iterator[tuple[int, bytes | bytearray, int]]:
    """Yield (offset, line, bytes) of the lines that begin in [start, stop); blank lines are passed over.

    Offsets are bytes of the decompressed stream; `stop` -1 is the end. Of a line longer than `longest` only the
    first `LINE_START` bytes come: a line that is shorter than its bytes. Raises what decompress.blocks raises,
    after the last whole line.
    """
    # A range that does not start the file begins inside, or just after, a line of the range before:
    # reading from one byte earlier makes both cases the same.
    offset = max(start - 1, 0)
    skipping = start > 0
    carried, carried_bytes = bytearray(), 0
    for block in decompress.blocks(file, compression, offset):
        parts = block.split(b"\n")
        for part in parts[:-1]:
            if stop >= 0 and offset >= stop and not skipping:
                return
            size = carried_bytes + len(part)
            if skipping:
                skipping = False
            elif size > longest:
                yield offset, _start(carried, part, longest), size
            elif size:
                line = _joined(carried, part)
                carried = bytearray()
                if not line.isspace():
                    yield offset, line, size
            offset += size + 1
            carried, carried_bytes = bytearray(), 0
        carried_bytes += len(parts[-1])
        if skipping and 0 <= stop <= offset + carried_bytes:
            return  # the whole range lies inside one line
        if carried_bytes <= longest and not skipping:
            carried += parts[-1]
        else:
            carried = _start(carried, parts[-1], longest)
    if carried_bytes and not skipping and not (stop >= 0 and offset >= stop):
        if carried_bytes > longest:
            yield offset, _start(carried, b"", longest), carried_bytes
        elif not carried.isspace():
            yield offset, carried, carried_bytes


def _start(carried: bytearray, part: bytes, longest: int) -> bytearray:
    """What is kept of a line that is too long."""
    kept = min(LINE_START, longest)
    start = carried[:kept]
    return start + part[: kept - len(start)]


def _joined(carried: bytearray, part: bytes) -> bytes | bytearray:
    if not carried:
        return part
    carried += part
    return carried


def document(
    line: bytes | bytearray, text_column: str, key_column: str | None, max_bytes: int
) -> tuple[bytes, str | None, bytes | None]:
    """The text as UTF-8, the key, and the other columns as JSON (None without any). Raises RowError."""
    row = columns(line, most_memory(max_bytes))
    if text_column not in row:
        raise RowError("missing-column")
    data = checked(row.pop(text_column), max_bytes)
    restore_key(row, key_column, line)
    key = key_text(row.pop(key_column, None) if key_column else None)
    if key is not None:
        _utf8(key)
    return data, key, meta_json(row)


def restore_key(row: Any, path: str | None, line: bytes | bytearray | str) -> None:
    """Put an integer beyond 64 bits, of which orjson has kept 16 digits, in its place where it is the key.

    path : the key's, as rows.at_path takes it. Raises RowError.
    """
    if path is None or not isinstance(row, dict):
        return
    *above, name = [path] if path in row else path.split(".")
    at: Any = row
    for key in above:
        at = at.get(key) if isinstance(at, dict) else None
    if isinstance(at, dict) and isinstance(at.get(name), float):
        exact = _read_slowly(line)
        for key in above:
            exact = exact[key]
        at[name] = exact[name]


def checked(text: Any, max_bytes: int) -> bytes:
    """A text as UTF-8. Raises RowError for what is no text, or one that is too large or half a character."""
    if isinstance(text, bytes | bytearray):
        try:
            text = text.decode()
        except UnicodeDecodeError:
            raise RowError("utf8") from None
    if not isinstance(text, str):
        raise RowError("wrong-type")
    if len(text) > max_bytes:
        raise RowError("too-large")
    data = _utf8(text)
    if len(data) > max_bytes:
        raise RowError("too-large")
    return data


def key_text(value: Any) -> str | None:
    """The publisher's id or URL as a string, whatever its type."""
    return value if value is None or isinstance(value, str) else _shown(value)


def meta_json(row: dict[str, Any]) -> bytes | None:
    """A row as one JSON object; None for an empty one. Raises RowError for one that is nested too deeply."""
    if not row:
        return None
    try:
        return orjson.dumps(row, default=_shown, option=orjson.OPT_NON_STR_KEYS)
    except (orjson.JSONEncodeError, UnicodeEncodeError):
        import json

        # Integers beyond 64 bits, half characters (which JSON can carry as escapes), or too many levels: how
        # many the standard library takes depends on the caller's stack, and two workers must agree.
        if _levels(row) > DEEPEST:
            raise RowError("json") from None
        return json.dumps(row, default=_shown).encode()


def _levels(value: Any) -> int:
    """How deep lists and objects lie in each other."""
    count, level = 0, [value]
    while level := [v for v in level if isinstance(v, dict | list)]:
        count += 1
        level = [inner for v in level for inner in (v.values() if isinstance(v, dict) else v)]
    return count


def _shown(value: Any) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise RowError("surrogate") from None


def columns(line: bytes | bytearray, most: int) -> dict[str, Any]:
    """A line's columns by name. Raises RowError."""
    row = value(line, most)
    if not isinstance(row, dict):
        raise RowError("not-an-object")
    return row


def value(data: bytes | bytearray | str, most: int) -> Any:
    """What a piece of JSON says. Raises RowError, `too-large` for one that takes more than `most` bytes of memory."""
    if len(data) * (VALUE + 6) > most and parsed_bytes(data, most) > most:
        raise RowError("too-large")
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass  # the error holds a copy of the line
    return _read_slowly(data)


def most_memory(max_bytes: int) -> int:
    """Bytes of memory that a row may take where the largest document has `max_bytes`."""
    return max(PARSED * max_bytes, PARSED_LEAST)


def parsed_bytes(data: bytes | bytearray | str, most: int) -> int:
    """Bytes of memory that a piece of JSON takes while it is parsed, itself and the parser's copy too; estimated.

    Values are counted, by what stands before them outside strings, until they take more than `most`.
    """
    if isinstance(data, str):
        data = data.encode("utf-8", "surrogatepass")
    escapes = data.count(b"\\")
    wide = data.count(b"\\u")
    width = 1 if data.isascii() and not wide else 4 if _WIDE.search(data) else 2
    strings = 2 * len(data) + width * max(len(data) - escapes - 4 * wide, 0)
    values = data.count(b",") + data.count(b"[") + data.count(b"{")
    if strings + VALUE * values > most:
        values = _values(data, max(most - strings, 0) // VALUE)
    return strings + VALUE * values


def _values(data: bytes | bytearray, most: int) -> int:
    """Values in JSON; where there are more than `most`, some number beyond it."""
    found = at = 0
    for string in _STRING.finditer(data):
        start, stop = string.span()
        found += data.count(b",", at, start) + data.count(b"[", at, start) + data.count(b"{", at, start)
        if found > most:
            return found
        at = stop
    return found + data.count(b",", at) + data.count(b"[", at) + data.count(b"{", at)


def _read_slowly(data: bytes | bytearray | str) -> Any:
    import json

    try:
        text = data if isinstance(data, str) else data.decode()
    except UnicodeDecodeError:
        raise RowError("utf8") from None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise RowError("json") from None
