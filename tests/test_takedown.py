"""Takedowns: which documents a list names, which rows go, and that everything else stays what it was."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from winnow.pipelines import corpus, exclude, open_run, pack, takedown, verifying
from winnow.pipelines.cluster import Inline
from winnow.pipelines.engine import Engine
from winnow.pipelines.located import RecipeError
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import Recipe, read
from winnow.pipelines.standing import standings
from winnow.shards import mds, storage, tables
from winnow.shards.inputs import InputError

LENGTH = 32
SILENT = Progress(stream=None)
WORDS = [
    "sea",
    "wind",
    "stone",
    "river",
    "light",
    "paper",
    "metal",
    "garden",
    "winter",
    "summer",
    "letter",
    "number",
]


def texts(n: int, seed: int) -> list[str]:
    """Texts of 1 to 200 words, no two equal."""
    rng = np.random.default_rng(seed)
    return [
        f"{i} {' '.join(rng.choice(WORDS, int(rng.integers(1, 200) if i % 5 else rng.integers(1, 8))))}"
        for i in range(n)
    ]


def recipe(root: Path, **changes: str) -> Recipe:
    text = f"""
name: takedowns
tokenizer: {{name: mistral-7b-v0.1}}
sequence: {{length: {LENGTH}}}
sources:
  web:
    read: {{format: jsonl, path: "{root}/web/*.jsonl", key: url}}
    filters: [{{length: {{min_words: 3}}}}]
    dedup: {{exact: true}}
    heldout: {{fraction: 0.1}}
  books:
    read: {{format: jsonl, path: "{root}/books/*.jsonl"}}
shards: {{size_limit: 6KiB}}
limits: {{split_bytes: 30KiB}}
"""
    return read(
        text, "takedowns.yaml", [f"{key.replace('__', '.')}={value}" for key, value in changes.items()]
    )


@dataclass(frozen=True)
class Made:
    root: Path
    corpus: corpus.Corpus
    ids: dict[str, str]
    """Of the documents of `web` in the shards' streams, by key."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("takedowns")
    for source, n in (("web", 160), ("books", 40)):
        (root / source).mkdir()
        rows = [
            {
                "text": text,
                "url": f"https://a.example/{i // 2 if i < 20 else i}?q=ü&n={i // 2 if i < 20 else i}",
            }
            for i, text in enumerate(texts(n, n))
        ]
        rows.append(dict(rows[30], url="https://a.example/copy"))
        half = len(rows) // 2
        for k, part in enumerate((rows[:half], rows[half:])):
            lines = (json.dumps(row) + "\n" for row in part)
            (root / source / f"{k}.jsonl").write_text("".join(lines))
    out = root / "run"
    done = corpus.run(recipe(root), str(out), inline=True, progress=SILENT)
    ids = {}
    for standing in standings(done.sources["web"]):
        rows = exclude.rows_of(standing, ["id", "key"]).take(standing.rows)
        for row in rows.filter(rows.column("keep")).to_pylist():
            ids.setdefault(row["key"], row["id"].hex())
    return Made(root, done, ids)


def base_of(run: corpus.Corpus, source: str) -> pack.Packed:
    """The shards of a source as if nothing were excluded."""
    return run.sources[source].shards[0].packed


def engine_of(made: Made) -> Engine:
    return Engine(made.corpus.location, Inline(), SILENT)


def lists_of(made: Made, *contents: bytes, source: str = "web") -> exclude.Lists:
    places = []
    for i, content in enumerate(contents):
        (made.root / f"list{i}.txt").write_bytes(content)
        places.append(str(made.root / f"list{i}.txt"))
    changed = recipe(made.root, **{f"sources__{source}__exclude": json.dumps(places)})
    return exclude.read_lists(changed)[source]


def excluded(
    made: Made, *contents: bytes, source: str = "web", engine: Engine | None = None
) -> exclude.Excluded:
    run = made.corpus.sources[source]
    upstream = [done.stage for done in (run.filters, *run.steps)]
    lists = lists_of(made, *contents, source=source)
    work = exclude.exclude(source, lists, standings(run), upstream)
    return (engine or engine_of(made)).together(work)[0]


def taken(made: Made, found: exclude.Excluded, engine: Engine | None = None) -> takedown.TakenDown:
    base = base_of(made.corpus, found.source)
    return (engine or engine_of(made)).together(takedown.takedown(base, [found]))[0]


def lines(*entries: str) -> bytes:
    return "".join(f"{entry}\n" for entry in entries).encode()


def rows_of(location: str, entries: Sequence[dict], split: str) -> list[np.ndarray]:
    found = []
    for entry in entries:
        file = (entry["zip_data"] or entry["raw_data"])["basename"]
        stored = storage.read_bytes(storage.join(location, split, file))
        assert mds.check_shard(stored, entry, 32000) == []
        found.append(np.array(mds.read_rows(mds.raw_shard(stored, entry), entry, 0, entry["samples"])))
    return found


def provenance(location: str, split: str) -> list[dict]:
    files = sorted(Path(location, "provenance").glob(f"{split}-*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


# ---- which documents ------------------------------------------------------------------------------------


def named(found: exclude.Excluded) -> set[str]:
    ids = exclude.Ids.read(found.ids)
    return {f"{a:016x}{b:016x}" for a, b in zip(ids.high.tolist(), ids.low.tolist(), strict=True)}


def test_ids_keys_comments_and_what_is_not_there(made):
    keys = sorted(made.ids)
    by_key, by_id = keys[3], made.ids[keys[40]]
    entries = (
        "# of October",
        "",
        f"  {by_key}\t",
        by_id.upper(),
        "https://nowhere.example/",
        "0" * 32,
        by_key,
    )
    content = b"\xef\xbb\xbf" + lines(*entries).replace(b"\n", b"\r\n")
    found = excluded(made, content, f"{keys[60]}".encode())
    assert by_id in named(found)
    assert made.ids[keys[60]] in named(found), "the second list, without a line's end"
    assert found.counts == {
        "documents": len(named(found)),
        "entries": 5,
        "not_found": 2,
        "not_found_first": ["https://nowhere.example/", "0" * 32],
    }


def test_a_key_takes_every_document_that_has_it_and_only_equal_ones(made):
    twice = "https://a.example/4?q=ü&n=4"
    found = excluded(made, lines(twice, twice.upper(), twice + "/"))
    assert found.counts["documents"] == 2
    assert found.counts["not_found"] == 2
    rows = [r for rec in found.found.records for f in rec.outputs for r in
            pq.read_table(storage.join(found.found.location, f)).to_pylist()]  # fmt: skip
    assert {row["key"] for row in rows} == {twice}
    assert {row["id"].hex() for row in rows} == named(found)
    assert {(row["stage"], row["filter"], row["detail"]) for row in rows} == {("exclude", "exclude", "key")}


def test_documents_that_were_dropped_before_are_not_found(made):
    found = excluded(made, lines("https://a.example/copy"))
    assert (found.counts["documents"], found.counts["not_found"]) == (0, 1)


def test_only_the_first_missing_entries_are_shown_in_the_lists_order(made):
    entries = [f"https://nowhere.example/{i}" for i in range(3000)]
    found = excluded(made, lines(*entries[:1500]), lines(*entries[1500:], "x" * 1000))
    assert found.counts["not_found"] == 3001
    assert found.counts["not_found_first"] == entries[: exclude.SHOWN]
    assert len(excluded(made, lines("x" * 1000)).counts["not_found_first"][0]) == exclude.SHOWN_CHARS


def test_equal_hashes_are_not_equal_keys(made, monkeypatch):
    monkeypatch.setattr(exclude.xxhash, "xxh3_64_intdigest", lambda text: len(text) % 2)
    some = sorted(made.ids)[50:53]
    padded = [f"https://nowhere.example/{i}" for i in range(2500)]
    found = excluded(made, lines(*padded, *some))
    assert named(found) == {made.ids[key] for key in some}


def test_the_content_of_the_lists_is_what_counts(made):
    engine = engine_of(made)
    first = excluded(made, lines("a", "b"), engine=engine)
    os.rename(made.root / "list0.txt", made.root / "moved.txt")
    again = excluded(made, lines("a", "b"), engine=engine)
    other = excluded(made, lines("a"), lines("b"), engine=engine)
    assert again.done.stage == first.done.stage
    assert again.done.redone == 0
    assert other.done.stage != first.done.stage


def test_a_list_that_changes_under_the_run_stops_it(made):
    lists = lists_of(made, lines("something"))
    (made.root / "list0.txt").write_text("something else")
    with pytest.raises(InputError, match="changed since the run began"):
        engine_of(made).together(exclude.exclude("web", lists, [], []))


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such file or directory"), (b"fine\nb\xe4d\n", "list.txt:2: the list is not UTF-8 text")],
)
def test_a_list_that_cannot_be_read_is_an_error_of_the_recipe(tmp_path, content, message):
    place = tmp_path / "list.txt"
    if content is not None:
        place.write_bytes(content)
    with pytest.raises(RecipeError, match=message) as error:
        exclude.read_lists(recipe(tmp_path, sources__web__exclude=f"['{place}']"))
    assert str(error.value).startswith("--set sources.web.exclude:1:2: ")


HALVES = st.sampled_from([0, 1, 2, 5, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])


@given(
    st.lists(st.tuples(HALVES, HALVES), max_size=40),
    st.lists(st.tuples(HALVES, HALVES), max_size=40),
)
def test_ids_are_found_where_a_dictionary_finds_them(held, asked):
    def id_(halves: tuple[int, int]) -> bytes:
        return halves[0].to_bytes(8, "big") + halves[1].to_bytes(8, "big")

    ids = exclude.Ids.of(pa.array([id_(h) for h in held], tables.ID))
    places = {id_(h): i for i, h in enumerate(sorted(set(held)))}
    column = pa.array([id_(h) for h in asked], tables.ID)
    if len(column):
        assert ids.find(column).tolist() == [places.get(id_(h), -1) for h in asked]


# ---- which rows -----------------------------------------------------------------------------------------


def expected(made: Made, source: str, split: str, ids: set[str]) -> tuple[list[np.ndarray], set[int]]:
    """(rows that stay, numbers of the rows that go) by brute force over the base."""
    base = base_of(made.corpus, source)
    gone = {row["sample"] for row in provenance(base.done.location, split) if row["id"].hex() in ids}
    rows = [row for shard in rows_of(base.done.location, base.entries[split], split) for row in shard]
    return [row for i, row in enumerate(rows) if i not in gone], gone


@pytest.mark.parametrize("share", [0, 1, 7, 200])
def test_rows_of_excluded_documents_go_and_no_others(made, share):
    ids = {made.ids[key] for key in sorted(made.ids)[:share]}
    found = excluded(made, lines("# none", *ids))
    result = taken(made, found)
    base = base_of(made.corpus, "web")
    for split in takedown.SPLITS:
        wanted, gone = expected(made, "web", split, ids)
        shards = rows_of(result.done.location, result.entries[split], split)
        got = [row for shard in shards for row in shard]
        assert len(got) == len(wanted)
        assert all(np.array_equal(a, b) for a, b in zip(got, wanted, strict=True))
        before, after = provenance(base.done.location, split), provenance(result.done.location, split)
        assert after == [row for row in before if row["sample"] not in gone]
        lost = [row for row in before if row["sample"] in gone]
        excluded_tokens = sum(row["tokens"] for row in lost if row["id"].hex() in ids)
        assert result.counts(split) == {
            "rows": result.rows(split),
            "tokens": len(wanted) * LENGTH,
            "rows_dropped": len(gone),
            "excluded_tokens": excluded_tokens,
            "other_tokens": len(gone) * LENGTH - excluded_tokens,
        }
        index = Path(result.done.location, split, "index.json")
        if result.entries[split]:
            assert mds.read_index(index.read_bytes()) == result.entries[split]
        left = np.fromfile(Path(result.done.location, takedown.rows_name(split)), "<u4")
        assert len(left) == len(base.entries[split])
        assert left[left > 0].tolist() == [e["samples"] for e in result.entries[split]]
    wholes = {what: sum(r.counts[what] for r in result.done.records) for what in takedown.GONE}
    assert result.dropped_of("web") == wholes
    assert bool(wholes["rows_dropped"]) == bool(share)


def test_shards_that_no_list_touches_are_the_same_files(made):
    key = sorted(made.ids)[100]
    result = taken(made, excluded(made, lines(key)))
    base = Path(base_of(made.corpus, "web").done.location)
    same, other = [], []
    for file in sorted(base.rglob("*.mds")) + sorted(base.rglob("*.parquet")):
        copy = Path(result.done.location) / file.relative_to(base)
        (same if copy.exists() and copy.samefile(file) else other).append(file)
        if copy.exists() and file.suffix == ".mds" and file not in same:
            assert copy.read_bytes() != file.read_bytes()
    assert len(same) > len(other) > 0
    changed = [r for r in result.done.records if r.counts["rows_dropped"]]
    assert len(other) == 2 * len(changed)
    assert not list(Path(result.done.location).rglob(".*")), "no attempts are left"
    whole = next(r for r in result.done.records if not r.counts["rows_dropped"])
    assert whole.outputs == base_of(made.corpus, "web").done.records[whole.index].outputs


def test_another_list_is_another_takedown(made):
    engine = engine_of(made)
    key = sorted(made.ids)[120]
    first = taken(made, excluded(made, lines(key), engine=engine), engine)
    again = taken(made, excluded(made, lines(key), engine=engine), engine)
    assert (first.done.redone > 0, again.done.redone) == (True, 0)
    assert again.entries == first.entries
    other = taken(made, excluded(made, lines(sorted(made.ids)[121]), engine=engine), engine)
    assert other.done.stage != first.done.stage


def test_a_run_with_lists_redoes_takedowns_alone_and_without_them_the_base_is_published(made):
    out = Path(made.corpus.location)
    before = (out / "streams.yaml").read_bytes()
    ids = [made.ids[key] for key in sorted(made.ids)[60:65]]
    (made.root / "run-list.txt").write_bytes(lines(*ids, "https://nowhere.example/"))
    changed = recipe(made.root, sources__web__exclude=f"{made.root}/run-list.txt")
    done = corpus.run(changed, str(out), inline=True, progress=SILENT)
    redone = {name for name, tasks in done.redone.items() if tasks}
    assert redone == {"exclude-list.web", "exclude-found.web", "exclude.web", "takedown.web"}
    facts = next(s for s in done.mixture["sources"] if s["name"] == "web")
    expected_rows = sum(len(expected(made, "web", split, set(ids))[1]) for split in takedown.SPLITS)
    assert facts["excluded"]["documents"] == 5
    assert facts["excluded"]["rows"] == expected_rows
    assert facts["excluded"]["not_found_first"] == ["https://nowhere.example/"]
    rows = [r for f in (out / "dropped" / "web").iterdir() for r in pq.read_table(f).to_pylist()]
    assert {row["id"].hex() for row in rows if row["stage"] == "exclude"} == set(ids)
    assert b"/takedown.web-" in (out / "streams.yaml").read_bytes()
    assert list(verifying.verify(open_run(str(out)))) == []

    again = corpus.run(recipe(made.root), str(out), inline=True, progress=SILENT)
    assert sum(again.redone.values()) == 0
    assert (out / "streams.yaml").read_bytes() == before
    rows = [r for f in (out / "dropped" / "web").iterdir() for r in pq.read_table(f).to_pylist()]
    assert "exclude" not in {row["stage"] for row in rows}


def test_a_shard_that_loses_all_its_rows_disappears_and_so_may_a_split(made):
    result = taken(made, excluded(made, lines(*made.ids.values(), *made.ids)))
    assert result.entries == {"train": [], "val": []}
    assert not list(Path(result.done.location).rglob("*.mds"))
    base = base_of(made.corpus, "web").done
    first = {
        r["id"].hex()
        for r in provenance(base.location, "train")
        if r["sample"] < base.records[0].counts["rows"]
    }
    result = taken(made, excluded(made, lines(*first)))
    assert result.entries["train"]
    names = [e["raw_data"]["basename"] for e in result.entries["train"]]
    assert "shard.00000.mds" not in names
    assert names == sorted(names)


def test_a_file_system_without_links_gets_copies(made, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(takedown.os, "link", refuse)
    base = base_of(made.corpus, "web")
    found = excluded(made, lines(sorted(made.ids)[130]))
    copied = taken(made, found)
    for record in copied.done.records:
        if not record.counts["rows_dropped"]:
            for file, (_, digest) in record.outputs.items():
                copy = Path(copied.done.location, file)
                assert not copy.samefile(Path(base.done.location, file))
                assert takedown_hash(copy) == digest


def takedown_hash(path: Path) -> str:
    from winnow.pipelines.records import file_hash

    return file_hash(str(path))


def test_an_object_store_copies_by_itself():
    storage.put_bytes("memory://takedowns/a", b"some bytes")
    takedown.same_file("memory://takedowns/a", "memory://takedowns/deep/b")
    assert storage.read_bytes("memory://takedowns/deep/b") == b"some bytes"


def test_linking_twice_leaves_one_file(tmp_path):
    (tmp_path / "a").write_bytes(b"some bytes")
    for _ in range(2):
        takedown.same_file(str(tmp_path / "a"), str(tmp_path / "b"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_compressed_shards_and_two_lists_over_one_base(made, tmp_path):
    """As a mixed stream has it: rows of several sources in one base, each with its own list."""
    out = tmp_path / "run"
    done = corpus.run(recipe(made.root, shards__compression="zstd:1"), str(out), inline=True, progress=SILENT)
    other = replace(made, corpus=done)
    books = provenance(base_of(done, "books").done.location, "train")
    lost = books[len(books) // 2]["id"].hex()
    lists = [excluded(other, lines(lost), source="books"), excluded(other, lines(*sorted(made.ids)[:5]))]
    base = base_of(done, "books")
    (result,) = engine_of(other).together(takedown.takedown(base, lists))
    wanted, gone = expected(other, "books", "train", {lost})
    got = [row for shard in rows_of(result.done.location, result.entries["train"], "train") for row in shard]
    assert all(np.array_equal(a, b) for a, b in zip(got, wanted, strict=True))
    assert result.dropped_of("books")["rows_dropped"] == len(gone) > 0
