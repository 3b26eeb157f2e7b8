"""Does a trainer get the mixture that its block promises, and do the lines we print work when pasted?"""

import inspect
import json
import subprocess
import sys

import numpy as np
import pytest
import yaml
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
    }
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
    for block in (feed.train_loader(specs(root), 99, 16, 0, 0), feed.eval_loader(specs(root), 16, 0)):
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


@pytest.mark.parametrize(
    ("content", "split", "message"),
    [
        pytest.param("train_loader: {dataset: {}}", "test", "split must be 'train' or 'val'", id="split"),
        pytest.param(
            "train_loader: {dataset: {}}", "val", "has no 'eval_loader' with a dataset", id="no-val"
        ),
        pytest.param("- 1", "train", "has no 'train_loader' with a dataset", id="list"),
    ],
)
def test_files_that_are_refused(tmp_path, content, split, message):
    (tmp_path / "streams.yaml").write_text(content)
    with pytest.raises(ValueError, match=message):
        feed.open_dataset(tmp_path / "streams.yaml", split)


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
print(json.dumps({{"train": train, "more": more, "val": val}}))
"""


def test_dataset_mixes_as_the_block_says(streaming, corpus):
    seen = run_apart(corpus, COUNT.format(path=str(corpus / "streams.yaml")))
    counts = np.bincount([stream for stream, _ in seen["train"]])
    # Shares are floored and the left-over row goes to any stream.
    assert counts.sum() == 1001
    assert np.all(np.abs(counts - 1001 * np.array([0.5, 0.3, 0.2])) <= 1)
    assert np.bincount([stream for stream, _ in seen["more"]]).sum() == 2002
    copies = np.bincount([row for stream, row in seen["train"] if stream == 1], minlength=100)
    assert set(copies.tolist()) <= {3, 4}, "code has 100 rows and gives 300"
    assert seen["train"] != sorted(seen["train"]), "not shuffled"
    assert seen["val"] == [[stream, row] for stream in range(3) for row in range(VAL_ROWS)]


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
