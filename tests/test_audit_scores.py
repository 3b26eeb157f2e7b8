"""What does an audit show of rules that go by a fraction or say more than a score; and what is it put together from?

Draws, rows found by id, and text made fit for a terminal are tried by themselves.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from winnow.pipelines import open_run, run
from winnow.pipelines.audit import audit_facts, draws, sample_dropped
from winnow.pipelines.audit_document import document_story
from winnow.pipelines.audit_report import print_sample, print_story
from winnow.pipelines.finished import NotFinishedError
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import read
from winnow.pipelines.split_rows import aligned_rows, find_rows
from winnow.pipelines.terminal import printable
from winnow.shards import tables

SCORED = """
name: scored
tokenizer: {{name: mistral-7b-v0.1}}
sequence: {{length: 32}}
sources:
  rated:
    read: {{format: jsonl, path: "{root}/*.jsonl"}}
    filters:
      - {{length: {{min_chars: 20}}}}
      - nfc
      - {{field: {{path: lang, keep: [en], missing: keep}}}}
      - {{field: {{path: score, keep_fraction: 0.5, missing: keep}}}}
      - {{length: {{min_chars: 30}}}}
limits: {{split_bytes: 1KiB}}
"""


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory):
    """(the finished run, scores by position); the lower half of the English documents is dropped."""
    root = tmp_path_factory.mktemp("scored")
    positions: dict[int, tuple[str, float]] = {}
    with open(root / "a.jsonl", "wb") as file:
        for i in range(60):
            positions[file.tell()] = lang, score = ("de", 1.0) if i % 6 == 0 else ("en", (i * 7 % 60) / 64)
            text = {0: "short", 17: "e\u0301" * 14}.get(i, f"document {i} " * 5)
            line = {"text": text, "lang": lang, "score": score}
            file.write(json.dumps(line).encode() + b"\n")
    recipe = read(SCORED.format(root=root), "scored.yaml", [])
    run(recipe, str(root / "RUN"), inline=True, progress=Progress(stream=None))
    return open_run(str(root / "RUN")), positions


def test_a_rule_with_a_fraction_shows_where_it_cut(scored, capsys):
    opened, positions = scored
    english = sorted(score for lang, score in positions.values() if lang == "en")
    cut = english[len(english) // 2]
    assert english.count(cut) == 1
    gone = {at for at, (lang, score) in positions.items() if lang == "en" and score < cut}
    found = sample_dropped(opened, "field.score", 100)
    assert {d.place.position for d in found} == gone
    assert {d.threshold for d in found} == {cut}
    assert all(d.score == positions[d.place.position][1] == d.signals["field.score"] for d in found)
    assert all(d.signals["field.score.missing"] == 0 for d in found), (
        "what is measured with the score is shown, too"
    )
    document = found[0].place.document
    story = document_story(opened, document)
    rule = next(r for r in story.segments[-1].rules if r.dropped)
    assert (rule.rule, rule.minimum, rule.fraction, rule.passes) == (
        "field.score.keep_fraction",
        cut,
        0.5,
        False,
    )
    print_story(story)
    assert re.search(rf" the best 50%, from {cut:g} on +fails, drops it ", capsys.readouterr().out)


def test_a_rule_with_a_detail_shows_it(scored, capsys):
    opened, positions = scored
    (rule,) = [
        r for r in audit_facts(opened.mixture)["sources"][0]["rules"] if r["rule"] == "field.lang.keep"
    ]
    assert rule["details"] == {"de": 9}
    found = sample_dropped(opened, "field.lang.keep", 100)
    assert {d.place.position for d in found} == {
        at for at, (lang, _) in positions.items() if lang == "de" and at
    }
    assert {(d.detail, d.signals["field.lang"], d.score) for d in found} == {("de", "de", 0)}
    print_sample("field.lang.keep", found[:1])
    assert "\n   field.lang.keep: 0, below 1 (de)\n" in capsys.readouterr().out
    story = document_story(opened, found[0].place.document)
    assert [r.detail for r in story.segments[-1].rules if r.dropped] == ["de"]
    assert sample_dropped(opened, "field", 100, seed=1)


def test_a_rule_in_two_segments_shows_the_text_and_signals_of_the_one_that_dropped(scored):
    opened, _ = scored
    found = sample_dropped(opened, "length.min_chars", 100)
    shown = {(d.excerpt, d.score, d.threshold, d.characters, d.signals["chars"]) for d in found}
    assert shown == {("short", 5, 20, 5, 5), ("é" * 14, 14, 30, 14, 14)}


@given(st.integers(0, 60), st.integers(0, 70), st.integers(0, 1 << 63))
def test_draws_are_different_numbers_and_begin_alike(total, n, seed):
    drawn = list(draws(total, n, seed))
    assert len(drawn) == len(set(drawn)) == min(n, total)
    assert all(0 <= k < total for k in drawn)
    assert list(draws(total, n + 3, seed))[: len(drawn)] == drawn


def test_draws_are_fair():
    counts = Counter(k for seed in range(3000) for k in draws(7, 3, seed))
    expected = 3000 * 3 / 7
    assert all(abs(counts[k] - expected) < 5 * math.sqrt(expected) for k in range(7))


def test_rows_are_found_in_any_row_group_and_batch(tmp_path):
    names = [i.to_bytes(16, "big") for i in range(10)]
    place_ = str(tmp_path / "rows.parquet")
    pq.write_table(pa.table({"id": pa.array(names, pa.binary(16)), "n": range(10)}), place_, row_group_size=3)
    found = find_rows(place_, [names[7], names[1], b"x" * 16], ["n", "no such column"])
    assert {id_: (row, table.to_pylist()[0]["n"]) for id_, (row, table) in found.items()} == {
        names[1]: (1, 1),
        names[7]: (7, 7),
    }
    place_ = str(tmp_path / "rows.arrow")
    with tables.arrow_writer(place_, pa.schema([("n", pa.int64())])) as writer:
        for numbers in ([0, 1], [], [2, 3, 4], [5]):
            writer.write_batch(pa.record_batch({"n": pa.array(numbers, pa.int64())}))
    found = aligned_rows(place_, [5, 1, 3])
    assert {row: batch.to_pylist() for row, batch in found.items()} == {
        1: [{"n": 1}],
        3: [{"n": 3}],
        5: [{"n": 5}],
    }
    with pytest.raises(NotFinishedError, match=r"damaged \(it has 6 rows, not 7\)"):
        aligned_rows(place_, [6, 1])


@settings(max_examples=200)
@given(st.text())
def test_what_is_printed_cannot_command_a_terminal(text):
    shown = printable(text)
    assert all(c == "\n" or c.isprintable() for c in shown)
    assert (shown == text) == all(c == "\n" or c.isprintable() for c in text)
    assert shown.count("\n") == text.count("\n")


def test_printable_by_hand():
    assert printable("a\x1b[31m\u00a0b\tc\u202e\u3000d\r\n中é\x00") == "a\\x1b[31m b c\\u202e d \n中é\\x00"
