"""How is a range of a long stream of tokens read, and whose tokens are they?

A stream is kept as partitions, one after the other: flat token arrays and a row per document
(pipelines/stream.py). Samples are cuts of the whole stream by arithmetic alone: sample i is tokens
[i·length, (i+1)·length).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from winnow.shards import exchange, storage, tables

BLOCK = 1 << 21
"""Tokens whose bytes are counted at a time."""
PROVENANCE_SCHEMA = pa.schema(
    [
        ("sample", pa.uint64()),
        ("offset", pa.uint32()),
        ("tokens", pa.uint32()),
        ("id", tables.ID),
        ("byte_start", pa.uint64()),
        ("byte_end", pa.uint64()),
    ]
)
"""A row per piece of a document in a sample: where in the sample it begins, how many tokens it has, and
which bytes of the document's text (as the tokenizer normalised it) they spell."""


@dataclass(frozen=True, slots=True)
class Partition:
    tokens: str
    """Location of the token array."""
    rows: str
    start: int
    """The stream's token it begins with."""
    n_tokens: int
    n_documents: int


@dataclass(frozen=True, slots=True)
class TokenStream:
    """The partitions of one stream, in order."""

    partitions: tuple[Partition, ...]
    dtype: str
    row_dtype: np.dtype
    """A structured type with the fields high, low, end, bytes."""

    @property
    def n_tokens(self) -> int:
        return sum(p.n_tokens for p in self.partitions)

    def overlapping(self, start: int, stop: int) -> Iterator[Partition]:
        """The partitions that hold a token of [start, stop)."""
        for p in self.partitions:
            if p.start < stop and start < p.start + p.n_tokens:
                yield p

    def tokens(self, start: int, stop: int) -> np.ndarray:
        """Tokens [start, stop) in one array of the stream's dtype."""
        out = np.empty(stop - start, np.dtype(self.dtype))
        for p in self.overlapping(start, stop):
            a, b = max(start, p.start), min(stop, p.start + p.n_tokens)
            exchange.read_array(p.tokens, (a - p.start) * out.itemsize, out[a - start : b - start])
        return out

    def rows(self, partition: Partition) -> np.ndarray:
        """The documents of a partition (structured[n_documents]); ends count from the partition's start."""
        size = partition.n_documents * self.row_dtype.itemsize
        return np.frombuffer(storage.read_range(partition.rows, 0, size), self.row_dtype)


def pieces(
    stream: TokenStream, start: int, stop: int, length: int, piece_bytes: np.ndarray | None, prefix_bytes: int
) -> Iterator[pa.RecordBatch]:
    """Yield provenance rows of the stream's tokens [start, stop), a batch a partition.

    start, stop : multiples of `length`.
    piece_bytes : integer[ids], bytes of text each id spells, 0 for control tokens; None where the tokenizer's
        pieces do not spell bytes one after the other: byte_start and byte_end are then null.
    prefix_bytes : bytes the tokenizer puts before a text of its own accord (1 for a dummy prefix space).
    Memory: `BLOCK` tokens, a partition's rows, and some 60 bytes for each row that is yielded.
    """
    for partition in stream.overlapping(start, stop):
        rows = stream.rows(partition)
        ends = rows["end"].astype(np.int64) + partition.start
        begins = np.concatenate([[partition.start], ends[:-1]])
        inside = np.flatnonzero((ends > start) & (begins < stop) & (ends > begins))
        if not len(inside):
            continue
        begins, ends = begins[inside], ends[inside]
        owner, a, b = _cut(begins, np.minimum(ends, stop), length)
        wanted = a >= start
        if piece_bytes is None:
            spans = [pa.nulls(int(wanted.sum()), pa.uint64())] * 2
        else:
            spelled = _spelled(stream, a, b, piece_bytes)
            spans = [pa.array(s[wanted]) for s in _spans(spelled, a == begins[owner], owner, prefix_bytes)]
        high, low = (rows[f][inside][owner[wanted]] for f in ("high", "low"))
        yield pa.record_batch(
            [
                pa.array((a[wanted] // length).astype(np.uint64)),
                pa.array((a[wanted] % length).astype(np.uint32)),
                pa.array((b - a)[wanted].astype(np.uint32)),
                tables.ids_of(high, low),
                *spans,
            ],
            schema=PROVENANCE_SCHEMA,
        )


def _spelled(stream: TokenStream, a: np.ndarray, b: np.ndarray, piece_bytes: np.ndarray) -> np.ndarray:
    """int64[pieces]: bytes that the tokens [a, b) of each piece spell; pieces lie one after another."""
    spelled = np.empty(len(a), np.int64)
    low = 0
    while low < len(a):
        high = max(low + 1, int(np.searchsorted(b, a[low] + BLOCK, side="right")))
        sizes = piece_bytes[stream.tokens(int(a[low]), int(b[high - 1]))]
        spelled[low:high] = np.add.reduceat(sizes, a[low:high] - a[low], dtype=np.int64)
        low = high
    return spelled


def _spans(
    spelled: np.ndarray, is_first: np.ndarray, owner: np.ndarray, prefix_bytes: int
) -> tuple[np.ndarray, np.ndarray]:
    """(byte_start, byte_end), uint64 each, of pieces that spell so many bytes, within their documents."""
    total = np.cumsum(spelled)
    before_document = (total - spelled)[is_first][owner]
    byte_end = np.maximum(total - before_document - prefix_bytes, 0)
    byte_start = np.maximum(total - spelled - before_document - prefix_bytes, 0)
    return byte_start.astype(np.uint64), byte_end.astype(np.uint64)


def _cut(begins: np.ndarray, ends: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut documents at sample borders: (document, begin, end) of every piece, int64 each."""
    first_sample = begins // length
    n = (ends - 1) // length - first_sample + 1
    owner = np.repeat(np.arange(len(begins)), n)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(n) - n, n)
    sample = first_sample[owner] + within
    return owner, np.maximum(begins[owner], sample * length), np.minimum(ends[owner], (sample + 1) * length)


def build(parts: Sequence[tuple[str, str, int, int]], dtype: str, row_dtype: np.dtype) -> TokenStream:
    """A stream from its partitions' (tokens, rows, number of tokens, number of documents), in order."""
    out, start = [], 0
    for tokens, rows, n_tokens, n_documents in parts:
        out.append(Partition(tokens, rows, start, n_tokens, n_documents))
        start += n_tokens
    return TokenStream(tuple(out), dtype, row_dtype)
