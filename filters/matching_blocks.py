"""How much of an item of a benchmark is in a text: the blocks of characters that both have, as difflib finds them.

Cosmopedia (huggingface/cosmopedia, decontamination/) compares a document with an item by
``difflib.SequenceMatcher(None, document, item, autojunk=False)``, on their words with single spaces between, keeps the
matching blocks of more than five characters, and divides their characters (each run of white space where they meet
counted as one, none at the ends) by the item's. The same number is computed here. difflib takes the longest block that
both have (the first in the document if several are longest, then the first in the item), and goes on with what
lies before it in both, and with what lies behind.

Below a block of five characters it need not go on: it finds none that is longer. So it is enough to know every
run of six characters or more that both have and that is as long as can be: a *segment*. They are found once,
through a table of the item's runs of six. Each longest block is then the longest of the segments, cut to the part
that is gone on with. A segment never has to be kept for both sides of a block: it would be longer than the block.

A document's time grows with its length, times how often its runs of six are in the item: at worst (both are one letter
many times) with the product of the lengths.

Letters: a characters of the document, b of the item, s segments.
"""

from __future__ import annotations

import numpy as np
from winnow.filters.jit import njit, types

SHORTEST = 6
"""Characters of a block that counts."""

_AT, _U64 = types.int64, types.uint64
_TEXT = types.Array(types.uint32, 1, "C", readonly=True)
_PLACES = types.Array(types.int32, 1, "C")
_ROWS = types.Array(types.int32, 2, "C")
_STEP = 0x9E3779B97F4A7C15


def matched_share(document: str, item: str) -> float:
    """The share of the item's characters that is in matching blocks; 0 for an empty item.

    Both have single spaces between words. Memory: 16 bytes for each of their characters, 12 a segment.
    """
    if not item:
        return 0.0
    pieces = [document[at : at + size] for at, size in matching_blocks(document, item)]
    return len(" ".join("".join(pieces).split())) / len(item)


def matching_blocks(document: str, item: str) -> list[tuple[int, int]]:
    """``(where in the document, characters)`` of each block of at least `SHORTEST`, in the order of the document."""
    a, b = _points(document), _points(item)
    heads = np.empty(1 << max(2 * len(b), 2).bit_length(), np.int32)
    links = np.empty(len(b), np.int32)
    count = _segments(a, b, heads, links, np.empty((0, 3), np.int32))
    segments = np.empty((count, 3), np.int32)
    _segments(a, b, heads, links, segments)
    most = len(b) // SHORTEST + 2
    blocks = np.empty((most, 2), np.int32)
    found = _longest_first(segments, np.empty((most, 2), np.int32), blocks)
    return sorted(map(tuple, blocks[:found].tolist()))


def _points(text: str) -> np.ndarray:
    """uint32: the text's code points."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    points.flags.writeable = False
    return points


@njit(_AT(_TEXT, _AT, _AT))
def _slot(text, at, slots):
    """Where in a table of 2**k slots the characters at a place belong."""
    state = _U64(0)
    for k in range(at, at + SHORTEST):
        state = (state ^ _U64(text[k])) * _U64(_STEP)
        state ^= state >> _U64(32)
    return _AT(state & _U64(slots - 1))


@njit(_AT(_TEXT, _TEXT, _PLACES, _PLACES, _ROWS))
def _segments(a, b, heads, links, segments):
    """How many segments there are, of which those are written down that there is room for.

    heads, links : int32[2**k], int32[b], room for a table of the item's runs. segments : int32[s, 3], where each begins
    in the document and in the item, and its characters.
    """
    heads[:] = -1
    for j in range(len(b) - SHORTEST + 1):
        slot = _slot(b, j, len(heads))
        links[j] = heads[slot]
        heads[slot] = j
    found = 0
    for i in range(len(a) - SHORTEST + 1):
        j = _AT(heads[_slot(a, i, len(heads))])
        while j >= 0:
            if i == 0 or j == 0 or a[i - 1] != b[j - 1]:  # else it is inside of one that begins before
                size = 0
                while i + size < len(a) and j + size < len(b) and a[i + size] == b[j + size]:
                    size += 1
                if size >= SHORTEST:
                    if found < len(segments):
                        segments[found, 0], segments[found, 1], segments[found, 2] = i, j, size
                    found += 1
            j = _AT(links[j])
    return found


@njit(types.void(_ROWS, _AT, _AT))
def _swap(rows, i, j):
    for k in range(rows.shape[1]):
        rows[i, k], rows[j, k] = rows[j, k], rows[i, k]


@njit(_AT(_ROWS, _ROWS, _ROWS))
def _longest_first(segments, stack, blocks):
    """Take the longest block, and go on with what is on both sides of it; returns how many blocks there are.

    segments : int32[s, 3], reordered and cut. stack : int32[b / 6 + 2, 2], room for the ranges of segments to go
    on with. blocks : int32[b / 6 + 2, 2], filled with where in the document each is, and its characters.
    """
    found, depth = 0, 0
    if len(segments):
        stack[0, 0], stack[0, 1] = 0, len(segments)
        depth = 1
    while depth:
        depth -= 1
        first, last = _AT(stack[depth, 0]), _AT(stack[depth, 1])
        best = first
        for k in range(first + 1, last):
            i, j, size = segments[k, 0], segments[k, 1], segments[k, 2]
            bi, bj, longest = segments[best, 0], segments[best, 1], segments[best, 2]
            if size > longest or (size == longest and (i < bi or (i == bi and j < bj))):
                best = k
        bi, bj, longest = _AT(segments[best, 0]), _AT(segments[best, 1]), _AT(segments[best, 2])
        blocks[found, 0], blocks[found, 1] = bi, longest
        found += 1
        # Segments before the block to the front of the range, those behind it to its end, the others between.
        k, left, right = first, first, last
        while k < right:
            i, j, size = _AT(segments[k, 0]), _AT(segments[k, 1]), _AT(segments[k, 2])
            before = min(size, bi - i, bj - j)
            late = max(0, bi + longest - i, bj + longest - j)
            if before >= SHORTEST:
                segments[k, 2] = before
                _swap(segments, k, left)
                left += 1
                k += 1
            elif size - late >= SHORTEST:
                segments[k, 0], segments[k, 1], segments[k, 2] = i + late, j + late, size - late
                right -= 1
                _swap(segments, k, right)
            else:
                k += 1
        if right < last:
            stack[depth, 0], stack[depth, 1] = right, last
            depth += 1
        if first < left:
            stack[depth, 0], stack[depth, 1] = first, left
            depth += 1
    return found
