"""What is a document's MinHash signature, and how alike are two documents?

Slot k of a signature is the smallest of ``(a[k] * x + b[k]) mod 2**32`` over the document's shingles x (shingles.py),
which are hashes themselves. Two documents agree in a slot with the probability of their Jaccard similarity, that of
their sets of shingles (Broder 1997, "On the resemblance and containment of documents"). The maps are those datasketch
calls `affine32`; theirs and ours are different numbers.

Letters: n documents, m pairs, s shingles.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from winnow.filters.jit import OFFSETS, UTF8, njit, text_buffers, types
from winnow.filters.lower_words import BLOCK, CHARS, OUTSIDE, block_arrays, word_chars
from winnow.filters.minhash_settings import MinHash
from winnow.filters.repetition import fold
from winnow.filters.shingles import HASHES32, MOST_SHINGLES, next_shingles

_AT, _U64, _U32, _SHARE = types.int64, types.uint64, types.uint32, types.float64
_AT_ONCE = 8  # shingles that one walk over the slots takes
_SLOTS = 1024  # slots that stay in the first-level cache, with their maps
_COMPARED_BYTES = 1 << 18  # of signatures that `estimate` copies to compare them

_ROWS32 = types.Array(types.uint32, 2, "C")
_KEYS = types.Array(types.uint64, 2, "C")
_SET = types.Array(types.uint32, 1, "C", readonly=True)
_ENDS = types.Array(types.int64, 1, "C", readonly=True)
_SHARES = types.Array(types.float64, 1, "C")


def slot_maps(slots: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """``(a, b)`` uint32[slots] each: the maps of the slots. `a` is odd, so each map is a permutation.

    The numbers of SplitMix64 (Steele, Lea and Flood 2014); equal for fewer slots as far as they reach.
    """
    golden = np.uint64(0x9E3779B97F4A7C15)
    state = _splitmix(np.array([seed], np.uint64)) + golden * np.arange(1, slots + 1, dtype=np.uint64)
    drawn = _splitmix(state)
    return (drawn >> np.uint64(32)).astype(np.uint32) | np.uint32(1), drawn.astype(np.uint32)


def _splitmix(state: np.ndarray) -> np.ndarray:
    """The output of SplitMix64 for each state."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


@njit(types.void(HASHES32, _AT, HASHES32, HASHES32, HASHES32, _U64, _U64))
def _lower_slots(values, s, a, b, low, first, stop):
    """Lower the slots from `first` to `stop` to what the first `s` values, eight at a time, bring."""
    for g in range(0, s, _AT_ONCE):
        x0, x1, x2, x3 = values[g], values[g + 1], values[g + 2], values[g + 3]
        x4, x5, x6, x7 = values[g + 4], values[g + 5], values[g + 6], values[g + 7]
        # Unsigned: an index that could count from the end would keep this loop from being vectorised.
        for k in range(first, stop):
            # Numba multiplies in 64 bits: _U32 takes the rest modulo 2**32.
            least, f, c = low[k], a[k], b[k]
            least = min(least, _U32(f * x0 + c))
            least = min(least, _U32(f * x1 + c))
            least = min(least, _U32(f * x2 + c))
            least = min(least, _U32(f * x3 + c))
            least = min(least, _U32(f * x4 + c))
            least = min(least, _U32(f * x5 + c))
            least = min(least, _U32(f * x6 + c))
            low[k] = min(least, _U32(f * x7 + c))


@njit(types.void(OFFSETS, UTF8, _AT, _AT, CHARS, BLOCK, HASHES32, HASHES32, HASHES32, HASHES32, _ROWS32))
def _sign(offsets, utf8, ngram, by_chars, chars, block, values, a, b, low, signed):
    """Fill `signed`, a row a document."""
    slots = len(low)
    for i in range(len(offsets) - 1):
        for k in range(slots):
            low[k] = _U32(0xFFFFFFFF)
        begin, end = offsets[i], offsets[i + 1]
        at, held, units, place = begin, 0, 0, OUTSIDE
        while True:
            document = begin, end, at, held, units, place
            s, at, held, units, place = next_shingles(
                utf8, document, ngram, by_chars, chars, block, values, 0
            )
            # The last one again and again: that lowers nothing.
            while s % _AT_ONCE:
                values[s] = values[s - 1]
                s += 1
            for first in range(0, slots, _SLOTS):
                _lower_slots(values, s, a, b, low, _U64(first), _U64(min(slots, first + _SLOTS)))
            if at >= end:
                break
        for k in range(slots):
            signed[i, k] = low[k]


def signatures(texts: pa.LargeStringArray, settings: MinHash, seed: int) -> np.ndarray:
    """uint32[n, slots]: the signature of every document; `seed` is the recipe's, for settings without one.

    Memory: 4 bytes a slot and document, 8 MB of tables once per process, 60 kB; no more for a long document.

    Raises
    ------
    TypeError, ValueError
        `texts` is not a LargeStringArray, or has nulls; the settings ask for datatrove's signatures.
    """
    resolved = settings.resolved
    if resolved.hash != "winnow":
        raise ValueError(f"signatures with hash: {resolved.hash} are made elsewhere")
    offsets, utf8 = text_buffers(texts)
    a, b = slot_maps(resolved.slots, seed if resolved.seed is None else resolved.seed)
    signed = np.empty((len(texts), resolved.slots), np.uint32)
    values = np.empty(MOST_SHINGLES + _AT_ONCE, np.uint32)
    low = np.empty(resolved.slots, np.uint32)
    by_chars = int(settings.unit == "chars")
    _sign(offsets, utf8, settings.ngram, by_chars, word_chars(), block_arrays(), values, a, b, low, signed)
    return signed


@njit(types.void(types.Array(types.uint32, 2, "C", readonly=True), _AT, _KEYS))
def _hash_bands(signed, rows, keys):
    """Fill `keys`: for each document and band a hash of the band's number and its rows."""
    for i in range(len(signed)):
        for band in range(keys.shape[1]):
            state = fold(_U64(0), _U64(band + 1))
            for k in range(band * rows, (band + 1) * rows):
                state = fold(state, _U64(signed[i, k]))
            keys[i, band] = state ^ (state >> _U64(29))


def band_keys(signed: np.ndarray, bands: int, rows: int) -> np.ndarray:
    """uint64[n, bands] of uint32[n, bands * rows]: equal where two documents agree in all rows of a band.

    The band's number is in the key, so the keys of all bands can be thrown together. Of a billion keys the odds
    that any two are equal by chance are 1 in 37.

    Raises
    ------
    ValueError
        The signatures have other than ``bands * rows`` slots.
    """
    if signed.shape[1] != bands * rows:
        raise ValueError(f"signatures of {signed.shape[1]} slots are no {bands} bands of {rows} rows")
    keys = np.empty((len(signed), bands), np.uint64)
    _hash_bands(_frozen(signed, np.uint32), rows, keys)
    return keys


@njit(_SHARE(_SET, _AT, _AT, _SET, _AT, _AT))
def _jaccard_of(left, i, left_end, right, j, right_end):
    """Jaccard similarity of two ascending runs; 0 where both are empty."""
    both = 0
    union = left_end - i + right_end - j
    while i < left_end and j < right_end:
        x, y = left[i], right[j]
        both += x == y
        i += x <= y
        j += y <= x
    union -= both
    return both / union if union else 0.0


@njit(types.void(_SET, _ENDS, _SET, _ENDS, _ENDS, _ENDS, _SHARES))
def _jaccards(left_sets, left_ends, right_sets, right_ends, left, right, shares):
    """Fill `shares` with the similarity of each pair."""
    for p in range(len(shares)):
        i, j = left[p], right[p]
        i_begin = left_ends[i - 1] if i else 0
        j_begin = right_ends[j - 1] if j else 0
        shares[p] = _jaccard_of(left_sets, i_begin, left_ends[i], right_sets, j_begin, right_ends[j])


def jaccard(sets: np.ndarray, ends: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """float64[m]: exact Jaccard similarity of documents `left` and `right`, int64[m], of one `shingle_sets`.

    Raises
    ------
    IndexError, ValueError
        A document is not there; `left` and `right` are of different lengths.
    """
    return jaccard_between((sets, ends), (sets, ends), left, right)


def jaccard_between(
    left_store: tuple[np.ndarray, np.ndarray],
    right_store: tuple[np.ndarray, np.ndarray],
    left: np.ndarray,
    right: np.ndarray,
) -> np.ndarray:
    """float64[m]: as `jaccard`, with `left` in one ``(sets, ends)`` and `right` in another."""
    stores = [(_frozen(sets, np.uint32), _frozen(ends, np.int64)) for sets, ends in (left_store, right_store)]
    left, right = _frozen(left, np.int64), _frozen(right, np.int64)
    _check_pairs(left, right, len(stores[0][1]), len(stores[1][1]))
    shares = np.empty(len(left), np.float64)
    _jaccards(*stores[0], *stores[1], left, right, shares)
    return shares


def estimate(signed: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """float64[m]: share of slots in which documents `left` and `right`, int64[m], agree: their similarity, estimated.

    `signed` may be of any integer type. Its standard deviation is at most half of one over the root of the slots.

    Raises
    ------
    IndexError, ValueError
        A document is not there; `left` and `right` are of different lengths.
    """
    left, right = _frozen(left, np.int64), _frozen(right, np.int64)
    _check_pairs(left, right, len(signed), len(signed))
    shares = np.empty(len(left), np.float64)
    step = max(1, _COMPARED_BYTES // max(1, signed.shape[1] * signed.itemsize))
    for start in range(0, len(left), step):
        part = slice(start, start + step)
        shares[part] = (signed[left[part]] == signed[right[part]]).mean(axis=1)
    return shares


def _check_pairs(left: np.ndarray, right: np.ndarray, lefts: int, rights: int) -> None:
    if len(left) != len(right):
        raise ValueError(f"{len(left)} documents on the left, {len(right)} on the right: these are no pairs")
    for documents, n in ((left, lefts), (right, rights)):
        if len(documents) and (documents.min() < 0 or documents.max() >= n):
            raise IndexError(f"a pair names a document that is none of the {n}")


def _frozen(array: np.ndarray, dtype: type) -> np.ndarray:
    """A view of an array, or a copy where it has another type or layout, that kernels take as read-only."""
    view: np.ndarray = np.ascontiguousarray(array, dtype).view()
    view.flags.writeable = False
    return view
