"""What went, and why: RUN/dropped/<source>/, a row per document that did not stay.

Columns: id, key, stage (`read`, `filters`, `dedup`, `quality`, `tokens`), filter (the reason, the first failing rule,
the step of dedup, `max_tokens` of a conversation of which not one exchange fits), detail (what some filters and steps
say beside the score: a language, another library's reason, a benchmark's item), score, threshold (the bound that the
score crossed, of rules and of steps that compare vectors, where it is the highest cosine that stays), failing (all
failing rules), survivor (the document that dedup keeps instead; of `semantic` the one before it that it is most like,
which may be dropped itself), text, raw.
`text` is there for a seeded sample per filter and split (`dropped_text: sample`), for all, or for none; `raw` is the
bytes of a malformed row, at most 64 KiB. For `read` the score is the row's size in bytes.

Memory: one Arrow batch of text, the ids of what a split dropped, and the sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from winnow.filters.rules import Rule
from winnow.pipelines import quality_step
from winnow.pipelines.dedup_settings import WITH_VECTORS
from winnow.pipelines.documents import LOST_SCHEMA, details_of, failing_names, lost_batch, name
from winnow.pipelines.records import Outputs
from winnow.pipelines.standing import Standing, step_of, texts_of, verdict_name
from winnow.pipelines.vector_cut import bound_of
from winnow.shards import storage, tables

if TYPE_CHECKING:
    from winnow.pipelines.engine import Done

VERSION = 5
SAMPLES_PER_FILTER = 64
"""Texts kept per source and filter, spread over its splits; at least one a split."""
SAMPLE_SEED = 0x73616D706C65
TOO_LONG = "max_tokens"
"""The reason of conversations of which not one exchange fits."""
SURVIVOR = LOST_SCHEMA.get_field_index("text")
SCHEMA = LOST_SCHEMA.insert(SURVIVOR, pa.field("survivor", tables.ID))


@dataclass(frozen=True, slots=True)
class DroppedSpec:
    standing: Standing
    """With all steps of dedup."""
    splits: int
    rules: tuple[Rule, ...]
    """Of the last segment."""
    text: str
    seed: int
    thresholds: Mapping[str, float] = field(default_factory=dict)
    """`thresholds_of` the steps that the source went through."""
    tokens: str | None = None
    """Location of the tokens of a source of conversations, which may be too long."""


def thresholds_of(steps: Iterable[Done]) -> dict[str, float]:
    """The bounds of steps that have one for all documents, by what `filter` says of a document that crosses it.

    Of a step that compares vectors the highest score that stays, by its name; of `quality` each rule's bound, of a rule
    that keeps a share the lowest score that passes.
    """
    found: dict[str, float] = {}
    for done in steps:
        if done.stage.kind in WITH_VECTORS:
            # The same in every record; there is none where no document stood.
            eps = next((record.counts["eps"] for record in done.records), None)
            found |= {} if eps is None else {done.stage.kind: bound_of(eps)}
        elif done.stage.kind == quality_step.KIND:
            cuts = {index: score for index, score, _ in done.stage.settings.get("cuts", ())}
            for index, (rule, minimum, maximum, *_) in enumerate(done.stage.settings["rules"]):
                bound = cuts.get(index, minimum if minimum is not None else maximum)
                found |= {} if bound is None else {rule: bound}
    return found


def dropped_task(spec: DroppedSpec, outputs: Outputs) -> dict[str, Any]:
    """Write the report of one split; returns its rows, and of those after the filters how many by `filter`."""
    sampled = _sample(spec) if spec.text == "sample" else {}
    rows = 0
    steps: dict[str, int] = {}
    with (
        outputs.file(name("dropped", spec.standing.split, "parquet")) as path,
        tables.RowWriter(path, SCHEMA) as writer,
    ):
        for batch in _malformed(spec):
            writer.write(batch)
            rows += batch.num_rows
        for batch, texts in _dropped(spec, with_text=spec.text != "none"):
            writer.write(_with_text(batch, texts, spec.text, sampled))
            rows += batch.num_rows
            if batch.column("stage")[0].as_py() in ("dedup", quality_step.KIND):
                for pair in batch.column("filter").value_counts().to_pylist():
                    steps[pair["values"]] = steps.get(pair["values"], 0) + pair["counts"]
    return {"rows": rows, "steps": steps}


def _lost(spec: DroppedSpec) -> Iterator[pa.RecordBatch]:
    for batch in tables.parquet_batches(
        storage.join(spec.standing.documents, name("lost", spec.standing.split, "parquet"))
    ):
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
    if spec.tokens is not None:
        yield from _too_long(spec, spec.tokens, with_text=with_text)


def _too_long(
    spec: DroppedSpec, tokens: str, *, with_text: bool
) -> Iterator[tuple[pa.RecordBatch, pa.Array | None]]:
    """Conversations that became no tokens."""
    index = tables.Aligned(
        tables.arrow_batches(storage.join(tokens, name("index", spec.standing.split, "arrow")))
    )
    before = 0
    for batch in texts_of(spec.standing, ["id", "key"]):
        ends = index.take(len(batch.texts)).column("end").to_numpy().astype(np.int64)
        where = np.flatnonzero(np.diff(ends, prepend=before) == 0)
        before = int(ends[-1])
        if not len(where):
            continue
        take = pa.array(where)
        gone = lost_batch(
            ids=batch.rows.column("id").take(take),
            keys=batch.rows.column("key").take(take),
            stage="tokens",
            filters=[TOO_LONG] * len(where),
        )
        gone = gone.add_column(SURVIVOR, SCHEMA.field("survivor"), pa.nulls(len(where), tables.ID))
        yield gone, batch.texts.take(take) if with_text else None


def _blank(batch: pa.RecordBatch, column: str) -> pa.RecordBatch:
    field = SCHEMA.field(column)
    return batch.set_column(SCHEMA.get_field_index(column), field, pa.nulls(batch.num_rows, field.type))


def _dropped_later(spec: DroppedSpec, *, with_text: bool) -> Iterator[tuple[pa.RecordBatch, pa.Array | None]]:
    """What the last segment and dedup dropped, a batch a batch of text; `text` still null in it."""
    rules, standing = spec.rules, spec.standing
    names = sorted({rule.detail for rule in rules if rule.detail})
    place = storage.join(standing.documents, name("rows", standing.split, "parquet"))
    rows = tables.Aligned(tables.parquet_batches(place, ["id", "key", *names]))
    place = storage.join(standing.filters, name("verdict", standing.split, "arrow"))
    verdicts = tables.Aligned(tables.arrow_batches(place))
    file = verdict_name(standing.source, standing.split)
    steps = [
        (step_of(s), tables.Aligned(tables.arrow_batches(storage.join(s, file)))) for s in standing.steps
    ]
    for n, texts in _text_batches(spec, with_text):
        row, verdict = rows.take(n), verdicts.take(n)
        parts = [_by_filters(rules, row, verdict)]
        parts += [_by_step(step, row, of_step.take(n), spec.thresholds) for step, of_step in steps]
        for batch, where in parts:
            if len(where):
                yield batch, texts.take(where) if texts else None


def _by_filters(
    rules: Sequence[Rule], row: pa.RecordBatch, verdict: pa.RecordBatch
) -> tuple[pa.RecordBatch, pa.Array]:
    """Documents that the last segment dropped, and which of the rows they are."""
    first = verdict.column("first").to_numpy()
    where = np.flatnonzero(first >= 0)
    take = pa.array(where)
    signals = {s: row.column(s) for s in row.schema.names}
    batch = lost_batch(
        ids=row.column("id").take(take),
        keys=row.column("key").take(take),
        stage="filters",
        filters=[rules[i].name for i in first[where]],
        details=details_of(rules, first[where], signals, take),
        scores=verdict.column("score").to_numpy()[where],
        thresholds=verdict.column("threshold").to_numpy()[where],
        failing=failing_names(verdict.column("failing").to_numpy()[where], rules),
    )
    return batch.add_column(SURVIVOR, SCHEMA.field("survivor"), pa.nulls(len(where), tables.ID)), take


def _by_step(
    step: str, row: pa.RecordBatch, verdict: pa.RecordBatch, thresholds: Mapping[str, float]
) -> tuple[pa.RecordBatch, pa.Array]:
    """Documents that a step of dedup, or `quality`, dropped, and which of the rows they are."""
    take = pa.array(np.flatnonzero(verdict.column("dropped").to_numpy(zero_copy_only=False)))
    gone = verdict.take(take)
    details = gone.column("detail").to_pylist()
    by_rule = step == quality_step.KIND
    filters = details if by_rule else [step] * len(take)
    batch = lost_batch(
        ids=row.column("id").take(take),
        keys=row.column("key").take(take),
        stage=quality_step.KIND if by_rule else "dedup",
        filters=filters,
        details=None if by_rule else details,
        scores=gone.column("score"),
        thresholds=np.array([thresholds.get(what) for what in filters], object),
    )
    return batch.add_column(SURVIVOR, SCHEMA.field("survivor"), gone.column("survivor")), take


def _text_batches(spec: DroppedSpec, with_text: bool) -> Iterator[tuple[int, pa.Array | None]]:
    """Rows of each batch of a split's text, and the text if it is wanted."""
    for batch in tables.arrow_batches(
        storage.join(spec.standing.documents, name("text", spec.standing.split, "arrow"))
    ):
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
