"""Which benchmark items contaminate a document, how much, and what has to go?

Goes on from the n-grams that a document shares with an index (benchmark_index.py), by the rule that the recipe
names (decontaminate_settings.py). What is told of a document: the benchmark, the item and the share of it that is
there, of the item with the largest share, and its first n-gram there.

Where this departs from the rules' authors. From GPT-3: its words are what lies between white space, without
punctuation, and ours end at punctuation too; the pieces that cuts leave stay one document. From Cosmopedia: it goes by
one n-gram of a document, and for each n-gram by the item that was indexed last; here every item that shares one
is a candidate, up to `MOST_CANDIDATES`, those first that share most. It compares items with whole documents; that is
done here up to `WHOLE_BYTES`, several times the length of the texts the rule was made for. The longer a document, the
more of any item is found in it by chance, and the more time it takes. Of a longer one the item is compared with the
stretch that shares most n-grams with it, widened by the item's length on both sides.

Letters: d hits of one document.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from winnow.filters.benchmark_index import Index, words
from winnow.filters.characters import count_chars
from winnow.filters.decontaminate_settings import MAX_PIECES, Decontaminate
from winnow.filters.matching_blocks import matched_share
from winnow.filters.overlap import fold_table, widen

MOST_CANDIDATES = 64
"""Items that a document is compared with, those first that share most of their n-grams."""
WHOLE_BYTES = 1 << 15
"""Bytes of a document that an item is compared with as a whole."""
_SHOWN_CHARS = 300
"""How much of an n-gram is told."""


@dataclass(frozen=True, eq=False, slots=True)
class Shared:
    """The n-grams that a document shares with items."""

    starts: np.ndarray
    """int64[d]: bytes from the document's begin."""
    stops: np.ndarray
    """int64[d]"""
    which: np.ndarray
    """int64[d]: which of its different n-grams each is."""
    grams: np.ndarray
    """int64[p]: of each pair of a different n-gram and an item that has it, which n-gram."""
    items: np.ndarray
    """int64[p]: and which item."""

    def of_items(self, items: np.ndarray) -> np.ndarray:
        """bool[d]: whether each n-gram is one of some items'."""
        theirs = np.zeros(int(self.which.max(initial=-1)) + 1, bool)
        theirs[self.grams[np.isin(self.items, items)]] = True
        return theirs[self.which]


def shared(starts: np.ndarray, stops: np.ndarray, grams: np.ndarray, index: Index) -> Shared:
    """What one document's hits say: each n-gram's begin, its end, and its place among the index's hashes."""
    different, which = np.unique(grams, return_inverse=True)
    return Shared(starts, stops, which, *index.owners(different))


@dataclass(frozen=True, eq=False, slots=True)
class Contamination:
    """What a document has of benchmarks."""

    items: np.ndarray
    """int64[k], those that contaminate it, the largest share first."""
    shares: np.ndarray
    """float64[k]: what is there of each: of its n-grams (ngram), of its characters (cosmopedia)."""
    gram: tuple[int, int]
    """Where in the document the first n-gram of the first item lies, in bytes."""


def contamination(
    text: bytes, hits: Shared, index: Index, normal: Sequence[str], settings: Decontaminate
) -> Contamination | None:
    """What contaminates a document; None where nothing does.

    text : the document's UTF-8. normal : of each item, its words with single spaces between.
    """
    items, found = np.unique(hits.items, return_counts=True)
    shares = found / index.grams[items]
    if settings.method == "cosmopedia":
        most = np.lexsort((items, -shares))[:MOST_CANDIDATES]
        items, found = items[most], found[most]
        shares = _matched(text, hits, items, normal)
    over = shares > settings.min_overlap
    if not over.any():
        return None
    items, found, shares = items[over], found[over], shares[over]
    order = np.lexsort((items, -found, -shares))
    items = items[order]
    first = int(np.argmax(hits.of_items(items[:1])))
    return Contamination(items, shares[order], (int(hits.starts[first]), int(hits.stops[first])))


def cuts(text: bytes, hits: Shared, found: Contamination, margin: int) -> np.ndarray | None:
    """What to cut from a contaminated document: uint32 start, end, start, end …; None for all of it.

    On borders of characters, ascending and disjoint. All goes where more than `MAX_PIECES` pieces are left, or nothing
    but white space.
    """
    mine = hits.of_items(found.items)
    order = np.argsort(hits.starts[mine], kind="stable")
    starts, stops = hits.starts[mine][order], hits.stops[mine][order]
    utf8 = np.frombuffer(text, np.uint8)
    for array in (starts, stops):
        array.flags.writeable = False
    edges = np.empty((2, len(starts)), np.int64)
    n = widen(utf8, 0, len(text), starts, stops, margin, fold_table(), edges[0], edges[1])
    starts, stops = edges[0, :n], edges[1, :n]
    # A piece is what lies between two cuts, before the first, or behind the last.
    pieces = zip([0, *stops.tolist()], [*starts.tolist(), len(text)], strict=True)
    stays = [(a, b) for a, b in pieces if a < b and count_chars(utf8, a, b) >= margin]
    if len(stays) > MAX_PIECES or all(text[a:b].decode().isspace() for a, b in stays):
        return None
    gaps = [0, *(edge for piece in stays for edge in piece), len(text)]
    cut = np.array(gaps, np.uint32).reshape(-1, 2)
    return cut[cut[:, 0] < cut[:, 1]].ravel()


def shown(text: bytes, found: Contamination, benchmark: str, item: str) -> str:
    """A sentence on a contaminated document; `benchmark` and `item` are the names of the first item."""
    start, stop = found.gram
    also = f", and {len(found.items) - 1} more" if len(found.items) > 1 else ""
    gram = " ".join(words(text[start:stop].decode()))[:_SHOWN_CHARS]
    return f"{benchmark} {item}: '{gram}' ({100 * found.shares[0]:.0f} % of the item{also})"


def _matched(text: bytes, hits: Shared, items: np.ndarray, normal: Sequence[str]) -> np.ndarray:
    """float64: the share of each item's characters that matching blocks of the document have."""
    whole = " ".join(words(text.decode())) if len(text) <= WHOLE_BYTES else None
    shares = np.empty(len(items))
    for k, item in enumerate(items.tolist()):
        document = whole
        if document is None:
            starts = hits.starts[hits.of_items(items[k : k + 1])]
            document = " ".join(words(_stretch(text, starts, len(normal[item].encode()))))
        shares[k] = matched_share(document, normal[item])
    return shares


def _stretch(text: bytes, starts: np.ndarray, size: int) -> str:
    """The part of a text around the `size` bytes in which most n-grams begin, with `size` more on both sides."""
    starts = np.sort(starts)
    begun = np.searchsorted(starts, starts + size, "right") - np.arange(len(starts))
    first = int(starts[np.argmax(begun)])
    a, b = max(first - size, 0), min(first + 2 * size, len(text))
    while a > 0 and text[a] & 0xC0 == 0x80:
        a -= 1
    while b < len(text) and text[b] & 0xC0 == 0x80:
        b += 1
    return text[a:b].decode()
