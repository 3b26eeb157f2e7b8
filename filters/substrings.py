"""Which windows of a text may occur somewhere else, and how are they compared without being brought together?

Exact substring dedup (Lee et al. 2022, arXiv:2107.06499) without a suffix array. A window is `length` bytes in a row
of a document's UTF-8; it is a duplicate when the same bytes begin at an earlier place. Windows are told apart by
hashes, and not one by one: the windows of a document are divided into cells, and a cell is looked at more finely only
where it has to be.

anchor  of a window, the place of its smallest `gram`: `length // 2` bytes in a row, ordered by a rolling hash, of
        equally small ones the first (winnowing: Schleimer, Wilkerson, Aiken 2003, doi 10.1145/872757.872770). Equal
        windows have their anchors at equal distance from their begin.
cell    windows that begin one after another and have the same anchor; at a finer step those of them whose anchor lies
        between ``step * j`` and ``step * (j + 1)`` bytes behind their begin.
key     hash of the bytes that all windows of a whole cell share. Equal windows lie in cells of equal keys.
extent  hash of all bytes of the cell's windows. Cells of equal extents hold the same windows.

So a cell whose key nobody else has holds no duplicate and no original of one; of cells with equal key and extent, all
windows of all but the first are duplicates; and only where a key has several extents, the first cell of each has to be
divided. At a step of 1 a cell is one window, and every question has its answer.

Equality is that of two 64-bit hashes: windows of different bytes are taken for the same with odds of 1 in 2**128, and 1
in 2**64 for cells that share a key. Time is linear in the text, whatever it is: random text has an anchor every
``(length - gram + 2) / 2`` bytes, and text of one letter, the worst there is, one a byte, for which `length` and `gram`
bytes are hashed.

Letters: b bytes of text, c cells, w = length - gram + 1 grams in a window.
"""

from typing import NamedTuple

import numpy as np
from winnow.filters.jit import OFFSETS, UTF8, njit, types
from winnow.filters.repetition import fold, load8

RESOLVED = 0xFFFFFFFF
"""In place of an anchor: every window of the cell is a duplicate."""
_SEEN_BITS = 16
_AHEAD = 1 << 12  # grams that are ordered in one go, at least
_ODD = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0xD6E8FEB86659FD93)
_KEY, _EXTENT = 0x8EBC6AF09C88C6E3, 0x589965CC75374CC3
_MULTIPLIER = 0xD1342543DE82EF95

_AT, _U64 = types.int64, types.uint64
_U64S = types.Array(types.uint64, 1, "C")
_I64S = types.Array(types.int64, 1, "C")
_KEYS = types.Array(types.uint64, 2, "C")
_CELLS = types.Array(types.uint32, 2, "C")
_READ_CELLS = types.Array(types.uint32, 2, "C", readonly=True)


def gram_of(length: int) -> int:
    """Bytes of the grams that windows of `length` bytes are anchored at (ours: half, so that a key says much)."""
    return length // 2


def anchors_per_byte(length: int) -> float:
    """How many anchors a byte of random text has; text that repeats itself in short periods has more."""
    return 2 / (length - gram_of(length) + 2)


def steps_of(length: int) -> tuple[int, int]:
    """How finely the cells of anchors are divided, first and then: into about as many as then each has windows."""
    return max(2, round((length - gram_of(length) + 1) ** 0.5)), 1


class Scratch(NamedTuple):
    """Working memory of `anchor_cells` for windows of `length` bytes, and what it has seen."""

    length: int
    incoming: np.ndarray
    """uint64[256]: what a byte adds to a rolling hash."""
    outgoing: np.ndarray
    """uint64[256]: what is left of that when the byte leaves the gram."""
    values: np.ndarray
    suffix: np.ndarray
    places: np.ndarray
    seen: np.ndarray


def scratch_for(length: int) -> Scratch:
    """Fresh working memory: 1 MiB, and 48 bytes for each gram of a window."""
    gram = gram_of(length)
    w = length - gram + 1
    incoming = np.random.default_rng(0x616E63686F72).integers(0, 1 << 64, 256, np.uint64)
    with np.errstate(over="ignore"):
        outgoing = incoming * np.uint64(pow(_MULTIPLIER, gram, 1 << 64))
    seen = np.zeros((1 << _SEEN_BITS, 2), np.uint64)
    values, suffix, places = (np.empty(n, np.uint64) for n in (4 * w + _AHEAD, w, w))
    return Scratch(length, incoming, outgoing, values, suffix, places.view(np.int64), seen)


@njit(_U64(UTF8, _AT, _AT, _U64))
def hash_span(utf8, start, stop, seed):
    """64-bit hash of ``utf8[start:stop]``, one for each seed; reads nothing beyond `stop`."""
    one, two = seed ^ _U64(stop - start), seed + _U64(_ODD[0])
    three, four = seed + _U64(_ODD[1]), seed + _U64(_ODD[2])
    at = start
    # Four chains side by side: each waits for its own multiplications only.
    while at + 32 <= stop:
        one = fold(one, load8(utf8, at))
        two = fold(two, load8(utf8, at + 8))
        three = fold(three, load8(utf8, at + 16))
        four = fold(four, load8(utf8, at + 24))
        at += 32
    while at + 8 <= stop:
        one = fold(one, load8(utf8, at))
        at += 8
    tail = _U64(0)
    for k in range(stop - at):
        tail |= _U64(utf8[at + k]) << _U64(8 * k)
    state = fold(fold(fold(fold(one, tail), two), three), four)
    return state ^ (state >> _U64(29))


@njit(_U64(UTF8, _AT, _AT, _AT, _U64, _U64S, _U64S, _U64S, _AT))
def _roll(utf8, at, gram, n, value, incoming, outgoing, values, first):
    """Put the orders of `n` grams, whose last bytes are at `at` and on, behind that of the gram before, `value`."""
    for k in range(n):
        byte, left = _U64(at + k), _U64(at + k - gram)
        value = value * _U64(_MULTIPLIER) + (incoming[utf8[byte]] - outgoing[utf8[left]])
        values[_U64(first + k)] = value
    return value


@njit(_AT(_KEYS, _CELLS, _AT, _AT, _AT, _AT))
def _add_resolved(keys, cells, n, document, start, windows):
    """Add windows that are all duplicates, if there are any; returns how many cells there are now."""
    if windows == 0:
        return n
    # They belong to no key: what leads them through an exchange has to be spread evenly, no more.
    keys[n, 0] = fold(fold(_U64(_KEY), _U64(document)), _U64(start))
    keys[n, 1] = 0
    cells[n, 0], cells[n, 1], cells[n, 2], cells[n, 3] = document, start, windows, RESOLVED
    return n + 1


@njit(
    types.UniTuple(_AT, 3)(
        UTF8, OFFSETS, _AT, _AT, _AT, _AT, _U64S, _U64S, _U64S, _U64S, _I64S, _KEYS, _KEYS, _CELLS
    )
)
def _anchor_cells(
    utf8,
    offsets,
    document,
    window,
    length,
    gram,
    incoming,
    outgoing,
    values,
    suffix,
    places,
    seen,
    keys,
    cells,
):
    """Cells from a window of a document on; ``(document, window, cells)``: where to go on when `cells` is full.

    The smallest gram of a window is found among those up to the end of a block of w grams, of which `suffix` and
    `places` hold the smallest from each on, and those behind it.
    """
    w = length - gram + 1
    n, room, n_documents = 0, len(cells), len(offsets) - 1
    while document < n_documents:
        begin, windows = offsets[document], offsets[document + 1] - offsets[document] - length + 1
        value = _U64(0)
        if window < windows:
            for k in range(gram):
                value = value * _U64(_MULTIPLIER) + incoming[utf8[begin + window + k]]
        # values[g - base] is the order of gram g, for g below `rolled`.
        base, rolled = window, window + 1
        values[0] = value
        best, head, head_at, block = _U64(0), ~_U64(0), window, window
        start, anchor = window, _AT(-1)
        resolved_start, resolved = window, 0
        at = window
        while True:
            if at < windows and at + w > rolled:
                for k in range(rolled - at):
                    values[k] = values[at - base + k]
                base = at
                more = min(len(values) - (rolled - base), windows + w - 1 - rolled)
                last = begin + rolled + gram - 1
                value = _roll(utf8, last, gram, more, value, incoming, outgoing, values, rolled - base)
                rolled += more
            # Behind the block nothing is as small as `head`, and `best` is no larger: one comparison for both.
            calm = min(windows, anchor + 1, rolled - w + 1)
            while at < calm and values[_U64(at + w - 1 - base)] >= head:
                at += 1
            if at < windows and at + w > rolled:
                continue
            if at < windows and values[at + w - 1 - base] < head:
                head, head_at = values[at + w - 1 - base], at + w - 1
                if head >= best and anchor >= at:
                    at += 1
                    continue
            if anchor >= 0:
                if n + 2 > room:
                    return document, start, _add_resolved(keys, cells, n, document, resolved_start, resolved)
                key = hash_span(utf8, begin + anchor, begin + anchor + gram, _U64(_KEY))
                extent = hash_span(utf8, begin + start, begin + at - 1 + length, _U64(_EXTENT))
                slot = key & _U64(len(seen) - 1)
                if seen[slot, 0] == key and seen[slot, 1] == extent:
                    if resolved_start + resolved != start:
                        n = _add_resolved(keys, cells, n, document, resolved_start, resolved)
                        resolved_start, resolved = start, 0
                    resolved += at - start
                else:
                    seen[slot, 0], seen[slot, 1] = key, extent
                    keys[n, 0], keys[n, 1] = key, extent
                    cells[n, 0], cells[n, 1], cells[n, 2], cells[n, 3] = document, start, at - start, anchor
                    n += 1
            start = at
            if at >= windows:
                break
            if anchor < at and at >= block:
                block, head = at + w, ~_U64(0)
                best, anchor = ~_U64(0), at
                for k in range(w - 1, -1, -1):
                    order = values[_U64(at - base + k)]
                    if order <= best:
                        best, anchor = order, at + k
                    suffix[_U64(k)], places[_U64(k)] = best, anchor
            else:
                if anchor < at:
                    best, anchor = suffix[at - block + w], places[at - block + w]
                if head < best:
                    best, anchor = head, head_at
            at += 1
        n = _add_resolved(keys, cells, n, document, resolved_start, resolved)
        document, window = document + 1, 0
    return document, window, n


def anchor_cells(
    offsets: np.ndarray,
    utf8: np.ndarray,
    document: int,
    window: int,
    scratch: Scratch,
    keys: np.ndarray,
    cells: np.ndarray,
) -> tuple[int, int, int]:
    """Fill in cells of the documents, beginning at a window of one of them; documents have to come in order.

    A cell that the scratch has seen before is `RESOLVED`, and such cells in a row are one. The scratch forgets: that a
    cell is not resolved means nothing.

    Parameters
    ----------
    offsets, utf8
        From `text_buffers`.
    keys : uint64[c, 2]
        Gets key and extent of each cell.
    cells : uint32[c, 4]
        Gets each cell's document, its first window, how many it has, and their anchor. c is at least 2.

    Returns
    -------
    (document, window, cells)
        Where to go on, the document being ``len(offsets) - 1`` when all is done, and how many cells there are.
    """
    return _anchor_cells(
        utf8, offsets, document, window, scratch.length, gram_of(scratch.length), *scratch[1:], keys, cells,
    )  # fmt: skip


@njit(_AT(UTF8, OFFSETS, _READ_CELLS, _AT, _AT, _KEYS, _CELLS))
def _divided(utf8, offsets, given, length, step, keys, cells):
    n = 0
    for i in range(len(given)):
        document, start, windows, anchor = given[i]
        begin = offsets[document]
        at, end = _AT(start), _AT(start) + _AT(windows)
        while at < end:
            row = (_AT(anchor) - at) // step  # cells of `step` distances from the anchor, counted from it
            stop = min(end, _AT(anchor) - row * step + 1)
            # Shared by all windows of the whole cell, of which this text may have a part.
            core = begin + _AT(anchor) - row * step
            keys[n, 0] = fold(hash_span(utf8, core, core - step + 1 + length, _U64(_KEY)), _U64(row))
            keys[n, 1] = hash_span(utf8, begin + at, begin + stop - 1 + length, _U64(_EXTENT))
            cells[n, 0], cells[n, 1], cells[n, 2], cells[n, 3] = document, at, stop - at, anchor
            n += 1
            at = stop
    return n


def divided_most(windows: np.ndarray, step: int) -> np.ndarray:
    """int64[c]: cells that `divided` makes of cells with so many windows, at most."""
    return (windows.astype(np.int64) + step - 2) // step + 1


def divided(
    offsets: np.ndarray, utf8: np.ndarray, given: np.ndarray, length: int, step: int
) -> tuple[np.ndarray, np.ndarray]:
    """``(keys, cells)`` as `anchor_cells` gives them, of `given` cells (uint32[c, 4]) divided to `step` windows each.

    Memory: 32 bytes for each of `divided_most`.
    """
    most = int(divided_most(given[:, 2], step).sum())
    keys, cells = np.empty((most, 2), np.uint64), np.empty((most, 4), np.uint32)
    n = _divided(utf8, offsets, np.ascontiguousarray(given), length, step, keys, cells)
    return keys[:n], cells[:n]


class Judge:
    """Tells duplicate and open cells, which come in blocks, sorted by key, extent, and place; it remembers one key.

    The first cell of a key is not judged before the next extent of that key, or the next key, has come.
    """

    def __init__(self) -> None:
        self._last: tuple[int, int] | None = None
        self._extents = 0

    def block(self, key: np.ndarray, extent: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
        """``(duplicates, open, before)`` of the next c > 0 cells, none of them `RESOLVED`.

        key, extent : uint64[c].
        duplicates, open : bool[c]; open is False for a cell that is not judged yet.
        before : whether the first cell of the key that the last block ended in is open after all.
        """
        new_key, first = np.ones(len(key), bool), np.ones(len(key), bool)
        new_key[1:] = key[1:] != key[:-1]
        first[1:] = new_key[1:] | (extent[1:] != extent[:-1])
        goes_on = self._last is not None and self._last[0] == key[0]
        if goes_on and self._last is not None:
            first[0] = self._last[1] != extent[0]
        starts = np.flatnonzero(new_key)
        extents = np.add.reduceat(first, starts, dtype=np.int64)
        known, extents[0] = self._extents, extents[0] + (self._extents if goes_on else 0)
        several = np.repeat(extents > 1, np.diff(np.append(starts, len(key))))
        before = bool(goes_on and known == 1 and extents[0] > 1)
        self._last, self._extents = (int(key[-1]), int(extent[-1])), int(extents[-1])
        return ~first, first & several, before


class Spans(NamedTuple):
    """Stretches of text, ascending and apart."""

    documents: np.ndarray
    starts: np.ndarray
    """int64, a byte of the document."""
    stops: np.ndarray


def spans_of(
    offsets: np.ndarray,
    utf8: np.ndarray,
    documents: np.ndarray,
    starts: np.ndarray,
    windows: np.ndarray,
    length: int,
) -> Spans:
    """The union of duplicate windows, drawn in to the borders of characters.

    documents, starts, windows : integer[c], cells of duplicate windows, ascending by document and window.
    """
    stops = starts.astype(np.int64) + windows + (length - 1)
    apart = np.ones(len(starts) + 1, bool)
    apart[1:-1] = (documents[1:] != documents[:-1]) | (starts[1:] > stops[:-1])
    documents, starts = documents[apart[:-1]], starts[apart[:-1]].astype(np.int64)
    stops = stops[apart[1:]]
    begins, sizes = offsets[documents], offsets[documents + 1] - offsets[documents]
    for _ in range(3):  # as many bytes as a character has beside its first
        starts += _goes_on(utf8, begins + starts)
        inside = stops < sizes
        stops[inside] -= _goes_on(utf8, (begins + stops)[inside])
    return Spans(documents, starts, stops)


def _goes_on(utf8: np.ndarray, at: np.ndarray) -> np.ndarray:
    """int64[n]: 1 where a byte belongs to the character before it."""
    return ((utf8[at] & 0xC0) == 0x80).astype(np.int64)
