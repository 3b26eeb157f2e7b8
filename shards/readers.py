"""How do the files of a split become document tables?

Formats: `jsonl`, `parquet`, `text` and `code` (a file is a document; `code` adds the language its name
tells), and those of rows.py. Each gives Arrow batches of the document table: `id`, `text`, `key`,
`meta`. Where a row's text is to be converted (from HTML, …) or put together of several columns, the rows of any
format go the way of rows.py. A row that is no document is set aside with a reason and its bytes, never dropped in
silence and never guessed at:

    json            not a JSON value               utf8           bytes that are not UTF-8
    not-an-object   JSON, but no object            surrogate      an escape that is half a character
    missing-column  the text column is not there   wrong-type     it is not a string, or not JSON in `parse`
    too-large       over `max_document_bytes`      empty          a text of no characters
    too-slow        over a conversion's limit      crashed        the converting process died of it

and what a format, a conversion or a chat says of its own. Reasons in `rows.DROPPED` are of documents that are dropped,
the others of rows that are quarantined as malformed.

Memory: one batch (`BATCH_BYTES` of text, keys and other columns, or `BATCH_ROWS` rows, plus one document of at most
`max_document_bytes` and its other columns) and one decompression block; JSON adds the line and what parsing makes of it
(`json_rows.most_memory` bytes at most, 12 for each byte of the largest document), Parquet what parquet_rows.py says:
three times its `PAGE_BYTES`. A row that would take more is set aside as too large, without being held, and of any row
that is set aside `RAW_KEPT` bytes are kept.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import pyarrow as pa
from winnow.shards import composing, decompress, json_rows, parquet_rows, storage
from winnow.shards.convert_settings import Conversion
from winnow.shards.inputs import COMPRESSIONS, InputError, Piece, check_unchanged
from winnow.shards.parquet_values import Large
from winnow.shards.rows import RAW_KEPT, Compose, Row, RowsOf, document_id, reader_of
from winnow.shards.storage_errors import RefusedError

BATCH_BYTES = 8 << 20
BATCH_ROWS = 1 << 15

DOCUMENT_SCHEMA = pa.schema(
    [("id", pa.binary(16)), ("text", pa.large_string()), ("key", pa.string()), ("meta", pa.string())]
)
LANGUAGES = {
    ".py": "Python", ".pyi": "Python", ".c": "C", ".h": "C", ".cc": "C++", ".cpp": "C++", ".hpp": "C++",
    ".cs": "C-Sharp", ".go": "Go", ".hs": "Haskell", ".java": "Java", ".jl": "Julia", ".js": "JavaScript",
    ".ts": "TypeScript", ".tsx": "TypeScript", ".kt": "Kotlin", ".lua": "Lua", ".md": "Markdown",
    ".ml": "OCaml", ".php": "PHP", ".pl": "Perl", ".r": "R", ".rb": "Ruby", ".rs": "Rust", ".rst": "reStructuredText",
    ".scala": "Scala", ".sh": "Shell", ".sql": "SQL", ".swift": "Swift", ".tex": "TeX", ".html": "HTML",
    ".css": "CSS", ".json": "JSON", ".yaml": "YAML", ".yml": "YAML", ".toml": "TOML", ".f90": "Fortran",
}  # fmt: skip
"""Language by file extension, named as in The Stack."""


@dataclass(frozen=True, slots=True)
class ReadSettings:
    """What a reader must know; see the recipe's `read:` for the meaning of each field."""

    format: str
    text: str = "text"
    key: str | None = None
    on_truncated: str = "fail"
    max_document_bytes: int = 64 << 20
    parse: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    config: str | None = None
    split: str | None = None
    convert: Conversion | None = None
    compose: Compose | None = None
    """Makes the text of several columns: tokenize/chat.py."""

    @property
    def plain(self) -> bool:
        """Whether the text is a column as it stands."""
        nested = "." in self.text or "." in (self.key or "")
        return not (self.parse or self.convert or self.compose or nested)


@dataclass(frozen=True, slots=True)
class Lost:
    """A row that did not become a document."""

    id: bytes
    reason: str
    raw: bytes
    size: int
    """Bytes of the row, where they could be counted."""


@dataclass(slots=True)
class Batch:
    table: pa.RecordBatch
    lost: list[Lost]


@dataclass(slots=True)
class Seen:
    """Counts over a split, filled while it is read."""

    rows: int = 0
    stored_bytes: int = 0
    text_bytes: int = 0
    truncated: list[str] = field(default_factory=list)


class Builder:
    """Gathers rows until a batch is full."""

    def __init__(self, seen: Seen):
        self.seen = seen
        self._start()

    def _start(self) -> None:
        self.ids = bytearray()
        self.texts: list[str | bytes] = []
        self.keys: list[str | None] = []
        self.metas: list[bytes | None] = []
        self.lost: list[Lost] = []
        self.held = 0

    def document(self, id_: bytes, text: str | bytes, size: int, key: str | None, meta: bytes | None) -> None:
        self.seen.rows += 1
        if not text:
            self.lost.append(Lost(id_, "empty", b"", 0))
            return
        self.ids += id_
        self.texts.append(text)
        self.keys.append(key)
        self.metas.append(meta)
        self.held += size + len(key or "") + len(meta or b"")
        self.seen.text_bytes += size

    def lose(self, id_: bytes, reason: str, raw: bytes | bytearray, size: int) -> None:
        self.seen.rows += 1
        kept = bytes(raw[:RAW_KEPT])
        self.lost.append(Lost(id_, reason, kept, size))
        self.held += len(kept)

    @property
    def full(self) -> bool:
        return self.held >= BATCH_BYTES or len(self.texts) + len(self.lost) >= BATCH_ROWS

    def take(self) -> Batch:
        ids = pa.Array.from_buffers(pa.binary(16), len(self.texts), [None, pa.py_buffer(bytes(self.ids))])
        table = pa.record_batch(
            [
                ids,
                pa.array(self.texts, pa.large_string()),
                pa.array(self.keys, pa.string()),
                pa.array(self.metas, pa.string()),
            ],
            schema=DOCUMENT_SCHEMA,
        )
        batch = Batch(table, self.lost)
        self._start()
        return batch


def read(pieces: Sequence[Piece], settings: ReadSettings, seen: Seen) -> Iterator[Batch]:
    """Yield the batches of a split, in document order; `seen` is filled on the way.

    Raises InputError for a file that cannot be read (unreadable, no such codec, corrupt, truncated
    with `on_truncated: fail`, changed since the plan); FileNotFoundError and PermissionError become
    InputErrors that name the file; RefusedError of a store stays what it is.
    """
    builder = Builder(seen)
    made = 0
    for piece in pieces:
        seen.stored_bytes += piece.size
        try:
            check_unchanged(piece)
            for _ in _rows_of(piece, settings, builder):
                if builder.full:
                    batch = builder.take()
                    made += batch.table.nbytes
                    _check_bomb(made, seen.stored_bytes)
                    yield batch
            check_unchanged(piece)
        except decompress.TruncatedError as error:
            if settings.on_truncated == "fail":
                raise InputError(
                    f"{piece.path}: the {_stored(piece)} ends too early ({error}); fetch it again, "
                    "or set on_truncated: keep to use the rows before the cut"
                ) from error
            seen.truncated.append(piece.path)
        except decompress.CorruptError as error:
            raise InputError(f"{piece.path}: corrupt {_stored(piece)} ({error})") from error
        except RefusedError:
            raise  # credentials that ended are no fault of the input's
        except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
            raise InputError(f"{piece.path}: cannot be read ({error.strerror or error})") from error
    if builder.texts or builder.lost:
        yield builder.take()


def _check_bomb(made: int, stored: int) -> None:
    """Raises BombError where stored bytes become more than text does: Parquet names a text in a byte or less."""
    if made > decompress.BOMB_BYTES and 0 < decompress.BOMB_RATIO * stored < made:
        raise decompress.BombError(
            f"a decompression bomb: {stored:,} bytes became more than {made:,}; leave the file out with `exclude`"
        )


def _rows_of(piece: Piece, settings: ReadSettings, builder: Builder) -> Iterator[None]:
    reader = reader_of(settings.format, piece.path)
    if reader is None and settings.plain:
        return READERS[settings.format](piece, settings, builder)
    return composing.documents(reader or ROWS[settings.format], piece, settings, builder)


def _stored(piece: Piece) -> str:
    """What a file is, for messages."""
    return "compressed stream" if os.path.splitext(piece.path)[1] in COMPRESSIONS else "file"


# ---- JSON lines -----------------------------------------------------------------------------------------------


def _lines(piece: Piece, settings: ReadSettings) -> Iterator[tuple[int, bytes | bytearray, int]]:
    compression = COMPRESSIONS.get(os.path.splitext(piece.path)[1])
    longest = json_rows.ESCAPED * settings.max_document_bytes
    with storage.open_input(piece.location) as file:
        yield from json_rows.lines(file, compression, piece.start, piece.stop, longest)


def _json_rows(piece: Piece, settings: ReadSettings) -> Iterator[Row]:
    for position, line, size in _lines(piece, settings):
        if len(line) < size:
            yield Row(position, None, size, "too-large", bytes(line[:RAW_KEPT]))
            continue
        try:
            columns = json_rows.columns(line, json_rows.most_memory(settings.max_document_bytes))
            json_rows.restore_key(columns, settings.key, line)
            yield Row(position, columns, size)
        except json_rows.RowError as error:
            yield Row(position, None, size, error.reason, bytes(line[:RAW_KEPT]))


def _jsonl_rows(piece: Piece, settings: ReadSettings, builder: Builder) -> Iterator[None]:
    for position, line, size in _lines(piece, settings):
        id_ = document_id(piece.id_half, position)
        if len(line) < size:
            builder.lose(id_, "too-large", line, size)
        else:
            _add_json_row(builder, id_, line, settings)
        yield


def _add_json_row(builder: Builder, id_: bytes, line: bytes | bytearray, settings: ReadSettings) -> None:
    try:
        data, key, meta = json_rows.document(line, settings.text, settings.key, settings.max_document_bytes)
    except json_rows.RowError as error:
        builder.lose(id_, error.reason, line, len(line))
    else:
        builder.document(id_, data, len(data), key, meta)


# ---- Parquet -------------------------------------------------------------------------------------------------


def _parquet_rows(piece: Piece, settings: ReadSettings, builder: Builder) -> Iterator[None]:
    for first, batch, large in parquet_rows.batches(piece, settings):
        yield from _add_parquet_batch(builder, batch, large, piece.id_half, first, settings)


def _add_parquet_batch(
    builder: Builder,
    batch: pa.RecordBatch,
    large: Mapping[int, Large],
    half: int,
    first: int,
    settings: ReadSettings,
) -> Iterator[None]:
    names = batch.schema.names
    if parquet_rows.too_large(batch, settings):
        builder.lose(document_id(half, first), "too-large", b"", batch.nbytes)
        yield
        return
    texts = parquet_rows.texts(batch.column(names.index(settings.text)))
    no_utf8: set[int] = set()
    others = {
        n: parquet_rows.values(batch.column(i), no_utf8) for i, n in enumerate(names) if n != settings.text
    }
    keys = others.pop(settings.key, None) if settings.key else None
    for i, text in enumerate(texts):
        id_ = document_id(half, first + i)
        if i in large:
            builder.lose(id_, "too-large", large[i].start, large[i].size)
        elif isinstance(text, str):
            builder.lose(id_, text, b"", 0)
        elif len(text) > settings.max_document_bytes:
            builder.lose(id_, "too-large", text, len(text))
        elif i in no_utf8 or not _is_utf8(text):
            builder.lose(id_, "utf8", text, len(text))
        else:
            key = json_rows.key_text(keys[i]) if keys else None
            meta = json_rows.meta_json({n: values[i] for n, values in others.items()})
            builder.document(id_, text, len(text), key, meta)
        yield


def _is_utf8(data: bytes | bytearray) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


# ---- files as documents ---------------------------------------------------------------------------------------


def _file(piece: Piece, settings: ReadSettings) -> tuple[bytearray, int]:
    """The bytes of a file, and how many there are: of one that is too large the first of them."""
    compression = COMPRESSIONS.get(os.path.splitext(piece.path)[1])
    data, size = bytearray(), 0
    with storage.open_input(piece.location) as file:
        for block in decompress.blocks(file, compression):
            size += len(block)
            if size <= settings.max_document_bytes:
                data += block
    return data, size


def language_of(path: str) -> str | None:
    """The language that a file's name tells, compressed or not."""
    name, suffix = os.path.splitext(path)
    extension = os.path.splitext(name)[1] if suffix in COMPRESSIONS else suffix
    return LANGUAGES.get(extension.lower())


def _whole_file(piece: Piece, settings: ReadSettings) -> Iterator[Row]:
    data, size = _file(piece, settings)
    if size > settings.max_document_bytes:
        yield Row(0, None, size, "too-large", bytes(data[:RAW_KEPT]))
        return
    columns: dict[str, Any] = {"text": bytes(data), "path": piece.path}
    if settings.format == "code":
        columns["language"] = language_of(piece.path)
    yield Row(0, columns, size)


def _text_file_rows(piece: Piece, settings: ReadSettings, builder: Builder) -> Iterator[None]:
    id_ = document_id(piece.id_half, 0)
    data, size = _file(piece, settings)
    if size > settings.max_document_bytes:
        builder.lose(id_, "too-large", bytes(data[:RAW_KEPT]), size)
    elif not _is_utf8(data):
        builder.lose(id_, "utf8", bytes(data), size)
    else:
        meta = None
        if settings.format == "code":
            meta = orjson.dumps({"language": language_of(piece.path)})
        builder.document(id_, bytes(data), size, piece.path, meta)
    yield


READERS: dict[str, Callable[[Piece, ReadSettings, Builder], Iterator[None]]] = {
    "jsonl": _jsonl_rows,
    "parquet": _parquet_rows,
    "text": _text_file_rows,
    "code": _text_file_rows,
}
ROWS: dict[str, RowsOf] = {
    "jsonl": _json_rows,
    "parquet": parquet_rows.rows,
    "text": _whole_file,
    "code": _whole_file,
}
"""The same, as rows whose text is still to be made."""
