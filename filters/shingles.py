"""Which shingles has a document: its n-grams of words, or of characters, as 32-bit hashes.

word       what lower_words.py reads: a run of characters that ``\\w`` accepts, lower-cased.
character  with ``unit: chars``, a character of those words joined by single spaces.
shingle    `ngram` words, or characters, in a row: the upper half of a polynomial over their 64-bit hashes, mixed.

A document with fewer words (characters) than `ngram` but at least one has `SHORT` shingles, made from all of them and
their number; one without has `SHORT` made from its bytes. So no document is without shingles, and two such documents
share all of theirs only if they are the same, word for word or byte for byte, or two 64-bit hashes meet.

Memory: 4 bytes a shingle, of which a byte of text makes half a one at most (one with ``unit: chars``), and 60 kB.

Letters: n documents, b bytes of text, s shingles.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from winnow.filters.jit import OFFSETS, UTF8, njit, text_buffers, types
from winnow.filters.lower_words import (
    BLOCK,
    BLOCK_UNITS,
    CHARS,
    OUTSIDE,
    block_arrays,
    read_chars,
    read_words,
    word_chars,
)
from winnow.filters.minhash_settings import MinHash
from winnow.filters.repetition import fold, hash_bytes

SHORT = 4
"""Shingles of a document that is shorter than one shingle."""
MOST_SHINGLES = BLOCK_UNITS
"""Shingles of one stretch of text (`next_shingles`) at most."""

_AT, _U64, _U32 = types.int64, types.uint64, types.uint32
HASHES32 = types.Array(types.uint32, 1, "C")
"""uint32[...]: shingles."""
_ENDS = types.Array(types.int64, 1, "C")

_BASE, _FINISH = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93
_SALT_SHORT, _SALT_BARE = 0x632BE59BD9B4E019, 0xE220A8397B1DCDAF


@njit(types.void(BLOCK, _AT, _AT, HASHES32, _AT))
def _mix(block, s, ngram, values, into):
    """Write the first `s` shingles of the block's hashes into `values`, from `into` on."""
    _, _, hashes, grams = block
    for k in range(s):
        grams[k] = hashes[k]
    for j in range(1, ngram):
        for k in range(s):
            grams[k] = grams[k] * _U64(_BASE) + hashes[k + j]
    for k in range(s):
        values[_U64(into) + _U64(k)] = _U32(((grams[k] ^ (grams[k] >> _U64(32))) * _U64(_FINISH)) >> _U64(32))


@njit(types.void(_U64, HASHES32, _AT))
def _spread(state, values, into):
    """Write the `SHORT` shingles that stand for a whole document."""
    for k in range(SHORT):
        values[into + k] = _U32(fold(state, _U64(k)) >> _U64(32))


@njit(types.UniTuple(_AT, 5)(UTF8, types.UniTuple(_AT, 6), _AT, _AT, CHARS, BLOCK, HASHES32, _AT))
def next_shingles(utf8, document, ngram, by_chars, chars, block, values, into):
    """Write the shingles of the next stretch of a document: ``(shingles, at, held, units, place)``.

    A stretch has at most `MOST_SHINGLES`. The document is at its end when `at` is.

    Parameters
    ----------
    utf8 : uint8[b]
        Valid UTF-8, not checked here: the reader has. Of other bytes up to three past the end may be read.
    document : int
        ``(begin, end, at, held, units, place)``: where the document's bytes are, and where the stretch before has left
        off; ``(begin, end, begin, 0, 0, 0)`` at first.
    ngram, by_chars : int
        `by_chars` is 1 for shingles of characters.
    chars : uint32[2**21]
        From `word_chars`.
    block
        From `block_arrays`; holds the last units of the stretch before.
    values : uint32[>= into + MOST_SHINGLES]
    into : int
    """
    begin, end, at, held, units, place = document
    _, _, hashes, _ = block
    if by_chars:
        got, at, place = read_chars(utf8, at, end, chars, hashes, held, place)
    else:
        got, at = read_words(utf8, at, end, chars, block, held)
    held += got
    units += got
    s = max(0, held - ngram + 1)
    if s:
        _mix(block, s, ngram, values, into)
        held = ngram - 1
        for k in range(held):
            hashes[k] = hashes[k + s]
    if at >= end and units < ngram:
        s = SHORT
        state = _U64(_SALT_SHORT)
        for k in range(held):
            state = fold(state, hashes[k])
        if not units:
            state = fold(_U64(_SALT_BARE), hash_bytes(utf8, begin, end))
        _spread(fold(state, _U64(units)), values, into)
    return s, at, held, units, place


@njit(_AT(OFFSETS, UTF8, _AT, _AT, CHARS, BLOCK, HASHES32, _ENDS))
def _all_shingles(offsets, utf8, ngram, by_chars, chars, block, values, ends):
    """Fill `values` and `ends`; returns how many shingles there are."""
    total = 0
    for i in range(len(offsets) - 1):
        begin, end = offsets[i], offsets[i + 1]
        at, held, units, place = begin, 0, 0, OUTSIDE
        while True:
            document = begin, end, at, held, units, place
            s, at, held, units, place = next_shingles(
                utf8, document, ngram, by_chars, chars, block, values, total
            )
            total += s
            if at >= end:
                break
        ends[i] = total
    return total


def shingles(texts: pa.LargeStringArray, settings: MinHash) -> tuple[np.ndarray, np.ndarray]:
    """``(values, ends)`` uint32[s] and int64[n]: document i has ``values[ends[i - 1]:ends[i]]``, in their order.

    Every document has one at least. A shingle that it says again is there again.

    Raises
    ------
    TypeError, ValueError
        `texts` is not a LargeStringArray, or has nulls.
    """
    offsets, utf8 = text_buffers(texts)
    by_chars = int(settings.unit == "chars")
    text_bytes = int(offsets[-1] - offsets[0])
    # Words lie a byte apart at least. What is not written to costs no memory.
    most = (text_bytes if by_chars else text_bytes // 2) + (SHORT + 1) * len(texts)
    values, ends = np.empty(most, np.uint32), np.empty(len(texts), np.int64)
    total = _all_shingles(offsets, utf8, settings.ngram, by_chars, word_chars(), block_arrays(), values, ends)
    values.resize(total, refcheck=False)
    return values, ends


@njit(_AT(HASHES32, _ENDS))
def _drop_repeats(values, ends):
    """Close up sorted documents over what they say again; `ends` follow. Returns how many values are left."""
    left = start = 0
    for i in range(len(ends)):
        stop = ends[i]
        first = left
        for k in range(start, stop):
            value = values[k]
            again = left > first and values[left - 1] == value
            values[left] = value
            left += not again
        ends[i] = left
        start = stop
    return left


def shingle_sets(texts: pa.LargeStringArray, settings: MinHash) -> tuple[np.ndarray, np.ndarray]:
    """`shingles` as sets: each document's are ascending, and distinct."""
    values, ends = shingles(texts, settings)
    start = 0
    for stop in ends.tolist():
        values[start:stop].sort()
        start = stop
    values.resize(_drop_repeats(values, ends), refcheck=False)
    return values, ends
