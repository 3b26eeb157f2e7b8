"""Which words does an English text have, where datatrove's rules are to be decided as datatrove decides them?

datatrove 0.9.0 takes spaCy's words: ``split_into_words`` is the tokenizer of ``spacy.blank("en")``, words that
are whitespace left out. Here kernels cut them, by the installed spaCy's rules (english_spacy.py, english_rules.py):
chunks between whitespace one by one (english_affixes.py, english_urls.py), then special cases over the whole text
(english_special.py). They decide every chunk and are exact, so nothing is left for spaCy to decide, nothing is
remembered from one document to the next, and the time is linear in the text.

One difference is known. spaCy's table of words cannot hold "IS_ALPHA" in a `memory_zone`, where datatrove calls it:
by what the process met before, datatrove keeps that word, takes it out of the text, or fails. Here it is a word
like any other.

How a kernel of another module counts words, with `rules`, `words` and `marks` as arguments of the types `RULES`,
`WORDS` and `MARKS`:

    n = words_of_document(utf8, begin, end, rules, words, marks)
    if n < 0:
        return i  # the scratch has no room for the words of document i: its caller brings more, and goes on

and then reads ``words.starts[k]``, ``stops``, ``chars``, ``hashes`` and ``kinds`` for k < n (class `Words`);
``words.kinds[k] & HAS_LETTER`` and so on, flags that english_rules.py defines and this module gives on. A
driver in Python brings ``load()`` and ``scratch(m)``, doubling m when told that there is no room:

    done, m = 0, most_words(offsets)
    while (done := kernel(offsets, utf8, load(), *scratch(m), done, ...)) < len(offsets) - 1:
        m *= 2

`sentences_of_document`, called with the same arguments after it, counts sentences, as
``len(split_into_sentences(text))`` does: 1 for a text without words.

Letters: n documents, b bytes of text, m words that there is room for.
"""

import numpy as np
import pyarrow as pa
from winnow.filters.english_affixes import WORDS, Words, cut_chunk, cut_special, describe, find_special
from winnow.filters.english_rules import (
    ACTIVE,
    ALL_KINDS,
    ENDS_SENTENCE,
    HAS_LETTER,
    HAS_NON_PUNCTUATION,
    HAS_WORD_CHAR,
    RULES,
    SPACE,
    char_at,
    hash_byte,
)
from winnow.filters.english_spacy import load
from winnow.filters.english_special import MARKS, apply_specials, may_hold_special
from winnow.filters.jit import OFFSETS, UTF8, njit, text_buffers, types

__all__ = [
    "ENDS_SENTENCE", "HAS_LETTER", "HAS_NON_PUNCTUATION", "HAS_WORD_CHAR",
    "MARKS", "RULES", "WORDS", "Words",
    "count_words", "load", "most_words", "scratch", "sentences_of_document", "split", "words_of_document",
]  # fmt: skip

_AT = types.int64
_SPACE = ord(" ")


@njit(_AT(UTF8, _AT, _AT, RULES))
def _skip_space(utf8, at, end, rules):
    while at < end:
        point, width = char_at(utf8, at)
        if not rules.by_char[point] & SPACE:
            break
        at += width
    return at


@njit(_AT(UTF8, _AT, _AT, RULES, WORDS, MARKS))
def words_of_document(utf8, begin, end, rules, words, marks):
    """The number of words of the text from `begin` to `end`, which are written to `words`.

    Parameters
    ----------
    utf8 : uint8[b]
        Valid UTF-8 from `begin` to `end`. Not checked: other bytes give other words, and up to three bytes past
        `end` may be read.
    rules : RULES
        From `load`.
    words : Words of m
        Filled from the front; what is behind the last word is scratch.
    marks : int32[m]
        Scratch.

    Returns
    -------
    int64
        -1 where m is too small. m >= 2 * (end - begin) always has room; `most_words` guesses lower.
    """
    n, at, specials = 0, begin, False
    room = len(words.starts)
    while True:
        at = _skip_space(utf8, at, end, rules)
        if at >= end:
            break
        start, chars, flags, key = at, 0, np.uint32(0), np.uint64(0)
        active, passive = end, begin
        while at < end:
            byte, width = utf8[at], 1
            if byte < 0x80:
                kind = rules.by_char[byte]
                if kind & SPACE:
                    break
                key = hash_byte(key, np.uint64(byte))
            else:
                point, width = char_at(utf8, at)
                kind = rules.by_char[point]
                if kind & SPACE:
                    break
                for k in range(at, at + width):
                    key = hash_byte(key, np.uint64(utf8[k]))
            flags |= kind
            chars += 1
            if kind & ACTIVE:
                active = min(active, at)
                passive = at + width
            at += width
        if n + at - start > room:
            return -1
        first = n
        if flags & ACTIVE:
            n = cut_chunk(utf8, start, at, active, passive, rules, words.stops, n)
        else:
            special = find_special(utf8, start, at, rules)
            if special >= 0:
                n = cut_special(start, special, rules, words.stops, n)
            else:
                words.stops[n] = at
                n += 1
        if n - first == 1:
            words.starts[first] = start
            words.chars[first], words.hashes[first] = chars, key
            words.kinds[first] = flags & (ALL_KINDS if chars == 1 else ALL_KINDS & ~ENDS_SENTENCE)
            continue
        for k in range(first, n):
            words.starts[k] = start
            words.chars[k], words.hashes[k], words.kinds[k] = describe(utf8, start, words.stops[k], rules)
            start = words.stops[k]
        specials = specials or may_hold_special(rules, words.hashes, first, n)
    return apply_specials(utf8, rules, words, n, marks) if specials else n


@njit(_AT(UTF8, _AT, _AT, WORDS, _AT))
def sentences_of_document(utf8, begin, end, words, n):
    """Sentences of the text from `begin` to `end`, of which `words` are the n words.

    spaCy's sentencizer: a sentence opens with the text, and with the first word after a full stop or the like
    that is not all punctuation. Whitespace other than one space behind a word is a word to it.
    """
    sentences, ended, before = 1, False, begin
    for k in range(n):
        gap = words.starts[k] - before
        if ended and gap and (gap > 1 or utf8[before] != _SPACE):
            sentences += 1
            ended = False
        ends = words.kinds[k] & ENDS_SENTENCE
        if ended and not ends and words.kinds[k] & HAS_NON_PUNCTUATION:
            sentences += 1
            ended = False
        elif ends:
            ended = True
        before = words.stops[k]
    gap = end - before
    if ended and gap and (gap > 1 or utf8[before] != _SPACE):
        sentences += 1
    return sentences


def most_words(offsets: np.ndarray) -> int:
    """A guess at the words of the longest document: one for three bytes, and some more."""
    return 64 + int(np.diff(offsets).max(initial=0)) // 3


def scratch(m: int) -> tuple[Words, np.ndarray]:
    """``(words, marks)`` with room for m words: 33 bytes each."""
    words = Words(
        starts=np.empty(m, np.int64),
        stops=np.empty(m, np.int64),
        chars=np.empty(m, np.int32),
        hashes=np.empty(m, np.uint64),
        kinds=np.empty(m, np.uint8),
    )
    return words, np.empty(m, np.int32)


_FOUND = types.Array(types.int64, 1, "C")


@njit(_AT(OFFSETS, UTF8, RULES, WORDS, MARKS, _AT, _FOUND, _FOUND))
def _count_documents(offsets, utf8, rules, words, marks, done, counts, sentences):
    """Fill ``counts[i]`` and ``sentences[i]`` of documents from `done` on; the first without room, or n."""
    for i in range(done, len(offsets) - 1):
        n = words_of_document(utf8, offsets[i], offsets[i + 1], rules, words, marks)
        if n < 0:
            return i
        counts[i] = n
        sentences[i] = sentences_of_document(utf8, offsets[i], offsets[i + 1], words, n)
    return len(offsets) - 1


@njit(types.void(OFFSETS, UTF8, RULES, WORDS, MARKS, _FOUND, _FOUND))
def _copy_documents(offsets, utf8, rules, words, marks, starts, stops):
    """Fill `starts` and `stops` with the words of all documents; `words` has room for each."""
    filled = 0
    for i in range(len(offsets) - 1):
        n = words_of_document(utf8, offsets[i], offsets[i + 1], rules, words, marks)
        for k in range(n):
            starts[filled + k], stops[filled + k] = words.starts[k], words.stops[k]
        filled += n


def count_words(texts: pa.LargeStringArray) -> tuple[np.ndarray, np.ndarray]:
    """``(words, sentences)`` of each document, int64[n] both. Raises what `split` does."""
    counts, sentences, _ = _count(texts)
    return counts, sentences


def _count(texts: pa.LargeStringArray) -> tuple[np.ndarray, np.ndarray, int]:
    """``(words, sentences, m)``, m being room for the words of every document."""
    offsets, utf8 = text_buffers(texts)
    counts, sentences = np.empty((2, len(texts)), np.int64)
    rules, done, m = load(), 0, most_words(offsets)
    while True:
        done = _count_documents(offsets, utf8, rules, *scratch(m), done, counts, sentences)
        if done == len(texts):
            return counts, sentences, m
        m *= 2


def split(texts: pa.LargeStringArray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``(ends, starts, stops)``: document i's words are those from ``ends[i]`` to ``ends[i + 1]``.

    ends int64[n + 1]; starts and stops int64, positions in the column's bytes (jit.py, `text_buffers`).

    Raises
    ------
    ModuleNotFoundError, RuntimeError
        As `load` does.
    TypeError, ValueError
        As `text_buffers` does.
    """
    offsets, utf8 = text_buffers(texts)
    counts, _, m = _count(texts)
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    starts, stops = np.empty((2, ends[-1]), np.int64)
    _copy_documents(offsets, utf8, load(), *scratch(m), starts, stops)
    return ends, starts, stops
