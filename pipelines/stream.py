"""In what order does training see a source's documents?

Every source's documents are put in the order of hash(seed, id), through the exchange: the stream
whose cuts are the training samples. Held-out documents (chosen by hash(seed, text hash), so that equal texts
are never on both sides) form a second stream, `val`. The order depends on the seed and the ids
alone, not on how many partitions, splits or workers there were.

A partition's file `stream-*.bin` holds the tokens, `stream-*.rows` a `ROWS` array with a row per document;
partitions in order are the whole stream, `train` first.

Memory: `partition_bytes` of tokens and rows, about three times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from winnow.pipelines.documents import name
from winnow.pipelines.engine import Done, Engine, Request, Work
from winnow.pipelines.exchanges import Part, Wire, further_rounds, read_parts, round_stages, write_run
from winnow.pipelines.jobs import Later, Task
from winnow.pipelines.records import Outputs, Record, Stage
from winnow.shards import arrays, exchange, storage, tables

VERSION = 1
VAL = 1 << 63
"""The key's highest bit: held out."""
HELDOUT_SEED = 0x68656C646F7574
"""Parts the choice of held-out documents from that of the order (the letters `heldout`)."""
ROUTED = np.dtype([("key", "<u8"), ("high", "<u8"), ("low", "<u8"), ("items", "<u8"), ("bytes", "<u8")])
ROWS = np.dtype([("key", "<u8"), ("high", "<u8"), ("low", "<u8"), ("end", "<u8"), ("bytes", "<u8")])
FIELDS = ("key", "high", "low")


def order_keys(
    seed: int, high: np.ndarray, low: np.ndarray, text_hash: np.ndarray, heldout: float
) -> np.ndarray:
    """uint64[n]: where each document comes in its source's stream, held-out ones with the highest bit set.

    high, low : uint64[n], the halves of the ids.
    text_hash : uint64[n], first half of the hash of the (surviving) text.
    """
    keys = tables.mix(seed, high, low) >> np.uint64(1)
    if heldout > 0:
        draw = tables.mix(seed ^ HELDOUT_SEED, text_hash)
        keys |= np.where(draw < np.uint64(int(heldout * 2.0**64)), np.uint64(VAL), np.uint64(0))
    return keys


@dataclass(frozen=True, slots=True)
class ScatterSpec:
    index: int
    tokens: str
    """Location of the tokens stage."""
    splits: tuple[tuple[int, int], ...]
    """(index, tokens) of each split."""
    dtype: str
    seed: int
    heldout: float
    bounds: np.ndarray
    run_bytes: int


def scatter_task(spec: ScatterSpec, outputs: Outputs) -> dict[str, Any]:
    """Write the documents of some splits, in stream order, as runs of about `run_bytes`."""
    dtype = np.dtype(spec.dtype)
    wire = Wire(ROUTED, FIELDS, dtype)
    runs: list[dict[str, Any]] = []
    rows: list[np.ndarray] = []
    # Tokens are read into their place: in large pieces memory costs more to get than to fill.
    buffer = np.empty(0, dtype)
    filled = 0

    def flush() -> None:
        nonlocal filled
        all_rows = np.concatenate(rows) if rows else np.empty(0, ROUTED)
        run = f"run-{spec.index:08d}-{len(runs)}.bin"
        runs.append(write_run(outputs, run, wire, all_rows, spec.bounds, buffer[:filled]))
        rows.clear()
        filled = 0

    left = sum(tokens for _, tokens in spec.splits)
    for split, _ in spec.splits:
        place = storage.join(spec.tokens, name("tokens", split, "bin"))
        read = 0
        for batch in tables.arrow_batches(storage.join(spec.tokens, name("index", split, "arrow"))):
            part = _routed(batch, read, spec)
            tokens = int(part["items"].sum())
            if filled and filled + tokens > len(buffer):
                flush()
            if tokens > len(buffer):
                buffer = np.empty(max(tokens, min(left, spec.run_bytes // dtype.itemsize)), dtype)
            exchange.read_array(place, read * dtype.itemsize, buffer[filled : filled + tokens])
            rows.append(part)
            read += tokens
            left -= tokens
            filled += tokens
    if rows or not runs:
        flush()
    return {"runs": runs}


def _routed(batch: Any, read: int, spec: ScatterSpec) -> np.ndarray:
    ends = batch.column("end").to_numpy()
    rows = np.empty(batch.num_rows, ROUTED)
    rows["high"], rows["low"] = tables.id_halves(batch.column("id"))
    rows["items"] = np.diff(ends, prepend=np.uint64(read))
    rows["bytes"] = batch.column("text_bytes").to_numpy()
    rows["key"] = order_keys(
        spec.seed, rows["high"], rows["low"], batch.column("text_hash").to_numpy(), spec.heldout
    )
    return rows


@dataclass(frozen=True, slots=True)
class GatherSpec:
    index: int
    parts: tuple[Part, ...]
    dtype: str


def gather_task(spec: GatherSpec, outputs: Outputs) -> dict[str, Any]:
    """Merge one partition and write it as a piece of the stream."""
    routed, tokens, ends = read_parts(spec.parts, Wire(ROUTED, FIELDS, np.dtype(spec.dtype)))
    assert tokens is not None
    assert ends is not None
    rows = np.empty(len(routed), ROWS)
    for field in ("key", "high", "low", "bytes"):
        rows[field] = routed[field]
    rows["end"] = ends
    with outputs.file(name("stream", spec.index, "bin")) as path, open(path, "wb") as file:
        arrays.write(file, tokens)
    with outputs.file(name("stream", spec.index, "rows")) as path, open(path, "wb") as file:
        arrays.write(file, rows)
    return {"documents": len(rows), "tokens": len(tokens), "text_bytes": int(rows["bytes"].sum())}


@dataclass(frozen=True, slots=True)
class Shuffled:
    """A source's streams."""

    done: Done
    bounds: np.ndarray
    """uint64[partitions - 1], over keys."""
    train_partitions: int

    def split(self, which: str) -> Sequence[Record]:
        """The records of the partitions of `train` or `val`, in order."""
        records = self.done.records
        return records[: self.train_partitions] if which == "train" else records[self.train_partitions :]


def shuffle(
    engine: Engine, source: str, tokens: Done, dtype: str, seed: int, heldout: float, partition_bytes: int
) -> Work[Shuffled]:
    """Put one source's tokens in stream order; `tokens` is its finished tokens stage."""
    item = np.dtype(dtype).itemsize
    sizes = [r.counts["tokens"] * item + r.counts["documents"] * ROUTED.itemsize for r in tokens.records]
    val = max(1, -(-int(sum(sizes) * heldout) // partition_bytes)) if heldout else 0
    rounds = exchange.plan_rounds(max(sum(sizes), 1) + val * partition_bytes, partition_bytes)
    train = rounds.partitions - val
    bounds = exchange.uniform_bounds(train, 0, VAL)
    if val:
        bounds = np.concatenate([bounds, np.array([VAL], np.uint64), exchange.uniform_bounds(val, VAL)])
    settings = {"seed": seed, "heldout": heldout, "partition_bytes": partition_bytes}
    scatter = Stage(f"stream-scatter.{source}", VERSION, settings, (tokens.stage.directory,))
    scattered = [scatter, *round_stages(scatter, rounds, partition_bytes)]
    final = Stage(f"stream.{source}", VERSION, {}, (scattered[-1].directory,))
    if done := engine.finished(final, rounds.partitions):
        return Shuffled(done, bounds, train)

    coarse = exchange.coarse_bounds(bounds, rounds.fanouts, 0)
    tasks = []
    for i, (a, b) in enumerate(exchange.group_by_bytes(sizes, partition_bytes)):
        splits = tuple((r.index, r.counts["tokens"]) for r in tokens.records[a:b])
        spec = ScatterSpec(i, tokens.location, splits, dtype, seed, heldout, coarse, partition_bytes)
        tasks.append(Task(i, scatter_task, spec))
    first = yield Request(scatter, tasks)
    wire = Wire(ROUTED, FIELDS, np.dtype(dtype))
    parts = yield from further_rounds(first, scattered[1:], wire, rounds, bounds, partition_bytes)

    def gather(p: int) -> GatherSpec:
        return GatherSpec(p, tuple(parts[p]), dtype)

    gathers = [Task(p, gather_task, Later(gather, p)) for p in range(rounds.partitions)]
    return Shuffled((yield Request(final, gathers)), bounds, train)
