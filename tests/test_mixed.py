"""Does a mixed stream hold each source's rows as often as planned, where its order says, with their documents?"""

import json
import tracemalloc
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from winnow.pipelines import mixed
from winnow.pipelines.cluster import Inline
from winnow.pipelines.engine import Done, Engine
from winnow.pipelines.progress import Progress
from winnow.pipelines.records import Outputs, Stage
from winnow.pipelines.stream import ROWS
from winnow.shards import mds, packed_rows, storage, token_stream

LENGTH = 8
IDS = 50
PIECE_BYTES = np.arange(IDS, dtype="<u4") % 7
LAYOUT = mds.Layout(dtype="uint16", length=LENGTH, size_limit=1 << 12)
PER_SHARD = mds.rows_per_shard(LAYOUT)
DRAWN = {"web": 500, "code": 301, "wiki": 290, "unused": 0}
"""Rows to draw: a part of the first, once and a bit of the second, 29 times the third."""
HAVE = {"web": 700, "code": 240, "wiki": 10, "unused": 30}
SEED = 17


def stream_of(directory, n_tokens, seed, partitions=3, mean_document=11, n_ids=IDS):
    """A stream of random documents in several partitions, as the stage `stream` leaves it."""
    rng = np.random.default_rng(seed)
    parts = []
    for p in range(partitions):
        n = n_tokens // partitions if p else n_tokens - (partitions - 1) * (n_tokens // partitions)
        cuts = rng.integers(0, n + 1, n // mean_document)
        rows = np.zeros(len(cuts) + 1, ROWS)
        rows["end"] = [*np.sort(cuts), n]
        rows["high"], rows["low"] = seed, np.arange(len(rows)) + p * 2**40
        places = (f"{directory}/{p}.bin", f"{directory}/{p}.rows")
        storage.put_bytes(places[0], rng.integers(0, n_ids, n, np.uint16).tobytes())
        storage.put_bytes(places[1], rows.tobytes())
        parts.append((*places, n, len(rows)))
    return token_stream.build(parts, "uint16", ROWS)


def tokenizer_in(directory):
    """What a mixed stream needs of the tokenizer's stage."""
    storage.put_bytes(f"{directory}/piece-bytes", PIECE_BYTES.tobytes())
    storage.put_bytes(f"{directory}/vocabulary.json", json.dumps({"prefix_bytes": 1}).encode())
    return Done(Stage("tokenizer", 1, {}), str(directory), [], 0, 0.0, 0.0)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Rows of four sources by name; each stream has a tail that fills no row."""
    root = tmp_path_factory.mktemp("streams")
    return {
        name: packed_rows.concat(stream_of(f"{root}/{name}", n * LENGTH + 5, i), LENGTH)
        for i, (name, n) in enumerate(HAVE.items())
    }


class Shuffled(Inline):
    """Runs the tasks in another order."""

    def map(self, jobs):
        yield from super().map(sorted(jobs, key=lambda job: hash((job.task.index, "order"))))


def mix(run, sources, drawn=DRAWN, layout=LAYOUT, executor=None, **more):
    engine = Engine(str(run), executor or Inline(), Progress(stream=None))
    tokenizer = tokenizer_in(f"{run}/tokenizer")
    inputs = [(name, rows, drawn[name]) for name, rows in sources.items()]
    work = mixed.mixed_stream(
        engine, inputs, more.pop("seed", SEED), layout, tokenizer, ["stream.x-1"], **more
    )
    (out,) = engine.together(work)
    return out


@pytest.fixture(scope="module")
def run(tmp_path_factory, sources):
    return mix(tmp_path_factory.mktemp("run"), sources)


def written_rows(run):
    """The rows of all shards, read as the index tells: uint16[rows, LENGTH]."""
    entries = mds.read_index(storage.read_bytes(f"{run.done.location}/train/index.json"))
    parts = []
    for entry in entries:
        raw = storage.read_bytes(f"{run.done.location}/train/{entry['raw_data']['basename']}")
        assert mds.check_shard(raw, entry, IDS) == []
        parts.append(mds.read_rows(raw, entry, 0, entry["samples"]))
    return np.concatenate(parts)


def test_every_position_holds_the_row_that_its_order_says(run, sources):
    rows = written_rows(run)
    assert len(rows) == sum(DRAWN.values()) == run.rows("train")
    assert len(run.done.records) > 3, "several shards are meant"
    whole = {name: packed.rows(0, packed.n_rows) for name, packed in sources.items()}
    for position, row in enumerate(rows):
        source, number = run.order.locate(position)
        assert row.tolist() == whole[source][number].tolist()


@pytest.mark.parametrize("size_limit", [320, 500])
def test_sources_of_few_rows_are_drawn_again_and_again(tmp_path, sources, size_limit):
    layout = replace(LAYOUT, size_limit=size_limit)
    assert 1 < mds.rows_per_shard(layout) < 25, "parts of passes are meant to be in a shard"
    few = {f"s{n}": replace(sources["web"], n_rows=n) for n in (1, 2, 3, 5, 8)}
    out = mix(tmp_path, few, dict(zip(few, (40, 60, 300, 90, 100), strict=True)), layout)
    located = [out.order.locate(position)[1] for position in range(out.rows("train"))]
    assert written_rows(out).tolist() == sources["web"].rows(0, 8)[located].tolist()


def test_every_source_gives_exactly_its_rows(run):
    wanted = {name: n for name, n in DRAWN.items() if n}
    assert run.realised == wanted
    found = Counter(run.order.locate(position)[0] for position in range(run.rows("train")))
    assert found == wanted
    for record in run.done.records:
        counts = record.counts
        assert sum(counts["rows_by_source"].values()) == counts["rows"] == counts["entry"]["samples"]
        assert counts["tokens"] == counts["rows"] * LENGTH
        assert counts["split"] == "train"


def test_provenance_is_that_of_the_rows(run, sources):
    of_row = {}
    for name, packed in sources.items():
        for batch in packed.provenance(0, packed.n_rows, PIECE_BYTES, 1):
            for piece in batch.to_pylist():
                of_row.setdefault((name, piece.pop("sample")), []).append(piece)
    for shard, record in enumerate(run.done.records):
        first = shard * PER_SHARD
        table = pq.read_table(f"{run.done.location}/provenance/train-{shard:08d}.parquet")
        assert table.schema == token_stream.PROVENANCE_SCHEMA
        expected = [
            {"sample": position} | piece
            for position in range(first, first + record.counts["rows"])
            for piece in of_row[run.order.locate(position)]
        ]
        assert table.to_pylist() == expected


def test_stage_json_alone_finds_every_copy(run):
    stored = json.loads(storage.read_bytes(f"{run.done.location}/stage.json"))
    order = mixed.order_of(stored["settings"])
    assert order == run.order
    copies = order.positions_of("wiki", 3)
    assert [order.locate(p) for p in copies] == [("wiki", 3)] * 29
    with pytest.raises(ValueError, match=r"^the stream was mixed in blocks of 7 rows, not 512$"):
        mixed.order_of(stored["settings"] | {"block_rows": 7})


def contents(done):
    files = storage.list_files(done.location)
    return {n: storage.read_bytes(f"{done.location}/{n}") for n in files if not n.startswith("records/")}


def test_neither_tasks_nor_the_listing_nor_small_reads_change_a_byte(run, sources, tmp_path, monkeypatch):
    monkeypatch.setattr(mixed, "READ_BYTES", 64)
    monkeypatch.setattr(mixed, "GAP_BYTES", 16)
    monkeypatch.setattr(mixed, "BATCH_PIECES", 100)
    backwards = dict(reversed(sources.items()))
    again = mix(tmp_path, backwards, executor=Shuffled())
    assert again.done.stage == run.done.stage
    assert contents(again.done) == contents(run.done)


def test_a_finished_stage_is_not_made_again(run, sources):
    streams = {n: replace(p, stream=replace(p.stream, partitions=())) for n, p in sources.items()}
    root = run.done.location.split("/stages/")[0]
    again = mix(root, streams)
    assert again.done.redone == 0
    assert again.entries == run.entries


@pytest.mark.parametrize(
    "change", [{"seed": 18}, {"drawn": DRAWN | {"web": 501}}, {"layout": replace(LAYOUT, hashes=("sha1",))}]
)
def test_other_settings_are_another_stage(run, sources, tmp_path, change):
    assert mix(tmp_path, sources, **change).done.stage.directory != run.done.stage.directory


def test_the_part_of_a_stream_and_the_packing_are_in_the_identity(run, sources, tmp_path):
    part = {name: replace(rows, begin=LENGTH, n_rows=rows.n_rows - 1) for name, rows in sources.items()}
    same_size = {name: replace(rows, n_rows=rows.n_rows - 1) for name, rows in sources.items()}
    stages = [mix(tmp_path, s, packing="phase-2").done.stage for s in (part, same_size)]
    assert stages[0].directory != stages[1].directory
    assert {stage.name for stage in stages} == {"mixed-phase-2"}
    assert run.done.stage.name == "mixed"


def test_compressed_shards_hold_the_same_rows(run, sources, tmp_path):
    out = mix(tmp_path, sources, layout=replace(LAYOUT, compression="zstd"))
    entry = out.entries["train"][1]
    stored = storage.read_bytes(f"{out.done.location}/train/{entry['zip_data']['basename']}")
    rows = mds.read_rows(mds.raw_shard(stored, entry), entry, 0, 100)
    first = out.entries["train"][0]["samples"]
    assert rows.tolist() == written_rows(run)[first : first + 100].tolist()


def test_a_tokenizer_whose_pieces_are_no_bytes(run, sources, tmp_path):
    tokenizer = Done(Stage("tokenizer", 1, {}), str(tmp_path / "none"), [], 0, 0.0, 0.0)
    engine = Engine(str(tmp_path), Inline(), Progress(stream=None))
    inputs = [(name, rows, DRAWN[name]) for name, rows in sources.items()]
    (out,) = engine.together(mixed.mixed_stream(engine, inputs, SEED, LAYOUT, tokenizer, []))
    tables = [
        pq.read_table(f"{r.done.location}/provenance/train-00000002.parquet").to_pylist() for r in (out, run)
    ]
    assert tables[0] == [piece | {"byte_start": None, "byte_end": None} for piece in tables[1]]


def test_a_source_without_rows_is_refused(sources, tmp_path):
    empty = sources | {"web": replace(sources["web"], n_rows=0)}
    with pytest.raises(ValueError, match=r"^source 'web' has no rows, and 500 are to be drawn$"):
        mix(tmp_path, empty)


def test_memory_is_that_of_a_shard_and_a_read(tmp_path, monkeypatch):
    """Sources of 40 MB, one of them passed over three times, through shards of 4 MB and reads of 1/2 MB."""
    monkeypatch.setattr(mixed, "READ_BYTES", 1 << 19)
    monkeypatch.setattr(mixed, "GAP_BYTES", 1 << 14)
    layout = mds.Layout(dtype="uint16", length=512, size_limit=1 << 22)
    sources = {
        name: packed_rows.concat(
            stream_of(tmp_path / name, n * 512, i, partitions=20, mean_document=600), 512
        )
        for i, (name, n) in enumerate({"a": 30_000, "b": 10_000}.items())
    }
    inputs = [("a", sources["a"], 30_000), ("b", sources["b"], 31_000)]
    tokenizer = tokenizer_in(tmp_path / "tokenizer")
    engine = Engine(str(tmp_path), Inline(), Progress(stream=None))
    request = next(mixed.mixed_stream(engine, inputs, SEED, layout, tokenizer, []))
    outputs = Outputs(str(tmp_path / "out"))
    mixed.shard_task(request.tasks[1].spec, outputs)  # what is imported on the way does not count
    for shard in (0, len(request.tasks) // 2, len(request.tasks) - 1):
        spec = request.tasks[shard].spec
        assert sum(len(span.rows.stream.partitions) for spans in spec.spans for span in spans) < 12
        tracemalloc.start()
        counts = mixed.shard_task(spec, outputs)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert counts["rows"] == spec.last - spec.first
        # Two blocks of a MiB are held while a finished file is hashed.
        assert peak < (1 << 22) + max(2 * (1 << 19), 2 << 20) + 200 * counts["rows"]
