"""Which are the English words of a simplified text, and how are they found sooner than in any text?

Those of english.py, `words_of_document`. The only whitespace of what datatrove_text.py makes of a text is the
space, and nearly all chunks between spaces are lower-case letters of ASCII. Such a chunk is one word, unless it is
a special case ("cannot"); it is measured eight bytes at a time. Other chunks are cut by the same rules as in any text.

Letters: b bytes of text, m words that there is room for.
"""

from functools import cache

import numpy as np
from winnow.filters.english import MARKS, RULES, WORDS, load, words_of_document
from winnow.filters.english_affixes import cut_chunk, describe
from winnow.filters.english_special import may_hold_special
from winnow.filters.jit import UTF8, njit, types
from winnow.filters.repetition import load8

_AT, _U64 = types.int64, types.uint64
_BLANK, _FIRST, _LAST = map(ord, " az")
_ODD = 0x9E3779B97F4A7C15

SPECIALS = types.Array(types.uint64, 1, "C")
"""uint64[1024]: 65,536 bits."""

# In each byte of an integer, the sum with one of these sets the high bit from a certain byte on.
_ONES, _LOW_SEVEN, _HIGH = 0x0101010101010101, 0x7F7F7F7F7F7F7F7F, 0x8080808080808080
_FROM_FIRST, _FROM_BRACE = ((0x80 - byte) * _ONES for byte in (_FIRST, _LAST + 1))


@njit(_AT(_U64))
def _letters(eight):
    """How many of eight bytes come before the first that is no lower-case letter of ASCII."""
    low = eight & _U64(_LOW_SEVEN)
    others = (~(low + _U64(_FROM_FIRST)) | (low + _U64(_FROM_BRACE)) | eight) & _U64(_HIGH)
    before = (others - _U64(1)) & ~others
    return _AT((((before >> _U64(7)) & _U64(_ONES)) * _U64(_ONES)) >> _U64(56))


@njit(_U64(_U64))
def _bit(key):
    """Which of 65,536 bits the first eight bytes of a word have."""
    return (key * _U64(_ODD)) >> _U64(48)


@cache
def specials() -> np.ndarray:
    """The special cases that are letters of ASCII, as a set of bits, `SPECIALS`: few others have one of these bits."""
    rules = load()
    text, ends = bytes(rules["special_text"]), rules["special_ends"]
    bits = np.zeros(1024, np.uint64)
    for i in range(np.count_nonzero(rules["special_slots"])):
        key = text[ends[i] : ends[i + 1]][:8]
        bit = int(_bit(np.uint64(int.from_bytes(key, "little"))))
        bits[bit >> 6] |= np.uint64(1 << (bit & 63))
    return bits


@njit(types.UniTuple(_AT, 2)(UTF8, _AT, _AT, SPECIALS))
def _read_letters(utf8, at, end, specials):
    """``(where the letters end that begin at `at`, whether they may be a special case)``."""
    eight = load8(utf8, at)
    letters = min(_letters(eight), end - at)
    if letters < 8:
        eight &= (_U64(1) << _U64(8 * letters)) - _U64(1)
    bit = _bit(eight)
    may_be = specials[bit >> _U64(6)] >> (bit & _U64(63)) & _U64(1)
    at += letters
    while letters == 8:
        letters = min(_letters(load8(utf8, at)), end - at)
        at += letters
    return at, _AT(may_be)


@njit(types.boolean(UTF8, _AT, _AT, _AT, RULES, WORDS))
def _fill(utf8, start, first, n, rules, words):
    """Write where the words of a chunk begin, which are those from `first` up to `n`; whether they may hold more.

    That is a special case over words already cut.
    """
    for k in range(first, n):
        words.starts[k] = start
        start = words.stops[k]
    if n - first == 1:
        return False
    for k in range(first, n):
        words.chars[k], words.hashes[k], words.kinds[k] = describe(
            utf8, words.starts[k], words.stops[k], rules
        )
    return may_hold_special(rules, words.hashes, first, n)


@njit(_AT(UTF8, _AT, _AT, RULES, SPECIALS, WORDS, MARKS))
def words_of_simplified(utf8, begin, end, rules, specials, words, marks):
    """The number of words of the text from `begin` to `end`, whose only whitespace is the space.

    As `words_of_document`, with which it shares the arguments and -1 for lack of room; but of `words` only `starts`
    and `stops` hold anything afterwards, and eight bytes past `end` may be read. `specials` is from the function.
    """
    n, at = 0, begin
    room = len(words.starts)
    while True:
        while at < end and utf8[_U64(at)] == _BLANK:
            at += 1
        if at >= end:
            return n
        start = at
        at, may_be_special = _read_letters(utf8, start, end, specials)
        plain = at == end or utf8[_U64(at)] == _BLANK
        if plain and not may_be_special:
            if n == room:
                return -1
            words.starts[_U64(n)], words.stops[_U64(n)] = start, at
            n += 1
            continue
        while at < end and utf8[_U64(at)] != _BLANK:
            at += 1
        if n + at - start > room:
            return -1
        first = n
        n = cut_chunk(utf8, start, at, start, at, rules, words.stops, n)
        if _fill(utf8, start, first, n, rules, words):
            # What such a case covers depends on all words of the text. spaCy 3.8 has none for simplified text.
            return words_of_document(utf8, begin, end, rules, words, marks)
