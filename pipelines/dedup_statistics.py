"""What did the steps of dedup take, and whose duplicates was it? And what did `quality` take after them?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import orjson
from winnow.pipelines import quality_step
from winnow.pipelines.engine import Done
from winnow.pipelines.recipe import Recipe
from winnow.pipelines.records import canonical, total

if TYPE_CHECKING:
    from winnow.pipelines.corpus import SourceRun

COUNTS = ("dropped", "dropped_bytes", "cut_documents", "cut_bytes")
"""What a step's records count by source."""


def of_source(source: SourceRun) -> list[dict[str, Any]]:
    """What each step took from a source, in order."""
    return [
        {"step": done.stage.kind, **{what: total(done.records, what, source.name) for what in COUNTS}}
        for done in dedup_steps(source)
    ]


def dedup_steps(source: SourceRun) -> list[Done]:
    """The steps of dedup that a source went through, without `quality`, which finds no duplicates."""
    return [done for done in source.steps if done.stage.kind != quality_step.KIND]


def of_quality(source: SourceRun) -> dict[str, dict[str, int]]:
    """What classifiers on embeddings dropped of a source, by their bounds, as filters' drops are counted."""
    records = [r for done in source.steps if done.stage.kind == quality_step.KIND for r in done.records]
    counted = {"dropped": "rules", "dropped_bytes": "rules_bytes", "failing": "failing", "only": "only"}
    return {what: total(records, name) or {} for what, name in counted.items()}


def of_groups(recipe: Recipe, sources: dict[str, SourceRun], lasting: Sequence[Done]) -> list[dict[str, Any]]:
    """Per step and group: documents compared and dropped, and whose duplicates they are, by "source of source".

    Of a step that leaves a report (`<step>-report` among `lasting`) what that counts, too.
    """
    # A record that was read back has its keys in another order than one that was just made.
    reports = {done.stage.name: orjson.loads(canonical(done.records[0].counts)) for done in lasting}
    out = []
    for step in recipe.dedup_steps():
        for group in step.groups:
            done = _step_done(sources[group.sources[0]], step.name)
            compared = sum(_standing_before(sources[name], done) for name in group.sources)
            dropped = sum((total(done.records, "dropped") or {}).values())
            label = done.stage.name.removeprefix(step.name)
            out.append(
                {
                    **reports.get(f"{step.name}-report{label}", {}),
                    "step": step.name,
                    "group": list(group.sources),
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
