"""Are documents that contain benchmarks found, by either rule, and is it told which item, where and how much?"""

from __future__ import annotations

import difflib
import io
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from winnow.filters import contamination as rules
from winnow.filters.benchmark_index import build, find, words
from winnow.filters.decontaminate_settings import Decontaminate
from winnow.pipelines import decontaminate, run
from winnow.pipelines.cluster import Inline
from winnow.pipelines.engine import Engine, RunError
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import Limits, read
from winnow.pipelines.standing import standings, verdict_name
from winnow.shards import storage, tables
from winnow.shards.inputs import InputError

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
ANY = {"b": {"path": "b.jsonl", "text": "t"}}
FABLE = "The quick brown fox jumps over the lazy dog while seven wizards mix quartz potions in a dim hall"
PROSE = FABLE.split()


def column(texts):
    return pa.array(texts, pa.large_string())


def asked(**given):
    return Decontaminate.model_validate({"benchmarks": ANY} | given)


def judged(text, items, chosen):
    """What contaminates a text, and what is cut from it."""
    index = build(column(items), chosen.n, chosen.min_words)
    normal = [" ".join(words(item)) for item in items]
    hits = find(column([text]), index)
    if not len(hits.grams):
        return None, None
    mine = rules.shared(hits.starts, hits.stops, hits.grams, index)
    found = rules.contamination(text.encode(), mine, index, normal, chosen)
    if found is None:
        return None, None
    return found, rules.cuts(text.encode(), mine, found, chosen.margin)


# ---- settings -------------------------------------------------------------------------------------------------


def test_what_a_method_is_by_its_authors():
    ngram, cosmopedia = asked(), asked(method="cosmopedia")
    assert (ngram.n, ngram.max_documents, ngram.min_overlap, ngram.action) == (13, 10, 0.0, "cut")
    assert (cosmopedia.n, cosmopedia.max_documents, cosmopedia.min_overlap) == (10, None, 0.5)
    assert cosmopedia.action == "drop"
    assert asked(method="cosmopedia", n=12, action="cut").n == 12
    again = Decontaminate.model_validate(cosmopedia.model_dump(mode="json"))
    assert again == cosmopedia


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"n": 6}, "min_words (8) is above n (6)"),
        ({"n": 65}, "less than or equal to 64"),
        ({"benchmarks": {}}, "at least 1 item"),
        ({"benchmarks": {"b": {"path": "x"}}}, "Field required"),
        ({"method": "guess"}, "'ngram' or 'cosmopedia'"),
        ({"colour": "red"}, "Extra inputs"),
    ],
)
def test_settings_that_cannot_be(given, problem):
    with pytest.raises(ValidationError, match=re.escape(problem)):
        asked(**given)


# ---- rules ----------------------------------------------------------------------------------------------------

letters = st.lists(st.sampled_from("abcdefg"), max_size=30).map(" ".join)


@settings(deadline=None, max_examples=300)
@given(st.lists(letters, min_size=1, max_size=5), letters, st.integers(2, 5), st.sampled_from([0, 0.3, 0.7]))
def test_shares_of_ngrams_are_what_they_are_called(items, text, n, over):
    chosen = asked(n=n, min_words=2, min_overlap=over)
    w = text.split()
    shares = {}
    for i, item in enumerate(items):
        of = item.split()
        size = n if len(of) >= n else len(of)
        grams = {tuple(of[k : k + size]) for k in range(len(of) - size + 1)} if size >= 2 else set()
        there = {gram for gram in grams if gram in {tuple(w[k : k + size]) for k in range(len(w) - size + 1)}}
        if there and len(there) / len(grams) > over:
            shares[i] = (len(there) / len(grams), len(there))
    found, _ = judged(text, items, chosen)
    if not shares:
        assert found is None
        return
    assert dict(zip(found.items.tolist(), found.shares, strict=True)) == {
        i: s for i, (s, _) in shares.items()
    }
    best = min(shares, key=lambda i: (-shares[i][0], -shares[i][1], i))
    assert found.items[0] == best
    gram = text[slice(*found.gram)]
    assert f" {gram} " in f" {items[best]} "
    assert len(gram.split()) == min(n, len(items[best].split()))
    assert f" {gram} " not in f" {text[: found.gram[1] - 1]} "


def test_of_equal_shares_that_of_more_ngrams_is_told_and_a_share_has_to_be_above_the_bound():
    items = ["a b c", "d e f g h", "i j k l"]
    found, _ = judged("a b c -- d e f g h -- i j", items, asked(n=2, min_words=2))
    assert found.items.tolist() == [1, 0, 2]
    assert found.shares.tolist() == [1, 1, 1 / 3]
    half = asked(n=2, min_words=2, min_overlap=0.5)
    assert judged("a b", ["a b c"], half)[0] is None
    assert judged("a b c", ["a b c d"], half)[0] is not None


def slow_share(document, item):
    a, b = " ".join(words(document)), " ".join(words(item))
    blocks = difflib.SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
    matches = [a[block.a : block.a + block.size] for block in blocks if block.size > 5]
    return len(" ".join("".join(matches).split())) / len(b)


sentences = st.lists(st.sampled_from([*PROSE, "Étoile,", "fox's"]), min_size=4, max_size=40).map(" ".join)


@settings(deadline=None, max_examples=150)
@given(st.lists(sentences, min_size=1, max_size=4), sentences, st.integers(0, 3), st.integers(0, 30))
def test_cosmopedias_rule(items, text, which, cut):
    text = f"{text}. {' '.join(items[which % len(items)].split()[:cut])}! {text}"
    chosen = asked(method="cosmopedia", n=4, min_words=3, min_overlap=0.5)
    found, _ = judged(text, items, chosen)
    grams = [set(), set()]
    expected = {}
    for i, item in enumerate(items):
        size = min(4, len(words(item)))
        grams = [
            {tuple(w[k : k + size]) for k in range(len(w) - size + 1)} for w in (words(text), words(item))
        ]
        share = slow_share(text, item)
        if grams[0] & grams[1] and size >= 3 and share > 0.5:
            expected[i] = share
    assert (found is None) == (not expected)
    if found:
        assert dict(zip(found.items.tolist(), found.shares, strict=True)) == expected
        assert found.shares.tolist() == sorted(expected.values(), reverse=True)


def test_a_long_document_is_compared_where_the_item_is(monkeypatch):
    item = "What is the airspeed velocity of an unladen swallow that carries a coconut, said the keeper of the bridge?"
    item = (
        f"{item} I do not know that, answered the king, African or European ones, which of these do you mean?"
    )
    other = FABLE
    text = f"{other} {item[:60]} {other * 30} é{item}é {other * 40}"
    chosen = asked(method="cosmopedia")
    whole, _ = judged(text, [item], chosen)
    monkeypatch.setattr(rules, "WHOLE_BYTES", 1000)
    near, _ = judged(text, [item], chosen)
    assert whole.shares[0] >= near.shares[0] > 0.95
    # What lies before the n-grams that are shared is looked at, too.
    changed = item.split()
    changed[8] = changed[17] = "elsewhere"
    assert judged(f"{other * 30} {' '.join(changed)} {other * 30}", [item], chosen)[0].shares[0] > 0.85
    # Words of the item that are far from each other are no copy of it.
    w = item.split()
    scattered = f" {other * 30} ".join(
        [" ".join(w[:10]), *(" ".join(w[k : k + 3]) for k in range(10, 36, 3))]
    )
    assert judged(scattered, [item], chosen)[0] is None
    monkeypatch.undo()
    assert judged(scattered, [item], chosen)[0] is not None


def test_the_candidates_that_share_most_are_compared(monkeypatch):
    monkeypatch.setattr(rules, "MOST_CANDIDATES", 3)
    head = "one two three four five six seven eight nine ten"
    items = [f"{head} " + " ".join(f"w{i}x{k}" for k in range(20)) for i in range(10)]
    found, _ = judged(f"{items[7]}!", items, asked(method="cosmopedia"))
    assert found.items.tolist() == [7]
    assert found.shares[0] == 1


def cut(text, items, **given):
    """What is left of a text, None where nothing is."""
    found, edges = judged(text, items, asked(**({"n": 4, "min_words": 4, "margin": 10} | given)))
    if found is None:
        return text
    if edges is None:
        return None
    raw, kept, at = text.encode(), b"", 0
    assert edges.tolist() == sorted(set(edges.tolist()))
    for start, stop in edges.reshape(-1, 2).tolist():
        kept, at = kept + raw[at:start], stop
    return (kept + raw[at:]).decode()


def test_cuts_by_hand():
    before, after = "x" * 9 + " é🦊 " + "y" * 9, "z" * 20 + " end of the line"
    text = f"{before} one two three four {after}"
    # Ten characters before "one": the space, nine y; the word's begin is reached. Behind: on to the end of the z.
    assert cut(text, ["One, two: three four"]) == "x" * 9 + " é🦊 " + " end of the line"
    assert cut(text, ["One, two: three four"], margin=0) == f"{before}  {after}"
    assert cut(text, ["nothing of it is there"]) == text
    assert cut("one two three four", ["one two three four"]) is None
    # Pieces shorter than the margin go too.
    assert cut(f"short. {text}", ["one two three four"], margin=16) == " end of the line"
    assert cut(f"{text} {text}", ["one two three four"]) == "x" * 9 + " é🦊 " + " end of the line " + (
        "x" * 9 + " é🦊 " + " end of the line"
    )
    spaces = f"{' ' * 40} one two three four{' ' * 40}"
    assert cut(spaces, ["one two three four"]) is None


def test_only_items_over_the_overlap_are_cut():
    text = "one two three four five -- alpha beta gamma delta -- more of this and that"
    items = ["one two three four five", "alpha beta gamma delta " + FABLE]
    left = cut(text, items, min_overlap=0.5, margin=0)
    assert left == " -- alpha beta gamma delta -- more of this and that"


@pytest.mark.parametrize(("copies", "stays"), [(9, True), (10, False)])
def test_a_document_in_more_than_ten_pieces_goes(copies, stays):
    text = " one two three four ".join(["these words are nothing of a benchmark"] * (copies + 1))
    assert (cut(text, ["one two three four"], margin=3) is not None) == stays


def test_what_is_told():
    items = ["Nobody asked for that one at all", FABLE]
    text = f"It said: {' '.join(PROSE[2:])}!"
    found, _ = judged(text, items, asked())
    assert rules.shown(text.encode(), found, "fable", "a.jsonl:1") == (
        "fable a.jsonl:1: 'brown fox jumps over the lazy dog while seven wizards mix quartz potions' (71 % of the item)"
    )
    both, _ = judged(text, [*items, *items], asked())
    assert both.items.tolist() == [1, 3]
    assert rules.shown(text.encode(), both, "fable", "x").endswith("(71 % of the item, and 1 more)")


# ---- stages ---------------------------------------------------------------------------------------------------

QUESTIONS = [
    "How many eggs does the farmer sell every day if his nine hens lay two eggs each and he eats three of them?",
    "A train leaves the station at noon and drives sixty miles an hour; how far has it come at a quarter past four?",
    "What colour is the sky at night over deserts?",
    "Why?",
]


def documents():
    """(text, number of the question that it holds) of some documents."""
    rows = []
    for k in range(60):
        noise = " ".join(f"{word}{(k * 7 + i) % 11}" for i, word in enumerate(PROSE * 4))
        which = {10: 0, 25: 1, 26: 1, 41: 2}.get(k)
        text = f"{noise}. {QUESTIONS[which].upper()} {noise}" if which is not None else noise
        rows.append((text, which))
    return rows


def prepared(tmp_path, split_bytes="4KiB", files=3, rows=None):
    """A run whose filters are done, and the benchmark's file."""
    folder = tmp_path / "in"
    if not folder.exists():
        folder.mkdir()
        rows = rows or documents()
        share = -(-len(rows) // files)
        for f in range(files):
            mine = rows[f * share : (f + 1) * share]
            (folder / f"{f}.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t, _ in mine))
        items = "".join(json.dumps({"q": {"text": q}, "no": i}) + "\n" for i, q in enumerate(QUESTIONS))
        (tmp_path / "bench.jsonl").write_text(items)
    recipe = f"""
name: decontaminated
tokenizer: {{name: mistral-7b-v0.1}}
sequence: {{length: 16}}
sources: {{s: {{read: {{format: jsonl, path: "{folder}/*.jsonl"}}}}}}
limits: {{split_bytes: {split_bytes}}}
"""
    out = tmp_path / f"run-{split_bytes}"
    return run(read(recipe, "t.yaml"), str(out), until="filters", inline=True, progress=Progress(stream=None))


def chosen(tmp_path, **given):
    benchmarks = {"quiz": {"path": str(tmp_path / "bench.jsonl"), "text": "q.text"}}
    return Decontaminate.model_validate({"benchmarks": benchmarks} | given)


def performed(corpus, settings):
    """The finished step, its engine, and every document's verdict in order."""
    engine = Engine(corpus.location, Inline(), Progress(stream=None))
    source = corpus.sources["s"]
    inputs = standings(source)
    work = decontaminate.deduplicate(engine, ["s"], inputs, [source.filters.stage], settings, Limits())
    (done,) = engine.together(work)
    verdicts = [
        row
        for item in inputs
        for batch in tables.arrow_batches(storage.join(done.location, verdict_name("s", item.split)))
        for row in batch.to_pylist()
    ]
    return done, engine, verdicts


def test_verdicts_and_report(tmp_path):
    corpus = prepared(tmp_path)
    done, engine, verdicts = performed(corpus, chosen(tmp_path, action="drop"))
    assert len(corpus.sources["s"].plan.splits) > 3
    rows = documents()
    assert [v["dropped"] for v in verdicts] == [which is not None for _, which in rows]
    for verdict, (_, which) in zip(verdicts, rows, strict=True):
        assert (verdict["survivor"], verdict["cuts"]) == (None, None)
        if which is None:
            assert (verdict["score"], verdict["detail"]) == (None, None)
        else:
            gram = " ".join(words(QUESTIONS[which])[:13])
            assert verdict["score"] == 1
            assert verdict["detail"] == f"quiz bench.jsonl:{which}: '{gram}' (100 % of the item)"
    assert sum(r.counts["dropped"]["s"] for r in done.records) == 4
    texts = [text for text, which in rows if which is not None]
    assert sum(r.counts["dropped_bytes"]["s"] for r in done.records) == sum(len(t.encode()) for t in texts)
    assert sum(r.counts["contaminated"].get("quiz", 0) for r in done.records) == 4
    report = engine.done["decontaminate-report.s"]
    assert report.records[0].counts == {
        "benchmarks": {"quiz": {"items": 4, "too_short": 1, "items_found": 3, "documents": 4}},
        "common_ngrams": 0,
    }
    table = pq.read_table(storage.join(report.location, decontaminate.CONTAMINATED)).to_pylist()
    assert [(r["benchmark"], r["item"], r["documents"], r["share"]) for r in table] == [
        ("quiz", "bench.jsonl:0", 1, 1.0),
        ("quiz", "bench.jsonl:1", 2, 1.0),
        ("quiz", "bench.jsonl:2", 1, 1.0),
    ]


@pytest.mark.parametrize("method", ["ngram", "cosmopedia"])
def test_cuts_leave_the_rest(tmp_path, method):
    corpus = prepared(tmp_path)
    done, _, verdicts = performed(corpus, chosen(tmp_path, method=method, action="cut", margin=0))
    for verdict, (text, which) in zip(verdicts, documents(), strict=True):
        assert not verdict["dropped"]
        if which is None:
            assert verdict["cuts"] is None
        else:
            ((start, stop),) = [verdict["cuts"]]
            assert text[start:stop] == QUESTIONS[which].upper().rstrip("?")
    cut_bytes = sum(len(QUESTIONS[which]) - 1 for _, which in documents() if which is not None)
    counts = [sum(r.counts[k]["s"] for r in done.records) for k in ("cut_documents", "cut_bytes", "dropped")]
    assert counts == [4, cut_bytes, 0]


def test_splits_and_batches_change_nothing(tmp_path, monkeypatch):
    answers = []
    for size in ("4KiB", "1MB"):
        corpus = prepared(tmp_path, size)
        answers.append(performed(corpus, chosen(tmp_path))[2])
    assert answers[0] == answers[1]
    monkeypatch.setattr(decontaminate, "BATCH_ROWS", 5)  # a contaminated document is the first of a batch
    (tmp_path / "run-1MB").rename(tmp_path / "before")
    assert performed(prepared(tmp_path, "1MB"), chosen(tmp_path))[2] == answers[0]


def test_another_rule_scans_nothing_again_and_a_finished_step_does_nothing(tmp_path):
    corpus = prepared(tmp_path)
    performed(corpus, chosen(tmp_path, action="drop"))
    _, engine, _ = performed(corpus, chosen(tmp_path, action="drop"))
    assert [done.redone for done in engine.done.values()] == [0, 0]
    _, engine, _ = performed(corpus, chosen(tmp_path, action="cut", min_overlap=0.5))
    redone = {stage.split(".")[0] for stage, done in engine.done.items() if done.redone}
    assert redone == {"decontaminate", "decontaminate-report"}
    (tmp_path / "bench.jsonl").write_text(json.dumps({"q": {"text": QUESTIONS[0]}}) + "\n")
    _, engine, verdicts = performed(corpus, chosen(tmp_path, action="drop"))
    assert sum(v["dropped"] for v in verdicts) == 1
    assert all(done.redone for done in engine.done.values())


@pytest.mark.parametrize(("copies", "dropped"), [(3, 3), (4, 0)])
def test_ngrams_in_many_documents_are_common_phrases(tmp_path, copies, dropped):
    rows = [
        (f"{'filler ' * (k % 5)}{QUESTIONS[0]} {QUESTIONS[0]} {k}" if k < copies else f"{k} and more", None)
        for k in range(40)
    ]
    corpus = prepared(tmp_path, "1KiB", rows=rows)
    assert len(corpus.sources["s"].plan.splits) > 1
    _, engine, verdicts = performed(corpus, chosen(tmp_path, action="drop", max_documents=3))
    assert sum(v["dropped"] for v in verdicts) == dropped
    report = engine.done["decontaminate-report.s"]
    ignored = pq.read_table(storage.join(report.location, decontaminate.IGNORED)).to_pylist()
    w = words(QUESTIONS[0])
    grams = sorted(" ".join(w[k : k + 13]) for k in range(len(w) - 12))
    assert sorted(r["ngram"] for r in ignored) == ([] if dropped else grams)
    assert {(r["documents"], r["item"]) for r in ignored} <= {(4, "bench.jsonl:0")}
    _, _, verdicts = performed(corpus, chosen(tmp_path, action="drop", max_documents=None))
    assert sum(v["dropped"] for v in verdicts) == copies


def test_the_text_is_what_earlier_steps_left(tmp_path):
    """A question that an earlier step cut in two is not there any more."""
    corpus = prepared(tmp_path)
    source = corpus.sources["s"]
    first, _, _ = performed(corpus, chosen(tmp_path, margin=0))
    source.steps.append(first)
    engine = Engine(corpus.location, Inline(), Progress(stream=None))
    upstream = [source.filters.stage, first.stage]
    work = decontaminate.deduplicate(
        engine, ["s"], standings(source), upstream, chosen(tmp_path, margin=0), Limits()
    )
    (second,) = engine.together(work)
    assert second.location != first.location
    assert sum(r.counts["cut_documents"]["s"] for r in first.records) == 4
    assert sum(r.counts["cut_documents"]["s"] + r.counts["dropped"]["s"] for r in second.records) == 0


# ---- files of benchmarks --------------------------------------------------------------------------------------


def written(folder, kind, rows):
    """A benchmark's file of some kind."""
    path = folder / f"b.{kind}"
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "jsonl":
        path.write_text(lines)
    elif kind == "jsonl.zst":
        with pa.CompressedOutputStream(str(path), "zstd") as out:
            out.write(lines.encode())
    else:
        path.write_text(json.dumps(rows))
    return path


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.zst", "json", "parquet"])
def test_every_kind_of_file(tmp_path, kind):
    rows = [
        {"q": "One?", "choices": {"text": ["two", "three"], "label": ["A", "B"]}, "id": "x"},
        {"q": "Four", "choices": {"text": ["five", None], "label": ["A", "B"]}, "id": "y"},
        {"q": None, "choices": None, "id": None},
    ]
    written(tmp_path, kind, rows)
    given = {"path": str(tmp_path / "b.*"), "text": ["q", "choices.text"]}
    for id_, names in ((None, [f"b.{kind}:{k}" for k in range(3)]), ("id", ["x", "y", f"b.{kind}:2"])):
        chosen = Decontaminate.model_validate({"benchmarks": {"b": given | {"id": id_}}})
        items = pq.read_table(_indexed(tmp_path / "run", chosen)).to_pylist()
        assert [item["words"] for item in items] == ["one two three", "four five", ""]
        assert [item["item"] for item in items] == names
        assert {item["benchmark"] for item in items} == {"b"}


def _indexed(run_dir, chosen):
    from winnow.pipelines.benchmark_items import index_request

    request = index_request(chosen)
    engine = Engine(str(run_dir), Inline(), Progress(stream=None))
    return storage.join(engine.perform_all([request])[0].location, "items.parquet")


@pytest.mark.parametrize(
    ("file", "content", "text", "problem"),
    [
        (
            "a.jsonl",
            '{"q": "x"}\n',
            "question",
            "benchmark 'b': a.jsonl: no row has a text in the field 'question'",
        ),
        ("a.jsonl", '{"q": \n', "q", "benchmark 'b': a.jsonl: cannot be read"),
        ("a.jsonl", "[1]\n", "q", "benchmark 'b': a.jsonl: row 0 is no object"),
        ("a.json", '{"q": "x"}', "q", "benchmark 'b': a.json: a list of objects is wanted"),
        ("a.parquet", "PAR1", "q", "benchmark 'b': a.parquet: cannot be read"),
        ("a.jsonl.zst", "no zstd", "q", "benchmark 'b': a.jsonl.zst: cannot be read"),
        ("a.csv", "q", "q", "benchmark 'b': a.csv: files of .jsonl"),
        ("other.jsonl", "{}", "q", "benchmark b"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, file, content, text, problem):
    (tmp_path / file).write_text(content)
    chosen = Decontaminate.model_validate(
        {"benchmarks": {"b": {"path": str(tmp_path / "a.*"), "text": text}}}
    )
    with pytest.raises(InputError, match=re.escape(problem)):
        _indexed(tmp_path / "run", chosen)


def test_a_file_that_changes_meanwhile_stops_the_run(tmp_path):
    from winnow.pipelines.benchmark_items import index_request

    path = written(tmp_path, "jsonl", [{"q": "x"}])
    chosen = Decontaminate.model_validate({"benchmarks": {"b": {"path": str(path), "text": "q"}}})
    request = index_request(chosen)
    written(tmp_path, "jsonl", [{"q": "y"}])
    engine = Engine(str(tmp_path / "run"), Inline(), Progress(stream=None))
    with pytest.raises((InputError, RunError), match="changed since the run was planned"):
        engine.perform_all([request])


# ---- real text ------------------------------------------------------------------------------------------------


def shared_rows(*path):
    zstandard = pytest.importorskip("zstandard")
    files = sorted(SHARED.joinpath(*path[:-1]).glob(path[-1]))
    if not files:
        pytest.skip("needs the shared corpora beside the checkout")
    rows = []
    for file in files:
        with open(file, "rb") as raw:
            rows += map(
                json.loads, io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(raw), "utf-8")
            )
    return rows


@pytest.mark.parametrize("method", ["ngram", "cosmopedia"])
def test_answers_to_test_questions_are_found(tmp_path, method):
    """A model's answers to the questions of GSM8K's test set, of which each repeats its question."""
    answers = shared_rows("corpora", "math", "tora-*.jsonl.zst")
    questions = [row["question"] for row in shared_rows("benchmarks", "gsm8k-*.jsonl.zst")]
    folder = tmp_path / "in"
    folder.mkdir()
    lines = [json.dumps({"text": "\n".join(row["code"])}) for row in answers]
    (folder / "a.jsonl").write_text("\n".join(lines) + "\n")
    recipe = f"""
name: math
tokenizer: {{name: mistral-7b-v0.1}}
sequence: {{length: 16}}
sources: {{s: {{read: {{format: jsonl, path: "{folder}/*.jsonl"}}}}}}
limits: {{split_bytes: 500KB}}
"""
    corpus = run(
        read(recipe, "t.yaml"),
        str(tmp_path / "run"),
        until="filters",
        inline=True,
        progress=Progress(stream=None),
    )
    given = {"path": str(SHARED / "benchmarks" / "gsm8k-*.jsonl.zst"), "text": "question"}
    asked_for = {"benchmarks": {"gsm8k": given}, "method": method, "action": "drop"}
    _, engine, verdicts = performed(corpus, Decontaminate.model_validate(asked_for))
    assert len(verdicts) == len(answers) == 1319
    missed = [i for i, verdict in enumerate(verdicts) if not verdict["dropped"]]
    assert missed == []
    wrong = []
    for row, verdict in zip(answers, verdicts, strict=True):
        number = int(re.match(r"gsm8k gsm8k-test-00000\.jsonl\.zst:(\d+): ", verdict["detail"])[1])
        if words(questions[number]) != words(row["question"]):
            wrong.append(row["idx"])
    assert wrong == []
    counts = engine.done["decontaminate-report.s"].records[0].counts["benchmarks"]["gsm8k"]
    assert counts["documents"] == 1319
    assert pc.min(pa.array([v["score"] for v in verdicts])).as_py() > 0
