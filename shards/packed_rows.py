"""How are the rows of one stream read, whatever the packing?

A stream's rows (training samples) are numbered from 0. With `concat`, row r is the stream's tokens
[begin + r·length, begin + (r+1)·length): arithmetic alone.

Otherwise documents are put into rows window by window. A *window* owns the documents that begin in a range of the
stream, and its *plan* says which piece of which document lies where: a file of `PIECES`, sorted by row and offset.
Windows and their rows follow one another; `WINDOWS` is the list of them. What no piece covers is padding.

Memory of reading rows: the rows, their windows' plans, and `token_stream.BLOCK` tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pyarrow as pa
from winnow.shards import loss_mask, storage, token_stream
from winnow.shards.token_stream import TokenStream

PIECES = np.dtype([("row", "<u4"), ("offset", "<u4"), ("tokens", "<u4"), ("start", "<u8")])
"""A piece of a document: its row, counted from the window's first one, the row's token it begins at, how many tokens it
has, and the stream's token it begins with."""
WINDOWS = np.dtype(
    [("number", "<u8"), ("begin", "<u8"), ("end", "<u8"), ("row", "<u8"), ("rows", "<u8"), ("pieces", "<u8"),
     ("tokens", "<u8"), ("documents", "<u8"), ("cut_documents", "<u8")]
)  # fmt: skip
"""A window that has documents: its number, where the first one begins and the last one ends, its first row, how many
rows, pieces, tokens and documents it has, and how many of these lie in more than one row."""


@dataclass(frozen=True, slots=True, eq=False)
class PackedRows:
    """The rows of one stream (a source's `train` or `val`) in one packing. Small, and can be sent to tasks."""

    stream: TokenStream
    length: int
    """Tokens a row."""
    n_rows: int
    begin: int = 0
    """The stream's token that row 0 begins with (concat)."""
    pad_id: int | None = None
    """What fills rows up; None with `concat`, whose rows are full."""
    padding_tokens: int = 0
    """In all rows."""
    plans: str = ""
    """Location of the windows' plans."""
    windows: np.ndarray = field(default_factory=partial(np.empty, 0, WINDOWS))
    """WINDOWS[windows]"""

    @property
    def tokens(self) -> int:
        """Tokens of documents in all rows: without padding."""
        return self.n_rows * self.length - self.padding_tokens

    def narrowed(self, first: int, last: int) -> PackedRows:
        """The same rows, able to read only [first, last): what a task is sent."""
        if self.pad_id is None:
            return replace(self, stream=self.stream.narrowed(*self._range(first, last)))
        windows = self._windows(first, last)
        start, stop = (int(windows["begin"][0]), int(windows["end"][-1])) if len(windows) else (0, 0)
        return replace(self, stream=self.stream.narrowed(start, stop), windows=windows)

    def rows(self, first: int, last: int) -> np.ndarray:
        """Rows [first, last): the stream's stored dtype [last - first, length]. Reads each range of tokens once."""
        return self.read(first, np.empty((last - first, self.length), np.dtype(self.stream.stored)))

    def read(self, first: int, rows: np.ndarray) -> np.ndarray:
        """Fill an array [n, length] of the stream's stored dtype with the rows from `first` on, and return it."""
        last, out = first + len(rows), rows.reshape(-1)
        if self.pad_id is None:
            self.stream.read(self._range(first, last)[0], out)
            return rows
        out[:] = self.pad_id | int(loss_mask.NOT_TRAINED) if self.stream.masked else self.pad_id
        for window in self._windows(first, last):
            pieces, row = self._pieces(window, first, last)
            to = (row - first) * self.length + pieces["offset"]
            order = np.argsort(pieces["start"])
            _copy(
                self.stream, pieces["start"][order].astype(np.int64), pieces["tokens"][order], to[order], out
            )
        return rows

    def provenance(
        self, first: int, last: int, piece_bytes: np.ndarray | None, prefix_bytes: int
    ) -> Iterator[pa.RecordBatch]:
        """Batches of token_stream.PROVENANCE_SCHEMA for rows [first, last), in order; `sample` is the row's number."""
        if self.pad_id is None:
            start, stop = self._range(first, last)
            yield from token_stream.pieces(
                self.stream, start, stop, self.length, piece_bytes, prefix_bytes, self.begin
            )
            return
        for window in self._windows(first, last):
            pieces, row = self._pieces(window, first, last)
            documents, spans = self._traced(window, pieces, piece_bytes, prefix_bytes)
            yield token_stream.provenance(row, pieces["offset"], pieces["tokens"], documents, spans)

    def rows_of(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Ranges (first, last) of rows that hold tokens of the stream's [start, stop): of one document, say.

        They ascend, and none touches the next.
        """
        if self.pad_id is None:
            a, b = max(start - self.begin, 0), min(stop - self.begin, self.n_rows * self.length)
            if a < b:
                yield a // self.length, (b - 1) // self.length + 1
            return
        low = int(np.searchsorted(self.windows["end"], start, side="right"))
        high = int(np.searchsorted(self.windows["begin"], stop, side="left"))
        last = -1
        begun = 0
        for window in self.windows[low:high]:
            pieces, row = self._pieces(window, 0, self.n_rows)
            begins = pieces["start"].astype(np.int64)
            for r in np.unique(row[(begins < stop) & (begins + pieces["tokens"] > start)]).tolist():
                if r != last:
                    if last > 0:
                        yield begun, last
                    begun = r
                last = r + 1
        if last > 0:
            yield begun, last

    def start_of(self, row: int, offset: int) -> int:
        """The stream's token that the piece at a token of a row begins with."""
        if self.pad_id is None:
            return self.begin + row * self.length + offset
        (window,) = self._windows(row, row + 1)
        pieces, _ = self._pieces(window, row, row + 1)
        return int(pieces["start"][pieces["offset"] == offset][0])

    def cut_counts(self, first: int, last: int) -> tuple[int, int]:
        """(documents that begin in rows [first, last), documents whose second row is one of them); of `concat` alone.

        Summed over all rows: how many documents there are in them, and how many of these lie in more than one. A
        document that is begun before the first row begins with it.
        """
        documents = cut = 0
        for partition in self.stream.overlapping(*self._range(first, last)):
            _, begins, ends = self.stream.documents(partition)
            begins = np.maximum(begins - self.begin, 0)
            ends = np.minimum(ends - self.begin, self.n_rows * self.length)
            row, last_row = begins // self.length, (ends - 1) // self.length
            there = ends > begins
            documents += int((there & (row >= first) & (row < last)).sum())
            cut += int((there & (last_row > row) & (row + 1 >= first) & (row + 1 < last)).sum())
        return documents, cut

    def _range(self, first: int, last: int) -> tuple[int, int]:
        """Tokens of the stream that are rows [first, last) of `concat`."""
        return self.begin + first * self.length, self.begin + last * self.length

    def _windows(self, first: int, last: int) -> np.ndarray:
        """WINDOWS[n]: those with a row of [first, last)."""
        low = int(np.searchsorted(self.windows["row"] + self.windows["rows"], first, side="right"))
        high = int(np.searchsorted(self.windows["row"], last, side="left"))
        return self.windows[low : max(low, high)]

    def _pieces(self, window: np.void, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """(PIECES[n], the stream's rows they lie in, int64[n]): those of a window in rows [first, last)."""
        place = storage.join(self.plans, plan_name(int(window["number"])))
        data = storage.read_range(place, 0, int(window["pieces"]) * PIECES.itemsize)
        pieces = np.frombuffer(data, PIECES)
        row = pieces["row"].astype(np.int64) + int(window["row"])
        a, b = np.searchsorted(row, [first, last])
        return pieces[a:b], row[a:b]

    def _traced(
        self, window: np.void, pieces: np.ndarray, piece_bytes: np.ndarray | None, prefix_bytes: int
    ) -> tuple[np.ndarray, list[np.ndarray] | None]:
        """(documents, structured[pieces]; what `byte_spans` gives) of pieces of a window, in their order."""
        begin, end = int(window["begin"]), int(window["end"])
        documents = np.empty(len(pieces), self.stream.row_dtype)
        unknown = piece_bytes is None or self.stream.templated
        spans = None if unknown else [np.empty(len(pieces), np.uint64) for _ in range(2)]
        start = pieces["start"].astype(np.int64)
        for partition in self.stream.overlapping(begin, end):
            rows, begins, ends = self.stream.documents(partition)
            mine = np.flatnonzero((start >= partition.start) & (start < partition.start + partition.n_tokens))
            mine = mine[np.argsort(start[mine])]
            owner = np.searchsorted(ends, start[mine], side="right")
            documents[mine] = rows[owner]
            if spans is not None and len(mine):
                found = self._spans(begins, ends, owner, start[mine], piece_bytes, prefix_bytes)
                for span, values in zip(spans, found, strict=True):
                    span[mine] = values
        return documents, spans

    def _spans(
        self,
        begins: np.ndarray,
        ends: np.ndarray,
        owner: np.ndarray,
        start: np.ndarray,
        piece_bytes: np.ndarray | None,
        prefix_bytes: int,
    ) -> list[np.ndarray]:
        """Byte spans of some pieces (ascending); bytes are counted from each document's beginning."""
        used, at = np.unique(owner, return_inverse=True)
        which = (start - begins[owner]) // self.length
        n = np.zeros(len(used), np.int64)
        np.maximum.at(n, at, which + 1)
        before = np.cumsum(n) - n
        of = np.repeat(np.arange(len(used)), n)
        a = begins[used][of] + (np.arange(len(of)) - before[of]) * self.length
        b = np.minimum(a + self.length, ends[used][of])
        spans = token_stream.byte_spans(self.stream, begins[used], of, a, b, piece_bytes, prefix_bytes)
        assert spans is not None
        return [s[before[at] + which] for s in spans]


def plan_name(window: int) -> str:
    """The plan of a window, beside those of the same stream."""
    return f"plan-{window:08d}.bin"


def concat(stream: TokenStream, length: int, begin: int = 0, end: int | None = None) -> PackedRows:
    """All full rows of a stream, or of its tokens [begin, end)."""
    stop = stream.n_tokens if end is None else end
    return PackedRows(stream, length, (stop - begin) // length, begin)


def windowed(stream: TokenStream, length: int, pad_id: int, plans: str, windows: np.ndarray) -> PackedRows:
    """The rows that plans tell.

    plans : location of the plans of this stream
    windows : WINDOWS[n], in order; `row` is counted here.
    """
    windows = windows.copy()
    windows["row"] = np.cumsum(windows["rows"]) - windows["rows"]
    n_rows = int(windows["rows"].sum())
    padding = n_rows * length - int(windows["tokens"].sum())
    return PackedRows(stream, length, n_rows, 0, pad_id, padding, plans, windows)


def _copy(
    stream: TokenStream, start: np.ndarray, tokens: np.ndarray, to: np.ndarray, out: np.ndarray
) -> None:
    """Copy the ranges [start, start + tokens) of a stream, ascending, to `to` of a flat array."""
    stop = start + tokens
    target, size = out.data.cast("B"), out.itemsize
    for a, b, base, read in stream.near(start, stop):
        source = read.data.cast("B")
        begins, ends = (start[a:b] - base) * size, (stop[a:b] - base) * size
        for i, j, k in zip(begins.tolist(), ends.tolist(), (to[a:b] * size).tolist(), strict=True):
            target[k : k + j - i] = source[i:j]
