"""Into which clusters do documents' vectors fall?

The centroids of a step that compares vectors are fitted by spherical k-means (filters/kmeans.py) on a sample of the
documents that stand: those with the smallest draws, a hash of the seed and the id, exactly `sample_per_cluster` · k of
them or all. Whoever needs the cluster of a document assigns it to them.

    count ─▶ sample ─▶ centroids

`<step>-count` counts what stands, on which k depends where the recipe does not say it (√N). `<step>-sample` leaves
the draws and vectors of the sampled documents of some splits in the order of the draws. `<step>-centroids`, one task,
merges them and writes `CENTROIDS` (float32[k, d]). How documents are divided into splits has no say in it.

Memory: a sampling task holds its share of the sample twice and a batch of vectors; the task of the centroids the
sample, 48 bytes for each of its documents and what k-means needs, which it asks of Ray.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from winnow.filters.semantic_settings import Clustering
from winnow.pipelines.device import TORCH_BYTES, Device
from winnow.pipelines.documents import name
from winnow.pipelines.engine import Done, Engine, Request, Work
from winnow.pipelines.examples import draw_limit
from winnow.pipelines.jobs import Task
from winnow.pipelines.records import Outputs, Stage, total
from winnow.pipelines.standing import rows_of
from winnow.pipelines.vectors import BATCH_ROWS, VECTORS, Embedded, vector_batches
from winnow.shards import arrays, exchange, storage, tables

VERSION = 1
CENTROIDS = "centroids.npy"
SAMPLE_SEED = 0x73616D70
TASK_DOCUMENTS = 1 << 20
"""Documents that one task counts or samples."""
BYTES_OF_ONE = 48
"""What the task of the centroids holds for a sampled document beside its vector."""
CENTROID_BYTES = 24
"""What k-means holds for a number of a centroid."""
DRAWS = np.dtype([("draw", "<u8"), ("high", "<u8"), ("low", "<u8")])
"""A sampled document: its draw, and the halves of its id, which tell equal draws apart."""


def clusters(
    engine: Engine,
    step: str,
    label: str,
    inputs: Sequence[Embedded],
    upstream: Sequence[Stage],
    settings: Clustering,
    seed: int,
    device: Device,
) -> Work[Done]:
    """Fit the centroids of the documents that stand; returns the finished stage `<step>-centroids.<label>`.

    inputs : the splits, in any order. upstream : the stages that decide which documents stand.

    Its only record counts the `documents` that stand, their vectors' `dimensions`, the `clusters` there are (fewer than
    asked for where there are fewer different vectors), the documents of the `sample`, and, for each iteration, their
    `inertia` and the clusters `reseeded` (filters/kmeans.py).
    """
    inside = directories(inputs, upstream)
    drawn_by = {
        "clusters": settings.clusters,
        "sample_per_cluster": settings.sample_per_cluster,
        "seed": seed,
    }
    fitted_by = drawn_by | {"iterations": settings.iterations}
    final = Stage(f"{step}-centroids.{label}", VERSION, fitted_by, inside)
    if done := engine.finished(final, 1):
        return done
    pieces = exchange.group_by_bytes([i.documents for i in inputs], TASK_DOCUMENTS)
    parts = [tuple(inputs[a:b]) for a, b in pieces]
    count = Stage(f"{step}-count.{label}", VERSION, {}, inside)
    counted = yield Request(count, [Task(i, count_task, part) for i, part in enumerate(parts)])
    documents = total(counted.records, "documents")
    k = settings.clusters or max(1, round(math.sqrt(documents)))
    k = min(k, documents)
    size = min(documents, settings.sample_per_cluster * k)

    sample = Stage(f"{step}-sample.{label}", VERSION, drawn_by, inside)
    limit = draw_limit(size, documents) if documents else 0
    dimensions = max((i.dimensions for i in inputs), default=0)
    tasks = []
    for i, part in enumerate(parts):
        most = sum(split.documents for split in part) * min(1.0, (limit + 1) / 2**64)
        held = int(2 * most) * (dimensions * VECTORS.itemsize + DRAWS.itemsize)
        tasks.append(Task(i, sample_task, SampleSpec(i, part, limit, seed), TORCH_BYTES + held))
    drawn = yield Request(sample, tasks)

    files = tuple(r.counts["documents"] for r in drawn.records)
    spec = CentroidsSpec(
        drawn.location, files, documents, dimensions, size, k, settings.iterations, device.torch
    )
    memory = TORCH_BYTES + size * (2 * dimensions + BYTES_OF_ONE) + CENTROID_BYTES * k * dimensions
    return (yield Request(final, [device.task(0, centroids_task, spec, memory)]))


def directories(inputs: Sequence[Embedded], upstream: Sequence[Stage]) -> tuple[str, ...]:
    """Directories of the stages that these splits' vectors, and what stands of them, come from."""
    places = (i.place.rstrip("/").rsplit("/", 1)[-1] for i in inputs)
    return tuple(dict.fromkeys([*(s.directory for s in upstream), *places]))


def count_task(splits: tuple[Embedded, ...], outputs: Outputs) -> dict[str, Any]:
    """Count the documents of some splits that stand."""
    found = 0
    for split in splits:
        if split.documents:
            found += sum(b.column("keep").true_count for b in rows_of(split.standing).batches)
    return {"documents": found}


@dataclass(frozen=True, slots=True)
class SampleSpec:
    index: int
    splits: tuple[Embedded, ...]
    limit: int
    """Draws above this one are not in the sample."""
    seed: int


def sample_task(spec: SampleSpec, outputs: Outputs) -> dict[str, Any]:
    """Write the draws of the documents of some splits that may be in the sample, in their order, and the vectors."""
    draws, vectors = [np.empty(0, DRAWS)], []
    for split in spec.splits:
        for members, batch in vector_batches(split):
            draw = tables.mix(spec.seed ^ SAMPLE_SEED, members["high"], members["low"])
            wanted = np.flatnonzero(draw <= np.uint64(spec.limit))
            rows = np.empty(len(wanted), DRAWS)
            rows["draw"] = draw[wanted]
            rows["high"], rows["low"] = members["high"][wanted], members["low"][wanted]
            draws.append(rows)
            vectors.append(batch[wanted])
    rows = np.concatenate(draws)
    order = _in_order(rows)
    outputs.put(name("draws", spec.index, "bin"), rows[order].tobytes())
    with outputs.file(name("vectors", spec.index, "f16")) as path, open(path, "wb") as file:
        if len(rows):
            together = np.concatenate(vectors)
            vectors.clear()
            for first in range(0, len(order), BATCH_ROWS):
                file.write(together[order[first : first + BATCH_ROWS]].data)
    return {"documents": len(rows)}


def _in_order(rows: np.ndarray) -> np.ndarray:
    return np.lexsort((rows["low"], rows["high"], rows["draw"]))


@dataclass(frozen=True, slots=True)
class CentroidsSpec:
    location: str
    """Of the stage of the sample."""
    files: tuple[int, ...]
    """Documents of each of its tasks."""
    documents: int
    dimensions: int
    sample: int
    clusters: int
    iterations: int
    device: str


def centroids_task(spec: CentroidsSpec, outputs: Outputs) -> dict[str, Any]:
    """Fit the centroids on the first `sample` documents in the order of their draws."""
    facts: dict[str, Any] = {"documents": spec.documents, "dimensions": spec.dimensions}
    sample = _merged(spec)
    if len(sample):
        from winnow.filters.kmeans import fit

        fitted = fit(sample, spec.clusters, spec.iterations, spec.device)
        centroids = fitted.centroids
        facts |= {"inertia": list(fitted.inertia), "reseeded": list(fitted.reseeded)}
    else:
        centroids = np.empty((0, spec.dimensions), np.float32)
        facts |= {"inertia": [], "reseeded": []}
    with outputs.file(CENTROIDS) as path, open(path, "wb") as file:
        arrays.save(file, centroids)
    return facts | {"clusters": len(centroids), "sample": len(sample)}


def _merged(spec: CentroidsSpec) -> np.ndarray:
    """float16[sample, d]: the sampled vectors in the order of their draws."""
    found = [np.empty(0, DRAWS)]
    for file, n in enumerate(spec.files):
        place = storage.join(spec.location, name("draws", file, "bin"))
        found.append(exchange.read_array(place, 0, np.empty(n, DRAWS)))
    draws = np.concatenate(found)
    order = _in_order(draws)[: spec.sample]
    place_of = np.full(len(draws), -1)
    place_of[order] = np.arange(len(order))
    sample = np.empty((len(order), spec.dimensions), VECTORS)
    before = 0
    for file, n in enumerate(spec.files):
        place = storage.join(spec.location, name("vectors", file, "f16"))
        for first in range(0, n, BATCH_ROWS):
            batch = np.empty((min(BATCH_ROWS, n - first), spec.dimensions), VECTORS)
            exchange.read_array(place, first * spec.dimensions * VECTORS.itemsize, batch)
            to = place_of[before + first : before + first + len(batch)]
            sample[to[to >= 0]] = batch[to >= 0]
        before += n
    return sample


def centroids_at(location: str) -> np.ndarray:
    """float32[k, d]: the centroids that a finished stage, at this location, left."""
    with storage.open_input(storage.join(location, CENTROIDS)) as file:
        return np.load(file, allow_pickle=False)
