"""What became of one document, and by which numbers?

Its story goes through the stages: what every segment of filters measured and decided, what rewriting removed, whether
dedup kept another one in its place, what it is like and what classifiers on embeddings gave it, where these scores are
still stored, and which samples it is in. The id tells the file; the split is found by halving
(split_rows.py), so that about log2(splits) ids and one split's rows are read, and of its text nothing unless it is
asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from winnow.filters.catalogue import Segment
from winnow.filters.quality import bounds
from winnow.filters.rules import Cut, Rule, Signal, decide, score_of
from winnow.pipelines import quality_step
from winnow.pipelines.audit import Place, place_of, segments_of, survivor_place
from winnow.pipelines.audit_semantic import cut_of, identity_of, scores_of_step
from winnow.pipelines.dedup_settings import WITH_VECTORS
from winnow.pipelines.documents import name, numbers
from winnow.pipelines.dropped import TOO_LONG
from winnow.pipelines.finished import FinishedRun, UnknownError
from winnow.pipelines.split_rows import (
    Found,
    aligned_rows,
    find_rows,
    readable,
    splits_of,
    splits_to_search,
    texts_of_rows,
)  # fmt: skip
from winnow.pipelines.standing import step_of, verdict_name
from winnow.pipelines.tracing import DocumentTrace, Tracer
from winnow.pipelines.vector_scores import score_name as vector_score_name
from winnow.pipelines.verdicts import draws_of
from winnow.shards import storage, tables


@dataclass(frozen=True, slots=True)
class RuleStory:
    """A rule and what it said of the document."""

    rule: str
    score: float | None
    """None where the document has no such number: it passes."""
    minimum: float | None
    maximum: float | None
    fraction: float | None
    """Share of the source's documents that pass; `minimum` is then the score it came to."""
    detail: str | None
    passes: bool
    dropped: bool
    """It is the first rule that fails."""
    source: str
    """Where the bound comes from."""


@dataclass(frozen=True, slots=True)
class SegmentStory:
    """What was done between two texts."""

    rewriter: str | None
    removed_chars: int | None
    signals: dict[str, Any]
    """All that are stored."""
    rules: tuple[RuleStory, ...]


@dataclass(frozen=True, slots=True)
class StepStory:
    """A step of dedup, or `quality`, and what it said of the document."""

    step: str
    dropped: bool
    survivor: Place | None
    """Of a duplicate: the document that is kept instead. Of `semantic`, where its scores are stored: the one before it
    that it is most like, which may be dropped itself."""
    score: float | None
    """Of a document that a step leaves: that of a step that compares vectors, where its scores are stored."""
    threshold: float | None
    """The bound of that score: of a step that compares vectors the highest that stays."""
    detail: str | None
    cut_bytes: int
    scores: Mapping[str, float] | None = None
    """Of `quality`, by classifier, where they are stored; without a bound, too."""
    rules: tuple[RuleStory, ...] = ()
    """Of `quality`, where its scores are stored."""


@dataclass(frozen=True, slots=True)
class DocumentStory:
    place: Place
    key: str | None
    end: str
    """How it ended: `no document`, `dropped`, `duplicate` or `kept`."""
    reason: str | None
    """Why a row is no document, the first rule that failed, or `max_tokens` of a conversation that is too long."""
    segments: tuple[SegmentStory, ...]
    """Those that the document came to."""
    text_bytes: int | None
    """Of the text that came to the last segment."""
    steps: tuple[StepStory, ...]
    """The steps of dedup that the document came to."""
    trace: DocumentTrace | None
    """Of a kept one: held out or not, and its samples."""
    text: str | None
    """Where it was asked for: the text as filters left it; of a malformed row its first bytes."""


def document_story(run: FinishedRun, document: str, *, text: bool = False) -> DocumentStory:
    """The whole story of the document with this id.

    Raises UnknownError for an id that is not 32 hexadecimal digits, of no file of the run, or at which no row begins;
    NotFinishedError when a stage is not there.
    """
    place = place_of(run, document.lower())
    id_ = bytes.fromhex(place.document)
    documents = run.stage(place.source, "documents")
    splits = splits_of(run, place.source)
    for split in splits_to_search(documents, splits, run.file_ranks(place.source), id_):
        rows = find_rows(storage.join(documents, name("rows", split, "parquet")), [id_])
        if rows:
            return _came_through(run, place, split, *rows[id_], text=text)
        wanted = None if text else ["key", "stage", "filter"]
        lost = find_rows(storage.join(documents, name("lost", split, "parquet")), [id_], wanted)
        if lost:
            return _lost(run, place, split, lost)
    unread = "" if isinstance(splits, range) else ", or it lies in a part of the source that was not read"
    raise UnknownError(f"no row of {place.source} begins at {place.position:,} of {place.path}{unread}")


def _lost(run: FinishedRun, place: Place, split: int, lost: Found) -> DocumentStory:
    """A row that is no document, or one that an early segment dropped."""
    (_, table), = lost.values()  # fmt: skip
    (row,) = table.to_pylist()
    read = row["stage"] == "read"
    text = row.get("raw").decode("utf-8", "replace") if row.get("raw") else row.get("text")
    return DocumentStory(
        place=place,
        key=row["key"],
        end="no document" if read else "dropped",
        reason=row["filter"],
        segments=() if read else _early_segments(run, place, split),
        text_bytes=None,
        steps=(),
        trace=None,
        text=text,
    )


def _came_through(
    run: FinishedRun, place: Place, split: int, number: int, table: pa.Table, *, text: bool
) -> DocumentStory:
    """A document that came to the last segment, in row `number` of its split."""
    filters = run.stage(place.source, "filters")
    verdict = aligned_rows(storage.join(filters, name("verdict", split, "arrow")), [number])[
        number
    ].to_pylist()[0]
    part = segments_of(run, place.source)[-1]
    signals = {field: table.column(field).combine_chunks() for field in table.schema.names}
    cuts = _cuts(filters) if any(rule.fraction is not None for rule in part.rules) else {}
    last = _segment(part, signals, verdict["first"], verdict["failing"], cuts)
    dropped = verdict["first"] >= 0
    steps = () if dropped else tuple(_steps(run, place, split, number))
    reason = part.rules[verdict["first"]].name if dropped else None
    end = "dropped" if dropped else "kept"
    if steps and steps[-1].dropped:
        last_step = steps[-1]
        if last_step.step == quality_step.KIND:
            end, reason = "dropped", last_step.detail
        elif last_step.step in WITH_VECTORS:
            end, reason = "dropped", last_step.step
        else:
            end = "duplicate"
    trace = Tracer(run).document(place.document) if end == "kept" else None
    if trace is not None and trace.split is None:
        end, reason, trace = "dropped", TOO_LONG, None
    row = table.to_pylist()[0]
    return DocumentStory(
        place=place,
        key=row["key"],
        end=end,
        reason=reason,
        segments=(*_early_segments(run, place, split), last),
        text_bytes=row["text_bytes"],
        steps=steps,
        trace=trace,
        text=texts_of_rows(run.stage(place.source, "documents"), split, [number])[number] if text else None,
    )


def _steps(run: FinishedRun, place: Place, split: int, number: int) -> Iterator[StepStory]:
    """The steps of dedup, and `quality`, up to the one that dropped the document."""
    for directory in run.places[place.source]["dedup"]:
        step = storage.join(run.location, "stages", directory)
        file = storage.join(step, verdict_name(place.source, split))
        verdict = aligned_rows(file, [number])[number].to_pylist()[0]
        survivor, cuts = verdict["survivor"], verdict["cuts"] or []
        story = StepStory(
            step=step_of(step),
            dropped=verdict["dropped"],
            survivor=survivor_place(run, survivor, verdict["detail"]),
            score=verdict["score"],
            threshold=None,
            detail=verdict["detail"],
            cut_bytes=sum(cuts[1::2]) - sum(cuts[0::2]),
        )
        if story.step in WITH_VECTORS:
            story = _with_vectors(run, story, step, place, split, number)
        elif story.step == quality_step.KIND:
            story = _with_rules(run, story, step, place, split, number)
        yield story
        if story.dropped:
            return


def _with_vectors(
    run: FinishedRun, story: StepStory, step: str, place: Place, split: int, number: int
) -> StepStory:
    """What a step that compares vectors said, with where it cuts, and the stored score of a document that stays."""
    story = replace(story, threshold=cut_of(step))
    file = storage.join(scores_of_step(step), vector_score_name(place.source, split))
    if story.dropped or not storage.exists(file):
        return story
    row = aligned_rows(file, [number])[number].to_pylist()[0]
    return replace(story, score=row["score"], survivor=survivor_place(run, row["neighbour"], None))


def _with_rules(
    run: FinishedRun, story: StepStory, step: str, place: Place, split: int, number: int
) -> StepStory:
    """What `quality` said, with every bound that it held the document against."""
    identity = identity_of(step)
    uses = run.recipe.sources[place.source].quality
    stages = {stage.rpartition("-")[0]: stage for stage in identity["inputs"]}
    signals: dict[str, np.ndarray] = {}
    for classifier in dict.fromkeys(use.scorer for use in uses):
        stage = stages[quality_step.scores_stage(classifier, place.source)]
        file = storage.join(run.location, "stages", stage, quality_step.score_name(split))
        if not storage.exists(file):
            return story
        scores = aligned_rows(file, [number])[number].column("score")
        signals[classifier] = scores.to_numpy(zero_copy_only=False)
    rules = [rule for use in uses for rule in bounds(use.scorer, Signal(use.scorer), use)]
    stored = identity["settings"].get("cuts", [])
    id_ = pa.record_batch({"id": pa.array([bytes.fromhex(place.document)], tables.ID)})
    draws = draws_of(id_, identity["settings"].get("seed", 0))
    cuts = {index: Cut(score, draw) for index, score, draw in stored}
    verdicts = decide(rules, signals, 1, cuts, draws)
    first, failing = int(verdicts.first[0]), int(verdicts.failing[0])
    values = {classifier: float(scores[0]) for classifier, scores in signals.items()}
    lowest = {index: cut.score for index, cut in cuts.items()}
    found = _rules(rules, signals, values, first, failing, lowest)
    threshold = float(verdicts.threshold[0]) if first >= 0 else None
    return replace(story, threshold=threshold, rules=found, scores=values)


def _early_segments(run: FinishedRun, place: Place, split: int) -> tuple[SegmentStory, ...]:
    """The segments before the last that the document came to."""
    id_ = bytes.fromhex(place.document)
    found: list[SegmentStory] = []
    for k, part in enumerate(segments_of(run, place.source)[:-1]):
        where = storage.join(run.stage(place.source, "documents"), name(f"signals{k}", split, "parquet"))
        rows = find_rows(where, [id_])
        if not rows:
            break
        table = rows[id_][1]
        signals = {field: table.column(field).combine_chunks() for field in table.schema.names}
        first, failing = (signals.pop(field)[0].as_py() for field in ("first", "failing"))
        found.append(_segment(part, signals, first, failing, {}))
    return tuple(found)


def _cuts(filters: str) -> dict[int, float]:
    """Where the rules with a fraction cut: index of the rule -> lowest score that passes."""
    place = storage.join(filters, "stage.json")
    with readable(place):
        stored = orjson.loads(storage.read_bytes(place))["settings"].get("cuts", [])
    return {index: score for index, score, _ in stored}


def _segment(
    part: Segment, signals: Mapping[str, pa.Array], first: int, failing: int, cuts: Mapping[int, float]
) -> SegmentStory:
    rewriter = part.rewriter.name if part.rewriter is not None else None
    own = ("id", "key", "meta", "text_hash", "text_bytes")
    values = {signal: column[0].as_py() for signal, column in signals.items() if signal not in own}
    needed = numbers({s: column for s, column in signals.items() if s in part.needed})
    rules = _rules(part.rules, needed, values, first, failing, cuts)
    return SegmentStory(
        rewriter=rewriter,
        removed_chars=values.pop(f"{rewriter}.removed_chars") if rewriter else None,
        signals=values,
        rules=rules,
    )


def _rules(
    rules: Sequence[Rule],
    signals: Mapping[str, np.ndarray],
    values: Mapping[str, Any],
    first: int,
    failing: int,
    cuts: Mapping[int, float],
) -> tuple[RuleStory, ...]:
    return tuple(
        _rule(rule, signals, values, passes=not failing >> i & 1, dropped=i == first, cut=cuts.get(i))
        for i, rule in enumerate(rules)
    )


def _rule(
    rule: Rule,
    signals: Mapping[str, np.ndarray],
    values: Mapping[str, Any],
    *,
    passes: bool,
    dropped: bool,
    cut: float | None,
) -> RuleStory:
    score = float(score_of(rule, signals, 1)[0])
    return RuleStory(
        rule=rule.name,
        score=None if math.isnan(score) else score,
        minimum=rule.minimum if rule.fraction is None else cut,
        maximum=rule.maximum,
        fraction=rule.fraction,
        detail=values.get(rule.detail) if rule.detail else None,
        passes=passes,
        dropped=dropped,
        source=rule.source,
    )
