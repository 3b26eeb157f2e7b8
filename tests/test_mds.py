"""Are our shards MDSWriter's, byte for byte, does its reader read them, and is every damage found?"""

import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import zstandard
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from winnow.shards import feed, mds

SMALL = mds.Layout(dtype="uint16", length=8, size_limit=700)  # 25 rows a shard


@pytest.fixture(scope="module")
def streaming():
    pytest.importorskip("torch", reason="mosaicml-streaming needs torch: pip install 'winnow[train]'")
    try:
        return feed.import_streaming()
    except ImportError:
        pytest.skip("the oracle is mosaicml-streaming: pip install 'winnow[train]'")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """Makes a new directory at each call: Hypothesis runs many examples in one test."""
    root, made = tmp_path_factory.mktemp("shards"), iter(range(10**9))
    return lambda: root / str(next(made))


def write_ours(directory, rows, layout):
    """Write rows as a caller would: cut by rows_per_shard, put the files, then the index."""
    directory.mkdir(parents=True)
    n, entries = mds.rows_per_shard(layout), []
    for index, start in enumerate(range(0, len(rows), n)):
        shard = mds.write_shard(rows[start : start + n], layout, index)
        for name, content in shard.files:
            (directory / name).write_bytes(content)
        entries.append(shard.entry)
    (directory / "index.json").write_bytes(mds.index_json(entries))
    return entries


def stored(rows, layout):
    [(_, content)] = mds.write_shard(rows, layout, 0).files
    return content


def write_theirs(streaming, directory, rows, layout):
    encoding = f"ndarray:{layout.dtype}:{layout.length}"
    with streaming.MDSWriter(
        out=str(directory),
        columns={"tokens": encoding},
        compression=layout.compression,
        hashes=list(layout.hashes),
        size_limit=layout.size_limit,
    ) as writer:
        for row in rows.astype(layout.dtype):
            writer.write({"tokens": row})


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def without_zip_facts(index):
    """The index with zstd's sizes and hashes left out: two builds of zstd may compress differently."""
    content = json.loads(index)
    for entry in content["shards"]:
        entry["zip_data"] = entry["zip_data"]["basename"]
    return content


def some_rows(n_rows, layout, seed=0):
    top = np.iinfo(layout.dtype).max
    return np.random.default_rng(seed).integers(0, top, (n_rows, layout.length), layout.dtype, endpoint=True)


@st.composite
def layouts(draw, compressions=(None,)):
    try:
        return mds.Layout(
            dtype=draw(st.sampled_from(["uint16", "uint32"])),
            length=draw(st.integers(1, 40)),
            hashes=draw(st.sampled_from([(), ("sha1",), ("xxh64",), ("sha1", "xxh64")])),
            compression=draw(st.sampled_from(compressions)),
            size_limit=draw(st.integers(300, 1500)),
        )
    except ValueError:  # not even one row fits
        assume(False)


@st.composite
def layout_and_rows(draw, compressions=(None,)):
    layout = draw(layouts(compressions))
    return layout, some_rows(draw(st.integers(1, 60)), layout, draw(st.integers(0, 99)))


@settings(deadline=None)
@given(case=layout_and_rows())
def test_files_and_index_are_those_of_mdswriter(case, streaming, scratch):
    layout, rows = case
    ours, theirs = scratch(), scratch()
    write_ours(ours, rows, layout)
    write_theirs(streaming, theirs, rows, layout)
    assert contents(ours) == contents(theirs)


@settings(deadline=None, max_examples=40)
@given(case=layout_and_rows(compressions=("zstd", "zstd:1", "zstd:19")))
def test_compressed_shards_decompress_to_those_of_mdswriter(case, streaming, scratch):
    layout, rows = case
    ours, theirs = scratch(), scratch()
    write_ours(ours, rows, layout)
    write_theirs(streaming, theirs, rows, layout)
    ours, theirs = contents(ours), contents(theirs)
    assert without_zip_facts(ours.pop("index.json")) == without_zip_facts(theirs.pop("index.json"))
    assert ours.keys() == theirs.keys()
    assert all(name.endswith(".mds.zstd") for name in ours)
    for name, frame in ours.items():
        assert zstandard.decompress(frame) == zstandard.decompress(theirs[name])


def test_a_full_shard_of_the_default_size_ends_where_mdswriter_ends_it(streaming, scratch):
    layout = mds.Layout(dtype="uint16", length=2048)
    assert mds.rows_per_shard(layout) == 16_367
    assert mds.rows_per_shard(replace(layout, dtype="uint32")) == 8_187
    rows, ours, theirs = some_rows(16_368, layout), scratch(), scratch()
    write_ours(ours, rows, layout)
    write_theirs(streaming, theirs, rows, layout)
    # The index carries the hash of each file.
    assert (ours / "index.json").read_bytes() == (theirs / "index.json").read_bytes()
    assert len(list(ours.glob("shard.*.mds"))) == 2


@pytest.mark.parametrize(
    "convert",
    [
        pytest.param(lambda rows: rows.astype(np.int64), id="int64"),
        pytest.param(lambda rows: rows.astype(">u4"), id="other-byte-order"),
        pytest.param(lambda rows: np.asfortranarray(rows), id="column-major"),
        pytest.param(lambda rows: np.repeat(rows, 2, axis=1)[:, ::2], id="strided"),
    ],
)
def test_any_integer_array_gives_the_same_bytes(convert):
    rows = some_rows(5, SMALL)
    np.testing.assert_array_equal(stored(convert(rows), SMALL), stored(rows, SMALL))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        pytest.param(np.full((1, 8), 70_000), "token id 70000 does not fit into uint16", id="too-large"),
        pytest.param(np.full((1, 8), -1), "token id -1 is negative", id="negative"),
        pytest.param(np.zeros((1, 8)), "token ids must be integers, not float64", id="floats"),
        pytest.param(np.zeros((1, 8), bool), "token ids must be integers, not bool", id="booleans"),
        pytest.param(np.zeros(8, int), "rows must have the shape [n, 8], not [8]", id="one-axis"),
        pytest.param(np.zeros((1, 9), int), "rows must have the shape [n, 8], not [1, 9]", id="too-long"),
        pytest.param(np.zeros((0, 8), int), "a shard of this layout holds 1 to 25 rows, not 0", id="no-row"),
        pytest.param(
            np.zeros((26, 8), int), "a shard of this layout holds 1 to 25 rows, not 26", id="too-many"
        ),
    ],
)
def test_rows_that_are_refused(rows, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        mds.write_shard(rows, SMALL, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "int32"},
        {"length": 0},
        {"hashes": ("xxh64", "sha1")},
        {"hashes": ("md5",)},
        {"hashes": ["xxh64"]},
        {"compression": "gz"},
        {"compression": "zstd:0"},
        {"compression": "zstd:23"},
        {"size_limit": 1 << 32},
        {"size_limit": 200},
    ],
    ids=str,
)
def test_layouts_that_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(SMALL, **change)


@settings(deadline=None)
@given(case=layout_and_rows(compressions=(None, "zstd:1")), data=st.data())
def test_any_range_of_rows_reads_back(case, data):
    layout, rows = case
    rows = rows[: mds.rows_per_shard(layout)]
    shard = mds.write_shard(rows, layout, 3)
    start = data.draw(st.integers(0, len(rows)))
    stop = data.draw(st.integers(start, len(rows)))
    [(name, content)] = shard.files
    assert name.startswith("shard.00003.mds")
    raw = mds.raw_shard(bytes(content), shard.entry)
    np.testing.assert_array_equal(mds.read_rows(raw, shard.entry, start, stop), rows[start:stop])
    assert mds.read_index(mds.index_json([shard.entry])) == [shard.entry]
    assert mds.check_shard(content, shard.entry, int(rows.max())) == []


def test_rows_that_are_not_there():
    raw, entry = raw_and_entry()
    with pytest.raises(ValueError, match="rows 4 to 6 asked of a shard of 5"):
        mds.read_rows(raw, entry, 4, 6)
    with pytest.raises(ValueError, match=r"the shard ends after \d+ bytes, before row 5"):
        mds.read_rows(raw[:-1], entry, 0, 5)


def raw_and_entry(layout=SMALL):
    shard = mds.write_shard(some_rows(5, layout), layout, 0)
    return bytes(shard.files[0][1]), shard.entry


@settings(deadline=None)
@given(
    compression=st.sampled_from([None, "zstd:3"]),
    where=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
)
def test_every_flipped_bit_is_found(compression, where, bit):
    content, entry = raw_and_entry(replace(SMALL, compression=compression))
    damaged = bytearray(content)
    damaged[int(where * len(content))] ^= 1 << bit
    problems = mds.check_shard(damaged, entry, 65_535)
    assert any("xxh64 is" in problem for problem in problems)


@settings(deadline=None)
@given(compression=st.sampled_from([None, "zstd:3"]), where=st.floats(0, 1, exclude_max=True))
def test_every_truncation_is_found(compression, where):
    content, entry = raw_and_entry(replace(SMALL, compression=compression, hashes=()))
    size = int(where * len(content))
    problems = mds.check_shard(content[:size], entry, 65_535)
    assert f"{size} bytes, the index says {len(content)}" in problems[0]


@settings(deadline=None)
@given(compression=st.sampled_from([None, "zstd:3"]), garbage=st.binary(max_size=400))
def test_garbage_is_reported_not_raised(compression, garbage):
    _, entry = raw_and_entry(replace(SMALL, compression=compression))
    assert mds.check_shard(garbage, entry, 65_535)


def test_damaged_headers_are_found_without_hashes():
    raw, entry = raw_and_entry(replace(SMALL, hashes=()))
    first_row = len(raw) - 5 * 16
    for position in range(first_row):
        damaged = bytearray(raw)
        damaged[position] ^= 1
        assert mds.check_shard(damaged, entry, 65_535), f"byte {position} of {first_row} is not looked at"


def test_what_verify_says():
    raw, entry = raw_and_entry(replace(SMALL, hashes=()))
    largest = int(some_rows(5, SMALL).max())
    assert mds.check_shard(raw, entry, largest) == []
    assert mds.check_shard(raw, entry, largest - 1) == [
        f"shard.00000.mds: token id {largest} is larger than {largest - 1}, the largest allowed"
    ]
    assert mds.check_shard(raw, {**entry, "samples": 4}, largest) == [
        "shard.00000.mds: the header counts 5 rows, the index 4",
        f"shard.00000.mds: 4 rows take {len(raw) - 20} bytes, it has {len(raw)}",
    ]
    other = replace(SMALL, hashes=(), size_limit=701)
    assert mds.check_shard(stored(some_rows(5, SMALL), other), entry, largest) == [
        "shard.00000.mds: its settings differ from the index"
    ]
    frame, zip_entry = raw_and_entry(replace(SMALL, compression="zstd:3", hashes=()))
    wrong = {**zip_entry, "raw_data": {**zip_entry["raw_data"], "bytes": 1 << 31}}
    assert mds.check_shard(frame, wrong, largest) == [
        "shard.00000.mds.zstd: not a zstd frame of the 2147483648 bytes that the index states"
    ]


def changed(**fields):
    _, entry = raw_and_entry()
    return mds.index_json([{**entry, **fields}])


@pytest.mark.parametrize(
    ("index", "message"),
    [
        pytest.param(b"", "the index is not JSON", id="empty"),
        pytest.param(b"[" * 100_000, "the index is not JSON", id="deeply-nested"),
        pytest.param(b"\xff", "the index is not JSON", id="not-utf-8"),
        pytest.param(b"[]", "not an object with a list of shards", id="list"),
        pytest.param(b'{"version": 1, "shards": []}', "the index has version 1", id="old"),
        pytest.param(b'{"version": 2, "shards": [3]}', "shard 0 of the index: not an object", id="number"),
        pytest.param(changed(column_encodings=["pkl"]), "column_encodings must be", id="pickle"),
        pytest.param(changed(column_encodings=["ndarray:int32:8"]), "column_encodings must be", id="int32"),
        pytest.param(
            changed(column_encodings=["ndarray:uint16"]), "column_encodings must be", id="no-length"
        ),
        pytest.param(changed(column_encodings=["ndarray:uint16:8", "pkl"]), "column_encodings", id="two"),
        pytest.param(changed(column_names=["text"]), "column_names must be", id="name"),
        pytest.param(changed(column_sizes=[8]), "column_sizes must be", id="sizes"),
        pytest.param(changed(format="json"), "format must be 'mds'", id="format"),
        pytest.param(changed(version=3), "version must be 2", id="version"),
        pytest.param(changed(hashes="xxh64"), "hashes must be", id="hashes"),
        pytest.param(changed(size_limit=None), "size_limit must be", id="no-limit"),
        pytest.param(changed(samples=0), "samples must be 1 to 25, not 0", id="no-samples"),
        pytest.param(changed(samples=True), "samples must be", id="not-a-number"),
        pytest.param(changed(zip_data={}), "zip_data must be null", id="zip"),
        pytest.param(changed(raw_data=None), "raw_data must have", id="no-file"),
        pytest.param(
            changed(raw_data={"basename": "../x.mds", "bytes": 9, "hashes": {"xxh64": ""}}),
            "'../x.mds' is not a relative path",
            id="outside",
        ),
        pytest.param(
            changed(raw_data={"basename": "x.mds", "bytes": 9, "hashes": {}}),
            "hashes must be exactly",
            id="bare",
        ),
        pytest.param(changed(more=1), "unknown key 'more'", id="unknown"),
    ],
)
def test_indexes_that_are_refused(index, message):
    with pytest.raises(ValueError, match=message):
        mds.read_index(index)


@settings(deadline=None)
@given(position=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_a_damaged_index_is_read_or_refused(position, byte):
    index = bytearray(changed())
    index[int(position * len(index))] = byte
    try:
        entries = mds.read_index(bytes(index))
    except ValueError:
        return
    assert all(isinstance(mds.layout_of(entry), mds.Layout) for entry in entries)


def test_level_is_used_and_3_without_one():
    rows = np.arange(25 * 8).reshape(25, 8)
    frames = {
        level: bytes(
            mds.write_shard(rows, replace(SMALL, compression=level, size_limit=1 << 12), 0).files[0][1]
        )
        for level in ("zstd:1", "zstd:3", "zstd:19")
    }
    assert len(set(frames.values())) == 3
    # A bare "zstd" makes the settings inside the shard two bytes shorter, so frames are compared by level.
    bare = replace(SMALL, compression="zstd", size_limit=1 << 12)
    blank = mds.blank_shard(len(rows), bare)
    blank.rows[...] = rows
    assert stored(rows, bare) == zstandard.compress(blank.raw.tobytes(), 3)


def test_rows_filled_in_give_the_shard_of_their_copy():
    for layout in (SMALL, replace(SMALL, dtype="uint32", compression="zstd:1")):
        rows = some_rows(mds.rows_per_shard(layout), layout)
        blank = mds.blank_shard(len(rows), layout)
        assert blank.rows.shape == rows.shape
        blank.rows[...] = rows
        ours, copied = mds.finish_shard(blank, layout, 7), mds.write_shard(rows, layout, 7)
        assert ours.entry == copied.entry
        assert [(n, bytes(c)) for n, c in ours.files] == [(n, bytes(c)) for n, c in copied.files]
        assert layout.compression or ours.files[0][1] is blank.raw, "copied"
    for n_rows in (0, 26):
        with pytest.raises(ValueError, match=f"^a shard of this layout holds 1 to 25 rows, not {n_rows}$"):
            mds.blank_shard(n_rows, SMALL)
    with pytest.raises(ValueError, match="number must be 0 or more, not -1"):
        mds.finish_shard(mds.blank_shard(1, SMALL), SMALL, -1)


READ_ALL = """
import hashlib, json, sys
import numpy as np
from winnow.shards import feed
streaming = feed.import_streaming()
digests = {}
for directory in sys.argv[1:]:
    dataset = streaming.StreamingDataset(local=directory, batch_size=1, shuffle=False)
    rows = [sample["tokens"] for sample in dataset]
    digests[directory] = [len(rows), str(rows[0].dtype), hashlib.sha1(np.stack(rows).tobytes()).hexdigest()]
print(json.dumps(digests))
"""


def test_streamingdataset_reads_what_we_wrote(streaming, tmp_path):
    """In a process and temporary directory of its own: the reader leaves locks and shared memory."""
    expected = {}
    for name, layout in {
        "raw": SMALL,
        "zstd": replace(SMALL, compression="zstd:3"),
        "uint32": replace(SMALL, dtype="uint32"),
    }.items():
        rows = some_rows(50, layout)
        entries = write_ours(tmp_path / name, rows, layout)
        assert len(entries) > 1, "one shard only"
        expected[str(tmp_path / name)] = [50, layout.dtype, hashlib.sha1(rows.tobytes()).hexdigest()]
    (tmp_path / "tmp").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, *expected],
        env={"PATH": "", "TMPDIR": str(tmp_path / "tmp")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == expected
