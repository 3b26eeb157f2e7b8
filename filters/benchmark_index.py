"""Which items of which benchmarks does a text share n-grams with?

An index is flat arrays: the n-grams of all items as sorted hashes, and for each n-gram the items that have it, of
which there may be many. `find` looks up every n-gram of every document (overlap.py). An item of fewer words than n is
one n-gram of its whole length; one of fewer than `min_words` is not looked for.

Memory: 8 bytes an n-gram and 4 for each item that has it, 4 more for where its items begin, and about 6 to look it up
by; once more as much while the index is made. Hits: 20 bytes each.

Letters: i items, g different n-grams, p pairs of an n-gram and an item that has it, n documents, h hits.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from winnow.filters.jit import text_buffers
from winnow.filters.overlap import fill_bloom, find_grams, fold_table, hash_items, ring

_WORD = re.compile(r"\w+")
PROBE_WORDS = 5
"""Words of a probe at most: of five in a row of English prose, one in 200 is among those of all items of fourteen
benchmarks (ours), of four one in 30; with more, items need more probes."""
BLOOM_BITS = 16
"""Of the filter for each probe: one in 200 others passes."""


def words(text: str) -> list[str]:
    """The words of a text as overlap.py defines them, the slow way."""
    marked = unicodedata.normalize("NFD", text)
    plain = "".join(c for c in marked if unicodedata.category(c) != "Mn")
    return _WORD.findall(plain.lower().replace("ς", "σ"))


@dataclass(frozen=True, eq=False, slots=True)
class Hits:
    """Where documents share n-grams with items, document after document; in each by the n-gram's last word."""

    documents: np.ndarray
    """int64[h]"""
    starts: np.ndarray
    """int64[h]: bytes from the document's begin to the n-gram's first word."""
    stops: np.ndarray
    """int64[h]: to the end of its last."""
    grams: np.ndarray
    """uint32[h]: places among the index's hashes."""


@dataclass(frozen=True, eq=False)
class Index:
    """The n-grams of benchmarks, and whose they are. `build` makes one."""

    hashes: np.ndarray
    """uint64[g], sorted."""
    edges: np.ndarray
    """uint32[g + 1]: the items of n-gram k are ``members[edges[k]:edges[k + 1]]``."""
    members: np.ndarray
    """uint32[p], ascending for each n-gram."""
    words: np.ndarray
    """int64[i]: words of each item."""
    probes: np.ndarray
    """uint64[q], sorted: the hashes of words in a row by which overlap.py finds out where to look."""
    shape: np.ndarray
    """int64[2]: n and min_words."""

    @cached_property
    def grams(self) -> np.ndarray:
        """int64[i]: different n-grams of each item; 0 for one that is too short to look for."""
        return np.bincount(self.members, minlength=len(self.words)).astype(np.int64)

    @cached_property
    def lookup(self) -> tuple[np.ndarray, ...]:
        """What overlap.py looks n-grams up in."""
        n, least = self.shape.tolist()
        short = np.unique(self.words[(self.words >= least) & (self.words < n)])
        lengths = np.array([_probe_words(n, short), n, *short], np.int64)
        bloom = np.zeros(len(self.probes) * BLOOM_BITS // 64 + 1, np.uint64)
        fill_bloom(self.probes, bloom)
        tables = (self.hashes, _buckets(self.hashes), self.probes, _buckets(self.probes), bloom, lengths)
        for table in tables:
            table.flags.writeable = False
        return tables

    def owners(self, grams: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int64[p] twice: all pairs of one of some n-grams, by its number among them, and an item that has it."""
        first, last = self.edges[grams].astype(np.int64), self.edges[grams + 1].astype(np.int64)
        sizes = last - first
        at = np.arange(sizes.sum()) + np.repeat(first - np.cumsum(sizes) + sizes, sizes)
        return np.repeat(np.arange(len(grams)), sizes), self.members[at].astype(np.int64)


def build(items: pa.LargeStringArray, n: int, min_words: int) -> Index:
    """The index of some items' texts. Raises TypeError and ValueError as `jit.text_buffers` does."""
    counts, hashes, owners = _hashes(items, n, min_words)
    order = np.lexsort((owners, hashes))
    hashes, owners = hashes[order], owners[order]
    first = np.ones(len(hashes), bool)
    first[1:] = (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1])
    hashes, owners = hashes[first], owners[first]
    new = np.ones(len(hashes), bool)
    new[1:] = hashes[1:] != hashes[:-1]
    edges = np.append(np.flatnonzero(new), len(hashes)).astype(np.uint32)
    probe = _probe_words(n, counts[(counts >= min_words) & (counts < n)])
    _, probes, of = _hashes(items, probe, probe)
    at = np.arange(len(of)) - np.searchsorted(of, of)
    every = np.minimum(counts, n) - probe + 1
    probes = probes[(counts[of] >= min_words) & (at % np.maximum(every, 1)[of] == 0)]
    shape = np.array([n, min_words], np.int64)
    return Index(hashes[new], edges, owners, counts, np.unique(probes), shape)


def spelled(index: Index, grams: np.ndarray, normal: Sequence[str]) -> list[str]:
    """The words of some n-grams; `normal` are those of each item, with single spaces between."""
    n, least = index.shape.tolist()
    found = []
    for gram in grams.tolist():
        item = normal[index.members[index.edges[gram]]]
        _, hashes, _ = _hashes(pa.array([item], pa.large_string()), n, least)
        at = int(np.argmax(hashes == index.hashes[gram]))
        found.append(" ".join(item.split()[at : at + n]))
    return found


def _probe_words(n: int, short: np.ndarray) -> int:
    return min(int(short.min()) if len(short) else n, PROBE_WORDS)


def _hashes(items: pa.LargeStringArray, n: int, min_words: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Words of each item; the hashes of all n-grams, item after item, and whose they are."""
    offsets, utf8 = text_buffers(items)
    counts, sums = np.zeros(len(items), np.int64), ring()[0]
    given = (offsets, utf8, fold_table(), n, min_words, sums, counts)
    found = hash_items(*given, np.empty(0, np.uint64), np.empty(0, np.uint32))
    hashes, owners = np.empty(found, np.uint64), np.empty(found, np.uint32)
    hash_items(*given, hashes, owners)
    return counts, hashes, owners


def _buckets(hashes: np.ndarray) -> np.ndarray:
    """uint32[2**j + 1]: where the hashes begin whose highest j bits are k, one or two of them for each k."""
    bits = max(len(hashes).bit_length() - 1, 0)
    firsts = np.arange(1 << bits, dtype=np.uint64) << np.uint64(64 - bits) if bits else np.zeros(1, np.uint64)
    inner = np.searchsorted(hashes, firsts[1:])
    return np.concatenate([[0], inner, [len(hashes)]]).astype(np.uint32)


def count_hits(texts: pa.LargeStringArray, index: Index) -> np.ndarray:
    """int64[n]: how many n-grams of each document the index has, those that are there again counted again.

    Memory: the answer. Raises TypeError and ValueError as `jit.text_buffers` does.
    """
    counts = np.empty(len(texts), np.int64)
    _find(texts, index, counts, 0)
    return counts


def find(texts: pa.LargeStringArray, index: Index) -> Hits:
    """Every such n-gram. Documents that have any are read twice, and copied. Raises as `count_hits` does."""
    counts = count_hits(texts, index)
    which = np.flatnonzero(counts)
    texts, counts = texts.filter(pa.array(counts > 0)), counts[which]
    starts, stops, grams = _find(texts, index, counts, int(counts.sum()))
    begins = np.repeat(text_buffers(texts)[0][:-1], counts)
    return Hits(np.repeat(which, counts), starts - begins, stops - begins, grams)


def _find(
    texts: pa.LargeStringArray, index: Index, counts: np.ndarray, room: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    starts, stops, grams = np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, np.uint32)
    offsets, utf8 = text_buffers(texts)
    find_grams(offsets, utf8, fold_table(), index.lookup, *ring(), counts, starts, stops, grams)
    return starts, stops, grams
