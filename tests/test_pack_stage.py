"""Are rows the stream's tokens, all of them, in every packing; and can every row be traced, and be read alone?"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from winnow.pipelines import corpus, open_run, pack
from winnow.pipelines.cluster import Inline
from winnow.pipelines.engine import Done, Engine
from winnow.pipelines.located import RecipeError
from winnow.pipelines.packings import Packing, packings
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import Phase, Sequence_, read
from winnow.pipelines.records import Outputs, Record, Stage
from winnow.pipelines.stream import ROWS, Shuffled
from winnow.pipelines.verifying import verify
from winnow.shards import mds, packed_rows, storage

SILENT = Progress(stream=None)
IDS = 40
PAD = IDS
PIECE_BYTES = np.array([0, *np.random.default_rng(5).integers(1, 12, IDS - 1)], np.uint8)
"""Of every id; the first spells nothing."""
PREFIX = 1
MODES = ("concat", "pad", "best-fit")


def documents(sizes: list[int], seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, IDS, n).astype(np.uint16) for n in sizes]


def stage_of(run: Path, name: str, files: dict[str, bytes], counts: list[dict] | None = None) -> Done:
    """A stage of a run as others leave it."""
    stage = Stage(name, 1, {})
    location = stage.location(str(run))
    for file, data in files.items():
        storage.put_bytes(storage.join(location, file), data)
    records = [Record(i, c, {}) for i, c in enumerate(counts or [])]
    return Done(stage, location, records, 0, 0.0, 0.0)


def shuffled(run: Path, train: list[list[np.ndarray]], val: list[list[np.ndarray]]) -> Shuffled:
    """A source's streams from the documents of their partitions; a document's id tells its number in the source."""
    files, counts, number = {}, [], 0
    for i, some in enumerate([*train, *val]):
        rows = np.zeros(len(some), ROWS)
        rows["low"] = np.arange(number, number + len(some))
        rows["end"] = np.cumsum([len(d) for d in some])
        number += len(some)
        files[f"stream-{i:08d}.bin"] = b"".join(d.tobytes() for d in some)
        files[f"stream-{i:08d}.rows"] = rows.tobytes()
        counts.append({"documents": len(some), "tokens": int(sum(map(len, some)))})
    return Shuffled(stage_of(run, "stream.s", files, counts), np.empty(0, np.uint64), len(train))


def tokenizer(run: Path) -> Done:
    files = {
        "piece-bytes": PIECE_BYTES.astype("<u4").tobytes(),
        "vocabulary.json": orjson.dumps({"prefix_bytes": PREFIX}),
    }
    return stage_of(run, "tokenizer", files)


class Backwards(Inline):
    """The last task first."""

    def map(self, jobs):
        return super().map(list(jobs)[::-1])


def packed(
    run: Path, streams: Shuffled, mode: str, packing: Packing, executor=Inline, limit: int = 1 << 12
) -> pack.Packed:
    def work():
        arranged = yield from pack.arrange(
            "s", streams, packing, pack=mode, dtype="uint16", pad_id=PAD, seed=3
        )
        layout = mds.Layout(dtype="uint16", length=packing.length, size_limit=limit)
        return (yield from pack.pack("s", arranged, layout, tokenizer(run)))

    return Engine(str(run), executor(), SILENT).together(work())[0]


def written(made: pack.Packed, split: str) -> np.ndarray:
    """The rows of a split's shards."""
    rows = []
    place = Path(made.done.location) / split
    index = mds.read_index((place / "index.json").read_bytes()) if made.entries[split] else []
    assert index == made.entries[split]
    for entry in index:
        raw = (place / entry["raw_data"]["basename"]).read_bytes()
        assert not mds.check_shard(raw, entry, PAD)
        rows.append(mds.read_rows(raw, entry, 0, entry["samples"]))
    length = made.arranged.packing.length
    return np.concatenate([np.empty((0, length), np.uint16), *rows])


def traced(made: pack.Packed, split: str) -> list[dict]:
    """The provenance of a split's shards."""
    n = len(made.entries[split])
    tables = [
        pq.read_table(Path(made.done.location) / pack.provenance_name(split, shard)) for shard in range(n)
    ]
    return [row for table in tables for row in table.to_pylist()]


def check(made: pack.Packed, split: str, given: list[np.ndarray], number: int, whole: bool = True) -> None:
    """Rows, provenance and counts of a split against its documents; `number` is the first one's."""
    length, facts = made.arranged.packing.length, made.facts(split)
    rows, trace = written(made, split), traced(made, split)
    samples = made.samples[split]
    assert len(rows) == samples.n_rows == facts["rows"]
    np.testing.assert_array_equal(samples.rows(0, len(rows)), rows)
    keys = [(p["sample"], p["offset"]) for p in trace]
    assert keys == sorted(keys)
    filled = np.full(rows.shape, PAD, np.uint16)
    taken = [np.zeros(len(d), bool) for d in given]
    lies_in: dict[int, set[int]] = {}
    bytes_of = [np.concatenate([[0], np.cumsum(PIECE_BYTES[d].astype(np.int64))]) for d in given]
    for p in trace:
        d = int.from_bytes(p["id"], "big") - number
        at = np.searchsorted(np.maximum(bytes_of[d] - PREFIX, 0), p["byte_start"], side="left")
        # A byte span does not tell its tokens apart where some spell nothing: the tokens do.
        piece = rows[p["sample"], p["offset"] : p["offset"] + p["tokens"]]
        assert (filled[p["sample"], p["offset"] : p["offset"] + p["tokens"]] == PAD).all(), "pieces overlap"
        filled[p["sample"], p["offset"] : p["offset"] + p["tokens"]] = piece
        found = [
            i
            for i in range(max(at - 40, 0), len(given[d]) - p["tokens"] + 1)
            if np.array_equal(given[d][i : i + p["tokens"]], piece) and not taken[d][i : i + p["tokens"]].any()
            and max(bytes_of[d][i] - PREFIX, 0) == p["byte_start"]
            and max(bytes_of[d][i + p["tokens"]] - PREFIX, 0) == p["byte_end"]
        ]  # fmt: skip
        assert found, "a piece is not the document's where its bytes say"
        taken[d][found[0] : found[0] + p["tokens"]] = True
        lies_in.setdefault(d, set()).add(p["sample"])
    np.testing.assert_array_equal(filled, rows)
    there = sum(int(t.sum()) for t in taken)
    assert there == facts["packed_tokens"] == samples.tokens
    assert facts["padding_tokens"] == rows.size - there == (rows == PAD).sum()
    assert facts["documents"] == len(lies_in)
    assert facts["cut_documents"] == sum(len(r) > 1 for r in lies_in.values())
    if whole:
        assert there + facts["remainder_tokens"] == sum(map(len, given))
    if made.arranged.pack != "concat":
        assert facts["remainder_tokens"] == 0
        assert all(len(r) == -(-len(given[d]) // length) for d, r in lies_in.items()), (
            "cut more than it must be"
        )
    else:
        assert facts["remainder_tokens"] < length


def test_packings_of_a_recipe():
    assert packings(Sequence_()) == [Packing("2048", 2048)]
    assert [p.name for p in packings(Sequence_(length=512, also=[2048, 128]))] == ["512", "2048", "128"]
    phases = packings(
        Sequence_(curriculum=[Phase(length=n, share=s) for n, s in ((64, "10%"), (128, 0.2), (256, 0.7))])
    )
    assert [p.name for p in phases] == ["phase-1", "phase-2", "phase-3"]
    assert [p.part("train", 1000) for p in phases] == [(0, 100), (100, 300), (300, 1000)]
    assert [p.part("val", 1000) for p in phases] == [(0, 1000)] * 3
    assert [p.share for p in phases] == [0.1, 0.2, 0.7]
    assert [p.part("train", 10**13 + 7)[1] for p in phases][-1] == 10**13 + 7


SIZES = st.integers(0, 12) | st.integers(0, 90)


@settings(deadline=None, max_examples=15)
@given(
    st.lists(st.lists(SIZES, max_size=7), min_size=1, max_size=5),
    st.lists(SIZES, max_size=6),
    st.integers(2, 25),
)
@pytest.mark.parametrize("mode", MODES)
def test_rows_are_the_streams_tokens(tmp_path_factory, mode, train_sizes, val_sizes, length):
    """Windows of 70 tokens: some documents are longer, some windows own none."""
    run = tmp_path_factory.mktemp("run")
    train = [documents(sizes, seed) for seed, sizes in enumerate(train_sizes)]
    val = [documents(val_sizes, 99)]
    flat = [d for some in train for d in some]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack, "window_tokens", lambda _: 70)
        made = packed(run, shuffled(run, train, val), mode, Packing("x", length))
    check(made, "train", flat, 0)
    check(made, "val", val[0], len(flat))


@pytest.fixture(scope="module")
def many() -> list[np.ndarray]:
    rng = np.random.default_rng(8)
    return documents(np.maximum(0, rng.lognormal(3, 1.3, 400)).astype(int).tolist(), 8)


def cut_at(given: list[np.ndarray], *places: int) -> list[list[np.ndarray]]:
    edges = [0, *places, len(given)]
    return [given[a:b] for a, b in itertools.pairwise(edges)]


@pytest.mark.parametrize("mode", MODES)
def test_shards_do_not_depend_on_partitions_or_the_order_of_tasks(tmp_path, monkeypatch, many, mode):
    monkeypatch.setattr(pack, "window_tokens", lambda _: 2000)
    outputs = []
    for i, (parts, executor) in enumerate((((), Inline), ((7, 7, 100, 399), Backwards))):
        run = tmp_path / str(i)
        streams = shuffled(run, cut_at(many, *parts), [[]])
        made = packed(run, streams, mode, Packing("64", 64), executor)
        assert made.arranged.done is None or len(made.arranged.done.records) > 3
        outputs.append((written(made, "train").tolist(), traced(made, "train"), made.facts("train")))
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("mode", MODES)
def test_any_rows_can_be_read_alone_and_found(tmp_path, monkeypatch, many, mode):
    monkeypatch.setattr(pack, "window_tokens", lambda _: 1500)
    streams = shuffled(tmp_path, cut_at(many, 90, 200, 200), [[]])
    samples = packed(tmp_path, streams, mode, Packing("64", 64)).samples["train"]
    whole = samples.rows(0, samples.n_rows)
    pieces = [p for b in samples.provenance(0, samples.n_rows, PIECE_BYTES, PREFIX) for p in b.to_pylist()]
    blind = [p for b in samples.provenance(0, samples.n_rows, None, PREFIX) for p in b.to_pylist()]
    assert blind == [p | {"byte_start": None, "byte_end": None} for p in pieces]
    rng = np.random.default_rng(4)
    for first, last in [
        (0, 0),
        (samples.n_rows, samples.n_rows),
        *np.sort(rng.integers(0, samples.n_rows + 1, (25, 2))),
    ]:
        part = samples.narrowed(int(first), int(last))
        assert len(part.stream.partitions) <= len(samples.stream.partitions)
        assert part.tokens == samples.tokens
        np.testing.assert_array_equal(part.rows(int(first), int(last)), whole[first:last])
        found = [
            p for b in part.provenance(int(first), int(last), PIECE_BYTES, PREFIX) for p in b.to_pylist()
        ]
        assert found == [p for p in pieces if first <= p["sample"] < last]
    lies_in: dict[int, set[int]] = {}
    for p in pieces:
        lies_in.setdefault(int.from_bytes(p["id"], "big"), set()).add(p["sample"])
    start = 0
    for d, tokens in enumerate(many):
        ranges = list(samples.rows_of(start, start + len(tokens)))
        rows = [r for first, last in ranges for r in range(first, last)]
        assert rows == sorted(lies_in.get(d, ()))
        assert all(a[1] < b[0] for a, b in itertools.pairwise(ranges))
        start += len(tokens)
    everything = [r for a, b in samples.rows_of(0, start) for r in range(a, b)]
    assert everything == list(range(samples.n_rows))


@pytest.mark.parametrize("mode", MODES)
def test_the_phases_of_a_curriculum_are_the_stream(tmp_path, monkeypatch, many, mode):
    """Together the phases hold every token once, but for the tails of `concat`."""
    monkeypatch.setattr(pack, "window_tokens", lambda _: 1500)
    phases = packings(
        Sequence_(curriculum=[Phase(length=n, share=s) for n, s in ((16, 0.25), (64, 0.35), (32, 0.4))])
    )
    given = documents([len(d) for d in many], 8)
    for d, tokens in enumerate(given):  # every document its own letters, so that tokens can be told apart
        tokens[:] = d % IDS
    streams = shuffled(tmp_path, cut_at(given, 90, 200), [documents([30, 7])])
    counted = np.zeros(len(given), int)
    left = 0
    for phase in phases:
        made = packed(tmp_path, streams, mode, phase)
        facts = made.facts("train")
        for p in traced(made, "train"):
            counted[int.from_bytes(p["id"], "big")] += p["tokens"]
        left += facts["remainder_tokens"]
        assert facts["remainder_tokens"] < phase.length
        share = facts["packed_tokens"] + facts["remainder_tokens"]
        assert abs(share - phase.share * sum(map(len, given))) <= max(map(len, given))
        assert made.facts("val")["packed_tokens"] + made.facts("val")["remainder_tokens"] == 37
        if mode == "concat":
            check(made, "train", given, 0, whole=False)
    sizes = np.array([len(d) for d in given])
    assert (counted <= sizes).all()
    assert counted.sum() + left == sizes.sum()
    assert mode == "concat" or (left == 0 and (counted == sizes).all())


def test_a_length_that_no_document_reaches_is_said(tmp_path):
    streams = shuffled(tmp_path, [documents([10] * 50)], [[]])
    few = {mode: packed(tmp_path, streams, mode, Packing("32", 32)) for mode in MODES}
    assert {mode: len(pack.warnings("s", made)) for mode, made in few.items()} == {
        "concat": 0,
        "pad": 1,
        "best-fit": 0,
    }
    (said,) = pack.warnings("s", few["pad"])
    assert said == "source 's': 69% of its samples of 32 tokens is padding; hardly any document is as long"


def test_documents_of_rows_without_shards_are_counted(tmp_path, many):
    """A mixed run makes no shards of a source's training rows."""
    streams = shuffled(tmp_path, cut_at(many, 90, 200), [documents([30, 70])])

    def work(**more):
        arranged = yield from pack.arrange(
            "s", streams, Packing("64", 64), pack="concat", dtype="uint16", pad_id=None, seed=3
        )
        layout = mds.Layout(dtype="uint16", length=64)
        return (yield from pack.pack("s", arranged, layout, tokenizer(tmp_path), **more))

    both, val = Engine(str(tmp_path), Inline(), SILENT).together(work(), work(splits=("val",)))
    assert val.entries["train"] == []
    assert val.entries["val"] == both.entries["val"]
    assert val.facts("train") == both.facts("train")
    assert val.facts("val") == both.facts("val")


def test_a_plan_takes_the_memory_of_its_window(tmp_path):
    """A source of twenty partitions: what a plan holds does not grow with the stream."""
    sizes = np.random.default_rng(2).integers(1, 20, 5000).tolist()
    streams = shuffled(tmp_path, [documents(sizes, i) for i in range(20)], [[]])
    stream = pack.stream_of(streams, "train", "uint16")
    window = stream.n_tokens // 20
    for number, wide in enumerate((1, 1, 5)):
        spec = pack.PlanSpec(
            "train", number, 0, window * wide, stream.narrowed(0, window * wide), "best-fit", 512, 3
        )
        tracemalloc.start()
        counts = pack.plan_task(spec, Outputs(str(tmp_path / "plans")))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 150 * counts["documents"] + 250 * len(sizes), "of the window, and of a partition"
    rows = packed(tmp_path, streams, "best-fit", Packing("512", 512), limit=1 << 16).samples["train"]
    tracemalloc.start()
    rows.rows(0, rows.n_rows // 10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    plan = rows._windows(0, 1)["pieces"].sum() * packed_rows.PIECES.itemsize
    assert peak < 2 * rows.n_rows // 10 * 512 * 2 + 2 * stream.n_tokens * 2 + 6 * plan


TEXT = """
name: packs
tokenizer: {{name: '{folder}/tokenizer.json'{tokenizer}}}
sequence: {{{sequence}}}
sources:
  s: {{read: {{format: jsonl, path: '{folder}/*.jsonl'}}, heldout: {{fraction: 0.2}}}}
shards: {{size_limit: 5KB}}
"""


def recipe(folder: Path, sequence: str, tokenizer: str = ", pad_token: <unk>"):
    return read(TEXT.format(folder=folder, sequence=sequence, tokenizer=tokenizer), "r.yaml")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Documents of very different lengths, of the words of a small vocabulary, and their tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("texts")
    rng = np.random.default_rng(6)
    words = ["the", "of", "and", "to", "river", "stone", "house", "under", "light", "small"]
    ids = {word: i for i, word in enumerate(["<unk>", "<s>", "</s>", *words])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    with open(folder / "a.jsonl", "w") as file:
        for n in np.maximum(1, rng.lognormal(3, 1, 120)).astype(int):
            file.write(json.dumps({"text": " ".join(rng.choice(words, n))}) + "\n")
    return folder


@pytest.mark.parametrize(
    "sequence",
    [
        "length: 32, pack: pad, also: [16, 64]",
        "pack: best-fit, curriculum: [{length: 16, share: 30%}, {length: 64, share: 0.7}]",
    ],
)
def test_a_run_in_several_packings(folder, tmp_path, sequence):
    """One tokenization and one order of documents serve all packings, and every token is accounted for."""
    asked = recipe(folder, sequence)
    made = corpus.run(asked, str(tmp_path / "run"), inline=True, progress=SILENT)
    source = made.sources["s"]
    ways = packings(asked.sequence)
    assert [s.packed.arranged.packing for s in source.shards] == ways
    kinds = [name.partition(".")[0] for name in made.redone]
    assert [k for k in kinds if k.startswith("shards")] == ["shards", *(f"shards-{w.name}" for w in ways[1:])]
    assert kinds.count("tokens") == kinds.count("stream") == 1
    opened = open_run(str(tmp_path / "run"))
    assert list(verify(opened)) == []
    assert not any("shards" in path or "packs" in path for path in opened.unreferenced())
    for p in [s.packed for s in source.shards]:
        rows, pad = p.samples["train"].rows(0, p.rows("train")), made.vocabulary.pad_id
        assert (rows == pad).sum() == p.facts("train")["padding_tokens"] > 0
        assert made.vocabulary.eos_id in rows
    assert not any(corpus.run(asked, str(tmp_path / "run"), inline=True, progress=SILENT).redone.values())


def test_lost_padding_or_tokens_stop_the_run(folder, tmp_path, monkeypatch):
    from winnow.pipelines.engine import RunError

    honest = pack._documents

    def lossy(*arguments):
        begins, ends = honest(*arguments)
        return begins[1:], ends[1:]

    monkeypatch.setattr(pack, "_documents", lossy)
    with pytest.raises(
        RunError, match=r"source 's': tokens of train, and in samples \+ remainder: \S+ against"
    ):
        corpus.run(
            recipe(folder, "length: 32, pack: best-fit"), str(tmp_path / "run"), inline=True, progress=SILENT
        )
    assert not (tmp_path / "run" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("sequence", "tokenizer", "message"),
    [
        ("pack: pad", "", r"r.yaml:3:\d+: pack: pad fills samples up, and .*json has no padding token"),
        ("pack: best-fit", ", pad_token: </s>", r"r.yaml:3:\d+: the padding token is the one that ends documents"),
        ("pack: pad", ", pad_token: <s>, append: both", r"r.yaml:3:\d+: the padding token is the one that begins"),
        ("pack: pad", ", pad_token: nothing", r"r.yaml:3:\d+: 'nothing' is not an added token .*<unk>"),
        ("length: 8", ", model_vocab: 12", r"r.yaml:3:\d+: a model of 12 .* largest id, 12: it takes 13"),
        ("length: 8, also: [16, 8]", "", r"r.yaml:4:\d+: length 8 is there twice"),
        ("curriculum: [{length: 8, share: 0.3}, {length: 16, share: 0.6}]", "", r"r.yaml:4:\d+: .* sum to 0.9"),
        ("also: [64], curriculum: [{length: 8, share: 1}]", "", r"r.yaml:4:\d+: with a curriculum, its phases alone"),
        ("length: 8, also: [9000]", "", r"r.yaml:7:\d+: size_limit: no row of 9000 tokens"),
    ],
)  # fmt: skip
def test_what_cannot_be_packed(folder, tmp_path, sequence, tokenizer, message):
    with pytest.raises(RecipeError, match=message):
        corpus.run(recipe(folder, sequence, tokenizer), str(tmp_path / "run"), inline=True, progress=SILENT)
    assert not list((tmp_path / "run").glob("stages/documents*"))


def test_a_models_vocabulary_and_a_token_that_is_there(folder, tmp_path):
    asked = recipe(folder, "length: 8, pack: best-fit", ", model_vocab: 13, pad_token: <unk>")
    made = corpus.run(asked, str(tmp_path / "run"), inline=True, progress=SILENT)
    assert made.vocabulary.pad_id == 0
    assert made.vocabulary.max_id == 12


READ = """
import sys, numpy as np
from winnow.shards.feed import import_streaming
dataset = import_streaming().StreamingDataset(local=sys.argv[1], split="train", shuffle=False, batch_size=1)
np.save(sys.argv[2], np.stack([dataset[i]["tokens"] for i in range(len(dataset))]))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("streaming") is None,
    reason="mosaicml-streaming is the reader: pip install 'winnow[train]'",
)
def test_streaming_reads_the_rows(folder, tmp_path):
    made = corpus.run(
        recipe(folder, "length: 32, pack: best-fit"), str(tmp_path / "run"), inline=True, progress=SILENT
    )
    shards = made.sources["s"].shards[0].packed
    # In a process of its own: StreamingDataset leaves shared memory and threads behind.
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", READ, shards.done.location, str(tmp_path / "read.npy")],
        env=os.environ | {"TMPDIR": str(tmp_path)}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    samples = shards.samples["train"]
    np.testing.assert_array_equal(np.load(tmp_path / "read.npy"), samples.rows(0, samples.n_rows))
