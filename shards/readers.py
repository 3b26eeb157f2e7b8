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
`max_document_bytes`) and one decompression block; JSON adds the line and what parsing makes of it
(json_rows.py; 3 bytes a byte of a long ASCII line), Parquet Arrow's buffers for `PARQUET_ROWS` rows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import pyarrow as pa
from winnow.shards import decompress, json_rows, storage
from winnow.shards.inputs import COMPRESSIONS, InputError, Piece, check_unchanged

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


def document_id(half: int, position: int) -> bytes:
    """16 bytes, big-endian: byte order is document order within a file."""
    return half.to_bytes(8, "big") + position.to_bytes(8, "big")


def read(pieces: Sequence[Piece], settings: ReadSettings, seen: Seen) -> Iterator[Batch]:
    """Yield the batches of a split, in document order; `seen` is filled on the way.

    Raises InputError for a file that cannot be read (unreadable, no such codec, corrupt, truncated
    with `on_truncated: fail`, changed since the plan); FileNotFoundError and PermissionError become
    InputErrors that name the file.
    """
    rows_of = READERS[settings.format]
    builder = _Builder(seen)
    for piece in pieces:
        seen.stored_bytes += piece.size
        try:
            check_unchanged(piece)
            for _ in rows_of(piece, settings, builder):
                if builder.full:
                    yield builder.take()
            check_unchanged(piece)
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
        longest = json_rows.ESCAPED * settings.max_document_bytes
        for position, line, size in json_rows.lines(file, compression, piece.start, piece.stop, longest):
            id_ = document_id(piece.id_half, position)
            if line is None:
                builder.lose(id_, "too-large", b"", size)
            else:
                _add_json_row(builder, id_, line, settings)
            yield


def _add_json_row(builder: _Builder, id_: bytes, line: bytes | bytearray, settings: ReadSettings) -> None:
    try:
        data, key, meta = json_rows.document(line, settings.text, settings.key, settings.max_document_bytes)
    except json_rows.RowError as error:
        builder.lose(id_, error.reason, line, len(line))
    else:
        builder.document(id_, data, len(data), key, meta)


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
            groups = list(range(piece.start, stop))
            for batch in parquet.iter_batches(PARQUET_ROWS, row_groups=groups, use_threads=False):
                yield from _add_parquet_batch(builder, batch, piece.id_half, row, settings)
                row += batch.num_rows
    except pa.ArrowInvalid as error:
        raise InputError(f"{piece.path}: not a readable Parquet file ({error})") from error
    except OSError as error:
        if not decompress.is_from_arrow(error):
            raise
        # A bad page, a cut column chunk.
        raise InputError(f"{piece.path}: corrupt or truncated Parquet file ({error})") from error


def _add_parquet_batch(
    builder: _Builder, batch: pa.RecordBatch, half: int, first: int, settings: ReadSettings
) -> Iterator[None]:
    names = batch.schema.names
    texts = _parquet_texts(batch.column(names.index(settings.text)))
    no_utf8: set[int] = set()
    others = {n: _values(batch.column(i), no_utf8) for i, n in enumerate(names) if n != settings.text}
    keys = others.pop(settings.key, None) if settings.key else None
    for i, text in enumerate(texts):
        id_ = document_id(half, first + i)
        if isinstance(text, str):
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


def _values(column: pa.Array, no_utf8: set[int]) -> list[Any]:
    """The values of a column that is no text, as Python's; `no_utf8` gets the rows where a string is no UTF-8.

    Times are cut to microseconds and moved to UTC: finer ones need pandas, zones a data base, and the same
    file must read alike without them. A date that Python's calendar does not have is None.
    """
    plain = _plain_type(column.type)
    if plain != column.type:
        column = column.cast(plain, safe=False)
    try:
        return column.to_pylist()
    except (ValueError, OverflowError):
        return [_value(scalar, i, no_utf8) for i, scalar in enumerate(column)]


def _value(scalar: pa.Scalar, row: int, no_utf8: set[int]) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        no_utf8.add(row)
    except (ValueError, OverflowError):
        pass
    return None


def _plain_type(kind: pa.DataType) -> pa.DataType:
    """The type with times, at any depth, that Python's own datetime can hold."""
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us" if kind.unit == "ns" else kind.unit, kind.tz and "+00:00")
    if pa.types.is_duration(kind):
        return pa.duration("us" if kind.unit == "ns" else kind.unit)
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_plain_type(field.type)) for field in kind])
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_plain_type(kind.value_type)))
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_plain_type(kind.value_type)))
    if pa.types.is_map(kind):
        return pa.map_(_plain_type(kind.key_type), _plain_type(kind.item_type), kind.keys_sorted)
    return kind


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


def _is_utf8(data: bytes | bytearray) -> bool:
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
