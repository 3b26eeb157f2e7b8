"""In what order does one stream draw its rows from several sources?

Two questions, answered by arithmetic for any place of the stream, without a table of it:

*Which source?* A binary tree over the sources: of the first n rows of an inner node, round(n · left / all) are its
left child's. At the end every source has exactly its rows. Between any two positions of the stream, whatever their
distance, the rows of a source differ from its share of the rows by less than 3 (`interleave` says why).

*Which of its rows?* The first pass over a source is in its own order, which is already that of a hash, and reads
forward. In later passes its two halves stay in their order, the blocks of each half are in another one, and so are
the rows of each block, by hashes of (seed, source, pass). So one range of draws lies in few ranges of rows, and two
copies of a row are at least n // 2 + 1 of its source's draws apart: never next to each other unless the source has
a single row.

Memory: some 50 bytes for each position asked about, and 16 bytes for each block of a source that is repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import xxhash
from winnow.shards import tables

BLOCK_ROWS = 512
"""Rows that later passes keep near each other: 2 MiB of 2048 uint16, two reads' worth for an object store."""
MOST_ROWS = 3_000_000_000
"""Of a stream: its square is below 2**63."""


@dataclass(frozen=True, slots=True)
class Node:
    """An inner node of the tree."""

    n_rows: int
    left_rows: int
    left: int
    """Another inner node's number, or -1 - source."""
    right: int

    def left_before(self, n: Any) -> Any:
        """How many of the first n rows are the left child's; n is an int, or int64[...]."""
        return (n * self.left_rows + self.n_rows // 2) // self.n_rows

    def position(self, draws: np.ndarray, *, left: bool) -> np.ndarray:
        """Where in this node a child's rows number `draws` come: int64[n]."""
        if left:
            return (draws * self.n_rows + (self.n_rows - 1) // 2) // self.left_rows
        return (draws * self.n_rows + self.n_rows // 2) // (self.n_rows - self.left_rows)


@dataclass(frozen=True, slots=True)
class Interleaving:
    """Which source each position of a stream belongs to. Sources are numbers here."""

    rows: tuple[int, ...]
    """Of each source, in all."""
    nodes: tuple[Node, ...]
    root: int
    """As a child in `Node`."""

    @property
    def n_rows(self) -> int:
        return sum(self.rows)

    def owners(self, first: int, last: int) -> np.ndarray:
        """int32[last - first]: the source of each position in [first, last)."""
        out = np.empty(last - first, np.int32)
        pending = [(self.root, first, last, np.arange(last - first))]
        while pending:
            child, a, b, where = pending.pop()
            if child < 0:
                out[where] = -1 - child
            elif a < b:
                node = self.nodes[child]
                taken = node.left_before(np.arange(a, b + 1))
                is_left = taken[1:] > taken[:-1]
                low, high = int(taken[0]), int(taken[-1])
                pending.append((node.left, low, high, where[is_left]))
                pending.append((node.right, a - low, b - high, where[~is_left]))
        return out

    def counts_before(self, position: int) -> np.ndarray:
        """int64[sources]: rows of each source in [0, position)."""
        out = np.zeros(len(self.rows), np.int64)
        pending = [(self.root, position)]
        while pending:
            child, n = pending.pop()
            if child < 0:
                out[-1 - child] = n
            else:
                node = self.nodes[child]
                low = node.left_before(n)
                pending += [(node.left, low), (node.right, n - low)]
        return out

    def positions(self, source: int, draws: np.ndarray) -> np.ndarray:
        """int64[n]: where a source's rows number `draws` (int64[n], each below its rows) come in the stream."""
        parents = {n.left: (i, True) for i, n in enumerate(self.nodes)}
        parents |= {n.right: (i, False) for i, n in enumerate(self.nodes)}
        child, found = -1 - source, draws
        while child != self.root:
            child, left = parents[child]
            found = self.nodes[child].position(found, left=left)
        return found


def interleave(rows: Sequence[int]) -> Interleaving:
    """The order in which rows[i] rows of every source i are drawn.

    The tree is made from the root down: a node's sources go, largest first, to the child that has fewer rows so far.
    So, with w(a) the rows of a node a and z those of its smallest source, its sibling has at least w(a) - z, and
    w(parent) - z >= 2 (w(a) - z). Rounding at a node moves a window's count by less than 1, of which a source with x
    rows below it inherits x / w(child): in all less than 1 + x / w(a1) + x / w(a2) + ... over the source's ancestors
    from its parent a1 on. As w(a1) - z >= x, the j-th term is below 2^(1-j), and the sum below 3.

    Raises ValueError for no source, one without rows, and more than MOST_ROWS in all.
    """
    if min(rows, default=0) < 1 or sum(rows) > MOST_ROWS:
        raise ValueError(f"sources of 1 row or more, of {MOST_ROWS:,} in all, can be mixed, not {list(rows)}")
    nodes: list[Node] = []

    def child_of(sources: list[int]) -> int:
        """The number of the node over these sources; it is to be filled in."""
        if len(sources) == 1:
            return -1 - sources[0]
        pending.append((len(nodes), sources))
        nodes.append(Node(0, 0, 0, 0))
        return len(nodes) - 1

    pending: list[tuple[int, list[int]]] = []
    root = child_of(sorted(range(len(rows)), key=lambda i: (-rows[i], i)))
    while pending:
        number, sources = pending.pop()
        sides: tuple[list[int], list[int]] = ([], [])
        held = [0, 0]
        for source in sources:
            lighter = int(held[1] < held[0])
            sides[lighter].append(source)
            held[lighter] += rows[source]
        nodes[number] = Node(sum(held), held[0], child_of(sides[0]), child_of(sides[1]))
    return Interleaving(tuple(rows), tuple(nodes), root)


@dataclass(frozen=True, slots=True)
class DrawOrder:
    """In what order one source's rows are drawn, pass after pass: draw d is of pass d // n_rows."""

    n_rows: int
    seed: int
    """The source's own."""

    def rows(self, first: int, last: int) -> np.ndarray:
        """int64[last - first]: the rows of the draws [first, last)."""
        out = np.empty(last - first, np.int64)
        draw = first
        while draw < last:
            again, place = divmod(draw, self.n_rows)
            stop = min(last, draw - place + self.n_rows)
            out[draw - first : stop - first] = self._rows_of(again, place, place + stop - draw)
            draw = stop
        return out

    def spans(self, first: int, last: int) -> list[tuple[int, int]]:
        """Ranges of rows, in order and apart, that hold all rows of the draws [first, last), and few others."""
        found: list[tuple[int, int]] = []
        draw = first
        while draw < last:
            again, place = divmod(draw, self.n_rows)
            stop = min(last, draw - place + self.n_rows)
            if stop - draw == self.n_rows:
                return [(0, self.n_rows)]
            if again == 0:
                found.append((place, place + stop - draw))
            else:
                begins, sizes, places = _blocks(self.n_rows, self.seed, again)
                touched = _touched(places, place, place + stop - draw)
                found += zip(begins[touched].tolist(), (begins + sizes)[touched].tolist(), strict=True)
            draw = stop
        return _merged(sorted(found))

    def draws_of(self, row: int, n_draws: int) -> np.ndarray:
        """int64[n]: the draws among the first `n_draws` that give a row, in order."""
        passes = range(-(-n_draws // self.n_rows))
        draws = np.array([again * self.n_rows + self._place_of(again, row) for again in passes], np.int64)
        return draws[draws < n_draws]

    def _rows_of(self, again: int, first: int, last: int) -> np.ndarray:
        """The rows at the places [first, last) of a pass."""
        if again == 0:
            return np.arange(first, last)
        begins, sizes, places = _blocks(self.n_rows, self.seed, again)
        touched = _touched(places, first, last)
        sizes = sizes[touched]
        rank = np.repeat(np.arange(len(sizes)), sizes)
        start = int(places[touched.start])
        rows = np.repeat(begins[touched] - places[touched], sizes) + start + np.arange(len(rank))
        keys = tables.mix(_pass_seed(self.seed, again), rows.astype(np.uint64))
        return rows[np.lexsort((keys, rank))][first - start : last - start]

    def _place_of(self, again: int, row: int) -> int:
        """Where a pass draws a row."""
        if again == 0:
            return row
        begins, sizes, places = _blocks(self.n_rows, self.seed, again)
        block = int(np.flatnonzero((begins <= row) & (row < begins + sizes))[0])
        place = int(places[block])
        drawn = self._rows_of(again, place, place + int(sizes[block]))
        return place + int(np.flatnonzero(drawn == row)[0])


def _pass_seed(seed: int, again: int) -> int:
    return int(tables.mix(seed, np.array([again], np.uint64))[0])


@lru_cache(maxsize=4)
def _blocks(n_rows: int, seed: int, again: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(first row, rows, place of the first row drawn), int64 each, of the blocks of a later pass as they are drawn."""
    half = (n_rows + 1) // 2
    order_seed = ~_pass_seed(seed, again)
    parts = []
    for first, last in ((0, half), (half, n_rows)):
        begins = np.arange(first, last, BLOCK_ROWS)
        parts.append(begins[np.argsort(tables.mix(order_seed, begins.astype(np.uint64)), kind="stable")])
    begins = np.concatenate(parts)
    sizes = np.minimum(BLOCK_ROWS, np.where(begins < half, half, n_rows) - begins)
    return begins, sizes, np.cumsum(sizes) - sizes


def _touched(places: np.ndarray, first: int, last: int) -> slice:
    """The blocks that are drawn at the places [first, last)."""
    a, b = np.searchsorted(places, [first, last - 1], side="right")
    return slice(int(a) - 1, int(b))


def _merged(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sorted ranges, with those that meet or overlap made one."""
    out: list[tuple[int, int]] = []
    for first, last in ranges:
        if out and first <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], last))
        else:
            out.append((first, last))
    return out


@dataclass(frozen=True, slots=True)
class MixedOrder:
    """The whole order of a mixed stream. Sources are names here, in alphabetical order."""

    sources: tuple[str, ...]
    draws: tuple[DrawOrder, ...]
    interleaving: Interleaving

    def locate(self, position: int) -> tuple[str, int]:
        """(source, row in it) at a position. Raises IndexError outside the stream."""
        if not 0 <= position < self.interleaving.n_rows:
            raise IndexError(f"position {position} of a stream of {self.interleaving.n_rows} rows")
        source = int(self.interleaving.owners(position, position + 1)[0])
        draw = int(self.interleaving.counts_before(position)[source])
        return self.sources[source], int(self.draws[source].rows(draw, draw + 1)[0])

    def positions_of(self, source: str, row: int) -> list[int]:
        """Every position that holds a row of a source, in order; none where the mixture does not come to it."""
        if source not in self.sources:
            return []
        i = self.sources.index(source)
        draws = self.draws[i].draws_of(row, self.interleaving.rows[i])
        return self.interleaving.positions(i, draws).tolist()


def mixed_order(sources: Sequence[tuple[str, int, int]], seed: int) -> MixedOrder:
    """The order of a stream that draws from every (name, rows it has, rows to draw), whatever their order here.

    Raises ValueError for a name given twice, for rows to draw where there are none, and as `interleave`.
    """
    ordered = sorted(s for s in sources if s[2])
    names = tuple(name for name, _, _ in ordered)
    if len(set(names)) < len(names):
        raise ValueError(f"two sources have one name: {', '.join(names)}")
    for name, n_rows, drawn in ordered:
        if n_rows < 1:
            raise ValueError(f"source {name!r} has no rows, and {drawn:,} are to be drawn")
    draws = tuple(DrawOrder(n_rows, seed ^ xxhash.xxh3_64_intdigest(name)) for name, n_rows, _ in ordered)
    return MixedOrder(names, draws, interleave([drawn for _, _, drawn in ordered]))
