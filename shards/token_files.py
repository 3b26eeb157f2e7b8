"""How are documents' tokens written for trainers that read one flat file of ids, and as a table?

*datatrove's file*, little-endian (datatrove 0.9: pipeline/tokens/tokenizer.py writes it, utils/dataset.py reads it,
and so does nanotron):

    NAME.ds            the ids of all documents one after the other, uint16 or uint32
    NAME.ds.index      uint64 per document: the token it ends before
    NAME.ds.metadata   three lines: tokenizer|bytes per token, number of tokens, the same number for people

*A table*: Parquet with a row per document, its id and the list of its tokens.

Writers take documents in blocks and hold one block. Letters: n documents, t tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from winnow.shards import arrays, storage, tables

PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z", "Y", "R", "Q")
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)


@dataclass(frozen=True, slots=True)
class Documents:
    """Some documents with their tokens."""

    high: np.ndarray
    low: np.ndarray
    """uint64[n] each, the halves of the ids."""
    lengths: np.ndarray
    """int64[n], tokens of each document."""
    tokens: np.ndarray
    """uint16[t] or uint32[t], one document after the other."""


def write_datatrove(location: str, tokenizer: str, dtype: str, blocks: Iterable[Documents]) -> None:
    """Write a datatrove file `location`, its index and its metadata; the metadata appears last.

    tokenizer : its name; nanotron loads it by that, so a hub id serves best.
    dtype : "uint16" or "uint32", of the ids.

    Memory: a block.
    """
    item, end = np.dtype(dtype).newbyteorder("<"), 0
    with (
        storage.commit(f"{location}.index") as index_path,
        storage.commit(location) as path,
        open(path, "wb") as ids,
        open(index_path, "wb") as index,
    ):
        for block in blocks:
            arrays.write(ids, block.tokens.astype(item, copy=False))
            arrays.write(index, (end + np.cumsum(block.lengths)).astype("<u8"))
            end += len(block.tokens)
    metadata = f"{tokenizer}|{item.itemsize}\n{end}\n{metric(end)}"
    storage.put_bytes(f"{location}.metadata", metadata.encode())


def metric(tokens: int) -> str:
    """A number of tokens with three digits and an SI prefix, unit T, as datatrove prints it: 1.50 kT.

    Rounding that carries into the next prefix shows there: 999,999 is 1.00 MT.
    """
    exponent = max(len(str(tokens)) - 1, 0)
    step = exponent // 3
    value = tokens / 1000.0**step
    digits = 2 - exponent % 3
    if round(value, digits) >= 10 ** (exponent % 3 + 1):
        exponent += 1
        digits = 2 - exponent % 3
        if exponent // 3 > step:
            step, value = step + 1, value / 1000.0
    return f"{value:.{digits}f} {PREFIXES[step]}T"


def table_schema(dtype: str) -> pa.Schema:
    """Columns of the Parquet table: `id` (32 hexadecimal digits) and `tokens`."""
    return pa.schema([("id", pa.string()), ("tokens", pa.list_(pa.from_numpy_dtype(np.dtype(dtype))))])


def write_table(location: str, dtype: str, blocks: Iterable[Documents]) -> None:
    """Write a Parquet file: zstd, row groups of `RowWriter.GROUP_BYTES` or a block.

    Memory: a row group and a block. Raises ValueError for a block of 2**31 tokens, which no list column holds.
    """
    schema = table_schema(dtype)
    with storage.commit(location) as path, tables.RowWriter(path, schema) as writer:
        for block in blocks:
            if len(block.tokens) > np.iinfo(np.int32).max:
                raise ValueError(
                    f"a document of {len(block.tokens):,} tokens is more than a list column holds"
                )
            ends = np.zeros(len(block.lengths) + 1, np.int32)
            np.cumsum(block.lengths, out=ends[1:])
            lists = pa.ListArray.from_arrays(pa.array(ends), pa.array(block.tokens))
            writer.write(pa.record_batch([hexadecimal(block.high, block.low), lists], schema=schema))


def hexadecimal(high: np.ndarray, low: np.ndarray) -> pa.StringArray:
    """Ids as 32 hexadecimal digits each, from their halves (uint64[n] each)."""
    n = len(high)
    raw = np.empty((n, 2), ">u8")
    raw[:, 0], raw[:, 1] = high, low
    octets = raw.view(np.uint8).reshape(n, 16)
    digits = np.empty((n, 32), np.uint8)
    digits[:, 0::2], digits[:, 1::2] = _HEX[octets >> 4], _HEX[octets & 15]
    offsets = np.arange(0, 32 * n + 1, 32, dtype=np.int32)
    return pa.StringArray.from_buffers(n, pa.py_buffer(offsets), pa.py_buffer(digits))
