"""How does a Parquet file become rows?

Row groups are read `PARQUET_ROWS` rows at a time; Parquet does not promise that a string is UTF-8, nor that Python
has a date for every day.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from winnow.shards import decompress, storage
from winnow.shards.inputs import InputError, Piece
from winnow.shards.rows import Row

if TYPE_CHECKING:
    from winnow.shards.readers import ReadSettings

PARQUET_ROWS = 1024


def batches(piece: Piece, settings: ReadSettings) -> Iterator[tuple[int, pa.RecordBatch]]:
    """(row the batch begins with, batch) of a piece."""
    import pyarrow.parquet as pq

    try:
        with storage.open_input(piece.location) as file:
            parquet = pq.ParquetFile(file)
            meta = parquet.metadata
            stop = meta.num_row_groups if piece.stop < 0 else piece.stop
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
            groups = list(range(piece.start, stop))
            for batch in parquet.iter_batches(PARQUET_ROWS, row_groups=groups, use_threads=False):
                yield row, batch
                row += batch.num_rows
    except pa.ArrowInvalid as error:
        raise InputError(f"{piece.path}: not a readable Parquet file ({error})") from error
    except OSError as error:
        if not decompress.is_from_arrow(error):
            raise
        # A bad page, a cut column chunk.
        raise InputError(f"{piece.path}: corrupt or truncated Parquet file ({error})") from error


def rows(piece: Piece, settings: ReadSettings) -> Iterator[Row]:
    """The rows of a piece, columns as plain values. Raises InputError as `batches` does."""
    for first, batch in batches(piece, settings):
        yield from rows_of(first, batch)


def rows_of(first: int, batch: pa.RecordBatch) -> Iterator[Row]:
    """The rows of a batch that begins with row `first`."""
    no_utf8: set[int] = set()
    columns = {name: values(batch.column(i), no_utf8) for i, name in enumerate(batch.schema.names)}
    size = batch.nbytes // max(batch.num_rows, 1)
    for i in range(batch.num_rows):
        if i in no_utf8:
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
