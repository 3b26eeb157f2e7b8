"""Per split: read, filter, and write the text once.

The stage `documents` reads a split, passes it through the recipe's segments and writes, row-aligned,
`text-*.arrow` (the text of every document that reaches the last segment) and `rows-*.parquet` (its id, key,
meta, hash and signals). Which of them the last segment keeps is decided by the stage `filters` (verdicts.py) from
the signals alone, so that a changed threshold reads no text. Rows that get no further (malformed, empty,
dropped by an earlier segment, with their text) are in `lost-*.parquet`; `signals0-*.parquet` and on hold the
signals and verdicts of the segments before the last, a row per document that entered one.

Memory: a reader's batch (readers.py) and its copies, one Parquet row group of rows, and what the filters' kernels bring
for the longest document. Most bring a few bytes for each byte of it at most; gopher-repetition up to 35, the mC4 and
S2ORC rules up to 22, dclm-repetition up to 21 (where words are two or three bytes long), dclm-lines 80 for each line
(measured). Such a document of the default's 64 MiB takes more than `limits.task_memory`'s 1 GiB.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from winnow.filters.catalogue import Segment, segments
from winnow.filters.model_files import ModelFile
from winnow.filters.rules import Rule, Verdicts
from winnow.pipelines.models import at_hand
from winnow.pipelines.records import Outputs
from winnow.shards import readers, tables
from winnow.shards.inputs import Split

VERSION = 2
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
        ("detail", pa.string()),
        ("score", pa.float64()),
        ("threshold", pa.float64()),
        ("failing", pa.list_(pa.string())),
        ("text", pa.large_string()),
        ("raw", pa.large_binary()),
    ]
)


@dataclass(frozen=True, slots=True)
class DocumentsSpec:
    split: Split
    read: readers.ReadSettings
    filters: tuple[Any, ...]
    """Settings, in the recipe's order."""
    models: Mapping[str, ModelFile] = field(default_factory=dict)
    """The files that filters go by."""
    until_drop: bool = False


def name(kind: str, split: int, extension: str) -> str:
    """The name of a split's file."""
    return f"{kind}-{split:08d}.{extension}"


def rows_schema(last: Segment) -> pa.Schema:
    """Rows, with the signals of the last segment."""
    schema = ROWS_SCHEMA
    for signal, kind in signal_columns(last).items():
        schema = schema.append(pa.field(signal, pa.type_for_alias(kind)))
    return schema


def signal_columns(part: Segment) -> dict[str, str]:
    """The signals of a segment that are stored: name -> Arrow type. Counts of a document below 1 GiB fit uint32."""
    from winnow.filters.scans import counted

    return dict.fromkeys(counted(part.scanned), "uint32") | part.own_columns


def measured(part: Segment, table: pa.RecordBatch, rewritten: Mapping[str, Any]) -> dict[str, pa.Array]:
    """The signals of a segment's documents as Arrow columns, named and typed as `signal_columns` says."""
    from winnow.filters.scans import scan

    signals: dict[str, Any] = dict(rewritten)
    if part.scanned:
        signals |= scan(table.column("text"), part.scanned)
    for measure in part.measures:
        signals |= measure.measure(table)
    return {
        name: _typed(signals[name], pa.type_for_alias(kind)) for name, kind in signal_columns(part).items()
    }


def rehearse(parts: Sequence[Segment]) -> None:
    """Do what segments do on one small document: kernels are compiled, or loaded, before the work."""
    from winnow.filters.scans import scan

    text = pa.array(["A word."], pa.large_string())
    one = pa.record_batch(
        [pa.array([bytes(16)], tables.ID), text, pa.nulls(1, pa.string()), pa.array(["{}"], pa.string())],
        names=["id", "text", "key", "meta"],
    )
    for part in parts:
        # What is wrong with a filter shows, with its document, when the work is done.
        with suppress(Exception):
            if part.rewriter is not None:
                part.rewriter.rewrite(one)
        if part.scanned:
            scan(text, part.scanned)


def _typed(values: Any, kind: pa.DataType) -> pa.Array:
    array = values if isinstance(values, pa.Array) else pa.array(values)
    return array if array.type == kind else array.cast(kind)


def numbers(signals: Mapping[str, pa.Array]) -> dict[str, np.ndarray]:
    """Signals as rules take them; null is NaN, strings stay out."""
    return {
        name: column.to_numpy(zero_copy_only=False)
        for name, column in signals.items()
        if not pa.types.is_string(column.type)
    }


def documents_task(spec: DocumentsSpec, outputs: Outputs) -> dict[str, Any]:
    """Read one split; returns its counts."""
    parts = segments(at_hand(spec.filters, spec.models), until_drop=spec.until_drop)
    seen = readers.Seen()
    counts = {"documents": 0, "document_bytes": 0}
    tally = Tally()
    split = spec.split.index
    with ExitStack() as stack:
        enter = stack.enter_context
        text = enter(tables.arrow_writer(enter(outputs.file(name("text", split, "arrow"))), TEXT_SCHEMA))
        schema = rows_schema(parts[-1])
        rows = enter(tables.RowWriter(enter(outputs.file(name("rows", split, "parquet"))), schema))
        gone = enter(tables.RowWriter(enter(outputs.file(name("lost", split, "parquet"))), LOST_SCHEMA))
        early = [
            enter(
                tables.RowWriter(
                    enter(outputs.file(name(f"signals{i}", split, "parquet"))), early_schema(part)
                )
            )
            for i, part in enumerate(parts[:-1])
        ]
        for batch in readers.read(spec.split.pieces, spec.read, seen):
            tally.lost([row.reason for row in batch.lost])
            gone.write(_lost_rows(batch.lost))
            table = batch.table
            for i, part in enumerate(parts):
                if table.num_rows == 0:
                    break
                table, own = _rewrite(part, table, tally)
                signals = measured(part, table, own)
                if i + 1 < len(parts):
                    table = _drop_early(part, table, signals, early[i], gone, tally)
            if table.num_rows == 0:
                continue
            texts = table.column("text")
            columns = [table.column("id"), table.column("key"), table.column("meta"), text_hashes(texts)]
            sizes = np.diff(offsets(texts))
            columns.append(pa.array(sizes.astype(np.uint32)))
            text.write_batch(pa.record_batch([texts], schema=TEXT_SCHEMA))
            rows.write(pa.record_batch([*columns, *signals.values()], schema=schema))
            counts["documents"] += table.num_rows
            counts["document_bytes"] += int(sizes.sum())
    return counts | {
        "rows": seen.rows,
        "stored_bytes": seen.stored_bytes,
        "text_bytes": seen.text_bytes,
        "truncated": seen.truncated,
        "lost": tally.by_reason,
        "lost_bytes": tally.bytes_by_reason,
        "failing": tally.failing,
        "only": tally.only,
        "details": tally.details,
        "rewritten_chars": tally.rewritten_chars,
    }


@dataclass(slots=True)
class Tally:
    """What became of documents, counted."""

    by_reason: dict[str, int] = field(default_factory=dict)
    """By reason for a row that is no document, and by first failing rule."""
    bytes_by_reason: dict[str, int] = field(default_factory=dict)
    """Bytes of text by first failing rule."""
    failing: dict[str, int] = field(default_factory=dict)
    """Documents by every rule that they fail."""
    only: dict[str, int] = field(default_factory=dict)
    """Documents by the one rule of their segment that they fail: those that it alone drops."""
    details: dict[str, dict[str, int]] = field(default_factory=dict)
    """By first failing rule, where it has a detail: documents by that."""
    rewritten_chars: dict[str, int] = field(default_factory=dict)
    """Characters removed by each filter that rewrites."""

    def lost(self, reasons: Sequence[str]) -> None:
        """Count rows that are no documents."""
        for reason in reasons:
            self.by_reason[reason] = self.by_reason.get(reason, 0) + 1

    def decided(
        self, rules: Sequence[Rule], verdicts: Verdicts, sizes: np.ndarray, signals: Mapping[str, pa.Array]
    ) -> None:
        """Count what rules decided of documents with texts of `sizes` bytes."""
        for i in np.unique(verdicts.first[verdicts.first >= 0]).tolist():
            rule, hit = rules[i], verdicts.first == i
            self.by_reason[rule.name] = self.by_reason.get(rule.name, 0) + int(hit.sum())
            self.bytes_by_reason[rule.name] = self.bytes_by_reason.get(rule.name, 0) + int(sizes[hit].sum())
            if rule.detail is not None:
                said = self.details.setdefault(rule.name, {})
                for pair in signals[rule.detail].filter(pa.array(hit)).value_counts().to_pylist():
                    said[str(pair["values"])] = said.get(str(pair["values"]), 0) + pair["counts"]
        alone = (verdicts.failing & (verdicts.failing - np.uint64(1))) == 0
        for i, rule in enumerate(rules):
            fails = ((verdicts.failing >> np.uint64(i)) & np.uint64(1)).astype(bool)
            for counts, n in ((self.failing, fails.sum()), (self.only, (fails & alone).sum())):
                if n:
                    counts[rule.name] = counts.get(rule.name, 0) + int(n)


def early_schema(part: Segment) -> pa.Schema:
    """The signals and verdict of a segment that another one follows, a row per document that enters it."""
    fields = [("id", tables.ID), *((s, pa.type_for_alias(k)) for s, k in signal_columns(part).items())]
    return pa.schema([*fields, ("first", pa.int16()), ("failing", pa.uint64())])


def _rewrite(part: Segment, table: pa.RecordBatch, tally: Tally) -> tuple[pa.RecordBatch, dict[str, Any]]:
    """The batch after the segment's rewriting, and the rewriter's signals."""
    if part.rewriter is None:
        return table, {}
    done, of = part.rewriter.rewrite(table), part.rewriter.name
    tally.rewritten_chars[of] = tally.rewritten_chars.get(of, 0) + int(done.removed_chars.sum())
    at = table.schema.get_field_index("text")
    table = table.set_column(at, table.schema.field("text"), done.texts)
    own = {f"{of}.removed_chars": done.removed_chars, f"{of}.text_bytes": np.diff(offsets(done.texts))}
    return table, own | dict(done.signals)


def _drop_early(
    part: Segment,
    table: pa.RecordBatch,
    signals: Mapping[str, pa.Array],
    writer: tables.RowWriter,
    gone: tables.RowWriter,
    tally: Tally,
) -> pa.RecordBatch:
    """Apply a segment that another one follows; what it drops is recorded here, for its text goes no further."""
    from winnow.filters.rules import decide

    verdicts = decide(part.rules, numbers(signals), table.num_rows)
    own = [table.column("id"), *signals.values(), pa.array(verdicts.first), pa.array(verdicts.failing)]
    writer.write(pa.record_batch(own, schema=writer.schema))
    tally.decided(part.rules, verdicts, np.diff(offsets(table.column("text"))), signals)
    keep = verdicts.first < 0
    where = np.flatnonzero(~keep)
    if not len(where):
        return table
    take = pa.array(where)
    gone.write(
        lost_batch(
            ids=table.column("id").take(take),
            keys=table.column("key").take(take),
            stage="filters",
            filters=[part.rules[i].name for i in verdicts.first[where]],
            details=details_of(part.rules, verdicts.first[where], signals, take),
            scores=verdicts.score[where],
            thresholds=verdicts.threshold[where],
            failing=failing_names(verdicts.failing[where], part.rules),
            texts=table.column("text").take(take),
        )
    )
    return table.filter(pa.array(keep))


def details_of(
    rules: Sequence[Rule], first: np.ndarray, signals: Mapping[str, pa.Array], take: pa.Array
) -> list[str | None]:
    """What the first failing rules say beside the score; `first` are the rules of the documents at `take`."""
    columns = {rule.detail: signals[rule.detail].take(take).to_pylist() for rule in rules if rule.detail}
    return [columns[rules[i].detail][at] if rules[i].detail else None for at, i in enumerate(first)]  # type: ignore[index]


def lost_batch(
    *,
    ids: pa.Array,
    keys: pa.Array | None,
    stage: str,
    filters: Sequence[str],
    details: Sequence[str | None] | None = None,
    scores: np.ndarray | pa.Array | None = None,
    thresholds: np.ndarray | None = None,
    failing: Sequence[Sequence[str]] | None = None,
    texts: pa.Array | None = None,
    raw: Sequence[bytes | None] | None = None,
) -> pa.RecordBatch:
    """Rows of the dropped report; what is not given is null."""
    n = len(ids)

    def or_null(values: Any, kind: pa.DataType) -> pa.Array:
        if isinstance(values, pa.Array):
            return values
        return pa.nulls(n, kind) if values is None else pa.array(values, kind)

    columns = [
        ids,
        pa.nulls(n, pa.string()) if keys is None else keys,
        pa.array([stage] * n, pa.string()),
        pa.array(filters, pa.string()),
        or_null(details, pa.string()),
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


def failing_names(masks: np.ndarray, rules: Sequence[Rule]) -> list[list[str]]:
    """The names of the rules whose bits are set, per document."""
    return [[rule.name for i, rule in enumerate(rules) if mask >> i & 1] for mask in masks.tolist()]


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
