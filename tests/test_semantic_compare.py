"""Do documents come cluster by cluster, in the order that was asked for, whatever the memory?"""

from __future__ import annotations

import os
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from winnow.pipelines.exchanges import RunFile, write_run
from winnow.pipelines.records import Outputs
from winnow.pipelines.semantic_compare import CLUSTERED, PairsSpec, order_of, whole_clusters

NO_BOUNDS = np.empty(0, np.uint64)


@pytest.fixture(autouse=True, scope="module")
def no_waiting_for_disks():
    """Many small files; that they outlast a power cut is not what is tested here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda fd: None)
        yield


def runs_of(
    folder: Path, rows: np.ndarray, vectors: np.ndarray, runs: int
) -> tuple[tuple[RunFile, int], ...]:
    """The documents spread over runs of one partition."""
    outputs = Outputs(str(folder))
    parts = []
    for i in range(runs):
        name = f"run-{i}.bin"
        entry = write_run(outputs, name, CLUSTERED, rows[i::runs], NO_BOUNDS, vectors[i::runs].reshape(-1))
        size = (folder / name).stat().st_size
        parts.append((RunFile(str(folder / name), size, len(entry["partition_bytes"])), 0))
    return tuple(parts)


def documents(sizes: list[int], d: int) -> tuple[np.ndarray, np.ndarray]:
    """Clusters of these sizes, in an order that shows nothing of them."""
    n = sum(sizes)
    random = np.random.default_rng(n)
    rows = np.zeros(n, CLUSTERED.dtype)
    rows["cluster"] = np.repeat(3 * np.arange(len(sizes)), sizes)
    rows["source"], rows["order"] = random.integers(0, 2, n), random.integers(0, 4, n)
    rows["low"], rows["items"] = np.arange(n), d
    rows = rows[random.permutation(n)]
    return rows, np.repeat(rows["low"] % 2048, d).reshape(n, d).astype(np.float16)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 30), max_size=8), st.integers(1, 3), st.integers(1, 2500))
def test_clusters_come_whole_and_in_order(sizes, runs, limit):
    d = 3
    rows, vectors = documents(sizes, d)
    wanted = np.sort(rows, order=list(CLUSTERED.fields))
    found = []
    with tempfile.TemporaryDirectory() as folder:
        parts = runs_of(Path(folder), rows, vectors, runs)
        for mine, theirs, edges in whole_clusters(PairsSpec(0, parts, d, None, NO_BOUNDS, limit, "cpu")):
            assert (edges[0], edges[-1]) == (0, len(mine))
            assert (np.diff(mine["cluster"].astype(np.int64)) > 0).sum() == len(edges) - 2
            assert (mine["cluster"][edges[1:-1]] != mine["cluster"][edges[1:-1] - 1]).all()
            assert (theirs == mine["low"][:, None]).all()
            found.append(np.array(mine))
    assert np.array_equal(np.concatenate([rows[:0], *found]), wanted)
    seen = [c for mine in found for c in np.unique(mine["cluster"])]
    assert len(seen) == len(set(seen)) == len(sizes), "no cluster comes in two pieces"


def test_a_cluster_of_any_size_is_not_held(tmp_path):
    """11 MiB of documents, 8 of them one cluster, within 512 KiB: three times that at most."""
    d, limit = 512, 1 << 19
    rows, vectors = documents([300] * 5 + [8_000] + [200] * 5, d)
    parts = runs_of(tmp_path, rows, vectors, 2)
    total = len(rows)
    del rows, vectors
    spec = PairsSpec(0, parts, d, None, NO_BOUNDS, limit, "cpu")
    tracemalloc.start()
    largest = read = 0
    for mine, theirs, _ in whole_clusters(spec):
        read += len(mine)
        if len(mine) > largest:
            largest = len(mine)
            assert isinstance(theirs, np.memmap) == (mine.nbytes + theirs.nbytes > limit // 2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (read, largest) == (total, 8_000)
    assert peak < 3.5 * limit


def test_orders_rise_as_they_say():
    rows = np.zeros(7, CLUSTERED.dtype)
    rows["similarity"] = [-1, -0.5, -0.0, 0.0, 1e-7, 0.5, 1]
    rows["low"] = np.arange(7)
    hard = order_of("hard", rows, 5).astype(object)
    assert (np.diff(hard) > 0).tolist() == [True, True, False, True, True, True]
    assert hard[2] == hard[3]
    easy = order_of("easy", rows, 5).astype(object)
    assert (np.diff(easy) < 0).tolist() == [True, True, False, True, True, True]
    drawn = order_of("random", rows, 5)
    assert len(set(drawn.tolist())) == 7
    assert drawn.tolist() != order_of("random", rows, 6).tolist()
