"""What does datatrove count in an English text, where a recipe says `words: datatrove`?

The counts that the decisions of three of datatrove 0.9.0's filters (GopherQualityFilter, GopherRepetitionFilter,
FineWebQualityFilter) are made of, as far as they are not those of signals.py. Everything is an exact integer.

word            a token of spaCy's for English (english.py), where datatrove cuts words.
symbol word     one whose characters are all in datatrove's PUNCTUATION_SET: ASCII and CJK punctuation, control
                characters, and what ends a sentence in any script. Others count in lengths and bounds of words.
alphabetic      a word with at least one character that ``str.isalpha`` accepts.
line            of ``str.splitlines``: "\\r", "\\v", "\\f", U+001C to U+001E, U+0085, U+2028 and U+2029 end one, too.
bullet line     one that opens with "•" or "-" after whitespace.
ellipsis line   one that ends in "..." or "…" before whitespace.
stop words      how many *different* ones of Gopher's eight are words of the document, in exactly this spelling.
n-grams         of these words, as repetition.py counts them.

Letters: n documents, b bytes of text, s signals, m words that there is room for.
"""

from collections.abc import Collection

import numpy as np
import pyarrow as pa
from winnow.filters.characters import COUNTS, SPACE, character_tables, decode
from winnow.filters.english import (
    HAS_LETTER,
    HAS_WORD_CHAR,
    MARKS,
    RULES,
    WORDS,
    load,
    most_words,
    scratch,
    words_of_document,
)  # fmt: skip
from winnow.filters.english_rules import hash_bytes
from winnow.filters.jit import OFFSETS, UTF8, njit, text_buffers, types
from winnow.filters.repetition import NGRAM_SCRATCH, NGRAM_SIGNALS, count_ngrams, ngram_scratch
from winnow.filters.word_signals import STOP_WORDS

_WORDS = {
    "dt_words": "words",
    "dt_nonsymbol_words": "words with a character that is no punctuation to datatrove",
    "dt_nonsymbol_word_chars": "characters in such words",
    "dt_alpha_words": "words with at least one alphabetic character",
    "dt_stop_words": "different stop words present, of " + ", ".join(STOP_WORDS),
}
_NGRAMS = {f"dt_{name}": meaning for name, meaning in NGRAM_SIGNALS.items()}
_LINES = {
    "dt_lines": "lines, blank ones among them",
    "dt_bullet_lines": "lines that open with '•' or '-'",
    "dt_ellipsis_lines": "lines that end in '...' or '…'",
}

GROUPS = {"words": tuple(_WORDS), "ngrams": tuple(_NGRAMS), "lines": tuple(_LINES)}
"""Group -> names of its signals, which are counted together."""

SIGNALS = _WORDS | _NGRAMS | _LINES
"""Signal name -> what it counts, group after group."""

_AT = types.int64
_DOT, _DASH, _RETURN, _NEWLINE = map(ord, ".-\r\n")
_BULLET, _ELLIPSIS = map(ord, "•…")
_LONGEST_STOP_WORD = max(map(len, STOP_WORDS))
_STOP_HASHES = tuple(
    np.uint64(hash_bytes(np.frombuffer(word.encode(), np.uint8), 0, len(word))) for word in STOP_WORDS
)


def scan(texts: pa.LargeStringArray, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Signals of every document, ``{name: uint64[n]}``: those of every group that one of `names` is in.

    None asks for all. Words are cut once, for all that need them. `texts` may be a slice; it is read in place. A
    document's signals depend on nothing but its text.

    Memory: 8 bytes per signal and document, 9 MB of rules once per process, and at once about 33 bytes for each
    word of the document with most words, with n-grams 85, and then 1 for each byte of the longest.

    Raises
    ------
    ModuleNotFoundError, RuntimeError
        Words are asked for, and there is no spaCy or datatrove, or a spaCy whose rules are not known.
    TypeError
        `texts` is not a LargeStringArray.
    ValueError
        It has nulls.
    KeyError
        A name is not in `SIGNALS`.
    """
    wanted = set(SIGNALS if names is None else names)
    if unknown := sorted(wanted - set(SIGNALS)):
        raise KeyError(f"no scan counts {', '.join(unknown)}")
    offsets, utf8 = text_buffers(texts)
    found: dict[str, np.ndarray] = {}
    if not wanted.isdisjoint(_WORDS | _NGRAMS):
        with_ngrams = not wanted.isdisjoint(_NGRAMS)
        names_of_rows = _WORDS | _NGRAMS if with_ngrams else _WORDS
        counts = np.empty((len(names_of_rows), len(texts)), np.uint64)
        _scan_words(offsets, utf8, with_ngrams, counts)
        found |= zip(names_of_rows, counts, strict=True)
    if not wanted.isdisjoint(_LINES):
        counts = np.empty((len(_LINES), len(texts)), np.uint64)
        _count_lines(offsets, utf8, *character_tables(), counts)
        found |= zip(_LINES, counts, strict=True)
    return {name: found[name] for group in GROUPS.values() if not wanted.isdisjoint(group) for name in group}


def _scan_words(offsets: np.ndarray, utf8: np.ndarray, with_ngrams: bool, counts: np.ndarray) -> None:
    longest = int(np.diff(offsets).max(initial=0))
    rules, done, m = load(), 0, most_words(offsets)
    while True:
        for_ngrams = ngram_scratch(m, longest) if with_ngrams else ngram_scratch(0, 0)
        work = (*scratch(m), for_ngrams)
        done = _count_words(offsets, utf8, rules, *work, with_ngrams, done, counts)
        if done == len(offsets) - 1:
            return
        m *= 2


@njit(types.UniTuple(_AT, 5)(WORDS, _AT))
def _look_at_words(words, n):
    """The signals of `_WORDS`, in their order, of a document's n words."""
    nonsymbol = chars = alpha = stop_bits = 0
    for k in range(n):
        kinds = words.kinds[k]
        if kinds & HAS_WORD_CHAR:
            nonsymbol += 1
            chars += words.chars[k]
        alpha += (kinds & HAS_LETTER) != 0
        if words.stops[k] - words.starts[k] <= _LONGEST_STOP_WORD:
            for word in range(len(_STOP_HASHES)):
                stop_bits |= _AT(words.hashes[k] == _STOP_HASHES[word]) << word
    stop_words = 0
    while stop_bits:
        stop_words += stop_bits & 1
        stop_bits >>= 1
    return n, nonsymbol, chars, alpha, stop_words


@njit(_AT(OFFSETS, UTF8, RULES, WORDS, MARKS, NGRAM_SCRATCH, types.boolean, _AT, COUNTS))
def _count_words(offsets, utf8, rules, words, marks, for_ngrams, with_ngrams, done, counts):
    """Fill `counts` with `_WORDS` and, if asked for, `_NGRAMS`, of documents from `done` on.

    Returns the first document that there is no room for in the scratch, or n.
    """
    for i in range(done, len(offsets) - 1):
        n = words_of_document(utf8, offsets[i], offsets[i + 1], rules, words, marks)
        if n < 0:
            return i
        document = _look_at_words(words, n)
        for row in range(len(document)):
            counts[row, i] = document[row]
        if with_ngrams:
            ngrams = count_ngrams(utf8, words.starts, words.stops, words.chars, words.hashes, n, for_ngrams)
            for row in range(len(ngrams)):
                counts[len(document) + row, i] = ngrams[row]
    return len(offsets) - 1


@njit(types.boolean(_AT))
def _ends_line(point):
    """Whether ``str.splitlines`` cuts at this character."""
    if point < 0x80:
        return 0x0A <= point <= 0x0D or 0x1C <= point <= 0x1E
    return point == 0x85 or point == 0x2028 or point == 0x2029


@njit(types.void(OFFSETS, UTF8, UTF8, UTF8, COUNTS))
def _count_lines(offsets, utf8, by_byte, by_char, counts):
    """Fill `counts` with `_LINES`."""
    for i in range(len(offsets) - 1):
        lines = bullets = ellipses = 0
        at, end = offsets[i], offsets[i + 1]
        blank, dots, ellipsis, open_line = True, 0, False, False
        while at < end:
            point, width = _AT(utf8[at]), 1
            kind = by_byte[utf8[at]]
            if point >= 0x80:
                point, width = decode(utf8, at)
                kind = by_char[point]
            at += width
            if not kind & SPACE:
                if blank:
                    bullets += point in (_DASH, _BULLET)
                    blank = False
                dots = dots + 1 if point == _DOT else 0
                ellipsis = dots >= 3 or point == _ELLIPSIS
                open_line = True
                continue
            dots = 0
            open_line = not _ends_line(point)
            if not open_line:
                if point == _RETURN and at < end and utf8[at] == _NEWLINE:
                    at += 1
                lines += 1
                ellipses += ellipsis
                blank, ellipsis = True, False
        counts[0, i] = lines + open_line
        counts[1, i] = bullets
        counts[2, i] = ellipses + ellipsis
