"""Where are the words of a text, and what is each of them, lower-cased, as a hash?

word       a maximal run of characters that ``\\w`` of Python's ``re`` accepts: what ``str.isalnum`` does, and "_".
lower case that of ``str.lower``, one character at a time. Where ``str.lower`` is given the whole text it differs in two
           places: a capital sigma at the end of a word is ς there and σ here; and "İ" becomes "i" and a combining
           dot, which ``\\w`` does not accept, so that a word with "İ" in it falls apart there and stays whole here.

A hash is that of a word's lower-cased UTF-8 (repetition.fold), eight bytes at a time, the last ones filled up with
zeros, which are in no word. ASCII is looked at 64 bytes at a time: a bit for each byte says whether it is in a word.

Letters: b bytes of text.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from winnow.filters.characters import decode
from winnow.filters.jit import UTF8, njit, types
from winnow.filters.repetition import fold, load8

BLOCK_UNITS = 1024
"""Words, or characters, read at once: few enough that their arrays stay in the first-level cache."""
MOST_NGRAM = 64
"""Units that a block's array of hashes can hold in front of those."""
OUTSIDE, INSIDE, BEHIND = 0, 1, 2
"""Where a text has been left off: before any word, in a word, or behind one."""

_CHUNK = 64  # bytes that one mask speaks for

_AT, _U64, _U32 = types.int64, types.uint64, types.uint32
_PLACES = types.Array(types.int64, 1, "C")
UNIT_HASHES = types.Array(types.uint64, 1, "C")
"""uint64[>= BLOCK_UNITS + MOST_NGRAM]: hashes of words or characters."""
CHARS = types.Array(types.uint32, 1, "C", readonly=True)
"""uint32[2**21]: from `word_chars`."""
BLOCK = types.Tuple((_PLACES, _PLACES, UNIT_HASHES, UNIT_HASHES))
"""What `block_arrays` makes."""

_ONES, _LOW_SEVEN, _HIGH = 0x0101010101010101, 0x7F7F7F7F7F7F7F7F, 0x8080808080808080
_FROM = {c: (0x80 - ord(c)) * _ONES for c in "az{09:A["}
_FROM_A, _FROM_BRACE, _FROM_0, _FROM_COLON = _FROM["a"], _FROM["{"], _FROM["0"], _FROM[":"]
_FROM_CAPITAL, _FROM_BRACKET = _FROM["A"], _FROM["["]
_CASE, _UNDERSCORES = 0x20 * _ONES, ord("_") * _ONES
_GATHER = 0x0102040810204080  # moves the lowest bits of eight bytes together into the highest byte

_WORD, _TWO = 1 << 24, 1 << 25
_POINT = (1 << 24) - 1
_SPACE, _DOT_ABOVE = 0x20, 0x307


@cache
def word_chars() -> np.ndarray:
    """uint32[2**21]: of each code point its lower case, and as bits whether it is in words, and becomes two."""
    every_char = np.arange(0x110000, dtype=np.uint32).view("U1")
    # 2**21 is what 4 bytes can decode to, were they no UTF-8: never out of bounds.
    table = np.arange(1 << 21, dtype=np.uint32)
    # NumPy's lower keeps one character each: it is str.lower but for "İ", and tests look whether that stays so.
    table[:0x110000] = np.strings.lower(every_char).view(np.uint32)
    table[:0x110000] |= np.strings.isalnum(every_char) * np.uint32(_WORD)
    table[ord("_")] |= _WORD
    table[ord("İ")] |= _TWO
    table.flags.writeable = False
    return table


def block_arrays() -> tuple[np.ndarray, ...]:
    """Working memory of a kernel that reads words: ``(starts, stops, hashes, polynomials)``."""
    room = BLOCK_UNITS + MOST_NGRAM
    return (
        np.empty(BLOCK_UNITS, np.int64),
        np.empty(BLOCK_UNITS, np.int64),
        np.empty(room, np.uint64),
        np.empty(room, np.uint64),
    )


@njit(_U64(_U64))
def _word_bytes(eight):
    """The high bit of every byte that is an ASCII letter, digit or underscore."""
    ascii_ = eight & _U64(_LOW_SEVEN)
    lower = ascii_ | _U64(_CASE)
    letters = (lower + _U64(_FROM_A)) & ~(lower + _U64(_FROM_BRACE))
    digits = (ascii_ + _U64(_FROM_0)) & ~(ascii_ + _U64(_FROM_COLON))
    others = (ascii_ ^ _U64(_UNDERSCORES)) + _U64(_LOW_SEVEN)
    return (letters | digits | ~others) & ~eight & _U64(_HIGH)


@njit(_U64(_U64))
def _gathered(high_bits):
    """The high bits of eight bytes as the lowest eight bits, the first byte's lowest."""
    return ((high_bits >> _U64(7)) * _U64(_GATHER)) >> _U64(56)


@njit(_AT(_U64))
def _lowest_bit(bits):
    """Number of the lowest bit that is set; `bits` is not 0."""
    # How many bits lie below it, counted in the way that compilers know as the processor's own instruction.
    below = (bits & (~bits + _U64(1))) - _U64(1)
    below = below - ((below >> _U64(1)) & _U64(0x5555555555555555))
    below = (below & _U64(0x3333333333333333)) + ((below >> _U64(2)) & _U64(0x3333333333333333))
    below = (below + (below >> _U64(4))) & _U64(0x0F0F0F0F0F0F0F0F)
    return _AT((below * _U64(_ONES)) >> _U64(56))


@njit(_U64(_U64))
def _lower(eight):
    """Eight bytes of ASCII, or zeros, lower-cased."""
    capitals = (eight + _U64(_FROM_CAPITAL)) & ~(eight + _U64(_FROM_BRACKET)) & _U64(_HIGH)
    return eight | (capitals >> _U64(2))


@njit(types.UniTuple(_U64, 2)(UTF8, _AT, _U64, CHARS))
def _wide_words(utf8, at, leads, chars):
    """``(bits of word characters, bits beyond the 64)`` of the characters that begin at the bits of `leads`."""
    word = spill = _U64(0)
    while leads:
        bit = _lowest_bit(leads)
        leads &= leads - _U64(1)
        point, width = decode(utf8, at + bit)
        if chars[point] & _U32(_WORD):
            bits = (_U64(1) << _U64(width)) - _U64(1)
            word |= bits << _U64(bit)
            if bit + width > _CHUNK:
                spill = bits >> _U64(_CHUNK - bit)
    return word, spill


@njit(types.UniTuple(_U64, 2)(UTF8, _AT, _AT, CHARS))
def _word_bits(utf8, at, end, chars):
    """``(which of 64 bytes from `at` are in words, which of those behind them)``: characters before `end` only."""
    word = leads = _U64(0)
    if at + _CHUNK <= len(utf8):
        for k in range(8):
            eight = load8(utf8, at + 8 * k)
            word |= _gathered(_word_bytes(eight)) << _U64(8 * k)
            leads |= _gathered(eight & (eight << _U64(1)) & _U64(_HIGH)) << _U64(8 * k)
        if at + _CHUNK > end:
            before = (_U64(1) << _U64(end - at)) - _U64(1)
            word &= before
            leads &= before
    else:
        for k in range(min(_CHUNK, end - at)):
            byte = utf8[at + k]
            if byte < 0x80:
                word |= _U64((chars[byte] & _U32(_WORD)) != 0) << _U64(k)
            else:
                leads |= _U64(byte >= 0xC0) << _U64(k)
    spill = _U64(0)
    if leads:
        wide, spill = _wide_words(utf8, at, leads, chars)
        word |= wide
    return word, spill


@njit(types.UniTuple(_AT, 2)(UTF8, _AT, _AT, CHARS, _PLACES, _PLACES))
def _find_words(utf8, at, end, chars, starts, stops):
    """Write down where words begin and end, from `at`, which is in none: ``(words, where to go on)``."""
    begun = ended = 0
    spill = _U64(0)
    inside = _U64(0)
    while at < end:
        if begun + _CHUNK // 2 > len(starts):
            # Here is no room for all words that 64 bytes can hold. A word that has begun is read anew.
            return ended, starts[ended] if begun > ended else at
        word, next_spill = _word_bits(utf8, at, end, chars)
        word |= spill
        spill = next_spill
        before = (word << _U64(1)) | inside
        inside = word >> _U64(63)
        edges = word & ~before
        while edges:
            starts[begun] = at + _lowest_bit(edges)
            begun += 1
            edges &= edges - _U64(1)
        edges = before & ~word
        while edges:
            stops[ended] = at + _lowest_bit(edges)
            ended += 1
            edges &= edges - _U64(1)
        at += _CHUNK
    if begun > ended:
        stops[ended] = end
        ended += 1
    return ended, end


@njit(types.UniTuple(_U64, 2)(_U32))
def _encoded(point):
    """``(UTF-8 of a code point as an integer, the first byte lowest, bits it takes)``."""
    p = _U64(point)
    first, second, third = p & _U64(0x3F), p >> _U64(6) & _U64(0x3F), p >> _U64(12) & _U64(0x3F)
    if p < _U64(0x80):
        return p, _U64(8)
    if p < _U64(0x800):
        return _U64(0x80C0) | p >> _U64(6) | first << _U64(8), _U64(16)
    if p < _U64(0x10000):
        return _U64(0x8080E0) | p >> _U64(12) | second << _U64(8) | first << _U64(16), _U64(24)
    value = _U64(0x808080F0) | p >> _U64(18) | third << _U64(8) | second << _U64(16)
    return value | first << _U64(24), _U64(32)


@njit(_U64(UTF8, _AT, _AT, CHARS, _U64))
def _hash_wide(utf8, at, stop, chars, state):
    """Hash of the rest of a word, of any characters, after what `state` is the hash of."""
    eight, filled = _U64(0), _U64(0)
    again = False
    while at < stop or again:
        if again:
            lower, again = _U32(_DOT_ABOVE), False
        else:
            point, width = _AT(utf8[at]), 1
            if point >= 0x80:
                point, width = decode(utf8, at)
            entry = chars[point]
            lower, again = entry & _U32(_POINT), (entry & _U32(_TWO)) != 0
            at += width
        value, bits = _encoded(lower)
        eight |= value << filled
        filled += bits
        if filled >= _U64(64):
            state = fold(state, eight)
            filled -= _U64(64)
            eight = value >> (bits - filled) if filled else _U64(0)
    return fold(state, eight) if filled else state


@njit(types.UniTuple(_AT, 2)(UTF8, _AT, _AT, CHARS, BLOCK, _AT))
def read_words(utf8, at, end, chars, block, held):
    """Write hashes of the words from `at` on behind the `held` ones: ``(words, where to go on)``.

    A hash is that of a word's lower-cased UTF-8, eight bytes at a time; the last are filled up with zeros.
    """
    starts, stops, hashes, _ = block
    words, next_at = _find_words(utf8, at, end, chars, starts, stops)
    for k in range(words):
        state = _U64(0)
        at, stop = starts[k], stops[k]
        while at < stop and at + 8 <= len(utf8):
            eight = load8(utf8, at)
            if stop - at < 8:
                eight &= ~_U64(0) >> _U64(64 - 8 * (stop - at))
            if eight & _U64(_HIGH):
                break
            state = fold(state, _lower(eight))
            at += 8
        if at < stop:
            state = _hash_wide(utf8, at, stop, chars, state)
        hashes[_U64(held) + _U64(k)] = state
    return words, next_at


@njit(types.UniTuple(_AT, 3)(UTF8, _AT, _AT, CHARS, UNIT_HASHES, _AT, _AT))
def read_chars(utf8, at, end, chars, hashes, held, place):
    """Write hashes of the characters from `at` on behind the `held` ones: ``(characters, where to go on, place)``.

    `place` is where the text before has ended: `OUTSIDE` of any word yet, `INSIDE` a word, or `BEHIND` one.
    """
    found = held
    while at < end and found + 3 <= BLOCK_UNITS + held:  # a space, and two that one becomes
        point, width = _AT(utf8[at]), 1
        if point >= 0x80:
            point, width = decode(utf8, at)
        at += width
        entry = chars[point]
        if not entry & _U32(_WORD):
            place = BEHIND if place == INSIDE else place
            continue
        if place == BEHIND:
            hashes[found] = fold(_U64(0), _U64(_SPACE))
            found += 1
        place = INSIDE
        hashes[found] = fold(_U64(0), _U64(entry & _U32(_POINT)))
        found += 1
        if entry & _U32(_TWO):
            hashes[found] = fold(_U64(0), _U64(_DOT_ABOVE))
            found += 1
    return found - held, at, place
