"""What a document's words look like in numbers, and where they are.

Serves Gopher's quality rules (Rae et al. 2021, arXiv:2112.11446, appendix A), rules on length, and, with words
written to arrays, rules on n-grams (repetition.py) and on the most common word.

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

import itertools

import numpy as np
from winnow.filters.characters import (
    ALPHA,
    COUNTS,
    DOT,
    HASH,
    NEWLINE,
    SPACE,
    WIDE,
    decode,
    skip_space,
)
from winnow.filters.jit import OFFSETS, UTF8, njit, types
from winnow.filters.repetition import (
    NGRAM_SCRATCH,
    WORD_CHARS,
    WORD_HASHES,
    WORD_PLACES,
    count_ngrams,
    hash_bytes,
    load8,
    most_frequent,
)

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
"""Gopher's. Each is ASCII and at most 4 bytes: the kernel packs a word's bytes into one integer."""

WORD_SIGNALS = {
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

TOP_WORD_SIGNALS = {
    "top_word_count": "occurrences of the most common word",
    "top_word_alpha": "1 where all characters of that word are alphabetic, else 0",
}

_MARKS = HASH | DOT
_HASH_BYTE, _DOT_BYTE, _DASH_BYTE, _BLANK = (ord(c) for c in "#.- ")
_THREE_DOTS, _ELLIPSIS, _BULLET = (int.from_bytes(c.encode(), "big") for c in ("...", "…", "•"))

_LONGEST_STOP_WORD = max(map(len, STOP_WORDS))
# The length on top tells "be" from "be\0".
_STOP_KEYS = [int.from_bytes(word.encode(), "little") | len(word) << 56 for word in STOP_WORDS]


def _places_apart(factor: int) -> dict[int, int]:
    """Stop word's key by the number, 0 to 7, that the key times `factor` has in its highest bits."""
    return {(key * factor % 2**64) >> 61: key for key in _STOP_KEYS}


# A factor that gives each of the eight a place of its own: a word is then compared with one of them only.
_FACTORS = (pow(0x9E3779B97F4A7C15, k, 2**64) for k in itertools.count(1))
_APART = next(factor for factor in _FACTORS if len(_places_apart(factor)) == len(STOP_WORDS))
_STOP_TABLE = np.array([_places_apart(_APART)[place] for place in range(8)], np.uint64)

_AT, _U64 = types.int64, types.uint64

# Eight bytes at once: in each byte of an integer, the sum with one of these sets the high bit from a certain byte on.
_ONES, _LOW_SEVEN, _HIGH = 0x0101010101010101, 0x7F7F7F7F7F7F7F7F, 0x8080808080808080
_FROM_21, _FROM_A, _FROM_BRACE = ((0x80 - byte) * _ONES for byte in (0x21, ord("a"), ord("{")))
_HASHES, _DOTS, _CASE = (byte * _ONES for byte in (ord("#"), ord("."), 0x20))


@njit(_AT(_U64))
def _ordinary_bytes(eight):
    """How many of eight bytes come before the first that is no ASCII or at most 0x20: no whitespace among them."""
    stop = (~((eight & _U64(_LOW_SEVEN)) + _U64(_FROM_21)) | eight) & _U64(_HIGH)
    before = (stop - _U64(1)) & ~stop
    return _AT((((before >> _U64(7)) & _U64(_ONES)) * _U64(_ONES)) >> _U64(56))


@njit(_AT(_U64))
def _kinds_of(eight):
    """ALPHA where a letter is among eight bytes of ASCII, and `_MARKS` where "#" or "." is."""
    lower = eight | _U64(_CASE)
    letters = (lower + _U64(_FROM_A)) & ~(lower + _U64(_FROM_BRACE)) & _U64(_HIGH)
    others = ((eight ^ _U64(_HASHES)) + _U64(_LOW_SEVEN)) & ((eight ^ _U64(_DOTS)) + _U64(_LOW_SEVEN))
    marks = ~others & _U64(_HIGH)
    return (ALPHA if letters else 0) | (_MARKS if marks else 0)


@njit(types.Tuple((_AT, _AT, _AT, _U64))(UTF8, _AT, _AT, UTF8, UTF8))
def _read_word(utf8, start, end, by_byte, by_char):
    """Walk over the word at `start`: ``(where it ends, bits of all its characters, its characters, key)``.

    Of the bits, ALPHA is exact, and one of `_MARKS` at least is set where a mark is. `key` is, for words of at most
    7 bytes of ASCII, those bytes, the first lowest, and the length as the highest.
    """
    kinds, key = 0, _U64(0)
    at, continuation = start, 0
    while at < end:
        if at + 8 <= len(utf8):
            eight = load8(utf8, at)
            ordinary = min(_ordinary_bytes(eight), end - at)
            if ordinary:
                eight &= ~_U64(0) >> _U64(64 - 8 * ordinary)
                kinds |= _kinds_of(eight)
                if at == start:
                    key = eight
                at += ordinary
                if ordinary == 8 or at == end:
                    continue
        kind = by_byte[utf8[at]]
        if kind & (SPACE | WIDE):
            if kind & SPACE:
                break
            point, width = decode(utf8, at)
            if by_char[point] & SPACE:
                break
            kinds |= by_char[point]
            continuation += width - 1
            at += width
        else:
            kinds |= kind
            if at - start < 8:
                key |= _U64(utf8[at]) << _U64(8 * (at - start))
            at += 1
    return at, kinds, at - start - continuation, key | _U64(at - start) << _U64(56)


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


@njit(_AT(_U64))
def _stop_word_bit(key):
    """A bit of its own for the key of each stop word; 0 for any other word's."""
    place = (key * _U64(_APART)) >> _U64(61)
    return _AT(_STOP_TABLE[place] == key) << _AT(place)


@njit(_AT(_AT))
def _count_bits(bits):
    """How many bits of a number that is not negative are set."""
    count = 0
    while bits:
        count += bits & 1
        bits >>= 1
    return count


@njit(types.UniTuple(_AT, 10)(UTF8, _AT, _AT, UTF8, UTF8, WORD_PLACES, WORD_PLACES, WORD_CHARS))
def _scan_document(utf8, begin, end, by_byte, by_char, starts, stops, word_lengths):
    """The signals from "chars" on of the document from `begin` to `end`, in the order of `WORD_SIGNALS`.

    Where its words are, and their characters, is written to the arrays, as far as they reach. One turn of the loop
    is a gap (whitespace, maybe none) and the word after it; only a word with a mark in it is read a second time.
    """
    space_chars = words = word_chars = alpha_words = hashes = ellipses = 0
    newlines = bullet_lines = ellipsis_lines = stop_bits = 0
    line_is_blank, line_ends_in_ellipsis = True, False
    at = begin
    while True:
        at, gap_newlines, gap_chars = skip_space(utf8, at, end, by_byte, by_char)
        space_chars += gap_chars
        if gap_newlines:
            newlines += gap_newlines
            ellipsis_lines += line_ends_in_ellipsis
            line_is_blank, line_ends_in_ellipsis = True, False
        if at >= end:  # beyond it only where the text breaks off within a character
            break
        start = at
        at, kinds, chars, key = _read_word(utf8, start, end, by_byte, by_char)
        if words < len(starts):
            starts[words], stops[words], word_lengths[words] = start, at, chars
        words += 1
        word_chars += chars
        alpha_words += (kinds & ALPHA) != 0
        if line_is_blank:
            bullet_lines += utf8[start] == _DASH_BYTE or _three_bytes(utf8, start, end) == _BULLET
            line_is_blank = False
        line_ends_in_ellipsis = False
        if kinds & _MARKS:
            word_hashes, word_ellipses, line_ends_in_ellipsis = _read_marks(utf8, start, at)
            hashes += word_hashes
            ellipses += word_ellipses
        stop_bits |= _stop_word_bit(key if at - start <= _LONGEST_STOP_WORD else _U64(0))
    # A newline at the very end has closed its line above; text without one is a line too.
    lines = newlines + (end > begin and utf8[end - 1] != NEWLINE)
    ellipsis_lines += line_ends_in_ellipsis
    in_words = words, word_chars, alpha_words, hashes, ellipses
    in_lines = lines, bullet_lines, ellipsis_lines
    return (space_chars + word_chars, *in_words, *in_lines, _count_bits(stop_bits))


WORD_ARRAYS = types.Tuple((WORD_PLACES, WORD_PLACES, WORD_CHARS, WORD_HASHES))
"""``(starts, stops, chars, hashes)`` of a document's words, as repetition.py describes them."""


def word_arrays(words: int) -> tuple[np.ndarray, ...]:
    """Room for the words of documents of at most `words` words: 28 bytes each."""
    places = (np.empty(words, np.int64), np.empty(words, np.int64))
    return (*places, np.empty(words, np.int32), np.empty(words, np.uint64))


@njit(types.UniTuple(_AT, 2)(OFFSETS, UTF8))
def most_words(offsets, utf8):
    """``(words the documents have at most, bytes of the longest)``, the first from above.

    Between words lies whitespace: a byte up to 0x20 or a character that begins with 0xC2 or 0xE1 to 0xE3.
    """
    words = longest = 0
    for i in range(len(offsets) - 1):
        gaps = 0
        for at in range(offsets[i], offsets[i + 1]):
            byte = utf8[at]
            gaps += (byte <= 0x20) | (byte == 0xC2) | ((byte >= 0xE1) & (byte <= 0xE3))
        words = max(words, gaps + 1)
        longest = max(longest, offsets[i + 1] - offsets[i])
    return words, longest


@njit(types.boolean(UTF8, _AT, _AT, UTF8, UTF8))
def _all_alpha(utf8, start, stop, by_byte, by_char):
    """Whether all characters of the word are alphabetic."""
    at = start
    while at < stop:
        kind, width = by_byte[utf8[at]], 1
        if kind & WIDE:
            point, width = decode(utf8, at)
            kind = by_char[point]
        if not kind & ALPHA:
            return False
        at += width
    return True


@njit(types.void(OFFSETS, UTF8, UTF8, UTF8, WORD_ARRAYS, NGRAM_SCRATCH, COUNTS, COUNTS, COUNTS))
def scan_words(offsets, utf8, by_byte, by_char, words, scratch, counts, ngrams, top_words):
    """Fill `counts`, `ngrams` and `top_words`, or those of them that have rows at all.

    Parameters
    ----------
    offsets : int64[n + 1]
    utf8 : uint8[b]
        Valid UTF-8, each document for itself. Not checked here: the reader has. Other bytes give other counts,
        and up to three bytes past the end may be read.
    by_byte, by_char : uint8[256], uint8[2**21]
        From `characters.character_tables`.
    words, scratch
        From `word_arrays` and `repetition.ngram_scratch`, for what `most_words` says. For 0 words where neither
        n-grams nor the most common word are asked for: then no word is written down.
    counts, ngrams, top_words : uint64[s, n]
        Filled with `WORD_SIGNALS`, repetition.py's `NGRAM_SIGNALS` and `TOP_WORD_SIGNALS`, every element; with s = 0
        they are left alone.
    """
    starts, stops, chars, hashes = words
    _, _, _, _, _, slots, places, owners, tallies = scratch
    for i in range(len(offsets) - 1):
        begin, end = offsets[i], offsets[i + 1]
        document = _scan_document(utf8, begin, end, by_byte, by_char, starts, stops, chars)
        if len(counts):
            counts[0, i] = end - begin
            for row in range(len(document)):
                counts[row + 1, i] = document[row]
        # Only text that is no UTF-8 has more words than `most_words` said.
        w = min(document[1], len(starts))
        for k in range(w):
            hashes[k] = hash_bytes(utf8, starts[k], stops[k])
        if len(ngrams):
            of_ngrams = count_ngrams(utf8, starts, stops, chars, hashes, w, scratch)
            for row in range(len(of_ngrams)):
                ngrams[row, i] = of_ngrams[row]
        if len(top_words):
            for k in range(w):
                places[k] = k
            count, first = most_frequent(hashes, w, places, slots, owners, tallies)
            top_words[0, i] = count if w else 0
            top_words[1, i] = w > 0 and _all_alpha(utf8, starts[first], stops[first], by_byte, by_char)
