"""`winnow audit --semantic`: the documents nearest to the cut of a step that compares vectors, from stored scores."""

from __future__ import annotations

import io
import json
import random
import re
import shutil
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner
from winnow.filters.quality import bounds
from winnow.filters.rules import Cut, Signal
from winnow.pipelines import (
    audit_command,
    audit_document,
    audit_report,
    audit_semantic,
    finished,
    quality_step,
)
from winnow.pipelines.audit import EXCERPT_CHARS, place_of, reasons_named, sample_dropped
from winnow.pipelines.audit_pairs import cluster_of, sample_pairs
from winnow.pipelines.audit_pairs_report import print_cluster, two_columns
from winnow.pipelines.audit_semantic import HELD, joined, nearest_cut, nearest_of
from winnow.pipelines.audit_semantic_report import near_table, print_near
from winnow.pipelines.cluster import Inline, Task
from winnow.pipelines.corpus import run
from winnow.pipelines.cuts import rule_identity
from winnow.pipelines.documents import name
from winnow.pipelines.dropped import DroppedSpec, dropped_task, thresholds_of
from winnow.pipelines.engine import Engine
from winnow.pipelines.finished import NotFinishedError, UnknownError, open_run
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import read
from winnow.pipelines.records import Stage, total
from winnow.pipelines.semantic_report import report_work
from winnow.pipelines.standing import rows_of, standings
from winnow.pipelines.vector_cut import cut
from winnow.pipelines.vector_scores import SCORE_SCHEMA, score_name
from winnow.shards import storage, tables

TOPICS = ("reef coral fish", "court judge law")
RECIPE = """\
name: near
tokenizer: {{name: mistral-7b-v0.1}}
sequence: {{length: 32}}
limits: {{split_bytes: 2KiB}}
sources:
  web: {{read: {{format: jsonl, path: "{root}/web/*.jsonl", key: url}}{quality}}}
  wiki: {{read: {{format: jsonl, path: "{root}/wiki/*.jsonl"}}}}
dedup: {{exact: {{across: [wiki, web]}}{more}}}
{trained}
"""
QUALITY = (
    ", quality: [{classifier: book}, {classifier: edu, min_score: 2.5, max_score: 8},"
    " {classifier: book, keep_fraction: 0.7}]"
)
TRAINED = """\
embedding_classifiers:
  edu: {{head: linear, scored: {{x: {{read: {{format: jsonl, path: "{root}/web/*.jsonl"}}, score: y}}}}}}
  book: {{positive: {{x: {{read: {{format: jsonl, path: "{root}/web/*.jsonl"}}}}}},
    negative: {{x: {{read: {{format: jsonl, path: "{root}/wiki/*.jsonl"}}}}}}}}
"""
STEPS = ", semantic: {across: [wiki, web], keep_fraction: 0.6}, prototypes: {across: [wiki, web], keep_fraction: 0.75}"


def scores_task(spec, outputs):
    """Scores of few different values, so that there are ties; a topic is a cluster; neighbours are side by side."""
    item, step = spec
    place = storage.join(item.documents, name("rows", item.split, "parquet"))
    ids = [i for b in tables.parquet_batches(place, ["id"]) for i in b.column("id").to_pylist()]
    place = storage.join(item.documents, name("text", item.split, "arrow"))
    texts = [t for b in tables.arrow_batches(place) for t in b.column("text").to_pylist()]
    stands = rows_of(item).take(item.rows).column("keep").to_pylist() if item.rows else []
    rows = []
    for k, id_ in enumerate(ids):
        value = float(np.float32((int.from_bytes(id_, "big") * 2654435761 >> 7) % 9 / 10))
        paired = step == "semantic" and k % 5 > 0
        rows.append({
            "score": None if k % 11 == 7 or not stands[k] else (value if paired or step != "semantic" else -1.0),
            "neighbour": ids[k - 1] if paired else None, "source": item.rank if paired else None,
            "cluster": int("law" in texts[k]), "similarity": value,
        })  # fmt: skip
        if rows[-1]["score"] is None:
            rows[-1] = dict.fromkeys(SCORE_SCHEMA.names)
    with (
        outputs.file(score_name(item.source, item.split)) as path,
        tables.arrow_writer(path, SCORE_SCHEMA) as out,
    ):
        for a in range(0, len(rows), 3):
            out.write_batch(pa.RecordBatch.from_pylist(rows[a : a + 3], SCORE_SCHEMA))
    return {}


def quality_scores_task(spec, outputs):
    """The few different scores of a classifier, of documents that stand."""
    item, classifier = spec
    rows = rows_of(item).take(item.rows).to_pylist() if item.rows else []
    scores = [quality_score(classifier, row["id"]) if row["keep"] else None for row in rows]
    with (
        outputs.file(quality_step.score_name(item.split)) as path,
        tables.arrow_writer(path, quality_step.SCORES) as out,
    ):
        out.write_batch(pa.record_batch([pa.array(scores, pa.float32())], schema=quality_step.SCORES))
    return {}


def quality_score(classifier: str, id_: bytes) -> float:
    value = (int.from_bytes(id_, "big") * 2654435761 >> 9) % 10
    return float(value) if classifier == "edu" else value * 3 % 10 / 8


def quality(engine, recipe, source):
    """The stage `quality` of a source, its cut found by hand."""
    uses = recipe.sources[source.name].quality
    rules = tuple(r for use in uses for r in bounds(use.classifier, Signal(use.classifier), use))
    scores = {}
    for classifier in ("edu", "book"):
        stage = Stage(quality_step.scores_stage(classifier, source.name), 1, {})
        tasks = [Task(i.split, quality_scores_task, (i, classifier)) for i in standings(source)]
        scores[classifier] = engine.perform(stage, tasks)
    # Of documents with just this score about half go.
    cuts = {2: Cut(0.5, 1 << 63)}
    identity = {
        "rules": [rule_identity(rule) for rule in rules],
        "seed": 3,
        "cuts": [[i, cut.score, cut.draw] for i, cut in cuts.items()],
    }
    places = tuple((c, done.location) for c, done in scores.items())
    stage = Stage(f"quality.{source.name}", 1, identity, tuple(d.stage.directory for d in scores.values()))
    tasks = [
        Task(i.split, quality_step.verdicts_task, quality_step.Judged(i, places, rules, cuts, 3))
        for i in standings(source)
    ]
    return engine.perform(stage, tasks)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run of exact dedup, to which the stages of both steps are added as they would lie there."""
    root = tmp_path_factory.mktemp("near")
    draw = random.Random(5)
    for source in ("web", "wiki"):
        (root / source).mkdir()
        for part in range(2):
            rows = []
            for i in range(30):
                words = [*draw.choices(TOPICS[i % 2].split(), k=12), f"{source}{part}n{i}"]
                row = {"text": " ".join(words)} | ({"url": f"http://x/{part}/{i}"} if source == "web" else {})
                rows.append(json.dumps(row) + "\n")
            (root / source / f"{part}.jsonl").write_text("".join(rows))
    # Splits without any document.
    (root / "web" / "2.jsonl").write_text('{"text": ""}\n' * 500)
    out = str(root / "run")
    corpus = run(read(RECIPE.format(root=root, more="", quality="", trained=""), "r.yaml"), out, inline=True)
    engine = Engine(corpus.location, Inline(), Progress())
    recipe = read(
        RECIPE.format(root=root, more=STEPS, quality=QUALITY, trained=TRAINED.format(root=root)), "r.yaml"
    )
    group = ["wiki", "web"]
    inputs = [item for rank, source in enumerate(group) for item in standings(corpus.sources[source], rank)]
    assert not all(item.rows for item in inputs)
    added = {}
    for step in recipe.dedup_steps()[1:]:
        stage = Stage(f"{step.name}-scores.wiki+web", 1, {})
        scores = engine.perform(stage, [Task(k, scores_task, (i, step.name)) for k, i in enumerate(inputs)])
        settings = step.groups[0].settings

        def work(step=step.name, inputs=inputs, scores=scores, settings=settings):
            done = yield from cut(step, group, inputs, scores, settings.keep_fraction, None, 3)
            yield from report_work(engine, step, group, inputs, scores, done, settings, 3)
            return done

        (done,) = engine.together(work())
        added[step.name] = (done, engine.done[f"{step.name}-report.wiki+web"])
        for source in group:
            corpus.sources[source].steps.append(done)
        inputs = [i for rank, source in enumerate(group) for i in standings(corpus.sources[source], rank)]
    web = corpus.sources["web"]
    judged = quality(engine, recipe, web)
    web.steps.append(judged)
    thresholds = thresholds_of(web.steps)
    specs = [DroppedSpec(i, 2, (), "all", 3, thresholds) for i in standings(web)]
    reported = engine.perform(
        Stage("dropped.web", 99, {}), [Task(s.standing.split, dropped_task, s) for s in specs]
    )

    def opened():
        found = open_run(out)
        found.__dict__["recipe"] = recipe
        for done, report in added.values():
            for source in group:
                found.places[source]["dedup"].append(done.stage.directory)
            for one in (done, report):
                found.manifest["stages"].append({"name": one.stage.name, "directory": one.stage.directory})
        found.places["web"]["dedup"].append(judged.stage.directory)
        found.manifest["stages"].insert(0, {"name": "dropped.web", "directory": reported.stage.directory})
        (facts,) = (s for s in found.mixture["sources"] if s["name"] == "web")
        facts["quality"] = {"dropped": total(judged.records, "rules")}
        for step, (done, _) in added.items():
            facts["dedup"].append({"step": step, "dropped": total(done.records, "dropped", "web")})
        return found

    return opened, inputs, added


def stored(inputs, location, verdicts):
    """Every document that has a score: what the files say, by plain reading."""
    for item in inputs:
        place = storage.join(item.documents, name("rows", item.split, "parquet"))
        ids = [i for b in tables.parquet_batches(place, ["id"]) for i in b.column("id").to_pylist()]
        scores = [
            r
            for b in tables.arrow_batches(storage.join(location, score_name(item.source, item.split)))
            for r in b.to_pylist()
        ]
        file = name(f"verdict.{item.source}", item.split, "arrow")
        gone = [
            d
            for b in tables.arrow_batches(storage.join(verdicts, file))
            for d in b.column("dropped").to_pylist()
        ]
        for id_, row, dropped in zip(ids, scores, gone, strict=True):
            if row["score"] is not None:
                yield {**row, "id": id_, "dropped": dropped, "of": item.source}


def expected(opened, inputs, done, step, n, seed, source=None):
    scores = f"{opened.location}/stages/{done.stage.inputs[0]}"
    rows = [
        r
        for r in stored(inputs, scores, done.location)
        if (r["neighbour"] or step == "prototypes") and source in (None, r["of"])
    ]
    highest = 1 - done.records[0].counts["eps"]

    def draw(row):
        column = pa.array([row["id"]], tables.ID)
        return int(tables.mix(seed ^ audit_semantic.TIES_SEED, *tables.id_halves(column))[0])

    rows.sort(key=lambda r: (abs(r["score"] - highest), draw(r)))
    dropped, kept = ([r for r in rows if r["dropped"] == side] for side in (True, False))
    share = min(len(dropped), max((n + 1) // 2, n - len(kept)))
    return {r["id"].hex(): r for r in [*dropped[:share], *kept[: n - share]]}


@pytest.mark.parametrize("step", ["semantic", "prototypes"])
@pytest.mark.parametrize(("n", "source"), [(1, None), (6, None), (7, "web"), (1000, None)])
def test_the_nearest_on_both_sides_are_shown(made, step, n, source):
    opened, inputs, added = made
    found = nearest_cut(opened(), n, source, 9, step)
    wanted = expected(opened(), inputs, added[step][0], step, n, 9, source)
    assert {f.document.document for f in found} == set(wanted)
    assert [(not f.dropped, -f.score) for f in found] == sorted((not f.dropped, -f.score) for f in found)
    assert len({f.cut for f in found}) == 1
    for near in found:
        row = wanted[near.document.document]
        assert near.dropped == row["dropped"]
        assert (near.score, near.similarity) == (row["score"], row["similarity"])
        assert near.cluster == row["cluster"]
        assert near.dropped or near.score <= near.cut
        assert (near.neighbour is None) == (step == "prototypes")
        if near.neighbour is not None:
            assert near.neighbour.document == row["neighbour"].hex()
        assert (near.key is not None) == (near.document.source == "web")
    if n == 6:
        assert [f.dropped for f in found] == [True] * 3 + [False] * 3
        assert {d.document.document for d in nearest_cut(opened(), n, source, 10, step)} != set(wanted)


def text_at(opened, place) -> str:
    root = opened.location.removesuffix("/run")
    with open(f"{root}/{place.source}/{place.path}", encoding="utf-8") as file:
        file.seek(place.position)
        return json.loads(file.readline())["text"]


def test_both_texts_are_there(made):
    opened = made[0]()
    for near in nearest_cut(opened, 6):
        assert near.step == "semantic"
        one, other = text_at(opened, near.document), text_at(opened, near.neighbour)
        assert " ".join(left for _, left, _ in near.blocks if left) == one
        assert " ".join(right for _, _, right in near.blocks if right) == other


def test_a_prototype_is_shown_with_its_clusters_words(made):
    opened = made[0]()
    found = nearest_cut(opened, 6, step="prototypes")
    assert {near.cluster for near in found} == {0, 1}
    for near in found:
        assert set(near.words) == set(TOPICS[near.cluster].split())
        text = text_at(opened, near.document)
        assert near.excerpt == text[:EXCERPT_CHARS]
        assert near.blocks == ()


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 5), st.integers(0, 99)), max_size=30),
       st.integers(1, 8), st.integers(1, 7))  # fmt: skip
def test_what_is_held_is_what_a_sort_begins_with(rows, n, step):
    every = np.zeros(len(rows), HELD)
    for row, (far, draw, low) in zip(every, rows, strict=True):
        row["far"], row["draw"], row["low"] = far, draw, low
    held = np.empty(0, HELD)
    for first in range(0, len(rows), step):
        held = nearest_of([held, every[first : first + step]], n)
    assert [(float(r["far"]), int(r["draw"]), int(r["low"])) for r in held] == sorted(rows)[:n]


def test_few_common_words_are_no_common_stretch():
    blocks = [(True, "a b", "a b"), (False, "c", ""), (True, "1 2 3 4 5", "1 2 3 4 5"), (False, "", "d"),
              (True, "e", "e"), (False, "f", "g")]  # fmt: skip
    assert joined(blocks) == [
        (False, "a b c", "a b"),
        (True, "1 2 3 4 5", "1 2 3 4 5"),
        (False, "e f", "d e g"),
    ]
    assert joined([]) == []


def test_what_is_not_there_is_said(made, tmp_path):
    opened = made[0]()
    with pytest.raises(UnknownError, match="'bloom' compares no vectors in this run; these do: "):
        nearest_cut(opened, 1, step="bloom")
    with pytest.raises(UnknownError, match="there is no source 'x'"):
        nearest_cut(opened, 1, source="x")
    plain = open_run(opened.location)
    with pytest.raises(UnknownError, match="no step of this run's dedup compares vectors"):
        nearest_cut(plain, 1)
    shutil.copytree(opened.location, tmp_path / "run")
    opened.location = str(tmp_path / "run")
    (scores,) = (tmp_path / "run" / "stages").glob("semantic-scores.*")
    shutil.rmtree(scores)
    with pytest.raises(NotFinishedError, match="the scores of semantic are not there any more"):
        nearest_cut(opened, 1)


def test_the_command(made, monkeypatch):
    import typer

    opened = made[0]
    monkeypatch.setattr(finished, "open_run", lambda _: opened())
    app = typer.Typer()
    app.command()(audit_command.audit)

    def said(*more: str) -> str:
        result = CliRunner().invoke(app, ["RUN", "--semantic", *more])
        assert result.exit_code == 0, result.output
        return result.output

    found = json.loads(said("--sample", "4", "--json"))
    assert [f["document"]["document"] for f in found] == [
        n.document.document for n in nearest_cut(opened(), 4)
    ]
    assert "dropped: " in said("--sample", "2")
    assert "its cluster's words" in said("--filter", "prototypes") or "cluster" in said(
        "--filter", "prototypes"
    )
    sampled = CliRunner().invoke(app, ["RUN", "--filter", "semantic", "--source", "web", "--json"])
    assert sampled.exit_code == 0, sampled.output
    assert [d["filter"] for d in json.loads(sampled.output)] == ["semantic"] * audit_command.SHOWN
    assert CliRunner().invoke(app, ["RUN", "--semantic", "--duplicates"]).exit_code == 2
    assert CliRunner().invoke(app, ["RUN", "--semantic", "--doc", "0" * 32]).exit_code == 2


def of_web(opened, inputs):
    """Id -> (split, row) of the documents of `web`."""
    found = {}
    for item in inputs:
        if item.source == "web":
            place = storage.join(item.documents, name("rows", item.split, "parquet"))
            ids = [i for b in tables.parquet_batches(place, ["id"]) for i in b.column("id").to_pylist()]
            found |= {id_: (item.split, row) for row, id_ in enumerate(ids)}
    return found


def test_a_dropped_document_has_the_bound_that_it_crossed(made):
    opened, _, added = made
    for step in ("semantic", "prototypes"):
        found = sample_dropped(opened(), step, 1000, "web")
        assert len(found) > 3
        assert {d.threshold for d in found} == {1 - added[step][0].records[0].counts["eps"]}
        assert all(d.score >= d.threshold for d in found)
        assert all((d.survivor is None) == (step == "prototypes") for d in found)
    found = sample_dropped(opened(), "quality", 1000, "web")
    assert {(d.filter, d.threshold) for d in found} == {
        ("edu.min_score", 2.5), ("edu.max_score", 8.0), ("book.keep_fraction", 0.5),
    }  # fmt: skip
    for d in found:
        assert (d.score < d.threshold) == (d.filter == "edu.min_score") or d.filter == "book.keep_fraction"
    assert any(d.score == d.threshold for d in found)
    assert {d.threshold for d in sample_dropped(opened(), "exact", 9, "web")} <= {None}
    assert reasons_named(opened(), "quality") == {"edu.min_score", "edu.max_score", "book.keep_fraction"}
    with pytest.raises(UnknownError, match=r"did you mean 'quality'\?"):
        reasons_named(opened(), "qualty")


def test_bounds_are_of_steps_that_have_one_for_all():
    records = [SimpleNamespace(counts={"eps": 0.25})]
    rules = [
        ["a.min_score", 0.0, None, None, ""],
        ["a.max_score", None, 2, None, ""],
        ["b.x", None, None, 0.5, ""],
    ]
    done = [
        SimpleNamespace(stage=SimpleNamespace(kind=kind, settings=settings), records=records)
        for kind, settings, records in [
            ("exact", {}, [SimpleNamespace(counts={})]),
            ("semantic", {}, records),
            ("prototypes", {}, [SimpleNamespace(counts={"eps": None})]),
            ("quality", {"rules": rules, "cuts": []}, []),
        ]
    ]
    assert thresholds_of(done) == {"semantic": 0.75, "a.min_score": 0.0, "a.max_score": 2}
    done[2].records, done[3].stage.settings["cuts"] = [], [[2, -0.5, 7]]
    assert thresholds_of(done) == {"semantic": 0.75, "a.min_score": 0.0, "a.max_score": 2, "b.x": -0.5}


def test_a_story_tells_the_stored_scores(made, monkeypatch):
    """Of every document of a source: what steps gave it, and each bound on its scores."""
    monkeypatch.setattr(audit_document, "Tracer", lambda run: SimpleNamespace(document=lambda id_: None))
    opened, inputs, added = made
    run_ = opened()
    ends = Counter()
    for id_, (split, row) in of_web(run_, inputs).items():
        story = audit_document.document_story(run_, id_.hex())
        steps = {step.step: step for step in story.steps}
        for step, (done, _) in added.items():
            if step not in steps:
                continue
            scores = f"{run_.location}/stages/{done.stage.inputs[0]}/{score_name('web', split)}"
            wanted = [r for b in tables.arrow_batches(scores) for r in b.to_pylist()][row]
            told = steps[step]
            assert told.score == wanted["score"]
            assert told.threshold == 1 - done.records[0].counts["eps"]
            assert told.survivor == (
                place_of(run_, wanted["neighbour"].hex()) if wanted["neighbour"] else None
            )
            assert told.rules == ()
        reason = None
        if "quality" in steps:
            edu, book = (quality_score(classifier, id_) for classifier in ("edu", "book"))
            told = steps["quality"]
            assert told.scores == {"book": pytest.approx(book), "edu": edu}
            assert [r.rule for r in told.rules] == ["edu.min_score", "edu.max_score", "book.keep_fraction"]
            assert [r.score for r in told.rules] == [edu, edu, told.scores["book"]]
            assert [r.minimum for r in told.rules] == [2.5, None, 0.5]
            assert [r.passes for r in told.rules][:2] == [edu >= 2.5, edu <= 8]
            assert told.rules[2].passes == (book >= 0.5) or book == 0.5
            reason = next((r.rule for r in told.rules if not r.passes), None)
            assert (told.dropped, told.detail) == (reason is not None, reason)
            assert [r.rule for r in told.rules if r.dropped] == ([reason] if reason else [])
        elif story.steps[-1].dropped and story.steps[-1].step != "exact":
            reason = story.steps[-1].step
        assert (story.end, story.reason) == ("dropped" if reason else "kept", reason)
        ends[reason] += 1
    assert set(ends) == {
        None,
        "semantic",
        "prototypes",
        "edu.min_score",
        "edu.max_score",
        "book.keep_fraction",
    }


def test_a_story_is_told_without_scores_that_are_gone(made, monkeypatch, tmp_path):
    monkeypatch.setattr(audit_document, "Tracer", lambda run: SimpleNamespace(document=lambda id_: None))
    opened, inputs, _ = made
    shutil.copytree(opened().location, tmp_path / "run")
    for place in (tmp_path / "run" / "stages").glob("*-scores.*"):
        shutil.rmtree(place)
    run_ = opened()
    run_.location = str(tmp_path / "run")
    for id_ in of_web(run_, inputs):
        whole, story = (audit_document.document_story(r, id_.hex()) for r in (opened(), run_))
        assert (story.end, story.reason) == (whole.end, whole.reason)
        for step in story.steps:
            assert (step.scores, step.rules) == (None, ())
            assert step.dropped or step.score is None or step.step == "quality"


def test_what_a_story_and_a_sample_say(made, monkeypatch, capsys):
    monkeypatch.setattr(audit_document, "Tracer", lambda run: SimpleNamespace(document=lambda id_: None))
    opened, inputs, added = made
    stories = {}
    for id_ in of_web(opened(), inputs):
        story = audit_document.document_story(opened(), id_.hex())
        has_neighbour = any(s.step == "semantic" and s.survivor for s in story.steps)
        if has_neighbour or story.reason not in stories:
            stories[story.reason] = story

    def said(reason):
        capsys.readouterr()
        audit_report.print_story(stories[reason], Console(width=200))
        return capsys.readouterr().out

    cut = {step: 1 - done.records[0].counts["eps"] for step, (done, _) in added.items()}
    gone = rf"[0-9a-f]{{32}}  w[a-z]+, .*\(cosine 0\.\d{{4}}, (above|at) {cut['semantic']:.4f}\)"
    stays = gone.replace("above", "below")
    assert re.search(rf"\ndropped by semantic: like {gone}, which may be dropped itself\n", said("semantic"))
    side = f"(above|at) {cut['prototypes']:.4f}"
    assert re.search(
        rf"\ndropped by prototypes: cosine to its centroid 0\.\d{{4}}, {side}\n", said("prototypes")
    )
    assert re.search(r"\ndropped by edu.min_score: [012], below 2.5\n", said("edu.min_score"))
    text = said("book.keep_fraction")
    assert re.search(r"\nquality\n  scores: book 0[.\d]*, edu \d\n", text)
    assert re.search(r"book.keep_fraction +0[.\d]* +the best 70%, from 0.5 on +fails, drops it ", text)
    assert re.search(
        rf"\nsemantic: like {stays}\nprototypes: cosine to its centroid 0\.\d{{4}}, (below|at) ", text
    )
    for step, line in (
        ("semantic", rf"\n   semantic: like {gone}, which may be dropped itself\n"),
        ("prototypes", rf"\n   prototypes: cosine to its centroid 0\.\d{{4}}, {side}\n"),
        ("edu", r"\n   edu.min_score: [012], below 2.5\n"),
    ):
        audit_report.print_sample(step, sample_dropped(opened(), step, 100, "web"))
        assert re.search(line, capsys.readouterr().out)


def test_pairs_are_of_steps_that_name_survivors(made):
    opened = made[0]()
    with pytest.raises(
        UnknownError, match=r"^'semantic' names no survivors: .* `--semantic --filter semantic` shows"
    ):
        sample_pairs(opened, 1, step="semantic")
    assert sample_pairs(opened, 1) == []


def test_what_is_like_a_document_did_not_go_for_it(made, capsys):
    opened = made[0]()
    near = next(d for d in sample_dropped(opened, "semantic", 100, "web") if d.survivor.source == "web")
    members = cluster_of(opened, near.survivor.document)
    assert near.place in [m.place for m in members]
    print_cluster(near.survivor.document, members)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"0 documents were dropped for {near.survivor.document}"
    assert (
        said[1]
        == f"{len(members)} that semantic dropped are like it more than like any other it was compared with"
    )
    assert near.place.document in said[2]
    print_cluster("x", [])
    assert capsys.readouterr().out == "0 documents were dropped for x\n"


@pytest.mark.parametrize(("columns", "width"), [(None, 160), ("80", 80), ("0", 160), ("wide", 160)])
def test_two_texts_in_a_pipe_are_as_wide_as_somebody_reads(monkeypatch, columns, width):
    if columns is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", columns)
    assert two_columns().width == width


def test_each_group_has_its_heading(made):
    console = Console(width=250, record=True, file=io.StringIO())
    near = nearest_cut(made[0](), 2)[0]

    def other(**changed):
        return type(near)(**{f: getattr(near, f) for f in near.__slots__} | changed)

    a = other(group=("a",), cut=0.5, dropped=True, score=0.9)
    b = other(group=("b", "c"), cut=0.25, dropped=True, score=0.25, step="prototypes")
    print_near([a, b, other(group=("a",), cut=0.5, dropped=False, score=0.125)], console)
    found = [line for line in console.export_text().splitlines() if line[:1].isalnum()]
    assert found == [
        "semantic (a): documents with a cosine above 0.5000 are dropped",
        *(line for line in found if line.startswith(("1. dropped, cosine 0.9000", "2. kept, cosine 0.1250"))),
        "prototypes (b, c): documents with a cosine to their centroid above 0.2500 are dropped, and of those with just "
        "that some, by a hash",
        *(line for line in found if line.startswith("3. dropped, cosine 0.2500")),
    ]
    assert len(found) == 5


def test_what_is_printed(made):
    opened = made[0]()
    console = Console(width=250, record=True, file=io.StringIO())
    found = nearest_cut(opened, 4)
    print_near(found, console)
    text = console.export_text()
    assert f"documents with a cosine above {found[0].cut:.4f} are dropped" in text
    for near in found:
        assert near.document.document in text
        assert near.neighbour.document in text
    wild = type(found[0])(
        **{f: getattr(found[0], f) for f in found[0].__slots__}
        | {"neighbour": None, "words": ("\x1b[31m",), "excerpt": "\x1b[0m [bold]", "key": "\x07"}
    )
    console.print(near_table(1, wild))
    text = console.export_text()
    assert not {"\x1b", "\x07"} & set(text)
    assert "\\x1b[0m [bold]" in text
    print_near([], console)
    assert "no document was compared with another" in console.export_text()
