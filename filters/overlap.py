"""Which n-grams of words does a text share with a set of them?

Serves decontamination: an index holds the n-grams of benchmarks as sorted 64-bit hashes (benchmark_index.py), and
every n-gram of every document is looked up in it.

word     a run of characters that ``str.isalnum`` accepts, or "_", as Python's ``\\w+`` finds them in the text after
         Unicode's decomposition (NFD), with nonspacing marks (category Mn) taken out and letters lower-cased. This
         is Cosmopedia's rule. "don't" is two words; in scripts that are written without spaces a run of
         characters is one. One departure: "ς" is "σ", so that whether it ends a word does not matter.
n-gram   n words in a row, whatever is between them. A *short* one is the whole of an item that has fewer words.

A document's n-grams are hashed as it is read, in constant time each: the hash of all words so far is a polynomial of
their hashes (modulo 2**64), and that of the last n is a difference of two. To look each of them up would mean to wait
for memory at every word, for millions of n-grams are more than a core's cache holds. So a few *probes* stand for them:
m words in a row of an item, every so many words that each of its n-grams holds one. The last m words of a document
are looked for among the probes, in a Bloom filter that fits the cache; only near one that is there are n-grams
looked up themselves.

Identity is that of 64-bit hashes: with five million n-grams in the index, one in 3.7 * 10**12 others is taken for one
of them.

Letters: n documents, b bytes of text, g n-grams in the index, h hits.
"""

import unicodedata
from functools import cache

import numpy as np
from winnow.filters.characters import decode
from winnow.filters.jit import OFFSETS, UTF8, njit, types
from winnow.filters.repetition import load8

LONGEST = 64
"""Words of an n-gram at most."""
BREAK, SKIP, LAST = 0, 0xFFFFFFFF, 1 << 31
"""What the table of folds says of a character that is in no word, and of one that is as if it were not there; and a
bit of those that end their word: a letter and a spacing mark in one character (seven, in Tamil and Balinese)."""

_AT, _U64 = types.int64, types.uint64
FOLDS = types.Array(types.uint32, 1, "C", readonly=True)
"""uint32[2**21] by code point: the character that stands for it (with LAST), BREAK or SKIP."""
HASHES = types.Array(types.uint64, 1, "C")
PLACES = types.Array(types.int64, 1, "C")
NUMBERS = types.Array(types.uint32, 1, "C")
READ_HASHES = types.Array(types.uint64, 1, "C", readonly=True)
READ_NUMBERS = types.Array(types.uint32, 1, "C", readonly=True)
READ_PLACES = types.Array(types.int64, 1, "C", readonly=True)
LOOKUP = types.Tuple((READ_HASHES, READ_NUMBERS, READ_HASHES, READ_NUMBERS, READ_HASHES, READ_PLACES))
"""``(hashes, buckets, probes, probe buckets, bloom, lengths)``: the n-grams' hashes, sorted, uint64[g], and where those
begin whose highest bits are k, uint32[2**j + 1]; the same of the probes, with a Bloom filter of them, uint64[2**j]; and
the words of a probe, and of n-grams, n first."""

_STEP, _END, _BASE, _MIX = 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0xD6E8FEB86659FD93, 0xFF51AFD7ED558CCD
_RING = 2 * LONGEST
_POWERS = np.array([pow(_BASE, k, 2**64) for k in range(LONGEST + 1)], np.uint64)
_HANGUL, _HANGUL_END, _L, _V, _T = 0xAC00, 0xD7A4, 0x1100, 0x1161, 0x11A7
_FINAL_SIGMA, _SIGMA = "ςσ"
_WIDE = 1 << 63

# Eight bytes at once: in each byte of an integer, the sum with one of these sets the high bit from a certain byte on.
_ONES, _LOW_SEVEN, _HIGH = 0x0101010101010101, 0x7F7F7F7F7F7F7F7F, 0x8080808080808080
_FROM_0, _FROM_COLON, _FROM_A, _FROM_BRACE, _FROM_CAPITAL_A, _FROM_BRACKET = (
    (0x80 - ord(c)) * _ONES for c in "0:a{A["
)
_CASE, _LINES = 0x20 * _ONES, ord("_") * _ONES
# Outside of these no character of Unicode is decomposed or a mark, but for Hangul, which is done by rule.
_DECOMPOSED = ((0x80, 0x3400), (0xA000, 0xAC00), (0xD7B0, 0x20000), (0x2F800, 0x2FA20), (0xE0100, 0xE01F0))
# How far a cut that would end inside a word goes on: past any word of a language, not past base64.
_WORD_BYTES = 64


@cache
def fold_table() -> np.ndarray:
    """uint32[2**21]: what stands for each character, by the running Python's tables. 0.2 s, once per process."""
    every_char = np.arange(0x110000, dtype=np.uint32).view("U1")
    lower = np.strings.lower(every_char)
    points = lower.view(np.uint32)
    table = np.zeros(1 << 21, np.uint32)
    wordy = np.strings.isalnum(lower) | (lower == "_")
    table[:0x110000] = np.where(wordy, points, BREAK)
    for start, stop in _DECOMPOSED:
        for point in range(start, stop):
            whole = chr(point)
            parts = unicodedata.normalize("NFD", whole)
            if parts != whole or unicodedata.category(whole) == "Mn":
                base = [table[ord(c)] for c in parts if unicodedata.category(c) != "Mn"]
                table[point] = base[0] | LAST if len(base) > 1 and base[0] else base[0] if base else SKIP
    table[ord(_FINAL_SIGMA)] = ord(_SIGMA)
    table.flags.writeable = False
    return table


@njit(_U64(_U64))
def _word_bytes(eight):
    """The high bit of each of eight bytes that is an ASCII letter, digit or "_"."""
    low = eight & _U64(_LOW_SEVEN)
    lower = low | _U64(_CASE)
    letters = (lower + _U64(_FROM_A)) & ~(lower + _U64(_FROM_BRACE))
    digits = (low + _U64(_FROM_0)) & ~(low + _U64(_FROM_COLON))
    line = ~((low ^ _U64(_LINES)) + _U64(_LOW_SEVEN))
    return (letters | digits | line) & ~eight & _U64(_HIGH)


@njit(_U64(_U64))
def _lower_case(eight):
    """Eight bytes of ASCII with their capital letters as small ones."""
    capitals = (eight + _U64(_FROM_CAPITAL_A)) & ~(eight + _U64(_FROM_BRACKET)) & _U64(_HIGH)
    return eight | capitals >> _U64(2)


@njit(_U64(_U64, _U64))
def _feed(state, value):
    state = (state ^ value) * _U64(_STEP)
    return state ^ state >> _U64(32)


@njit(_U64(_U64))
def _mixed(value):
    value = (value ^ (value >> _U64(32))) * _U64(_END)
    return value ^ (value >> _U64(29))


@njit(_U64(_U64, _AT))
def _feed_wide(state, fold):
    """A character that is no ASCII; a syllable of Hangul as the two or three letters that NFD makes of it."""
    if _HANGUL <= fold < _HANGUL_END:
        index = fold - _HANGUL
        state = _feed(state, _U64(_WIDE | (_L + index // 588)))
        state = _feed(state, _U64(_WIDE | (_V + index % 588 // 28)))
        fold = _T + index % 28
        if fold == _T:
            return state
    return _feed(state, _U64(_WIDE | fold))


@njit(types.Tuple((_AT, _AT, _U64))(UTF8, _AT, _AT, FOLDS))
def next_word(utf8, at, end, folds):
    """``(where it begins, where it ends, its hash)`` of the first word from `at` on; it begins at `end` if there is
    none. Marks after its last character are part of it.

    The hash is of the folded characters, those of ASCII eight at a time, so that it does not matter how they
    were written: `chunk` holds the `held` ones since the last eight, or since a character that is no ASCII.
    """
    state, chunk = _U64(0), _U64(0)
    held = 0
    start = -1
    while at < end:
        if held == 0 and at + 8 <= end:
            eight = load8(utf8, at)
            others = _word_bytes(eight) ^ _U64(_HIGH)
            if others == 0:
                start = at if start < 0 else start
                state = _feed(state, _lower_case(eight))
                at += 8
                continue
            before = (others - _U64(1)) & ~others  # every bit below the first byte that is no letter
            many = _AT((((before >> _U64(7)) & _U64(_ONES)) * _U64(_ONES)) >> _U64(56))
            if many:
                start = at if start < 0 else start
                chunk = _lower_case(eight & (before >> _U64(7)))
                held = many
                at += many
        point, width = _AT(utf8[at]), 1
        if point >= 0x80:
            point, width = decode(utf8, at)
        fold = folds[point]
        if fold == BREAK:
            if start >= 0:
                break
        elif fold != SKIP:
            start = at if start < 0 else start
            if fold < 0x80:
                chunk |= _U64(fold) << _U64(8 * held)
                held += 1
                if held == 8:
                    state = _feed(state, chunk)
                    chunk, held = _U64(0), 0
            else:
                if held:
                    state = _feed(state, chunk)
                    chunk, held = _U64(0), 0
                state = _feed_wide(state, _AT(fold & ~_U64(LAST)))
                if fold & LAST:
                    at += width
                    break
        at += width
    if start < 0:
        return end, end, state
    if held:
        state = _feed(state, chunk)
    return start, min(at, end), _mixed(state)


@njit(_U64(HASHES, _AT, _AT))
def _last_words(sums, k, length):
    """The hash of the last `length` of k words, of which `sums` keeps the polynomials, that of none at 0."""
    value = sums[k & (_RING - 1)] - sums[(k - length) & (_RING - 1)] * _POWERS[length]
    # So that n-grams of different lengths are different.
    value = (value + _U64(length)) * _U64(_MIX)
    return _mixed(value)


@njit(types.UniTuple(_U64, 2)(_AT, _U64))
def _four_bits(size, value):
    """Where a value's bits lie in a Bloom filter of `size` integers: ``(which integer, the bits)``."""
    bits = _U64(1) << (value & _U64(63)) | _U64(1) << (value >> _U64(6) & _U64(63))
    bits |= _U64(1) << (value >> _U64(12) & _U64(63)) | _U64(1) << (value >> _U64(18) & _U64(63))
    return (value >> _U64(32)) * _U64(size) >> _U64(32), bits


@njit(types.boolean(READ_HASHES, _U64))
def _maybe(bloom, value):
    """Whether a value may be among those that a Bloom filter was made of."""
    at, bits = _four_bits(len(bloom), value)
    return bloom[at] & bits == bits


@njit(types.void(READ_HASHES, HASHES))
def fill_bloom(values, bloom):
    """Make a Bloom filter of some values; `bloom` is all zero, and shorter than 2**32."""
    for k in range(len(values)):
        at, bits = _four_bits(len(bloom), values[k])
        bloom[at] |= bits


@njit(_AT(READ_HASHES, READ_NUMBERS, _U64))
def _find(hashes, buckets, value):
    """The place of a value in `hashes`; -1 where it is not there."""
    size = len(buckets) - 1
    bits = 0
    while (1 << bits) < size:
        bits += 1
    bucket = _AT(value >> _U64(64 - bits)) if bits else 0
    for k in range(_AT(buckets[bucket]), _AT(buckets[bucket + 1])):
        if hashes[k] == value:
            return k
    return -1


@njit(types.void(OFFSETS, UTF8, FOLDS, LOOKUP, HASHES, PLACES, PLACES, PLACES, PLACES, NUMBERS))
def find_grams(offsets, utf8, folds, lookup, sums, begins, counts, starts, stops, grams):
    """Count each document's hits, and write down those that the arrays have room for, document after document.

    Parameters
    ----------
    offsets, utf8 : int64[n + 1], uint8[b]
        Valid UTF-8, each document for itself; other bytes give other counts, and up to three past the end are read.
    folds, lookup
        From `fold_table` and benchmark_index.py.
    sums, begins : uint64[_RING], int64[_RING]
        From `ring`: hashes of all words up to one, and where it begins, of the last words.
    counts : int64[n]
    starts, stops, grams : int64[<= h], int64[<= h], uint32[<= h]
        Where an n-gram begins and ends in `utf8`, and its place among the index's hashes.
    """
    hashes, buckets, probes, probe_buckets, bloom, lengths = lookup
    probe, n = lengths[0], lengths[1]
    hits = 0
    for i in range(len(offsets) - 1):
        first = hits
        at, end = offsets[i], offsets[i + 1]
        k, near, total = 0, 0, _U64(0)
        sums[0] = total
        while True:
            start, at, word = next_word(utf8, at, end, folds)
            if start >= end:
                break
            k += 1
            total = total * _U64(_BASE) + word
            sums[k & (_RING - 1)] = total
            begins[k & (_RING - 1)] = start
            if k >= probe:
                value = _last_words(sums, k, probe)
                if _maybe(bloom, value) and _find(probes, probe_buckets, value) >= 0:
                    near = k + n - probe
            if k > near:
                continue
            for m in range(1, len(lengths)):
                length = lengths[m]
                place = _find(hashes, buckets, _last_words(sums, k, length)) if k >= length else -1
                if place >= 0:
                    if hits < len(grams):
                        starts[hits], stops[hits] = begins[(k - length + 1) & (_RING - 1)], at
                        grams[hits] = place
                    hits += 1
        counts[i] = hits - first


@njit(_AT(OFFSETS, UTF8, FOLDS, _AT, _AT, HASHES, PLACES, HASHES, NUMBERS))
def hash_items(offsets, utf8, folds, n, min_words, sums, words, hashes, owners):
    """How many n-grams the items have in all, of which those are written down that the arrays have room for.

    words : int64[n], filled with how many words each item has. hashes, owners : uint64[<= g], uint32[<= g], each
    n-gram's hash and item.
    """
    found = 0
    for i in range(len(offsets) - 1):
        at, end = offsets[i], offsets[i + 1]
        k, total = 0, _U64(0)
        sums[0] = total
        while True:
            start, at, word = next_word(utf8, at, end, folds)
            if start >= end:
                break
            k += 1
            total = total * _U64(_BASE) + word
            sums[k & (_RING - 1)] = total
            if k >= n:
                if found < len(hashes):
                    hashes[found], owners[found] = _last_words(sums, k, n), i
                found += 1
        words[i] = k
        if min_words <= k < n:
            if found < len(hashes):
                hashes[found], owners[found] = _last_words(sums, k, k), i
            found += 1
    return found


def ring() -> tuple[np.ndarray, np.ndarray]:
    """Room for `sums` and `begins`."""
    return np.zeros(_RING, np.uint64), np.zeros(_RING, np.int64)


@njit(types.UniTuple(_AT, 2)(UTF8, _AT, _AT, _AT, FOLDS))
def _in_word(utf8, at, begin, end, folds):
    """``(1 where the characters before and at a place are both of a word or marks, bytes of the one before)``."""
    if at <= begin or at >= end:
        return 0, 0
    before = at - 1
    while before > begin and utf8[before] & 0xC0 == 0x80:
        before -= 1
    left = _AT(utf8[before])
    if left >= 0x80:
        left, _ = decode(utf8, before)
    right = _AT(utf8[at])
    if right >= 0x80:
        right, _ = decode(utf8, at)
    return _AT(folds[left] != BREAK and folds[right] != BREAK), at - before


@njit(_AT(UTF8, _AT, _AT, READ_PLACES, READ_PLACES, _AT, FOLDS, PLACES, PLACES))
def widen(utf8, begin, end, starts, stops, margin, folds, cut_starts, cut_stops):
    """Widen spans of a document and join those that meet; returns how many are left, ascending and disjoint.

    Each grows by `margin` characters on both sides, and on to the end of a word, by at most `_WORD_BYTES` bytes.

    starts, stops : int64[h], by start, on borders of characters between `begin` and `end`, the document's.
    cut_starts, cut_stops : int64[h], to be filled.
    """
    found = 0
    for k in range(len(starts)):
        start, stop = starts[k], stops[k]
        for _ in range(margin):
            if start <= begin:
                break
            start -= 1
            while start > begin and utf8[start] & 0xC0 == 0x80:
                start -= 1
        limit = start - _WORD_BYTES
        inside, width = _in_word(utf8, start, begin, end, folds)
        while inside and start - width >= limit:
            start -= width
            inside, width = _in_word(utf8, start, begin, end, folds)
        for _ in range(margin):
            if stop >= end:
                break
            stop += 1
            while stop < end and utf8[stop] & 0xC0 == 0x80:
                stop += 1
        limit = stop + _WORD_BYTES
        inside, _ = _in_word(utf8, stop, begin, end, folds)
        while inside and stop < limit:
            stop += 1
            while stop < end and utf8[stop] & 0xC0 == 0x80:
                stop += 1
            inside, _ = _in_word(utf8, stop, begin, end, folds)
        if found and start <= cut_stops[found - 1]:
            cut_stops[found - 1] = max(stop, cut_stops[found - 1])
            cut_starts[found - 1] = min(start, cut_starts[found - 1])
        else:
            cut_starts[found], cut_stops[found] = start, stop
            found += 1
    return found
