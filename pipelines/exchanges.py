"""Which tasks carry out an exchange?

A first round of map tasks, written by whoever needs the exchange, leaves runs (shards/exchange.py).
Here are the further rounds, the same for everybody, and the list of what each reduce task reads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from winnow.pipelines.cluster import Task
from winnow.pipelines.engine import Done, Request, Work
from winnow.pipelines.records import Outputs, Record, Stage
from winnow.shards import exchange, storage


@dataclass(frozen=True, slots=True)
class Wire:
    """What travels: the rows' type, the fields they are sorted by (the key first), the payload's type."""

    dtype: np.dtype
    fields: tuple[str, ...]
    payload: np.dtype | None = None

    @property
    def key(self) -> str:
        return self.fields[0]


@dataclass(frozen=True, slots=True)
class RunFile:
    """A run as its record describes it."""

    location: str
    size: int
    partition_bytes: tuple[int, ...]

    def open(self) -> exchange.Run:
        return exchange.open_run(self.location, self.size, len(self.partition_bytes))


Part = tuple[RunFile, int]
"""One partition of one run."""


def write_run(
    outputs: Outputs,
    file_name: str,
    wire: Wire,
    rows: np.ndarray,
    bounds: np.ndarray,
    payload: np.ndarray | None = None,
) -> dict[str, Any]:
    """Sort rows (and their payload, `items` long each, one after another) and commit them as a run.

    Returns the entry of the record that `run_files` reads back.
    """
    order = exchange.sort_order(rows, wire.fields)
    ends = None
    if payload is not None:
        stops = np.cumsum(rows["items"].astype(np.int64))
        payload = exchange.payload_take(payload, stops - rows["items"].astype(np.int64), stops, order)
    # `take` is ten times as fast as `[order]` on structured rows.
    rows = rows.take(order)
    if payload is not None:
        ends = np.cumsum(rows["items"].astype(np.uint64))
    with outputs.file(file_name) as path:
        exchange.write_run(path, rows, wire.key, bounds, payload, ends)
        index = exchange.open_run(path, os.path.getsize(path), len(bounds) + 1)
    return {"name": file_name, "partition_bytes": index.partition_bytes().tolist()}


def run_files(location: str, records: Sequence[Record]) -> list[RunFile]:
    """The runs that a stage's records list under `runs`, in task order."""
    out = []
    for record in records:
        for run in record.counts["runs"]:
            size = record.outputs[run["name"]][0]
            out.append(RunFile(storage.join(location, run["name"]), size, tuple(run["partition_bytes"])))
    return out


def read_parts(parts: Sequence[Part], wire: Wire) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Merge partitions of runs, which must all be the same range of keys; see exchange.gather."""
    runs = [(file.open(), partition) for file, partition in parts]
    return exchange.gather(runs, wire.dtype, wire.fields, wire.payload)


def read_blocks(
    parts: Sequence[Part], wire: Wire, limit: int
) -> Iterator[tuple[np.ndarray, np.ndarray | None, np.ndarray | None]]:
    """What `read_parts` returns, in sorted blocks of about `limit` bytes; see exchange.sorted_blocks."""
    runs = [(file.open(), partition) for file, partition in parts]
    return exchange.sorted_blocks(runs, wire.dtype, wire.fields, wire.payload, limit)


@dataclass(frozen=True, slots=True)
class RescatterSpec:
    parts: tuple[Part, ...]
    wire: Wire
    bounds: np.ndarray
    name: str


def rescatter_task(spec: RescatterSpec, outputs: Outputs) -> dict[str, Any]:
    """A further round: read one group of ranges, divide it more finely."""
    rows, payload, _ = read_parts(spec.parts, spec.wire)
    return {"runs": [write_run(outputs, spec.name, spec.wire, rows, spec.bounds, payload)]}


def round_stages(first: Stage, rounds: exchange.Rounds, partition_bytes: int) -> list[Stage]:
    """The stages of rounds 2, 3, … after a first round."""
    kind, owner = first.name.split(".", 1)
    stages = [first]
    for round_ in range(1, len(rounds.fanouts)):
        settings = {"fanouts": list(rounds.fanouts), "partition_bytes": partition_bytes}
        stages.append(Stage(f"{kind}-round{round_ + 1}.{owner}", 1, settings, (stages[-1].directory,)))
    return stages[1:]


def further_rounds(
    first: Done,
    stages: Sequence[Stage],
    wire: Wire,
    rounds: exchange.Rounds,
    bounds: np.ndarray,
    partition_bytes: int,
) -> Work[list[list[Part]]]:
    """Carry out rounds 2, 3, …; returns what each final partition reads.

    `first` is the finished first round, whose runs are divided at
    `exchange.coarse_bounds(bounds, rounds.fanouts, 0)`; `stages` are its `round_stages`.
    """
    fanouts = rounds.fanouts
    runs = run_files(first.location, first.records)
    by_group: list[list[Part]] = [[(run, p) for run in runs] for p in range(fanouts[0])]
    for fanout, stage in zip(fanouts[1:], stages, strict=True):
        left = rounds.partitions // len(by_group)
        step = left // fanout
        tasks: list[Task] = []
        owners: list[int] = []
        for group, parts in enumerate(by_group):
            inner = bounds[group * left + step - 1 : (group + 1) * left - 1 : step]
            sizes = [run.partition_bytes[p] for run, p in parts]
            for a, b in exchange.group_by_bytes(sizes, partition_bytes):
                index = len(tasks)
                spec = RescatterSpec(tuple(parts[a:b]), wire, inner, f"run-{index:08d}.bin")
                tasks.append(Task(index, rescatter_task, spec))
                owners.append(group)
        done = yield Request(stage, tasks)
        finer: list[list[Part]] = [[] for _ in range(len(by_group) * fanout)]
        for owner, run in zip(owners, run_files(done.location, done.records), strict=True):
            for p in range(fanout):
                finer[owner * fanout + p].append((run, p))
        by_group = finer
    return by_group
