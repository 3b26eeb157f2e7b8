"""How does a recipe's classifier come about?

    documents ─▶ filters (of each source of examples) ─▶ examples ─▶ classifier

Its examples are read and filtered like any source, sampled by hash, and fastText is trained on them by one
thread, so the same recipe gives the same model. The stage `classifier` keeps the model, and how it does on the
examples held out (`report.json`). A run that has that stage needs nothing of what led to it.

Memory: what fastText holds, 4 · dim · (buckets + words) bytes twice (its file is built beside it), which is asked
of Ray; examples pass as a stream.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from typing import Any

import orjson
from winnow.filters import classifier_training
from winnow.filters.classifier_training import TrainingOptions
from winnow.filters.length import TokenCounter
from winnow.filters.model_files import ModelFile, sha256_of
from winnow.pipelines import examples, filtering
from winnow.pipelines.cluster import Task
from winnow.pipelines.engine import Done, Engine, Request, Work
from winnow.pipelines.models import FILE, Models, complete
from winnow.pipelines.planning import Plan, SourcePlan, training_memory
from winnow.pipelines.recipe import EXAMPLES, Classifier
from winnow.pipelines.records import Outputs, Stage, total

VERSION = 1
LABELS = {"positive": classifier_training.POSITIVE, "negative": classifier_training.NEGATIVE}


@dataclass(frozen=True, slots=True)
class TrainingSpec:
    samples: dict[str, tuple[examples.Sample, ...]]
    """Of each label."""
    options: TrainingOptions


def training_task(spec: TrainingSpec, outputs: Outputs) -> dict[str, Any]:
    """Train a classifier and test it; returns how many examples there were of each label, and the model's sha256."""
    newlines = spec.options.newlines
    with tempfile.TemporaryDirectory(prefix="winnow-classifier-") as folder:
        files = []
        for label, samples in spec.samples.items():
            files.append(os.path.join(folder, f"{label}.txt"))
            kept = examples.texts_of(samples, heldout=False)
            classifier_training.write_examples(files[-1], kept, label, newlines)
        place = os.path.join(folder, FILE)
        made = classifier_training.train(files, place, spec.options)
        model = ModelFile(place, sha256_of(place))
        heldout = [examples.texts_of(samples, heldout=True) for samples in spec.samples.values()]
        report = classifier_training.evaluate(model, heldout[0], heldout[1], newlines=newlines)
        with outputs.file(FILE) as path:
            shutil.copyfile(place, path)
    outputs.put("report.json", orjson.dumps(made | {"heldout": report}, option=orjson.OPT_INDENT_2))
    return {"examples": made["examples"], "sha256": model.sha256}


def train(engine: Engine, planned: Plan, models: Models, counter: TokenCounter) -> dict[str, Done]:
    """Train every classifier of the recipe; its finished stage by its name."""
    names = list(planned.recipe.classifiers)
    works = [_classifier(engine, planned, name, models, counter) for name in names]
    return dict(zip(names, engine.together(*works), strict=True))


def _classifier(
    engine: Engine, planned: Plan, name: str, models: Models, counter: TokenCounter
) -> Work[Done]:
    recipe, settings = planned.recipe, planned.recipe.classifiers[name]
    sources = [(kind, source) for kind in EXAMPLES for source in planned.examples[name][kind]]
    filters = [complete(filtering.filter_settings(source), models, counter) for _, source in sources]
    for (_, source), used in zip(sources, filters, strict=True):
        filtering.check(recipe, ("classifiers", *source.name.split(".")), used)
    read = [filtering.documents_stage(recipe, s, f) for (_, s), f in zip(sources, filters, strict=True)]
    decided = [
        filtering.filters_stage(recipe, s, filtering.parts_of(recipe, f)[-1].rules, stage, {})
        for (_, s), f, stage in zip(sources, filters, read, strict=True)
    ]
    chosen = [
        _examples_stage(planned, settings, s, stage) for (_, s), stage in zip(sources, decided, strict=True)
    ]
    final = Stage(
        f"classifier.{name}",
        VERSION,
        {"options": settings.options.model_dump(mode="json"), "classes": [kind for kind, _ in sources]},
        tuple(stage.directory for stage in chosen),
    )
    if done := engine.finished(final, 1):
        return done
    samples: dict[str, tuple[examples.Sample, ...]] = dict.fromkeys(LABELS.values(), ())
    for (kind, source), used, stage in zip(sources, filters, chosen, strict=True):
        documents = yield filtering.documents_request(engine.run, recipe, source, used, models)
        filtered = yield from filtering.filters_work(recipe, source, used, documents)
        drawn = yield _examples_request(planned, settings, source, documents, filtered, stage)
        samples[LABELS[kind]] += (examples.sample_of(drawn, _wanted(settings, source)),)
    spec = TrainingSpec(samples, settings.options)
    task = Task(0, training_task, spec, training_memory(settings.options))
    return (yield Request(final, [task]))


def _wanted(settings: Classifier, source: SourcePlan) -> int | None:
    _, kind, part = source.name.split(".", 2)
    return getattr(settings, kind)[part].sample


def _examples_stage(planned: Plan, settings: Classifier, source: SourcePlan, decided: Stage) -> Stage:
    identity = {
        "sample": _wanted(settings, source),
        "heldout": settings.heldout,
        "seed": planned.recipe.seed,
        "splits": len(source.splits),
    }
    return Stage(f"examples.{source.name}", examples.VERSION, identity, (decided.directory,))


def _examples_request(
    planned: Plan, settings: Classifier, source: SourcePlan, read: Done, decided: Done, stage: Stage
) -> Request:
    limit = examples.draw_limit(_wanted(settings, source), total(decided.records, "kept"))
    specs = [
        examples.ExamplesSpec(
            read.location, decided.location, i, splits, limit, settings.heldout, planned.recipe.seed
        )
        for i, splits in enumerate(examples.groups(len(source.splits)))
    ]
    return Request(stage, [Task(s.index, examples.examples_task, s) for s in specs])
