"""Which stretches of text were there before, in any document of a group of sources?

Exact substring dedup: of a stretch of `min_bytes` bytes or more that occurs again, the first occurrence stays, in the
order of sources as the recipe names them, then files, positions, and offsets in a document; every later one is cut.
Precisely: a window of `min_bytes` bytes is a duplicate when the same bytes begin at an earlier place, and what is cut
is the union of the duplicate windows, drawn in to the borders of characters. A document of which only whitespace is
left is dropped. Cutting joins what was apart, so a second run may find stretches that lie across a cut, and no others.

Windows are compared in three rounds of cells, of which each divides what the one before left open
(filters/substrings.py says how, and why that is exact):

    anchors ─▶ cells of about the square root of an anchor's windows ─▶ single windows

A round is an exchange by key: cells of one key meet in one partition, and the answers go home to the splits, where
the next round reads the text again of splits with open cells. The last stage reads that of splits with duplicates.

Memory: `partition_bytes` of cells (36 bytes each; they are about 0.3 of the text's bytes), three times, however large
a partition is; or what is known of `BLOCK_BYTES` of text or of one split, three times 20 bytes for each cell that is a
duplicate or open: about half of that text's bytes if all of it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from winnow.filters.substring_settings import Substrings
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
from winnow.pipelines.homing import VERDICTS, WIDEST, Home, aligned, verdict_rows
from winnow.pipelines.jobs import Later, Task
from winnow.pipelines.recipe import Limits
from winnow.pipelines.records import Outputs, Stage, total
from winnow.pipelines.standing import Standing, Texts, cut_texts, texts_of, write_verdicts
from winnow.shards import exchange

VERSION = 1
BLOCK_BYTES = 128 << 20
"""Text whose answers one task looks at, or one split's (ours)."""
BATCH_CELLS = 1 << 14
_CELL = [("place", "<u8"), ("start", "<u4"), ("windows", "<u4"), ("anchor", "<u4")]
CELLS = Wire(np.dtype([("key", "<u8"), ("extent", "<u8"), *_CELL]), ("key", "extent", "place", "start"))
"""A cell: its place (number of the split in the group, then row in the split, 32 bits each), its first window, how many
it has, and their anchor."""
ANSWERS = Wire(np.dtype(_CELL), ("place", "start"))
"""A cell that is a duplicate (its anchor is RESOLVED), or that has to be divided."""


@dataclass
class _Runs:
    """Cells on their way out, written as runs of about `limit` of them."""

    outputs: Outputs
    index: int
    bounds: np.ndarray
    limit: int
    held: list[np.ndarray] = field(default_factory=list)
    written: list[dict[str, Any]] = field(default_factory=list)

    def add(self, keys: np.ndarray, cells: np.ndarray, number: int, where: np.ndarray) -> None:
        """Add cells (uint32[c, 4]) of documents, of which `where` says the rows."""
        rows = np.empty(len(cells), CELLS.dtype)
        rows["key"], rows["extent"] = keys.T
        rows["place"] = (number << 32) + where[cells[:, 0]]
        rows["start"], rows["windows"], rows["anchor"] = cells[:, 1:].T
        self.held.append(rows)
        if sum(map(len, self.held)) >= self.limit:
            self.flush()

    def flush(self) -> None:
        rows = np.concatenate([np.empty(0, CELLS.dtype), *self.held])
        self.held.clear()
        name = f"run-{self.index:08d}-{len(self.written)}.bin"
        self.written.append(write_run(self.outputs, name, CELLS, rows, self.bounds))

    def end(self) -> list[dict[str, Any]]:
        """What the record lists."""
        if self.held or not self.written:
            self.flush()
        return self.written


@dataclass(frozen=True, slots=True)
class ScatterSpec:
    index: int
    inputs: tuple[tuple[int, Standing], ...]
    """With each split's number in the group."""
    length: int
    bounds: np.ndarray
    run_rows: int
    step: int = 0
    """Windows of a cell; in the first round it is the anchors that divide windows."""
    answers: tuple[Part, ...] = ()
    """Of the round before, about these splits."""


def anchors_task(spec: ScatterSpec, outputs: Outputs) -> dict[str, Any]:
    """Write the cells of all windows of some splits, one an anchor."""
    from winnow.filters.jit import text_buffers
    from winnow.filters.substrings import anchor_cells, scratch_for

    runs = _Runs(outputs, spec.index, spec.bounds, spec.run_rows)
    scratch = scratch_for(spec.length)
    room = max(2, min(BATCH_CELLS, spec.run_rows))
    keys, cells = np.empty((room, 2), np.uint64), np.empty((room, 4), np.uint32)
    for number, item in spec.inputs:
        for found in texts_of(item, ("text_bytes",)):
            offsets, utf8 = text_buffers(found.texts)
            document = window = 0
            while document < len(found.texts):
                document, window, n = anchor_cells(offsets, utf8, document, window, scratch, keys, cells)
                runs.add(keys[:n], cells[:n], number, found.where)
    return {"runs": runs.end()}


def divide_task(spec: ScatterSpec, outputs: Outputs) -> dict[str, Any]:
    """Write the parts of the open cells of some splits."""
    from winnow.filters.jit import text_buffers
    from winnow.filters.substrings import RESOLVED, divided, divided_most

    runs = _Runs(outputs, spec.index, spec.bounds, spec.run_rows)
    answers, _, _ = read_parts(spec.answers, ANSWERS)
    open_ = answers[answers["anchor"] != RESOLVED]
    for number, item in spec.inputs:
        for found, rows, documents in _with_text(number, item, open_):
            offsets, utf8 = text_buffers(found.texts)
            cells = np.stack(
                [documents.astype(np.uint32), *(rows[f] for f in ("start", "windows", "anchor"))], 1
            )
            most = divided_most(cells[:, 2], spec.step).tolist()
            for a, b in exchange.group_by_bytes(most, BATCH_CELLS, BATCH_CELLS):
                runs.add(*divided(offsets, utf8, cells[a:b], spec.length, spec.step), number, found.where)
    return {"runs": runs.end()}


def _with_text(
    number: int, item: Standing, answers: np.ndarray
) -> Iterator[tuple[Texts, np.ndarray, np.ndarray]]:
    """Answers about a split, with their text: (texts, answers, int64[n] which of the texts they are about)."""
    a, b = np.searchsorted(answers["place"], np.array([number << 32, (number + 1) << 32], np.uint64))
    if a == b:
        return
    mine = answers[a:b]
    rows = mine["place"].astype(np.int64) - (number << 32)
    for found in texts_of(item, ("text_bytes",)):
        if len(found.where):
            a, b = np.searchsorted(rows, [found.where[0], found.where[-1] + 1])
            if b > a:
                yield found, mine[a:b], np.searchsorted(found.where, rows[a:b])


@dataclass(frozen=True, slots=True)
class JudgeSpec:
    index: int
    parts: tuple[Part, ...]
    bounds: np.ndarray
    limit: int
    """Bytes of cells looked at together."""


def judge_task(spec: JudgeSpec, outputs: Outputs) -> dict[str, Any]:
    """Answer for the cells of one partition; returns how many are open, and their windows."""
    from winnow.filters.substrings import RESOLVED, Judge

    judge, n_open, windows = Judge(), 0, 0
    runs: list[dict[str, Any]] = []
    pending = np.empty(0, CELLS.dtype)  # the first cell of the last key
    for rows, _, _ in read_blocks(spec.parts, CELLS, spec.limit):
        resolved = rows["anchor"] == RESOLVED
        answers = [rows[resolved]]
        cells = rows[~resolved]
        if len(cells):
            duplicates, open_, before = judge.block(cells["key"], cells["extent"])
            cells["anchor"][duplicates] = RESOLVED
            opened = np.concatenate([pending[: int(before)], cells[open_]])
            n_open, windows = n_open + len(opened), windows + int(opened["windows"].sum(dtype=np.int64))
            answers += [opened, cells[duplicates]]
            first = np.flatnonzero(cells["key"] == cells["key"][-1])[0]
            if len(pending) == 0 or pending["key"][0] != cells["key"][-1]:
                pending = cells[first : first + 1].copy()
        found = np.concatenate(answers)[list(ANSWERS.dtype.names or ())].astype(ANSWERS.dtype)
        runs.append(write_run(outputs, f"run-{spec.index:08d}-{len(runs)}.bin", ANSWERS, found, spec.bounds))
    return {"runs": runs, "open": n_open, "windows": windows}


@dataclass(frozen=True, slots=True)
class CutSpec:
    answers: tuple[Part, ...]
    """Of all rounds, about these splits."""
    inputs: tuple[tuple[int, Standing], ...]
    length: int


def cut_task(spec: CutSpec, outputs: Outputs) -> dict[str, Any]:
    """Write the verdicts of some splits, row-aligned with their documents."""
    from winnow.filters.substrings import RESOLVED

    answers, _, _ = read_parts(spec.answers, ANSWERS)
    answers = answers[answers["anchor"] == RESOLVED]
    counts: dict[str, dict[str, int]] = {
        k: {} for k in ("dropped", "dropped_bytes", "cut_documents", "cut_bytes", "pairs")
    }
    for number, item in spec.inputs:
        verdicts, cuts = [verdict_rows(0)], [np.empty(0, VERDICTS.payload)]
        for found, rows, documents in _with_text(number, item, answers):
            some, edges, removed = _verdicts(found, rows, documents, spec.length)
            verdicts.append(some)
            cuts.append(edges)
            goes = some["dropped"] == 1
            stored = found.rows.column("text_bytes").to_numpy()[np.isin(found.where, some["row"][goes])]
            for what, n in (
                ("dropped", goes.sum()),
                ("dropped_bytes", stored.sum()),
                ("cut_documents", (~goes).sum()),
                ("cut_bytes", removed[~goes].sum()),
            ):
                if n:
                    counts[what][item.source] = counts[what].get(item.source, 0) + int(n)
        batches = aligned(np.concatenate(verdicts), np.concatenate(cuts), item.rows)
        write_verdicts(outputs, item.source, item.split, batches)
    return counts


def _verdicts(
    found: Texts, rows: np.ndarray, documents: np.ndarray, length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(VERDICTS of the documents that duplicates are in, their cuts one after the other, bytes of each one's)."""
    from winnow.filters.jit import text_buffers
    from winnow.filters.substrings import spans_of

    offsets, utf8 = text_buffers(found.texts)
    spans = spans_of(offsets, utf8, documents, rows["start"], rows["windows"], length)
    cut, first, n = np.unique(spans.documents, return_index=True, return_counts=True)
    edges = np.stack([spans.starts, spans.stops], 1).astype(np.uint32).ravel()
    removed = np.add.reduceat(spans.stops - spans.starts, first)
    ends = np.append(0, np.cumsum(2 * n)).astype(np.int32)
    left = cut_texts(
        found.texts.take(pa.array(cut)), pa.ListArray.from_arrays(pa.array(ends), pa.array(edges))
    )
    verdicts = verdict_rows(len(cut))
    verdicts["row"], verdicts["items"] = found.where[cut], 2 * n
    verdicts["score"] = removed / np.diff(offsets)[cut]
    verdicts["dropped"] = [not text.as_py().strip() for text in left]
    return verdicts, edges, removed


def _home(inputs: Sequence[Standing]) -> Home:
    """How answers are divided on their way back: blocks of splits by their bytes of text."""
    blocks = exchange.group_by_bytes([i.bytes_left for i in inputs], BLOCK_BYTES)
    rounds = exchange.plan_rounds(len(blocks) * WIDEST, WIDEST, 1)  # a partition a block
    starts = [a for a, _ in blocks[1:]] + [len(inputs)] * (rounds.partitions - len(blocks))
    return Home(blocks, np.array(starts, np.uint64) << np.uint64(32), rounds)


@dataclass(frozen=True, slots=True)
class _Search:
    """What is the same in every round."""

    label: str
    identity: dict[str, Any]
    inputs: Sequence[Standing]
    home: Home
    length: int
    partition_bytes: int

    def numbered(self, first: int, stop: int) -> tuple[tuple[int, Standing], ...]:
        return tuple((number, self.inputs[number]) for number in range(first, stop))

    def round(
        self,
        kind: str,
        scatter: Callable[[np.ndarray], list[Task]],
        cells: int,
        upstream: tuple[str, ...],
    ) -> Work[tuple[Done, Sequence[list[Part]], Stage]]:
        """Carry out one round over about so many cells: (what judged them, answers for each block, where they lie).

        scatter : makes the tasks, of where their runs are to be divided.
        """
        most = self.partition_bytes
        out = exchange.plan_rounds(cells * CELLS.dtype.itemsize, most)
        bounds = exchange.uniform_bounds(out.partitions)
        settings = self.identity | {"partition_bytes": most}
        stages = [Stage(f"substrings-{kind}.{self.label}", VERSION, settings, upstream)]
        stages += round_stages(stages[0], out, most)
        first = yield Request(stages[0], scatter(exchange.coarse_bounds(bounds, out.fanouts, 0)))
        parts = yield from further_rounds(first, stages[1:], CELLS, out, bounds, most)

        above = (stages[-1].directory,)
        stages = [Stage(f"substrings-{kind}-judged.{self.label}", VERSION, self.home.identity, above)]
        stages += round_stages(stages[0], self.home.rounds, most)
        coarse = self.home.bounds_first

        def judge_spec(p: int) -> JudgeSpec:
            return JudgeSpec(p, tuple(parts[p]), coarse, most)

        tasks = [Task(p, judge_task, Later(judge_spec, p)) for p in range(len(parts))]
        first = yield Request(stages[0], tasks)
        answers = yield from further_rounds(
            first, stages[1:], ANSWERS, self.home.rounds, self.home.bounds, most
        )
        return first, answers[: len(self.home.blocks)], stages[-1]

    def anchors(self, bounds: np.ndarray, sizes: Sequence[int]) -> list[Task]:
        """The tasks of the first round, over splits that have about so many cells each."""
        pieces = exchange.group_by_bytes([n * CELLS.dtype.itemsize for n in sizes], self.partition_bytes)
        specs = [
            ScatterSpec(i, self.numbered(a, b), self.length, bounds, self.run_rows)
            for i, (a, b) in enumerate(pieces)
        ]
        return [Task(s.index, anchors_task, s) for s in specs]

    def divisions(self, bounds: np.ndarray, step: int, answers: Sequence[list[Part]]) -> list[Task]:
        """The tasks of a further round, which divides the open cells of each block."""

        def divide_spec(i: int) -> ScatterSpec:
            mine, there = self.numbered(*self.home.blocks[i]), tuple(answers[i])
            return ScatterSpec(i, mine, self.length, bounds, self.run_rows, step, there)

        return [Task(i, divide_task, Later(divide_spec, i)) for i in range(len(self.home.blocks))]

    @property
    def run_rows(self) -> int:
        return max(1, self.partition_bytes // CELLS.dtype.itemsize)


def deduplicate(
    engine: Engine,
    group: Sequence[str],
    inputs: Sequence[Standing],
    upstream: Sequence[Stage],
    settings: Substrings,
    limits: Limits,
) -> Work[Done]:
    """Run substring dedup over the splits of a group of sources (`inputs` in survivors' order).

    Nothing in it is left to chance, so it takes no seed. Returns the stage of the verdicts: `score` is the share of a
    document's bytes that are cut. Its records count as homing.py says; `pairs` is empty, for a cut has many originals.
    """
    from winnow.filters.substrings import anchors_per_byte, steps_of

    length, home = settings.min_bytes, _home(inputs)
    directories = tuple(stage.directory for stage in upstream)
    identity = {"group": list(group), "min_bytes": length}
    # Which windows are equal does not depend on how the exchanges were cut.
    final = Stage(f"substrings.{'+'.join(group)[:80]}", VERSION, identity, directories)
    if done := engine.finished(final, len(home.blocks)):
        return done

    search = _Search(final.name.partition(".")[2], identity, inputs, home, length, limits.partition_bytes)
    sizes = [round(i.bytes_left * anchors_per_byte(length)) for i in inputs]
    scatter = partial(search.anchors, sizes=sizes)
    first, answers, stage = yield from search.round("anchors", scatter, sum(sizes), directories)
    known = [answers]
    for kind, step in zip(("cells", "windows"), steps_of(length), strict=True):
        n_open, windows = total(first.records, "open"), total(first.records, "windows")
        if not n_open:
            break
        scatter = partial(search.divisions, step=step, answers=answers)
        cells = windows // step + n_open
        first, answers, stage = yield from search.round(kind, scatter, cells, (stage.directory,))
        known.append(answers)

    def cut_spec(i: int) -> CutSpec:
        mine = tuple(part for found in known for part in found[i])
        return CutSpec(mine, search.numbered(*home.blocks[i]), length)

    return (yield Request(final, [Task(i, cut_task, Later(cut_spec, i)) for i in range(len(home.blocks))]))
