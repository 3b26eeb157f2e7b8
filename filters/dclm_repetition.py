"""How much of a document is said again, as DCLM counts it: lines, paragraphs, and n-grams of words.

DCLM's `massive_web_repetition_filters` (Li et al. 2024, arXiv:2406.11794; mlfoundations/dclm, content_filters.py),
after Gopher (Rae et al. 2021, arXiv:2112.11446, table A1). It counts *every* occurrence of what occurs more than
once, where datatrove leaves out the first one (repetition.py).

line            what "\\n" separates, without whitespace at its ends; only lines with something left count.
paragraph       the same for what "\\n\\n" separates: of five newlines in a row, two pairs are cut out and one is left.
word            a segment of UAX #29 that opens with a letter or digit (uax29.py), in exactly this spelling.
top n-gram      n = 2, 3, 4: of the n words in a row that occur most often, overlaps counted; among equally frequent
                ones, the characters of the longest. Counted: its characters, no spaces, times its occurrences;
                0 where none occurs twice. So "a a a a" has 6 characters in its top 2-gram, of 4.
repeated n-gram n = 5 to 10: characters of all words that lie in an n-gram that occurs more than once; each word
                counts once.

A word, line or paragraph is told from another by its bytes; an n-gram by its two (n - 1)-grams, which have numbers.
An n-gram can occur twice only where both of them do: so after the pairs few places are left to look at.

Letters: b bytes and w words, or segments, of one document.
"""

import numpy as np
from winnow.filters.characters import NEWLINE, SPACE, WIDE, decode
from winnow.filters.jit import OFFSETS, UTF8, njit, types
from winnow.filters.repetition import hash_bytes
from winnow.filters.uax29 import next_word

SEGMENT_SIGNALS = {
    "dclm_line_chars": "characters of lines without whitespace at their ends",
    "dclm_repeated_lines": "lines that occur more than once, every occurrence",
    "dclm_repeated_line_chars": "characters of lines that occur more than once, every occurrence",
    "dclm_paragraphs": "paragraphs: what two newlines separate, if it is not blank",
    "dclm_paragraph_chars": "characters of paragraphs without whitespace at their ends",
    "dclm_repeated_paragraphs": "paragraphs that occur more than once, every occurrence",
    "dclm_repeated_paragraph_chars": "characters of paragraphs that occur more than once, every occurrence",
}
NGRAM_SIGNALS = {
    "dclm_word_chars": "characters in words as UAX #29 splits them, punctuation dropped",
    **{
        f"dclm_top_{n}gram_chars": f"characters of the longest most frequent {n}-gram, times its count"
        for n in (2, 3, 4)
    },
    **{
        f"dclm_repeated_{n}gram_chars": f"characters in {n}-grams that occur more than once"
        for n in range(5, 11)
    },
}

_AT, _U64 = types.int64, types.uint64
_I64S = types.Array(types.int64, 1, "C")
_I32S = types.Array(types.int32, 1, "C")
_U64S = types.Array(types.uint64, 1, "C")
SCRATCH = types.Tuple((_I64S, _I64S, _U64S, _I64S, _I32S, _I32S, _I32S, _I32S, _I32S))
"""What `scratch` makes."""
_COUNTS = types.Array(types.uint64, 2, "C")


def scratch(items: int) -> tuple[np.ndarray, ...]:
    """Working memory for documents of at most `items` words, lines or paragraphs: 56 to 64 bytes an item.

    It need not be cleared: a document pays for its own length only.
    """
    slots = 1 << max(6, (2 * items).bit_length())
    return (
        np.empty(items, np.int64),  # starts
        np.empty(items, np.int64),  # stops
        np.empty(items, np.uint64),  # hashes
        np.empty(items + 1, np.int64),  # before: characters of all items before this one
        np.empty(items + 1, np.int32),  # numbers
        np.empty(items + 1, np.int32),  # next_numbers
        np.empty(items, np.int32),  # counts
        np.empty(items, np.int32),  # places
        np.empty(slots, np.int32),  # slots
    )


@njit(_U64(_I32S, _AT))
def _clear(slots, entries):
    """Empty as many slots as `entries` entries need to fill at most half; returns the mask of a slot's number."""
    size = 16
    while size < 2 * entries:
        size *= 2
    for k in range(size):
        slots[k] = -1
    return _U64(size - 1)


@njit(types.boolean(UTF8, _AT, _AT, _AT))
def _same_bytes(utf8, one, other, size):
    """Whether `size` bytes at one place are those at another."""
    k = 0
    while k < size and utf8[_U64(one + k)] == utf8[_U64(other + k)]:
        k += 1
    return k == size


@njit(types.void(UTF8, _AT, SCRATCH))
def _number(utf8, w, memory):
    """Give each item the place of its first occurrence as its number, and count it in `counts` there."""
    starts, stops, hashes, _, numbers, _, counts, _, slots = memory
    mask = _clear(slots, w)
    for k in range(w):
        key = hashes[k]
        size = stops[k] - starts[k]
        slot = (key >> _U64(20)) & mask
        while True:
            first = slots[slot]
            if first < 0:
                slots[slot] = k
                numbers[k] = k
                counts[k] = 1
                break
            alike = hashes[first] == key and stops[first] - starts[first] == size
            if alike and _same_bytes(utf8, starts[first], starts[k], size):
                numbers[k] = first
                counts[first] += 1
                break
            slot = (slot + _U64(1)) & mask


@njit(_AT(UTF8, _AT, _AT, _AT, UTF8, UTF8, SCRATCH))
def _find_segments(utf8, begin, end, newlines, by_byte, by_char, memory):
    """Put lines (`newlines` 1) or paragraphs (2) into `memory`; returns how many, -1 where they do not fit."""
    starts, stops, hashes, before, _, _, _, _, _ = memory
    found = total = 0
    start, stop, chars, chars_at_stop = -1, begin, 0, 0
    at = begin
    before[0] = 0
    while True:
        closes = at >= end
        if not closes and utf8[_U64(at)] == NEWLINE:
            closes = newlines == 1 or (at + 1 < end and utf8[_U64(at + 1)] == NEWLINE)
        if closes:
            if start >= 0:
                if found == len(starts):
                    return -1
                starts[found], stops[found] = start, stop
                hashes[found] = hash_bytes(utf8, start, stop)
                total += chars_at_stop
                found += 1
                before[found] = total
            if at >= end:
                return found
            start, chars = -1, 0
            at += newlines
            continue
        kind, width = by_byte[utf8[_U64(at)]], 1
        if kind & WIDE:
            point, width = decode(utf8, at)
            kind = by_char[point]
        at += width
        if not kind & SPACE:
            if start < 0:
                start = at - width
                chars = 0
            chars += 1
            stop, chars_at_stop = at, chars
        else:
            chars += 1


@njit(types.UniTuple(_AT, 2)(_AT, SCRATCH))
def _repeated(w, memory):
    """``(items that occur more than once, their characters)``, every occurrence."""
    before, numbers, counts = memory[3], memory[4], memory[6]
    items = chars = 0
    for k in range(w):
        if counts[numbers[k]] > 1:
            items += 1
            chars += before[k + 1] - before[k]
    return items, chars


@njit(types.boolean(UTF8, _AT, _AT, UTF8, UTF8, SCRATCH, _COUNTS, _AT))
def _count_segments(utf8, begin, end, by_byte, by_char, memory, counts, i):
    """`SEGMENT_SIGNALS` of one document into column `i`; False where `memory` is too small."""
    lines = _find_segments(utf8, begin, end, 1, by_byte, by_char, memory)
    if lines < 0:
        return False
    _number(utf8, lines, memory)
    counts[0, i] = memory[3][lines]
    counts[1, i], counts[2, i] = _repeated(lines, memory)
    paragraphs = _find_segments(utf8, begin, end, 2, by_byte, by_char, memory)  # fewer: they fit
    _number(utf8, paragraphs, memory)
    counts[3, i] = paragraphs
    counts[4, i] = memory[3][paragraphs]
    counts[5, i], counts[6, i] = _repeated(paragraphs, memory)
    return True


@njit(_AT(OFFSETS, UTF8, _AT, UTF8, UTF8, SCRATCH, _COUNTS))
def scan_segments(offsets, utf8, first, by_byte, by_char, memory, counts):
    """Fill `counts` with `SEGMENT_SIGNALS` from document `first` on; returns the document that does not fit, or n.

    by_byte, by_char : those of characters.py.
    """
    for i in range(first, len(offsets) - 1):
        if not _count_segments(utf8, offsets[i], offsets[i + 1], by_byte, by_char, memory, counts, i):
            return i
    return len(offsets) - 1


@njit(_AT(UTF8, _AT, _AT, UTF8, UTF8, SCRATCH))
def _find_words(utf8, begin, end, by_byte, by_char, memory):
    """Put the words of UAX #29 into `memory`; returns how many, -1 where they do not fit."""
    starts, stops, hashes, before, _, _, _, _, _ = memory
    found = total = 0
    before[0] = 0
    at = begin
    while True:
        start, at, chars = next_word(utf8, at, end, by_byte, by_char)
        if start >= end:
            return found
        if found == len(starts):
            return -1
        starts[found], stops[found] = start, at
        hashes[found] = hash_bytes(utf8, start, at)
        total += chars
        found += 1
        before[found] = total


@njit(_AT(_AT, _AT, SCRATCH))
def _number_ngrams(candidates, n, memory):
    """Number the n-grams at the `candidates` places by their first occurrence, and count them in `counts` there.

    `numbers` has those of the (n - 1)-grams, negative where one occurs once; of the n-grams they are left in
    `next_numbers`. Returns the candidates that are left in `places`: where both (n - 1)-grams occur twice.
    """
    numbers, next_numbers, counts, places, slots = memory[4], memory[5], memory[6], memory[7], memory[8]
    left = 0
    for k in range(candidates):
        at = places[k]
        places[left] = at
        left += numbers[at] >= 0 and numbers[at + 1] >= 0
    mask = _clear(slots, left)
    for k in range(left):
        at = places[k]
        front, back = numbers[at], numbers[at + 1]
        key = (_U64(front) << _U64(32) | _U64(back)) * _U64(0x9E3779B97F4A7C15)
        slot = (key >> _U64(32)) & mask
        while True:
            first = slots[slot]
            if first < 0:
                slots[slot] = at
                next_numbers[at] = at
                counts[at] = 1
                break
            if numbers[first] == front and numbers[first + 1] == back:
                next_numbers[at] = first
                counts[first] += 1
                break
            slot = (slot + _U64(1)) & mask
    return left


@njit(_AT(_AT, _AT, SCRATCH))
def _top_chars(candidates, n, memory):
    """Characters of the longest most frequent n-gram, times its occurrences; 0 where none occurs twice."""
    before, next_numbers, counts, places = memory[3], memory[5], memory[6], memory[7]
    most, longest = 1, 0
    for k in range(candidates):
        at = places[k]
        if next_numbers[at] == at and counts[at] >= most:
            chars = before[at + n] - before[at]
            if counts[at] > most:
                most, longest = _AT(counts[at]), chars
            longest = max(longest, chars)
    return most * longest if most > 1 else 0


@njit(_AT(_AT, _AT, SCRATCH))
def _covered_chars(candidates, n, memory):
    """Characters of the words in n-grams that occur more than once."""
    before, next_numbers, counts, places = memory[3], memory[5], memory[6], memory[7]
    chars = covered = 0
    for k in range(candidates):
        at = _AT(places[k])
        if counts[next_numbers[at]] > 1:
            chars += before[at + n] - before[max(at, covered)]
            covered = at + n
    return chars


@njit(types.boolean(UTF8, _AT, _AT, UTF8, UTF8, SCRATCH, _COUNTS, _AT))
def _count_ngrams(utf8, begin, end, by_byte, by_char, memory, counts_out, i):
    """`NGRAM_SIGNALS` of one document into column `i`; False where `memory` is too small."""
    w = _find_words(utf8, begin, end, by_byte, by_char, memory)
    if w < 0:
        return False
    _number(utf8, w, memory)
    before, numbers, next_numbers, counts, places = memory[3], memory[4], memory[5], memory[6], memory[7]
    counts_out[0, i] = before[w]
    candidates = 0
    for k in range(w):
        places[candidates] = k
        if counts[numbers[k]] > 1:
            candidates += 1
        else:
            numbers[k] = -1
    numbers[w] = -1
    for n in range(2, 11):
        listed = candidates
        candidates = _number_ngrams(listed, n, memory)
        row = n - 1
        counts_out[row, i] = (
            _top_chars(candidates, n, memory) if n <= 4 else _covered_chars(candidates, n, memory)
        )
        # From here on `numbers` is about n-grams. Of the places that have none, only those just behind one are read.
        for k in range(candidates):
            at = _AT(places[k])
            numbers[at] = next_numbers[at] if counts[next_numbers[at]] > 1 else -1
            if k + 1 == candidates or places[k + 1] != at + 1:
                numbers[at + 1] = -1
    return True


@njit(_AT(OFFSETS, UTF8, _AT, UTF8, UTF8, SCRATCH, _COUNTS))
def scan_ngrams(offsets, utf8, first, by_byte, by_char, memory, counts):
    """Fill `counts` with `NGRAM_SIGNALS` from document `first` on; returns the document that does not fit, or n.

    by_byte, by_char : those of uax29.py.
    """
    for i in range(first, len(offsets) - 1):
        if not _count_ngrams(utf8, offsets[i], offsets[i + 1], by_byte, by_char, memory, counts, i):
            return i
    return len(offsets) - 1
