"""What are spaCy's rules for English words, in a form that a kernel can read?

A record of tables: of characters, of special cases, of units, and of words in a row that a special case is cut
into. english_spacy.py fills it with what the installed spaCy says; english_affixes.py, english_urls.py and
english_special.py go by it. Also here, since the tables are keyed by it, the hash of a word, and how characters
are read from UTF-8 in both directions.

Letters: b bytes of text.
"""

from typing import Any

import numpy as np
from winnow.filters.jit import UTF8, njit, types

# What a character is. The lowest four bits become a word's `kinds`.
HAS_LETTER, HAS_WORD_CHAR, HAS_NON_PUNCTUATION, ENDS_SENTENCE = 1, 2, 4, 8
ALL_KINDS = 15
SPACE, ACTIVE, PREFIX, SUFFIX, ICON = (1 << bit for bit in range(4, 9))
LOWER, UPPER, LETTER, QUOTE, BEFORE_DOT = (1 << bit for bit in range(9, 14))
DIGIT, DECIMAL, WORD, HOST = (1 << bit for bit in range(14, 18))

HASH_BASE = 0x9E3779B97F4A7C15
"""A word's hash is its bytes, each plus 1, as digits of a number in this base, modulo 2**64."""

MOST_PATTERN_WORDS = 15
"""Longest sequence of words that a special case may be matched over (spaCy 3.8: 11)."""

MOST_SPECIAL_BYTES = 63
"""Of one special case: their lengths are bits of a uint64 (spaCy 3.8: 29)."""

SLOTS = 4096
"""Of each table with open addressing; a power of two, about three times as many as are filled."""

_FIELDS: dict[str, tuple[type[np.generic], int]] = {
    "by_char": (np.uint32, 1 << 21),
    "special_first": (np.uint64, 256),
    "special_last": (np.uint64, 256),
    "special_slots": (np.int32, SLOTS),
    "special_text": (np.uint8, 1 << 14),
    "special_ends": (np.int32, SLOTS),
    "cut_ends": (np.int32, SLOTS),
    "cuts": (np.int32, 2 * SLOTS),
    "unit_ranges": (np.int32, 257),
    "unit_text": (np.uint8, 1024),
    "unit_ends": (np.int32, 256),
    "path_keys": (np.uint64, SLOTS),
    "path_rules": (np.int32, SLOTS),
}
LAYOUT = np.dtype([(name, scalar, (size,)) for name, (scalar, size) in _FIELDS.items()], align=True)
"""The record as NumPy has it."""


def _field(name: str) -> Any:
    scalar, size = _FIELDS[name]
    fields: Any = LAYOUT.fields
    array = types.NestedArray(dtype=getattr(types, scalar.__name__), shape=(size,))
    return {"type": array, "offset": fields[name][1]}


RULES = types.Record([(name, _field(name)) for name in _FIELDS], LAYOUT.itemsize, True)
"""The tables, as one record: a kernel hands one pointer on to the next, where a tuple of arrays would be a hundred
numbers. Not all of a field needs to be in use. `by_char` has room for whatever four bytes can decode to.

by_char         what a code point is, by the flags above.
special_first   bit k of entry b is set where a special case of k bytes opens with byte b.
special_last    the same of the last byte.
special_slots   open addressing by hash: index of a special case plus 1, or 0.
special_text    the special cases on end, UTF-8; case i is from ``special_ends[i]`` to ``special_ends[i + 1]``.
cuts            it becomes words of so many bytes, those from ``cut_ends[i]`` to ``cut_ends[i + 1]``.
unit_text       what is cut off behind a digit (units, currencies, "+"), on end, by `unit_ends`; those that end in
                byte b are those from ``unit_ranges[b]`` on, the longest first.
path_keys       open addressing: every beginning, of two words or more, of a pattern of special cases (`extend`).
path_rules      the special case whose pattern ends there, plus 1, or 0.
"""


@njit(types.uint64(types.uint64, types.uint64))
def hash_byte(key, byte):
    """The hash of a word with one more byte at its end."""
    return key * np.uint64(HASH_BASE) + byte + np.uint64(1)


@njit(types.uint64(UTF8, types.int64, types.int64))
def hash_bytes(utf8, start, stop):
    """The hash of the word from `start` to `stop`."""
    key = np.uint64(0)
    for at in range(start, stop):
        key = hash_byte(key, np.uint64(utf8[at]))
    return key


@njit(types.uint64(types.uint64, types.uint64))
def extend(path, key):
    """The key of a sequence of words with one more at its end; that of no words is 0."""
    path = (path ^ key) * np.uint64(0xD6E8FEB86659FD93)
    return path ^ (path >> np.uint64(32))


@njit(types.int64(types.uint64))
def first_slot(key):
    """Where a table of 4096 slots is looked into first."""
    return types.int64((key * np.uint64(0xD6E8FEB86659FD93)) >> np.uint64(52))


@njit(types.UniTuple(types.int64, 2)(UTF8, types.int64))
def char_at(utf8, at):
    """``(code point, bytes it takes)`` of the character that begins at `at`, in valid UTF-8."""
    lead = types.int64(utf8[at])
    if lead < 0x80:
        return lead, 1
    if lead < 0xE0:
        return (lead & 0x1F) << 6 | (utf8[at + 1] & 0x3F), 2
    if lead < 0xF0:
        return (lead & 0x0F) << 12 | (utf8[at + 1] & 0x3F) << 6 | (utf8[at + 2] & 0x3F), 3
    point = (lead & 0x07) << 18 | (utf8[at + 1] & 0x3F) << 12 | (utf8[at + 2] & 0x3F) << 6
    return point | (utf8[at + 3] & 0x3F), 4


@njit(types.UniTuple(types.int64, 2)(UTF8, types.int64, types.int64))
def char_before(utf8, low, at):
    """``(code point, where it begins)`` of the character that ends at `at`, not before `low`; ``(0, at)`` at `low`."""
    if at <= low:
        return 0, at
    at -= 1
    while at > low and utf8[at] & 0xC0 == 0x80:
        at -= 1
    return char_at(utf8, at)[0], at
