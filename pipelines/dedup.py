"""In which order are duplicates looked for, and among which sources?

Each step of dedup goes over its groups of sources: those that the recipe's `dedup` compares with each other, and
every other source that asks for the step by itself. A step leaves row-aligned verdicts (standing.py); the next
reads text behind them. Groups of one step run side by side.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from winnow.pipelines import (
    bloom,
    decontaminate,
    exact,
    lines,
    minhash,
    prototypes,
    semantic,
    substrings,
)
from winnow.pipelines.dedup_settings import WITH_VECTORS, Group, Step
from winnow.pipelines.earlier import earlier_sources
from winnow.pipelines.embeddings import Embeddings, embed
from winnow.pipelines.engine import Done, Engine, Work
from winnow.pipelines.planning import Plan
from winnow.pipelines.records import Stage
from winnow.pipelines.standing import Standing, standings
from winnow.pipelines.vectors import embedded

if TYPE_CHECKING:
    from winnow.pipelines.corpus import SourceRun


LASTING = (
    "keys",
    "signatures",
    "minhash-report",
    "decontaminate-report",
    "semantic-scores",
    "semantic-report",
    "prototypes-scores",
    "prototypes-report",
    "quality-scores",
)
"""Kinds of stages that stay when a run is cleaned: later runs compare with them, statistics are made of
them, or another threshold needs nothing else."""


def deduplicate(
    engine: Engine, planned: Plan, sources: dict[str, SourceRun], embeddings: Embeddings | None
) -> None:
    """Run every step; each source's verdict stages are appended to its `steps`.

    embeddings : what vectors are made with, where a step compares any.
    """
    recipe = planned.recipe
    for step in recipe.dedup_steps():
        if step.name in WITH_VECTORS:
            assert embeddings is not None
            embed(engine, recipe, sources, embeddings)
        works = []
        for group in step.groups:
            members = [sources[name] for name in group.sources]
            inputs = [standing for rank, m in enumerate(members) for standing in standings(m, rank)]
            upstream = [done.stage for m in members for done in (m.filters, *m.steps)]
            if step.name in WITH_VECTORS:
                assert embeddings is not None
                works.append(_vector_work(step.name, engine, planned, group, members, inputs, embeddings))
                continue
            works.append(_work(step.name, engine, planned, group, inputs, upstream))
        for group, done in zip(step.groups, engine.together(*works), strict=True):
            for name in group.sources:
                sources[name].steps.append(done)


KERNELS = {
    "exact": ("text_keys",),
    "lines": ("line_keys",),
    "bloom": ("bloom",),
    "substrings": ("substrings",),
    "decontaminate": ("overlap", "matching_blocks"),
}
"""Modules of filters/ that compile kernels for a step when they are imported."""


def rehearse(steps: Sequence[Step]) -> None:
    """Compile the kernels of these steps, or load them, before the work."""
    for step in steps:
        for module in KERNELS.get(step.name, ()):
            importlib.import_module(f"winnow.filters.{module}")
        for group in step.groups if step.name == "minhash" else ():
            minhash.rehearse(group.settings)


def _work(
    step: str,
    engine: Engine,
    planned: Plan,
    group: Group,
    inputs: Sequence[Standing],
    upstream: Sequence[Stage],
) -> Work[Done]:
    sources, settings = group.sources, group.settings
    limits, seed = planned.recipe.limits, planned.recipe.seed
    earlier = earlier_sources(group.against, engine.run)
    match step:
        case "exact":
            return exact.deduplicate(engine, sources, inputs, upstream, settings, limits, earlier)
        case "lines":
            return lines.deduplicate(engine, sources, inputs, upstream, settings, limits)
        case "minhash":
            return minhash.deduplicate(engine, sources, inputs, upstream, settings, limits, seed, earlier)
        case "bloom":
            return bloom.deduplicate(engine, sources, inputs, upstream, settings, limits, seed)
        case "substrings":
            return substrings.deduplicate(engine, sources, inputs, upstream, settings, limits)
        case "decontaminate":
            return decontaminate.deduplicate(engine, sources, inputs, upstream, settings, limits)
    raise ValueError(f"there is no step {step!r}")


def _vector_work(
    step: str,
    engine: Engine,
    planned: Plan,
    group: Group,
    members: Sequence[SourceRun],
    inputs: Sequence[Standing],
    embeddings: Embeddings,
) -> Work[Done]:
    settings = group.settings
    made = {m.name: m.embedded[settings.embedding] for m in members}
    upstream = [done.stage for m in members for done in (m.filters, *m.steps, made[m.name])]
    limits, seed, device = planned.recipe.limits, planned.recipe.seed, embeddings.devices[settings.embedding]
    splits = embedded(inputs, made)
    if step == "semantic":
        return semantic.deduplicate(engine, group.sources, splits, upstream, settings, limits, seed, device)
    return prototypes.deduplicate(engine, group.sources, splits, upstream, settings, limits, seed, device)
