"""What is a text with its white space tidied: one pass that copies it and leaves out, or replaces, what is asked.

The steps, which the pass takes together, as if each ran over the whole text after the one before:

1. line ends: whatever ends a line for ``str.splitlines`` becomes "\\n": "\\r\\n", "\\r", "\\v", "\\f", U+001C to
   U+001E, U+0085, U+2028, U+2029;
2. control characters go: Unicode's Cc without tab, and without what ends lines;
3. zero-width characters go: U+200B, U+2060, U+FEFF. (Not U+200C and U+200D, which Persian, Indic scripts and
   emoji need.)
4. no-break spaces (U+00A0, U+2007, U+202F) become spaces;
5. runs of spaces and tabs become one space;
6. trailing whitespace goes from every line, as ``str.rstrip`` finds it;
7. of more than so many newlines in a row, only so many stay.

Letters: n documents, b bytes of text.
"""

import sys
from functools import cache

import numpy as np
import pyarrow as pa
from winnow.filters.jit import OFFSETS, UTF8, njit, text_buffers, types

# What a character is, as bits; OPENS: a byte that may open a character of two or three bytes that is anything.
_SPACE, _LINE_END, _CONTROL, _ZERO_WIDTH, _NO_BREAK, _BLANK, _OPENS = 1, 2, 4, 8, 16, 32, 64
_NEWLINE, _RETURN = ord("\n"), ord("\r")

_AT = types.int64
_OUT = types.Array(types.uint8, 1, "C")
_OFFSETS_OUT = types.Array(types.int64, 1, "C")


def tidy(
    texts: pa.LargeStringArray,
    *,
    line_ends: bool,
    control_chars: bool,
    zero_width: bool,
    no_break_spaces: bool,
    runs: bool,
    trailing: bool,
    max_newlines: int | None,
) -> pa.LargeStringArray:
    """The texts after the steps that are on, all in one new array; none grows.

    Memory: the output is as large as the input.

    Raises
    ------
    TypeError
        `texts` is not a LargeStringArray.
    ValueError
        It has nulls.
    """
    offsets, utf8 = text_buffers(texts)
    new_offsets = np.empty(len(texts) + 1, np.int64)
    out = np.empty(offsets[-1] - offsets[0], np.uint8)
    removed = _CONTROL * control_chars | _ZERO_WIDTH * zero_width
    replaced = _LINE_END * line_ends | _NO_BREAK * no_break_spaces | _BLANK * runs
    most = sys.maxsize if max_newlines is None else max_newlines
    _tidy(offsets, utf8, *_tables(), removed, replaced, trailing, most, new_offsets, out)
    return pa.LargeStringArray.from_buffers(len(texts), pa.py_buffer(new_offsets), pa.py_buffer(out))


@cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """``(by_byte, by_char)``: bits of a byte and of a code point below 2**16: uint8[256], uint8[65536]."""
    by_char = np.zeros(1 << 16, np.uint8)
    for point in range(1 << 16):
        char = chr(point)
        if char.isspace():
            by_char[point] |= _SPACE
            if len(f"a{char}b".splitlines()) > 1:
                by_char[point] |= _LINE_END
    control = by_char[:0xA0]
    control[[*range(0x20), *range(0x7F, 0xA0)]] |= _CONTROL
    control[(control & _LINE_END) != 0] &= ~np.uint8(_CONTROL)
    by_char[ord("\t")] &= ~np.uint8(_CONTROL)
    by_char[[0x200B, 0x2060, 0xFEFF]] |= _ZERO_WIDTH
    by_char[[0xA0, 0x2007, 0x202F]] |= _NO_BREAK
    by_char[[ord(" "), ord("\t")]] |= _BLANK
    by_byte = np.zeros(256, np.uint8)
    by_byte[:128] = by_char[:128]
    leads = {chr(point).encode()[0] for point in np.flatnonzero(by_char) if point > 127}
    by_byte[sorted(leads)] = _OPENS
    for table in (by_byte, by_char):
        table.flags.writeable = False
    return by_byte, by_char


@njit(types.UniTuple(_AT, 2)(UTF8, _AT, _AT, UTF8))
def _wide(utf8, at, end, by_char):
    """``(bits, bytes it takes)`` of the character of two or three bytes at `at`."""
    lead = _AT(utf8[at])
    if lead < 0xE0:
        point, width = (lead & 0x1F) << 6 | (utf8[at + 1] & 0x3F), 2
    else:
        point, width = (lead & 0x0F) << 12 | (utf8[at + 1] & 0x3F) << 6 | (utf8[at + 2] & 0x3F), 3
    return _AT(by_char[point]), min(width, end - at)


@njit(_AT(UTF8, _AT, _AT, UTF8, UTF8, _AT, _AT, types.boolean, _AT, _OUT, _AT))
def _tidy_document(utf8, at, end, by_byte, by_char, removed, replaced, trailing, most, out, write):
    """Write the document from `at` to `end` to `out` from `write` on; returns where it ends there."""
    line = write  # where the line in `out` begins
    solid = write  # and the end of the last character in it that is not whitespace
    newlines = 0
    after_blank = False
    while at < end:
        byte = utf8[at]
        kind, width = _AT(by_byte[byte]), 1
        if not kind:
            out[write] = byte
            write += 1
            at += 1
            solid = write
            after_blank = False
            continue
        if kind & _OPENS:
            kind, width = _wide(utf8, at, end, by_char)
        if kind & removed:
            at += width
            continue
        if byte == _NEWLINE or kind & replaced & _LINE_END:
            width += byte == _RETURN and at + 1 < end and utf8[at + 1] == _NEWLINE
            at += width
            if trailing:
                write = solid
            newlines = newlines + 1 if write == line else 1
            if newlines <= most:
                out[write] = _NEWLINE
                write += 1
            line = solid = write
            after_blank = False
            continue
        as_space = kind & replaced & _NO_BREAK
        if replaced & _BLANK and (as_space or kind & _BLANK):
            if after_blank:
                at += width
                continue
            as_space = after_blank = True
        else:
            after_blank = False
        if as_space:
            out[write] = ord(" ")
            write += 1
        else:
            for k in range(width):
                out[write + k] = utf8[at + k]
            write += width
        at += width
        if not kind & _SPACE:
            solid = write
    return solid if trailing else write


@njit(types.void(OFFSETS, UTF8, UTF8, UTF8, _AT, _AT, types.boolean, _AT, _OFFSETS_OUT, _OUT))
def _tidy(offsets, utf8, by_byte, by_char, removed, replaced, trailing, most, new_offsets, out):
    """Fill `new_offsets`, int64[n + 1], and `out`, uint8[b], of which the end may stay unused.

    removed, replaced: bits of the characters to leave out, and of those to put another in place of. `most`:
    newlines that may follow each other. Other than valid UTF-8 gives other text; up to two bytes past the end
    may be read.
    """
    new_offsets[0] = 0
    for i in range(len(offsets) - 1):
        new_offsets[i + 1] = _tidy_document(
            utf8, offsets[i], offsets[i + 1], by_byte, by_char, removed, replaced, trailing, most, out,
            new_offsets[i],
        )  # fmt: skip
