"""How does a line of JSON become a document?

A line is what ends in `\\n` (a `\\r` before it is white space of JSON), or the rest of the file. orjson
parses; what it refuses is shown to the standard library, which takes NaN and tells the reasons apart.
Reasons are those of shards/readers.py. What a document's other columns become is kept as JSON: NaN is
null there, and an integer beyond 64 bits a float, as orjson reads it. A row of more than `DEEPEST` levels is
taken for broken.

Memory: a line of at most `longest` bytes, and what parsing makes of it: as much again for the parser, one,
two or four bytes a character for the string.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

import orjson
from winnow.shards import decompress

ESCAPED = 4
"""Bytes of a line that are read for each byte of the largest document: JSON's escapes spell two bytes of UTF-8 in
six, and there are other columns. Ours."""

DEEPEST = 254
"""Levels of lists and objects; what orjson writes."""


class RowError(Exception):
    """A row that is no document."""

    def __init__(self, reason: str):
        self.reason = reason


def lines(
    file: BinaryIO, compression: str | None, start: int, stop: int, longest: int
) -> Iterator[tuple[int, bytes | bytearray | None, int]]:
    """Yield (offset, line, bytes) of the lines that begin in [start, stop); blank lines are passed over.

    Offsets are bytes of the decompressed stream; `stop` -1 is the end. A line longer than `longest`
    comes as None, in bounded memory. Raises what decompress.blocks raises, after the last whole line.
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
                yield offset, None, size
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
            carried = bytearray()
    if carried_bytes and not skipping and not (stop >= 0 and offset >= stop):
        if carried_bytes > longest:
            yield offset, None, carried_bytes
        elif not carried.isspace():
            yield offset, carried, carried_bytes


def _joined(carried: bytearray, part: bytes) -> bytes | bytearray:
    if not carried:
        return part
    carried += part
    return carried


def document(
    line: bytes | bytearray, text_column: str, key_column: str | None, max_bytes: int
) -> tuple[bytes, str | None, bytes | None]:
    """The text as UTF-8, the key, and the other columns as JSON (None without any). Raises RowError."""
    row = columns(line)
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


def columns(line: bytes | bytearray) -> dict[str, Any]:
    """A line's columns by name. Raises RowError."""
    row = value(line)
    if not isinstance(row, dict):
        raise RowError("not-an-object")
    return row


def value(data: bytes | bytearray | str) -> Any:
    """What a piece of JSON says. Raises RowError."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return _read_slowly(data)


def _read_slowly(data: bytes | bytearray | str) -> Any:
    import json

    try:
        return json.loads(data if isinstance(data, str) else data.decode())
    except UnicodeDecodeError:
        raise RowError("utf8") from None
    except (ValueError, RecursionError):
        raise RowError("json") from None
