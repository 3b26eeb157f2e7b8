"""How is a source brought from its files to documents that filters have seen, no more of it than is needed?

A source that is read whole, or to a share, is one stage of documents. Of one that is to give so many tokens, a pilot
is read, filtered and tokenized, and then more, until what the filters left is enough by the pilot's bytes per token
(sampling.py has the arithmetic). Each round has its own stages of filters and of tokens, the stage of documents is
one: it is of the whole listing, and gets more records.

What the rounds came to is kept in the stage `sampling`, whose identity is all that they depend on. So a run that is
cleaned of the rounds' stages does not go through them again when only what comes behind the tokens has changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from winnow.filters.model_files import ModelFile
from winnow.pipelines import filtering, sampling, tokens
from winnow.pipelines.benchmark_items import index_request
from winnow.pipelines.cluster import Task
from winnow.pipelines.engine import Done, Engine, Work
from winnow.pipelines.planning import Plan, SourcePlan
from winnow.pipelines.recipe import Recipe, values
from winnow.pipelines.records import Outputs, Stage, total
from winnow.pipelines.sampling import ENOUGH, MARGIN, Choice, first_choice, narrowed, too_short, train_tokens
from winnow.pipelines.standing import standings_of
from winnow.shards import storage

if TYPE_CHECKING:
    from winnow.pipelines.corpus import SourceRun

VERSION = 1


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read of a source."""

    plan: SourcePlan
    """With the splits that were read."""
    choice: Choice | None
    """None: all of them, as the recipe wants."""
    documents: Done


def read(
    run: str,
    recipe: Recipe,
    source: SourcePlan,
    choice: Choice | None,
    filters: filtering.Filters,
    known: Mapping[str, ModelFile],
    tokenizer: tokens.Tokenizing,
) -> Work[Reading]:
    """Read what is chosen of a source, and of one that wants tokens and has not been through dedup yet, enough.

    source : all of it.
    known : models that filters go by.
    """
    tokens_per_byte = None
    while True:
        part = narrowed(source, choice)
        documents = yield filtering.documents_request(run, recipe, part, filters, known)
        if choice is None or choice.wanted is None or choice.counted or choice.whole:
            return Reading(part, choice, documents)
        filtered = yield from filtering.filters_work(recipe, part, filters, documents)
        if tokens_per_byte is None:
            standings = standings_of(part, documents, filtered)
            pilot = yield tokens.request(source.name, standings, [filtered.stage.directory], tokenizer)
            # Of conversations only what fits has tokens; what is left of further splits is counted before that.
            text = total(filtered.records, "kept_bytes")
            tokens_per_byte = total(pilot.records, "tokens") / text if text else None
        left = {record.index: record.counts["kept_bytes"] for record in filtered.records}
        expected = sum(left.values()) * (tokens_per_byte or 0.0) * choice.train_share
        if expected < ENOUGH * choice.wanted:
            choice = choice.grown(expected, counted=False)
            continue
        choice = choice.no_longer_than(left, sum(left.values()) * MARGIN * choice.wanted / expected)
        part = narrowed(source, choice)
        documents = yield filtering.documents_request(run, recipe, part, filters, known)
        return Reading(part, choice, documents)


def falls_short(sources: Collection[SourceRun], say: Callable[[str], None]) -> bool:
    """Whether, now that tokens were counted, more of a source is to be read, and what follows done over.

    Such a source has its next choice then, and nothing of any source goes behind its filters.
    """
    short = too_short(sources)
    for name, choice in short.items():
        source = next(s for s in sources if s.name == name)
        say(
            f"{name}: {train_tokens(source):,.0f} of {choice.wanted:,} tokens; reading {choice.n:,} of "
            f"{len(choice.splits):,} splits"
        )
        source.choice = choice
    if short:
        for source in sources:
            source.steps, source.tokens, source.shuffled = [], None, None
            source.embedded.clear()
    return bool(short)


def _kept_stage(
    planned: Plan,
    filters: Mapping[str, filtering.Filters],
    tokenizer: Done,
    vectors: Mapping[str, Any],
) -> Stage:
    """The identity of the choices of a run: all that they depend on, of every source, for dedup goes over them all.

    vectors : identities of encoders, and of classifiers on vectors, by name.
    """
    recipe = planned.recipe
    said = values(recipe)
    deciding = ("filters", "dedup", "quality", "heldout", "sample", "tokens")
    settings = {
        "seed": recipe.seed,
        "append": recipe.tokenizer.append,
        "dedup": said["dedup"],
        "vectors": vectors,
        "sources": {name: {key: source[key] for key in deciding} for name, source in said["sources"].items()},
        "chats": {n: s.read.chat.max_tokens for n, s in recipe.sources.items() if s.read.chat},
        "rule": [sampling.MARGIN, sampling.ENOUGH, sampling.PILOT, sampling.PILOT_PART, sampling.GROWTH],
    }
    settings = {key: value for key, value in settings.items() if key != "chats" or value}
    inputs = [filtering.documents_stage(recipe, s, filters[s.name]).directory for s in planned.sources]
    compared = []
    for step in recipe.dedup_steps():
        for group in step.groups:
            if step.name == "decontaminate":
                inputs.append(index_request(group.settings).stage.directory)
            for earlier in group.against:
                manifest = storage.read_bytes(storage.join(storage.absolute(earlier), "manifest.json"))
                compared.append(hashlib.sha256(manifest).hexdigest())
    return Stage("sampling", VERSION, settings | {"against": compared}, (*inputs, tokenizer.stage.directory))


def first_choices(
    engine: Engine,
    planned: Plan,
    filters: Mapping[str, filtering.Filters],
    tokenizer: Done,
    vectors: Mapping[str, Any],
) -> dict[str, Choice | None]:
    """What is read first of each source: what an earlier run came to, where it had to decide the same."""
    choices = {source.name: first_choice(source) for source in planned.sources}
    if any(choice and choice.wanted for choice in choices.values()):
        kept = engine.finished(_kept_stage(planned, filters, tokenizer, vectors), 1)
        for name, (n, rounds) in kept.records[0].counts.items() if kept else ():
            choice = choices[name]
            assert choice is not None
            choices[name] = replace(choice, n=n, rounds=rounds, counted=True)
    return choices


def keep_choices(
    engine: Engine,
    planned: Plan,
    sources: Collection[SourceRun],
    tokenizer: Done,
    vectors: Mapping[str, Any],
) -> list[Done]:
    """Keep what the rounds came to, for a later run; returns the stage, or nothing where there were no rounds."""
    found = {s.name: [s.choice.n, s.choice.rounds] for s in sources if s.choice and s.choice.wanted}
    if not found:
        return []
    stage = _kept_stage(planned, {s.name: s.filter_settings for s in sources}, tokenizer, vectors)
    return [engine.perform(stage, [Task(0, keep_task, found)])]


def keep_task(spec: dict[str, Any], outputs: Outputs) -> dict[str, Any]:
    """Record splits and rounds by source."""
    return spec
