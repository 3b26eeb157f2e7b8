"""Which nodes of a graph hang together, and by what name do they know it?

The label of a node is the smallest node of its component. There are two forms, with equal labels:

- Edges of at most `ONE_TASK` × `partition_bytes` that fit `limits.task_memory` are read by one task, which runs
  union-find (filters/union_find.py).
- More are cut into pieces, each contracted to stars by union-find, and what is left goes through small-star and
  large-star steps in turn (stars.py), each an exchange, until neither changes an edge. The rounds grow with the
  logarithm of the longest way through a component: a path of 10,000 nodes takes 14, buckets of documents about 3.

Every step is a stage that counts the edges it `changed`, in a directory that follows from the step before, so a
killed run goes on at the step it was in; a finished one looks at the last stage alone. Partitions of a step are even
ranges of scattered node numbers, as many as the bytes of the step before ask for.

Memory: one task, 3 × its edges, so 12 × `partition_bytes` at most, which it asks of Ray. The other form takes about
5 × `partition_bytes` a task, whatever the graph: a node with millions of neighbours is read in sorted blocks.
The driver holds the index of every run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from winnow.pipelines import stars
from winnow.pipelines.engine import Done, Engine, Request, Work
from winnow.pipelines.exchanges import (
    Part,
    Parts,
    RunFile,
    Runs,
    Wire,
    further_rounds,
    read_blocks,
    round_stages,
    run_files,
    write_run,
)
from winnow.pipelines.jobs import Later, Task
from winnow.pipelines.recipe import Limits
from winnow.pipelines.records import Outputs, Stage, total
from winnow.pipelines.stars import ARCS, LABELS
from winnow.shards import exchange

VERSION = 1
ONE_TASK = 4
"""Partitions' worth of edges that one task takes on (ours: 512 MiB, 33 million edges by default)."""
LEAST_MEMORY = 1 << 30
"""What a node has for a task, whatever `limits.task_memory` says."""
PROCESS_BYTES = 256 << 20
"""What a worker holds besides its arrays (measured: 240 MB with Ray, Arrow and the kernel)."""
WIDEST = 256
"""Ranges of nodes that labels are divided into at a time."""
EDGES = Wire(np.dtype([("a", "<u8"), ("b", "<u8")]), ("a",))
"""What comes in: two nodes, which differ, below 2**64 - 1; in any order and as often as they come."""
ROW_BYTES = 16
"""Of an edge, an arc or a label."""
READ_ROWS = 1 << 20
"""Edges that are read at a time."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """The labels of a graph."""

    done: Done
    """Its records' `runs` hold LABELS in the order of nodes; `nodes` counts them, `rounds` those it took."""

    @property
    def parts(self) -> Parts:
        """What to read for each range of nodes between the bounds: every node that has an edge, once."""
        records = self.done.records
        starts = np.cumsum([0, *(len(r.counts["runs"]) for r in records)])
        return Parts(run_files(self.done.location, records), starts, 1)

    @property
    def rounds(self) -> int:
        """Rounds of a small and a large star that were begun; 0 where one task did it all."""
        return int(self.done.records[0].counts["rounds"])


# ---- tasks ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Runs:
    """Writes rows as runs of `run_rows`, or as many as are added at once."""

    outputs: Outputs
    index: int
    wire: Wire
    bounds: np.ndarray
    run_rows: int
    entries: list[dict[str, Any]] = field(default_factory=list)
    held: list[np.ndarray] = field(default_factory=list)

    def add(self, rows: np.ndarray) -> None:
        if self.held and sum(map(len, self.held)) + len(rows) > self.run_rows:
            self._flush()
        self.held.append(rows)

    def close(self) -> list[dict[str, Any]]:
        """The entries of the record; there is at least one."""
        if self.held or not self.entries:
            self._flush()
        return self.entries

    def _flush(self) -> None:
        rows = (
            self.held[0]
            if len(self.held) == 1
            else np.concatenate([np.empty(0, self.wire.dtype), *self.held])
        )
        self.held.clear()
        run = f"run-{self.index:08d}-{len(self.entries)}.bin"
        self.entries.append(write_run(self.outputs, run, self.wire, rows, self.bounds))


@dataclass(frozen=True, slots=True)
class EdgeSpec:
    index: int
    runs: tuple[RunFile, ...]
    rows: int
    """Edges that are joined at a time."""
    bounds: np.ndarray
    run_rows: int


def union_task(spec: EdgeSpec, outputs: Outputs) -> dict[str, Any]:
    """Label the whole graph."""
    from winnow.filters.union_find import label_components

    runs = _Runs(outputs, spec.index, LABELS, spec.bounds, spec.run_rows)
    for edges in edge_blocks(spec.runs, spec.rows):
        nodes, labels = label_components(edges)
        for at in range(0, len(nodes), spec.run_rows):
            stop = at + spec.run_rows
            runs.add(stars.rows_of(LABELS, nodes[at:stop], labels[at:stop]))
    return {"runs": runs.close()}


def contract_task(spec: EdgeSpec, outputs: Outputs) -> dict[str, Any]:
    """Replace the edges of each piece by a star for each of its components."""
    from winnow.filters.union_find import label_components

    runs = _Runs(outputs, spec.index, ARCS, spec.bounds, spec.run_rows)
    for edges in edge_blocks(spec.runs, spec.rows):
        nodes, labels = label_components(edges)
        leaves = nodes != labels
        runs.add(stars.arcs_of(nodes[leaves], labels[leaves]))
    return {"runs": runs.close()}


def edge_blocks(runs: Iterable[RunFile], rows: int) -> Iterator[np.ndarray]:
    """uint64[n, 2]: the edges of runs, `rows` at a time, in memory that is used again.

    Raises ValueError for an edge from a node to itself.
    """
    block = np.empty((rows, 2), np.uint64)
    filled = 0
    for file in runs:
        run = file.open()
        at, stop = 0, int(run.row_starts[-1])
        while at < stop:
            n = min(stop - at, rows - filled, READ_ROWS)
            edges = run.read_rows(at, at + n, EDGES.dtype)
            if (edges["a"] == edges["b"]).any():
                raise ValueError(f"{run.location}: an edge from a node to itself")
            block[filled : filled + n] = edges.view(np.uint64).reshape(-1, 2)
            at, filled = at + n, filled + n
            if filled == rows:
                yield block
                filled = 0
    if filled:
        yield block[:filled]


@dataclass(frozen=True, slots=True)
class StarSpec:
    index: int
    parts: tuple[Part, ...]
    step: stars.Step
    out: Wire
    bounds: np.ndarray
    run_rows: int


def star_task(spec: StarSpec, outputs: Outputs) -> dict[str, Any]:
    """Carry out a step for the nodes of one partition."""
    runs = _Runs(outputs, spec.index, spec.out, spec.bounds, spec.run_rows)
    changed = 0
    blocks = read_blocks(spec.parts, ARCS, spec.run_rows * ROW_BYTES)
    piece = spec.run_rows // 8
    slices = (rows[at : at + piece] for rows, _, _ in blocks for at in range(0, len(rows), piece))
    for arcs in stars.neighbourhoods(slices):
        rows, n = spec.step(arcs)
        runs.add(rows)
        changed += n
    return {"runs": runs.close(), "changed": changed}


@dataclass(frozen=True, slots=True)
class LabelSpec:
    index: int
    parts: tuple[Part, ...]
    run_rows: int
    rounds: int


def label_task(spec: LabelSpec, outputs: Outputs) -> dict[str, Any]:
    """Write the labels of one range of nodes, in the order of nodes."""
    runs = _Runs(outputs, spec.index, LABELS, np.empty(0, np.uint64), spec.run_rows)
    nodes = 0
    for rows, _, _ in read_blocks(spec.parts, LABELS, spec.run_rows * ROW_BYTES // 2):
        runs.add(rows)
        nodes += len(rows)
    return {"runs": runs.close(), "nodes": nodes, "rounds": spec.rounds}


# ---- stages --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Division:
    """How what a step writes is divided."""

    wire: Wire
    rounds: exchange.Rounds
    bounds: np.ndarray
    identity: Mapping[str, Any]


def _by_bytes(size: int, partition_bytes: int) -> Division:
    """Even ranges of scattered nodes, for `size` bytes of arcs."""
    rounds = exchange.plan_rounds(size, partition_bytes)
    bounds = exchange.uniform_bounds(rounds.partitions)
    return Division(ARCS, rounds, bounds, {"partitions": rounds.partitions})


def _by_nodes(bounds: np.ndarray) -> Division:
    """Ranges of nodes; partitions after the last one are empty."""
    rounds = exchange.plan_rounds((len(bounds) + 1) * WIDEST, WIDEST, 1)  # a partition a range
    beyond = np.full(rounds.partitions - 1 - len(bounds), (1 << 64) - 1, np.uint64)
    digest = hashlib.sha256(bounds.astype("<u8").tobytes()).hexdigest()[:16]
    return Division(LABELS, rounds, np.concatenate([bounds.astype(np.uint64), beyond]), {"bounds": digest})


@dataclass(slots=True)
class _Chain:
    """Steps each of which reads what the one before left."""

    name: str
    partition_bytes: int
    before: str
    """Directory of the stage that the next step reads."""

    @property
    def run_rows(self) -> int:
        return self.partition_bytes // ROW_BYTES

    def step(
        self, kind: str, division: Division, tasks_at: Callable[[np.ndarray], list[Task]]
    ) -> Work[tuple[Done, Parts]]:
        """Carry out tasks, which write runs divided at the bounds given; returns what each partition reads, too."""
        own, owner = self.name.split(".", 1)
        settings = {"partition_bytes": self.partition_bytes, **division.identity}
        stage = Stage(f"{own}-{kind}.{owner}", VERSION, settings, (self.before,))
        stages = [stage, *round_stages(stage, division.rounds, self.partition_bytes)]
        done = yield Request(
            stage, tasks_at(exchange.coarse_bounds(division.bounds, division.rounds.fanouts, 0))
        )
        parts = yield from further_rounds(
            done, stages[1:], division.wire, division.rounds, division.bounds, self.partition_bytes
        )
        self.before = stages[-1].directory
        return done, parts

    def star(self, kind: str, step: stars.Step, parts: Parts, division: Division) -> Work[tuple[Done, Parts]]:
        """Carry out a step on the arcs in `parts`."""

        def tasks_at(bounds: np.ndarray) -> list[Task]:
            def star_spec(i: int) -> StarSpec:
                return StarSpec(i, parts.filled(i), step, division.wire, bounds, self.run_rows)

            return [Task(i, star_task, Later(star_spec, i)) for i in range(len(parts))]

        return self.step(kind, division, tasks_at)


def components(engine: Engine, name: str, edges: Done, bounds: np.ndarray, limits: Limits) -> Work[Labelled]:
    """Label the nodes of a graph.

    name : of the stage with the labels, kind and owner: `minhash-components.web`.
    edges : a finished stage, whose records list runs of EDGES.
    bounds : uint64[p - 1], ascending: where ranges 1, 2, … of nodes begin. Each range has a record, with its runs.
    """
    home = _by_nodes(bounds)
    # Which labels there are does not depend on the form that found them.
    final = Stage(name, VERSION, home.identity, (edges.stage.directory,))
    ranges = len(bounds) + 1
    if done := engine.finished(final, ranges):
        return Labelled(done)

    # A step holds what it reads and what it writes: so it deals in half partitions.
    chain = _Chain(name, limits.partition_bytes // 2, edges.stage.directory)
    runs = run_files(edges.location, edges.records)
    size = int(_sizes(runs).sum())
    memory = _one_task_memory(size, chain)
    if size <= ONE_TASK * limits.partition_bytes and memory <= max(limits.task_memory, LEAST_MEMORY):
        rounds = 0
        parts = yield from _one_task(chain, runs, size, home)
    else:
        middle, rounds = yield from _stars(chain, runs)
        _, parts = yield from chain.star("centres", stars.star_labels, middle, home)

    def label_spec(i: int) -> LabelSpec:
        return LabelSpec(i, parts.filled(i), chain.run_rows, rounds)

    tasks = [Task(i, label_task, Later(label_spec, i)) for i in range(ranges)]
    return Labelled((yield Request(final, tasks)))


def _sizes(runs: Runs) -> np.ndarray:
    """int64[runs]: bytes of edges in each."""
    return runs.partition_bytes.sum(axis=1, dtype=np.int64)


def _one_task_memory(size: int, chain: _Chain) -> int:
    return PROCESS_BYTES + 3 * size + 4 * chain.partition_bytes


def _one_task(chain: _Chain, runs: Runs, size: int, home: Division) -> Work[Parts]:
    def tasks_at(bounds: np.ndarray) -> list[Task]:
        spec = EdgeSpec(0, tuple(runs), size // ROW_BYTES, bounds, chain.run_rows)
        return [Task(0, union_task, spec, _one_task_memory(size, chain))]

    _, parts = yield from chain.step("union", home, tasks_at)
    return parts


def _stars(chain: _Chain, runs: Runs) -> Work[tuple[Parts, int]]:
    """Bring the graph into stars around their smallest nodes; returns their arcs, both ways, and the rounds it took."""
    size = _sizes(runs)
    pieces = exchange.group_by_bytes(size, chain.partition_bytes)

    def tasks_at(bounds: np.ndarray) -> list[Task]:
        specs = [
            EdgeSpec(i, tuple(runs[a:b]), chain.run_rows // 2, bounds, chain.run_rows)
            for i, (a, b) in enumerate(pieces)
        ]
        return [Task(s.index, contract_task, s) for s in specs]

    _, one_way = yield from chain.step("pieces", _by_bytes(int(size.sum()), chain.partition_bytes), tasks_at)
    rounds, by_large = 0, 1
    while True:
        rounds += 1
        # What a step writes is at most what is said here, and mostly about that.
        division = _by_bytes(2 * one_way.held, chain.partition_bytes)
        done, both_ways = yield from chain.star(f"small{rounds}", stars.small_star, one_way, division)
        by_small = total(done.records, "changed")
        if not (by_large or by_small):
            return both_ways, rounds
        division = _by_bytes(both_ways.held // 2, chain.partition_bytes)
        done, one_way = yield from chain.star(f"large{rounds}", stars.large_star, both_ways, division)
        by_large = total(done.records, "changed")
        if not (by_large or by_small):
            return both_ways, rounds
