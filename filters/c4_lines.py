"""Which lines of a document does C4 keep, and what is left of it: one pass that reads lines and writes the kept.

A line is what ``str.splitlines`` gives, stripped as ``str.strip`` does; a word is one of ``str.split()``. Of
each line, in this order (datatrove 0.9.0's C4QualityFilter, after Raffel et al., arXiv:1910.10683, section 2.2):

1. a word of too many characters drops the line;
2. citation marks are taken out: ``[12]`` and ``[]`` (any of Unicode's decimal digits), ``[edit]``,
   ``[citation needed]``; what is asked from here on is asked of the line without them, but the words are those
   counted with them;
3. an end that is none of ``. ? ! " '``, or is ``...``, drops it;
4. too few words drop it;
5. "lorem ipsum" in it drops the document;
6. "javascript" in it drops the line;
7. ``{`` in it drops the document;
8. a phrase of `POLICY` in it drops the line.

Phrases are looked for in ``str.lower()`` of the line: K (U+212A, the Kelvin sign) is a "k" there, and no other
character beyond ASCII becomes one of their letters at a place where it counts. What drops the document is the
first of 5 and 7 that is met; reading goes on as if that rule were off.

A sentence ends with a run of ``. ? !``, then quotes and brackets that close it (``" ' ) ] ’ ”``, maybe none),
then whitespace or the line's end. A "." ends none after another ".", nor alone after an initial or title: one
ASCII letter, or Mr, Mrs, Ms, Dr, St, with the line's begin or an ASCII character before it that is no letter or
digit. What follows the last end is a sentence too, and a line has at least one.

Letters: n documents, b bytes of text, r signals.
"""

import sys

import numpy as np
import pyarrow as pa
from winnow.filters.c4_text import (
    BRACKET,
    BREAK,
    CURLY_BIT,
    JAVASCRIPT_BIT,
    LOREM_BIT,
    OUT,
    POLICY_BITS,
    SPACE,
    WIDE,
    ends_well,
    lookups,
    read_kept,
    space_width,
    wide_kind,
    write_line,
)
from winnow.filters.jit import OFFSETS, UTF8, njit, text_buffers, types

SIGNALS = {
    "lines": "lines, blank ones among them",
    "lines_kept": "lines that stay",
    "lines_long_word": "lines dropped for a word of too many characters",
    "lines_no_punctuation": "lines dropped for an end without terminal punctuation",
    "lines_few_words": "lines dropped for too few words",
    "lines_javascript": "lines dropped for the word javascript",
    "lines_policy": "lines dropped for a phrase about cookies, privacy or terms of use",
    "lorem_ipsum": "1 where a line with 'lorem ipsum' was met before one with '{'",
    "curly_bracket": "1 where a line with '{' was met before one with 'lorem ipsum'",
    "sentences": "sentences in the lines that stay",
}
"""Signal name -> what it counts; the order is the order of the kernel's output rows."""
(
    _LINES,
    _KEPT,
    _LONG_WORD,
    _NO_PUNCTUATION,
    _FEW_WORDS,
    _JAVASCRIPT,
    _POLICY,
    _LOREM_IPSUM,
    _CURLY_BRACKET,
    _SENTENCES,
) = range(len(SIGNALS))

_NEWLINE, _RETURN = ord("\n"), ord("\r")

_AT = types.int64
_OFFSETS_OUT = types.Array(types.int64, 1, "C")
_COUNTS = types.Array(types.uint32, 2, "C")
_SWITCHES = types.UniTuple(_AT, 7)


def keep_lines(
    texts: pa.LargeStringArray,
    *,
    max_word_chars: int | None,
    min_words: int | None,
    citations: bool,
    terminal_punctuation: bool,
    lorem_ipsum: bool,
    javascript: bool,
    curly_bracket: bool,
    policy: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The kept lines of every document, joined by newlines: ``(offsets, utf8, signals)``.

    Returns int64[n + 1], uint8[b] and uint32[r, n] with the rows of `SIGNALS`; document i is
    ``utf8[offsets[i]:offsets[i + 1]]``. Whitespace that taking out citations leaves at the ends of a document
    is still there: lines can be told apart at newlines, and `strip_documents` has yet to run. Where a rule is
    off (None, False), its signal is 0. Memory: the output is as large as the input.

    Raises
    ------
    TypeError
        `texts` is not a LargeStringArray.
    ValueError
        It has nulls.
    """
    offsets, utf8 = text_buffers(texts)
    kept_offsets = np.empty(len(texts) + 1, np.int64)
    kept = np.empty(offsets[-1] - offsets[0], np.uint8)
    signals = np.empty((len(SIGNALS), len(texts)), np.uint32)
    switches = (
        sys.maxsize if max_word_chars is None else max_word_chars,
        0 if min_words is None else min_words,
        int(citations),
        int(terminal_punctuation),
        int(lorem_ipsum),
        JAVASCRIPT_BIT * javascript | POLICY_BITS * policy,
        int(curly_bracket),
    )
    _keep_lines(offsets, utf8, *lookups(), switches, kept_offsets, kept, signals)
    return kept_offsets, kept, signals


def strip_documents(offsets: np.ndarray, utf8: np.ndarray) -> None:
    """Take whitespace off both ends of every document, in place, as ``str.strip`` does; they move up."""
    _strip_documents(lookups()[0], offsets, utf8)


def count_long_lines(texts: pa.LargeStringArray, min_chars: int) -> np.ndarray:
    """How many lines of each document, as "\\n" parts them, have so many characters (at least 1): uint32[n].

    Raises what `keep_lines` raises.
    """
    counts = np.empty(len(texts), np.uint32)
    _count_long_lines(*text_buffers(texts), min_chars, counts)
    return counts


@njit(types.UniTuple(_AT, 6)(UTF8, _AT, _AT, UTF8))
def _read_line(utf8, at, end, kinds):
    """Of the line at `at`: ``(first byte, end of its last word, next line, words, longest word in bytes, bits)``."""
    first = last = at
    words = longest = 0
    bits = 0
    while at < end:
        kind, width = _AT(kinds[utf8[at]]), 1
        if kind & WIDE:
            kind, width = wide_kind(utf8, at)
        if kind & BREAK:
            # "\r\n" is one end of line.
            width += utf8[at] == _RETURN and at + 1 < end and utf8[at + 1] == _NEWLINE
            return first, last, at + width, words, longest, bits
        if kind & SPACE:
            at += width
            continue
        start = at
        while at < end:
            kind = _AT(kinds[utf8[at]])
            if kind & (SPACE | WIDE):
                if kind & SPACE:
                    break
                kind, width = wide_kind(utf8, at)
                if kind & SPACE:
                    break
                at += width
            else:
                bits |= kind
                at += 1
        last = min(at, end)
        if not words:
            first = start
        words += 1
        longest = max(longest, last - start)
    return first, last, end, words, longest, bits


@njit(_AT(UTF8, _AT, _AT, UTF8))
def _longest_word(utf8, at, end, kinds):
    """Characters of the longest word in the line from `at` to `end`."""
    longest = chars = 0
    while at < end:
        kind, width = _AT(kinds[utf8[at]]), 1
        if kind & WIDE:
            kind, width = wide_kind(utf8, at)
        if kind & SPACE:
            chars = 0
        elif width > 1 or utf8[at] & 0xC0 != 0x80:
            chars += 1
            longest = max(longest, chars)
        at += width
    return longest


@njit(
    types.void(
        UTF8, _AT, _AT, UTF8, OFFSETS, UTF8, UTF8, UTF8, OFFSETS, _SWITCHES, _OFFSETS_OUT, OUT, _COUNTS, _AT
    )
)
def _keep_lines_of(
    utf8, at, end, kinds, zeros, first, second, phrases, ends, switches, kept_offsets, out, signals, i
):
    """Document i, from `at` to `end`: fill ``signals[:, i]`` and `out` from ``kept_offsets[i]`` on."""
    max_word_chars, min_words, citations, terminal_punctuation, lorem_ipsum, dropping, curly_bracket = (
        switches
    )
    write = kept_offsets[i]
    for row in range(len(signals)):
        signals[row, i] = 0
    while at < end:
        begin, stop, at, words, longest, bits = _read_line(utf8, at, end, kinds)
        signals[_LINES, i] += 1
        if longest > max_word_chars and _longest_word(utf8, begin, stop, kinds) > max_word_chars:
            signals[_LONG_WORD, i] += 1
            continue
        line = write + (signals[_KEPT, i] > 0)
        cited = citations and bits & BRACKET
        line_end = write_line(utf8, begin, stop, cited, zeros, phrases, ends, out, line)
        if terminal_punctuation and not ends_well(out, line, line_end):
            signals[_NO_PUNCTUATION, i] += 1
            continue
        if words < min_words:
            signals[_FEW_WORDS, i] += 1
            continue
        found, sentences = read_kept(out, line, line_end, kinds, first, second, phrases, ends)
        dropped_already = signals[_LOREM_IPSUM, i] + signals[_CURLY_BRACKET, i]
        if lorem_ipsum and found & LOREM_BIT and not dropped_already:
            signals[_LOREM_IPSUM, i] = 1
            dropped_already = 1
        if found & dropping & JAVASCRIPT_BIT:
            signals[_JAVASCRIPT, i] += 1
            continue
        if curly_bracket and found & CURLY_BIT and not dropped_already:
            signals[_CURLY_BRACKET, i] = 1
        if found & dropping & POLICY_BITS:
            signals[_POLICY, i] += 1
            continue
        if signals[_KEPT, i]:
            out[write] = _NEWLINE
        signals[_KEPT, i] += 1
        signals[_SENTENCES, i] += sentences
        write = line_end
    kept_offsets[i + 1] = write


@njit(
    types.void(OFFSETS, UTF8, UTF8, OFFSETS, UTF8, UTF8, UTF8, OFFSETS, _SWITCHES, _OFFSETS_OUT, OUT, _COUNTS)
)
def _keep_lines(
    offsets, utf8, kinds, zeros, first, second, phrases, ends, switches, kept_offsets, out, signals
):
    """Fill `kept_offsets`, `out` and `signals` for every document.

    Parameters
    ----------
    offsets, utf8 : int64[n + 1], uint8[b]
        Valid UTF-8, each document for itself; of other bytes, up to three past the end may be read.
    kinds, zeros, first, second, phrases, ends
        From `lookups`.
    switches
        Longest word, fewest words, whether to take out citations and to ask for terminal punctuation, whether
        "lorem ipsum" drops a document, bits of the phrases that drop a line, whether "{" drops a document.
    kept_offsets, out, signals : int64[n + 1], uint8[b], uint32[r, n]
        Filled; what they held before does not matter. No line is longer when written than when read, and the
        newline before it takes the place of at least one byte that ended a line.
    """
    kept_offsets[0] = 0
    for i in range(len(offsets) - 1):
        _keep_lines_of(
            utf8, offsets[i], offsets[i + 1], kinds, zeros, first, second, phrases, ends, switches,
            kept_offsets, out, signals, i,
        )  # fmt: skip


@njit(types.void(UTF8, _OFFSETS_OUT, OUT))
def _strip_documents(kinds, offsets, out):
    """Strip every document of `out` and close the gaps; `offsets` then tells where they are."""
    write = 0
    begin = offsets[0]
    for i in range(len(offsets) - 1):
        end = offsets[i + 1]
        width = 1
        while begin < end and width:
            width = space_width(out, begin, end, kinds)
            begin += width
        stop = end
        while stop > begin:
            last = stop - 1
            while out[last] & 0xC0 == 0x80 and last > begin:
                last -= 1
            if not space_width(out, last, stop, kinds):
                break
            stop = last
        if write != begin:
            for k in range(stop - begin):
                out[write + k] = out[begin + k]
        offsets[i] = write
        write += stop - begin
        begin = end
    offsets[len(offsets) - 1] = write


@njit(types.void(OFFSETS, UTF8, _AT, types.Array(types.uint32, 1, "C")))
def _count_long_lines(offsets, utf8, min_chars, counts):
    """Fill `counts`, uint32[n]."""
    for i in range(len(counts)):
        long_lines = chars = 0
        for at in range(offsets[i], offsets[i + 1]):
            if utf8[at] == _NEWLINE:
                long_lines += chars >= min_chars
                chars = 0
            else:
                chars += utf8[at] & 0xC0 != 0x80
        counts[i] = long_lines + (chars >= min_chars)
