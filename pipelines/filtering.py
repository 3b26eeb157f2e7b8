"""Which stages read a source and decide its documents?

    documents ─▶ (cuts, where a rule keeps a fraction) ─▶ filters

The stage `documents` depends on everything that a document's text and stored signals depend on, the stage
`filters` on the rules of the last segment. A filter that goes by a model gets the model's copy in the run
(models.py) before any of this.
"""

from __future__ import annotations

import bisect
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any

from winnow.filters.catalogue import Rewriting, Segment, measures_of, segments
from winnow.filters.model_files import ModelFile
from winnow.filters.rules import Cut, Rule
from winnow.pipelines import cuts, documents, listings, models, verdicts
from winnow.pipelines.engine import Done, Request, Work
from winnow.pipelines.jobs import Later, Task
from winnow.pipelines.planning import Plan, SourcePlan, reading_memory
from winnow.pipelines.recipe import Recipe
from winnow.pipelines.records import Record, Stage
from winnow.pipelines.source_settings import Read
from winnow.shards import storage
from winnow.shards.inputs import InputError
from winnow.shards.readers import ReadSettings
from winnow.shards.rows import is_malformed

Filters = tuple[Any, ...]
"""The settings of a source's filters, in order, each with the model it needs."""


def filter_settings(source: SourcePlan) -> Filters:
    """The settings of a source's filters as the recipe has them, in order."""
    return tuple(f.settings for f in source.source.filters)  # type: ignore[attr-defined]


def parts_of(recipe: Recipe, filters: Filters) -> tuple[Segment, ...]:
    """The segments of a source's filters."""
    return segments(filters, until_drop=recipe.signals == "until-drop")


def check(recipe: Recipe, place: tuple[str, ...], filters: Filters) -> None:
    """Raises RecipeError, at the filter's place, for one that cannot do its work here: code or a package is missing.

    `filters` have the models that they go by.
    """
    for i, settings in enumerate(filters):
        where = (*place, "filters", i, settings.name)
        for package, extra in needed_packages(settings):
            if importlib.util.find_spec(package) is None:
                message = f"{settings.name} needs the package {package}: pip install 'winnow[{extra}]'"
                raise recipe.located(where, message)
        try:
            for measure in measures_of(settings):
                measure.identity()
            if isinstance(settings, Rewriting):
                rewriter_identity(settings)
        except ValueError as error:
            raise recipe.located(where, str(error)) from error


def needed_packages(settings: Any) -> list[tuple[str, str]]:
    """(package, Winnow's extra that brings it) of what a filter imports and the base install may not have."""
    if getattr(settings, "words", None) == "datatrove":
        return [("spacy", "datatrove"), ("datatrove", "datatrove")]
    return [(package, "text") for package in ("ftfy",) if settings.name == package]


def all_parts(planned: Plan) -> list[Segment]:
    """Every segment of a recipe, those of its classifiers' examples among them."""
    of_classifiers = (*planned.examples.values(), *planned.embedding_examples.values())
    examples = [s for kinds in of_classifiers for sources in kinds.values() for s in sources]
    return [
        part for s in (*examples, *planned.sources) for part in parts_of(planned.recipe, filter_settings(s))
    ]


def documents_stage(recipe: Recipe, source: SourcePlan, filters: Filters) -> Stage:
    """The identity of a source's documents: what is read, how it is cut, and what decides the text of its documents."""
    parts = parts_of(recipe, filters)
    read = source.read
    settings = {
        "source": source.name,
        # A file's fingerprint may be only its time and size, which other directories can share.
        "root": source.root,
        "format": read.format,
        "text": read.text,
        "key": read.key,
        "on_truncated": read.on_truncated,
        "max_document_bytes": read.max_document_bytes,
        "split_bytes": recipe.limits.split_bytes,
        "files": listings.listing_digest(source),
        "segments": [_segment_identity(part, last=part is parts[-1]) for part in parts],
    }
    return Stage(f"documents.{source.name}", documents.VERSION, settings | _made_of(source))


def _made_of(source: SourcePlan) -> dict[str, Any]:
    """What a recipe may ask of texts beside columns that are taken as they stand."""
    read, asked = source.read, source.source.read
    wanted = {
        "parse": list(read.parse),
        "members": list(read.members),
        "config": read.config,
        "split": read.split,
        "convert": read.convert and [type(read.convert).__name__, read.convert.model_dump(mode="json")],
        # Its length is the tokenizer's to bound.
        "chat": asked.chat and asked.chat.model_dump(mode="json", exclude={"max_tokens"}),
        "template": asked.template,
        "packages": [[package, _version(package)] for package in _packages(read, asked)],
    }
    return {key: value for key, value in wanted.items() if value}


def _packages(read: ReadSettings, asked: Read) -> list[str]:
    """What is not Winnow's and decides how a source's texts come out."""
    of_format = ["datasets"] if read.format == "dataset" else []
    of_templates = ["jinja2"] if asked.chat or asked.template else []
    return [*of_format, *(read.convert.packages if read.convert else ()), *of_templates]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _segment_identity(part: Segment, *, last: bool) -> dict[str, Any]:
    """What the text and the signals of a segment depend on; of all but the last, what its rules decide, too."""
    identity: dict[str, Any] = {
        "signals": documents.signal_columns(part),
        "measures": [measure.identity() for measure in part.measures],
    }
    if part.rewriter is not None:
        identity["rewriter"] = [part.rewriter.name, rewriter_identity(part.rewriter)]
    if not last:
        identity["rules"] = [cuts.rule_identity(rule) for rule in part.rules]
    return identity


def rewriter_identity(rewriter: Any) -> Any:
    """What a filter's rewriting depends on beside the text: what it says itself, or all its settings."""
    return rewriter.identity() if hasattr(rewriter, "identity") else rewriter.model_dump(mode="json")


def documents_request(
    run: str, recipe: Recipe, source: SourcePlan, filters: Filters, known: Mapping[str, ModelFile]
) -> Request:
    """The stage that reads a source; its filters' files are among those `known`, and each task has them in memory.

    Its listing is put beside it.
    """
    stage = documents_stage(recipe, source, filters)
    until_drop = recipe.signals == "until-drop"
    used = {name: known[name] for settings in filters for name in models.files_of(settings)}

    def spec(at: int) -> documents.DocumentsSpec:
        return documents.DocumentsSpec(source.splits[at], source.read, filters, used, until_drop)

    listings.put_listing(run, stage, source)
    # With limits as they are the child that converts documents has room in what every task asks for.
    reading = max(recipe.limits.task_memory, reading_memory(recipe, source.read))
    memory = reading + sum(storage.size(file.path) for file in set(used.values()))
    tasks = [
        Task(index, documents.documents_task, Later(spec, at), memory)
        for at, index in enumerate(source.indices)
    ]
    return Request(stage, tasks, _bad_rows_check(recipe, source))


def _bad_rows_check(recipe: Recipe, source: SourcePlan) -> Callable[[Record], None]:
    indices = source.indices

    def check(record: Record) -> None:
        at = bisect.bisect_left(indices, record.index)
        if at == len(indices) or indices[at] != record.index:  # of a larger part of the source, read before
            return
        lost = record.counts["lost"]
        bad = {reason: n for reason, n in lost.items() if is_malformed(reason)}
        allowed = max(1, int(recipe.max_bad_rows * record.counts["rows"])) if recipe.max_bad_rows else 0
        if sum(bad.values()) > allowed:
            split = source.splits[at]
            files = split.pieces[0].path + (f" … {split.pieces[-1].path}" if len(split.pieces) > 1 else "")
            reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(bad.items()))
            raise InputError(
                f"source {source.name!r}, split {record.index} ({files}): {sum(bad.values())} of "
                f"{record.counts['rows']} rows are malformed ({reasons}), max_bad_rows allows {allowed}; "
                f"they are kept in the stage's {documents.name('lost', record.index, 'parquet')}"
            )

    return check


def filters_work(recipe: Recipe, source: SourcePlan, filters: Filters, read: Done) -> Work[Done]:
    """Find the cuts of a source whose documents are there, and decide its last segment."""
    rules = parts_of(recipe, filters)[-1].rules
    found = yield from cuts.find_cuts(source.name, read, rules, recipe.seed, source.part)
    seed = recipe.seed if found else 0

    def spec(index: int) -> verdicts.FiltersSpec:
        return verdicts.FiltersSpec(index, read.location, rules, found, seed)

    tasks = [Task(index, verdicts.filters_task, Later(spec, index)) for index in source.indices]
    return (yield Request(filters_stage(recipe, source, rules, read.stage, found), tasks))


def filters_stage(
    recipe: Recipe, source: SourcePlan, rules: Sequence[Rule], read: Stage, found: Mapping[int, Cut]
) -> Stage:
    """The identity of the decision on a source's last segment."""
    settings: dict[str, Any] = {"rules": [cuts.rule_identity(rule) for rule in rules]}
    if any(rule.fraction is not None for rule in rules):
        settings |= {"seed": recipe.seed, "cuts": [[i, c.score, c.draw] for i, c in found.items()]}
    if source.part is not None:
        # What follows depends on which splits there are; the documents' stage is that of the whole source.
        settings["splits"] = list(source.part)
    return Stage(f"filters.{source.name}", verdicts.VERSION, settings, (read.directory,))
