"""How does a recipe's classifier on embeddings come about?

    documents ─▶ filters ─▶ examples ─▶ example-vectors ─▶ embedding-classifier
    (examples.py, of each source of examples)

Its examples are drawn like those of a fastText classifier, and get their vectors in the order of the draws, so that
these do not depend on how files were cut. The head (filters/embedding_head.py) is trained by one thread: the same
recipe and stored vectors give the same head. The stage `embedding-classifier` keeps it (`model`) and how it does on
the examples held out (`report.json`). A run that has that stage needs nothing of what led to it.

Memory: of a task that makes vectors, that of filters/embed.py and `BATCH_BYTES` of text, or one document; of the one
that trains, 4 bytes for each number of each example's vector and what embedding_head.py says, which is asked of Ray.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from winnow.filters.embedding_head import Head, HeadError
from winnow.filters.head_settings import HeadOptions
from winnow.filters.length import TokenCounter
from winnow.filters.torch_threads import one_thread
from winnow.pipelines import examples
from winnow.pipelines.classifier_settings import SCORED, EmbeddingClassifier
from winnow.pipelines.cluster import Task, TaskError
from winnow.pipelines.device import Device
from winnow.pipelines.documents import name
from winnow.pipelines.encoders import EncoderPlace
from winnow.pipelines.engine import Done, Engine, Request, RunError, Work
from winnow.pipelines.located import RecipeError
from winnow.pipelines.models import FILE, Models
from winnow.pipelines.planning import Plan
from winnow.pipelines.recipe import Recipe
from winnow.pipelines.records import Outputs, Stage
from winnow.pipelines.vectors import VECTORS
from winnow.shards import exchange, storage

VERSION = 1
KIND = "embedding-classifier"
TASK_EXAMPLES = 1 << 13
"""Examples whose vectors one task makes."""
BATCH_BYTES = 1 << 20
BATCH_EXAMPLES = 1 << 10
TRAINING_BYTES = 256 << 20
"""What training takes beside vectors: scikit-learn and a forest's trees."""
TARGETS = np.dtype([("heldout", "u1"), ("score", "<f8")])
"""Whether an example is held out, and its score; NaN where examples have none."""


@dataclass(frozen=True, slots=True)
class VectorsSpec:
    index: int
    sample: examples.Sample
    first: int
    last: int
    """Numbers of the sample's examples, in the order of the draws; `last` is behind them."""
    scored: bool
    encoder: EncoderPlace
    device: str
    """torch's name for it."""


def vectors_task(spec: VectorsSpec, outputs: Outputs) -> dict[str, Any]:
    """Write the vectors of some examples, and what each is to be; returns how many there are.

    Of those that should have a score and have none there are none; they are counted as `without_score`.
    """
    targets: list[tuple[bool, float]] = []
    skipped = dimensions = 0

    def texts() -> Iterator[str]:
        nonlocal skipped
        for example in examples.examples_of(spec.sample, spec.first, spec.last):
            if spec.scored and example.score is None:
                skipped += 1
                continue
            targets.append((example.heldout, np.nan if example.score is None else example.score))
            yield example.text

    with one_thread(), outputs.file(name("vectors", spec.index, "f16")) as path, open(path, "wb") as file:
        for vectors in spec.encoder.vectors_of(_arrays(texts()), spec.device):
            dimensions = vectors.shape[1]
            file.write(np.ascontiguousarray(vectors, VECTORS).data)
    found = np.array(targets, TARGETS)
    outputs.put(name("targets", spec.index, "bin"), found.tobytes())
    return {
        "examples": len(found),
        "heldout": int(found["heldout"].sum()),
        "without_score": skipped,
        "dimensions": dimensions,
    }


def _arrays(texts: Iterator[str]) -> Iterator[pa.LargeStringArray]:
    """Texts in arrays of `BATCH_EXAMPLES`, or as many as `BATCH_BYTES` hold, one at least."""
    held: list[str] = []
    size = 0
    for text in texts:
        held.append(text)
        size += len(text)
        if len(held) == BATCH_EXAMPLES or size >= BATCH_BYTES:
            yield pa.array(held, pa.large_string())
            held, size = [], 0
    if held:
        yield pa.array(held, pa.large_string())


@dataclass(frozen=True, slots=True)
class Part:
    """What one task left of examples of a kind."""

    kind: str
    location: str
    index: int
    examples: int
    heldout: int
    without_score: int


@dataclass(frozen=True, slots=True)
class TrainingSpec:
    parts: tuple[Part, ...]
    kinds: tuple[str, ...]
    dimensions: int
    head: Any
    threshold: float | None
    options: HeadOptions


def training_task(spec: TrainingSpec, outputs: Outputs) -> dict[str, Any]:
    """Train a head and test it; returns how many examples of each kind it was trained on, and the model's sha256."""
    from winnow.filters.embedding_head import described, to_bytes, train

    vectors, targets = _read(spec, heldout=False)
    classes = SCORED not in spec.kinds or spec.head == "logistic"
    head = train(spec.head, vectors, _good(spec, targets) if classes else targets, spec.options)
    del vectors
    data = to_bytes(head)
    outputs.put(FILE, data)
    trained = {k: sum(p.examples - p.heldout for p in spec.parts if p.kind == k) for k in spec.kinds}
    report = {
        "head": spec.head,
        "options": spec.options.of(spec.head),
        "scikit-learn": version("scikit-learn"),
        **described(head),
        "examples": trained,
        "without_score": sum(part.without_score for part in spec.parts),
        "heldout": _heldout_report(spec, head),
    }
    outputs.put("report.json", orjson.dumps(report, option=orjson.OPT_INDENT_2))
    return {"examples": trained, "sha256": hashlib.sha256(data).hexdigest(), "dimensions": head.dimensions}


def _heldout_report(spec: TrainingSpec, head: Head) -> dict[str, Any]:
    from winnow.filters import embedding_head_report

    vectors, targets = _read(spec, heldout=True)
    scores = head.scores(vectors)
    if SCORED not in spec.kinds:
        return embedding_head_report.of_classes(scores, _good(spec, targets))
    return embedding_head_report.of_scores(
        scores, targets, spec.threshold, probabilities=spec.head == "logistic"
    )


def _good(spec: TrainingSpec, targets: np.ndarray) -> np.ndarray:
    """bool[n]: which examples are good, by class or by the threshold."""
    return targets >= (0.5 if spec.threshold is None else spec.threshold)


def _read(spec: TrainingSpec, *, heldout: bool) -> tuple[np.ndarray, np.ndarray]:
    """(float32[n, d], float64[n]) of the examples held out, or of the others; of two classes the good one is 1."""
    n = sum(p.heldout if heldout else p.examples - p.heldout for p in spec.parts)
    vectors, targets = np.empty((n, spec.dimensions), np.float32), np.empty(n)
    at = 0
    for part in spec.parts:
        place = storage.join(part.location, name("targets", part.index, "bin"))
        found = exchange.read_array(place, 0, np.empty(part.examples, TARGETS))
        wanted = found["heldout"] == heldout
        place = storage.join(part.location, name("vectors", part.index, "f16"))
        mine = exchange.read_array(place, 0, np.empty((part.examples, spec.dimensions), VECTORS))[wanted]
        of_class = float(part.kind == spec.kinds[0])
        vectors[at : at + len(mine)] = mine
        targets[at : at + len(mine)] = found["score"][wanted] if part.kind == SCORED else of_class
        at += len(mine)
    return vectors, targets


# ---- the stages ----------------------------------------------------------------------------------------------


def train(
    engine: Engine,
    planned: Plan,
    models: Models,
    counter: TokenCounter,
    encoders: Mapping[str, EncoderPlace],
    devices: Mapping[str, Device],
) -> dict[str, Done]:
    """Train every classifier on embeddings of the recipe; its finished stage by its name.

    encoders, devices : by the name of the embedding.

    Raises RecipeError, at the classifier or its examples, where these give no head.
    """
    names = list(planned.recipe.embedding_classifiers)
    works = [_classifier(engine, planned, n, models, counter, encoders, devices) for n in names]
    try:
        return dict(zip(names, engine.together(*works), strict=True))
    except RunError as error:
        raise _located(planned.recipe, error) or error from error


def _located(recipe: Recipe, error: RunError) -> RecipeError | None:
    """The error at its classifier's place, if it is that examples or options give no head."""
    failed = error.__cause__
    if not isinstance(failed, TaskError) or not isinstance(failed.cause, HeadError):
        return None
    directory = failed.job.location.rstrip("/").rsplit("/", 1)[-1]
    classifier = directory.removeprefix(f"{KIND}.").rsplit("-", 1)[0]
    return recipe.located(("embedding_classifiers", classifier), str(failed.cause))


def _classifier(
    engine: Engine,
    planned: Plan,
    name_: str,
    models: Models,
    counter: TokenCounter,
    encoders: Mapping[str, EncoderPlace],
    devices: Mapping[str, Device],
) -> Work[Done]:
    settings = planned.recipe.embedding_classifiers[name_]
    encoder, device = encoders[settings.embedding], devices[settings.embedding]
    sources = [s for kind in settings.kinds for s in planned.embedding_examples[name_][kind]]
    drawings = examples.drawings(planned, "embedding_classifiers", name_, sources, models, counter)
    stages = [
        Stage(
            f"example-vectors.{settings.embedding}.{d.source.name}",
            VERSION,
            encoder.identity,
            (d.stage.directory,),
        )
        for d in drawings
    ]
    final = Stage(f"{KIND}.{name_}", VERSION, _identity(settings), tuple(stage.directory for stage in stages))
    if done := engine.finished(final, 1):
        return done
    drawn: list[tuple[examples.Drawing, examples.Sample]] = []
    for drawing in drawings:
        sample = yield from examples.draw(engine.run, drawing, models)
        drawn.append((drawing, sample))
    examples.check_kinds(drawn)
    parts: list[Part] = []
    dimensions = 0
    for (drawing, sample), stage in zip(drawn, stages, strict=True):
        starts = range(0, sample.size, TASK_EXAMPLES)
        specs = [
            VectorsSpec(i, sample, a, a + TASK_EXAMPLES, drawing.kind == SCORED, encoder, device.torch)
            for i, a in enumerate(starts)
        ]
        if specs and engine.finished(stage, len(specs)) is None:
            device.check()
        memory = 0 if device.gpus else encoder.memory
        made = yield Request(stage, [device.task(s.index, vectors_task, s, memory) for s in specs])
        counted = ("examples", "heldout", "without_score")
        parts += [
            Part(drawing.kind, made.location, r.index, *(r.counts[what] for what in counted))
            for r in made.records
        ]
        dimensions = max([dimensions, *(r.counts["dimensions"] for r in made.records)])
    spec = TrainingSpec(
        tuple(parts), settings.kinds, dimensions, settings.head, settings.threshold, settings.options
    )
    memory = TRAINING_BYTES + 4 * dimensions * sum(p.examples for p in parts)
    return (yield Request(final, [Task(0, training_task, spec, memory)]))


def _identity(settings: EmbeddingClassifier) -> dict[str, Any]:
    """What a head and its report depend on, beside the examples' vectors."""
    return {
        "head": settings.head,
        "options": settings.options.of(settings.head),
        "threshold": settings.threshold,
        "kinds": list(settings.kinds),
    }
