"""Which documents of a source are good enough, by classifiers on embeddings or on text?

    embeddings, text ─▶ quality-scores (of each classifier) ─▶ (cuts, where a share is kept) ─▶ quality

The stage `quality-scores.<classifier>.<source>` has for each split a file that is row-aligned with it: the score of
every document that stands. The decision reads scores alone, so that another bound needs no vectors. Bounds are decided
in the order of the recipe's list, as filters are (filters/rules.py): a share is taken of the documents that pass all
bounds before it, exactly, the highest scores, equal ones by a hash. The verdicts are those of one more step
(standing.py): `detail` names the bound that a document fails, `score` is the score that it fails with, or, where it
stays, that of the last classifier.

Deciles of a source's scores are read off its splits' records: each holds the middle one of every hundredth of the
split's scores in their order (all of them, where there are fewer). So at a decile the share of documents is off by at
most half a hundredth and a document of each split, and four digits of the score are kept.

Memory: a batch of vectors (vectors.py) or of text, a fastText model, and 13 bytes for each document of a split; to
find a cut, that of order_statistic.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from winnow.filters.embedding_head import from_bytes
from winnow.filters.model_files import ModelFile
from winnow.filters.quality import Quality as FastText
from winnow.filters.quality import bounds
from winnow.filters.rules import Cut, Rule, Signal, Verdicts, score_of
from winnow.filters.rules import decide as decide_rules
from winnow.pipelines.classifier_settings import Quality
from winnow.pipelines.cluster import Task
from winnow.pipelines.cuts import rule_identity
from winnow.pipelines.documents import Tally, name
from winnow.pipelines.engine import Done, Engine, Request, Work
from winnow.pipelines.models import FILE, at_hand
from winnow.pipelines.order_statistic import find_last, groups_of, places_of
from winnow.pipelines.recipe import Recipe
from winnow.pipelines.records import Outputs, Record, Stage
from winnow.pipelines.standing import VERDICT_SCHEMA, Standing, rows_of, standings, texts_of, write_verdicts
from winnow.pipelines.vectors import Embedded, embedded, vector_batches
from winnow.pipelines.verdicts import draws_of
from winnow.shards import storage, tables

if TYPE_CHECKING:
    from winnow.pipelines.corpus import SourceRun

VERSION = 1
SCORES_VERSION = 2
KIND = "quality"
SCORES = pa.schema([("score", pa.float32())])
"""A row per document of a split; null for one that does not stand any more."""
BATCH_ROWS = 1 << 16
PARTS = 100
"""Of a split's scores, that its record has one of."""
DECILES = 10


def scores_stage(classifier: str, source: str) -> str:
    """The name of the stage that scores a source."""
    return f"quality-scores.{classifier}.{source}"


def score_name(split: int) -> str:
    """The file of a split's scores."""
    return name("score", split, "arrow")


@dataclass(frozen=True, slots=True)
class ScoresSpec:
    split: Embedded
    classifier: str
    """Location of the stage that keeps it."""


def scores_task(spec: ScoresSpec, outputs: Outputs) -> dict[str, Any]:
    """Score the documents of a split that stand; returns how many there are, and what `deciles` needs."""
    head = from_bytes(storage.read_bytes(storage.join(spec.classifier, FILE)))
    standing = spec.split.standing
    scores, there = np.zeros(standing.rows, np.float32), np.zeros(standing.rows, bool)
    for members, vectors in vector_batches(spec.split):
        rows = members["row"].astype(np.int64)
        scores[rows], there[rows] = head.scores(vectors), True
    return _put_scores(outputs, standing, scores, there)


@dataclass(frozen=True, slots=True)
class TextScoresSpec:
    standing: Standing
    settings: FastText
    file: ModelFile


def text_scores_task(spec: TextScoresSpec, outputs: Outputs) -> dict[str, Any]:
    """As `scores_task`, by a fastText model: of each document's text behind all steps of dedup."""
    (settings,) = at_hand((spec.settings,), {spec.settings.model: spec.file})
    (measure,) = settings.measures()
    scores, there = np.zeros(spec.standing.rows, np.float32), np.zeros(spec.standing.rows, bool)
    for batch in texts_of(spec.standing):
        texts = pa.record_batch([batch.texts], names=["text"])
        scores[batch.where], there[batch.where] = measure.measure(texts)[measure.signal], True
    return _put_scores(outputs, spec.standing, scores, there)


def _put_scores(
    outputs: Outputs, standing: Standing, scores: np.ndarray, there: np.ndarray
) -> dict[str, Any]:
    """Write float32[rows], null where `there` is not."""
    with (
        outputs.file(score_name(standing.split)) as path,
        tables.arrow_writer(path, SCORES) as writer,
    ):
        for first in range(0, standing.rows, BATCH_ROWS):
            mine = slice(first, first + BATCH_ROWS)
            writer.write_batch(pa.record_batch([pa.array(scores[mine], mask=~there[mine])], schema=SCORES))
    return {"documents": int(there.sum()), **_outline(scores[there])}


def _outline(scores: np.ndarray) -> dict[str, list[float]]:
    """`ends`, the lowest and the highest of float32[n], and `middles`, one of each of its parts; none of no score."""
    ascending, n = np.sort(scores), len(scores)
    parts = min(n, PARTS)
    middles = ascending[((np.arange(parts) + 0.5) * n / max(parts, 1)).astype(np.int64)]
    return {"middles": _rounded(middles), "ends": _rounded(ascending[[0, -1]] if n else ascending)}


def _rounded(scores: np.ndarray) -> list[float]:
    return [float(f"{score:.4g}") for score in scores.tolist()]


def deciles(records: Sequence[Record]) -> list[float]:
    """The scores of all splits at 0, 10, ... 100 % of their documents; none of no document."""
    held = [record.counts for record in records if record.counts["documents"]]
    if not held:
        return []
    middles = np.concatenate([counts["middles"] for counts in held])
    weights = np.concatenate(
        [np.full(len(counts["middles"]), counts["documents"] / len(counts["middles"])) for counts in held]
    )
    order = np.argsort(middles, kind="stable")
    upto = np.cumsum(weights[order])
    inner = np.searchsorted(upto, upto[-1] * np.arange(1, DECILES) / DECILES)
    ends = [end for counts in held for end in counts["ends"]]
    return [min(ends), *middles[order][inner].tolist(), max(ends)]


@dataclass(frozen=True, slots=True)
class Judged:
    """A split with the scores of its documents, and the rules that they are held against."""

    standing: Standing
    scores: tuple[tuple[str, str], ...]
    """Name of each classifier, and location of its scores; the last one's are shown of what stays."""
    rules: tuple[Rule, ...]
    cuts: Mapping[int, Cut] = field(default_factory=dict)
    """Where rules with a fraction cut, by index of the rule."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class _Rows:
    """Some documents of a split, n."""

    rows: pa.RecordBatch
    """With `id` and `text_bytes`."""
    stands: np.ndarray
    signals: dict[str, np.ndarray]
    """Classifier -> float32[n]; NaN for a document that does not stand."""
    verdicts: Verdicts


def _decided(judged: Judged) -> Iterator[_Rows]:
    """The documents of a split with what rules say of them.

    Raises ValueError where a document stands that has no score: its vector is missing, or is none.
    """
    standing = judged.standing
    aligned = rows_of(standing, ["id", "text_bytes"])
    scores = {
        classifier: tables.Aligned(tables.arrow_batches(storage.join(place, score_name(standing.split))))
        for classifier, place in judged.scores
    }
    for first in range(0, standing.rows, BATCH_ROWS):
        n = min(BATCH_ROWS, standing.rows - first)
        rows = aligned.take(n)
        stands = rows.column("keep").to_numpy(zero_copy_only=False)
        signals = {
            classifier: column.take(n).column("score").to_numpy(zero_copy_only=False)
            for classifier, column in scores.items()
        }
        for classifier, found in signals.items():
            if np.isnan(found[stands]).any():
                raise ValueError(f"documents of {standing.source} have no score of {classifier}")
        draws = draws_of(rows, judged.seed) if judged.cuts else None
        yield _Rows(rows, stands, signals, decide_rules(judged.rules, signals, n, judged.cuts, draws))


@dataclass(frozen=True, slots=True)
class Passing:
    """The documents of some splits that the last rule's fraction is taken of."""

    judged: tuple[Judged, ...]
    """With the rules up to the one that cuts."""

    def places(self) -> Iterator[np.ndarray]:
        """Of the documents that stand and pass the rules before, the highest score first."""
        for judged in self.judged:
            before, rule = judged.rules[:-1], judged.rules[-1]
            for batch in _decided(Judged(judged.standing, judged.scores, before, judged.cuts, judged.seed)):
                wanted = batch.stands & (batch.verdicts.first < 0)
                score = score_of(rule, batch.signals, len(wanted))
                yield places_of(score[wanted], draws_of(batch.rows, judged.seed)[wanted])


def verdicts_task(spec: Judged, outputs: Outputs) -> dict[str, Any]:
    """Decide the documents of one split; returns what went, in all and by rule.

    `rules`, `failing` and `only` count documents by the first rule that they fail, by every one, and by the only one.
    """
    standing, tally = spec.standing, Tally()
    gone = gone_bytes = 0

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal gone, gone_bytes
        for batch in _decided(spec):
            dropped = batch.verdicts.first >= 0
            sizes = batch.rows.column("text_bytes").to_numpy()
            tally.decided(spec.rules, batch.verdicts, sizes, {})
            gone, gone_bytes = gone + int(dropped.sum()), gone_bytes + int(sizes[dropped].sum())
            yield _verdict_batch(spec, batch, dropped)

    write_verdicts(outputs, standing.source, standing.split, batches())

    def of_source(n: int) -> dict[str, int]:
        return {standing.source: n} if n else {}

    return {
        "dropped": of_source(gone),
        "dropped_bytes": of_source(gone_bytes),
        "cut_documents": {},
        "cut_bytes": {},
        "pairs": {},
        "rules": tally.by_reason,
        "rules_bytes": tally.bytes_by_reason,
        "failing": tally.failing,
        "only": tally.only,
    }


def _verdict_batch(spec: Judged, batch: _Rows, dropped: np.ndarray) -> pa.RecordBatch:
    n = len(dropped)
    last = spec.scores[-1][0]
    score = np.where(dropped, batch.verdicts.score, batch.signals[last].astype(np.float64))
    names = pa.array([rule.name for rule in spec.rules], pa.string())
    detail = names.take(pa.array(batch.verdicts.first.astype(np.int64), mask=~dropped))
    columns = [
        pa.array(dropped),
        pa.nulls(n, tables.ID),
        pa.array(score, from_pandas=True),
        detail,
        pa.nulls(n, pa.list_(pa.uint32())),
    ]
    return pa.record_batch(columns, schema=VERDICT_SCHEMA)


# ---- the stages ----------------------------------------------------------------------------------------------


def judge(
    engine: Engine,
    recipe: Recipe,
    sources: Mapping[str, SourceRun],
    classifiers: Mapping[str, Done],
    models: Mapping[str, ModelFile],
) -> None:
    """Decide every source with `quality`, whose vectors are there; its verdicts are the last of its `steps`.

    classifiers : the finished stages of those on embeddings. models : fastText's, by classifier or path.
    """
    judged = [source for source in sources.values() if recipe.sources[source.name].quality]
    works = []
    for source in judged:
        upstream = [done.stage for done in (source.filters, *source.steps)]
        inputs = {
            embedding: embedded(standings(source), {source.name: done})
            for embedding, done in source.embedded.items()
        }
        settings = recipe.sources[source.name].quality
        standing = standings(source)
        works.append(decide(source.name, standing, inputs, upstream, settings, classifiers, models, recipe))
    for source, done in zip(judged, engine.together(*works), strict=True):
        source.steps.append(done)


def decide(
    source: str,
    standing: Sequence[Standing],
    inputs: Mapping[str, Sequence[Embedded]],
    upstream: Sequence[Stage],
    settings: Sequence[Quality],
    classifiers: Mapping[str, Done],
    models: Mapping[str, ModelFile],
    recipe: Recipe,
) -> Work[Done]:
    """Score the documents of a source, and decide which stay; returns the stage of the verdicts.

    standing : the source's splits. inputs : the same with their vectors, by the name of the embedding. settings : one
    at least. classifiers, models : as for `judge`.
    """
    inside, seed = tuple(stage.directory for stage in upstream), recipe.seed
    scores: dict[str, Done] = {}
    # Each once, in the order of their last use: what stays is shown with the score of the last.
    for use in reversed({use.scorer: use for use in reversed(settings)}.values()):
        classifier = use.scorer
        if use.classifier not in recipe.embedding_classifiers:
            scores[classifier] = yield _text_scores(source, standing, inside, use, models)
            continue
        splits = inputs[recipe.embedding_classifiers[classifier].embedding]
        trained = classifiers[classifier]
        stage = Stage(
            scores_stage(classifier, source),
            SCORES_VERSION,
            {"sha256": trained.records[0].counts["sha256"]},
            (*inside, *dict.fromkeys(storage.absolute(s.place).rsplit("/", 1)[-1] for s in splits)),
        )
        tasks = [Task(s.standing.split, scores_task, ScoresSpec(s, trained.location)) for s in splits]
        scores[classifier] = yield Request(stage, tasks)
    places = tuple((classifier, done.location) for classifier, done in scores.items())
    rules = tuple(rule for use in settings for rule in bounds(use.scorer, Signal(use.scorer), use))
    found = (*inside, *(done.stage.directory for done in scores.values()))
    cuts: dict[int, Cut] = {}
    for index, rule in enumerate(rules):
        if rule.fraction is None:
            continue
        upto = rules[: index + 1]
        identity: dict[str, Any] = {
            "rules": [rule_identity(r) for r in rules[:index]],
            "score": repr(rule.score),
            "cuts": [[i, c.score, c.draw] for i, c in cuts.items()],
            "seed": seed,
        }
        parts = [
            Passing(tuple(Judged(s, places, upto, dict(cuts), seed) for s in standing[a:b]))
            for a, b in groups_of([s.rows for s in standing])
        ]
        last = yield from find_last(f"quality-cut{index}", source, parts, rule.fraction, identity, found)
        if last is not None:
            cuts[index] = Cut(last.score, last.low)
    identity = {
        "rules": [rule_identity(rule) for rule in rules],
        "scores": [use.scorer for use in settings],
    }
    if any(rule.fraction is not None for rule in rules):
        identity |= {"seed": seed, "cuts": [[i, c.score, c.draw] for i, c in cuts.items()]}
    final = Stage(f"{KIND}.{source}", VERSION, identity, found)
    tasks = [Task(s.split, verdicts_task, Judged(s, places, rules, cuts, seed)) for s in standing]
    return (yield Request(final, tasks))


def _text_scores(
    source: str,
    standing: Sequence[Standing],
    upstream: tuple[str, ...],
    use: Quality,
    models: Mapping[str, ModelFile],
) -> Request:
    """The stage of a fastText model's scores."""
    settings = use.fasttext
    file = models[settings.model]
    identity = {"sha256": file.sha256, "label": settings.label, "newlines": settings.newlines}
    stage = Stage(scores_stage(use.scorer, source), SCORES_VERSION, identity, upstream)
    tasks = [Task(s.split, text_scores_task, TextScoresSpec(s, settings, file)) for s in standing]
    return Request(stage, tasks)
