"""What a document's lines and paragraphs look like: how many, how long, how ended, and which come twice.

Serves FineWeb's quality rules (Penedo et al. 2024, arXiv:2406.17557; datatrove 0.9.0's FineWebQualityFilter), the
line and paragraph rules of Gopher's repetition rules (datatrove 0.9.0's GopherRepetitionFilter), MPT's rule on
paragraphs and the rules on code's line lengths. All their lines are cut at "\\n" alone, but they leave out different
ones:

nonblank line   has a character that is not whitespace; taken as it is, with whitespace at its ends.
rep line        what lies between runs of "\\n", ``re.split("\\n+", text)``: a line with only whitespace counts, one
                without characters does not, but at the document's beginning and end "\\n" leaves an empty one.
rep paragraph   what lies between runs of at least two "\\n" in the document without whitespace at its ends.
paragraph       nonblank lines that follow one another.
line            "longest_line_chars" looks at all of them.

A duplicate is each occurrence after the first; lines are the same when all their bytes are (by a 64-bit hash).

Letters: n documents, b bytes of text.
"""

import numpy as np
from winnow.filters.characters import (
    COUNTS,
    NEWLINE,
    SPACE,
    TERMINAL,
    count_chars,
    last_char,
    skip_space,
)
from winnow.filters.jit import OFFSETS, UTF8, njit, types
from winnow.filters.repetition import hash_bytes, load8

SHORT_LINE_CHARS = 30
"""The longest short line, FineWeb's."""

LINE_SIGNALS = {
    "nonblank_lines": "lines with a character that is not whitespace",
    "terminal_lines": "nonblank lines whose last character ends a sentence, as datatrove 0.9.0 lists them",
    "short_lines": f"nonblank lines of at most {SHORT_LINE_CHARS} characters",
    "dup_nonblank_line_chars": "characters of nonblank lines seen before",
    "paragraphs": "runs of nonblank lines",
    "rep_lines": "lines between runs of newlines",
    "dup_lines": "lines between runs of newlines, seen before",
    "dup_line_chars": "characters of lines between runs of newlines, seen before",
}
PARAGRAPH_SIGNALS = {
    "rep_paragraphs": "paragraphs between runs of two newlines or more",
    "dup_paragraphs": "paragraphs between runs of two newlines or more, seen before",
    "dup_paragraph_chars": "characters of such paragraphs seen before",
}
LINE_LENGTH_SIGNALS = {
    "newlines": "newlines",
    "line_chars": "characters that are not newlines",
    "longest_line_chars": "characters of the longest line",
}

_AT, _U64 = types.int64, types.uint64
HASH_SLOTS = types.Array(types.uint64, 1, "C")
"""uint64[2**k]: an open-addressing set of hashes, from `line_set`."""

_NEWLINES = int.from_bytes(bytes([NEWLINE] * 8), "little")
_LOW_BITS, _HIGH_BITS = 0x0101010101010101, 0x8080808080808080


@njit(_AT(UTF8, _AT, _AT))
def find_newline(utf8, at, end):
    """Where the first newline from `at` on is; `end` where there is none before it."""
    while at + 8 <= end:
        # A byte of `apart` is 0 where a newline is; the trick sets a high bit in each 0 byte, and perhaps above one.
        apart = load8(utf8, at) ^ _U64(_NEWLINES)
        if (apart - _U64(_LOW_BITS)) & ~apart & _U64(_HIGH_BITS):
            break
        at += 8
    while at < end and utf8[at] != NEWLINE:
        at += 1
    return at


@njit(_AT(UTF8, _AT, _AT))
def _filled_lines(utf8, start, stop):
    """Lines with characters between two places, or one more."""
    lines = 1
    for at in range(start + 1, stop):
        lines += (utf8[at] == NEWLINE) & (utf8[at - 1] != NEWLINE)
    return lines


@njit(_AT(OFFSETS, UTF8))
def most_lines(offsets, utf8):
    """Lines with characters of the document that has most, or one more."""
    most = 1
    for i in range(len(offsets) - 1):
        most = max(most, _filled_lines(utf8, offsets[i], offsets[i + 1]))
    return most


@njit(_AT(OFFSETS, UTF8))
def most_newlines(offsets, utf8):
    """Newlines of the document that has most."""
    most = 0
    for i in range(len(offsets) - 1):
        newlines = 0
        for at in range(offsets[i], offsets[i + 1]):
            newlines += utf8[at] == NEWLINE
        most = max(most, newlines)
    return most


def line_set(lines: int) -> np.ndarray:
    """Room for the hashes of so many lines: 16 to 32 bytes for each."""
    return np.empty(1 << (2 * lines).bit_length(), np.uint64)


@njit(_U64(HASH_SLOTS, _AT))
def _clear_set(slots, entries):
    """Empty as much of the set as `entries` hashes need; returns the mask of a slot number."""
    size = 4
    while size < 2 * entries:
        size *= 2
    for k in range(size):
        slots[k] = 0
    return _U64(size - 1)


@njit(types.boolean(HASH_SLOTS, _U64, _U64))
def _seen_before(slots, mask, key):
    """Whether the hash is in the set already; it is afterwards."""
    key |= _U64(1)  # 0 is an empty slot
    slot = (key >> _U64(32)) & mask
    while slots[slot] != 0:
        if slots[slot] == key:
            return True
        slot = (slot + _U64(1)) & mask
    slots[slot] = key
    return False


@njit(types.boolean(UTF8, _AT, _AT))
def _is_short(utf8, start, stop):
    """Whether a line has at most `SHORT_LINE_CHARS` characters, of at most 4 bytes each."""
    if stop - start <= SHORT_LINE_CHARS:
        return True
    return stop - start <= 4 * SHORT_LINE_CHARS and count_chars(utf8, start, stop) <= SHORT_LINE_CHARS


@njit(types.UniTuple(_AT, 8)(UTF8, _AT, _AT, UTF8, UTF8, HASH_SLOTS))
def _count_lines(utf8, begin, end, by_byte, by_char, slots):
    """`LINE_SIGNALS`, in their order, of one document."""
    mask = _clear_set(slots, _filled_lines(utf8, begin, end))
    nonblank = terminal = short = dup_nonblank_chars = paragraphs = 0
    filled = dup_filled = dup_filled_chars = 0
    after_blank = True
    start = begin
    while start < end:
        stop = find_newline(utf8, start, end)
        if stop == start:
            after_blank = True
            start += 1
            continue
        filled += 1
        first, _, _ = skip_space(utf8, start, stop, by_byte, by_char)
        has_text = first < stop
        if has_text:
            nonblank += 1
            kind, _ = last_char(utf8, start, stop, by_byte, by_char)
            terminal += (kind & TERMINAL) != 0
            short += _is_short(utf8, start, stop)
            paragraphs += after_blank
        after_blank = not has_text
        if _seen_before(slots, mask, hash_bytes(utf8, start, stop)):
            chars = count_chars(utf8, start, stop)
            dup_filled += 1
            dup_filled_chars += chars
            dup_nonblank_chars += chars * has_text
        start = stop + 1
    opens = end > begin and utf8[begin] == NEWLINE
    closes = end > begin and utf8[end - 1] == NEWLINE
    rep_lines = filled + opens + closes + (end == begin)
    gopher = rep_lines, dup_filled + (opens & closes), dup_filled_chars
    return (nonblank, terminal, short, dup_nonblank_chars, paragraphs, *gopher)


@njit(types.void(OFFSETS, UTF8, UTF8, UTF8, HASH_SLOTS, COUNTS))
def scan_lines(offsets, utf8, by_byte, by_char, slots, counts):
    """Fill `counts` with `LINE_SIGNALS`."""
    for i in range(len(offsets) - 1):
        document = _count_lines(utf8, offsets[i], offsets[i + 1], by_byte, by_char, slots)
        for row in range(len(document)):
            counts[row, i] = document[row]


@njit(types.UniTuple(_AT, 3)(UTF8, _AT, _AT, UTF8, UTF8, HASH_SLOTS))
def _count_paragraphs(utf8, begin, end, by_byte, by_char, slots):
    """`PARAGRAPH_SIGNALS`, in their order, of one document."""
    start, _, _ = skip_space(utf8, begin, end, by_byte, by_char)
    while end > start:
        kind, at = last_char(utf8, start, end, by_byte, by_char)
        if not kind & SPACE:
            break
        end = at
    mask = _clear_set(slots, _filled_lines(utf8, start, end))
    paragraphs = duplicates = duplicate_chars = 0
    at = start
    while start < end:
        at = find_newline(utf8, at, end)
        if at < end and utf8[at + 1] != NEWLINE:  # no newline is the last byte: whitespace is cut off
            at += 1
            continue
        paragraphs += 1
        if _seen_before(slots, mask, hash_bytes(utf8, start, at)):
            duplicates += 1
            duplicate_chars += count_chars(utf8, start, at)
        while at < end and utf8[at] == NEWLINE:
            at += 1
        start = at
    return max(paragraphs, 1), duplicates, duplicate_chars


@njit(types.void(OFFSETS, UTF8, UTF8, UTF8, HASH_SLOTS, COUNTS))
def scan_paragraphs(offsets, utf8, by_byte, by_char, slots, counts):
    """Fill `counts` with `PARAGRAPH_SIGNALS`."""
    for i in range(len(offsets) - 1):
        document = _count_paragraphs(utf8, offsets[i], offsets[i + 1], by_byte, by_char, slots)
        for row in range(len(document)):
            counts[row, i] = document[row]


@njit(types.void(OFFSETS, UTF8, COUNTS))
def scan_line_lengths(offsets, utf8, counts):
    """Fill `counts` with `LINE_LENGTH_SIGNALS`."""
    for i in range(len(offsets) - 1):
        begin, end = offsets[i], offsets[i + 1]
        newlines = longest = 0
        start = begin
        while start < end:
            stop = find_newline(utf8, start, end)
            if stop - start > longest:
                longest = max(longest, count_chars(utf8, start, stop))
            newlines += stop < end
            start = stop + 1
        counts[0, i] = newlines
        counts[1, i] = count_chars(utf8, begin, end) - newlines
        counts[2, i] = longest
