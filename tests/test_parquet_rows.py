"""Does every row of a Parquet file become its document, whatever the other columns hold?"""

import datetime
import decimal
import json
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from winnow.shards import parquet_rows, parquet_values, readers
from winnow.shards.inputs import InputError, Piece
from winnow.shards.readers import ReadSettings

PARQUET = ReadSettings("parquet")
HALF = 0x0123456789ABCDEF


def piece(path, start=0, stop=-1):
    return Piece(0, str(path), path.name, HALF, path.stat().st_size, start, stop)


def read(path, settings_, seen=None):
    """Every document as a dict, every lost row."""
    batches = list(readers.read([piece(path)], settings_, seen or readers.Seen()))
    assert all(b.table.schema == readers.DOCUMENT_SCHEMA for b in batches)
    return [row for b in batches for row in b.table.to_pylist()], [row for b in batches for row in b.lost]


def position(id_):
    assert id_[:8] == HALF.to_bytes(8, "big")
    return int.from_bytes(id_[8:], "big")


def parquet(tmp_path, **columns):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def invalid_strings(*values):
    """A string column whose bytes were never checked."""
    raw = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())


def test_missing_text_column_message_whole(tmp_path):
    path = parquet(tmp_path, content=["a"], url=["b"])
    with pytest.raises(InputError) as caught:
        read(path, PARQUET)
    assert str(caught.value) == "a.parquet: no column 'text'; it has 'content', 'url'"


TEXTS = ["a", None, "", "é\0", "b", "b"]


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.large_binary(),
        pa.dictionary(pa.int8(), pa.string()),
    ],
    ids=str,
)
def test_text_of_any_string_type(tmp_path, kind):
    plain = pa.array(TEXTS, pa.string() if pa.types.is_dictionary(kind) else kind)
    path = parquet(tmp_path, text=plain.dictionary_encode() if pa.types.is_dictionary(kind) else plain)
    seen = readers.Seen()
    kept, lost = read(path, PARQUET, seen)
    assert [(position(r["id"]), r["text"], r["key"], r["meta"]) for r in kept] == [
        (i, TEXTS[i], None, None) for i in (0, 3, 4, 5)
    ]
    assert [(position(r.id), r.reason) for r in lost] == [(1, "wrong-type"), (2, "empty")]
    assert (seen.rows, seen.text_bytes) == (6, 6)


@pytest.mark.parametrize("texts", [[1, 2], [["a"], []], [None, None]])
def test_text_column_of_another_type(tmp_path, texts):
    _, lost = read(parquet(tmp_path, text=texts), PARQUET)
    assert [r.reason for r in lost] == ["wrong-type", "wrong-type"]


@pytest.mark.parametrize(
    "column",
    [pa.array([b"a", b"\xff", b"b"]), invalid_strings(b"a", b"\xff", b"b")],
    ids=["binary", "string"],
)
def test_text_that_is_not_utf8(tmp_path, column):
    kept, lost = read(parquet(tmp_path, text=column), PARQUET)
    assert [r["text"] for r in kept] == ["a", "b"]
    assert [(position(r.id), r.reason, r.raw, r.size) for r in lost] == [(1, "utf8", b"\xff", 1)]


@pytest.mark.parametrize("key", [None, "other"])
def test_row_that_is_not_utf8_elsewhere(tmp_path, key):
    path = parquet(tmp_path, text=["a", "b", "c"], other=invalid_strings(b"x", b"\xff", b"z"))
    kept, lost = read(path, ReadSettings("parquet", key=key))
    assert [r["text"] for r in kept] == ["a", "c"]
    assert [(position(r.id), r.reason) for r in lost] == [(1, "utf8")]


def test_too_large(tmp_path):
    kept, lost = read(
        parquet(tmp_path, text=["x" * 10, "x" * 11, "é" * 6]), ReadSettings("parquet", max_document_bytes=10)
    )
    assert len(kept) == 1
    assert [(r.reason, r.size) for r in lost] == [("too-large", 11), ("too-large", 12)]


def test_other_columns_become_json(tmp_path):
    day = datetime.datetime(2024, 5, 17, 1, 2, 3, 456789)
    path = parquet(
        tmp_path,
        id=pa.array([7, None, 9], pa.int64()),
        text=["a", "b", "c"],
        small=pa.array([1, None, 3], pa.int8()),
        big=pa.array([2**64 - 1, 0, None], pa.uint64()),
        real=pa.array([0.5, float("nan"), None], pa.float64()),
        when=pa.array([day, None, day], pa.timestamp("us")),
        nested=pa.array([{"a": [1, 2], "b": {"c": "é"}}, None, {"a": None, "b": None}]),
        price=pa.array([decimal.Decimal("1.50"), None, None], pa.decimal128(5, 2)),
        raw=pa.array([b"ok", b"\xff", None], pa.binary()),
        date=pa.array([day.date(), None, None], pa.date32()),
        none=pa.nulls(3),
    )  # fmt: skip
    kept, lost = read(path, ReadSettings("parquet", key="id"))
    assert not lost
    assert [r["key"] for r in kept] == ["7", None, "9"]
    first, second, third = (json.loads(r["meta"]) for r in kept)
    assert first == {
        "small": 1,
        "big": 2**64 - 1,
        "real": 0.5,
        "when": "2024-05-17T01:02:03.456789",
        "nested": {"a": [1, 2], "b": {"c": "é"}},
        "price": "1.50",
        "raw": "ok",
        "date": "2024-05-17",
        "none": None,
    }
    assert second == dict.fromkeys(first) | {"big": 0, "raw": "\\xff"}
    assert third == dict.fromkeys(first) | {
        "small": 3,
        "when": first["when"],
        "nested": {"a": None, "b": None},
    }


def test_times_need_neither_pandas_nor_zones(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.setenv("PYTHONTZPATH", "")
    ns = pa.array([1_700_000_000_123_456_789, None], pa.int64())
    path = parquet(
        tmp_path,
        text=["a", "b"],
        ns=ns.cast(pa.timestamp("ns")),
        zone=ns.cast(pa.timestamp("ns", "Europe/Berlin")),
        listed=pa.array([[1_001], None], pa.list_(pa.timestamp("ns"))),
        inside=pa.StructArray.from_arrays([ns.cast(pa.timestamp("ns"))], ["at"]),
        late=pa.array([2**60, 0], pa.int64()).cast(pa.timestamp("us")),
        took=pa.array([1_500, None], pa.duration("ns")),
    )
    (first, second), lost = read(path, PARQUET)
    assert not lost
    at = "2023-11-14T22:13:20.123456"
    assert json.loads(first["meta"]) == {
        "ns": at,
        "zone": at + "+00:00",
        "listed": ["1970-01-01T00:00:00.000001"],
        "inside": {"at": at},
        "late": None,
        "took": "0:00:00.000001",
    }
    assert json.loads(second["meta"])["late"] == "1970-01-01T00:00:00"


@pytest.mark.parametrize("keep", [0, 3, 100, 0.5, -1, -8])
def test_cut_parquet_names_the_file(tmp_path, keep):
    path = parquet(tmp_path, text=[f"{i} some text" for i in range(5000)])
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(InputError, match=r"^a\.parquet: "):
        read(path, PARQUET)


def test_damaged_parquet_page_names_the_file(tmp_path):
    path = parquet(tmp_path, text=[f"{i} some text" for i in range(5000)])
    content = bytearray(path.read_bytes())
    content[4:2000] = bytes(1996)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"^a\.parquet: "):
        read(path, PARQUET)


@pytest.mark.parametrize("codec", ["none", "snappy", "gzip", "zstd", "brotli", "lz4"])
@pytest.mark.parametrize(("longest", "step"), [(1000, 1024), (1 << 19, 256), (1 << 20, 128)])
def test_as_many_rows_at_a_time_as_may_all_have_the_longest_value_of_a_dictionary(
    tmp_path, codec, longest, step
):
    values = [f"{i:04}" * 250 for i in range(1500)] + ["x" * longest]
    column = pa.array([value for value in values for _ in range(3)])
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": column}), path, compression=codec, dictionary_pagesize_limit=1 << 22)
    with open(path, "rb") as file:
        assert parquet_rows._group(pq.ParquetFile(file), file, 0).step == step
    texts = [row["text"] for row in read(path, PARQUET)[0]]
    assert texts == column.to_pylist()


def test_a_dictionary_that_cannot_be_looked_into_is_taken_for_one_value(tmp_path, monkeypatch):
    path = parquet(tmp_path, text=pa.array([f"{i:04}" * 250 for i in range(1000)] * 2))

    def unreadable(*_):
        raise parquet_values.UnreadableError("another codec")

    monkeypatch.setattr(parquet_values, "longest_of", unreadable)
    with open(path, "rb") as file:
        assert parquet_rows._group(pq.ParquetFile(file), file, 0).step == parquet_rows.PAGE_BYTES // 10**6
