"""Which documents lie nearest to the centre of their cluster?

The second half of D4 (Tirumala et al. 2023, arXiv:2308.12284): what SemDeDup left is clustered once more, and of each
document the cosine to its centroid is its score; the documents with the highest, the prototypes of their clusters, go
(the self-supervised metric of Sorscher et al. 2022, arXiv:2206.14486). The share that stays is taken of all documents,
not of each cluster's. No document needs another one for it: nothing is exchanged.

Memory: the centroids, twice, a batch of vectors, and 10 bytes for each document of a split.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from winnow.filters.semantic_settings import Prototypes
from winnow.filters.torch_threads import one_thread
from winnow.pipelines.clustering import VERSION as CLUSTERING_VERSION
from winnow.pipelines.clustering import centroids_at, clusters, directories
from winnow.pipelines.device import Device
from winnow.pipelines.engine import Done, Engine, Request, Work
from winnow.pipelines.recipe import Limits
from winnow.pipelines.records import Outputs, Stage
from winnow.pipelines.semantic_report import report_stage, report_work
from winnow.pipelines.vector_cut import cut, final_stage, task_count
from winnow.pipelines.vector_scores import SCORE_SCHEMA, score_name
from winnow.pipelines.vectors import Embedded, vector_batches
from winnow.shards import exchange, tables

VERSION = 1
STEP = "prototypes"
TASK_DOCUMENTS = 1 << 18
"""Documents that one task assigns to clusters: it loads the centroids once."""
ROWS_AT_A_TIME = 1 << 16


@dataclass(frozen=True, slots=True)
class ScoreSpec:
    splits: tuple[Embedded, ...]
    centroids: str
    """Location of the finished stage of the centroids."""
    device: str


def score_task(spec: ScoreSpec, outputs: Outputs) -> dict[str, Any]:
    """Write the scores of some splits, row-aligned with their documents; counts the documents that stand."""
    from winnow.filters.kmeans import assign

    centroids = centroids_at(spec.centroids)
    documents = 0
    for split in spec.splits:
        item = split.standing
        cluster, similarity = np.zeros(item.rows, np.uint32), np.zeros(item.rows, np.float32)
        stands = np.zeros(item.rows, bool)
        for members, vectors in vector_batches(split):
            rows = members["row"].astype(np.int64)
            with one_thread():
                cluster[rows], similarity[rows] = assign(vectors, centroids, spec.device)
            stands[rows] = True
        documents += int(stands.sum())
        file = score_name(item.source, item.split)
        with outputs.file(file) as path, tables.arrow_writer(path, SCORE_SCHEMA) as writer:
            for batch in _batches(stands, cluster, similarity):
                writer.write_batch(batch)
    return {"documents": documents}


def _batches(stands: np.ndarray, cluster: np.ndarray, similarity: np.ndarray) -> Iterator[pa.RecordBatch]:
    """SCORE_SCHEMA of all rows of a split."""
    for first in range(0, len(stands), ROWS_AT_A_TIME):
        rows = slice(first, first + ROWS_AT_A_TIME)
        gone = ~stands[rows]
        scores = pa.array(similarity[rows], mask=gone)
        n = len(gone)
        columns = [
            scores,
            pa.nulls(n, tables.ID),
            pa.nulls(n, pa.uint32()),
            pa.array(cluster[rows], mask=gone),
            scores,
        ]
        yield pa.record_batch(columns, schema=SCORE_SCHEMA)


def deduplicate(
    engine: Engine,
    group: Sequence[str],
    inputs: Sequence[Embedded],
    upstream: Sequence[Stage],
    settings: Prototypes,
    limits: Limits,
    seed: int,
    device: Device,
) -> Work[Done]:
    """Drop the prototypes of the splits of a group of sources; returns the stage of the verdicts.

    upstream : the stages that decide which documents stand. vector_cut.py says what the records count.
    """
    label = "+".join(group)[:80]
    standings = [i.standing for i in inputs]
    pieces = exchange.group_by_bytes([i.documents for i in inputs], TASK_DOCUMENTS)
    share = settings.keep_fraction
    identity = {
        "group": list(group),
        "clusters": settings.clusters,
        "iterations": settings.iterations,
        "sample_per_cluster": settings.sample_per_cluster,
        "seed": seed,
        "clustering": CLUSTERING_VERSION,
    }
    scores = Stage(f"{STEP}-scores.{label}", VERSION, identity, directories(inputs, upstream))
    final = final_stage(STEP, group, scores, share, None, seed)
    # All three are the run's own, and stay when it is cleaned.
    done = engine.finished(final, task_count(standings))
    reported = engine.finished(report_stage(STEP, group, final, seed), 1)
    scored = engine.finished(scores, len(pieces))
    if done and reported:
        return done
    if scored is None:
        fitted = yield from clusters(engine, STEP, label, inputs, upstream, settings, seed, device)
        facts = fitted.records[0].counts
        memory = limits.task_memory + 8 * facts["clusters"] * facts["dimensions"]
        specs = [ScoreSpec(tuple(inputs[a:b]), fitted.location, device.torch) for a, b in pieces]
        tasks = [device.task(i, score_task, spec, memory) for i, spec in enumerate(specs)]
        scored = yield Request(scores, tasks)
    done = yield from cut(STEP, group, standings, scored, share, None, seed)
    yield from report_work(engine, STEP, group, standings, scored, done, settings, seed)
    return done
