"""Does a partition that is read in blocks come out as it does in one piece, within its memory?"""

from __future__ import annotations

import itertools
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from winnow.shards import exchange

ROW = np.dtype([("key", "<u8"), ("rank", "<u4"), ("id", "<u4"), ("items", "<u4")])
FIELDS = ("key", "rank", "id")
BOUNDS = np.array([1 << 40], np.uint64)


def write(path, rows, payload):
    """A run with two partitions, of which the second holds what has a key of 2**40 and more."""
    rows = rows[exchange.sort_order(rows, FIELDS)]
    data = items_of(rows) if payload else None
    ends = np.cumsum(rows["items"]).astype(np.uint64) if payload else None
    exchange.write_run(str(path), rows, "key", BOUNDS, data, ends)
    return exchange.open_run(str(path), path.stat().st_size, 2)


def items_of(rows):
    return np.repeat(rows["id"].astype(np.uint64) * 31, rows["items"]).astype(np.uint32)


def blocks_of(runs, partition, payload, limit):
    parts = [(run, partition) for run in runs]
    return list(exchange.sorted_blocks(parts, ROW, FIELDS, payload, limit))


KEYS = st.one_of(st.integers(0, 3), st.integers((1 << 40) - 1, (1 << 40) + 1), st.just(2**64 - 1))


@pytest.mark.parametrize("payload", [None, np.dtype("<u4")])
@settings(max_examples=50)
@given(
    rows=st.lists(st.tuples(KEYS, st.integers(0, 2), st.integers(0, 5)), max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=4),
    limit=st.sampled_from([1, 40, 100, 400, 10_000]),
)
def test_blocks_in_order_are_the_partition(payload, rows, cuts, limit):
    table = np.zeros(len(rows), ROW)
    for i, (key, rank, items) in enumerate(rows):
        table[i] = (key, rank, i, items)
    edges = [0, *sorted(min(c, len(rows)) for c in cuts), len(rows)]
    with tempfile.TemporaryDirectory() as folder:
        runs = [
            write(Path(folder, str(i)), table[a:b], payload)
            for i, (a, b) in enumerate(itertools.pairwise(edges))
        ]
        check(runs, payload, limit)


def check(runs, payload, limit):
    for partition in (0, 1):
        whole, data, ends = exchange.gather([(r, partition) for r in runs], ROW, FIELDS, payload)
        blocks = blocks_of(runs, partition, payload, limit)
        assert all(len(b[0]) for b in blocks)
        assert [tuple(r) for b in blocks for r in b[0].tolist()] == [tuple(r) for r in whole.tolist()]
        if payload is None:
            assert all(b[1] is None and b[2] is None for b in blocks)
        else:
            assert np.concatenate([np.empty(0, payload), *(b[1] for b in blocks)]).tolist() == data.tolist()
            for block, items, stops in blocks:
                assert stops.tolist() == np.cumsum(block["items"]).tolist()
                assert items.tolist() == items_of(block).tolist()
            assert sum(int(b[2][-1]) for b in blocks) == (int(ends[-1]) if len(ends) else 0)


def test_one_key_larger_than_the_limit_is_cut(tmp_path):
    rng = np.random.default_rng(1)
    rows = np.zeros(50_000, ROW)
    rows["key"], rows["id"] = 7, rng.permutation(len(rows))
    runs = [write(tmp_path / str(i), part, None) for i, part in enumerate(np.array_split(rows, 7))]
    limit = 40_000
    blocks = blocks_of(runs, 0, None, limit)
    assert max(len(b[0]) * ROW.itemsize for b in blocks) <= 2 * limit
    assert np.concatenate([b[0]["id"] for b in blocks]).tolist() == list(range(len(rows)))


def test_memory_is_a_few_times_the_limit(tmp_path):
    rng = np.random.default_rng(2)
    n, limit = 60_000, 500_000
    rows = np.zeros(n, ROW)
    rows["key"], rows["id"], rows["items"] = rng.integers(0, 4, n), np.arange(n), rng.integers(0, 100, n)
    runs = [write(tmp_path / str(i), part, np.dtype("<u4")) for i, part in enumerate(np.array_split(rows, 9))]
    size = sum(int(r.partition_bytes().sum()) for r in runs)
    assert size > 20 * limit
    tracemalloc.start()
    seen = 0
    for block, _, _ in exchange.sorted_blocks([(r, 0) for r in runs], ROW, FIELDS, np.dtype("<u4"), limit):
        seen += len(block)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seen == n
    assert peak < 4 * limit


def test_a_run_that_was_cut_is_an_error(tmp_path):
    rows = np.zeros(1000, ROW)
    rows["id"] = np.arange(1000)
    run = write(tmp_path / "run", rows, None)
    content = (tmp_path / "run").read_bytes()
    (tmp_path / "run").write_bytes(content[:9000])
    with pytest.raises(OSError, match="bytes wanted at"):
        list(exchange.sorted_blocks([(run, 0)], ROW, FIELDS, None, 4000))


@given(
    st.lists(st.tuples(st.integers(0, 2**64 - 1) | st.integers(0, 3), st.integers(0, 2)), max_size=200),
    st.integers(1, 4),
)
def test_the_quick_order_is_that_of_a_stable_sort_by_all_fields(rows, copies):
    table = np.zeros(len(rows) * copies, ROW)
    for i, (key, rank) in enumerate(rows * copies):
        table[i] = (key, rank, 0, i)
    expected = np.lexsort([table[f] for f in reversed(FIELDS)])
    assert exchange.sort_order(table, FIELDS).tolist() == expected.tolist()
