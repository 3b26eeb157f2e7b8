"""The promises of a run: everything accounted for, the same bytes however it is cut, nothing redone twice."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import os
import shutil
import sysconfig
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
import zstandard
from winnow.pipelines import open_run, run
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import read
from winnow.pipelines.tracing import Tracer
from winnow.pipelines.verifying import verify
from winnow.shards import mds

LENGTH = 128
STDLIB = Path(sysconfig.get_path("stdlib"))
SILENT = Progress(stream=None)


def documents(pattern: str, most: int) -> list[str]:
    """Texts of the standard library, the same on every machine with this Python."""
    texts = [p.read_text(encoding="utf-8", errors="replace") for p in sorted(STDLIB.glob(pattern))[:most]]
    return [t[:20_000] for t in texts if t.strip()]


def prose() -> list[str]:
    """The docstrings of the standard library: English with paragraphs."""
    import ast

    found = []
    for path in sorted(STDLIB.glob("*.py")):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, RecursionError):
            continue
        documented = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef | ast.Module))
        found += filter(None, map(ast.get_docstring, documented))
    return found


def write_corpus(root: Path) -> dict[str, int]:
    """Two sources with known trouble in them; returns what was planted."""
    code, words = documents("**/[a-m]*.py", 120), prose()[:1500]
    (root / "code").mkdir(parents=True)
    rows = [{"content": t, "path": f"f{i}", "stars": i} for i, t in enumerate(code)]
    with open(root / "code" / "a.jsonl", "w") as file:
        for row in rows[:60]:
            file.write(json.dumps(row) + "\n")
        file.write(json.dumps({"content": rows[0]["content"], "path": "copy"}) + "\n")
    with zstandard.open(root / "code" / "b.jsonl.zst", "wb") as file:
        for row in rows[60:90]:
            file.write(json.dumps(row).encode() + b"\n")
        file.write(b'{"content": "broken\n')
        file.write(b'{"content": ""}\n')
    with gzip.open(root / "code" / "c.jsonl.gz", "wb") as file:
        for row in rows[90:]:
            file.write(json.dumps(row).encode() + b"\n")
    (root / "words").mkdir()
    table = pa.table({"text": [*words, words[3], words[3], rows[5]["content"]], "n": range(len(words) + 3)})
    pq.write_table(table, root / "words" / "docs.parquet", row_group_size=100)
    return {"code": len(code) + 3, "words": len(words) + 3}


def recipe(root: Path, **changes: object):
    """The recipe of the test corpus; keys are paths with __ for dots."""
    text = f"""
name: test
seed: 7
tokenizer: {{name: mistral-7b-v0.1}}
sequence: {{length: {LENGTH}}}
sources:
  words:
    read: {{format: parquet, path: "{root}/words/*.parquet", key: n}}
    filters: [{{length: {{min_words: 8}}}}, nfc, gopher-quality]
    heldout: {{fraction: 0.1}}
    weight: 0.25
  code:
    read: {{format: jsonl, path: ["{root}/code/*.jsonl", "{root}/code/*.jsonl.*"], text: content, key: path}}
    filters: [{{length: {{min_chars: 300}}}}]
    dedup: {{exact: true}}
    weight: 0.75
dedup: {{exact: {{across: [words, code]}}}}
mixture: {{tokens: 500K}}
max_bad_rows: 5%
shards: {{size_limit: 20KB}}
"""
    sets = [f"{key.replace('__', '.')}={value}" for key, value in changes.items()]
    return read(text, "test.yaml", sets)


def make(root: Path, out: Path, **changes: object):
    return run(recipe(root, **changes), str(out), inline=True, progress=SILENT)


def shard_files(out: Path) -> dict[str, str]:
    """Hash of every published shard, index and provenance file, by source and name."""
    opened = open_run(str(out))
    found = {}
    for source in opened.places:
        stage = Path(opened.stage(source, "shards"))
        for path in sorted(stage.rglob("*")):
            if path.is_file() and "records" not in path.parts and path.name != "stage.json":
                found[f"{source}/{path.relative_to(stage)}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory):
    """(input root, finished run, what was planted, mixture facts)."""
    root = tmp_path_factory.mktemp("corpus")
    planted = write_corpus(root)
    out = root / "run"
    made = make(root, out)
    return root, out, planted, made.mixture


def rows_of(facts: dict, source: str) -> dict:
    return next(s for s in facts["sources"] if s["name"] == source)


def test_every_row_is_accounted_for(corpus) -> None:
    _, _, planted, facts = corpus
    for name, rows in planted.items():
        source = rows_of(facts, name)
        gone = sum(source["lost"].values()) + sum(source["dropped"].values()) + source["duplicates"]
        assert source["rows"] == rows
        assert source["rows"] == gone + source["kept_documents"]
        assert source["kept_documents"] == source["train"]["documents"] + source["val"]["documents"]
        assert source["tokens"] == source["train"]["tokens"] + source["val"]["tokens"]
        for split in ("train", "val"):
            facts_of = source[split]
            assert facts_of["rows"] * LENGTH + facts_of["remainder_tokens"] == facts_of["tokens"]
            assert facts_of["remainder_tokens"] < LENGTH
    assert rows_of(facts, "code")["lost"] == {"json": 1, "empty": 1}
    assert rows_of(facts, "words")["val"]["rows"] > 0


def test_the_planted_duplicates_are_dropped_for_the_right_survivor(corpus) -> None:
    root, out, _, facts = corpus
    texts: dict[str, list[str]] = {"words": [], "code": []}
    texts["words"] = pq.read_table(root / "words" / "docs.parquet").column("text").to_pylist()
    assert rows_of(facts, "code")["duplicates"] >= 2, (
        "a copy within the source, and one of a document of words"
    )
    reports = []
    for name in ("words", "code"):
        for path in (out / "dropped" / name).glob("*.parquet"):
            reports += pq.read_table(path).to_pylist()
    duplicates = [r for r in reports if r["stage"] == "dedup"]
    assert len(duplicates) == sum(s["duplicates"] for s in facts["sources"])
    opened = open_run(str(out))
    for row in duplicates:
        survivor = Tracer(opened).document(row["survivor"].hex())
        assert survivor.split is not None, "a survivor must itself be in the corpus"
        assert Tracer(opened).document(row["id"].hex()).split is None
    pairs = facts["dedup"][0]["pairs"]
    assert pairs["code of words"] >= 1
    assert "words of code" not in pairs, "the first named source keeps"


def test_the_report_of_dropped_documents_matches_the_table(corpus) -> None:
    _, out, _, facts = corpus
    for source in facts["sources"]:
        rows = []
        for path in sorted((out / "dropped" / source["name"]).glob("*.parquet")):
            rows += pq.read_table(path).to_pylist()
        by_filter = Counter(r["filter"] for r in rows)
        expected = Counter(source["lost"]) + Counter(source["dropped"])
        if source["duplicates"]:
            expected["exact"] = source["duplicates"]
        assert by_filter == expected
        for row in rows:
            if row["stage"] == "filters":
                assert row["failing"][0] == row["filter"]
                assert row["score"] != row["threshold"]
        assert any(r["text"] for r in rows), "a sample of texts is shown"
    broken = [r for r in rows if r["filter"] == "json"]
    assert [r["raw"] for r in broken] == [b'{"content": "broken']


def kept_texts(root: Path, out: Path) -> dict[str, str]:
    """Text of every document of the code source by id, from the input itself."""
    opened = open_run(str(out))
    listing = pq.read_table(f"{opened.stage('code', 'documents')}/files.parquet")
    files = dict(zip(*(listing.column(c).to_pylist() for c in ("path", "id_half")), strict=True))
    found = {}
    for name, open_ in (("a.jsonl", open), ("b.jsonl.zst", zstandard.open), ("c.jsonl.gz", gzip.open)):
        position = 0
        with open_(root / "code" / name, "rb") as file:
            for line in file.read().split(b"\n"):
                try:
                    text = json.loads(line)["content"]
                except ValueError:
                    text = None
                if text:
                    found[f"{files[name]:016x}{position:016x}"] = text
                position += len(line) + 1
    return found


def test_samples_spell_the_documents_they_are_made_of(corpus) -> None:
    """Every token of every sample is put back where provenance says, and compared with SentencePiece on the input."""
    import sentencepiece

    root, out, _, facts = corpus
    opened = open_run(str(out))
    model = Path(opened.tokenizer) / "source"
    reference = sentencepiece.SentencePieceProcessor(model_file=str(model))
    texts = kept_texts(root, out)
    stage = Path(opened.stage("code", "shards"))
    index = mds.read_index((stage / "train" / "index.json").read_bytes())
    assert len(index) > 1, "several shards"
    pieces: dict[str, list[np.ndarray]] = {}
    spans: dict[str, list[tuple[int, int]]] = {}
    cut = 0
    first = 0
    for number, entry in enumerate(index):
        raw = (stage / "train" / entry["raw_data"]["basename"]).read_bytes()
        rows = mds.read_rows(raw, entry, 0, entry["samples"])
        table = pq.read_table(stage / "provenance" / f"train-{number:08d}.parquet").to_pylist()
        filled = np.zeros(rows.shape, np.int64)
        for p in table:
            at = p["sample"] - first
            part = rows[at, p["offset"] : p["offset"] + p["tokens"]]
            filled[at, p["offset"] : p["offset"] + p["tokens"]] += 1
            document = p["id"].hex()
            cut += document in pieces
            pieces.setdefault(document, []).append(part)
            spans.setdefault(document, []).append((p["byte_start"], p["byte_end"]))
        assert (filled == 1).all()
        first += entry["samples"]
    assert cut > 0, "no document crossed a sample"
    whole = 0
    for document, parts in pieces.items():
        text = texts[document]
        expected = np.array([*reference.encode(text), 2])
        got = np.concatenate(parts)
        ended = len(got) == len(expected)
        np.testing.assert_array_equal(got, expected[: len(got)])
        edges = spans[document]
        assert edges[0][0] == 0
        assert all(a[1] == b[0] for a, b in itertools.pairwise(edges))
        if ended:
            assert edges[-1][1] == len(text.encode())
            whole += 1
    assert whole >= len(pieces) - 1, "only the last document may lose its tail"
    assert len(pieces) == rows_of(facts, "code")["train"]["documents"]


def test_trace_finds_every_document_of_a_sample_again(corpus) -> None:
    _, out, _, facts = corpus
    opened = open_run(str(out))
    rng = np.random.default_rng(3)
    for split in ("train", "val"):
        n = rows_of(facts, "words")[split]["rows"]
        for sample in rng.integers(0, n, 5).tolist():
            pieces = Tracer(opened).sample("words", split, sample)
            assert sum(p.tokens for p in pieces) == LENGTH
            for piece in pieces:
                found = Tracer(opened).document(piece.document)
                assert found.split == split
                assert sample in found.samples
                assert found.path.endswith("docs.parquet")


def test_held_out_texts_are_not_in_train(corpus) -> None:
    _, out, _, _ = corpus
    opened = open_run(str(out))
    ids: dict[str, set[bytes]] = {}
    for split in ("train", "val"):
        ids[split] = set()
        for path in (Path(opened.stage("words", "shards")) / "provenance").glob(f"{split}-*.parquet"):
            ids[split] |= set(pq.read_table(path).column("id").to_pylist())
    assert ids["train"]
    assert ids["val"]
    assert not ids["train"] & ids["val"]


def test_stream_order_is_a_function_of_seed_and_id(corpus, tmp_path: Path) -> None:
    root, out, _, _ = corpus
    other = tmp_path / "seeded"
    make(root, other, seed=8)
    assert shard_files(out) != shard_files(other)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"limits__split_bytes": "40KB"}, id="smaller-splits"),
        pytest.param({"limits__partition_bytes": "16KB"}, id="more-partitions"),
        pytest.param({"limits__partition_bytes": "5000", "limits__split_bytes": "1MB"}, id="more-rounds"),
    ],
)
def test_shards_do_not_depend_on_how_work_is_cut(corpus, tmp_path: Path, changes: dict) -> None:
    root, out, _, _ = corpus
    made = make(root, tmp_path / "cut", **changes)
    if "5000" in str(changes):
        assert any("round2" in name for name in made.redone), "this must take more than one round"
    assert shard_files(tmp_path / "cut") == shard_files(out)


def test_running_again_redoes_nothing(corpus) -> None:
    root, out, _, facts = corpus
    before = {p: p.stat().st_mtime_ns for p in (out / "stages").rglob("*") if p.is_file()}
    again = make(root, out)
    assert not any(again.redone.values())
    assert again.mixture == facts
    assert {p: p.stat().st_mtime_ns for p in (out / "stages").rglob("*") if p.is_file()} == before


def test_a_changed_setting_redoes_only_what_depends_on_it(corpus, tmp_path: Path) -> None:
    root, out, _, facts = corpus
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)

    def redone(**changes: object) -> set[str]:
        made = make(root, copy, **changes)
        return {name for name, n in made.redone.items() if n}

    assert redone(sequence__length=64) == {"shards.words", "shards.code"}
    assert redone(mixture__tokens="1M") == set()
    assert redone(seed=9) == {
        f"{kind}.{s}" for kind in ("stream-scatter", "stream", "shards", "dropped") for s in ("words", "code")
    }
    stricter = redone(sources__code__filters="[{length: {min_chars: 400}}]")
    assert "documents.code" not in stricter, "a threshold of the last segment reads no text"
    assert "filters.code" in stricter
    assert not {s for s in stricter if s.startswith(("documents", "filters.words"))}
    assert redone() == set(), "the old settings are still there"
    assert open_run(str(copy)).mixture == facts
    assert open_run(str(copy)).unreferenced()


def test_cleaning_leaves_a_run_that_redoes_nothing(corpus, tmp_path: Path) -> None:
    from winnow.shards import storage

    root, out, _, _ = corpus
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    opened = open_run(str(copy))
    left = Path(opened.stage("code", "tokens")) / ".tokens-00000000.bin.0123.tmp"
    left.write_bytes(b"what a kill left")
    waste = opened.unreferenced()
    assert waste[str(left.relative_to(copy))] == 16
    assert any("scatter" in path for path in waste), "what the exchanges left is not referred to"
    for path in waste:
        storage.remove(str(copy / path))
    assert not any(make(root, copy).redone.values())
    assert list(verify(open_run(str(copy)))) == []


def test_a_damaged_stage_file_is_made_again(corpus, tmp_path: Path) -> None:
    root, out, _, _ = corpus
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    stage = Path(open_run(str(copy)).stage("code", "shards"))
    shard = stage / "train" / "shard.00001.mds"
    shard.write_bytes(shard.read_bytes()[:-7])
    made = make(root, copy)
    assert made.redone["shards.code"] == 1
    assert shard_files(copy) == shard_files(out)


def test_streams_yaml_states_the_mixture(corpus) -> None:
    _, out, _, facts = corpus
    block = yaml.safe_load((out / "streams.yaml").read_text())["train_loader"]["dataset"]
    assert block["epoch_size"] == 500_000 // LENGTH == facts["epoch_rows"]
    assert {n: s["proportion"] for n, s in block["streams"].items()} == {"words": 0.25, "code": 0.75}
    for source in facts["sources"]:
        tokens = source["train"]["rows"] * LENGTH
        assert source["effective_tokens"] == pytest.approx(500_000 * source["proportion"])
        assert source["epochs"] == pytest.approx(source["effective_tokens"] / tokens)


def test_max_epochs_stops_before_publishing(corpus, tmp_path: Path) -> None:
    from winnow.pipelines.located import RecipeError

    root, _, _, _ = corpus
    with pytest.raises(RecipeError, match=r"test.yaml:\d+:\d+: 50,000,000 tokens need more than 4 epochs"):
        make(root, tmp_path / "much", mixture__tokens="50M", mixture__max_epochs=4)
    assert not (tmp_path / "much" / "manifest.json").exists()


def test_conservation_fails_loudly(corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from winnow.pipelines import tokens
    from winnow.pipelines.engine import RunError

    root, _, _, _ = corpus

    def lossy(*args):
        for batch in honest(*args):
            yield replace(batch, rows=batch.rows.slice(1), texts=batch.texts.slice(1))

    honest = tokens.texts_of
    monkeypatch.setattr(tokens, "texts_of", lossy)
    with pytest.raises(
        RunError,
        match=r"source 'words': documents kept, and dropped by later steps \+ tokenized: \d+ against \d+",
    ):
        make(root, tmp_path / "lossy")
    assert not (tmp_path / "lossy" / "manifest.json").exists()


def test_any_tokenizer_json_serves(corpus, tmp_path: Path) -> None:
    """A word-level tokenizer: its pieces spell no bytes, so provenance leaves byte ranges out."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    root, _, _, _ = corpus
    words = {"[UNK]": 0, "</s>": 1} | {chr(c): c for c in range(33, 127)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["</s>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    made = make(root, tmp_path / "run", tokenizer__name=str(tmp_path / "tokenizer.json"))
    assert made.mixture["tokenizer"]["eos_id"] == 1
    pieces = Tracer(open_run(str(tmp_path / "run"))).sample("code", "train", 0)
    assert sum(p.tokens for p in pieces) == LENGTH
    assert {p.byte_start for p in pieces} == {None}
    assert list(verify(open_run(str(tmp_path / "run")))) == []


def test_an_input_that_changes_under_the_run_stops_it(
    corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from winnow.pipelines import corpus as module
    from winnow.shards.inputs import InputError

    root, _, _, _ = corpus
    plan = module.plan

    def then_cut(*arguments):
        planned = plan(*arguments)
        path = tmp_path / "code" / "a.jsonl"
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:30]))
        return planned

    shutil.copytree(root / "code", tmp_path / "code")
    shutil.copytree(root / "words", tmp_path / "words")
    monkeypatch.setattr(module, "plan", then_cut)
    with pytest.raises(InputError, match=r"a\.jsonl: changed since the run was planned; run again"):
        make(tmp_path, tmp_path / "run")


def test_equal_names_sizes_and_times_elsewhere_are_another_input(tmp_path: Path) -> None:
    texts = {}
    for version, word in (("v1", "river"), ("v2", "ocean")):
        write_corpus(tmp_path / version)
        path = tmp_path / version / "code" / "a.jsonl"
        path.write_text("".join(json.dumps({"content": f"{word} {i} " * 60}) + "\n" for i in range(80)))
        os.utime(path, (0, 0))
        make(tmp_path / version, tmp_path / "run")
        opened = open_run(str(tmp_path / "run"))
        n = next(s["train"]["rows"] for s in opened.mixture["sources"] if s["name"] == "code")
        rows = [Tracer(opened).tokens("code", "train", i) for i in range(n)]
        texts[version] = opened.decode(np.concatenate(rows))
        (tmp_path / version).rename(tmp_path / f"done-{version}")
    assert "river" in texts["v1"]
    assert "river" not in texts["v2"]


def test_interrupted_publishing_is_seen_and_completed(
    corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from winnow.pipelines.engine import RunError
    from winnow.pipelines.finished import NotFinishedError
    from winnow.shards import storage

    root, out, _, _ = corpus
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    honest = storage.put_bytes

    def full(location: str, data: bytes) -> None:
        if location.endswith("manifest.json"):
            raise OSError(28, "No space left on device")
        honest(location, data)

    monkeypatch.setattr(storage, "put_bytes", full)
    with pytest.raises(RunError, match="No space left on device"):
        make(root, copy, seed=99)
    with pytest.raises(
        NotFinishedError, match=r"publishing was interrupted \(streams.yaml, mixture.json, recipe.yaml"
    ):
        open_run(str(copy))
    monkeypatch.setattr(storage, "put_bytes", honest)
    make(root, copy, seed=99)
    assert open_run(str(copy)).recipe.seed == 99


def test_the_root_stays_when_the_patterns_change(corpus, tmp_path: Path) -> None:
    """Ids are relative to the root; the first run's is kept while the patterns lie below it."""
    root, _, _, _ = corpus
    wide = f'["{root}/code/*.jsonl", "{root}/co*/*.gz"]'
    narrow = f'["{root}/code/*.jsonl", "{root}/code/*.gz"]'
    make(root, tmp_path / "run", sources__code__read__path=wide)
    stored = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert stored["sources"]["code"]["read"]["root"] == str(root)
    again = make(root, tmp_path / "run", sources__code__read__path=narrow)
    assert again.sources["code"].plan.root == str(root), "by itself the root would be the folder below"
    assert again.redone["documents.code"] == 0


def test_texts_of_an_earlier_segment_are_in_the_report(corpus, tmp_path: Path) -> None:
    root, out, _, _ = corpus
    shutil.copytree(out, tmp_path / "run")
    before = make(root, tmp_path / "run", dropped_text="all")
    assert {name for name, n in before.redone.items() if n} == {"dropped.words", "dropped.code"}
    rows = []
    for path in (tmp_path / "run" / "dropped" / "words").glob("*.parquet"):
        rows += pq.read_table(path).to_pylist()
    early = [r for r in rows if r["filter"] == "length.min_words"]
    assert early
    assert all(r["text"] and len(r["text"].split()) < 8 for r in early)


def test_a_sample_that_fits_no_shard_is_said_before_any_work(corpus, tmp_path: Path) -> None:
    from winnow.pipelines.located import RecipeError

    root, _, _, _ = corpus
    with pytest.raises(RecipeError, match="no row of 16000 tokens fits into 20000 bytes"):
        make(root, tmp_path / "run", sequence__length=16000)
    assert not list((tmp_path / "run" / "stages").glob("documents*"))


def test_a_run_where_no_trainer_can_read_is_refused(corpus) -> None:
    from winnow.shards.inputs import InputError

    root, _, _, _ = corpus
    with pytest.raises(InputError, match="mosaicml-streaming cannot read memory://"):
        run(recipe(root), "memory://run", inline=True, progress=SILENT)


def test_relative_paths_are_the_working_directorys_and_the_kept_recipe_works_from_anywhere(
    tmp_path, monkeypatch
):
    for folder in ("a", "b"):
        (tmp_path / "in" / folder).mkdir(parents=True)
        (tmp_path / "in" / folder / "x.txt").write_text(
            f"a text of {folder} that is long enough for a sample\n" * 20
        )
    text = """
name: relative
tokenizer: {name: mistral-7b-v0.1}
sequence: {length: 16}
sources: {x: {read: {format: text, path: [in/a/*.txt, in/b/x.txt], exclude: ["c/*"]}}}
"""
    monkeypatch.chdir(tmp_path)
    first = run(read(text, "r.yaml"), "out", inline=True, progress=SILENT)
    assert first.mixture["sources"][0]["rows"] == 2
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    kept = read((tmp_path / "out" / "recipe.yaml").read_text(), "recipe.yaml")
    assert kept.sources["x"].read.path == ["a/*.txt", "b/x.txt"]
    again = run(kept, str(tmp_path / "out"), inline=True, progress=SILENT)
    assert sum(again.redone.values()) == 0
