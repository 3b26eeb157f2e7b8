"""From recipe to shards: the order of the stages, and the checks between them.

    documents ─▶ filters ─▶ exact (over the sources of a group) ─▶ tokens ─▶ stream ─▶ shards ─▶ publishing

Every stage before publishing is immutable and resumable (records.py). Conservation is checked before anything
is published: for every source, documents read = kept + dropped by reason, and tokens in shards = tokens produced
− remainder − held out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from winnow.pipelines import documents, dropped, exact, lease, pack, publish, stream, tokens
from winnow.pipelines.cluster import Cluster, Inline, Task
from winnow.pipelines.engine import Done, Engine, RunError
from winnow.pipelines.planning import Plan, SourcePlan, plan
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import Recipe
from winnow.pipelines.records import Record, Stage, total
from winnow.shards import mds, storage
from winnow.shards.inputs import InputError
from winnow.tokenize.encoder import BackendChoice, Encoder, Vocabulary, choose_backend
from winnow.tokenize.source import TokenizerError, resolve

STAGES = ("documents", "filters", "dedup", "tokens", "stream", "shards")
"""What `--until` takes."""


@dataclass
class SourceRun:
    """What is known of one source as the run goes on."""

    plan: SourcePlan
    documents: Done
    filters: Done
    exact: Done | None = None
    tokens: Done | None = None
    shuffled: stream.Shuffled | None = None
    packed: pack.Packed | None = None
    dropped: Done | None = None

    @property
    def name(self) -> str:
        return self.plan.name


@dataclass
class Corpus:
    """A run that came to its end (or to `--until`)."""

    location: str
    recipe: Recipe
    sources: dict[str, SourceRun]
    tokenizer: Done | None = None
    vocabulary: Vocabulary | None = None
    backend: BackendChoice | None = None
    mixture: dict[str, Any] | None = None
    """What RUN/mixture.json holds; None when the run was stopped before the shards."""
    seconds: float = 0.0
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    """User and system seconds of tasks by kind of stage, of what ran now."""
    redone: dict[str, int] = field(default_factory=dict)
    """Tasks that ran now, by stage; what was recorded before is not redone."""


def run(
    recipe: Recipe,
    out: str,
    *,
    until: str | None = None,
    address: str | None = None,
    workers: int | None = None,
    inline: bool = False,
    progress: Progress | None = None,
) -> Corpus:
    """Make the corpus of a recipe in the directory `out`, or continue it.

    until : one of `STAGES`: stop after it, publish nothing.
    address, workers : Ray to connect to (default: RAY_ADDRESS, else one is started here) and tasks at a time.
    inline : run the tasks in this process, without Ray.

    Raises RecipeError and InputError for what the user must mend, LeaseError when another run holds `out`,
    RunError and ClusterError when it stopped; what is recorded stays, and the same call continues.
    """
    if until is not None and until not in STAGES:
        raise ValueError(f"until is {until!r}; stages are {', '.join(STAGES)}")
    progress = progress if progress is not None else Progress()
    out = storage.absolute(out)
    _check_name(recipe, out)
    planned = plan(recipe, progress.say)
    vocabulary, spec = _tokenizer(recipe)
    with lease.Lease(out):
        publish.begin(out, recipe)
        executor = Inline() if inline else Cluster(address, workers, recipe.limits.task_memory)
        try:
            engine = Engine(out, executor, progress)
            return _stages(engine, planned, vocabulary, spec, until)
        except OSError as error:
            raise RunError(f"{out}: {error}; the same command continues") from error
        finally:
            executor.close()


def _check_name(recipe: Recipe, out: str) -> None:
    name = publish.name_of(out)
    if name is not None and name != recipe.name:
        raise recipe.located(
            ("name",), f"{out} holds the run {name!r}, not {recipe.name!r}; choose another --out"
        )


def _tokenizer(recipe: Recipe) -> tuple[Vocabulary, tokens.TokenizerSpec]:
    settings = recipe.tokenizer
    try:
        spec = tokens.TokenizerSpec(resolve(settings.name), settings.eos_token, settings.bos_token)
        vocabulary = tokens.vocabulary_of(spec)
        Encoder(vocabulary, vocabulary.reference, append=settings.append)
    except TokenizerError as error:
        raise recipe.located(("tokenizer", "name"), str(error)) from error
    return vocabulary, spec


def _stages(
    engine: Engine, planned: Plan, vocabulary: Vocabulary, spec: tokens.TokenizerSpec, until: str | None
) -> Corpus:
    started = time.perf_counter()
    recipe = planned.recipe
    corpus = Corpus(engine.run, recipe, {}, vocabulary=vocabulary)
    for step in (_read, _filter, _deduplicate, _tokenize, _shuffle, _pack):
        step(engine, planned, corpus, spec)
        if until == {"read": "documents", "filter": "filters", "deduplicate": "dedup", "tokenize": "tokens",
                     "shuffle": "stream", "pack": "shards"}[step.__name__.strip("_")]:  # fmt: skip
            break
    else:
        check_conservation(corpus)
        _report_dropped(engine, corpus)
        corpus.mixture = publish.publish(corpus)
    corpus.seconds = time.perf_counter() - started
    for done in engine.done.values():
        corpus.redone[done.stage.name] = done.redone
        if done.redone:
            kind = done.stage.kind
            corpus.cpu_seconds[kind] = corpus.cpu_seconds.get(kind, 0.0) + sum(
                r.cpu_seconds for r in done.records
            )
    return corpus


def _read(engine: Engine, planned: Plan, corpus: Corpus, _: tokens.TokenizerSpec) -> None:
    recipe = planned.recipe
    for source in planned.sources:
        filters = filter_settings(source)
        stage = documents_stage(recipe, source)
        keep_text = recipe.dropped_text == "all"
        tasks = [
            Task(
                s.index, documents.documents_task, documents.DocumentsSpec(s, source.read, filters, keep_text)
            )
            for s in source.splits
        ]
        publish.put_listing(engine.run, stage, source)
        done = engine.perform(stage, tasks, _bad_rows_check(recipe, source))
        corpus.sources[source.name] = SourceRun(source, done, done)


def filter_settings(source: SourcePlan) -> tuple[Any, ...]:
    """The settings of a source's filters, in order."""
    return tuple(f.settings for f in source.source.filters)  # type: ignore[attr-defined]


def documents_stage(recipe: Recipe, source: SourcePlan) -> Stage:
    """The identity of a source's documents: what is read, how it is cut, and what decides the text of its documents."""
    parts = documents.segments(filter_settings(source))
    early: list[Any] = []
    for part in parts:
        if part.rewriter is not None:
            early.append([part.rewriter.name, part.rewriter.model_dump(mode="json")])  # type: ignore[attr-defined]
        if part is not parts[-1]:
            early.append([[r.name, r.minimum, r.maximum] for r in part.rules])
    read = source.read
    settings = {
        "source": source.name,
        "format": read.format,
        "text": read.text,
        "key": read.key,
        "on_truncated": read.on_truncated,
        "max_document_bytes": read.max_document_bytes,
        "split_bytes": recipe.limits.split_bytes,
        "files": publish.listing_digest(source),
        "segments": early,
        "signals": bool(parts[-1].rules),
        "dropped_text": recipe.dropped_text == "all" and len(parts) > 1,
    }
    return Stage(f"documents.{source.name}", documents.VERSION, settings)


def _bad_rows_check(recipe: Recipe, source: SourcePlan) -> Callable[[Record], None]:
    def check(record: Record) -> None:
        lost = record.counts["lost"]
        bad = {r: lost[r] for r in publish.MALFORMED if r in lost}
        allowed = max(1, int(recipe.max_bad_rows * record.counts["rows"])) if recipe.max_bad_rows else 0
        if sum(bad.values()) > allowed:
            split = source.splits[record.index]
            files = split.pieces[0].path + (f" … {split.pieces[-1].path}" if len(split.pieces) > 1 else "")
            reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(bad.items()))
            raise InputError(
                f"source {source.name!r}, split {record.index} ({files}): {sum(bad.values())} of "
                f"{record.counts['rows']} rows are malformed ({reasons}), max_bad_rows allows {allowed}; "
                f"they are kept in the stage's {documents.name('lost', record.index, 'parquet')}"
            )

    return check


def _filter(engine: Engine, planned: Plan, corpus: Corpus, _: tokens.TokenizerSpec) -> None:
    for source in corpus.sources.values():
        filters = filter_settings(source.plan)
        rules = documents.segments(filters)[-1].rules
        settings = {"rules": [[r.name, r.minimum, r.maximum] for r in rules]}
        stage = Stage(
            f"filters.{source.name}", documents.FILTERS_VERSION, settings, (source.documents.stage.directory,)
        )
        location = source.documents.location
        source.filters = engine.perform(
            stage,
            [
                Task(s.index, documents.filters_task, documents.FiltersSpec(s.index, location, filters))
                for s in source.plan.splits
            ],
        )


def _deduplicate(engine: Engine, planned: Plan, corpus: Corpus, _: tokens.TokenizerSpec) -> None:
    for group in planned.recipe.dedup_groups():
        members = [corpus.sources[n] for n in group]
        inputs: list[exact.Input] = []
        kept: list[Record] = []
        for rank, source in enumerate(members):
            for split, record in zip(source.plan.splits, source.documents.records, strict=True):
                files = tuple({(p.id_half, p.file) for p in split.pieces})
                inputs.append(
                    exact.Input(
                        rank,
                        split.index,
                        source.documents.location,
                        source.filters.location,
                        tuple(sorted(files)),
                        record.counts["documents"],
                    )
                )
            kept += source.filters.records
        upstream = [s.filters.stage for s in members]
        done = exact.deduplicate(engine, group, inputs, upstream, planned.recipe.limits.partition_bytes, kept)
        for source in members:
            source.exact = done


def _tokenize(engine: Engine, planned: Plan, corpus: Corpus, spec: tokens.TokenizerSpec) -> None:
    recipe = planned.recipe
    assert corpus.vocabulary is not None
    facts = {"sha256": spec.source.sha256, "kind": spec.source.kind, "name": spec.source.name,
             "eos_token": spec.eos_token, "bos_token": spec.bos_token}  # fmt: skip
    tokenizer = engine.perform(
        Stage("tokenizer", tokens.VERSION, facts), [Task(0, tokens.tokenizer_task, spec)]
    )
    corpus.tokenizer = tokenizer
    corpus.backend = choose_backend(corpus.vocabulary)
    engine.progress.say(f"tokenizer {spec.source.name}: {corpus.backend.reason}")
    for source in corpus.sources.values():
        upstream = [source.filters.stage.directory, tokenizer.stage.directory]
        if source.exact:
            upstream.append(source.exact.stage.directory)
        stage = Stage(
            f"tokens.{source.name}", tokens.VERSION, {"append": recipe.tokenizer.append}, tuple(upstream)
        )
        tasks = [
            Task(
                r.index,
                tokens.tokens_task,
                tokens.TokensSpec(
                    source.name,
                    r.index,
                    r.counts["documents"],
                    source.documents.location,
                    source.filters.location,
                    source.exact.location if source.exact else None,
                    tokenizer.location,
                    corpus.backend.name,
                    recipe.tokenizer.append,
                ),
            )
            for r in source.documents.records
        ]
        source.tokens = engine.perform(stage, tasks)


def _shuffle(engine: Engine, planned: Plan, corpus: Corpus, _: tokens.TokenizerSpec) -> None:
    recipe = planned.recipe
    assert corpus.vocabulary is not None
    for source in corpus.sources.values():
        assert source.tokens is not None
        heldout = source.plan.source.heldout
        source.shuffled = stream.shuffle(
            engine,
            source.name,
            source.tokens,
            corpus.vocabulary.dtype,
            recipe.seed,
            heldout.fraction if heldout else 0.0,
            recipe.limits.partition_bytes,
        )


def _pack(engine: Engine, planned: Plan, corpus: Corpus, _: tokens.TokenizerSpec) -> None:
    recipe = planned.recipe
    assert corpus.vocabulary is not None
    assert corpus.tokenizer is not None
    try:
        layout = mds.Layout(
            dtype=corpus.vocabulary.dtype,
            length=recipe.sequence.length,
            hashes=tuple(recipe.shards.hashes),
            compression=recipe.shards.compression,
            size_limit=recipe.shards.size_limit,
        )
    except ValueError as error:
        raise recipe.located(("shards", "size_limit"), str(error)) from error
    for source in corpus.sources.values():
        assert source.shuffled is not None
        source.packed = pack.pack(engine, source.name, source.shuffled, layout, corpus.tokenizer)


def _report_dropped(engine: Engine, corpus: Corpus) -> None:
    recipe = corpus.recipe
    for source in corpus.sources.values():
        filters = filter_settings(source.plan)
        settings = {"text": recipe.dropped_text, "seed": recipe.seed}
        upstream = [source.filters.stage.directory] + ([source.exact.stage.directory] if source.exact else [])
        stage = Stage(f"dropped.{source.name}", dropped.VERSION, settings, tuple(upstream))
        tasks = [
            Task(
                s.index,
                dropped.dropped_task,
                dropped.DroppedSpec(
                    source.name,
                    s.index,
                    len(source.plan.splits),
                    source.documents.location,
                    source.filters.location,
                    source.exact.location if source.exact else None,
                    filters,
                    recipe.dropped_text,
                    recipe.seed,
                ),
            )
            for s in source.plan.splits
        ]
        source.dropped = engine.perform(stage, tasks)


def check_conservation(corpus: Corpus) -> None:
    """Raises RunError unless every document and token of every source is accounted for."""
    for source in corpus.sources.values():
        assert source.tokens is not None
        assert source.shuffled is not None
        assert source.packed is not None
        read, kept, tokenized = source.documents.records, source.filters.records, source.tokens.records
        streamed = source.shuffled.done.records
        lost, dropped_by_rule = total(read, "lost") or {}, total(kept, "dropped") or {}
        duplicates = total(source.exact.records, "dropped", source.name) if source.exact else 0
        passed_on = total(read, "documents")
        _equal(source, "rows read, and lost + passed on", total(read, "rows"), sum(lost.values()) + passed_on)
        decided = sum(dropped_by_rule.values()) + total(kept, "kept")
        _equal(source, "documents into the filters, and dropped + kept", passed_on, decided)
        accounted = duplicates + total(tokenized, "documents")
        _equal(source, "documents kept, and duplicates + tokenized", total(kept, "kept"), accounted)
        for what in ("documents", "tokens", "text_bytes"):
            _equal(source, f"{what} tokenized, and in streams", total(tokenized, what), total(streamed, what))
        length = corpus.recipe.sequence.length
        for split in pack.SPLITS:
            available = source.packed.streams[split].n_tokens
            packed = source.packed.rows(split) * length
            _equal(
                source,
                f"tokens of {split} less remainder, and in shards",
                available - available % length,
                packed,
            )


def _equal(source: SourceRun, what: str, left: int, right: int) -> None:
    if left != right:
        raise RunError(
            f"source {source.name!r}: {what}: {left:,} against {right:,}; nothing was published. This is a fault "
            "of Winnow or of the storage; please report it with RUN/stages"
        )
