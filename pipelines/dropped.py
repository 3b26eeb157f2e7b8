"""What went, and why: RUN/dropped/<source>/, a row per document that did not stay.

Columns: id, key, stage (`read`, `filters`, `dedup`), filter (the reason, the first failing rule, `exact`),
detail (what some filters say beside the score: a language, another library's reason), score, threshold, failing
(all failing rules), survivor (dedup), text, raw. `text` is there for a seeded sample per filter and split
(`dropped_text: sample`), for all, or for none; `raw` is the bytes of a malformed row, at most 64 KiB. For `read`
the score is the row's size in bytes.

Memory: one Arrow batch of text, the ids of what a split dropped, and the sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from winnow.filters.rules import Rule
from winnow.pipelines.documents import LOST_SCHEMA, details_of, failing_names, lost_batch, name
from winnow.pipelines.exact import verdict_name
from winnow.pipelines.records import Outputs
from winnow.shards import storage, tables

VERSION = 2
SAMPLES_PER_FILTER = 64
"""Texts kept per source and filter, spread over its splits; at least one a split."""
SAMPLE_SEED = 0x73616D706C65
SURVIVOR = LOST_SCHEMA.get_field_index("text")
SCHEMA = LOST_SCHEMA.insert(SURVIVOR, pa.field("survivor", tables.ID))


@dataclass(frozen=True, slots=True)
class DroppedSpec:
    source: str
    split: int
    splits: int
    documents: str
    filters: str
    exact: str | None
    rules: tuple[Rule, ...]
    """Of the last segment."""
    text: str
    seed: int


def dropped_task(spec: DroppedSpec, outputs: Outputs) -> dict[str, Any]:
    """Write the report of one split."""
    sampled = _sample(spec) if spec.text == "sample" else {}
    rows = 0
    with (
        outputs.file(name("dropped", spec.split, "parquet")) as path,
        tables.RowWriter(path, SCHEMA) as writer,
    ):
        for batch in _malformed(spec):
            writer.write(batch)
            rows += batch.num_rows
        for batch, texts in _dropped(spec, with_text=spec.text != "none"):
            writer.write(_with_text(batch, texts, spec.text, sampled))
            rows += batch.num_rows
    return {"rows": rows}


def _lost(spec: DroppedSpec) -> Iterator[pa.RecordBatch]:
    for batch in tables.parquet_batches(storage.join(spec.documents, name("lost", spec.split, "parquet"))):
        yield batch.add_column(SURVIVOR, SCHEMA.field("survivor"), pa.nulls(batch.num_rows, tables.ID))


def _malformed(spec: DroppedSpec) -> Iterator[pa.RecordBatch]:
    """Rows that never became documents, and empty ones."""
    for batch in _lost(spec):
        batch = batch.filter(pc.equal(batch.column("stage"), "read"))
        if spec.text == "none":
            batch = _blank(batch, "raw")
        if batch.num_rows:
            yield batch


def _dropped(spec: DroppedSpec, *, with_text: bool) -> Iterator[tuple[pa.RecordBatch, pa.Array | None]]:
    """Every document that filters or dedup dropped, in order of the stages; `text` still null in it."""
    for batch in _lost(spec):
        batch = batch.filter(pc.not_equal(batch.column("stage"), "read"))
        if batch.num_rows:
            yield _blank(batch, "text"), batch.column("text") if with_text else None
    yield from _dropped_later(spec, with_text=with_text)


def _blank(batch: pa.RecordBatch, column: str) -> pa.RecordBatch:
    field = SCHEMA.field(column)
    return batch.set_column(SCHEMA.get_field_index(column), field, pa.nulls(batch.num_rows, field.type))


def _dropped_later(spec: DroppedSpec, *, with_text: bool) -> Iterator[tuple[pa.RecordBatch, pa.Array | None]]:
    """What the last segment and dedup dropped, a batch a batch of text; `text` still null in it."""
    rules = spec.rules
    details = sorted({rule.detail for rule in rules if rule.detail})
    place = storage.join(spec.documents, name("rows", spec.split, "parquet"))
    rows = tables.Aligned(tables.parquet_batches(place, ["id", "key", *details]))
    verdicts = tables.Aligned(
        tables.arrow_batches(storage.join(spec.filters, name("verdict", spec.split, "arrow")))
    )
    survivors = None
    if spec.exact is not None:
        place = storage.join(spec.exact, verdict_name(spec.source, spec.split))
        survivors = tables.Aligned(tables.arrow_batches(place))
    for n, texts in _text_batches(spec, with_text):
        verdict, row = verdicts.take(n), rows.take(n)
        first = verdict.column("first").to_numpy()
        filtered = np.flatnonzero(first >= 0)
        survivor = survivors.take(n).column("survivor") if survivors else None
        duplicate = (
            np.flatnonzero(survivor.is_valid().to_numpy(zero_copy_only=False))
            if survivor is not None
            else np.empty(0, np.int64)
        )
        for where, stage in ((filtered, "filters"), (duplicate, "dedup")):
            if not len(where):
                continue
            take = pa.array(where)
            of_filters = stage == "filters"
            batch = lost_batch(
                ids=row.column("id").take(take),
                keys=row.column("key").take(take),
                stage=stage,
                filters=[rules[i].name for i in first[where]] if of_filters else ["exact"] * len(where),
                details=details_of(rules, first[where], {d: row.column(d) for d in details}, take)
                if of_filters
                else None,
                scores=verdict.column("score").to_numpy()[where] if of_filters else None,
                thresholds=verdict.column("threshold").to_numpy()[where] if of_filters else None,
                failing=failing_names(verdict.column("failing").to_numpy()[where], rules)
                if of_filters
                else None,
            )
            column = pa.nulls(len(where), tables.ID)
            if survivor is not None and not of_filters:
                column = survivor.take(take)
            yield (
                batch.add_column(SURVIVOR, SCHEMA.field("survivor"), column),
                texts.take(take) if texts else None,
            )


def _text_batches(spec: DroppedSpec, with_text: bool) -> Iterator[tuple[int, pa.Array | None]]:
    """Rows of each batch of a split's text, and the text if it is wanted."""
    for batch in tables.arrow_batches(storage.join(spec.documents, name("text", spec.split, "arrow"))):
        yield batch.num_rows, batch.column("text") if with_text else None


def _sample(spec: DroppedSpec) -> dict[bytes, str]:
    """The texts that the report shows: per filter the documents with the smallest hash(seed, id)."""
    share = max(1, -(-SAMPLES_PER_FILTER // spec.splits))
    best: dict[str, list[tuple[int, bytes, str]]] = {}
    for batch, texts in _dropped(spec, with_text=True):
        assert texts is not None
        draws = tables.mix(spec.seed ^ SAMPLE_SEED, *tables.id_halves(batch.column("id"))).tolist()
        filters = batch.column("filter").to_pylist()
        for i in _smallest(draws, filters, share):
            held = best.setdefault(filters[i], [])
            held.append((draws[i], batch.column("id")[i].as_py(), texts[i].as_py()))
            held.sort()
            del held[share:]
    return {id_: text for held in best.values() for _, id_, text in held}


def _smallest(draws: Sequence[int], groups: Sequence[str], n: int) -> Iterator[int]:
    """Positions of the n smallest draws of each group."""
    by_group: dict[str, list[int]] = {}
    for i in sorted(range(len(draws)), key=draws.__getitem__):
        held = by_group.setdefault(groups[i], [])
        if len(held) < n:
            held.append(i)
            yield i


def _with_text(
    batch: pa.RecordBatch, texts: pa.Array | None, mode: str, sampled: dict[bytes, str]
) -> pa.RecordBatch:
    at = SCHEMA.get_field_index("text")
    if mode == "all":
        return batch.set_column(at, SCHEMA.field("text"), texts)
    if mode == "sample":
        shown = [sampled.get(id_) for id_ in batch.column("id").to_pylist()]
        return batch.set_column(at, SCHEMA.field("text"), pa.array(shown, pa.large_string()))
    return batch
