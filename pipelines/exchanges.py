"""Which tasks carry out an exchange?

A first round of map tasks, written by whoever needs the exchange, leaves runs (shards/exchange.py).
Here are the further rounds, the same for everybody, and the list of what each reduce task reads.
"""

from __future__ import annotations

import bisect
import itertools
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from winnow.pipelines.engine import Done, Request, Work
from winnow.pipelines.jobs import Later, Task
from winnow.pipelines.records import Outputs, Record, Stage
from winnow.shards import exchange, storage
from winnow.shards.on_demand import OnDemand


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
    partitions: int

    def open(self) -> exchange.Run:
        return exchange.open_run(self.location, self.size, self.partitions)


Part = tuple[RunFile, int]
"""One partition of one run."""


class Runs(OnDemand[RunFile]):
    """The runs of a stage, in task order: about 40 bytes for each, and 4 (or 8) for each of its partitions."""

    __slots__ = ("location", "names", "partition_bytes", "sizes")

    def __init__(self, location: str, names: Sequence[str], sizes: np.ndarray, partition_bytes: np.ndarray):
        """sizes : int64[runs], of the files. partition_bytes : uint32 or uint64 [runs, partitions]."""
        self.location = location
        self.names = np.array([name.encode() for name in names], np.bytes_)
        self.sizes = sizes
        self.partition_bytes = partition_bytes

    def __len__(self) -> int:
        return len(self.sizes)

    def made(self, at: int) -> RunFile:
        location = storage.join(self.location, self.names[at].decode())
        return RunFile(location, int(self.sizes[at]), self.partition_bytes.shape[1])


class Parts(OnDemand[list[Part]]):
    """What each partition reads: `parts[p]`."""

    __slots__ = ("fanout", "runs", "starts")

    def __init__(self, runs: Runs, starts: np.ndarray, fanout: int):
        """starts : int64[groups + 1], where the runs of each group of `fanout` partitions begin."""
        self.runs = runs
        self.starts = starts
        self.fanout = fanout

    def __len__(self) -> int:
        return (len(self.starts) - 1) * self.fanout

    def made(self, at: int) -> list[Part]:
        group = at // self.fanout
        return list(self.some(at, 0, int(self.starts[group + 1] - self.starts[group])))

    def some(self, at: int, first: int, stop: int) -> tuple[Part, ...]:
        """Of the parts that a partition reads those from `first` to `stop`."""
        group, partition = divmod(at, self.fanout)
        begin = int(self.starts[group])
        return tuple((self.runs.made(begin + i), partition) for i in range(first, stop))

    def sizes(self, at: int) -> np.ndarray:
        """uint32 or uint64: the bytes of each of the parts that a partition reads."""
        group, partition = divmod(at, self.fanout)
        mine = self.runs.partition_bytes[self.starts[group] : self.starts[group + 1]]
        # Without any run it is not known how many partitions one would have.
        return mine[:, partition] if len(mine) else np.empty(0, mine.dtype)

    @property
    def held(self) -> int:
        """Bytes of rows and payload in all partitions."""
        return int(self.runs.partition_bytes.sum(dtype=np.int64))

    def filled(self, at: int) -> tuple[Part, ...]:
        """The parts of a partition that hold anything: the others need not be opened."""
        return tuple(itertools.compress(self.made(at), self.sizes(at).tolist()))


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


def run_files(location: str, records: Iterable[Record]) -> Runs:
    """The runs that a stage's records list under `runs`, in task order; all are divided at the same bounds."""
    names: list[str] = []
    sizes, held = array("q"), array("I")
    for record in records:
        for run in record.counts["runs"]:
            names.append(run["name"])
            sizes.append(record.outputs[run["name"]][0])
            if held.typecode == "I" and max(run["partition_bytes"]) >= 1 << 32:
                held = array("Q", held)
            held.extend(run["partition_bytes"])
    dtype = np.uint32 if held.typecode == "I" else np.uint64
    rows = np.frombuffer(held, dtype).reshape(len(names), -1 if names else 1)
    return Runs(location, names, np.frombuffer(sizes, np.int64), rows)


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
) -> Work[Parts]:
    """Carry out rounds 2, 3, …; returns what each final partition reads.

    `first` is the finished first round, whose runs are divided at
    `exchange.coarse_bounds(bounds, rounds.fanouts, 0)`; `stages` are its `round_stages`.
    """
    parts = _first_parts(run_files(first.location, first.records), rounds.fanouts[0])
    for fanout, stage in zip(rounds.fanouts[1:], stages, strict=True):
        ranges, owners = array("q"), array("q", [0])
        for p in range(len(parts)):
            for of_task in exchange.group_by_bytes(parts.sizes(p), partition_bytes):
                ranges.extend(of_task)
            owners.append(len(ranges) // 2)
        make = _Round(parts, wire, bounds, rounds.partitions // len(parts), fanout, owners, ranges).spec
        done = yield Request(stage, [Task(i, rescatter_task, Later(make, i)) for i in range(owners[-1])])
        # Or the driver would hold the runs of two rounds while it reads these.
        del make, parts
        parts = Parts(run_files(done.location, done.records), np.array(owners), fanout)
    return parts


def _first_parts(runs: Runs, fanout: int) -> Parts:
    return Parts(runs, np.array([0, len(runs)]), fanout)


@dataclass(frozen=True, slots=True)
class _Round:
    """A further round, of which every task reads some ranges of one group of partitions."""

    parts: Parts
    wire: Wire
    bounds: np.ndarray
    width: int
    """Final partitions of a group."""
    fanout: int
    owners: array[int]
    """Where the tasks of each group begin, and where the last one's end."""
    ranges: array[int]
    """First and one past the last of what each task reads of its group."""

    def spec(self, index: int) -> RescatterSpec:
        group = bisect.bisect_right(self.owners, index) - 1
        first, stop = self.ranges[2 * index : 2 * index + 2]
        step = self.width // self.fanout
        inner = self.bounds[group * self.width + step - 1 : (group + 1) * self.width - 1 : step]
        return RescatterSpec(self.parts.some(group, first, stop), self.wire, inner, f"run-{index:08d}.bin")
