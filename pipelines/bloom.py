"""Which documents and paragraphs of a group of sources say what an earlier document has said?

Bloom-filter dedup (filters/bloom.py) of documents in shards: a document's shard is a hash of the seed and its id, times
`shards`. A shard is one task, which goes through its documents one after the other: those of the first named source
first, and in a source by that same hash. So the result depends on the seed and `shards`, and never on workers, on how
sources are split, or on how the exchange is cut.

Text is read twice: once to count n-grams, so that every filter has the size that its shard needs, and once to be sent
to the shards. Its way goes through an exchange whose key is the order: shard, source, hash. A shard's task reads it
partition by partition. Counted are all n-grams of a shard, those that come again too, so a filter is never fuller than
planned; each task's record has the rate that its filter ended with. The verdicts go home to the splits
they are about (homing.py): `score` is the share of a document's n-grams that were seen in others.

Memory: a shard's task takes `task_bytes`: its filter, three times `partition_bytes`, and 40 bytes for each n-gram of
the longest document. A run whose largest shard needs more than `memory` (or `limits.task_memory`) is stopped after
the counting, and told how many shards fit. All other tasks: three times `partition_bytes`. A document is never divided:
a partition is at least as large as its largest text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from winnow.filters.bloom_settings import (
    MOST_BLOCKS,
    MOST_SHARDS,
    Bloom,
    blocks_for,
    filter_bytes,
    judging_bytes,
    plan_shards,
)
from winnow.pipelines.engine import Done, Engine, Request, RunError, Work
from winnow.pipelines.exchanges import Part, Wire, further_rounds, read_parts, round_stages, write_run
from winnow.pipelines.homing import VERDICTS, bring_home, plan_home, verdict_rows
from winnow.pipelines.jobs import Later, Task
from winnow.pipelines.numbers import show_bytes
from winnow.pipelines.recipe import Limits
from winnow.pipelines.records import Outputs, Stage
from winnow.pipelines.standing import Standing, Texts, texts_of
from winnow.shards import exchange, storage, tables

VERSION = 1
SHARD_SEED = 0x626C6F6F6D
PROCESS_BYTES = 256 << 20
"""Taken by a process that has loaded the kernels (ours: measured, 200 MB)."""
NGRAM_BYTES = 4.5
"""Bytes of text to an n-gram, for estimates: English has 4.6 to a token (ours: measured), and no more n-grams."""
SPREAD = 4
"""Standard deviations of a partition's size that `partition_bytes` has room for: a hash spreads documents unevenly."""
SOURCES = 1 << 12
_END = (1 << 64) - 1
DOCUMENTS = Wire(
    np.dtype([("key", "<u8"), ("place", "<u8"), ("split", "<u8"), ("row", "<u8"), ("items", "<u8")]),
    ("key", "place", "split", "row"),
    np.dtype("<u1"),
)
"""A document on its way to its shard: shard, rank of its source and hash, in 16, 12 and 36 bits; its place in the
shard, the whole hash; number of its split in the group, its row there, and bytes of its text, which is the payload."""


def shards_of(ids: pa.Array, seed: int, shards: int) -> tuple[np.ndarray, np.ndarray]:
    """(each document's shard, its place in it): uint64[n] each; documents of a shard go by their places."""
    draws = tables.mix(seed ^ SHARD_SEED, *tables.id_halves(ids))
    n, half = np.uint64(shards), np.uint64(32)
    low = (draws & np.uint64(0xFFFFFFFF)) * n >> half
    return ((draws >> half) * n + low) >> half, draws * n


@dataclass(frozen=True, slots=True)
class CountSpec:
    index: int
    inputs: tuple[Standing, ...]
    settings: Bloom
    seed: int
    sources: int


def count_task(spec: CountSpec, outputs: Outputs) -> dict[str, Any]:
    """Count, for every source and shard, n-grams, bytes, and squares of documents' KiB; and the longest's n-grams."""
    from winnow.filters.bloom import count_ngrams

    counts = np.zeros((3, spec.sources, spec.settings.shards), np.uint64)
    longest = 0
    for item in spec.inputs:
        for texts in texts_of(item, ("id",)):
            shards, _ = shards_of(texts.rows.column("id"), spec.seed, spec.settings.shards)
            ngrams = count_ngrams(texts.texts, spec.settings).astype(np.uint64)
            np.add.at(counts[0, item.rank], shards, ngrams)
            sizes = _sizes(texts) + np.uint64(DOCUMENTS.dtype.itemsize)
            np.add.at(counts[1, item.rank], shards, sizes)
            np.add.at(counts[2, item.rank], shards, ((sizes >> np.uint64(10)) + np.uint64(1)) ** np.uint64(2))
            longest = max(longest, int(ngrams.max(initial=0)))
    outputs.put(f"count-{spec.index:08d}.bin", counts.astype("<u8").tobytes())
    return {"longest": longest}


def _sizes(texts: Texts) -> np.ndarray:
    """uint64[n]: bytes of each text."""
    from winnow.filters.jit import text_buffers

    offsets, _ = text_buffers(texts.texts)
    return np.diff(offsets).astype(np.uint64)


@dataclass(frozen=True, slots=True)
class ScatterSpec:
    index: int
    inputs: tuple[tuple[int, Standing], ...]
    """With each split's number in the group."""
    seed: int
    shards: int
    bounds: np.ndarray
    run_bytes: int


def scatter_task(spec: ScatterSpec, outputs: Outputs) -> dict[str, Any]:
    """Write the documents that stand, with their texts, as runs of about `run_bytes`."""
    from winnow.filters.jit import text_buffers

    runs: list[dict[str, Any]] = []
    held: list[np.ndarray] = []
    texts_held: list[np.ndarray] = []

    def flush() -> None:
        rows = np.concatenate([np.empty(0, DOCUMENTS.dtype), *held])
        payload = np.concatenate([np.empty(0, np.uint8), *texts_held])
        held.clear()
        texts_held.clear()
        file = f"run-{spec.index:08d}-{len(runs)}.bin"
        runs.append(write_run(outputs, file, DOCUMENTS, rows, spec.bounds, payload))

    for number, item in spec.inputs:
        for texts in texts_of(item, ("id",)):
            shards, places = shards_of(texts.rows.column("id"), spec.seed, spec.shards)
            rows = np.empty(len(texts.where), DOCUMENTS.dtype)
            rows["key"] = _keys(shards, item.rank, places)
            rows["place"], rows["split"], rows["row"] = places, number, texts.where
            rows["items"] = _sizes(texts)
            offsets, utf8 = text_buffers(texts.texts)
            held.append(rows)
            texts_held.append(utf8[offsets[0] : offsets[-1]])
            if sum(a.nbytes for a in held) + sum(a.nbytes for a in texts_held) >= spec.run_bytes:
                flush()
    if held or not runs:
        flush()
    return {"runs": runs}


def _keys(shards: Any, rank: int, places: Any) -> Any:
    """DOCUMENTS' keys."""
    return shards << np.uint64(48) | np.uint64(rank << 36) | places >> np.uint64(28)


@dataclass(frozen=True, slots=True)
class JudgeSpec:
    index: int
    parts: tuple[tuple[Part, ...], ...]
    """Of each partition of the shard, in order."""
    settings: Bloom
    blocks: int
    """Of its filter."""
    bounds: np.ndarray
    run_bytes: int


def judge_task(spec: JudgeSpec, outputs: Outputs) -> dict[str, Any]:
    """Judge the documents of one shard in order; write verdicts on those that change as runs by split."""
    from winnow.filters.bloom import judge, measured_rate, new_filter

    filter_ = new_filter(spec.blocks)
    runs: list[dict[str, Any]] = []
    held: list[np.ndarray] = []
    cuts_held: list[np.ndarray] = []
    documents = 0

    def flush() -> None:
        verdicts = np.concatenate([verdict_rows(0), *held])
        cuts = np.concatenate([np.empty(0, np.uint32), *cuts_held])
        held.clear()
        cuts_held.clear()
        file = f"run-{spec.index:08d}-{len(runs)}.bin"
        runs.append(write_run(outputs, file, VERDICTS, verdicts, spec.bounds, cuts))

    for part in spec.parts:
        rows, payload, ends = read_parts(part, DOCUMENTS)
        offsets = np.zeros(len(rows) + 1, np.int64)
        offsets[1:] = ends
        texts = pa.LargeStringArray.from_buffers(len(rows), pa.py_buffer(offsets), pa.py_buffer(payload))
        found = judge(texts, spec.settings, filter_)
        changed = found.dropped | (found.items > 0)
        verdicts = verdict_rows(int(changed.sum()))
        verdicts["split"], verdicts["row"] = rows["split"][changed], rows["row"][changed]
        verdicts["dropped"], verdicts["items"] = found.dropped[changed], found.items[changed]
        verdicts["score"] = found.seen[changed] / found.ngrams[changed]
        documents += len(rows)
        held.append(verdicts)
        cuts_held.append(found.cuts)
        if sum(a.nbytes for a in held) + sum(a.nbytes for a in cuts_held) >= spec.run_bytes:
            flush()
    if held or not runs:
        flush()
    rate = float(f"{measured_rate(filter_):.3g}")
    return {"runs": runs, "documents": documents, "filter_bytes": filter_.nbytes, "false_positive_rate": rate}


def task_bytes(ngrams: int, longest: int, settings: Bloom, partition_bytes: int) -> int:
    """Bytes that a shard of so many n-grams takes, whose longest document has `longest` of them."""
    beside = PROCESS_BYTES + 3 * partition_bytes + judging_bytes(longest)
    return beside + filter_bytes(ngrams, settings.false_positive_rate)


def refusal(ngrams: int, largest: int, longest: int, settings: Bloom, limits: Limits) -> str | None:
    """What to say where a shard does not fit its task's memory; None where all do.

    ngrams : of all shards. largest : of the shard with most. longest : of the document with most.

    With the estimate ``text_bytes / NGRAM_BYTES`` for `ngrams`, it can be asked before anything has run.
    """
    asked = "memory" if settings.memory is not None else "limits.task_memory"
    room = settings.memory if settings.memory is not None else limits.task_memory
    needed = task_bytes(largest, longest, settings, limits.partition_bytes)
    if needed <= room and blocks_for(largest, settings.false_positive_rate) <= MOST_BLOCKS:
        return None
    size = filter_bytes(largest, settings.false_positive_rate)
    said = (
        f"{settings.shards:,} {'shards' if settings.shards > 1 else 'shard'} of {ngrams:,} n-grams: a filter takes "
        f"{show_bytes(size)} and its task {show_bytes(needed)}, but `{asked}` is {show_bytes(room)}"
    )
    beside = needed - size
    if room - beside >= 64:
        fit = plan_shards(ngrams, settings.false_positive_rate, room - beside)
        if fit <= MOST_SHARDS:
            more = max(fit, settings.shards + 1)
            return f"{said}; `shards: {more}` would fit (and keep more text), or `memory: {needed}`"
    return f"{said}; `memory` has to be more than {show_bytes(beside)}, which a task takes beside its filter"


@dataclass(frozen=True, slots=True)
class _Partitions:
    """How the documents' keys are divided."""

    rounds: exchange.Rounds
    bounds: np.ndarray
    shards: tuple[tuple[int, int, int], ...]
    """(shard, its first partition, one past its last) of every shard that has documents."""


def _pieces(size: int, squares: int, partition_bytes: int) -> int:
    """Partitions for `size` bytes of documents, the squares of whose KiB have the sum `squares`; at most twice as many
    as would do if all were as large as the mean.

    A hash that sends documents to p partitions gives each size / p, with a standard deviation of sqrt(squares / p).
    """
    if size <= partition_bytes:
        return min(1, size)
    spread = SPREAD * 1024 * math.sqrt(squares)
    # 1 / sqrt(p) for which the mean and so many deviations fill a partition.
    root = (math.sqrt(spread * spread + 4.0 * size * partition_bytes) - spread) / (2.0 * size)
    return min(math.ceil(1 / root**2), -(-2 * size // partition_bytes))


def _divide(sizes: np.ndarray, squares: np.ndarray, partition_bytes: int) -> _Partitions:
    """Divide keys so that each source's part of each shard is a number of partitions.

    sizes, squares : uint64[sources, shards], bytes of rows and texts; squares of documents' KiB.
    """
    starts: list[int] = []
    shards = []
    for shard in range(sizes.shape[1]):
        first = len(starts)
        for rank in range(sizes.shape[0]):
            pieces = _pieces(int(sizes[rank, shard]), int(squares[rank, shard]), partition_bytes)
            starts += [(shard << 48) + (rank << 36) + (piece << 36) // pieces for piece in range(pieces)]
        if len(starts) > first:
            shards.append((shard, first, len(starts)))
    n = max(1, len(starts))
    rounds = exchange.plan_rounds(n * partition_bytes, partition_bytes)
    padded = starts[1:] + [_END] * (rounds.partitions - n)
    return _Partitions(rounds, np.array(padded, np.uint64), tuple(shards))


def deduplicate(
    engine: Engine,
    group: Sequence[str],
    inputs: Sequence[Standing],
    upstream: Sequence[Stage],
    settings: Bloom,
    limits: Limits,
    seed: int,
) -> Work[Done]:
    """Judge the documents of a group of sources (`inputs` in survivors' order).

    Its stage's records count what homing.py says. Raises RunError where a shard does not fit its memory.
    """
    if len(group) > SOURCES:
        raise RunError(f"bloom compares at most {SOURCES:,} sources, not {len(group):,}")
    partition_bytes = limits.partition_bytes
    home = plan_home(inputs)
    label = "+".join(group)[:80]
    above = tuple(s.directory for s in upstream)
    cut = {"group": list(group), "seed": seed, "shards": settings.shards, "partition_bytes": partition_bytes}
    identity = settings.model_dump(exclude={"memory"})
    # Neither the memory nor how the exchange was cut decides which documents stay.
    final = Stage(f"bloom.{label}", VERSION, {"group": list(group), "seed": seed, **identity}, above)
    if done := engine.finished(final, len(home.blocks)):
        return done

    pieces = exchange.group_by_bytes([i.bytes_left for i in inputs], partition_bytes)
    counted = {"ngram": settings.ngram, "whole": settings.remove == "document"}
    count = Stage(f"bloom-count.{label}", VERSION, cut | counted, above)
    specs = [CountSpec(i, tuple(inputs[a:b]), settings, seed, len(group)) for i, (a, b) in enumerate(pieces)]
    first = yield Request(count, [Task(s.index, count_task, s) for s in specs])
    ngrams, sizes, squares = _counts(first, len(group), settings.shards)
    longest = max((r.counts["longest"] for r in first.records), default=0)
    largest = int(ngrams.max(initial=0))
    if said := refusal(int(ngrams.sum()), largest, longest, settings, limits):
        raise RunError(f"bloom of {label}: {said}")

    divided = _divide(sizes, squares, partition_bytes)
    scatter = Stage(f"bloom-scatter.{label}", VERSION, cut, (count.directory, *above))
    scattered = [scatter, *round_stages(scatter, divided.rounds, partition_bytes)]
    coarse = exchange.coarse_bounds(divided.bounds, divided.rounds.fanouts, 0)
    tasks = []
    for i, (a, b) in enumerate(pieces):
        numbered = tuple((k, inputs[k]) for k in range(a, b))
        spec = ScatterSpec(i, numbered, seed, settings.shards, coarse, partition_bytes)
        tasks.append(Task(i, scatter_task, spec))
    first = yield Request(scatter, tasks)
    parts = yield from further_rounds(
        first, scattered[1:], DOCUMENTS, divided.rounds, divided.bounds, partition_bytes
    )

    judged = Stage(f"bloom-judge.{label}", VERSION, identity | home.identity, (scattered[-1].directory,))

    def judge_spec(i: int) -> JudgeSpec:
        shard, a, b = divided.shards[i]
        blocks = blocks_for(int(ngrams[shard]), settings.false_positive_rate)
        mine = tuple(map(tuple, parts[a:b]))
        return JudgeSpec(i, mine, settings, blocks, home.bounds_first, partition_bytes)

    tasks = []
    for i, (shard, _, _) in enumerate(divided.shards):
        memory = task_bytes(int(ngrams[shard]), longest, settings, partition_bytes)
        tasks.append(Task(i, judge_task, Later(judge_spec, i), memory))
    first = yield Request(judged, tasks)
    return (yield from bring_home(first, final, home, inputs, group, partition_bytes))


def _counts(done: Done, sources: int, shards: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n-grams of each shard; bytes, and squares of documents' KiB, of each source's part of it), all uint64."""
    total = np.zeros((3, sources, shards), np.uint64)
    for record in done.records:
        (name,) = record.outputs
        data = storage.read_bytes(storage.join(done.location, name))
        total += np.frombuffer(data, "<u8").reshape(total.shape)
    return total[0].sum(axis=0), total[1], total[2]
