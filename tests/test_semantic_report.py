"""What a step that compares vectors says of its clusters: sizes, losses, words, typical documents."""

from __future__ import annotations

import math
import random
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from winnow.filters.semantic_settings import Semantic
from winnow.pipelines import documents, semantic_report, verdicts
from winnow.pipelines.cluster import Inline, Task
from winnow.pipelines.engine import Engine
from winnow.pipelines.progress import Progress
from winnow.pipelines.records import Outputs, Stage
from winnow.pipelines.semantic_report import report_work, words_of
from winnow.pipelines.semantic_words import (
    CHARS,
    LONGEST,
    PRIOR,
    SURE,
    characteristic,
    document_counts,
    words,
)
from winnow.pipelines.standing import Standing
from winnow.pipelines.vector_cut import cut
from winnow.pipelines.vector_scores import SCORE_SCHEMA, score_name
from winnow.shards import tables

TOPICS = {0: "reef coral fish", 3: "court judge law", 5: "flour oven bread", 7: "violin sonata"}
K = 9
"""Clusters that the settings ask for; those without a topic are empty, but for a single one."""
counters = st.dictionaries(
    st.sampled_from(["a", "b", "cc", "é", "漢字", "x_1"]), st.integers(1, 60), max_size=6
)


# ---- words ---------------------------------------------------------------------------------------------------


def test_words_of_many_scripts():
    text = "Don't  READ_me x1 2024 नमस्ते cafe\u0301 漢字かな ภาษา a-b 🙂 abc漢def " + "y" * (LONGEST + 1)
    assert words(text) == {
        "don", "read_me", "x1", "नमस्ते", "cafe\u0301", "漢字", "字か", "かな", "ภา", "าษ", "ษา", "abc", "def"
    }  # fmt: skip


def test_only_the_beginning_of_a_text_is_looked_at():
    assert words("one " + " " * CHARS + "two") == {"one"}
    assert words("one" + " " * (CHARS - 6) + "two") == {"one", "two"}
    assert words("one" + " " * (CHARS - 6) + "twofold") == {"one"}
    assert words("word" * CHARS) == set()
    assert words("漢" * CHARS + "字") == {"漢漢"}


@given(st.text(max_size=80))
def test_any_text_has_words_in_lower_case(text):
    found = words(text)
    assert all(2 <= len(word) <= LONGEST and any(map(str.isalpha, word)) for word in found if word.isascii())
    assert found == words(text + " ")


def surely_more_frequent(cluster, everything, word):
    """The paper's z-score, term by term."""
    n, m = sum(cluster.values()), sum(everything.values())
    a0 = PRIOR * n
    a = a0 * (cluster[word] + everything[word]) / (n + m)
    y, x = cluster[word] + a, everything[word] + a
    odds = math.log(y / max(n + a0 - y, 1e-9)) - math.log(x / max(m + a0 - x, 1e-9))
    return odds / math.sqrt(1 / y + 1 / x)


@given(counters, counters, st.integers(0, 6))
def test_the_order_is_that_of_the_log_odds(cluster, everything, n):
    cluster, everything = Counter(cluster), Counter(everything)
    scores = {w: surely_more_frequent(cluster, everything, w) for w, c in cluster.items() if c > 1}
    sure = [w for w in sorted(scores, key=lambda w: (-round(scores[w], 9), w)) if scores[w] > SURE]
    assert characteristic(cluster, everything, n) == sure[:n]


def test_common_words_tell_nothing():
    background = document_counts(["the sea and the sky"] * 50 + ["the reef and its coral"] * 3)
    assert characteristic(document_counts(["the reef and its coral"] * 20), background, 9) == [
        "coral",
        "its",
        "reef",
    ]


# ---- the stage -----------------------------------------------------------------------------------------------


def planted(seed: int = 3, n: int = 400) -> list[dict]:
    """Documents of four topics, of unlike sizes, every ninth of which does not stand when the step comes."""
    draw = random.Random(seed)
    found = []
    for i in range(n):
        cluster = draw.choices([*TOPICS, 8], weights=[6, 5, 4, 3, 0])[0] if i else 8
        topic = TOPICS.get(cluster, "alone").split()
        text = " ".join(draw.choices([*topic * 2, "the", "and", "of", f"noise{i}"], k=20))
        found.append({
            "text": text, "gone": i % 9 == 4, "cluster": cluster, "row": i,
            "score": float(np.float32(draw.choice([-1.0, 0.3, 0.5, 0.5, 0.9, draw.random()]))),
            "similarity": float(np.float32(draw.choice([0.25, 0.75, 0.75 * draw.random()]))),
        })  # fmt: skip
    return found


def id_of(row: int) -> bytes:
    """In another order than the rows, as ids are not those of a run: what is told apart by ids shows."""
    return (77).to_bytes(8, "big") + (row * 7919 % 10007).to_bytes(8, "big")


def standings(root, rows, sizes) -> list[Standing]:
    """Splits of these sizes with the documents, behind filters that dropped those that are gone."""
    found, first = [], 0
    texts, filters = Outputs(str(root / "documents.s-0")), Outputs(str(root / "filters.s-0"))
    for split, size in enumerate(sizes):
        mine = rows[first : first + size]
        first += size
        with (
            texts.file(documents.name("text", split, "arrow")) as path,
            tables.arrow_writer(path, documents.TEXT_SCHEMA) as writer,
        ):
            for a in range(0, size, 64):
                column = pa.array([r["text"] for r in mine[a : a + 64]], pa.large_string())
                writer.write_batch(pa.record_batch([column], schema=documents.TEXT_SCHEMA))
        lengths = pa.array([len(r["text"].encode()) for r in mine], pa.uint32())
        batch = pa.record_batch([pa.array([id_of(r["row"]) for r in mine], tables.ID), lengths],
                                names=["id", "text_bytes"])  # fmt: skip
        with (
            texts.file(documents.name("rows", split, "parquet")) as path,
            tables.RowWriter(path, batch.schema) as out,
        ):
            out.write(batch)
        with (
            filters.file(documents.name("verdict", split, "arrow")) as path,
            tables.arrow_writer(path, verdicts.VERDICT_SCHEMA) as writer,
        ):
            fails = pa.array([0 if r["gone"] else -1 for r in mine], pa.int16())
            zeros = [pa.array([0] * size, pa.uint64()), pa.array([0.0] * size), pa.array([0.0] * size)]
            writer.write_batch(pa.record_batch([fails, *zeros], schema=verdicts.VERDICT_SCHEMA))
        found.append(Standing("s", 0, split, size, texts.location, filters.location))
    return found


def scores_task(spec, outputs):
    item, rows = spec
    columns = [
        pa.array([None if r["gone"] else value(r) for r in rows], field.type)
        for field, value in zip(
            SCORE_SCHEMA,
            [
                lambda r: r["score"],
                lambda _: None,
                lambda _: None,
                lambda r: r["cluster"],
                lambda r: r["similarity"],
            ],
            strict=True,
        )
    ]
    with (
        outputs.file(score_name("s", item.split)) as path,
        tables.arrow_writer(path, SCORE_SCHEMA) as writer,
    ):
        table = pa.record_batch(columns, schema=SCORE_SCHEMA)
        for a in range(0, len(rows), 50):
            writer.write_batch(table.slice(a, 50))
    return {}


def reported(root, rows, sizes, settings):
    """(engine, finished report)"""
    inputs = standings(root, rows, sizes)
    engine = Engine(str(root), Inline(), Progress())
    ends = np.cumsum(sizes)
    tasks = [
        Task(i.split, scores_task, (i, rows[end - size : end]))
        for i, size, end in zip(inputs, sizes, ends, strict=True)
    ]
    scores = engine.perform(Stage("semantic-scores.s", 1, {}), tasks)

    def work():
        decided = yield from cut("semantic", ["s"], inputs, scores, settings.keep_fraction, settings.eps, 7)
        return (yield from report_work(engine, "semantic", ["s"], inputs, scores, decided, settings, 7))

    (done,) = engine.together(work())
    return engine, done


@pytest.fixture
def small(monkeypatch):
    """Fewer clusters and documents are shown than there are."""
    monkeypatch.setattr(semantic_report, "SHOWN", 2)
    monkeypatch.setattr(semantic_report, "SAMPLE", 40)
    monkeypatch.setattr(semantic_report, "BACKGROUND", 100)


def test_every_cluster_is_counted_and_the_right_ones_are_shown(tmp_path, small):
    rows = planted()
    _, done = reported(tmp_path, rows, [150, 1, 249], Semantic(clusters=K, eps=0.2))
    facts = done.records[0].counts
    there = [r for r in rows if not r["gone"]]
    sizes = Counter(r["cluster"] for r in there)
    goes = Counter(r["cluster"] for r in there if r["score"] > 0.8)
    assert facts["documents"] == len(there)
    assert facts["most_clusters"] == K
    assert facts["empty_clusters"] == K - len(sizes)
    assert facts["largest_cluster"] == max(sizes.values())
    assert facts["clusters"] == {
        str(k): v for k, v in Counter(2 ** int(math.log2(n)) for n in sizes.values()).items()
    }
    assert facts["eps"] == 0.2
    assert facts["retention"]["kept_at_eps"]["0.2"] == sum(r["score"] <= 0.8 for r in there)
    by_size = sorted(sizes, key=lambda c: (-sizes[c], c))[:2]
    by_loss = sorted(sizes, key=lambda c: (-goes[c], -sizes[c], c))[:2]
    shown = facts["shown_clusters"]
    assert [s["cluster"] for s in shown] == list(dict.fromkeys([*by_size, *by_loss]))
    for one in shown:
        mine = [r for r in there if r["cluster"] == one["cluster"]]
        assert (one["documents"], one["goes"]) == (len(mine), goes[one["cluster"]])
        assert one["similarity"] == pytest.approx(np.mean([r["similarity"] for r in mine]), abs=2e-6)
        assert set(one["words"]) == set(TOPICS[one["cluster"]].split())
        nearest = sorted(mine, key=lambda r: (-r["similarity"], id_of(r["row"])))[:3]
        assert one["typical"] == [{"id": id_of(r["row"]).hex(), "source": "s"} for r in nearest]
    everything = words_of(done.location)
    assert everything["the"] <= 100 < len(there)


def test_how_work_is_divided_has_no_say(tmp_path, small, monkeypatch):
    rows = planted()
    settings = Semantic(clusters=K, keep_fraction=0.8)
    _, whole = reported(tmp_path / "a", rows, [len(rows)], settings)
    monkeypatch.setattr(semantic_report, "TASK_ROWS", 100)
    engine, parts = reported(tmp_path / "b", rows, [100, 80, 20, 0, 99, 101], settings)
    assert len(engine.done["semantic-shown-texts.s"].records) > 1
    assert parts.records[0].counts == whole.records[0].counts
    assert parts.records[0].outputs == whole.records[0].outputs
    again = Engine(engine.run, Inline(), Progress())
    stage = semantic_report.report_stage("semantic", ["s"], engine.done["semantic.s"].stage, 7)
    assert again.finished(stage, 1) is not None


def test_no_document_is_no_reason_to_fail(tmp_path):
    rows = [r | {"gone": True} for r in planted(n=3)]
    facts = reported(tmp_path, rows, [3], Semantic(keep_fraction=0.5))[1].records[0].counts
    assert facts["documents"] == facts["most_clusters"] == facts["empty_clusters"] == 0
    assert facts["eps"] is None
    assert facts["shown_clusters"] == []


def test_texts_are_taken_as_the_step_saw_them_and_by_hash(tmp_path, monkeypatch):
    monkeypatch.setattr(semantic_report, "SAMPLE", 1)
    monkeypatch.setattr(semantic_report, "BACKGROUND", 1)
    rows = [r | {"text": f"word{r['row']} " * 3000, "cluster": 0} for r in planted(n=60)]
    engine, done = reported(tmp_path, rows, [60], Semantic(clusters=1, eps=0.1))
    there = [r for r in rows if not r["gone"]]
    ids = pa.array([id_of(r["row"]) for r in there], tables.ID)
    draws = tables.mix(7 ^ semantic_report.SAMPLE_SEED, *tables.id_halves(ids))
    assert words_of(done.location) == {f"word{there[int(np.argmin(draws))]['row']}": 1}
    (taken,) = engine.done["semantic-shown-texts.s"].records
    (file,) = taken.outputs
    batches = tables.arrow_batches(f"{engine.done['semantic-shown-texts.s'].location}/{file}")
    assert all(len(text) == CHARS + 1 for batch in batches for text in batch.column("text").to_pylist())
