"""How do documents get their vectors?

    what stands ─▶ embedding-tokens ─▶ embeddings       on GPUs: CPU tasks tokenize, actors with the encoder follow
    what stands ─▶ embeddings                           on CPUs: one task does both

Vectors are made once for an embedding and a source, of the documents that stand before the first step that compares
vectors; every step, classifier and report reads them from there (vectors.py). Documents go through the encoder in
batches that are formed inside a window of consecutive documents of their split, from their lengths alone (embed.py).
Which device made a vector is counted in the record, and is no part of the stage's identity.

Memory: what embed.py says of a stream, 56 bytes for each document of a split, and what the encoder holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pyarrow as pa
from winnow.filters.torch_threads import one_thread
from winnow.pipelines.device import Device, DeviceError, choose
from winnow.pipelines.documents import name
from winnow.pipelines.encoders import EncoderPlace, needed_by, wanted
from winnow.pipelines.engine import Done, Engine, Request
from winnow.pipelines.jobs import Task
from winnow.pipelines.ledger import completed
from winnow.pipelines.plan_vectors import documents_of
from winnow.pipelines.planning import Plan
from winnow.pipelines.recipe import Recipe
from winnow.pipelines.records import Outputs, Stage
from winnow.pipelines.standing import Standing, rows_of, standings, texts_of
from winnow.pipelines.vectors import MEMBERS, put_vectors
from winnow.shards import arrays, exchange, storage, tables

if TYPE_CHECKING:
    from winnow.filters.encoder import Encoder
    from winnow.pipelines.corpus import SourceRun

VERSION = 1
ROWS_AT_A_TIME = 1 << 16


@dataclass(frozen=True, slots=True)
class EmbeddingSpec:
    standing: Standing
    encoder: EncoderPlace
    device: str
    """torch's name for it."""
    tokens: str | None = None
    """Location of the stage of tokens, where there is one."""


def tokens_task(spec: EmbeddingSpec, outputs: Outputs) -> dict[str, Any]:
    """Write the encoder's tokens of one split (int32), where each document's end and how many documents each window has
    (int64); returns their counts."""
    from winnow.filters.embed import windows

    split = spec.standing.split
    tokenizer = spec.encoder.load_tokens()
    ends, sizes, total = [np.empty(0, np.int64)], [], 0
    with outputs.file(name("tokens", split, "bin")) as path, open(path, "wb") as file:
        for window in windows(_texts(spec.standing)):
            ids, stops = tokenizer.tokens(window)
            arrays.write(file, ids.astype("<i4"))
            ends.append(stops + total)
            sizes.append(len(stops))
            total += len(ids)
    stops = np.concatenate(ends)
    outputs.put(name("ends", split, "bin"), stops.astype("<i8").tobytes())
    outputs.put(name("windows", split, "bin"), np.array(sizes, "<i8").tobytes())
    return {"documents": len(stops), "tokens": total}


def vectors_task(spec: EmbeddingSpec, outputs: Outputs) -> dict[str, Any]:
    """Write the vectors of one split; returns their counts."""
    members = _members(spec.standing)
    with one_thread():
        encoder = spec.encoder.load(spec.device)
        if spec.tokens is None:
            batches = spec.encoder.vectors_of(_texts(spec.standing), spec.device)
        else:
            batches = _of_stored_tokens(spec, encoder)
        put_vectors(outputs, spec.standing.split, members, batches)
    made_on = {f"{encoder.device} {encoder.dtype}": len(members)} if len(members) else {}
    return {"documents": len(members), "dimensions": encoder.dimensions, "made_on": made_on}


def _members(standing: Standing) -> np.ndarray:
    """MEMBERS of the documents of a split that stand."""
    rows = rows_of(standing, ["id"])
    found = [np.empty(0, MEMBERS)]
    for first in range(0, standing.rows, ROWS_AT_A_TIME):
        batch = rows.take(min(ROWS_AT_A_TIME, standing.rows - first))
        keep = batch.column("keep").to_numpy(zero_copy_only=False)
        high, low = tables.id_halves(batch.column("id"))
        mine = np.empty(int(keep.sum()), MEMBERS)
        mine["row"], mine["high"], mine["low"] = first + np.flatnonzero(keep), high[keep], low[keep]
        found.append(mine)
    return np.concatenate(found)


def _texts(standing: Standing) -> Iterator[pa.LargeStringArray]:
    for batch in texts_of(standing):
        yield batch.texts


def _of_stored_tokens(spec: EmbeddingSpec, encoder: Encoder) -> Iterator[np.ndarray]:
    """The vectors of a split, a window at a time as its first task cut them."""
    from winnow.filters.embed import budget_of, embed_tokens

    assert spec.tokens is not None
    place, split = spec.tokens, spec.standing.split
    ends, sizes = (
        np.frombuffer(storage.read_bytes(storage.join(place, name(kind, split, "bin"))), "<i8")
        for kind in ("ends", "windows")
    )
    budget = budget_of(spec.encoder.settings, spec.device)
    first = begin = 0
    for size in sizes.tolist():
        stops = ends[first : first + size]
        wanted = np.empty(int(stops[-1]) - begin, "<i4")
        ids = exchange.read_array(storage.join(place, name("tokens", split, "bin")), 4 * begin, wanted)
        yield embed_tokens(encoder, ids, stops - begin, budget)
        first, begin = first + size, int(stops[-1])


def _published(run: str, embedding: str) -> bool:
    """Whether the run was finished once, with such vectors."""
    place = storage.join(run, "manifest.json")
    if not storage.exists(place):
        return False
    stages = orjson.loads(storage.read_bytes(place))["stages"]
    return any(stage["name"].startswith(f"embeddings.{embedding}.") for stage in stages)


@dataclass(frozen=True)
class Embeddings:
    """What a run makes vectors with, by the name of the embedding."""

    encoders: dict[str, EncoderPlace]
    devices: dict[str, Device]
    stages: list[Done]
    """Of the encoders."""


def prepare(
    engine: Engine, planned: Plan, encoders: dict[str, EncoderPlace], stages: list[Done]
) -> Embeddings:
    """Choose where vectors are made. Raises RecipeError, at the embedding's place, for a device that cannot be had."""
    recipe = planned.recipe
    devices = {}
    for embedding, encoder in encoders.items():
        own = embedding in recipe.embeddings
        place = ("embeddings", embedding, "device") if own else wanted(recipe)[embedding]
        documents = documents_of(planned, embedding)
        if encoder.max_tokens < encoder.settings.max_tokens:
            engine.progress.say(
                f"embedding {embedding}: the model reads {encoder.max_tokens:,} tokens of a document, not "
                f"{encoder.settings.max_tokens:,}"
            )
        try:
            devices[embedding] = choose(embedding, encoder, engine.executor, documents, engine.progress.say)
        except DeviceError as error:
            refusal = recipe.located(place, str(error))
            if not _published(engine.run, embedding):
                raise refusal from error
            # What was made elsewhere is used here; only if something is missing after all this is an error.
            devices[embedding] = Device(refusal=str(refusal))
    return Embeddings(encoders, devices, stages)


def embed(engine: Engine, recipe: Recipe, sources: Mapping[str, SourceRun], embeddings: Embeddings) -> None:
    """Make the vectors that steps and classifiers will ask for and that are not there yet, of what stands now.

    They are in `embedded` of the sources afterwards.
    """
    requests: list[Request] = []
    made: list[tuple[SourceRun, str, int]] = []
    for source in sources.values():
        for embedding in needed_by(recipe, source.name):
            if embedding not in source.embedded:
                encoder, device = embeddings.encoders[embedding], embeddings.devices[embedding]
                requests += requests_of(engine.run, embedding, source, encoder, device)
                made.append((source, embedding, len(requests) - 1))
    done = engine.perform_all(requests)
    for source, embedding, at in made:
        source.embedded[embedding] = done[at]


def requests_of(
    run: str, embedding: str, source: SourceRun, encoder: EncoderPlace, device: Device
) -> list[Request]:
    """The stages of a source's vectors; the last has them."""
    upstream = tuple(done.stage.directory for done in (source.filters, *source.steps))
    owner = f"{embedding}.{source.name}"
    final = Stage(f"embeddings.{owner}", VERSION, encoder.identity, upstream)
    there = completed(final.location(run))
    items = standings(source)
    missing = [s for s in items if s.split not in there]
    if missing:
        device.check()
    if not device.gpus:
        specs = [EmbeddingSpec(s, encoder, device.torch) for s in items]
        tasks = [device.task(s.standing.split, vectors_task, s, encoder.memory) for s in specs]
        return [Request(final, tasks)]
    identity = {"sha256": encoder.files.sha256, "max_tokens": encoder.max_tokens}
    first = Stage(f"embedding-tokens.{owner}", VERSION, identity, upstream)
    place = first.location(run)
    feeding = [Task(s.split, tokens_task, EmbeddingSpec(s, encoder, device.torch, place)) for s in missing]
    tasks = []
    for item in items:
        after = None if item.split in there else (first.name, item.split)
        spec = EmbeddingSpec(item, encoder, device.torch, place)
        tasks.append(device.task(item.split, vectors_task, spec, after=after))
    return [Request(first, feeding), Request(final, tasks)] if missing else [Request(final, tasks)]
