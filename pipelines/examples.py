"""Which documents is a classifier trained on, and which is it tested on?

    documents ─▶ filters ─▶ examples

Every document that a source of examples keeps has a draw, a hash of the seed and its id; a sample is those with
the smallest draws. A task takes the documents of some splits whose draws can be among them, and writes their
texts in the order of the draws; `examples_of` merges what the tasks left. Another hash decides what is held out.

Memory: a task holds the sampled texts of its splits (one split where there are at most `MOST_FILES`), `examples_of`
about 1 MiB of text per task.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from winnow.filters.field import NumberField, rows
from winnow.filters.length import TokenCounter
from winnow.pipelines import filtering
from winnow.pipelines.classifier_settings import Examples, ScoredExamples
from winnow.pipelines.cluster import Task
from winnow.pipelines.documents import name, offsets
from winnow.pipelines.engine import Done, Request, Work
from winnow.pipelines.located import shown
from winnow.pipelines.models import Models, complete
from winnow.pipelines.planning import Plan, SourcePlan
from winnow.pipelines.records import Outputs, Stage, total
from winnow.pipelines.verdicts import kept_batches
from winnow.shards import storage, tables

VERSION = 1
SCORED_VERSION = 2
BATCH_BYTES = 1 << 20
MOST_FILES = 256
"""Tasks, and so files, of one source's examples."""
DRAW_SEED, HELDOUT_SEED = 0x657861, 0x68656C64
SCHEMA = pa.schema([("draw", pa.uint64()), ("heldout", pa.bool_()), ("text", pa.large_string())])
SCORED_SCHEMA = SCHEMA.append(pa.field("score", pa.float64()))
"""Of examples that have scores; null where a document has none."""
FIELDS_NAMED = 8
"""Fields of a document that an error names."""


@dataclass(frozen=True, slots=True)
class ExamplesSpec:
    documents: str
    filters: str
    """Locations of the stages."""
    index: int
    splits: tuple[int, ...]
    limit: int
    """Draws above this one are not in the sample."""
    heldout: float
    seed: int
    score: str | None = None
    """Path of a field of `meta`, where examples have scores."""


def groups(splits: int) -> list[tuple[int, ...]]:
    """The splits of each task."""
    width = -(-splits // MOST_FILES)
    return [tuple(range(first, min(first + width, splits))) for first in range(0, splits, width)]


def draw_limit(sample: int | None, kept: int) -> int:
    """The draw below which a sample of so many of `kept` documents lies, all but certainly.

    Draws are uniform: six standard deviations more than the sample are below it, so that one run in 10^9 gets
    a document too few.
    """
    if sample is None or sample >= kept:
        return 2**64 - 1
    return min(2**64 - 1, int((sample + 6 * math.sqrt(sample) + 10) / kept * 2**64))


def examples_task(spec: ExamplesSpec, outputs: Outputs) -> dict[str, Any]:
    """Write the examples of some splits in the order of their draws; returns how many there are.

    Where they should have scores also how many have one, and, where none has, `fields`, what the first has instead.
    """
    draws, heldout, texts = [np.empty(0, np.uint64)], [np.empty(0, bool)], [pa.array([], pa.large_string())]
    scores = [np.empty(0)]
    fields: list[str] | None = None
    columns = ["id"] if spec.score is None else ["id", "meta"]
    for split in spec.splits:
        aligned = tables.Aligned(kept_batches(spec.documents, spec.filters, split, columns))
        for batch in tables.arrow_batches(storage.join(spec.documents, name("text", split, "arrow"))):
            table = aligned.take(batch.num_rows)
            halves = tables.id_halves(table.column("id"))
            draw = tables.mix(spec.seed ^ DRAW_SEED, *halves)
            wanted = table.column("keep").to_numpy(zero_copy_only=False) & (draw <= np.uint64(spec.limit))
            draws.append(draw[wanted])
            chance = tables.mix(spec.seed ^ HELDOUT_SEED, *(half[wanted] for half in halves))
            heldout.append(chance < np.uint64(int(spec.heldout * 2**64)))
            texts.append(batch.column("text").filter(pa.array(wanted)))
            if spec.score is not None:
                mine = table.filter(pa.array(wanted))
                scores.append(_scores(mine, spec.score))
                if fields is None and mine.num_rows:
                    fields = _fields(next(rows(mine)))
        aligned.end()
    order = np.argsort(np.concatenate(draws), kind="stable")
    schema = SCHEMA if spec.score is None else SCORED_SCHEMA
    found = {
        "draw": np.concatenate(draws),
        "heldout": np.concatenate(heldout),
        "text": pa.chunked_array(texts),
    }
    if spec.score is not None:
        found["score"] = pa.array(np.concatenate(scores), from_pandas=True)
    table = pa.table(found, schema=schema).take(pa.array(order))
    with (
        outputs.file(name("examples", spec.index, "arrow")) as path,
        tables.arrow_writer(path, schema) as writer,
    ):
        for portion in _portions(table):
            writer.write_batch(portion)
    if spec.score is None:
        return {"examples": table.num_rows}
    there = table.num_rows - table.column("score").null_count
    return {"examples": table.num_rows, "with_score": there, "fields": [] if there else fields or []}


def _fields(meta: Any) -> list[str]:
    """Paths of what is in a document's `meta`, two keys long at most, as a message has them."""
    items = meta.items() if isinstance(meta, dict) else ()
    paths = (
        path
        for key, value in items
        for path in ([f"{key}.{k}" for k in value] if isinstance(value, dict) else [key])
    )
    return [shown(path) for path in itertools.islice(paths, FIELDS_NAMED)]


def _scores(documents: pa.RecordBatch, path: str) -> np.ndarray:
    """float64[n]: the number that the `meta` of each document has there; NaN where there is none, or it is infinite."""
    found = NumberField(path, "score").measure(documents)["score"]
    return np.where(np.isfinite(found), found, np.nan)


def _portions(table: pa.Table) -> Iterator[pa.RecordBatch]:
    """The table in batches of about `BATCH_BYTES`, of one document at least."""
    for batch in table.combine_chunks().to_batches():
        group = np.cumsum(np.diff(offsets(batch.column("text")))) // BATCH_BYTES
        starts = np.flatnonzero(np.diff(group, prepend=-1)).tolist()
        for start, stop in zip(starts, [*starts[1:], batch.num_rows], strict=True):
            yield batch.slice(start, stop - start)


@dataclass(frozen=True, slots=True)
class Sample:
    """The examples of one source."""

    location: str
    """Of its examples stage."""
    files: int
    size: int
    """Documents to take."""
    read: int = 0
    """Documents of the source, and those of them that pass its filters."""
    passing: int = 0


def sample_of(done: Done, wanted: int | None) -> Sample:
    """The sample that finished tasks left."""
    found = sum(r.counts["examples"] for r in done.records)
    size = found if wanted is None else min(wanted, found)
    return Sample(done.location, len(done.records), size)


@dataclass(frozen=True, slots=True)
class Example:
    heldout: bool
    text: str
    score: float | None
    """None where examples have none, and for a document without one."""


def examples_of(sample: Sample, first: int = 0, last: int | None = None) -> Iterator[Example]:
    """The examples of a sample in the order of the draws; of these those from number `first` on, before `last`.

    Memory: 8 bytes for each example of the source, where `first` is not its first.
    """
    stop = sample.size if last is None else min(last, sample.size)
    if first >= stop:
        return
    begin, before = _draw_at(sample, first) if first else (0, 0)
    stored = (_stored(sample.location, file, begin) for file in range(sample.files))
    merged = heapq.merge(*stored, key=lambda example: example[0])
    for _, batch, row in itertools.islice(merged, first - before, stop - before):
        score = batch.column("score")[row].as_py() if "score" in batch.schema.names else None
        yield Example(batch.column("heldout")[row].as_py(), batch.column("text")[row].as_py(), score)


def texts_of(samples: Sequence[Sample], *, heldout: bool) -> Iterator[str]:
    """The texts of samples that are held out, or those that are not; source by source, in the order of the draws."""
    for sample in samples:
        yield from (example.text for example in examples_of(sample) if example.heldout == heldout)


def _stored(location: str, file: int, begin: int = 0) -> Iterator[tuple[int, pa.RecordBatch, int]]:
    """(draw, batch, row of it) of each example of a file whose draw is not below `begin`."""
    for batch in tables.arrow_batches(storage.join(location, name("examples", file, "arrow"))):
        draws = batch.column("draw").to_numpy()
        first = int(np.searchsorted(draws, np.uint64(begin)))
        for row, draw in enumerate(draws[first:].tolist(), first):
            yield draw, batch, row


def _draw_at(sample: Sample, number: int) -> tuple[int, int]:
    """(draw of example `number`, how many examples have a smaller one)."""
    draws = [np.empty(0, np.uint64)]
    for file in range(sample.files):
        place = storage.join(sample.location, name("examples", file, "arrow"))
        draws += [batch.column("draw").to_numpy() for batch in tables.arrow_batches(place)]
    every = np.sort(np.concatenate(draws))
    if number >= len(every):
        return 2**64 - 1, len(every)
    return int(every[number]), int(np.searchsorted(every, every[number]))


# ---- the stages ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Drawing:
    """A source of a classifier's examples, on its way to them."""

    planned: Plan
    place: tuple[str, ...]
    """In the recipe."""
    source: SourcePlan
    settings: Examples
    heldout: float
    filters: filtering.Filters

    @property
    def kind(self) -> str:
        """What its documents are examples of."""
        return self.source.name.split(".", 2)[1]

    @property
    def score(self) -> str | None:
        """Where an example's score is, if they have any."""
        return self.settings.score if isinstance(self.settings, ScoredExamples) else None

    @property
    def stage(self) -> Stage:
        """The identity of its examples."""
        recipe = self.planned.recipe
        rules = filtering.parts_of(recipe, self.filters)[-1].rules
        read = filtering.documents_stage(recipe, self.source, self.filters)
        decided = filtering.filters_stage(recipe, self.source, rules, read, {})
        identity: dict[str, Any] = {
            "sample": self.settings.sample,
            "heldout": self.heldout,
            "seed": recipe.seed,
            "splits": len(self.source.splits),
        }
        if self.score is not None:
            identity["score"] = self.score
        version = VERSION if self.score is None else SCORED_VERSION
        return Stage(f"examples.{self.source.name}", version, identity, (decided.directory,))


def drawings(
    planned: Plan,
    place: str,
    classifier: str,
    sources: Sequence[SourcePlan],
    models: Models,
    counter: TokenCounter,
) -> list[Drawing]:
    """The sources of a classifier's examples; `place` is the part of the recipe that the classifier is in.

    Raises RecipeError, at a filter's place, for one that cannot do its work here.
    """
    settings = getattr(planned.recipe, place)[classifier]
    found = []
    for source in sources:
        filters = complete(filtering.filter_settings(source), models, counter)
        where = (place, *source.name.split(".", 2))
        filtering.check(planned.recipe, where, filters)
        _, _, kind, part = where
        found.append(
            Drawing(planned, where, source, getattr(settings, kind)[part], settings.heldout, filters)
        )
    return found


def draw(run: str, drawing: Drawing, models: Models) -> Work[Sample]:
    """Read and filter a source of examples, and draw its sample.

    Raises RecipeError, at the path of the scores, where no example has one.
    """
    recipe, source, settings = drawing.planned.recipe, drawing.source, drawing.settings
    read = yield filtering.documents_request(run, recipe, source, drawing.filters, models)
    decided = yield from filtering.filters_work(recipe, source, drawing.filters, read)
    passing = total(decided.records, "kept")
    limit = draw_limit(settings.sample, passing)
    specs = [
        ExamplesSpec(
            read.location, decided.location, i, splits, limit, drawing.heldout, recipe.seed, drawing.score
        )
        for i, splits in enumerate(groups(len(source.splits)))
    ]
    drawn = yield Request(drawing.stage, [Task(s.index, examples_task, s) for s in specs])
    if drawing.score is not None:
        _check_scores(drawing, drawn)
    return replace(sample_of(drawn, settings.sample), read=total(read.records, "rows"), passing=passing)


def _check_scores(drawing: Drawing, drawn: Done) -> None:
    examples = total(drawn.records, "examples")
    if not examples or total(drawn.records, "with_score"):
        return
    fields: list[str] = next((r.counts["fields"] for r in drawn.records if r.counts["fields"]), [])
    there = f"there: {', '.join(fields)}" if fields else "the first has no field"
    message = f"none of {examples:,} examples has a number in the field {drawing.score!r} of meta ({there})"
    raise drawing.planned.recipe.located((*drawing.place, "score"), message)


def check_kinds(samples: Sequence[tuple[Drawing, Sample]]) -> None:
    """Raises RecipeError, at the examples of a kind, where none of them is left."""
    kinds = dict.fromkeys(drawing.kind for drawing, _ in samples)
    for kind in kinds:
        mine = [(drawing, sample) for drawing, sample in samples if drawing.kind == kind]
        if any(sample.size for _, sample in mine):
            continue
        found = [f"{kind} {d.place[-1]}: {s.read:,} read, {s.passing:,} pass its filters" for d, s in mine]
        first = mine[0][0]
        message = f"no {kind} example is left ({'; '.join(found)})"
        raise first.planned.recipe.located(first.place[:-1], message)
