"""Do buckets that come in blocks give the edges and sizes of whole buckets?"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from winnow.pipelines.minhash_bands import (
    BANDS,
    Buckets,
    Sizes,
    distinct_edges,
    falling_lengths,
    falling_scores,
    total_sizes,
)


def slow(rows, earlier, anchors):
    """(edges, sizes) of whole buckets: from the first document to ours, and to `anchors` of the others at most."""
    buckets = defaultdict(list)
    for key, source, split, row in rows:
        buckets[key].append((source, split << 32 | row))
    edges, sizes = [], []
    for members in buckets.values():
        if all(source < earlier for source, _ in members):
            continue
        sizes.append(len(members))
        first = members[0][1]
        edges += [
            (first, node)
            for place, (source, node) in enumerate(members)
            if place and (source >= earlier or place < anchors)
        ]
    return sorted(edges), Counter(1 << (n.bit_length() - 1) for n in sizes if n > 1), max(sizes, default=0)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=60),
    st.lists(st.integers(1, 60), max_size=8),
    st.integers(0, 3),
    st.integers(1, 3),
)
def test_edges_and_sizes_are_those_of_whole_buckets(rows, cuts, earlier, anchors):
    rows = sorted((key, source, source, i) for i, (key, source) in enumerate(rows))
    table = np.zeros(len(rows), BANDS.dtype)
    for i, (key, source, split, row) in enumerate(rows):
        table[i] = (key * 7, source, 0, 0, split, row)
    buckets, found = Buckets(earlier, anchors), []
    edges = sorted({0, len(rows), *(c for c in cuts if c < len(rows))})
    for a, b in itertools.pairwise(edges):
        found += buckets.edges(table[a:b]).tolist()
    buckets.close()
    wanted, sizes, largest = slow(rows, earlier, anchors)
    assert sorted(map(tuple, found)) == wanted
    assert buckets.sizes.counts == {str(k): n for k, n in sizes.items()}
    assert buckets.sizes.largest == (largest if largest > 1 else 0)


def test_sizes_by_hand():
    sizes = Sizes()
    sizes.add(np.array([1, 2, 3, 4, 7, 8, 0]))
    sizes.add(np.array([2]))
    assert (sizes.counts, sizes.largest) == ({"2": 3, "4": 2, "8": 1}, 8)
    assert list(total_sizes([{"16": 1, "2": 1}, {"4": 2, "2": 3}]).items()) == [("2", 4), ("4", 2), ("16", 1)]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=30))
def test_every_edge_once(pairs):
    from winnow.pipelines.components import EDGES

    edges = np.array(pairs, EDGES.dtype) if pairs else np.empty(0, EDGES.dtype)
    assert [tuple(e) for e in distinct_edges(edges).tolist()] == sorted(set(pairs))


@given(st.lists(st.none() | st.floats(width=32), min_size=1, max_size=20))
def test_scores_fall(scores):
    numbers = falling_scores(pa.array(scores, pa.float64()))
    assert numbers.dtype == np.uint32
    order = sorted(range(len(scores)), key=lambda i: (int(numbers[i]), i))
    missing = [s is None or np.isnan(s) for s in scores]
    assert order == sorted(
        range(len(scores)), key=lambda i: (np.inf if missing[i] else -scores[i], missing[i], i)
    )


@pytest.mark.parametrize(
    "column", [pa.array([3, 1, 2], pa.int64()), pa.array([3, 1, 2], pa.uint32())], ids=str
)
def test_counts_are_scores_too(column):
    assert np.argsort(falling_scores(column)).tolist() == [0, 2, 1]


def test_lengths_fall():
    lengths = np.array([0, 5, 2**32 - 1, 7], np.uint32)
    assert np.argsort(falling_lengths(lengths)).tolist() == [2, 3, 1, 0]
