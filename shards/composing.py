"""How do rows whose text is still to be made become documents?

Columns that hold JSON are parsed, a format of its own is converted (a chunk of rows at a time, in the process of
sandbox.py), columns are put together as a text, and what is no document by then is set aside.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from winnow.shards import decompress, json_rows
from winnow.shards.inputs import Piece
from winnow.shards.rows import RAW_KEPT, Row, RowsOf, at_path, document_id

if TYPE_CHECKING:
    from winnow.shards.readers import Builder, ReadSettings

CHUNK_BYTES = 4 << 20
CHUNK_ROWS = 256
"""Rows that are converted together."""


def documents(rows_of: RowsOf, piece: Piece, settings: ReadSettings, builder: Builder) -> Iterator[None]:
    """Make documents of rows, a chunk at a time."""
    held: list[Row] = []
    size = 0
    try:
        for row in rows_of(piece, settings):
            held.append(row)
            size += row.size
            if size >= CHUNK_BYTES or len(held) == CHUNK_ROWS:
                yield from _add_chunk(builder, piece.id_half, held, settings)
                held, size = [], 0
    except decompress.TruncatedError:
        yield from _add_chunk(builder, piece.id_half, held, settings)
        raise
    yield from _add_chunk(builder, piece.id_half, held, settings)


def _add_chunk(builder: Builder, half: int, chunk: Sequence[Row], settings: ReadSettings) -> Iterator[None]:
    for row in chunk:
        _parse(row, settings)
    if settings.convert is not None:
        from winnow.shards.sandbox import convert_all

        convert_all(settings.convert, chunk, settings.text)
    for row in chunk:
        _add_row(builder, document_id(half, row.position), row, settings)
        yield


def _parse(row: Row, settings: ReadSettings) -> None:
    """Put what JSON columns hold in their place."""
    columns = row.columns
    if columns is None:
        return
    for name in settings.parse:
        value = columns.get(name)
        if isinstance(value, str | bytes):
            try:
                columns[name] = json_rows.value(value, json_rows.most_memory(settings.max_document_bytes))
                if settings.key and settings.key.startswith(f"{name}."):
                    json_rows.restore_key(columns[name], settings.key.removeprefix(f"{name}."), value)
            except json_rows.RowError as error:
                row.reason = "too-large" if error.reason == "too-large" else "wrong-type"
                row.raw, row.columns = _bytes(value[:RAW_KEPT])[:RAW_KEPT], None
                return


def _add_row(builder: Builder, id_: bytes, row: Row, settings: ReadSettings) -> None:
    columns, text = row.columns, None
    # A file is known by its path, as where its text is taken as it stands.
    key_at = settings.key or ("path" if settings.format in ("text", "code") else None)
    if columns is None:
        builder.lose(id_, row.reason, row.raw, row.size)
        return
    try:
        if settings.compose is not None:
            key = _key(columns, key_at)
            text, columns = settings.compose(columns)
        else:
            text = at_path(columns, settings.text)
            key = _key(columns, key_at)
            columns = _without(columns, settings.text)
        data, meta = (
            json_rows.checked(text, settings.max_document_bytes),
            json_rows.meta_json(_without(columns, settings.key)),
        )
    except KeyError:
        reason = "missing-column"
    except json_rows.RowError as error:
        reason = error.reason
    except ValueError as error:
        if not hasattr(error, "reason"):
            raise
        reason = error.reason
    else:
        builder.document(id_, data, len(data), key, meta)
        return
    builder.lose(id_, reason, _bytes(text)[:RAW_KEPT], row.size)


def _key(columns: dict[str, Any], path: str | None) -> str | None:
    """The publisher's id; null where the row has none. Raises RowError."""
    try:
        key = None if path is None else json_rows.key_text(at_path(columns, path))
    except KeyError:
        return None
    if key is not None:
        json_rows.checked(key, len(key) * 4)
    return key


def _without(columns: dict[str, Any], path: str | None) -> dict[str, Any]:
    """The columns but for the one at a path; what holds it is copied."""
    if path is None:
        return columns
    if path in columns:
        return {name: value for name, value in columns.items() if name != path}
    head, _, rest = path.partition(".")
    inner = columns.get(head)
    return columns | {head: _without(inner, rest)} if rest and isinstance(inner, dict) else columns


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace")
    return bytes(value) if isinstance(value, bytes | bytearray) else b""
