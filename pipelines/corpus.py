"""From recipe to shards: the order of the stages, and the checks between them.

    documents ─▶ filters ─▶ steps of dedup (dedup.py) ─▶ tokens ─▶ stream ─▶ shards ─▶ publishing

Every stage before publishing is immutable and resumable (records.py). Conservation is checked before anything
is published: for every source, documents read = kept + dropped by reason, and tokens in shards = tokens produced
− remainder − held out.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from winnow.filters.catalogue import Segment
from winnow.pipelines import (
    dedup,
    documents,
    dropped,
    filtering,
    lease,
    models,
    pack,
    plan_dedup,
    publish,
    stream,
    tokens,
    training,
)
from winnow.pipelines.cluster import Cluster, Inline, Task
from winnow.pipelines.dedup_settings import Step
from winnow.pipelines.engine import Done, Engine, Request, RunError
from winnow.pipelines.planning import Plan, SourcePlan, plan
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import Recipe
from winnow.pipelines.records import Stage, total
from winnow.shards import feed, mds, storage
from winnow.shards.inputs import InputError
from winnow.tokenize.encoder import BackendChoice, Vocabulary, check_append, choose_backend
from winnow.tokenize.source import TokenizerError, TokenizerSource, resolve

STAGES = ("documents", "filters", "dedup", "tokens", "stream", "shards")
"""What `--until` takes."""


@dataclass
class SourceRun:
    """What is known of one source as the run goes on."""

    plan: SourcePlan
    filter_settings: filtering.Filters
    documents: Done
    filters: Done
    steps: list[Done] = field(default_factory=list)
    """The verdicts of dedup, in order."""
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
    plan: Plan
    sources: dict[str, SourceRun]
    tokenizer: Done
    vocabulary: Vocabulary
    fetched: dict[str, Done] = field(default_factory=dict)
    """The stage of each model that filters go by and the recipe does not train, by the recipe's name for it."""
    classifiers: dict[str, Done] = field(default_factory=dict)
    """The stage of each classifier that the recipe trains."""
    models: models.Models = field(default_factory=dict)
    """All of them."""
    lasting: list[Done] = field(default_factory=list)
    """What later runs can compare with."""
    backend: BackendChoice | None = None
    mixture: dict[str, Any] | None = None
    """What RUN/mixture.json holds; None when the run was stopped before the shards."""
    seconds: float = 0.0
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    """User and system seconds of tasks by kind of stage, of what ran now."""
    redone: dict[str, int] = field(default_factory=dict)
    """Tasks that ran now, by stage; what was recorded before is not redone."""

    @property
    def recipe(self) -> Recipe:
        return self.plan.recipe

    @property
    def counter(self) -> tokens.RunCounter:
        """What counts tokens for filters."""
        assert self.backend is not None
        return tokens.RunCounter(self.tokenizer.location, self.backend.name)


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
    _check_out(recipe, out)
    planned = plan(recipe, progress.say, publish.roots_of(out))
    plan_dedup.check(planned)
    source = _tokenizer_source(recipe)
    with lease.Lease(out):
        engine = Engine(out, Inline(), progress)
        try:
            publish.begin(out, planned)
            tokenizer = _tokenizer(engine, recipe, source)
            found = models.fetch(engine, recipe)
            if not inline:
                rehearse = partial(_rehearse, filtering.all_parts(planned), recipe.dedup_steps())
                engine.executor = Cluster(out, address, workers, recipe.limits.task_memory, rehearse)
            return _stages(engine, planned, tokenizer, found, until)
        except OSError as error:
            raise RunError(f"{out}: {error}; the same command continues") from error
        finally:
            engine.executor.close()


def _rehearse(parts: Sequence[Segment], steps: Sequence[Step]) -> None:
    """What every node does before the work."""
    documents.rehearse(parts)
    dedup.rehearse(steps)


def _check_out(recipe: Recipe, out: str) -> None:
    scheme = out.partition("://")[0]
    if not storage.is_local(out) and scheme not in feed.REMOTE_SCHEMES:
        raise InputError(
            f"--out {out}: mosaicml-streaming cannot read {scheme}://; it reads {', '.join(feed.REMOTE_SCHEMES)}"
        )
    name = publish.name_of(out)
    if name is not None and name != recipe.name:
        message = f"{out} holds the run {name!r}, not {recipe.name!r}; choose another --out"
        raise recipe.located(("name",), message)


def _tokenizer_source(recipe: Recipe) -> TokenizerSource:
    try:
        return resolve(recipe.tokenizer.name)
    except TokenizerError as error:
        raise recipe.located(("tokenizer", "name"), str(error)) from error


def _tokenizer(engine: Engine, recipe: Recipe, source: TokenizerSource) -> Done:
    """The tokenizer's stage. It takes a second once, so it is the driver's own work, not Ray's."""
    settings = recipe.tokenizer
    spec = tokens.TokenizerSpec(source, settings.eos_token, settings.bos_token)
    identity = {
        "name": source.name,
        "kind": source.kind,
        "sha256": source.sha256,
        "eos_token": spec.eos_token,
        "bos_token": spec.bos_token,
    }
    stage = Stage("tokenizer", tokens.VERSION, identity)
    try:
        done = engine.perform(stage, [Task(0, tokens.tokenizer_task, spec)])
        vocabulary = tokens.load_vocabulary(done.location)
        check_append(vocabulary, settings.append)
    except TokenizerError as error:
        raise recipe.located(("tokenizer", "name"), str(error)) from error
    except RunError as error:
        cause = getattr(error.__cause__, "cause", None)
        if isinstance(cause, TokenizerError):
            raise recipe.located(("tokenizer", "name"), str(cause)) from error
        raise
    _layout(recipe, vocabulary)  # a sample that fits no shard is said before any work
    return done


def _stages(
    engine: Engine, planned: Plan, tokenizer: Done, found: dict[str, Done], until: str | None
) -> Corpus:
    started = time.perf_counter()
    vocabulary = tokens.load_vocabulary(tokenizer.location)
    corpus = Corpus(engine.run, planned, {}, tokenizer, vocabulary)
    corpus.fetched = found
    corpus.models = {name: models.file_of(done) for name, done in found.items()}
    corpus.backend = choose_backend(vocabulary)
    engine.progress.say(f"tokenizer {planned.recipe.tokenizer.name}: {corpus.backend.reason}")
    corpus.classifiers = training.train(engine, planned, corpus.models, corpus.counter)
    corpus.models |= {name: models.file_of(done) for name, done in corpus.classifiers.items()}
    steps = (_read, _filter, _deduplicate, _tokenize, _shuffle, _pack)
    for stage, step in zip(STAGES, steps, strict=True):
        step(engine, planned, corpus)
        if stage == until:
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
            corpus.cpu_seconds[kind] = corpus.cpu_seconds.get(kind, 0.0) + done.cpu_seconds
    return corpus


def _read(engine: Engine, planned: Plan, corpus: Corpus) -> None:
    recipe = planned.recipe
    filters = {
        s.name: models.complete(filtering.filter_settings(s), corpus.models, corpus.counter)
        for s in planned.sources
    }
    for name, settings in filters.items():
        filtering.check(recipe, ("sources", name), settings)
    requests = [
        filtering.documents_request(engine.run, recipe, s, filters[s.name], corpus.models)
        for s in planned.sources
    ]
    for source, done in zip(planned.sources, engine.perform_all(requests), strict=True):
        corpus.sources[source.name] = SourceRun(source, filters[source.name], done, done)


def _filter(engine: Engine, planned: Plan, corpus: Corpus) -> None:
    works = [
        filtering.filters_work(planned.recipe, source.plan, source.filter_settings, source.documents)
        for source in corpus.sources.values()
    ]
    for source, done in zip(corpus.sources.values(), engine.together(*works), strict=True):
        source.filters = done


def _deduplicate(engine: Engine, planned: Plan, corpus: Corpus) -> None:
    dedup.deduplicate(engine, planned, corpus.sources)
    corpus.lasting = [done for done in engine.done.values() if done.stage.kind in dedup.LASTING]


def _tokenize(engine: Engine, planned: Plan, corpus: Corpus) -> None:
    append = planned.recipe.tokenizer.append
    assert corpus.backend is not None
    requests = []
    for source in corpus.sources.values():
        steps = [done.stage.directory for done in source.steps]
        upstream = [source.filters.stage.directory, corpus.tokenizer.stage.directory, *steps]
        stage = Stage(f"tokens.{source.name}", tokens.VERSION, {"append": append}, tuple(upstream))
        specs = [
            tokens.TokensSpec(
                standing=standing,
                tokenizer=corpus.tokenizer.location,
                backend=corpus.backend.name,
                append=append,
            )
            for standing in dedup.standings(source)
        ]
        requests.append(Request(stage, [Task(s.standing.split, tokens.tokens_task, s) for s in specs]))
    for source, done in zip(corpus.sources.values(), engine.perform_all(requests), strict=True):
        source.tokens = done


def _shuffle(engine: Engine, planned: Plan, corpus: Corpus) -> None:
    recipe = planned.recipe
    works = []
    for source in corpus.sources.values():
        assert source.tokens is not None
        heldout = source.plan.source.heldout
        fraction = heldout.fraction if heldout else 0.0
        limit = recipe.limits.partition_bytes
        dtype = corpus.vocabulary.dtype
        works.append(stream.shuffle(engine, source.name, source.tokens, dtype, recipe.seed, fraction, limit))
    for source, shuffled in zip(corpus.sources.values(), engine.together(*works), strict=True):
        source.shuffled = shuffled


def _pack(engine: Engine, planned: Plan, corpus: Corpus) -> None:
    recipe = planned.recipe
    layout = _layout(recipe, corpus.vocabulary)
    works = []
    for source in corpus.sources.values():
        assert source.shuffled is not None
        works.append(pack.pack(source.name, source.shuffled, layout, corpus.tokenizer))
    for source, packed in zip(corpus.sources.values(), engine.together(*works), strict=True):
        source.packed = packed


def _layout(recipe: Recipe, vocabulary: Vocabulary) -> mds.Layout:
    try:
        return mds.Layout(
            dtype=vocabulary.dtype,
            length=recipe.sequence.length,
            hashes=tuple(recipe.shards.hashes),
            compression=recipe.shards.compression,
            size_limit=recipe.shards.size_limit,
        )
    except ValueError as error:
        raise recipe.located(("shards", "size_limit"), str(error)) from error


def _report_dropped(engine: Engine, corpus: Corpus) -> None:
    recipe = corpus.recipe
    requests = []
    for source in corpus.sources.values():
        settings = {"text": recipe.dropped_text, "seed": recipe.seed}
        upstream = [done.stage.directory for done in (source.filters, *source.steps)]
        stage = Stage(f"dropped.{source.name}", dropped.VERSION, settings, tuple(upstream))
        specs = [
            dropped.DroppedSpec(
                standing=standing,
                splits=len(source.plan.splits),
                rules=filtering.parts_of(recipe, source.filter_settings)[-1].rules,
                text=recipe.dropped_text,
                seed=recipe.seed,
            )
            for standing in dedup.standings(source)
        ]
        requests.append(Request(stage, [Task(s.standing.split, dropped.dropped_task, s) for s in specs]))
    for source, done in zip(corpus.sources.values(), engine.perform_all(requests), strict=True):
        source.dropped = done


def check_conservation(corpus: Corpus) -> None:
    """Raises RunError unless every document and token of every source is accounted for."""
    for source in corpus.sources.values():
        assert source.tokens is not None
        assert source.shuffled is not None
        assert source.packed is not None
        read, kept, tokenized = source.documents.records, source.filters.records, source.tokens.records
        streamed = source.shuffled.done.records
        lost, dropped_by_rule = total(read, "lost") or {}, total(kept, "dropped") or {}
        duplicates = sum(total(done.records, "dropped", source.name) for done in source.steps)
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
