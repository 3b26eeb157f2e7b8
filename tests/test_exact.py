"""Exact dedup by text, by normalised text and by URL, within sources, across them, and against earlier runs."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from winnow.pipelines import exact
from winnow.pipelines.audit import sample_dropped
from winnow.pipelines.audit_pairs import sample_pairs
from winnow.pipelines.corpus import run
from winnow.pipelines.finished import open_run
from winnow.pipelines.located import RecipeError
from winnow.pipelines.recipe import read
from winnow.shards.inputs import InputError

ROWS = [
    ("https://a.example/x", "One and the same text."),
    ("http://www.a.example/x/#top", "Another text."),
    (None, "one AND the-same  text"),
    ("https://a.example/X", "One and the same text."),
    (None, "Another text."),
    ("https://b.example/", "???"),
    ("no url", "!!!"),
    ("https://b.example/", "???"),
]


def made(
    tmp_path: Path, name: str, rows: list, dedup: str, files: int = 2, more: str = "", **limits: str
) -> Path:
    """A run over rows spread over files; returns its directory."""
    folder = tmp_path / f"{name}-in"
    folder.mkdir(parents=True, exist_ok=True)
    share = -(-len(rows) // files)
    for k in range(files):
        lines = [json.dumps({"url": url, "text": text}) for url, text in rows[k * share : (k + 1) * share]]
        (folder / f"{k}.jsonl").write_text("".join(line + "\n" for line in lines))
    sizes = "".join(f", {key}: {value}" for key, value in limits.items())
    recipe = (
        f"name: {name}\ntokenizer: {{name: mistral-7b-v0.1}}\nsequence: {{length: 4}}\n"
        f"limits: {{split_bytes: 1KiB{sizes}}}\nsources:\n"
        f"  s: {{read: {{format: jsonl, path: '{folder}/*.jsonl', key: url}}, dedup: {{exact: {dedup}}}}}\n{more}"
    )
    run(read(recipe, "r.yaml"), str(tmp_path / name), inline=True)
    return tmp_path / name


def dropped(out: Path, source: str = "s") -> list[tuple[str, str]]:
    """(place of the document, place of its survivor) of all that dedup dropped."""
    opened = open_run(str(out))

    def place(id_: bytes) -> str:
        of, path, position = opened.place_of(id_.hex())
        text = (Path(opened.recipe.sources[of].read.root) / path).read_bytes()
        line = text[:position].count(b"\n")
        return f"{path}:{line}"

    rows = [r for f in sorted((out / "dropped" / source).iterdir()) for r in pq.read_table(f).to_pylist()]
    return sorted((place(r["id"]), place(r["survivor"])) for r in rows if r["stage"] == "dedup")


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("text", [("0.jsonl:3", "0.jsonl:0"), ("1.jsonl:0", "0.jsonl:1"), ("1.jsonl:3", "1.jsonl:1")]),
        ("normalised", [("0.jsonl:2", "0.jsonl:0"), ("0.jsonl:3", "0.jsonl:0"), ("1.jsonl:0", "0.jsonl:1"),
                        ("1.jsonl:3", "1.jsonl:1")]),
        ("url", [("0.jsonl:1", "0.jsonl:0"), ("1.jsonl:3", "1.jsonl:1")]),
    ],
)  # fmt: skip
def test_what_is_the_same(tmp_path, by, expected):
    assert dropped(made(tmp_path, by, ROWS, f"{{by: {by}}}")) == expected


def test_many_copies_of_one_text_need_no_more_than_a_partition(tmp_path, monkeypatch):
    """2,000 copies are 96,000 bytes of hashes, in partitions of 4 KiB: they come in blocks."""
    blocks: list[int] = []
    honest = exact.read_blocks

    def counted(parts, wire, limit):
        for rows, payload, ends in honest(parts, wire, limit):
            blocks.append(rows.nbytes)
            yield rows, payload, ends

    monkeypatch.setattr(exact, "read_blocks", counted)
    rows = [(None, f"text {i}" if i % 3 else "the same") for i in range(3_000)]
    found = dropped(made(tmp_path, "hot", rows, "true", files=1, partition_bytes="4KiB"))
    assert len(found) == 999
    assert {survivor for _, survivor in found} == {"0.jsonl:0"}
    assert len(blocks) > 10
    assert max(blocks) <= 2 * 4096


@pytest.mark.parametrize("by", ["text", "normalised", "url"])
def test_an_earlier_runs_documents_come_first_and_stay(tmp_path, by):
    first = made(tmp_path, "first", ROWS[:4], f"{{by: {by}}}", files=1)
    inputs = tmp_path / "first-in"
    kept = 4 - len(dropped(first))
    inputs.rename(tmp_path / "gone")  # nothing of the earlier run's input is read again
    new = [*ROWS[4:], ("https://a.example:443/x", "one and the same TEXT!"), ("https://c.example", "new")]
    out = made(tmp_path, "second", new, f"{{by: {by}, against: '{first}'}}", files=1)
    (tmp_path / "gone").rename(inputs)
    facts = open_run(str(out)).mixture
    alone = made(tmp_path, "alone", ROWS[:4] + new, f"{{by: {by}}}", files=1)
    assert (
        kept + facts["sources"][0]["kept_documents"]
        == open_run(str(alone)).mixture["sources"][0]["kept_documents"]
    )
    found = [d.survivor for d in sample_dropped(open_run(str(out)), "exact", 10)]
    assert {s.source for s in found} == {"first/s", "s"}
    assert {s.path for s in found} == {"0.jsonl"}, (
        "the earlier run is looked up, though ids there are like ours"
    )
    assert all(pair.blocks for pair in sample_pairs(open_run(str(out)), 10))
    (step,) = facts["dedup"]
    assert step["compared"] == len(new), "the earlier run's documents are nobody's to drop"
    expected = {"text": {"s of first/s": 1, "s of s": 1}, "normalised": {"s of first/s": 2, "s of s": 1},
                "url": {"s of first/s": 1, "s of s": 1}}[by]  # fmt: skip
    assert step["pairs"] == expected


def test_what_an_earlier_run_did_not_compute_is_not_computed_now(tmp_path):
    first = made(tmp_path, "first", ROWS, "true")
    with pytest.raises(InputError, match="it has no keys made with the same settings"):
        made(tmp_path, "second", ROWS, f"{{by: url, against: '{first}'}}")
    with pytest.raises(RecipeError, match=r"r.yaml:6:.*against .*nowhere: .*no manifest"):
        made(tmp_path, "third", ROWS, f"{{against: '{tmp_path}/nowhere'}}")


def test_a_cleaned_run_still_serves_later_ones(tmp_path):
    """The keys that later runs compare with are the run's own, and `clean` leaves them."""
    first = made(tmp_path, "first", ROWS, "{by: url}")
    for path in open_run(str(first)).unreferenced():
        shutil.rmtree(first / path)
    out = made(tmp_path, "second", ROWS, f"{{by: url, against: '{first}'}}")
    assert Counter(s["step"] for s in open_run(str(out)).mixture["dedup"]) == {"exact": 1}
    assert len(dropped(out)) == 5


def test_what_an_earlier_run_may_not_be(tmp_path):
    first = made(tmp_path, "first", ROWS, "true")
    twin = tmp_path / "elsewhere" / "first"
    shutil.copytree(first, twin)
    with pytest.raises(RecipeError, match="another earlier run is called 'first', too"):
        made(tmp_path, "second", ROWS, f"{{against: ['{first}', '{twin}']}}")
    made(tmp_path / "again", "first", ROWS, "true")
    with pytest.raises(InputError, match="that is the run itself"):
        made(tmp_path / "again", "first", ROWS, f"{{against: '{tmp_path}/again/first'}}")
