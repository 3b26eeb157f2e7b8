"""Does a fraction keep exactly the documents with the highest scores, however the source is split?"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from winnow.pipelines import order_statistic, run
from winnow.pipelines.cluster import Inline
from winnow.pipelines.documents import name
from winnow.pipelines.engine import Engine
from winnow.pipelines.order_statistic import Last, find_last, places_of
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import read
from winnow.pipelines.verdicts import CUT_SEED
from winnow.shards import storage, tables

SILENT = Progress(stream=None)
SCORES = st.floats(allow_nan=False) | st.sampled_from([0.0, -0.0, 1.0, 5e-324, math.inf, -math.inf])


@given(st.lists(st.tuples(SCORES, st.integers(0, 2**64 - 1)), max_size=20))
def test_places_sort_by_falling_score_then_rising_draw(documents):
    scores = np.array([score for score, _ in documents], float)
    draws = np.array([draw for _, draw in documents], np.uint64)
    places = places_of(scores, draws)
    found = sorted(range(len(documents)), key=lambda i: tuple(places[i].tolist()))
    assert found == sorted(found, key=lambda i: (-scores[i], documents[i][1]))
    for (score, draw), (high, low) in zip(documents, places.tolist(), strict=True):
        assert Last(high, low, 1, 1).score == score
        assert low == draw


@dataclass(frozen=True)
class Planted:
    """Places in two batches."""

    scores: tuple[float, ...]
    draws: tuple[int, ...]

    def places(self) -> Iterator[np.ndarray]:
        both = places_of(np.array(self.scores, float), np.array(self.draws, np.uint64))
        yield both[: len(both) // 3]
        yield both[len(both) // 3 :]


def found(parts, fraction, root) -> tuple[Last | None, Engine]:
    engine = Engine(str(root), Inline(), SILENT)
    work = find_last("cut", "rows", parts, fraction, {}, ())
    return engine.together(work)[0], engine


@settings(deadline=None, max_examples=20)
@given(
    documents=st.lists(
        st.tuples(st.sampled_from([-0.5, 0.0, 0.25, math.inf, 1e-9]) | SCORES, st.integers(0, 3)),
        min_size=1,
        max_size=30,
        unique_by=lambda d: (d[0] + 0.0, d[1]),
    ),
    fraction=st.floats(0.001, 1),
    n_parts=st.integers(1, 3),
    listed=st.sampled_from([0, 2, 1 << 16]),
)
def test_the_last_that_stays_is_the_one_that_a_sort_finds(documents, fraction, n_parts, listed):
    parts = [Planted(*zip(*mine, strict=True)) for i in range(n_parts) if (mine := documents[i::n_parts])]
    with tempfile.TemporaryDirectory() as root, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)  # a hundred small files an example
        patch.setattr(order_statistic, "LISTED", listed)
        last, _ = found(parts, fraction, root)
    assert last is not None
    assert last.documents == len(documents)
    assert last.kept == math.ceil(round(fraction * len(documents), 6))
    ordered = sorted(documents, key=lambda d: (-d[0], d[1]))
    assert (last.score, last.low) == ordered[last.kept - 1]
    places = places_of(np.array([s for s, _ in ordered]), np.array([d for _, d in ordered], np.uint64))
    assert last.reaches(places).tolist() == [i < last.kept for i in range(len(ordered))]


def test_of_no_documents_none_is_the_last_and_many_are_never_listed(tmp_path):
    assert found([Planted((), ())], 0.5, tmp_path / "none")[0] is None
    alike = Planted((0.75,) * 70_000, tuple(range(70_000)))
    last, engine = found([alike], 0.25, tmp_path / "alike")
    assert last == Last(last.high, 17_499, 17_500, 70_000)
    assert last.score == 0.75
    assert all(r.counts["documents"] <= order_statistic.LISTED for r in engine.performed[-1].records)
    assert engine.performed[-1].stage.kind == "cut-listed-7"  # all alike but for the last two bytes


def recipe(root: Path, fraction: float, **changes: object):
    text = f"""
name: cuts
tokenizer: {{name: mistral-7b-v0.1}}
sequence: {{length: 16}}
sources:
  rows:
    read: {{format: jsonl, path: "{root}/*.jsonl"}}
    filters:
    - length: {{min_chars: 3}}
    - field: {{path: score, keep_fraction: {fraction}}}
limits: {{split_bytes: 2KB}}
"""
    return read(text, "test.yaml", [f"{key.replace('__', '.')}={value}" for key, value in changes.items()])


def write(root: Path, scores: list[float | None], *, files: int = 3) -> None:
    root.mkdir(exist_ok=True)
    for file in range(files):
        lines = [
            json.dumps({"text": f"document {i} of many" if i % 10 else "no", "score": score})
            for i, score in enumerate(scores)
            if i % files == file
        ]
        (root / f"{file}.jsonl").write_text("\n".join(lines) + "\n")


def kept(corpus) -> dict[bytes, float]:
    """Score of every document that stays, by its id."""
    found = {}
    source = corpus.sources["rows"]
    for split in source.plan.splits:
        rows = tables.parquet_batches(
            storage.join(source.documents.location, name("rows", split.index, "parquet")), ["id", "meta"]
        )
        verdicts = tables.Aligned(
            tables.arrow_batches(storage.join(source.filters.location, name("verdict", split.index, "arrow")))
        )
        for batch in rows:
            first = verdicts.take(batch.num_rows).column("first").to_pylist()
            for id_, meta, rule in zip(
                batch.column("id").to_pylist(), batch.column("meta").to_pylist(), first, strict=True
            ):
                if rule < 0:
                    found[id_] = json.loads(meta)["score"]
    return found


def expected(scores: list[float | None], fraction: float) -> list[float]:
    passing = sorted((s for i, s in enumerate(scores) if i % 10 and s is not None), reverse=True)
    return passing[: math.ceil(round(fraction * len(passing), 6))]


@pytest.mark.parametrize("listed", [1 << 16, 4])
@pytest.mark.parametrize("kind", ["spread", "ties", "one-value"])
def test_exactly_the_best_stay(tmp_path, monkeypatch, kind, listed):
    monkeypatch.setattr(order_statistic, "LISTED", listed)  # at 4 even the draws are found digit by digit
    rng = np.random.default_rng(3)
    scores = {
        "spread": (rng.random(900) * 1e-3).tolist(),
        "ties": rng.integers(0, 6, 900).astype(float).tolist(),
        "one-value": [0.5] * 900,
    }[kind]
    scores[7] = scores[8] = None
    write(tmp_path / "in", scores)
    corpus = run(
        recipe(tmp_path / "in", 0.3), str(tmp_path / "run"), inline=True, progress=SILENT, until="filters"
    )
    stay = kept(corpus)
    assert sorted(stay.values(), reverse=True) == expected(scores, 0.3)
    if kind == "one-value":  # the tie is broken by the hash of seed and id, and by nothing else
        ids = list(_entered(corpus))
        halves = np.frombuffer(b"".join(ids), ">u8").reshape(-1, 2).astype(np.uint64)
        draws = tables.mix(17 ^ CUT_SEED, halves[:, 0], halves[:, 1])
        best = {ids[i] for i in np.argsort(draws)[: len(stay)]}
        assert set(stay) == best


def _entered(corpus):
    """Ids of the documents that the fraction is taken of."""
    source = corpus.sources["rows"]
    for split in source.plan.splits:
        place = storage.join(source.documents.location, name("rows", split.index, "parquet"))
        for batch in tables.parquet_batches(place, ["id", "chars", "meta"]):
            for id_, chars, meta in zip(*(c.to_pylist() for c in batch.columns), strict=True):
                if chars >= 3 and json.loads(meta)["score"] is not None:
                    yield id_


def test_the_cut_is_the_same_however_the_source_is_split(tmp_path):
    scores = np.random.default_rng(5).integers(0, 9, 700).astype(float).tolist()
    write(tmp_path / "in", scores)
    answers = []
    for size in ("1KiB", "100KB"):
        made = recipe(tmp_path / "in", 0.25, limits__split_bytes=size)
        corpus = run(made, str(tmp_path / size), inline=True, progress=SILENT, until="filters")
        answers.append((len(corpus.sources["rows"].plan.splits), kept(corpus)))
    assert answers[0][0] > answers[1][0]
    assert answers[0][1] == answers[1][1]


def test_a_changed_fraction_reads_nothing_again_and_a_run_continued_counts_nothing_again(tmp_path):
    write(tmp_path / "in", np.random.default_rng(5).random(300).tolist())
    out = str(tmp_path / "run")
    run(recipe(tmp_path / "in", 0.25), out, inline=True, progress=SILENT, until="filters")
    again = run(recipe(tmp_path / "in", 0.25), out, inline=True, progress=SILENT, until="filters")
    assert sum(again.redone.values()) == 0
    other = run(recipe(tmp_path / "in", 0.5), out, inline=True, progress=SILENT, until="filters")
    assert other.redone["documents.rows"] == 0
    assert other.redone["filters.rows"] > 0


def test_no_scores_at_all_cut_nothing(tmp_path):
    write(tmp_path / "in", [None] * 30)
    made = recipe(
        tmp_path / "in",
        0.5,
        sources__rows__filters="[{field: {path: score, keep_fraction: 0.5, missing: keep}}]",
    )
    corpus = run(made, str(tmp_path / "run"), inline=True, progress=SILENT, until="filters")
    assert len(kept(corpus)) == 30
