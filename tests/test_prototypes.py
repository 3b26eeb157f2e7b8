"""Do exactly those documents go that are nearest to the centroid of their cluster?"""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from winnow.filters.semantic_settings import Prototypes
from winnow.pipelines import prototypes
from winnow.pipelines.cluster import Inline
from winnow.pipelines.clustering import centroids_at
from winnow.pipelines.device import CPU
from winnow.pipelines.documents import ROWS_SCHEMA, TEXT_SCHEMA, name
from winnow.pipelines.engine import Done, Engine
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import Limits
from winnow.pipelines.records import Outputs, Stage, total
from winnow.pipelines.standing import Standing, rows_of, verdict_name
from winnow.pipelines.vector_cut import DRAW_SEED
from winnow.pipelines.vector_scores import SCORE_SCHEMA, score_name
from winnow.pipelines.vectors import MEMBERS, Embedded, put_vectors
from winnow.pipelines.verdicts import VERDICT_SCHEMA as FILTER_SCHEMA
from winnow.shards import tables

pytest.importorskip("torch")

SEED = 23
D = 16
CENTRES = np.linalg.qr(np.random.default_rng(1).normal(size=(D, D)))[0][:4]


@pytest.fixture(autouse=True)
def no_waiting_for_disks(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def around(n: int, seed: int) -> np.ndarray:
    """float16[n, D] of length 1: about four directions, from close by to far off."""
    rng = np.random.default_rng(seed)
    vectors = CENTRES[rng.integers(0, 4, n)] + rng.normal(size=(n, D)) * rng.uniform(0.01, 0.4, (n, 1))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def planted(root: Path, sources: dict[str, np.ndarray], sizes: list[int], gone: int = 0) -> list[Embedded]:
    """Splits of these sizes, the last of the rest, with their vectors; every `gone`-th document does not stand."""
    found = []
    for rank, (source, vectors) in enumerate(sources.items()):
        place = root / "stages" / f"embeddings.{source}-{len(sizes)}"
        place.mkdir(parents=True)
        edges = [0, *np.cumsum(sizes).tolist(), len(vectors)]
        for split in range(len(edges) - 1):
            a, b = edges[split : split + 2]
            at = np.arange(a, b)
            high = np.full(b - a, rank, np.uint64)
            write_rows(place, split, high, at, keep=(at + 1) % gone != 0 if gone else at >= 0)
            members = np.zeros(b - a, MEMBERS)
            members["row"], members["high"], members["low"] = at - a, high, at
            # As where a step that dropped documents came between: there are vectors of more than stand.
            d = put_vectors(Outputs(str(place)), split, members, iter([vectors[a:b]] if b > a else []))
            standing = Standing(source, rank, split, b - a, str(place), str(place))
            found.append(Embedded(standing, str(place), b - a, d))
    return found


def write_rows(place: Path, split: int, high: np.ndarray, low: np.ndarray, keep: np.ndarray) -> None:
    n = len(low)
    ids = tables.ids_of(high, low.astype(np.uint64))
    columns = [ids, pa.nulls(n, pa.string()), pa.nulls(n, pa.string()), ids, pa.array([10] * n, pa.uint32())]
    with tables.RowWriter(str(place / name("rows", split, "parquet")), ROWS_SCHEMA) as writer:
        writer.write(pa.record_batch(columns, schema=ROWS_SCHEMA))
    with tables.arrow_writer(str(place / name("text", split, "arrow")), TEXT_SCHEMA) as writer:
        texts = pa.array(["ten a text"] * n, pa.large_string())
        writer.write_batch(pa.record_batch([texts], schema=TEXT_SCHEMA))
    first = pa.array(np.where(keep, -1, 0), pa.int16())
    rest = [pa.nulls(n, pa.uint64()), pa.nulls(n, pa.float64()), pa.nulls(n, pa.float64())]
    with tables.arrow_writer(str(place / name("verdict", split, "arrow")), FILTER_SCHEMA) as writer:
        writer.write_batch(pa.record_batch([first, *rest], schema=FILTER_SCHEMA))


def deduplicate(root: Path, inputs: list[Embedded], **settings) -> tuple[Engine, Done]:
    engine = Engine(str(root), Inline(), Progress(stream=None))
    group = list(dict.fromkeys(i.standing.source for i in inputs))
    upstream = [Stage(f"filters.{source}", 1, {}) for source in group]
    asked = Prototypes(**{"keep_fraction": 0.7, "clusters": 4, "iterations": 5, **settings})
    work = prototypes.deduplicate(engine, group, inputs, upstream, asked, Limits(), SEED, CPU)
    return engine, engine.together(work)[0]


def dropped(done: Done, inputs: list[Embedded]) -> dict[tuple[str, int], float]:
    """Scores of the documents that go, by source and position."""
    found, first = {}, {}
    for item in (i.standing for i in inputs):
        at = first.get(item.source, 0)
        first[item.source] = at + item.rows
        batches = tables.arrow_batches(f"{done.location}/{verdict_name(item.source, item.split)}")
        rows = [row for batch in batches for row in batch.to_pylist()]
        assert len(rows) == item.rows
        for i, row in enumerate(rows, at):
            assert row["survivor"] is row["detail"] is row["cuts"] is None
            assert row["dropped"] == (row["score"] is not None)
            if row["dropped"]:
                found[item.source, i] = row["score"]
    return found


def expected(engine: Engine, sources: dict[str, np.ndarray], fraction: float, gone: int) -> dict:
    """The rule read aloud, with the centroids that were found."""
    (fitted,) = (done for done in engine.performed if done.stage.kind == "prototypes-centroids")
    centroids = centroids_at(fitted.location).astype(np.float64)
    order = []
    for rank, (source, vectors) in enumerate(sources.items()):
        cosines = (vectors.astype(np.float64) @ centroids.T).max(1).astype(np.float32)
        n = len(vectors)
        draws = tables.mix(SEED ^ DRAW_SEED, np.full(n, rank, np.uint64), np.arange(n, dtype=np.uint64))
        order += [
            (float(cosines[i]), int(draws[i]), source, i) for i in range(n) if not gone or (i + 1) % gone
        ]
    order.sort()
    kept = math.ceil(round(fraction * len(order), 6))
    return {(source, i): cosine for cosine, _, source, i in order[kept:]}


@pytest.mark.parametrize("sizes", [[], [0, 70, 1]])
def test_the_nearest_to_their_centroids_go(tmp_path, sizes):
    sources = {"a": around(400, 2), "b": around(150, 3)}
    inputs = planted(tmp_path, sources, sizes, gone=7)
    engine, done = deduplicate(tmp_path, inputs)
    found = dropped(done, inputs)
    assert found == expected(engine, sources, 0.7, gone=7)
    assert total(done.records, "dropped") == {s: sum(source == s for source, _ in found) for s in sources}
    assert total(done.records, "dropped_bytes") == {
        s: 10 * sum(source == s for source, _ in found) for s in sources
    }
    assert total(done.records, "pairs") == {}
    scores = engine.done["prototypes-scores.a+b"]
    assert total(scores.records, "documents") == 550 - 550 // 7
    for item in (i.standing for i in inputs):
        mine = list(tables.arrow_batches(f"{scores.location}/{score_name(item.source, item.split)}"))
        assert all(batch.schema == SCORE_SCHEMA for batch in mine)
        rows = [row for batch in mine for row in batch.to_pylist()]
        stands = rows_of(item).take(item.rows).column("keep").to_pylist() if item.rows else []
        assert [row["score"] is not None for row in rows] == stands
        assert all(row["similarity"] == row["score"] for row in rows)
        assert {row["cluster"] for row in rows if row["score"] is not None} <= set(range(4))
        assert all(row["cluster"] is None for row in rows if row["score"] is None)


def test_how_splits_and_tasks_are_cut_does_not_matter(tmp_path, monkeypatch):
    sources = {"a": around(300, 4)}
    answers = []
    for i, sizes in enumerate([[], [40, 40, 90], [1, 250]]):
        monkeypatch.setattr(prototypes, "TASK_DOCUMENTS", [1 << 18, 60, 1][i])
        monkeypatch.setattr(prototypes, "ROWS_AT_A_TIME", [1 << 16, 7, 50][i])
        inputs = planted(tmp_path / str(i), sources, sizes)
        _, done = deduplicate(tmp_path / str(i), inputs)
        answers.append(dropped(done, inputs))
    assert answers[0] == answers[1] == answers[2]
    assert len(answers[0]) == 90


def test_another_share_clusters_nothing_again_and_what_is_decided_needs_no_scores(tmp_path):
    inputs = planted(tmp_path, {"a": around(200, 5)}, [120])
    first, done = deduplicate(tmp_path, inputs)
    assert first.done["prototypes-report.a"].records[0].counts["documents"] == 200
    clean(tmp_path, keep=("scores", "report"))
    other, _ = deduplicate(tmp_path, inputs, keep_fraction=0.5)
    kinds = {d.stage.kind for d in other.performed if d.redone}
    assert "prototypes" in kinds
    assert not kinds & {"prototypes-centroids", "prototypes-sample", "prototypes-scores"}
    clean(tmp_path, keep=("report",))
    again, same = deduplicate(tmp_path, inputs)
    assert same.stage == done.stage
    assert not any(d.redone for d in again.performed)
    refit, changed = deduplicate(tmp_path, inputs, iterations=2)
    assert refit.done["prototypes-scores.a"].redone == len(refit.done["prototypes-scores.a"].records) > 0
    assert changed.stage != done.stage


def clean(root: Path, keep: tuple[str, ...]) -> None:
    """Take away all stages of the step but its verdicts and these."""
    for stage in (root / "stages").glob("prototypes-*"):
        if not stage.name.startswith(tuple(f"prototypes-{kind}." for kind in keep)):
            shutil.rmtree(stage)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_documents(tmp_path, n):
    inputs = planted(tmp_path, {"a": around(n, 6)}, [])
    _, done = deduplicate(tmp_path, inputs, clusters=None, keep_fraction=0.5)
    assert len(dropped(done, inputs)) == n // 2
