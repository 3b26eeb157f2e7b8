"""Are the centroids fitted on just the sample that the draws say, however documents are divided?"""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from winnow.filters.kmeans import fit
from winnow.filters.semantic_settings import Clustering
from winnow.pipelines import clustering, documents, verdicts
from winnow.pipelines.cluster import Inline
from winnow.pipelines.clustering import SAMPLE_SEED, centroids_at, clusters
from winnow.pipelines.device import CPU
from winnow.pipelines.engine import Done, Engine
from winnow.pipelines.progress import Progress
from winnow.pipelines.records import Outputs, Stage
from winnow.pipelines.standing import Standing
from winnow.pipelines.vectors import MEMBERS, Embedded, put_vectors
from winnow.shards import tables

SEED, D = 5, 6


@pytest.fixture(autouse=True)
def no_waiting_for_disks(monkeypatch):
    """Many small files; that they outlast a power cut is not what is tested here."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    torch.set_num_threads(1)


def corpus(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(uint64[n, 2] halves of ids, float16[n, D] vectors, bool[n] whether each stands)."""
    random = np.random.default_rng(n)
    vectors = random.normal(size=(n, D))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    halves = random.integers(0, 1 << 63, (n, 2)).astype(np.uint64)
    return halves, vectors.astype(np.float16), random.random(n) < 0.8


def plant(
    root: Path, halves: np.ndarray, vectors: np.ndarray, stands: np.ndarray, splits: int = 1
) -> list[Embedded]:
    """Stages of documents, filters and embeddings; what does not stand any more has a vector all the same."""
    texts, filters, made = (
        Outputs(str(root / f"{kind}.s-1")) for kind in ("documents", "filters", "embeddings")
    )
    found = []
    for split in range(splits):
        mine = slice(split, None, splits)
        ids, keep = tables.ids_of(halves[mine, 0], halves[mine, 1]), stands[mine]
        rows = pa.record_batch([ids], names=["id"])
        with (
            texts.file(documents.name("rows", split, "parquet")) as path,
            tables.RowWriter(path, rows.schema) as out,
        ):
            out.write(rows)
        n = len(keep)
        zeros = [pa.array(np.zeros(n, t)) for t in (np.uint64, np.float64, np.float64)]
        columns = [pa.array(np.where(keep, -1, 0), pa.int16()), *zeros]
        with (
            filters.file(documents.name("verdict", split, "arrow")) as path,
            tables.arrow_writer(path, verdicts.VERDICT_SCHEMA) as writer,
        ):
            writer.write_batch(pa.record_batch(columns, schema=verdicts.VERDICT_SCHEMA))
        members = np.zeros(n, MEMBERS)
        members["row"], members["high"], members["low"] = np.arange(n), halves[mine, 0], halves[mine, 1]
        wide = put_vectors(made, split, members, iter([vectors[mine]] if n else []))
        standing = Standing("s", 0, split, n, texts.location, filters.location)
        found.append(Embedded(standing, made.location, n, wide))
    return found


def fitted(root: Path, inputs: list[Embedded], **settings) -> tuple[Done, Engine]:
    engine = Engine(str(root), Inline(), Progress(stream=None))
    work = clusters(
        engine, "test", "s", inputs, [Stage("filters.s", 1, {})], Clustering(**settings), SEED, CPU
    )
    return engine.together(work)[0], engine


def in_order(halves: np.ndarray) -> np.ndarray:
    draws = tables.mix(SEED ^ SAMPLE_SEED, halves[:, 0], halves[:, 1])
    return np.argsort(draws, kind="stable")


@pytest.mark.parametrize("per_cluster", [3, 1000])
def test_the_sample_is_what_the_draws_say(tmp_path, per_cluster):
    halves, vectors, stands = corpus(900)
    inputs = plant(tmp_path, halves, vectors, stands, splits=4)
    done, _ = fitted(tmp_path, inputs, sample_per_cluster=per_cluster, iterations=3)
    n = int(stands.sum())
    k = round(math.sqrt(n))
    size = min(n, per_cluster * k)
    sample = vectors[stands][in_order(halves[stands])[:size]]
    expected = fit(sample, k, 3, "cpu")
    assert np.array_equal(centroids_at(done.location), expected.centroids)
    facts = {"documents": n, "dimensions": D, "clusters": k, "sample": size}
    facts |= {"inertia": list(expected.inertia), "reseeded": list(expected.reseeded)}
    assert done.records[0].counts == facts


def test_how_documents_are_divided_has_no_say(tmp_path, monkeypatch):
    halves, vectors, stands = corpus(600)
    whole, _ = fitted(
        tmp_path / "one", plant(tmp_path / "one", halves, vectors, stands), sample_per_cluster=4
    )
    monkeypatch.setattr(clustering, "TASK_DOCUMENTS", 150)
    monkeypatch.setattr(clustering, "BATCH_ROWS", 7)
    order = np.random.default_rng(1).permutation(600)
    inputs = plant(tmp_path / "many", halves[order], vectors[order], stands[order], splits=9)
    many, engine = fitted(tmp_path / "many", inputs[::-1], sample_per_cluster=4)
    assert len(engine.done["test-sample.s"].records) > 3
    assert np.array_equal(centroids_at(many.location), centroids_at(whole.location))
    assert many.records[0].counts == whole.records[0].counts
    drawn = sum(r.counts["documents"] for r in engine.done["test-sample.s"].records)
    assert whole.records[0].counts["sample"] < drawn < 300, "tasks leave little more than the sample"


@pytest.mark.parametrize(
    ("n", "standing", "clusters_given", "k"),
    [
        (0, True, None, 0),
        (4, False, None, 0),
        (1, True, None, 1),
        (3, True, 50, 3),
        (40, True, 7, 7),
        (6, True, None, 2),
    ],
)
def test_few_documents(tmp_path, n, standing, clusters_given, k):
    halves, vectors, _ = corpus(n)
    inputs = plant(tmp_path, halves, vectors, np.full(n, standing))
    done, _ = fitted(tmp_path, inputs, clusters=clusters_given)
    found = centroids_at(done.location)
    assert found.shape == (k, D if n else 0)
    assert found.dtype == np.float32
    assert done.records[0].counts["documents"] == (n if standing else 0)


def test_equal_documents_share_a_cluster(tmp_path):
    halves, vectors, _ = corpus(30)
    vectors[:] = vectors[0]
    done, _ = fitted(tmp_path, plant(tmp_path, halves, vectors, np.ones(30, bool)))
    assert done.records[0].counts["clusters"] == 1


def test_another_number_of_iterations_takes_the_same_sample(tmp_path):
    inputs = plant(tmp_path, *corpus(100))
    fitted(tmp_path, inputs, iterations=2)
    _, engine = fitted(tmp_path, inputs, iterations=3)
    assert [d.stage.kind for d in engine.performed if d.redone] == ["test-centroids"]


def test_finished_centroids_need_nothing_of_what_led_to_them(tmp_path):
    inputs = plant(tmp_path, *corpus(100))
    fitted(tmp_path, inputs)
    for kind in ("test-count", "test-sample"):
        (stage,) = (tmp_path / "stages").glob(f"{kind}.*")
        shutil.rmtree(stage)
    done, engine = fitted(tmp_path, inputs)
    assert (done.redone, len(engine.performed)) == (0, 1)
