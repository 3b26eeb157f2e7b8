"""Which lines of a page does DCLM drop, and what does it cut out of the others?

Steps 18 and 19 of DCLM-Baseline's heuristics (mlfoundations/dclm, dclm_baseline_refinedweb.yaml and modifiers.py,
after RefinedWeb, Penedo et al. 2023, arXiv:2306.01116, appendix G). Each runs over the lines of ``text.split("\\n")``
that the one before has left; after each but the fourth the text is stripped of whitespace at its two ends, and what
is then the first or last line is a shorter one for the next. Characters, digits and capitals are Python's.

1. capitals     more than `max_upper_frac` of a line's characters are upper case: the line goes.
2. digits       more than `max_digit_frac` are digits: the line goes; all of them, by DCLM's 0.999999.
3. counters     the line is a number and one of `COUNTED`, as "3.5k likes", with anything around that is neither
                letter nor digit: the line goes.
4. short        fewer than `min_words` words of ``str.split()``: the line goes. Lines without characters stay.
5. cuts         in lines of at most `max_cut_words` words, in any case: "items in cart" anywhere, then "Read more" with
                any three characters at the end, then "Sign-in" at the beginning; one whitespace character beside it
                goes, too. A line that is whitespace now goes.

DCLM's list says "Read more...", and its dots are the wildcards of a regular expression: "Read more at" goes as
"Read more..." does, while "Read more »" (two characters) and "Read more…" (one) stay.

The kernel does 1, 2 and 4, and finds the few documents in which 3 or 5 might have something to do. Those are done
by `re`, line by line, from the beginning.

Letters: n documents, b bytes of text, l lines of one document.
"""

import re
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from winnow.filters.characters import NEWLINE, decode
from winnow.filters.jit import OFFSETS, UTF8, njit, text_buffers, types
from winnow.filters.line_signals import most_newlines

COUNTED = (
    "likes", "shares", "comments", "retweets", "reposts", "quotes", "bookmarks", "upvotes", "downvotes", "downloads",
    "views", "followers",
)  # fmt: skip
"""What a counter counts."""
_COUNTER = re.compile(rf"^\W*\d(?:,|\.|\d)*[kmb]?\s+(?:{'|'.join(COUNTED)})\W*$")
_CUTS = (
    re.compile(r"\s?items in cart", re.IGNORECASE),
    re.compile(r"\s?read more...$", re.IGNORECASE),
    re.compile(r"^sign-in\s?", re.IGNORECASE),
)

# What a character is, as bits. A byte >= 0x80 is WIDE until its character is decoded.
_SPACE, _UPPER, _DIGIT, _WORD, _DECIMAL, _ALPHA, _WIDE = 1, 2, 4, 8, 16, 32, 64
_SMALL = _WORD | _ALPHA
_CART, _MORE, _GN = (int.from_bytes(part, "big") for part in (b"cart", b"more", b"gn-"))
_LONGEST_COUNTED = max(map(len, COUNTED))
# A word's length and its last seven letters.
_COUNTED_KEYS = tuple(len(word) << 56 | int.from_bytes(word[-7:].encode(), "big") for word in COUNTED)
_SPACE_BYTE = ord(" ")
_OFF = 2.0  # no share is that large
_LONG_S, _LAST_OF_KELVIN = "ſ".encode()[0], "\u212a".encode()[-1]

_AT, _U64, _F64 = types.int64, types.uint64, types.float64
_OUT = types.Array(types.uint8, 1, "C")
_OFFSETS_OUT = types.Array(types.int64, 1, "C")
_FLAGS = types.Array(types.uint8, 1, "C")
_LINES = types.Array(types.int64, 2, "C")
# Columns of `lines`: where a line and its text begin and end, characters of it and of the whitespace at its two
# ends, upper case characters, digits, words.
_START, _STOP, _TEXT_START, _TEXT_STOP, _CHARS, _LEAD, _TRAIL, _UPPERS, _DIGITS, _WORDS = range(10)


def drop_lines(
    texts: pa.LargeStringArray,
    *,
    max_upper_frac: float | None,
    max_digit_frac: float | None,
    counters: bool,
    min_words: int,
    max_cut_words: int,
) -> pa.LargeStringArray:
    """The texts after the five steps; None, False and 0 switch a step off.

    Where no text changes, the very same array comes back. Memory: up to two more copies of the texts, and 80 bytes
    for each line of the document with most.

    Raises
    ------
    TypeError
        `texts` is not a LargeStringArray.
    ValueError
        It has nulls.
    """
    offsets, utf8 = text_buffers(texts)
    n = len(texts)
    undecided = np.zeros(n, np.uint8)
    new_offsets, out = np.empty(n + 1, np.int64), np.empty(offsets[-1] - offsets[0], np.uint8)
    upper = _OFF if max_upper_frac is None else float(max_upper_frac)
    digit = _OFF if max_digit_frac is None else float(max_digit_frac)
    lines = np.empty((most_newlines(offsets, utf8) + 1, 10), np.int64)
    bounds = upper, digit, counters, min_words, max_cut_words
    _drop_lines(offsets, utf8, *_character_tables(), *bounds, lines, new_offsets, out, undecided)
    new = pa.LargeStringArray.from_buffers(n, pa.py_buffer(new_offsets), pa.py_buffer(out))
    if undecided.any():
        done = [_rewrite(texts[int(i)].as_py(), *bounds) for i in np.flatnonzero(undecided)]
        new = pc.replace_with_mask(new, pa.array(undecided.astype(bool)), pa.array(done, texts.type))
    # Text is only ever taken out.
    new_offsets, _ = text_buffers(new)
    return texts if new_offsets[-1] - new_offsets[0] == offsets[-1] - offsets[0] else new


def _rewrite(
    text: str, upper: float, digit: float, counters: bool, min_words: int, max_cut_words: int
) -> str:
    """The five steps on one document, line by line."""
    lines = text.split("\n")
    for is_one, bound in ((str.isupper, upper), (str.isdigit, digit)):
        if bound <= 1:
            kept = [line for line in lines if not line or sum(map(is_one, line)) / len(line) <= bound]
            lines = "\n".join(kept).strip().split("\n")
    if counters:
        kept = [line for line in lines if not _COUNTER.search(line.lower())]
        lines = "\n".join(kept).strip().split("\n")
    lines = [line for line in lines if not line or len(line.split()) >= min_words]
    for pattern in _CUTS:
        cut = [
            (line, pattern.sub("", line)) if len(line.split()) <= max_cut_words else (line, line)
            for line in lines
        ]
        kept = [new for line, new in cut if not line or new.strip()]
        lines = "\n".join(kept).strip().split("\n")
    return "\n".join(lines)


@cache
def _character_tables() -> tuple[np.ndarray, np.ndarray]:
    """``(by_byte, by_char)``: bits of what a byte, or a code point, is: uint8[256] and uint8[2**21].

    As ``str.isspace``, ``isupper``, ``isdigit``, ``isdecimal`` and ``isalpha`` say, and ``\\w`` of `re`.
    """
    every_char = np.arange(0x110000, dtype=np.uint32).view("U1")
    by_char = np.zeros(1 << 21, np.uint8)  # what 4 bytes can decode to, were they no UTF-8
    asked = {
        _SPACE: np.strings.isspace, _UPPER: np.strings.isupper, _DIGIT: np.strings.isdigit,
        _WORD: np.strings.isalnum, _DECIMAL: np.strings.isdecimal, _ALPHA: np.strings.isalpha,
    }  # fmt: skip
    for bit, ask in asked.items():
        by_char[:0x110000] |= ask(every_char) * np.uint8(bit)
    by_char[ord("_")] |= _WORD
    by_byte = np.full(256, _WIDE, np.uint8)
    by_byte[:128] = by_char[:128]
    for table in (by_byte, by_char):
        table.flags.writeable = False
    return by_byte, by_char


@njit(_AT(UTF8, _AT, _AT, _AT))
def _small_letters(utf8, at, size, end):
    """The `size` bytes at `at` as one integer, capitals of ASCII as small letters; -1 where `end` comes before."""
    if at + size > end:
        return _AT(-1)
    value = _AT(0)
    for k in range(at, at + size):
        value = value << 8 | _AT(utf8[k]) | (32 if 65 <= utf8[k] <= 90 else 0)
    return value


@njit(types.boolean(UTF8, _AT, _AT, _AT))
def _three_chars_on(utf8, at, stop, text_stop):
    """Whether three characters lie between `at` and one of the two ends that a line may have."""
    chars, first, second = 0, False, False
    while at < stop and chars < 4:
        chars += utf8[at] & 0xC0 != 0x80
        at += 1
        while at < stop and utf8[at] & 0xC0 == 0x80:
            at += 1
        if chars == 3:
            first, second = at == stop, at == text_stop
    return first or second


@njit(types.boolean(UTF8, _AT, _AT))
def _ends_as_counted(utf8, start, stop):
    """Whether the letters of ASCII before `stop` are a word of `COUNTED`, or come behind what may be Kelvin's K."""
    at = stop
    while at > start and stop - at <= _LONGEST_COUNTED and 97 <= utf8[at - 1] | 32 <= 122:
        at -= 1
    if at > start and utf8[at - 1] == _LAST_OF_KELVIN:
        return True
    size = stop - at
    return (size << 56 | _small_letters(utf8, max(at, stop - 7), min(size, 7), stop)) in _COUNTED_KEYS


@njit(types.UniTuple(_AT, 3)(UTF8, _AT, _AT, UTF8, UTF8, _LINES, _AT))
def _read_line(utf8, at, end, by_byte, by_char, lines, row):
    """Fill a row with the line at `at`: ``(where its newline or the end is, counter?, words if something may be cut)``.

    counter? is 1 where the line may be a counter: its first letter or digit is a digit, its last ones may be a word of
    `COUNTED`, and it has at most two words with letters. The third is -1 where nothing is to be cut. Neither
    may say no too often: K (U+212A), ſ, İ and ı are letters of ASCII to ``str.lower`` or `re`, and let pass.
    """
    start = text_start = text_stop = at
    chars = lead = trail = uppers = digits = words = letter_words = 0
    word_bits = 0
    first_is_digit, any_word, may_cut = False, False, False
    letter_stop = at
    more = _AT(-1)
    while at < end:
        byte = utf8[at]
        kind, width = _AT(by_byte[byte]), 1
        if kind & _WIDE:
            point, width = decode(utf8, at)
            kind = _AT(by_char[point])
        if kind & _SPACE:
            if byte == NEWLINE:
                break
            trail += 1
            letter_words += (word_bits & _ALPHA) != 0
            word_bits = 0
            if byte == _SPACE_BYTE and at > start and at + 1 < end:
                if utf8[at + 1] | 32 == 99 and utf8[at - 1] | 32 == 110:  # "n c"
                    may_cut = may_cut or _small_letters(utf8, at + 1, 4, end) == _CART
                elif utf8[at + 1] | 32 == 109 and utf8[at - 1] | 32 == 100:  # "d m"
                    more = at + 5 if _small_letters(utf8, at + 1, 4, end) == _MORE else more
        else:
            if chars == trail:
                text_start, lead = at, chars
            words += word_bits == 0
            trail = 0
            word_bits |= kind | 128
            uppers += (kind & _UPPER) != 0
            digits += (kind & _DIGIT) != 0
            if kind & _WORD:
                if not any_word:
                    first_is_digit = (kind & _DECIMAL) != 0
                    any_word = True
                if kind == _SMALL and width == 1:
                    # Most of most text: small letters of ASCII, all in a row.
                    while at + width < end and by_byte[utf8[_U64(at + width)]] == _SMALL:
                        width += 1
                    chars += width - 1
                letter_stop = at + width
            text_stop = at + width
        chars += 1
        at += width
    at = min(at, end)
    letter_words += (word_bits & _ALPHA) != 0
    if text_stop - text_start >= 5 and (utf8[text_start] | 32 == 115 or utf8[text_start] == _LONG_S):
        for k in range(text_start + 2, text_start + 5):
            may_cut = may_cut or _small_letters(utf8, k, 3, text_stop) == _GN
    if more >= 0:
        may_cut = may_cut or _three_chars_on(utf8, more, at, text_stop)
    lines[row, _START], lines[row, _STOP], lines[row, _CHARS] = start, at, chars
    lines[row, _TEXT_START], lines[row, _TEXT_STOP] = text_start, text_stop
    lines[row, _LEAD], lines[row, _TRAIL] = lead, trail
    lines[row, _UPPERS], lines[row, _DIGITS], lines[row, _WORDS] = uppers, digits, words
    counter = first_is_digit and letter_words <= 2 and _ends_as_counted(utf8, start, letter_stop)
    return at, _AT(counter), words if may_cut else _AT(-1)


@njit(types.UniTuple(_AT, 2)(_LINES, _AT, _AT))
def _strip(lines, first, last):
    """Take whitespace off the ends of the lines `first` to `last`: what is left of them; none: first > last."""
    while first <= last and lines[first, _WORDS] == 0:
        first += 1
    while first <= last and lines[last, _WORDS] == 0:
        last -= 1
    if first <= last:
        lines[first, _START] = lines[first, _TEXT_START]
        lines[first, _CHARS] -= lines[first, _LEAD]
        lines[first, _LEAD] = 0
        lines[last, _STOP] = lines[last, _TEXT_STOP]
        lines[last, _CHARS] -= lines[last, _TRAIL]
        lines[last, _TRAIL] = 0
    return first, last


@njit(_AT(_LINES, _AT, _AT, _AT, _F64))
def _keep_below(lines, first, last, what, bound):
    """Move the lines of which at most `bound` is `what` together from `first` on; returns the last of them."""
    kept = first
    for row in range(first, last + 1):
        if lines[row, _CHARS] == 0 or lines[row, what] / lines[row, _CHARS] <= bound:
            for column in range(10 if kept < row else 0):
                lines[kept, column] = lines[row, column]
            kept += 1
    return kept - 1


@njit(_AT(_LINES, _AT, _AT, _AT))
def _keep_long(lines, first, last, min_words):
    """Move the lines with so many words, or no character, together from `first` on; returns the last of them."""
    kept = first
    for row in range(first, last + 1):
        if lines[row, _WORDS] >= min_words or lines[row, _CHARS] == 0:
            for column in range(10 if kept < row else 0):
                lines[kept, column] = lines[row, column]
            kept += 1
    return kept - 1


@njit(_AT(UTF8, _LINES, _AT, _AT, _OUT, _AT))
def _write(utf8, lines, first, last, out, write):
    """Write the lines with newlines between them; returns where they end."""
    for row in range(first, last + 1):
        if row > first:
            out[write] = NEWLINE
            write += 1
        start = lines[row, _START]
        size = lines[row, _STOP] - start
        for k in range(size):
            out[_U64(write + k)] = utf8[_U64(start + k)]
        write += size
    return write


@njit(
    types.void(
        OFFSETS, UTF8, UTF8, UTF8, _F64, _F64, types.boolean, _AT, _AT, _LINES, _OFFSETS_OUT, _OUT, _FLAGS
    )
)
def _drop_lines(
    offsets,
    utf8,
    by_byte,
    by_char,
    upper,
    digit,
    counters,
    min_words,
    max_cut_words,
    lines,
    new_offsets,
    out,
    undecided,
):
    """Write what is left of every document into `out`, and where it ends into `new_offsets`, int64[n + 1].

    `lines` is int64[>= l, 10]. `undecided`, uint8[n], comes as zeros and becomes 1 for a document with a line that
    may be a counter, or of which something may be cut: such a document is left empty.
    """
    write = new_offsets[0] = 0
    for i in range(len(offsets) - 1):
        at, end = offsets[i], offsets[i + 1]
        last = -1
        for_re = False
        while not for_re:
            last += 1
            at, counter, cut_words = _read_line(utf8, at, end, by_byte, by_char, lines, last)
            for_re = (counters and counter == 1) or 0 <= cut_words <= max_cut_words
            if at >= end:
                break
            at += 1
        if for_re:
            undecided[i] = 1
        else:
            first = 0
            if upper <= 1:
                last = _keep_below(lines, first, last, _UPPERS, upper)
                first, last = _strip(lines, first, last)
            if digit <= 1:
                last = _keep_below(lines, first, last, _DIGITS, digit)
                first, last = _strip(lines, first, last)
            if counters:
                first, last = _strip(lines, first, last)
            last = _keep_long(lines, first, last, min_words)
            # The cuts drop a line of whitespace, and strip, also where they find nothing.
            last = _keep_long(lines, first, last, 1)
            first, last = _strip(lines, first, last)
            write = _write(utf8, lines, first, last, out, write)
        new_offsets[i + 1] = write
