"""Does a trainer get the mixture that its block promises, and do the lines we print work when pasted?"""

import copy
import inspect
import json
import subprocess
import sys

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from winnow.shards import feed, mds

ROWS = {"web": 700, "code": 100, "wiki": 50}
SHARES = {"web": 0.5, "code": 0.3, "wiki": 0.2}
LENGTH = 16
VAL_ROWS = 13


@pytest.fixture(scope="module")
def streaming():
    pytest.importorskip("torch", reason="mosaicml-streaming needs torch: pip install 'winnow[train]'")
    try:
        return feed.import_streaming()
    except ImportError:
        pytest.skip("mosaicml-streaming is the reader: pip install 'winnow[train]'")


def specs(root, split="train"):
    return [
        feed.StreamSpec(name=name, location=f"{root}/{name}", split=split, samples=n, proportion=SHARES[name])
        for name, n in ROWS.items()
    ]


@pytest.fixture
def corpus(tmp_path):
    """A published corpus of three streams; a row's first token says its stream, the second its number."""
    layout = mds.Layout(dtype="uint16", length=LENGTH, size_limit=2048)
    for stream, (name, n_rows) in enumerate(ROWS.items()):
        for split, n in (("train", n_rows), ("val", VAL_ROWS)):
            rows = np.full((n, LENGTH), 9, np.uint16)
            rows[:, 0], rows[:, 1] = stream, np.arange(n)
            directory = tmp_path / name / split
            directory.mkdir(parents=True)
            entries, per_shard = [], mds.rows_per_shard(layout)
            for index, start in enumerate(range(0, n, per_shard)):
                shard = mds.write_shard(rows[start : start + per_shard], layout, index)
                (directory / shard.files[0][0]).write_bytes(shard.files[0][1])
                entries.append(shard.entry)
            (directory / "index.json").write_bytes(mds.index_json(entries))
    blocks = {
        # 1001 is divided by no power of two: canonical nodes would repeat rows.
        "train_loader": feed.train_loader(specs(tmp_path), 1001, LENGTH, 17, eos_id=9),
        "eval_loader": feed.eval_loader(specs(tmp_path, "val"), LENGTH, eos_id=9),
        # Read as if `web` were a mixed stream, and `wiki` the second phase of a run.
        "lengths": {
            32: {
                "train_loader": feed.mixed_loader(specs(tmp_path)[0], 32),
                "eval_loader": feed.eval_loader(specs(tmp_path, "val")[1:2], 32),
            }
        },
    }
    phases = [blocks["train_loader"], feed.mixed_loader(specs(tmp_path)[2], LENGTH)]
    blocks["curriculum"] = feed.curriculum(copy.deepcopy(phases))
    (tmp_path / "streams.yaml").write_text(yaml.safe_dump(blocks, sort_keys=False))
    return tmp_path


def run_apart(tmp_path, code):
    """Run Python in a process and temporary directory of its own, and give back its last line as JSON.

    A StreamingDataset leaves lock files and shared memory behind, which the next one trips over.
    """
    temporary = tmp_path / "tmp"
    temporary.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-"],
        input=code,
        cwd=temporary,
        env={"PATH": "", "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_block_for_local_streams_whole(tmp_path):
    block = feed.train_loader(specs(tmp_path), 488_281_250, 2048, 17, eos_id=0)
    assert block == {
        "name": "text",
        "dataset": {
            "streams": {
                "web": {"local": f"{tmp_path}/web", "split": "train", "proportion": 0.5},
                "code": {"local": f"{tmp_path}/code", "split": "train", "proportion": 0.3},
                "wiki": {"local": f"{tmp_path}/wiki", "split": "train", "proportion": 0.2},
            },
            "epoch_size": 488_281_250,
            "max_seq_len": 2048,
            "shuffle": True,
            "shuffle_algo": "py1e",
            "shuffle_seed": 17,
            "num_canonical_nodes": 128,
            "batching_method": "random",
            "sampling_granularity": 1,
            "validate_hash": "xxh64",
            "eos_token_id": 0,
        },
        "drop_last": True,
        "num_workers": 8,
        "timeout": 600,
    }
    assert yaml.safe_load(yaml.safe_dump(block)) == block


def test_block_for_a_mixed_stream_whole():
    spec = feed.StreamSpec(name="mixed", location="s3://b/run", samples=488_281_250, proportion=1.0)
    block = feed.mixed_loader(spec, 2048, eos_id=0, validate_hash="sha1", cache="/cache")
    (stream,) = block["dataset"].pop("streams").values()
    assert stream["remote"] == "s3://b/run"
    assert block == {
        "name": "text",
        "dataset": {
            "epoch_size": 488_281_250,
            "shuffle": False,
            "num_canonical_nodes": 1,
            "batching_method": "random",
            "sampling_granularity": 1,
            "max_seq_len": 2048,
            "validate_hash": "sha1",
            "eos_token_id": 0,
        },
        "drop_last": True,
        "num_workers": 8,
        "timeout": 600,
    }


@pytest.mark.parametrize(
    ("samples", "granularity"), [(1, 1), (1 << 20, 1), ((1 << 20) + 1, 2), (1_180_659_180, 1126)]
)
def test_a_large_stream_takes_a_second_to_sample(samples, granularity):
    """The reader chooses a part of a stream in a loop over `samples / granularity` picks."""
    small = feed.StreamSpec(name="small", location="/small", samples=5, proportion=1.0)
    large = feed.StreamSpec(name="large", location="/large", samples=samples, proportion=1.0)
    dataset = feed.train_loader([small, large], 1000, 16, 0)["dataset"]
    assert dataset["sampling_granularity"] == granularity


def test_curriculum_is_what_the_callback_takes():
    """llm-foundry's CurriculumLearning(train_config, schedule, duration): the first phase is the train_loader."""
    phases = [feed.train_loader(specs("/run"), rows, length, 0) for rows, length in ((900, 16), (50, 64))]
    arguments = feed.curriculum(phases)
    assert arguments == {
        "duration": "14400tok",
        "schedule": [{"duration": "3200tok", "dataset": phases[1]["dataset"]}],
    }
    # The callback updates the first phase's settings with a further one's: none may be left over.
    assert phases[0]["dataset"].keys() == phases[1]["dataset"].keys()
    assert yaml.safe_load(yaml.safe_dump(arguments)) == arguments
    with pytest.raises(ValueError, match=r"^a curriculum has two phases or more, not 1$"):
        feed.curriculum(phases[:1])


@settings(deadline=None, max_examples=100)
@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=12), st.integers(1, 10**12), st.integers(0, 2**32))
def test_rows_drawn_are_the_readers(streaming, proportions, epoch_size, seed):
    streams = [
        feed.StreamSpec(name=str(i), location=f"/{i}", samples=10 + i, proportion=p)
        for i, p in enumerate(proportions)
    ]
    theirs = [streaming.Stream(local=s.location, proportion=s.proportion) for s in streams]
    samples = np.array([s.samples for s in streams])
    assert streaming.Stream.apply_weights(theirs, samples, epoch_size, seed) == epoch_size
    drawn = feed.rows_drawn(streams, epoch_size, seed)
    assert drawn == {s.name: t.choose for s, t in zip(streams, theirs, strict=True)}
    assert sum(drawn.values()) == epoch_size


@pytest.mark.parametrize("rows", [997, 1000, 1003])
@pytest.mark.parametrize(
    ("nodes", "devices", "workers", "batch"),
    [(1, 1, 1, 7), (1, 2, 2, 5), (2, 4, 8, 3), (4, 2, 3, 2), (3, 1, 2, 4)],
)
def test_global_batches_of_a_mixed_stream_follow_its_order(streaming, rows, nodes, devices, workers, batch):
    from streaming.base.partition import get_partitions

    spec = feed.StreamSpec(name="mixed", location="/run", samples=rows, proportion=1.0)
    canonical = feed.mixed_loader(spec, 16)["dataset"]["num_canonical_nodes"]
    ids = get_partitions("relaxed", rows, canonical, nodes, devices, workers, batch)
    # (nodes, devices, workers, batches of a worker, rows of a batch); workers take turns.
    batches = ids.transpose(3, 2, 0, 1, 4).reshape(-1, nodes * devices * batch)
    whole = rows // batches.shape[1]
    in_order = np.arange(whole * batches.shape[1]).reshape(whole, -1)
    assert np.sort(batches[:whole]).tolist() == in_order.tolist()
    read = batches[batches >= 0]
    assert set(read.tolist()) == set(range(rows))
    assert len(read) - rows < nodes * devices, "more rows given twice than make the devices' parts equal"


def test_remote_streams_are_cached_apart():
    block = feed.train_loader(specs("s3://bucket/run"), 1000, 16, 0, rows_per_shard=500, cache="/cache/")
    dataset = block["dataset"]
    places = [(stream["remote"], stream["local"]) for stream in dataset["streams"].values()]
    assert [remote for remote, _ in places] == [f"s3://bucket/run/{name}" for name in ROWS]
    assert len({local for _, local in places}) == 3
    assert all(local.startswith("/cache/") for _, local in places)
    assert dataset["sampling_granularity"] == 500
    again = feed.train_loader(specs("s3://bucket/other"), 1000, 16, 0, cache="/cache")["dataset"]["streams"]
    assert again["web"]["local"] != places[0][1], "another corpus would be read from this one's cache"


@pytest.mark.parametrize("root", ["/data/run", "gs://bucket/run"])
def test_every_key_is_known_to_the_reader(streaming, root):
    of_stream = inspect.signature(streaming.Stream).parameters.keys()
    of_dataset = inspect.signature(streaming.StreamingDataset).parameters.keys()
    blocks = (
        feed.train_loader(specs(root), 99, 16, 0, 0),
        feed.mixed_loader(specs(root)[0], 16, 0),
        feed.eval_loader(specs(root), 16, 0),
    )
    for block in blocks:
        assert block["dataset"].keys() - {"max_seq_len", "eos_token_id"} <= of_dataset
        assert all(stream.keys() <= of_stream for stream in block["dataset"]["streams"].values())


def test_schemes_are_the_readers(streaming):
    from streaming.base.storage.download import DOWNLOADER_MAPPINGS

    assert set(feed.REMOTE_SCHEMES) <= DOWNLOADER_MAPPINGS.keys()


@pytest.mark.parametrize("epoch_size", [1, 127, 128, 1000, 131_071, 131_072, 200_001])
def test_canonical_nodes_repeat_less_than_a_row_in_a_thousand(epoch_size):
    nodes = feed.train_loader(specs("/run"), epoch_size, 16, 0)["dataset"]["num_canonical_nodes"]
    repeated = -epoch_size % nodes
    assert nodes <= epoch_size
    assert repeated <= epoch_size / 1000


def spec(**change):
    fields = {"name": "web", "location": "/run/web", "samples": 1, "proportion": 1.0}
    return feed.StreamSpec(**(fields | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"samples": 0}, "stream 'web' has no samples; a trainer refuses it", id="empty"),
        pytest.param({"proportion": 0.0}, "stream 'web' has proportion 0.0; leave it out", id="zero"),
        pytest.param({"proportion": float("nan")}, "stream 'web' has proportion nan; leave it out", id="nan"),
        pytest.param({"location": "memory://x"}, "stream 'web': a trainer cannot read memory://", id="url"),
    ],
)
def test_streams_that_are_refused(change, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        spec(**change)


@pytest.mark.parametrize(
    ("streams", "epoch_size", "seq_len", "message"),
    [
        pytest.param([], 9, 9, "a block needs at least one stream", id="none"),
        pytest.param([spec(), spec(location="/b")], 9, 9, "two streams are named 'web'", id="name"),
        pytest.param(
            [spec(), spec(name="b")], 9, 9, "stream 'b' reads the directory of another stream", id="place"
        ),
        pytest.param([spec()], 0, 9, "epoch_size must be at least 1 row, not 0", id="epoch"),
        pytest.param([spec()], 9, 0, "seq_len must be at least 1 token, not 0", id="length"),
    ],
)
def test_blocks_that_are_refused(streams, epoch_size, seq_len, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        feed.train_loader(streams, epoch_size, seq_len, 0)


ONE = "train_loader: {dataset: {}}"
PHASES = (
    "train_loader: {dataset: {}}\ncurriculum: {duration: 1tok, schedule: [{duration: 1tok, dataset: {}}]}"
)


@pytest.mark.parametrize(
    ("content", "split", "packing", "message"),
    [
        pytest.param(ONE, "test", None, "split must be 'train' or 'val', not 'test'$", id="split"),
        pytest.param(ONE, "val", None, "has no 'eval_loader' with a dataset$", id="no-val"),
        pytest.param("- 1", "train", None, "has no 'train_loader' with a dataset$", id="list"),
        pytest.param(
            "a: 2024-99-99", "train", None, "is damaged: no YAML with the blocks of a loader$", id="yaml"
        ),
        pytest.param(
            ONE, "train", 512, "has no 'train_loader' with a dataset for packing '512'$", id="packing"
        ),
        pytest.param(
            PHASES, "val", "phase-2", "no 'eval_loader' with a dataset for packing 'phase-2'$", id="phase-val"
        ),
        pytest.param(
            PHASES, "train", "phase-3", "no 'train_loader' with a dataset for packing 'phase-3'$", id="phase"
        ),
    ],
)
def test_files_that_are_refused(tmp_path, content, split, packing, message):
    (tmp_path / "streams.yaml").write_text(content)
    with pytest.raises(ValueError, match=message):
        feed.open_dataset(tmp_path / "streams.yaml", split, packing=packing)


@pytest.mark.parametrize(
    ("split", "packing", "read"),
    [
        ("train", None, "web code wiki"),
        ("val", None, "web code wiki"),
        ("train", 32, "web"),
        ("val", "32", "code"),
        ("train", "phase-1", "web code wiki"),
        ("train", "phase-2", "wiki"),
    ],
)
def test_which_block_is_opened(corpus, monkeypatch, split, packing, read):
    class Reader:
        Stream = dict

        @staticmethod
        def StreamingDataset(**arguments):
            return arguments

    monkeypatch.setattr(feed, "import_streaming", lambda: Reader)
    arguments = feed.open_dataset(
        corpus / "streams.yaml", split, packing=packing, batch_size=3, shuffle_seed=5
    )
    places = [f"{corpus}/{name}" for name in read.split()]
    assert [stream["local"] for stream in arguments.pop("streams")] == places
    assert (arguments["batch_size"], arguments["shuffle_seed"]) == (3, 5)
    assert not arguments.keys() & {"max_seq_len", "eos_token_id", "duration"}
    assert arguments["shuffle"] is (split == "train" and len(places) == 3)


def test_a_missing_library_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "streaming"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "streaming", None)
    with pytest.raises(ImportError, match=r'pip install "winnow\[train\]"'):
        feed.import_streaming()
    assert "streaming.vision" not in sys.modules


def test_making_a_block_loads_nothing_heavy(tmp_path):
    loaded = run_apart(
        tmp_path,
        "import json, sys, winnow.shards.feed\n"
        "heavy = {'streaming', 'torch', 'transformers', 'ray', 'numpy', 'fsspec'}\n"
        "print(json.dumps(sorted(heavy & set(sys.modules))))",
    )
    assert loaded == []


COUNT = """
import collections, json
from winnow.shards import feed

def seen(split, **overrides):
    dataset = feed.open_dataset({path!r}, split, **overrides)
    return [sample["tokens"][:2].tolist() for sample in dataset]

train, more = seen("train"), seen("train", shuffle=False, epoch_size=2002)
val = seen("val")
mixed = seen("train", packing=32)
print(json.dumps({{"train": train, "more": more, "val": val, "mixed": mixed}}))
"""


def test_dataset_mixes_as_the_block_says(streaming, corpus):
    seen = run_apart(corpus, COUNT.format(path=str(corpus / "streams.yaml")))
    counts = np.bincount([stream for stream, _ in seen["train"]])
    # Shares are floored and the left-over row goes to any stream.
    assert counts.sum() == 1001
    assert np.all(np.abs(counts - 1001 * np.array([0.5, 0.3, 0.2])) <= 1)
    assert counts.tolist() == list(feed.rows_drawn(specs(corpus), 1001, 17).values())
    assert np.bincount([stream for stream, _ in seen["more"]]).sum() == 2002
    copies = np.bincount([row for stream, row in seen["train"] if stream == 1], minlength=100)
    assert set(copies.tolist()) <= {3, 4}, "code has 100 rows and gives 300"
    assert seen["train"] != sorted(seen["train"]), "not shuffled"
    assert seen["val"] == [[stream, row] for stream in range(3) for row in range(VAL_ROWS)]
    assert seen["mixed"] == [[0, row] for row in range(700)], "not in the order that was written"


def test_pasted_lines_bring_the_mask_beside_the_tokens():
    torch = pytest.importorskip("torch", reason="the lines need torch: pip install 'winnow[train]'")
    lines = feed.lines_for_reading("/run/streams.yaml", masked=True)
    compile(lines, "pasted", "exec")
    assert "labels: tokens.masked_fill(loss_mask == 0, -100)" in lines
    pasted = {"torch": torch}
    exec(lines[lines.index("def collate") : lines.index("dataset =")], pasted)
    samples = [
        {"tokens": np.array([i, 2], np.uint16), "loss_mask": np.array([0, 1], np.uint8)} for i in (1, 3)
    ]
    batch = pasted["collate"](samples)
    assert {name: column.tolist() for name, column in batch.items()} == {
        "tokens": [[1, 2], [3, 2]],
        "loss_mask": [[0, 1], [0, 1]],
    }
    assert all(column.dtype == torch.int64 for column in batch.values())


def test_pasted_lines_stream_the_run(streaming, corpus):
    lines = feed.lines_for_reading(corpus / "streams.yaml")
    assert lines.splitlines()[0] == '# pip install "mosaicml-streaming==0.13.*" torch'
    assert "winnow" not in lines.replace(str(corpus), "").lower()
    compile(lines, "pasted", "exec")
    after = """
import json
batches = list(loader)
rows = torch.cat(batches)
print(json.dumps([str(rows.dtype), list(rows.shape), torch.bincount(rows[:, 0]).tolist()]))
"""
    dtype, shape, counts = run_apart(corpus, lines + after)
    assert (dtype, shape) == ("torch.int64", [1001, LENGTH])
    assert np.all(np.abs(np.array(counts) - 1001 * np.array([0.5, 0.3, 0.2])) <= 1)
