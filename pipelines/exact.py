"""Which documents are the same as an earlier one?

Exact dedup of a group of sources, by 128 bits of hash: of the final text (xxh3, stored with every document), of its
normalised words, or of its URL (text_keys.py). Documents with equal hashes meet in one partition of an exchange; the
survivor is the first in source order (as the recipe names them), then file order, then position. Documents of
earlier runs come before all others, and stay. The verdicts go home to the splits they are about (homing.py).

Memory: `partition_bytes` of rows (48 bytes each), about three times, however many copies a text has; and 17 bytes for
each document of a split where keys are not of the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from winnow.filters.exact_settings import Exact
from winnow.pipelines.earlier import Earlier, with_stage
from winnow.pipelines.engine import Done, Engine, Request, Work
from winnow.pipelines.exchanges import Part, Wire, further_rounds, read_blocks, round_stages, write_run
from winnow.pipelines.homing import VERDICTS, bring_home, plan_home, verdict_rows
from winnow.pipelines.jobs import Later, Task
from winnow.pipelines.recipe import Limits
from winnow.pipelines.records import Outputs, Stage
from winnow.pipelines.standing import Standing, rows_of
from winnow.pipelines.text_keys import VERSION as KEYS_VERSION
from winnow.pipelines.text_keys import compute_keys, keys_identity, keys_of, keys_stage
from winnow.shards import exchange, tables

VERSION = 3
BATCH_ROWS = 1 << 16
HASHES = Wire(
    np.dtype(
        [("hash", "<u8"), ("hash2", "<u8"), ("source", "<u4"), ("file", "<u4"), ("position", "<u8"),
         ("id_half", "<u8"), ("split", "<u4"), ("row", "<u4")]
    ),
    ("hash", "hash2", "source", "file", "position"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Member:
    """A split whose documents are compared."""

    number: int
    """Among those of earlier runs, which come first, and of the group."""
    source: int
    """Rank of its source among theirs, and the group's."""
    standing: Standing
    keys: str | None
    """Location of its source's keys; None: texts are compared."""


@dataclass(frozen=True, slots=True)
class ScatterSpec:
    index: int
    members: tuple[Member, ...]
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

    for member in spec.members:
        item = member.standing
        aligned = rows_of(item, ["id", "text_hash"])
        keys = keys_of(member.keys, item) if member.keys is not None else None
        halves = np.array(sorted(item.files), np.uint64).reshape(-1, 2)
        row = 0
        while row < item.rows:
            batch = aligned.take(min(BATCH_ROWS, item.rows - row))
            hashes, keep = batch.column("text_hash"), batch.column("keep")
            if keys is not None:
                hashes = keys.take(batch.num_rows).column("key")
                keep = pc.and_(keep, hashes.is_valid())
            held.append(_hash_rows(batch.column("id"), hashes, keep, row, halves))
            held[-1]["source"], held[-1]["split"] = member.source, member.number
            row += batch.num_rows
            if sum(map(len, held)) >= spec.run_rows:
                flush()
    if held or not runs:
        flush()
    return {"runs": runs}


def _hash_rows(ids: pa.Array, hashes: pa.Array, keep: pa.Array, first: int, halves: np.ndarray) -> np.ndarray:
    """HASHES of the documents to compare, their split left out; `first` is the row of the first document."""
    where = keep.to_numpy(zero_copy_only=False)
    rows = np.empty(int(where.sum()), HASHES.dtype)
    high, low = tables.id_halves(hashes)
    half, position = tables.id_halves(ids)
    rows["hash"], rows["hash2"] = high[where], low[where]
    rows["id_half"], rows["position"] = half[where], position[where]
    rows["file"] = halves[np.searchsorted(halves[:, 0], rows["id_half"]), 1]
    rows["row"] = first + np.flatnonzero(where)
    return rows


@dataclass(frozen=True, slots=True)
class ReduceSpec:
    index: int
    parts: tuple[Part, ...]
    bounds: np.ndarray
    earlier: tuple[int, int]
    """Splits and sources of earlier runs: they have the lower numbers."""
    own: int
    """Sources of the group."""
    limit: int
    """Bytes of rows that are held."""


def reduce_task(spec: ReduceSpec, outputs: Outputs) -> dict[str, Any]:
    """Find the survivor of every hash in one partition; write the others' verdicts as runs by split."""
    runs: list[dict[str, Any]] = []
    held: list[np.ndarray] = []
    no_cuts = np.empty(0, np.uint32)

    def flush() -> None:
        verdicts = np.concatenate([verdict_rows(0), *held])
        held.clear()
        file = f"run-{spec.index:08d}-{len(runs)}.bin"
        runs.append(write_run(outputs, file, VERDICTS, verdicts, spec.bounds, no_cuts))

    leader = np.empty(0, HASHES.dtype)  # of the hash that the block before ended with
    for block, _, _ in read_blocks(spec.parts, HASHES, spec.limit):
        rows = np.concatenate([leader, block])
        new = np.ones(len(rows), bool)
        new[1:] = (rows["hash"][1:] != rows["hash"][:-1]) | (rows["hash2"][1:] != rows["hash2"][:-1])
        leaders = rows[np.flatnonzero(new)[np.cumsum(new) - 1]]
        held.append(_verdicts(rows, leaders, ~new & (rows["split"] >= spec.earlier[0]), spec))
        leader = leaders[-1:]
        if sum(v.nbytes for v in held) >= spec.limit:
            flush()
    if held or not runs:
        flush()
    return {"runs": runs}


def _verdicts(rows: np.ndarray, leaders: np.ndarray, gone: np.ndarray, spec: ReduceSpec) -> np.ndarray:
    splits, sources = spec.earlier
    verdicts = verdict_rows(int(gone.sum()))
    verdicts["split"], verdicts["row"] = rows["split"][gone] - np.uint32(splits), rows["row"][gone]
    verdicts["high"], verdicts["low"] = leaders["id_half"][gone], leaders["position"][gone]
    rank = leaders["source"][gone].astype(np.int64)
    verdicts["source"] = np.where(rank < sources, spec.own + rank, rank - sources)
    return verdicts


def deduplicate(
    engine: Engine,
    group: Sequence[str],
    inputs: Sequence[Standing],
    upstream: Sequence[Stage],
    settings: Exact,
    limits: Limits,
    earlier: Sequence[Earlier] = (),
) -> Work[Done]:
    """Run exact dedup over the splits of a group of sources (`inputs` in survivors' order).

    Returns the stage of the verdicts; homing.py says what its records count. Raises InputError when an earlier run
    has not what is compared.
    """
    partition_bytes = limits.partition_bytes
    row_bytes = HASHES.dtype.itemsize
    known: list[tuple[Earlier, str | None]] = [(e, None) for e in earlier]
    if settings.by != "text" and earlier:
        known = [*with_stage(earlier, "keys", KEYS_VERSION, keys_identity(settings), "keys")]
    earlier = [e for e, _ in known]
    before = [(e, s, place) for e, place in known for s in e.standings]
    sizes = [i.documents_left * row_bytes for i in (*(s for _, s, _ in before), *inputs)]
    out = exchange.plan_rounds(sum(sizes), partition_bytes)
    out_bounds = exchange.uniform_bounds(out.partitions)
    home = plan_home(inputs)

    label = "+".join(group)[:80]
    inside = tuple(s.directory for s in upstream)
    identity = {
        "group": list(group),
        **settings.model_dump(mode="json"),
        "keys": KEYS_VERSION if settings.by != "text" else None,
        "earlier": [e.identity for e in earlier],
    }
    # Which documents are equal does not depend on how the exchange was cut.
    final = Stage(f"exact.{label}", VERSION, identity, inside)
    splits = {name: [s for s in inputs if s.source == name] for name in group}
    if done := engine.finished(final, len(home.blocks)):
        if settings.by != "text":  # what the run lists as its own, for later runs to compare with
            for name, own in splits.items():
                engine.finished(keys_stage(name, own[0], settings), len(own))
        return done
    keys: dict[str, str] = {}
    if settings.by != "text":
        for name, own in splits.items():
            keys[name] = (yield from compute_keys(name, own, settings)).location
    members = [Member(k, earlier.index(e), s, place) for k, (e, s, place) in enumerate(before)]
    members += [
        Member(len(before) + k, len(earlier) + s.rank, s, keys.get(s.source)) for k, s in enumerate(inputs)
    ]
    scatter = Stage(
        f"exact-scatter.{label}", VERSION, identity | {"partition_bytes": partition_bytes}, inside
    )
    scattered = [scatter, *round_stages(scatter, out, partition_bytes)]
    coarse = exchange.coarse_bounds(out_bounds, out.fanouts, 0)
    run_rows = max(1, partition_bytes // row_bytes)
    tasks = []
    for i, (a, b) in enumerate(exchange.group_by_bytes(sizes, partition_bytes)):
        tasks.append(Task(i, scatter_task, ScatterSpec(i, tuple(members[a:b]), coarse, run_rows)))
    first = yield Request(scatter, tasks)
    parts = yield from further_rounds(first, scattered[1:], HASHES, out, out_bounds, partition_bytes)

    reduce = Stage(f"exact-reduce.{label}", VERSION, home.identity, (scattered[-1].directory,))

    def reduce_spec(p: int) -> ReduceSpec:
        known = (len(before), len(earlier))
        return ReduceSpec(p, tuple(parts[p]), home.bounds_first, known, len(group), partition_bytes)

    tasks = [Task(p, reduce_task, Later(reduce_spec, p)) for p in range(out.partitions)]
    first = yield Request(reduce, tasks)
    names = (*group, *(e.name for e in earlier))
    return (yield from bring_home(first, final, home, inputs, names, partition_bytes))
