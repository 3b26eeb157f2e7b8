"""Does an audit tell the truth about every document, the same each time, and read no more than it shows?

One small run of two sources serves all. What became of each of its documents is worked out again here, in plain
Python from the input, and everything is held against that.
"""

from __future__ import annotations

import builtins
import json
import math
import os
import re
import shutil
import subprocess
import sys
import unicodedata
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from winnow.pipelines import open_run, run
from winnow.pipelines.audit import EXCERPT_CHARS, audit_facts, sample_dropped
from winnow.pipelines.audit_document import document_story
from winnow.pipelines.audit_report import print_audit, print_sample, print_story
from winnow.pipelines.finished import NotFinishedError, UnknownError
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import read
from winnow.pipelines.tracing import Tracer

WINNOW = [sys.executable, "-m", "winnow.pipelines.command"]
MIN_CHARS, MIN_WORDS, MIN_STOP_WORDS, MAX_HASHES = 40, 20, 2, 0.1
STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}
OFF = (
    "max_words: null, min_mean_word_chars: null, max_mean_word_chars: null, max_ellipses_per_word: null, "
    "max_bullet_line_frac: null, max_ellipsis_line_frac: null, min_alpha_word_frac: null"
)
RECIPE = """
name: audited
seed: 5
tokenizer: {{name: mistral-7b-v0.1}}
sequence: {{length: 32}}
sources:
  web:
    read: {{format: jsonl, path: "{root}/web/*.jsonl", key: url}}
    filters: [{{length: {{min_chars: 40}}}}, nfc, {{gopher-quality: {{min_words: 20, {off}}}}}]
    heldout: {{fraction: 0.3}}
  wiki:
    read: {{format: parquet, path: "{root}/wiki/*.parquet"}}
    filters: [{{gopher-quality: {{min_words: 20, {off}}}}}]
dedup: {{exact: {{across: [web, wiki]}}}}
max_bad_rows: 50%
limits: {{split_bytes: 2KB}}
"""
QUALITY = {f"gopher-quality.{rule}" for rule in ("min_words", "max_hashes_per_word", "min_stop_words")}
WORDS = ["the", "river", "of", "café", "stones", "and", "mills", "that", "have", "with", "naïve", "turning", "wheels",
         "be", "to", "grey", "dust"]  # fmt: skip


@dataclass
class Row:
    """A row of the input and what is to become of it."""

    source: str
    path: str
    position: int
    text: str | None
    end: str = ""
    reason: str | None = None
    failing: tuple[str, ...] = ()
    removed: int = 0
    survivor: Row | None = None

    @property
    def place(self) -> tuple[str, str, int]:
        return self.source, self.path, self.position


def text_of(i: int) -> str:
    """Documents of all lengths, some without stop words, some with many hashes, some decomposed."""
    words = [WORDS[(i * 7 + k * (1 + i % 5)) % len(WORDS)] for k in range(i % 47)]
    if i % 6 == 1:
        words = [word for word in words if word not in STOP_WORDS]
    if i % 11 == 3:
        words = [f"#{word}" for word in words]
    if i % 4 == 2:
        words = [unicodedata.normalize("NFD", word) for word in words]
    return " ".join([*words, f"no.{i if i % 13 else 0}"])


def write_input(root: Path) -> list[Row]:
    """Two sources; returns their rows in order."""
    rows = []
    (root / "web").mkdir(parents=True)
    for number in range(3):
        path = root / "web" / f"{number}.jsonl"
        position = 0
        with open(path, "w") as file:
            for i in range(number, 420, 3):
                text: str | None = text_of(i) if i % 29 else ""
                line = json.dumps({"text": text, "url": f"http://x/{i}"}, ensure_ascii=i % 2 == 0) + "\n"
                if i % 53 == 50:
                    text, line = None, f'{{"text": "torn {i}\n'
                rows.append(Row("web", path.name, position, text))
                file.write(line)
                position += len(line.encode())
    (root / "web" / "1b.jsonl").write_text("")
    (root / "wiki").mkdir()
    texts = [text_of(i) for i in range(1000, 1200)] + [text_of(i) for i in range(30, 60)]
    pq.write_table(pa.table({"text": texts}), root / "wiki" / "a.parquet", row_group_size=20)
    return rows + [Row("wiki", "a.parquet", i, text) for i, text in enumerate(texts)]


def failing_rules(text: str) -> list[str]:
    words = text.split()
    failing = []
    if len(words) < MIN_WORDS:
        failing.append("gopher-quality.min_words")
    if words and text.count("#") / len(words) > MAX_HASHES:
        failing.append("gopher-quality.max_hashes_per_word")
    if len(STOP_WORDS & set(words)) < MIN_STOP_WORDS:
        failing.append("gopher-quality.min_stop_words")
    return failing


def judge(rows: list[Row]) -> None:
    """What the recipe makes of every row, read aloud."""
    kept: dict[str, Row] = {}
    for row in rows:  # web before wiki, files by name, rows by position: survivors' order
        if not row.text:
            row.end, row.reason = "no document", "json" if row.text is None else "empty"
            continue
        if row.source == "web":
            if len(row.text) < MIN_CHARS:
                row.end, row.reason, row.failing = "dropped", "length.min_chars", ("length.min_chars",)
                continue
            composed = unicodedata.normalize("NFC", row.text)
            row.removed, row.text = len(row.text) - len(composed), composed
        if failing := failing_rules(row.text):
            row.end, row.reason, row.failing = "dropped", failing[0], tuple(failing)
        elif row.text in kept:
            row.end, row.survivor = "duplicate", kept[row.text]
        else:
            row.end = "kept"
            kept[row.text] = row


def make(root: Path, out: Path, *sets: str) -> None:
    recipe = read(RECIPE.format(root=root, off=OFF), "audited.yaml", sets)
    run(recipe, str(out), inline=True, progress=Progress(stream=None))


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory):
    """(input, the finished run, what is to become of every row)."""
    root = tmp_path_factory.mktemp("audited")
    rows = write_input(root)
    judge(rows)
    make(root, root / "RUN")
    return root, open_run(str(root / "RUN")), rows


@pytest.fixture
def copied(audited, tmp_path: Path) -> Path:
    """A finished run to damage."""
    return Path(shutil.copytree(audited[1].location, tmp_path / "RUN"))


def ids(opened, rows: list[Row]) -> dict[tuple[str, str, int], str]:
    """The id of every row, by its place."""
    stages = {s: opened.stage(s, "documents") for s in opened.places}
    files = [(s, f) for s, d in stages.items() for f in pq.read_table(f"{d}/files.parquet").to_pylist()]
    halves = {(s, f["path"]): f["id_half"] for s, f in files}
    return {row.place: f"{halves[row.source, row.path]:016x}{row.position:016x}" for row in rows}


def of(rows: list[Row], **wanted: object) -> list[Row]:
    return [row for row in rows if all(getattr(row, k) == v for k, v in wanted.items())]


def place(found) -> tuple[str, str, int]:
    return found.source, found.path, found.position


class Opened(set):
    """The files of a run's stages that are opened, records left out."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        super().__init__()
        real_open, real_file = builtins.open, pa.OSFile

        def noted(path) -> None:
            found = (
                re.search(r"/stages/([a-z0-9]+)[^/]*/(?!records/)(.*)", os.fspath(path))
                if isinstance(path, str | os.PathLike)
                else None
            )
            if found:
                self.add(f"{found[1]}/{found[2]}")

        def opening(path, *arguments, **more):
            noted(path)
            return real_open(path, *arguments, **more)

        def os_file(path, *arguments):
            noted(path)
            return real_file(path, *arguments)

        monkeypatch.setattr(builtins, "open", opening)
        monkeypatch.setattr(pa, "OSFile", os_file)


# ---- the table -----------------------------------------------------------------------------------------------


def test_the_input_has_everything_in_it(audited):
    _, opened, rows = audited
    assert Counter(row.end for row in rows).keys() == {"no document", "dropped", "duplicate", "kept"}
    assert {row.reason for row in rows} == {None, "json", "empty", "length.min_chars", *QUALITY}
    assert max(len(row.failing) for row in rows) == 3
    assert any(row.survivor and row.survivor.source != row.source for row in rows)
    assert all(s["splits"] > 8 for s in opened.mixture["sources"])


def test_the_table_counts_what_became_of_every_row(audited):
    _, opened, rows = audited
    facts = audit_facts(opened.mixture)
    assert [s["name"] for s in facts["sources"]] == ["web", "wiki"]
    for source in facts["sources"]:
        mine = of(rows, source=source["name"])
        first = Counter(row.reason for row in mine if row.end == "dropped")
        failing = Counter(rule for row in mine for rule in row.failing)
        assert {r["rule"]: r["dropped"] for r in source["rules"]} == dict.fromkeys(failing, 0) | first
        assert {r["rule"]: r["failing"] for r in source["rules"]} == failing
        for rule in source["rules"]:
            assert rule["share"] == rule["dropped"] / len(mine)
            assert rule["failing_share"] == rule["failing"] / len(mine)
            gone = of(mine, reason=rule["rule"])
            assert rule["bytes"] == sum(len(row.text.encode()) for row in gone)
        assert source["no_documents"] == Counter(row.reason for row in mine if row.end == "no document")
        assert source["duplicates"] == len(of(mine, end="duplicate"))
        assert source["kept"] == len(of(mine, end="kept"))
        assert source["rows"] == len(mine)
        removed = {"nfc": sum(row.removed for row in mine)} if source["name"] == "web" else {}
        assert source["rewritten_chars"] == removed
        assert [r["dropped"] for r in source["rules"]] == sorted(
            (r["dropped"] for r in source["rules"]), reverse=True
        )
    assert facts["sources"][0]["rewritten_chars"]["nfc"] > 100


def test_the_table_reads_nothing_but_what_is_published(audited, monkeypatch):
    opened_files = Opened(monkeypatch)
    audit_facts(open_run(audited[1].location).mixture)
    assert not opened_files


def facts_by_hand() -> dict:
    return {"name": "n", "sources": [{
        "name": "s", "rows": 10, "lost": {"json": 1, "a.x": 2}, "lost_bytes": {"a.x": 20},
        "dropped": {"a.x": 1, "language.min_score": 3}, "dropped_bytes": {"a.x": 5, "language.min_score": 7},
        "failing": {"a.x": 4, "language.min_score": 3, "b.y": 1},
        "only": {"a.x": 2},
        "details": {"language.min_score": {"[de]": 1, "fr": 2}},
        "duplicates": 0, "dedup": [], "rewritten_chars": {}, "kept_documents": 3,
    }]}  # fmt: skip


def test_a_rule_in_two_segments_is_one_rule():
    (source,) = audit_facts(facts_by_hand())["sources"]
    assert [(r["rule"], r["dropped"], r["bytes"], r["failing"]) for r in source["rules"]] == [
        ("a.x", 3, 25, 4), ("language.min_score", 3, 7, 3), ("b.y", 0, 0, 1)]  # fmt: skip
    assert list(source["rules"][1]["details"].items()) == [("fr", 2), ("[de]", 1)]
    assert source["no_documents"] == {"json": 1}


def test_the_table_is_printed_whole(audited, capsys):
    print_audit(audit_facts(facts_by_hand()))
    lines = capsys.readouterr().out.splitlines()
    assert [ln.split() for ln in lines if "a.x" in ln] == [
        ["a.x", "3", "30.00%", "25", "B", "4", "40.00%", "2"]
    ]
    assert [ln.split()[-2:] for ln in lines if ln.split()[-2:-1] in (["fr"], ["[de]"])] == [
        ["fr", "2"],
        ["[de]", "1"],
    ]
    print_audit(audit_facts(audited[1].mixture))
    said = capsys.readouterr().out
    assert "…" not in said
    assert re.search(r"no document: json +\d", said)
    assert re.search(r"web +nfc +\d", said)
    assert re.search(r"exact +\d", said)


# ---- the sample ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "reasons"),
    [
        ("length.min_chars", {"length.min_chars"}),
        ("gopher-quality.min_stop_words", {"gopher-quality.min_stop_words"}),
        ("gopher-quality", QUALITY),
        ("json", {"json"}),
        ("empty", {"empty"}),
    ],
)  # fmt: skip
def test_a_sample_of_all_is_all_that_was_dropped(audited, wanted, reasons):
    _, opened, rows = audited
    gone = {row.place: row for row in rows if row.reason in reasons}
    found = sample_dropped(opened, wanted, 10_000)
    assert Counter(place(d.place) for d in found) == Counter(list(gone))
    names = ids(opened, rows)
    for dropped in found:
        row = gone[place(dropped.place)]
        assert dropped.place.document == names[row.place]
        assert dropped.filter == row.reason
        assert dropped.failing == row.failing
        assert dropped.survivor is None
        assert dropped.key == (f"http://x/{re.search('[0-9]+$', dropped.key)[0]}" if dropped.key else None)
        if row.end == "no document":
            assert (dropped.stage, dropped.threshold, dropped.characters, dropped.evidence) == (
                "read",
                None,
                None,
                (),
            )
            assert dropped.excerpt.startswith('{"text": "torn' if wanted == "json" else "")
            continue
        assert dropped.stage == "filters"
        assert (dropped.excerpt, dropped.characters) == (row.text[:EXCERPT_CHARS], len(row.text))
        score, threshold, signals = {
            "length.min_chars": (len(row.text), MIN_CHARS, {"chars": len(row.text)}),
            "gopher-quality.min_words": (len(row.text.split()), MIN_WORDS, {"words": len(row.text.split())}),
            "gopher-quality.max_hashes_per_word": (
                row.text.count("#") / len(row.text.split()), MAX_HASHES,
                {"hashes": row.text.count("#"), "words": len(row.text.split())},
            ),
            "gopher-quality.min_stop_words": (len(STOP_WORDS & set(row.text.split())), MIN_STOP_WORDS,
                                              {"stop_words": len(STOP_WORDS & set(row.text.split()))}),
        }[row.reason]  # fmt: skip
        assert (dropped.score, dropped.threshold, dropped.signals) == (score, threshold, signals)
        assert bool(dropped.evidence) == (not row.reason.endswith(("min_words", "min_chars")))


def test_a_sample_of_duplicates_names_the_survivors(audited):
    _, opened, rows = audited
    gone = {row.place: row for row in rows if row.end == "duplicate"}
    found = sample_dropped(opened, "exact", 10_000)
    assert Counter(place(d.place) for d in found) == Counter(list(gone))
    for dropped in found:
        row = gone[place(dropped.place)]
        assert place(dropped.survivor) == row.survivor.place
        assert (dropped.stage, dropped.filter, dropped.failing) == ("dedup", "exact", ())
        assert (dropped.score, dropped.threshold) == (None, None)
        assert dropped.excerpt == row.text[:EXCERPT_CHARS]


def test_the_same_seed_gives_the_same_documents(audited):
    _, opened, rows = audited

    def sampled(n: int, seed: int | None, source: str | None = None) -> list[str]:
        return [d.place.document for d in sample_dropped(opened, "gopher-quality", n, source, seed)]

    assert sampled(12, 1) == sampled(12, 1)
    assert sampled(5, 1) == sampled(12, 1)[:5]
    assert sampled(12, 1) != sampled(12, 2)
    assert sampled(12, None) == sampled(12, 5), "the run's own seed is the default"
    names = ids(opened, rows)
    wiki = {names[row.place] for row in of(rows, source="wiki")}
    assert set(sampled(12, 1, "wiki")) <= wiki
    assert set(sampled(12, 1)) - wiki, "without a source, all of them"


def test_every_dropped_document_is_as_likely_as_any_other(audited):
    _, opened, rows = audited
    gone = of(rows, reason="gopher-quality.min_stop_words")
    seen = Counter(d.place.document for seed in range(200) for d in
                   sample_dropped(opened, "gopher-quality.min_stop_words", 2, seed=seed))  # fmt: skip
    expected = 400 / len(gone)
    assert 5 < len(gone) < 40
    assert len(seen) == len(gone)
    assert max(abs(n - expected) for n in seen.values()) < 5 * math.sqrt(expected)


@pytest.mark.parametrize("wanted", ["gopher-quality.min_words", "length.min_chars", "exact", "json"])
def test_a_sample_reads_the_files_of_the_splits_it_shows(audited, monkeypatch, wanted):
    opened = open_run(audited[1].location)
    opened.recipe  # noqa: B018
    files = Opened(monkeypatch)
    for n in (1, 3):
        files.clear()
        found = sample_dropped(opened, wanted, n, seed=99)
        assert len(found) == n
        listings = {f for f in files if f.endswith("files.parquet")}
        splits = Counter(re.sub(r"^.*-(\d{8})\.\w+$", r"\1", f) for f in files - listings)
        assert sum(f.startswith("dropped/") for f in files) <= n
        assert len(splits) <= n
        assert len(files - listings) <= 3 * n
        assert not any("verdict" in f for f in files)
    # The report has the texts of all duplicates here, but not of all that are too short.
    read_too = {
        f[: len("documents/text")] for f in files if f.startswith(("documents/text", "documents/lost"))
    }
    stage_of = {"gopher-quality.min_words": {"documents/text"}, "length.min_chars": {"documents/lost"}}
    assert read_too == stage_of.get(wanted, set())


@pytest.mark.parametrize("mode", ["none", "all"])
def test_the_text_comes_from_the_stage_where_the_report_has_none(audited, copied, monkeypatch, mode):
    root, opened, _ = audited
    make(root, copied, f"dropped_text={mode}")
    other = open_run(str(copied))
    files = Opened(monkeypatch)
    for wanted in ("gopher-quality", "length", "exact"):
        same = sample_dropped(other, wanted, 10, seed=3)
        assert [asdict(d) for d in same] == [asdict(d) for d in sample_dropped(opened, wanted, 10, seed=3)]
    files.clear()
    sample_dropped(other, "gopher-quality", 10, seed=3)
    sample_dropped(other, "length", 10, seed=3)
    assert bool([f for f in files if f.startswith(("documents/text", "documents/lost"))]) == (mode == "none")
    (torn,) = sample_dropped(other, "json", 1, seed=3)
    assert bool(torn.excerpt) == (mode == "all")


def test_signals_only_until_a_document_is_dropped(audited, copied):
    root, opened, rows = audited
    make(root, copied, "signals=until-drop")
    other = open_run(str(copied))
    for wanted in ("gopher-quality", "length", "exact"):
        same = sample_dropped(other, wanted, 10, seed=3)
        expected = [asdict(d) for d in sample_dropped(opened, wanted, 10, seed=3)]
        assert [asdict(d) for d in same] == expected
    names = ids(opened, rows)
    for row in rows[::5]:
        assert document_story(other, names[row.place]).end == row.end


# ---- one document --------------------------------------------------------------------------------------------


def test_every_row_has_its_story(audited):
    _, opened, rows = audited
    names = ids(opened, rows)
    for row in rows:
        story = document_story(opened, names[row.place], text=True)
        assert (place(story.place), story.end, story.reason) == (row.place, row.end, row.reason)
        if row.text is None:
            assert story.text.startswith('{"text": "torn')
        else:
            assert story.text == (row.text or None)
        assert document_story(opened, names[row.place]).text is None
        assert tuple(r.rule for s in story.segments for r in s.rules if not r.passes) == row.failing
        assert [r.rule for s in story.segments for r in s.rules if r.dropped] == (
            [row.reason] if row.failing else []
        )
        came_through = row.end != "no document" and row.reason != "length.min_chars"
        assert len(story.segments) == (row.end != "no document") + (row.source == "web" and came_through)
        assert story.text_bytes == (len(row.text.encode()) if came_through else None)
        survivors = [place(step.survivor) for step in story.steps if step.survivor]
        assert survivors == ([row.survivor.place] if row.survivor else [])
        assert [s.step for s in story.steps] == (["exact"] if row.end in ("kept", "duplicate") else [])
        assert (story.trace is not None) == (row.end == "kept")
        if story.trace:
            assert story.trace == Tracer(opened).document(names[row.place])
    ends = {
        document_story(opened, names[row.place]).trace.split for row in of(rows, end="kept", source="web")
    }
    assert ends == {"train", "val"}


def test_a_story_has_the_scores_and_bounds_of_every_rule(audited):
    _, opened, rows = audited
    names = ids(opened, rows)
    row = next(r for r in rows if r.source == "web" and len(r.failing) == 2 and r.removed)
    first, last = document_story(opened, names[row.place]).segments
    (rule,) = first.rules
    assert (rule.rule, rule.score, rule.minimum) == (
        "length.min_chars",
        len(row.text) + row.removed,
        MIN_CHARS,
    )
    assert (rule.maximum, rule.fraction, rule.passes, rule.source) == (
        None,
        None,
        True,
        "chosen in the recipe",
    )
    assert (first.rewriter, first.removed_chars) == (None, None)
    assert first.signals["chars"] == len(row.text) + row.removed
    assert (last.rewriter, last.removed_chars) == ("nfc", row.removed)
    assert last.signals["chars"] == len(row.text)
    assert {"id", "key", "meta", "text_hash", "first", "failing"}.isdisjoint(first.signals | last.signals)
    words = row.text.split()
    scores = {r.rule: (r.score, r.minimum, r.maximum) for r in last.rules}
    assert scores == {
        "nfc.empty": (len(row.text.encode()), 1, None),
        "gopher-quality.min_words": (len(words), MIN_WORDS, None),
        "gopher-quality.max_hashes_per_word": (row.text.count("#") / len(words), None, MAX_HASHES),
        "gopher-quality.min_stop_words": (len(STOP_WORDS & set(words)), MIN_STOP_WORDS, None),
    }


def test_a_story_reads_little(audited, monkeypatch):
    _, opened, rows = audited
    names = ids(opened, rows)
    splits = opened.mixture["sources"][0]["splits"]
    opened = open_run(opened.location)
    document_story(opened, names[rows[0].place])
    files = Opened(monkeypatch)
    for row in of(rows, source="web"):
        files.clear()
        document_story(opened, names[row.place])
        assert not [f for f in files if f.startswith("documents/text")], "a text that nobody asked for"
        read_ids = {f for f in files if f.startswith(("documents/rows", "documents/lost"))}
        assert len(read_ids) <= 2 * math.log2(splits) + 4 < splits
        assert len({f for f in files if "signals0" in f or "verdict" in f}) <= 3
    document_story(opened, names[of(rows, end="kept")[0].place], text=True)
    assert len([f for f in files if f.startswith("documents/text")]) == 1


def test_what_a_story_says(audited, capsys):
    _, opened, rows = audited
    names = ids(opened, rows)

    def said(row: Row, **more: bool) -> str:
        print_story(document_story(opened, names[row.place], **more))
        return capsys.readouterr().out

    dropped = said(next(r for r in rows if len(r.failing) == 3 and r.source == "web"))
    assert re.search(r"gopher-quality.min_words +\d+ +at least 20 +fails, drops it", dropped)
    assert re.search(r"gopher-quality.max_hashes_per_word +[\d.]+ +at most 0.1 +fails +Gopher", dropped)
    assert dropped.endswith("dropped by gopher-quality.min_words\n")
    assert re.search(r"\n  nfc removed -?\d+ characters\n", dropped)
    kept = of(rows, end="kept")[0]
    assert re.search(r"\nkept, [\d,]+ bytes of text; passed exact\n\d+ tokens in ", said(kept))
    assert kept.text not in said(kept)
    assert said(kept, text=True).endswith(f"\n\n{kept.text}\n")
    held_out = [r for r in of(rows, end="kept", source="web") if " (held out), samples " in said(r)]
    assert 0 < len(held_out) < len(of(rows, end="kept", source="web"))
    double = of(rows, end="duplicate")[0]
    survivor = f"{names[double.survivor.place]}  {double.survivor.source}, {double.survivor.path}"
    assert f"exact duplicate of {survivor} at {double.survivor.position}\n" in said(double)
    assert said(of(rows, reason="json")[0]).endswith("no document: json\n")


def test_what_a_sample_says(audited, capsys):
    _, opened, _ = audited
    found = sample_dropped(opened, "gopher-quality.min_stop_words", 1)
    print_sample("gopher-quality.min_stop_words", found)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"1. {found[0].place.document}  {found[0].place.source}, ")
    assert said[1] == f"   gopher-quality.min_stop_words: {found[0].score:.0f}, below 2"
    assert said[2] == f"   signals: stop_words {found[0].score:.0f}"
    assert said[3].startswith("   evidence: ")
    assert f"   | {found[0].excerpt}" in said
    print_sample(
        "gopher-quality.max_hashes_per_word", sample_dropped(opened, "gopher-quality.max_hashes_per_word", 1)
    )
    said = capsys.readouterr().out
    assert re.search(
        r"\n   gopher-quality.max_hashes_per_word: [\d.]+, above 0.1\n   also fails gopher-quality", said
    )
    print_sample("exact", sample_dropped(opened, "exact", 1))
    assert re.search(r"\n   exact duplicate of [0-9a-f]{32}  web, ", capsys.readouterr().out)
    print_sample("nfc", sample_dropped(opened, "nfc", 3))
    assert capsys.readouterr().out == "nfc dropped no document\n"


# ---- errors --------------------------------------------------------------------------------------------------


def test_names_that_the_run_does_not_have(audited):
    _, opened, rows = audited
    with pytest.raises(
        UnknownError,
        match=r"^no filter 'gopher-qualty' drops documents in this run; did you mean 'gopher-quality'\?$",
    ):
        sample_dropped(opened, "gopher-qualty", 1)
    with pytest.raises(UnknownError, match=r"did you mean 'gopher-quality.min_stop_words'\?$"):
        sample_dropped(opened, "gopher-quality.min_stopwords", 1)
    with pytest.raises(
        UnknownError, match=r"^no filter 'x' .*; this run's are: empty, exact, gopher-quality, "
    ):
        sample_dropped(opened, "x", 1)
    with pytest.raises(UnknownError, match=r"^no filter 'gopher-quality.min' drops"):
        sample_dropped(opened, "gopher-quality.min", 1)
    with pytest.raises(UnknownError, match=r"^there is no source 'wik'; did you mean 'wiki'\?$"):
        sample_dropped(opened, "gopher-quality", 1, source="wik")
    with pytest.raises(UnknownError, match=r"^'abc' is no document id: 32 hexadecimal digits$"):
        document_story(opened, "abc")
    with pytest.raises(UnknownError, match=r"is from no file of this run$"):
        document_story(opened, "0" * 32)
    names = ids(opened, rows)
    with pytest.raises(UnknownError, match=r"^no row of web begins at 1 of 0.jsonl$"):
        document_story(opened, names["web", "0.jsonl", 0][:-1] + "1")
    with pytest.raises(
        UnknownError, match=r"^no row of wiki begins at 18,446,744,073,709,551,615 of a.parquet$"
    ):
        document_story(opened, names["wiki", "a.parquet", 0][:16] + "f" * 16)
    assert document_story(opened, names["wiki", "a.parquet", 7].upper()).place.position == 7


def stage(copied: Path, kind: str) -> Path:
    (found,) = (copied / "stages").glob(f"{kind}.web-*")
    return found


@pytest.mark.parametrize("kind", ["dropped", "documents", "filters"])
def test_a_stage_that_was_deleted(audited, copied, kind):
    names = ids(audited[1], audited[2])
    row = of(audited[2], reason="gopher-quality.min_words", source="web")[0]
    for path in stage(copied, kind).rglob("*"):
        if path.is_file() and path.name != "files.parquet":
            path.unlink()
    opened = open_run(str(copied))
    with pytest.raises(
        NotFinishedError, match=r"(is not whole|is not there).*`winnow run` makes (it|them) again$"
    ):
        sample_dropped(opened, "gopher-quality", 5, source="web")
    if kind != "dropped":
        with pytest.raises(NotFinishedError, match=r"is not there; `winnow run` makes it again$"):
            document_story(opened, names[row.place])


def test_a_stage_that_lacks_a_split(copied):
    (stage(copied, "filters") / "verdict-00000003.arrow").unlink()
    with pytest.raises(
        NotFinishedError, match=r"filters\.web-[0-9a-f]+ is not whole: 1 of \d+ splits are missing"
    ):
        sample_dropped(open_run(str(copied)), "gopher-quality", 5)


def test_damaged_files(audited, copied):
    names = ids(audited[1], audited[2])
    row = of(audited[2], reason="gopher-quality.min_words", source="web")[0]
    for path in stage(copied, "dropped").glob("*.parquet"):
        path.write_bytes(b"PAR1" + path.read_bytes()[4:-4] + b"RAP1")
    for path in stage(copied, "filters").glob("*.arrow"):
        path.write_bytes(path.read_bytes()[:-9])
    opened = open_run(str(copied))
    with pytest.raises(
        NotFinishedError, match=r"is damaged \(.+\); delete it, and `winnow run` makes it again"
    ):
        sample_dropped(opened, "json", 1)
    with pytest.raises(NotFinishedError, match=r"verdict-\d{8}\.arrow is damaged \(.+\); delete it"):
        document_story(opened, names[row.place])


# ---- the command ---------------------------------------------------------------------------------------------


def winnow(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*WINNOW, "audit", *map(str, arguments)], capture_output=True, text=True, timeout=300
    )


def test_the_three_forms_as_json(audited):
    _, opened, rows = audited
    place_ = opened.location
    assert json.loads(winnow(place_, "--json").stdout) == audit_facts(opened.mixture)
    done = winnow(
        place_, "--filter", "gopher-quality", "--sample", 3, "--seed", 1, "--source", "wiki", "--json"
    )
    expected = [asdict(d) for d in sample_dropped(opened, "gopher-quality", 3, "wiki", 1)]
    assert json.loads(done.stdout) == json.loads(json.dumps(expected))
    document = ids(opened, rows)[of(rows, end="kept")[0].place]
    for more in ([], ["--text"]):
        done = winnow(place_, "--doc", document, "--json", *more)
        expected = asdict(document_story(opened, document, text=bool(more)))
        assert json.loads(done.stdout) == json.loads(json.dumps(expected))
        assert (expected["text"] is not None) == bool(more)


def test_exit_codes_and_messages(audited, tmp_path):
    place_ = audited[1].location
    assert winnow(place_).returncode == 0
    for arguments, message in [
        (["--filter", "gopher-qualty", "--sample", 1], "did you mean 'gopher-quality'?"),
        (
            ["--filter", "exact", "--sample", 1, "--source", "x"],
            "there is no source 'x'; the run has: web, wiki",
        ),
        (["--doc", "abc"], "'abc' is no document id: 32 hexadecimal digits"),
        (["--filter", "exact", "--doc", "0" * 32], "--doc shows one document, --filter some that it dropped"),
        (["--sample", 3], "--sample says how many to show of what --filter dropped: give --filter, too"),
        (["--seed", 3], "--source and --seed are about a sample: give --filter, too"),
        (["--text"], "--text is about one document: give --doc, too"),
    ]:
        done = winnow(place_, *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1
    done = winnow(tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "has no manifest.json" in done.stderr
