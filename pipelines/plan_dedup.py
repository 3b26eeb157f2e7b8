"""What would the steps of dedup need, and is what they compare with there?

Estimates by rule of thumb, of text as it is read: filters leave less. They are for the decision whether to start.
"""

from __future__ import annotations

from typing import Any

from winnow.filters.bloom_settings import filter_bytes
from winnow.pipelines import plan_vectors
from winnow.pipelines.benchmark_items import find_files
from winnow.pipelines.bloom import NGRAM_BYTES, refusal
from winnow.pipelines.dedup_settings import WITH_VECTORS, Group, Step
from winnow.pipelines.earlier import earlier_sources
from winnow.pipelines.embedding_cost import DOCUMENT_BYTES
from winnow.pipelines.planning import Plan
from winnow.shards import exchange
from winnow.shards.inputs import InputError

LONGEST = 100_000
"""N-grams of the longest document, taken for the estimate."""
HASH_BYTES, BAND_BYTES, SLOT_BYTES = 48, 28, 4
LINES_SHARE, SUBSTRINGS_SHARE = 0.17, 0.46
"""Bytes of exchange for a byte of text (ours, of this project's corpora: benchmarks/lines.py and substrings.py)."""


def check(plan: Plan) -> None:
    """Raises RecipeError where benchmarks' files, earlier runs, or packages and directories of encoders are not there.

    Nothing has been started yet. Of benchmarks that cannot be reached nothing is said.
    """
    plan_vectors.check(plan.recipe)
    for step in plan.recipe.dedup_steps():
        for group in step.groups:
            try:
                if step.name == "decontaminate":
                    benchmarks = group.settings.benchmarks.items()
                    find_files({name: b for name, b in benchmarks if name not in plan.unreached})
                earlier_sources(group.against)
            except InputError as error:
                raise plan.recipe.located(place_of(step, group), str(error)) from error


def place_of(step: Step, group: Group) -> tuple[str, ...]:
    """Where the recipe asks for a step of a group."""
    alone = len(group.sources) == 1 and step.name != "decontaminate"
    return ("sources", group.sources[0], "dedup", step.name) if alone else ("dedup", step.name)


def dedup_facts(plan: Plan) -> list[dict[str, Any]]:
    """Per step and group the bytes that its exchange moves, in how many partitions and rounds, and what it keeps.

    Raises RecipeError for a Bloom filter that does not fit its task, with the number of shards that do.
    """
    found = []
    for step in plan.recipe.dedup_steps():
        for group in step.groups:
            text = sum(s.text_estimate for s in plan.sources if s.name in group.sources)
            cost = (
                plan_vectors.step_cost(plan.recipe, step.name, group.settings, text)
                if step.name in WITH_VECTORS
                else None
            )
            moved, kept = (cost.exchange_bytes, 0.0) if cost else _bytes(step.name, group.settings, text)
            rounds = exchange.plan_rounds(int(moved), plan.recipe.limits.partition_bytes)
            facts = {
                "step": step.name,
                "group": list(group.sources),
                "exchange_bytes_estimate": int(moved),
                "partitions": rounds.partitions if moved else 0,
                "rounds": len(rounds.fanouts) if moved else 0,
                "kept_bytes_estimate": int(kept),
            }
            if cost:
                facts |= plan_vectors.step_facts(plan.recipe, group.settings, cost)
            if step.name == "bloom":
                facts |= _filter(plan, step, group, text)
            found.append(facts)
    return found


def _bytes(step: str, settings: Any, text: float) -> tuple[float, float]:
    """(bytes that go through an exchange, bytes that stay in RUN for later runs) of a step over so much text."""
    documents = text / DOCUMENT_BYTES
    match step:
        case "exact":
            return documents * HASH_BYTES, 0.0 if settings.by == "text" else documents * 17
        case "lines":
            return text * LINES_SHARE, 0.0
        case "minhash":
            resolved = settings.resolved
            return documents * resolved.bands * BAND_BYTES, documents * resolved.slots * SLOT_BYTES
        case "bloom":
            return text, 0.0
        case "substrings":
            return text * SUBSTRINGS_SHARE, 0.0
    return 0.0, 0.0


def _filter(plan: Plan, step: Step, group: Group, text: float) -> dict[str, int]:
    settings, limits = group.settings, plan.recipe.limits
    ngrams = int(text / NGRAM_BYTES)
    largest = -(-ngrams // settings.shards)
    known = all(s.unknown is None for s in plan.sources if s.name in group.sources)
    if known and (message := refusal(ngrams, largest, LONGEST, settings, limits)):
        raise plan.recipe.located(place_of(step, group), f"by estimate, {message}")
    return {
        "shards": settings.shards,
        "filter_bytes_estimate": filter_bytes(largest, settings.false_positive_rate),
    }
