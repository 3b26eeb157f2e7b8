"""Does semantic dedup find what a plain search through each cluster finds, however documents are divided?"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from winnow.filters.semantic_settings import Semantic
from winnow.pipelines import documents, semantic_compare, semantic_scores, verdicts
from winnow.pipelines.cluster import Inline
from winnow.pipelines.clustering import centroids_at
from winnow.pipelines.engine import Done, Engine
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import Limits
from winnow.pipelines.records import Outputs, Stage
from winnow.pipelines.semantic import deduplicate
from winnow.pipelines.semantic_compare import CLUSTERED, ORDER_SEED
from winnow.pipelines.standing import VERDICT_SCHEMA, Standing, verdict_name, write_verdicts
from winnow.pipelines.vector_scores import SCORE_SCHEMA, score_name
from winnow.pipelines.vectors import MEMBERS, Embedded, put_vectors
from winnow.shards import tables

SEED = 17
D = 12


@pytest.fixture(autouse=True)
def no_waiting_for_disks(monkeypatch):
    """Many small files; that they outlast a power cut is not what is tested here."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    torch.set_num_threads(1)


@dataclass(frozen=True)
class Document:
    """A document with its vector, as a test plants it."""

    source: str
    high: int
    low: int
    vector: np.ndarray
    fallen: bool = False
    """A step between the embeddings and ours dropped it."""


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def corpus(n: int = 1200, seed: int = 0) -> list[Document]:
    """Topics, near-copies, exact copies, a crowd of one page, empty documents; of two sources; one in nine fell."""
    random = np.random.default_rng(seed)
    topics = random.normal(size=(12, D))
    vectors = topics[random.integers(0, 12, n)] + 0.6 * random.normal(size=(n, D))
    vectors[n // 4 : n // 2] = vectors[: n // 2 - n // 4] + 0.03 * random.normal(size=(n // 2 - n // 4, D))
    vectors = unit(vectors)
    vectors[n // 2 : n // 2 + 60] = vectors[:60]
    vectors[n // 2 + 60 : n // 2 + 200] = vectors[5]
    vectors[-3:] = 0
    halves = random.integers(0, 1 << 63, (n, 2))
    return [
        Document("ab"[i % 3 == 0], int(h), int(low), v, i % 9 == 4)
        for i, ((h, low), v) in enumerate(zip(halves, vectors, strict=True))
    ]


def plant(root: Path, corpus: Sequence[Document], splits: int = 3, order: int = 0) -> list[Embedded]:
    """Stages of documents, filters, a step and embeddings: every other row of a split the filters dropped."""
    found = []
    for rank, source in enumerate("ab"):
        mine = [d for d in corpus if d.source == source]
        if order:
            mine = [mine[i] for i in np.random.default_rng(order).permutation(len(mine))]
        step, embeddings = (
            Outputs(str(root / f"exact.{source}-1")),
            Outputs(str(root / f"embeddings.{source}-1")),
        )
        texts, filters = (
            Outputs(str(root / f"documents.{source}-1")),
            Outputs(str(root / f"filters.{source}-1")),
        )
        for split in range(splits):
            here = mine[split::splits]
            n = 2 * len(here)
            halves = np.zeros((n, 2), np.uint64)
            halves[1::2] = np.array([(d.high, d.low) for d in here], np.uint64).reshape(-1, 2)
            ids = tables.ids_of(halves[:, 0], halves[:, 1])
            strings = pa.array([f"a text of {source}"] * n, pa.large_string())
            rows = [
                ids,
                strings.cast(pa.string()),
                pa.nulls(n, pa.string()),
                ids,
                pa.array([11] * n, pa.uint32()),
            ]
            with (
                texts.file(documents.name("rows", split, "parquet")) as path,
                tables.RowWriter(path, documents.ROWS_SCHEMA) as out,
            ):
                out.write(pa.record_batch(rows, schema=documents.ROWS_SCHEMA))
            with (
                texts.file(documents.name("text", split, "arrow")) as path,
                tables.arrow_writer(path, documents.TEXT_SCHEMA) as writer,
            ):
                writer.write_batch(pa.record_batch([strings], schema=documents.TEXT_SCHEMA))
            kept = pa.array([-1 if i % 2 else 0 for i in range(n)], pa.int16())
            zeros = [pa.array([0] * n, pa.uint64()), pa.array([0.0] * n), pa.array([0.0] * n)]
            with (
                filters.file(documents.name("verdict", split, "arrow")) as path,
                tables.arrow_writer(path, verdicts.VERDICT_SCHEMA) as writer,
            ):
                writer.write_batch(pa.record_batch([kept, *zeros], schema=verdicts.VERDICT_SCHEMA))
            gone = [{"dropped": i % 2 == 1 and here[i // 2].fallen} for i in range(n)]
            write_verdicts(step, source, split, [pa.RecordBatch.from_pylist(gone, VERDICT_SCHEMA)])
            members = np.zeros(len(here), MEMBERS)
            members["row"] = 2 * np.arange(len(here)) + 1
            members["high"], members["low"] = halves[1::2, 0], halves[1::2, 1]
            vectors = np.array([d.vector for d in here], np.float16).reshape(-1, D)
            wide = put_vectors(embeddings, split, members, iter([vectors[:5], vectors[5:]]))
            standing = Standing(
                source, rank, split, n, texts.location, filters.location, (step.location,),
                documents_left=len(here),
            )  # fmt: skip
            found.append(Embedded(standing, embeddings.location, len(here), wide))
    return found


@dataclass
class Run:
    """A run over planted vectors."""

    folder: Path
    inputs: list[Embedded]
    engine: Engine
    final: Done

    def done(self, kind: str) -> Done:
        return self.engine.done[f"{kind}.a+b"]

    def scores(self) -> dict[tuple[int, int], dict]:
        """What is known of each document that stands, by the halves of its id."""
        found = {}
        for item in self.inputs:
            split = item.standing
            file = Path(self.done("semantic-scores").location) / score_name(split.source, split.split)
            with tables.arrow_file(str(file)) as reader:
                assert reader.schema == SCORE_SCHEMA
                rows = reader.read_all().to_pylist()
            ids = [halves_of(i) for i in stored_ids(split)]
            assert len(rows) == split.rows
            for id_, row in zip(ids, rows, strict=True):
                if row["score"] is None:
                    assert set(row.values()) == {None}
                else:
                    found[id_] = row
        return found

    def dropped(self) -> set[tuple[int, int]]:
        found = set()
        for item in self.inputs:
            split = item.standing
            file = Path(self.final.location) / verdict_name(split.source, split.split)
            for id_, row in zip(stored_ids(split), read(file), strict=True):
                if row["dropped"]:
                    found.add(halves_of(id_))
        return found


def read(file: Path) -> list[dict]:
    return [row for batch in tables.arrow_batches(str(file)) for row in batch.to_pylist()]


def stored_ids(split: Standing) -> list[bytes]:
    file = Path(split.documents) / documents.name("rows", split.split, "parquet")
    return [i for batch in tables.parquet_batches(str(file), ["id"]) for i in batch.column("id").to_pylist()]


def halves_of(id_: bytes) -> tuple[int, int]:
    return int.from_bytes(id_[:8], "big"), int.from_bytes(id_[8:], "big")


def dedup(folder: Path, inputs: list[Embedded], settings: Semantic, partition_bytes: int = 1 << 20) -> Run:
    engine = Engine(str(folder), Inline(), Progress(stream=None))
    upstream = [Stage("filters.a", 1, {}), Stage("filters.b", 1, {})]
    limits = Limits(partition_bytes=partition_bytes)
    work = deduplicate(engine, ["a", "b"], inputs, upstream, settings, limits, SEED)
    return Run(folder, inputs, engine, engine.together(work)[0])


# ---- a plain search --------------------------------------------------------------------------------------------


def expected(
    corpus: Sequence[Document], centroids: np.ndarray, settings: Semantic
) -> dict[tuple[int, int], dict]:
    """SemDeDup as the paper says it, on what stands, with these centroids; cosines in float64 are exact."""
    stands = [d for d in corpus if not d.fallen]
    vectors = np.array([d.vector for d in stands], np.float64)
    cosines = vectors @ centroids.T.astype(np.float64)
    cluster = cosines.argmax(1)
    similarity = np.clip(cosines.max(1), -1, 1).astype(np.float32)
    order = {"hard": similarity, "easy": -similarity}.get(settings.order)
    if order is None:
        halves = np.array([(d.high, d.low) for d in stands], np.uint64)
        order = tables.mix(SEED ^ ORDER_SEED, halves[:, 0], halves[:, 1])
    found = {}
    for c in np.unique(cluster):
        mine = sorted(
            np.flatnonzero(cluster == c).tolist(),
            key=lambda i: (stands[i].source, order[i], stands[i].high, stands[i].low),
        )
        kept: list[int] = []
        for at, i in enumerate(mine):
            others = kept if settings.greedy else mine[:at]
            score, near = -1.0, None
            if others:
                to = vectors[others] @ vectors[i]
                score, near = float(np.float32(np.clip(to.max(), -1, 1))), stands[others[int(to.argmax())]]
            if settings.eps is None or not score > np.float32(1 - settings.eps):
                kept.append(i)
            found[(stands[i].high, stands[i].low)] = {
                "score": score,
                "neighbour": near and near.high.to_bytes(8, "big") + near.low.to_bytes(8, "big"),
                "source": near and "ab".index(near.source),
                "cluster": int(c),
                "similarity": float(similarity[i]),
            }
    return found


HARD = Semantic(keep_fraction=0.8, clusters=9, iterations=4, sample_per_cluster=20)
WAYS = [
    HARD,
    HARD.model_copy(update={"order": "easy"}),
    HARD.model_copy(update={"order": "random"}),
    HARD.model_copy(update={"greedy": True, "eps": 0.1, "keep_fraction": None}),
]


@pytest.mark.parametrize("settings", WAYS, ids=["hard", "easy", "random", "greedy"])
def test_scores_are_those_of_a_plain_search(tmp_path, settings):
    documents = corpus()
    run = dedup(tmp_path, plant(tmp_path, documents), settings)
    centroids = centroids_at(run.done("semantic-centroids").location)
    assert run.scores() == expected(documents, centroids, settings)
    scores, dropped = {id_: row["score"] for id_, row in run.scores().items()}, run.dropped()
    if settings.eps is not None:
        assert dropped == {id_ for id_, score in scores.items() if score > np.float32(1 - settings.eps)}
    else:
        assert len(dropped) == len(scores) - int(np.ceil(0.8 * len(scores)))
        assert min(scores[i] for i in dropped) >= max(scores[i] for i in scores.keys() - dropped)


def test_documents_of_the_first_source_come_first(tmp_path):
    documents = corpus()
    run = dedup(tmp_path, plant(tmp_path, documents), HARD)
    source = {(d.high, d.low): d.source for d in documents}
    pairs = {(source[id_], row["source"]) for id_, row in run.scores().items()}
    assert pairs == {("a", None), ("a", 0), ("b", 0), ("b", 1)}


def test_the_crowd_of_one_page_is_found(tmp_path):
    """140 documents with one vector: all but the first have it for a neighbour."""
    documents = corpus()
    settings = HARD.model_copy(update={"eps": 0.001, "keep_fraction": None})
    run = dedup(tmp_path, plant(tmp_path, documents), settings)
    crowd = [d for d in documents if np.array_equal(d.vector, documents[5].vector) and not d.fallen]
    assert len(crowd) > 100
    assert len({(d.high, d.low) for d in crowd} - run.dropped()) == 1


@pytest.mark.parametrize("settings", [WAYS[0], WAYS[3]], ids=["hard", "greedy"])
def test_how_documents_are_divided_has_no_say(tmp_path, settings, monkeypatch):
    documents = corpus()
    whole = dedup(tmp_path / "whole", plant(tmp_path / "whole", documents, splits=1), settings)
    assert len(whole.done("semantic-runs").records) == 1
    inputs = plant(tmp_path / "many", documents, splits=5, order=3)
    mapped: list[int] = []
    honest = semantic_compare.whole_clusters

    def watched(spec):
        for rows, vectors, edges in honest(spec):
            if isinstance(vectors, np.memmap):
                mapped.append(len(rows))
            else:
                assert rows.nbytes + vectors.nbytes <= 2 * spec.limit
            assert np.array_equal(np.unique(rows["cluster"]), rows["cluster"][edges[:-1]])
            yield rows, vectors, edges

    monkeypatch.setattr(semantic_compare, "whole_clusters", watched)
    monkeypatch.setattr(semantic_scores, "BATCH_ROWS", 13)
    many = dedup(tmp_path / "many", inputs, settings, partition_bytes=4096)
    partitions = [record.counts["clusters"] for record in many.done("semantic-pairs").records]
    assert len(partitions) >= sum(partitions) == 9
    assert max(partitions) <= 2
    assert "semantic-runs-round2.a+b" in many.engine.done
    runs = [run for record in many.done("semantic-runs").records for run in record.counts["runs"]]
    assert max(sum(run["partition_bytes"]) for run in runs) <= 4096
    largest = max(record.counts["largest"] for record in many.done("semantic-pairs").records)
    assert largest * (CLUSTERED.dtype.itemsize + 2 * D) > 3 * 4096, "a cluster is larger than what is held"
    assert many.scores() == whole.scores()
    assert many.dropped() == whole.dropped()
    assert mapped


def test_documents_alone_and_none_at_all(tmp_path):
    one = [Document("a", 1, 2, np.eye(1, D, dtype=np.float16)[0])]
    run = dedup(tmp_path / "one", plant(tmp_path / "one", one), Semantic(eps=0.1))
    assert run.scores() == {
        (1, 2): {"score": -1.0, "neighbour": None, "source": None, "cluster": 0, "similarity": 1.0}
    }
    assert run.dropped() == set()
    for name, none in (("none", []), ("fallen", [Document("a", 1, 2, one[0].vector, fallen=True)])):
        run = dedup(tmp_path / name, plant(tmp_path / name, none), Semantic(keep_fraction=0.5))
        assert run.scores() == {}
        assert run.dropped() == set()


def redone(run: Run) -> set[str]:
    """Kinds of the stages that tasks of ran now, those of the report left out."""
    kinds = {d.stage.kind for d in run.engine.performed if d.redone}
    report = ("semantic-curve", "semantic-shown", "semantic-report", "semantic-cluster-sizes")
    return {kind for kind in kinds if not kind.startswith(report)}


def test_another_share_costs_another_cut(tmp_path):
    inputs = plant(tmp_path, corpus(300))
    dedup(tmp_path, inputs, HARD)
    again = dedup(tmp_path, inputs, HARD.model_copy(update={"keep_fraction": 0.5}))
    assert {kind for kind in redone(again) if not kind.startswith("semantic-cut")} == {"semantic"}
    assert len(again.dropped()) == 267 - 134
    by_eps = dedup(tmp_path, inputs, HARD.model_copy(update={"keep_fraction": None, "eps": 0.05}))
    assert redone(by_eps) == {"semantic"}
    assert not redone(dedup(tmp_path, inputs, HARD))
    greedy = dedup(tmp_path, inputs, WAYS[3])
    assert redone(greedy) == {"semantic-pairs", "semantic-scores", "semantic"}
    other_size = dedup(tmp_path, inputs, HARD, partition_bytes=1 << 13)
    assert not redone(other_size)


def test_a_finished_step_needs_nothing_of_what_led_to_it(tmp_path):
    inputs = plant(tmp_path, corpus(300))
    first = dedup(tmp_path, inputs, HARD)
    own = ["semantic", "semantic-report", "semantic-scores"]
    for stage in (tmp_path / "stages").iterdir():
        if stage.name.split(".")[0] not in own:
            shutil.rmtree(stage)
    again = dedup(tmp_path, inputs, HARD)
    assert [d.stage.kind for d in again.engine.performed] == own
    assert sum(d.redone for d in again.engine.performed) == 0
    assert again.dropped() == first.dropped()
    other = dedup(tmp_path, inputs, HARD.model_copy(update={"keep_fraction": 0.9}))
    assert {kind for kind in redone(other) if not kind.startswith("semantic-cut")} == {"semantic"}


def test_it_goes_on_where_it_stopped(tmp_path):
    inputs = plant(tmp_path, corpus(300))
    first = dedup(tmp_path, inputs, HARD, partition_bytes=1 << 13)
    before = files_of(tmp_path / "stages")
    records = sorted((tmp_path / "stages").glob("semantic*/records/*.json"))
    lost = [
        r
        for i, r in enumerate(records)
        if i % 3 == 0 or r.parts[-3].startswith(("semantic.", "semantic-scores"))
    ]
    assert len(lost) > 5
    for record in lost:
        record.unlink()
    again = dedup(tmp_path, inputs, HARD, partition_bytes=1 << 13)
    assert 0 < sum(d.redone for d in again.engine.performed) <= len(lost)
    assert again.dropped() == first.dropped()
    assert files_of(tmp_path / "stages") == before


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and "records" not in p.parts
    }
