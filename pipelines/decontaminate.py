"""Which documents contain items of benchmarks, and what is done about it?

    benchmark-index ─▶ decontaminate-scan ─▶ decontaminate-common ─▶ decontaminate ─▶ decontaminate-report

The scan of a split, one pass over its text, notes which documents share an n-gram with the index of all benchmarks
(benchmark_items.py), and in how many of them each n-gram is. Where common n-grams are left out, one task adds
these counts up over the sources of the group. Verdicts are then made from the documents that the scan noted, so that
another rule for what is to go scans nothing again. The report says in how many documents each item was found, and
which n-grams were taken for common phrases.

Survivors' order plays no role. The number of tasks is that of splits.

Memory: the index and the items' words, an Arrow batch of text with its hits (about 100 bytes each), and the verdicts of
`BATCH_ROWS` rows; in the task of `decontaminate-common` 4 bytes for each n-gram of the index.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from winnow.filters.benchmark_index import find, spelled
from winnow.filters.contamination import contamination, cuts, shared, shown
from winnow.filters.decontaminate_settings import Decontaminate
from winnow.pipelines.benchmark_items import Benchmarks, index_request, load, load_benchmarks, save
from winnow.pipelines.cluster import Task
from winnow.pipelines.documents import name, offsets
from winnow.pipelines.engine import Done, Engine, Request, Work
from winnow.pipelines.recipe import Limits
from winnow.pipelines.records import Outputs, Stage, total
from winnow.pipelines.standing import VERDICT_SCHEMA, Standing, Texts, texts_of, write_verdicts
from winnow.shards import storage, tables

VERSION = 1
BATCH_ROWS = 1 << 16
COMMON = "common.npy"
CONTAMINATED = "contaminated.parquet"
IGNORED = "ignored.parquet"
FOUND_SCHEMA = pa.schema([("row", pa.uint32()), ("item", pa.uint32()), ("share", pa.float64())])
"""A row for each item that contaminates a document, by its number in the index."""
CONTAMINATED_SCHEMA = pa.schema(
    [("benchmark", pa.string()), ("item", pa.string()), ("documents", pa.uint64()), ("share", pa.float64())]
)
"""A row for each item that was found, with the largest share of it that a document has."""
IGNORED_SCHEMA = pa.schema(
    [("ngram", pa.string()), ("documents", pa.uint64()), ("benchmark", pa.string()), ("item", pa.string())]
)
"""A row for each n-gram that was taken for a common phrase, with the first of the items that have it."""


@dataclass(frozen=True, slots=True)
class ScanSpec:
    standing: Standing
    index: str
    """Location of the index's stage."""


def scan_task(spec: ScanSpec, outputs: Outputs) -> dict[str, Any]:
    """Note the rows of a split that share an n-gram with the index, and each such n-gram with its documents."""
    index = load_benchmarks(spec.index).index
    documents = np.zeros(len(index.hashes), np.uint32)
    rows, scanned, scanned_bytes = [], 0, 0
    for batch in texts_of(spec.standing):
        hits = find(batch.texts, index)
        rows.append(batch.where[np.unique(hits.documents)])
        pairs = np.unique(hits.documents * len(index.hashes) + hits.grams)
        documents += np.bincount(pairs % max(len(index.hashes), 1), minlength=len(documents)).astype(
            np.uint32
        )
        scanned += len(batch.where)
        edges = offsets(batch.texts)
        scanned_bytes += int(edges[-1] - edges[0])
    found = np.flatnonzero(documents)
    noted = np.concatenate(rows) if rows else np.empty(0, np.int64)
    source, split = spec.standing.source, spec.standing.split
    save(outputs, name(f"rows.{source}", split, "npy"), noted.astype(np.uint32))
    save(
        outputs, name(f"ngrams.{source}", split, "npy"), np.stack([found, documents[found]]).astype(np.uint32)
    )
    return {"documents": scanned, "text_bytes": scanned_bytes, "noted": len(noted)}


@dataclass(frozen=True, slots=True)
class CommonSpec:
    scans: tuple[str, ...]
    """Locations of the counts of each split."""
    ngrams: int
    max_documents: int


def common_task(spec: CommonSpec, outputs: Outputs) -> dict[str, Any]:
    """Keep the n-grams that are in more than `max_documents` documents, with in how many they are."""
    documents = np.zeros(spec.ngrams, np.uint64)
    for place in spec.scans:
        grams, counts = load(place)
        documents[grams] += counts
    common = np.flatnonzero(documents > spec.max_documents)
    save(outputs, COMMON, np.stack([common.astype(np.uint64), documents[common]]))
    return {"ngrams": int(np.count_nonzero(documents)), "common": len(common)}


@dataclass(frozen=True, slots=True)
class DecideSpec:
    standing: Standing
    index: str
    scan: str
    common: str | None
    """Location of what `common_task` left; None: no n-gram is left out."""
    settings: Decontaminate


@dataclass(frozen=True, eq=False, slots=True)
class _Verdict:
    """On a contaminated document."""

    row: int
    stored_bytes: int
    items: np.ndarray
    shares: np.ndarray
    detail: str
    cuts: np.ndarray | None
    """None: the document is dropped."""


def decide_task(spec: DecideSpec, outputs: Outputs) -> dict[str, Any]:
    """Write a split's verdicts, and of each contaminated document the items that are in it."""
    known, standing = load_benchmarks(spec.index), spec.standing
    counts = dict.fromkeys(("dropped", "dropped_bytes", "cut_documents", "cut_bytes"), 0)
    documents: dict[str, int] = {}
    found_name = name(f"found.{standing.source}", standing.split, "parquet")
    with outputs.file(found_name) as path, tables.RowWriter(path, FOUND_SCHEMA) as writer:

        def counted() -> Iterator[_Verdict]:
            for verdict in _verdicts(spec, known):
                if verdict.cuts is None:
                    counts["dropped"] += 1
                    counts["dropped_bytes"] += verdict.stored_bytes
                else:
                    counts["cut_documents"] += 1
                    counts["cut_bytes"] += int(np.diff(verdict.cuts.astype(np.int64))[::2].sum())
                for benchmark in sorted({known.benchmark[item] for item in verdict.items}):
                    documents[benchmark] = documents.get(benchmark, 0) + 1
                columns = (np.full(len(verdict.items), verdict.row), verdict.items, verdict.shares)
                arrays = [pa.array(c, f.type) for c, f in zip(columns, FOUND_SCHEMA, strict=True)]
                writer.write(pa.record_batch(arrays, schema=FOUND_SCHEMA))
                yield verdict

        write_verdicts(outputs, standing.source, standing.split, _batches(counted(), standing.rows))
    by_source = {what: {standing.source: n} for what, n in counts.items()}
    return by_source | {"pairs": {}, "contaminated": documents}


def _verdicts(spec: DecideSpec, known: Benchmarks) -> Iterator[_Verdict]:
    """The contaminated documents of a split, by row."""
    standing, index, settings = spec.standing, known.index, spec.settings
    noted = load(storage.join(spec.scan, name(f"rows.{standing.source}", standing.split, "npy")))
    is_common = np.zeros(len(index.hashes), bool)
    if spec.common:
        is_common[load(storage.join(spec.common, COMMON))[0]] = True
    for batch in texts_of(standing, ("text_bytes",)) if len(noted) else ():
        mine = _only(batch, noted)
        hits = find(mine.texts, index)
        counts = ~is_common[hits.grams]
        edges = np.searchsorted(hits.documents, np.arange(len(mine.where) + 1))
        for i, row in enumerate(mine.where.tolist()):
            of = np.arange(edges[i], edges[i + 1])[counts[edges[i] : edges[i + 1]]]
            if not len(of):
                continue
            text = mine.texts[i].as_buffer().to_pybytes()
            ngrams = shared(hits.starts[of], hits.stops[of], hits.grams[of], index)
            found = contamination(text, ngrams, index, known.normal, settings)
            if found is None:
                continue
            first = int(found.items[0])
            detail = shown(text, found, known.benchmark[first], known.item[first])
            cut = cuts(text, ngrams, found, settings.margin) if settings.action == "cut" else None
            stored = mine.rows.column("text_bytes")[i].as_py()
            yield _Verdict(row, stored, found.items, found.shares, detail, cut)


def _only(batch: Texts, rows: np.ndarray) -> Texts:
    """The documents of a batch that have some row numbers."""
    mine = np.isin(batch.where, rows)
    keep = pa.array(mine)
    return Texts(batch.where[mine], batch.rows.filter(keep), batch.texts.filter(keep), batch.is_cut)


def _batches(verdicts: Iterable[_Verdict], rows: int) -> Iterator[pa.RecordBatch]:
    """Verdicts on contaminated documents as batches with a row for every document of the split."""
    first = 0
    held: list[_Verdict] = []
    for verdict in verdicts:
        while verdict.row >= first + BATCH_ROWS:
            yield _batch(held, first, BATCH_ROWS)
            first, held = first + BATCH_ROWS, []
        held.append(verdict)
    while first < rows:
        yield _batch(held, first, min(BATCH_ROWS, rows - first))
        first, held = first + BATCH_ROWS, []


def _batch(held: Sequence[_Verdict], first: int, n: int) -> pa.RecordBatch:
    dropped = np.zeros(n, bool)
    scores: list[float | None] = [None] * n
    details: list[str | None] = [None] * n
    cut: list[np.ndarray | None] = [None] * n
    for verdict in held:
        at = verdict.row - first
        dropped[at] = verdict.cuts is None
        scores[at], details[at], cut[at] = float(verdict.shares[0]), verdict.detail, verdict.cuts
    columns = (dropped, [None] * n, scores, details, cut)
    return pa.record_batch(
        [pa.array(c, f.type) for c, f in zip(columns, VERDICT_SCHEMA, strict=True)], schema=VERDICT_SCHEMA
    )


@dataclass(frozen=True, slots=True)
class ReportSpec:
    index: str
    found: tuple[str, ...]
    """Locations of what was found in each split."""
    common: str | None
    documents: dict[str, int]
    """Contaminated ones by benchmark."""


def report_task(spec: ReportSpec, outputs: Outputs) -> dict[str, Any]:
    """Write in how many documents each item was found, and the n-grams that were left out; counts them by benchmark."""
    known = load_benchmarks(spec.index)
    documents, shares = np.zeros(len(known.item), np.int64), np.zeros(len(known.item))
    for place in spec.found:
        for batch in tables.parquet_batches(place):
            items = batch.column("item").to_numpy()
            np.add.at(documents, items, 1)
            np.maximum.at(shares, items, batch.column("share").to_numpy())
    items_found = np.flatnonzero(documents)
    _write(
        outputs,
        CONTAMINATED,
        CONTAMINATED_SCHEMA,
        [known.benchmark[i] for i in items_found],
        [known.item[i] for i in items_found],
        documents[items_found],
        shares[items_found],
    )
    grams, often = load(storage.join(spec.common, COMMON)) if spec.common else np.empty((2, 0), np.uint64)
    firsts = known.index.members[known.index.edges[grams]].tolist()
    _write(
        outputs,
        IGNORED,
        IGNORED_SCHEMA,
        spelled(known.index, grams, known.normal),
        often,
        [known.benchmark[i] for i in firsts],
        [known.item[i] for i in firsts],
    )
    counts: dict[str, dict[str, int]] = {}
    too_short = known.index.words < known.index.shape[1]
    for i, benchmark in enumerate(known.benchmark):
        found = spec.documents.get(benchmark, 0)
        mine = counts.setdefault(
            benchmark, {"items": 0, "too_short": 0, "items_found": 0, "documents": found}
        )
        mine["items"] += 1
        mine["too_short"] += int(too_short[i])
        mine["items_found"] += int(documents[i] > 0)
    return {"benchmarks": counts, "common_ngrams": len(grams)}


def _write(outputs: Outputs, file_name: str, schema: pa.Schema, *columns: Any) -> None:
    with outputs.file(file_name) as path, tables.RowWriter(path, schema) as writer:
        arrays = [pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)]
        writer.write(pa.record_batch(arrays, schema=schema))


def deduplicate(
    engine: Engine,
    group: Sequence[str],
    inputs: Sequence[Standing],
    upstream: Sequence[Stage],
    settings: Decontaminate,
    limits: Limits,
) -> Work[Done]:
    """Decontaminate the splits of a group of sources.

    The records of the stage that is returned count, by source, documents `dropped`, their `dropped_bytes`,
    `cut_documents` that stay and `cut_bytes` of those; `pairs`, of which there are none; and `contaminated` documents
    by benchmark. The stage `decontaminate-report.…` beside it has tables of items and of n-grams left out. Raises
    InputError where a benchmark's files are not there or cannot be read.
    """
    label = "+".join(group)[:80]
    wanted = index_request(settings)
    read = (*(s.directory for s in upstream), wanted.stage.directory)
    members = {"group": list(group)}
    rule = settings.model_dump(mode="json", exclude={"benchmarks", "n", "min_words"})
    scan = Stage(f"decontaminate-scan.{label}", VERSION, members, read)
    common = Stage(
        f"decontaminate-common.{label}", VERSION, {"max_documents": settings.max_documents}, (scan.directory,)
    )
    final = Stage(f"decontaminate.{label}", VERSION, members | rule, read)
    report = Stage(f"decontaminate-report.{label}", VERSION, {}, (final.directory,))
    if (done := engine.finished(final, len(inputs))) and engine.finished(report, 1):
        return done

    index = yield wanted
    memory = limits.task_memory + 2 * index.records[0].counts["bytes"]
    scanned = yield Request(
        scan, [Task(i, scan_task, ScanSpec(s, index.location), memory) for i, s in enumerate(inputs)]
    )
    left_out = None
    if settings.max_documents is not None:
        places = tuple(
            storage.join(scanned.location, name(f"ngrams.{s.source}", s.split, "npy")) for s in inputs
        )
        counting = CommonSpec(places, index.records[0].counts["ngrams"], settings.max_documents)
        left_out = (yield Request(common, [Task(0, common_task, counting)])).location
    specs = [DecideSpec(s, index.location, scanned.location, left_out, settings) for s in inputs]
    done = yield Request(final, [Task(i, decide_task, spec, memory) for i, spec in enumerate(specs)])
    found = tuple(storage.join(done.location, name(f"found.{s.source}", s.split, "parquet")) for s in inputs)
    by_benchmark = total(done.records, "contaminated") or {}
    yield Request(
        report, [Task(0, report_task, ReportSpec(index.location, found, left_out, by_benchmark), memory)]
    )
    return done
