"""Which piece of which document lies where in which row?

Two ways to fill rows of `length` tokens with documents, where a document is a range of a stream of tokens:

padded    every document begins a row, a longer one fills several.
best_fit  a document longer than a row is cut into full rows and a remainder; remainders and shorter documents, the
          longest first, go into the row with the least room left that still holds them, whole. No other way of packing
          cuts fewer documents. Ding et al. 2024, "Fewer Truncations Improve Language Modeling" (arXiv:2404.10830).

Both cut a document every `length` tokens from its beginning, so that nothing but its length decides where. (The third
way, `concat`, cuts the stream itself and needs no plan.)

Letters: d documents, p pieces. Memory: some 100 bytes for each document and piece.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

BLOCK_BITS = 10
"""Of a room's number, which say where in a block of the bitmap its bit is: numbers of 1,024 bits are quick to search,
and rows of a million tokens have a thousand of them."""


class Rows(NamedTuple):
    """The row of every piece, in the order of the stream."""

    row: np.ndarray
    """int64[p]."""
    start: np.ndarray
    """int64[p]: token of the stream that the piece begins at."""
    tokens: np.ndarray
    """int64[p]: 1 to `length`."""
    n_rows: int


class Plan(NamedTuple):
    """Where pieces lie; sorted by row and, in a row, by the place in the stream. Fields as in `Rows`."""

    row: np.ndarray
    offset: np.ndarray
    """int64[p]: token of the row that the piece begins at. What no piece covers is at a row's end, and is padding."""
    start: np.ndarray
    tokens: np.ndarray
    n_rows: int


def padded(begins: np.ndarray, ends: np.ndarray, length: int) -> Rows:
    """Every document in rows of its own, in the order of the stream.

    begins, ends : int64[d], in order; documents of no tokens are left out.
    """
    start, tokens = pieces(begins, ends, length)
    return Rows(np.arange(len(start)), start, tokens, len(start))


def best_fit(begins: np.ndarray, ends: np.ndarray, length: int) -> Rows:
    """Documents whole in rows as far as they can be.

    begins, ends : int64[d], in order; documents of no tokens are left out.

    Rows come in the order they were begun in: full ones first, then long documents before short ones. `reordered`
    takes that out.
    """
    start, tokens = pieces(begins, ends, length)
    is_full = tokens == length
    n_full = int(np.count_nonzero(is_full))
    row = np.empty(len(start), np.int64)
    row[is_full] = np.arange(n_full)
    bins, n_bins = best_fit_bins(tokens[~is_full], length)
    row[~is_full] = bins + n_full
    return Rows(row, start, tokens, n_full + n_bins)


def reordered(rows: Rows, keys: np.ndarray) -> Rows:
    """The same rows, sorted by `keys` (uint64[n_rows]); equal keys keep their order."""
    place = np.empty(rows.n_rows, np.int64)
    place[np.argsort(keys, kind="stable")] = np.arange(rows.n_rows)
    return rows._replace(row=place[rows.row])


def lay(rows: Rows) -> Plan:
    """Put the pieces of each row one after another, in the order of the stream."""
    order = _order(rows.row)
    row, start, tokens = rows.row[order], rows.start[order], rows.tokens[order]
    before = np.cumsum(tokens) - tokens
    is_first = np.diff(row, prepend=-1) > 0
    return Plan(row, before - before[is_first][np.cumsum(is_first) - 1], start, tokens, rows.n_rows)


def pieces(begins: np.ndarray, ends: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """(start, tokens) of the pieces of documents, int64[p] each: full ones, and what remains of each document."""
    sizes = (ends - begins).astype(np.int64)
    n = -(-sizes // length)
    before = np.repeat(np.cumsum(n) - n, n)
    within = (np.arange(len(before)) - before) * length
    start = np.repeat(begins.astype(np.int64), n) + within
    return start, np.minimum(np.repeat(sizes, n) - within, length)


def best_fit_bins(sizes: np.ndarray, length: int) -> tuple[np.ndarray, int]:
    """(bin of every item, number of bins) of best-fit decreasing.

    sizes : int[n], each 1 to `length`.

    Returns int64[n]. Equal items come in their order; among bins with equal room, those that came to have it last are
    filled first. Time: items of one size that meet bins of one room are placed together, so a step of Python, about a
    microsecond, places one item at worst, and thousands where sizes repeat.
    """
    order = _order(length - sizes)
    counts = np.bincount(sizes, minlength=1)
    rooms = _Rooms(length)
    # What was done, in order: bins [first, first + n) took `each` items.
    first, n_bins, each = [], [], []
    used = 0
    for size in np.flatnonzero(counts)[::-1].tolist():
        left = int(counts[size])
        while left:
            room = rooms.tightest(size)
            most = (room or length) // size
            wanted = -(-left // most)
            if room:
                begin, n = rooms.take(room, wanted)
            else:
                begin, n, room = used, wanted, length
                used += wanted
            # Best fit goes back to the bin it has just used until the item does not fit any more.
            whole = n if n * most <= left else n - 1
            if whole:
                first.append(begin)
                n_bins.append(whole)
                each.append(most)
                rooms.add(room - most * size, begin, whole)
                left -= whole * most
            if whole < n:
                first.append(begin + whole)
                n_bins.append(1)
                each.append(left)
                rooms.add(room - left * size, begin + whole, 1)
                left = 0
    per_bin = np.array(each, np.int64)
    items = np.array(n_bins, np.int64) * per_bin
    within = np.arange(len(sizes)) - np.repeat(np.cumsum(items) - items, items)
    bins = np.empty(len(sizes), np.int64)
    bins[order] = np.repeat(np.array(first, np.int64), items) + within // np.repeat(per_bin, items)
    return bins, used


class _Rooms:
    """Bins that are not full, by the room they have left."""

    def __init__(self, length: int) -> None:
        self.bins: dict[int, list[tuple[int, int]]] = {}
        """Ranges (first, number of bins) by room."""
        self.blocks = [0] * ((length >> BLOCK_BITS) + 1)
        """A bit for each room that some bin has."""
        self.used = 0
        """A bit for each block that is not 0."""

    def add(self, room: int, first: int, n: int) -> None:
        if not room:
            return
        if ranges := self.bins.get(room):
            ranges.append((first, n))
            return
        self.bins[room] = [(first, n)]
        block = room >> BLOCK_BITS
        self.blocks[block] |= 1 << (room & ((1 << BLOCK_BITS) - 1))
        self.used |= 1 << block

    def tightest(self, size: int) -> int:
        """The least room that holds `size`; 0 where no bin has it."""
        block = size >> BLOCK_BITS
        if fits := self.blocks[block] >> (size & ((1 << BLOCK_BITS) - 1)):
            return size + (fits & -fits).bit_length() - 1
        above = self.used >> (block + 1)
        if not above:
            return 0
        block += (above & -above).bit_length()
        fits = self.blocks[block]
        return (block << BLOCK_BITS) + (fits & -fits).bit_length() - 1

    def take(self, room: int, wanted: int) -> tuple[int, int]:
        """(first, number) of at most `wanted` bins with this room."""
        ranges = self.bins[room]
        first, n = ranges.pop()
        if n > wanted:
            ranges.append((first + wanted, n - wanted))
            return first, wanted
        if not ranges:
            del self.bins[room]
            block = room >> BLOCK_BITS
            self.blocks[block] ^= 1 << (room & ((1 << BLOCK_BITS) - 1))
            if not self.blocks[block]:
                self.used ^= 1 << block
        return first, n


def _order(keys: np.ndarray) -> np.ndarray:
    """int64[n]: what `argsort(keys, kind="stable")` gives of keys from 0 up, in a fifth of the time."""
    bits = max(len(keys) - 1, 1).bit_length()
    packed = keys.astype(np.uint64) << np.uint64(bits)
    packed |= np.arange(len(keys), dtype=np.uint64)
    packed.sort()
    return (packed & np.uint64((1 << bits) - 1)).astype(np.int64)
