"""`winnow audit --duplicates`: duplicates beside the documents kept instead, and a document's cluster."""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys

import pytest
from rich.console import Console
from winnow.pipelines.audit_pairs import COMPARED_WORDS, cluster_of, compared, sample_pairs
from winnow.pipelines.audit_pairs_report import pair_table
from winnow.pipelines.corpus import run
from winnow.pipelines.finished import UnknownError, open_run
from winnow.pipelines.recipe import read

WORDS = [f"word{i}" for i in range(500)]
RECIPE = """\
name: pairs
tokenizer: {{name: mistral-7b-v0.1}}
sequence: {{length: 32}}
limits: {{split_bytes: 2KiB}}
sources:
  web: {{read: {{format: jsonl, path: "{root}/web/*.jsonl"}}}}
  wiki: {{read: {{format: jsonl, path: "{root}/wiki/*.jsonl"}}}}
dedup:
  exact: {{across: [wiki, web]}}
  minhash: {{across: [wiki, web], threshold: 0.6, min_recall: 0.999}}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(run, original text -> texts that are its duplicates): the wiki's 12 documents, and the web's copies of them."""
    root = tmp_path_factory.mktemp("pairs")
    draw = random.Random(5)
    originals = [" ".join(draw.choices(WORDS, k=120)) for _ in range(12)]
    copies = {text: [] for text in originals}
    web = []
    for i, text in enumerate(originals):
        words = text.split()
        for k in range(i % 3):
            copies[text].append(" ".join([*words[:60], f"new{i}{k}", *words[60:], "tail"]))
        if i % 4 == 0:
            copies[text].append(text)
        web += copies[text]
    web += [" ".join(draw.choices(WORDS, k=120)) for _ in range(10)]
    for name, texts in (("web", web), ("wiki", originals)):
        (root / name).mkdir()
        half = len(texts) // 2
        for k, some in enumerate((texts[:half], texts[half:])):
            rows = "".join(json.dumps({"text": text}) + "\n" for text in some)
            (root / name / f"{k}.jsonl").write_text(rows)
    out = root / "run"
    run(read(RECIPE.format(root=root), "r.yaml"), str(out), inline=True)
    return open_run(str(out)), copies


def text_at(opened, place) -> str:
    with open(f"{opened.recipe.sources[place.source].read.root}/{place.path}", encoding="utf-8") as file:
        file.seek(place.position)
        return json.loads(file.readline())["text"]


def test_every_duplicate_is_drawn_with_its_own_survivor(made):
    opened, copies = made
    pairs = sample_pairs(opened, 1000)
    found = {(text_at(opened, p.dropped), text_at(opened, p.survivor)) for p in pairs}
    assert found == {(copy, text) for text, of in copies.items() for copy in of}
    assert {p.step for p in pairs} == {"exact", "minhash"}
    for pair in pairs:
        one, other = text_at(opened, pair.dropped), text_at(opened, pair.survivor)
        assert (pair.score is None) == (pair.step == "exact")
        assert " ".join(left for _, left, _ in pair.blocks if left) == one
        assert " ".join(right for _, _, right in pair.blocks if right) == other
        assert all(left == right for same, left, right in pair.blocks if same)
        assert all(left != right for same, left, right in pair.blocks if not same)
    assert sample_pairs(opened, 3) == pairs[:3]
    assert {p.step for p in sample_pairs(opened, 1000, step="exact")} == {"exact"}
    assert sample_pairs(opened, 1000, source="wiki") == []


def test_a_cluster_is_all_that_were_dropped_for_a_document(made):
    opened, _ = made
    by_survivor: dict[str, list[str]] = {}
    for pair in sample_pairs(opened, 1000):
        by_survivor.setdefault(pair.survivor.document, []).append(pair.dropped.document)
    assert max(map(len, by_survivor.values())) == 3
    for survivor, dropped in by_survivor.items():
        members = cluster_of(opened, survivor.upper())
        assert sorted(m.place.document for m in members) == sorted(dropped)
        assert {m.place.source for m in members} == {"web"}


def test_what_is_not_there_is_said(made):
    opened, _ = made
    with pytest.raises(
        UnknownError, match="'bloom' names no survivors in this run; these do: exact, minhash"
    ):
        sample_pairs(opened, 1, step="bloom")
    with pytest.raises(UnknownError, match="there is no source 'x'"):
        sample_pairs(opened, 1, source="x")
    with pytest.raises(UnknownError, match="no document id"):
        cluster_of(opened, "zz")


def test_long_texts_are_compared_as_far_as_is_quick():
    one = " ".join(map(str, range(2 * COMPARED_WORDS)))
    start = " ".join(map(str, range(COMPARED_WORDS)))
    assert list(compared(one, one + " more")) == [(True, start, start)]


def test_the_command(made):
    opened, _ = made
    winnow = [sys.executable, "-m", "winnow.pipelines.command", "audit", opened.location, "--duplicates"]

    def said(*more: str) -> str:
        return subprocess.run(
            [*winnow, *more], capture_output=True, text=True, check=True, timeout=120
        ).stdout

    pairs = json.loads(said("--sample", "2", "--filter", "minhash", "--json"))
    assert [p["dropped"]["document"] for p in pairs] == [
        p.dropped.document for p in sample_pairs(opened, 2, step="minhash")
    ]
    shown = said("--sample", "2", "--filter", "minhash")
    assert "dropped: " in shown
    assert "Jaccard 0." in shown
    cluster = said("--doc", pairs[0]["survivor"]["document"])
    assert pairs[0]["dropped"]["document"] in cluster


def test_a_table_never_shows_what_a_terminal_obeys(made):
    opened, _ = made
    (pair,) = sample_pairs(opened, 1, step="minhash")
    wild = type(pair)(pair.dropped, pair.survivor, "minhash", 0.5, ((False, "\x1b[31m [bold]", "x"),))
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(pair_table(1, wild))
    text = console.export_text()
    assert "\x1b" not in text
    assert "\\x1b[31m [bold]" in text
