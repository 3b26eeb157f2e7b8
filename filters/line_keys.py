"""Which lines, or paragraphs, of a text are the same, and what is left when some of them are cut?

CCNet's rule (Wenzek et al. 2020, arXiv:1911.00359; cc_net's `normalize_for_dedup`): lines end at "\\n"; of
a line the whitespace at its ends, control characters (up to U+001F and U+007F to U+009F) and `PUNCTUATION` are left
out, letters are lower case, every decimal digit is 0, and what then is the same is the same line. Other whitespace,
ASCII's punctuation and accents count (the paper says that accents are removed; the code keeps them).

paragraph   a run of lines with something other than whitespace; the same where its lines are, one space between
            them, so that other line breaks make no other paragraph.

Differences from CCNet:

- blank lines are left where they are; there they are lines like others, so that all but one go, or all.
- lower case is ``str.lower``'s of each character by itself, and the final ς is σ.
- identity is a 64-bit hash of our own, in place of the first 64 bits of SHA-1: among 10**10 different lines about 3
  pairs are expected to be taken for the same.
- where the last line goes, the text ends behind the last line that stays, in a newline if it did before.

A unit is a line or a paragraph. Letters: n documents, b bytes of text, u units.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import pyarrow as pa
from winnow.filters.characters import NEWLINE, SPACE, character_tables, decode, last_char, skip_space
from winnow.filters.jit import OFFSETS, UTF8, njit, text_buffers, types
from winnow.filters.line_signals import find_newline
from winnow.filters.repetition import fold, load8
from winnow.filters.text_keys import SPELLINGS, lower_case, spelled_bytes

PUNCTUATION = "，。、„”“«»」「《》´∶：？！（）；–—．～’…━〈〉【】％►"
"""What cc_net's text_normalizer.py lists as `UNICODE_PUNCT` (there also １, which is a 0 by then)."""

_AT, _U32, _U64 = types.int64, types.uint32, types.uint64
_PLACES = types.Array(types.uint32, 1, "C")
_EDGES = types.Array(types.int64, 1, "C")
_KEYS = types.Array(types.uint64, 1, "C")
_FLAGS = types.Array(types.boolean, 1, "C")
_STATE = types.UniTuple(_U64, 3)

# Eight bytes at once: in each byte of an integer, the sum with one of these sets the high bit from a certain byte on.
_ONES, _LOW_SEVEN, _HIGH = 0x0101010101010101, 0x7F7F7F7F7F7F7F7F, 0x8080808080808080
_FROM_20, _FROM_0, _FROM_COLON, _FROM_A, _FROM_BRACKET = (
    (0x80 - byte) * _ONES for byte in (0x20, ord("0"), ord(":"), ord("A"), ord("["))
)
_SPACE_SPELLING = ord(" ")


@dataclass(frozen=True, slots=True)
class LineKeys:
    """The units of some texts, in order."""

    edges: np.ndarray
    """int64[n + 1]: those of document i are ``edges[i]`` to ``edges[i + 1]``."""
    begins: np.ndarray
    """uint32[u]: where each begins in its text, in bytes."""
    ends: np.ndarray
    """uint32[u]: behind the newline of its last line."""
    keys: np.ndarray
    """uint64[u]: equal for units that are the same; never 0."""


@dataclass(frozen=True, slots=True)
class LineCuts:
    """What is cut from some texts."""

    edges: np.ndarray
    """int64[n + 1]: the cuts of document i are ``places[edges[i]:edges[i + 1]]``."""
    places: np.ndarray
    """uint32[]: start, end, start, end … in bytes, ascending and disjoint; of a document that goes, all of it."""
    dropped: np.ndarray
    """bool[n]: nothing but whitespace is left."""


@cache
def _line_spellings() -> np.ndarray:
    """`SPELLINGS` of what tells lines from each other."""
    every_char = np.arange(0x110000, dtype=np.uint32).view("U1")
    spellings = lower_case()
    spellings[:0x110000][np.strings.isdecimal(every_char)] = ord("0")
    spellings[:0x20] = spellings[0x7F:0xA0] = 0
    spellings[[ord(c) for c in PUNCTUATION]] = 0
    spellings.flags.writeable = False
    return spellings


@njit(_AT(_U64))
def _printable_bytes(eight):
    """How many of eight bytes come before the first that is not in 0x20 to 0x7E."""
    low = eight & _U64(_LOW_SEVEN)
    stop = (~(low + _U64(_FROM_20)) | (low + _U64(_ONES)) | eight) & _U64(_HIGH)
    before = (stop - _U64(1)) & ~stop
    return _AT((((before >> _U64(7)) & _U64(_ONES)) * _U64(_ONES)) >> _U64(56))


@njit(_U64(_U64))
def _folded(eight):
    """Eight bytes of ASCII in lower case, digits as 0."""
    upper = (eight + _U64(_FROM_A)) & ~(eight + _U64(_FROM_BRACKET)) & _U64(_HIGH)
    digit = (eight + _U64(_FROM_0)) & ~(eight + _U64(_FROM_COLON)) & _U64(_HIGH)
    return (eight | upper >> _U64(2)) & ~((digit >> _U64(7)) * _U64(0x0F))


@njit(_STATE(_STATE, _U64, _AT))
def _append(state, value, n):
    """Take the n > 0 lowest bytes of `value` into the hash; the higher ones have to be 0.

    state : (hash of the words of eight bytes so far, bytes behind them, how many those are)
    """
    hashed, word, held = state
    word |= value << (held << _U64(3))
    held += _U64(n)
    if held >= _U64(8):
        hashed = fold(hashed, word)
        held -= _U64(8)
        word = value >> ((_U64(n) - held) << _U64(3)) if held else _U64(0)
    return hashed, word, held


@njit(_STATE(_STATE, UTF8, _AT, _AT, SPELLINGS))
def _append_line(state, utf8, at, stop, spellings):
    """Take what tells a line, without whitespace at its ends, from others into the hash."""
    while at < stop:
        if at + 8 <= len(utf8):
            eight = load8(utf8, at)
            n = min(_printable_bytes(eight), stop - at)
            if n:
                eight &= ~_U64(0) >> _U64(64 - 8 * n)
                state = _append(state, _folded(eight), n)
                at += n
                if n == 8 or at == stop:
                    continue
        spelling, width = spellings[utf8[at]], 1
        if utf8[at] >= 0x80:
            point, width = decode(utf8, at)
            spelling = spellings[point]
        if spelling:
            state = _append(state, _U64(spelling), spelled_bytes(spelling))
        at += width
    return state


@njit(_U64(_STATE))
def _key_of(state):
    """The key of all that was taken into the hash."""
    hashed, word, held = state
    if held:
        hashed = fold(hashed, word)
    hashed ^= hashed >> _U64(29)
    return hashed if hashed else _U64(1)


@njit(types.UniTuple(_AT, 2)(UTF8, _AT, _AT, UTF8, UTF8))
def _stripped(utf8, start, stop, by_byte, by_char):
    """Where a line begins and ends without whitespace at its ends; the same place twice where it is blank."""
    first, _, _ = skip_space(utf8, start, stop, by_byte, by_char)
    while stop > first:
        kind, at = last_char(utf8, first, stop, by_byte, by_char)
        if not kind & SPACE:
            break
        stop = at
    return first, max(first, stop)


@njit(_AT(OFFSETS, UTF8))
def most_units(offsets, utf8):
    """Lines with characters of all documents, or one more for each."""
    units = 0
    for i in range(len(offsets) - 1):
        units += 1
        for at in range(offsets[i] + 1, offsets[i + 1]):
            units += (utf8[at] == NEWLINE) & (utf8[at - 1] != NEWLINE)
    return units


@njit(_AT(OFFSETS, UTF8, UTF8, UTF8, SPELLINGS, types.boolean, _EDGES, _PLACES, _PLACES, _KEYS))
def find_units(offsets, utf8, by_byte, by_char, spellings, paragraphs, edges, begins, ends, keys):
    """Fill the arrays of `LineKeys`, which `most_units` sizes; returns how many units there are."""
    units = 0
    edges[0] = 0
    for i in range(len(offsets) - 1):
        begin, end = offsets[i], offsets[i + 1]
        start = begin
        is_open = False
        state = _U64(0), _U64(0), _U64(0)
        while start < end:
            newline = find_newline(utf8, start, end)
            first, stop = _stripped(utf8, start, newline, by_byte, by_char)
            if first < stop:
                if is_open:
                    state = _append(state, _U64(_SPACE_SPELLING), 1)
                else:
                    state = _U64(0), _U64(0), _U64(0)
                    begins[units] = start - begin
                    units += 1
                state = _append_line(state, utf8, first, stop, spellings)
                ends[units - 1] = min(newline + 1, end) - begin
                keys[units - 1] = _key_of(state)
                is_open = paragraphs
            else:
                is_open = False
            start = newline + 1
        edges[i + 1] = units
    return units


def line_keys(texts: pa.LargeStringArray, by: str) -> LineKeys:
    """The units of every text; `by` is "line" or "paragraph". Raises what `text_buffers` does.

    Memory: 16 bytes a line, and 10 MB of tables once per process.
    """
    offsets, utf8 = text_buffers(texts)
    most = most_units(offsets, utf8)
    edges = np.empty(len(offsets), np.int64)
    begins, ends, keys = np.empty(most, np.uint32), np.empty(most, np.uint32), np.empty(most, np.uint64)
    tables = character_tables()
    u = find_units(offsets, utf8, *tables, _line_spellings(), by == "paragraph", edges, begins, ends, keys)
    return LineKeys(edges, begins[:u], ends[:u], keys[:u])


@njit(types.void(OFFSETS, UTF8, types.boolean, _EDGES, _PLACES, _PLACES, _FLAGS, _EDGES, _PLACES, _FLAGS))
def write_cuts(offsets, utf8, paragraphs, edges, begins, ends, gone, cut_edges, places, dropped):
    """Fill the arrays of `LineCuts`."""
    k = 0
    cut_edges[0] = 0
    for i in range(len(offsets) - 1):
        size = offsets[i + 1] - offsets[i]
        first, stop = edges[i], edges[i + 1]
        last = stop - 1  # the last unit that stays
        while last >= first and gone[last]:
            last -= 1
        dropped[i] = first < stop and last < first
        # Units behind the last that stays go in one piece, with the blank lines between them.
        for u in range(first, last):
            if gone[u]:
                end = begins[u + 1] if paragraphs else ends[u]
                if k > cut_edges[i] and places[k - 1] == begins[u]:
                    places[k - 1] = end
                else:
                    places[k], places[k + 1] = begins[u], end
                    k += 2
        if last < stop - 1:
            start = _AT(0)
            if last >= first:
                start = _AT(ends[last]) - (utf8[offsets[i + 1] - 1] != NEWLINE)
            places[k], places[k + 1] = start, size
            k += 2
        cut_edges[i + 1] = k


def cut_lines(texts: pa.LargeStringArray, found: LineKeys, by: str, gone: np.ndarray) -> LineCuts:
    """What is cut from the texts where the units `gone` (bool[u]) go."""
    offsets, utf8 = text_buffers(texts)
    edges = np.empty(len(offsets), np.int64)
    places = np.empty(2 * int(gone.sum()), np.uint32)
    dropped = np.empty(len(offsets) - 1, bool)
    write_cuts(
        offsets, utf8, by == "paragraph", found.edges, found.begins, found.ends, gone, edges, places, dropped
    )
    return LineCuts(edges, places[: edges[-1]], dropped)


# ---- the first of equal keys ------------------------------------------------------------------------------------


@njit(types.UniTuple(_AT, 2)(_KEYS, _KEYS, _PLACES, _KEYS, _AT, _FLAGS, _FLAGS))
def number_keys(keys, slots, owners, seen, held, again, new):
    """Number keys that are new until `seen` is full: ``(how many keys were taken in, keys in it)``."""
    mask = _U64(len(slots) - 1)
    for i in range(len(keys)):
        key = keys[i]
        slot = (key >> _U64(20)) & mask
        while slots[slot] != 0 and slots[slot] != key:
            slot = (slot + _U64(1)) & mask
        new[i] = slots[slot] == 0
        if new[i]:
            if held == len(seen):
                return i, held
            slots[slot] = key
            owners[slot] = held
            seen[held] = key
            again[held] = False
            held += 1
        else:
            again[owners[slot]] = True
    return len(keys), held


class SeenKeys:
    """The different keys met since the last `clear`, in the order they came: at most `most` of them.

    Memory: 33 to 57 bytes for each of `most`.
    """

    def __init__(self, most: int):
        size = 1 << (2 * most - 1).bit_length()
        self._slots, self._owners = np.zeros(size, np.uint64), np.empty(size, np.uint32)
        self._seen, self._again = np.empty(most, np.uint64), np.empty(most, bool)
        self.held = 0

    def add(self, keys: np.ndarray) -> np.ndarray:
        """Take in keys (uint64[u], none 0); returns which of the k that were taken in are new, bool[k].

        The new ones are numbered on from `held`. Where k < u, there was no room for the next.
        """
        new = np.empty(len(keys), bool)
        taken, self.held = number_keys(
            keys, self._slots, self._owners, self._seen, self.held, self._again, new
        )
        return new[:taken]

    @property
    def keys(self) -> np.ndarray:
        """uint64[held], by number."""
        return self._seen[: self.held]

    @property
    def again(self) -> np.ndarray:
        """bool[held]: whether the key came more than once."""
        return self._again[: self.held]

    def clear(self) -> None:
        """Forget all."""
        self._slots[:] = 0
        self.held = 0
