"""Which documents and paragraphs say what was said before: n-grams of words in a Bloom filter.

DCLM's `old-both` (Li et al. 2024, arXiv:2406.11794; mlfoundations/dclm, dedup/bff/src/main.rs), with verdicts that
can be made again. Documents are judged one after the other; what one of them leaves in the filter is what the later
ones are compared with.

token      a segment of UAX #29 that is not whitespace (uax29.py): a word, or a mark of punctuation, as it is spelled.
paragraph  what "\\n" separates. With `remove: document` the whole text is one.
n-gram     `ngram` tokens of a paragraph in a row. A paragraph with fewer tokens has none: it stays, and leaves nothing.
seen       of n-grams: in the filter, which holds those of the documents before that were kept, and now and then
           (`false_positive_rate`) some other; or in a paragraph of the same document that was kept.

A paragraph goes when more than `threshold` of its n-grams were seen. A document goes when more than `threshold`
of all its n-grams were seen in *other* documents; only a document that stays leaves its n-grams in the filter, those of
its kept paragraphs. What goes with a paragraph is the "\\n" before it, or behind it where nothing before it was
kept: what is left are the kept paragraphs with "\\n" between them.

Differences from DCLM, on purpose:

- It inserts a kept paragraph before the document's verdict. A document that is then dropped leaves text in the filter
  that no document has any more, and later ones lose it too. Here a dropped document leaves nothing.
- To it a paragraph that a document says again counts for the document's verdict, too: a document that says one
  paragraph ten times is dropped, the first copy of it as well. Here it loses nine of the ten.
- Its seeds are drawn when it starts, and its threads race. Here the same documents in the same order give the same.

Two n-grams are the same when 64-bit hashes of them are: among 10 billion in a filter, one new n-gram in a billion is
taken for one of them, which is nothing beside the filter's own rate.

Letters: n documents, b bytes of text; of one document g n-grams.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from winnow.filters.bloom_settings import BITS, BLOCK_BITS, MOST_BLOCKS, Bloom
from winnow.filters.jit import OFFSETS, UTF8, njit, text_buffers, types
from winnow.filters.repetition import fold, hash_bytes
from winnow.filters.uax29 import character_tables, next_token

_AT, _U64 = types.int64, types.uint64
_BYTES = types.Array(types.uint8, 1, "C")
_I64S = types.Array(types.int64, 1, "C")
_U32S = types.Array(types.uint32, 1, "C")
_U64S = types.Array(types.uint64, 1, "C")
_SPANS = types.Array(types.int64, 2, "C")
_SCRATCH = types.Tuple((_U64S, _U64S, _SPANS))
"""What `_scratch` makes."""
_COUNTS = types.Array(types.int64, 2, "C")

_WORDS = BLOCK_BITS // 64
_BATCH = 256
"""N-grams whose blocks are asked for at once: 16 KiB of them (ours: the fastest of 16, 64, 256, 4096)."""
_STEP = 0x9E3779B97F4A7C15
_STEP_BACK = 0xF1DE83E19937733D
_NEWLINE = ord("\n")
_START, _STOP, _NUMBER, _FIRST = range(4)
"""Of a paragraph with n-grams: its bytes, how many paragraphs are before it, and its first n-gram."""
_MODES = {"both": 0, "paragraph": 1, "document": 2}
_BOTH, _PARAGRAPH, _DOCUMENT = _MODES.values()


@dataclass(frozen=True, slots=True)
class Judged:
    """What was found about documents, in their order."""

    dropped: np.ndarray
    """bool[n]"""
    seen: np.ndarray
    """int64[n]: n-grams that were seen in other documents."""
    ngrams: np.ndarray
    """int64[n]: all n-grams."""
    items: np.ndarray
    """int64[n]: how many of `cuts` are the document's; 0 where it is dropped."""
    cuts: np.ndarray
    """uint32: start, end, … of the bytes that go, of one document after the other; ascending, not adjoining."""


def new_filter(blocks: int) -> np.ndarray:
    """An empty filter, uint64[8 * blocks], whose blocks are cache lines. Raises ValueError where it has too many."""
    if not 1 <= blocks <= MOST_BLOCKS:
        raise ValueError(f"a filter has 1 to {MOST_BLOCKS:,} blocks, not {blocks:,}")
    words = np.zeros(_WORDS * (blocks + 1), np.uint64)
    skip = -words.ctypes.data % (BLOCK_BITS // 8) // 8
    return words[skip : skip + _WORDS * blocks]


def count_ngrams(texts: pa.LargeStringArray, settings: Bloom) -> np.ndarray:
    """int64[n]: n-grams of each document, as `judge` counts them. Raises what `text_buffers` raises."""
    counts = np.empty(len(texts), np.int64)
    whole = settings.remove == "document"
    _count_ngrams(*text_buffers(texts), settings.ngram, whole, *character_tables(), counts)
    return counts


def judge(texts: pa.LargeStringArray, settings: Bloom, filter_: np.ndarray) -> Judged:
    """Judge documents one after the other, and put what is new in those that stay into the filter.

    filter_ : from `new_filter`, with what the documents before left in it; changed.

    Memory: for the longest document 8 bytes an n-gram and 32 a paragraph that has some, and 8 for each cut of them all;
    what is reserved is more, and never touched. Time: linear in the text.

    Raises
    ------
    TypeError
        `texts` is not a LargeStringArray.
    ValueError
        It has nulls.
    """
    offsets, utf8 = text_buffers(texts)
    n = len(texts)
    sizes = np.diff(offsets)
    dropped = np.zeros(n, np.uint8)
    counts = np.empty((3, n), np.int64)
    # A paragraph that can be cut has a byte for each of its tokens, and cuts that do not adjoin have text between them.
    cuts = np.empty(2 * (int(sizes.sum()) // (settings.ngram + 1) + n), np.uint32)
    used = _judge(
        offsets,
        utf8,
        settings.ngram,
        settings.threshold,
        _MODES[settings.remove],
        *character_tables(),
        filter_,
        _scratch(int(sizes.max(initial=0)), settings.ngram),
        dropped,
        counts,
        cuts,
    )
    return Judged(dropped.astype(bool), counts[0], counts[1], counts[2], cuts[:used].copy())


def count_seen(filter_: np.ndarray, hashes: np.ndarray) -> int:
    """How many of some hashes of n-grams, uint64[g], a filter has."""
    return int(_count_known(filter_, np.append(hashes, np.uint64(0)), 0, len(hashes)))


def insert(filter_: np.ndarray, hashes: np.ndarray) -> None:
    """Put hashes of n-grams, uint64[g], into a filter."""
    _put_all(filter_, np.append(hashes, np.uint64(0)), 0, len(hashes))


def _scratch(text_bytes: int, ngram: int) -> tuple[np.ndarray, ...]:
    """Working memory for documents of at most so many bytes. It need not be cleared."""
    ring = np.empty(ngram, np.uint64)  # hashes of the last tokens
    grams = np.empty(text_bytes + 1, np.uint64)  # hashes of a document's n-grams, in order; and one to spare
    spans = np.empty((text_bytes // ngram + 1, 4), np.int64)  # _START, _STOP, _NUMBER, _FIRST
    return ring, grams, spans


@njit(_U64(_AT))
def _power(exponent):
    """_STEP ** exponent."""
    power = _U64(1)
    for _ in range(exponent):
        power *= _U64(_STEP)
    return power


@njit(types.UniTuple(_AT, 3)(UTF8, _AT, _AT, _AT, types.boolean, UTF8, UTF8, _U64S, _U64S, _SPANS))
def _read_document(utf8, begin, end, ngram, whole, by_byte, by_char, ring, grams, spans):
    """Hash a document's n-grams: ``(n-grams, paragraphs that have some, tokens in those that have none)``.

    The hash of an n-gram is the sum of its tokens' hashes times powers of `_STEP`, which moves on with each token, and
    is mixed in the end.
    """
    found = paragraphs = number = short = 0
    power = _power(ngram)
    at, start = begin, begin
    held = slot = 0
    state = _U64(0)
    while True:
        first, at = next_token(utf8, at, end, by_byte, by_char)
        if at == first or (utf8[_U64(first)] == _NEWLINE and not whole):
            if held >= ngram:
                spans[paragraphs, _START], spans[paragraphs, _STOP] = start, first
                spans[paragraphs, _NUMBER] = number
                spans[paragraphs, _FIRST] = found - (held - ngram + 1)
                paragraphs += 1
            else:
                short += held
            if at == first:
                return found, paragraphs, short
            start = at
            number += 1
            held = slot = 0
            state = _U64(0)
            continue
        if utf8[_U64(first)] == _NEWLINE:
            continue
        token = hash_bytes(utf8, first, at)
        state = state * _U64(_STEP) + token
        if held >= ngram:
            state -= ring[_U64(slot)] * power
        ring[_U64(slot)] = token
        slot += 1
        if slot == ngram:
            slot = 0
        held += 1
        if held >= ngram:
            grams[_U64(found)] = fold(_U64(0), state ^ (state >> _U64(32)))
            found += 1


@njit(_U64(_U64, _U64))
def _block(gram, blocks):
    """The first word of an n-gram's block: gram * blocks / 2**64, of 32-bit `blocks`."""
    high = (gram >> _U64(32)) * blocks
    low = (gram & _U64(0xFFFFFFFF)) * blocks
    return ((high + (low >> _U64(32))) >> _U64(32)) * _U64(_WORDS)


@njit(_U64(_U64))
def _places(gram):
    """The places of an n-gram's bits in its block, 9 bits of the result each. Not of those that chose the block."""
    mixed = (gram ^ (gram >> _U64(29))) * _U64(_STEP_BACK)
    return mixed ^ (mixed >> _U64(32))


@njit(types.boolean(_U64S, _U64, _U64))
def _has(filter_, gram, blocks):
    """Whether the filter has an n-gram."""
    block, places = _block(gram, blocks), _places(gram)
    found = _U64(1)
    for _ in range(BITS):
        found &= filter_[block + ((places >> _U64(6)) & _U64(7))] >> (places & _U64(63))
        places >>= _U64(9)
    return found != 0


@njit(types.void(_U64S, _U64, _U64))
def _put(filter_, gram, blocks):
    """Put an n-gram into the filter."""
    block, places = _block(gram, blocks), _places(gram)
    for _ in range(BITS):
        filter_[block + ((places >> _U64(6)) & _U64(7))] |= _U64(1) << (places & _U64(63))
        places >>= _U64(9)


@njit(types.float64(_U64S))
def measured_rate(filter_):
    """The false-positive rate of a filter as it is: how likely it has the 7 bits of a block that one chooses at random.

    0 for an empty one.
    """
    total = types.float64(0)
    for block in range(len(filter_) // _WORDS):
        ones = _U64(0)
        for k in range(_WORDS):
            word = filter_[block * _WORDS + k]
            word -= (word >> _U64(1)) & _U64(0x5555555555555555)
            word = (word & _U64(0x3333333333333333)) + ((word >> _U64(2)) & _U64(0x3333333333333333))
            word = (word + (word >> _U64(4))) & _U64(0x0F0F0F0F0F0F0F0F)
            ones += (word * _U64(0x0101010101010101)) >> _U64(56)
        total += (ones / BLOCK_BITS) ** BITS
    return total / (len(filter_) // _WORDS)


@njit(types.void(_U64S, _U64S, _AT, _AT, _U64))
def _fetch(filter_, grams, first, stop, blocks):
    """Ask for the blocks of ``grams[first:stop]``, so that they come from memory side by side.

    What was read is left in the last item of `grams`; or else it would not be read.
    """
    ones = _U64(0)
    for k in range(first, stop):
        ones |= filter_[_block(grams[k], blocks)]
    grams[len(grams) - 1] = ones


@njit(_AT(_U64S, _U64S, _AT, _AT))
def _count_known(filter_, grams, first, stop):
    """How many of ``grams[first:stop]`` the filter has."""
    blocks, known = _U64(len(filter_) // _WORDS), 0
    while first < stop:
        middle = min(stop, first + _BATCH)
        _fetch(filter_, grams, first, middle, blocks)
        for k in range(first, middle):
            known += _has(filter_, grams[k], blocks)
        first = middle
    return known


@njit(types.void(_U64S, _U64S, _AT, _AT))
def _put_all(filter_, grams, first, stop):
    """Put ``grams[first:stop]`` into the filter."""
    blocks = _U64(len(filter_) // _WORDS)
    while first < stop:
        middle = min(stop, first + _BATCH)
        _fetch(filter_, grams, first, middle, blocks)
        for k in range(first, middle):
            _put(filter_, grams[k], blocks)
        first = middle


@njit(_AT(_SPANS, _AT, _AT, types.float64, types.boolean, _U64S, _U64S))
def _judge_paragraphs(spans, paragraphs, found, threshold, all_stay, grams, filter_):
    """Judge a document's paragraphs one after the other, and put those that stay into the filter; returns how many.

    Of one that goes, ``_FIRST`` is turned into its complement, which is negative.
    """
    kept = 0
    for p in range(paragraphs):
        first = spans[p, _FIRST]
        stop = spans[p + 1, _FIRST] if p + 1 < paragraphs else found
        known = 0 if all_stay else _count_known(filter_, grams, first, stop)
        if known / (stop - first) > threshold:
            spans[p, _FIRST] = ~first
            continue
        kept += 1
        _put_all(filter_, grams, first, stop)
    return kept


@njit(_AT(_SPANS, _AT, _AT, _AT, _U32S, _AT))
def _write_cuts(spans, paragraphs, begin, end, cuts, used):
    """Write what goes with the paragraphs that go, from ``cuts[used]`` on; returns how many items there are then."""
    first_item = used
    gone = 0
    for p in range(paragraphs):
        if spans[p, _FIRST] >= 0:
            continue
        start, stop = spans[p, _START] - begin, spans[p, _STOP] - begin
        if spans[p, _NUMBER] == gone:  # nothing before it is kept
            start, stop = 0, min(stop + 1, end - begin)
        else:
            start -= 1
        gone += 1
        if used > first_item and (start == 0 or cuts[used - 1] == start):
            cuts[used - 1] = stop
        else:
            cuts[used], cuts[used + 1] = start, stop
            used += 2
    return used


@njit(
    _AT(
        OFFSETS, UTF8, _AT, types.float64, _AT, UTF8, UTF8, _U64S, _SCRATCH, _BYTES, _COUNTS, _U32S
    )
)  # fmt: skip
def _judge(
    offsets, utf8, ngram, threshold, mode, by_byte, by_char, filter_, memory, dropped, counts, cuts
):  # fmt: skip
    """Judge documents; returns how many items of `cuts` there are.

    dropped : uint8[n], zero. counts : int64[3, n], filled with those seen, those there are, and items of `cuts`.
    """
    ring, grams, spans = memory
    used = 0
    for i in range(len(offsets) - 1):
        begin, end = offsets[i], offsets[i + 1]
        found, paragraphs, short = _read_document(
            utf8, begin, end, ngram, mode == _DOCUMENT, by_byte, by_char, ring, grams, spans
        )
        known = _count_known(filter_, grams, 0, found)
        counts[0, i], counts[1, i], counts[2, i] = known, found, 0
        if found == 0:
            continue
        if mode != _PARAGRAPH and known / found > threshold:
            dropped[i] = 1
            continue
        kept = _judge_paragraphs(spans, paragraphs, found, threshold, mode == _DOCUMENT, grams, filter_)
        if kept == 0 and short == 0:
            dropped[i] = 1
        elif kept < paragraphs:
            before = used
            used = _write_cuts(spans, paragraphs, begin, end, cuts, used)
            counts[2, i] = used - before
    return used


@njit(types.void(OFFSETS, UTF8, _AT, types.boolean, UTF8, UTF8, _I64S))
def _count_ngrams(offsets, utf8, ngram, whole, by_byte, by_char, counts):
    """Fill `counts` with the n-grams of each document."""
    for i in range(len(offsets) - 1):
        at, end = offsets[i], offsets[i + 1]
        found = held = 0
        while True:
            first, at = next_token(utf8, at, end, by_byte, by_char)
            if at == first:
                break
            if utf8[_U64(first)] == _NEWLINE:
                held = held if whole else 0
                continue
            held += 1
            found += held >= ngram
        counts[i] = found
