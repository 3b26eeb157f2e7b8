"""In which order are duplicates looked for, and among which sources?

Each step of dedup goes over its groups of sources: those that the recipe's `dedup` compares with each other, and
every other source that asks for the step by itself. A step leaves row-aligned verdicts (standing.py); the next
reads text behind them. Groups of one step run side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from winnow.pipelines import exact
from winnow.pipelines.dedup_settings import Group
from winnow.pipelines.earlier import earlier_sources
from winnow.pipelines.engine import Done, Engine, Work
from winnow.pipelines.planning import Plan
from winnow.pipelines.records import Stage
from winnow.pipelines.standing import Standing

if TYPE_CHECKING:
    from winnow.pipelines.corpus import SourceRun


LASTING = ("keys", "signatures")
"""Kinds of stages that later runs compare with: they stay when a run is cleaned."""


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


def standings(source: SourceRun, rank: int = 0) -> list[Standing]:
    """The splits of a source behind its filters and the steps that it has gone through."""
    steps = tuple(done.location for done in source.steps)
    return [
        Standing(
            source=source.name,
            rank=rank,
            split=split.index,
            rows=read.counts["documents"],
            documents=source.documents.location,
            filters=source.filters.location,
            steps=steps,
            files=tuple(sorted({(p.id_half, p.file) for p in split.pieces})),
            documents_left=kept.counts["kept"],
            bytes_left=kept.counts["kept_bytes"],
        )
        for split, read, kept in zip(
            source.plan.splits, source.documents.records, source.filters.records, strict=True
        )
    ]


def _work(
    step: str,
    engine: Engine,
    planned: Plan,
    group: Group,
    inputs: Sequence[Standing],
    upstream: Sequence[Stage],
) -> Work[Done]:
    settings, limits = group.settings, planned.recipe.limits
    earlier = [source for run in group.against for source in earlier_sources(run)]
    match step:
        case "exact":
            return exact.deduplicate(engine, group.sources, inputs, upstream, settings, limits, earlier)
    raise ValueError(f"there is no step {step!r}")
