"""Exports: do other trainers' readers get the stream's tokens, and the documents' own, and is nothing half ever there?

The oracles are datatrove's dataset reader and writer and pyarrow; Megatron's index is read by its description.
"""

from __future__ import annotations

import itertools
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from winnow.pipelines import export as export_module
from winnow.pipelines.corpus import run
from winnow.pipelines.exclude import Ids
from winnow.pipelines.export import SPLITS, ExportError, export
from winnow.pipelines.finished import FinishedRun, UnknownError, open_run
from winnow.pipelines.lease import Lease, LeaseError
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import read
from winnow.pipelines.tokens import load_vocabulary
from winnow.shards import megatron, tables, token_files
from winnow.shards.token_files import Documents
from winnow.tokenize.encoder import Encoder

RECIPE = """
name: exported
tokenizer: {{name: mistral-7b-v0.1}}
sequence: {{length: 16}}
limits: {{partition_bytes: 8KiB}}
sources:
  long: {{read: {{format: jsonl, path: "{root}/long.jsonl"}}, heldout: {{fraction: 0.2}}}}
  short: {{read: {{format: jsonl, path: "{root}/short.jsonl"}}}}
"""
Texts = dict[str, str]
"""By id."""


def write_texts(place: Path, n: int, words: int) -> None:
    rng = np.random.default_rng(words)
    vocabulary = np.array(["a", "the", "</s>", "é", "中文", "tokens\n", "stream,", "3.14", "train’s", ""])
    texts = [
        " ".join(vocabulary[rng.integers(0, len(vocabulary), rng.integers(1, words))]) + f" {i}"
        for i in range(n)
    ]
    place.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    root = tmp_path_factory.mktemp("exported")
    write_texts(root / "long.jsonl", 120, 200)
    write_texts(root / "short.jsonl", 200, 6)
    run(
        read(RECIPE.format(root=root), "r.yaml"),
        str(root / "run"),
        inline=True,
        progress=Progress(stream=None),
    )
    return open_run(str(root / "run"))


def texts_of(made: FinishedRun, source: str) -> Texts:
    """The documents of a source as its file has them; the lower half of an id is the line's byte offset."""
    path = Path(made.recipe.sources[source].read.root) / f"{source}.jsonl"  # type: ignore[operator]
    half, lines = next(iter(made.file_ranks(source))), path.read_bytes().splitlines(keepends=True)
    offsets = itertools.accumulate(map(len, lines), initial=0)
    return {f"{half:016x}{o:016x}": json.loads(line)["text"] for o, line in zip(offsets, lines, strict=False)}


def tokens_of(made: FinishedRun, source: str) -> dict[str, list[int]]:
    """The documents' tokens, encoded here."""
    encoder = Encoder(load_vocabulary(made.tokenizer), "sentencepiece")
    texts = texts_of(made, source)
    ids, ends = encoder.encode(pa.array(list(texts.values()), pa.large_string()))
    return {key: part.tolist() for key, part in zip(texts, np.split(ids, ends[:-1]), strict=True)}


def stream(made: FinishedRun, source: str, split: str) -> np.ndarray:
    """The stored tokens, in order."""
    whole = export_module.stream_of(made, source, split)
    return whole.tokens(0, whole.n_tokens)


def read_megatron(prefix: Path) -> list[np.ndarray]:
    """Documents of an indexed dataset, by the layout in Megatron-LM's _IndexReader."""
    index = prefix.with_name(prefix.name + ".idx").read_bytes()
    magic, version, code, n, n_documents = struct.unpack_from("<9sQBQQ", index)
    assert (magic, version) == (b"MMIDIDX\x00\x00", 1)
    dtype = {4: np.int32, 8: np.uint16}[code]
    at = 34
    lengths = np.frombuffer(index, np.int32, n, at)
    pointers = np.frombuffer(index, np.int64, n, at + lengths.nbytes)
    borders = np.frombuffer(index, np.int64, n_documents, at + lengths.nbytes + pointers.nbytes)
    assert len(index) == at + lengths.nbytes + pointers.nbytes + borders.nbytes
    assert borders[-1] == n
    data = prefix.with_name(prefix.name + ".bin").read_bytes()
    sequences = [
        np.frombuffer(data, dtype, k, at) for k, at in zip(lengths.tolist(), pointers.tolist(), strict=True)
    ]
    assert sum(s.nbytes for s in sequences) == len(data)
    return [np.concatenate(sequences[a:b]) for a, b in itertools.pairwise(borders.tolist())]


def read_datatrove(folder: Path) -> list[np.ndarray]:
    """Documents of a folder of datatrove's files, by their indexes."""
    found = []
    for path in sorted(folder.glob("*.ds")):
        ends = np.fromfile(f"{path}.index", "<u8").astype(np.int64)
        ids = np.fromfile(path, "<u2")
        assert ends[-1] == len(ids)
        found += np.split(ids, ends[:-1])
    return found


def read_tables(folder: Path) -> tuple[list[str], list[np.ndarray]]:
    rows = [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    return [r["id"] for r in rows], [np.array(r["tokens"]) for r in rows]


def as_lists(found: list[np.ndarray]) -> list[list[int]]:
    return [d.tolist() for d in found]


@pytest.fixture(params=[export_module.BLOCK, 300], ids=["large blocks", "small blocks"])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Blocks of 300 tokens are less than a partition, and less than some documents."""
    monkeypatch.setattr(export_module, "BLOCK", request.param)
    return request.param


def test_every_format_holds_the_stream_and_the_documents(
    made: FinishedRun, tmp_path: Path, block: int
) -> None:
    done = {f: export(made, f, str(tmp_path / f)) for f in ("megatron", "datatrove", "parquet")}
    for source in ("long", "short"):
        expected, seen = tokens_of(made, source), []
        for split in SPLITS:
            whole = stream(made, source, split)
            if (source, split) == ("short", "val"):
                assert not len(whole)
                continue
            first = read_megatron(tmp_path / "megatron" / f"{source}-{split}")
            np.testing.assert_array_equal(np.concatenate(first), whole)
            second = read_datatrove(tmp_path / "datatrove" / source / split)
            ids, third = read_tables(tmp_path / "parquet" / source / split)
            assert as_lists(first) == as_lists(second) == as_lists(third)
            assert as_lists(third) == [expected[i] for i in ids]
            for exported in done.values():
                [facts] = [e for e in exported if (e.source, e.split) == (source, split)]
                assert (facts.documents, facts.tokens) == (len(ids), len(whole))
            seen += ids
        assert sorted(seen) == sorted(expected)
    assert len(list((tmp_path / "parquet" / "long" / "train").iterdir())) > 2, "one partition alone"
    assert not (tmp_path / "megatron" / "short-val.bin").exists(), "Megatron cannot map an empty file"


def test_datatrove_reads_its_files(made: FinishedRun, tmp_path: Path) -> None:
    pytest.importorskip("datatrove", reason="the oracle is datatrove: pip install 'winnow[datatrove]'")
    pytest.importorskip("torch", reason="datatrove's dataset needs torch: pip install 'winnow[train]'")
    from datatrove.utils.dataset import DatatroveFolderDataset

    export(made, "datatrove", str(tmp_path), sources=["long"], splits=["train"])
    folder = tmp_path / "long" / "train"
    window = 33
    data = DatatroveFolderDataset(
        str(folder), window - 1, filename_pattern="*.ds", recursive=False, return_positions=True
    )
    expected_ids, expected_positions = [], []
    for path in sorted(folder.glob("*.ds")):
        ends = np.fromfile(f"{path}.index", "<u8").astype(np.int64)
        ids = np.fromfile(path, "<u2")
        lengths = np.diff(ends, prepend=0)
        positions = np.arange(len(ids)) - np.repeat(ends - lengths, lengths)
        for start in range(0, len(ids) - window + 1, window):
            part = positions[start : start + window]
            # Its positions begin anew in every window.
            border = int(np.argmax(part == 0)) if (part == 0).any() else window
            expected_ids.append(ids[start : start + window].tolist())
            expected_positions.append([*range(border), *part[border:].tolist()])
    found = [data[i] for i in range(len(data))]
    assert [f["input_ids"].tolist() for f in found] == expected_ids
    assert [f["positions"].tolist() for f in found] == expected_positions


def test_datatrove_writes_the_same_bytes(made: FinishedRun, tmp_path: Path) -> None:
    pytest.importorskip("datatrove", reason="the oracle is datatrove: pip install 'winnow[datatrove]'")
    from datatrove.pipeline.tokens.tokenizer import TokenizedFile

    export(made, "datatrove", str(tmp_path / "ours"), sources=["short"])
    paths = sorted((tmp_path / "ours" / "short" / "train").glob("*.ds"))
    for path in paths:
        theirs = TokenizedFile(
            str(tmp_path / "theirs"),
            path.name,
            tokenizer_name_or_path="mistralai/Mistral-7B-v0.1",
            save_final_metadata=True,
        )
        ends = np.fromfile(f"{path}.index", "<u8").astype(np.int64)
        for document in np.split(np.fromfile(path, "<u2"), ends[:-1]):
            theirs.write(document.tolist(), None)
        theirs.close()
    ours = {p.name: p.read_bytes() for p in (tmp_path / "ours" / "short" / "train").iterdir()}
    assert ours == {p.name: p.read_bytes() for p in (tmp_path / "theirs").iterdir()}


@given(
    st.one_of(
        st.integers(0, 2000),
        st.integers(0, 10**15),
        st.sampled_from([999_499, 999_500, 9_995, 9_994, 10**12]),
    )
)
def test_numbers_for_people_are_humanizes(n: int) -> None:
    humanize = pytest.importorskip(
        "humanize", reason="the oracle is humanize: pip install 'winnow[datatrove]'"
    )
    assert token_files.metric(n) == humanize.metric(n, unit="T")


@st.composite
def blocks_of(draw: st.DrawFn) -> tuple[str, list[list[list[int]]]]:
    dtype = draw(st.sampled_from(["uint16", "uint32"]))
    ids = st.integers(0, 2**16 - 1 if dtype == "uint16" else 2**31 - 1)
    document = st.lists(ids, min_size=1, max_size=5)
    return dtype, draw(st.lists(st.lists(document, min_size=1, max_size=4), min_size=1, max_size=5))


def documents(block: list[list[int]], dtype: str) -> Documents:
    n = np.arange(len(block), dtype=np.uint64)
    lengths = np.array([len(d) for d in block], np.int64)
    return Documents(n << np.uint64(60), n, lengths, np.array([i for d in block for i in d], dtype))


@settings(max_examples=30)
@given(blocks_of(), st.integers(1, 5))
def test_any_documents_read_back(tmp_path_factory: pytest.TempPathFactory, case, index_block: int) -> None:
    dtype, blocks = case
    folder = tmp_path_factory.mktemp("any")
    flat = [document for block in blocks for document in block]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(megatron, "BLOCK", index_block)
        megatron.write(str(folder / "x"), dtype, (documents(b, dtype) for b in blocks))
    assert as_lists(read_megatron(folder / "x")) == flat
    assert (folder / "x.idx").stat().st_size == megatron.index_bytes(len(flat))
    token_files.write_table(str(folder / "0.parquet"), dtype, (documents(b, dtype) for b in blocks))
    ids, found = read_tables(folder)
    assert as_lists(found) == flat
    assert ids == [f"{i << 60:016x}{i:016x}" for b in blocks for i in range(len(b))]
    assert pq.read_schema(folder / "0.parquet").field("tokens").type.value_type == dtype


def test_ids_that_megatron_does_not_hold(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^token id 2,147,483,648 is more than Megatron's 2,147,483,647$"):
        megatron.write(str(tmp_path / "x"), "uint32", [documents([[2**31]], "uint32")])


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_excluded_documents_are_left_out(made: FinishedRun, tmp_path: Path, block: int) -> None:
    expected = tokens_of(made, "long")
    gone = sorted(expected)[::3]
    excluded = Ids.of(pa.array([bytes.fromhex(i) for i in gone], tables.ID))
    for format_ in ("parquet", "megatron", "datatrove"):
        export(made, format_, str(tmp_path / format_), excluded={"long": excluded})
    ids, found = read_tables(tmp_path / "parquet" / "long" / "train")
    val, _ = read_tables(tmp_path / "parquet" / "long" / "val")
    assert sorted(ids + val) == sorted(expected.keys() - set(gone))
    kept = [expected[i] for i in ids]
    assert as_lists(found) == kept
    assert as_lists(read_megatron(tmp_path / "megatron" / "long-train")) == kept
    assert as_lists(read_datatrove(tmp_path / "datatrove" / "long" / "train")) == kept
    short, _ = read_tables(tmp_path / "parquet" / "short" / "train")
    assert len(short) == 200, "a source without exclusions loses nothing"
    with pytest.raises(ExportError, match="holds an export with other streams; use another directory"):
        export(made, "parquet", str(tmp_path / "parquet"))


def test_the_runs_own_exclusions_are_left_out(made: FinishedRun, tmp_path: Path) -> None:
    gone = max(tokens_of(made, "short"))
    opened = open_run(made.location)
    stage = Path(made.location) / "stages" / "exclude.short-0123"
    stage.mkdir()
    (stage / "ids.bin").write_bytes(Ids.of(pa.array([bytes.fromhex(gone)], tables.ID)).stored().tobytes())
    opened.manifest["stages"].append({"name": "exclude.short", "directory": stage.name})
    export(opened, "parquet", str(tmp_path))
    ids, _ = read_tables(tmp_path / "short" / "train")
    assert set(ids) == tokens_of(made, "short").keys() - {gone}
    assert [e.documents for e in export(made, "megatron", str(tmp_path / "all"), sources=["short"])] == [
        200,
        0,
    ]


def test_a_source_that_is_all_excluded_gives_no_files(made: FinishedRun, tmp_path: Path) -> None:
    ids = Ids.of(pa.array([bytes.fromhex(i) for i in tokens_of(made, "short")], tables.ID))
    done = export(made, "megatron", str(tmp_path), sources=["short"], excluded={"short": ids})
    assert [(e.documents, e.files) for e in done] == [(0, ()), (0, ())]
    assert [p.name for p in tmp_path.iterdir()] == ["export.json"]


def test_blocks_are_bounded(made: FinishedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_module, "BLOCK", 300)
    whole = export_module.stream_of(made, "long", "train")
    blocks = list(export_module.documents(export_module.Unit(whole, None, ())))
    assert all(
        len(b.tokens) == b.lengths.sum() and (len(b.tokens) <= 300 or len(b.lengths) == 1) for b in blocks
    )
    assert max(len(b.lengths) for b in blocks) > 1
    assert max(len(b.tokens) for b in blocks) > 300
    np.testing.assert_array_equal(np.concatenate([b.tokens for b in blocks]), whole.tokens(0, whole.n_tokens))


def test_what_readers_open_first_appears_last(made: FinishedRun, tmp_path: Path, monkeypatch) -> None:
    seen: list[str] = []
    inner = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (seen.append(Path(b).name), inner(a, b))[1])
    export(made, "megatron", str(tmp_path / "m"), sources=["short"])
    files = [name for name in seen if name != "lease.json"]
    assert files == ["export.json", "short-train.bin", "short-train.idx", "export.json"]
    seen.clear()
    export(made, "datatrove", str(tmp_path / "d"), sources=["short"])
    ends = [name.partition(".")[2] for name in seen if name != "lease.json"]
    n = (len(ends) - 2) // 3
    assert ends == ["json", *["ds", "ds.index", "ds.metadata"] * n, "json"]


@pytest.mark.parametrize("format_", ["megatron", "datatrove", "parquet"])
def test_an_interrupted_export_is_continued(made: FinishedRun, tmp_path: Path, monkeypatch, format_) -> None:
    export(made, format_, str(tmp_path / "whole"))
    whole = everything(tmp_path / "whole")
    inner, left = export_module.documents, iter(range(1 if format_ == "megatron" else 3))

    def stops(unit: export_module.Unit) -> Iterator[Documents]:
        yield from inner(unit)
        if next(left, None) is None:
            raise OSError("no space left")

    monkeypatch.setattr(export_module, "documents", stops)
    out = tmp_path / "out"
    with pytest.raises(OSError, match="no space left"):
        export(made, format_, str(out))
    monkeypatch.undo()
    half = everything(out)
    assert json.loads(half.pop("export.json"))["finished"] == {}
    assert half
    assert half.items() < whole.items()
    killed = out / Path(max(half)).with_name(f".{Path(max(half)).name}.0123.tmp")
    killed.write_bytes(b"what a killed process left")
    done = export(made, format_, str(out))
    assert everything(out) == whole
    assert 0 < sum(e.written for e in done) < sum(len(e.files) for e in done)
    assert sum(e.written for e in export(made, format_, str(out))) == 0
    assert everything(out) == whole


def test_sources_can_follow_one_by_one(made: FinishedRun, tmp_path: Path) -> None:
    export(made, "datatrove", str(tmp_path / "whole"))
    for source, split in (("short", "train"), ("long", "val"), ("long", "train"), ("short", "val")):
        export(made, "datatrove", str(tmp_path / "out"), sources=[source], splits=[split])
    ours, whole = everything(tmp_path / "out"), everything(tmp_path / "whole")
    finished = (json.loads(files.pop("export.json"))["finished"] for files in (ours, whole))
    assert next(finished) == next(finished)
    assert ours == whole


def test_a_damaged_file_is_made_again(made: FinishedRun, tmp_path: Path) -> None:
    export(made, "megatron", str(tmp_path))
    whole = everything(tmp_path)
    (tmp_path / "long-train.bin").write_bytes(b"short")
    export(made, "megatron", str(tmp_path))
    assert everything(tmp_path) == whole


def test_directories_that_are_refused(made: FinishedRun, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("")
    with pytest.raises(ExportError, match=r"holds files that are no part of this export \(thesis.tex\)"):
        export(made, "megatron", str(foreign))
    assert [p.name for p in foreign.iterdir()] == ["thesis.tex"]
    named = tmp_path / "named"
    named.mkdir()
    (named / "long-train.bin").write_bytes(b"")
    with pytest.raises(ExportError, match=r"no part of this export \(long-train.bin\)"):
        export(made, "megatron", str(named))
    other = tmp_path / "other"
    export(made, "megatron", str(other), sources=["short"])
    with pytest.raises(ExportError, match="holds an export with other format; use another directory"):
        export(made, "parquet", str(other))
    (other / "export.json").write_text("{}")
    with pytest.raises(ExportError, match="is damaged, or of something else"):
        export(made, "megatron", str(other))
    held = tmp_path / "held"
    with Lease(str(held)), pytest.raises(LeaseError):
        export(made, "megatron", str(held))


def test_what_the_run_does_not_have(made: FinishedRun, tmp_path: Path) -> None:
    with pytest.raises(UnknownError, match="there is no stream 'web'"):
        export(made, "megatron", str(tmp_path), sources=["web"])
    with pytest.raises(UnknownError, match="there is no split 'test'"):
        export(made, "megatron", str(tmp_path), splits=["test"])
    assert not list(tmp_path.iterdir())


def test_the_command(made: FinishedRun, tmp_path: Path) -> None:
    def winnow(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "winnow.pipelines.command", "export", made.location, *more]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = winnow("--format", "parquet", "--out", str(tmp_path / "out"), "--split", "val", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert [(e["source"], e["split"]) for e in facts] == [("long", "val"), ("short", "val")]
    assert facts[0]["written"] == len(facts[0]["files"]) > 0
    done = winnow("--format", "megatron", "--out", str(tmp_path / "out"), "--source", "short")
    assert (done.returncode, done.stdout) == (2, "")
    assert "holds an export with other format" in done.stderr
