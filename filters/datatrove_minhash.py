"""Which MinHash signature does a text have where datatrove's clusters are to be found again?

That of datatrove 0.9.0's MinhashDedupSignature for English, with its default 64-bit xxHash: the text is simplified
(datatrove_text.py) and cut into spaCy's words (english.py); a shingle is `ngram` words in a row, joined by single
spaces, and its hash x the XXH64 of its bytes with seed 0; slot k of the signature is the least of

    (a_k * x + b_k mod 2^64) mod (2^61 - 1)

over the shingles. a and b are drawn as datatrove draws them. The product wraps before the modulus is taken, so this
is not the hash family of prime modulus that it looks like; it has to be so for signatures to be equal. A text with
fewer words than a shingle has no signature, and is nobody's duplicate.

XXH64 is written from its specification (Collet, xxHash fast digest algorithm).

Letters: n documents, b bytes of text, m words that there is room for, s slots.
"""

from functools import cache

import numpy as np
import pyarrow as pa
from winnow.filters.datatrove_text import PAD, simplified
from winnow.filters.datatrove_words import SPECIALS, specials, words_of_simplified
from winnow.filters.english import MARKS, RULES, WORDS, load, most_words, scratch
from winnow.filters.jit import OFFSETS, UTF8, njit, types
from winnow.filters.repetition import load8

_AT, _U64 = types.int64, types.uint64
_U64S = types.Array(types.uint64, 1, "C")
_ROWS = types.Array(types.uint64, 2, "C")
_FLAGS = types.Array(types.boolean, 1, "C")
_BYTES = types.Array(types.uint8, 1, "C")

_PRIME = (1 << 61) - 1
_P1, _P2, _P3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
_P4, _P5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
_BLANK = ord(" ")

_BLOCK = 2048
"""Shingles whose hashes are held at a time: they stay in the innermost cache while all slots go over them."""
_GROUP = 32
"""Hashes are filled up to a multiple of this with copies of the last, which change no minimum: vectors stay whole."""


@njit(_U64(_U64, _AT))
def _rotated(value, bits):
    return value << _U64(bits) | value >> _U64(64 - bits)


@njit(_U64(_U64, _U64))
def _round(lane, value):
    return _rotated(lane + value * _U64(_P2), 31) * _U64(_P1)


@njit(_U64(_U64, _U64))
def _merge(key, lane):
    return (key ^ _round(_U64(0), lane)) * _U64(_P1) + _U64(_P4)


@njit(_U64(_U64, _U64, types.boolean))
def _replaced(key, new, condition):
    """`new` where the condition holds, else `key`: sizes are as good as random, and a branch would be mispredicted."""
    return key ^ ((key ^ new) & (_U64(0) - _U64(condition)))


@njit(_U64(UTF8, _AT, _AT))
def xxh64(utf8, at, stop):
    """XXH64 with seed 0 of the bytes from `at` to `stop`, behind which 32 more must be readable."""
    key = _U64(_P5)
    size = stop - at
    if size >= 32:
        v1, v2 = _U64(_P1) + _U64(_P2), _U64(_P2)
        v3, v4 = _U64(0), _U64(0) - _U64(_P1)
        while at + 32 <= stop:
            v1 = _round(v1, load8(utf8, at))
            v2 = _round(v2, load8(utf8, at + 8))
            v3 = _round(v3, load8(utf8, at + 16))
            v4 = _round(v4, load8(utf8, at + 24))
            at += 32
        key = _rotated(v1, 1) + _rotated(v2, 7) + _rotated(v3, 12) + _rotated(v4, 18)
        key = _merge(_merge(_merge(_merge(key, v1), v2), v3), v4)
    key += _U64(size)
    for k in range(3):
        new = _rotated(key ^ _round(_U64(0), load8(utf8, at + 8 * k)), 27) * _U64(_P1) + _U64(_P4)
        key = _replaced(key, new, at + 8 * k + 8 <= stop)
    rest, left = load8(utf8, at + (size & 24)), size & 7
    new = _rotated(key ^ (rest & _U64(0xFFFFFFFF)) * _U64(_P1), 23) * _U64(_P2) + _U64(_P3)
    key = _replaced(key, new, left >= 4)
    rest >>= _U64(8 * (left & 4))
    for k in range(3):
        new = _rotated(key ^ (rest >> _U64(8 * k) & _U64(0xFF)) * _U64(_P5), 11) * _U64(_P1)
        key = _replaced(key, new, k < left & 3)
    key = (key ^ key >> _U64(33)) * _U64(_P2)
    key = (key ^ key >> _U64(29)) * _U64(_P3)
    return key ^ key >> _U64(32)


@njit(_AT(UTF8, WORDS, _AT, _AT, _BYTES))
def _join(utf8, words, first, last, joined):
    """Write the words from `first` to `last` with a single space between each two; how many bytes that is."""
    filled = 0
    for word in range(first, last + 1):
        if filled:
            joined[filled] = _BLANK
            filled += 1
        for at in range(words.starts[word], words.stops[word]):
            joined[filled] = utf8[at]
            filled += 1
    return filled


@njit(types.void(UTF8, WORDS, _AT, _AT, _AT, _BYTES, _U64S))
def _hash_shingles(utf8, words, first, count, ngram, joined, hashes):
    """Fill `hashes` with those of the `count` shingles that open with the words from `first` on.

    Most are hashed where they lie in the text; one is written down where words follow without a space, or with two.
    """
    apart = first  # the first word that is not followed by a single space and a word
    for k in range(count):
        word = first + k
        last = word + ngram - 1
        apart = max(apart, word)
        while apart < last and words.starts[apart + 1] == words.stops[apart] + 1:
            apart += 1
        if apart == last:
            hashes[k] = xxh64(utf8, words.starts[word], words.stops[last])
        else:
            hashes[k] = xxh64(joined, 0, _join(utf8, words, word, last, joined))


@njit(types.void(_U64S, _AT, _U64S, _U64S, _ROWS, _AT))
def _take_least(hashes, count, a, b, rows, row):
    """Lower each slot of a row to the least that `count` hashes give there."""
    for slot in range(len(a)):
        times, plus, least = a[slot], b[slot], rows[row, slot]
        for k in range(count):
            value = hashes[k] * times + plus
            value = (value & _U64(_PRIME)) + (value >> _U64(61))
            # At most 6 too large; subtracted from a smaller one, the modulus wraps round and loses.
            least = min(least, min(value, value - _U64(_PRIME)))
        rows[row, slot] = least


_PARAMETERS = types.Tuple((_AT, _U64S, _U64S))
_SCRATCH = types.Tuple((_BYTES, _U64S))


@njit(_AT(OFFSETS, UTF8, RULES, SPECIALS, WORDS, MARKS, _SCRATCH, _PARAMETERS, _AT, _ROWS, _FLAGS))
def _sign(offsets, utf8, rules, specials, words, marks, space, parameters, done, rows, signed):
    """Fill `rows` and `signed` of documents from `done` on; the first without room for its words, or n."""
    joined, hashes = space
    ngram, a, b = parameters
    for i in range(done, len(offsets) - 1):
        n = words_of_simplified(utf8, offsets[i], offsets[i + 1], rules, specials, words, marks)
        if n < 0:
            return i
        shingles = n - ngram + 1
        signed[i] = shingles > 0
        for slot in range(len(a)):
            rows[i, slot] = ~_U64(0)
        if shingles <= 0:
            continue
        for first in range(0, shingles, _BLOCK):
            count = min(_BLOCK, shingles - first)
            _hash_shingles(utf8, words, first, count, ngram, joined, hashes)
            while count % _GROUP:
                hashes[count] = hashes[count - 1]
                count += 1
            _take_least(hashes, count, a, b, rows, i)
    return len(offsets) - 1


@cache
def parameters(slots: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """``(a, b)``, uint64[s] both: a from 1, b from 0, below 2^61 - 1, from one generator, all of a first."""
    generator = np.random.RandomState(seed)
    a = generator.randint(1, _PRIME, dtype=np.uint64, size=slots)
    b = generator.randint(0, _PRIME, dtype=np.uint64, size=slots)
    return a, b


def signatures(
    texts: pa.LargeStringArray, *, ngram: int = 5, slots: int = 112, seed: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """``(signatures, signed)`` of n texts: uint64[n, s] and bool[n].

    Where `signed` is False the text has fewer than `ngram` words, and its row is all 2^64 - 1, which no slot of a
    signature can be. `texts` may be a slice.

    Memory: 8 bytes for each slot and document; the simplified texts, as many bytes as the texts; of the document
    with most bytes those bytes once more, and about 34 for each of its words. 17 MB of rules and tables once per
    process.

    Raises
    ------
    ModuleNotFoundError, RuntimeError
        There is no datatrove or spaCy, or a spaCy whose rules are not known.
    TypeError, ValueError
        As `text_buffers` does; ValueError also where `ngram` or `slots` is below 1.
    """
    if ngram < 1 or slots < 1:
        raise ValueError(f"a signature needs words and slots, not ngram {ngram} and slots {slots}")
    offsets, utf8 = simplified(texts)
    rows, signed = np.empty((len(texts), slots), np.uint64), np.empty(len(texts), bool)
    longest, done, m = int(np.diff(offsets).max(initial=0)), 0, most_words(offsets)
    hashes = np.empty(_BLOCK, np.uint64)
    while True:
        space = np.empty(longest + ngram + PAD, np.uint8), hashes
        of_slots = (ngram, *parameters(slots, seed))
        done = _sign(offsets, utf8, load(), specials(), *scratch(m), space, of_slots, done, rows, signed)
        if done == len(texts):
            return rows, signed
        m *= 2


@njit(types.void(_ROWS, _AT, _AT, _ROWS))
def _mix_bands(rows, bands, width, keys):
    for i in range(len(rows)):
        for band in range(bands):
            key = _U64(band + 1) * _U64(_P5)
            for slot in range(band * width, (band + 1) * width):
                key = (key ^ rows[i, slot]) * _U64(_P1)
                key = (key ^ key >> _U64(32)) * _U64(_P2)
                key ^= key >> _U64(29)
            keys[i, band] = key


def band_keys(signatures: np.ndarray, bands: int = 14, rows: int = 8) -> np.ndarray:
    """A key for each band of each signature, uint64[n, bands]; equal where band and slots are.

    datatrove compares the slots themselves. Two bands that differ get one key with odds of 1 in 2^64. Rows of texts
    that have no signature get keys too, equal ones: leave them out.

    Raises
    ------
    ValueError
        The signatures do not have bands * rows slots.
    """
    n, slots = signatures.shape
    if bands < 1 or rows < 1 or slots != bands * rows:
        raise ValueError(f"{slots} slots are not {bands} bands of {rows}")
    keys = np.empty((n, bands), np.uint64)
    _mix_bands(np.ascontiguousarray(signatures, np.uint64), bands, rows, keys)
    return keys
