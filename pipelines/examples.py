"""Which documents is a classifier trained on, and which is it tested on?

Every document that a source of examples keeps has a draw, a hash of the seed and its id; a sample is those with
the smallest draws. A task takes the documents of some splits whose draws can be among them, and writes their
texts in the order of the draws; `texts_of` merges what the tasks left. Another hash decides what is held out.

Memory: a task holds the sampled texts of its splits (one split where there are at most `MOST_FILES`), `texts_of`
about 1 MiB of text per task.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from winnow.pipelines.documents import name, offsets
from winnow.pipelines.engine import Done
from winnow.pipelines.records import Outputs
from winnow.pipelines.verdicts import kept_batches
from winnow.shards import storage, tables

VERSION = 1
BATCH_BYTES = 1 << 20
MOST_FILES = 256
"""Tasks, and so files, of one source's examples."""
DRAW_SEED, HELDOUT_SEED = 0x657861, 0x68656C64
SCHEMA = pa.schema([("draw", pa.uint64()), ("heldout", pa.bool_()), ("text", pa.large_string())])


@dataclass(frozen=True, slots=True)
class ExamplesSpec:
    documents: str
    filters: str
    """Locations of the stages."""
    index: int
    splits: tuple[int, ...]
    limit: int
    """Draws above this one are not in the sample."""
    heldout: float
    seed: int


def groups(splits: int) -> list[tuple[int, ...]]:
    """The splits of each task."""
    width = -(-splits // MOST_FILES)
    return [tuple(range(first, min(first + width, splits))) for first in range(0, splits, width)]


def draw_limit(sample: int | None, kept: int) -> int:
    """The draw below which a sample of so many of `kept` documents lies, all but certainly.

    Draws are uniform: six standard deviations more than the sample are below it, so that one run in 10^9 gets
    a document too few.
    """
    if sample is None or sample >= kept:
        return 2**64 - 1
    return min(2**64 - 1, int((sample + 6 * math.sqrt(sample) + 10) / kept * 2**64))


def examples_task(spec: ExamplesSpec, outputs: Outputs) -> dict[str, Any]:
    """Write the examples of some splits in the order of their draws; returns how many there are."""
    draws, heldout, texts = [np.empty(0, np.uint64)], [np.empty(0, bool)], [pa.array([], pa.large_string())]
    for split in spec.splits:
        rows = tables.Aligned(kept_batches(spec.documents, spec.filters, split, ["id"]))
        for batch in tables.arrow_batches(storage.join(spec.documents, name("text", split, "arrow"))):
            table = rows.take(batch.num_rows)
            halves = tables.id_halves(table.column("id"))
            draw = tables.mix(spec.seed ^ DRAW_SEED, *halves)
            wanted = table.column("keep").to_numpy(zero_copy_only=False) & (draw <= np.uint64(spec.limit))
            draws.append(draw[wanted])
            chance = tables.mix(spec.seed ^ HELDOUT_SEED, *(half[wanted] for half in halves))
            heldout.append(chance < np.uint64(int(spec.heldout * 2**64)))
            texts.append(batch.column("text").filter(pa.array(wanted)))
        rows.end()
    order = np.argsort(np.concatenate(draws), kind="stable")
    columns = [pa.array(np.concatenate(draws)), pa.array(np.concatenate(heldout)), pa.chunked_array(texts)]
    table = pa.table(columns, schema=SCHEMA).take(pa.array(order))
    with (
        outputs.file(name("examples", spec.index, "arrow")) as path,
        tables.arrow_writer(path, SCHEMA) as writer,
    ):
        for portion in _portions(table):
            writer.write_batch(portion)
    return {"examples": table.num_rows}


def _portions(table: pa.Table) -> Iterator[pa.RecordBatch]:
    """The table in batches of about `BATCH_BYTES`, of one document at least."""
    for batch in table.combine_chunks().to_batches():
        group = np.cumsum(np.diff(offsets(batch.column("text")))) // BATCH_BYTES
        starts = np.flatnonzero(np.diff(group, prepend=-1)).tolist()
        for start, stop in zip(starts, [*starts[1:], batch.num_rows], strict=True):
            yield batch.slice(start, stop - start)


@dataclass(frozen=True, slots=True)
class Sample:
    """The examples of one source."""

    location: str
    """Of its examples stage."""
    files: int
    size: int
    """Documents to take."""


def sample_of(done: Done, wanted: int | None) -> Sample:
    """The sample that finished tasks left."""
    found = sum(r.counts["examples"] for r in done.records)
    size = found if wanted is None else min(wanted, found)
    return Sample(done.location, len(done.records), size)


def texts_of(samples: Sequence[Sample], *, heldout: bool) -> Iterator[str]:
    """The texts of samples that are held out, or those that are not; source by source, in the order of the draws."""
    for sample in samples:
        ordered = heapq.merge(*(_stored(sample.location, f) for f in range(sample.files)), key=lambda e: e[0])
        for (_, held, text), _ in zip(ordered, range(sample.size), strict=False):
            if held == heldout:
                yield text


def _stored(location: str, file: int) -> Iterator[tuple[int, bool, str]]:
    for batch in tables.arrow_batches(storage.join(location, name("examples", file, "arrow"))):
        for row in batch.to_pylist():
            yield row["draw"], row["heldout"], row["text"]
