"""Which lines of a source has it said before?

Line dedup in CCNet's manner (line_keys.py says what the same line is). Text is read twice: once to hash its lines,
and once more to cut those that go. What travels is a row of 24 bytes for each different line of a *window*, which
is a stretch of one split with at most `WINDOW` different lines, and back a row of 16 bytes for each of these that
goes. A line said again within its window needs no exchange: with `keep: first` it goes, for the window has an earlier
one, and with `keep: none` too, for it has an equal. So the notice on every page costs a row a window. A line is named
by its window and its number among the window's different lines, which both readings count alike.

The first of equal lines is the first by source, then file, then position. `score` is the share of the text's bytes
that go; where nothing but whitespace is left, the document is dropped.

Memory: `partition_bytes` of rows, about three times, however often a line comes; 33 MiB for a window, and 48 MiB for
its rows; an Arrow batch of text with 16 bytes a line; and for `BLOCK_BYTES` of text, or for one split, 32 bytes for
each line that goes and what homing.py holds of a verdict for each document that changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from winnow.filters.line_keys import LineCuts, LineKeys, SeenKeys, cut_lines, line_keys
from winnow.filters.lines_settings import Lines
from winnow.pipelines.documents import offsets
from winnow.pipelines.engine import Done, Engine, Request, Work
from winnow.pipelines.exchanges import (
    Part,
    Wire,
    further_rounds,
    read_blocks,
    read_parts,
    round_stages,
    write_run,
)
from winnow.pipelines.homing import aligned, verdict_rows
from winnow.pipelines.jobs import Later, Task
from winnow.pipelines.recipe import Limits
from winnow.pipelines.records import Outputs, Stage
from winnow.pipelines.standing import Standing, Texts, texts_of, write_verdicts
from winnow.shards import exchange

VERSION = 1
WINDOW = 1 << 20
"""Different lines that are known at a time."""
BLOCK_BYTES = 256 << 20
"""Bytes of text that a task reads; a split is not divided."""
EXPECTED = 4
"""Bytes of text to a byte of rows, as the exchange is planned; where lines are shorter, partitions are larger, and read
in blocks."""
WIDEST = 256
"""Blocks a run of verdicts is divided into at a time."""
LINES = Wire(
    np.dtype([("hash", "<u8"), ("place", "<u8"), ("line", "<u4"), ("again", "<u4")]), ("hash", "place")
)
"""A line of a window: its key; number of the split in the group, then of the window in the split, 32 bits each; its
number in the window; and whether the window has it more than once."""
GONE = Wire(np.dtype([("place", "<u8"), ("line", "<u8")]), ("place", "line"))
_HALF = np.uint64(32)


@dataclass(frozen=True, slots=True)
class ScatterSpec:
    index: int
    inputs: tuple[tuple[int, Standing], ...]
    """With each split's number in the group."""
    settings: Lines
    bounds: np.ndarray
    run_rows: int
    window: int


def scatter_task(spec: ScatterSpec, outputs: Outputs) -> dict[str, Any]:
    """Write the different lines of every window, as runs of at least `run_rows` rows but for the last."""
    runs: list[dict[str, Any]] = []
    held: list[np.ndarray] = []
    seen = SeenKeys(spec.window)

    def flush() -> None:
        rows = np.concatenate(held) if held else np.empty(0, LINES.dtype)
        held.clear()
        runs.append(write_run(outputs, f"run-{spec.index:08d}-{len(runs)}.bin", LINES, rows, spec.bounds))

    def hold(place: int) -> None:
        rows = np.empty(seen.held, LINES.dtype)
        rows["hash"], rows["again"], rows["place"] = seen.keys, seen.again, place
        rows["line"] = np.arange(seen.held)
        held.append(rows)
        if sum(map(len, held)) >= spec.run_rows:
            flush()

    for number, item in spec.inputs:
        for _ in numbered(number, item, spec.settings, seen, hold):
            pass
    if held or not runs:
        flush()
    return {"runs": runs}


@dataclass(frozen=True, slots=True)
class Numbered:
    """Lines of one batch of a split's text."""

    texts: Texts
    found: LineKeys
    new: np.ndarray
    """bool[lines]: the first of its kind in its window."""
    places: np.ndarray
    """uint64[new ones]: window, then number of the line in it, 32 bits each; ascending over the whole split."""


def numbered(
    number: int, item: Standing, settings: Lines, seen: SeenKeys, close: Callable[[int], None]
) -> Iterator[Numbered]:
    """The lines of a split, batch by batch; `close` is called with a window's place while `seen` still holds it."""
    seen.clear()
    window = 0
    for texts in texts_of(item, ("text_bytes",)):
        found = line_keys(texts.texts, settings.by)
        new: list[np.ndarray] = []
        places: list[np.ndarray] = []
        left = found.keys
        while True:
            before = seen.held
            new.append(seen.add(left))
            places.append(np.arange(before, seen.held, dtype=np.uint64) | np.uint64(window << 32))
            left = left[len(new[-1]) :]
            if not len(left):
                break
            close(number << 32 | window)
            seen.clear()
            window += 1
        yield Numbered(texts, found, np.concatenate(new), np.concatenate(places))
    close(number << 32 | window)


@dataclass(frozen=True, slots=True)
class ReduceSpec:
    index: int
    parts: tuple[Part, ...]
    settings: Lines
    bounds: np.ndarray
    limit: int
    """Bytes of rows that are held."""


def reduce_task(spec: ReduceSpec, outputs: Outputs) -> dict[str, Any]:
    """Find which windows' lines of one partition go; write them as runs by split."""
    runs: list[dict[str, Any]] = []
    held: list[np.ndarray] = []

    def hold(rows: np.ndarray) -> None:
        back = np.empty(len(rows), GONE.dtype)
        back["place"], back["line"] = rows["place"], rows["line"]
        held.append(back)
        if sum(r.nbytes for r in held) >= spec.limit:
            flush()

    def flush() -> None:
        rows = np.concatenate([np.empty(0, GONE.dtype), *held])
        held.clear()
        runs.append(write_run(outputs, f"run-{spec.index:08d}-{len(runs)}.bin", GONE, rows, spec.bounds))

    keep_none = spec.settings.keep == "none"
    last, follows = (
        np.empty(0, LINES.dtype),
        False,
    )  # the row the block before ended with; is an equal before it?
    for block, _, _ in read_blocks(spec.parts, LINES, spec.limit):
        rows = np.concatenate([last, block])
        gone = np.zeros(len(rows), bool)
        gone[1:] = rows["hash"][1:] == rows["hash"][:-1]
        gone[0] = follows
        last, follows = rows[-1:], bool(gone[-1])
        if keep_none:
            gone[:-1] |= gone[1:] | (rows["again"][:-1] != 0)
        hold(rows[:-1][gone[:-1]])
    if follows or (keep_none and last["again"].any()):
        hold(last)
    if held or not runs:
        flush()
    return {"runs": runs}


@dataclass(frozen=True, slots=True)
class CutSpec:
    parts: tuple[Part, ...]
    inputs: tuple[tuple[int, Standing], ...]
    settings: Lines
    window: int


def cut_task(spec: CutSpec, outputs: Outputs) -> dict[str, Any]:
    """Write the verdicts on some splits; returns what went, by source."""
    gone, _, _ = read_parts(spec.parts, GONE)
    seen = SeenKeys(spec.window)
    counts: dict[str, dict[str, int]] = {
        k: {} for k in ("dropped", "dropped_bytes", "cut_documents", "cut_bytes")
    }
    for number, item in spec.inputs:
        edges = np.array([number << 32, (number + 1) << 32], np.uint64)
        a, b = np.searchsorted(gone["place"], edges)
        mine = (gone["place"][a:b] << _HALF) | gone["line"][a:b]
        verdicts, cuts = [verdict_rows(0)], [np.empty(0, np.uint32)]
        for batch in numbered(number, item, spec.settings, seen, lambda _: None):
            goes = ~batch.new
            goes[batch.new] = _among(batch.places, mine)
            found = cut_lines(batch.texts.texts, batch.found, spec.settings.by, goes)
            rows, removed = _verdicts(batch.texts, found)
            verdicts.append(rows)
            cuts.append(found.places)
            _count(counts, item.source, batch.texts, rows, removed)
        changed, places = np.concatenate(verdicts), np.concatenate(cuts)
        write_verdicts(outputs, item.source, item.split, aligned(changed, places, item.rows))
    return counts | {"pairs": {}}


def _among(wanted: np.ndarray, places: np.ndarray) -> np.ndarray:
    """bool[n]: which of the wanted are among some places (uint64[m], ascending)."""
    at = np.searchsorted(places, wanted)
    inside = at < len(places)
    inside[inside] = places[at[inside]] == wanted[inside]
    return inside


def _verdicts(texts: Texts, found: LineCuts) -> tuple[np.ndarray, np.ndarray]:
    """(VERDICTS of the documents that something is cut from, by row; bytes cut from each)."""
    items = np.diff(found.edges)
    changed = np.flatnonzero(items)
    spans = found.places.astype(np.int64)
    lengths = spans[1::2] - spans[0::2]
    removed = np.add.reduceat(lengths, found.edges[changed] // 2) if len(changed) else np.zeros(0, np.int64)
    rows = verdict_rows(len(changed))
    rows["row"], rows["items"] = texts.where[changed], items[changed]
    rows["dropped"] = found.dropped[changed]
    rows["score"] = removed / np.diff(offsets(texts.texts))[changed]
    return rows, removed


def _count(
    counts: dict[str, dict[str, int]], source: str, texts: Texts, rows: np.ndarray, removed: np.ndarray
) -> None:
    goes = rows["dropped"] == 1
    stored = texts.rows.column("text_bytes").to_numpy()
    at = np.searchsorted(texts.where, rows["row"][goes].astype(np.int64))
    for what, n in (
        ("dropped", goes.sum()),
        ("dropped_bytes", stored[at].sum(dtype=np.int64)),
        ("cut_documents", (~goes).sum()),
        ("cut_bytes", removed[~goes].sum()),
    ):
        if n:
            counts[what][source] = counts[what].get(source, 0) + int(n)


def deduplicate(
    engine: Engine,
    group: Sequence[str],
    inputs: Sequence[Standing],
    upstream: Sequence[Stage],
    settings: Lines,
    limits: Limits,
) -> Work[Done]:
    """Run line dedup over the splits of a group of sources (`inputs` in survivors' order).

    The records of the finished stage count, by source, documents `dropped`, their `dropped_bytes` (as stored),
    `cut_documents` that stay and the `cut_bytes` of those.
    """
    partition_bytes = limits.partition_bytes
    label = "+".join(group)[:80]
    identity = {"group": list(group), "settings": settings.model_dump()}
    directories = tuple(s.directory for s in upstream)
    sizes = [i.bytes_left for i in inputs]
    blocks = exchange.group_by_bytes(sizes, BLOCK_BYTES)
    # Which lines go does not depend on how the exchange was cut.
    final = Stage(f"lines.{label}", VERSION, identity, directories)
    if done := engine.finished(final, len(blocks)):
        return done

    numbers = [tuple((k, inputs[k]) for k in range(a, b)) for a, b in blocks]
    out = exchange.plan_rounds(sum(sizes) // EXPECTED, partition_bytes)
    bounds = exchange.uniform_bounds(out.partitions)
    coarse = exchange.coarse_bounds(bounds, out.fanouts, 0)
    run_rows = max(1, partition_bytes // LINES.dtype.itemsize)
    cut = {"partition_bytes": partition_bytes, "window": WINDOW}
    scatter = Stage(f"lines-scatter.{label}", VERSION, identity | cut, directories)
    scattered = [scatter, *round_stages(scatter, out, partition_bytes)]
    tasks = [
        Task(i, scatter_task, ScatterSpec(i, numbered_inputs, settings, coarse, run_rows, WINDOW))
        for i, numbered_inputs in enumerate(numbers)
    ]
    first = yield Request(scatter, tasks)
    parts = yield from further_rounds(first, scattered[1:], LINES, out, bounds, partition_bytes)

    back = exchange.plan_rounds(len(blocks) * WIDEST, WIDEST, 1)  # a partition a block
    starts = [a for a, _ in blocks[1:]] + [len(inputs)] * (back.partitions - len(blocks))
    bounds = np.array(starts, np.uint64) << _HALF
    coarse = exchange.coarse_bounds(bounds, back.fanouts, 0)
    reduce = Stage(
        f"lines-reduce.{label}", VERSION, {"blocks": [a for a, _ in blocks]}, (scattered[-1].directory,)
    )

    def reduce_spec(p: int) -> ReduceSpec:
        return ReduceSpec(p, tuple(parts[p]), settings, coarse, partition_bytes)

    first = yield Request(
        reduce, [Task(p, reduce_task, Later(reduce_spec, p)) for p in range(out.partitions)]
    )
    stages = round_stages(reduce, back, partition_bytes)
    gone = yield from further_rounds(first, stages, GONE, back, bounds, partition_bytes)

    def cut_spec(i: int) -> CutSpec:
        return CutSpec(tuple(gone[i]), numbers[i], settings, WINDOW)

    return (yield Request(final, [Task(i, cut_task, Later(cut_spec, i)) for i in range(len(numbers))]))
