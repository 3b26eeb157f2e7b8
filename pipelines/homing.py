"""How do verdicts get back to the splits they are about?

A step that decides where equal things of all splits meet has its verdicts partitioned by that, and each
split's tasks need theirs. Here is the way back, the same for every such step: the step's last reduce
tasks write runs of `VERDICTS`, divided at `Home.bounds_first`; `bring_home` carries out the rest and leaves one
row-aligned verdict file per split (standing.py).

Memory: the verdicts of `SPLIT_ROWS` rows or of one split, with their cuts, about three times.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from winnow.pipelines.documents import name
from winnow.pipelines.engine import Check, Done, Request, Work
from winnow.pipelines.exchanges import Part, Wire, further_rounds, read_parts, round_stages
from winnow.pipelines.jobs import Later, Task
from winnow.pipelines.records import Outputs, Stage
from winnow.pipelines.standing import VERDICT_SCHEMA, Standing, write_verdicts
from winnow.shards import exchange, storage, tables

BATCH_ROWS = 1 << 16
SPLIT_ROWS = 1 << 22
"""Rows whose verdicts one task writes (ours: 270 MiB if every one is a duplicate)."""
WIDEST = 256
"""Blocks a run of verdicts is divided into at a time."""
NONE = (1 << 64) - 1
"""In place of a survivor's source: there is no survivor."""
VERDICTS = Wire(
    np.dtype(
        [("split", "<u8"), ("row", "<u8"), ("dropped", "<u8"), ("high", "<u8"), ("low", "<u8"), ("source", "<u8"),
         ("score", "<f8"), ("items", "<u8")]
    ),
    ("split", "row"),
    np.dtype("<u4"),
)  # fmt: skip
"""A verdict: number of the split in the group, row in the split, 1 for a document that goes, the halves of its
survivor's id, the rank of the survivor's source or NONE, the score or NaN, and how many items of the payload are its
cuts (start, end, …). One row at most for a document."""


@dataclass(frozen=True, slots=True)
class Home:
    """How verdicts are divided on their way back."""

    blocks: list[tuple[int, int]]
    """The splits, by number, that each task writes."""
    bounds: np.ndarray
    """uint64, over numbers of splits."""
    rounds: exchange.Rounds

    @property
    def bounds_first(self) -> np.ndarray:
        """Where the first runs of verdicts are to be divided."""
        return exchange.coarse_bounds(self.bounds, self.rounds.fanouts, 0)

    @property
    def identity(self) -> dict[str, Any]:
        """What the runs' stage depends on: how they are divided."""
        return {"blocks": [a for a, _ in self.blocks]}


def plan_home(inputs: Sequence[Standing]) -> Home:
    """The way back to these splits."""
    blocks = exchange.group_by_bytes([i.rows for i in inputs], SPLIT_ROWS)
    rounds = exchange.plan_rounds(len(blocks) * WIDEST, WIDEST, 1)  # a partition a block
    starts = [a for a, _ in blocks[1:]] + [len(inputs)] * (rounds.partitions - len(blocks))
    return Home(blocks, np.array(starts, np.uint64), rounds)


def verdict_rows(n: int) -> np.ndarray:
    """`n` rows of VERDICTS that drop, without survivor, score or cuts; to be filled in."""
    rows = np.zeros(n, VERDICTS.dtype)
    rows["dropped"], rows["source"], rows["score"] = 1, NONE, np.nan
    return rows


@dataclass(frozen=True, slots=True)
class VerdictSpec:
    parts: tuple[Part, ...]
    inputs: tuple[tuple[int, Standing], ...]
    """With each split's number in the group."""
    group: tuple[str, ...]
    """Names of the sources that survivors may be of: the group's own, then those of earlier runs."""
    own: int
    """How many are the group's own."""


def verdict_task(spec: VerdictSpec, outputs: Outputs) -> dict[str, Any]:
    """Write the verdicts of some splits, row-aligned with their documents."""
    verdicts, cuts, ends = read_parts(spec.parts, VERDICTS)
    assert cuts is not None
    assert ends is not None
    counts: dict[str, dict[str, int]] = {
        k: {} for k in ("dropped", "dropped_bytes", "cut_documents", "cut_bytes", "pairs")
    }
    for number, item in spec.inputs:
        a, b = np.searchsorted(verdicts["split"], [number, number + 1])
        first = int(ends[a - 1]) if a else 0
        stop = int(ends[b - 1]) if b > a else first
        mine, own = verdicts[a:b], cuts[first:stop]
        write_verdicts(
            outputs, item.source, item.split, aligned(mine, own, item.rows, spec.group[spec.own :], spec.own)
        )
        _count(counts, item, mine, own, spec.group)
    return counts


def aligned(
    verdicts: np.ndarray, cuts: np.ndarray, n: int, earlier: Sequence[str] = (), own: int = 0
) -> Iterator[pa.RecordBatch]:
    """The verdicts on a split of n rows as batches of VERDICT_SCHEMA, a row for each of them.

    verdicts : VERDICTS[m], by row. cuts : uint32, theirs one after the other.
    earlier : names of sources of earlier runs; `detail` says it where a survivor's source is one of them, which are
    those from number `own` on.
    """
    edges = np.zeros(len(verdicts) + 1, np.int64)
    np.cumsum(verdicts["items"], out=edges[1:], dtype=np.int64)
    for first in range(0, n, BATCH_ROWS):
        stop = min(first + BATCH_ROWS, n)
        a, b = np.searchsorted(verdicts["row"], [first, stop])
        yield _batch(verdicts[a:b], cuts[edges[a] : edges[b]], first, stop - first, earlier, own)


def _batch(
    mine: np.ndarray, cuts: np.ndarray, first: int, n: int, earlier: Sequence[str], own: int
) -> pa.RecordBatch:
    where = mine["row"].astype(np.int64) - first
    columns: dict[str, np.ndarray] = {
        "dropped": np.zeros(n, bool),
        "high": np.zeros(n, np.uint64),
        "low": np.zeros(n, np.uint64),
        "items": np.zeros(n, np.int64),
    }
    for field, column in columns.items():
        column[where] = mine[field]
    scores, survives = np.full(n, np.nan), np.zeros(n, bool)
    scores[where], survives[where] = mine["score"], mine["source"] != NONE
    details = pa.nulls(n, pa.string())
    if earlier:
        of_earlier = np.full(n, -1, np.int64)
        foreign = survives[where] & (mine["source"] >= own)
        of_earlier[where[foreign]] = mine["source"][foreign].astype(np.int64) - own
        details = pa.array(list(earlier), pa.string()).take(pa.array(of_earlier, mask=of_earlier < 0))
    edges = np.zeros(n + 1, np.int32)
    np.cumsum(columns["items"], out=edges[1:])
    ids = tables.ids_of(columns["high"], columns["low"])
    return pa.record_batch(
        [
            pa.array(columns["dropped"]),
            pa.Array.from_buffers(tables.ID, n, [pa.array(survives).buffers()[1], ids.buffers()[1]]),
            pa.array(scores, from_pandas=True),
            details,
            pa.ListArray.from_arrays(pa.array(edges), pa.array(cuts), mask=pa.array(columns["items"] == 0)),
        ],
        schema=VERDICT_SCHEMA,
    )


def _count(
    counts: dict[str, dict[str, int]],
    item: Standing,
    mine: np.ndarray,
    cuts: np.ndarray,
    group: Sequence[str],
) -> None:
    def add(what: str, key: str, n: int) -> None:
        if n:
            counts[what][key] = counts[what].get(key, 0) + n

    goes = mine["dropped"] == 1
    add("dropped", item.source, int(goes.sum()))
    add("dropped_bytes", item.source, _bytes_of(item, mine["row"][goes].astype(np.int64)))
    trimmed = ~goes & (mine["items"] > 0)
    edges = np.repeat(trimmed, mine["items"].astype(np.int64))
    kept_cuts = cuts[edges].astype(np.int64)
    add("cut_documents", item.source, int(trimmed.sum()))
    add("cut_bytes", item.source, int(kept_cuts[1::2].sum() - kept_cuts[0::2].sum()))
    named = mine["source"][goes & (mine["source"] != NONE)].astype(np.int64)
    for rank, n in enumerate(np.bincount(named, minlength=len(group))):
        add("pairs", f"{item.source} of {group[rank]}", int(n))


def _bytes_of(item: Standing, rows: np.ndarray) -> int:
    """Bytes of stored text of some rows of a split."""
    if not len(rows):
        return 0
    place = storage.join(item.documents, name("rows", item.split, "parquet"))
    sizes = [b.column("text_bytes").to_numpy() for b in tables.parquet_batches(place, ["text_bytes"])]
    return int(np.concatenate(sizes)[rows].sum(dtype=np.int64))


def bring_home(
    first: Done,
    final: Stage,
    home: Home,
    inputs: Sequence[Standing],
    group: Sequence[str],
    partition_bytes: int,
    check: Check | None = None,
) -> Work[Done]:
    """Bring the verdicts that the stage `first` wrote to their splits; returns the finished stage `final`.

    group : names of the sources by the numbers that verdicts have them by; behind the group's own, those of earlier
    runs.

    Its records count, by source, documents `dropped`, their `dropped_bytes`, `cut_documents` that stay, `cut_bytes`
    of those, and, by "source of survivor's source", `pairs`.
    """
    stages = round_stages(first.stage, home.rounds, partition_bytes)
    parts = yield from further_rounds(first, stages, VERDICTS, home.rounds, home.bounds, partition_bytes)
    own = len({i.source for i in inputs})

    def verdict_spec(i: int) -> VerdictSpec:
        numbered = tuple((k, inputs[k]) for k in range(*home.blocks[i]))
        return VerdictSpec(tuple(parts[i]), numbered, tuple(group), own)

    tasks = [Task(i, verdict_task, Later(verdict_spec, i)) for i in range(len(home.blocks))]
    return (yield Request(final, tasks, check))
