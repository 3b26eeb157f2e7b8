"""How do the files of a split become document tables?

Formats: `jsonl` (plain, gzip, zstd), `parquet`, `text` and `code` (a file is a document; `code` adds
the language its name tells). Each gives Arrow batches of the document table: `id`, `text`, `key`,
`meta`. A row that is no document is set aside with a reason and its bytes, never dropped in
silence and never guessed at:

    json            not a JSON value               utf8           bytes that are not UTF-8
    not-an-object   JSON, but no object            surrogate      an escape that is half a character
    missing-column  the text column is not there   wrong-type     it is not a string
    too-large       over `max_document_bytes`      empty          a text of no characters

`empty` is a document that is dropped, the others are quarantined as malformed.

Memory: one batch (`BATCH_BYTES` of text or `BATCH_ROWS` rows, plus one document of at most
`max_document_bytes`) and one decompression block; Parquet adds Arrow's buffers for `PARQUET_ROWS` rows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import pyarrow as pa
from winnow.shards import decompress, storage
from winnow.shards.inputs import COMPRESSIONS, InputError, Piece

BATCH_BYTES = 8 << 20
BATCH_ROWS = 1 << 15
PARQUET_ROWS = 1024
RAW_KEPT = 1 << 16
"""Bytes of a malformed row that are kept for the report."""

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


class _RowError(Exception):
    def __init__(self, reason: str):
        self.reason = reason


class _Builder:
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
        self.held += size
        self.seen.text_bytes += size

    def lose(self, id_: bytes, reason: str, raw: bytes, size: int) -> None:
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


def document_id(half: int, position: int) -> bytes:
    """16 bytes, big-endian: byte order is document order within a file."""
    return half.to_bytes(8, "big") + position.to_bytes(8, "big")


def read(pieces: Sequence[Piece], settings: ReadSettings, seen: Seen) -> Iterator[Batch]:
    """Yield the batches of a split, in document order; `seen` is filled on the way.

    Raises InputError for a file that cannot be read (unreadable, no such codec, corrupt, truncated
    with `on_truncated: fail`); FileNotFoundError and PermissionError become InputErrors that name the file.
    """
    rows_of = READERS[settings.format]
    builder = _Builder(seen)
    for piece in pieces:
        seen.stored_bytes += piece.size
        try:
            for _ in rows_of(piece, settings, builder):
                if builder.full:
                    yield builder.take()
        except decompress.TruncatedError as error:
            if settings.on_truncated == "fail":
                raise InputError(
                    f"{piece.path}: the compressed stream ends too early ({error}); fetch it again, "
                    "or set on_truncated: keep to use the rows before the cut"
                ) from error
            seen.truncated.append(piece.path)
        except decompress.CorruptError as error:
            raise InputError(f"{piece.path}: corrupt compressed stream ({error})") from error
        except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
            raise InputError(f"{piece.path}: cannot be read ({error.strerror or error})") from error
    if builder.texts or builder.lost:
        yield builder.take()


# ---- JSON lines -----------------------------------------------------------------------------------------------


def _jsonl_rows(piece: Piece, settings: ReadSettings, builder: _Builder) -> Iterator[None]:
    compression = COMPRESSIONS.get(os.path.splitext(piece.path)[1])
    with storage.open_input(piece.location) as file:
        for position, line, size in lines(
            file, compression, piece.start, piece.stop, 4 * settings.max_document_bytes
        ):
            id_ = document_id(piece.id_half, position)
            if line is None:
                builder.lose(id_, "too-large", b"", size)
            else:
                _add_json_row(builder, id_, line, settings)
            yield


def lines(
    file, compression: str | None, start: int, stop: int, longest: int
) -> Iterator[tuple[int, bytes | None, int]]:
    """Yield (offset, line, bytes) of the lines that begin in [start, stop); blank lines are passed over.

    Offsets are bytes of the decompressed stream; `stop` -1 is the end. A line longer than `longest`
    comes as None, in bounded memory.
    """
    # A range that does not start the file begins inside, or just after, a line of the range before:
    # reading from one byte earlier makes both cases the same.
    offset = max(start - 1, 0)
    skipping = start > 0
    carried: list[bytes] = []
    carried_bytes = 0
    for block in decompress.blocks(file, compression, offset):
        parts = block.split(b"\n")
        for part in parts[:-1]:
            size = carried_bytes + len(part)
            if stop >= 0 and offset >= stop and not skipping:
                return
            if skipping:
                skipping = False
            elif size > longest:
                yield offset, None, size
            elif size:
                line = b"".join([*carried, part]) if carried else part
                if not line.isspace():
                    yield offset, line, size
            offset += size + 1
            carried, carried_bytes = [], 0
        if parts[-1]:
            carried_bytes += len(parts[-1])
            if carried_bytes <= longest and not skipping:
                carried.append(parts[-1])
            else:
                carried = []
    if carried_bytes and not skipping and not (stop >= 0 and offset >= stop):
        if carried_bytes > longest:
            yield offset, None, carried_bytes
        else:
            line = b"".join(carried)
            if not line.isspace():
                yield offset, line, carried_bytes


def _add_json_row(builder: _Builder, id_: bytes, line: bytes, settings: ReadSettings) -> None:
    try:
        row = _json_object(line)
        text = row.pop(settings.text, None) if settings.text in row else _missing()
        data = _text_bytes(text)
        if len(data) > settings.max_document_bytes:
            raise _RowError("too-large")
        key = row.pop(settings.key, None) if settings.key else None
        key = key if key is None or isinstance(key, str) else str(key)
        meta = _meta(row)
    except _RowError as error:
        builder.lose(id_, error.reason, line, len(line))
        return
    builder.document(id_, data, len(data), key, meta)


def _missing() -> Any:
    raise _RowError("missing-column")


def _text_bytes(text: Any) -> bytes:
    if not isinstance(text, str):
        raise _RowError("wrong-type")
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise _RowError("surrogate") from None


def _json_object(line: bytes) -> dict[str, Any]:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        row = _json_slowly(line)
    if not isinstance(row, dict):
        raise _RowError("not-an-object")
    return row


def _json_slowly(line: bytes) -> Any:
    """What the standard library makes of a line that orjson refuses: it takes NaN, and tells the reasons apart."""
    import json

    try:
        return json.loads(line.decode())
    except UnicodeDecodeError:
        raise _RowError("utf8") from None
    except (ValueError, RecursionError):
        raise _RowError("json") from None


def _meta(row: dict[str, Any]) -> bytes | None:
    if not row:
        return None
    try:
        return orjson.dumps(row, default=str, option=orjson.OPT_NON_STR_KEYS)
    except (orjson.JSONEncodeError, UnicodeEncodeError):
        import json

        # Integers beyond 64 bits and lone surrogates, which JSON itself can carry as escapes.
        return json.dumps(row, default=str).encode()


# ---- Parquet --------------------------------------------------------------------------------------------------


def _parquet_rows(piece: Piece, settings: ReadSettings, builder: _Builder) -> Iterator[None]:
    import pyarrow.parquet as pq

    try:
        with storage.open_input(piece.location) as file:
            parquet = pq.ParquetFile(file)
            meta = parquet.metadata
            stop = meta.num_row_groups if piece.stop < 0 else piece.stop
            names = parquet.schema_arrow.names
            if settings.text not in names:
                raise InputError(
                    f"{piece.path}: no column {settings.text!r}; it has {', '.join(map(repr, names))}"
                )
            row = sum(meta.row_group(g).num_rows for g in range(piece.start))
            for batch in parquet.iter_batches(
                PARQUET_ROWS, row_groups=list(range(piece.start, stop)), use_threads=False
            ):
                _add_parquet_batch(builder, batch, piece.id_half, row, settings)
                row += batch.num_rows
                yield
    except pa.ArrowInvalid as error:
        raise InputError(f"{piece.path}: not a readable Parquet file ({error})") from error
    except OSError as error:
        if error.errno is not None:
            raise
        # Arrow's own errors (a bad page, a cut column chunk) carry no errno.
        raise InputError(f"{piece.path}: corrupt or truncated Parquet file ({error})") from error


def _add_parquet_batch(
    builder: _Builder, batch: pa.RecordBatch, half: int, first: int, settings: ReadSettings
) -> None:
    texts = _parquet_texts(batch.column(settings.text))
    keys = batch.column(settings.key).to_pylist() if settings.key in batch.schema.names else None
    others = [n for n in batch.schema.names if n not in (settings.text, settings.key)]
    rest = batch.select(others).to_pylist() if others else None
    for i, text in enumerate(texts):
        id_ = document_id(half, first + i)
        if isinstance(text, str):
            builder.lose(id_, text, b"", 0)
        elif len(text) > settings.max_document_bytes:
            builder.lose(id_, "too-large", text, len(text))
        elif not _is_utf8(text):
            builder.lose(id_, "utf8", text, len(text))
        else:
            key = keys[i] if keys else None
            key = key if key is None or isinstance(key, str) else str(key)
            builder.document(id_, text, len(text), key, _meta(rest[i]) if rest else None)


def _parquet_texts(column: pa.Array) -> list[bytes | str]:
    """The texts as bytes; a str in their place is the reason why there is none."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
            or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):  # fmt: skip
        return ["wrong-type"] * len(column)
    # As binary: Parquet does not promise that a string column holds UTF-8.
    return ["wrong-type" if v is None else v for v in column.cast(pa.large_binary()).to_pylist()]


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


# ---- files as documents ---------------------------------------------------------------------------------------


def _text_file_rows(piece: Piece, settings: ReadSettings, builder: _Builder) -> Iterator[None]:
    id_ = document_id(piece.id_half, 0)
    name, suffix = os.path.splitext(piece.path)
    compression = COMPRESSIONS.get(suffix)
    data, size = bytearray(), 0
    with storage.open_input(piece.location) as file:
        for block in decompress.blocks(file, compression):
            size += len(block)
            if size <= settings.max_document_bytes:
                data += block
    if size > settings.max_document_bytes:
        builder.lose(id_, "too-large", bytes(data[:RAW_KEPT]), size)
    elif not _is_utf8(data):
        builder.lose(id_, "utf8", bytes(data), size)
    else:
        meta = None
        if settings.format == "code":
            extension = os.path.splitext(name)[1] if compression else suffix
            meta = orjson.dumps({"language": LANGUAGES.get(extension.lower())})
        builder.document(id_, bytes(data), size, piece.path, meta)
    yield


READERS: dict[str, Callable[[Piece, ReadSettings, _Builder], Iterator[None]]] = {
    "jsonl": _jsonl_rows,
    "parquet": _parquet_rows,
    "text": _text_file_rows,
    "code": _text_file_rows,
}
