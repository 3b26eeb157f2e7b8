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
    conservation,
    dedup,
    documents,
    dropped,
    embedding_training,
    embeddings,
    encoders,
    exclude,
    filtering,
    grouping,
    lease,
    mixing,
    models,
    plan_agreement,
    plan_dedup,
    plan_reading,
    plan_scratch,
    publish,
    quality_step,
    ray_job,
    reading,
    sampling,
    stream,
    tokenizer_stage,
    tokens,
    tracing,
    training,
)
from winnow.pipelines.cluster import Cluster, Inline, Task
from winnow.pipelines.dedup_settings import Step
from winnow.pipelines.engine import Done, Engine, Request, RunError
from winnow.pipelines.exclude import Excluded
from winnow.pipelines.planning import Plan, SourcePlan, need_all, plan
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import Recipe
from winnow.pipelines.records import Stage
from winnow.pipelines.standing import standings
from winnow.shards import loss_mask, mixture, storage
from winnow.tokenize.encoder import BackendChoice, Vocabulary, choose_backend

STAGES = ("documents", "filters", "dedup", "tokens", "stream", "shards")
"""What `--until` takes."""


@dataclass
class SourceRun:
    """What is known of one source as the run goes on."""

    plan: SourcePlan
    """With the splits that were read."""
    filter_settings: filtering.Filters
    documents: Done
    filters: Done
    steps: list[Done] = field(default_factory=list)
    """The verdicts of dedup, in order, and last of `quality`."""
    embedded: dict[str, Done] = field(default_factory=dict)
    """Its vectors, by embedding."""
    tokens: Done | None = None
    shuffled: stream.Shuffled | None = None
    groups: Done | None = None
    """Its tokens by fields of `meta`, where the recipe asks for that."""
    excluded: Excluded | None = None
    """Documents that are not to be published, where it has lists of them."""
    shards: list[mixing.SourceShards] = field(default_factory=list)
    """In each packing, the main one's first."""
    dropped: Done | None = None
    choice: sampling.Choice | None = None
    """Which splits those are, of a source that the recipe does not want whole."""

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
    embedding_classifiers: dict[str, Done] = field(default_factory=dict)
    """The stage of each classifier on embeddings that the recipe trains."""
    embeddings: embeddings.Embeddings | None = None
    """What makes vectors; None where nothing needs any."""
    lists: dict[str, exclude.Lists] = field(default_factory=dict)
    """Of documents to take out, by source."""
    models: models.Models = field(default_factory=dict)
    """All of them."""
    lasting: list[Done] = field(default_factory=list)
    """What later runs can compare with."""
    backend: BackendChoice | None = None
    shares: list[mixture.Share] = field(default_factory=list)
    """The mixture, in the order of the sources."""
    mixings: list[mixing.Mixing] = field(default_factory=list)
    """What is drawn in each packing, the main one's first."""
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

    @property
    def vectors(self) -> dict[str, Any]:
        """What `semantic`, `prototypes` and `quality` depend on beside the recipe: files of encoders and models."""
        uses = [use for source in self.recipe.sources.values() for use in source.quality]
        models = {n: self.models[n].sha256 for use in uses if (n := use.fasttext.model) in self.models}
        found: dict[str, Any] = {"models": models} if models else {}
        if self.embeddings is not None:
            found["encoders"] = {n: e.identity for n, e in self.embeddings.encoders.items()}
            heads = self.embedding_classifiers.items()
            found["classifiers"] = {name: done.records[0].counts["sha256"] for name, done in heads}
        return found

    @property
    def tokenizing(self) -> tokens.Tokenizing:
        """How documents become tokens."""
        assert self.backend is not None
        chats = {
            name: tokens.Chats(source.read.chat.max_tokens)
            for name, source in self.recipe.sources.items()
            if source.read.chat is not None
        }
        append = self.recipe.tokenizer.append
        return tokens.Tokenizing(self.tokenizer, self.backend.name, append, chats, self.masked)

    @property
    def masked(self) -> bool:
        """Whether the shards say which tokens are trained on."""
        return loss_mask.COLUMN in self.recipe.shards.columns


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
    publish.check_out(recipe, out)
    planned = plan(recipe, progress.say, publish.roots_of(out), publish.commits_of(out))
    need_all(planned)
    recipe = planned.recipe
    progress.describe(recipe.name, list(recipe.sources))
    plan_reading.check(planned)
    plan_dedup.check(planned)
    plan_scratch.check(planned, out, inline)
    ray_job.check(planned, out)
    lists = exclude.read_lists(recipe)
    source = tokenizer_stage.source_of(recipe)
    with lease.Lease(out, progress.say):
        engine = Engine(out, Inline(), progress)
        try:
            publish.begin(out, planned)
            tokenizer = tokenizer_stage.tokenizer(engine, recipe, source)
            found = models.fetch(engine, recipe)
            places, encoder_stages = encoders.fetch(engine, recipe)
            if not inline:
                rehearse = partial(_rehearse, filtering.all_parts(planned), recipe.dedup_steps())
                engine.executor = Cluster(
                    out,
                    address,
                    workers,
                    recipe.limits.task_memory,
                    rehearse,
                    plan_scratch.scratch_bytes(planned, out),
                    plan_agreement.terms(planned, tokenizer),
                    progress.say,
                )
            corpus = _corpus(engine, planned, tokenizer, found, lists)
            if places:
                corpus.embeddings = embeddings.prepare(engine, planned, places, encoder_stages)
            return _stages(engine, planned, corpus, until)
        except OSError as error:
            raise RunError(f"{out}: {error}; the same command continues") from error
        finally:
            progress.finish()
            engine.executor.close()


def _rehearse(parts: Sequence[Segment], steps: Sequence[Step]) -> None:
    """What every node does before the work."""
    documents.rehearse(parts)
    dedup.rehearse(steps)


def _corpus(
    engine: Engine,
    planned: Plan,
    tokenizer: Done,
    found: dict[str, Done],
    lists: dict[str, exclude.Lists],
) -> Corpus:
    """What is known before any source is read."""
    vocabulary = tokens.load_vocabulary(tokenizer.location)
    corpus = Corpus(engine.run, planned, {}, tokenizer, vocabulary)
    corpus.fetched = found
    corpus.lists = lists
    corpus.models = {name: models.file_of(done) for name, done in found.items()}
    corpus.backend = choose_backend(vocabulary)
    engine.progress.say(f"tokenizer {planned.recipe.tokenizer.name}: {corpus.backend.reason}")
    return corpus


def _stages(engine: Engine, planned: Plan, corpus: Corpus, until: str | None) -> Corpus:
    started = time.perf_counter()
    corpus.classifiers = training.train(engine, planned, corpus.models, corpus.counter)
    corpus.models |= {name: models.file_of(done) for name, done in corpus.classifiers.items()}
    if corpus.embeddings is not None:
        corpus.embedding_classifiers = embedding_training.train(
            engine,
            planned,
            corpus.models,
            corpus.counter,
            corpus.embeddings.encoders,
            corpus.embeddings.devices,
        )
    steps = dict(zip(STAGES, (_read, _filter, _deduplicate, _tokenize, _shuffle, _pack), strict=True))
    left = list(STAGES)
    while left:
        stage = left.pop(0)
        steps[stage](engine, planned, corpus)
        if stage in sampling.MEASURED and reading.falls_short(corpus.sources.values(), engine.progress.say):
            left = list(STAGES)
        elif stage == until:
            break
    else:
        conservation.check(corpus)
        corpus.lasting += reading.keep_choices(
            engine, planned, corpus.sources.values(), corpus.tokenizer, corpus.vectors
        )
        _report_dropped(engine, corpus)
        corpus.mixture = publish.publish(corpus)
    corpus.seconds = time.perf_counter() - started
    for done in engine.performed:
        corpus.redone[done.stage.name] = corpus.redone.get(done.stage.name, 0) + done.redone
        if done.redone:
            kind = done.stage.kind
            corpus.cpu_seconds[kind] = corpus.cpu_seconds.get(kind, 0.0) + done.cpu_seconds
    return corpus


def _read(engine: Engine, planned: Plan, corpus: Corpus) -> None:
    """Read the sources; later, those of which more is wanted now."""
    recipe = planned.recipe
    filters = {
        s.name: models.complete(filtering.filter_settings(s), corpus.models, corpus.counter)
        for s in planned.sources
    }
    for name, settings in filters.items():
        filtering.check(recipe, ("sources", name), settings)
    if not corpus.sources:
        chosen = reading.first_choices(engine, planned, filters, corpus.tokenizer, corpus.vectors)
    else:
        chosen = {
            s.name: s.choice for s in corpus.sources.values() if s.choice and s.choice.n > len(s.plan.splits)
        }
    works = [
        reading.read(engine.run, recipe, s, chosen[s.name], filters[s.name], corpus.models, corpus.tokenizing)
        for s in planned.sources
        if s.name in chosen
    ]
    for name, found in zip(chosen, engine.together(*works), strict=True):
        done = found.documents
        corpus.sources[name] = SourceRun(found.plan, filters[name], done, done, choice=found.choice)


def _filter(engine: Engine, planned: Plan, corpus: Corpus) -> None:
    sources = [source for source in corpus.sources.values() if source.filters is source.documents]
    works = [
        filtering.filters_work(planned.recipe, source.plan, source.filter_settings, source.documents)
        for source in sources
    ]
    for source, done in zip(sources, engine.together(*works), strict=True):
        source.filters = done


def _deduplicate(engine: Engine, planned: Plan, corpus: Corpus) -> None:
    dedup.deduplicate(engine, planned, corpus.sources, corpus.embeddings)
    if corpus.embedding_classifiers:
        assert corpus.embeddings is not None
        embeddings.embed(engine, planned.recipe, corpus.sources, corpus.embeddings)
    if any(source.plan.source.quality for source in corpus.sources.values()):
        quality_step.judge(
            engine, planned.recipe, corpus.sources, corpus.embedding_classifiers, corpus.models
        )
    corpus.lasting = [done for done in engine.done.values() if done.stage.kind in dedup.LASTING]


def _tokenize(engine: Engine, planned: Plan, corpus: Corpus) -> None:
    requests = []
    for source in corpus.sources.values():
        upstream = [done.stage.directory for done in (source.filters, *source.steps)]
        requests.append(tokens.request(source.name, standings(source), upstream, corpus.tokenizing))
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
        dtype = "uint32" if corpus.masked else corpus.vocabulary.dtype
        works.append(stream.shuffle(engine, source.name, source.tokens, dtype, recipe.seed, fraction, limit))
    for source, shuffled in zip(corpus.sources.values(), engine.together(*works), strict=True):
        source.shuffled = shuffled
        tracing.put_partitions(shuffled.done)


def _pack(engine: Engine, planned: Plan, corpus: Corpus) -> None:
    fields = planned.recipe.mixture.group_by
    if fields:
        works = [grouping.groups_work(engine, source, fields) for source in corpus.sources.values()]
        for source, done in zip(corpus.sources.values(), engine.together(*works), strict=True):
            source.groups = done
    mixing.make_shards(engine, corpus)


def _report_dropped(engine: Engine, corpus: Corpus) -> None:
    recipe = corpus.recipe
    requests = []
    for source in corpus.sources.values():
        settings = {"text": recipe.dropped_text, "seed": recipe.seed}
        upstream = [done.stage.directory for done in (source.filters, *source.steps)]
        chats = source.tokens if source.name in corpus.tokenizing.chats else None
        upstream += [chats.stage.directory] if chats else []
        stage = Stage(f"dropped.{source.name}", dropped.VERSION, settings, tuple(upstream))
        thresholds = dropped.thresholds_of(source.steps)
        specs = [
            dropped.DroppedSpec(
                standing=standing,
                splits=len(source.plan.splits),
                rules=filtering.parts_of(recipe, source.filter_settings)[-1].rules,
                text=recipe.dropped_text,
                seed=recipe.seed,
                thresholds=thresholds,
                tokens=chats.location if chats else None,
            )
            for standing in standings(source)
        ]
        requests.append(Request(stage, [Task(s.standing.split, dropped.dropped_task, s) for s in specs]))
    for source, done in zip(corpus.sources.values(), engine.perform_all(requests), strict=True):
        source.dropped = done
