"""Into which words does spaCy cut one chunk, what stands between whitespace, in English?

The order of spaCy 3.8's tokenizer: as long as something comes off, a prefix and a suffix are taken from the
chunk, unless it is a special case, or becomes one without one of them. What remains is a special case, or a
URL, or is cut at its infixes. A prefix is what its regular expression finds first; a suffix is the longest one
(the search takes the leftmost match, and all end at the end), and does not see a prefix that was just taken
off. All this is linear in the chunk: what is looked at again is never longer than a special case.

Letters: m words that there is room for.
"""

from typing import NamedTuple

import numpy as np
from winnow.filters.english_rules import (
    ALL_KINDS,
    BEFORE_DOT,
    DIGIT,
    ENDS_SENTENCE,
    ICON,
    LETTER,
    LOWER,
    MOST_SPECIAL_BYTES,
    PREFIX,
    QUOTE,
    RULES,
    SUFFIX,
    UPPER,
    char_at,
    char_before,
    first_slot,
    hash_byte,
    hash_bytes,
)
from winnow.filters.english_urls import is_url
from winnow.filters.jit import UTF8, njit, types

_AT = types.int64
_DOT, _PLUS, _DASH, _STAR, _CARET, _COMMA, _TILDE, _SLASH, _COLON, _DOLLAR = map(ord, ".+-*^,~/:$")
_LESS, _EQUALS, _MORE, _BIG_A, _BIG_C, _BIG_U, _BIG_S, _SMALL_S, _QUOTE = map(ord, "<=>ACUSs'")
_ELLIPSIS, _RIGHT_QUOTE, _DEGREE, _EN_DASH, _EM_DASH = map(ord, "…’°–—")
_SCALES = tuple(map(ord, "FfCcKk"))
_ELLIPSIS_BYTES = 3


class Words(NamedTuple):
    """A document's words, in order; scratch arrays of m each, filled from the front."""

    starts: np.ndarray
    """int64[m]: where the word begins in the column's bytes."""
    stops: np.ndarray
    """int64[m]: where it ends."""
    chars: np.ndarray
    """int32[m]: its characters (code points)."""
    hashes: np.ndarray
    """uint64[m]: of its bytes, as `hash_bytes` has it."""
    kinds: np.ndarray
    """uint8[m]: of HAS_LETTER, HAS_WORD_CHAR, HAS_NON_PUNCTUATION and ENDS_SENTENCE (english_rules.py)."""


WORDS = types.NamedTuple(
    (
        types.Array(types.int64, 1, "C"),
        types.Array(types.int64, 1, "C"),
        types.Array(types.int32, 1, "C"),
        types.Array(types.uint64, 1, "C"),
        types.Array(types.uint8, 1, "C"),
    ),
    Words,
)
STOPS = types.Array(types.int64, 1, "C")


@njit(types.Tuple((types.int32, types.uint64, types.uint8))(UTF8, _AT, _AT, RULES))
def describe(utf8, start, stop, rules):
    """``(characters, hash, kinds)`` of the word from `start` to `stop`."""
    flags, chars, key, at = np.uint32(0), 0, np.uint64(0), start
    while at < stop:
        byte = utf8[at]
        if byte < 0x80:
            flags |= rules.by_char[byte]
            key = hash_byte(key, np.uint64(byte))
            at += 1
        else:
            point, width = char_at(utf8, at)
            flags |= rules.by_char[point]
            for k in range(at, at + width):
                key = hash_byte(key, np.uint64(utf8[k]))
            at += width
        chars += 1
    return chars, key, flags & (ALL_KINDS if chars == 1 else ALL_KINDS & ~ENDS_SENTENCE)


@njit(_AT(UTF8, _AT, _AT, RULES))
def find_special(utf8, start, stop, rules):
    """Which special case the text from `start` to `stop` is, -1 for none (and for no text)."""
    size = stop - start
    if size < 1 or size > MOST_SPECIAL_BYTES:
        return -1
    lengths = rules.special_first[utf8[start]] & rules.special_last[utf8[stop - 1]]
    if lengths >> np.uint64(size) & np.uint64(1) == 0:
        return -1
    slot = first_slot(hash_bytes(utf8, start, stop))
    while rules.special_slots[slot]:
        special = rules.special_slots[slot] - 1
        begin = rules.special_ends[special]
        if rules.special_ends[special + 1] - begin == size:
            same = True
            for k in range(size):
                same &= utf8[start + k] == rules.special_text[begin + k]
            if same:
                return special
        slot = (slot + 1) & (len(rules.special_slots) - 1)
    return -1


@njit(_AT(_AT, _AT, RULES, STOPS, _AT))
def cut_special(start, special, rules, stops, n):
    """Write where the words of a special case end, which begins at `start`, from word `n` on; their number then."""
    for k in range(rules.cut_ends[special], rules.cut_ends[special + 1]):
        start += rules.cuts[k]
        stops[n] = start
        n += 1
    return n


@njit(_AT(UTF8, _AT, _AT))
def _dots_after(utf8, at, stop):
    count = 0
    while at + count < stop and utf8[at + count] == _DOT:
        count += 1
    return count


@njit(_AT(UTF8, _AT, _AT, RULES))
def _prefix(utf8, start, stop, rules):
    """Bytes of the prefix of the text from `start` to `stop`, which is not empty; 0 where it has none."""
    point, width = char_at(utf8, start)
    if rules.by_char[point] & PREFIX:
        return width
    if point == _DOT:
        dots = _dots_after(utf8, start, stop)
        return dots if dots > 1 else 0
    if point == _PLUS:
        return 0 if start + 1 < stop and rules.by_char[utf8[start + 1]] & DIGIT else 1
    if point in (_BIG_C, _BIG_A) and start + 1 < stop and utf8[start + 1] == _DOLLAR:
        return 2
    if point == _BIG_U and start + 2 < stop and utf8[start + 1] == _BIG_S and utf8[start + 2] == _DOLLAR:
        return 3
    return 0


@njit(_AT(UTF8, _AT, _AT, RULES))
def _dot_suffix(utf8, start, stop, rules):
    """Bytes of the suffix that the dots at the end are."""
    at = stop
    while at > start and utf8[at - 1] == _DOT:
        at -= 1
    if stop - at > 1:
        return stop - at
    last, at = char_before(utf8, start, at)
    if at == stop - 1:
        return 0  # nothing is before the dot
    if rules.by_char[last] & BEFORE_DOT:
        return 1
    last_but_one, before = char_before(utf8, start, at)
    if before == at:
        return 0
    if rules.by_char[last] & UPPER and rules.by_char[last_but_one] & UPPER:
        return 1
    return 1 if last in _SCALES and last_but_one == _DEGREE else 0


@njit(_AT(UTF8, _AT, _AT, RULES))
def _suffix(utf8, start, stop, rules):
    """Bytes of the longest suffix of the text from `start` to `stop`; 0 where it has none, or is empty."""
    if start >= stop:
        return 0
    point, at = char_before(utf8, start, stop)
    longest = 0
    if point == _DOT:
        longest = _dot_suffix(utf8, start, stop, rules)
    elif rules.by_char[point] & SUFFIX:
        longest = stop - at
        if point == _ELLIPSIS and char_before(utf8, start, at) == (_ELLIPSIS, at - _ELLIPSIS_BYTES):
            longest = 2 * _ELLIPSIS_BYTES
    elif point in (_SMALL_S, _BIG_S):
        quote, before = char_before(utf8, start, at)
        if before < at and quote in (_QUOTE, _RIGHT_QUOTE):
            longest = stop - before
    last = utf8[stop - 1]
    for unit in range(rules.unit_ranges[last], rules.unit_ranges[last + 1]):
        begin = rules.unit_ends[unit]
        size = rules.unit_ends[unit + 1] - begin
        if size <= longest:
            break
        digit = stop - size - 1
        if digit >= start and rules.by_char[utf8[digit]] & DIGIT:
            same = True
            for k in range(size):
                same &= utf8[digit + 1 + k] == rules.unit_text[begin + k]
            if same:
                return size
    return longest


@njit(_AT(UTF8, _AT, _AT, _AT, RULES))
def _flags_at(utf8, at, start, stop, rules):
    """What the character at `at` is; 0 outside the text from `start` to `stop`."""
    if at < start or at >= stop:
        return 0
    return _AT(rules.by_char[char_at(utf8, at)[0]])


@njit(_AT(UTF8, _AT, _AT, _AT, _AT, _AT, RULES))
def _infix(utf8, point, before, at, start, stop, rules):
    """Bytes of the infix that the character `point` at `at` opens, after one that is `before`; 0 for none."""
    if point == _DOT:
        dots = _dots_after(utf8, at, stop)
        if dots > 1:
            return dots
        inside = before & (LOWER | QUOTE) and _flags_at(utf8, at + 1, start, stop, rules) & (UPPER | QUOTE)
        return 1 if inside else 0
    if rules.by_char[point] & ICON:
        return char_at(utf8, at)[1]
    if point == _ELLIPSIS:
        return _ELLIPSIS_BYTES
    if before & DIGIT and point in (_PLUS, _DASH, _STAR, _CARET) and at + 1 < stop:
        after = utf8[at + 1]
        if after == _DASH or rules.by_char[after] & DIGIT:
            return 1
    if point == _COMMA:
        return 1 if before & LETTER and _flags_at(utf8, at + 1, start, stop, rules) & LETTER else 0
    if not before & (LETTER | DIGIT):
        return 0
    longest = 0
    if point == _DASH:
        longest = 3
    elif point == _EM_DASH:
        longest = 2
    elif point in (_EN_DASH, _TILDE, _COLON, _LESS, _EQUALS, _MORE, _SLASH):
        longest = 1
    end = at
    for _ in range(longest):
        if end >= stop:
            break
        again, width = char_at(utf8, end)
        if again != point:
            break
        end += width
        if _flags_at(utf8, end, start, stop, rules) & LETTER:
            return end - at
    return 0


@njit(_AT(_AT, _AT, STOPS, _AT))
def _cut(start, stop, stops, n):
    """Write where word `n` ends, if it is any; the number of words then."""
    if start < stop:
        stops[n] = stop
        n += 1
    return n


@njit(_AT(UTF8, _AT, _AT, RULES, STOPS, _AT))
def _cut_infixes(utf8, start, stop, rules, stops, n):
    """Write where the words end that infixes cut the text into, from word `n` on; the number of words then."""
    at, begin, before = start, start, 0
    while at < stop:
        point, width = char_at(utf8, at)
        # No infix opens the text: without a character before it, it would have been a prefix.
        size = _infix(utf8, point, before, at, start, stop, rules) if at > start else 0
        before = _AT(rules.by_char[point])
        if size:
            n = _cut(begin, at, stops, n)
            n = _cut(at, at + size, stops, n)
            begin = at + size
        at += max(size, width)
    return _cut(begin, stop, stops, n)


@njit(_AT(UTF8, _AT, _AT, _AT, _AT, RULES, STOPS, _AT))
def cut_chunk(utf8, start, stop, active, passive, rules, stops, n):
    """Write where the words of the chunk from `start` to `stop` end, from word `n` on; the number of words then.

    They cover the chunk. Its characters from `active` to `passive` hold all that are ACTIVE. There must be room for
    a word for every byte of the chunk: ``len(stops) >= n + stop - start``.
    """
    room = len(stops)
    suffixes, special = 0, -1
    while start < stop:
        special = find_special(utf8, start, stop, rules)
        if special >= 0 or stop <= active or start >= passive:
            break
        prefix = _prefix(utf8, start, stop, rules)
        if prefix:
            special = find_special(utf8, start + prefix, stop, rules)
            if special >= 0:
                n = _cut(start, start + prefix, stops, n)
                start += prefix
                break
        suffix = _suffix(utf8, start + prefix, stop, rules)
        if not prefix and not suffix:
            break
        if suffix:
            special = find_special(utf8, start, stop - suffix, rules)
            suffixes += 1
            stops[room - suffixes] = stop
            stop -= suffix
            if special >= 0:
                break
        if prefix:
            n = _cut(start, start + prefix, stops, n)
            start += prefix
    if special >= 0:
        n = cut_special(start, special, rules, stops, n)
    elif stop <= active or start >= passive or is_url(utf8, start, stop, rules):
        n = _cut(start, stop, stops, n)
    else:
        n = _cut_infixes(utf8, start, stop, rules, stops, n)
    for k in range(room - suffixes, room):
        stops[n] = stops[k]
        n += 1
    return n
