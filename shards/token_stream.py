"""How is a range of a long stream of tokens read, and whose tokens are they?

A stream is kept as partitions, one after the other: flat token arrays and a row per document
(pipelines/stream.py). Samples may be cuts of the stream by arithmetic alone: sample i is tokens
[begin + i·length, begin + (i+1)·length). Which rows there are otherwise is for packed_rows.py to say.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

import numpy as np
import pyarrow as pa
from winnow.shards import exchange, storage, tables

BLOCK = 1 << 21
"""Tokens that are looked at in one piece."""
GAP = 1 << 15
"""Tokens between two ranges that are sooner read than sought past."""
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


START = attrgetter("start")


@dataclass(frozen=True, slots=True)
class TokenStream:
    """The partitions of one stream, in order."""

    partitions: tuple[Partition, ...]
    dtype: str
    """Of ids."""
    row_dtype: np.dtype
    """A structured type with the fields high, low, end, bytes."""
    masked: bool = False
    """Whether tokens carry the bit of loss_mask.py: they are uint32 then, whatever ids take."""
    templated: bool = False
    """Whether documents are conversations: with control tokens in them, tokens do not spell a text byte by byte."""

    @property
    def stored(self) -> str:
        """The dtype of tokens."""
        return "uint32" if self.masked else self.dtype

    @property
    def n_tokens(self) -> int:
        return sum(p.n_tokens for p in self.partitions)

    def overlapping(self, start: int, stop: int) -> Iterator[Partition]:
        """The partitions that hold a token of [start, stop)."""
        first = max(bisect_right(self.partitions, start, key=START) - 1, 0)
        for p in self.partitions[first : bisect_left(self.partitions, stop, key=START)]:
            if max(start, p.start) < min(stop, p.start + p.n_tokens):
                yield p

    def narrowed(self, start: int, stop: int) -> TokenStream:
        """The same stream, with the partitions alone that hold a token of [start, stop)."""
        return replace(self, partitions=tuple(self.overlapping(start, stop)))

    def tokens(self, start: int, stop: int) -> np.ndarray:
        """Tokens [start, stop) in one array, as they are stored."""
        return self.read(start, np.empty(stop - start, np.dtype(self.stored)))

    def read(self, start: int, out: np.ndarray) -> np.ndarray:
        """Fill a flat array of the stored dtype with the tokens from `start` on, and return it."""
        stop = start + len(out)
        for p in self.overlapping(start, stop):
            a, b = max(start, p.start), min(stop, p.start + p.n_tokens)
            exchange.read_array(p.tokens, (a - p.start) * out.itemsize, out[a - start : b - start])
        return out

    def near(self, start: np.ndarray, stop: np.ndarray) -> Iterator[tuple[int, int, int, np.ndarray]]:
        """Read ranges of tokens; those that lie near each other are read in one piece.

        start, stop : int64[n], ascending; no two ranges overlap.

        Yields (a, b, base, tokens): `tokens` begins with the stream's token `base` and holds ranges a to b - 1.
        Memory: `BLOCK` tokens, or the longest range.
        """
        apart = np.flatnonzero(start[1:] - stop[:-1] > GAP) + 1
        a = 0
        while a < len(start):
            b = max(a + 1, int(np.searchsorted(stop, start[a] + BLOCK, side="right")))
            following = np.searchsorted(apart, a, side="right")
            if following < len(apart):
                b = min(b, int(apart[following]))
            yield a, b, int(start[a]), self.tokens(int(start[a]), int(stop[b - 1]))
            a = b

    def documents(self, partition: Partition) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(rows, begins, ends) of a partition's documents: what `rows` gives, and where in the stream they lie."""
        rows = self.rows(partition)
        ends = rows["end"].astype(np.int64) + partition.start
        return rows, np.concatenate([[partition.start], ends])[:-1], ends

    def rows(self, partition: Partition) -> np.ndarray:
        """The documents of a partition (structured[n_documents]); ends count from the partition's start."""
        size = partition.n_documents * self.row_dtype.itemsize
        return np.frombuffer(storage.read_range(partition.rows, 0, size), self.row_dtype)


def pieces(
    stream: TokenStream,
    start: int,
    stop: int,
    length: int,
    piece_bytes: np.ndarray | None,
    prefix_bytes: int,
    begin: int = 0,
) -> Iterator[pa.RecordBatch]:
    """Yield provenance rows of the stream's tokens [start, stop), a batch a partition.

    start, stop : `begin` and multiples of `length`.
    piece_bytes : integer[ids], bytes of text each id spells, 0 for control tokens; None where the tokenizer's
        pieces do not spell bytes one after the other: byte_start and byte_end are then null.
    prefix_bytes : bytes the tokenizer puts before a text of its own accord (1 for a dummy prefix space).
    begin : the token that sample 0 begins with.
    Memory: `BLOCK` tokens, a partition's rows, and some 60 bytes for each row that is yielded.
    """
    for partition in stream.overlapping(start, stop):
        rows, begins, ends = stream.documents(partition)
        inside = np.flatnonzero((ends > start) & (begins < stop) & (ends > begins))
        if not len(inside):
            continue
        begins, ends = begins[inside], ends[inside]
        owner, a, b = _cut(begins - begin, np.minimum(ends, stop) - begin, length)
        a, b = a + begin, b + begin
        wanted = a >= start
        spans = byte_spans(stream, begins, owner, a, b, piece_bytes, prefix_bytes)
        sample, offset = np.divmod(a[wanted] - begin, length)
        yield provenance(
            sample, offset, (b - a)[wanted], rows[inside[owner[wanted]]], spans and [s[wanted] for s in spans]
        )


def provenance(
    sample: np.ndarray,
    offset: np.ndarray,
    tokens: np.ndarray,
    rows: np.ndarray,
    spans: Sequence[np.ndarray] | None,
) -> pa.RecordBatch:
    """A batch of `PROVENANCE_SCHEMA`.

    sample, offset, tokens : integer[n]
    rows : structured[n], each piece's document
    spans : (byte_start, byte_end), uint64[n] each; None where they are unknown
    """
    unknown = pa.nulls(len(sample), pa.uint64())
    return pa.record_batch(
        [
            pa.array(sample.astype(np.uint64)),
            pa.array(offset.astype(np.uint32)),
            pa.array(tokens.astype(np.uint32)),
            tables.ids_of(rows["high"], rows["low"]),
            *([pa.array(s) for s in spans] if spans else [unknown, unknown]),
        ],
        schema=PROVENANCE_SCHEMA,
    )


def byte_spans(
    stream: TokenStream,
    begins: np.ndarray,
    owner: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    piece_bytes: np.ndarray | None,
    prefix_bytes: int,
) -> list[np.ndarray] | None:
    """[byte_start, byte_end], uint64[pieces] each: which bytes of its document the tokens [a, b) of each piece spell.

    owner, a, b : int64[pieces] in the order of the stream; a document's pieces lie one after another and the first
        begins with the document, owner's of `begins`.
    piece_bytes, prefix_bytes : as `pieces` takes them; None gives None, and so does a stream of conversations.
    """
    if piece_bytes is None or stream.templated:
        return None
    spelled = _spelled(stream, a, b, piece_bytes)
    return list(_spans(spelled, a == begins[owner], owner, prefix_bytes))


def _spelled(stream: TokenStream, a: np.ndarray, b: np.ndarray, piece_bytes: np.ndarray) -> np.ndarray:
    """int64[pieces]: bytes that the tokens [a, b) of each piece spell; pieces have tokens and ascend."""
    spelled = np.empty(len(a), np.int64)
    for low, high, base, tokens in stream.near(a, b):
        # `clip` skips the check of every id, which an index would make.
        sizes = np.take(piece_bytes, tokens, mode="clip")
        # By turns the sum of a piece and of what lies before the next one.
        edges = np.stack([a[low:high], b[low:high]], axis=1).reshape(-1)[:-1] - base
        spelled[low:high] = np.add.reduceat(sizes, edges, dtype=np.int64)[::2]
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


def build(
    parts: Sequence[tuple[str, str, int, int]],
    dtype: str,
    row_dtype: np.dtype,
    *,
    masked: bool = False,
    templated: bool = False,
) -> TokenStream:
    """A stream from its partitions' (tokens, rows, number of tokens, number of documents), in order."""
    out, start = [], 0
    for tokens, rows, n_tokens, n_documents in parts:
        out.append(Partition(tokens, rows, start, n_tokens, n_documents))
        start += n_tokens
    return TokenStream(tuple(out), dtype, row_dtype, masked, templated)
