"""One stream out of all sources: the shards whose order is the mixture.

Which row of which source lies at which position is arithmetic (shards/interleave.py), so every shard is a task of its
own, and what `stage.json` says of the stage is enough to find a row's positions and a position's row. Every source
gives exactly the rows that the plan draws from it; each shard's record counts them. Held-out rows are not mixed.

A task reads each source's rows in ascending order, those that lie near each other at once: a source's first pass
forward, later ones by the block.

Memory: one shard, and either READ_BYTES twice or its compressed form; then, of its provenance, a partition's rows and
some 120 bytes for each piece of a document.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from winnow.pipelines.cluster import Task
from winnow.pipelines.engine import Done, Engine, Request, Work
from winnow.pipelines.pack import provenance_name, put_shard
from winnow.pipelines.records import Outputs, Stage, put_again, total
from winnow.pipelines.tokens import spelling
from winnow.shards import mds, storage, tables, token_stream
from winnow.shards.interleave import BLOCK_ROWS, MixedOrder, mixed_order
from winnow.shards.packed_rows import PackedRows

VERSION = 2
READ_BYTES = 8 << 20
"""Of rows that are read at once."""
GAP_BYTES = 1 << 18
"""Of rows nobody asked for, read because another read costs as much."""
BATCH_PIECES = 1 << 16


@dataclass(frozen=True, slots=True)
class Span:
    """Rows [first, last) of a source, and how they are read."""

    first: int
    last: int
    rows: PackedRows


@dataclass(frozen=True, slots=True)
class ShardSpec:
    shard: int
    first: int
    last: int
    """Positions of the mixed stream: [first, last)."""
    order: MixedOrder
    spans: tuple[tuple[Span, ...], ...]
    """By source, in the order's order: all rows that are drawn here are in them."""
    layout: mds.Layout
    tokenizer: str


@dataclass(frozen=True, slots=True)
class Read:
    """Rows that are read at once."""

    rows: PackedRows
    wanted: np.ndarray
    """int64[n], ascending; a row drawn twice is there twice."""
    where: np.ndarray
    """int64[n]: their places in the shard."""

    @property
    def range(self) -> tuple[int, int]:
        return int(self.wanted[0]), int(self.wanted[-1]) + 1


def shard_task(spec: ShardSpec, outputs: Outputs) -> dict[str, Any]:
    """Write one shard and its provenance; the record holds the shard's index entry and its rows by source."""
    counts: dict[str, int] = {}
    reads: list[Read] = []
    for name, found in _reads(spec):
        counts[name] = counts.get(name, 0) + len(found.wanted)
        reads.append(found)
    entry = _put_rows(spec, reads, outputs)
    owners = spec.order.interleaving.owners(spec.first, spec.last)
    tokens_of = np.zeros(len(spec.order.sources), np.int64)
    with (
        outputs.file(provenance_name("train", spec.shard)) as path,
        tables.RowWriter(path, token_stream.PROVENANCE_SCHEMA) as writer,
    ):
        for batch in _provenance(reads, spec.first, *spelling(spec.tokenizer)):
            at = batch.column("sample").to_numpy().astype(np.int64) - spec.first
            tokens = batch.column("tokens").to_numpy()
            tokens_of += np.bincount(owners[at], tokens, len(tokens_of)).astype(np.int64)
            writer.write(batch)
    return {
        "split": "train",
        "rows": spec.last - spec.first,
        "rows_by_source": counts,
        "tokens_by_source": dict(zip(spec.order.sources, tokens_of.tolist(), strict=True)),
        "tokens": int(tokens_of.sum()),
        "entry": entry,
    }


def _put_rows(spec: ShardSpec, reads: Sequence[Read], outputs: Outputs) -> mds.Entry:
    """Write the shard; nothing of it stays in memory."""
    filled = mds.blank_shard(spec.last - spec.first, spec.layout)
    for read in reads:
        first, last = read.range
        block = read.rows.rows(first, last)
        picked = read.wanted - first
        # A first pass wants every row of a range once.
        wanted = block if np.array_equal(picked, np.arange(len(block))) else block[picked]
        filled.put(read.where, wanted)
    return put_shard(mds.finish_shard(filled, spec.layout, spec.shard), "train", outputs)


def _reads(spec: ShardSpec) -> Iterator[tuple[str, Read]]:
    """(source, read) for all rows of a shard."""
    row_bytes = spec.layout.length * np.dtype(spec.layout.dtype).itemsize
    most, gap = max(1, READ_BYTES // row_bytes), max(1, GAP_BYTES // row_bytes)
    owners = spec.order.interleaving.owners(spec.first, spec.last)
    begun = spec.order.interleaving.counts_before(spec.first).tolist()
    for source, spans in enumerate(spec.spans):
        where = np.flatnonzero(owners == source)
        rows = spec.order.draws[source].rows(begun[source], begun[source] + len(where))
        ascending = np.argsort(rows, kind="stable")
        rows, where = rows[ascending], where[ascending]
        for span in spans:
            a, b = np.searchsorted(rows, [span.first, span.last])
            for i, j in _near(rows[a:b], most, gap):
                read = Read(span.rows, rows[a + i : a + j], where[a + i : a + j])
                yield spec.order.sources[source], read


def _near(rows: np.ndarray, most: int, gap: int) -> Iterator[tuple[int, int]]:
    """Ranges of ascending numbers that step by no more than `gap` and span no more than `most`."""
    breaks = np.flatnonzero(np.diff(rows) > gap) + 1
    for i, j in pairwise([0, *breaks.tolist(), len(rows)]):
        while i < j:
            k = min(j, int(np.searchsorted(rows, rows[i] + most)))
            yield i, k
            i = k


def _provenance(
    reads: Sequence[Read], first_position: int, piece_bytes: np.ndarray | None, prefix_bytes: int
) -> Iterator[pa.RecordBatch]:
    """The pieces of a shard's rows, by position."""
    parts: list[pa.RecordBatch] = []
    places: list[np.ndarray] = []
    for read in reads:
        for batch in read.rows.provenance(*read.range, piece_bytes, prefix_bytes):
            sample = batch.column("sample").to_numpy().astype(np.int64)
            low = np.searchsorted(read.wanted, sample, side="left")
            copies = np.searchsorted(read.wanted, sample, side="right") - low
            taken = np.repeat(np.arange(len(sample)), copies)
            copy = np.arange(len(taken)) - np.repeat(np.cumsum(copies) - copies, copies)
            places.append(read.where[low[taken] + copy])
            parts.append(batch.take(pa.array(taken)))
    if not parts:
        return
    at = np.concatenate(places)
    (whole,) = pa.Table.from_batches(parts).combine_chunks().to_batches()
    parts.clear()
    by_place = np.argsort(at, kind="stable")
    for start in range(0, len(at), BATCH_PIECES):
        some = by_place[start : start + BATCH_PIECES]
        position = pa.array((at[some] + first_position).astype(np.uint64))
        yield whole.take(pa.array(some)).set_column(0, token_stream.PROVENANCE_SCHEMA.field(0), position)


@dataclass(frozen=True, slots=True)
class Mixed:
    """The shards of a mixed stream."""

    done: Done
    entries: dict[str, list[dict[str, Any]]]
    """Index entries by split: of `train` alone."""
    order: MixedOrder

    @property
    def realised(self) -> dict[str, int]:
        """Rows by source, as the shards' records count them."""
        return total(self.done.records, "rows_by_source") or {}

    @property
    def realised_tokens(self) -> dict[str, int]:
        """Tokens of documents by source, as the shards' records count them."""
        return total(self.done.records, "tokens_by_source") or {}

    def rows(self, split: str) -> int:
        return sum(e["samples"] for e in self.entries.get(split, []))


def order_of(settings: Mapping[str, Any]) -> MixedOrder:
    """The order of a mixed stream from its stage's settings (`stage.json`); no other file is needed.

    Raises ValueError where the stage was made with other blocks than this version's.
    """
    if settings["block_rows"] != BLOCK_ROWS:
        raise ValueError(f"the stream was mixed in blocks of {settings['block_rows']} rows, not {BLOCK_ROWS}")
    return mixed_order(
        [(name, rows, drawn) for name, rows, _, drawn in settings["sources"]], settings["seed"]
    )


def mixed_stream(
    engine: Engine,
    inputs: Sequence[tuple[str, PackedRows, int]],
    seed: int,
    layout: mds.Layout,
    tokenizer: Done,
    upstream: Sequence[str],
    packing: str = "",
) -> Work[Mixed]:
    """Write the shards of a mixed stream and, when all are there, their index.

    Parameters
    ----------
    inputs : (source, its training rows, how many to draw); a source of which none is drawn stays out.
    upstream : directories of the stages that the rows come from: streams, and plans of packing.
    packing : name of the packing; "" for the recipe's main one.

    Raises ValueError as `interleave.mixed_order`.
    """
    drawn = sorted((i for i in inputs if i[2]), key=lambda i: i[0])
    settings = {
        "sources": [[name, rows.n_rows, rows.begin, n] for name, rows, n in drawn],
        "seed": seed,
        "block_rows": BLOCK_ROWS,
    } | layout.facts
    order = order_of(settings)
    name = f"mixed-{packing}" if packing else "mixed"
    stage = Stage(name, VERSION, settings, (*sorted(upstream), tokenizer.stage.directory))
    n_rows, per_shard = order.interleaving.n_rows, mds.rows_per_shard(layout)
    bounds = [*range(0, n_rows, per_shard), n_rows]
    done = engine.finished(stage, len(bounds) - 1)
    if done is None:
        tasks = _tasks([rows for _, rows, _ in drawn], order, bounds, layout, tokenizer.location)
        done = yield Request(stage, tasks)
    entries = [record.counts["entry"] for record in done.records]
    put_again(storage.join(done.location, "train", mds.INDEX_NAME), mds.index_json(entries))
    out = Mixed(done, {"train": entries}, order)
    assert out.realised == {name: n for name, _, n in drawn}, "a row is lost, or drawn once too often"
    return out


def _tasks(
    rows: Sequence[PackedRows], order: MixedOrder, bounds: Sequence[int], layout: mds.Layout, tokenizer: str
) -> list[Task]:
    begun = np.stack([order.interleaving.counts_before(b) for b in bounds])
    spans: list[list[tuple[Span, ...]]] = [[] for _ in bounds[1:]]
    # A source at a time: the order of its blocks in a pass is made once.
    for source, packed in enumerate(rows):
        for shard, (a, b) in enumerate(pairwise(begun[:, source].tolist())):
            ranges = order.draws[source].spans(a, b)
            spans[shard].append(tuple(Span(*r, packed.narrowed(*r)) for r in ranges))
    return [
        Task(shard, shard_task, ShardSpec(shard, a, b, order, tuple(spans[shard]), layout, tokenizer))
        for shard, (a, b) in enumerate(pairwise(bounds))
    ]
