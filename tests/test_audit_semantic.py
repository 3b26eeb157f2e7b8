"""`winnow audit --semantic`: the documents nearest to the cut of a step that compares vectors, from stored scores."""

from __future__ import annotations

import io
import json
import random
import shutil

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner
from winnow.pipelines import audit_command, audit_semantic, finished
from winnow.pipelines.audit import EXCERPT_CHARS
from winnow.pipelines.audit_semantic import HELD, joined, nearest_cut, nearest_of
from winnow.pipelines.audit_semantic_report import near_table, print_near
from winnow.pipelines.cluster import Inline, Task
from winnow.pipelines.corpus import run
from winnow.pipelines.documents import name
from winnow.pipelines.engine import Engine
from winnow.pipelines.finished import NotFinishedError, UnknownError, open_run
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import read
from winnow.pipelines.records import Stage
from winnow.pipelines.semantic_report import report_work
from winnow.pipelines.standing import standings
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
  web: {{read: {{format: jsonl, path: "{root}/web/*.jsonl", key: url}}}}
  wiki: {{read: {{format: jsonl, path: "{root}/wiki/*.jsonl"}}}}
dedup: {{exact: {{across: [wiki, web]}}{more}}}
"""
STEPS = ", semantic: {across: [wiki, web], keep_fraction: 0.6}, prototypes: {across: [wiki, web], keep_fraction: 0.75}"


def scores_task(spec, outputs):
    """Scores of few different values, so that there are ties; a topic is a cluster; neighbours are side by side."""
    item, step = spec
    place = storage.join(item.documents, name("rows", item.split, "parquet"))
    ids = [i for b in tables.parquet_batches(place, ["id"]) for i in b.column("id").to_pylist()]
    place = storage.join(item.documents, name("text", item.split, "arrow"))
    texts = [t for b in tables.arrow_batches(place) for t in b.column("text").to_pylist()]
    rows = []
    for k, id_ in enumerate(ids):
        value = float(np.float32((int.from_bytes(id_, "big") * 2654435761 >> 7) % 9 / 10))
        paired = step == "semantic" and k % 5 > 0
        rows.append({
            "score": None if k % 11 == 7 else (value if paired or step != "semantic" else -1.0),
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
    corpus = run(read(RECIPE.format(root=root, more=""), "r.yaml"), out, inline=True)
    engine = Engine(corpus.location, Inline(), Progress())
    recipe = read(RECIPE.format(root=root, more=STEPS), "r.yaml")
    group = ["wiki", "web"]
    inputs = [item for rank, source in enumerate(group) for item in standings(corpus.sources[source], rank)]
    assert not all(item.rows for item in inputs)
    added = {}
    for step in recipe.dedup_steps()[1:]:
        stage = Stage(f"{step.name}-scores.wiki+web", 1, {})
        scores = engine.perform(stage, [Task(k, scores_task, (i, step.name)) for k, i in enumerate(inputs)])
        settings = step.groups[0].settings

        def work(step=step.name, scores=scores, settings=settings):
            done = yield from cut(step, group, inputs, scores, settings.keep_fraction, None, 3)
            yield from report_work(engine, step, group, inputs, scores, done, settings, 3)
            return done

        (done,) = engine.together(work())
        added[step.name] = (done, engine.done[f"{step.name}-report.wiki+web"])

    def opened():
        found = open_run(out)
        found.__dict__["recipe"] = recipe
        for done, report in added.values():
            for source in group:
                found.places[source]["dedup"].append(done.stage.directory)
            for one in (done, report):
                found.manifest["stages"].append({"name": one.stage.name, "directory": one.stage.directory})
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
    assert CliRunner().invoke(app, ["RUN", "--semantic", "--duplicates"]).exit_code == 2
    assert CliRunner().invoke(app, ["RUN", "--semantic", "--doc", "0" * 32]).exit_code == 2


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
