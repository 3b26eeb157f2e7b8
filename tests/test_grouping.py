"""Are a source's documents, bytes and tokens counted by the values of a field, every one of them?"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from winnow.pipelines import corpus, grouping
from winnow.pipelines.cluster import Inline
from winnow.pipelines.documents import name
from winnow.pipelines.engine import Engine
from winnow.pipelines.grouping import COUNTS, NONE, OTHER, SCHEMA, label, largest, summed
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import read
from winnow.pipelines.records import Outputs
from winnow.pipelines.standing import standings
from winnow.shards import storage, tables

SILENT = Progress(stream=None)
RECIPE = """
name: grouped
tokenizer: {{name: mistral-7b-v0.1}}
sequence: {{length: 64}}
sources:
  code:
    read: {{format: jsonl, path: "{root}/*.jsonl", key: url}}
    filters: [{{length: {{min_chars: 40}}}}]
    dedup: {{exact: true}}
    heldout: {{fraction: 0.2}}
limits: {{split_bytes: 6KB}}
"""
LANGUAGES = ["python", "go", "c", NONE, "a|b", 7, None, ["x", 1.5], True, "=1+1", ""]


def rows_of_corpus() -> list[dict]:
    rows = []
    for i in range(200):
        text = f"document {i % 180} " * (1 + i % 9)  # short ones go, and some are copies
        row = {"text": text, "url": f"u{i}", "repo": {"owner": f"owner-{i * i % 23}", "stars": i}}
        language = LANGUAGES[i % len(LANGUAGES)]
        rows.append(row if i % 13 == 0 else row | {"lang": language})
    return rows


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    """(run's directory, its source, rows by key)."""
    root = tmp_path_factory.mktemp("grouped")
    rows = rows_of_corpus()
    for i in range(2):
        lines = [json.dumps(row) + "\n" for row in rows[100 * i : 100 * (i + 1)]]
        (root / f"{i}.jsonl").write_text("".join(lines))
    done = corpus.run(
        read(RECIPE.format(root=root), "r.yaml"), str(root / "run"), inline=True, progress=SILENT
    )
    source = done.sources["code"]
    assert len(source.plan.splits) > 5
    return root / "run", source, {row["url"]: row for row in rows}


def counted(run: Path, source, fields: list[str]):
    engine = Engine(str(run), Inline(), SILENT)
    (done,) = engine.together(grouping.groups_work(engine, source, fields))
    return engine, done


def by_hand(source, rows: dict[str, dict], value_of) -> dict[str, tuple[int, int, int]]:
    """Documents, bytes and tokens by value, from the stages' files and the rows as they were written."""
    found: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for split in range(len(source.plan.splits)):
        place = storage.join(source.documents.location, name("rows", split, "parquet"))
        keys = {r["id"]: r["key"] for r in pq.read_table(place, columns=["id", "key"]).to_pylist()}
        before = 0
        for batch in tables.arrow_batches(
            storage.join(source.tokens.location, name("index", split, "arrow"))
        ):
            for row in batch.to_pylist():
                sums = found[value_of(rows[keys[row["id"]]])]
                for i, n in enumerate((1, row["text_bytes"], row["end"] - before)):
                    sums[i] += n
                before = row["end"]
    return {value: tuple(sums) for value, sums in found.items()}


def shown(values: list[dict]) -> dict[str, tuple[int, int, int]]:
    return {v["value"]: (v["documents"], v["text_bytes"], v["tokens"]) for v in values}


def test_every_token_of_a_source_is_counted_once(made):
    run, source, rows = made
    _, done = counted(run, source, ["lang", "repo.owner", "nothing.here"])
    groups = grouping.groups_of(done)
    assert list(groups) == ["lang", "repo.owner", "nothing.here"]
    assert shown(groups["lang"]) == by_hand(source, rows, lambda row: label(row.get("lang")))
    assert shown(groups["repo.owner"]) == by_hand(source, rows, lambda row: row["repo"]["owner"])
    (nothing,) = groups["nothing.here"]
    assert nothing["value"] == NONE
    records = source.tokens.records
    for values in groups.values():
        for count in ("documents", "text_bytes", "tokens"):
            assert sum(v[count] for v in values) == sum(r.counts[count] for r in records)
    tokens = [v["tokens"] for v in groups["repo.owner"]]
    assert tokens == sorted(tokens, reverse=True)
    assert {'["x", 1.5]', "true", "7", '""', f'"{NONE}"', NONE} < {v["value"] for v in groups["lang"]}


def test_what_is_counted_is_not_counted_again(made):
    run, source, _ = made
    counted(run, source, ["repo.stars"])
    for part in (Path(run) / "stages").glob("groups-split.*"):
        for file in part.glob("groups-*.arrow"):
            file.unlink()
    engine, done = counted(run, source, ["repo.stars"])
    assert done.redone == 0
    assert list(engine.done) == ["groups.code"], "what led to the table need not be there any more"


def test_a_table_in_several_merges_is_the_same(made, monkeypatch):
    run, source, _ = made
    _, at_once = counted(run, source, ["lang", "repo.owner"])
    monkeypatch.setattr(grouping, "FAN_IN", 2)
    engine, in_rounds = counted(run, source, ["lang", "repo.owner"])
    assert "groups-merge1.code" in engine.done
    assert grouping.groups_of(in_rounds) == grouping.groups_of(at_once)


def test_more_values_than_are_kept_are_added_up(made, monkeypatch):
    run, source, rows = made
    monkeypatch.setattr(grouping, "MOST", 3)
    _, done = counted(run, source, ["repo.stars", "lang"])
    groups = grouping.groups_of(done)
    for values in groups.values():
        assert len([v for v in values if v["value"] not in (NONE, OTHER)]) == 3
        assert values[-1]["value"] == OTHER
        for count in ("documents", "text_bytes", "tokens"):
            assert sum(v[count] for v in values) == sum(r.counts[count] for r in source.tokens.records)
    exact = by_hand(source, rows, lambda row: str(row["repo"]["stars"]))
    # Every document has another number, so no split can have left out a part of one that is kept.
    first = sorted(exact.items(), key=lambda item: (-item[1][2], item[0]))[:3]
    assert shown(groups["repo.stars"][:3]) == dict(first)
    assert groups["repo.stars"][-1]["values"] == len(exact) - 3
    assert [v["value"] for v in groups["lang"][3:]] == [NONE, OTHER]


def test_the_size_of_batches_changes_nothing(made, monkeypatch, tmp_path):
    _, source, _ = made
    standing = max(standings(source), key=lambda s: source.tokens.records[s.split].counts["documents"])
    spec = grouping.SplitSpec(standing, source.tokens.location, ("lang", "repo.owner"))
    whole = grouping.split_task(spec, Outputs(str(tmp_path / "whole")))
    at_once = tables.parquet_batches
    small = [0]

    def slices(*arguments):
        for batch in at_once(*arguments):
            for first in range(0, batch.num_rows, 3):
                small[0] += 1
                yield batch.slice(first, 3)

    monkeypatch.setattr(tables, "parquet_batches", slices)
    monkeypatch.setattr(grouping, "PENDING_ROWS", 1)
    assert grouping.split_task(spec, Outputs(str(tmp_path / "slices"))) == whole
    assert small[0] > 2
    file = name("groups", standing.split, "arrow")
    assert (tmp_path / "slices" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_tokens_of_other_documents_are_an_error(made, tmp_path):
    _, source, _ = made
    standing = next(s for s in standings(source) if source.tokens.records[s.split].counts["documents"] > 1)
    whole = grouping.SplitSpec(standing, source.tokens.location, ("lang",))
    assert grouping.split_task(whole, Outputs(str(tmp_path / "whole")))["documents"] > 1
    file = name("index", standing.split, "arrow")
    (index,) = tables.arrow_batches(storage.join(source.tokens.location, file))
    for other, message in (
        (index.take(pa.array(range(len(index)))[::-1]), "other documents"),
        (index.slice(1), "row-aligned"),
        (pa.Table.from_batches([index, index]).combine_chunks().to_batches()[0], "row-aligned"),
    ):
        with tables.arrow_writer(str(tmp_path / file), index.schema) as writer:
            writer.write_batch(other)
        with pytest.raises(ValueError, match=message):
            grouping.split_task(replace(whole, tokens=str(tmp_path)), Outputs(str(tmp_path / "part")))


# ---- tables --------------------------------------------------------------------------------------------------


def table(rows: list[tuple]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(SCHEMA.names, row, strict=True)) for row in rows], SCHEMA)


counts = st.integers(0, 50)
names = st.sampled_from(["a", "b", "c", "é", "zz", NONE, OTHER])
some_rows = st.lists(
    st.tuples(st.sampled_from(["f", "g"]), names, counts, counts, counts, st.just(1)), max_size=30
)


@settings(deadline=None)
@given(st.lists(some_rows, min_size=1, max_size=3), st.integers(0, 4))
def test_sums_and_the_largest_values(parts, most):
    sums: dict[tuple, Counter] = defaultdict(Counter)
    for field, value, *numbers in (row for part in parts for row in part):
        sums[field, value].update(dict(zip(COUNTS, numbers, strict=True)))
    got = summed([table(part) for part in parts])
    assert {(r["field"], r["value"]): {c: r[c] for c in COUNTS} for r in got.to_pylist()} == {
        key: {c: counter[c] for c in COUNTS} for key, counter in sums.items()
    }
    before, grouping.MOST = grouping.MOST, most
    try:
        kept = largest(got, "f").to_pylist()
    finally:
        grouping.MOST = before
    mine = {value: counter for (field, value), counter in sums.items() if field == "f"}
    named = sorted(mine.keys() - {NONE, OTHER}, key=lambda v: (-mine[v]["tokens"], v.encode()))
    rest = [mine[v] for v in named[most:]] + ([mine[OTHER]] if OTHER in mine else [])
    wanted = [*named[:most], *(v for v in (NONE,) if v in mine)]
    assert [r["value"] for r in kept] == wanted + ([OTHER] if rest else [])
    for row in kept:
        of = mine[row["value"]] if row["value"] != OTHER else sum(rest, Counter())
        assert [row[c] for c in COUNTS[:3]] == [of[c] for c in COUNTS[:3]]
    if rest:
        assert kept[-1]["values"] == len(named[most:]) + (mine[OTHER]["values"] if OTHER in mine else 0)


def test_labels():
    assert [label(v) for v in ("x", None, 3, 2.5, False, {"b": 1, "a": "é"})] == [
        "x", NONE, "3", "2.5", "false", '{"a": "é", "b": 1}'
    ]  # fmt: skip
    assert label("x" * 200) == "x" * 200
    assert label("x" * 1_000_000) == "x" * 200 + "…"
    assert label("half \ud800") == "half ?"
    assert len({label(v) for v in ("", NONE, OTHER, None)}) == 4
