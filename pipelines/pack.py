"""Streams to shards: rows of `length` tokens, cut by prefix sums, a shard at a time.

A stream's rows are floor(tokens / length); the tail that fills no row is dropped and counted. How rows
lie in shards is arithmetic, so every shard is a task of its own and no buffer belongs to a process.
Beside the shards, where trainers never look, lies the provenance: per shard a Parquet file that says
which bytes of which documents each sample is made of.

Memory: one shard twice, and five bytes for each of its tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from winnow.pipelines.cluster import Task
from winnow.pipelines.documents import name
from winnow.pipelines.engine import Done, Request, Work
from winnow.pipelines.records import Outputs, Stage
from winnow.pipelines.stream import ROWS, Shuffled
from winnow.pipelines.tokens import spelling
from winnow.shards import mds, storage, tables, token_stream

VERSION = 1
SPLITS = ("train", "val")


@dataclass(frozen=True, slots=True)
class ShardSpec:
    split: str
    shard: int
    first_row: int
    last_row: int
    stream: token_stream.TokenStream
    """Only the partitions that the shard's rows touch."""
    layout: mds.Layout
    tokenizer: str


def shard_task(spec: ShardSpec, outputs: Outputs) -> dict[str, Any]:
    """Write one shard and its provenance; the record holds the shard's index entry."""
    length = spec.layout.length
    start, stop = spec.first_row * length, spec.last_row * length
    rows = spec.stream.tokens(start, stop).reshape(-1, length)
    shard = mds.write_shard(rows, spec.layout, spec.shard)
    del rows
    for file, data in shard.files:
        outputs.put(f"{spec.split}/{file}", memoryview(data))  # type: ignore[arg-type]
    del shard.files[:]
    sizes, prefix = spelling(spec.tokenizer)
    with (
        outputs.file(provenance_name(spec.split, spec.shard)) as path,
        tables.RowWriter(path, token_stream.PROVENANCE_SCHEMA) as writer,
    ):
        for batch in token_stream.pieces(spec.stream, start, stop, length, sizes, prefix):
            writer.write(batch)
    return {
        "split": spec.split,
        "rows": spec.last_row - spec.first_row,
        "tokens": stop - start,
        "entry": shard.entry,
    }


def provenance_name(split: str, shard: int) -> str:
    """The provenance file of a shard, inside its stage."""
    return f"provenance/{split}-{shard:08d}.parquet"


def stream_of(shuffled: Shuffled, split: str, dtype: str) -> token_stream.TokenStream:
    """The token stream of one split of a source."""
    location = shuffled.done.location
    parts = [
        (
            storage.join(location, name("stream", r.index, "bin")),
            storage.join(location, name("stream", r.index, "rows")),
            r.counts["tokens"],
            r.counts["documents"],
        )
        for r in shuffled.split(split)
    ]
    return token_stream.build(parts, dtype, ROWS)


@dataclass(frozen=True, slots=True)
class Packed:
    """A source's shards."""

    done: Done
    entries: dict[str, list[dict[str, Any]]]
    """Index entries by split."""
    streams: dict[str, token_stream.TokenStream]

    def rows(self, split: str) -> int:
        return sum(e["samples"] for e in self.entries[split])


def pack(source: str, shuffled: Shuffled, layout: mds.Layout, tokenizer: Done) -> Work[Packed]:
    """Write the shards of one source and, when all are there, the index of each split."""
    settings = {
        "dtype": layout.dtype,
        "length": layout.length,
        "hashes": list(layout.hashes),
        "compression": layout.compression,
        "size_limit": layout.size_limit,
    }
    inputs = (shuffled.done.stage.directory, tokenizer.stage.directory)
    stage = Stage(f"shards.{source}", VERSION, settings, inputs)
    per_shard = mds.rows_per_shard(layout)
    tasks: list[Task] = []
    streams = {split: stream_of(shuffled, split, layout.dtype) for split in SPLITS}
    for split, stream in streams.items():
        rows = stream.n_tokens // layout.length
        for shard, first in enumerate(range(0, rows, per_shard)):
            last = min(first + per_shard, rows)
            touched = tuple(stream.overlapping(first * layout.length, last * layout.length))
            part = token_stream.TokenStream(touched, stream.dtype, stream.row_dtype)
            spec = ShardSpec(split, shard, first, last, part, layout, tokenizer.location)
            tasks.append(Task(len(tasks), shard_task, spec))
    done = yield Request(stage, tasks)
    entries: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    for record in done.records:
        entries[record.counts["split"]].append(record.counts["entry"])
    for split, shards in entries.items():
        place = storage.join(done.location, split, "index.json")
        if shards and not storage.exists(place):
            storage.put_bytes(place, mds.index_json(shards))
    return Packed(done, entries, streams)
