"""Do both forms find the components that a plain search finds, whatever the memory, and go on where they stopped?"""

from __future__ import annotations

import itertools
import os
import pickle
import re
import shutil
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from winnow.filters.union_find import label_components
from winnow.pipelines import exchanges, stars
from winnow.pipelines.cluster import Inline, Task
from winnow.pipelines.components import EDGES, ONE_TASK, PROCESS_BYTES, ROW_BYTES, components
from winnow.pipelines.engine import Engine, RunError
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import Limits
from winnow.pipelines.records import Stage
from winnow.pipelines.stars import LABELS

KIB = 1 << 10
GATHER = np.uint64(pow(0x9E3779B97F4A7C15, -1, 1 << 64))
"""Takes an arc's key back to the node."""
NO_BOUNDS = np.empty(0, np.uint64)
NAME = "test-components.web"


@pytest.fixture(autouse=True)
def no_waiting_for_disks(monkeypatch):
    """Thousands of small files; that they outlast a power cut is not what is tested here."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def searched(edges):
    """{node: smallest node of its component}, by walking from every node, the smallest first."""
    around = {}
    for a, b in edges:
        around.setdefault(a, []).append(b)
        around.setdefault(b, []).append(a)
    found = {}
    for start in sorted(around):
        left = [start]
        while left:
            node = left.pop()
            if node not in found:
                found[node] = start
                left += around[node]
    return found


def pairs_of(edges):
    return np.array(edges, np.uint64).reshape(-1, 2)


# ---- union-find ------------------------------------------------------------------------------------------------

NODES = st.one_of(
    st.integers(0, 12),
    st.integers(0, 2**64 - 1),
    st.tuples(st.integers(0, 3), st.integers(0, 3)).map(lambda t: t[0] << 32 | t[1]),
)
EDGE_LISTS = st.lists(st.tuples(NODES, NODES).filter(lambda e: e[0] != e[1]), max_size=40)


@given(EDGE_LISTS)
def test_union_find_is_a_search(edges):
    nodes, labels = label_components(pairs_of(edges))
    assert nodes.dtype == labels.dtype == np.uint64
    assert list(zip(nodes.tolist(), labels.tolist(), strict=True)) == sorted(searched(edges).items())


@given(EDGE_LISTS, st.randoms(use_true_random=False))
def test_union_find_sees_no_order_direction_or_repetition(edges, random):
    nodes, labels = label_components(pairs_of(edges))
    others = [e[:: random.choice((1, -1))] for e in edges + edges[::2]]
    random.shuffle(others)
    nodes2, labels2 = label_components(pairs_of(others))
    assert (nodes.tolist(), labels.tolist()) == (nodes2.tolist(), labels2.tolist())


def test_union_find_leaves_the_edges_as_they_are():
    edges = pairs_of([(9, 3), (3, 9), (7, 8)])
    edges.flags.writeable = False
    assert label_components(edges)[1].tolist() == [3, 7, 7, 3]
    assert edges.tolist() == [[9, 3], [3, 9], [7, 8]]


@pytest.mark.parametrize("step", [1, -1])
def test_union_find_of_a_long_path_either_way(step):
    path = np.arange(300_000, dtype=np.uint64)[::step]
    nodes, labels = label_components(np.stack([path[:-1], path[1:]], axis=1))
    assert len(nodes) == 300_000
    assert not labels.any()


# ---- steps -----------------------------------------------------------------------------------------------------


def arcs_of(edges):
    a, b = pairs_of(edges).T
    arcs = np.concatenate([stars.arcs_of(a, b), stars.arcs_of(b, a)])
    return arcs[np.lexsort([arcs["other"], arcs["key"]])]


def columns(neighbours):
    names = ("node", "other", "smallest", "first")
    return [np.concatenate([getattr(n, name) for n in neighbours]).tolist() for name in names]


@given(EDGE_LISTS.filter(len), st.data())
def test_neighbourhoods_are_the_same_in_any_blocks(edges, more):
    arcs = arcs_of(edges + edges[::3])
    cuts = sorted(more.draw(st.sets(st.integers(1, len(arcs) - 1), max_size=6)))
    blocks = [arcs[a:b] for a, b in itertools.pairwise([0, *cuts, len(arcs)])]
    node, other, smallest, first = columns(list(stars.neighbourhoods(blocks)))
    around = {}
    for a, b in edges:
        around.setdefault(a, set()).add(b)
        around.setdefault(b, set()).add(a)
    assert sorted(zip(node, other, strict=True)) == sorted((a, b) for a in around for b in around[a])
    assert len({n for n, _ in itertools.groupby(node)}) == len(list(itertools.groupby(node)))
    for n, o, s, f in zip(node, other, smallest, first, strict=True):
        assert s == min({n} | around[n])
        assert f == (o == min(around[n]))


def undirected(rows):
    nodes = rows["key"] * GATHER
    return {frozenset(e) for e in zip(nodes.tolist(), rows["other"].tolist(), strict=True)}


@given(EDGE_LISTS.filter(len))
def test_steps_are_those_of_the_paper(edges):
    around = {}
    for a, b in edges:
        around.setdefault(a, set()).add(b)
        around.setdefault(b, set()).add(a)
    there = {frozenset(e) for e in edges}

    rows, changed = stars.large_star(*stars.neighbourhoods([arcs_of(edges)]))
    large = {frozenset((v, min({u} | around[u]))) for u in around for v in around[u] if v > u}
    assert undirected(rows) == large
    assert (changed == 0) == (large == there)

    down = {u: {v for v in around[u] if v < u} for u in around}
    one_way = arcs_of(edges)
    one_way = one_way[one_way["other"] < one_way["key"] * GATHER]
    rows, changed = stars.small_star(*stars.neighbourhoods([one_way]))
    small = {frozenset((v, min(down[u]))) for u in down if down[u] for v in down[u] | {u} if v > min(down[u])}
    assert undirected(rows) == small
    assert len(rows) == 2 * len({(frozenset(e), max(e)) for e in edges}), "not both ways"
    assert (changed == 0) == (small == there)


# ---- both forms, in stages -------------------------------------------------------------------------------------


def write_edges(spec, outputs):
    index, runs = spec
    entries = []
    for n, edges in enumerate(runs):
        rows = np.ascontiguousarray(edges).view(EDGES.dtype).reshape(-1)
        entries.append(exchanges.write_run(outputs, f"run-{index:08d}-{n}.bin", EDGES, rows, NO_BOUNDS))
    return {"runs": entries}


class Counted(Inline):
    """Runs tasks here, and notes the stages' directories; fails at job number `fails`."""

    def __init__(self, fails=None):
        self.performed = []
        self.fails = fails

    def map(self, jobs):
        for job in jobs:
            if len(self.performed) == self.fails:
                raise RunError("the power went")
            self.performed.append(job.location.rsplit("/", 1)[1])
            # As it goes to a worker.
            job = replace(job, task=replace(job.task, spec=job.spec))
            yield from super().map([pickle.loads(pickle.dumps(job))])


def engine_at(run, fails=None):
    return Engine(str(run), Counted(fails), Progress(stream=None))


def label(run, pieces, partition_bytes, bounds=NO_BOUNDS, fails=None):
    """Components of edges that come in `pieces`, some runs a task."""
    engine = engine_at(run, fails)
    edges = engine.perform(
        Stage("edges.web", 1, {"pieces": len(pieces)}),
        [Task(i, write_edges, (i, runs)) for i, runs in enumerate(pieces)],
    )
    work = components(engine, NAME, edges, bounds, Limits(partition_bytes=partition_bytes))
    return engine, engine.together(work)[0]


def read(labelled, bounds=NO_BOUNDS):
    """{node: label}, after a look at what was promised of the runs."""
    parts = labelled.parts
    edges = [0, *bounds.tolist(), 1 << 64]
    assert len(parts) == len(edges) - 1
    found = []
    for i, part in enumerate(parts):
        for run in part:  # each goes on where the one before ended
            rows = exchanges.read_parts([run], LABELS)[0].tolist()
            assert all(edges[i] <= node < edges[i + 1] for node, _ in rows)
            found += rows
        assert labelled.done.records[i].counts["nodes"] == len(exchanges.read_parts(part, LABELS)[0])
    nodes = [node for node, _ in found]
    assert nodes == sorted(set(nodes))
    return dict(found)


def cut(edges, n):
    return [[piece] for piece in np.array_split(pairs_of(edges), n)]


def random_edges(seed, nodes, edges, splits=5):
    rng = np.random.default_rng(seed)
    names = rng.integers(0, splits, nodes, np.uint64) << np.uint64(32) | rng.permutation(nodes).astype(
        np.uint64
    )
    ends = names[rng.integers(0, nodes, (edges, 2))]
    return ends[ends[:, 0] != ends[:, 1]]


BOUNDS = np.arange(1, 5, dtype=np.uint64) << np.uint64(32)
"""Of five splits."""


@pytest.mark.parametrize("density", [0.3, 0.6, 3.0], ids=str)
def test_forms_agree_with_a_search_on_random_graphs(tmp_path, density):
    edges = random_edges(int(10 * density), 3000, int(3000 * density))
    edges = np.concatenate([edges, edges[::4], edges[::5, ::-1]])
    expected = searched(edges.tolist())
    one, whole = label(tmp_path / "one", cut(edges, 3), 1 << 20, BOUNDS)
    assert read(whole, BOUNDS) == expected
    assert whole.rounds == 0
    assert not any("large" in s for s in one.executor.performed)
    for partition_bytes in (16 * KIB, 32 * KIB):
        if edges.nbytes > ONE_TASK * partition_bytes:
            many, small = label(tmp_path / f"many{partition_bytes}", cut(edges, 3), partition_bytes, BOUNDS)
            assert read(small, BOUNDS) == expected
            assert small.rounds > 0
            assert small.done.stage == whole.done.stage
            assert len(many.done[NAME].records) == 5


def test_the_limit_decides_which_form(tmp_path):
    edges = random_edges(1, 500, 1500)[: 4 * KIB * ONE_TASK // ROW_BYTES]
    assert edges.nbytes == 4 * KIB * ONE_TASK
    assert label(tmp_path / "fits", cut(edges, 1), 4 * KIB)[1].rounds == 0
    more = np.concatenate([edges, edges[:1]])
    assert label(tmp_path / "not", cut(more, 1), 4 * KIB)[1].rounds > 0


def test_labels_do_not_depend_on_how_edges_came(tmp_path):
    edges = random_edges(2, 2000, 2500)
    first = read(label(tmp_path / "a", cut(edges, 1), 8 * KIB)[1])
    shuffled = np.random.default_rng(5).permutation(edges)[:, ::-1]
    pieces = [[shuffled[:10], shuffled[:0], shuffled[10:1500]], [], [shuffled[1400:]]]
    assert read(label(tmp_path / "b", pieces, 8 * KIB)[1]) == first
    assert first == searched(edges.tolist())


@pytest.mark.parametrize("partition_bytes", [32 * KIB, 1 << 20], ids=["stars", "one task"])
@pytest.mark.parametrize("order", ["as it is", "shuffled"])
def test_long_path(tmp_path, order, partition_bytes):
    path = np.arange(10_000, dtype=np.uint64)
    if order == "shuffled":
        path = np.random.default_rng(0).permutation(path)
    edges = np.stack([path[:-1], path[1:]], axis=1)
    edges = np.random.default_rng(1).permutation(edges)  # so that no piece holds two ends that meet
    engine, found = label(tmp_path, cut(edges, 4), partition_bytes)
    assert read(found) == dict.fromkeys(range(10_000), 0)
    assert found.rounds <= 16  # log2 of the nodes is 13.3
    if found.rounds:
        changed = [
            sum(r.counts["changed"] for r in done.records)
            for name, done in engine.done.items()
            if re.search(r"-(large|small)\d+\.", name)
        ]
        assert len(changed) in (2 * found.rounds - 1, 2 * found.rounds)
        assert changed[1] > 0
        assert changed[-2:] == [0, 0]


def test_star_of_100_000_leaves(tmp_path):
    leaves = np.random.default_rng(2).permutation(np.arange(1, 100_001, dtype=np.uint64)) * np.uint64(3)
    edges = np.stack([np.full_like(leaves, 1), leaves], axis=1)
    engine, found = label(tmp_path, cut(edges, 3), 256 * KIB)
    labels = read(found)
    assert found.rounds == 1
    pieces = engine.done["test-components-pieces.web"]
    arcs = int(exchanges.run_files(pieces.location, pieces.records).partition_bytes.sum())
    assert arcs == 100_000 * ROW_BYTES, "an edge to itself, or one in two pieces"
    steps = [done.stage for name, done in engine.done.items() if name != NAME]
    assert all(step.inputs == (before.directory,) for before, step in itertools.pairwise(steps))
    assert len(labels) == 100_001
    assert set(labels.values()) == {1}


def test_star_whose_centre_is_its_largest_node(tmp_path):
    leaves = np.arange(20_000, dtype=np.uint64)
    edges = np.stack([np.full_like(leaves, 1 << 40), leaves], axis=1)
    labels = read(label(tmp_path, cut(edges, 2), 64 * KIB)[1])
    assert len(labels) == 20_001
    assert set(labels.values()) == {0}


def test_many_components_and_many_ranges(tmp_path):
    low = np.arange(0, 40_000, 2, dtype=np.uint64)
    edges = np.stack([low + np.uint64(1), low], axis=1)
    bounds = np.arange(130, 40_130, 130, dtype=np.uint64)
    for partition_bytes in (64 * KIB, 1 << 20):
        found = label(tmp_path / str(partition_bytes), cut(edges, 2), partition_bytes, bounds)[1]
        assert read(found, bounds) == {n: n - n % 2 for n in range(40_000)}


@pytest.mark.parametrize(
    "pieces", [[], [[]], [[np.empty((0, 2), np.uint64)]]], ids=["none", "no run", "empty run"]
)
def test_no_edges(tmp_path, pieces):
    assert read(label(tmp_path, pieces, 4 * KIB, BOUNDS)[1], BOUNDS) == {}


@pytest.mark.parametrize("partition_bytes", [4 * KIB, 1 << 20])
def test_an_edge_from_a_node_to_itself_is_refused(tmp_path, partition_bytes):
    edges = np.concatenate([random_edges(3, 1000, 2000), [[7, 7]]]).astype(np.uint64)
    with pytest.raises(RunError, match="an edge from a node to itself"):
        label(tmp_path, cut(edges, 1), partition_bytes)


# ---- what is recorded is not done again ------------------------------------------------------------------------


def test_a_finished_run_looks_at_the_last_stage_alone(tmp_path):
    pieces = cut(random_edges(4, 1000, 2000), 2)
    engine, found = label(tmp_path, pieces, 4 * KIB, BOUNDS)
    expected = read(found, BOUNDS)
    for directory in {*engine.executor.performed}:
        if not directory.startswith(("edges.", NAME)):
            shutil.rmtree(tmp_path / "stages" / directory)
    for partition_bytes in (4 * KIB, 8 * KIB, 1 << 20):  # the same stage, whichever form would be taken
        again, found = label(tmp_path, pieces, partition_bytes, BOUNDS)
        assert again.executor.performed == []
        assert read(found, BOUNDS) == expected


def test_an_interrupted_run_goes_on_where_it_was(tmp_path):
    pieces = cut(random_edges(6, 1100, 1100), 2)
    engine, found = label(tmp_path / "whole", pieces, 4 * KIB, BOUNDS)
    performed, expected = engine.executor.performed, read(found, BOUNDS)
    assert found.rounds > 1
    done = []
    while True:
        try:
            engine, found = label(tmp_path / "cut", pieces, 4 * KIB, BOUNDS, fails=60)
        except RunError:
            engine = None
        if engine:
            done += engine.executor.performed
            break
        done += performed[len(done) : len(done) + 60]
    assert done == performed, "a task ran twice, or in another stage"
    assert read(found, BOUNDS) == expected


def test_labels_half_written_by_one_form_are_finished_by_the_other(tmp_path):
    pieces = cut(random_edges(7, 1500, 1300), 2)
    expected = read(label(tmp_path / "whole", pieces, 1 << 20, BOUNDS)[1], BOUNDS)
    n = len(pieces) + 1 + 2  # the edges, the union, two of five ranges
    with pytest.raises(RunError, match="the power went"):
        label(tmp_path / "cut", pieces, 1 << 20, BOUNDS, fails=n)
    engine, found = label(tmp_path / "cut", pieces, 4 * KIB, BOUNDS)
    assert engine.executor.performed.count(found.done.stage.directory) == 3
    assert read(found, BOUNDS) == expected


# ---- memory ----------------------------------------------------------------------------------------------------


def peak_of(function):
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("shape", ["star", "pairs"])
def test_memory_is_bounded_whatever_the_graph(tmp_path, shape):
    n = 90_000
    nodes = np.random.default_rng(3).permutation(np.arange(1, n + 1, dtype=np.uint64))
    edges = np.stack([np.zeros(n, np.uint64) if shape == "star" else nodes + np.uint64(n), nodes], axis=1)
    partition_bytes = 256 * KIB
    assert edges.nbytes > 5 * partition_bytes
    engine = engine_at(tmp_path)
    written = engine.perform(
        Stage("edges.web", 1, {}), [Task(0, write_edges, (0, [edges[: n // 2], edges[n // 2 :]]))]
    )
    label_components(edges[:1])  # compiled before memory is measured
    work = components(engine, NAME, written, NO_BOUNDS, Limits(partition_bytes=partition_bytes))
    found = []
    peak = peak_of(lambda: found.append(engine.together(work)[0]))
    assert peak < 5 * partition_bytes + (1 << 20)  # what a file is hashed through
    assert sum(r.counts["nodes"] for r in found[0].done.records) == (n + 1 if shape == "star" else 2 * n)


def test_one_task_asks_for_the_memory_of_its_edges(tmp_path):
    edges = random_edges(8, 1000, 2000)
    engine = engine_at(tmp_path)
    written = engine.perform(Stage("edges.web", 1, {}), [Task(0, write_edges, (0, [edges]))])
    request = next(components(engine, NAME, written, NO_BOUNDS, Limits(partition_bytes=1 << 20)))
    assert [t.memory for t in request.tasks] == [PROCESS_BYTES + 3 * edges.nbytes + (2 << 20)]


def test_memory_of_one_task_is_three_times_its_edges():
    nodes = np.random.default_rng(3).permutation(np.arange(400_000, dtype=np.uint64))
    edges = nodes.reshape(-1, 2)
    label_components(edges[:1])
    assert peak_of(lambda: label_components(edges)) < 2.1 * edges.nbytes  # and they themselves
