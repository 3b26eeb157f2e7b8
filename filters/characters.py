"""What is a character: the tables that say so, how one is read from UTF-8, and counts of characters.

A character is a code point, and what it is (whitespace, alphabetic, alphanumeric) is what Python's ``str`` methods
say of it. The kernels here are called by those that scan words and lines.

Letters: n documents, b bytes of text.
"""

from functools import cache

import numpy as np
from winnow.filters.jit import OFFSETS, UTF8, njit, types

# What a character is, as bits. A byte >= 0x80 is WIDE until its character is decoded.
SPACE, ALPHA, HASH, DOT, WIDE, ALNUM, TERMINAL = 1, 2, 4, 8, 16, 32, 64
NEWLINE = ord("\n")

# First and last code point of each run of TERMINAL_PUNCTUATION of datatrove 0.9.0 (utils/text.py), hexadecimal.
_TERMINAL_RUNS = """
21 2E 3F 589 61D-61F 6D4 700-702 7F9 837 839 83D-83E 964-965 104A-104B 1362 1367-1368 166E 1735-1736
17D4-17D6 17D9-17DA 1803 1809 1944-1945 1AA8-1AAB 1B5A-1B5B 1B5E-1B5F 1B7D-1B7E 1C3B-1C3C 1C7E-1C7F
203C-203D 2047-2049 2E2E 2E3C 2E53-2E54 3002 A4FF A60E-A60F A6F3 A6F7 A876-A877 A8CE-A8CF A92F A9C8-A9C9
AA5D-AA5F AAF0-AAF1 ABEB FE52 FE56-FE57 FF01 FF0E FF1F FF61 10A56-10A57 10F55-10F59 10F86-10F89
11047-11048 110BE-110C1 11141-11143 111C5-111C6 111CD 111DE-111DF 11238-11239 1123B-1123C 112A9
1144B-1144C 115C2-115C3 115C9-115D7 11641-11642 1173C-1173E 11944 11946 11A42-11A43 11A9B-11A9C
11C41-11C42 11EF7-11EF8 11F43-11F44 16A6E-16A6F 16AF5 16B37-16B38 16B44 16E98 1BC9F 1DA88
"""

CHARACTER_SIGNALS = {
    "alpha_chars": "alphabetic characters",
    "alnum_chars": "alphanumeric characters",
}
TOP_CHAR_SIGNALS = {
    "top_char_count": "occurrences of the most common character that is not whitespace",
    "top_char_alpha": "1 where that character is alphabetic, else 0",
}
COUNTS = types.Array(types.uint64, 2, "C")
"""uint64[s, n]: one row a signal, filled by a kernel, every element."""

_AT = types.int64
_HISTOGRAM = types.Array(types.uint32, 1, "C")


def terminal_punctuation() -> str:
    """The characters that end a sentence in some script, as datatrove 0.9.0 lists them for FineWeb."""
    runs = (run.partition("-") for run in _TERMINAL_RUNS.split())
    return "".join(chr(c) for low, _, high in runs for c in range(int(low, 16), int(high or low, 16) + 1))


@cache
def character_tables() -> tuple[np.ndarray, np.ndarray]:
    """``(by_byte, by_char)``: bits of what a byte, or a code point, is: uint8[256] and uint8[2**21].

    NumPy asks the running interpreter's Unicode tables, as ``str.isalpha`` and ``str.isspace`` do, so signals
    agree with the Python that computed them. About 30 ms, so at first use and not at import.
    """
    every_char = np.arange(0x110000, dtype=np.uint32).view("U1")
    # 2**21 is what 4 bytes can decode to, were they no UTF-8: never out of bounds.
    by_char = np.zeros(1 << 21, np.uint8)
    by_char[:0x110000] = np.strings.isspace(every_char) * np.uint8(SPACE)
    by_char[:0x110000] |= np.strings.isalpha(every_char) * np.uint8(ALPHA)
    by_char[:0x110000] |= np.strings.isalnum(every_char) * np.uint8(ALNUM)
    by_char[[ord("."), ord("…")]] |= DOT
    by_char[ord("#")] |= HASH
    by_char[[ord(c) for c in terminal_punctuation()]] |= TERMINAL
    by_byte = np.full(256, WIDE, np.uint8)
    by_byte[:128] = by_char[:128]
    for table in (by_byte, by_char):
        table.flags.writeable = False
    return by_byte, by_char


@njit(types.UniTuple(_AT, 2)(UTF8, _AT))
def decode(utf8, at):
    """``(code point, bytes it takes)`` of the character at `at`, one of two bytes or more in valid UTF-8."""
    lead = _AT(utf8[at])
    if lead < 0xE0:
        return (lead & 0x1F) << 6 | (utf8[at + 1] & 0x3F), 2
    if lead < 0xF0:
        return (lead & 0x0F) << 12 | (utf8[at + 1] & 0x3F) << 6 | (utf8[at + 2] & 0x3F), 3
    point = (lead & 0x07) << 18 | (utf8[at + 1] & 0x3F) << 12 | (utf8[at + 2] & 0x3F) << 6
    return point | (utf8[at + 3] & 0x3F), 4


@njit(types.UniTuple(_AT, 2)(UTF8, _AT, _AT, UTF8, UTF8))
def last_char(utf8, start, stop, by_byte, by_char):
    """``(bits of the last character before stop, where it begins)``; `start` has to lie before `stop`."""
    at = stop - 1
    while at > start and utf8[at] & 0xC0 == 0x80:
        at -= 1
    kind = _AT(by_byte[utf8[at]])
    if kind & WIDE:
        point, _ = decode(utf8, at)
        kind = _AT(by_char[point])
    return kind, at


@njit(types.UniTuple(_AT, 3)(UTF8, _AT, _AT, UTF8, UTF8))
def skip_space(utf8, at, end, by_byte, by_char):
    """Walk over whitespace from `at`: ``(where it ends, newlines in it, characters in it)``."""
    newlines = chars = 0
    while at < end:
        kind, width = by_byte[utf8[at]], 1
        if kind & WIDE:
            point, width = decode(utf8, at)
            kind = by_char[point]
        if not kind & SPACE:
            break
        newlines += utf8[at] == NEWLINE
        chars += 1
        at += width
    return at, newlines, chars


@njit(_AT(UTF8, _AT, _AT))
def count_chars(utf8, start, stop):
    """Characters between two places: all bytes but those that continue one."""
    chars = 0
    for at in range(start, stop):
        chars += utf8[at] & 0xC0 != 0x80
    return chars


@njit(types.void(OFFSETS, UTF8, UTF8, UTF8, COUNTS))
def scan_letters(offsets, utf8, by_byte, by_char, counts):
    """Fill `counts` with `CHARACTER_SIGNALS`."""
    for i in range(len(offsets) - 1):
        alpha = alnum = 0
        at, end = offsets[i], offsets[i + 1]
        while at < end:
            kind, width = by_byte[utf8[at]], 1
            if kind & WIDE:
                point, width = decode(utf8, at)
                kind = by_char[point]
            alpha += (kind & ALPHA) != 0
            alnum += (kind & ALNUM) != 0
            at += width
        counts[0, i] = alpha
        counts[1, i] = alnum


@njit(types.UniTuple(_AT, 2)(UTF8, _AT))
def _read_char(utf8, at):
    """``(code point, bytes it takes)`` of the character at `at`."""
    if utf8[at] < 0x80:
        return _AT(utf8[at]), 1
    return decode(utf8, at)


@njit(types.void(OFFSETS, UTF8, UTF8, _HISTOGRAM, COUNTS))
def scan_top_char(offsets, utf8, by_char, histogram, counts):
    """Fill `counts` with `TOP_CHAR_SIGNALS`; of equally common characters the one seen first counts.

    `histogram` is uint32[2**21], all zero, and is left so: every document is walked twice.
    """
    for i in range(len(offsets) - 1):
        at, end = offsets[i], offsets[i + 1]
        while at < end:
            point, width = _read_char(utf8, at)
            histogram[point] += types.uint32(1)
            at += width
        best = best_alpha = 0
        at = offsets[i]
        while at < end:
            point, width = _read_char(utf8, at)
            kind = by_char[point]
            if histogram[point] > best and not kind & SPACE:
                best, best_alpha = _AT(histogram[point]), _AT((kind & ALPHA) != 0)
            histogram[point] = 0
            at += width
        counts[0, i] = best
        counts[1, i] = best_alpha
