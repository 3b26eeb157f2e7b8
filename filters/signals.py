"""What a document's text looks like in numbers: the counts that quality rules are made of.

Serves Gopher's quality rules (Rae et al. 2021, arXiv:2112.11446, appendix A) and rules on length. One pass
over an Arrow column's bytes gives every count of `SIGNALS`; a rule then divides and compares (rules.py).

Terms, all as Python's ``str`` methods have them, so that a count can be checked by hand:

character       a code point.
whitespace      what ``str.isspace`` accepts, Unicode's too: U+001C to U+001F, U+0085, U+00A0, U+2028, U+3000.
word            a run of characters that are not whitespace: exactly ``str.split()``. Punctuation stays on it.
alphabetic      a word with at least one character that ``str.isalpha`` accepts.
ellipsis        "...", counted without overlap as ``str.count`` does, or "…".
line            what "\\n" ends; text after the last "\\n" is a line too; an empty document has none. Blank
                lines count.
bullet line     a line whose first character after leading whitespace is "•" or "-". Gopher does not name the
                characters; these are datatrove's.
ellipsis line   a line that ends in an ellipsis, whitespace at its end (also the "\\r" of "\\r\\n") ignored.
stop words      how many *different* ones of `STOP_WORDS` are words of the document, in exactly this spelling.

Where datatrove's GopherQualityFilter (0.9.0) counts otherwise: its words are spaCy's tokens, which cut
punctuation off, and its word count and mean length leave out tokens that are all punctuation; its lines are
``str.splitlines()``, which also cuts at "\\r", "\\v", "\\f", U+001C to U+001E, U+0085, U+2028 and U+2029.

Letters: n documents, b bytes of text, s signals.
"""

from functools import cache

import numpy as np
import pyarrow as pa
from winnow.filters.jit import OFFSETS, UTF8, njit, text_buffers, types

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
"""Gopher's. Each is ASCII and at most 4 bytes: the kernel packs a word's bytes into one integer."""

SIGNALS = {
    "bytes": "bytes of UTF-8",
    "chars": "characters (code points)",
    "words": "runs of characters that are not whitespace",
    "word_chars": "characters inside words: all that are not whitespace",
    "alpha_words": "words with at least one alphabetic character",
    "hashes": "'#' characters",
    "ellipses": "'...' without overlap, and '…'",
    "lines": "lines, blank ones among them",
    "bullet_lines": "lines that open with '•' or '-'",
    "ellipsis_lines": "lines that end in '...' or '…'",
    "stop_words": "different stop words present, of " + ", ".join(STOP_WORDS),
}
"""Signal name -> what it counts; the order is the order of the kernel's output rows."""

# What a character is, as bits. A byte >= 0x80 is WIDE until its character is decoded.
_SPACE, _ALPHA, _HASH, _DOT, _WIDE = 1, 2, 4, 8, 16
_MARKS = _HASH | _DOT
_NEWLINE, _HASH_BYTE, _DOT_BYTE, _DASH_BYTE = (ord(c) for c in "\n#.-")
_THREE_DOTS, _ELLIPSIS, _BULLET = (int.from_bytes(c.encode(), "big") for c in ("...", "…", "•"))

_LONGEST_STOP_WORD = max(map(len, STOP_WORDS))
# The leading 1 keeps a NUL in front from being lost: "\0be" is not "be".
_STOP_KEYS = tuple(int.from_bytes(b"\1" + word.encode(), "big") for word in STOP_WORDS)

_AT = types.int64


def scan(texts: pa.LargeStringArray) -> dict[str, np.ndarray]:
    """Every signal of every document: ``{name: uint64[n]}`` with the names of `SIGNALS`.

    `texts` may be a slice; it is read in place. A document's signals depend on nothing but its text.
    Memory: 8 bytes per signal and document, and 2 MB of character tables once per process. uint64 wraps
    when subtracted: divide, or cast first.

    Raises
    ------
    TypeError
        `texts` is not a LargeStringArray.
    ValueError
        It has nulls.
    """
    offsets, utf8 = text_buffers(texts)
    counts = np.empty((len(SIGNALS), len(texts)), np.uint64)
    _scan_documents(offsets, utf8, *_character_tables(), counts)
    return dict(zip(SIGNALS, counts, strict=True))


@cache
def _character_tables() -> tuple[np.ndarray, np.ndarray]:
    """``(by_byte, by_char)``: bits of what a byte, or a code point, is: uint8[256] and uint8[2**21].

    NumPy asks the running interpreter's Unicode tables, as ``str.isalpha`` and ``str.isspace`` do, so signals
    agree with the Python that computed them. About 20 ms, so at first use and not at import.
    """
    every_char = np.arange(0x110000, dtype=np.uint32).view("U1")
    by_char = np.zeros(
        1 << 21, np.uint8
    )  # what 4 bytes can decode to, were they no UTF-8: never out of bounds
    by_char[:0x110000] = np.strings.isspace(every_char) * np.uint8(_SPACE)
    by_char[:0x110000] |= np.strings.isalpha(every_char) * np.uint8(_ALPHA)
    by_char[[ord("."), ord("…")]] |= _DOT
    by_char[ord("#")] |= _HASH
    by_byte = np.full(256, _WIDE, np.uint8)
    by_byte[:128] = by_char[:128]
    for table in (by_byte, by_char):
        table.flags.writeable = False
    return by_byte, by_char


@njit(types.UniTuple(_AT, 2)(UTF8, _AT))
def _decode(utf8, at):
    """``(code point, bytes it takes)`` of the character at `at`, one of two bytes or more in valid UTF-8."""
    lead = _AT(utf8[at])
    if lead < 0xE0:
        return (lead & 0x1F) << 6 | (utf8[at + 1] & 0x3F), 2
    if lead < 0xF0:
        return (lead & 0x0F) << 12 | (utf8[at + 1] & 0x3F) << 6 | (utf8[at + 2] & 0x3F), 3
    point = (lead & 0x07) << 18 | (utf8[at + 1] & 0x3F) << 12 | (utf8[at + 2] & 0x3F) << 6
    return point | (utf8[at + 3] & 0x3F), 4


@njit(types.UniTuple(_AT, 3)(UTF8, _AT, _AT, UTF8, UTF8))
def _skip_space(utf8, at, end, by_byte, by_char):
    """Walk over whitespace from `at`: ``(where it ends, newlines in it, characters in it)``."""
    newlines = chars = 0
    while at < end:
        kind, width = by_byte[utf8[at]], 1
        if kind & _WIDE:
            point, width = _decode(utf8, at)
            kind = by_char[point]
        if not kind & _SPACE:
            break
        newlines += utf8[at] == _NEWLINE
        chars += 1
        at += width
    return at, newlines, chars


@njit(types.UniTuple(_AT, 4)(UTF8, _AT, _AT, UTF8, UTF8))
def _read_word(utf8, start, end, by_byte, by_char):
    """Walk over the word at `start`: ``(where it ends, bits of all its characters, its characters, key)``.

    `key` is 1 followed by the bytes of an ASCII word of at most 4 bytes; that of a longer one overflows, and
    that of a word with other characters is negative while the word is so short.
    """
    kinds, key = 0, 1
    at, continuation = start, 0
    while at < end:
        kind = by_byte[utf8[at]]
        if kind & (_SPACE | _WIDE):
            if kind & _SPACE:
                break
            point, width = _decode(utf8, at)
            if by_char[point] & _SPACE:
                break
            kinds |= by_char[point]
            key = -1
            continuation += width - 1
            at += width
        else:
            kinds |= kind
            key = key << 8 | _AT(utf8[at])
            at += 1
    return at, kinds, at - start - continuation, key


@njit(_AT(UTF8, _AT, _AT))
def _three_bytes(utf8, at, end):
    """The three bytes at `at` as one integer, the first one highest; -1 where `end` comes before."""
    if at + 3 > end:
        return -1
    return _AT(utf8[at]) << 16 | _AT(utf8[at + 1]) << 8 | _AT(utf8[at + 2])


@njit(types.Tuple((_AT, _AT, types.boolean))(UTF8, _AT, _AT))
def _read_marks(utf8, start, end):
    """Of the word from `start` to `end`: ``('#' characters, ellipses, whether it ends in an ellipsis)``."""
    hashes = ellipses = dots = 0
    for at in range(start, end):
        if utf8[at] == _DOT_BYTE:
            dots += 1
            if dots == 3:
                ellipses += 1
                dots = 0
            continue
        dots = 0
        hashes += utf8[at] == _HASH_BYTE
        ellipses += _three_bytes(utf8, at, end) == _ELLIPSIS
    last = _three_bytes(utf8, end - 3, end) if end - start >= 3 else -1
    return hashes, ellipses, last in (_THREE_DOTS, _ELLIPSIS)


@njit(_AT(_AT))
def _stop_word_bit(key):
    """A bit of its own for the key of each stop word; 0 for any other word's."""
    bits = 0
    for k in range(len(_STOP_KEYS)):
        bits |= _AT(key == _STOP_KEYS[k]) << k
    return bits


@njit(_AT(_AT))
def _count_bits(bits):
    """How many bits of a number that is not negative are set."""
    count = 0
    while bits:
        count += bits & 1
        bits >>= 1
    return count


@njit(types.UniTuple(_AT, 10)(UTF8, _AT, _AT, UTF8, UTF8))
def _scan_document(utf8, begin, end, by_byte, by_char):
    """The signals from "chars" on of the document from `begin` to `end`, in the order of `SIGNALS`.

    One turn of the loop is a gap (whitespace, maybe none) and the word after it; only a word with a mark
    in it is read a second time.
    """
    space_chars = words = word_chars = alpha_words = hashes = ellipses = 0
    newlines = bullet_lines = ellipsis_lines = stop_bits = 0
    line_is_blank, line_ends_in_ellipsis = True, False
    at = begin
    while True:
        at, gap_newlines, gap_chars = _skip_space(utf8, at, end, by_byte, by_char)
        space_chars += gap_chars
        if gap_newlines:
            newlines += gap_newlines
            ellipsis_lines += line_ends_in_ellipsis
            line_is_blank, line_ends_in_ellipsis = True, False
        if at >= end:  # beyond it only where the text breaks off within a character
            break
        start = at
        at, kinds, chars, key = _read_word(utf8, start, end, by_byte, by_char)
        words += 1
        word_chars += chars
        alpha_words += (kinds & _ALPHA) != 0
        if line_is_blank:
            bullet_lines += utf8[start] == _DASH_BYTE or _three_bytes(utf8, start, end) == _BULLET
            line_is_blank = False
        line_ends_in_ellipsis = False
        if kinds & _MARKS:
            word_hashes, word_ellipses, line_ends_in_ellipsis = _read_marks(utf8, start, at)
            hashes += word_hashes
            ellipses += word_ellipses
        if at - start <= _LONGEST_STOP_WORD:
            stop_bits |= _stop_word_bit(key)
    # A newline at the very end has closed its line above; text without one is a line too.
    lines = newlines + (end > begin and utf8[end - 1] != _NEWLINE)
    ellipsis_lines += line_ends_in_ellipsis
    in_words = words, word_chars, alpha_words, hashes, ellipses
    in_lines = lines, bullet_lines, ellipsis_lines
    return (space_chars + word_chars, *in_words, *in_lines, _count_bits(stop_bits))


@njit(types.void(OFFSETS, UTF8, UTF8, UTF8, types.Array(types.uint64, 2, "C")))
def _scan_documents(offsets, utf8, by_byte, by_char, counts):
    """Fill every row of `counts`, signal by signal as in `SIGNALS`.

    Parameters
    ----------
    offsets : int64[n + 1]
    utf8 : uint8[b]
        Valid UTF-8, each document for itself. Not checked here: the reader has. Other bytes give other counts,
        and up to three bytes past the end may be read.
    by_byte, by_char : uint8[256], uint8[2**21]
        From `_character_tables`.
    counts : uint64[s, n]
        Filled, every element; what it held before does not matter.
    """
    for i in range(len(offsets) - 1):
        begin, end = offsets[i], offsets[i + 1]
        document = _scan_document(utf8, begin, end, by_byte, by_char)
        counts[0, i] = end - begin
        for row in range(len(document)):
            counts[row + 1, i] = document[row]
