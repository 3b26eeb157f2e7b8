"""How much of a document is said again: its n-grams of words, as Gopher's repetition rules count them.

Rae et al. 2021, arXiv:2112.11446, table A1, in the reading of datatrove 0.9.0 (GopherRepetitionFilter), for any
words: the caller splits a document and brings its words as arrays, so that whitespace words, spaCy's and those
of UAX #29 are counted by the same code.

top n-gram, n = 2, 3, 4       the n words in a row that occur most often; of equally frequent ones, the one seen
                              first. Counted: its characters with n - 1 single spaces, times its occurrences.
                              Two n-grams are the same when their words are the same, one by one.
duplicate n-grams, n = 5..10  a walk over the words: n words in a row that were met before count their characters
                              (without spaces), and the walk goes on behind them; otherwise it goes one word on.
                              Two n-grams are the same when their words written without spaces are the same.

Identity is that of 64-bit hashes: among a million n-grams of a document the odds that any two are taken for the
same are 1 in 37 million.

Letters: w words of one document, b bytes in them.
"""

import numpy as np
from winnow.filters.jit import UTF8, njit, types

NGRAM_SIGNALS = {
    **{f"top_{n}gram_chars": f"characters of the most frequent {n}-gram, times its count" for n in (2, 3, 4)},
    **{f"dup_{n}gram_chars": f"characters of {n}-grams seen before" for n in range(5, 11)},
}
"""Signal name -> what it counts, in the order of what `count_ngrams` returns."""

_AT, _U64 = types.int64, types.uint64

WORD_PLACES = types.Array(types.int64, 1, "C")
"""int64[>= w]: `starts` and `stops`, byte positions in the column's text."""
WORD_CHARS = types.Array(types.int32, 1, "C")
"""int32[>= w]: characters (code points) of each word."""
WORD_HASHES = types.Array(types.uint64, 1, "C")
"""uint64[>= w]: a hash of each word's bytes, any that is good to 64 bits; `hash_bytes` is one."""

_BYTES = types.Array(types.uint8, 1, "C")
_U32S = types.Array(types.uint32, 1, "C")
_U64S = types.Array(types.uint64, 1, "C")
NGRAM_SCRATCH = types.Tuple((_BYTES, _U32S, _U64S, _U64S, _U64S, _U32S, _U32S, _U32S, _U32S))
"""What `ngram_scratch` makes."""

_ODD = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0xD6E8FEB86659FD93)
_PAD = 32


def ngram_scratch(words: int, text_bytes: int) -> tuple[np.ndarray, ...]:
    """Working memory of `count_ngrams` for documents of at most `words` words with `text_bytes` bytes in all.

    48 to 56 bytes a word and 1 a byte. It need not be cleared: a document pays for its own length only.
    """
    slots = 1 << max(6, (2 * words).bit_length())
    return (
        np.zeros(text_bytes + _PAD, np.uint8),  # joined
        np.empty(words + 1, np.uint32),  # ends
        np.empty(words, np.uint64),  # grams
        np.empty(words, np.uint64),  # states
        np.empty(words + 2, np.uint64),  # bitmap
        np.empty(slots, np.uint32),  # slots
        np.empty(words, np.uint32),  # places
        np.empty(words, np.uint32),  # owners
        np.empty(words, np.uint32),  # tallies
    )


@njit(_U64(UTF8, _AT))
def load8(utf8, at):
    """The eight bytes at `at` as one integer, the first one lowest."""
    first = _U64(at)
    value = _U64(utf8[first])
    value |= _U64(utf8[first + _U64(1)]) << _U64(8)
    value |= _U64(utf8[first + _U64(2)]) << _U64(16)
    value |= _U64(utf8[first + _U64(3)]) << _U64(24)
    value |= _U64(utf8[first + _U64(4)]) << _U64(32)
    value |= _U64(utf8[first + _U64(5)]) << _U64(40)
    value |= _U64(utf8[first + _U64(6)]) << _U64(48)
    value |= _U64(utf8[first + _U64(7)]) << _U64(56)
    return value


@njit(_U64(_U64, _U64))
def fold(state, value):
    """A hash of `value` after what `state` is the hash of; for a fixed `state` no two values collide."""
    turned = state << _U64(27) | state >> _U64(37)  # a state may be a value's kin: their order has to matter
    mixed = (turned ^ value) * _U64(_ODD[0])
    return (mixed ^ (mixed >> _U64(32))) * _U64(_ODD[1])


@njit(_U64(UTF8, _AT, _AT))
def hash_bytes(utf8, start, stop):
    """64-bit hash of ``utf8[start:stop]``; reads nothing beyond `stop`."""
    state = _U64(stop - start) * _U64(_ODD[2])
    at = start
    while at + 8 <= stop:
        state = fold(state, load8(utf8, at))
        at += 8
    if at < stop:
        tail = _U64(0)
        if at + 8 <= len(utf8):
            tail = load8(utf8, at) & ((_U64(1) << _U64(8 * (stop - at))) - _U64(1))
        else:
            for k in range(stop - at):
                tail |= _U64(utf8[at + k]) << _U64(8 * k)
        state = fold(state, tail)
    return state ^ (state >> _U64(29))


@njit(_AT(WORD_CHARS, _AT, _AT))
def _chars_of(chars, first, n):
    """Characters of `n` words from word `first` on."""
    total = 0
    for k in range(first, first + n):
        total += chars[k]
    return total


@njit(_AT(_AT))
def _slot_bits(entries):
    """Bits of a slot number of a table that `entries` entries fill at most by half."""
    bits = 5
    while (1 << bits) < 2 * entries:
        bits += 1
    return bits


@njit(types.UniTuple(_AT, 2)(WORD_HASHES, _AT, _U32S, _U32S, _U32S, _U32S))
def most_frequent(grams, candidates, places, slots, owners, tallies):
    """``(occurrences, first place)`` of the hash that is most often at `places`, the one seen first if several are.

    Of ``grams[places[k]]``, k below `candidates` and `places` ascending. Leaves in ``owners[k]`` the first place of
    each, and in ``tallies[owners[k]]`` its occurrences. `slots` is a table as `ngram_scratch` makes it.
    """
    best, best_at = 1, 0
    bits = _slot_bits(candidates)
    shift, mask = _U64(64 - bits), _U64((1 << bits) - 1)
    for k in range(1 << bits):
        slots[k] = 0
    for k in range(candidates):
        at = places[k]
        slot = (grams[at] * _U64(_ODD[2])) >> shift
        while True:
            owner = slots[slot]
            if owner == 0:
                slots[slot] = at + 1
                tallies[at] = 1
                owners[k] = at
                break
            owner -= 1
            if grams[owner] == grams[at]:
                tallies[owner] += 1
                owners[k] = owner
                tally = _AT(tallies[owner])
                if tally > best or (tally == best and owner < best_at):
                    best, best_at = tally, _AT(owner)
                break
            slot = (slot + _U64(1)) & mask
    return best, best_at


@njit(types.UniTuple(_AT, 2)(WORD_CHARS, WORD_HASHES, _AT, _AT, _U64S, _U32S, _U32S, _U32S, _U32S))
def _top_ngram(chars, hashes, n, candidates, grams, places, slots, owners, tallies):
    """``(the signal of the most frequent n-gram, places left in `places` for n + 1)``.

    `places` holds, ascending, the `candidates` words at which an n-gram may begin that occurs twice, and `grams`
    the hashes of the (n - 1)-grams there. What is no candidate occurs once; an n-gram can only occur twice
    where both (n - 1)-grams in it do.
    """
    for k in range(candidates):
        at = places[k]
        grams[at] = fold(grams[at], hashes[at + n - 1])
    best, best_at = most_frequent(grams, candidates, places, slots, owners, tallies)
    left = 0
    for k in range(candidates - 1):
        at = places[k]
        twice = tallies[owners[k]] > 1 and tallies[owners[k + 1]] > 1
        neighbours = places[k + 1] == at + 1
        places[left] = at
        left += twice and neighbours
    return best * (_chars_of(chars, best_at, n) + n - 1), left


@njit(types.void(_BYTES, _AT, _U64))
def _store8(utf8, at, value):
    """Write an integer as the eight bytes from `at` on, its lowest byte first."""
    first = _U64(at)
    utf8[first] = value & _U64(255)
    utf8[first + _U64(1)] = (value >> _U64(8)) & _U64(255)
    utf8[first + _U64(2)] = (value >> _U64(16)) & _U64(255)
    utf8[first + _U64(3)] = (value >> _U64(24)) & _U64(255)
    utf8[first + _U64(4)] = (value >> _U64(32)) & _U64(255)
    utf8[first + _U64(5)] = (value >> _U64(40)) & _U64(255)
    utf8[first + _U64(6)] = (value >> _U64(48)) & _U64(255)
    utf8[first + _U64(7)] = value >> _U64(56)


@njit(types.void(UTF8, WORD_PLACES, WORD_PLACES, _AT, _BYTES, _U32S))
def _join_words(utf8, starts, stops, w, joined, ends):
    """Write the words' bytes on end into `joined`; word k lies there from ``ends[k]`` to ``ends[k + 1]``."""
    size = 0
    for k in range(w):
        ends[k] = size
        at, stop = starts[k], stops[k]
        into = size
        size += stop - at
        # Eights of bytes, the last of them with what follows the word: the next word covers that.
        while at < stop and at + 8 <= len(utf8):
            _store8(joined, into, load8(utf8, at))
            at += 8
            into += 8
        while at < stop:
            joined[into] = utf8[at]
            at += 1
            into += 1
    ends[w] = size


@njit(_U64(_BYTES, _AT, types.boolean))
def _hash_ahead(joined, at, longer):
    """A hash of the 16 bytes from `at` on, or of 24."""
    state = fold(load8(joined, at), load8(joined, at + 8))
    return fold(state, load8(joined, at + 16)) if longer else state


@njit(_AT(_BYTES, _U32S, _AT, types.boolean, _AT, _U64S, _U32S, _U64S))
def _repeatable(joined, ends, n, longer, candidates, bitmap, places, states):
    """Leave of the candidates in `places`, and of their `states`, those where a duplicate n-gram may begin.

    For n-grams of n words or more; returns how many are left. Two n-grams without spaces that are the same agree
    in their first 16 bytes (24 if `longer`), or are shorter, and then so are both their first n words. So a
    word from which the text goes on for so many bytes as it does from no other candidate can be left out, wherever
    word boundaries lie. The bitmap knows those bytes by a hash: it may keep a word too many, never one too few.
    """
    same = 24 if longer else 16
    bits = max(6, _slot_bits(8 * candidates))
    shift, half = _U64(64 - bits), 1 << (bits - 6)
    for k in range(2 * half):
        bitmap[k] = 0
    for k in range(candidates):
        slot = _hash_ahead(joined, ends[places[k]], longer) >> shift
        bit = _U64(1) << (slot & _U64(63))
        block = slot >> _U64(6)
        bitmap[block + _U64(half)] |= bitmap[block] & bit
        bitmap[block] |= bit
    left = 0
    for k in range(candidates):
        at = places[k]
        slot = _hash_ahead(joined, ends[at], longer) >> shift
        bit = _U64(1) << (slot & _U64(63))
        short = _AT(ends[at + n]) - _AT(ends[at]) < same
        places[left] = at
        states[left] = states[k]
        left += (bitmap[(slot >> _U64(6)) + _U64(half)] & bit) != 0 or short
    return left


@njit(_AT(_BYTES, _U32S, WORD_CHARS, _AT, _AT, _U64S, _U64S, _U32S, _U32S, _AT))
def _duplicate_ngrams(joined, ends, chars, w, n, states, grams, slots, places, candidates):
    """Characters of the n-grams met before, in a walk over the words.

    `states` holds, for each of `places`, the hash of the whole eights of bytes of its (n - 1)-gram.
    """
    bits = _slot_bits(candidates)
    shift, mask = _U64(64 - bits), _U64((1 << bits) - 1)
    for k in range(1 << bits):
        slots[k] = 0
    total = next_at = 0
    for k in range(candidates):
        at = _AT(places[k])
        if at + n > w:
            break
        begin, end = _AT(ends[at]), _AT(ends[at + n])
        state = states[k]
        done = begin if n == 5 else begin + ((_AT(ends[at + n - 1]) - begin) & ~7)
        while done + 8 <= end:
            state = fold(state, load8(joined, done))
            done += 8
        states[k] = state
        if at < next_at:
            continue
        tail = load8(joined, done) & ((_U64(1) << _U64(8 * (end - done))) - _U64(1))
        gram = fold(fold(state, tail), _U64(end - begin))
        grams[k] = gram
        slot = gram >> shift
        while True:
            owner = slots[slot]
            if owner == 0:
                slots[slot] = k + 1
                break
            if grams[owner - 1] == gram:
                total += _chars_of(chars, at, n)
                next_at = at + n
                break
            slot = (slot + _U64(1)) & mask
    return total


@njit(types.UniTuple(_AT, 9)(UTF8, WORD_PLACES, WORD_PLACES, WORD_CHARS, WORD_HASHES, _AT, NGRAM_SCRATCH))
def count_ngrams(utf8, starts, stops, chars, hashes, w, scratch):
    """The counts of `NGRAM_SIGNALS`, in its order, of one document's first `w` words.

    Parameters
    ----------
    utf8 : uint8[...]
        The text that `starts` and `stops` point into.
    starts, stops : int64[>= w]
        Where each word's bytes begin and end. Words may lie anywhere, in any order.
    chars : int32[>= w]
    hashes : uint64[>= w]
    w : int
    scratch
        From `ngram_scratch`, for at least `w` words and their bytes.
    """
    joined, ends, grams, states, bitmap, slots, places, owners, tallies = scratch
    top2 = top3 = top4 = dup5 = dup6 = dup7 = dup8 = dup9 = dup10 = 0
    left = max(0, w - 1)
    for k in range(left):
        grams[k] = hashes[k]
        places[k] = k
    if w >= 2:
        top2, left = _top_ngram(chars, hashes, 2, left, grams, places, slots, owners, tallies)
    if w >= 3:
        top3, left = _top_ngram(chars, hashes, 3, left, grams, places, slots, owners, tallies)
    if w >= 4:
        top4, left = _top_ngram(chars, hashes, 4, left, grams, places, slots, owners, tallies)
    if w >= 5:
        _join_words(utf8, starts, stops, w, joined, ends)
        left = w - 4
        for k in range(left):
            places[k] = k
            states[k] = 0
        left = _repeatable(joined, ends, 5, False, left, bitmap, places, states)
        dup5 = _duplicate_ngrams(joined, ends, chars, w, 5, states, grams, slots, places, left)
        dup6 = _duplicate_ngrams(joined, ends, chars, w, 6, states, grams, slots, places, left)
        while left and _AT(places[left - 1]) + 7 > w:
            left -= 1
        left = _repeatable(joined, ends, 7, True, left, bitmap, places, states)
        dup7 = _duplicate_ngrams(joined, ends, chars, w, 7, states, grams, slots, places, left)
        dup8 = _duplicate_ngrams(joined, ends, chars, w, 8, states, grams, slots, places, left)
        dup9 = _duplicate_ngrams(joined, ends, chars, w, 9, states, grams, slots, places, left)
        dup10 = _duplicate_ngrams(joined, ends, chars, w, 10, states, grams, slots, places, left)
    return top2, top3, top4, dup5, dup6, dup7, dup8, dup9, dup10
