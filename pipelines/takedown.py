"""How do excluded documents leave the shards, without the rest being made again?

Shards are first made as if nothing were excluded: by pack.py for one source, by mixed.py for the mixture; that stage is
the *base*. A takedown follows it: every row (sample) that holds a token of an excluded document is dropped, all other
rows stay as they are and in their order. Only shards with such rows are written again; the others are the same files,
hard links where the file system has them and copies elsewhere. A shard that loses all its rows disappears; the others
keep their file names. When a list changes, the base is still there, and only the takedown is made again.

In the provenance of a takedown `sample` is the row's number in the base, so that a row is known by one number in all
takedowns. `provenance/<split>-rows.bin` (uint32[shards of the base]) says how many rows each shard still has: from it
follows which of the published samples is which row.

The price is the rest of the rows that are dropped; it is counted, by tokens.

Memory: one shard twice (three times where it is compressed), 12 bytes for each piece of its provenance, and 20 an
excluded document.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from winnow.pipelines.cluster import Task
from winnow.pipelines.engine import Done, Request, RunError, Work
from winnow.pipelines.exclude import Excluded, Ids
from winnow.pipelines.pack import SPLITS, put_shard
from winnow.pipelines.records import Outputs, Record, Stage, put_again, total
from winnow.shards import mds, storage, tables, token_stream

VERSION = 2
GONE = ("rows_dropped", "excluded_tokens", "other_tokens")
COUNTED = ("rows", "tokens", "rows_dropped", "excluded_tokens", "other_tokens")


class Base(Protocol):
    """Shards of one stage, whoever made them: a record a shard, which counts `rows` and its index `entry`."""

    @property
    def done(self) -> Done: ...


@dataclass(frozen=True, slots=True)
class TakedownSpec:
    base: str
    """Location of the base stage."""
    split: str
    entry: dict[str, Any]
    """The shard's, in the base's index."""
    outputs: tuple[tuple[str, int, str], ...]
    """(name, bytes, hash) of the shard and of its provenance."""
    excluded: tuple[tuple[str, str], ...]
    """(source, location of its sorted ids)."""


def takedown_task(spec: TakedownSpec, outputs: Outputs) -> dict[str, Any]:
    """Drop the rows of excluded documents from one shard; returns what is left of it and what went."""
    (shard_file, _, _), (provenance, _, _) = spec.outputs
    samples, tokens, gone, sources = _pieces(spec, storage.join(spec.base, provenance))
    first, n_rows = int(samples[0]), spec.entry["samples"]
    row = (samples - samples[0]).astype(np.int64)
    source_of_row = np.full(n_rows, -1, np.int64)
    source_of_row[row[gone]] = sources[gone]
    left = source_of_row < 0
    dropped_tokens = int(tokens[~left[row]].sum(dtype=np.int64))
    excluded_tokens = int(tokens[gone].sum(dtype=np.int64))
    n = len(spec.excluded)
    rows_of = np.bincount(source_of_row[~left], minlength=n)
    # All documents of a row are of one source.
    tokens_of = np.bincount(source_of_row[row[~left[row]]], tokens[~left[row]], n)
    excluded_of = np.bincount(sources[gone], tokens[gone], n)
    counts: dict[str, Any] = {
        "split": spec.split,
        "rows": int(left.sum()),
        "tokens": int(tokens.sum(dtype=np.int64)) - dropped_tokens,
        "rows_dropped": int((~left).sum()),
        "of": {
            source: {
                "rows_dropped": int(rows_of[i]),
                "excluded_tokens": int(excluded_of[i]),
                "other_tokens": int(tokens_of[i] - excluded_of[i]),
            }
            for i, (source, _) in enumerate(spec.excluded)
            if rows_of[i]
        },
        "excluded_tokens": excluded_tokens,
        "other_tokens": dropped_tokens - excluded_tokens,
        "entry": None,
    }
    if left.all():
        for file, size, digest in spec.outputs:
            same_file(storage.join(spec.base, file), storage.join(outputs.location, file))
            outputs.files[file] = (size, digest)
        return counts | {"entry": spec.entry}
    if not left.any():
        return counts
    stored = storage.read_bytes(storage.join(spec.base, shard_file))
    raw = mds.raw_shard(stored, spec.entry)
    rows, mask = mds.read_rows(raw, spec.entry, 0, n_rows)[left], mds.read_mask(raw, spec.entry, 0, n_rows)
    mask = None if mask is None else mask[left]
    del stored, raw
    shard = mds.write_shard(rows, mds.layout_of(spec.entry), number_of(spec.entry), mask)
    del rows, mask
    entry = put_shard(shard, spec.split, outputs)
    del shard
    with (
        outputs.file(provenance) as path,
        tables.RowWriter(path, token_stream.PROVENANCE_SCHEMA) as writer,
    ):
        for batch in tables.parquet_batches(storage.join(spec.base, provenance)):
            at = (batch.column("sample").to_numpy() - np.uint64(first)).astype(np.int64)
            writer.write(batch.filter(pa.array(left[at])))
    return counts | {"entry": entry}


def _pieces(spec: TakedownSpec, place: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of each piece of a shard: its sample, its tokens, whether its document is excluded, and whose list has it."""
    ids, owners = _excluded(spec.excluded)
    found: list[tuple[np.ndarray, ...]] = []
    for batch in tables.parquet_batches(place, ["sample", "tokens", "id"]):
        at = ids.find(batch.column("id"))
        columns = (batch.column(c).to_numpy() for c in ("sample", "tokens"))
        found.append((*columns, at >= 0, owners[at] if len(owners) else at))
    samples, tokens, gone, sources = (np.concatenate(part) for part in zip(*found, strict=True))
    last = samples[-1] - samples[0] + 1
    if np.any(samples[1:] < samples[:-1]) or last != spec.entry["samples"]:
        raise ValueError(
            f"{place}: samples {samples[0]} to {samples[-1]}, not {spec.entry['samples']} in order"
        )
    return samples, tokens, gone, sources


@lru_cache(maxsize=2)
def _excluded(places: tuple[tuple[str, str], ...]) -> tuple[Ids, np.ndarray]:
    """All excluded ids, and of each the number of its source."""
    read = [Ids.read(place) for _, place in places]
    high, low = (np.concatenate([getattr(ids, half) for ids in read]) for half in ("high", "low"))
    owner = np.repeat(np.arange(len(read), dtype=np.int32), [len(ids) for ids in read])
    order = np.lexsort((low, high))
    return Ids(high[order], low[order]), owner[order]


def number_of(entry: dict[str, Any]) -> int:
    """The number in a shard's file name: its place among the base's shards of its split."""
    return int(entry["raw_data"]["basename"].split(".")[1])


def rows_name(split: str) -> str:
    """The file of a takedown that has the rows left in each shard of its base."""
    return f"provenance/{split}-rows.bin"


def same_file(source: str, target: str) -> None:
    """Publish a finished file under a second name, in one step: a hard link where there are some, else a copy."""
    if not storage.is_local(target):
        storage.copy(source, target)
        return
    path = Path(storage.local_path(target))
    path.parent.mkdir(parents=True, exist_ok=True)
    attempt = path.parent / f".{path.name}.{uuid.uuid4().hex}{storage.UNFINISHED}"
    try:
        os.link(storage.local_path(source), attempt)
    except FileNotFoundError:
        raise
    except OSError:  # a file system without links, or with as many of this file as it allows
        storage.copy(source, target)
        return
    os.replace(attempt, path)
    attempt.unlink(missing_ok=True)  # where both names are of one file already, `replace` leaves them both


@dataclass(frozen=True, slots=True)
class TakenDown:
    """What is left of a base's shards."""

    done: Done
    entries: dict[str, list[dict[str, Any]]]
    """Index entries by split."""

    def rows(self, split: str) -> int:
        return sum(e["samples"] for e in self.entries[split])

    def records(self, split: str) -> list[Record]:
        return [r for r in self.done.records if r.counts["split"] == split]

    def counts(self, split: str) -> dict[str, int]:
        """`COUNTED` of one split: what is left (rows, and their documents' tokens), and what went with which tokens."""
        return {what: total(self.records(split), what) for what in COUNTED}

    def dropped_of(self, source: str) -> dict[str, int]:
        """`GONE`: what went because a list of this source asked for it."""
        return {what: total(self.done.records, "of", source, what) for what in GONE}


def stage_name(base: str) -> str:
    """`shards.web` -> `takedown.web`, `shards-512.web` -> `takedown-512.web`, `mixed` -> `takedown-mixed`."""
    return f"takedown{base.removeprefix('shards')}" if base.startswith("shards") else f"takedown-{base}"


def takedown(base: Base, excluded: Sequence[Excluded]) -> Work[TakenDown]:
    """Drop the rows with excluded documents from a base's shards, and write each split's index when all are there.

    excluded : of each source that the base holds rows of and that has lists.

    Raises RunError when rows are unaccounted for.
    """
    inputs = (base.done.stage.directory, *(e.done.stage.directory for e in excluded))
    stage = Stage(
        stage_name(base.done.stage.name), VERSION, {"sources": [e.source for e in excluded]}, inputs
    )
    ids = tuple((e.source, e.ids) for e in excluded)
    tasks = []
    for record in base.done.records:
        split, entry = record.counts.get("split", "train"), record.counts["entry"]
        stored = f"{split}/{(entry['zip_data'] or entry['raw_data'])['basename']}"
        provenance = next(file for file in record.outputs if file.startswith("provenance/"))
        outputs = tuple((file, *record.outputs[file]) for file in (stored, provenance))
        tasks.append(
            Task(record.index, takedown_task, TakedownSpec(base.done.location, split, entry, outputs, ids))
        )
    done = yield Request(stage, tasks)
    entries: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    rows: dict[str, list[int]] = {split: [] for split in SPLITS}
    for before, record in zip(base.done.records, done.records, strict=True):
        counts = record.counts
        if counts["rows"] + counts["rows_dropped"] != before.counts["entry"]["samples"]:
            raise RunError(
                f"{stage.name}: shard {record.index}: rows are unaccounted for; nothing was published"
            )
        rows[counts["split"]].append(counts["rows"])
        if counts["entry"] is not None:
            entries[counts["split"]].append(counts["entry"])
    for split in SPLITS:
        if entries[split]:
            put_again(storage.join(done.location, split, mds.INDEX_NAME), mds.index_json(entries[split]))
        if rows[split]:
            left = np.array(rows[split], "<u4").tobytes()
            put_again(storage.join(done.location, rows_name(split)), left)
    return TakenDown(done, entries)
