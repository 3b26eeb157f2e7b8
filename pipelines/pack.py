"""Streams to shards: where documents lie in rows of `length` tokens, and the rows as shards, a shard at a time.

With `concat`, rows are cuts of the stream by arithmetic, and the tail that fills no row is dropped and counted. With
`pad` and `best-fit` the stage `packs` first writes a plan for each window of the stream (tokenize/packing.py): a window
owns the documents that begin in `window_tokens` tokens, so memory is bounded, and what lies where does not
depend on how work is divided. Best fit's rows are then put in the order of a hash, since they come by length.

How rows lie in shards is arithmetic, so every shard is a task of its own and no buffer belongs to a process.
Beside the shards, where trainers never look, lies the provenance: per shard a Parquet file that says
which bytes of which documents each sample is made of.

Memory: of a shard, twice its size (with a loss mask three times), five bytes for each of its tokens, and the plans of
its windows; of a plan, some 150 bytes for each of its window's documents and pieces, and a partition's rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from winnow.pipelines.cluster import Task
from winnow.pipelines.documents import name
from winnow.pipelines.engine import Done, Request, Work
from winnow.pipelines.packings import Packing
from winnow.pipelines.records import Outputs, Record, Stage, put_again
from winnow.pipelines.stream import ROWS, Shuffled
from winnow.pipelines.tokens import spelling
from winnow.shards import mds, packed_rows, storage, tables, token_stream
from winnow.shards.packed_rows import PackedRows
from winnow.tokenize import packing as plans

VERSION = 2
PACKS_VERSION = 1
SPLITS = ("train", "val")
MUCH_PADDING = 0.5
"""Share of padding above which a length is one that hardly any document reaches."""


def window_tokens(length: int) -> int:
    """Tokens of the stream whose documents are put into rows together: enough for best fit to leave hardly any room.

    A row a window is not full for want of documents: a thousandth.
    """
    return max(1 << 24, length << 10)


@dataclass(frozen=True, slots=True)
class PlanSpec:
    split: str
    number: int
    begin: int
    end: int
    """The window: it owns the documents that begin in these tokens."""
    stream: token_stream.TokenStream
    """Only the partitions that hold a token of the window."""
    pack: str
    length: int
    seed: int


def plan_task(spec: PlanSpec, outputs: Outputs) -> dict[str, Any]:
    """Write the plan of one window."""
    begins, ends = _documents(spec.stream, spec.begin, spec.end)
    if spec.pack == "pad":
        rows = plans.padded(begins, ends, spec.length)
    else:
        rows = plans.best_fit(begins, ends, spec.length)
        place = np.array([spec.begin * len(SPLITS) + SPLITS.index(spec.split)], np.uint64)
        keys = tables.mix(spec.seed, np.arange(rows.n_rows, dtype=np.uint64), place)
        rows = plans.reordered(rows, keys)
    plan = plans.lay(rows)
    pieces = np.empty(len(plan.row), packed_rows.PIECES)
    for field in ("row", "offset", "tokens", "start"):
        pieces[field] = getattr(plan, field)
    outputs.put(f"{spec.split}/{packed_rows.plan_name(spec.number)}", pieces.tobytes())
    return {
        "split": spec.split,
        "number": spec.number,
        "begin": int(begins[0]) if len(begins) else spec.begin,
        "end": int(ends[-1]) if len(ends) else spec.begin,
        "rows": plan.n_rows,
        "pieces": len(pieces),
        "tokens": int(plan.tokens.sum()),
        "documents": len(begins),
        "cut_documents": int((ends - begins > spec.length).sum()),
    }


def _documents(stream: token_stream.TokenStream, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    """(begins, ends) of the documents with tokens that begin in [begin, end): int64 each."""
    found = [np.empty((2, 0), np.int64)]
    for partition in stream.overlapping(begin, end):
        _, begins, ends = stream.documents(partition)
        found.append(np.stack([begins, ends])[:, (begins >= begin) & (begins < end) & (ends > begins)])
    begins, ends = np.concatenate(found, axis=1)
    return begins, ends


@dataclass(frozen=True, slots=True)
class Arranged:
    """Where a source's documents lie in the rows of one packing."""

    packing: Packing
    pack: str
    samples: dict[str, PackedRows]
    """By split."""
    part: dict[str, int]
    """Tokens of the stream that the packing was given, by split."""
    upstream: tuple[str, ...]
    """Directories of the stages that say so."""
    done: Done | None = None
    """The stage with the plans; None with `concat`, which has none."""


def arrange(
    source: str,
    shuffled: Shuffled,
    packing: Packing,
    *,
    pack: str,
    dtype: str,
    pad_id: int | None,
    seed: int,
    main: bool = True,
    masked: bool = False,
    templated: bool = False,
) -> Work[Arranged]:
    """Say where the documents of a source lie in rows.

    pack : `concat`, `pad` or `best-fit`; the latter two need a `pad_id`.
    main : whether this is the run's first packing; the stages of others carry its name.
    masked, templated : of the source's tokens, as token_stream.TokenStream has them.
    """
    streams = {
        split: stream_of(shuffled, split, dtype, masked=masked, templated=templated) for split in SPLITS
    }
    ranges = {split: packing.part(split, stream.n_tokens) for split, stream in streams.items()}
    part = {split: end - begin for split, (begin, end) in ranges.items()}
    directory = shuffled.done.stage.directory
    if pack == "concat":
        samples = {
            split: packed_rows.concat(stream, packing.length, *ranges[split])
            for split, stream in streams.items()
        }
        return Arranged(packing, pack, samples, part, (directory,))
    assert pad_id is not None
    window = window_tokens(packing.length)
    settings = {
        "pack": pack,
        "length": packing.length,
        "part": [str(packing.begin), str(packing.end)],
        "window_tokens": window,
    } | ({"seed": seed} if pack == "best-fit" else {})
    stage = Stage(stage_name("packs", source, packing, main), PACKS_VERSION, settings, (directory,))
    tasks: list[Task] = []
    for split, stream in streams.items():
        begin, end = ranges[split]
        for number, first in enumerate(range(begin, end, window)):
            last = min(first + window, end)
            touched = stream.narrowed(first, last)
            spec = PlanSpec(split, number, first, last, touched, pack, packing.length, seed)
            tasks.append(Task(len(tasks), plan_task, spec))
    done = yield Request(stage, tasks)
    samples, part = {}, {}
    for split, stream in streams.items():
        place = storage.join(done.location, split)
        windows = _windows(done, split)
        samples[split] = packed_rows.windowed(stream, packing.length, pad_id, place, windows)
        part[split] = int(windows["tokens"].sum())
    return Arranged(packing, pack, samples, part, (directory, stage.directory), done)


def _windows(done: Done, split: str) -> np.ndarray:
    """WINDOWS[n] of a split, which are kept in a file, too: what reads a finished run need not read all records."""
    counts = [r.counts for r in done.records if r.counts["split"] == split and r.counts["rows"]]
    windows = np.zeros(len(counts), packed_rows.WINDOWS)
    for field in windows.dtype.names or ():
        if field != "row":
            windows[field] = [c[field] for c in counts]
    put_again(storage.join(done.location, windows_name(split)), windows.tobytes())
    return windows


def windows_name(split: str) -> str:
    """The list of a split's windows, inside the stage `packs`."""
    return f"{split}/windows.bin"


def stage_name(kind: str, source: str, packing: Packing, main: bool) -> str:
    """The name of a stage of one packing."""
    return f"{kind}.{source}" if main else f"{kind}-{packing.name}.{source}"


@dataclass(frozen=True, slots=True)
class ShardSpec:
    split: str
    shard: int
    first_row: int
    last_row: int
    samples: PackedRows
    """Able to read these rows alone."""
    layout: mds.Layout
    tokenizer: str


def shard_task(spec: ShardSpec, outputs: Outputs) -> dict[str, Any]:
    """Write one shard and its provenance; the record holds the shard's index entry."""
    samples, first, last = spec.samples, spec.first_row, spec.last_row
    blank = mds.blank_shard(last - first, spec.layout)
    if blank.mask is None:
        samples.read(first, blank.rows)
    else:
        blank.put(slice(None), samples.rows(first, last))
    entry = put_shard(mds.finish_shard(blank, spec.layout, spec.shard), spec.split, outputs)
    del blank
    sizes, prefix = spelling(spec.tokenizer)
    tokens = 0
    with (
        outputs.file(provenance_name(spec.split, spec.shard)) as path,
        tables.RowWriter(path, token_stream.PROVENANCE_SCHEMA) as writer,
    ):
        for batch in samples.provenance(first, last, sizes, prefix):
            writer.write(batch)
            tokens += int(batch.column("tokens").to_numpy().sum(dtype=np.int64))
    counts: dict[str, Any] = {
        "split": spec.split,
        "rows": last - first,
        "tokens": tokens,
        "entry": entry,
    }
    return counts if samples.pad_id is not None else counts | _cut_counts(samples, first, last)


def put_shard(shard: mds.Shard, split: str, outputs: Outputs) -> mds.Entry:
    """Commit a shard, and return its entry: when this is done nobody holds its bytes any more."""
    for file, data in shard.files:
        outputs.put(f"{split}/{file}", memoryview(data))  # type: ignore[arg-type]
    return shard.entry


def provenance_name(split: str, shard: int) -> str:
    """The provenance file of a shard, inside its stage."""
    return f"provenance/{split}-{shard:08d}.parquet"


def stream_of(
    shuffled: Shuffled, split: str, dtype: str, *, masked: bool = False, templated: bool = False
) -> token_stream.TokenStream:
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
    return token_stream.build(parts, dtype, ROWS, masked=masked, templated=templated)


@dataclass(frozen=True, slots=True)
class CountSpec:
    split: str
    first_row: int
    last_row: int
    samples: PackedRows
    """Able to read these rows alone."""


def count_task(spec: CountSpec, outputs: Outputs) -> dict[str, Any]:
    """Count the documents of rows that no shard is made of here."""
    return {"split": spec.split} | _cut_counts(spec.samples, spec.first_row, spec.last_row)


def _cut_counts(samples: PackedRows, first: int, last: int) -> dict[str, int]:
    return dict(zip(("documents", "cut_documents"), samples.cut_counts(first, last), strict=True))


@dataclass(frozen=True, slots=True)
class Packed:
    """A source's shards of one packing."""

    arranged: Arranged
    done: Done
    entries: dict[str, list[dict[str, Any]]]
    """Index entries by split."""
    counts: Sequence[Record]
    """Who counted documents: the plans' tasks, or those of shards and `cuts`."""

    @property
    def samples(self) -> dict[str, PackedRows]:
        """All rows by split, whether shards of them were written here or not."""
        return self.arranged.samples

    def rows(self, split: str) -> int:
        """Rows in shards."""
        return sum(e["samples"] for e in self.entries[split])

    def facts(self, split: str) -> dict[str, int]:
        """What the packing made of a split: samples, the tokens and the padding in them, documents and cut ones.

        documents, cut_documents : that have a token in a sample, and that lie in more than one
        remainder_tokens : of the packing's part of the stream, in no sample
        """
        samples = self.samples[split]
        return {
            "rows": samples.n_rows,
            "packed_tokens": samples.tokens,
            "padding_tokens": samples.padding_tokens,
            "remainder_tokens": self.arranged.part[split] - samples.tokens,
        } | {what: self._counted(split, what) for what in ("documents", "cut_documents")}

    def _counted(self, split: str, what: str) -> int:
        return sum(r.counts[what] for r in self.counts if r.counts["split"] == split)


def warnings(source: str, packed: Packed) -> list[str]:
    """What a user should know of a source's training samples: a sentence each."""
    samples, length = packed.samples["train"], packed.arranged.packing.length
    room = samples.n_rows * length
    if samples.padding_tokens <= MUCH_PADDING * room:
        return []
    return [
        f"source {source!r}: {samples.padding_tokens / room:.0%} of its samples of {length:,} tokens is padding; "
        "hardly any document is as long"
    ]


def pack(
    source: str,
    arranged: Arranged,
    layout: mds.Layout,
    tokenizer: Done,
    *,
    splits: tuple[str, ...] = SPLITS,
    main: bool = True,
) -> Work[Packed]:
    """Write the shards of one source in one packing and, when all are there, the index of each split.

    splits : those that shards are made of; documents are counted in all.
    """
    some = arranged.samples[SPLITS[0]]
    settings = layout.facts | {
        "pack": arranged.pack,
        "part": [str(arranged.packing.begin), str(arranged.packing.end)],
        "pad_id": some.pad_id,
        "splits": list(splits),
    }
    inputs = (*arranged.upstream, tokenizer.stage.directory)
    stage = Stage(stage_name("shards", source, arranged.packing, main), VERSION, settings, inputs)
    per_shard = mds.rows_per_shard(layout)
    tasks: list[Task] = []
    for split in splits:
        samples = arranged.samples[split]
        for shard, first in enumerate(range(0, samples.n_rows, per_shard)):
            last = min(first + per_shard, samples.n_rows)
            part = samples.narrowed(first, last)
            spec = ShardSpec(split, shard, first, last, part, layout, tokenizer.location)
            tasks.append(Task(len(tasks), shard_task, spec))
    done = yield Request(stage, tasks)
    entries: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    for record in done.records:
        entries[record.counts["split"]].append(record.counts["entry"])
    for split, shards in entries.items():
        if shards:
            put_again(storage.join(done.location, split, mds.INDEX_NAME), mds.index_json(shards))
    if arranged.done is not None:
        return Packed(arranged, done, entries, arranged.done.records)
    left = [split for split in SPLITS if split not in splits]
    cuts = (yield _cuts(source, arranged, left, main)).records if left else []
    return Packed(arranged, done, entries, [*done.records, *cuts])


def _cuts(source: str, arranged: Arranged, splits: Sequence[str], main: bool) -> Request:
    """The count of documents of `concat`'s samples, where no shards are made of them."""
    packing = arranged.packing
    settings = {
        "length": packing.length,
        "part": [str(packing.begin), str(packing.end)],
        "splits": list(splits),
    }
    stage = Stage(stage_name("cuts", source, packing, main), VERSION, settings, arranged.upstream)
    tasks: list[Task] = []
    step = window_tokens(packing.length) // packing.length
    for split in splits:
        samples = arranged.samples[split]
        for first in range(0, samples.n_rows, step):
            last = min(first + step, samples.n_rows)
            spec = CountSpec(split, first, last, samples.narrowed(first, last))
            tasks.append(Task(len(tasks), count_task, spec))
    return Request(stage, tasks)
