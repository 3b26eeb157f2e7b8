"""What does a step make of a node and its neighbours, when a graph is too large to be held?

The large-star and small-star steps of Kiveris et al. 2014 ("Connected Components in MapReduce and Beyond", SoCC,
doi 10.1145/2670979.2670997). The large star of a node hangs its larger neighbours on the smallest of its neighbourhood;
the small star does that with its smaller neighbours and itself. Neither joins or parts components; where neither
changes an edge any more, every component is a star around its smallest node. components.py says what carries the arcs
from one step to the next.

Memory: a few times a block of arcs, whatever the graph. A node's neighbours come sorted, the smallest first, in
any number of blocks, and none is kept; so a node with millions of them is long work and not large work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from winnow.pipelines.exchanges import Wire

ARCS = Wire(np.dtype([("key", "<u8"), ("other", "<u8")]), ("key", "other"))
"""What travels between steps: a node, scattered, and a neighbour of it."""
LABELS = Wire(np.dtype([("node", "<u8"), ("label", "<u8")]), ("node",))
"""What comes out."""
_SCATTER = np.uint64(0x9E3779B97F4A7C15)
"""2**64 over the golden ratio: multiples of it spread evenly (Knuth, The Art of Computer Programming 3, 6.4)."""
_GATHER = np.uint64(pow(int(_SCATTER), -1, 1 << 64))


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Distinct arcs by node (in the order of scattered numbers), then neighbour: four arrays, a row per arc."""

    node: np.ndarray
    other: np.ndarray
    smallest: np.ndarray
    """Of the node and all its neighbours."""
    first: np.ndarray
    """bool: the node's first arc, to its smallest neighbour."""


def neighbourhoods(blocks: Iterable[np.ndarray]) -> Iterator[Neighbours]:
    """Tell nodes apart in sorted arcs that come block by block; a node may go on over any number of them."""
    before = np.empty(0, ARCS.dtype)
    smallest = np.zeros(1, np.uint64)
    for block in blocks:
        # The last arc of the block before says whether the first one here opens a node or repeats an arc.
        arcs = np.concatenate([before, block])
        keys, others = arcs["key"], arcs["other"]
        first, again = np.ones(len(arcs), bool), np.zeros(len(arcs), bool)
        np.not_equal(keys[1:], keys[:-1], out=first[1:])
        np.equal(others[1:], others[:-1], out=again[1:])
        again &= ~first
        first, new = first[len(before) :], ~again[len(before) :]
        keys, others = keys[len(before) :], others[len(before) :]
        smallest = np.concatenate([smallest[-1:], others[first]])[np.cumsum(first)]
        node = keys[new] * _GATHER
        yield Neighbours(node, others[new], np.minimum(node, smallest[new]), first[new])
        before = arcs[-1:].copy()


def large_star(arcs: Neighbours) -> tuple[np.ndarray, int]:
    """Hang every larger neighbour on the smallest of the neighbourhood; returns arcs, and how many edges are new."""
    larger = arcs.other > arcs.node
    smallest = arcs.smallest[larger]
    changed = int((smallest != arcs.node[larger]).sum())
    return arcs_of(arcs.other[larger], smallest), changed


def small_star(arcs: Neighbours) -> tuple[np.ndarray, int]:
    """Hang a node and its neighbours, all of them smaller, on the smallest; arcs both ways, how many edges are new."""
    node = np.where(arcs.first, arcs.node, arcs.other)
    both_ways = np.concatenate([arcs_of(node, arcs.smallest), arcs_of(arcs.smallest, node)])
    return both_ways, int((~arcs.first).sum())


def star_labels(arcs: Neighbours) -> tuple[np.ndarray, int]:
    """The label of every node, where the graph consists of stars with the smallest node in the middle."""
    return rows_of(LABELS, arcs.node[arcs.first], arcs.smallest[arcs.first]), 0


Step = Callable[[Neighbours], tuple[np.ndarray, int]]
"""Takes distinct arcs, and returns rows and how many edges are new."""


def arcs_of(node: np.ndarray, other: np.ndarray) -> np.ndarray:
    """ARCS from nodes to neighbours of theirs."""
    return rows_of(ARCS, node * _SCATTER, other)


def rows_of(wire: Wire, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Rows of two fields."""
    first, second = wire.dtype.names or ()
    rows = np.empty(len(one), wire.dtype)
    rows[first], rows[second] = one, other
    return rows
