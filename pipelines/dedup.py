"""In which order are duplicates looked for, and among which sources?

Each step of dedup goes over its groups of sources: those that the recipe's `dedup` compares with each other, and
every other source that asks for the step by itself. A step leaves row-aligned verdicts (standing.py); the next
reads text behind them. Groups of one step run side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from winnow.pipelines import exact
from winnow.pipelines.engine import Done, Engine, Work
from winnow.pipelines.planning import Plan
from winnow.pipelines.recipe import Recipe
from winnow.pipelines.records import Stage, total
from winnow.pipelines.standing import Standing

if TYPE_CHECKING:
    from winnow.pipelines.corpus import SourceRun


COUNTS = ("dropped", "dropped_bytes", "cut_documents", "cut_bytes")
"""What a step's records count by source."""


def deduplicate(engine: Engine, planned: Plan, sources: dict[str, SourceRun]) -> None:
    """Run every step; each source's verdict stages are appended to its `steps`."""
    recipe = planned.recipe
    for step in recipe.dedup_steps():
        works = []
        for group, settings in step.groups:
            members = [sources[name] for name in group]
            inputs = [standing for rank, m in enumerate(members) for standing in standings(m, rank)]
            upstream = [done.stage for m in members for done in (m.filters, *m.steps)]
            works.append(_work(step.name, engine, planned, group, inputs, upstream, settings))
        for (group, _), done in zip(step.groups, engine.together(*works), strict=True):
            for name in group:
                sources[name].steps.append(done)


def statistics(recipe: Recipe, sources: dict[str, SourceRun]) -> list[dict[str, Any]]:
    """Per step and group: documents compared and dropped, and whose duplicates they are, by "source of source"."""
    out = []
    for step in recipe.dedup_steps():
        for group, _ in step.groups:
            done = _step_done(sources[group[0]], step.name)
            compared = sum(_standing_before(sources[name], done) for name in group)
            dropped = sum((total(done.records, "dropped") or {}).values())
            out.append(
                {
                    "step": step.name,
                    "group": list(group),
                    "compared": compared,
                    "survivors": compared - dropped,
                    "dropped": dropped,
                    "pairs": total(done.records, "pairs") or {},
                }
            )
    return out


def _step_done(source: SourceRun, step: str) -> Done:
    return next(done for done in source.steps if done.stage.kind == step)


def _standing_before(source: SourceRun, step: Done) -> int:
    """Documents of a source that a step found."""
    before = source.steps[: source.steps.index(step)]
    return total(source.filters.records, "kept") - sum(
        total(s.records, "dropped", source.name) for s in before
    )


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
    group: Sequence[str],
    inputs: Sequence[Standing],
    upstream: Sequence[Stage],
    settings: Any,
) -> Work[Done]:
    limits = planned.recipe.limits
    match step:
        case "exact":
            return exact.deduplicate(engine, group, inputs, upstream, limits)
    raise ValueError(f"there is no step {step!r}")
