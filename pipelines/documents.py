"""Per split: read, filter, and write the text once.

The stage `documents` reads a split, passes it through the recipe's segments and writes, row-aligned,
`text-*.arrow` (the text of every document that reaches the last segment) and `rows-*.parquet` (its id, key,
meta, hash and signals). Which of them the last segment keeps is decided by the stage `filters` from the
signals alone, so that a changed threshold reads no text. Rows that get no further (malformed, empty,
dropped by an earlier segment, with their text) are in `lost-*.parquet`.

Memory: a reader's batch (readers.py) and its copies, and one Parquet row group of rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from winnow.filters.catalogue import Segment, segments
from winnow.pipelines.records import Outputs
from winnow.shards import readers, storage, tables
from winnow.shards.inputs import Split

VERSION = 1
FILTERS_VERSION = 1
ROWS_SCHEMA = pa.schema(
    [
        ("id", tables.ID),
        ("key", pa.string()),
        ("meta", pa.string()),
        ("text_hash", tables.ID),
        ("text_bytes", pa.uint32()),
    ]
)
TEXT_SCHEMA = pa.schema([("text", pa.large_string())])
LOST_SCHEMA = pa.schema(
    [
        ("id", tables.ID),
        ("key", pa.string()),
        ("stage", pa.string()),
        ("filter", pa.string()),
        ("score", pa.float64()),
        ("threshold", pa.float64()),
        ("failing", pa.list_(pa.string())),
        ("text", pa.large_string()),
        ("raw", pa.large_binary()),
    ]
)
VERDICT_SCHEMA = pa.schema(
    [("first", pa.int16()), ("failing", pa.uint64()), ("score", pa.float64()), ("threshold", pa.float64())]
)


@dataclass(frozen=True, slots=True)
class DocumentsSpec:
    split: Split
    read: readers.ReadSettings
    filters: tuple[Any, ...]
    """Settings, in the recipe's order."""


@dataclass(frozen=True, slots=True)
class FiltersSpec:
    split: int
    documents: str
    """Location of the documents stage."""
    filters: tuple[Any, ...]


def name(kind: str, split: int, extension: str) -> str:
    """The name of a split's file."""
    return f"{kind}-{split:08d}.{extension}"


def rows_schema(scanned: bool) -> pa.Schema:
    """Rows, with the signals where the last segment has a rule that needs them."""
    from winnow.filters.signals import SIGNALS

    schema = ROWS_SCHEMA
    if scanned:
        for signal in SIGNALS:
            schema = schema.append(pa.field(signal, pa.uint32()))
    return schema


def documents_task(spec: DocumentsSpec, outputs: Outputs) -> dict[str, Any]:
    """Read one split; returns its counts."""
    from winnow.filters.signals import SIGNALS, scan

    parts = segments(spec.filters)
    scanned = bool(parts[-1].rules)
    schema = rows_schema(scanned)
    seen = readers.Seen()
    counts = {"documents": 0, "document_bytes": 0}
    lost: dict[str, int] = {}
    rewritten: dict[str, int] = {}
    split = spec.split.index
    with ExitStack() as stack:
        enter = stack.enter_context
        text = enter(tables.arrow_writer(enter(outputs.file(name("text", split, "arrow"))), TEXT_SCHEMA))
        rows = enter(tables.RowWriter(enter(outputs.file(name("rows", split, "parquet"))), schema))
        gone = enter(tables.RowWriter(enter(outputs.file(name("lost", split, "parquet"))), LOST_SCHEMA))
        for batch in readers.read(spec.split.pieces, spec.read, seen):
            _count(lost, [row.reason for row in batch.lost])
            gone.write(_lost_rows(batch.lost))
            table = batch.table
            for i, part in enumerate(parts):
                table = _rewrite(part, table, rewritten)
                if i + 1 < len(parts):
                    table = _drop_early(part, table, gone, lost)
            if table.num_rows == 0:
                continue
            texts = table.column("text")
            columns = [table.column("id"), table.column("key"), table.column("meta"), text_hashes(texts)]
            sizes = np.diff(offsets(texts))
            columns.append(pa.array(sizes.astype(np.uint32)))
            if scanned:
                signals = scan(texts)
                columns += [pa.array(signals[s].astype(np.uint32, copy=False)) for s in SIGNALS]
            text.write_batch(pa.record_batch([texts], schema=TEXT_SCHEMA))
            rows.write(pa.record_batch(columns, schema=schema))
            counts["documents"] += table.num_rows
            counts["document_bytes"] += int(sizes.sum())
    return counts | {
        "rows": seen.rows,
        "stored_bytes": seen.stored_bytes,
        "text_bytes": seen.text_bytes,
        "truncated": seen.truncated,
        "lost": lost,
        "rewritten_chars": rewritten,
    }


def _rewrite(part: Segment, table: pa.RecordBatch, rewritten: dict[str, int]) -> pa.RecordBatch:
    if part.rewriter is None or table.num_rows == 0:
        return table
    texts, removed = part.rewriter.rewrite(table.column("text"))
    rewritten[part.rewriter.name] = rewritten.get(part.rewriter.name, 0) + int(removed.sum())
    return table.set_column(1, table.schema.field("text"), texts)


def _drop_early(
    part: Segment, table: pa.RecordBatch, gone: tables.RowWriter, lost: dict[str, int]
) -> pa.RecordBatch:
    """Apply a segment that another one follows; what it drops is recorded here, for its text goes no further."""
    from winnow.filters.rules import decide
    from winnow.filters.signals import scan

    if not part.rules or table.num_rows == 0:
        return table
    verdicts = decide(part.rules, scan(table.column("text")), table.num_rows)
    keep = verdicts.first < 0
    where = np.flatnonzero(~keep)
    rules = [rule.name for rule in part.rules]
    gone.write(
        lost_batch(
            ids=table.column("id").take(pa.array(where)),
            keys=table.column("key").take(pa.array(where)),
            stage="filters",
            filters=[rules[i] for i in verdicts.first[where]],
            scores=verdicts.score[where],
            thresholds=verdicts.threshold[where],
            failing=failing_names(verdicts.failing[where], rules),
            texts=table.column("text").take(pa.array(where)),
        )
    )
    _count(lost, [rules[i] for i in verdicts.first[where]])
    return table.filter(pa.array(keep))


def lost_batch(
    *,
    ids: pa.Array,
    keys: pa.Array | None,
    stage: str,
    filters: Sequence[str],
    scores: np.ndarray | None = None,
    thresholds: np.ndarray | None = None,
    failing: Sequence[Sequence[str]] | None = None,
    texts: pa.Array | None = None,
    raw: Sequence[bytes | None] | None = None,
) -> pa.RecordBatch:
    """Rows of the dropped report; what is not given is null."""
    n = len(ids)

    def or_null(values: Any, kind: pa.DataType) -> pa.Array:
        return pa.nulls(n, kind) if values is None else pa.array(values, kind)

    columns = [
        ids,
        pa.nulls(n, pa.string()) if keys is None else keys,
        pa.array([stage] * n, pa.string()),
        pa.array(filters, pa.string()),
        or_null(scores, pa.float64()),
        or_null(thresholds, pa.float64()),
        or_null(failing, pa.list_(pa.string())),
        pa.nulls(n, pa.large_string()) if texts is None else texts,
        or_null(raw, pa.large_binary()),
    ]
    return pa.record_batch(columns, schema=LOST_SCHEMA)


def _lost_rows(lost: Sequence[readers.Lost]) -> pa.RecordBatch:
    return lost_batch(
        ids=pa.array([row.id for row in lost], tables.ID),
        keys=None,
        stage="read",
        filters=[row.reason for row in lost],
        scores=np.array([row.size for row in lost], np.float64),
        raw=[row.raw or None for row in lost],
    )


def failing_names(masks: np.ndarray, rules: Sequence[str]) -> list[list[str]]:
    """The rules whose bits are set, per document."""
    return [[rule for i, rule in enumerate(rules) if int(mask) >> i & 1] for mask in masks]


def _count(into: dict[str, int], names: Sequence[str]) -> None:
    for key in names:
        into[key] = into.get(key, 0) + 1


def offsets(texts: pa.Array) -> np.ndarray:
    """int64[n + 1]: where each document begins in the array's data buffer."""
    return np.frombuffer(texts.buffers()[1], np.int64, count=len(texts) + 1, offset=8 * texts.offset)


def text_hashes(texts: pa.Array) -> pa.Array:
    """xxh3-128 of each document's UTF-8, big-endian: what exact dedup compares."""
    edges = offsets(texts).tolist()
    data = memoryview(texts.buffers()[2]) if texts.buffers()[2] is not None else memoryview(b"")
    digest = xxhash.xxh3_128_digest
    raw = b"".join([digest(data[a:b]) for a, b in itertools.pairwise(edges)])
    return pa.Array.from_buffers(tables.ID, len(texts), [None, pa.py_buffer(raw)])


def filters_task(spec: FiltersSpec, outputs: Outputs) -> dict[str, Any]:
    """Decide the last segment of one split from its stored signals; returns what each rule dropped first."""
    from winnow.filters.rules import decide
    from winnow.filters.signals import SIGNALS

    rules = segments(spec.filters)[-1].rules
    counts: dict[str, Any] = {"kept": 0, "kept_bytes": 0, "dropped": {}, "dropped_bytes": {}}
    location = storage.join(spec.documents, name("rows", spec.split, "parquet"))
    columns = ["text_bytes", *SIGNALS] if rules else ["text_bytes"]
    with (
        outputs.file(name("verdict", spec.split, "arrow")) as path,
        tables.arrow_writer(path, VERDICT_SCHEMA) as writer,
    ):
        for batch in tables.parquet_batches(location, columns):
            n = batch.num_rows
            sizes = batch.column("text_bytes").to_numpy()
            if rules:
                signals = {s: batch.column(s).to_numpy() for s in SIGNALS}
                verdicts = decide(rules, signals, n)
                first, failing = verdicts.first, verdicts.failing
                score, threshold = verdicts.score, verdicts.threshold
            else:
                first, failing = np.full(n, -1, np.int16), np.zeros(n, np.uint64)
                score = threshold = np.full(n, np.nan)
            writer.write_batch(
                pa.record_batch(
                    [pa.array(c) for c in (first, failing, score, threshold)], schema=VERDICT_SCHEMA
                )
            )
            keep = first < 0
            counts["kept"] += int(keep.sum())
            counts["kept_bytes"] += int(sizes[keep].sum())
            for i in np.unique(first[~keep]).tolist():
                rule, hit = rules[i].name, first == i
                counts["dropped"][rule] = counts["dropped"].get(rule, 0) + int(hit.sum())
                counts["dropped_bytes"][rule] = counts["dropped_bytes"].get(rule, 0) + int(sizes[hit].sum())
    return counts


def kept_by_filters(documents: str, filters: str, split: int) -> tables.Aligned:
    """The rows of a split with a column `keep`, in portions of the caller's choice."""

    def batches():
        verdicts = tables.Aligned(
            tables.arrow_batches(storage.join(filters, name("verdict", split, "arrow")))
        )
        rows = storage.join(documents, name("rows", split, "parquet"))
        for batch in tables.parquet_batches(rows, ["id", "key", "text_hash", "text_bytes"]):
            keep = pc.less(verdicts.take(batch.num_rows).column("first"), 0)
            yield batch.append_column("keep", keep)
        verdicts.end()

    return tables.Aligned(batches())
