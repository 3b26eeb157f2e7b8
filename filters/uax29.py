"""Where does a word begin and end: Unicode's default word boundaries.

Unicode Standard Annex #29, section 4.1, rules WB3 to WB999, without tailoring; the property table is that of
uax29_table.py. Whoever counts words as DCLM does needs these (Li et al. 2024, arXiv:2406.11794: uniseg's words).

segment     what lies between two neighbouring boundaries: a word, a run of spaces, one comma, one "\\n".
word        a segment whose first character is a letter or a digit, as ``str.isalnum`` says: DCLM's way to leave
            punctuation out. So "_x" is no word, "x_" is one, and "'tis" is "'" and the word "tis".

uniseg 0.10.1 and ICU without dictionaries give the same segments, but for characters younger than their tables.
ICU as it is shipped cuts Thai, Lao, Khmer, Burmese, Chinese and Japanese by dictionary; UAX #29 makes every
ideograph, and every Thai letter with its marks, a segment of its own.

Letters: b bytes of text.
"""

import base64
import itertools
import zlib
from functools import cache

import numpy as np
from winnow.filters.characters import decode
from winnow.filters.jit import UTF8, njit, types
from winnow.filters.repetition import load8
from winnow.filters.uax29_table import CLASSES, PACKED, PICTOGRAPHIC

_CLASS, _PICTOGRAPHIC, _WORD_START, _WIDE = 31, PICTOGRAPHIC, 64, 128
"""Bits of a character: its class, and what else it is; `_WIDE` is a byte whose character has to be decoded."""


def _classes(*names: str) -> int:
    return sum(1 << CLASSES.index(name) for name in names)


_LETTERS = _classes("ALetter", "Hebrew_Letter")
_DIGITS = _classes("Numeric")
_PLAIN = _LETTERS | _DIGITS
_BREAKS = _classes("CR", "LF", "Newline")
_IGNORED = _classes("Extend", "Format", "ZWJ")
_IN_LETTERS = _classes("MidLetter", "MidNumLet", "Single_Quote")
_IN_DIGITS = _classes("MidNum", "MidNumLet", "Single_Quote")
_KATAKANA = _classes("Katakana")
_CONNECTOR = _classes("ExtendNumLet")
_HEBREW = _classes("Hebrew_Letter")
_OTHER, _CR, _LF = (CLASSES.index(name) for name in ("Other", "CR", "LF"))
_ZWJ, _SPACE, _FLAG = (CLASSES.index(name) for name in ("ZWJ", "WSegSpace", "Regional_Indicator"))
_APOSTROPHE, _QUOTE = (CLASSES.index(name) for name in ("Single_Quote", "Double_Quote"))
_UNDERSCORE, _NEWLINE = ord("_"), ord("\n")
_A, _Z, _0, _9 = (ord(c) for c in "az09")
_EVERY = 0x0101010101010101
_LOW_BITS = 0x7F * _EVERY
_PLACES = 0x0001020304050607
"""Times 2 ** (8 * k), has k in its highest byte."""

_AT, _U64 = types.int64, types.uint64


@cache
def character_tables() -> tuple[np.ndarray, np.ndarray]:
    """``(by_byte, by_char)``: what a byte, or a code point, is: uint8[256] and uint8[2**21], read only.

    Whether a word may start at a character is asked of the running interpreter, as DCLM does. 2 MB, made in about
    20 ms at the first call.
    """
    packed = zlib.decompress(base64.b85decode(PACKED.replace("\n", "")))
    by_char = np.zeros(1 << 21, np.uint8)  # what 4 bytes can decode to, were they no UTF-8
    point = distance = shift = 0
    bytes_left = iter(packed)
    for byte in bytes_left:
        distance |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            point += distance
            by_char[point:] = next(bytes_left)
            distance = shift = 0
    by_char[0x110000:] = 0
    every_char = np.arange(0x110000, dtype=np.uint32).view("U1")
    by_char[:0x110000] |= np.strings.isalnum(every_char) * np.uint8(_WORD_START)
    by_byte = np.full(256, _WIDE, np.uint8)
    by_byte[:128] = by_char[:128]
    for table in (by_byte, by_char):
        table.flags.writeable = False
    return by_byte, by_char


@njit(types.UniTuple(_AT, 2)(UTF8, _AT, UTF8, UTF8))
def _character(utf8, at, by_byte, by_char):
    """``(bits, bytes it takes)`` of the character at `at`."""
    kind = _AT(by_byte[utf8[at]])
    if kind & _WIDE:
        point, width = decode(utf8, at)
        return _AT(by_char[point]), width
    return kind, 1


@njit(types.UniTuple(_AT, 3)(UTF8, _AT, _AT, UTF8, UTF8))
def _next_that_counts(utf8, at, end, by_byte, by_char):
    """Skip what WB4 ignores: ``(class of the character after it, where that ends, characters up to there)``."""
    chars = 0
    while at < end:
        kind, width = _character(utf8, at, by_byte, by_char)
        at += width
        chars += 1
        if not (1 << (kind & _CLASS)) & _IGNORED:
            return kind & _CLASS, at, chars
    return _OTHER, at, chars


@njit(types.boolean(_AT, _AT))
def _join(left, right):
    """Whether two classes side by side are joined, whatever stands around them: WB5, WB8 to WB10, WB13 to 13b."""
    a, b = 1 << left, 1 << right
    if a & _PLAIN:
        return (b & (_PLAIN | _CONNECTOR)) != 0
    if a & _CONNECTOR:
        return (b & (_PLAIN | _CONNECTOR | _KATAKANA)) != 0
    return a & _KATAKANA and b & (_KATAKANA | _CONNECTOR)


@njit(_AT(_AT, _AT))
def _wanted_after(left, right):
    """Classes of which one has to follow for `right` to be joined to `left`: WB6, 7, 7b, 7c, 11, 12; 0 for none."""
    a, b = 1 << left, 1 << right
    if a & _LETTERS and b & _IN_LETTERS:
        return _LETTERS
    if a & _DIGITS and b & _IN_DIGITS:
        return _DIGITS
    if a & _HEBREW and right == _QUOTE:
        return _HEBREW
    return 0


@njit(types.UniTuple(_AT, 2)(UTF8, _AT, _AT, _AT, UTF8, UTF8))
def _rest_of_segment(utf8, at, end, left, by_byte, by_char):
    """Walk on from `at`, inside a segment: ``(where it ends, characters walked over)``.

    left : class of the character before `at`, which is the first of the segment, or a letter or digit.
    """
    chars = 0
    before = left  # of the very character before; `left` is of the last one that WB4 does not ignore
    flags_odd = left == _FLAG
    while at < end:
        kind, width = _character(utf8, at, by_byte, by_char)
        right = kind & _CLASS
        bit = 1 << right
        if bit & _BREAKS:
            break
        if (before == _ZWJ and kind & _PICTOGRAPHIC) or (before == _SPACE and right == _SPACE):
            left = right
        elif bit & _IGNORED:
            pass
        elif _join(left, right):
            left = right
        elif left == _FLAG and right == _FLAG and flags_odd:
            flags_odd = False
        else:
            wanted = _wanted_after(left, right)
            joined = False
            if wanted:
                follower, after, passed = _next_that_counts(utf8, at + width, end, by_byte, by_char)
                if (1 << follower) & wanted:
                    joined = True
                    chars += passed
                    width = after - at
                    left = right = follower
            if not joined:
                if not ((1 << left) & _HEBREW and right == _APOSTROPHE):  # WB7a
                    break
                left = right
        before = right
        chars += 1
        at += width
    return at, chars


@njit(types.UniTuple(_AT, 3)(UTF8, _AT, _AT, UTF8, UTF8))
def next_segment(utf8, at, end, by_byte, by_char):
    """The segment at `at`: ``(bits of its first character, where it ends, its characters)``."""
    kind, width = _character(utf8, at, by_byte, by_char)
    left = kind & _CLASS
    if left == _CR and at + 1 < end and utf8[at + 1] == 10:
        return kind, at + 2, 2
    if (1 << left) & _BREAKS:
        return kind, at + width, 1
    stop, chars = _rest_of_segment(utf8, at + width, end, left, by_byte, by_char)
    return kind, stop, chars + 1


@njit(types.UniTuple(_AT, 3)(UTF8, _AT, _AT, UTF8, UTF8))
def next_word(utf8, at, end, by_byte, by_char):
    """The first word at or after the boundary `at`: ``(where it begins, where it ends, its characters)``.

    All three are `end`, `end`, 0 when there is none. Most text goes through two short loops: over what is ASCII and
    no letter, and over ASCII letters and digits up to an ASCII character that cannot go on a word.
    """
    while at < end:
        kind = _AT(by_byte[utf8[_U64(at)]])
        if kind & _WORD_START:
            start = at
            while at < end and by_byte[utf8[_U64(at)]] & _WORD_START:
                at += 1
            if at == end:
                return start, at, at - start
            kind = _AT(by_byte[utf8[_U64(at)]])
            right = 1 << (kind & _CLASS)
            if not (kind & _WIDE or right & (_PLAIN | _CONNECTOR | _IN_LETTERS | _IN_DIGITS)):
                return start, at, at - start
            left = _AT(by_byte[utf8[_U64(at - 1)]]) & _CLASS
            stop, chars = _rest_of_segment(utf8, at, end, left, by_byte, by_char)
            return start, stop, at - start + chars
        # A character of ASCII is a segment, or a space of one, where ASCII follows, "_" excepted.
        if not kind & _WIDE and utf8[_U64(at)] != _UNDERSCORE and (at + 1 == end or utf8[_U64(at + 1)] < 128):
            at += 1
            continue
        start = at
        kind, at, chars = next_segment(utf8, start, end, by_byte, by_char)
        if kind & _WORD_START:
            return start, at, chars
    return end, end, 0


@njit(types.boolean(UTF8, _AT, _AT))
def _is_blank(utf8, at, stop):
    """Whether all of ``utf8[at:stop]`` is whitespace."""
    while at < stop:
        point, width = decode(utf8, at) if utf8[at] >= 128 else (_AT(utf8[at]), _AT(1))
        if not (
            point == 32
            or 9 <= point <= 13
            or 0x2000 <= point <= 0x200A
            or point in (0x85, 0xA0, 0x1680, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000)
        ):
            return False
        at += width
    return True


@njit(_AT(UTF8, _AT, _AT, UTF8))
def _skip_word(utf8, at, end, by_byte):
    """Where the letters and digits of ASCII end that begin at `at`, eight bytes at a time."""
    while at + 8 <= len(utf8):
        eight = load8(utf8, at)
        seven_bits = eight & _U64(_LOW_BITS)
        small = seven_bits | _U64(0x20 * _EVERY)
        # The highest bit of each byte tells whether it is in the range; bytes of 7 bits do not carry over.
        letters = (small + _U64((0x80 - _A) * _EVERY)) & ~(small + _U64((0x7F - _Z) * _EVERY))
        digits = (seven_bits + _U64((0x80 - _0) * _EVERY)) & ~(seven_bits + _U64((0x7F - _9) * _EVERY))
        others = ~((letters | digits) & ~eight) & _U64(0x80 * _EVERY)
        if others:
            lowest = others & (~others + _U64(1))
            return min(end, at + _AT(((lowest >> _U64(7)) * _U64(_PLACES)) >> _U64(56)))
        at += 8
        if at >= end:
            return end
    while at < end and by_byte[utf8[_U64(at)]] & _WORD_START:
        at += 1
    return at


@njit(_AT(UTF8, _AT, _AT, UTF8, UTF8))
def _end_of_word(utf8, at, end, by_byte, by_char):
    """Where the segment ends that opens with the letter or digit of ASCII at `at`."""
    while True:
        at = _skip_word(utf8, at, end, by_byte)
        if at == end:
            return at
        right = _AT(by_byte[utf8[_U64(at)]])
        if not (right & _WIDE or (1 << (right & _CLASS)) & (_CONNECTOR | _IN_LETTERS | _IN_DIGITS)):
            return at
        left = _AT(by_byte[utf8[_U64(at - 1)]]) & _CLASS
        after = _AT(by_byte[utf8[_U64(at + 1)]]) if at + 1 < end else _OTHER
        if right & _WIDE or after & _WIDE or (1 << (right & _CLASS)) & _CONNECTOR:
            stop, _ = _rest_of_segment(utf8, at, end, left, by_byte, by_char)
            return stop
        if not _wanted_after(left, right & _CLASS) & (1 << (after & _CLASS)):
            return at
        at += 1


@njit(types.UniTuple(_AT, 2)(UTF8, _AT, _AT, UTF8, UTF8))
def next_token(utf8, at, end, by_byte, by_char):
    """The first token or "\\n" at or after the boundary `at`: ``(where it begins, where it ends)``.

    Both are `end` when there is none. A "\\n" is no token, but who splits paragraphs has to see it. What is ASCII, and
    has ASCII around it, is told apart by a byte and the one or two after it.
    """
    while at < end:
        byte = utf8[_U64(at)]
        if by_byte[byte] & _WORD_START:
            return at, _end_of_word(utf8, at, end, by_byte, by_char)
        if byte == _NEWLINE:
            return at, at + 1
        # A character of ASCII is a segment, or a space of one, where ASCII follows, "_" excepted.
        if byte < 128 and byte != _UNDERSCORE and (at + 1 == end or utf8[_U64(at + 1)] < 128):
            at += 1
            if byte != 32 and not 9 <= byte <= 13:
                return at - 1, at
            continue
        start = at
        _, at, _ = next_segment(utf8, start, end, by_byte, by_char)
        if not _is_blank(utf8, start, at):
            return start, at
    return end, end


@njit(_AT(UTF8, UTF8, UTF8, types.Array(types.int64, 1, "C")))
def _all_stops(utf8, by_byte, by_char, stops):
    """Where every segment of `utf8` ends, into int64[>= b]; returns how many there are."""
    found = at = 0
    while at < len(utf8):
        _, at, _ = next_segment(utf8, at, len(utf8), by_byte, by_char)
        stops[found] = at
        found += 1
    return found


def split(text: str) -> list[str]:
    """All segments of a text, in order; nothing is left out, so that ``"".join(split(text)) == text``.

    Raises UnicodeEncodeError where `text` has lone surrogates.
    """
    encoded = text.encode()
    stops = np.empty(len(encoded), np.int64)
    found = _all_stops(np.frombuffer(encoded, np.uint8), *character_tables(), stops)
    places = [0, *stops[:found].tolist()]
    return [encoded[a:b].decode() for a, b in itertools.pairwise(places)]
