"""In which order are duplicates looked for, and among which sources?

Each step of dedup goes over its groups of sources: those that the recipe's `dedup` compares with each other, and
every other source that asks for the step by itself. A step leaves row-aligned verdicts (standing.py); the next
reads text behind them. Groups of one step run side by side.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from winnow.pipelines import bloom, decontaminate, exact, lines, minhash, substrings
from winnow.pipelines.dedup_settings import Group, Step
from winnow.pipelines.earlier import earlier_sources
from winnow.pipelines.engine import Done, Engine, Work
from winnow.pipelines.planning import Plan, SourcePlan
from winnow.pipelines.records import Stage
from winnow.pipelines.standing import Standing

if TYPE_CHECKING:
    from winnow.pipelines.corpus import SourceRun


LASTING = ("keys", "signatures", "minhash-report", "decontaminate-report")
"""Kinds of stages that stay when a run is cleaned: later runs compare with them, or statistics are made of them."""


def deduplicate(engine: Engine, planned: Plan, sources: dict[str, SourceRun]) -> None:
    """Run every step; each source's verdict stages are appended to its `steps`."""
    recipe = planned.recipe
    for step in recipe.dedup_steps():
        works = []
        for group in step.groups:
            members = [sources[name] for name in group.sources]
            inputs = [standing for rank, m in enumerate(members) for standing in standings(m, rank)]
            upstream = [done.stage for m in members for done in (m.filters, *m.steps)]
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


def standings(source: SourceRun, rank: int = 0) -> list[Standing]:
    """The splits of a source behind its filters and the steps that it has gone through."""
    return standings_of(source.plan, source.documents, source.filters, source.steps, rank)


def standings_of(
    source: SourcePlan, documents: Done, filters: Done, steps: Sequence[Done] = (), rank: int = 0
) -> list[Standing]:
    """The same, of the splits that `source` has."""
    places = tuple(done.location for done in steps)
    return [
        Standing(
            source=source.name,
            rank=rank,
            split=split.index,
            rows=read.counts["documents"],
            documents=documents.location,
            filters=filters.location,
            steps=places,
            files=tuple(sorted({(p.id_half, p.file) for p in split.pieces})),
            documents_left=kept.counts["kept"],
            bytes_left=kept.counts["kept_bytes"],
        )
        for split, read, kept in zip(source.splits, documents.records, filters.records, strict=True)
    ]


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
