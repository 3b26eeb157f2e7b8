"""Which documents are the same as an earlier one?

Exact dedup of a group of sources, by the xxh3-128 of the final text. Documents with equal hashes meet
in one partition of an exchange; the survivor is the first in source order (as the recipe names
them), then file order, then position. The verdicts go home to the splits they are about (homing.py).

Memory: `partition_bytes` of rows (48 bytes each), about three times. A partition can grow past its size by the
copies of one text, 48 bytes each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from winnow.pipelines.cluster import Task
from winnow.pipelines.engine import Done, Engine, Request, Work
from winnow.pipelines.exchanges import Part, Wire, further_rounds, read_parts, round_stages, write_run
from winnow.pipelines.homing import VERDICTS, bring_home, plan_home, verdict_rows
from winnow.pipelines.recipe import Limits
from winnow.pipelines.records import Outputs, Stage
from winnow.pipelines.standing import Standing, rows_of
from winnow.shards import exchange, tables

VERSION = 2
BATCH_ROWS = 1 << 16
HASHES = Wire(
    np.dtype(
        [("hash", "<u8"), ("hash2", "<u8"), ("source", "<u4"), ("file", "<u4"), ("position", "<u8"),
         ("id_half", "<u8"), ("split", "<u4"), ("row", "<u4")]
    ),
    ("hash", "hash2", "source", "file", "position"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ScatterSpec:
    index: int
    inputs: tuple[tuple[int, Standing], ...]
    """With each split's number in the group."""
    bounds: np.ndarray
    run_rows: int


def scatter_task(spec: ScatterSpec, outputs: Outputs) -> dict[str, Any]:
    """Write the hashes of what stands as runs of at most `run_rows` rows."""
    runs: list[dict[str, Any]] = []
    held: list[np.ndarray] = []

    def flush() -> None:
        rows = np.concatenate(held) if held else np.empty(0, HASHES.dtype)
        held.clear()
        runs.append(write_run(outputs, f"run-{spec.index:08d}-{len(runs)}.bin", HASHES, rows, spec.bounds))

    for number, item in spec.inputs:
        aligned = rows_of(item, ["id", "text_hash"])
        halves = np.array(sorted(item.files), np.uint64).reshape(-1, 2)
        row = 0
        while row < item.rows:
            batch = aligned.take(min(BATCH_ROWS, item.rows - row))
            held.append(_hash_rows(batch, item.rank, number, row, halves))
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
    verdicts = verdict_rows(int(gone.sum()))
    verdicts["split"], verdicts["row"] = rows["split"][gone], rows["row"][gone]
    verdicts["high"], verdicts["low"] = rows["id_half"][leader[gone]], rows["position"][leader[gone]]
    verdicts["source"] = rows["source"][leader[gone]]
    no_cuts = np.empty(0, VERDICTS.payload)
    run = write_run(outputs, f"run-{spec.index:08d}.bin", VERDICTS, verdicts, spec.bounds, no_cuts)
    return {"runs": [run]}


def deduplicate(
    engine: Engine,
    group: Sequence[str],
    inputs: Sequence[Standing],
    upstream: Sequence[Stage],
    limits: Limits,
) -> Work[Done]:
    """Run exact dedup over the splits of a group of sources (`inputs` in survivors' order).

    Returns the stage of the verdicts; homing.py says what its records count.
    """
    partition_bytes = limits.partition_bytes
    row_bytes = HASHES.dtype.itemsize
    sizes = [i.documents_left * row_bytes for i in inputs]
    out = exchange.plan_rounds(sum(sizes), partition_bytes)
    out_bounds = exchange.uniform_bounds(out.partitions)
    home = plan_home(inputs)

    label = "+".join(group)[:80]
    settings = {"group": list(group), "partition_bytes": partition_bytes}
    scatter = Stage(f"exact-scatter.{label}", VERSION, settings, tuple(s.directory for s in upstream))
    scattered = [scatter, *round_stages(scatter, out, partition_bytes)]
    reduce = Stage(f"exact-reduce.{label}", VERSION, home.identity, (scattered[-1].directory,))
    # Which documents are equal does not depend on how the exchange was cut.
    final = Stage(f"exact.{label}", VERSION, {"group": list(group)}, tuple(s.directory for s in upstream))
    if done := engine.finished(final, len(home.blocks)):
        return done

    coarse = exchange.coarse_bounds(out_bounds, out.fanouts, 0)
    run_rows = max(1, partition_bytes // row_bytes)
    tasks = []
    for i, (a, b) in enumerate(exchange.group_by_bytes(sizes, partition_bytes)):
        numbered = tuple((k, inputs[k]) for k in range(a, b))
        tasks.append(Task(i, scatter_task, ScatterSpec(i, numbered, coarse, run_rows)))
    first = yield Request(scatter, tasks)
    parts = yield from further_rounds(first, scattered[1:], HASHES, out, out_bounds, partition_bytes)

    first_bounds = home.bounds_first
    tasks = [
        Task(p, reduce_task, ReduceSpec(p, tuple(parts[p]), first_bounds)) for p in range(out.partitions)
    ]
    first = yield Request(reduce, tasks)
    return (yield from bring_home(first, final, home, inputs, group, partition_bytes))
