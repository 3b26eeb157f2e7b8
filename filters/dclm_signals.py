"""What does DCLM's quality code count on a page: words, symbols, stop words, lines, and what is repeated.

Serves the heuristics of DCLM-Baseline (Li et al. 2024, arXiv:2406.11794; mlfoundations/dclm, content_filters.py and
dclm_baseline_refinedweb.yaml). What is repeated, and what is a word there, is defined in dclm_repetition.py; here:

fastText word   what fastText's tokenizer leaves between space, \\n, \\r, \\t, \\v, \\f and NUL, if its first character
                is a letter or digit (``str.isalnum``): DCLM's way to leave out punctuation. "(see" is no word, and a
                no-break space ends none.
symbols         "#", "...", ". . ." and "…", each counted by itself as ``str.count`` does, without overlap.
stop words      occurrences among ``str.split()`` of the, be, to, of, and, that, have, with, in any case.
line            a line of ``text.split("\\n")`` with something left without whitespace at its ends.
bullet line     one that opens with "●", "•", "*" or "-".
ellipsis line   one that ends in "...", ". . ." or "…".

DCLM divides symbols, mean length and words without a letter by ``str.split()``: those are "words", "word_chars" and
"alpha_words" of word_signals.py.

Letters: n documents, b bytes of text, s signals.
"""

from collections.abc import Callable, Collection

import numpy as np
import pyarrow as pa
from winnow.filters import characters, uax29
from winnow.filters.characters import ALNUM, COUNTS, DOT, HASH, NEWLINE, SPACE, WIDE, decode
from winnow.filters.dclm_repetition import NGRAM_SIGNALS, SEGMENT_SIGNALS, scan_ngrams, scan_segments, scratch
from winnow.filters.jit import OFFSETS, UTF8, njit, text_buffers, types

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
"""Gopher's. Each is ASCII and at most 4 bytes: the kernel packs a word's bytes into one integer."""

PAGE_SIGNALS = {
    "dclm_words": "fastText words that open with a letter or digit",
    "dclm_symbols": "'#', '...', '. . .' and '…'",
    "dclm_stop_words": "occurrences of " + ", ".join(STOP_WORDS),
    "dclm_lines": "lines that are not blank",
    "dclm_bullet_lines": "lines that open with '●', '•', '*' or '-'",
    "dclm_ellipsis_lines": "lines that end in '...', '. . .' or '…'",
}
_BY_GROUP = {"page": PAGE_SIGNALS, "segments": SEGMENT_SIGNALS, "ngrams": NGRAM_SIGNALS}

GROUPS = {group: tuple(signals) for group, signals in _BY_GROUP.items()}
"""Group -> names of its signals, which are counted together."""

SIGNALS = {name: meaning for signals in _BY_GROUP.values() for name, meaning in signals.items()}
"""Signal name -> what it counts, group after group."""

_DOT_BYTE, _HASH_BYTE, _SPACE_BYTE = (ord(c) for c in ".# ")
_BULLETS = tuple(int.from_bytes(c.encode(), "big") for c in "●•")
_BULLET_BYTES = tuple(ord(c) for c in "*-")
_ELLIPSIS = int.from_bytes("…".encode(), "big")
_THREE_DOTS = int.from_bytes(b"...", "big")
_SPACED_DOTS = int.from_bytes(b". . .", "big")
_STOP_KEYS = tuple(int.from_bytes(b"\1" + word.encode(), "big") for word in STOP_WORDS)
_LONGEST_STOP_WORD = max(map(len, STOP_WORDS))
# Whitespace of ASCII that fastText reads as part of a word.
_FIRST_SEPARATOR, _LAST_SEPARATOR = 0x1C, 0x1F

_AT, _U64 = types.int64, types.uint64


def scan(texts: pa.LargeStringArray, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Signals of every document, ``{name: uint64[n]}``: those of every group that one of `names` is in.

    None asks for all. `texts` may be a slice; it is read in place. A document's signals depend on nothing but its
    text. uint64 wraps when subtracted: divide, or cast first.

    Memory: 8 bytes per signal and document; 4 MB of character tables once per process; while segments or n-grams
    are counted, 64 bytes for each word or line of the longest document, for one of 1 MB of English about 16 MB.

    Raises
    ------
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
    for group, signals in _BY_GROUP.items():
        if wanted.isdisjoint(signals):
            continue
        counts = np.empty((len(signals), len(texts)), np.uint64)
        if group == "page":
            _scan_pages(offsets, utf8, *characters.character_tables(), counts)
        elif group == "segments":
            _scan_growing(scan_segments, offsets, utf8, characters.character_tables(), 16, counts)
        else:
            _scan_growing(scan_ngrams, offsets, utf8, uax29.character_tables(), 4, counts)
        found.update(zip(signals, counts, strict=True))
    return found


def count_words(texts: pa.LargeStringArray) -> np.ndarray:
    """The signal "dclm_words" alone, in less time: uint32[n]. Raises what `scan` raises for its texts."""
    words = np.empty(len(texts), np.uint32)
    _count_words(*text_buffers(texts), *characters.character_tables(), words)
    return words


def _scan_growing(
    kernel: Callable,
    offsets: np.ndarray,
    utf8: np.ndarray,
    tables: tuple[np.ndarray, np.ndarray],
    bytes_per_item: int,
    counts: np.ndarray,
) -> None:
    """Call a kernel of dclm_repetition.py with working memory that grows when a document does not fit.

    It begins with memory for items of `bytes_per_item` bytes; real text has longer ones.
    """
    sizes = np.diff(offsets)
    items = int(sizes.max(initial=0)) // bytes_per_item + 16
    done = 0
    while True:
        done = kernel(offsets, utf8, done, *tables, scratch(items), counts)
        if done == len(sizes):
            return
        items = max(2 * items, int(sizes[done]) // 8)


@njit(_AT(UTF8, _AT, _AT))
def _last_bytes(utf8, stop, size):
    """The `size` bytes before `stop` as one integer, the first one highest."""
    value = _AT(0)
    for at in range(stop - size, stop):
        value = value << 8 | _AT(utf8[at])
    return value


@njit(types.boolean(UTF8, _AT, _AT))
def _ends_in_ellipsis(utf8, start, stop):
    if stop - start < 3:
        return False
    last = _last_bytes(utf8, stop, 3)
    if last in (_THREE_DOTS, _ELLIPSIS):
        return True
    return stop - start >= 5 and _last_bytes(utf8, stop, 5) == _SPACED_DOTS


@njit(types.boolean(UTF8, _AT, _AT))
def _opens_with_bullet(utf8, at, end):
    first = utf8[at]
    if first in _BULLET_BYTES:
        return True
    return first >= 0x80 and at + 3 <= end and _last_bytes(utf8, at + 3, 3) in _BULLETS


@njit(_AT(_AT))
def _is_stop_word(key):
    found = 0
    for k in range(len(_STOP_KEYS)):
        found |= _AT(key == _STOP_KEYS[k])
    return found


@njit(types.UniTuple(_AT, 3)(UTF8, _AT, _AT, _AT))
def _read_dots(utf8, at, end, chain):
    """Dots from `at` on: ``(how many, symbols in them, chain)``.

    chain : dots before, each one space from the next, that have not been counted as ". . .".
    """
    start = at
    while at < end and utf8[at] == _DOT_BYTE:
        at += 1
    symbols = (at - start) // 3
    chain += 1
    if chain == 3:
        symbols += 1
        chain = 0
    if at - start > 1:
        chain = 1
    return at - start, symbols, chain


@njit(types.UniTuple(_AT, 6)(UTF8, _AT, _AT, UTF8, UTF8))
def _scan_page(utf8, begin, end, by_byte, by_char):
    """`PAGE_SIGNALS`, in their order, of one document."""
    words = symbols = stop_words = lines = bullet_lines = ellipsis_lines = 0
    in_word = False  # fastText's
    line_start, text_stop = -1, begin
    chain, chain_stop = 0, begin
    at = begin
    while at < end:
        kind, width = by_byte[utf8[at]], 1
        if kind & WIDE:
            point, width = decode(utf8, at)
            kind = by_char[point]
        if kind & SPACE:
            # Whitespace that is none to fastText is part of its word, or opens one that does not count.
            in_word = width > 1 or _FIRST_SEPARATOR <= utf8[at] <= _LAST_SEPARATOR
            if utf8[at] == NEWLINE and line_start >= 0:
                ellipsis_lines += _ends_in_ellipsis(utf8, line_start, text_stop)
                line_start = -1
            at += width
            continue
        if line_start < 0:
            line_start = at
            lines += 1
            bullet_lines += _opens_with_bullet(utf8, at, end)
        start, key = at, _AT(1)
        while True:
            if not in_word:
                in_word = utf8[at] != 0
                words += in_word and (kind & ALNUM) != 0
            elif utf8[at] == 0:
                in_word = False
            if kind & (HASH | DOT):
                if utf8[at] == _DOT_BYTE:
                    if at != chain_stop + 1 or utf8[chain_stop] != _SPACE_BYTE:
                        chain = 0
                    width, more, chain = _read_dots(utf8, at, end, chain)
                    symbols += more
                    chain_stop = at + width
                else:
                    symbols += 1
            # `| 32` makes small letters of capitals, and a letter of nothing else.
            key = key << 8 | _AT(utf8[at]) | 32 if width == 1 else _AT(-1)
            at += width
            while (
                at < end and in_word and utf8[at] != 0 and not by_byte[utf8[at]] & (SPACE | WIDE | HASH | DOT)
            ):
                key = key << 8 | _AT(utf8[at]) | 32
                at += 1
            if at >= end:
                break
            kind, width = by_byte[utf8[at]], 1
            if kind & WIDE:
                point, width = decode(utf8, at)
                kind = by_char[point]
            if kind & SPACE:
                break
        text_stop = at
        if at - start <= _LONGEST_STOP_WORD:
            stop_words += _is_stop_word(key)
    if line_start >= 0:
        ellipsis_lines += _ends_in_ellipsis(utf8, line_start, text_stop)
    return words, symbols, stop_words, lines, bullet_lines, ellipsis_lines


@njit(types.void(OFFSETS, UTF8, UTF8, UTF8, COUNTS))
def _scan_pages(offsets, utf8, by_byte, by_char, counts):
    """Fill `counts` with `PAGE_SIGNALS`."""
    for i in range(len(offsets) - 1):
        document = _scan_page(utf8, offsets[i], offsets[i + 1], by_byte, by_char)
        for row in range(len(document)):
            counts[row, i] = document[row]


@njit(types.void(OFFSETS, UTF8, UTF8, UTF8, types.Array(types.uint32, 1, "C")))
def _count_words(offsets, utf8, by_byte, by_char, words):
    """Fill `words` with "dclm_words"."""
    for i in range(len(offsets) - 1):
        found = 0
        in_word = False
        for at in range(offsets[i], offsets[i + 1]):
            byte = utf8[_U64(at)]
            separates = byte <= _SPACE_BYTE and (byte == _SPACE_BYTE or 9 <= byte <= 13 or byte == 0)
            if not separates and not in_word:
                kind = by_byte[byte]
                if kind & WIDE:
                    point, _ = decode(utf8, at)
                    kind = by_char[point]
                found += (kind & ALNUM) != 0
            in_word = not separates
        words[i] = found
