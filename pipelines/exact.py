"""Which documents are the same as an earlier one?

Exact dedup of a group of sources, by the xxh3-128 of the final text. Documents with equal hashes meet
in one partition of an exchange; the survivor is the first in source order (as the recipe names
them), then file order, then position. A second exchange brings the verdicts back to the splits they
are about, where they are written row-aligned with the documents: `survivor` is null for a document
that stays, and the survivor's id for one that goes.

Memory: `partition_bytes` of rows (48 bytes each), about three times; the last step holds the
verdicts of `SPLIT_ROWS` rows or of one split. A partition can grow past its size by the copies of one
text, 48 bytes each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from winnow.pipelines.cluster import Task
from winnow.pipelines.documents import name
from winnow.pipelines.engine import Done, Engine, Request, Work
from winnow.pipelines.exchanges import Part, Wire, further_rounds, read_parts, round_stages, write_run
from winnow.pipelines.records import Outputs, Record, Stage
from winnow.pipelines.verdicts import kept_by_filters
from winnow.shards import exchange, tables

VERSION = 1
BATCH_ROWS = 1 << 16
SPLIT_ROWS = 1 << 22
"""Rows whose verdicts one task writes (ours: 160 MiB if every one is a duplicate)."""
WIDEST = 256
"""Blocks a run of verdicts is divided into at a time."""
HASHES = Wire(
    np.dtype(
        [("hash", "<u8"), ("hash2", "<u8"), ("source", "<u4"), ("file", "<u4"), ("position", "<u8"),
         ("id_half", "<u8"), ("split", "<u4"), ("row", "<u4")]
    ),
    ("hash", "hash2", "source", "file", "position"),
)  # fmt: skip
VERDICTS = Wire(
    np.dtype([("split", "<u8"), ("row", "<u8"), ("high", "<u8"), ("low", "<u8"), ("source", "<u8")]),
    ("split", "row"),
)
SURVIVOR_SCHEMA = pa.schema([("survivor", tables.ID)])


@dataclass(frozen=True, slots=True)
class Input:
    """A split of a source of the group."""

    source: int
    """Rank in survivors' order."""
    split: int
    """Index within its source."""
    documents: str
    filters: str
    files: tuple[tuple[int, int], ...]
    """(id half, rank in the source's listing) of the files it has pieces of."""
    rows: int


@dataclass(frozen=True, slots=True)
class ScatterSpec:
    index: int
    inputs: tuple[tuple[int, Input], ...]
    """With each split's number in the group."""
    bounds: np.ndarray
    run_rows: int


def scatter_task(spec: ScatterSpec, outputs: Outputs) -> dict[str, Any]:
    """Write the hashes of what the filters kept as runs of at most `run_rows` rows."""
    runs: list[dict[str, Any]] = []
    held: list[np.ndarray] = []

    def flush() -> None:
        rows = np.concatenate(held) if held else np.empty(0, HASHES.dtype)
        held.clear()
        runs.append(write_run(outputs, f"run-{spec.index:08d}-{len(runs)}.bin", HASHES, rows, spec.bounds))

    for number, item in spec.inputs:
        aligned = kept_by_filters(item.documents, item.filters, item.split)
        halves = np.array(sorted(item.files), np.uint64).reshape(-1, 2)
        row = 0
        while row < item.rows:
            batch = aligned.take(min(BATCH_ROWS, item.rows - row))
            held.append(_hash_rows(batch, item.source, number, row, halves))
            row += batch.num_rows
            if sum(map(len, held)) >= spec.run_rows:
                flush()
    if held or not runs:
        flush()
    return {"runs": runs}


def _hash_rows(batch: pa.RecordBatch, source: int, split: int, first: int, halves: np.ndarray) -> np.ndarray:
    keep = batch.column("keep").to_numpy(zero_copy_only=False)
    rows = np.empty(int(keep.sum()), HASHES.dtype)
    high, low = tables.id_halves(batch.column("text_hash"))
    half, position = tables.id_halves(batch.column("id"))
    rows["hash"], rows["hash2"] = high[keep], low[keep]
    rows["id_half"], rows["position"] = half[keep], position[keep]
    rows["file"] = halves[np.searchsorted(halves[:, 0], rows["id_half"]), 1]
    rows["source"], rows["split"] = source, split
    rows["row"] = first + np.flatnonzero(keep)
    return rows


@dataclass(frozen=True, slots=True)
class ReduceSpec:
    index: int
    parts: tuple[Part, ...]
    bounds: np.ndarray


def reduce_task(spec: ReduceSpec, outputs: Outputs) -> dict[str, Any]:
    """Find the survivor of every hash in one partition; write the others' verdicts as a run by split."""
    rows, _, _ = read_parts(spec.parts, HASHES)
    n = len(rows)
    new = np.ones(n, bool)
    new[1:] = (rows["hash"][1:] != rows["hash"][:-1]) | (rows["hash2"][1:] != rows["hash2"][:-1])
    leader = np.flatnonzero(new)[np.cumsum(new) - 1] if n else np.empty(0, np.int64)
    gone = ~new
    verdicts = np.empty(int(gone.sum()), VERDICTS.dtype)
    verdicts["split"], verdicts["row"] = rows["split"][gone], rows["row"][gone]
    verdicts["high"], verdicts["low"] = rows["id_half"][leader[gone]], rows["position"][leader[gone]]
    verdicts["source"] = rows["source"][leader[gone]]
    return {"runs": [write_run(outputs, f"run-{spec.index:08d}.bin", VERDICTS, verdicts, spec.bounds)]}


@dataclass(frozen=True, slots=True)
class VerdictSpec:
    parts: tuple[Part, ...]
    splits: tuple[tuple[int, str, int, int], ...]
    """(number in the group, source name, index in the source, rows)."""
    group: tuple[str, ...]


def verdict_task(spec: VerdictSpec, outputs: Outputs) -> dict[str, Any]:
    """Write the verdicts of some splits, row-aligned with their documents."""
    verdicts, _, _ = read_parts(spec.parts, VERDICTS)
    dropped: dict[str, int] = {}
    pairs: dict[str, int] = {}
    for number, source, split, n in spec.splits:
        a, b = np.searchsorted(verdicts["split"], [number, number + 1])
        mine = verdicts[a:b]
        with (
            outputs.file(verdict_name(source, split)) as path,
            tables.arrow_writer(path, SURVIVOR_SCHEMA) as writer,
        ):
            for first in range(0, n, BATCH_ROWS):
                stop = min(first + BATCH_ROWS, n)
                c, d = np.searchsorted(mine["row"], [first, stop])
                writer.write_batch(_survivors(mine[c:d], first, stop))
        dropped[source] = dropped.get(source, 0) + len(mine)
        for rank, n_lost in enumerate(
            np.bincount(mine["source"].astype(np.int64), minlength=len(spec.group))
        ):
            pair = f"{source} of {spec.group[rank]}"
            pairs[pair] = pairs.get(pair, 0) + int(n_lost)
    return {"dropped": dropped, "pairs": pairs}


def verdict_name(source: str, split: int) -> str:
    """The file of a split's dedup verdicts."""
    return name(f"survivor.{source}", split, "arrow")


def _survivors(mine: np.ndarray, first: int, stop: int) -> pa.RecordBatch:
    n = stop - first
    high, low = np.zeros(n, np.uint64), np.zeros(n, np.uint64)
    gone = np.zeros(n, bool)
    where = mine["row"].astype(np.int64) - first
    high[where], low[where], gone[where] = mine["high"], mine["low"], True
    ids = tables.ids_of(high, low)
    valid = pa.array(gone)
    column = pa.Array.from_buffers(tables.ID, n, [valid.buffers()[1], ids.buffers()[1]])
    return pa.record_batch([column], schema=SURVIVOR_SCHEMA)


def deduplicate(
    engine: Engine,
    group: Sequence[str],
    inputs: Sequence[Input],
    upstream: Sequence[Stage],
    partition_bytes: int,
    kept: Sequence[Record],
) -> Work[Done]:
    """Run exact dedup over the splits of a group of sources (`inputs` in survivors' order).

    `kept` are the records of the filters stages, in the order of `inputs`: they say how many documents each
    split brings. The stage's records count what was dropped by source, and by pair "source of survivor's source".
    """
    row_bytes = HASHES.dtype.itemsize
    sizes = [r.counts["kept"] * row_bytes for r in kept]
    out = exchange.plan_rounds(sum(sizes), partition_bytes)
    out_bounds = exchange.uniform_bounds(out.partitions)
    blocks = exchange.group_by_bytes([i.rows for i in inputs], SPLIT_ROWS)
    back = exchange.plan_rounds(len(blocks) * WIDEST, WIDEST, 1)  # a partition a block
    starts = [a for a, _ in blocks[1:]] + [len(inputs)] * (back.partitions - len(blocks))
    back_bounds = np.array(starts, np.uint64)

    label = "+".join(group)[:80]
    settings = {"group": list(group), "partition_bytes": partition_bytes}
    scatter = Stage(f"exact-scatter.{label}", VERSION, settings, tuple(s.directory for s in upstream))
    scattered = [scatter, *round_stages(scatter, out, partition_bytes)]
    reduce = Stage(f"exact-reduce.{label}", VERSION, {"blocks": len(blocks)}, (scattered[-1].directory,))
    reduced = [reduce, *round_stages(reduce, back, partition_bytes)]
    # Which documents are equal does not depend on how the exchange was cut.
    final = Stage(f"exact.{label}", VERSION, {"group": list(group)}, tuple(s.directory for s in upstream))
    if done := engine.finished(final, len(blocks)):
        return done

    coarse = exchange.coarse_bounds(out_bounds, out.fanouts, 0)
    run_rows = max(1, partition_bytes // row_bytes)
    tasks = []
    for i, (a, b) in enumerate(exchange.group_by_bytes(sizes, partition_bytes)):
        numbered = tuple((k, inputs[k]) for k in range(a, b))
        tasks.append(Task(i, scatter_task, ScatterSpec(i, numbered, coarse, run_rows)))
    first = yield Request(scatter, tasks)
    parts = yield from further_rounds(first, scattered[1:], HASHES, out, out_bounds, partition_bytes)

    coarse = exchange.coarse_bounds(back_bounds, back.fanouts, 0)
    tasks = [Task(p, reduce_task, ReduceSpec(p, tuple(parts[p]), coarse)) for p in range(out.partitions)]
    first = yield Request(reduce, tasks)
    parts = yield from further_rounds(first, reduced[1:], VERDICTS, back, back_bounds, partition_bytes)

    tasks = []
    for i, (a, b) in enumerate(blocks):
        splits = tuple((k, group[inputs[k].source], inputs[k].split, inputs[k].rows) for k in range(a, b))
        tasks.append(Task(i, verdict_task, VerdictSpec(tuple(parts[i]), splits, tuple(group))))
    return (yield Request(final, tasks))
