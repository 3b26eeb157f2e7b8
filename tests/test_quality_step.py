"""Do documents stay by their vectors' scores, exactly as many as a share says, and in the recipe's order?"""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from winnow.filters.embedding_head import Linear, to_bytes
from winnow.pipelines import quality_step, verdicts
from winnow.pipelines.classifier_settings import Quality
from winnow.pipelines.cluster import Inline
from winnow.pipelines.documents import ROWS_SCHEMA, name
from winnow.pipelines.engine import Done, Engine, RunError
from winnow.pipelines.models import FILE
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import read
from winnow.pipelines.records import Outputs, Record, Stage, total
from winnow.pipelines.standing import Standing, verdict_name
from winnow.pipelines.vectors import MEMBERS, Embedded, put_vectors
from winnow.pipelines.verdicts import CUT_SEED
from winnow.shards import storage, tables


@pytest.fixture(autouse=True)
def no_waiting_for_disks(monkeypatch):
    """Many small files; that they outlast a power cut is not what is tested here."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


SEED = 17
N = 300
DIMENSIONS = 8
WEIGHTS = {
    "first": np.eye(DIMENSIONS)[0],
    "second": np.eye(DIMENSIONS)[1] * 2,
    "coarse": np.zeros(DIMENSIONS),
}
"""Heads: a number of the vector as it is, one doubled, and one that gives every document the same score."""


def vectors() -> np.ndarray:
    found = np.random.default_rng(2).normal(size=(N, DIMENSIONS))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float16)


def stands() -> np.ndarray:
    """bool[N]: every seventh document has gone since the vectors were made."""
    return np.arange(N) % 7 != 3


def planted(root: Path, size: int) -> list[Embedded]:
    """Splits of `size` documents, the filters' verdicts on them, and vectors of all of them but every 29th."""
    found, all_vectors, keep = [], vectors(), stands()
    place = root / "stages" / f"embeddings.default.s-{size}"
    place.mkdir(parents=True)
    for split, a in enumerate(range(0, N, size)):
        at = np.arange(a, min(a + size, N))
        n = len(at)
        ids = tables.ids_of(np.zeros(n, np.uint64), at.astype(np.uint64))
        sizes = pa.array(at + 1, pa.uint32())
        with tables.RowWriter(str(place / name("rows", split, "parquet")), ROWS_SCHEMA) as writer:
            texts = [pa.nulls(n, pa.string())] * 2
            writer.write(pa.record_batch([ids, *texts, ids, sizes], schema=ROWS_SCHEMA))
        first = pa.array(np.where(keep[at], -1, 0), pa.int16())
        rest = [pa.nulls(n, kind) for kind in (pa.uint64(), pa.float64(), pa.float64())]
        with tables.arrow_writer(str(place / name("verdict", split, "arrow")), verdicts.VERDICT_SCHEMA) as w:
            w.write_batch(pa.record_batch([first, *rest], schema=verdicts.VERDICT_SCHEMA))
        there = at[keep[at] | (at % 29 != 0)]
        members = np.zeros(len(there), MEMBERS)
        members["row"], members["low"] = there - a, there
        put_vectors(Outputs(str(place)), split, members, iter([all_vectors[there]]))
        standing = Standing("s", 0, split, n, str(place), str(place))
        found.append(Embedded(standing, str(place), len(there), DIMENSIONS))
    return found


def classifiers(root: Path) -> dict[str, Done]:
    found = {}
    for classifier, weights in WEIGHTS.items():
        data = to_bytes(Linear(weights, np.asarray(0.0), np.asarray(False)))
        place = root / "stages" / f"embedding-classifier.{classifier}"
        place.mkdir(parents=True, exist_ok=True)
        (place / FILE).write_bytes(data)
        record = Record(0, {"sha256": hashlib.sha256(data).hexdigest()}, {})
        found[classifier] = Done(Stage(place.name, 1, {}), str(place), [record], 0, 0.0, 0.0)
    return found


RECIPE = read(
    """name: judged
tokenizer: {name: mistral-7b-v0.1}
embedding_classifiers:
  first: &any {scored: {s: {read: {format: text, path: x}, score: n}}, head: linear}
  second: *any
  coarse: *any
sources: {s: {read: {format: text, path: x}}}
""",
    "r.yaml",
)


def decide(root: Path, uses: list[dict], size: int = 70) -> tuple[Engine, Done]:
    engine = Engine(str(root), Inline(), Progress(stream=None))
    place = root / "stages" / f"embeddings.default.s-{size}"
    inputs = planted(root, size) if not place.exists() else engine_inputs(place, size)
    judged = [Quality.model_validate(use) for use in uses]
    upstream = [Stage("filters.s", 1, {"size": size})]
    work = quality_step.decide(
        "s",
        [i.standing for i in inputs],
        {"default": inputs},
        upstream,
        judged,
        classifiers(root),
        {},
        RECIPE,
    )
    (done,) = engine.together(work)
    return engine, done


def engine_inputs(place: Path, size: int) -> list[Embedded]:
    """The splits of `planted`, which are there."""
    found = []
    for split, a in enumerate(range(0, N, size)):
        n = min(a + size, N) - a
        documents = (place / name("members", split, "bin")).stat().st_size // MEMBERS.itemsize
        found.append(
            Embedded(Standing("s", 0, split, n, str(place), str(place)), str(place), documents, DIMENSIONS)
        )
    return found


def rows_of(done: Done) -> list[dict]:
    """All verdicts in order."""
    found = []
    for record in done.records:
        for batch in tables.arrow_batches(storage.join(done.location, verdict_name("s", record.index))):
            found += batch.to_pylist()
    return found


def scores(classifier: str) -> np.ndarray:
    """float32[N], slowly."""
    return (vectors().astype(np.float64) @ WEIGHTS[classifier]).astype(np.float32)


def draws() -> np.ndarray:
    return tables.mix(SEED ^ CUT_SEED, np.zeros(N, np.uint64), np.arange(N, dtype=np.uint64))


def expected(uses: list[dict]) -> list[str | None]:
    """The rule that drops each document, by a plain pass over all of them."""
    gone: list[str | None] = [None] * N
    for use in uses:
        score = scores(use["classifier"]).astype(float)
        left = [i for i in range(N) if stands()[i] and gone[i] is None]
        fraction = use.get("keep_fraction")
        if fraction is not None:
            best = sorted(left, key=lambda i: (-score[i], draws()[i]))
            for i in best[math.ceil(round(fraction * len(left), 6)) :]:
                gone[i] = f"{use['classifier']}.keep_fraction"
        for i in left:
            if score[i] < use.get("min_score", -math.inf):
                gone[i] = f"{use['classifier']}.min_score"
            elif score[i] > use.get("max_score", math.inf):
                gone[i] = f"{use['classifier']}.max_score"
    return gone


USES = {
    "bounds": [{"classifier": "first", "min_score": -0.2, "max_score": 0.4}],
    "share": [{"classifier": "second", "keep_fraction": 0.3}],
    "ties": [{"classifier": "coarse", "keep_fraction": 0.5}],
    "bound-then-share": [
        {"classifier": "first", "min_score": 0.0},
        {"classifier": "second", "keep_fraction": 0.4},
        {"classifier": "first", "max_score": 0.5},
    ],
    "share-of-a-share": [
        {"classifier": "first", "keep_fraction": 0.5},
        {"classifier": "second", "keep_fraction": 0.5},
    ],
    "all": [{"classifier": "first", "keep_fraction": 1.0}],
    "nothing": [{"classifier": "first"}, {"classifier": "second"}],
}


@pytest.mark.parametrize("uses", USES.values(), ids=USES.keys())
def test_documents_go_by_the_first_bound_that_they_fail(tmp_path, uses):
    _, done = decide(tmp_path, uses)
    verdicts_, gone = rows_of(done), expected(uses)
    assert done.stage.name == "quality.s"
    assert [v["detail"] for v in verdicts_] == gone
    assert [v["dropped"] for v in verdicts_] == [rule is not None for rule in gone]
    assert all(v["survivor"] is None and v["cuts"] is None for v in verdicts_)
    dropped = [i for i in range(N) if gone[i] is not None]
    assert total(done.records, "dropped", "s") == len(dropped)
    assert total(done.records, "dropped_bytes", "s") == sum(i + 1 for i in dropped)
    rules = {rule: gone.count(rule) for rule in set(gone) - {None}}
    assert (total(done.records, "rules") or {}) == rules
    for what in ("cut_documents", "cut_bytes", "pairs"):
        assert all(record.counts[what] == {} for record in done.records)
    for i, verdict in enumerate(verdicts_):
        if not stands()[i]:
            assert verdict["score"] is None
            continue
        of = gone[i].split(".")[0] if gone[i] else uses[-1]["classifier"]
        assert verdict["score"] == scores(of)[i]


def test_rules_count_documents_that_fail_more_than_one(tmp_path):
    uses = [{"classifier": "first", "min_score": 0.1}, {"classifier": "second", "min_score": 0.1}]
    _, done = decide(tmp_path, uses)
    low = [(scores(c) < 0.1) & stands() for c in ("first", "second")]
    assert total(done.records, "rules")["second.min_score"] == (low[1] & ~low[0]).sum()
    assert total(done.records, "failing")["second.min_score"] == low[1].sum()
    assert total(done.records, "only")["first.min_score"] == (low[0] & ~low[1]).sum()


@pytest.mark.parametrize("uses", [USES["bound-then-share"], USES["ties"]])
def test_verdicts_do_not_depend_on_how_the_source_is_split(tmp_path, uses, monkeypatch):
    _, whole = decide(tmp_path, uses, size=N)
    monkeypatch.setattr(quality_step, "BATCH_ROWS", 16)
    monkeypatch.setattr("winnow.pipelines.order_statistic.TASK_ROWS", 50)
    monkeypatch.setattr("winnow.pipelines.order_statistic.LISTED", 3)
    _, parts = decide(tmp_path, uses, size=41)
    assert len(parts.records) == 8
    assert rows_of(whole) == rows_of(parts)


def test_scores_are_stored_for_documents_that_stand(tmp_path):
    engine, _ = decide(tmp_path, USES["nothing"])
    done = engine.done["quality-scores.second.s"]
    found: list[float | None] = []
    for record in done.records:
        place = storage.join(done.location, quality_step.score_name(record.index))
        for batch in tables.arrow_batches(place):
            assert batch.schema == quality_step.SCORES
            found += batch.column("score").to_pylist()
    assert found == [float(s) if there else None for s, there in zip(scores("second"), stands(), strict=True)]
    assert total(done.records, "documents") == stands().sum()


def test_deciles_are_those_of_all_splits(tmp_path):
    """Of splits with at most as many documents as their records hold scores of."""
    whole = np.sort(scores("first")[stands()]).astype(float)
    for size in (41, 90):
        engine, _ = decide(tmp_path / str(size), USES["nothing"], size)
        records = engine.done["quality-scores.first.s"].records
        n = total(records, "documents")
        expected_ = [whole[0], *(whole[math.ceil(n * k / 10) - 1] for k in range(1, 10)), whole[-1]]
        assert quality_step.deciles(records) == pytest.approx(expected_, rel=1e-3)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 700), st.floats(-5, 5), st.floats(0.001, 3)), max_size=6),
    st.integers(0, 99),
)
def test_deciles_are_off_by_half_a_hundredth_of_the_documents(splits, seed):
    rng = np.random.default_rng(seed)
    drawn = [rng.normal(middle, width, n).astype(np.float32) for n, middle, width in splits]
    records = [
        Record(i, {"documents": len(found), **quality_step._outline(found)}, {})
        for i, found in enumerate(drawn)
    ]
    whole = np.sort(np.concatenate([np.zeros(0, np.float32), *drawn])).astype(float)
    found, n = quality_step.deciles(records), len(whole)
    if not n:
        assert found == []
        return
    assert len(found) == 11
    assert found == sorted(found)
    assert found[0] == pytest.approx(whole[0], rel=1e-3)
    assert found[-1] == pytest.approx(whole[-1], rel=1e-3)
    for k, score in enumerate(found[1:-1], 1):
        near = 1e-3 * abs(score)
        low, high = np.searchsorted(whole, score - near), np.searchsorted(whole, score + near, side="right")
        room = 0.005 * n + len(splits)
        assert low - room <= n * k / 10 <= high + room


def test_a_record_holds_few_scores_however_many_documents_a_split_has():
    outline = quality_step._outline(np.random.default_rng(1).normal(size=200_000).astype(np.float32))
    assert len(outline["middles"]) == quality_step.PARTS
    assert len(json.dumps(outline)) < 1200


def test_another_bound_redoes_the_decision_alone_and_the_same_nothing(tmp_path):
    decide(tmp_path, USES["share"])
    again, _ = decide(tmp_path, USES["share"])
    assert sum(done.redone for done in again.performed) == 0
    other, done = decide(tmp_path, [{"classifier": "second", "keep_fraction": 0.6}])
    redone = {d.stage.name for d in other.performed if d.redone}
    assert "quality.s" in redone
    assert not [name for name in redone if name.startswith("quality-scores.")]
    assert "quality-cut0-0.s" not in redone, "the counts of the first round are the same for every share"
    assert [v["detail"] for v in rows_of(done)] == expected([{"classifier": "second", "keep_fraction": 0.6}])


def test_a_document_without_a_vector_is_an_error(tmp_path):
    inputs = planted(tmp_path, 70)
    place = Path(inputs[1].place)
    members = np.frombuffer((place / name("members", 1, "bin")).read_bytes(), MEMBERS).copy()
    members["row"][0] = members["row"][1]
    (place / name("members", 1, "bin")).write_bytes(members.tobytes())
    with pytest.raises(RunError, match="documents of s have no score of first"):
        decide(tmp_path, USES["bounds"])
