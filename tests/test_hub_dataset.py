"""Are the rows of a data set that is named by its id those of its files, with ids that stay?

Everything is read from directories that are laid out like repositories; tests/test_hub.py has the hub itself.
"""

from __future__ import annotations

import datetime
import json
import os
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from winnow.pipelines.located import RecipeError
from winnow.pipelines.planning import plan
from winnow.pipelines.recipe import read
from winnow.shards import hub_dataset, readers
from winnow.shards.inputs import InputError
from winnow.shards.splits import cut

datasets = pytest.importorskip("datasets")
CARD = """---
configs:
- config_name: en
  data_files:
  - {split: train, path: "en/train-*.parquet"}
  - {split: test, path: en/test.parquet}
- config_name: de
  data_files: "de/*.parquet"
---
"""
WHEN = datetime.datetime(2020, 1, 2, 3, 4, 5)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "org" / "name"
    (folder / "en").mkdir(parents=True)
    (folder / "de").mkdir()
    (folder / "README.md").write_text(CARD)
    for k in range(3):
        texts = [f"train {k} {i}" for i in range(1500 if k == 1 else 4)]
        put(folder / f"en/train-{k}.parquet", texts)
    put(folder / "en/test.parquet", ["test"])
    put(folder / "de/a.parquet", ["eins", "zwei"])
    return folder


def put(path: Path, texts: list[str]) -> None:
    table = pa.table(
        {"text": texts, "when": [WHEN] * len(texts), "more": [{"n": i} for i in range(len(texts))]}
    )
    pq.write_table(table, path, row_group_size=100)


def documents(files, **settings):
    """(id, text, meta) of every document, and the reasons of lost rows."""
    kept, lost = [], []
    for split in cut("s", files, "dataset", 10**6):
        for batch in readers.read(split.pieces, readers.ReadSettings("dataset", **settings), readers.Seen()):
            columns = (batch.table.column(c).to_pylist() for c in ("id", "text", "meta"))
            kept += zip(*columns, strict=True)
            lost += [row.reason for row in batch.lost]
    return kept, lost


def test_rows_are_those_of_the_files(repository: Path) -> None:
    files = hub_dataset.list_shards("s", str(repository), "en", None)
    assert [f.path for f in files] == [f"en/train/{k:05d}-of-00003" for k in range(3)]
    assert [f.size for f in files] == [
        os.path.getsize(repository / f"en/train-{k}.parquet") for k in range(3)
    ]
    kept, lost = documents(files)
    assert not lost
    assert [text for _, text, _ in kept] == [
        f"train {k} {i}" for k in range(3) for i in range(1500 if k == 1 else 4)
    ]
    half = xxhash.xxh3_64_intdigest(b"s\0en/train/00001-of-00003").to_bytes(8, "big")
    assert [id_ for id_, *_ in kept[4:1504]] == [half + i.to_bytes(8, "big") for i in range(1500)]
    assert json.loads(kept[5][2]) == {"when": "2020-01-02T03:04:05", "more": {"n": 1}}
    assert documents(files, text="none.at.all", compose=_Joined())[0][0][1] == "train 0 0/0"


class _Joined:
    def __call__(self, columns):
        return f"{columns['text']}/{columns['more']['n']}", {}


def test_configurations_and_splits(repository: Path) -> None:
    def texts(config, split):
        return [t for _, t, _ in documents(hub_dataset.list_shards("s", str(repository), config, split))[0]]

    assert texts("en", "test") == ["test"]
    assert texts("de", None) == ["eins", "zwei"]


@pytest.mark.parametrize(
    ("config", "split", "message"),
    [
        ("fr", None, "BuilderConfig 'fr' not found. Available: .*en"),
        (None, None, "Config name is missing"),
        ("en", "dev", "Bad split: dev. Available splits: .*test"),
    ],
)
def test_what_is_not_there(repository: Path, config: str | None, split: str | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        hub_dataset.list_shards("s", str(repository), config, split)


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="source 's': there is no directory"):
        hub_dataset.list_shards("s", str(tmp_path / "none"), None, None)


def test_text_that_is_none_and_columns_that_are_not_there(tmp_path: Path) -> None:
    offsets = pa.py_buffer(b"".join(n.to_bytes(4, "little") for n in (0, 4, 6)))
    bad = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"good\xff\xfe")])
    pq.write_table(pa.table({"text": bad}), tmp_path / "a.parquet")
    files = hub_dataset.list_shards("s", str(tmp_path), None, None)
    kept, lost = documents(files)
    assert [text for _, text, _ in kept] == ["good"]
    assert lost == ["utf8"]
    with pytest.raises(InputError, match=r"default/train/00000-of-00001: no column 'content'; it has 'text'"):
        documents(files, text="content")


def test_images_are_refused(tmp_path: Path) -> None:
    kinds = datasets.Features({"text": datasets.Value("string"), "pages": [{"scan": datasets.Image()}]})
    table = pa.Table.from_pylist([{"text": "a", "pages": []}], schema=kinds.arrow_schema)
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(InputError, match="columns 'pages' are images or sound, not text"):
        hub_dataset.list_shards("s", str(tmp_path), None, None)


def test_a_changed_file_is_an_error_and_a_new_plan_reads_it(repository: Path) -> None:
    def listed(split: str):
        return hub_dataset.list_shards("s", str(repository), "en", split)

    files, many = listed("test"), listed("train")
    assert [text for _, text, _ in documents(files)[0]] == ["test"]
    put(repository / "en/test.parquet", ["other", "text"])
    with pytest.raises(InputError, match="en/test/00000-of-00001: changed since the run was planned"):
        documents(files)
    assert [text for _, text, _ in documents(listed("test"))[0]] == ["other", "text"]
    put(repository / "en/train-3.parquet", ["new"])
    with pytest.raises(InputError, match="en/train/00000-of-00003: changed since the run was planned"):
        documents(many)
    assert [text for _, text, _ in documents(listed("train"))[0]][-1] == "new"


RECIPE = """
name: x
tokenizer: {{name: mistral-7b-v0.1}}
mirrors: {{"hf://datasets": "{root}"}}
sources:
  s: {{read: {{format: dataset, path: {path}, config: en{more}}}}}
"""


def planned(root: Path, path: str = "org/name", more: str = ""):
    return plan(read(RECIPE.format(root=root, path=path, more=more), "r.yaml")).sources[0]


def test_in_a_recipe(repository: Path, tmp_path: Path) -> None:
    source = planned(tmp_path)
    assert source.files == hub_dataset.list_shards("s", str(repository), "en", "train")
    assert (source.named, source.root) == ("hf://datasets/org/name", str(repository))
    by_root = planned(tmp_path, more=f", root: {tmp_path}")
    assert by_root.files == source.files
    with pytest.raises(RecipeError, match=r"r\.yaml:6:.*there is no directory .*/org/other"):
        planned(tmp_path, "org/other")
    with pytest.raises(RecipeError, match="a `dataset` is one id"):
        planned(tmp_path, "[org/name, org/other]")


def test_without_the_package(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        RecipeError, match=r"r\.yaml:6:.*needs the package datasets.*pip install 'winnow\[hub\]'"
    ):
        planned(tmp_path)
