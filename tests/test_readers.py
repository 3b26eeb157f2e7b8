"""Does every row of every format become its document, or is it set aside with its reason?"""

import bz2
import contextlib
import errno
import gzip
import io
import itertools
import json
import lzma
import math
import random
import subprocess
import sys
import zlib
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from winnow.shards import decompress, inputs, parquet_rows, readers, rows
from winnow.shards.inputs import InputError, Piece
from winnow.shards.readers import ReadSettings
from winnow.shards.storage_errors import RefusedError

JSONL = ReadSettings("jsonl")
PARQUET = ReadSettings("parquet")
HALF = 0x0123456789ABCDEF


def piece(path, start=0, stop=-1, half=HALF):
    return Piece(0, str(path), path.name, half, path.stat().st_size if path.exists() else 0, start, stop)


def read(path, settings_, seen=None):
    """Every document as a dict, every lost row."""
    batches = list(readers.read([piece(path)], settings_, seen or readers.Seen()))
    assert all(b.table.schema == readers.DOCUMENT_SCHEMA for b in batches)
    return [row for b in batches for row in b.table.to_pylist()], [row for b in batches for row in b.lost]


def read_line(tmp_path, line, **more):
    path = tmp_path / "a.jsonl"
    path.write_bytes(line + b"\n")
    return read(path, ReadSettings("jsonl", **more))


def position(id_):
    assert id_[:8] == HALF.to_bytes(8, "big")
    return int.from_bytes(id_[8:], "big")


# ---- JSON lines: reasons by hand --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        pytest.param(b'{"text": "a"', "json", id="broken"),
        pytest.param(b'{"text": "a"} {"text": "b"}', "json", id="two-values"),
        pytest.param(b"{'text': 'a'}", "json", id="single-quotes"),
        pytest.param(b'{"text": "a\tb"}', "json", id="bare-control"),
        pytest.param(b'{"text": "a", "n": ' + b"[" * 5000 + b"]" * 5000 + b"}", "json", id="5000-deep"),
        pytest.param(b'{"text": "a", "n": ' + b"[" * 1015 + b"]" * 1015 + b"}", "json", id="1015-deep"),
        pytest.param(b'{"text": "a", "n": ' + b"[" * 260 + b"]" * 260 + b"}", "json", id="260-deep"),
        pytest.param(
            b'{"text": "a", "n": ' + b'{"n":' * 260 + b"NaN" + b"}" * 260 + b"}", "json", id="260-deep-nan"
        ),
        pytest.param(b'{"text": "a", "n": ' + b"1" * 5000 + b"}", "json", id="5000-digits"),
        pytest.param(b'{"text": "a\xff"}', "utf8", id="bad-byte"),
        pytest.param(b'{"text": "a", "other": "\xc3"}', "utf8", id="bad-byte-in-another-column"),
        pytest.param(b'{"text": "\xed\xa0\x80"}', "utf8", id="surrogate-in-utf8"),
        pytest.param(b'{"text": "a\\ud83d"}', "surrogate", id="half-a-pair"),
        pytest.param(b'{"text": "\\ude00\\ud83d"}', "surrogate", id="pair-swapped"),
        pytest.param(b'{"key": "a"}', "missing-column", id="no-text"),
        pytest.param(b'{"Text": "a"}', "missing-column", id="other-case"),
        pytest.param(b"{}", "missing-column", id="empty-object"),
        pytest.param(b'{"text": null}', "wrong-type", id="null"),
        pytest.param(b'{"text": 1}', "wrong-type", id="number"),
        pytest.param(b'{"text": ["a"]}', "wrong-type", id="list"),
        pytest.param(b'{"text": NaN}', "wrong-type", id="nan"),
        pytest.param(b'{"text": ""}', "empty", id="empty"),
        pytest.param(b'["text"]', "not-an-object", id="array"),
        pytest.param(b'"text"', "not-an-object", id="string"),
        pytest.param(b"null", "not-an-object", id="bare-null"),
        pytest.param(b"NaN", "not-an-object", id="bare-nan"),
    ],
)
def test_reason(tmp_path, line, reason):
    seen = readers.Seen()
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text":"before"}\n' + line + b'\n{"text":"after"}\n')
    kept, lost = read(path, JSONL, seen)
    assert [row["text"] for row in kept] == ["before", "after"]
    ((where, found, raw, size),) = [(position(row.id), row.reason, row.raw, row.size) for row in lost]
    assert (where, found) == (18, reason)
    assert (raw, size) == ((b"", 0) if reason == "empty" else (line, len(line)))
    assert (seen.rows, seen.text_bytes, seen.stored_bytes) == (3, 11, path.stat().st_size)


@pytest.mark.parametrize(
    ("line", "text", "meta"),
    [
        pytest.param(b'{"text":"a\\u0000b"}', "a\0b", None, id="nul"),
        pytest.param(b'{"text":" "}', " ", None, id="only-white-space"),
        pytest.param(b'{"text":"\\ud83d\\ude00\xf0\x9f\x98\x80"}', "😀😀", None, id="pair"),
        pytest.param(b'\t{"text":"a"} \r', "a", None, id="white-space-around"),
        pytest.param(b'{"text":"a","text":"b"}', "b", None, id="last-of-equal-names"),
        pytest.param(b'{"text":"a","n":NaN,"i":-Infinity}', "a", {"n": None, "i": None}, id="nan-elsewhere"),
        pytest.param(b'{"text":"a","n":1e999}', "a", {"n": None}, id="beyond-floats"),
        pytest.param(b'{"text":"a","n":18446744073709551615}', "a", {"n": 2**64 - 1}, id="64-bits"),
        pytest.param(b'{"text":"a","n":-9223372036854775808}', "a", {"n": -(2**63)}, id="64-bits-signed"),
        pytest.param(b'{"text":"a","n":1' + b"0" * 30 + b"}", "a", {"n": 1e30}, id="huge-becomes-float"),
        pytest.param(b'{"text":"a","x":"\\ud800","n":NaN}', "a", {"x": "\ud800", "n": math.nan}, id="half-elsewhere"),
        pytest.param(b'{"text":"a","\\udfff":1}', "a", {"\udfff": 1}, id="half-in-a-name"),
        pytest.param(b'{"text":"a","":{"b":[1,null,"\xc3\xa9"]}}', "a", {"": {"b": [1, None, "é"]}}, id="nested"),
        pytest.param(
            b'{"text":"a","n":' + b"[" * 250 + b"]" * 250 + b"}", "a", json.loads(f'{{"n":{"[" * 250 + "]" * 250}}}'),
            id="250-deep",
        ),
    ],
)  # fmt: skip
def test_kept(tmp_path, line, text, meta):
    kept, lost = read_line(tmp_path, line)
    assert not lost
    ((found, rest),) = [(row["text"], row["meta"]) for row in kept]
    assert found == text
    if meta is None:
        assert rest is None
    else:
        assert repr(json.loads(rest)) == repr(meta)  # repr: NaN equals itself


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ('"http://a"', "http://a"),
        ("17", "17"),
        ("null", None),
        ("true", "True"),
        ("1.5", "1.5"),
        ("340282366920938463463374607431768211455", "340282366920938463463374607431768211455"),
    ],
)
def test_key(tmp_path, value, key):
    ((row,), lost) = read_line(tmp_path, f'{{"text":"a","k":{value},"x":1}}'.encode(), key="k")
    assert not lost
    assert row["key"] == key
    assert row["meta"] == '{"x":1}'


def test_row_without_its_key_is_a_document(tmp_path):
    ((row,), _) = read_line(tmp_path, b'{"text":"a"}', key="k")
    assert (row["key"], row["meta"]) == (None, None)


def test_half_character_in_the_key_is_set_aside(tmp_path):
    kept, lost = read_line(tmp_path, b'{"text":"a","k":"\\ud800"}', key="k")
    assert not kept
    assert [row.reason for row in lost] == ["surrogate"]


def test_text_under_another_name(tmp_path):
    ((row,), _) = read_line(tmp_path, b'{"content":"a","text":1}', text="content")
    assert (row["text"], row["meta"]) == ("a", '{"text":1}')


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (json.dumps({"text": "x" * 100}), None),
        (json.dumps({"text": "x" * 101}), "too-large"),
        (json.dumps({"text": "é" * 50}), None),
        (json.dumps({"text": "é" * 51}), "too-large"),
        (json.dumps({"text": "x", "other": "y" * 340}), None),
        (
            json.dumps({"text": "x", "other": "y" * 374}),
            None,
        ),  # a line of 400 bytes, the longest that is read
        (json.dumps({"text": "x", "other": "y" * 375}), "too-large"),
    ],
)
def test_limit_is_of_the_text_in_bytes(tmp_path, line, reason):
    kept, lost = read_line(tmp_path, line.encode(), max_document_bytes=100)
    assert [row.reason for row in lost] == ([reason] if reason else [])
    assert len(kept) == (reason is None)
    assert [row.size for row in lost] == [len(line)] * len(lost)


def test_only_the_beginning_of_a_long_malformed_row_is_kept(tmp_path):
    _, (row,) = read_line(tmp_path, b"{" + b"x" * 200_000)
    assert (row.size, len(row.raw)) == (200_001, rows.RAW_KEPT)


# ---- JSON lines: against the json module -------------------------------------------------------------------------

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(st.sampled_from(["text", "id", "x", "é", "😀"]), VALUES, max_size=5)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(OBJECTS, st.booleans()), max_size=4), st.integers(1, 300))
def test_rows_agree_with_the_json_module(tmp_path_factory, rows, block):
    path = tmp_path_factory.getbasetemp() / "rows.jsonl.gz"
    data, offsets = b"", []
    for row, ascii_ in rows:
        offsets.append(len(data))
        data += json.dumps(row, ensure_ascii=ascii_, allow_nan=False).encode("utf-8", "surrogatepass") + b"\n"
    path.write_bytes(gzip.compress(data))
    with mock.patch.object(decompress, "BLOCK", block):
        kept, lost = read(path, ReadSettings("jsonl", key="id"))
    expected, reasons = [], []
    for (row, _), offset in zip(rows, offsets, strict=True):
        text = row.get("text")
        if isinstance(text, str) and text:
            rest = {k: v for k, v in row.items() if k not in ("text", "id")}
            expected.append((offset, text, row.get("id"), rest))
        else:
            reason = "empty" if text == "" else "wrong-type" if "text" in row else "missing-column"
            reasons.append((offset, reason))
    assert [(position(r.id), r.reason) for r in lost] == reasons
    assert [(position(r["id"]), r["text"]) for r in kept] == [e[:2] for e in expected]
    for row, (_, _, key, rest) in zip(kept, expected, strict=True):
        assert row["key"] == (None if key is None else str(key))
        assert (json.loads(row["meta"]) if row["meta"] else {}) == rest


# ---- compressed streams -----------------------------------------------------------------------------------------


def gzip_members(parts):
    return b"".join(gzip.compress(p, 1) for p in parts)


def zstd_frames(parts):
    return b"".join(zstandard.ZstdCompressor(level=1, write_checksum=True).compress(p) for p in parts)


def bz2_streams(parts):
    return b"".join(bz2.compress(p, 1) for p in parts)


def xz_streams(parts):
    return bytes(8).join(lzma.compress(p, preset=0) for p in parts)  # with padding between them


def lz4_frames(parts):
    out = pa.BufferOutputStream()
    for part in parts:
        frame = pa.BufferOutputStream()
        with pa.CompressedOutputStream(frame, "lz4") as stream:
            stream.write(part)
        out.write(frame.getvalue())
    return out.getvalue().to_pybytes()


CODECS = {
    ".gz": gzip_members, ".zst": zstd_frames, ".bz2": bz2_streams, ".xz": xz_streams, ".lz4": lz4_frames
}  # fmt: skip


def some_rows(n, seed=0):
    rng = random.Random(seed)
    return [
        json.dumps({"text": f"{i} " + rng.randbytes(rng.randint(0, 300)).hex()}).encode() + b"\n"
        for i in range(n)
    ]


def offsets_of(rows):
    return [sum(map(len, rows[:i])) for i in range(len(rows))]


@pytest.mark.parametrize("suffix", CODECS)
@pytest.mark.parametrize("parts", [1, 2, 7])
def test_streams_of_many_members_are_one_stream(tmp_path, suffix, parts):
    rows = some_rows(200)
    data = b"".join(rows)
    cuts = [len(data) * k // parts + 3 * (0 < k < parts) for k in range(parts + 1)]  # inside rows
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(CODECS[suffix]([data[a:b] for a, b in itertools.pairwise(cuts)]))
    kept, lost = read(path, JSONL)
    assert not lost
    assert [position(r["id"]) for r in kept] == offsets_of(rows)
    assert [r["text"] for r in kept] == [json.loads(r)["text"] for r in rows]


@pytest.mark.parametrize("suffix", CODECS)
def test_empty_stream_and_empty_file_hold_no_rows(tmp_path, suffix):
    path = tmp_path / f"a.jsonl{suffix}"
    for content in (CODECS[suffix]([b""]), b""):
        path.write_bytes(content)
        assert read(path, JSONL) == ([], [])


def recoverable(suffix, data):
    """What can be had of a cut stream, by other decompressors, one after another member."""
    out = bytearray()
    if suffix == ".lz4":  # by the same one, a byte at a time
        with pa.CompressedInputStream(pa.BufferReader(data), "lz4") as stream, contextlib.suppress(OSError):
            while byte := stream.read(1):
                out += byte
        return bytes(out)
    while data:
        stream = {
            ".gz": lambda: zlib.decompressobj(31),
            ".zst": lambda: zstandard.ZstdDecompressor().decompressobj(),
            ".bz2": bz2.BZ2Decompressor,
            ".xz": lzma.LZMADecompressor,
        }[suffix]()
        out += stream.decompress(data)
        data = stream.unused_data.lstrip(b"\0")
    return bytes(out)


@pytest.mark.parametrize("suffix", CODECS)
@pytest.mark.parametrize("cut", [1, 9, 0.1, 0.5, 0.77, -20, -1])
def test_cut_stream(tmp_path, suffix, cut):
    rows = some_rows(2000)
    whole = CODECS[suffix]([b"".join(rows[:1200]), b"".join(rows[1200:])])
    content = whole[: int(len(whole) * cut) if isinstance(cut, float) else cut]
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(content)
    with pytest.raises(
        InputError, match=rf"^a\.jsonl\{suffix}: the compressed stream ends too early .*on_truncated: keep"
    ):
        read(path, JSONL)
    seen = readers.Seen()
    kept, lost = read(path, ReadSettings("jsonl", on_truncated="keep"), seen)
    complete = recoverable(suffix, content).count(b"\n")
    assert len(kept) >= complete, "rows before the cut were lost"
    assert [r["text"] for r in kept] == [json.loads(r)["text"] for r in rows[: len(kept)]]
    assert [position(r["id"]) for r in kept] == offsets_of(rows)[: len(kept)]
    assert not lost
    assert seen.truncated == [path.name]
    if cut in (0.5, 0.77, -20):
        assert complete > 0


@pytest.mark.parametrize("suffix", CODECS)
def test_cut_stream_gives_up_every_byte_in_bounded_blocks(suffix):
    data = b"".join(some_rows(8000))  # several blocks
    content = CODECS[suffix]([data])[:-5]
    out = []
    with pytest.raises(decompress.TruncatedError):
        out.extend(decompress.blocks(io.BytesIO(content), inputs.COMPRESSIONS[suffix]))
    found, expected = b"".join(out), recoverable(suffix, content)
    assert len(expected) > decompress.BLOCK
    assert data.startswith(found)
    assert len(found) >= len(expected)
    assert max(map(len, out)) <= decompress.BLOCK


def test_the_other_files_of_a_split_survive_a_cut_one(tmp_path):
    cut, whole = tmp_path / "a.jsonl.gz", tmp_path / "b.jsonl.gz"
    rows = some_rows(50)
    whole.write_bytes(gzip_members([b"".join(rows)]))
    cut.write_bytes(whole.read_bytes()[:-100])
    seen = readers.Seen()
    pieces = [piece(cut, half=1), piece(whole, half=2)]
    batches = list(readers.read(pieces, ReadSettings("jsonl", on_truncated="keep"), seen))
    halves = [i[7] for b in batches for i in b.table["id"].to_pylist()]
    assert halves == sorted(halves)
    assert halves.count(2) == 50
    assert 0 < halves.count(1) < 50
    assert seen.truncated == ["a.jsonl.gz"]


def damaged(suffix):
    content = bytearray(CODECS[suffix]([b"".join(some_rows(2000))]))
    for i in range(len(content) // 2, len(content) // 2 + 40):
        content[i] ^= 0x5A
    return bytes(content)


# A frame of lz4 as Arrow writes it has no sum of its content: damage to that is not seen.
@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        case
        for case in itertools.product(CODECS, ["damaged", "not-compressed", "junk-after"])
        if case != (".lz4", "damaged")
    ],
)
@pytest.mark.parametrize("keep", ["fail", "keep"])
def test_corrupt_stream_names_the_file(tmp_path, suffix, keep, kind):
    path = tmp_path / f"a.jsonl{suffix}"
    rows = b"".join(some_rows(20))
    path.write_bytes({
        "damaged": damaged(suffix), "not-compressed": rows, "junk-after": CODECS[suffix]([rows]) + b"junk, and more"
    }[kind])  # fmt: skip
    with pytest.raises(InputError, match=rf"^a\.jsonl\{suffix}: corrupt compressed stream"):
        read(path, ReadSettings("jsonl", on_truncated=keep))


@pytest.mark.parametrize("suffix", CODECS)
def test_a_bomb_stops(tmp_path, suffix, monkeypatch):
    """gzip and lz4 cannot make one: 1,032 and 255 are the most that a byte becomes."""
    monkeypatch.setattr(decompress, "BOMB_BYTES", 8 << 20)
    monkeypatch.setattr(
        decompress, "BOMB_RATIO", {".gz": 100, ".lz4": 100}.get(suffix, decompress.BOMB_RATIO)
    )
    zeros = CODECS[suffix]([bytes(32 << 20)])
    path = tmp_path / f"a.txt{suffix}"
    for content in (zeros, zeros + CODECS[suffix]([b"a"])):
        path.write_bytes(content)
        with pytest.raises(InputError, match=rf"^a\.txt\{suffix}: .*a decompression bomb: .*`exclude`"):
            read(path, ReadSettings("text", on_truncated="keep"))
    path.write_bytes(CODECS[suffix]([bytes(7 << 20)]))
    assert read(path, ReadSettings("text"))[1] == []


def test_an_xz_window_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(decompress, "XZ_MEMORY", 1 << 20)
    path = tmp_path / "a.txt.xz"
    path.write_bytes(lzma.compress(b"a", preset=6))
    with pytest.raises(InputError, match=r"^a\.txt\.xz: corrupt compressed stream \(Memory usage limit"):
        read(path, ReadSettings("text"))


@pytest.mark.parametrize("suffix", ["", *CODECS])
def test_failing_disk_is_no_fault_of_the_file(tmp_path, suffix):
    class Failing(io.BytesIO):
        def read(self, n=-1):
            raise OSError(errno.EIO, "truncated by a lost mount")

    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(b"x")
    with (
        mock.patch.object(readers.storage, "open_input", return_value=Failing()),
        pytest.raises(OSError, match="lost mount") as caught,
    ):
        read(path, JSONL)
    # An OSError is tried again, an InputError is not.
    assert caught.value.errno == errno.EIO


@pytest.mark.parametrize("format_", ["jsonl", "parquet", "text"])
def test_missing_file_is_named(tmp_path, format_):
    with pytest.raises(InputError, match=r"^gone\.x: cannot be read \(No such file or directory\)$"):
        read(tmp_path / "gone.x", ReadSettings(format_))


# ---- files as documents -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "language"),
    [("a.py", "Python"), ("x/b.CPP", "C++"), ("c.rs.gz", "Rust"), ("d", None), ("e.unknown", None)],
)
def test_code_files_tell_their_language(tmp_path, name, language):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(b"x = 1\r\n") if name.endswith(".gz") else b"x = 1\r\n")
    ((row,), lost) = read(path, ReadSettings("code"))
    assert not lost
    assert (row["text"], row["key"], position(row["id"])) == ("x = 1\r\n", path.name, 0)
    assert json.loads(row["meta"]) == {"language": language}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a\nb", None),
        (b"\xef\xbb\xbfa", None),
        (b"", "empty"),
        (b"a\xff", "utf8"),
        (b"x" * 32, None),
        (b"x" * 33, "too-large"),
    ],
)
def test_text_files(tmp_path, content, reason):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    kept, lost = read(path, ReadSettings("text", max_document_bytes=32))
    assert [r["text"].encode() for r in kept] == ([content] if reason is None else [])
    assert [r["meta"] for r in kept] == ([None] if reason is None else [])
    assert [r.reason for r in lost] == ([reason] if reason else [])
    assert [r.size for r in lost] == ([len(content)] if reason else [])


def test_cut_text_file_is_listed_and_no_document(tmp_path):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(random.Random(0).randbytes(1000).hex().encode())[:-200])
    seen = readers.Seen()
    assert read(path, ReadSettings("text", on_truncated="keep"), seen) == ([], [])
    assert seen.truncated == ["a.txt.gz"]
    with pytest.raises(InputError, match=r"^a\.txt\.gz: the compressed stream ends too early"):
        read(path, ReadSettings("text"))


# ---- batches ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_", ["jsonl", "parquet", "text"])
def test_batches_are_bounded_and_in_order(tmp_path, monkeypatch, format_):
    monkeypatch.setattr(readers, "BATCH_BYTES", 1000)
    monkeypatch.setattr(readers, "BATCH_ROWS", 20)
    monkeypatch.setattr(parquet_rows, "PARQUET_ROWS", 64)
    rng = random.Random(1)
    texts = [f"{i:04d}" + "x" * rng.choice([0, 1, 300, 900]) for i in range(300)]
    texts[50:150] = ["abcd"] * 50 + [""] * 50  # small ones, then rows that are no documents
    if format_ == "jsonl":
        paths = [tmp_path / "a.jsonl"]
        paths[0].write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    elif format_ == "parquet":
        paths = [tmp_path / "a.parquet"]
        pq.write_table(pa.table({"text": texts}), paths[0])
    else:
        paths = [tmp_path / f"{i:04d}.txt" for i in range(300)]
        for path, text in zip(paths, texts, strict=True):
            path.write_text(text)
    pieces = [piece(p, half=HALF + i) for i, p in enumerate(paths)]
    batches = list(readers.read(pieces, ReadSettings(format_), readers.Seen()))
    rows = [(b.table["text"].to_pylist(), len(b.lost)) for b in batches]
    assert [t for kept, _ in rows for t in kept] == [t for t in texts if t]
    assert sum(n for _, n in rows) == 50
    ids = [row for b in batches for row in sorted(b.table["id"].to_pylist() + [row.id for row in b.lost])]
    assert len(set(ids)) == 300
    assert ids == sorted(ids)
    if format_ == "parquet":
        assert [position(i) for i in ids] == list(range(300))
    assert all(0 < len(kept) + n <= 20 for kept, n in rows)
    assert all(sum(map(len, kept)) < 1000 + 904 for kept, _ in rows)
    assert any(len(kept) + n == 20 for kept, n in rows), "no batch was closed by its rows"
    assert any(sum(map(len, kept)) >= 1000 for kept, _ in rows), "no batch was closed by its bytes"


PEAK = """
import resource, sys
from winnow.shards import readers
from winnow.shards.inputs import Piece
path, largest = sys.argv[1], int(sys.argv[2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = []
settings = readers.ReadSettings("jsonl", max_document_bytes=largest)
for batch in readers.read([Piece(0, path, path, 1, 0)], settings, readers.Seen()):
    found += [(row.reason, row.size) for row in batch.lost] + batch.table["text"].to_pylist()
print(repr(found))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("compressed", "largest", "limit_mb"),
    [
        # The line, the parser's copy and the string: measured 600 MB, and 856 MB when a copy was made to join blocks.
        pytest.param(False, 64 << 20, 700, id="parsed"),
        # Longer than any line that is read: the block and the beginning of the line, measured 20 MB.
        pytest.param(False, 1 << 20, 60, id="passed-over"),
        pytest.param(True, 1 << 20, 60, id="passed-over-in-gzip"),
    ],
)
def test_a_line_of_200_mb_in_bounded_memory(tmp_path, compressed, largest, limit_mb):
    path = tmp_path / ("a.jsonl.gz" if compressed else "a.jsonl")
    block, blocks = b"abcdefgh" * (1 << 17), 200
    with gzip.open(path, "wb", 1) if compressed else open(path, "wb") as file:
        file.write(b'{"text":"')
        for _ in range(blocks):
            file.write(block)
        file.write(b'"}\n{"text":"after"}\n')
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(path), str(largest)], capture_output=True, text=True, check=True
    )
    found, peak_mb = done.stdout.splitlines()
    assert found == repr([("too-large", 11 + blocks * len(block)), "after"])
    assert int(peak_mb) < limit_mb


def test_credentials_that_end_while_a_file_is_read_are_no_fault_of_the_input(monkeypatch):
    def refused(piece, settings, builder):
        raise RefusedError("s3://b/a.jsonl: the credentials are expired")
        yield

    monkeypatch.setitem(readers.READERS, "jsonl", refused)
    piece = inputs.Piece(0, "s3://b/a.jsonl", "a.jsonl", 1, 10)
    with pytest.raises(RefusedError, match="expired"):
        list(readers.read([piece], readers.ReadSettings("jsonl"), readers.Seen()))
