"""Which nodes hang together, when the edges fit in memory?

Union-find (Tarjan 1975, doi 10.1145/321879.321884) with path halving (Tarjan and van Leeuwen 1984,
doi 10.1145/62.2160). Of two trees the one with the smaller root goes on top, so that a component's root is its
smallest node, and the result depends on the edges alone, not on their order.

Letters: e edges, n nodes that have one.
"""

import numpy as np
from winnow.filters.jit import njit, types

_AT = types.int64
_U64 = types.uint64
_ENDS = types.Array(types.uint64, 2, "C", readonly=True)
_NODES = types.Array(types.uint64, 1, "C")
_PLACES = types.Array(types.int64, 1, "C")


@njit(_AT(_NODES))
def _distinct(ends):
    """Move the distinct values of a sorted array to its front; returns how many they are."""
    found = 0
    for at in range(len(ends)):
        if not found or ends[at] != ends[found - 1]:
            ends[found] = ends[at]
            found += 1
    return found


@njit(_AT(_NODES, _U64))
def _place(nodes, node):
    """Where a node, which is there, stands among the sorted nodes."""
    low, size = 0, len(nodes)
    while size > 1:
        half = size >> 1
        # No branch: which way it goes cannot be guessed.
        low += half * (nodes[low + half] <= node)
        size -= half
    return low


@njit(_AT(_PLACES, _AT))
def _root(parents, at):
    """The root of a tree; every other node on the way is hung one higher."""
    while parents[at] != at:
        parents[at] = parents[parents[at]]
        at = parents[at]
    return at


@njit(types.void(_ENDS, _NODES, _PLACES))
def _link(edges, nodes, parents):
    """Join the trees of the two ends of every edge."""
    last, place = nodes[0], 0
    for i in range(len(edges)):
        # Sorted edges have the same first end many times in a row.
        if edges[i, 0] != last:
            last = edges[i, 0]
            place = _place(nodes, last)
        one, other = _root(parents, place), _root(parents, _place(nodes, edges[i, 1]))
        if one < other:
            parents[other] = one
        else:
            parents[one] = other


@njit(types.void(_NODES, _PLACES))
def _settle(nodes, parents):
    """Put each node's root, by its number, in place of its parent."""
    # A parent stands before its children: when they come it hangs on the root already.
    for at in range(len(parents)):
        parents[at] = parents[parents[at]]
    for at in range(len(parents)):
        parents[at] = _AT(nodes[parents[at]])


def label_components(edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nodes that have an edge, ascending, and the smallest node of the component of each.

    edges : uint64[e, 2], contiguous; in any order, each in either direction and as often as you like.

    Returns two arrays uint64[n]. Memory: 32 bytes an edge at most besides the edges themselves, the result included.
    """
    nodes = edges.flatten()
    nodes.sort()
    nodes = nodes[: _distinct(nodes)]
    parents = np.arange(len(nodes))
    if len(nodes):
        _link(edges, nodes, parents)
        _settle(nodes, parents)
    return nodes, parents.view(np.uint64)
