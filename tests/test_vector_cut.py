"""Does the cut over stored scores keep exactly what a sort of all documents keeps, and the curve tell what it would?"""

from __future__ import annotations

import itertools
import math
import os
import tempfile
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from winnow.pipelines import order_statistic, retention, vector_cut
from winnow.pipelines.cluster import Inline
from winnow.pipelines.documents import ROWS_SCHEMA, name
from winnow.pipelines.engine import Done, Engine
from winnow.pipelines.progress import Progress
from winnow.pipelines.records import Stage, total
from winnow.pipelines.standing import VERDICT_SCHEMA, Standing, verdict_name
from winnow.pipelines.vector_scores import SCORE_SCHEMA, score_name
from winnow.shards import tables

SEED = 11


@dataclass(frozen=True)
class Document:
    score: float | None
    """None: it does not stand any more."""
    neighbour: int | None = None
    """Number of its source among the sources, where it has one."""


def id_of(source: int, position: int) -> bytes:
    return (7 + source).to_bytes(8, "big") + position.to_bytes(8, "big")


def size_of(position: int) -> int:
    return 10 + position % 7


def planted(root: Path, sources: dict[str, list[Document]], sizes: list[int]) -> tuple[list[Standing], Done]:
    """Splits of these sizes, the last of the rest, and the stage of their scores."""
    scores = Stage("semantic-scores.x", 1, {"sizes": sizes})
    place = Path(scores.location(str(root)))
    place.mkdir(parents=True)
    inputs = []
    for rank, (source, documents) in enumerate(sources.items()):
        folder = root / f"documents.{source}"
        folder.mkdir(exist_ok=True)
        edges = [0, *np.cumsum(sizes).tolist(), len(documents)]
        for split, (a, b) in enumerate(
            (min(a, len(documents)), min(b, len(documents))) for a, b in itertools.pairwise(edges)
        ):
            mine = documents[a:b]
            write_rows(folder / name("rows", split, "parquet"), rank, a, b)
            write_scores(place / score_name(source, split), mine)
            inputs.append(Standing(source, rank, split, len(mine), str(folder), str(folder)))
    return inputs, Done(scores, str(place), [], 0, 0.0, 0.0)


def write_rows(path: Path, rank: int, first: int, stop: int) -> None:
    with tables.RowWriter(str(path), ROWS_SCHEMA) as writer:
        for at in range(first, stop, 1 << 16):
            writer.write(rows_of(rank, at, min(at + (1 << 16), stop)))


def rows_of(rank: int, first: int, stop: int) -> pa.RecordBatch:
    n = stop - first
    ids = tables.ids_of(np.full(n, 7 + rank, np.uint64), np.arange(first, stop, dtype=np.uint64))
    sizes = pa.array(10 + np.arange(first, stop) % 7, pa.uint32())
    columns = [ids, pa.nulls(n, pa.string()), pa.nulls(n, pa.string()), ids, sizes]
    return pa.record_batch(columns, schema=ROWS_SCHEMA)


def write_scores(path: Path, documents: list[Document], batch: int = 4) -> None:
    with tables.arrow_writer(str(path), SCORE_SCHEMA) as writer:
        for at in range(0, len(documents), batch):
            part = documents[at : at + batch]
            stands = [d.score is not None for d in part]
            columns = {
                "score": [d.score for d in part],
                "neighbour": [None if d.neighbour is None else id_of(d.neighbour, 0) for d in part],
                "source": [d.neighbour for d in part],
                "cluster": [3 if s else None for s in stands],
                "similarity": [0.5 if s else None for s in stands],
            }
            writer.write_batch(pa.RecordBatch.from_pydict(columns, schema=SCORE_SCHEMA))


def engine_at(root: Path) -> Engine:
    return Engine(str(root), Inline(), Progress(stream=None))


def cut(engine, inputs, scores, keep_fraction=None, eps=None, step="semantic"):
    group = list(dict.fromkeys(i.source for i in inputs))
    return engine.together(vector_cut.cut(step, group, inputs, scores, keep_fraction, eps, SEED))[0]


def verdicts(done, inputs) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for item in inputs:
        rows = found.setdefault(item.source, [])
        before = len(rows)
        for batch in tables.arrow_batches(f"{done.location}/{verdict_name(item.source, item.split)}"):
            assert batch.schema == VERDICT_SCHEMA
            rows += batch.to_pylist()
        assert len(rows) - before == item.rows
    return found


def gone(done, inputs) -> set[tuple[str, int]]:
    return {
        (s, i) for s, rows in verdicts(done, inputs).items() for i, row in enumerate(rows) if row["dropped"]
    }


def draw(rank: int, position: int) -> int:
    words = np.array([7 + rank], np.uint64), np.array([position], np.uint64)
    return int(tables.mix(SEED ^ vector_cut.DRAW_SEED, *words)[0])


def expected_gone(sources: dict[str, list[Document]], fraction: float) -> set[tuple[str, int]]:
    """The rule read aloud: sorted by score, then by draw, the first ⌈fraction · n⌉ stay."""
    order = sorted(
        (d.score + 0.0, draw(rank, i), source, i)
        for rank, (source, documents) in enumerate(sources.items())
        for i, d in enumerate(documents)
        if d.score is not None
    )
    return {(s, i) for _, _, s, i in order[math.ceil(round(fraction * len(order), 6)) :]}


def some(n: int, seed: int = 0, ties: int | None = None, sources: int = 2) -> list[Document]:
    """Scores as SemDeDup leaves them: -1, many alike, and some that do not stand."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(-0.2, 1, n).astype(np.float32)
    if ties:
        scores = (np.round(scores * ties) / ties).astype(np.float32)
    scores[rng.random(n) < 0.1] = -1
    stands = rng.random(n) < 0.9
    neighbours = rng.integers(0, sources, n).tolist()
    return [
        Document(float(s) if ok else None, r if ok and s > -1 else None)
        for s, r, ok in zip(scores, neighbours, stands, strict=True)
    ]


SOME_SCORES = st.floats(-1, 1, width=32) | st.sampled_from([-1.0, 0.5, 0.0, -0.0, 1.0])


@settings(deadline=None, max_examples=20)
@given(
    a=st.lists(st.none() | SOME_SCORES, max_size=25),
    b=st.lists(st.none() | SOME_SCORES, max_size=10),
    fraction=st.floats(0.001, 1) | st.sampled_from([0.5, 0.8, 1.0]),
    first=st.integers(0, 12),
    listed=st.sampled_from([0, 3, 1 << 16]),
)
def test_a_share_keeps_what_a_sort_keeps(a, b, fraction, first, listed):
    sources = {"a": [Document(s) for s in a], "b": [Document(s) for s in b]}
    with tempfile.TemporaryDirectory() as root, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)  # a hundred small files an example
        patch.setattr(order_statistic, "LISTED", listed)
        patch.setattr(order_statistic, "TASK_ROWS", 10)  # several tasks
        inputs, scores = planted(Path(root), sources, [first])
        done = cut(engine_at(Path(root)), inputs, scores, keep_fraction=fraction)
        assert len(done.records) == vector_cut.task_count(inputs)
        assert gone(done, inputs) == expected_gone(sources, fraction)
        stood = [s for s in (*a, *b) if s is not None]
        kept = math.ceil(round(fraction * len(stood), 6))
        implied = {r.counts["eps"] for r in done.records}
        assert implied == ({1 - sorted(stood)[kept - 1]} if stood else {None})


@pytest.mark.parametrize("fraction", [0.8, 0.25, 1.0])
def test_exactly_the_share_stays_whatever_the_splits(tmp_path, fraction):
    sources = {"a": some(700, 1, ties=8), "b": some(300, 2, ties=8)}
    answers = []
    for i, sizes in enumerate([[], [100, 1, 0, 399], [25] * 11]):
        inputs, scores = (
            planted(tmp_path / str(i), sources, sizes) if i else planted(tmp_path, sources, sizes)
        )
        done = cut(engine_at(tmp_path / str(i)), inputs, scores, keep_fraction=fraction)
        answers.append(gone(done, inputs))
    stood = sum(d.score is not None for documents in sources.values() for d in documents)
    assert len(answers[0]) == stood - math.ceil(fraction * stood)
    assert answers[0] == answers[1] == answers[2] == expected_gone(sources, fraction)


def test_eps_drops_what_is_above_it_and_nothing_else(tmp_path):
    # No float32 is 0.9 or 0.6: the nearest lies below the one and above the other. What was rounded to it stays.
    edges = [np.float32(1 - eps) for eps in (0.1, 0.4)]
    assert float(edges[0]) < 0.9
    assert float(edges[1]) > 0.6
    values = [float(np.nextafter(e, np.float32(s), dtype=np.float32)) for e in edges for s in (-2, 2)]
    values += [float(e) for e in edges] + [1.0, -1.0]
    sources = {"a": [Document(v) for v in values] + [Document(None)]}
    inputs, scores = planted(tmp_path, sources, [3])
    for eps in (0.1, 0.4, 0.0, 2.0):
        done = cut(engine_at(tmp_path), inputs, scores, eps=eps)
        bound = float(np.float32(1 - eps))
        assert gone(done, inputs) == {("a", i) for i, v in enumerate(values) if v > bound}
        assert {r.counts["eps"] for r in done.records} == {eps}


def test_verdicts_name_the_neighbour_and_count_what_goes(tmp_path):
    sources = {"a": some(400, 3), "b": some(150, 4)}
    inputs, scores = planted(tmp_path, sources, [90, 200])
    done = cut(engine_at(tmp_path), inputs, scores, keep_fraction=0.7)
    assert done.stage.name == "semantic.a+b"
    bytes_gone, pairs_gone = {"a": 0, "b": 0}, {}
    found = verdicts(done, inputs)
    for source, documents in sources.items():
        for i, (row, document) in enumerate(zip(found[source], documents, strict=True)):
            if not row.pop("dropped"):
                assert not any(v is not None for v in row.values())
                continue
            near = document.neighbour
            survivor = None if near is None else id_of(near, 0)
            assert row == {"survivor": survivor, "score": document.score, "detail": None, "cuts": None}
            bytes_gone[source] += size_of(i)
            if near is not None:
                pair = f"{source} of {'ab'[near]}"
                pairs_gone[pair] = pairs_gone.get(pair, 0) + 1
    assert total(done.records, "dropped") == {
        s: sum(source == s for source, _ in gone(done, inputs)) for s in sources
    }
    assert total(done.records, "dropped_bytes") == bytes_gone
    assert total(done.records, "pairs") == dict(sorted(pairs_gone.items()))
    assert len(pairs_gone) == 4
    assert total(done.records, "cut_documents") == total(done.records, "cut_bytes") == {}


def test_another_share_counts_nothing_again_that_is_counted(tmp_path):
    inputs, scores = planted(tmp_path, {"a": some(300, sources=1)}, [100])
    first = engine_at(tmp_path)
    made = cut(first, inputs, scores, keep_fraction=0.8)
    group = ["a"]
    assert vector_cut.final_stage("semantic", group, scores.stage, 0.8, None, SEED) == made.stage
    again = engine_at(tmp_path)
    cut(again, inputs, scores, keep_fraction=0.8)
    assert sum(done.redone for done in again.performed) == 0
    other = engine_at(tmp_path)
    cut(other, inputs, scores, keep_fraction=0.5)
    redone = {done.stage.kind: done.redone for done in other.performed}
    assert redone["semantic-cut-0"] == 0
    assert redone["semantic"] == 1
    by_eps = engine_at(tmp_path)
    cut(by_eps, inputs, scores, eps=0.2)
    assert [done.stage.kind for done in by_eps.performed] == ["semantic"]


def test_scores_that_are_not_of_these_documents_are_refused(tmp_path):
    inputs, scores = planted(tmp_path, {"a": some(20)}, [10])
    write_scores(Path(scores.location) / score_name("a", 1), some(11))
    task = vector_cut.Scored(scores.location, (inputs[1],), SEED)
    with pytest.raises(ValueError, match="row-aligned"):
        list(task.places())


def test_memory_is_that_of_a_batch(tmp_path):
    n = 400_000
    values = np.random.default_rng(5).uniform(-1, 1, n).astype(np.float32)
    folder = tmp_path / "documents"
    folder.mkdir()
    write_rows(folder / name("rows", 0, "parquet"), 0, 0, n)
    with tables.arrow_writer(str(folder / score_name("a", 0)), SCORE_SCHEMA) as writer:
        for at in range(0, n, 1 << 16):
            part = pa.array(values[at : at + (1 << 16)])
            rest = [pa.nulls(len(part), f.type) for f in list(SCORE_SCHEMA)[1:]]
            writer.write_batch(pa.record_batch([part, *rest], schema=SCORE_SCHEMA))
    inputs = [Standing("a", 0, 0, n, str(folder), str(folder))]
    scores = Done(Stage("semantic-scores.a", 1, {}), str(folder), [], 0, 0.0, 0.0)
    tracemalloc.start()
    try:
        done = cut(engine_at(tmp_path), inputs, scores, keep_fraction=0.8)
        curve = curve_of(tmp_path, inputs, scores)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert total(done.records, "dropped") == {"a": n // 5}
    assert curve["documents"] == n
    assert peak < 8 << 20  # all places would be 6 MiB, with draws, digits and masks several times that


# ---- the curve ---------------------------------------------------------------------------------------------------


def curve_of(root, inputs, scores):
    engine = engine_at(root)
    group = list(dict.fromkeys(i.source for i in inputs))
    done = engine.together(retention.curve_work("semantic", group, inputs, scores))[0]
    (record,) = done.records
    assert done.stage.name == f"semantic-curve.{'+'.join(group)}"
    return record.counts


def test_the_curve_says_what_each_eps_and_share_would_leave(tmp_path, monkeypatch):
    monkeypatch.setattr(order_statistic, "TASK_ROWS", 100)
    sources = {"a": some(900, 6), "b": some(80, 7, ties=20)}
    inputs, scores = planted(tmp_path, sources, [80, 200, 300])
    curve = curve_of(tmp_path, inputs, scores)
    values = np.array([d.score for documents in sources.values() for d in documents if d.score is not None])
    assert curve["documents"] == len(values)
    for eps in (0.01, 0.1, 0.5):
        done = cut(engine_at(tmp_path), inputs, scores, eps=eps)
        assert curve["kept_at_eps"][str(eps)] == len(values) - len(gone(done, inputs))
    step = 2 / retention.BINS
    assert [float(s) for s in curve["eps_at_share"]] == list(retention.SHARES)
    for share, eps in curve["eps_at_share"].items():
        wanted = math.ceil(round(float(share) * len(values), 6))
        assert (values <= 1 - eps).sum() >= wanted
        assert (values <= 1 - eps - step).sum() < wanted


@pytest.mark.parametrize("value", [-1.0, 1.0, 0.5, 1.0002])
def test_the_curve_of_scores_that_are_all_the_same(tmp_path, value):
    inputs, scores = planted(tmp_path, {"a": [Document(value)] * 9}, [4])
    curve = curve_of(tmp_path, inputs, scores)
    at = min(value, 1.0)
    assert set(curve["kept_at_eps"].values()) == ({9} if value <= 0.5 else {0})
    expected = 1 - at if at > -1 else 2 - 2 / retention.BINS  # the first bin holds -1, and ends above it
    assert set(curve["eps_at_share"].values()) == {expected}


def test_of_no_documents_there_is_no_curve_and_no_cut(tmp_path):
    inputs, scores = planted(tmp_path, {"a": [Document(None)] * 3}, [1])
    curve = curve_of(tmp_path, inputs, scores)
    assert curve["documents"] == 0
    assert curve["eps_at_share"] == {}
    done = cut(engine_at(tmp_path), inputs, scores, keep_fraction=0.5)
    assert not gone(done, inputs)
    assert not gone(cut(engine_at(tmp_path), inputs, scores, eps=0.0), inputs)
