"""How does a Parquet file become rows?

Row groups are read `PARQUET_ROWS` rows at a time, fewer where rows are large; Parquet does not promise that a string
is UTF-8, nor that Python has a date for every day.

Memory: a batch and its values, and of each column a page of at most `PAGE_BYTES`, stored bytes of at most
`CHUNK_BYTES` or a buffer, and a dictionary. Columns of strings with larger pages are read by parquet_values.py;
a larger page of anything else is an InputError. What a row costs as Python's values is estimated first: a row over
json_rows.py's bound is too large. Not bounded is a list that goes over many pages, which says nowhere how
long it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO

import pyarrow as pa
from winnow.shards import decompress, json_rows, parquet_values, storage
from winnow.shards.inputs import InputError, Piece
from winnow.shards.parquet_pages import DICTIONARY, UnreadableError, pages
from winnow.shards.parquet_values import Large
from winnow.shards.rows import RAW_KEPT, Row

if TYPE_CHECKING:
    import pyarrow.parquet as pq
    from winnow.shards.readers import ReadSettings

PARQUET_ROWS = 1024
NONE: Mapping[int, Large] = MappingProxyType({})
BATCH_BYTES = 8 << 20
"""Bytes of a batch, where a row is not larger."""
PAGE_BYTES = 128 << 20
"""Of the largest page that Arrow is given to read; also the bound of what a batch's dictionary can make of it."""
MOST_IN_LISTS = 1 << 26
"""Elements in a page of lists, of which a row may have all: 12 bytes of memory each, however small the page."""
CHUNK_BYTES = 32 << 20
"""Stored bytes of a row group beyond which it is not read as a whole."""
BUFFERS = 64 << 20
"""Bytes for reading such chunks, over the columns."""
STRING, NUMBER = 8, 40
"""Bytes of memory that a byte of a row takes as Python's values and as JSON: of strings, and of what is none, a list
of numbers of a byte being the worst."""


@dataclass(frozen=True, slots=True)
class _Group:
    """How the rows of a row group are to be read."""

    rows: int
    step: int
    """Rows at a time."""
    large: dict[str, int]
    """Columns with a page that Arrow is not to read, by name: their place among the leaves."""


def batches(piece: Piece, settings: ReadSettings) -> Iterator[tuple[int, pa.RecordBatch, dict[int, Large]]]:
    """(row the batch begins with, batch, values that were passed over by their row in it) of a piece.

    A batch has at most `BATCH_BYTES`, or one row. A string over `ESCAPED` times the largest document in a page that
    Arrow would not read in bounded memory is passed over and null in its batch.
    """
    from pyarrow import parquet as pq

    try:
        with storage.open_input(piece.location) as file:
            meta = pq.ParquetFile(file).metadata
            stop = meta.num_row_groups if piece.stop < 0 else piece.stop
            buffer = _buffer(meta, piece.start, stop)
            # What pyarrow buffers before reading is all columns of a row group, whatever buffer_size says.
            parquet = pq.ParquetFile(file, metadata=meta, buffer_size=buffer, pre_buffer=buffer == 0)
            names = parquet.schema_arrow.names
            if (
                settings.compose is None
                and settings.text not in names
                and settings.text.split(".")[0] not in names
            ):
                raise InputError(
                    f"{piece.path}: no column {settings.text!r}; it has {', '.join(map(repr, names))}"
                )
            row = sum(meta.row_group(g).num_rows for g in range(piece.start))
            for g in range(piece.start, stop):
                for batch, large in _group_batches(parquet, file, g, settings.max_document_bytes):
                    yield row, batch, large
                    row += batch.num_rows
    except UnreadableError as error:
        raise InputError(
            f"{piece.path}: a page is too large for memory and cannot be read a value at a time ({error}); "
            "write the file anew with smaller pages, or leave it out with `exclude`"
        ) from error
    except pa.ArrowInvalid as error:
        raise InputError(f"{piece.path}: not a readable Parquet file ({error})") from error
    except OSError as error:
        if not decompress.is_from_arrow(error):
            raise
        # A bad page, a cut column chunk.
        raise InputError(f"{piece.path}: corrupt or truncated Parquet file ({error})") from error


def _buffer(meta: pq.FileMetaData, start: int, stop: int) -> int:
    """Bytes at a time of a file with large row groups; 0 to read them as a whole."""
    groups = (meta.row_group(g) for g in range(start, stop))
    if all(
        sum(group.column(c).total_compressed_size for c in range(meta.num_columns)) <= CHUNK_BYTES
        for group in groups
    ):
        return 0
    return max(1 << 20, min(8 << 20, BUFFERS // meta.num_columns))


def _group_batches(
    parquet: pq.ParquetFile, file: BinaryIO, number: int, max_bytes: int
) -> Iterator[tuple[pa.RecordBatch, dict[int, Large]]]:
    group = _group(parquet, file, number)
    if not group.large:
        for batch in parquet.iter_batches(group.step, row_groups=[number], use_threads=False):
            for part in slices(batch):
                yield part, {}
        return
    names = parquet.schema_arrow.names
    others = [name for name in names if name not in group.large]
    columns = [
        _values(parquet, file, number, leaf, json_rows.ESCAPED * max_bytes) for leaf in group.large.values()
    ]
    schema = pa.schema(
        [_read_as(field) if field.name in group.large else field for field in parquet.schema_arrow]
    )
    for rest in _rest(parquet, number, others, group):
        done = 0
        while done < rest.num_rows:
            held: list[list[bytes | None]] = [[] for _ in columns]
            large: dict[int, Large] = {}
            size = 0
            while size < BATCH_BYTES and done + len(held[0]) < rest.num_rows:
                for into, each in zip(held, columns, strict=True):
                    value = next(each)
                    if isinstance(value, Large):
                        large[len(into)] = value
                    into.append(None if isinstance(value, Large) else value)
                    size += len(into[-1] or b"")
            made = dict(zip(group.large, held, strict=True))
            of_rest = rest.slice(done, len(held[0]))
            arrays = [
                _unchecked(made[name], schema.field(name).type) if name in made else of_rest.column(name)
                for name in names
            ]
            done += len(held[0])
            yield pa.record_batch(arrays, schema=schema), large


def _group(parquet: pq.ParquetFile, file: BinaryIO, number: int) -> _Group:
    """Raises UnreadableError where a column that is no plain string has a page that is too large."""
    group = parquet.metadata.row_group(number)
    rows, step, large = group.num_rows, PARQUET_ROWS, {}
    for leaf in range(group.num_columns):
        chunk, kind = group.column(leaf), parquet.schema.column(leaf)
        of_row = max(chunk.total_uncompressed_size, chunk.num_values) / max(rows, 1)
        nested = kind.max_repetition_level > 0
        if chunk.total_uncompressed_size > PAGE_BYTES or (nested and chunk.num_values > MOST_IN_LISTS):
            found = list(pages(file, chunk))
            if nested and max((page.values for page in found), default=0) > MOST_IN_LISTS:
                raise UnreadableError(f"the column {kind.path!r} has a page of very long lists")
            if max((page.size for page in found), default=0) > PAGE_BYTES:
                if kind.physical_type != "BYTE_ARRAY" or "." in kind.path or nested:
                    raise UnreadableError(f"the column {kind.path!r} is no column of strings")
                large[kind.path] = leaf
                continue
            if not nested:
                of_row = max([of_row, *(page.size / max(page.values, 1) for page in found)])
        step = min(step, int(BATCH_BYTES / max(of_row, 1)))
        if kind.physical_type == "BYTE_ARRAY" and chunk.has_dictionary_page:
            step = min(step, PAGE_BYTES // max(_longest_named(file, chunk, PAGE_BYTES // max(step, 1)), 1))
    return _Group(rows, max(step, 1), large)


def _longest_named(file: BinaryIO, chunk: pq.ColumnChunkMetaData, least: int) -> int:
    """Bytes of the longest value of a chunk's dictionary, which many rows may name; 0 where none has `least`."""
    if chunk.total_uncompressed_size <= least:
        return 0
    first = next(pages(file, chunk), None)
    if first is None or first.kind != DICTIONARY:
        return 0
    most = first.size - 4 * first.values
    if most <= least:
        return 0
    if first.size > PAGE_BYTES:
        return most
    try:
        return parquet_values.longest_of(file, chunk, first)
    except UnreadableError:
        return most


def _values(
    parquet: pq.ParquetFile, file: BinaryIO, number: int, leaf: int, longest: int
) -> Iterator[bytes | Large | None]:
    chunk, kind = parquet.metadata.row_group(number).column(leaf), parquet.schema.column(leaf)
    yield from parquet_values.values(file, chunk, kind.max_definition_level > 0, longest, RAW_KEPT)
    raise UnreadableError(f"the column {kind.path!r} has fewer values than rows")


def _rest(
    parquet: pq.ParquetFile, number: int, others: Sequence[str], group: _Group
) -> Iterator[pa.RecordBatch]:
    """The columns that Arrow reads; without any, rows of nothing."""
    if others:
        for batch in parquet.iter_batches(
            group.step, row_groups=[number], columns=list(others), use_threads=False
        ):
            yield from slices(batch)
        return
    for start in range(0, group.rows, PARQUET_ROWS):
        nothing = pa.nulls(min(PARQUET_ROWS, group.rows - start))
        yield pa.record_batch([nothing], names=[""])


def _read_as(field: pa.Field) -> pa.Field:
    """The type of a column whose values were read here."""
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    return pa.field(field.name, pa.large_string() if text else pa.large_binary())


def _unchecked(values: list[bytes | None], kind: pa.DataType) -> pa.Array:
    """Bytes as a column of strings, whether they are UTF-8 or not."""
    array = pa.array(values, pa.large_binary())
    return array if kind == array.type else pa.Array.from_buffers(kind, len(array), array.buffers())


def slices(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """A batch in parts of at most `BATCH_BYTES`, or of one row."""
    if batch.num_rows <= 1 or batch.nbytes <= BATCH_BYTES:
        yield batch
        return
    half = batch.num_rows // 2
    yield from slices(batch.slice(0, half))
    yield from slices(batch.slice(half))


def too_large(batch: pa.RecordBatch, settings: ReadSettings) -> bool:
    """Whether the columns of a batch of one row, beside a text as it stands, would take too much memory."""
    if batch.num_rows != 1 or batch.nbytes <= BATCH_BYTES:
        return False
    taken = 0
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if not (settings.plain and name == settings.text):
            taken += column.nbytes * (STRING if _is_strings(column.type) else NUMBER)
    return taken > json_rows.most_memory(settings.max_document_bytes)


def _is_strings(kind: pa.DataType) -> bool:
    return (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
        or pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    )  # fmt: skip


def rows(piece: Piece, settings: ReadSettings) -> Iterator[Row]:
    """The rows of a piece, columns as plain values. Raises InputError as `batches` does."""
    for first, batch, large in batches(piece, settings):
        yield from rows_of(first, batch, settings, large)


def rows_of(
    first: int, batch: pa.RecordBatch, settings: ReadSettings, large: Mapping[int, Large] = NONE
) -> Iterator[Row]:
    """The rows of a batch that begins with row `first`."""
    if too_large(batch, settings):
        yield Row(first, None, batch.nbytes, "too-large")
        return
    no_utf8: set[int] = set()
    columns = {name: values(batch.column(i), no_utf8) for i, name in enumerate(batch.schema.names)}
    size = batch.nbytes // max(batch.num_rows, 1)
    for i in range(batch.num_rows):
        if i in large:
            yield Row(first + i, None, large[i].size, "too-large", large[i].start)
        elif i in no_utf8:
            yield Row(first + i, None, size, "utf8")
        else:
            yield Row(first + i, {name: column[i] for name, column in columns.items()}, size)


def values(column: pa.Array, no_utf8: set[int]) -> list[Any]:
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


def texts(column: pa.Array) -> list[bytes | str]:
    """The texts as bytes; a str in their place is the reason why there is none."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
            or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):  # fmt: skip
        return ["wrong-type"] * len(column)
    # As binary: Parquet does not promise that a string column holds UTF-8.
    return ["wrong-type" if v is None else v for v in column.cast(pa.large_binary()).to_pylist()]
