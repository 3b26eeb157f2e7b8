"""What does a line of text say that C4's rules ask about: citations, phrases, its end, its sentences?

The kernels that c4_lines.py calls on one line; what they look for is defined there. Letters: b bytes of text.
"""

import sys
import unicodedata
from functools import cache

import numpy as np
from winnow.filters.jit import OFFSETS, UTF8, njit, types

POLICY = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)
"""Phrases that drop a line: datatrove's, and those of the C4 code in tensorflow-datasets."""

# What a byte is. A byte that may open whitespace of two or three bytes is WIDE; every BREAK is SPACE too.
SPACE, BREAK, WIDE, BRACKET, _MARK, _CLOSER, _CURLY = 1, 2, 4, 8, 16, 32, 64
_OPEN, _CLOSE, _DOT, _K, _K_BYTE = (ord(c) for c in "[].k\xe2")

_PHRASES = ("lorem ipsum", "javascript", *POLICY)
_CITATIONS = ("edit]", "citation needed]")
LOREM_BIT, JAVASCRIPT_BIT, POLICY_BITS, CURLY_BIT = 1, 2, 0xFC, 0x100

# Titles whose full stop ends no sentence, packed as `_is_short_form` reads them: from the last letter on.
_TITLE_KEYS = tuple(int.from_bytes(title.encode(), "big") for title in ("Mr", "Mrs", "Ms", "Dr", "St"))
_TERMINAL = tuple(b".?!\"'")

_AT = types.int64
OUT = types.Array(types.uint8, 1, "C")
"""uint8[b]: text that a kernel writes."""


@cache
def lookups() -> tuple[np.ndarray, ...]:
    """What the kernels look up: ``(kinds, zeros, first, second, phrases, ends)``.

    kinds: uint8[256], bits of a byte. zeros: int64, the code point of "0" in every script that has decimal
    digits; its other nine follow it. first, second: uint8[256], bit p where a byte may be the first or second
    of phrase p. phrases, ends: all phrases on end, then what closes a citation, and where each stops.
    """
    kinds = np.zeros(256, np.uint8)
    for byte in range(128):
        char = chr(byte)
        kinds[byte] |= SPACE * char.isspace() | BREAK * (len(f"a{char}b".splitlines()) > 1)
        kinds[byte] |= BRACKET * (char == "[") | _MARK * (char in ".?!") | _CLOSER * (char in "\"')]")
        kinds[byte] |= _CURLY * (char == "{")
    kinds[[0xC2, 0xE1, 0xE2, 0xE3]] |= WIDE
    digits = (c for c in map(chr, range(sys.maxunicode + 1)) if c.isdecimal())
    zeros = np.array([ord(c) for c in digits if unicodedata.decimal(c) == 0], np.int64)
    first = np.zeros(256, np.uint8)
    second = first.copy()
    for p, phrase in enumerate(_PHRASES):
        for table, char in ((first, phrase[0]), (second, phrase[1])):
            table[[ord(char), ord(char.upper())]] |= np.uint8(1 << p)
    phrases = np.frombuffer("".join(_PHRASES + _CITATIONS).encode(), np.uint8)
    ends = np.cumsum([len(phrase) for phrase in _PHRASES + _CITATIONS], dtype=np.int64)
    tables = kinds, zeros, first, second, phrases, ends
    for each in tables:
        each.flags.writeable = False
    return tables


def _wide_kind(text, at):
    """``(bits of SPACE and BREAK, bytes it takes)`` of the character at `at`, whose first byte is WIDE."""
    lead, next_byte = text[at], text[at + 1]
    if lead == 0xC2:
        if next_byte == 0x85:
            return SPACE | BREAK, 2
        return SPACE * (next_byte == 0xA0), 2
    last = text[at + 2]
    if lead == 0xE2 and next_byte == 0x80:
        if last == 0xA8 or last == 0xA9:
            return SPACE | BREAK, 3
        return SPACE * (last <= 0x8A or last == 0xAF), 3
    space = (lead == 0xE2 and next_byte == 0x81 and last == 0x9F) or (
        last == 0x80 and ((lead == 0xE1 and next_byte == 0x9A) or (lead == 0xE3 and next_byte == 0x80))
    )
    return SPACE * space, 3


# Asked of the input, which is read-only, and of the output, which is not: two types to numba.
wide_kind = njit(types.UniTuple(_AT, 2)(UTF8, _AT))(_wide_kind)
_wide_kind_out = njit(types.UniTuple(_AT, 2)(OUT, _AT))(_wide_kind)


@njit(_AT(UTF8, _AT, OFFSETS))
def _digit_width(utf8, at, zeros):
    """Bytes of the decimal digit at `at`, a character of any script; 0 where it is none."""
    lead = _AT(utf8[at])
    if lead < 0x80:
        return _AT(0x30 <= lead <= 0x39)
    if lead < 0xE0:
        point, width = (lead & 0x1F) << 6 | (utf8[at + 1] & 0x3F), 2
    elif lead < 0xF0:
        point, width = (lead & 0x0F) << 12 | (utf8[at + 1] & 0x3F) << 6 | (utf8[at + 2] & 0x3F), 3
    else:
        point = (lead & 0x07) << 18 | (utf8[at + 1] & 0x3F) << 12 | (utf8[at + 2] & 0x3F) << 6
        point, width = point | (utf8[at + 3] & 0x3F), 4
    for z in range(len(zeros)):
        if zeros[z] <= point < zeros[z] + 10:
            return width
    return 0


@njit(_AT(UTF8, _AT, _AT, OFFSETS, UTF8, OFFSETS))
def _citation_end(utf8, at, end, zeros, phrases, ends):
    """Where the citation mark ends that the "[" at `at` opens; `at` where it opens none."""
    inside = at + 1
    while inside < end:
        width = _digit_width(utf8, inside, zeros)
        if not width:
            break
        inside += width
    if inside < end and utf8[inside] == _CLOSE:
        return inside + 1
    for p in range(len(_PHRASES), len(ends)):
        length = ends[p] - ends[p - 1]
        same = at + 1 + length <= end
        i = 0
        while same and i < length:
            same = utf8[at + 1 + i] == phrases[ends[p - 1] + i]
            i += 1
        if same:
            return at + 1 + length
    return at


@njit(_AT(UTF8, _AT, _AT, _AT, OFFSETS, UTF8, OFFSETS, OUT, _AT))
def write_line(utf8, at, end, citations, zeros, phrases, ends, out, write):
    """Copy the line from `at` to `end`, without its citations if asked; returns where `out` then ends."""
    if not citations:
        for i in range(end - at):
            out[write + i] = utf8[at + i]
        return write + end - at
    while at < end:
        if utf8[at] == _OPEN:
            after = _citation_end(utf8, at, end, zeros, phrases, ends)
            if after > at:
                at = after
                continue
        out[write] = utf8[at]
        write += 1
        at += 1
    return write


@njit(types.boolean(OUT, _AT, _AT, UTF8, _AT, _AT))
def _says(out, at, end, phrases, begin, stop):
    """Whether lower case of what is at `at` begins with the phrase from `begin` to `stop`."""
    while begin < stop:
        if at >= end:
            return False
        byte = _AT(out[at])
        if byte == _K_BYTE and at + 2 < end and out[at + 1] == 0x84 and out[at + 2] == 0xAA:
            byte = _K
            at += 2
        if 0x41 <= byte <= 0x5A:
            byte += 0x20
        if byte != phrases[begin]:
            return False
        begin += 1
        at += 1
    return True


@njit(_AT(OUT, _AT, _AT, UTF8))
def _after_closers(out, at, end, kinds):
    """Where the quotes and brackets at `at` end that may close a sentence."""
    while at < end:
        if kinds[out[at]] & _CLOSER:
            at += 1
        elif out[at] == 0xE2 and out[at + 1] == 0x80 and (out[at + 2] == 0x99 or out[at + 2] == 0x9D):
            at += 3
        else:
            break
    return at


@njit(_AT(OUT, _AT, _AT, UTF8))
def space_width(out, at, end, kinds):
    """Bytes of the whitespace character at `at`; 0 where it is none."""
    kind, width = _AT(kinds[out[at]]), 1
    if kind & WIDE:
        kind, width = _wide_kind_out(out, at)
    return width if kind & SPACE else 0


@njit(types.boolean(OUT, _AT, _AT))
def _is_short_form(out, begin, dot):
    """Whether what the "." at `dot` follows is an initial or a title."""
    key = letters = 0
    at = dot - 1
    while at >= begin and letters < 4 and 0x61 <= (out[at] | 0x20) <= 0x7A:
        key |= _AT(out[at]) << 8 * letters
        letters += 1
        at -= 1
    if not letters or (at >= begin and (out[at] >= 0x80 or 0x30 <= out[at] <= 0x39)):
        return False
    return letters == 1 or key in _TITLE_KEYS


@njit(types.UniTuple(_AT, 2)(OUT, _AT, _AT, UTF8, UTF8, UTF8, UTF8, OFFSETS))
def read_kept(out, begin, end, kinds, first, second, phrases, ends):
    """Of a line without its citations: ``(bits of the phrases in it and of "{", sentences)``."""
    found = sentences = 0
    rest = begin
    for at in range(begin, end):
        byte = out[at]
        following = out[at + 1] if at + 1 < end else np.uint8(0)
        maybe = first[byte] & second[following]
        p = 0
        while maybe:
            if maybe & 1 and _says(out, at, end, phrases, ends[p - 1] if p else 0, ends[p]):
                found |= 1 << p
            maybe >>= 1
            p += 1
        kind = kinds[byte]
        if kind & _CURLY:
            found |= CURLY_BIT
        if kind & _MARK and not kinds[following] & _MARK:
            closed = _after_closers(out, at + 1, end, kinds)
            parted = closed == end or space_width(out, closed, end, kinds) > 0
            weak = byte == _DOT and ((at > begin and out[at - 1] == _DOT) or _is_short_form(out, begin, at))
            if parted and not weak:
                sentences += 1
                rest = closed
    while rest < end and space_width(out, rest, end, kinds):
        rest += space_width(out, rest, end, kinds)
    return found, sentences + (rest < end or not sentences)


@njit(types.boolean(OUT, _AT, _AT))
def ends_well(out, begin, end):
    """Whether the last character is terminal punctuation, and no ellipsis."""
    if begin == end:
        return False
    last = out[end - 1]
    if last != _DOT:
        return last in _TERMINAL
    return not (end - begin >= 3 and out[end - 2] == _DOT and out[end - 3] == _DOT)
