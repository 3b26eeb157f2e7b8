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
from dataclasses import dataclass
from typing import Any

import orjson
from winnow.filters import classifier_training
from winnow.filters.classifier_training import TrainingOptions
from winnow.filters.length import TokenCounter
from winnow.filters.model_files import ModelFile, sha256_of
from winnow.pipelines import examples
from winnow.pipelines.classifier_settings import EXAMPLES
from winnow.pipelines.cluster import Task
from winnow.pipelines.engine import Done, Engine, Request, Work
from winnow.pipelines.models import FILE, Models
from winnow.pipelines.planning import Plan, training_memory
from winnow.pipelines.records import Outputs, Stage
from winnow.shards import scratch

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
    with scratch.folder() as folder:
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
    settings = planned.recipe.classifiers[name]
    sources = [source for kind in EXAMPLES for source in planned.examples[name][kind]]
    drawings = examples.drawings(planned, "classifiers", name, sources, models, counter)
    final = Stage(
        f"classifier.{name}",
        VERSION,
        {
            "options": settings.options.model_dump(mode="json"),
            "classes": [drawing.kind for drawing in drawings],
        },
        tuple(drawing.stage.directory for drawing in drawings),
    )
    if done := engine.finished(final, 1):
        return done
    samples: dict[str, tuple[examples.Sample, ...]] = dict.fromkeys(LABELS.values(), ())
    for drawing in drawings:
        samples[LABELS[drawing.kind]] += ((yield from examples.draw(engine.run, drawing, models)),)
    spec = TrainingSpec(samples, settings.options)
    task = Task(0, training_task, spec, training_memory(settings.options))
    return (yield Request(final, [task]))
