"""Which special cases does spaCy find only after a text is cut into words?

spaCy 3.8 cuts every chunk, and then looks over the words of the whole text for those special cases that hold a
prefix, suffix or infix ("):", "a.m."), as they are cut where nobody knows them. Longer ones win over shorter,
then earlier over later. One is found across a space too; it has no rule then and changes nothing, but words
that it covers are taken, and a shorter one within a chunk is not seen. Two special cases with the same words
are one text, so that a pattern names its rule.

Letters: n words, m words that there is room for.
"""

import numpy as np
from winnow.filters.english_affixes import WORDS, cut_special, describe
from winnow.filters.english_rules import MOST_PATTERN_WORDS, RULES, extend, first_slot
from winnow.filters.jit import UTF8, njit, types

_AT = types.int64
_TAKEN, _LENGTHS = 1 << 16, 1 << 20
_SPACE = ord(" ")
MARKS = types.Array(types.int32, 1, "C")
HASHES = types.Array(types.uint64, 1, "C")


@njit(_AT(types.uint64, RULES))
def _step(path, rules):
    """The slot of a sequence of words, -1 where no pattern begins with it."""
    slot = first_slot(path)
    while rules.path_keys[slot]:
        if rules.path_keys[slot] == path:
            return slot
        slot = (slot + 1) & (len(rules.path_keys) - 1)
    return -1


@njit(types.boolean(UTF8, WORDS, _AT))
def _follows(utf8, words, k):
    """Whether nothing, or a single space, is between word `k` and the one before; else spaCy has a word there."""
    gap = words.starts[k] - words.stops[k - 1]
    return gap == 0 or (gap == 1 and utf8[words.stops[k - 1]] == _SPACE)


@njit(types.boolean(RULES, HASHES, _AT, _AT))
def may_hold_special(rules, hashes, first, n):
    """Whether two words of a chunk, which are those from `first` up to `n`, open a pattern."""
    found = False
    for k in range(first, n - 1):
        found |= _step(extend(extend(np.uint64(0), hashes[k]), hashes[k + 1]), rules) >= 0
    return found


@njit(_AT(UTF8, RULES, WORDS, _AT, MARKS))
def _find(utf8, rules, words, n, marks):
    """Set bit k of ``marks[i]`` for a pattern of k words at word i; returns all bits that were set."""
    lengths = 0
    for i in range(n):
        marks[i] = 0
        path = extend(np.uint64(0), words.hashes[i])
        for k in range(i + 1, min(i + MOST_PATTERN_WORDS, n)):
            if not _follows(utf8, words, k):
                break
            path = extend(path, words.hashes[k])
            slot = _step(path, rules)
            if slot < 0:
                break
            if rules.path_rules[slot]:
                marks[i] |= 1 << (k + 1 - i)
        lengths |= marks[i]
    return lengths


@njit(_AT(RULES, WORDS, _AT, _AT))
def _rule(rules, words, i, length):
    """The special case that `length` words from word i on are, -1 where there is a space among them."""
    path = np.uint64(0)
    for k in range(i, i + length):
        if k > i and words.starts[k] != words.stops[k - 1]:
            return -1
        path = extend(path, words.hashes[k])
    return rules.path_rules[_step(path, rules)] - 1


@njit(types.UniTuple(_AT, 2)(RULES, WORDS, _AT, MARKS, _AT))
def _choose(rules, words, n, marks, lengths):
    """Keep in `marks` the length of a pattern that is applied, or 0; ``(words gained, first word concerned)``.

    From the longest to the shortest, earlier ones first: one is applied whose first and last word are not taken,
    and its words are taken whether it is applied or not.
    """
    gained, first = 0, n
    for length in range(MOST_PATTERN_WORDS, 1, -1):
        if not lengths >> length & 1:
            continue
        for i in range(n - length + 1):
            if not marks[i] >> length & 1:
                continue
            free = not (marks[i] & _TAKEN or marks[i + length - 1] & _TAKEN)
            for k in range(i, i + length):
                marks[k] |= _TAKEN
            if not free:
                continue
            special = _rule(rules, words, i, length)
            if special >= 0:
                marks[i] |= length * _LENGTHS
                gained += max(0, rules.cut_ends[special + 1] - rules.cut_ends[special] - length)
                first = min(first, i)
    for i in range(n):
        marks[i] //= _LENGTHS
    return gained, first


@njit(_AT(UTF8, RULES, WORDS, _AT, MARKS))
def apply_specials(utf8, rules, words, n, marks):
    """Cut anew what is a special case among a document's n words; their number then, or -1 for lack of room.

    Parameters
    ----------
    words : Words of m
        Without lack of room where m is 3 / 2 of n: a special case makes of two words three at most.
    marks : int32[m]
        Scratch.
    """
    lengths = _find(utf8, rules, words, n, marks)
    if not lengths:
        return n
    gained, first = _choose(rules, words, n, marks, lengths)
    room = len(words.starts)
    if n + gained > room:
        return -1
    # Words from the first one concerned on go to the end of the arrays, and come back one after the other: what
    # is written stays behind what is read, as the room between is what is gained in all.
    shift = room - n
    for k in range(n - 1, first - 1, -1):
        words.starts[k + shift], words.stops[k + shift] = words.starts[k], words.stops[k]
        words.chars[k + shift], words.hashes[k + shift] = words.chars[k], words.hashes[k]
        words.kinds[k + shift] = words.kinds[k]
    n, last = first, n
    i = first
    while i < last:
        if marks[i]:
            special = _rule(rules, words, i + shift, marks[i])
            start = words.starts[i + shift]
            i += marks[i]
            for k in range(n, cut_special(start, special, rules, words.stops, n)):
                stop = words.stops[k]
                words.starts[k] = start
                words.chars[k], words.hashes[k], words.kinds[k] = describe(utf8, start, stop, rules)
                start = stop
                n += 1
        else:
            k = i + shift
            words.starts[n], words.stops[n], words.chars[n] = words.starts[k], words.stops[k], words.chars[k]
            words.hashes[n], words.kinds[n] = words.hashes[k], words.kinds[k]
            n += 1
            i += 1
    return n
