"""How are tables kept between stages?

Text and verdicts: Arrow files with LZ4, read batch by batch. Rows and reports: Parquet. Both are
written by one thread with fixed settings, so equal rows give equal bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from winnow.shards import storage

ID = pa.binary(16)


def arrow_writer(path: str, schema: pa.Schema) -> pa.RecordBatchFileWriter:
    """A writer of Arrow batches at a local path; a context manager."""
    options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
    return pa.ipc.new_file(path, schema, options=options)


@contextmanager
def arrow_file(location: str) -> Iterator[pa.RecordBatchFileReader]:
    """Open an Arrow file for reading batch by batch. Raises OSError or pa.ArrowInvalid when it is cut."""
    if storage.is_local(location):
        with pa.OSFile(storage.local_path(location)) as source:
            yield pa.ipc.open_file(source)
    else:
        with storage.open_input(location) as handle:
            yield pa.ipc.open_file(pa.PythonFile(handle, mode="r"))


def arrow_batches(location: str) -> Iterator[pa.RecordBatch]:
    """The batches of an Arrow file; one is in memory at a time."""
    with arrow_file(location) as reader:
        for i in range(reader.num_record_batches):
            yield reader.get_batch(i)


class RowWriter:
    """Writes Parquet in row groups of `GROUP_ROWS` rows or `GROUP_BYTES` bytes, whichever comes first."""

    GROUP_ROWS = 1 << 16
    GROUP_BYTES = 32 << 20

    def __init__(self, path: str, schema: pa.Schema):
        self.writer = pq.ParquetWriter(
            path,
            schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=False,
            write_statistics=False,
        )
        self.schema = schema
        self.pending: list[pa.RecordBatch] = []
        self.rows = self.bytes = 0

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(self, kind, *_) -> None:
        if kind is None:
            self._flush()
        self.writer.close()

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows."""
        if batch.num_rows == 0:
            return
        self.pending.append(batch)
        self.rows += batch.num_rows
        self.bytes += batch.nbytes
        if self.rows >= self.GROUP_ROWS or self.bytes >= self.GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self.pending:
            self.writer.write_table(pa.Table.from_batches(self.pending, self.schema))
        self.pending, self.rows, self.bytes = [], 0, 0


def parquet_batches(location: str, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The row groups of a Parquet file, each as one batch."""
    with storage.open_input(location) as handle:
        file = pq.ParquetFile(handle)
        names = None if columns is None else list(columns)
        for g in range(file.num_row_groups):
            table = file.read_row_group(g, columns=names, use_threads=False).combine_chunks()
            yield from table.to_batches()


class Aligned:
    """Hands out rows of a sequence of batches in other portions than they come in."""

    def __init__(self, batches: Iterator[pa.RecordBatch]):
        self.batches = batches
        self.held: list[pa.RecordBatch] = []
        self.rows = 0

    def take(self, n: int) -> pa.RecordBatch:
        """The next `n` > 0 rows as one batch. Raises ValueError when there are fewer."""
        while self.rows < n:
            batch = next(self.batches, None)
            if batch is None:
                raise ValueError(
                    f"{n} rows wanted, {self.rows} left: two files of one split are not row-aligned"
                )
            self.held.append(batch)
            self.rows += batch.num_rows
        table = pa.Table.from_batches(self.held)
        head, rest = table.slice(0, n).combine_chunks(), table.slice(n)
        self.held = rest.to_batches()
        self.rows -= n
        batch, *more = head.to_batches()
        if more:
            raise ValueError(f"{n} rows hold more text than one batch can")
        return batch

    def end(self) -> None:
        """Raises ValueError unless every row was taken."""
        if self.rows or any(batch.num_rows for batch in self.batches):
            raise ValueError("rows are left over: two files of one split are not row-aligned")


def id_halves(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """The two big-endian halves of a column of 16 bytes, as uint64[n] each."""
    raw = np.frombuffer(column.buffers()[1], ">u8", count=2 * len(column), offset=16 * column.offset)
    return raw[0::2].astype(np.uint64), raw[1::2].astype(np.uint64)


def ids_of(high: np.ndarray, low: np.ndarray) -> pa.Array:
    """A column of 16 bytes from its two halves (uint64[n] each)."""
    raw = np.empty(2 * len(high), ">u8")
    raw[0::2], raw[1::2] = high, low
    return pa.Array.from_buffers(ID, len(high), [None, pa.py_buffer(raw)])


def mix(seed: int, *words: np.ndarray) -> np.ndarray:
    """uint64[n]: a hash of the seed and the words, the source of every random choice about documents.

    SplitMix64's finaliser (Steele, Lea, Flood 2014, doi 10.1145/2660193.2660195), once per word.
    """
    state = np.uint64(seed & 0xFFFFFFFFFFFFFFFF)
    out = np.full(len(words[0]), state, np.uint64)
    with np.errstate(over="ignore"):
        for word in words:
            out = (out ^ word) + np.uint64(0x9E3779B97F4A7C15)
            out = (out ^ (out >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            out = (out ^ (out >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            out ^= out >> np.uint64(31)
    return out
